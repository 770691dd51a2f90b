"""Background jobs: run step by step, claimed once, resumed after a crash, cancelled; space freed in the background."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from storing import another, get, made, problems, putter, rows, told_by

from dvidfs.engine import Engine, jobs, open_engine, repos
from dvidfs.engine.keys import Table
from dvidfs.errors import NotFound


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that jobs of kind "count" made; each has ``left`` to go, and fails at ``fail``."""
    steps: list[int] = []

    def step(engine: Engine, args: dict[str, Any]) -> dict[str, Any] | None:
        left = args["left"]
        if left == args.get("fail"):
            raise ValueError("broken on purpose")
        steps.append(left)
        if left == args.get("cancel"):
            engine.write(lambda txn: jobs.cancel(txn, args["id"]))
        return {**args, "left": left - 1} if left > 1 else None

    monkeypatch.setitem(jobs.KINDS, "count", step)
    return steps


def add(engine: Engine, **args: Any) -> int:
    return engine.write(lambda txn: jobs.add(txn, "count", args, title="counting", total=args["left"]))


def job(engine: Engine, number: int) -> jobs.Job:
    with engine.read() as txn:
        return jobs.get(txn, number)


def run_one(engine: Engine) -> bool:
    claimed = engine.write(jobs.claim)
    if claimed is not None:
        jobs.run(engine, claimed)
    return claimed is not None


def test_a_job_runs_to_its_end_step_by_step(engine: Engine, counting: list[int]):
    number = add(engine, left=4)
    assert job(engine, number).state == "queued"
    assert run_one(engine)
    assert counting == [4, 3, 2, 1]
    assert (job(engine, number).state, job(engine, number).done) == ("done", 4)
    assert not run_one(engine)


def test_a_failing_job_says_why_and_others_go_on(engine: Engine, counting: list[int]):
    bad, good = add(engine, left=3, fail=2), add(engine, left=1)
    assert run_one(engine)
    assert run_one(engine)
    assert (job(engine, bad).state, job(engine, bad).error) == ("failed", "broken on purpose")
    assert job(engine, good).state == "done"


def test_a_cancelled_job_stops_after_its_step(engine: Engine, counting: list[int]):
    number = add(engine, left=5, cancel=4, id=1)
    assert number == 1
    assert run_one(engine)
    assert counting == [5, 4]
    assert job(engine, number).state == "cancelled"
    waiting = add(engine, left=2)
    engine.write(lambda txn: jobs.cancel(txn, waiting))
    assert not run_one(engine)
    with pytest.raises(NotFound):
        engine.write(lambda txn: jobs.cancel(txn, 99))


def test_a_job_of_an_unknown_kind_is_left_to_others(engine: Engine):
    number = engine.write(lambda txn: jobs.add(txn, "never heard of", {}))
    assert not run_one(engine)
    assert job(engine, number).state == "queued"


def test_old_finished_jobs_are_forgotten(engine: Engine, counting: list[int]):
    number = add(engine, left=1)
    assert run_one(engine)
    engine.write(lambda txn: jobs.save(txn, replace(jobs.get(txn, number), updated=0)))
    assert not run_one(engine)
    with pytest.raises(NotFound):
        job(engine, number)


def test_a_job_is_claimed_once_and_again_when_its_owner_is_dead(store_path: Path, counting: list[int]):
    with open_engine(store_path) as engine:
        number = add(engine, left=3)
        child = another(
            store_path,
            """
            jobs.KINDS["count"] = print
            print(engine.write(jobs.claim).id, flush=True)
            time.sleep(100)
            """,
        )
        assert told_by(child) == str(number)
        assert engine.write(jobs.claim) is None, "its owner lives"
        child.kill()
        child.wait()
        assert run_one(engine)
        assert counting == [3, 2, 1]
        assert job(engine, number).owner == jobs.me()


async def serving(engine: Engine, until: Any) -> None:
    """Run the engine's service until something holds."""
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            while not await trio.to_thread.run_sync(until):
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


