"""Compiled loops of :mod:`dvidfs.kernels.runs`, which checks the shapes of all arrays before it calls them.

The wanted voxels of a block become a bitmap first, one byte for each row of eight of a sub-block; a sub-block without a
wanted entry costs a look at its entries, and no value of it is read. Runs are then read off whole words of the bitmap.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import njit, types
from numba.extending import intrinsic


@intrinsic
def _trailing(_typing: Any, _word: Any) -> Any:
    """Zero bits below the lowest one bit; 64 of 0."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), emit


@intrinsic
def _ones(_typing: Any, _word: Any) -> Any:
    """How many bits are one."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), emit


@intrinsic
def _big_endian(_typing: Any, octets: Any, _at: Any) -> Any:
    """The eight octets from a place on as one number, the first on top."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        place = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(64).as_pointer())
        return builder.bswap(builder.load(place, align=1))

    return types.uint64(octets, types.int64), emit


def _given(item: Any, dimensions: int = 1) -> Any:
    """An array that is only read."""
    return types.Array(item, dimensions, "C", readonly=True)


_INT, _XYZ = types.int64, types.UniTuple(types.int64, 3)
_OCTETS, _RUNS = types.uint8[::1], types.int32[:, ::1]
_READ_RUNS = _given(types.int32, 2)
_STARTS, _WANTED = _given(types.int64), _given(types.boolean)
_PACKED = (_XYZ, _given(types.uint16), _given(types.uint32), _given(types.uint8), _STARTS, _STARTS)
"""A block as it is packed: sub-blocks (x, y, z), counts, index, values, index_starts, value_starts."""

_FULL = np.uint64(2**64 - 1)
_ONE, _TOP = np.uint64(1), np.uint64(63)
_MOST = 512
"""Voxels of a sub-block, hence its labels at most."""
_REVERSED = np.array([int(f"{octet:08b}"[::-1], 2) for octet in range(256)], np.uint8)


# ---------------------------------------------------------------- blocks


@njit(types.uint64(_given(types.uint8), _INT, _INT), nogil=True, cache=True, inline="always")
def _row(values, at, bits):  # noqa: ANN001, ANN202
    """The ``bits`` octets from ``at`` on as one number, the first on top."""
    if at + 8 <= len(values):
        return _big_endian(values, at) >> np.uint64(64 - 8 * bits)  # type: ignore[call-arg]
    word = np.uint64(0)
    for k in range(bits):
        word = word << np.uint64(8) | values[at + k]
    return word


@njit(types.void(_OCTETS, _INT, _INT, _INT, _given(types.uint8), _INT, _INT, _OCTETS), nogil=True, cache=True)
def _unpack(out, to, plane, row, values, at, bits, chosen):  # noqa: ANN001, ANN202
    """The bitmap of a sub-block whose values begin at ``at``; a row of eight values takes ``bits`` bytes, first one on top."""
    low = (1 << bits) - 1
    for z in range(8):
        for y in range(8):
            octet = 0
            if bits == 1:
                octet = np.int64(_REVERSED[values[at] if chosen[1] else values[at] ^ 255])
            elif bits == 9:
                for k in range(8):
                    value = (np.int64(values[at + k]) << 8 | values[at + k + 1]) >> (7 - k) & low
                    octet |= np.int64(chosen[value]) << k
            else:
                word = np.int64(_row(values, at, bits))
                for _ in range(8):
                    octet = octet << 1 | chosen[word & low]
                    word >>= bits
            out[to + z * plane + y * row] = octet
            at += bits


@njit(types.void(_OCTETS, _INT, _INT, _INT), nogil=True, cache=True)
def _fill(out, to, plane, row):  # noqa: ANN001, ANN202
    for z in range(8):
        for y in range(8):
            out[to + z * plane + y * row] = 255


@njit(_INT(_INT), nogil=True, cache=True)
def _bits(count):  # noqa: ANN001, ANN202
    """How wide the values of a sub-block of so many labels are."""
    bits = 0
    while 1 << bits < count:
        bits += 1
    return bits


