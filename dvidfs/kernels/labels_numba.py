"""Compiled loops of :mod:`dvidfs.kernels.labels`, which parses a block before it hands its address to them.

A row of 8 voxels of ``bits`` bits takes exactly ``bits`` bytes. So a row is read as the 64-bit word that *ends* with it: that never
reaches outside the block, since more than 8 bytes precede the first. Only of 9 bits the first voxel is not in that word, but
in the first bytes of the one that begins with the row. Most rows have one label: that costs one comparison.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from dvidfs.kernels.blocks_numba import address, load

__all__ = ["address", "cut", "encode", "entries_at", "enumerate_labels", "layout", "overrun", "paste", "tally"]


@intrinsic
def word(_typing: Any, _address: Any) -> Any:
    """The 64 bits at an address, most significant byte first."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.bswap(builder.load(pointer, align=1))

    return types.uint64(types.int64), emit


_INT, _LONG, _ZYX = types.int64, types.uint64, types.UniTuple(types.int64, 3)
_PAIR = types.UniTuple(types.int64, 2)
_U1, _U2, _U4, _U8 = np.empty(0, np.uint8), np.empty(0, np.uint16), np.empty(0, np.uint32), np.empty(0, np.uint64)
_CUBE = 512


def _input(item: Any, axes: int = 1) -> Any:
    return types.Array(item, axes, "C", readonly=True)


@njit(_INT(_INT), nogil=True, cache=True)
def bits_of(count) -> Any:  # noqa: ANN001
    """Bits of a voxel in a sub-block that lists ``count`` labels."""
    bits = 0
    while (1 << bits) < count:
        bits += 1
    return bits


@njit(types.UniTuple(_LONG, 2)(_INT, _INT), nogil=True, cache=True)
def row_at(at, bits) -> Any:  # noqa: ANN001
    """A row of packed voxels: its last 64 bits (the last voxel lowest), and its first voxel."""
    tail = word(at + bits - 8)  # type: ignore[call-arg]
    if bits < 9:
        return tail, tail >> np.uint64(7 * bits) & np.uint64((1 << bits) - 1)
    return tail, word(at) >> np.uint64(55)  # type: ignore[call-arg]


@njit(types.boolean(_LONG, _LONG, _INT), nogil=True, cache=True)
def is_plain(tail, first, bits) -> Any:  # noqa: ANN001
    """Whether all voxels of a row are the same."""
    pairs = np.uint64((1 << min(7 * bits, 54)) - 1)
    return first == tail & np.uint64((1 << bits) - 1) and (tail ^ tail >> np.uint64(bits)) & pairs == 0


@njit(types.boolean(_input(types.uint16), _INT[::1], _INT[::1]), nogil=True, cache=True)
def layout(counts, index_starts, value_starts):  # noqa: ANN001, ANN201
    """Fills in where each sub-block's list and values begin, and the last ends; False: a list is too long."""
    listed, packed = 0, 0
    for i in range(len(counts)):
        count = np.int64(counts[i])
        if count > _CUBE:
            return False
        index_starts[i], value_starts[i] = listed, packed
        listed, packed = listed + count, packed + 64 * bits_of(count)
    index_starts[-1], value_starts[-1] = listed, packed
    return True


@njit(types.void(_LONG[::1], _INT, _INT, _INT, _INT, _INT, _LONG[::1]), nogil=True, cache=True)
def unpack(out, to, plane, row, at, bits, lookup):  # noqa: ANN001, ANN202
    """Writes a whole sub-block; ``plane`` and ``row`` are the distances of planes and rows in ``out``."""
    mask, step = np.uint64((1 << bits) - 1), np.uint64(bits)
    for z in range(8):
        for y in range(8):
            i = np.uint64(to + z * plane + y * row)
            tail, first = row_at(at, bits)
            if is_plain(tail, first, bits):
                label = lookup[first]
                for k in range(np.uint64(8)):
                    out[i + k] = label
            else:
                out[i] = lookup[first]
                for k in range(np.uint64(7)):
                    out[i + np.uint64(7) - k] = lookup[tail & mask]
                    tail >>= step
            at += bits


