"""The header of a numpy file: what stands before the voxels of ``volume.npy``.

Decides the header's bytes, which are those that numpy itself writes, so that ``numpy.load(..., mmap_mode="r+")`` works
in place. Invariant: the header's length is a multiple of 64 (128 for every volume of 32-bit sides), so voxels are aligned.
Source: the NPY format description, versions 1.0 and 2.0.
"""

from __future__ import annotations

import struct

import numpy as np

from dvidfs.types.formats.frame import Container

_ALIGN = 64
_GROWTH_DIGITS = 21
"""numpy leaves room for the first axis to grow to 64-bit lengths without moving the data."""


def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The header of a C-ordered array of ``shape`` (z, y, x) and a plain dtype."""
    text = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    text += " " * (_GROWTH_DIGITS - len(repr(shape[0])))
    for version, size in ((1, "<H"), (2, "<I")):
        before = 8 + struct.calcsize(size)
        length = -(-(before + len(text) + 1) // _ALIGN) * _ALIGN - before
        if length < 1 << 8 * struct.calcsize(size):
            return (
                b"\x93NUMPY"
                + bytes([version, 0])
                + struct.pack(size, length)
                + f"{text:<{length - 1}}\n".encode("ascii")
            )
    raise ValueError(f"no NPY header holds the shape {shape}")


NPY = Container("npy", "numpy", lambda frame: npy_header(frame.dtype, frame.shape), writable=True)
RAW = Container("raw", "plain voxels", lambda frame: b"", writable=True)
