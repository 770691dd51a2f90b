"""What a voxel is: its bytes and channels, and what it is called on the wire.

Invariant: an array of voxels has one item per voxel (``item``), little-endian, so that blocks and windows can be copied
without knowing the type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dvidfs.kernels import means
from dvidfs.types.formats.rasters import as_picture


@dataclass(frozen=True)
class VoxelKind:
    """A voxel type. ``values`` are (type, label) of each channel, as ``info`` shows them.

    ``halve`` makes the next scale: from (2z, 2y, 2x) voxels, split into channels, (z, y, x) of the same type.
    """

    name: str
    dtype: np.dtype
    values: tuple[tuple[str, str], ...]
    url: str
    summary: str
    halve: Callable[[NDArray], NDArray] = means.halve

    @cached_property
    def item(self) -> np.dtype:
        """The numpy type of a whole voxel: four channels of a byte count as one number of four bytes."""
        return self.dtype if len(self.values) == 1 else np.dtype(f"<u{self.dtype.itemsize * len(self.values)}")

    @property
    def bytes(self) -> int:
        """Bytes per voxel."""
        return self.item.itemsize

    @property
    def channels(self) -> tuple[int, ...]:
        """The axes that follow (z, y, x) in arrays of this kind: none, or the number of channels."""
        return () if len(self.values) == 1 else (len(self.values),)

    @property
    def picture(self) -> tuple[tuple[int, ...], np.dtype]:
        """Channels and samples of a picture of such voxels, as :func:`~dvidfs.types.formats.rasters.as_picture` makes it."""
        shown = as_picture(self.split(np.zeros((1, 1), self.item)))
        return shown.shape[2:], shown.dtype

    def split(self, voxels: NDArray) -> NDArray:
        """Voxels as values: with a last axis of channels where there are several. Needs C order."""
        return voxels.view(self.dtype).reshape(*voxels.shape, *self.channels)
