"""The work on pyramids: building the scales above 0, and filling in again what writes have marked.

Decides the order of the work: scale after scale, each made from the one below, row of blocks after row, so that memory is bounded
and a job that was stopped goes on where it was. A step reads and makes in one snapshot, outside the write lane, and
stores in one write; a block under which something was written in between is left as it is marked. What a block is
made of, and when one counts, is decided by :mod:`~dvidfs.types.pyramids.level` and :mod:`~dvidfs.types.pyramids.scales`.
Invariant: a scale can be read once all of its blocks have been made, and from then on always.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from dvidfs.engine import Engine, jobs, keys
from dvidfs.engine.keys import Family
from dvidfs.engine.store import ReadTxn, WriteTxn
from dvidfs.engine.values import Entry, Prepared
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, Busy, DvidfsError, Locked
from dvidfs.types.geometry import Box, Point
from dvidfs.types.pyramids import rows
from dvidfs.types.pyramids.level import Level
from dvidfs.types.pyramids.marks import above, add_job, job_args, jobs_of
from dvidfs.types.pyramids.pyramid import Pyramid
from dvidfs.types.pyramids.scales import MOST, Levels, extents_at, levels, sealed, set_levels

SMALL = 256
"""Without a number scales are made until no side of the volume is longer."""
STEP_BYTES = 128 << 20
"""Voxels that a step reads."""
LOOKS = 64
"""Look-ups of a step in which nothing is found to be made."""
QUIET_SECONDS, PATIENCE_SECONDS = 0.5, 2.0
"""Marks are filled when nothing has been written for so long, or after having waited so long for that."""

Args = dict[str, Any]
"""What remains of a job, as :func:`~dvidfs.types.pyramids.marks.job_args` makes it."""


def default_scales(box: Box) -> int:
    """How many scales a volume of these extents gets when nobody says."""
    return next(n for n in range(MOST + 1) if max(extents_at(box, n).size) <= SMALL)


# ---------------------------------------------------------------- steps


class _Made(NamedTuple):
    """A block of a scale: its key, the entry that this version had of it in the snapshot, what is to be stored."""

    enc: bytes
    own: Entry | None
    stored: bytes


def stepper(pyramid: Pyramid) -> Callable[[Engine, Args], Args | None]:
    """The step of the jobs of a datatype, as :attr:`~dvidfs.types.base.DataType.jobs` wants it."""
    return partial(step, pyramid)


def step(pyramid: Pyramid, engine: Engine, args: Args) -> Args | None:
    """One step of a job: makes and stores blocks of scale ``args["scale"]`` from ``args["row"]`` (z, y, x) on.

    ``blocks`` limits the work to what lies above these blocks of scale 0; ``build``: the scales that can be read afterwards.
    None at the end, and where there is nothing to do any more: the instance is gone, or the version committed.
    """
    if args["row"] is None and args["scale"] == 1 and not args["build"]:
        _wait_for_quiet(engine, args)
    try:
        with engine.read() as txn:
            view = _view(txn, args)
            if view is None or view.frozen:
                return None
            if args["scale"] > max(args["build"], levels(pyramid, view).marked):
                made, rest = [], None
            else:
                made, rest = _make(Level(view, args["scale"], pyramid), args)
            history = view.graph.history
        ends = rest is None and args["build"]
        engine.write(partial(_store, pyramid, args=args, made=made, history=history, ends=ends), _size(made))
    except Locked:
        return None
    return rest


def _size(made: Sequence[_Made]) -> int:
    return sum(len(block.stored) for block in made)


def _view(txn: ReadTxn, args: Mapping[str, Any]) -> ReadView | None:
    instance = txn.graph.instance_by_id(args["instance"])
    return ReadView(txn, txn.graph.repos[instance.repo].nodes[args["version"]], instance) if instance else None


def _wait_for_quiet(engine: Engine, args: Mapping[str, Any]) -> None:
    """Let a stream of writes pass, which would mark again what is filled now."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not engine.closing and time.monotonic() < until:
        with engine.read() as txn:
            view = _view(txn, args)
            if view is None or time.time_ns() - view.state()[1] > QUIET_SECONDS * 10**9:
                return
        time.sleep(0.05)


