"""Where the blocks of a snapshot lie, kept for those who ask again: then a read runs no Python for each block.

Decides what is kept and for how long; what is done with it is :mod:`~dvidfs.types.imageblk.volume`. Blocks are kept in
*bricks* of :data:`SIDE` along each side: a brick that was asked for more blocks than it can hold, in one snapshot, is
looked through as a whole (so who reads a volume once pays nothing for it). All of it is dropped when anything is committed, since payloads are views of the store's map.
Invariant: what is kept is used only within a snapshot of the same id, where the same bytes lie at the same addresses; it
takes no more than :data:`LIMIT` bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine.store import Buffer, ReadTxn, Store
from dvidfs.errors import DvidfsError
from dvidfs.types.geometry import Box, Point

SIDE = 8
BRICK = SIDE**3
LIMIT = 32 << 20
_COST = 240
"""About what a block costs in memory: a view, and its place in three tables."""
_NEVER = -(1 << 60)
_ASKED = 1 << 16
"""Bricks of which it is known how often they were asked for."""


class Located(NamedTuple):
    """Stored blocks of a box, z slowest: coordinates (n, 3) in (z, y, x), payloads, and if known the addresses of the
    voxels within these (0: they must be decoded)."""

    coords: NDArray[np.int64]
    payloads: list[Buffer]
    found: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Brick:
    """Blocks by their place (z, y, x): which are stored, their payloads (objects), and addresses as in :class:`Located`."""

    there: NDArray[np.bool_]
    payloads: NDArray[np.object_]
    found: NDArray[np.int64]
    cost: int

    @classmethod
    def of(cls, box: Box, blocks: Located) -> Brick | None:
        if blocks.found is None:
            return None
        at = tuple((blocks.coords - box.origin).T)
        there, payloads = np.zeros(box.shape, np.bool_), np.empty(box.shape, np.object_)
        found = np.zeros(box.shape, np.int64)
        there[at], found[at] = True, blocks.found
        flat = np.empty(len(blocks.payloads), np.object_)
        flat[:] = blocks.payloads
        payloads[at] = flat
        copies = sum(len(p) for p in blocks.payloads if isinstance(p, bytes))
        return cls(there, payloads, found, _COST * BRICK + copies)


Key = tuple[int, int, int, int, int]
"""Instance, version, and which brick: (z, y, x)."""
Owner = tuple[int, int]
Look = Callable[[Box], Located]


class Kept:
    """What is known of one snapshot. For any number of threads."""

    def __init__(self, snapshot: int) -> None:
        self.snapshot = snapshot
        self._bricks: dict[Key, Brick] = {}
        self._asked: dict[Key, int] = {}
        self._cost = 0

    def locate(self, owner: Owner, blocks: Box) -> Located | None:
        """The stored ones of a box of blocks, if all of its bricks are known."""
        parts = []
        for *at, to, of in _parts(blocks):
            brick = self._bricks.get((*owner, *at))
            if brick is None:
                return None
            parts.append((brick, to, of))
        shape = blocks.shape
        there, payloads = np.empty(shape, np.bool_), np.empty(shape, np.object_)
        found, coords = np.empty(shape, np.int64), np.empty((*shape, 3), np.int64)
        for brick, to, of in parts:
            there[to], payloads[to], found[to] = brick.there[of], brick.payloads[of], brick.found[of]
        z, y, x = (np.arange(first, first + count) for first, count in zip(blocks.origin, shape, strict=True))
        coords[..., 0], coords[..., 1], coords[..., 2] = z[:, None, None], y[:, None], x
        if there.all():
            return Located(coords.reshape(-1, 3), payloads.reshape(-1).tolist(), found.reshape(-1))
        return Located(coords[there], payloads[there].tolist(), found[there])

    def pick(self, owner: Owner, coords: Sequence[Point]) -> list[Buffer | None] | None:
        """The payloads of blocks (x, y, z), if all of their bricks are known."""
        out: list[Buffer | None] = []
        bricks, (instance, version) = self._bricks, owner
        for x, y, z in coords:
            brick = bricks.get((instance, version, z // SIDE, y // SIDE, x // SIDE))
            if brick is None:
                return None
            out.append(brick.payloads[z % SIDE, y % SIDE, x % SIDE])
        return out

    def note_box(self, owner: Owner, blocks: Box, look: Look) -> None:
        """A box of blocks was looked up; ``look`` looks up a whole brick."""
        for *at, _, (z, y, x) in _parts(blocks):
            count = (z.stop - z.start) * (y.stop - y.start) * (x.stop - x.start)
            self._note((*owner, *at), count, look)

    def note(self, owner: Owner, coords: Sequence[Point], look: Look) -> None:
        """Blocks (x, y, z) were looked up."""
        for x, y, z in coords:
            self._note((*owner, z // SIDE, y // SIDE, x // SIDE), 1, look)

    def _note(self, key: Key, count: int, look: Look) -> None:
        if key in self._bricks:
            return
        if len(self._asked) >= _ASKED:
            self._asked.clear()
        count += self._asked.get(key, 0)
        self._asked[key] = count if count <= BRICK else self._build(key, look)

    def _build(self, key: Key, look: Look) -> int:
        """Look a brick up; how many of its blocks count as asked for now."""
        z, y, x = (n * SIDE for n in key[2:])
        box = Box((x, y, z), (SIDE, SIDE, SIDE))
        try:
            brick = Brick.of(box, look(box))
        except DvidfsError:
            return _NEVER  # who reads the block that is damaged is told
        if brick is None or brick.cost > LIMIT // 8:  # so much if payloads are copies: the store has just changed
            return 0
        if self._cost + brick.cost > LIMIT:
            self._bricks.clear()
            self._cost = 0
        self._bricks[key] = brick
        self._cost += brick.cost
        return 0


def _parts(blocks: Box) -> list[Any]:
    """The bricks that a box of blocks touches, as (z, y, x, where in an array of the box, where in the brick)."""
    axes = [_cut(first, count) for first, count in zip(blocks.origin, blocks.shape, strict=True)]
    return [
        (z, y, x, (to_z, to_y, to_x), (of_z, of_y, of_x))
        for (z, to_z, of_z), (y, to_y, of_y), (x, to_x, of_x) in itertools.product(*axes)
    ]


def _cut(first: int, count: int) -> list[tuple[int, slice, slice]]:
    """A range of blocks cut at the borders of bricks: number of the brick, where in the range, where in the brick."""
    out, stop = [], first + count
    at = first
    while at < stop:
        number = at // SIDE
        start, end = number * SIDE, min(stop, number * SIDE + SIDE)
        out.append((number, slice(at - first, end - first), slice(at - start, end - start)))
        at = end
    return out


_kept: WeakKeyDictionary[Store, Kept] = WeakKeyDictionary()


def of(txn: ReadTxn) -> Kept | None:
    """What is known of the snapshot of a transaction; None if it writes, or is not of the newest snapshot seen."""
    snapshot = txn.snapshot
    if snapshot is None:
        return None
    kept = _kept.get(txn.store)
    if kept is None or kept.snapshot < snapshot:
        kept = _kept[txn.store] = Kept(snapshot)
    return kept if kept.snapshot == snapshot else None
