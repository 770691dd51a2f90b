"""How labels travel, written as plainly as it can be and without a line of the code under test.

Decides nothing: it is a second reading of the formats, for tests to compare with. Slow is fine. Invariant: a reader
here refuses (AssertionError) what the format does not allow, so that a sloppy answer does not pass.
Voxels are (z, y, x), points and blocks (x, y, z). Source: reference notes "label blocks", "sparse volumes", "labelmap
mutations".
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import lz4.block
import numpy as np
from numpy.typing import NDArray

Xyz = tuple[int, int, int]
Voxels = NDArray[np.uint64]
Points = NDArray[np.int64]
"""(n, 3) x y z, in the order of z, y, x."""

# -- label blocks -----------------------------------------------------------------------------------------------------


def encode_block(voxels: Voxels) -> bytes:
    """A native label block; every side a multiple of 8."""
    nz, ny, nx = (side // 8 for side in voxels.shape)
    grid = struct.pack("<3I", nx, ny, nz)
    cells = [
        voxels[8 * z : 8 * z + 8, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].ravel()
        for z in range(nz)
        for y in range(ny)
        for x in range(nx)
    ]
    local = [list(dict.fromkeys(cell.tolist())) for cell in cells]
    table = list(dict.fromkeys(label for labels in local for label in labels))
    head = grid + struct.pack(f"<I{len(table)}Q", len(table), *table)
    if len(table) == 1:
        return head
    counts = np.array([len(labels) for labels in local], "<u2").tobytes()
    index = np.array([table.index(label) for labels in local for label in labels], "<u4").tobytes()
    return head + counts + index + b"".join(map(_packed, cells, local))


def _packed(cell: Voxels, labels: list[int]) -> bytes:
    bits = (len(labels) - 1).bit_length()
    values = np.array([labels.index(label) for label in cell.tolist()])
    return np.packbits((values[:, None] >> np.arange(bits)[::-1]) & 1).tobytes()


def decode_block(data: bytes) -> Voxels:
    nx, ny, nz, size = struct.unpack_from("<4I", data)
    assert min(nx, ny, nz, size) >= 1
    table = np.frombuffer(data, "<u8", size, 16)
    at = 16 + 8 * size
    if size == 1:
        assert len(data) == at
        return np.full((8 * nz, 8 * ny, 8 * nx), table[0], np.uint64)
    counts = np.frombuffer(data, "<u2", nx * ny * nz, at)
    at += 2 * len(counts)
    index = np.frombuffer(data, "<u4", int(counts.sum()), at)
    at += 4 * len(index)
    out, first = np.zeros((8 * nz, 8 * ny, 8 * nx), np.uint64), 0
    for number, count in enumerate(counts.tolist()):
        bits = (count - 1).bit_length() if count else 0
        raw = np.frombuffer(data, np.uint8, 64 * bits, at)
        weights = 1 << np.arange(bits)[::-1]
        values = (np.unpackbits(raw).reshape(512, bits) * weights).sum(1) if bits else np.zeros(512, int)
        x, y, z = number % nx * 8, number // nx % ny * 8, number // (nx * ny) * 8
        if count:
            out[z : z + 8, y : y + 8, x : x + 8] = table[index[first : first + count][values]].reshape(8, 8, 8)
        at, first = at + 64 * bits, first + count
    assert at == len(data)
    return out


def write_stream(payloads: Mapping[Xyz, bytes]) -> bytes:
    """The stream of blocks: int32 x, y, z, length, then the payload."""
    return b"".join(struct.pack("<4i", *place, len(data)) + data for place, data in payloads.items())


def read_stream(data: bytes) -> dict[Xyz, bytes]:
    out: dict[Xyz, bytes] = {}
    at = 0
    while at < len(data):
        x, y, z, size = struct.unpack_from("<4i", data, at)
        assert (x, y, z) not in out, "a block came twice"
        assert 0 <= size <= len(data) - at - 16
        out[x, y, z] = data[at + 16 : at + 16 + size]
        at += 16 + size
    return out


def encode_blocks(blocks: Mapping[Xyz, Voxels]) -> bytes:
    """What POST `blocks` and `ingest-supervoxels` take: a stream of gzipped native blocks."""
    return write_stream({place: gzip.compress(encode_block(voxels), 1) for place, voxels in blocks.items()})


def decode_blocks(data: bytes, compression: str, shape: tuple[int, int, int]) -> dict[Xyz, Voxels]:
    """The blocks of a stream, each of ``shape`` (z, y, x)."""
    return {place: _unpacked(payload, compression, shape) for place, payload in read_stream(data).items()}


def _unpacked(payload: bytes, compression: str, shape: tuple[int, int, int]) -> Voxels:
    if compression == "blocks":
        found = decode_block(gzip.decompress(payload))
        assert found.shape == shape
        return found
    return unpack_volume(payload, compression, shape)


def unpack_volume(data: bytes, compression: str, shape: tuple[int, int, int]) -> Voxels:
    """A volume of uint64, x fastest, as ``compression`` says: none or uncompressed, lz4, gzip."""
    if compression == "lz4":
        data = lz4.block.decompress(data, uncompressed_size=8 * int(np.prod(shape)))
    elif compression == "gzip":
        data = gzip.decompress(data)
    return np.frombuffer(data, "<u8").reshape(shape)


def pack_volume(voxels: Voxels, compression: str = "") -> bytes:
    data = np.ascontiguousarray(voxels, "<u8").tobytes()
    if compression == "lz4":
        return lz4.block.compress(data, store_size=False)
    return gzip.compress(data, 1) if compression == "gzip" else data


# -- sparse volumes ---------------------------------------------------------------------------------------------------


def points_of_mask(mask: NDArray[np.bool_], start: Xyz) -> Points:
    """The voxels of a mask (z, y, x) whose first voxel is at ``start``."""
    return np.argwhere(mask)[:, ::-1] + np.array(start)


def ordered(points: Points) -> Points:
    """The same points by z, y, x; no point comes twice."""
    points = points[np.lexsort(points.T)]
    assert (points[1:] != points[:-1]).any(axis=1).all(), "a voxel came twice"
    return points


def runs_of_points(points: Points) -> NDArray[np.int32]:
    """Maximal runs (x, y, z, length) along x, of points in order."""
    first = np.ones(len(points), bool)
    first[1:] = (points[1:] - points[:-1] != (1, 0, 0)).any(axis=1)
    starts = np.flatnonzero(first)
    lengths = np.diff(np.append(starts, len(points)))
    return np.column_stack([points[starts], lengths]).astype("<i4")


def points_of_runs(runs: NDArray[np.int32]) -> Points:
    """The voxels of runs in any order; no voxel comes twice."""
    assert (runs[:, 3] > 0).all()
    lengths = runs[:, 3].astype(np.int64)
    points = np.repeat(runs[:, :3].astype(np.int64), lengths, axis=0)
    points[:, 0] += np.arange(len(points)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return ordered(points)


def encode_rles(runs: NDArray[np.int32]) -> bytes:
    return struct.pack("<4BII", 0, 3, 0, 0, 0, len(runs)) + runs.astype("<i4").tobytes()


def decode_rles(data: bytes) -> NDArray[np.int32]:
    """The runs of a payload with its 12-byte head; nothing at all means none."""
    if not data:
        return np.empty((0, 4), np.int32)
    kind, sides, axis, zero, voxels, number = struct.unpack_from("<4BII", data)
    assert (kind, sides, axis, zero, voxels) == (0, 3, 0, 0, 0)
    assert len(data) == 12 + 16 * number
    return decode_runs(data[12:])


def decode_runs(data: bytes) -> NDArray[np.int32]:
    return np.frombuffer(data, "<i4").reshape(-1, 4)


def decode_masks(data: bytes, label: int) -> Points:
    """The voxels of `format=blocks`, whose head names ``label``."""
    if not data:
        return np.empty((0, 3), np.int64)
    gx, gy, gz, named = struct.unpack_from("<3IQ", data)
    assert named == label
    at, out = 20, []
    while at < len(data):
        start = struct.unpack_from("<3i", data, at)
        mask = np.zeros((8 * gz, 8 * gy, 8 * gx), bool)
        flag, at = data[at + 12], at + 13
        assert flag in (0, 1, 2)
        mask[:] = flag == 1
        for number in range(gx * gy * gz if flag == 2 else 0):
            x, y, z = number % gx * 8, number // gx % gy * 8, number // (gx * gy) * 8
            inner, at = data[at], at + 1
            assert inner in (0, 1, 2)
            mask[z : z + 8, y : y + 8, x : x + 8] = inner == 1
            if inner == 2:
                bits = np.unpackbits(np.frombuffer(data, np.uint8, 64, at), bitorder="little")
                mask[z : z + 8, y : y + 8, x : x + 8] = bits.reshape(8, 8, 8)
                at += 64
        out.append(points_of_mask(mask, start))
    return ordered(np.concatenate(out))


def decode_coarse_stream(data: bytes) -> dict[int, Points]:
    """`sparsevols-coarse`: u64 label, int32 number of runs, runs of blocks, again and again."""
    out, at = {}, 0
    while at < len(data):
        label, number = struct.unpack_from("<Qi", data, at)
        assert label not in out
        out[label] = points_of_runs(decode_runs(data[at + 12 : at + 12 + 16 * number]))
        at += 12 + 16 * number
    return out


# -- label indices (protobuf) -----------------------------------------------------------------------------------------

Counts = dict[Xyz, dict[int, int]]
"""Voxels of each supervoxel in each block."""


@dataclass
class LabelIndex:
    """One body's index as it travels."""

    label: int
    blocks: Counts = field(default_factory=dict)
    last_mutid: int = 0
    last_mod_time: str = ""
    last_mod_user: str = ""
    last_mod_app: str = ""

    @property
    def voxels(self) -> int:
        return sum(count for counts in self.blocks.values() for count in counts.values())


