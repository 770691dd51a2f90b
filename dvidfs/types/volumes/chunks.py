"""The extents of a volume cut into chunks that are files of their own, as Zarr and precomputed volumes are.

Decides the grid of chunks and which of them exist: those over stored blocks; readers take the others as 0. What a chunk's file is called, and
how voxels lie in it, is for the formats. Invariant: a chunk's bytes are those of the voxels, not compressed, so sizes are exact; but for labels in neuroglancer's form.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.kernels import segmentation
from dvidfs.types.geometry import Box, Point, covering_blocks, span
from dvidfs.types.volumes import bricks
from dvidfs.types.volumes.bricks import cache_of
from dvidfs.types.volumes.source import Shape, Source, as_bytes

SIDE = 64
"""Chunks have at least so many voxels along each side: one file each, so not too many."""


@dataclass(frozen=True)
class Chunks:
    """The grid of chunks over the extents of a shape; ``clipped``: chunks end with the extents."""

    source: Source
    shape: Shape
    clipped: bool

    @cached_property
    def size(self) -> Point:
        """Voxels of a chunk (x, y, z): whole blocks."""
        x, y, z = (side * math.ceil(SIDE / side) for side in self.shape.block)
        return x, y, z

    @cached_property
    def grid(self) -> Point:
        """Number of chunks along x, y, z."""
        x, y, z = (-(-n // side) for n, side in zip(self.shape.extents.size, self.size, strict=True))
        return x, y, z

    def box(self, index: Point) -> Box:
        """The voxels of a chunk."""
        origin, size = self.shape.extents.offset, self.size
        low = [o + i * n for o, i, n in zip(origin, index, size, strict=True)]
        high = [a + n for a, n in zip(low, size, strict=True)]
        if self.clipped:
            high = list(map(min, high, self.shape.extents.stop))
        return span((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def has(self, view: ReadView, index: Point) -> bool:
        """Whether a chunk holds a stored block."""
        if not all(0 <= i < n for i, n in zip(index, self.grid, strict=True)):
            return False
        part = self.box(index).intersect(self.shape.extents)
        assert part is not None
        return self.source.open(view, self.shape.scale).has(covering_blocks(part, self.shape.block))

    def along(self, view: ReadView, z: int | None = None, y: int | None = None) -> Iterator[int]:
        """The numbers along z of the chunks that exist; along y those of layer ``z``, along x those of row ``z``, ``y``.

        Found by halving, so that a few chunks far from each other cost no look at what lies between.
        """
        volume, fixed = self.source.open(view, self.shape.scale), (None, y, z)
        axis = 2 if z is None else 1 if y is None else 0

        def found(first: int, stop: int) -> Iterator[int]:
            low = [0 if n is None else n for n in fixed]
            high = [side if n is None else n + 1 for n, side in zip(fixed, self.grid, strict=True)]
            low[axis], high[axis] = first, stop
            part = self._part((low[0], low[1], low[2]), (high[0], high[1], high[2]))
            if not volume.has(covering_blocks(part, self.shape.block)):
                return
            if stop - first == 1:
                yield first
                return
            middle = (first + stop) // 2
            yield from found(first, middle)
            yield from found(middle, stop)

        return found(0, self.grid[axis])

    def _part(self, first: Point, stop: Point) -> Box:
        """The voxels of the chunks from ``first`` to before ``stop`` that lie within the extents."""
        extents, size = self.shape.extents, self.size
        low, high = (
            [o + i * n for o, i, n in zip(extents.offset, index, size, strict=True)] for index in (first, stop)
        )
        high = list(map(min, high, extents.stop))
        return span((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def indices(self, view: ReadView) -> Iterator[Point]:
        """The chunks that exist, z slowest within a layer of blocks."""
        (x0, y0, z0), (a, b, c), block, found = self.shape.extents.offset, self.size, self.shape.block, set[Point]()
        extents = self.shape.extents
        for coord in self.source.open(view, self.shape.scale).coords():
            low = [n * side for n, side in zip(coord, block, strict=True)]
            part = span((low[0], low[1], low[2]), (low[0] + block[0], low[1] + block[1], low[2] + block[2])).intersect(
                extents
            )
            if part is None:
                continue
            (p, q, r), (s, t, u) = part.offset, part.last
            for z in range((r - z0) // c, (u - z0) // c + 1):
                for y in range((q - y0) // b, (t - y0) // b + 1):
                    for x in range((p - x0) // a, (s - x0) // a + 1):
                        if (x, y, z) not in found:
                            found.add((x, y, z))
                            yield x, y, z

    def bytes(self, index: Point) -> int:
        """Bytes of a chunk's file with all channels."""
        return self.box(index).volume * self.shape.kind.bytes

    # -- voxels ----------------------------------------------------------------------------------------------

    def read(self, view: ReadView, index: Point, offset: int, length: int) -> Buffer:
        """A window of a chunk: (z, y, x) in C order, the channels one behind the other where there are several."""
        made = cache_of(view.txn.store).get(self._key(view, index), lambda: as_bytes(self._voxels(view, index)))
        return made[offset : offset + length]

    def segmentation(self, view: ReadView, index: Point) -> bytes:
        """A chunk of labels in neuroglancer's compressed form; sides that are no multiples of 8 are filled up with 0."""
        voxels = self.source.open(view, self.shape.scale).read(self.box(index))
        missing = [(0, -side % segmentation.SUB) for side in voxels.shape]
        return segmentation.encode(np.pad(voxels, missing) if any(n for _, n in missing) else voxels)

    def _voxels(self, view: ReadView, index: Point) -> NDArray:
        voxels = self.shape.kind.split(self.source.open(view, self.shape.scale).read(self.box(index)))
        return np.ascontiguousarray(np.moveaxis(voxels, -1, 0)) if voxels.ndim == 4 else voxels

    def ready(self, view: ReadView, index: Point) -> bool:
        return cache_of(view.txn.store).has(self._key(view, index))

    def _key(self, view: ReadView, index: Point) -> Hashable:
        return self.source.key(view, self.shape.scale), "chunk", self.box(index)


def fits(shape: Shape) -> bool:
    """Whether there are voxels, in chunks that can be made as a whole."""
    if shape.box is None:
        return False
    x, y, z = (side * math.ceil(SIDE / side) for side in shape.block)
    return x * y * z * shape.kind.bytes <= bricks.CACHE_BYTES
