"""Halves volumes: each voxel of the result is the mean of the 2x2x2 voxels under it. And what lies outside a box is made to not count.

Decides the arithmetic only. Whole numbers are summed exactly and rounded to the nearest, halves up, so no 64-bit voxel
overflows; floating-point ones are summed in 64 bits. Where only some of the eight voxels exist, :func:`trim` repeats those
that do, which leaves their mean as it is; so every kind of reduction can take eight. Shapes are (z, y, x), or (z, y, x,
channels): channels are averaged one by one. Invariant: both forms give the same bits.

128x128x128 voxels of 8 bits, one core: numpy 2,100, compiled 11,700 Mvoxel/s; of 64 bits 120 and 850.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dvidfs import kernels

Shape = tuple[int, int, int]

_WIDE = {"u1": np.uint16, "u2": np.uint32, "u4": np.uint64, "f4": np.float64}
"""What the sum of eight fits in."""


def halve(voxels: NDArray) -> NDArray:
    """The means of (2z, 2y, 2x) voxels, with channels as a fourth axis or without: (z, y, x), of the same type.

    Takes C-contiguous unsigned integers and 32-bit floating-point numbers; other arrays and odd sides are a ValueError.
    """
    if not voxels.flags.c_contiguous or any(n % 2 for n in voxels.shape[:3]) or voxels.ndim not in (3, 4):
        raise ValueError(f"halve wants a C-contiguous volume with even sides, not {voxels.shape}")
    compiled = kernels.ready("means_numba")
    if compiled is None:
        return halve_plain(voxels)
    depth, height, width = voxels.shape[:3]
    channels = math.prod(voxels.shape[3:])
    out = np.empty((depth // 2, height // 2, width // 2, *voxels.shape[3:]), voxels.dtype)
    flat = voxels.reshape(depth, height, width * channels)
    compiled.halve(flat, out.reshape(depth // 2, height // 2, width // 2 * channels), channels)
    return out


def halve_plain(voxels: NDArray) -> NDArray:
    """The numpy twin of :func:`halve`."""
    if voxels.dtype == np.uint64:
        eighths = _sum(voxels >> np.uint64(3), np.uint64)
        rest = _sum(voxels & np.uint64(7), np.uint64)
        return eighths + (rest + np.uint64(4) >> np.uint64(3))
    total = _sum(voxels, _WIDE[voxels.dtype.str[1:]])
    if voxels.dtype.kind == "f":
        return (total * 0.125).astype(voxels.dtype)
    return (total + total.dtype.type(4) >> total.dtype.type(3)).astype(voxels.dtype)


def _sum(voxels: NDArray, wide: type) -> NDArray:
    """The sums of each 2x2x2 voxels; along x last, as the compiled form, since sums of floats depend on the order."""
    rows = voxels[0::2, 0::2].astype(wide)
    for z, y in ((0, 1), (1, 0), (1, 1)):
        rows += voxels[z::2, y::2]
    return rows[:, :, 0::2] + rows[:, :, 1::2]


def trim(voxels: NDArray, low: Shape, high: Shape) -> None:
    """Changes (2z, 2y, 2x) voxels so that only those from ``low`` up to but not including ``high`` count, (z, y, x).

    Of each 2x2x2 voxels that are cut by the border the ones inside are repeated; where none is inside all become 0.
    """
    for axis, (first, stop) in enumerate(zip(low, high, strict=True)):
        line = voxels.swapaxes(0, axis)
        if first % 2:
            line[first - 1] = line[first]
        if stop % 2:
            line[stop] = line[stop - 1]
        line[: first - first % 2] = 0
        line[stop + stop % 2 :] = 0
