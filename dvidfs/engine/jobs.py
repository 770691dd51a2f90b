"""Background jobs: rows in the store, claimed by one process, run step by step, resumed after a crash.

A job kind is a function ``step(engine, args) -> args | None``: it does a piece of work (its own write transactions),
and returns what remains, or None when it is done. The row is saved after each step, so a step must be safe to repeat.
A row names its owner (boot id, pid, start time of the process); jobs of dead owners are claimed by whoever looks next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from dvidfs.engine import repos, values
from dvidfs.engine.keys import U64, Table
from dvidfs.engine.store import ReadTxn, WriteTxn
from dvidfs.errors import NotFound, StoreError

if TYPE_CHECKING:
    from dvidfs.engine.engine import Engine

KEPT_SECONDS = 24 * 3600
"""How long a finished job can still be seen."""


@dataclass(frozen=True)
class Job:
    """``state`` is queued, running, done, failed or cancelled; ``done`` of ``total`` steps (0: not known)."""

    id: int
    kind: str
    args: Mapping[str, Any]
    title: str = ""
    state: str = "queued"
    owner: str = ""
    done: int = 0
    total: int = 0
    error: str = ""
    created: int = 0
    updated: int = 0

    def row(self) -> bytes:
        return orjson.dumps(asdict(self))


@lru_cache(maxsize=1)
def me() -> str:
    """This process: boot id, pid, start time."""
    return f"{_boot()} {os.getpid()} {_started(os.getpid())}"


def _boot() -> str:
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "?"


def _started(pid: int) -> str:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return "?"


def alive(owner: str) -> bool:
    boot, _, rest = owner.partition(" ")
    pid, _, started = rest.partition(" ")
    return boot == _boot() and pid.isdecimal() and started != "?" and _started(int(pid)) == started


def add(txn: WriteTxn, kind: str, args: Mapping[str, Any], *, title: str = "", total: int = 0) -> int:
    """Queue a job in the transaction that makes it necessary; its id."""
    number = txn.new_id("job")
    save(txn, Job(number, kind, args, title or kind, total=total, created=txn.now, updated=txn.now))
    return number


def save(txn: WriteTxn, job: Job) -> None:
    txn.put(Table.JOBS, U64.pack(job.id), job.row())


def all_jobs(txn: ReadTxn) -> list[Job]:
    return [Job(**orjson.loads(row)) for _, row in txn.scan(Table.JOBS, b"", b"\xff" * 9)]


def get(txn: ReadTxn, number: int) -> Job:
    row = txn.get(Table.JOBS, U64.pack(number))
    if row is None:
        raise NotFound(f"there is no job {number}")
    return Job(**orjson.loads(row))


def cancel(txn: WriteTxn, number: int) -> None:
    job = get(txn, number)
    if job.state in ("queued", "running"):
        save(txn, replace(job, state="cancelled", updated=txn.now))


def waits(job: Job) -> bool:
    """Whether this process should run it: nobody does, and its kind is known here."""
    return job.kind in KINDS and (job.state == "queued" or (job.state == "running" and not alive(job.owner)))


def claim(txn: WriteTxn) -> Job | None:
    """Take the oldest job that waits or whose owner is dead; forget old finished ones.

    Jobs of kinds that are not known here are left to the programs that made them (an import, run again, goes on).
    """
    for job in all_jobs(txn):
        if job.state in ("done", "failed", "cancelled"):
            if txn.now - job.updated > KEPT_SECONDS * 10**9:
                txn.delete(Table.JOBS, U64.pack(job.id))
        elif waits(job):
            taken = replace(job, state="running", owner=me(), updated=txn.now)
            save(txn, taken)
            return taken
    return None


def run(engine: Engine, job: Job) -> None:
    """Run a claimed job to its end in this thread; stops between steps when it is cancelled or the service ends.

    A job that is stopped by the end of the service waits again.
    """
    number, step = job.id, KINDS[job.kind]
    while not engine.closing:
        try:
            rest = step(engine, dict(job.args))
        except Exception as e:
            engine.log.exception("job %d (%s) failed", number, job.title)
            _fail(engine, number, str(e) or type(e).__name__)
            return
        job = engine.store.write(partial(_advance, number=number, rest=rest))
        if job.state != "running":
            return
    with suppress(StoreError):  # a closed store: the job is claimed when this process has ended
        engine.store.write(partial(_put_back, number=number))


def _put_back(txn: WriteTxn, number: int) -> None:
    job = get(txn, number)
    if job.state == "running":
        save(txn, replace(job, state="queued", owner="", updated=txn.now))


def _fail(engine: Engine, number: int, error: str) -> None:
    engine.store.write(lambda txn: save(txn, replace(get(txn, number), state="failed", error=error, updated=txn.now)))


def _advance(txn: WriteTxn, number: int, rest: Mapping[str, Any] | None) -> Job:
    now = get(txn, number)
    if now.state == "running":
        now = replace(
            now,
            args=rest if rest is not None else now.args,
            done=now.done + 1,
            state="running" if rest is not None else "done",
            updated=txn.now,
        )
        save(txn, now)
    return now


# -- the engine's own kinds --------------------------------------------------------------------------------------


def _free_instance(engine: Engine, args: dict[str, Any]) -> dict[str, Any] | None:
    more = engine.store.write(lambda txn: repos.free_rows(txn, args["instance"]))
    if more:
        time.sleep(0.002)  # let foreground writes into the lane
    return args if more else None


def sweep(engine: Engine) -> None:
    """Free pieces that nobody points to any more."""
    with engine.store.read() as txn:
        if next(iter(txn.scan(Table.TRASH, b"", b"\xff" * 9)), None) is None:
            return
    while engine.store.write(values.sweep) and not engine.closing:
        time.sleep(0.002)


KINDS: dict[str, Callable[[Engine, dict[str, Any]], dict[str, Any] | None]] = {"free-instance": _free_instance}
"""Kinds of jobs by name; datatypes add theirs when they are registered."""
