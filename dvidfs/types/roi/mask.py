"""A region of interest as others use it: which voxels or blocks of theirs lie inside.

Decides how blocks of one size are told from voxels or from blocks of another size; what is done with what lies outside is
for who asks. Whole blocks are told in one array if each lies wholly inside or outside, which is so whenever the region's blocks are
as large as theirs or a multiple. Invariant: a voxel is inside exactly when the region's block that holds it is, below zero too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine.versions import ReadView
from dvidfs.errors import BadRequest
from dvidfs.types.geometry import Box, Point, covering_blocks
from dvidfs.types.roi import store
from dvidfs.types.roi.region import Flags, Region


@dataclass(frozen=True)
class Mask:
    """A region at one version. ``block``: size of its blocks in voxels (x, y, z)."""

    block: Point
    region: Region

    @classmethod
    def of(cls, view: ReadView) -> Mask:
        """The region of an instance of type roi."""
        return cls(store.block_size(view.instance), store.region(view))

    @classmethod
    def named(cls, view: ReadView, name: str) -> Mask:
        """The region ``name`` of the same repo and version as ``view``.

        Raises:
            UnknownInstance: there is none of that name.
            BadRequest: it is of another type.
        """
        other = view.other(name)
        if other.instance.type != "roi":
            raise BadRequest(f'"{name}" is of type {other.instance.type}: only an instance of type roi can be a mask')
        return cls.of(other)

    def blocks(self, grid: Box, block: Point) -> Flags | None:
        """Which of the caller's blocks lie inside, (z, y, x) over ``grid``, a box of coordinates of blocks of size ``block``.

        None where a block can lie partly inside: ask :meth:`voxels` then.
        """
        if block == self.block:
            return self.region.grid(grid)
        if any(own % theirs for own, theirs in zip(self.block, block, strict=True)):
            return None
        factor: Point = tuple(own // theirs for own, theirs in zip(self.block, block, strict=True))  # type: ignore[assignment]
        return _spread(self.region.grid(covering_blocks(grid, factor)), grid, factor)

    def voxels(self, box: Box) -> Flags:
        """Which voxels of a box lie inside: (z, y, x)."""
        return _spread(self.region.grid(covering_blocks(box, self.block)), box, self.block)

    def layers(self, box: Box) -> Iterator[tuple[slice, Flags]]:
        """The same layer by layer: planes (along z, from 0) of an array of the box, and the (y, x) of each of them."""
        flags = self.region.grid(covering_blocks(box, self.block))
        _, y, x = (_places(box, self.block, axis) for axis in (2, 1, 0))
        start, depth = box.offset[2], self.block[2]
        for plane, layer in enumerate(flags):
            low = max((start // depth + plane) * depth, start) - start
            high = min((start // depth + plane + 1) * depth - start, box.size[2])
            yield slice(low, high), layer.take(y, 0).take(x, 1)

    def erase(self, voxels: NDArray, box: Box, value: int = 0) -> None:
        """Sets every byte of the voxels outside to ``value``; ``voxels``: a C-contiguous (z, y, x) array of the box."""
        octets = voxels.view(np.uint8).reshape(box.size[2], box.size[1], -1)
        for planes, inside in self.layers(box):
            if inside.all():
                continue
            keep = np.repeat(np.negative(inside.view(np.uint8)), voxels.itemsize, axis=1)  # 255 inside, 0 outside
            octets[planes] &= keep
            if value:
                octets[planes] |= ~keep & np.uint8(value)


def _places(box: Box, block: Point, axis: int) -> NDArray[np.int64]:
    """The block of each voxel of a box along an axis, counted from the box's first."""
    at = np.arange(box.offset[axis], box.offset[axis] + box.size[axis], dtype=np.int64) // block[axis]
    return at - box.offset[axis] // block[axis]


def _spread(flags: Flags, box: Box, block: Point) -> Flags:
    """Flags of the blocks that cover a box, as flags of its voxels."""
    z, y, x = (_places(box, block, axis) for axis in (2, 1, 0))
    return flags.take(x, 2).take(y, 1).take(z, 0)
