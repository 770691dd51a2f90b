"""Compiled loops of :mod:`dvidfs.kernels.means`, which checks shapes before it calls them.

Four rows are summed first and pairs of the sum next: both loops become vector instructions. Channels lie along x.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

_INT = types.int64


def _volume(item: Any) -> Any:
    return item[:, :, ::1]


def _signature(item: Any, wide: Any) -> Any:
    return types.void(_volume(item), _volume(item), wide[::1], _INT)


@njit(
    [
        _signature(types.uint8, types.uint16),
        _signature(types.uint16, types.uint32),
        _signature(types.uint32, types.uint64),
    ],
    nogil=True,
    cache=True,
)
def _whole(voxels, out, row, channels):  # noqa: ANN001, ANN202
    depth, height, width = out.shape
    for z in range(depth):
        for y in range(height):
            a, b = voxels[2 * z, 2 * y], voxels[2 * z, 2 * y + 1]
            c, d = voxels[2 * z + 1, 2 * y], voxels[2 * z + 1, 2 * y + 1]
            for x in range(2 * width):
                row[x] = a[x] + b[x] + c[x] + d[x]
            to = out[z, y]
            if channels == 1:
                for x in range(width):
                    to[x] = (row[2 * x] + row[2 * x + 1] + 4) >> 3
            else:
                for x in range(width):
                    at = 2 * x - x % channels
                    to[x] = (row[at] + row[at + channels] + 4) >> 3


@njit([_signature(types.uint64, types.uint64)], nogil=True, cache=True)
def _long(voxels, out, row, channels):  # noqa: ANN001, ANN202
    depth, height, width = out.shape
    three, seven, four = np.uint64(3), np.uint64(7), np.uint64(4)
    for z in range(depth):
        for y in range(height):
            a, b = voxels[2 * z, 2 * y], voxels[2 * z, 2 * y + 1]
            c, d = voxels[2 * z + 1, 2 * y], voxels[2 * z + 1, 2 * y + 1]
            for x in range(width):
                i, j = 2 * x, 2 * x + 1
                eighths = (a[i] >> three) + (a[j] >> three) + (b[i] >> three) + (b[j] >> three)
                eighths += (c[i] >> three) + (c[j] >> three) + (d[i] >> three) + (d[j] >> three)
                rest = (a[i] & seven) + (a[j] & seven) + (b[i] & seven) + (b[j] & seven)
                rest += (c[i] & seven) + (c[j] & seven) + (d[i] & seven) + (d[j] & seven)
                out[z, y, x] = eighths + ((rest + four) >> three)


@njit([_signature(types.float32, types.float64)], nogil=True, cache=True)
def _real(voxels, out, row, channels):  # noqa: ANN001, ANN202
    depth, height, width = out.shape
    for z in range(depth):
        for y in range(height):
            a, b = voxels[2 * z, 2 * y], voxels[2 * z, 2 * y + 1]
            c, d = voxels[2 * z + 1, 2 * y], voxels[2 * z + 1, 2 * y + 1]
            for x in range(2 * width):
                row[x] = ((np.float64(a[x]) + np.float64(b[x])) + np.float64(c[x])) + np.float64(d[x])
            for x in range(width):
                out[z, y, x] = (row[2 * x] + row[2 * x + 1]) * 0.125


_FORMS = {"u1": (_whole, np.uint16), "u2": (_whole, np.uint32), "u4": (_whole, np.uint64),
          "u8": (_long, np.uint64), "f4": (_real, np.float64)}  # fmt: skip


def halve(voxels: NDArray, out: NDArray, channels: int) -> None:
    """Fills ``out`` (z, y, x) with the means of ``voxels`` (2z, 2y, 2x); of several channels only bytes are known."""
    run, wide = _FORMS[voxels.dtype.str[1:]]
    run(voxels, out, np.empty(voxels.shape[2], wide), channels)