@njit(types.void(_LONG[::1], _INT, _ZYX, _INT, _INT, _INT, _INT, _LONG[::1]), nogil=True, cache=True)
def _unpack_row(out, to, span, z, y, at, bits, lookup):  # noqa: ANN001, ANN202
    """Writes voxels ``span[0]`` to ``span[1]`` of one row of a sub-block."""
    mask = np.uint64((1 << bits) - 1)
    tail, first = row_at(at + (z * 8 + y) * bits, bits)
    for x in range(span[0], span[1]):
        value = tail >> np.uint64((7 - x) * bits) & mask if x else first
        out[to + x - span[0]] = lookup[value]


@njit(types.void(_LONG[::1], _INT, _INT, _INT, _ZYX, _LONG), nogil=True, cache=True)
def _fill(out, to, plane, row, size, label):  # noqa: ANN001, ANN202
    for z in range(size[0]):
        for y in range(size[1]):
            i = to + z * plane + y * row
            out[i : i + size[2]] = label


@njit(_PAIR(_INT, _INT, _INT, _INT), nogil=True, cache=True)
def _span(start, size, origin, extent):  # noqa: ANN001, ANN202
    """From where to where voxels that begin at ``start`` lie in a window, counted from ``start``."""
    return max(0, origin - start), min(size, origin + extent - start)


@njit(types.void(_LONG[::1], _INT, _INT, _INT, _INT), nogil=True, cache=True)
def _look_up(lookup, table, index, count, bits):  # noqa: ANN001, ANN202
    """The label of every value a voxel of this sub-block can have; 0 beyond its list."""
    for j in range(count):
        entry = np.int64(load(index + 4 * j, _U4))  # type: ignore[call-arg]
        lookup[j] = load(table + 8 * entry, _U8)  # type: ignore[call-arg]
    lookup[count : 1 << bits] = 0


@njit(types.void(_LONG[::1], _ZYX, _ZYX, _ZYX, _INT, _INT, _INT, _LONG[::1]), nogil=True, cache=True)
def _paste(out, origin, extent, start, block, values, table, lookup):  # noqa: ANN001, ANN202
    row, plane = extent[2], extent[1] * extent[2]
    to = (start[0] - origin[0]) * plane + (start[1] - origin[1]) * row + start[2] - origin[2]
    gx, gy, gz = (np.int64(load(block, _U4)), np.int64(load(block + 4, _U4)), np.int64(load(block + 8, _U4)))  # type: ignore[call-arg]
    n = np.int64(load(block + 12, _U4))  # type: ignore[call-arg]
    if n == 1:
        z0, z1 = _span(start[0], 8 * gz, origin[0], extent[0])
        y0, y1 = _span(start[1], 8 * gy, origin[1], extent[1])
        x0, x1 = _span(start[2], 8 * gx, origin[2], extent[2])
        if z0 < z1 and y0 < y1 and x0 < x1:
            size = (z1 - z0, y1 - y0, x1 - x0)
            _fill(out, to + z0 * plane + y0 * row + x0, plane, row, size, load(table, _U8))  # type: ignore[call-arg]
        return
    counts = block + 16 + 8 * n
    index = counts + 2 * gx * gy * gz
    for sz in range(gz):
        z0, z1 = _span(start[0] + 8 * sz, 8, origin[0], extent[0])
        for sy in range(gy):
            y0, y1 = _span(start[1] + 8 * sy, 8, origin[1], extent[1])
            for sx in range(gx):
                x0, x1 = _span(start[2] + 8 * sx, 8, origin[2], extent[2])
                count = np.int64(load(counts, _U2))  # type: ignore[call-arg]
                bits = bits_of(count)
                if z0 < z1 and y0 < y1 and x0 < x1:
                    at = to + 8 * (sz * plane + sy * row + sx)
                    _look_up(lookup, table, index, count, bits)
                    size = (z1 - z0, y1 - y0, x1 - x0)
                    if bits == 0:
                        _fill(out, at + z0 * plane + y0 * row + x0, plane, row, size, lookup[0])
                    elif size == (8, 8, 8):
                        unpack(out, at, plane, row, values, bits, lookup)
                    else:
                        for z in range(z0, z1):
                            for y in range(y0, y1):
                                i = at + z * plane + y * row + x0
                                _unpack_row(out, i, (x0, x1, 0), z, y, values, bits, lookup)
                counts += 2
                index += 4 * count
                values += 64 * bits


