"""The numpy twins of :mod:`dvidfs.kernels.labels`: what its compiled loops are held to, and what runs without them.

Decides nothing of its own. Sub-blocks of equal width of voxel are unpacked and packed together, so that numpy loops over
widths, not over sub-blocks. A sub-block's voxels are a row of 512, x fastest. Invariant: same bytes as the compiled form.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from dvidfs.kernels.labels import Block

Labels = NDArray[np.uint64]
Shape = tuple[int, int, int]

SUB = 8
"""Voxels along each side of a sub-block."""
CUBE = SUB**3
HEADER = struct.Struct("<4I")
"""Sub-blocks along x, y, z and the number of labels."""
BITS = np.array([0, *((n - 1).bit_length() for n in range(1, CUBE + 1))], np.uint8)
"""Bits of a voxel in a sub-block that lists so many entries."""


def tiles(voxels: NDArray) -> NDArray:
    """Sub-blocks (n, 512) of an array (z, y, x), voxels and sub-blocks x fastest."""
    gz, gy, gx = (n // SUB for n in voxels.shape)
    return voxels.reshape(gz, SUB, gy, SUB, gx, SUB).transpose(0, 2, 4, 1, 3, 5).reshape(-1, CUBE)


def appearances(cubes: Labels) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For sub-blocks (n, 512): each voxel's number in the list of labels by first appearance, and where labels appear first."""
    places = np.arange(CUBE)
    order = np.argsort(cubes, axis=1, kind="stable")
    ranked = np.take_along_axis(cubes, order, 1)
    fresh = np.ones(cubes.shape, bool)
    fresh[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    heads = np.maximum.accumulate(np.where(fresh, places, 0), axis=1)
    firsts = np.empty_like(order)
    np.put_along_axis(firsts, order, np.take_along_axis(order, heads, 1), 1)
    new = firsts == places
    return np.take_along_axis(np.cumsum(new, 1) - 1, firsts, 1), new


def starts_of(lengths: NDArray, unit: int = 1) -> NDArray[np.int64]:
    """Where each of items that lie one behind the other begins, and where the last ends."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    if unit != 1:
        starts *= unit
    return starts


def encode_plain(voxels: Labels) -> bytes:
    """The numpy twin of :func:`encode`."""
    cubes = tiles(voxels)
    local, new = appearances(cubes)
    counts, listed = new.sum(1), cubes[new]
    table, first, entry = np.unique(listed, return_index=True, return_inverse=True)
    order = np.argsort(first)
    index = np.argsort(order)[entry.reshape(-1)]
    depth, height, width = (n // SUB for n in voxels.shape)
    head = HEADER.pack(width, height, depth, len(table)) + table[order].astype("<u8").tobytes()
    if len(table) == 1:
        return head
    widths = BITS[counts]
    starts = starts_of(widths, SUB * SUB)
    packed = np.empty(starts[-1], np.uint8)
    for bits in range(1, 10):
        rows = np.flatnonzero(widths == bits)
        split = local[rows, :, None] >> np.arange(bits - 1, -1, -1) & 1
        packed[starts[rows, None] + np.arange(64 * bits)] = np.packbits(
            split.reshape(len(rows), CUBE * bits) > 0, axis=1
        )
    return head + counts.astype("<u2").tobytes() + index.astype("<u4").tobytes() + packed.tobytes()


def _values(block: Block) -> NDArray[np.int64]:
    """The packed values of each sub-block (n, 512)."""
    widths = BITS[block.counts]
    out = np.zeros((len(widths), CUBE), np.int64)
    for bits in range(1, 10):
        rows = np.flatnonzero(widths == bits)
        packed = block.values[block.value_starts[rows, None] + np.arange(64 * bits)]
        split = np.unpackbits(packed, axis=1).reshape(len(rows), CUBE, bits)
        out[rows] = split @ (1 << np.arange(bits - 1, -1, -1))
    return out


def overrun_plain(block: Block) -> int:
    """The first sub-block with a value beyond its list; -1: there is none."""
    if block.is_solid:
        return -1
    wrong = _values(block).max(1) >= np.maximum(block.counts, 1)
    return int(np.argmax(wrong)) if wrong.any() else -1


def entries_plain(block: Block) -> NDArray[np.int64]:
    """The entry of every voxel (z, y, x), -1 for none."""
    if block.is_solid:
        return np.zeros(block.shape, np.int64)
    values = _values(block)
    known = values < block.counts[:, None]
    entries = np.full(values.shape, -1)
    entries[known] = block.index[(block.index_starts[:-1, None] + values)[known]]
    gx, gy, gz = block.grid
    return entries.reshape(gz, gy, gx, SUB, SUB, SUB).transpose(0, 3, 1, 4, 2, 5).reshape(block.shape)


def paste_plain(out: Labels, origin: Shape, start: Shape | NDArray, block: Block, table: Labels) -> None:
    """The numpy twin of :func:`paste`."""
    lo = np.maximum(origin, start)
    hi = np.minimum(np.add(origin, out.shape), np.add(start, block.shape))
    if (lo >= hi).any():
        return
    source = tuple(slice(int(a), int(b)) for a, b in zip(lo - start, hi - start, strict=True))
    target = tuple(slice(int(a), int(b)) for a, b in zip(lo - origin, hi - origin, strict=True))
    entries = entries_plain(block)[source]
    out[target] = np.where(entries < 0, np.uint64(0), table[entries])


def tally_plain(block: Block) -> Labels:
    """The numpy twin of :func:`tally`."""
    return np.bincount(entries_plain(block).reshape(-1) + 1, minlength=len(block.labels) + 1)[1:].astype(np.uint64)


def entries_at_plain(block: Block, at: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numpy twin of :func:`entries_at`."""
    return entries_plain(block)[at[:, 2], at[:, 1], at[:, 0]]
