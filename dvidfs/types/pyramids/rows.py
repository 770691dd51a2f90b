"""What there is to be made at a scale: its blocks in order, from anywhere on, within bounds.

Decides the order: row of blocks along x after row, z slowest, so that a job can say where it stopped. A scale that is complete
is gone through by its own blocks; one that is being built by the blocks below, since it has none of its own yet. Invariant: while nothing
is written each block comes exactly once, however often one stops and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from dvidfs.engine import keys
from dvidfs.engine.versions import ReadView
from dvidfs.types.geometry import COORD_MAX, COORD_MIN, Box, Point
from dvidfs.types.pyramids.level import Level, at_scale
from dvidfs.types.pyramids.pyramid import Pyramid
from dvidfs.types.pyramids.scales import levels

LOOK = 256
"""Blocks that are looked up at a time."""
Bounds = Sequence[int]
"""First and last block, (x, y, z), of scale 0."""
Start = Sequence[int]
"""Where to go on: (z, y, x)."""


Walk = Callable[[bytes, bytes], Iterator[bytes]]
"""Keys of blocks with start <= key < stop, in order."""


@dataclass(frozen=True)
class Rows:
    """Blocks of a scale within bounds, by rows along x. ``grid``: those that are there, where that is a box."""

    scale: int
    walk: Walk
    low: Point
    high: Point
    grid: Box | None = None

    @classmethod
    def of(cls, scale: int, walk: Walk, bounds: Bounds | None, grid: Box | None = None) -> Rows:
        """``bounds``: above which blocks the rows lie."""
        first: Point = (COORD_MIN, COORD_MIN, COORD_MIN)
        last: Point = (COORD_MAX, COORD_MAX, COORD_MAX)
        if bounds is not None:
            x, y, z, a, b, c = (n >> scale for n in bounds)
            first, last = (x, y, z), (a, b, c)
        return cls(scale, walk, first, last, grid)

    def after(self, z: int, y: int) -> tuple[int, int] | None:
        """The first row at or behind (z, y): (z, y) of it."""
        while True:
            z, y = (z, max(y, self.low[1])) if z >= self.low[2] else (self.low[2], self.low[1])
            if y > self.high[1]:
                z, y = z + 1, self.low[1]
            if z > self.high[2]:
                return None
            if self.grid is not None:
                return _row_of_grid(self.grid, z, y)
            found = next(self._keys((COORD_MIN, y, z), (COORD_MAX, COORD_MAX, self.high[2])), None)
            if found is None:
                return None
            _, _, y, z = keys.decode_block(found)
            if self.low[1] <= y <= self.high[1]:
                return z, y

    def _keys(self, first: Point, last: Point) -> Iterator[bytes]:
        return self.walk(keys.encode_block(self.scale, *first), keys.after(keys.encode_block(self.scale, *last)))

    def row(self, z: int, y: int) -> list[int]:
        """The x of the blocks of a row."""
        if self.grid is not None:
            is_inside = self.grid.contains(Box((self.grid.offset[0], y, z), (1, 1, 1)))
            return list(range(self.grid.offset[0], self.grid.stop[0])) if is_inside else []
        return [keys.decode_block(enc)[1] for enc in self._keys((self.low[0], y, z), (self.high[0], y, z))]


def _row_of_grid(grid: Box, z: int, y: int) -> tuple[int, int] | None:
    z, y = (z, max(y, grid.offset[1])) if z >= grid.offset[2] else (grid.offset[2], grid.offset[1])
    if y >= grid.stop[1]:
        z, y = z + 1, grid.offset[1]
    return (z, y) if z < grid.stop[2] else None


def blocks(level: Level, bounds: Bounds | None, start: Start | None, *, building: bool) -> Iterator[Point]:
    """The blocks (x, y, z) of a scale that may have to be made, z slowest, from ``start`` on."""
    if not building:
        return _all(Rows.of(level.scale, level.suspects, bounds), start)
    below, view = level.scale - 1, level.view
    walk = at_scale(level.pyramid, view, below).walk
    return _parents(Rows.of(below, walk, bounds, None if below else level.pyramid.grid(view)), start)


def _all(rows: Rows, start: Start | None) -> Iterator[Point]:
    """The blocks of rows themselves."""
    z, y, x = start if start is not None else (rows.low[2], rows.low[1], COORD_MIN)
    while (at := rows.after(z, y)) is not None:
        if at != (z, y):
            (z, y), x = at, COORD_MIN
        yield from ((n, y, z) for n in rows.row(z, y) if n >= x)
        y, x = y + 1, COORD_MIN


def _parents(children: Rows, start: Start | None) -> Iterator[Point]:
    """The blocks one scale above those of rows."""
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


def pending(pyramid: Pyramid, view: ReadView) -> int:
    """How many blocks of all scales wait to be made; reading them makes them."""
    count, told = 0, levels(pyramid, view)
    for scale in range(1, told.marked + 1):
        level = Level(view, scale, pyramid)
        found = blocks(level, None, None, building=scale > told.ready)
        while part := list(islice(found, LOOK)):
            count += len(level.wrong([level.key(coord) for coord in part]))
    return count
