"""The voxel types of image volumes, one row each.

Decides what a voxel of a datatype is: its bytes, its channels, what it is called on the wire. Invariant: an array of voxels
has one item per voxel (``item``), little-endian, so that blocks and windows can be copied without knowing the type.
Source: reference note "imageblk" 5.1.
"""

from __future__ import annotations

import numpy as np

from dvidfs.types.volumes.voxels import VoxelKind

_URL = "github.com/janelia-flyem/dvid/datatype/imageblk/"


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
