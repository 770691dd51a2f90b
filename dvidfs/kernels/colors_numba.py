"""Compiled loop of :mod:`dvidfs.kernels.colors`; neighbours mostly have the same label, which is hashed once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

_WORD = np.uint32
_LABELS = types.Array(types.uint64, 1, "C", readonly=True)


@njit(types.uint32(types.uint32, types.int64), cache=True, nogil=True)
def _turned(word, bits) -> Any:  # noqa: ANN001
    return _WORD(word << bits | word >> (32 - bits))


@njit(types.uint32(types.uint32, types.uint32), cache=True, nogil=True)
def _mixed(found, part) -> Any:  # noqa: ANN001
    found ^= _WORD(_turned(_WORD(part * _WORD(0xCC9E2D51)), 15) * _WORD(0x1B873593))
    return _WORD(_turned(found, 13) * _WORD(5) + _WORD(0xE6546B64))


@njit(types.uint32(types.uint64), cache=True, nogil=True)
def _hash(label) -> Any:  # noqa: ANN001
    found = _mixed(_mixed(_WORD(0), _WORD(label)), _WORD(label >> np.uint64(32)))
    found ^= _WORD(8)
    found = _WORD((found ^ found >> 16) * _WORD(0x85EBCA6B))
    found = _WORD((found ^ found >> 13) * _WORD(0xC2B2AE35))
    return found ^ found >> 16


@njit(types.void(_LABELS, types.uint8[:, ::1]), cache=True, nogil=True)
def pseudocolor(labels, out) -> Any:  # noqa: ANN001
    """Fills ``out`` (n, 3)."""
    last = np.uint64(0)
    found = _hash(last)
    for i in range(len(labels)):
        if labels[i] != last:
            last = labels[i]
            found = _hash(last)
        out[i, 0], out[i, 1], out[i, 2] = found >> 24, found >> 16, found >> 8
