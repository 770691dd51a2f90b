"""Compiled loops of :mod:`dvidfs.kernels.oblique`, which checks sizes before it calls them.

Blocks are given by the addresses of their voxels, 0 for one that is not there. The order of operations is that of the numpy
twins, so that both round alike. Neighbours that all lie in the block of the last point are found without searching.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, types

from dvidfs.kernels.blocks_numba import load

_BITS = 21
_INT, _INTS, _VECTOR = types.int64, types.int64[::1], types.Array(types.float64, 1, "C", readonly=True)
_PATCH = (_VECTOR, _VECTOR, _VECTOR, _INT, _INT, _INT, _INT)
_ITEMS = (types.uint8, types.uint16, types.uint32, types.uint64, types.float32)


@njit(_INT(*_PATCH, _INTS, _INTS, _INTS), nogil=True, cache=True)
def touched(corner, right, down, y0, rows, x0, columns, first, shape, out):  # noqa: ANN001, ANN201
    """Numbers of the blocks that the points' neighbours lie in, most of them many times; returns how many were written."""
    n = 0
    for r in range(rows):
        y = y0 + r
        bx, by, bz = corner[0] + y * down[0], corner[1] + y * down[1], corner[2] + y * down[2]
        last_low = last_high = np.int64(-1)
        for c in range(columns):
            x = x0 + c
            px, py, pz = bx + x * right[0], by + x * right[1], bz + x * right[2]
            ax, hx = math.floor(px) // shape[0] - first[0], math.ceil(px) // shape[0] - first[0]
            ay, hy = math.floor(py) // shape[1] - first[1], math.ceil(py) // shape[1] - first[1]
            az, hz = math.floor(pz) // shape[2] - first[2], math.ceil(pz) // shape[2] - first[2]
            low, high = (az << 2 * _BITS) + (ay << _BITS) + ax, (hz << 2 * _BITS) + (hy << _BITS) + hx
            if low == last_low and high == last_high:
                continue
            last_low, last_high = low, high
            for k in range(az, hz + 1):
                for j in range(ay, hy + 1):
                    for i in range(ax, hx + 1):
                        out[n] = (k << 2 * _BITS) + (j << _BITS) + i
                        n += 1
    return n


@njit(_INT(_INTS, _INT), nogil=True, cache=True)
def _find(numbers, wanted):  # noqa: ANN001, ANN202
    """Where ``wanted``, which is there, stands in sorted numbers."""
    low, high = 0, len(numbers) - 1
    while low < high:
        middle = (low + high) >> 1
        if numbers[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@njit(nogil=True, cache=True)
def _block(x, y, z, first, shape, numbers, addresses):  # noqa: ANN001, ANN202
    """The block of a voxel: its first voxel and its address."""
    i, j, k = x // shape[0], y // shape[1], z // shape[2]
    number = ((k - first[2]) << 2 * _BITS) + ((j - first[1]) << _BITS) + (i - first[0])
    return i * shape[0], j * shape[1], k * shape[2], addresses[_find(numbers, number)]


def _signature(item):  # noqa: ANN001, ANN202
    out, fill = types.Array(item, 3, "C"), types.Array(item, 1, "C", readonly=True)
    return types.void(out, *_PATCH, _INTS, _INTS, _INTS, _INTS, fill, types.float64)


@njit([_signature(item) for item in _ITEMS], nogil=True, cache=True)
def sample(  # noqa: ANN201
    out, corner, right, down, y0, rows, x0, columns, first, shape, numbers, addresses, fill, top  # noqa: ANN001
):  # fmt: skip
    """The values at the points of a patch. ``top``: the largest that a whole number may be; below 0: ``out`` is not of whole numbers."""
    channels = out.shape[2]
    sx, sy, sz = shape[0], shape[1], shape[2]
    for r in range(rows):
        y = y0 + r
        bx, by, bz = corner[0] + y * down[0], corner[1] + y * down[1], corner[2] + y * down[2]
        ox, oy, oz, address, known = np.int64(0), np.int64(0), np.int64(0), np.int64(0), False
        for c in range(columns):
            x = x0 + c
            px, py, pz = bx + x * right[0], by + x * right[1], bz + x * right[2]
            ax, ay, az = math.floor(px), math.floor(py), math.floor(pz)
            hx, hy, hz = math.ceil(px), math.ceil(py), math.ceil(pz)
            fx, fy, fz = px - ax, py - ay, pz - az
            if not known or not (ox <= ax < ox + sx and oy <= ay < oy + sy and oz <= az < oz + sz):
                ox, oy, oz, address = _block(ax, ay, az, first, shape, numbers, addresses)
                known = True
            inside = hx < ox + sx and hy < oy + sy and hz < oz + sz
            for ch in range(channels):
                total = 0.0
                voxel = fill[0]
                for corner_number in range(8):
                    is_x, is_y, is_z = corner_number & 4, corner_number & 2, corner_number & 1
                    weight = (fx if is_x else 1 - fx) * (fy if is_y else 1 - fy) * (fz if is_z else 1 - fz)
                    if weight == 0:
                        continue
                    vx, vy, vz = hx if is_x else ax, hy if is_y else ay, hz if is_z else az
                    if inside:
                        tx, ty, tz, at = ox, oy, oz, address
                    else:
                        tx, ty, tz, at = _block(vx, vy, vz, first, shape, numbers, addresses)
                    voxel = fill[0]
                    if at:
                        index = (((vz - tz) * sy + vy - ty) * sx + vx - tx) * channels + ch
                        voxel = load(at + index * out.itemsize, out)  # type: ignore[call-arg]
                    total += weight * voxel
                if fx == 0 and fy == 0 and fz == 0:
                    out[r, c, ch] = voxel
                elif top < 0:
                    out[r, c, ch] = total
                else:
                    out[r, c, ch] = min(np.floor(total + 0.5), top)