def _make(level: Level, args: Args) -> tuple[list[_Made], Args]:
    """Blocks to be stored, and what remains."""
    most = max(1, STEP_BYTES // level.held_bytes)
    found = rows.blocks(level, args["blocks"], args["row"], building=bool(args["build"]))
    wrong: list[bytes] = []
    rest = {**args, "scale": args["scale"] + 1, "row": None}
    for _ in range(LOOKS):
        part = list(islice(found, min(rows.LOOK, most - len(wrong))))
        if not part:
            break
        wrong += level.wrong([level.key(coord) for coord in part])
        x, y, z = part[-1]
        rest = {**args, "row": [z, y, x + 1], "done": args.get("done", 0) + len(part) * level.held_bytes}
        if len(wrong) >= most:
            break
    own = [level.view.own(Family.BLOCK, enc) for enc in wrong]
    made = [
        _Made(enc, entry, sealed(level.view, payload or b"", part))
        for (enc, payload), entry, part in zip(level.make(wrong), own, level.parts(wrong), strict=True)
        if payload is not None or level.is_there(enc)
    ]
    return made, rest


def _store(
    pyramid: Pyramid, txn: WriteTxn, args: Mapping[str, Any], made: Sequence[_Made], history: int, ends: int
) -> None:
    """Store what was made, but for blocks that were marked since; a version that was committed since raises Locked.

    ``ends``: scales that can be read from now on.
    """
    found = _view(txn, args)
    if found is None:
        return
    view = WriteView(txn, found.node, found.instance)
    if txn.graph.history == history:
        for block in made:
            if view.own(Family.BLOCK, block.enc) == block.own:
                view.fill(Family.BLOCK, block.enc, Prepared(block.stored, len(block.stored)))
    told = levels(pyramid, view)
    wanted = told.union(Levels(ends, ends))
    if wanted != told and not pyramid.setting:
        set_levels(view, wanted)


def fix(pyramid: Pyramid, view: WriteView, coords: Collection[Point]) -> None:
    """Make what is marked above blocks (x, y, z) of scale 0 now: they are about to be written, and scales shall stay as they were."""
    here: Collection[Point] = coords
    for scale in range(1, levels(pyramid, view).marked + 1):
        here = above(here)
        level = Level(view, scale, pyramid)
        wanted = sorted(level.key(coord) for coord in here)
        marked = [enc for enc in level.wrong(wanted) if level.is_there(enc)]
        for (enc, payload), part in zip(level.make(marked), level.parts(marked), strict=True):
            row = sealed(view, payload or b"", part)
            view.fill(Family.BLOCK, enc, Prepared(row, len(row)))


# ---------------------------------------------------------------- building


def begin(pyramid: Pyramid, view: WriteView, wanted: int | None) -> int:
    """From now on writes mark as many scales; how many.

    Raises:
        BadRequest: there are more already, the number is out of range, or there is none and nothing to tell it from.
    """
    told, name = levels(pyramid, view), view.instance.name
    if pyramid.setting:
        if not told.ready or wanted not in (None, told.ready):
            wish = "no scales" if not told.ready else f"{told.ready} scales, not {wanted}"
            raise BadRequest(f'"{name}" has {wish}: its setting {pyramid.setting} says how many')
        return told.ready
    box = pyramid.box(view)
    if wanted is None and box is None:
        raise BadRequest(f'nothing was written to "{name}" at this version: give the number of scales')
    count = max(default_scales(box), told.ready) if wanted is None and box is not None else wanted or 0
    if not 1 <= count <= MOST and wanted is not None:
        raise BadRequest(f"{wanted} scales cannot be made: want 1 to {MOST}")
    if count < told.ready:
        raise BadRequest(f'"{name}" has {told.ready} scales already: want {told.ready} or more')
    if count > told.marked:
        set_levels(view, Levels(told.ready, count))
    return count


Tell = Callable[[int, int], None]
"""Is told of progress: bytes of voxels that were read, and of all that will be, roughly."""


def build(
    pyramid: Pyramid,
    engine: Engine,
    version: str,
    name: str,
    wanted: int | None = None,
    tell: Tell = lambda done, of: None,
) -> int:
    """Make the scales of an instance at an open version in this thread, with all cores; how many there are then.

    One that was stopped goes on. It is a job of the store: a service goes on with it if this process dies.

    Raises:
        Locked: the version is committed, or was while they were made.
        Busy: another process makes them, or the job was cancelled.
    """
    refusal = f"version {version} has been committed: make scales in a child, see `dvidfs newversion`"

    def claim(txn: WriteTxn) -> jobs.Job:
        node = txn.graph.version(version)
        view = WriteView(txn, node, txn.graph.instance(node, name), refusal=refusal)
        return _claim(pyramid, view, begin(pyramid, view, wanted))

    job = engine.write(claim)
    total = _total(pyramid, engine, job)
    args: Args | None = dict(job.args)
    while args is not None:
        tell(min(args.get("done", 0), total), total)
        args = _advance(pyramid, engine, job.id, args)
    with engine.read() as txn:
        view = _view(txn, job.args)
        if view is None or levels(pyramid, view).ready < job.args["build"]:
            raise Locked(refusal)
        return levels(pyramid, view).ready


def _claim(pyramid: Pyramid, view: WriteView, count: int) -> jobs.Job:
    """The job that builds this, as this process's own: one that was stopped, or a new one."""
    job = next((job for job in jobs_of(pyramid, view) if job.args["build"] and job.state != "done"), None)
    if job is None:
        job = add_job(pyramid, view, job_args(view, count))
    elif job.state == "running" and jobs.alive(job.owner) and job.owner != jobs.me():
        raise Busy(f'process {job.owner.split()[1]} makes these scales already: see "dvidfs jobs"')
    args = job.args if job.args["build"] == count else job_args(view, count)
    taken = replace(job, args=args, state="running", error="", owner=jobs.me(), updated=view.txn.now)
    jobs.save(view.txn, taken)
    return taken


def _advance(pyramid: Pyramid, engine: Engine, number: int, args: Args) -> Args | None:
    try:
        rest = step(pyramid, engine, args)
    except DvidfsError as error:
        text = str(error)
        engine.write(lambda txn: jobs.save(txn, replace(jobs.get(txn, number), state="failed", error=text)))
        raise
    done = engine.write(lambda txn: _save(txn, number, rest))
    if done.owner != jobs.me() or done.state not in ("running", "done"):
        raise Busy(f"the job was {done.state}: run the same command again to continue it")
    return rest


def _save(txn: WriteTxn, number: int, rest: Args | None) -> jobs.Job:
    job = jobs.get(txn, number)
    if job.state == "running" and job.owner == jobs.me():
        state = "running" if rest is not None else "done"
        args = job.args if rest is None else rest
        job = replace(job, args=args, state=state, done=job.done + 1, updated=txn.now)
        jobs.save(txn, job)
    return job


def _total(pyramid: Pyramid, engine: Engine, job: jobs.Job) -> int:
    with engine.read() as txn:
        view = _view(txn, job.args)
        if view is None:
            return 0
        grid = pyramid.grid(view)
        blocks = grid.volume if grid is not None else len(view.names(Family.BLOCK, b"\0", keys.after(b"\0")))
        return sum((blocks >> 3 * scale) * pyramid.block_bytes(view) for scale in range(job.args["build"]))
