"""Which scales an instance has at a version, and which of their stored blocks count: the bookkeeping of pyramids.

Scale s has a 2^s-th of the voxels along each axis, in blocks of the same size, at floor(x / 2^s). How blocks of a scale are
made is decided by the datatype; here it is decided when one that is stored counts. Whoever writes voxels that
scales are to follow puts an empty value, the *mark*, under every block above them (:mod:`~dvidfs.types.pyramids.marks`): so the nearest
entry of such a block is a mark, or was made after the last write. What marks cannot tell stands behind each payload
(:data:`SEAL`): which version made it, and the part of the box of all voxels that it was made of. So a block whose edge has moved, or that
one parent of a merge made without the other's writes, is known too. A payload of no bytes before the seal: there is no such block.
Invariant: a stored block counts only if making it again from the scale below would give the same voxels, or if a client gave it
and wrote nothing below it since.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import orjson
from numpy.typing import NDArray

from dvidfs.engine import keys
from dvidfs.engine.keys import PAIR, SUFFIX, Family, Kind, Table
from dvidfs.engine.store import Buffer, Store
from dvidfs.engine.values import Entry, Prepared, load
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.types.geometry import Box, Point, span
from dvidfs.types.pyramids.pyramid import Pyramid, block_size

KEY = keys.encode_text(b"scales")
MOST = 24
"""Scales that a volume can have; with these a volume of 2^32 voxels along a side is 256 long."""
SEAL = struct.Struct("<I6i")
"""Behind each payload: the version that made it, the first and last voxel (x, y, z) of scale 0 that it was made of."""
_PART = struct.Struct("<6i")
_NOWHERE = (0, 0, 0, -2, -2, -2)
"""In place of such voxels: none lies within the box of all voxels."""
EVERYWHERE = _PART.pack(0, 0, 0, -1, -1, -1)
"""In place of such voxels: there is no such box."""
_KEPT = 256


def extents_at(box: Box, scale: int) -> Box:
    """The extents of a scale: first and last voxel of ``box``, which is of scale 0, each divided by 2^scale and rounded down."""
    (x, y, z), (a, b, c) = box.offset, box.last
    return span(
        (x >> scale, y >> scale, z >> scale), ((a >> scale) + 1, (b >> scale) + 1, (c >> scale) + 1)
    )  # fmt: skip


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
    """What tells blocks that count from others: the box of all voxels, of scale 0, and by scale the strays."""

    levels: Levels
    box: Box | None = None
    strays: Mapping[int, Strays] = field(default_factory=dict)


def levels(pyramid: Pyramid, view: ReadView) -> Levels:
    """The scales of this version; below a merge those that any parent has."""
    if pyramid.setting:
        count = min(view.instance.settings.get(pyramid.setting, 0), MOST)
        return Levels(count, count)
    found = Levels()
    for entry in view.newest(Family.PRIVATE, KEY):
        if entry.kind != Kind.TOMBSTONE:
            found = found.union(_parse(view, entry))
    return found


def _parse(view: ReadView, entry: Entry) -> Levels:
    return Levels(**orjson.loads(load(view.txn, view.instance.id, entry)))


def ready(pyramid: Pyramid, view: ReadView) -> int:
    """How many scales above 0 can be read at this version."""
    return state(pyramid, view).levels.ready


def set_levels(view: WriteView, wanted: Levels) -> None:
    """From this version on there are so many; only where no setting says it."""
    view.put(Family.PRIVATE, KEY, wanted.row())


def all_levels(pyramid: Pyramid, view: ReadView) -> list[Levels]:
    """The scales of all versions of the instance."""
    return [levels(pyramid, view)] if pyramid.setting else [at for _, at in _said(view)]


def state(pyramid: Pyramid, view: ReadView) -> State:
    """What is known of the scales of this version; found once for as long as it does not change."""

    def look() -> State:
        found = levels(pyramid, view)
        return State(found, pyramid.box(view), _strays(view, found)) if found.marked else State(found)

    if pyramid.setting:
        return State(levels(pyramid, view), pyramid.box(view))
    if isinstance(view, WriteView):  # what it sees may never be committed
        return look()
    return once(view.txn.store, view.stamp(), look)


_known: WeakKeyDictionary[Store, dict[Any, Any]] = WeakKeyDictionary()


def once(store: Store, key: Any, look: Callable[[], Any]) -> Any:
    """What ``look`` finds, kept under a key that changes when it does."""
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
    told = {version: at for version, at in _said(view) if view.lineage.sees(version)}
    key = "strays", view.instance.id, view.version, view.graph.history, tuple(told.items())
    return once(view.txn.store, key, lambda: {s: _strays_of(view, told, s) for s in range(1, found.marked + 1)})


def _said(view: ReadView) -> Iterator[tuple[int, Levels]]:
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


def parts(box: Box, scale: int, coords: NDArray[np.int64], block: Point) -> list[bytes]:
    """The part of the box of all voxels that lies below each block of a scale, as seals name it; coords (n, 3), (z, y, x)."""
    size = np.array(block, np.int64) << scale
    first = coords[:, ::-1] * size
    low, high = np.maximum(first, box.offset), np.minimum(first + size - 1, box.last)
    table = np.hstack((low, high))
    table[(low > high).any(1)] = _NOWHERE
    data = table.astype("<i4").tobytes()
    return [data[at : at + _PART.size] for at in range(0, len(data), _PART.size)]


def seal(
    pyramid: Pyramid, view: ReadView, scale: int, blocks: Iterable[tuple[Point, Buffer]]
) -> Iterator[tuple[Point, bytes]]:
    """Blocks (x, y, z) of a scale above 0 that a client gives for this version, as they are stored: they count until something
    is written below them."""
    box, size = pyramid.box(view), block_size(view)
    for (x, y, z), payload in blocks:
        part = EVERYWHERE if box is None else parts(box, scale, np.array([(z, y, x)], np.int64), size)[0]
        yield (x, y, z), sealed(view, payload, part)


def sealed(view: ReadView, payload: Buffer, part: bytes) -> bytes:
    """What is stored of a payload that was made at this version."""
    return b"".join((payload, view.version.to_bytes(4, "little"), part))


def unsealed(view: ReadView, stored: Buffer, part: bytes, strays: tuple[int, ...]) -> memoryview | None:
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
