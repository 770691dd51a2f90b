"""Which scales a volume has at a version, and which of their stored blocks count: the bookkeeping of pyramids.

Scale s has a 2^s-th of the voxels along each axis, in blocks of the same size, at floor(x / 2^s). How blocks of a scale are
made is decided by :mod:`~dvidfs.types.imageblk.volume` and :mod:`~dvidfs.types.imageblk.pyramid`; here it is decided when one that is
stored counts. Whoever writes voxels puts an empty value, the *mark*, under every block above them: so the nearest
entry of such a block is a mark, or was made after the last write. What marks cannot tell stands behind each payload
(:data:`SEAL`): which version made it, and the part of the extents that it was made of. So a block whose edge has moved, or that one parent
of a merge made without the other's writes, is known too.
Invariant: a stored block counts only if making it again from the scale below would give the same voxels.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import orjson
from numpy.typing import NDArray

from dvidfs.engine import jobs, keys
from dvidfs.engine.keys import PAIR, SUFFIX, VALUE, Family, Kind, Table
from dvidfs.engine.store import Buffer, Store
from dvidfs.engine.values import Entry, Prepared, load
from dvidfs.engine.versions import Caller, ReadView, WriteView
from dvidfs.errors import NotFound
from dvidfs.types.geometry import Box, Point, covering_blocks, span
from dvidfs.types.imageblk import extents

KEY = keys.encode_text(b"scales")
JOB = "scales"
MOST = 24
"""Scales that a volume can have; with these a volume of 2^32 voxels along a side is 256 long."""
SEAL = struct.Struct("<I6i")
"""Behind each payload: the version that made it, the first and last voxel (x, y, z) of scale 0 that it was made of."""
MARK = Prepared(b"", 0)
_NOWHERE, _EVERYWHERE = (0, 0, 0, -2, -2, -2), (0, 0, 0, -1, -1, -1)
"""In place of such voxels: none lies within the extents; there are no extents."""
_KEPT = 256
_ANYBODY = Caller(privileged=True)


def extents_at(box: Box, scale: int) -> Box:
    """The extents of a scale: first and last voxel of ``box``, which is of scale 0, each divided by 2^scale and rounded down."""
    (x, y, z), (a, b, c) = box.offset, box.last
    return span(
        (x >> scale, y >> scale, z >> scale), ((a >> scale) + 1, (b >> scale) + 1, (c >> scale) + 1)
    )  # fmt: skip


def above(coords: Collection[Point]) -> set[Point]:
    """The blocks one scale up that are made from those."""
    return {(x >> 1, y >> 1, z >> 1) for x, y, z in coords}


# ---------------------------------------------------------------- what a version has


@dataclass(frozen=True)
class Levels:
    """Scales above 0: up to ``ready`` they can be read, up to ``marked`` writes put marks (more while some are being built)."""

    ready: int = 0
    marked: int = 0

    def row(self) -> Prepared:
        text = orjson.dumps({"ready": self.ready, "marked": self.marked})
        return Prepared(text, len(text))

    def union(self, other: Levels) -> Levels:
        return Levels(max(self.ready, other.ready), max(self.marked, other.marked))


Strays = Mapping[bytes, tuple[int, ...]]
"""Versions that wrote below a block without a mark, by the key of the block."""


@dataclass(frozen=True)
class State:
    """What tells blocks that count from others: the extents of scale 0, and by scale the strays."""

    levels: Levels
    box: Box | None = None
    strays: Mapping[int, Strays] = field(default_factory=dict)


def levels(view: ReadView) -> Levels:
    """The scales of this version; below a merge those that any parent has."""
    found = Levels()
    for entry in view.newest(Family.PRIVATE, KEY):
        if entry.kind != Kind.TOMBSTONE:
            found = found.union(_parse(view, entry))
    return found


def _parse(view: ReadView, entry: Entry) -> Levels:
    return Levels(**orjson.loads(load(view.txn, view.instance.id, entry)))


def scales(view: ReadView) -> int:
    """How many scales above 0 can be read at this version."""
    return state(view).levels.ready


def set_levels(view: WriteView, wanted: Levels) -> None:
    view.put(Family.PRIVATE, KEY, wanted.row())


def state(view: ReadView) -> State:
    """What is known of the scales of this version; found once for as long as it does not change."""

    def look() -> State:
        found = levels(view)
        return State(found, extents.covered(view), _strays(view, found)) if found.marked else State(found)

    if isinstance(view, WriteView):  # what it sees may never be committed
        return look()
    return _once(view.txn.store, view.stamp(), look)


_known: WeakKeyDictionary[Store, dict[Any, Any]] = WeakKeyDictionary()


def _once(store: Store, key: Any, look: Callable[[], Any]) -> Any:
    held = _known.setdefault(store, {})
    found = held.get(key)
    if found is None:
        if len(held) >= _KEPT:
            held.clear()
        found = held[key] = look()
    return found


# ---------------------------------------------------------------- below merges


def _strays(view: ReadView, found: Levels) -> Mapping[int, Strays]:
    """What parents of a merge wrote without marks, because they had fewer scales than the other parents."""
    if not view.lineage.merges:
        return {}
    told = {version: at for version, at in _all_levels(view) if view.lineage.sees(version)}
    key = "strays", view.instance.id, view.version, view.graph.history, tuple(told.items())
    return _once(view.txn.store, key, lambda: {s: _strays_of(view, told, s) for s in range(1, found.marked + 1)})


def _all_levels(view: ReadView) -> Iterator[tuple[int, Levels]]:
    """What every version of the instance says of its scales."""
    prefix = view.heads[Family.PRIVATE] + KEY
    for key, raw in view.txn.scan(Table.INDEX, prefix, keys.after(prefix)):
        version = keys.suffix_version(key[-SUFFIX:])
        entry = Entry.parse(raw, version)
        if entry.kind != Kind.TOMBSTONE:
            yield version, _parse(view, entry)


def _strays_of(view: ReadView, told: Mapping[int, Levels], scale: int) -> Strays:
    """A version that puts no marks at a scale matters if blocks of the scale may have been made without its writes:
    in a version that does not come after it."""
    nodes, of = view.graph.repos[view.node.repo].nodes, view.graph.lineages.of
    makers = [version for version, at in told.items() if at.marked >= scale]
    found: dict[bytes, list[int]] = {}
    version = view.lineage.next_older(view.version)
    while version > 0:
        line = of(nodes, version)
        if not any(map(line.sees, makers)) and not all(of(nodes, maker).sees(version) for maker in makers):
            for enc in _written_below(view, version, scale):
                found.setdefault(enc, []).append(version)
        version = view.lineage.next_older(version)
    return {enc: tuple(versions) for enc, versions in found.items()}


def _written_below(view: ReadView, version: int, scale: int) -> set[bytes]:
    """Keys of the blocks of a scale under which a version wrote."""
    head = PAIR.pack(view.instance.id, version) + bytes([Family.BLOCK, 0])
    rows = view.txn.scan(Table.WRITTEN, head, keys.after(head))
    coords = {tuple(n >> scale for n in keys.decode_block(bytes(key[len(head) - 1 :]))[1:]) for key, _ in rows}
    return {keys.encode_block(scale, x, y, z) for x, y, z in coords}


# ---------------------------------------------------------------- seals


def parts(known: State, scale: int, coords: NDArray[np.int64], block: Point) -> list[bytes]:
    """The part of the extents that lies below each block of a scale, as seals name it; coords (n, 3), (z, y, x)."""
    if known.box is None:
        return [_PART.pack(*_EVERYWHERE)] * len(coords)
    size = np.array(block, np.int64) << scale
    first = coords[:, ::-1] * size
    low, high = np.maximum(first, known.box.offset), np.minimum(first + size - 1, known.box.last)
    table = np.hstack((low, high))
    table[(low > high).any(1)] = _NOWHERE
    data = table.astype("<i4").tobytes()
    return [data[at : at + _PART.size] for at in range(0, len(data), _PART.size)]


_PART = struct.Struct("<6i")


def sealed(view: ReadView, payload: bytes, part: bytes) -> bytes:
    """What is stored of a payload that was made at this version."""
    return payload + view.version.to_bytes(4, "little") + part


def unsealed(view: ReadView, stored: Buffer, part: bytes, strays: tuple[int, ...]) -> Buffer | None:
    """The payload of a stored block, or None if the block does not count."""
    at = len(stored) - SEAL.size
    if at < 0 or stored[at + 4 :] != part:
        return None
    if strays:
        line = view.graph.lineages.of(
            view.graph.repos[view.node.repo].nodes, int.from_bytes(stored[at : at + 4], "little")
        )
        if not all(map(line.sees, strays)):
            return None
    return memoryview(stored)[:at]


# ---------------------------------------------------------------- marks


def mark(view: WriteView, coords: Collection[Point]) -> None:
    """Note that blocks (x, y, z) of scale 0 are being written in this transaction; nothing to do where there are no scales."""
    if not coords:
        return
    told = [at for _, at in _all_levels(view)] if view.frozen else [levels(view)]
    top = max((at.marked for at in told), default=0)
    if not top:
        return
    level: Collection[Point] = coords
    for scale in range(1, top + 1):
        level = above(level)
        for enc in sorted(keys.encode_block(scale, *coord) for coord in level):
            _mark(view, enc)
            if view.frozen:
                _mark_after(view, enc)
    if not view.frozen:
        queue(view, coords)


def recheck(view: WriteView) -> None:
    """The extents have been changed: blocks that lay at their edges may not count any more, others may."""
    if levels(view).marked and not view.frozen:
        queue(view)


def _mark(view: WriteView, enc: bytes) -> None:
    own = view.own(Family.BLOCK, enc)
    if own is None or own.size:
        view.put(Family.BLOCK, enc, MARK)
    else:  # who is making this block must see that the mark is another
        view.fill(Family.BLOCK, enc, MARK)


def _mark_after(view: WriteView, enc: bytes) -> None:
    """An administrator changes a committed version: what was made in versions after it does not count either."""
    prefix = view.heads[Family.BLOCK] + enc
    nodes = view.graph.repos[view.node.repo].nodes
    rows = [key for key, _ in view.txn.scan(Table.INDEX, prefix, keys.after(prefix)) if key[-1:] == VALUE]
    for version in map(keys.suffix_version, (key[-SUFFIX:] for key in rows)):
        if version != view.version and view.graph.lineages.of(nodes, version).sees(view.version):
            _mark(WriteView(view.txn, nodes[version], view.instance, _ANYBODY), enc)


# ---------------------------------------------------------------- the jobs that fill marks

START: Mapping[str, Any] = {"scale": 1, "row": None}
"""Where a job begins; see :mod:`~dvidfs.types.imageblk.pyramid`."""


def queue(view: WriteView, coords: Collection[Point] = (), build: int = 0) -> None:
    """Have marks filled in the background: those above these blocks of scale 0, or all; or the scales up to ``build`` built.

    A job that waits already does this too; it begins anew. One that runs may be past it, so another is made to wait.
    """
    args = job_args(view, build, None if build else _bounds(view, coords))
    found = [job for job in jobs_of(view) if bool(job.args["build"]) == bool(build)]
    waiting = next((job for job in found if job.state == "queued"), None)
    ended = next((job for job in found if job.state not in ("queued", "running")), None)
    if waiting is not None:
        joined = _joined(waiting.args, args)
        if joined != waiting.args:
            jobs.save(view.txn, replace(waiting, args=joined))
    elif ended is not None:  # used again, else a row would be left for every write
        whole = args if ended.state == "done" else _joined(ended.args, args)
        again = replace(ended, args=whole, state="queued", owner="", error="", done=0, updated=view.txn.now)
        jobs.save(view.txn, again)
    else:
        add_job(view, args)


def add_job(view: WriteView, args: Mapping[str, Any]) -> jobs.Job:
    number = jobs.add(view.txn, JOB, args, title=f'scales of "{view.instance.name}"')
    _numbers(view).add(number)
    return jobs.get(view.txn, number)


def job_args(view: ReadView, build: int, blocks: list[int] | None = None) -> dict[str, Any]:
    """``blocks``: first and last block, (x, y, z), of scale 0 above which the job looks; None: everywhere."""
    return {"instance": view.instance.id, "version": view.node.id, "blocks": blocks, "build": build, **START}


def _joined(held: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What a job that waits has to do for both."""
    a, b = held["blocks"], new["blocks"]
    blocks = [*map(min, a[:3], b[:3]), *map(max, a[3:], b[3:])] if a is not None and b is not None else None
    return {**new, "blocks": blocks, "build": max(held["build"], new["build"])}


