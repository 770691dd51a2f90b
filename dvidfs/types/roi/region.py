"""A set of blocks as runs along x: what a region of interest is, apart from where it is kept.

Decides how spans become an answer about blocks: sorting, uniting, cutting out a box, looking up points. Text, storage and voxels
are for others. Spans are rows (z, y, x0, x1) of block coordinates, both ends inside, as on the wire; they may overlap.
Invariant: nothing here costs more than the spans plus the box that is asked for, however far the spans reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dvidfs.types.geometry import Box, span

Spans = NDArray[np.int32]
"""(n, 4): z, y, x0, x1."""
Flags = NDArray[np.bool_]

DENSE = 1 << 24
"""Boxes of at most so many blocks are kept as one byte a block, for looking up points."""
_ROW, _BIAS = 33, 1 << 31


def ordered(spans: Spans) -> Spans:
    """Spans by z, y, x0, x1, each once."""
    if len(spans) < 2:
        return spans
    z, y, x0, x1 = spans.T.astype(np.int64)
    major, minor = (z << 32) + (y + _BIAS), (x0 << 32) + (x1 + _BIAS)
    steps = np.diff(major)
    steady = (steps > 0) | ((steps == 0) & (np.diff(minor) > 0))
    if steady.all():  # as nearly every client sends them
        return spans
    order = np.lexsort((minor, major))
    spans, major, minor = spans[order], major[order], minor[order]
    new = np.concatenate(([True], (np.diff(major) != 0) | (np.diff(minor) != 0)))
    return np.ascontiguousarray(spans[new])


def unite(parts: list[Spans]) -> Spans:
    """The spans that are in any part."""
    return ordered(np.concatenate(parts)) if parts else np.empty((0, 4), np.int32)


@dataclass(frozen=True)
class Region:
    """Spans in order, and what follows from them, each found once."""

    spans: Spans

    @cached_property
    def box(self) -> Box | None:
        """The smallest box of blocks around all spans."""
        if not len(self.spans):
            return None
        z, y, x0, x1 = self.spans.T
        first, last = (int(x0.min()), int(y.min()), int(z[0])), (int(x1.max()), int(y.max()), int(z[-1]))
        return span(first, (last[0] + 1, last[1] + 1, last[2] + 1))

    @cached_property
    def count(self) -> int:
        """Number of blocks."""
        _, first, last = self._runs
        return int((last - first + 1).sum())

    @cached_property
    def runs(self) -> NDArray[np.int64]:
        """(n, 4): z, y, x0, x1 in order, no two of a row touch each other."""
        rank, first, last = self._runs
        return np.stack([self._rows[rank] >> 32, (self._rows[rank] & 0xFFFFFFFF) - _BIAS, first, last], axis=1)

    @cached_property
    def _keys(self) -> NDArray[np.int64]:
        z, y = self.spans[:, 0].astype(np.int64), self.spans[:, 1].astype(np.int64)
        return (z << 32) + (y + _BIAS)

    @cached_property
    def _rows(self) -> NDArray[np.int64]:
        """The (z, y) that have spans, as one number each, in order."""
        keys = self._keys
        return keys[np.concatenate(([True], np.diff(keys) != 0))] if len(keys) else keys

    @cached_property
    def _runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Of each run: the index of its row, x0, x1."""
        if not len(self.spans):
            none = np.empty(0, np.int64)
            return none, none, none
        rank = np.concatenate(([0], np.cumsum(np.diff(self._keys) != 0)))
        x0, x1 = self.spans[:, 2].astype(np.int64), self.spans[:, 3].astype(np.int64)
        reach = np.maximum.accumulate((rank << _ROW) + (x1 + _BIAS))  # the row decides, then the farthest end so far
        apart = np.concatenate(([True], (rank[1:] << _ROW) + (x0[1:] + _BIAS) > reach[:-1] + 1))
        heads = np.flatnonzero(apart)
        ends = reach[np.append(heads[1:], len(rank)) - 1]
        return rank[heads], x0[heads], (ends & ((1 << _ROW) - 1)) - _BIAS

    # -- questions -------------------------------------------------------------------------------------------

    def grid(self, box: Box) -> Flags:
        """Which blocks of a box of blocks are inside: (z, y, x)."""
        (x, y, z), (sx, sy, sz) = box.offset, box.size
        rank, first, last = self._runs
        rows = self._rows
        low, high = np.searchsorted(rank, np.searchsorted(rows, [z << 32, (z + sz) << 32]))
        rank, first, last = rank[low:high], first[low:high], last[low:high]
        rows = rows[rank]
        at = (rows & 0xFFFFFFFF) - _BIAS - y
        near = (at >= 0) & (at < sy) & (first < x + sx) & (last >= x)
        row = (((rows >> 32) - z) * sy + at)[near] * sx
        starts = row + np.maximum(first[near] - x, 0)
        stops = row + np.minimum(last[near] - x + 1, sx)
        return _filled(starts, stops, box.volume).reshape(sz, sy, sx)

    def window(self, start: int, stop: int) -> Flags:
        """The items [start, stop) of the grid of :attr:`box`, read in C order (x fastest)."""
        starts, stops = self._flat
        low, high = int(np.searchsorted(stops, start, "right")), int(np.searchsorted(starts, stop))
        near = slice(low, max(low, high))
        return _filled(np.maximum(starts[near], start) - start, np.minimum(stops[near], stop) - start, stop - start)

    @cached_property
    def _flat(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where runs start and stop in the grid of the box, as one long row."""
        if self.box is None:
            none = np.empty(0, np.int64)
            return none, none
        (x, y, z), (sx, sy, _) = self.box.offset, self.box.size
        rank, first, last = self._runs
        rows = self._rows[rank]
        row = (((rows >> 32) - z) * sy + (rows & 0xFFFFFFFF) - _BIAS - y) * sx
        return row + first - x, row + last - x + 1

    @cached_property
    def _dense(self) -> Flags | None:
        """The grid of the box, where it is small."""
        return self.grid(self.box) if self.box is not None and self.box.volume <= DENSE else None

    def has(self, points: NDArray[np.int64]) -> Flags:
        """Whether each block (n, 3) of (x, y, z) is inside."""
        if self.box is None:
            return np.zeros(len(points), np.bool_)
        x, y, z = points.T
        dense = self._dense
        return self._search(x, y, z) if dense is None else self._look(dense, self.box, (x, y, z))

    @staticmethod
    def _look(dense: Flags, box: Box, point: tuple[NDArray[np.int64], ...]) -> Flags:
        within = np.ones(len(point[0]), np.bool_)
        flat = np.zeros(len(point[0]), np.int64)
        for axis in (2, 1, 0):
            at = point[axis] - box.offset[axis]
            within &= (at >= 0) & (at < box.size[axis])
            flat = flat * box.size[axis] + at
        return dense.reshape(-1)[np.where(within, flat, 0)] & within

    def _search(self, x: NDArray[np.int64], y: NDArray[np.int64], z: NDArray[np.int64]) -> Flags:
        rank, first, last = self._runs
        key = (z << 32) + (y + _BIAS)
        row = np.minimum(np.searchsorted(self._rows, key), len(self._rows) - 1)
        place = np.searchsorted((rank << _ROW) + (first + _BIAS), (row << _ROW) + (x + _BIAS), "right") - 1
        return (self._rows[row] == key) & (place >= 0) & (rank[place] == row) & (x <= last[place])


def _filled(starts: NDArray[np.int64], stops: NDArray[np.int64], n: int) -> Flags:
    """``n`` flags, set from each start to its stop; starts and stops are in order and do not overlap."""
    steps = np.zeros(n + 1, np.int8)
    steps[starts] += 1
    steps[stops] -= 1
    return np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_)
