"""Reads the PNG pictures that microscopes and other programs write slices as, at nearly twice the speed of Pillow.

Decides which pictures these are: gray, gray with 16 bits, RGB and RGBA, not interlaced, without transparent colours; the rest is for Pillow.
Invariant: the samples are those of the file, 16-bit ones too, or it is refused. Inflating is ISA-L's, the filters are taken off by
:mod:`dvidfs.kernels.unfilter`. Source: PNG specification (third edition), clauses 5 (chunks), 7 and 11 (samples).

2048x2048 of an electron micrograph, written by Pillow, one core: 115 MB/s of voxels, Pillow 70.
"""

from __future__ import annotations

import struct
import threading
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from dvidfs import kernels
from dvidfs.errors import BadRequest
from dvidfs.kernels.unfilter import unfilter
from dvidfs.types.formats.png import SIGNATURE

_CHANNELS = {0: 1, 2: 3, 6: 4}
_MAX_BYTES = 1 << 32
"""More samples than this are no slice but a damaged header."""
_FED = 1 << 16
"""Compressed bytes that are inflated at a time: what comes out stays in the processor's cache."""
_own = threading.local()
_DAMAGE: Any = (isal_zlib.IsalError, EOFError)
_HEADER = struct.Struct(">IIBBBBB")


def read_png(data: bytes, out: NDArray | None = None) -> NDArray | None:
    """The samples (y, x), or (y, x, channels), of uint8 or uint16; None for a PNG of another kind, or before the kernel is loaded.

    They are put into ``out`` if it is a C-contiguous array of their shape and type.

    Raises:
        BadRequest: it is damaged.
    """
    if kernels.ready("unfilter_numba") is None or data[:8] != SIGNATURE or data[12:16] != b"IHDR":
        return None
    width, height, bits, colour, *_, interlaced = _HEADER.unpack_from(data, 16)
    channels = _CHANNELS.get(colour)
    if channels is None or bits not in (8, 16) or interlaced:
        return None
    pixel = channels * bits // 8
    if not 0 < width * height * pixel < _MAX_BYTES:
        raise BadRequest(f"its header says {width} x {height} pixels")
    packed = _packed(data)
    if packed is None:
        return None
    shape = (height, width, channels) if channels > 1 else (height, width)
    direct = bits == 8 and out is not None and out.shape == shape and out.dtype == np.uint8 and out.flags.c_contiguous
    lines = _inflated(packed, height, 1 + width * pixel)
    try:
        samples = unfilter(lines, pixel, out.reshape(height, -1) if direct and out is not None else None)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    if direct:
        return out
    return (samples.view(">u2").astype("<u2") if bits == 16 else samples).reshape(shape)


def _packed(data: bytes) -> list[memoryview] | None:
    """The data chunks; None if a colour is transparent."""
    parts, at, view = [], 8, memoryview(data)
    while at + 12 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + size > len(data):
            break
        if kind == b"tRNS":
            return None
        if kind == b"IDAT":
            parts.append(view[at + 8 : at + 8 + size])
        at += 12 + size
    return parts


def _inflated(packed: list[memoryview], height: int, row: int) -> NDArray[np.uint8]:
    """Rows behind the numbers of their filters, in memory that the next picture of this thread uses again."""
    room, at = _room(height * row), 0
    stream: Any = isal_zlib.decompressobj()
    try:
        for part in packed:
            for start in range(0, len(part), _FED):
                data = stream.decompress(part[start : start + _FED])
                if at + len(data) > room.size:
                    raise BadRequest(f"it holds more than {height * row} bytes of rows")
                room[at : at + len(data)] = np.frombuffer(data, np.uint8)
                at += len(data)
    except _DAMAGE as error:
        raise BadRequest(f"its compressed data are damaged: {error}") from None
    if at != room.size or not stream.eof:
        raise BadRequest(f"it holds {at} bytes of rows instead of {height * row}")
    return room.reshape(height, row)


def _room(size: int) -> NDArray[np.uint8]:
    held = getattr(_own, "room", None)
    if held is None or held.size < size:
        held = _own.room = np.empty(size, np.uint8)
    return held[:size]
