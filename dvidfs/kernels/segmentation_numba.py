"""Compiled loops of :mod:`dvidfs.kernels.segmentation`; voxels are read with those of :mod:`dvidfs.kernels.labels_numba`.

They fill ``out``, which begins with the word 1, and say how many words it became; -1: a table lies out of reach.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from dvidfs.kernels.labels_numba import address, bits_of, cut, enumerate_labels, unpack

__all__ = ["address", "encode", "encode_block"]

_INT, _LONG, _WORDS = types.int64, types.uint64, types.uint32[::1]
_CUBE, _REACH = 512, 1 << 24


def _input(item: Any, axes: int = 1) -> Any:
    return types.Array(item, axes, "C", readonly=True)


@njit(_INT(_INT, _INT, _LONG[::1], _INT, _LONG[::1], _WORDS), nogil=True, cache=True)
def _put(sub, at, listed, n, numbers, out) -> Any:  # noqa: ANN001
    """Writes a sub-block with its values at word ``at`` of the channel, and its header; says where the next goes."""
    bits = bits_of(n)
    while bits & (bits - 1):
        bits += 1
    table = at + 16 * bits
    if table >= _REACH:
        return -1
    out[1 + 2 * sub], out[2 + 2 * sub] = table | bits << 24, at
    if bits:
        each, i = 32 // bits, 0
        for word in range(1 + at, 1 + table):
            held = np.uint64(0)
            for k in range(each):
                held |= numbers[i + k] << np.uint64(k * bits)
            out[word] = held
            i += each
    for j in range(n):
        out[1 + table + 2 * j], out[2 + table + 2 * j] = listed[j], listed[j] >> np.uint64(32)
    return table + 2 * n


@njit(_INT(_input(_LONG, 3), _WORDS), nogil=True, cache=True)
def encode(volume, out) -> Any:  # noqa: ANN001
    cube, listed, numbers = np.empty(_CUBE, np.uint64), np.empty(_CUBE, np.uint64), np.empty(_CUBE, np.uint64)
    slots = np.empty(1024, np.int16)
    out[0] = 1
    sub, at = 0, volume.size // (_CUBE // 2)
    for z in range(0, volume.shape[0], 8):
        for y in range(0, volume.shape[1], 8):
            for x in range(0, volume.shape[2], 8):
                cut(volume, z, y, x, cube)
                n = enumerate_labels(cube, listed, slots, numbers)
                at = _put(sub, at, listed, n, numbers, out)
                if at < 0:
                    return -1
                sub += 1
    return 1 + at


@njit(_INT(_INT, _input(types.uint16), _input(types.uint32), _input(_LONG), _WORDS), nogil=True, cache=True)
def encode_block(values, counts, index, table, out) -> Any:  # noqa: ANN001
    """``values``: the address of the packed voxels of a native block."""
    own, listed = np.empty(_CUBE + 1, np.uint64), np.empty(_CUBE + 1, np.uint64)
    renamed, numbers = np.zeros(_CUBE + 1, np.uint64), np.zeros(_CUBE, np.uint64)
    slots = np.empty(1024, np.int16)
    out[0] = 1
    base, at = 0, 2 * len(counts)
    for sub in range(len(counts)):
        count = np.int64(counts[sub])
        bits = bits_of(count)
        for j in range(count):
            own[j] = table[index[base + j]]
        own[count] = 0
        n = enumerate_labels(own[: max(count, 1)], listed, slots, renamed)
        if bits:
            renamed[count : 1 << bits] = _CUBE
            unpack(numbers, 0, 64, 8, values, bits, renamed)
            if count < 1 << bits and numbers.max() == _CUBE:  # values beyond the list
                n = enumerate_labels(own[: count + 1], listed, slots, renamed)
                for i in range(_CUBE):
                    if numbers[i] == _CUBE:
                        numbers[i] = renamed[count]
        at = _put(sub, at, listed, n, numbers, out)
        if at < 0:
            return -1
        base += count
        values += 64 * bits
    return 1 + at
