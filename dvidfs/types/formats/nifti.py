"""NIfTI-1 in a single file: the 352 bytes before the voxels of ``volume.nii`` and of masks.

Decides where a volume stands for readers of NIfTI. The unit is the micrometer (``xyzt_units`` 3), which nibabel tells and ITK turns
into mm. NIfTI's x and y point to the patient's right and front, ITK's and MetaImage's to left and back; the affine is
diag(-x, -y, z), so that SimpleITK gives the same origin and direction for ``.nii`` and ``.mhd`` (offset times voxel size, identity)
and viewers show a slice the same way up as its picture: x to the right, y downward. For nibabel the first two entries of
the translation are negative. Positions are 32-bit floats, exact to 24 bits; ``descrip`` tells the offset in voxels exactly.
Invariant: 352 bytes, voxels in C order (x fastest, which is NIfTI's order). An axis ends at 32,767 voxels: longer ones are
not held. Source: nifti1.h of the NIfTI data format working group.
"""

from __future__ import annotations

import struct

import numpy as np

from dvidfs.types.formats.frame import Container, Frame
from dvidfs.types.geometry import join

_HEADER = struct.Struct("<i 34x c x 8h 14x hh 2x 8f fff 3x B 24x 80s 24x hh 6f 12f 16x 4s 4x")
_MAX_AXIS = 32767
_RGBA32 = 2304
_CODES = {"u1": 2, "u2": 512, "u4": 768, "u8": 1280, "i1": 256, "i2": 4, "i4": 8, "i8": 1024, "f4": 16, "f8": 64}
_MICROMETERS = 3
_SCANNER = 1
"""Code of a transform to coordinates of the instrument."""


def nifti_header(frame: Frame) -> bytes:
    """All bytes before the voxels."""
    x, y, z = (size / 1e3 for size in frame.nanometers)
    at_x, at_y, at_z = (o * s for o, s in zip(frame.box.offset, (-x, -y, z), strict=True))
    turned = (0.0, 0.0, 1.0)  # the quaternion of half a turn about z
    return _HEADER.pack(
        348, b"r",
        3, *frame.box.size, 1, 1, 1, 1,
        _code(frame), 8 * frame.voxel_bytes,
        1.0, x, y, z, 1.0, 1.0, 1.0, 1.0,
        _HEADER.size, 1.0, 0.0, _MICROMETERS,
        f"offset {join(frame.box.offset)} voxels (x_y_z)".encode("ascii"),
        _SCANNER, _SCANNER, *turned, at_x, at_y, at_z,
        -x, 0.0, 0.0, at_x, 0.0, -y, 0.0, at_y, 0.0, 0.0, z, at_z,
        b"n+1",
    )  # fmt: skip


def _code(frame: Frame) -> int | None:
    """The number of the voxels' type, None where NIfTI has none."""
    if frame.channels:
        return _RGBA32 if frame.channels == (4,) and frame.dtype == np.uint8 else None
    return _CODES.get(frame.dtype.str[1:])


def _holds(frame: Frame) -> bool:
    return _code(frame) is not None and max(frame.box.size) <= _MAX_AXIS


NIFTI = Container("nii", "NIfTI-1", nifti_header, _holds)
