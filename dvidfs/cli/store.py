"""Commands about a store as a whole: init, status, check, jobs."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvidfs.cli.names import opened, registry
from dvidfs.cli.output import say, show, size, table, warn, when
from dvidfs.cli.parser import Commands, store_argument
from dvidfs.errors import EXIT_CODES, ErrorKind

if TYPE_CHECKING:
    from dvidfs.engine import Engine
    from dvidfs.engine.check import Problem
    from dvidfs.engine.jobs import Job

SHOWN = 20
"""Problems of one check that are printed; the rest is counted."""


def add(commands: Commands) -> None:
    store_argument(commands.add("init", init, "Make an empty store in a new folder.", "init /data/store"))
    parser = commands.add("status", status, "Show what a store holds and what runs on it.", "status store", json=True)
    store_argument(parser)
    parser = commands.add(
        "check",
        check,
        "Check every invariant of a store, also while it is in use.",
        "check store --deep",
        json=True,
        detail="Exit code 5 if anything is damaged. Nothing is changed.",
    )
    store_argument(parser)
    parser.add_argument("--deep", action="store_true", help="Read every value too.")
    parser.add_argument("--quiet", action="store_true", help="Show no progress.")
    _add_jobs(commands)


def _add_jobs(commands: Commands) -> None:
    parser = commands.add(
        "jobs",
        jobs,
        "List background jobs; `cancel ID` ends one, `run` does now what waits for a server.",
        "jobs store\njobs store cancel 7",
        json=True,
    )
    store_argument(parser)
    parser.add_argument("what", nargs="?", choices=("cancel", "run"), help="What to do; without it jobs are listed.")
    parser.add_argument("job", nargs="?", type=int, metavar="ID", help="Number of the job to cancel.")


def init(args: argparse.Namespace) -> None:
    from dvidfs.engine import Store

    Store.create(Path(args.store))
    say(f"made the store {args.store}")


def status(args: argparse.Namespace) -> None:
    from dvidfs.engine import jobs

    with opened(args) as engine:
        with engine.read() as txn:
            graph = txn.graph
            running = [j for j in jobs.all_jobs(txn) if j.state in ("queued", "running")]
        store = engine.store.statistics()
    data: dict[str, Any] = {
        "path": store["path"],
        "format": store["format"],
        "bytes": store["bytes"],
        "free_bytes": shutil.disk_usage(args.store).free,
        "repos": len(graph.repos),
        "versions": len(graph.versions),
        "open_versions": sum(not n.locked for n in graph.nodes()),
        "instances": sum(len(r.instances) for r in graph.repos.values()),
        "rows": store["rows"],
        "jobs": [_job_json(j) for j in running],
    }
    lines = table([
        ("store", data["path"]),
        ("format", data["format"]),
        ("size", f"{size(data['bytes'])}, {size(data['free_bytes'])} free on its disk"),
        ("repos", data["repos"]),
        ("versions", f"{data['versions']}, {data['open_versions']} of them open"),
        ("instances", data["instances"]),
        ("entries", f"{data['rows']['index']:,}"),
        *(("job", _job_line(j)) for j in running),
    ])  # fmt: skip
    show(args, data, lines)


# -- check -------------------------------------------------------------------------------------------------------


def check(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from dvidfs.engine.check import check_store
    from dvidfs.kernels.fnv import fnv128

    types = registry()

    def verifier(typename: str) -> Any:
        kind = types.get(typename)
        return kind.verify if kind is not None else None

    with opened(args) as engine:
        progress = None if args.quiet or args.json else _progress()
        found = check_store(engine, deep=args.deep, verifier=verifier, name_blob=fnv128, progress=progress)
    by_check: dict[str, list[Problem]] = {}
    for problem in found.problems:
        by_check.setdefault(problem.check, []).append(problem)
    data = {
        "ok": not found.count,
        "checks": found.checks,
        "rows": found.rows,
        "problem_count": found.count,
        "problems": [asdict(p) for p in found.problems],
    }
    lines = []
    for name, problems in by_check.items():
        lines += [f"{name}: {p.where}: {p.text}" for p in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"{name}: {len(problems) - SHOWN} more")
    if found.count:
        lines.append(f"{args.store} is damaged: {found.count} problems in {found.rows:,} rows")
    else:
        lines.append(f"{args.store} is sound: {len(found.checks)} checks over {found.rows:,} rows")
    show(args, data, lines)
    return EXIT_CODES[ErrorKind.CORRUPT] if found.count else 0


def _progress() -> Any:
    if not sys.stderr.isatty():
        return None

    def tell(name: str, done: int, total: int) -> None:
        share = f" {100 * done // total}%" if total else ""
        sys.stderr.write(f"\r\033[K{name}{share}\r")
        sys.stderr.flush()

    return tell


# -- jobs --------------------------------------------------------------------------------------------------------


def jobs(args: argparse.Namespace) -> int | None:
    from dvidfs.engine import jobs

    with opened(args) as engine:
        if args.what == "cancel":
            if args.job is None:
                warn("say which job to cancel: `dvidfs jobs STORE` lists them")
                return 2
            engine.write(lambda txn: jobs.cancel(txn, args.job))
            return None
        if args.what == "run":
            _run_all(engine)
        with engine.read() as txn:
            found = jobs.all_jobs(txn)
    rows = [_job_line(j) for j in found]
    show(args, [_job_json(j) for j in found], rows or ["no jobs"])
    return None


def _run_all(engine: Engine) -> None:
    from dvidfs.engine import jobs

    registry()  # its datatypes know their jobs
    while (job := engine.write(jobs.claim)) is not None:
        jobs.run(engine, job)
    jobs.sweep(engine)


def _job_json(job: Job) -> dict[str, Any]:
    from dataclasses import asdict

    return {k: v for k, v in asdict(job).items() if k not in ("args", "owner")}


def _job_line(job: Job) -> str:
    progress = f" {job.done} of {job.total}" if job.total else ""
    error = f": {job.error}" if job.error else ""
    return f"{job.id} {job.state}{progress}, {job.title}{error} ({when(job.updated)})"
