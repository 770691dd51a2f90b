"""A region cut into boxes of blocks of about equal size, for work that is shared out.

Decides where boxes lie, in two ways. Simple: cubes of ``batch`` blocks a side, layers along z, rows along y within
a layer and cubes along x within a row, each centred on what it has to cover; cubes without a block of the region are
counted and not told. Optimized: the same order, begun at the first block, and what is left over is given to the first ones, each one
block thicker; where blocks along x are missing the stretch before the gap goes to the box before it, whose end then is the end
of that stretch (which is what the original answers, though such a box no longer covers what it counts).
Other than in the original a layer always holds the z of its blocks, where there are gaps too. Blocks that several spans name count once.
Invariant: every block of the region is counted in exactly one box. Source: reference note "annotation", roi.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dvidfs.errors import BadRequest
from dvidfs.types.geometry import COORD_MAX, COORD_MIN, Point
from dvidfs.types.roi.region import Region

MAX_BOXES = 1_000_000
"""More are not made for one answer."""
MAX_VISITED = 1 << 24
"""Nor are more places looked at; where they are looked at one by one, each counts as :data:`_SLOW`."""
_SLOW = 8
FEW = 4096
"""Boxes of one piece of the answer."""
Runs = NDArray[np.int64]


@dataclass(slots=True)
class Part:
    """A box of blocks, both corners inside. ``merged``: it has taken in what came behind it."""

    first: Point
    last: Point
    total: int
    active: int
    merged: bool = False


@dataclass
class Partition:
    """Boxes in order z, y, x, and what is known of all: ``first``, ``last`` are extents of the region."""

    first: list[int]
    last: list[int]
    parts: list[Part] = field(default_factory=list)
    total: int = 0
    active: int = 0
    visited: int = 0

    def count(self, total: int, active: int) -> None:
        self.total += total
        self.active += active

    def visit(self, places: int) -> None:
        """Notes that so many places of boxes are about to be looked at.

        Raises:
            BadRequest: they are too many.
        """
        self.visited += places
        self.expect(0)

    def expect(self, boxes: int) -> None:
        """Notes that so many boxes are about to be made; raises as :meth:`visit` does."""
        if self.visited > MAX_VISITED or len(self.parts) + boxes > MAX_BOXES:
            raise BadRequest(
                f"batchsize is too small: more than {MAX_BOXES} subvolumes would be made, give a larger one"
            )

    def extend(self, axis: int, low: int, high: int) -> None:
        self.first[axis], self.last[axis] = min(self.first[axis], low), max(self.last[axis], high)


def partition(region: Region, batch: int, *, optimized: bool) -> Partition:
    """The region cut into boxes of about ``batch`` (at least 1) blocks a side."""
    out = Partition([0, 0, COORD_MAX], [0, 0, COORD_MIN])
    runs = region.runs
    if not len(runs):
        return out
    low, high = int(runs[0, 0]), int(runs[-1, 0])
    out.first[2], out.last[2] = low, high
    left = (high - low + 1) % batch
    layers = Stripes(low, batch, left, 1) if optimized else Stripes(low - left // 2, batch, 0, 0)
    add = _add_fitted if optimized else _add_cubes
    for (z0, z1), layer in layers.split(runs, 0):
        add(out, layer, batch, z0, z1)
    return out


@dataclass(frozen=True)
class Stripes:
    """An axis in stripes from ``start`` on, ``width`` wide; ``extra`` of them, the first ``skip`` aside, are one wider."""

    start: int
    width: int
    extra: int
    skip: int

    def split(self, runs: Runs, column: int) -> Iterator[tuple[tuple[int, int], Runs]]:
        """The stripes that hold any run, and their runs; runs are in order of the column."""
        at = runs[:, column] - self.start
        thin = self.skip * self.width
        wide = thin + self.extra * (self.width + 1)
        number = np.where(
            at < thin,
            at // self.width,
            np.where(
                at < wide,
                self.skip + (at - thin) // (self.width + 1),
                self.skip + self.extra + (at - wide) // self.width,
            ),
        )
        edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(runs)]
        for low, high in pairwise(edges):
            yield self.ends(int(number[low])), runs[low:high]

    def ends(self, number: int) -> tuple[int, int]:
        """First and last of a stripe."""
        wider = min(max(number - self.skip, 0), self.extra)
        first = self.start + number * self.width + wider
        return first, first + self.width - 1 + (0 <= number - self.skip < self.extra)


def _by_row(layer: Runs) -> Runs:
    return layer[np.argsort(layer[:, 1], kind="stable")]


# ---------------------------------------------------------------- cubes


def _add_cubes(out: Partition, layer: Runs, batch: int, z0: int, z1: int) -> None:
    layer = _by_row(layer)
    low, high = int(layer[0, 1]), int(layer[-1, 1])
    out.extend(1, low, high)
    for (y0, y1), row in Stripes(low - (high - low + 1) % batch // 2, batch, 0, 0).split(layer, 1):
        left, right = int(row[:, 2].min()), int(row[:, 3].max())
        out.extend(0, left, right)
        spare = (right - left + 1) % batch
        start, stop = left - spare // 2, right + spare - spare // 2
        cubes = (stop - start) // batch + 1
        out.visit(cubes)
        edges = start + batch * np.arange(cubes + 1, dtype=np.int64)
        active = np.diff(_below(row, edges))
        out.count(cubes * batch**3, int(active.sum()))
        taken = np.flatnonzero(active)
        out.expect(len(taken))
        for x, n in zip(edges[taken].tolist(), active[taken].tolist(), strict=True):
            out.parts.append(Part((x, y0, z0), (x + batch - 1, y1, z1), batch**3, n))


def _below(row: Runs, edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many blocks of the runs lie below each x."""

    def passed(starts: NDArray[np.int64]) -> NDArray[np.int64]:
        starts = np.sort(starts)
        before = np.concatenate(([0], np.cumsum(starts)))
        n = np.searchsorted(starts, edges)
        return n * edges - before[n]

    return passed(row[:, 2]) - passed(row[:, 3] + 1)