@njit(
    types.void(types.Tuple(_PACKED), _WANTED, _OCTETS, _OCTETS, _XYZ, _XYZ, _INT, types.boolean), nogil=True, cache=True
)
def _bitmap(packed, wanted, out, hit, low, high, pitch, apart):  # noqa: ANN001, ANN202
    """Sets the bits of all wanted voxels in the sub-blocks from ``low`` up to ``high`` (x, y, z).

    They lie as in the block, ``pitch`` bytes a row, or (``apart``) sub-block after sub-block, 64 bytes each. ``hit``: rows of
    sub-blocks along x that have any.
    """
    chosen = np.zeros(_MOST, np.uint8)
    (gx, gy, _), counts, index, values, index_starts, value_starts = packed
    row, plane = (1, 8) if apart else (pitch, pitch * gy * 8)
    for z in range(low[2], high[2]):
        for y in range(low[1], high[1]):
            for x in range(low[0], high[0]):
                i = (z * gy + y) * gx + x
                count, first = np.int64(counts[i]), index_starts[i]
                found = 0
                for k in range(count):
                    chosen[k] = wanted[index[first + k]]
                    found += chosen[k]
                if found == 0:
                    continue
                hit[z * gy + y] = 1
                to = i * 64 if apart else z * 8 * plane + y * 8 * row + x
                if found == count:
                    _fill(out, to, plane, row)
                    continue
                bits = _bits(count)
                chosen[count : 1 << bits] = 0
                _unpack(out, to, plane, row, values, value_starts[i], bits, chosen)


@njit(types.uint64[::1](_INT, _INT, _INT), nogil=True, cache=True)
def _columns(low, high, count):  # noqa: ANN001, ANN202
    """``count`` words whose bits from ``low`` up to ``high`` are one."""
    out = np.zeros(count, np.uint64)
    for x in range(low, high):
        out[x >> 6] |= _ONE << np.uint64(x & 63)
    return out


@njit(_INT(types.uint64[::1], _INT, types.uint64[::1]), nogil=True, cache=True, inline="always")
def _clip(words, first, columns):  # noqa: ANN001, ANN202
    """Clears all but some columns of a row of words, and counts the runs that are left."""
    runs, carry = 0, np.uint64(0)
    for k in range(len(columns)):
        word = words[first + k] & columns[k]
        words[first + k] = word
        runs += _ones(word & ~(word << _ONE | carry))  # type: ignore[call-arg]
        carry = word >> _TOP
    return runs


@njit(_INT(types.uint64[::1], _INT, _INT, _RUNS, _INT, _XYZ), nogil=True, cache=True, inline="always")
def _read(words, first, count, out, to, start):  # noqa: ANN001, ANN202
    """Writes the runs of a row that begins at voxel ``start`` to ``out`` from ``to`` on; gives where the next one goes."""
    opened = -1
    for k in range(count):
        word, at = words[first + k], 64 * k
        if opened >= 0:
            same = _trailing(~word)  # type: ignore[call-arg]
            if same == 64:
                continue
            out[to - 1, 3] = at + same - opened
            opened = -1
            word = word >> np.uint64(same) << np.uint64(same)
        while word != 0:
            skip = _trailing(word)  # type: ignore[call-arg]
            same = _trailing(~(word >> np.uint64(skip)))  # type: ignore[call-arg]
            out[to, 0], out[to, 1], out[to, 2], out[to, 3] = start[0] + at + skip, start[1], start[2], same
            to += 1
            if skip + same == 64:
                opened = at + skip
                break
            word = word >> np.uint64(skip + same) << np.uint64(skip + same)
    if opened >= 0:
        out[to - 1, 3] = 64 * count - opened
    return to


