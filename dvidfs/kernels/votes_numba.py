"""Compiled loops of :mod:`dvidfs.kernels.votes`, which checks shapes before it calls them.

Most cells hold one label and most of the others two: both are settled without a look at each pair of voxels.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

_U64 = types.uint64
_IN = types.Array(_U64, 3, "C", readonly=True)


@njit(_U64(types.UniTuple(_U64, 8)), nogil=True, cache=True)
def _poll(cell):  # noqa: ANN001, ANN202
    """The winner among any eight labels."""
    best, votes = np.uint64(0), 0
    for label in cell:
        if label == 0 or label == best:
            continue
        count = 0
        for other in cell:
            count += other == label
        if count > votes or (count == votes and label < best):
            best, votes = label, count
    return best


@njit(_U64(types.UniTuple(_U64, 8)), nogil=True, cache=True)
def _vote(cell):  # noqa: ANN001, ANN202
    """The winner in a cell that holds several labels."""
    first, second = cell[0], cell[0]
    for label in cell:
        if label != first:
            second = label
    firsts, seconds = 0, 0
    for label in cell:
        firsts += label == first
        seconds += label == second
    if firsts + seconds < 8:
        return _poll(cell)
    if first == 0 or (second != 0 and (seconds > firsts or (seconds == firsts and second < first))):
        return second
    return first


@njit(types.void(_IN, _U64[:, :, ::1]), nogil=True, cache=True)
def halve(voxels, out):  # noqa: ANN001, ANN201
    """Fills ``out`` (z, y, x) with the votes of ``voxels`` (2z, 2y, 2x)."""
    depth, height, width = out.shape
    for z in range(depth):
        for y in range(height):
            a, b = voxels[2 * z, 2 * y], voxels[2 * z, 2 * y + 1]
            c, d = voxels[2 * z + 1, 2 * y], voxels[2 * z + 1, 2 * y + 1]
            for x in range(width):
                i, j = 2 * x, 2 * x + 1
                one = a[i]
                differ = (a[j] ^ one) | (b[i] ^ one) | (b[j] ^ one) | (c[i] ^ one)
                differ |= (c[j] ^ one) | (d[i] ^ one) | (d[j] ^ one)
                if differ == 0:
                    out[z, y, x] = one
                else:
                    out[z, y, x] = _vote((one, a[j], b[i], b[j], c[i], c[j], d[i], d[j]))
