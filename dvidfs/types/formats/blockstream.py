"""The stream of stored blocks: records of int32 x, y, z (block coordinates), int32 n, then n bytes of payload; all LE.

Decides the framing alone; payloads are :mod:`dvidfs.types.formats.blockform`. Invariant: reading what was written gives the
same records. Source: reference note "imageblk" 5.4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dvidfs.errors import BadRequest
from dvidfs.types.geometry import Point

Buffer = bytes | memoryview

_HEAD = struct.Struct("<4i")


def records(coords: NDArray[np.integer] | Sequence[Point], payloads: Sequence[Buffer]) -> list[Buffer]:
    """Heads and payloads in turn, for vectored writing: no payload is copied. ``coords``: (n, 3), x y z."""
    if not payloads:
        return []
    heads = np.empty((len(payloads), 4), "<i4")
    heads[:, :3] = coords
    heads[:, 3] = [len(payload) for payload in payloads]
    text, size = heads.tobytes(), _HEAD.size
    out: list[Buffer] = [b""] * (2 * len(payloads))
    out[::2] = [text[at : at + size] for at in range(0, len(text), size)]
    out[1::2] = payloads
    return out


def read_records(stream: Buffer) -> Iterator[tuple[Point, memoryview]]:
    """The records of a whole stream; payloads are views of it. Raises BadRequest at the record that is cut or negative."""
    view, at = memoryview(stream), 0
    while at < len(view):
        if len(view) - at < _HEAD.size:
            raise BadRequest(f"block stream ends in a head at byte {at}: want {_HEAD.size} bytes, got {len(view) - at}")
        x, y, z, size = _HEAD.unpack_from(view, at)
        at += _HEAD.size
        if not 0 <= size <= len(view) - at:
            raise BadRequest(f"block {x},{y},{z} at byte {at} says {size} bytes, but {len(view) - at} follow")
        yield (x, y, z), view[at : at + size]
        at += size
