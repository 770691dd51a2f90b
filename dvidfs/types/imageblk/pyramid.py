"""Pyramids of image volumes: building the scales above 0, and filling in again what writes have marked.

Decides the order of the work: scale after scale, each made from the one below, row of blocks after row, so that memory is bounded
and a job that was stopped goes on where it was. A step reads and makes in one snapshot, outside the write lane, and
stores in one write; a block under which something was written in between is left as it is marked. What a block is
made of, and when one counts, is decided by :mod:`~dvidfs.types.imageblk.coarse` and :mod:`~dvidfs.types.imageblk.scales`.
Invariant: a scale can be read once all of its blocks have been made, and from then on always.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from dvidfs.engine import Engine, jobs, keys
from dvidfs.engine.keys import Family
from dvidfs.engine.store import Buffer, ReadTxn, WriteTxn
from dvidfs.engine.values import Entry, Prepared
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, Busy, Conflict, DvidfsError, Locked
from dvidfs.types.base import Body, Endpoint
from dvidfs.types.geometry import COORD_MAX, COORD_MIN, Box, Point, covering_blocks
from dvidfs.types.imageblk import extents
from dvidfs.types.imageblk.coarse import Coarse
from dvidfs.types.imageblk.scales import (
    JOB,
    MOST,
    Levels,
    add_job,
    extents_at,
    job_args,
    jobs_of,
    levels,
    queue,
    scales,
    sealed,
    set_levels,
)
from dvidfs.types.imageblk.volume import coords_of, is_proxied

__all__ = [
    "ENDPOINTS",
    "JOB",
    "build",
    "check",
    "default_scales",
    "extents_at",
    "get_pyramid",
    "pending",
    "post_pyramid",
    "scales",
    "step",
]

SMALL = 256
"""Without a number scales are made until no side of the volume is longer."""
STEP_BYTES = 128 << 20
"""Voxels that a step reads."""
LOOK = 256
"""Blocks that are looked up at a time."""
LOOKS = 64
"""Look-ups of a step in which nothing is found to be made."""
COMPARED = 16
"""Blocks of each scale that a check makes again."""
QUIET_SECONDS, PATIENCE_SECONDS = 0.5, 2.0
"""Marks are filled when nothing has been written for so long, or after having waited so long for that."""


def default_scales(box: Box) -> int:
    """How many scales a volume of these extents gets when nobody says."""
    return next(n for n in range(MOST + 1) if max(extents_at(box, n).size) <= SMALL)


# ---------------------------------------------------------------- what there is to be made


@dataclass(frozen=True)
class _Rows:
    """The stored blocks of a scale within bounds, by rows along x; those of a proxied volume are all within the extents."""

    view: ReadView
    scale: int
    low: Point
    high: Point
    grid: Box | None = None

    @classmethod
    def of(cls, view: ReadView, scale: int, blocks: Sequence[int] | None) -> _Rows:
        """``blocks``: first and last of scale 0 to which the rows are limited."""
        first: Point = (COORD_MIN, COORD_MIN, COORD_MIN)
        last: Point = (COORD_MAX, COORD_MAX, COORD_MAX)
        if blocks is not None:
            x, y, z, a, b, c = (n >> scale for n in blocks)
            first, last = (x, y, z), (a, b, c)
        box = extents.covered(view) if not scale and is_proxied(view.instance.settings) else None
        grid = covering_blocks(box, tuple(view.instance.settings["BlockSize"])) if box is not None else None
        return cls(view, scale, first, last, grid)

    def after(self, z: int, y: int) -> tuple[int, int] | None:
        """The first row at or behind (z, y): (z, y) of it."""
        z, y = (z, max(y, self.low[1])) if z >= self.low[2] else (self.low[2], self.low[1])
        if z > self.high[2]:
            return None
        if y > self.high[1]:
            return self.after(z + 1, self.low[1])
        if self.grid is not None:
            return _row_of_grid(self.grid, z, y)
        start = keys.encode_block(self.scale, COORD_MIN, y, z)
        stop = keys.after(keys.encode_block(self.scale, COORD_MAX, COORD_MAX, self.high[2]))
        found = next(self.view.scan(Family.BLOCK, start, stop), None)
        if found is None:
            return None
        _, _, y, z = keys.decode_block(found.enc)
        return (z, y) if self.low[1] <= y <= self.high[1] else self.after(z, y)

    def row(self, z: int, y: int) -> list[int]:
        """The x of the blocks of a row."""
        if self.grid is not None:
            is_inside = self.grid.contains(Box((self.grid.offset[0], y, z), (1, 1, 1)))
            return list(range(self.grid.offset[0], self.grid.stop[0])) if is_inside else []
        start = keys.encode_block(self.scale, self.low[0], y, z)
        found = self.view.names(Family.BLOCK, start, keys.after(keys.encode_block(self.scale, self.high[0], y, z)))
        return coords_of(found)[:, 2].tolist()


def _row_of_grid(grid: Box, z: int, y: int) -> tuple[int, int] | None:
    z, y = (z, max(y, grid.offset[1])) if z >= grid.offset[2] else (grid.offset[2], grid.offset[1])
    if y >= grid.stop[1]:
        z, y = z + 1, grid.offset[1]
    return (z, y) if z < grid.stop[2] else None


def _parents(view: ReadView, scale: int, blocks: Sequence[int] | None, start: Sequence[int] | None) -> Iterator[Point]:
    """The blocks (x, y, z) of a scale that have children, z slowest, from ``start`` (z, y, x) on."""
    children = _Rows.of(view, scale - 1, blocks)
    lowest = children.low[1] >> 1
    z, y, x = start if start is not None else (children.low[2] >> 1, lowest, COORD_MIN)
    while True:
        near = [children.after(layer, 2 * y) for layer in (2 * z, 2 * z + 1)]
        rows = [at[1] for at, layer in zip(near, (2 * z, 2 * z + 1), strict=True) if at is not None and at[0] == layer]
        if not rows:
            following = children.after(2 * z + 2, children.low[1])
            if following is None:
                return
            z, y, x = following[0] >> 1, lowest, COORD_MIN
            continue
        if min(rows) >> 1 != y:
            y, x = min(rows) >> 1, COORD_MIN
        found = {n >> 1 for layer in (2 * z, 2 * z + 1) for row in (2 * y, 2 * y + 1) for n in children.row(layer, row)}
        yield from ((n, y, z) for n in sorted(found) if n >= x)
        y, x = y + 1, COORD_MIN


def pending(view: ReadView) -> int:
    """How many blocks of all scales wait to be made; reading them makes them."""
    count = 0
    for scale in range(1, levels(view).marked + 1):
        volume, found = Coarse.at(view, scale), _parents(view, scale, None, None)
        while part := list(islice(found, LOOK)):
            count += len(volume.settle([volume.key(coord) for coord in part])[1])
    return count


# ---------------------------------------------------------------- steps


class _Made(NamedTuple):
    """A block of a scale: its key, the entry that this version had of it in the snapshot, what is to be stored."""

    enc: bytes
    own: Entry | None
    stored: bytes


def step(engine: Engine, args: dict[str, Any]) -> dict[str, Any] | None:
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
            if args["scale"] > max(args["build"], levels(view).marked):
                made, rest = [], None
            else:
                made, rest = _make(view, args)
            history = view.graph.history
        engine.write(partial(_store, args=args, made=made, history=history, ready=rest is None), _size(made))
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


def _make(view: ReadView, args: dict[str, Any]) -> tuple[list[_Made], dict[str, Any] | None]:
    """Blocks to be stored, and what remains."""
    volume = Coarse.at(view, args["scale"])
    most = max(1, STEP_BYTES // (8 * volume.block_bytes))
    found = _parents(view, volume.scale, args["blocks"], args["row"])
    wrong: list[bytes] = []
    rest = {**args, "scale": args["scale"] + 1, "row": None}
    for _ in range(LOOKS):
        part = list(islice(found, min(LOOK, most - len(wrong))))
        if not part:
            break
        wrong += volume.settle([volume.key(coord) for coord in part])[1]
        x, y, z = part[-1]
        rest = {**args, "row": [z, y, x + 1], "done": args.get("done", 0) + 8 * len(part) * volume.block_bytes}
        if len(wrong) >= most:
            break
    own = [view.own(Family.BLOCK, enc) for enc in wrong]
    parts = volume.parts(coords_of(wrong))
    made = [
        _Made(enc, entry, sealed(view, payload, part))
        for (enc, payload), entry, part in zip(volume.make(wrong), own, parts, strict=True)
        if payload is not None
    ]
    return made, rest


def _store(txn: WriteTxn, args: Mapping[str, Any], made: Sequence[_Made], history: int, ready: bool) -> None:
    """Store what was made, but for blocks that were marked since; a version that was committed since raises Locked."""
    found = _view(txn, args)
    if found is None:
        return
    view = WriteView(txn, found.node, found.instance)
    if txn.graph.history == history:
        for block in made:
            if view.own(Family.BLOCK, block.enc) == block.own:
                view.fill(Family.BLOCK, block.enc, Prepared(block.stored, len(block.stored)))
    if ready and args["build"]:
        told = levels(view)
        wanted = told.union(Levels(args["build"], args["build"]))
        if wanted != told:
            set_levels(view, wanted)


# ---------------------------------------------------------------- building


def _begin(view: WriteView, wanted: int | None) -> int:
    """From now on writes mark as many scales; how many.

    Raises:
        BadRequest: there are more already, the number is out of range, or there is none and nothing to tell it from.
    """
    told, box = levels(view), extents.covered(view)
    if wanted is None and box is None:
        raise BadRequest(f'nothing was written to "{view.instance.name}" at this version: give the number of scales')
    count = max(default_scales(box), told.ready) if wanted is None and box is not None else wanted or 0
    if not 1 <= count <= MOST and wanted is not None:
        raise BadRequest(f"{wanted} scales cannot be made: want 1 to {MOST}")
    if count < told.ready:
        raise BadRequest(f'"{view.instance.name}" has {told.ready} scales already: want {told.ready} or more')
    if count > told.marked:
        set_levels(view, Levels(told.ready, count))
    return count


Tell = Callable[[int, int], None]
"""Is told of progress: bytes of voxels that were read, and of all that will be, roughly."""


def build(
    engine: Engine, version: str, name: str, wanted: int | None = None, tell: Tell = lambda done, of: None
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
        return _claim(view, _begin(view, wanted))

    job = engine.write(claim)
    total = _total(engine, job)
    args: dict[str, Any] | None = dict(job.args)
    while args is not None:
        tell(min(args.get("done", 0), total), total)
        args = _advance(engine, job.id, args)
    with engine.read() as txn:
        view = _view(txn, job.args)
        if view is None or levels(view).ready < job.args["build"]:
            raise Locked(refusal)
        return levels(view).ready


def _claim(view: WriteView, count: int) -> jobs.Job:
    """The job that builds this, as this process's own: one that was stopped, or a new one."""
    job = next((job for job in jobs_of(view) if job.args["build"] and job.state != "done"), None)
    if job is None:
        job = add_job(view, job_args(view, count))
    elif job.state == "running" and jobs.alive(job.owner) and job.owner != jobs.me():
        raise Busy(f'process {job.owner.split()[1]} makes these scales already: see "dvidfs jobs"')
    args = job.args if job.args["build"] == count else job_args(view, count)
    taken = replace(job, args=args, state="running", error="", owner=jobs.me(), updated=view.txn.now)
    jobs.save(view.txn, taken)
    return taken