@njit(types.void(_LONG[::1], _ZYX, _ZYX, _INT[:, ::1], _INT[:, ::1]), nogil=True, cache=True)
def paste(out, origin, extent, starts, blocks):  # noqa: ANN001, ANN201
    """Fills the window with blocks; each row of ``blocks`` has the addresses of a block, its values and its table."""
    lookup = np.empty(_CUBE, np.uint64)
    for i in range(len(blocks)):
        start = (starts[i, 0], starts[i, 1], starts[i, 2])
        _paste(out, origin, extent, start, blocks[i, 0], blocks[i, 1], blocks[i, 2], lookup)


@njit(types.void(_INT, _input(types.uint16), _input(types.uint32), _LONG[::1]), nogil=True, cache=True)
def tally(values, counts, index, out):  # noqa: ANN001, ANN201
    """Adds to ``out`` how many voxels have each entry of the table."""
    found = np.zeros(_CUBE, np.uint64)
    base = 0
    for count in counts:
        count = np.int64(count)
        bits = bits_of(count)
        if count == 1:
            out[index[base]] += np.uint64(_CUBE)
        elif count > 1:
            mask, step = np.uint64((1 << bits) - 1), np.uint64(bits)
            for _row in range(64):
                tail, first = row_at(values, bits)
                values += bits
                if is_plain(tail, first, bits):
                    found[first] += np.uint64(8)
                else:
                    found[first] += np.uint64(1)
                    for _ in range(7):
                        found[tail & mask] += np.uint64(1)
                        tail >>= step
            for j in range(count):
                out[index[base + j]] += found[j]
            found[: 1 << bits] = 0
        base += count


@njit(_INT(_INT, _input(types.uint16)), nogil=True, cache=True)
def overrun(values, counts):  # noqa: ANN001, ANN201
    """The first sub-block with a value beyond its list, or -1. Lists of 2, 4, 8, ... labels cannot be overrun."""
    for i in range(len(counts)):
        count = np.int64(counts[i])
        bits = bits_of(count)
        if count > 1 and count != 1 << bits:
            mask, step, limit = np.uint64((1 << bits) - 1), np.uint64(bits), np.uint64(count)
            for row in range(64):
                tail, first = row_at(values + row * bits, bits)
                wrong = first >= limit
                if not is_plain(tail, first, bits):
                    for _ in range(7):
                        wrong |= tail & mask >= limit
                        tail >>= step
                if wrong:
                    return i
        values += 64 * bits
    return -1


@njit(
    types.void(
        _INT, _PAIR, _input(types.uint16), _input(types.uint32), _input(_INT), _input(_INT), _input(_INT, 2), _INT[::1]
    ),
    nogil=True,
    cache=True,
)
def entries_at(values, grid, counts, index, index_starts, value_starts, points, out):  # noqa: ANN001, ANN201
    """The entry of each point (x, y, z), which lies in the block; ``grid``: sub-blocks (x, y)."""
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        sub = ((z >> 3) * grid[1] + (y >> 3)) * grid[0] + (x >> 3)
        count = np.int64(counts[sub])
        value = np.int64(0)
        if count > 1:
            bits = bits_of(count)
            at = values + value_starts[sub] + ((z & 7) * 8 + (y & 7)) * bits
            tail, first = row_at(at, bits)
            shift = np.uint64((7 - (x & 7)) * bits)
            value = np.int64(tail >> shift & np.uint64((1 << bits) - 1)) if x & 7 else np.int64(first)
        out[i] = np.int64(index[index_starts[sub] + value]) if value < count else -1


