"""Commands about a store as a whole: init, status, check, jobs."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvidfs.cli.names import opened, read_view, registry, write_view
from dvidfs.cli.output import say, show, size, table, warn, when
from dvidfs.cli.parser import Commands, store_argument
from dvidfs.errors import EXIT_CODES, BadRequest, ErrorKind, Locked

if TYPE_CHECKING:
    from dvidfs.engine import Engine
    from dvidfs.engine.check import Problem, Progress
    from dvidfs.engine.jobs import Job

SHOWN = 20
"""Problems of one check that are printed; the rest is counted."""
CHECK_DETAIL = """\
Exit code 5 if anything is damaged. Differences are no damage: what clients said contradicts itself, as a supervoxel that
is mapped to another body than the one whose index holds it. Nothing is changed without --repair.

--repair changes labels in one mutation, in favour of the side that --from names; totals of bodies always follow:
voxels      the index is counted anew from the blocks, and bodies follow the mapping
index       totals are added up anew from index and bodies
mapping     each supervoxel lies in the body that it is mapped to
membership  each supervoxel is mapped to the body that holds it, to 0 where none does"""


def add(commands: Commands) -> None:
    store_argument(commands.add("init", init, "Make an empty store in a new folder.", "init /data/store"))
    parser = commands.add("status", status, "Show what a store holds and what runs on it.", "status store", json=True)
    store_argument(parser)
    parser = commands.add(
        "check",
        check,
        "Check every invariant of a store, also while it is in use.",
        "check store --deep\ncheck store --repair medulla:master segmentation --from voxels",
        json=True,
        detail=CHECK_DETAIL,
    )
    store_argument(parser)
    parser.add_argument("--deep", action="store_true", help="Read every value too, and compare what belongs together.")
    parser.add_argument(
        "--repair", nargs=2, metavar=("VERSION", "INSTANCE"), help="Bring labels into agreement at an open version."
    )
    parser.add_argument(
        "--from", dest="side", default="", metavar="SIDE", help="What is right: voxels, index, mapping or membership."
    )
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
    if args.repair:
        return _repair(args, *args.repair)
    if args.side:
        warn("--from belongs to --repair VERSION INSTANCE")
        return 2
    from dataclasses import asdict

    from dvidfs.engine.check import check_store
    from dvidfs.kernels.fnv import fnv128

    types = registry()

    def verifier(typename: str) -> Any:
        kind = types.get(typename)
        return kind.verify if kind is not None else None

    with opened(args) as engine:
        found = check_store(engine, deep=args.deep, verifier=verifier, name_blob=fnv128, progress=_progress(args))
    data = {
        "ok": not found.count,
        "checks": found.checks,
        "rows": found.rows,
        "problem_count": found.count,
        "problems": [asdict(p) for p in found.problems],
        "difference_count": found.difference_count,
        "differences": [asdict(p) for p in found.differences],
    }
    lines = [*_named(found.problems), *_named(found.differences)]
    differences = f", {found.difference_count:,} differences" if found.difference_count else ""
    if found.count:
        lines.append(f"{args.store} is damaged: {found.count} problems{differences} in {found.rows:,} rows")
    else:
        lines.append(f"{args.store} is sound: {len(found.checks)} checks over {found.rows:,} rows{differences}")
    show(args, data, lines)
    return EXIT_CODES[ErrorKind.CORRUPT] if found.count else 0


def _named(problems: Sequence[Problem]) -> list[str]:
    """The first problems of each check, a line each."""
    by_check: dict[str, list[Problem]] = {}
    for problem in problems:
        by_check.setdefault(problem.check, []).append(problem)
    lines = []
    for name, found in by_check.items():
        lines += [f"{name}: {p.where}: {p.text}" for p in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"{name}: {len(found) - SHOWN} more")
    return lines


def _repair(args: argparse.Namespace, version: str, instance: str) -> int:
    with opened(args) as engine:
        with engine.read() as txn:
            view = read_view(txn, version, instance)
            kind, where = registry()[view.instance.type], f'"{instance}" at version {view.node.uuid}'
            if kind.repair is None:
                raise BadRequest(f"{where} is of type {kind.name}, which has nothing to repair: name labels")
            if args.side not in kind.repair.sides:
                raise BadRequest(f"say what of {where} is right: --from {', '.join(kind.repair.sides)}")
            if view.frozen:
                raise Locked(f"version {view.node.uuid} is committed: repair an open child, see `dvidfs newversion`")
            plan = _worked_out(kind.repair.prepare(view, args.side), where, _progress(args))
            uuid, run = view.node.uuid, kind.repair.run
        changed = engine.write(lambda txn: run(write_view(txn, uuid, instance), plan))
    if any(changed.values()):
        line = f"repaired {where} from its {args.side}: {', '.join(f'{n:,} {name}' for name, n in changed.items())}"
    else:
        line = f"nothing to repair: {where} agrees with its {args.side}"
    show(args, {"from": args.side, "changed": changed}, [line])
    return 0


def _worked_out(telling: Generator[Any, None, Any], where: str, progress: Progress | None) -> Any:
    """What a generator returns that tells how far it is."""
    while True:
        try:
            told = next(telling)
        except StopIteration as done:
            return done.value
        if progress is not None:
            progress(f"{where}: {told.what}", told.done, 0)


def _progress(args: argparse.Namespace) -> Progress | None:
    if args.quiet or args.json or not sys.stderr.isatty():
        return None

    def tell(name: str, done: int, total: int) -> None:
        share = f" {100 * done // total}%" if total else f" {done:,}" if done else ""
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