def _advance(engine: Engine, number: int, args: dict[str, Any]) -> dict[str, Any] | None:
    try:
        rest = step(engine, args)
    except DvidfsError as error:
        text = str(error)
        engine.write(lambda txn: jobs.save(txn, replace(jobs.get(txn, number), state="failed", error=text)))
        raise
    done = engine.write(lambda txn: _save(txn, number, rest))
    if done.owner != jobs.me() or done.state not in ("running", "done"):
        raise Busy(f"the job was {done.state}: run the same command again to continue it")
    return rest


def _save(txn: WriteTxn, number: int, rest: dict[str, Any] | None) -> jobs.Job:
    job = jobs.get(txn, number)
    if job.state == "running" and job.owner == jobs.me():
        state = "running" if rest is not None else "done"
        args = job.args if rest is None else rest
        job = replace(job, args=args, state=state, done=job.done + 1, updated=txn.now)
        jobs.save(txn, job)
    return job


def _total(engine: Engine, job: jobs.Job) -> int:
    with engine.read() as txn:
        view = _view(txn, job.args)
        if view is None:
            return 0
        volume = Coarse.at(view, 1)
        if is_proxied(view.instance.settings):
            count = _Rows.of(view, 0, None).grid
            blocks = count.volume if count is not None else 0
        else:
            blocks = len(view.names(Family.BLOCK, b"\0", b"\1"))
        return sum((blocks >> 3 * scale) * volume.block_bytes for scale in range(job.args["build"]))


