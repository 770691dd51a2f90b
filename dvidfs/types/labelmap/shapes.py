"""Where a body or a supervoxel lies: its blocks, and its voxels as runs or masks, made block after block.

The index names the blocks and the supervoxels, the stored blocks say which voxels these have; at a scale s a block counts if
one of scale 0 lies in it. Blocks are read by z, y, x, opened by all cores with a bounded number ahead, so no body is ever whole
in memory; those of small bodies, which are looked at again and again, are kept opened. What options mean and how runs travel is
for :mod:`~dvidfs.types.labelmap.sparse`. Invariant: no run ends where another begins. Source: reference note "sparsevol" 3.5.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import keys, ledger
from dvidfs.engine.keys import Family
from dvidfs.engine.store import Buffer, Store
from dvidfs.engine.versions import ReadView
from dvidfs.kernels import runs as kernel
from dvidfs.kernels.labels import Block
from dvidfs.kernels.runs import Runs
from dvidfs.types import workers
from dvidfs.types.formats.labelindex import codes_of_points, points_of_codes
from dvidfs.types.formats.sparsevol import EVERYWHERE, Bounds, block_head
from dvidfs.types.geometry import Point
from dvidfs.types.labelmap import bodies, stored
from dvidfs.types.labelmap.books import Book, mapping
from dvidfs.types.labelmap.columns import ABSENT, U64s
from dvidfs.types.labelmap.index import Counts
from dvidfs.types.labelmap.scales import PYRAMID
from dvidfs.types.pyramids.blocks import Blocks
from dvidfs.types.pyramids.level import at_scale

T = TypeVar("T")

TASK = 16
"""Blocks that a thread gets at a time, at most."""
KEPT = 256
"""So many blocks of a body are kept opened, the first ones; none of one that has more than twice as many."""
LIGHT = 64**3
"""A body of one supervoxel and no more voxels has few blocks, and few runs."""
_CORES = os.cpu_count() or 1
_DEEPEST = 21
"""From this scale on there are no further blocks: their coordinates have 21 bits at scale 0."""


class Shape(NamedTuple):
    """``supervoxels``, ascending; ``coords`` (n, 3): the blocks x, y, z of scale 0 that they have voxels in, by z, y, x; all
    their voxels."""

    supervoxels: U64s
    coords: NDArray[np.int32]
    voxels: int


# ---------------------------------------------------------------- what the index says


def of_body(view: ReadView, body: int) -> Shape | None:
    """The shape of a body; None if there is no such body."""
    at = ledger.stamp(view, Book.BODY, body)
    found = bodies.HELD.get(view, _key(view, body, at), lambda: _joined(bodies.of_body(view, body), at is None))
    return found if found.voxels else None


def of_supervoxel(view: ReadView, supervoxel: int) -> Shape | None:
    """The shape of a supervoxel; None if the body that it is mapped to does not hold it."""
    bodies.need_supervoxel(view, supervoxel)
    body = mapping(view).one(supervoxel)
    held = bodies.members(view, supervoxel if body == ABSENT else body).supervoxels
    at = int(np.searchsorted(held, np.uint64(supervoxel)))
    if at == len(held) or int(held[at]) != supervoxel:
        return None
    found = _joined(bodies.of_supervoxel(view, supervoxel), alone=True)
    return found if found.voxels else None


def is_light(view: ReadView, body: int) -> bool:
    """Whether the shape of a body is in memory, or soon put together."""
    at = ledger.stamp(view, Book.BODY, body)
    if bodies.HELD.peek(view.txn.store, _key(view, body, at)) is not None:
        return True
    return at is None and bodies.size(view, body) <= LIGHT


def _key(view: ReadView, body: int, at: tuple[int, int] | None) -> tuple[object, ...]:
    """What the shape of a body is kept under; one without rows is the supervoxel of its number, whose rows any change may follow."""
    if at is None:
        return "shape", body, view.stamp()
    return "shape", view.instance.id, view.version, body, at, view.graph.history


def _joined(rows: Counts, alone: bool) -> Shape:
    """``alone``: the rows are of one supervoxel, so they name each block once."""
    supervoxels, codes = (rows.supervoxels[:1], rows.codes) if alone else map(np.unique, rows[:2])
    return Shape(supervoxels, points_of_codes(codes).astype(np.int32), int(rows.counts.sum(dtype=np.uint64)))


def blocks(view: ReadView, shape: Shape, scale: int = 0, bounds: Bounds = EVERYWHERE) -> NDArray[np.int32]:
    """The blocks (n, 3) x, y, z of a scale that a shape lies in, as far as the bounds touch them, by z, y, x."""
    coords = shape.coords
    if scale:
        codes = np.unique(codes_of_points(coords >> min(scale, _DEEPEST)))
        coords = points_of_codes(codes).astype(np.int32)
    return coords if bounds.is_open else coords[bounds.keep(coords, view.instance.settings["BlockSize"])]


def coarse(coords: NDArray[np.int32]) -> Runs:
    """Blocks (n, 3) x, y, z in order as runs of blocks."""
    steps = np.diff(coords, axis=0) != (1, 0, 0)
    first = np.flatnonzero(np.append(True, steps.any(axis=1))[: len(coords)])
    lengths = np.diff(np.append(first, len(coords)))
    return np.column_stack((coords[first], lengths)).astype(np.int32)


# ---------------------------------------------------------------- what the blocks say


@dataclass(frozen=True)
class Sought:
    """The voxels of some supervoxels (ascending) in some ``coords`` (n, 3), blocks x, y, z of a scale, by z, y, x."""

    view: ReadView
    supervoxels: U64s
    coords: NDArray[np.int32]
    scale: int = 0
    bounds: Bounds = EVERYWHERE

    @property
    def block(self) -> Point:
        """Voxels of a block (x, y, z)."""
        x, y, z = self.view.instance.settings["BlockSize"]
        return x, y, z

    @cached_property
    def _level(self) -> Blocks:
        return at_scale(PYRAMID, self.view, self.scale)

    def runs(self) -> Iterator[Runs]:
        """The runs, in pieces: each sorted by z, y, x, none empty."""
        held, width = np.empty((0, 4), np.int32), self.block[0]
        for stop, found in self._each(partial(_runs, self.supervoxels, self.block, self.bounds.voxels)):
            if len(held):
                found = kernel.join_runs(np.concatenate((held, found)))
                held = held[:0]
            if stop < len(self.coords) and (self.coords[stop] - self.coords[stop - 1] == (1, 0, 0)).all():
                on = found[:, 0] + found[:, 3] == self.coords[stop, 0] * width
                held, found = found[on], found[~on]
            if len(found):
                yield found

    def masks(self) -> Iterator[bytes]:
        """What a stream of binary blocks says of the blocks, in pieces; of one without voxels nothing. Bounds cut only blocks."""
        for _, found in self._each(partial(_masks, self.supervoxels, self.block)):
            if found:
                yield found

    def is_light(self, most: int) -> bool:
        """Whether there are few blocks, all of them opened already or opened in no time."""
        if self.scale or len(self.coords) > most:
            return False
        entries = (self.view.find(Family.BLOCK, keys.encode_block(0, *coord)) for coord in self.coords.tolist())
        return all(entry is None or not entry.ref or stored.is_kept(self.view, entry) for entry in entries)

    def _each(self, work: Callable[[Sequence[Loaded]], T]) -> Iterator[tuple[int, T]]:
        """What ``work`` makes of the blocks, some at a time, in order; and how many have been gone through then."""
        count = len(self.coords)
        step = min(TASK, -(-count // _CORES))
        first = self._load(0, step)
        if count <= TASK and (step == count or all(one.is_ready for one in first)):
            yield count, work(first + self._load(step, count))  # handing over takes longer
            return
        waiting: deque[tuple[int, Future[T]]] = deque()
        try:
            for at in range(0, count, step):
                stop = min(count, at + step)
                waiting.append((stop, workers.pool().submit(work, self._load(at, stop) if at else first)))
                if len(waiting) > 2 * _CORES:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            for _, future in waiting:
                future.cancel()

    def _load(self, at: int, stop: int) -> list[Loaded]:
        """Some of the blocks, as far as they are stored: what a thread needs of them, which must not use the transaction."""
        view, coords = self.view, [(x, y, z) for x, y, z in self.coords[at:stop].tolist()]
        if self.scale:
            payloads = self._level.payloads(coords)
            return [Loaded(c, bytes(p)) for c, p in zip(coords, payloads, strict=True) if p is not None]
        out, most = [], KEPT if len(self.coords) <= 2 * KEPT else 0
        for number, coord in enumerate(coords, at):
            entry = view.find(Family.BLOCK, keys.encode_block(0, *coord))
            if entry is not None:
                block = stored.HELD.peek(view.txn.store, entry.ref) if entry.ref else None
                payload, store = b"" if block else bytes(view.load(entry)), view.txn.store if number < most else None
                out.append(Loaded(coord, payload, block, store, entry.ref))
        return out


class Loaded(NamedTuple):
    """A block on its way to a thread: opened, or its payload, and where it is to be kept."""

    coord: Point
    payload: Buffer
    block: Block | None = None
    store: Store | None = None
    ref: int = 0

    @property
    def is_ready(self) -> bool:
        """Whether opening it takes no time."""
        return self.block is not None or len(self.payload) <= keys.INLINE

    def opened(self) -> Block:
        if self.block is not None:
            return self.block
        found = stored.opened(self.payload)
        if self.store is not None and self.ref:
            stored.HELD.keep(self.store, self.ref, found)
        return found


def _runs(supervoxels: U64s, size: Point, box: kernel.Box | None, loaded: Sequence[Loaded]) -> Runs:
    """The runs of some blocks, joined where these touch."""
    parts = []
    for one in loaded:
        block = one.opened()
        parts.append(kernel.block_runs(block, _wanted(block, supervoxels), _start(one.coord, size), box))
    if len(parts) == 1:
        return parts[0]
    return kernel.join_runs(np.concatenate(parts)) if parts else np.empty((0, 4), np.int32)


def _masks(supervoxels: U64s, size: Point, loaded: Sequence[Loaded]) -> bytes:
    parts = []
    for one in loaded:
        block = one.opened()
        wanted = _wanted(block, supervoxels)
        if wanted.any():
            said = kernel.block_masks(block, wanted)
            parts += [block_head(_start(one.coord, size)), said] if said[0] != kernel.NONE else []
    return b"".join(parts)


def _start(coord: Point, size: Point) -> Point:
    return coord[0] * size[0], coord[1] * size[1], coord[2] * size[2]


def _wanted(block: Block, supervoxels: U64s) -> NDArray[np.bool_]:
    """Which entries of a block's table are wanted."""
    if len(supervoxels) == 1:
        return block.labels == supervoxels[0]
    at = np.searchsorted(supervoxels, block.labels)
    return supervoxels[np.minimum(at, len(supervoxels) - 1)] == block.labels