# ---------------------------------------------------------------- fitted boxes


def _add_fitted(out: Partition, layer: Runs, batch: int, z0: int, z1: int) -> None:
    layer = _by_row(layer)
    low, high = int(layer[0, 1]), int(layer[-1, 1])
    out.extend(1, low, high)
    for (y0, y1), row in Stripes(low, batch, (high - low + 1) % batch, 0).split(layer, 1):
        left, right = int(row[:, 2].min()), int(row[:, 3].max())
        out.extend(0, left, right)
        _add_row(out, row, batch, Part((left, y0, z0), (right, y1, z1), 0, 0))


def _add_row(out: Partition, row: Runs, batch: int, frame: Part) -> None:
    """The boxes along x of one row; ``frame`` has its corners."""
    (x, y0, z0), (right, y1, z1) = frame.first, frame.last
    left_over, used = (right - x + 1) % batch, _Used(row)
    out.visit(_SLOW * ((right - x) // batch + 1))
    while x <= right:
        end = x + batch - 1 + (left_over > 0)
        left_over -= left_over > 0
        hole = used.hole(x, end)
        last = end if hole is None else hole[0] - 1
        if last >= x:
            out.expect(1)
            total = (last - x + 1) * (y1 - y0 + 1) * (z1 - z0 + 1)
            active = used.below(last + 1) - used.below(x)
            out.count(total, active)
            if hole is None or not out.parts:
                out.parts.append(Part((x, y0, z0), (last, y1, z1), total, active))
            else:
                _merge(out.parts[-1], (last, y1, z1), total, active)
        x = (end if hole is None else hole[1]) + 1


def _merge(part: Part, last: Point, total: int, active: int) -> None:
    part.last, part.merged = last, True
    part.total += total
    part.active += active


class _Used:
    """The runs of a row seen along x: the stretches that any of them covers, which do not touch, and how many cover each."""

    def __init__(self, row: Runs) -> None:
        order = np.argsort(row[:, 2], kind="stable")
        starts, reach = row[order, 2], np.maximum.accumulate(row[order, 3])
        heads = np.flatnonzero(np.concatenate(([True], starts[1:] > reach[:-1] + 1)))
        self.starts: list[int] = starts[heads].tolist()
        self.ends: list[int] = reach[np.append(heads[1:], len(starts)) - 1].tolist()
        changes = np.unique(np.concatenate((row[:, 2], row[:, 3] + 1)))
        self._changes: list[int] = changes.tolist()
        self._counts: list[int] = _below(row, changes).tolist()

    def below(self, x: int) -> int:
        """How many blocks of the runs lie below an x."""
        i = bisect_right(self._changes, x)
        if i == 0 or i == len(self._changes):
            return self._counts[-1] if i else 0
        (low, high), (a, b) = self._changes[i - 1 : i + 1], self._counts[i - 1 : i + 1]
        return a + (b - a) // (high - low) * (x - low)

    def hole(self, low: int, high: int) -> tuple[int, int] | None:
        """The first of the longest stretches without any within [low, high]."""
        best, size, at = None, 0, low
        i = max(bisect_right(self.starts, low) - 1, 0)
        while at <= high:
            start, end = (self.starts[i], self.ends[i]) if i < len(self.starts) else (high + 1, high + 1)
            gap = min(start - 1, high) - at + 1
            if gap > size:
                best, size = (at, at + gap - 1), gap
            at, i = max(at, end + 1), i + 1
        return best


# ---------------------------------------------------------------- JSON

_POINT = "[\n                {},\n                {},\n                {}\n            ]"
_PART = (
    '        {{\n            "MinPoint": '
    + _POINT
    + ',\n            "MaxPoint": '
    + _POINT
    + ',\n            "MinChunk": '
    + _POINT
    + ',\n            "MaxChunk": '
    + _POINT
    + ',\n            "TotalBlocks": {},\n            "ActiveBlocks": {}\n        }}'
)
_CORNER = "[\n            {},\n            {},\n            {}\n        ]"
_HEAD = (
    '{{\n    "NumTotalBlocks": {},\n    "NumActiveBlocks": {},\n    "NumSubvolumes": {},\n    "ROI": {{\n        "MinChunk": '
    + _CORNER
    + ',\n        "MaxChunk": '
    + _CORNER
    + '\n    }},\n    "Subvolumes": ['
)


def dump(found: Partition, block: Point) -> Iterator[bytes]:
    """Pieces of the JSON that clients know, indented by four; ``block``: voxels of a block."""
    head = _HEAD.format(found.total, found.active, len(found.parts), *found.first, *found.last)
    yield head.encode()
    for at in range(0, len(found.parts), FEW):
        parts = ",\n".join(_part(part, block) for part in found.parts[at : at + FEW])
        yield f"{',' if at else ''}\n{parts}".encode()
    yield b"\n    ]\n}" if found.parts else b"]\n}"


def _part(part: Part, block: Point) -> str:
    first = [c * b for c, b in zip(part.first, block, strict=True)]
    step = 0 if part.merged else 1  # the original gives the first voxel of the last block of a merged box
    last = [(c + step) * b - step for c, b in zip(part.last, block, strict=True)]
    return _PART.format(*first, *last, *part.first, *part.last, part.total, part.active)