# ---------------------------------------------------------------- dvidfs check


def check(view: ReadView) -> Iterator[str]:
    """Blocks of the scales of this version that cannot be read; of some of each scale also whether they are right."""
    for scale in range(1, levels(view).marked + 1):
        volume, found, compared = Coarse.at(view, scale), _parents(view, scale, None, None), 0
        while part := list(islice(found, LOOK)):
            for enc, payload in volume.settle([volume.key(coord) for coord in part])[0]:
                fault = _fault(volume, enc, payload, compare=compared < COMPARED)
                compared += 1
                if fault:
                    _, x, y, z = keys.decode_block(enc)
                    yield f"block {x}_{y}_{z} at scale {scale}: {fault}"


def _fault(volume: Coarse, enc: bytes, payload: Buffer, *, compare: bool) -> str:
    try:
        voxels = volume.decode(payload)
        made = next(payload for _, payload in volume.make([enc])) if compare else None
    except Conflict:  # of what lies below: no fault of the store
        return ""
    except DvidfsError as error:
        return str(error)
    is_right = made is None or np.array_equal(volume.decode(made), voxels)
    return "" if is_right else "it is not what the scale below says: rebuild it with `dvidfs pyramid`"


# ---------------------------------------------------------------- over HTTP


def get_pyramid(view: ReadView) -> dict[str, Any]:
    """How many scales there are above 0, how many will be if some are being built, and how many blocks wait."""
    told = levels(view)
    building = {"building": told.marked} if told.marked > told.ready else {}
    return {"scales": told.ready, **building, "pending": pending(view) or False}


def post_pyramid(view: WriteView, body: Any) -> dict[str, Any]:
    """Make scales in the background. ``body``: {"scales": 4}, or nothing for as many as the extents suggest."""
    given = {} if body is None else body
    wanted = given.get("scales") if isinstance(given, Mapping) else given
    if not isinstance(given, Mapping) or not (wanted is None or type(wanted) is int):
        raise BadRequest('the scales to be made must be a JSON object with a whole number, as {"scales": 4}')
    count = _begin(view, wanted)
    queue(view, build=count)
    return {"scales": levels(view).ready, "building": count}


ENDPOINTS = (
    Endpoint(
        "GET",
        "pyramid",
        get_pyramid,
        "How many scales there are above 0, and how many of their blocks wait to be made.",
        cached=False,
        detail='The answer: {"scales": 4, "pending": false}; "building": the number that there will be, while they are made.',
        example="pyramid",
    ),
    Endpoint(
        "POST",
        "pyramid",
        post_pyramid,
        "Make scales in the background.",
        body=Body.JSON,
        detail='The body: {"scales": 4}; without a number they are made until no side of the volume is longer than 256.',
        example="pyramid",
    ),
)