def block_key(place: Xyz) -> int:
    """Three fields of 21 bits, z first, each sign and magnitude."""
    x, y, z = (abs(n) | (n < 0) << 20 for n in place)
    return z << 42 | y << 21 | x


def block_place(key: int) -> Xyz:
    fields = [key >> shift & 0x1FFFFF for shift in (0, 21, 42)]
    x, y, z = (-(n & 0xFFFFF) if n >> 20 else n for n in fields)
    return x, y, z


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _number(field_number: int, value: int) -> bytes:
    return varint(field_number << 3) + varint(value) if value else b""


def _message(field_number: int, data: bytes) -> bytes:
    return varint(field_number << 3 | 2) + varint(len(data)) + data


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of a message: numbers for varints, bytes for what has a length."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        value, at = _read_varint(data, at)
        assert tag & 7 in (0, 2), f"wire type {tag & 7}"
        if tag & 7 == 0:
            yield tag >> 3, value
        else:
            assert at + value <= len(data)
            yield tag >> 3, data[at : at + value]
            at += value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def encode_index(index: LabelIndex) -> bytes:
    out = b""
    for place, counts in index.blocks.items():
        inner = b"".join(_message(1, _number(1, sv) + _number(2, count)) for sv, count in counts.items())
        out += _message(1, _number(1, block_key(place)) + _message(2, inner))
    out += _number(2, index.label) + _number(3, index.last_mutid)
    for number, text in enumerate((index.last_mod_time, index.last_mod_user, index.last_mod_app), 4):
        out += _message(number, text.encode()) if text else b""
    return out