@njit(_RUNS(*_PACKED, _WANTED, _XYZ, _XYZ, _XYZ), nogil=True, cache=True)
def block_runs(grid, counts, index, values, index_starts, value_starts, wanted, low, high, start):  # noqa: ANN001, ANN201
    """The runs of wanted voxels from ``low`` up to ``high`` of a block that begins at ``start``, all (x, y, z)."""
    count, height = (grid[0] + 7) // 8, grid[1] * 8
    octets, hit = np.zeros(grid[2] * 8 * height * count * 8, np.uint8), np.zeros(grid[1] * grid[2], np.uint8)
    first = (low[0] // 8, low[1] // 8, low[2] // 8)
    stop = ((high[0] + 7) // 8, (high[1] + 7) // 8, (high[2] + 7) // 8)
    packed = (grid, counts, index, values, index_starts, value_starts)
    _bitmap(packed, wanted, octets, hit, first, stop, count * 8, np.bool_(False))
    words, columns = octets.view(np.uint64), _columns(low[0], high[0], count)
    rows = np.empty((high[2] - low[2]) * (high[1] - low[1]), np.int32)
    filled, total = 0, 0
    for z in range(low[2], high[2]):
        for part in range(first[1], stop[1]):
            if hit[(z >> 3) * grid[1] + part] == 0:
                continue
            for y in range(max(low[1], 8 * part), min(high[1], 8 * part + 8)):
                found = _clip(words, (z * height + y) * count, columns)
                if found:
                    rows[filled] = z * height + y
                    filled += 1
                    total += found
    out = np.empty((total, 4), np.int32)
    to = 0
    for row in rows[:filled]:
        to = _read(words, row * count, count, out, to, (start[0], start[1] + row % height, start[2] + row // height))
    return out


@njit(_OCTETS(*_PACKED, _WANTED), nogil=True, cache=True)
def block_masks(grid, counts, index, values, index_starts, value_starts, wanted):  # noqa: ANN001, ANN201
    """The content flag of a block, and if it is mixed the flag and mask of each sub-block."""
    total = grid[0] * grid[1] * grid[2]
    octets, hit = np.zeros(total * 64, np.uint8), np.zeros(grid[1] * grid[2], np.uint8)
    packed = (grid, counts, index, values, index_starts, value_starts)
    _bitmap(packed, wanted, octets, hit, (0, 0, 0), grid, 0, np.bool_(True))
    words = octets.view(np.uint64)
    out = np.empty(1 + total * 65, np.uint8)
    to, empty, full = 1, 0, 0
    for i in range(total):
        every, some = _FULL, np.uint64(0)
        for k in range(8 * i, 8 * i + 8):
            every &= words[k]
            some |= words[k]
        if some == 0:
            out[to] = 0
            empty += 1
        elif every == _FULL:
            out[to] = 1
            full += 1
        else:
            out[to] = 2
            out[to + 1 : to + 65] = octets[64 * i : 64 * i + 64]
            to += 64
        to += 1
    if empty == total or full == total:
        out[0] = full == total
        return out[:1]
    out[0] = 2
    return out[:to]


# ---------------------------------------------------------------- runs


@njit(types.boolean(_READ_RUNS), nogil=True, cache=True)
def _is_sorted(rows):  # noqa: ANN001, ANN202
    for i in range(1, len(rows)):
        for axis in (2, 1, 0):
            if rows[i, axis] != rows[i - 1, axis]:
                if rows[i, axis] < rows[i - 1, axis]:
                    return False
                break
    return True


@njit(types.uint32[::1](_READ_RUNS), nogil=True, cache=True)
def order(rows):  # noqa: ANN001, ANN201
    """The order in which rows that begin with x, y, z are sorted by z, y and x; equal ones stay in order. Digit by digit."""
    n = len(rows)
    now = np.arange(n).astype(np.uint32)
    if _is_sorted(rows):
        return now
    then = np.empty(n, np.uint32)
    places = np.empty(2049, np.int64)
    for axis in range(3):
        low, high = np.int64(rows[0, axis]), np.int64(rows[0, axis])
        for i in range(n):
            low, high = min(low, np.int64(rows[i, axis])), max(high, np.int64(rows[i, axis]))
        shift = 0
        while (high - low) >> shift:
            places[:] = 0
            for i in range(n):
                places[((rows[i, axis] - low) >> shift & 2047) + 1] += 1
            for digit in range(2047):
                places[digit + 1] += places[digit]
            for i in range(n):
                digit = (rows[now[i], axis] - low) >> shift & 2047
                then[places[digit]] = now[i]
                places[digit] += 1
            now, then = then, now
            shift += 11
    return now


@njit(_RUNS(_READ_RUNS), nogil=True, cache=True)
def join_runs(runs):  # noqa: ANN001, ANN201
    """Sorted, and joined where they touch or overlap along x; runs without voxels are left out."""
    out = np.empty(runs.shape, np.int32)
    count, end = 0, 0
    for i in order(runs):
        x, y, z, length = np.int64(runs[i, 0]), runs[i, 1], runs[i, 2], np.int64(runs[i, 3])
        if length <= 0:
            continue
        if count and x <= end and y == out[count - 1, 1] and z == out[count - 1, 2]:
            end = max(end, x + length)
            out[count - 1, 3] = end - out[count - 1, 0]
            continue
        out[count, 0], out[count, 1], out[count, 2], out[count, 3] = x, y, z, length
        end = x + length
        count += 1
    return out[:count]


@njit(types.void(_READ_RUNS, _INT[::1], _XYZ, _RUNS, _RUNS), nogil=True, cache=True)
def cut(runs, kept, block, coords, pieces):  # noqa: ANN001, ANN201
    """Cuts the runs ``kept`` at the borders of blocks: the block of each piece, and the piece in coordinates of its block."""
    to = 0
    for i in kept:
        x, y, z = np.int64(runs[i, 0]), np.int64(runs[i, 1]), np.int64(runs[i, 2])
        stop = x + runs[i, 3]
        by, bz = y // block[1], z // block[2]
        while x < stop:
            bx = x // block[0]
            end = min(stop, (bx + 1) * block[0])
            coords[to, 0], coords[to, 1], coords[to, 2] = bx, by, bz
            pieces[to, 0], pieces[to, 1], pieces[to, 2] = x - bx * block[0], y - by * block[1], z - bz * block[2]
            pieces[to, 3] = end - x
            to += 1
            x = end


# ---------------------------------------------------------------- voxels


@njit(
    types.void(types.uint64[:, :, ::1], _READ_RUNS, _given(types.uint64), _given(types.uint64), _INT[::1]),
    nogil=True,
    cache=True,
)
def paint(voxels, runs, old, new, counts):  # noqa: ANN001, ANN201
    """Replaces ``old`` (ascending) by ``new`` inside the runs, which lie inside ``voxels``, and adds up how many of each."""
    last, found = np.uint64(0), -1
    known = False
    for i in range(len(runs)):
        row = voxels[runs[i, 2], runs[i, 1]]
        for x in range(runs[i, 0], runs[i, 0] + runs[i, 3]):
            label = row[x]
            if not known or label != last:
                at = np.searchsorted(old, label)
                found = at if at < len(old) and old[at] == label else -1
                last, known = label, True
            if found >= 0:
                row[x] = new[found]
                counts[found] += 1


@njit(types.void(types.uint8[:, :, ::1], _XYZ, _READ_RUNS), nogil=True, cache=True)
def fill_mask(out, origin, runs):  # noqa: ANN001, ANN201
    """Sets to 1 what the runs select of a window (z, y, x) that begins at ``origin`` (x, y, z)."""
    depth, height, width = out.shape
    for i in range(len(runs)):
        x, y, z = runs[i, 0] - origin[0], runs[i, 1] - origin[1], runs[i, 2] - origin[2]
        if 0 <= y < height and 0 <= z < depth:
            for k in range(max(x, 0), min(x + runs[i, 3], width)):
                out[z, y, k] = 1


@njit(_INT(_given(types.uint8, 3), _XYZ, _RUNS), nogil=True, cache=True)
def mask_runs(mask, start, out):  # noqa: ANN001, ANN201
    """Writes the runs of a mask (z, y, x) that begins at ``start`` (x, y, z), as many as ``out`` takes; gives how many there are."""
    depth, height, width = mask.shape
    count = 0
    for z in range(depth):
        for y in range(height):
            opened = -1
            for x in range(width):
                if mask[z, y, x] != 0:
                    if opened < 0:
                        opened = x
                    if x + 1 < width and mask[z, y, x + 1] != 0:
                        continue
                    if count < len(out):
                        out[count, 0], out[count, 1], out[count, 2] = start[0] + opened, start[1] + y, start[2] + z
                        out[count, 3] = x + 1 - opened
                    count += 1
                    opened = -1
    return count