@njit(_INT(_LONG), nogil=True, cache=True)
def _spread(label):  # noqa: ANN001, ANN202
    """A number of 32 bits that differs between most labels."""
    return np.int64(label * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32))


@njit(types.int32[::1](_LONG[::1], _INT, _INT), nogil=True, cache=True)
def _slots(table, n, size):  # noqa: ANN001, ANN202
    """A hash table of ``size`` slots, a power of two, with the places of the first ``n`` labels; -1 is free."""
    slots = np.full(size, -1, np.int32)
    for i in range(n):
        at = _spread(table[i]) & size - 1
        while slots[at] >= 0:
            at = at + 1 & size - 1
        slots[at] = i
    return slots


@njit(_INT(_input(_LONG), _LONG[::1], types.int16[::1], _LONG[::1]), nogil=True, cache=True)
def enumerate_labels(labels, listed, slots, numbers) -> Any:  # noqa: ANN001
    """Lists up to 512 labels by first appearance, each once, and the number of each in that list; says how many are listed.

    ``slots``: 1024, working space.
    """
    slots[:] = -1
    n, last, number = 0, np.uint64(0), -1
    for i in range(len(labels)):
        label = labels[i]
        if label != last or number < 0:
            at = _spread(label) & 1023
            while slots[at] >= 0 and listed[slots[at]] != label:
                at = at + 1 & 1023
            if slots[at] < 0:
                slots[at] = n
                listed[n] = label
                n += 1
            last, number = label, np.int64(slots[at])
        numbers[i] = number
    return n


@njit(types.void(_input(_LONG, 3), _INT, _INT, _INT, _LONG[::1]), nogil=True, cache=True)
def cut(voxels, z, y, x, out) -> Any:  # noqa: ANN001
    """The 512 voxels of the sub-block that begins at voxel (z, y, x)."""
    for i in range(64):
        row = voxels[z + (i >> 3), y + (i & 7)]
        for k in range(8):
            out[8 * i + k] = row[x + k]


@njit(types.void(_LONG[::1], _INT, types.uint8[::1], _INT), nogil=True, cache=True)
def _pack(local, bits, out, at):  # noqa: ANN001, ANN202
    held, kept = np.uint64(0), 0
    for i in range(_CUBE):
        held = held << np.uint64(bits) | local[i]
        kept += bits
        while kept >= 8:
            kept -= 8
            out[at] = np.uint8(held >> np.uint64(kept))
            at += 1


@njit(
    types.UniTuple(_INT, 3)(_input(_LONG, 3), _LONG[::1], types.uint16[::1], types.uint32[::1], types.uint8[::1]),
    nogil=True,
    cache=True,
)
def encode(voxels, table, counts, index, values):  # noqa: ANN001, ANN201
    """Fills the sections, which have room for the worst case; says how long table, index and values became."""
    cube, mine, local = np.empty(_CUBE, np.uint64), np.empty(_CUBE, np.uint64), np.empty(_CUBE, np.uint64)
    own = np.empty(1024, np.int16)
    n, listed, packed, sub = 0, 0, 0, 0
    slots = _slots(table, 0, 4096)
    for z in range(0, voxels.shape[0], 8):
        for y in range(0, voxels.shape[1], 8):
            for x in range(0, voxels.shape[2], 8):
                cut(voxels, z, y, x, cube)
                count = enumerate_labels(cube, mine, own, local)
                if 2 * (n + count) > len(slots):
                    slots = _slots(table, n, 4 * len(slots))
                for j in range(count):
                    at = _spread(mine[j]) & len(slots) - 1
                    while slots[at] >= 0 and table[slots[at]] != mine[j]:
                        at = at + 1 & len(slots) - 1
                    if slots[at] < 0:
                        slots[at] = n
                        table[n] = mine[j]
                        n += 1
                    index[listed + j] = slots[at]
                bits = bits_of(count)
                if bits:
                    _pack(local, bits, values, packed)
                counts[sub] = count
                sub, listed, packed = sub + 1, listed + count, packed + 64 * bits
    return n, listed, packed