async def test_the_service_runs_jobs_and_those_of_the_dead(
    engine: Engine, counting: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("dvidfs.engine.upkeep.JOB_SECONDS", 0.01)
    first = add(engine, left=2)
    await serving(engine, lambda: job(engine, first).state == "done")
    second = add(engine, left=2)
    owner = [jobs.me()]
    monkeypatch.setattr(jobs, "alive", lambda name: name in owner)
    engine.write(lambda txn: jobs.save(txn, replace(jobs.get(txn, second), state="running", owner="another")))
    owner.append("another")
    polls = []

    def dies_later() -> bool:  # nothing is written when a process dies
        polls.append(1)
        if len(polls) == 20:
            assert job(engine, second).state == "running"
            owner.remove("another")
        return job(engine, second).state == "done"

    await serving(engine, dies_later)


async def test_ending_the_service_does_not_wait_for_a_long_job(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    steps: list[int] = []

    def step(engine: Engine, args: dict[str, Any]) -> dict[str, Any]:
        steps.append(1)
        time.sleep(0.001)
        return args  # for ever

    monkeypatch.setitem(jobs.KINDS, "endless", step)
    number = engine.write(lambda txn: jobs.add(txn, "endless", {}))
    await serving(engine, lambda: len(steps) > 3)
    assert job(engine, number).state == "queued", "whoever comes next goes on with it"
    seen = len(steps)
    await serving(engine, lambda: len(steps) > seen + 3)


def test_a_deleted_instance_is_freed_in_the_background(store_path: Path):
    with open_engine(store_path) as engine:
        uuid = made(engine, "gone")
        engine.write(lambda txn: repos.create_instance(txn, txn.graph.version(uuid), "keyvalue", "kv"))
        engine.write(putter(uuid, b"k", b"stays " * 100))
        before = engine.store.statistics()["rows"]
        for part in range(4):
            engine.write(
                lambda txn, p=part: [putter(uuid, b"%d-%d" % (p, i), b"%d " % i * 50, "gone")(txn) for i in range(3000)]
            )
        engine.write(lambda txn: engine.delete_instance(txn, txn.graph.instance(txn.graph.version(uuid), "gone")))
        with engine.read() as txn:
            assert "gone" not in txn.graph.repo_of(txn.graph.version(uuid)).instances
        assert problems(engine) == [], "rows that a job is to free are no problem"
        child = another(
            store_path,
            """
            freed = []
            real = repos.free_rows
            def slow(txn, instance):
                if len(freed) == 2:
                    print("in the middle", flush=True)
                    time.sleep(100)
                freed.append(1)
                return real(txn, instance)
            repos.free_rows = slow
            jobs.run(engine, engine.write(jobs.claim))
            """,
        )
        assert told_by(child) == "in the middle"
        child.send_signal(signal.SIGKILL)
        child.wait()
        left = rows(engine, Table.INDEX)
        assert 1 < left < 12_001
        assert problems(engine) == []
        assert run_one(engine)
        after = engine.store.statistics()["rows"]
        for table in (Table.INDEX, Table.VALUES, Table.STATE, Table.WRITTEN):
            assert after[table] == before[table]
        assert get(engine, uuid, b"k") == b"stays " * 100
        assert problems(engine) == []


def test_deleting_a_repo_frees_all_of_its_instances(engine: Engine):
    kept = made(engine)
    gone = made(engine)
    for uuid in (kept, gone):
        engine.write(putter(uuid, b"k", bytes(range(256))))
        engine.write(lambda txn, u=uuid: repos.add_log(txn, txn.graph.version(u), ["a line"]))
    engine.write(lambda txn: engine.delete_repo(txn, txn.graph.repo_of(txn.graph.version(gone))))
    while run_one(engine):
        pass
    assert (rows(engine, Table.INDEX), rows(engine, Table.VALUES), rows(engine, Table.LINES)) == (1, 1, 1)
    assert get(engine, kept, b"k")
    assert problems(engine) == []
