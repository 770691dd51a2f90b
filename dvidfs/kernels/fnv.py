"""FNV-1 with 128 bits, the hash that names blobs (source: http://www.isthe.com/chongo/tech/comp/fnv/)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

OFFSET = 0x6C62272E07BB014262B821756295C58D
PRIME = (1 << 88) + 0x13B
MASK = (1 << 128) - 1
SMALL = 4096
"""Below this many bytes plain Python is done before numba would be imported."""


def fnv128_plain(data: bytes | memoryview) -> bytes:
    """The 16 bytes, most significant first, of the FNV-1 hash of ``data``."""
    value = OFFSET
    for byte in bytes(data):
        value = (value * PRIME & MASK) ^ byte
    return value.to_bytes(16, "big")


@lru_cache(maxsize=1)
def _compiled() -> Any:
    import numba

    pair = numba.types.UniTuple(numba.uint64, 2)
    octets = numba.types.Array(numba.uint8, 1, "C", readonly=True)

    @numba.njit(pair(octets, numba.uint64, numba.uint64), nogil=True, cache=True)
    def run(data: Any, high: Any, low: Any) -> Any:
        # PRIME = 2^88 + 0x13B: the product is value * 0x13B plus value shifted by 88, modulo 2^128
        small = np.uint64(0x13B)
        mask = np.uint64(0xFFFFFFFF)
        half = np.uint64(32)
        for byte in data:
            p0 = (low & mask) * small
            p1 = (low >> half) * small + (p0 >> half)
            carry = p1 >> half
            shifted = low << np.uint64(24)
            high = high * small + carry + shifted
            low = (p1 << half) | (p0 & mask)
            low ^= np.uint64(byte)
        return high, low

    return run


def fnv128(data: bytes | memoryview) -> bytes:
    """As :func:`fnv128_plain`, compiled for long data."""
    if len(data) < SMALL:
        return fnv128_plain(data)
    try:
        run = _compiled()
    except ImportError:
        return fnv128_plain(data)
    high, low = run(np.frombuffer(data, np.uint8), np.uint64(OFFSET >> 64), np.uint64(OFFSET & (1 << 64) - 1))
    return int(high).to_bytes(8, "big") + int(low).to_bytes(8, "big")
