"""How a block of voxels lies in the store: the payload of the wire as it is, so that sending a block copies nothing.

Decides the bytes of one block for each ``Compression`` setting; which setting an instance has is its own affair. The
payloads are those of the original's block streams (stored value without its serialization byte and checksum):

======  ===========================================================================================
none    the voxels
lz4     u32 LE size of the voxels, then one LZ4 block
gzip    one gzip stream
snappy  one Snappy block; what is written here is literals only (no Snappy library is needed to read it back)
jpeg    grayscale JPEG, quality 80, block size x wide and y*z high; 8-bit voxels only, lossy
======  ===========================================================================================

Invariant: ``decode(encode(block))`` is the block (nearly, for jpeg). Voxels are in C order (z, y, x), little-endian.
Source: reference note "imageblk" 5.4; LZ4 block format description; Snappy format description.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lz4.block
import numpy as np
import simplejpeg
from isal import igzip, isal_zlib
from numpy.typing import NDArray

from dvidfs.errors import Corrupt

Buffer = bytes | memoryview
Bytes = NDArray[np.uint8]
"""Voxels as read-only bytes, one dimension."""

_DAMAGE: Any = (ValueError, RuntimeError, OSError, EOFError, lz4.block.LZ4BlockError, isal_zlib.IsalError)
"""What the libraries raise for bytes that are none of theirs."""

JPEG_QUALITY = 80
_GZIP_LEVEL = 1


@dataclass(frozen=True, slots=True)
class BlockForm:
    """One way to store blocks; ``title`` is what the original's error texts call it.

    ``encode`` takes a C-contiguous block (z, y, x); ``decode`` gives its bytes, perhaps a view of the payload.
    ``literal_head(size)``: a payload that begins with it and has ``size`` more bytes holds the voxels as they are.
    """

    name: str
    title: str
    encode: Callable[[NDArray], bytes]
    decode: Callable[[Buffer, int], Bytes]
    literal_head: Callable[[int], bytes] | None = None


def block_form(compression: str) -> BlockForm:
    """The form that an instance's compression ("lz4", "gzip:9") asks for; the level of gzip is ours to choose."""
    return FORMS[compression.partition(":")[0]]


def decode(form: BlockForm, payload: Buffer, size: int) -> Bytes:
    """The ``size`` bytes of voxels in ``payload``; raises Corrupt when it is not that."""
    try:
        voxels = form.decode(payload, size)
    except _DAMAGE as error:
        raise Corrupt(f"a stored block cannot be read as {form.name}: {error}") from None
    if voxels.nbytes != size:
        raise Corrupt(f"a stored block holds {voxels.nbytes} bytes of voxels instead of {size}")
    return voxels


# ---------------------------------------------------------------- the forms


def _view(payload: Buffer, offset: int = 0) -> Bytes:
    return np.frombuffer(payload, np.uint8, offset=offset)


def _encode_none(block: NDArray) -> bytes:
    return block.tobytes()


def _decode_none(payload: Buffer, _size: int) -> Bytes:
    return _view(payload)


def _encode_lz4(block: NDArray) -> bytes:
    return lz4.block.compress(block, store_size=True)


def _decode_lz4(payload: Buffer, size: int) -> Bytes:
    # What does not shrink (electron micrographs) was stored as one run of literals: the voxels lie there as they are.
    head = lz4_literal_head(size)
    if len(payload) == len(head) + size and payload[: len(head)] == head:
        return _view(payload, len(head))
    stated = int.from_bytes(payload[:4], "little")
    if stated != size:  # checked first: the library reserves as much memory as the size says
        raise ValueError(f"its size says {stated} bytes")
    return _view(lz4.block.decompress(payload))


@functools.lru_cache
def lz4_literal_head(size: int) -> bytes:
    """What stands before ``size`` bytes that LZ4 could not shrink: their size, a token, the run's length."""
    full, rest = divmod(size - 15, 255)
    length = bytes([0xF0]) + b"\xff" * full + bytes([rest]) if size >= 15 else bytes([size << 4])
    return struct.pack("<I", size) + length


def _encode_gzip(block: NDArray) -> bytes:
    return igzip.compress(block, compresslevel=_GZIP_LEVEL, mtime=0)


def _decode_gzip(payload: Buffer, size: int) -> Bytes:
    return _view(gunzip(payload, size))


def gunzip(payload: Buffer, most: int) -> bytes:
    """What a gzip stream holds. Raises ValueError (or IsalError) if it is damaged, cut off, or followed by something, or if it
    holds more than ``most`` bytes: a few bytes of gzip may stand for gigabytes."""
    stream = isal_zlib.decompressobj(wbits=31)
    found = stream.decompress(payload, most + 1)
    if len(found) > most:
        raise ValueError(f"it holds more than {most} bytes")
    if not stream.eof:
        raise ValueError(f"the gzip stream ends too early, after {len(found)} bytes")
    if stream.unused_data:
        raise ValueError(f"{len(stream.unused_data)} bytes follow the gzip stream")
    return found


_SNAPPY_LITERAL = 63 << 2
"""Tag of a literal whose length follows in four bytes."""


def _encode_snappy(block: NDArray) -> bytes:
    return _snappy_head(block.nbytes) + block.tobytes()


def _decode_snappy(payload: Buffer, size: int) -> Bytes:
    head = _snappy_head(size)
    if payload[: len(head)] != head:
        raise ValueError("it is not a run of literals of that size")
    return _view(payload, len(head))


@functools.lru_cache
def _snappy_head(size: int) -> bytes:
    varint, rest = bytearray(), size
    while rest > 127:
        varint.append(rest & 127 | 128)
        rest >>= 7
    varint.append(rest)
    return bytes(varint) + struct.pack("<BI", _SNAPPY_LITERAL, size - 1)


def _encode_jpeg(block: NDArray) -> bytes:
    z, y, x = block.shape
    return simplejpeg.encode_jpeg(block.reshape(z * y, x, 1), JPEG_QUALITY, "GRAY", "Gray")


def _decode_jpeg(payload: Buffer, _size: int) -> Bytes:
    return simplejpeg.decode_jpeg(payload, "GRAY").reshape(-1)


FORMS = {
    form.name: form
    for form in (
        BlockForm("none", "No compression", _encode_none, _decode_none, lambda size: b""),
        BlockForm("lz4", "LZ4 compression", _encode_lz4, _decode_lz4, lz4_literal_head),
        BlockForm("gzip", "gzip compression", _encode_gzip, _decode_gzip),
        BlockForm("snappy", "Go Snappy compression", _encode_snappy, _decode_snappy, _snappy_head),
        BlockForm("jpeg", "jpeg compression", _encode_jpeg, _decode_jpeg),
    )
}
"""All forms by the name of their setting."""
