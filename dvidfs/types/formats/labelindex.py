"""Label indices and mappings as DVID's clients send and expect them, and the numbers of blocks in them.

Decides what a message means as arrays: rows in the order of blocks and supervoxels, of a map key that comes twice the last.
The bytes are decided in :mod:`dvidfs.kernels.varints`, what is done with an index in the label types. Invariant: the rows of a decoded
index are ascending by (block, supervoxel), none comes twice, and every block has a number on the wire.

Reference: DVID labelmap mutations, 4.1 (messages) and 4.8 (``/index``, ``/indices``, ``/indices-compressed``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

import lz4.block
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dvidfs.errors import BadRequest
from dvidfs.kernels import varints

Buffer = bytes | bytearray | memoryview
Words = NDArray[np.uint64]

FURTHEST = (1 << 20) - 1
"""The largest block coordinate, on both sides of 0."""

_BIAS = 1 << 20
_SHIFTS = np.array([0, 21, 42], np.uint64)
_MASK = np.uint64((1 << 21) - 1)
_LZ4 = 0x80
_RECORD = struct.Struct("<QQ")
_STORED = struct.Struct("<BI")


def _words() -> Words:
    return np.zeros(0, np.uint64)


@dataclass(frozen=True, eq=False)
class LabelIndex:
    """Which voxels a body has: ``counts[i]`` voxels of supervoxel ``supervoxels[i]`` in block ``blocks[i]``.

    ``blocks`` (n): sortable codes of blocks (:func:`codes_of_points`), ascending; one row for each supervoxel in a block.
    ``surface``: an id for each block that occurs, in their order, or one for all. ``last_mod_time``: RFC 3339.
    """

    label: int
    blocks: Words = field(default_factory=_words)
    supervoxels: Words = field(default_factory=_words)
    counts: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    surface: Words | int = 0
    last_mutid: int = 0
    last_mod_time: str = ""
    last_mod_user: str = ""
    last_mod_app: str = ""


def codes_of_points(points: ArrayLike) -> Words:
    """The sortable codes ``(z+2^20)<<42 | (y+2^20)<<21 | (x+2^20)`` of block coordinates (n, 3), each (x, y, z).

    Raises:
        BadRequest: a coordinate beyond ±1048575.
    """
    blocks = np.asarray(points, np.int64).reshape(-1, 3)
    if len(blocks) and (blocks.min() < -FURTHEST or blocks.max() > FURTHEST):
        beyond = ((blocks < -FURTHEST) | (blocks > FURTHEST)).any(axis=1)
        x, y, z = blocks[np.argmax(beyond)].tolist()
        raise BadRequest(f"block ({x},{y},{z}) is too far out: its coordinates must lie from -{FURTHEST} to {FURTHEST}")
    x, y, z = (blocks + _BIAS).astype(np.uint64).T
    return z << _SHIFTS[2] | y << _SHIFTS[1] | x


def points_of_codes(codes: Words) -> NDArray[np.int64]:
    """The block coordinates (n, 3), each (x, y, z), of sortable codes."""
    return (codes[:, None] >> _SHIFTS & _MASK).astype(np.int64) - _BIAS


def keys_of_codes(codes: Words) -> Words:
    """The numbers of blocks on the wire, ``z<<42 | y<<21 | x`` with a sign bit and a magnitude each, of sortable codes."""
    return varints.keys_of(codes)


def codes_of_keys(keys: Words) -> Words:
    """The sortable codes of numbers of blocks on the wire.

    Raises:
        BadRequest: a number of more than 63 bits.
    """
    wrong = keys >> np.uint64(63) != 0
    if wrong.any():
        raise BadRequest(f"block {keys[np.argmax(wrong)]}: the number of a block has 63 bits")
    return varints.codes_of(keys)


def encode_index(index: LabelIndex) -> bytes:
    """A LabelIndex message.

    Raises:
        ValueError: arrays that do not go together.
    """
    surface = np.atleast_1d(np.asarray(index.surface, np.uint64))
    parts = [varints.encode_blocks(index.blocks, index.supervoxels, index.counts, surface)]
    parts += [_number(tag, number) for tag, number in ((0x10, index.label), (0x18, index.last_mutid)) if number]
    texts = (0x22, index.last_mod_time), (0x2A, index.last_mod_user), (0x32, index.last_mod_app)
    parts += [_bytes(tag, text.encode()) for tag, text in texts if text]
    return b"".join(parts)


def encode_indices(indices: Iterable[LabelIndex]) -> bytes:
    """A LabelIndices message."""
    return encode_list(map(encode_index, indices))


Rows = tuple[Words, Words, NDArray[np.uint32]]
"""Blocks, supervoxels and voxels."""


def encode_singles(labels: Words, counts: NDArray[np.int64], rows: Rows) -> list[bytes]:
    """LabelIndex messages of bodies that are one supervoxel and were never changed, all at once.

    ``labels`` (n); ``counts``: how many rows each has; ``rows``: blocks, supervoxels and voxels, label after label, each
    block of a label once.
    """
    text, sizes = varints.encode_rows(*rows) if len(rows[0]) else (b"", np.zeros(0, np.int64))
    ends = np.concatenate(([0], np.cumsum(sizes)))[np.concatenate(([0], np.cumsum(counts)))].tolist()
    numbers = (varints.varint(label) for label in labels.tolist())
    return [text[a:b] + b"\x10" + n for a, b, n in zip(ends, ends[1:], numbers, strict=False)]


def encode_list(messages: Iterable[bytes]) -> bytes:
    """A LabelIndices message of LabelIndex messages."""
    return b"".join(_bytes(0x0A, message) for message in messages)


def encode_record(label: int, message: bytes | None) -> bytes:
    """A record of ``/indices-compressed``: uint64 size, uint64 label, and as many bytes as DVID stores; none if there is no index.

    These are 0x80 (LZ4, no checksum), uint32 length of the message, and the message as an LZ4 block.
    """
    if message is None:
        return _RECORD.pack(0, label)
    packed = lz4.block.compress(message, store_size=False)
    return b"".join((_RECORD.pack(_STORED.size + len(packed), label), _STORED.pack(_LZ4, len(message)), packed))


def decode_index(data: Buffer) -> LabelIndex:
    """The index of a LabelIndex message.

    Raises:
        BadRequest: no such message; the text names the byte.
    """
    return _decode(data, [(0, len(data))])[0]


def decode_indices(data: Buffer) -> list[LabelIndex]:
    """The indices of a LabelIndices message, in its order.

    Raises:
        BadRequest: no such message; the text names the byte.
    """
    try:
        spans = varints.spans(data)
    except ValueError as error:
        raise BadRequest(f"bad LabelIndices message, {error}") from None
    return _decode(data, spans)


def _decode(data: Buffer, spans: list[tuple[int, int]]) -> list[LabelIndex]:
    try:
        found = varints.decode_indices(data, spans)
    except ValueError as error:
        raise BadRequest(f"bad LabelIndex message, {error}") from None
    codes = codes_of_keys(found.keys)
    out = []
    block = row = 0
    for i in range(len(spans)):
        last, stop = int(found.blocks[i]), int(found.rows[i])
        columns = codes[block:last], found.ends[block:last], found.surface[block:last]
        rows = found.supervoxels[row:stop], found.counts[row:stop]
        arrays = _repeated(*columns, *rows) if found.ordered[i] else _in_order(*columns, *rows)
        label, mutid = found.numbers[i].tolist()
        out.append(LabelIndex(label, *arrays, mutid, *(_text(data, *place) for place in found.texts[i].tolist())))
        block, row = last, stop
    return out


Arrays = tuple[Words, Words, NDArray[np.uint32], Words]


def _repeated(codes: Words, ends: NDArray, surface: Words, supervoxels: Words, counts: NDArray[np.uint32]) -> Arrays:
    """Blocks, supervoxels, counts and surface of what is in order."""
    if len(codes) == len(supervoxels):
        return codes, supervoxels, counts, surface
    return np.repeat(codes, np.diff(ends, prepend=0)), supervoxels, counts, surface


def _in_order(codes: Words, ends: NDArray, surface: Words, supervoxels: Words, counts: NDArray[np.uint32]) -> Arrays:
    """The same of what comes in any order: of equal blocks the last counts, of equal supervoxels in it the last."""
    order = np.argsort(codes, kind="stable")
    order = order[_lasts(codes[order])]
    sizes = np.diff(ends, prepend=0)[order]
    stops = np.cumsum(sizes)
    rows = np.arange(stops[-1] if len(stops) else 0) + np.repeat(ends[order] - stops, sizes)
    blocks = np.repeat(codes[order], sizes)
    surface = surface[order][sizes > 0]
    if len(rows) > len(surface):
        within = np.lexsort((supervoxels[rows], blocks))
        blocks, rows = blocks[within], rows[within]
        kept = _lasts(blocks) | _lasts(supervoxels[rows])
        blocks, rows = blocks[kept], rows[kept]
    return blocks, supervoxels[rows], counts[rows], surface


def _lasts(values: Words) -> NDArray[np.bool_]:
    """Whether each value is the last of a run of equal ones."""
    return np.append(values[1:] != values[:-1], True) if len(values) else np.zeros(0, bool)


def _text(data: Buffer, start: int, stop: int) -> str:
    try:
        return bytes(data[start:stop]).decode()
    except UnicodeDecodeError:
        raise BadRequest(f"bad LabelIndex message, byte {start}: a text that is not UTF-8") from None


def decode_mappings(data: Buffer) -> tuple[Words, Words, Words]:
    """Supervoxels, their bodies and the mutation ids of a MappingOps message, in its order: three arrays of equal length.

    Raises:
        BadRequest: no such message; the text names the byte.
    """
    try:
        return varints.decode_mappings(data)
    except ValueError as error:
        raise BadRequest(f"bad MappingOps message, {error}") from None


def encode_mapping(mutid: int, mapped: int, originals: Words) -> bytes:
    """A MappingOps message with one operation; such messages one behind the other are a message with all of them."""
    numbers = [_number(tag, number) for tag, number in ((0x08, mutid), (0x10, mapped)) if number]
    packed = [_bytes(0x1A, varints.pack(originals))] if len(originals) else []
    return _bytes(0x0A, b"".join(numbers + packed))


def _number(tag: int, number: int) -> bytes:
    return bytes((tag,)) + varints.varint(number)


def _bytes(tag: int, content: bytes) -> bytes:
    return bytes((tag,)) + varints.varint(len(content)) + content
