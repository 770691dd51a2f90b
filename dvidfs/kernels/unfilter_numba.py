"""Compiled loops of :mod:`dvidfs.kernels.unfilter`, which checks shapes before it calls them.

The values left and above are carried in registers: each sample waits only for the one to its left.
"""

from __future__ import annotations

from numba import njit, types

_ROWS = types.Array(types.uint8, 2, "C", readonly=True)


@njit(nogil=True, inline="always")
def _average(line, to, above, pixel, has_above):  # noqa: ANN001, ANN202
    for x in range(to.shape[0]):
        left = types.int64(to[x - pixel]) if x >= pixel else 0
        up = types.int64(above[x]) if has_above else 0
        to[x] = line[x] + ((left + up) >> 1)


@njit(nogil=True, inline="always")
def _paeth(line, to, above, pixel, channel):  # noqa: ANN001, ANN202
    left = corner = types.int32(0)
    for x in range(channel, to.shape[0], pixel):
        up = types.int32(above[x])
        to_left, to_up = abs(up - corner), abs(left - corner)
        to_corner = abs(left + up - corner - corner)
        nearer = up if to_up <= to_corner else corner
        chosen = left if to_left <= to_up and to_left <= to_corner else nearer
        left = (types.int32(line[x]) + chosen) & 255
        corner = up
        to[x] = left


@njit(types.boolean(_ROWS, types.uint8[:, ::1], types.int64), nogil=True, cache=True)
def unfilter(lines, out, pixel):  # noqa: ANN001, ANN201
    height, width = out.shape
    for y in range(height):
        line, to, above = lines[y, 1:], out[y], out[y - 1 if y else 0]
        kind = lines[y, 0]
        if kind > 4:
            return False
        if kind == 0 or (y == 0 and kind == 2):
            for x in range(width):
                to[x] = line[x]
        elif kind == 2:
            for x in range(width):
                to[x] = line[x] + above[x]
        elif kind == 1 or (y == 0 and kind == 4):  # without a row above, Paeth's choice is the left one
            to[:pixel] = line[:pixel]
            for x in range(pixel, width):
                to[x] = line[x] + to[x - pixel]
        elif kind == 3:
            _average(line, to, above, pixel, y > 0)
        else:
            for c in range(pixel):
                _paeth(line, to, above, pixel, c)
    return True