def decode_index(data: bytes) -> LabelIndex:
    out = LabelIndex(0)
    names = {4: "last_mod_time", 5: "last_mod_user", 6: "last_mod_app"}
    for number, value in fields(data):
        if number == 1:
            place, counts = _index_block(value)
            assert place not in out.blocks
            assert counts
            out.blocks[place] = counts
        elif number in names:
            setattr(out, names[number], value.decode())
        else:
            setattr(out, {2: "label", 3: "last_mutid"}[number], value)
    return out


def _index_block(data: bytes) -> tuple[Xyz, dict[int, int]]:
    entry = dict(fields(data))
    counts: dict[int, int] = {}
    for number, value in fields(entry.get(2, b"")):
        if number == 1:
            pair = dict(fields(value))
            assert pair[1] not in counts
            assert pair[2] > 0, "an entry without voxels"
            counts[pair[1]] = pair[2]
    return block_place(entry.get(1, 0)), counts


def encode_indices(indices: Iterable[LabelIndex]) -> bytes:
    return b"".join(_message(1, encode_index(index)) for index in indices)


def decode_indices(data: bytes) -> list[LabelIndex]:
    return [decode_index(value) for _, value in fields(data)]


def decode_compressed_indices(data: bytes) -> dict[int, LabelIndex | None]:
    """`indices-compressed`: u64 size, u64 label, then 0x80, u32 length and an LZ4 block; size 0 where there is none."""
    out: dict[int, LabelIndex | None] = {}
    at = 0
    while at < len(data):
        size, label = struct.unpack_from("<QQ", data, at)
        at += 16
        out[label] = None
        if size:
            mark, length = struct.unpack_from("<BI", data, at)
            assert mark == 0x80
            out[label] = decode_index(lz4.block.decompress(data[at + 5 : at + size], uncompressed_size=length))
        at += size
    return out


def encode_mappings(pairs: Mapping[int, Iterable[int]], mutid: int = 1) -> bytes:
    """MappingOps: for each body the supervoxels that shall be its."""
    out = b""
    for body, supervoxels in pairs.items():
        packed = b"".join(map(varint, supervoxels))
        out += _message(1, _number(1, mutid) + _number(2, body) + _message(3, packed))
    return out
