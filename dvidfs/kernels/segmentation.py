"""Neuroglancer's compressed segmentation of 64-bit labels: one channel, blocks of 8x8x8 voxels.

Decides the bytes (labels_block.md 2.7); what the labels are is decided by who calls. A native label block is transcoded
sub-block by sub-block, without ever being a volume. Volumes are (z, y, x), C order, uint64. Numbers are little-endian
32-bit words: a 1 (the channel begins at word 1), two words for each sub-block (x fastest) that say where its table and its
values lie, then values and table of each; a label lies once in each table. Invariant: nothing is made that its
24-bit offsets cannot reach. Both forms make the same bytes of a volume; of a block at least the same labels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dvidfs import kernels
from dvidfs.kernels import labels
from dvidfs.kernels.labels_plain import BITS, CUBE, SUB, appearances, starts_of, tiles

Labels = NDArray[np.uint64]
Shape = tuple[int, int, int]

REACH = 1 << 24
"""Tables begin before this word: about 64 MiB."""
_TOO_MUCH = "compressed segmentation: the volume or its labels are too many for the format, ask for a smaller one"
_WORST = CUBE // 2 + 2 * CUBE
"""Words of a sub-block with 512 labels."""
_WIDTHS = np.array([0, 1, 2, 4, 4, *[8] * 4, *[16] * 8], np.uint8)
"""Bits of a packed voxel by the bits it needs."""


def encode(volume: Labels) -> bytes:
    """The compressed volume; its sides are multiples of 8. A ValueError says if it is none or becomes too large."""
    if volume.ndim != 3 or volume.dtype != np.uint64 or not volume.size or any(n % SUB for n in volume.shape):
        raise ValueError(
            f"compressed segmentation wants uint64 with sides that are multiples of 8, not {volume.dtype} {volume.shape}"
        )
    compiled = kernels.ready("segmentation_numba")
    if compiled is None:
        return encode_plain(volume)
    out = _room(volume.size // CUBE)
    return _finish(out, compiled.encode(np.ascontiguousarray(volume), out))


def encode_block(block: labels.Block, table: Labels | None = None) -> bytes:
    """The same of a native block; ``table`` replaces its table of labels and is as long."""
    if table is not None and table.shape != block.labels.shape:
        raise ValueError(f"a table of {len(block.labels)} labels is wanted, not of {table.shape}")
    mapped = np.ascontiguousarray(block.labels if table is None else table, np.uint64)
    if block.is_solid:
        return _solid(mapped, math.prod(block.grid))
    compiled = kernels.ready("segmentation_numba")
    if compiled is None:
        return encode_plain(labels.voxels(block, mapped))
    out = _room(len(block.counts))
    held = np.frombuffer(block.data, np.uint8)
    values = compiled.address(held) + len(held) - len(block.values)
    return _finish(out, compiled.encode_block(values, block.counts, block.index, mapped, out))


def decode(data: bytes, shape: Shape) -> Labels:
    """The volume (z, y, x) of compressed bytes; a ValueError says what is wrong with them."""
    words = np.frombuffer(data, "<u4", len(data) // 4)[1:]
    volume = np.empty(shape, np.uint64)
    cubes = [
        (z, y, x) for z in range(0, shape[0], SUB) for y in range(0, shape[1], SUB) for x in range(0, shape[2], SUB)
    ]
    if len(data) % 4 or any(n % SUB for n in shape) or len(words) < 2 * len(cubes) or data[:4] != b"\1\0\0\0":
        raise ValueError(f"compressed segmentation: {len(data)} bytes have no headers of a volume of {shape}")
    for sub, (z, y, x) in enumerate(cubes):
        head, values_at = words[2 * sub : 2 * sub + 2].tolist()
        table_at, bits = head % REACH, head // REACH
        packed = words[values_at : values_at + 16 * bits]
        if bits not in _WIDTHS or len(packed) < 16 * bits:
            raise ValueError(f"compressed segmentation: sub-block {sub} has no {bits} bits a voxel at word {values_at}")
        numbers = np.zeros(CUBE, np.int64)
        if bits:
            numbers = (packed[:, None] >> np.arange(0, 32, bits) & (1 << bits) - 1).reshape(-1)
        end = table_at + 2 * (int(numbers.max()) + 1)
        if end > len(words):
            raise ValueError(f"compressed segmentation: the table of sub-block {sub} at word {table_at} is cut off")
        table = words[table_at:end].copy().view("<u8")
        volume[z : z + SUB, y : y + SUB, x : x + SUB] = table[numbers].reshape(SUB, SUB, SUB)
    return volume


def _room(subs: int) -> NDArray[np.uint32]:
    """Words for the worst case; what is not used costs nothing."""
    return np.empty(1 + 2 * subs + min(_WORST * subs, REACH + _WORST), np.uint32)


def _solid(label: Labels, subs: int) -> bytes:
    """A block with one label: each sub-block has a table of its own, of one label; the largest block is within reach."""
    places = 2 * subs + 2 * np.arange(subs)
    heads, tables = np.repeat(places, 2).astype("<u4"), np.repeat(label, subs).astype("<u8")
    return b"\1\0\0\0" + heads.tobytes() + tables.tobytes()


def _finish(out: NDArray[np.uint32], size: int) -> bytes:
    if size < 0:
        raise ValueError(_TOO_MUCH)
    return out[:size].tobytes()


def encode_plain(volume: Labels) -> bytes:
    """The numpy twin of :func:`encode`."""
    cubes = tiles(volume)
    numbers, new = appearances(cubes)
    counts = new.sum(1)
    widths = _WIDTHS[BITS[counts]].astype(np.int64)
    starts = 2 * len(cubes) + starts_of(16 * widths + 2 * counts)
    tables_at = starts[:-1] + 16 * widths
    if int(tables_at[-1]) >= REACH:
        raise ValueError(_TOO_MUCH)
    out = np.empty(starts[-1], np.uint32)
    out[0 : 2 * len(cubes) : 2] = tables_at | widths << 24
    out[1 : 2 * len(cubes) : 2] = starts[:-1]
    for bits in (1, 2, 4, 8, 16):
        rows = np.flatnonzero(widths == bits)
        each = numbers[rows].reshape(len(rows), 16 * bits, 32 // bits) << np.arange(0, 32, bits)
        out[starts[rows, None] + np.arange(16 * bits)] = each.sum(2)
    places = np.repeat(tables_at - 2 * starts_of(counts)[:-1], counts) + 2 * np.arange(counts.sum())
    out[places[:, None] + np.arange(2)] = cubes[new].view(np.uint32).reshape(-1, 2)
    return b"\1\0\0\0" + out.tobytes()