def _bounds(view: WriteView, coords: Collection[Point]) -> list[int] | None:
    """First and last of some blocks; None if they may move the edges of the extents, which other blocks depend on."""
    box = extents.covered(view)
    if box is None or not coords:
        return None
    low, high = [[choose(c[i] for c in coords) for i in range(3)] for choose in (min, max)]
    grid = covering_blocks(box, tuple(view.instance.settings["BlockSize"]))
    starts_inside = all(a < n for a, n in zip(grid.offset, low, strict=True))
    ends_inside = all(n < b for n, b in zip(high, grid.last, strict=True))
    return [*low, *high] if starts_inside and ends_inside else None


def jobs_of(view: WriteView) -> list[jobs.Job]:
    """The jobs of this instance and version."""
    found = []
    for number in sorted(_numbers(view)):
        with suppress(NotFound):  # done long ago, or of a transaction that came to nothing
            found.append(jobs.get(view.txn, number))
    return [job for job in found if _is_of(job, view)]


def _numbers(view: WriteView) -> set[int]:
    """Ids that may be of jobs of this instance and version; all jobs are looked through only once."""
    at = "jobs", view.instance.id, view.node.id
    return _once(view.txn.store, at, lambda: {job.id for job in jobs.all_jobs(view.txn) if _is_of(job, view)})


def _is_of(job: jobs.Job, view: ReadView) -> bool:
    return job.kind == JOB and (job.args["instance"], job.args["version"]) == (view.instance.id, view.node.id)
