"""A volume seen through a region of interest, and writing within one.

Decides what masking means: on reading every byte of a voxel outside the region is the background; on writing, voxels outside
stay as they are. Which region, and which blocks it has, is :mod:`dvidfs.types.roi`. Invariant: a voxel is masked by the region's block
that holds it, whatever the sizes of the region's and the volume's blocks.
Source: reference note "imageblk" 5.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import WriteView
from dvidfs.types.geometry import Box, Point, block_box, each_block
from dvidfs.types.imageblk.kinds import VoxelKind
from dvidfs.types.imageblk.volume import Volume
from dvidfs.types.roi.mask import Mask

Edge = tuple[Point, NDArray, NDArray[np.bool_]]
"""A block that lies partly inside: its coordinates (x, y, z), its new voxels and which of them count, both (z, y, x)."""


@dataclass(frozen=True)
class MaskedVolume:
    """What can be read of a volume through a mask."""

    volume: Volume
    mask: Mask

    @property
    def kind(self) -> VoxelKind:
        return self.volume.kind

    @property
    def block(self) -> Point:
        return self.volume.block

    def read(self, box: Box) -> NDArray:
        """The voxels of a box, (z, y, x)."""
        voxels = self.volume.read(box)
        self.mask.erase(voxels, box, self.volume.background)
        return voxels

    def stream(self, box: Box) -> Iterator[memoryview]:
        """The bytes of a box in C order, masked piece by piece."""
        for piece, data in zip(self.volume.pieces(box), self.volume.stream(box), strict=True):
            self.mask.erase(np.frombuffer(data, self.kind.item).reshape(piece.shape), piece, self.volume.background)
            yield data


@dataclass(frozen=True)
class Selection:
    """Which blocks of a grid may be written: ``whole`` (n,) in the order of the grid, z slowest; and those that may in part."""

    whole: NDArray[np.bool_]
    partly: Sequence[tuple[int, NDArray[np.bool_]]] = ()


def select(mask: Mask, grid: Box, block: Point) -> Selection:
    """Which blocks of a grid lie inside."""
    flags = mask.blocks(grid, block)
    if flags is not None:
        return Selection(flags.reshape(-1))
    inside = [mask.voxels(block_box(coord, block)) for coord in each_block(grid)]
    whole = np.array([bool(flags.all()) for flags in inside])
    return Selection(whole, [(i, flags) for i, flags in enumerate(inside) if not whole[i] and flags.any()])


def joined(view: WriteView, edges: Sequence[Edge]) -> Iterator[tuple[Point, Buffer]]:
    """Payloads of blocks that are written in part: outside they keep what this version shows."""
    volume = Volume.of(view)
    for coord, voxels, inside in edges:
        old = volume.read(block_box(coord, volume.block))
        yield coord, volume.form.encode(np.where(inside, voxels, old))
