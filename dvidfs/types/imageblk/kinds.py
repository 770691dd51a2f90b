"""The voxel types of image volumes, one row each.

Decides what a voxel of a datatype is: its bytes, its channels, what it is called on the wire. Invariant: an array of voxels
has one item per voxel (``item``), little-endian, so that blocks and windows can be copied without knowing the type.
Source: reference note "imageblk" 5.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dvidfs.types.formats.rasters import as_picture

_URL = "github.com/janelia-flyem/dvid/datatype/imageblk/"


@dataclass(frozen=True)
class VoxelKind:
    """A voxel type. ``values`` are (type, label) of each channel, as ``info`` shows them."""

    name: str
    dtype: np.dtype
    values: tuple[tuple[str, str], ...]
    url: str
    summary: str

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


def _scalar(name: str, dtype: str) -> VoxelKind:
    word = name.removesuffix("blk")
    return VoxelKind(
        name, np.dtype(dtype), ((word, word),), f"{_URL}{word}.go", f"Volumes of {word} voxels, in blocks."
    )


KINDS = {
    kind.name: kind
    for kind in (
        _scalar("uint8blk", "|u1"),
        _scalar("uint16blk", "<u2"),
        _scalar("uint32blk", "<u4"),
        _scalar("uint64blk", "<u8"),
        _scalar("float32blk", "<f4"),
        VoxelKind(
            "rgba8blk",
            np.dtype("|u1"),
            tuple(("uint8", label) for label in ("red", "green", "blue", "alpha")),
            f"{_URL}rgba8.go",
            "Volumes of red, green, blue and alpha bytes, in blocks.",
        ),
    )
}
"""All voxel types by the name of their datatype."""
