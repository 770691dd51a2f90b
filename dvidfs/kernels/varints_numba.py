"""Compiled loops of :mod:`dvidfs.kernels.varints`: protobuf messages of labels, byte by byte.

A reader gives the place behind what it read, or a number below 0 that says what is wrong. Every read is guarded by the
end of the message it is in, which lies in the buffer; room for what is written is proved by who calls (see there).
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

_DATA = types.Array(types.uint8, 1, "C", readonly=True)
_WORDS = types.Array(types.uint64, 1, "C", readonly=True)
_COUNTS = types.Array(types.uint32, 1, "C", readonly=True)
_INTS = types.Array(types.int64, 1, "C", readonly=True)
_INT, _WORD = types.int64, types.uint64
_PAIR, _FIVE = types.UniTuple(_INT, 2), types.Tuple((_INT, _INT, _WORD, _INT, _INT))

_SHORT = 5
"""So many rows with their block take less than 128 bytes whatever they are: lengths of one byte, filled in afterwards."""

_CUT, _LONG, _TYPE, _NUMBER, _WIDE = -1, -2, -3, -4, -5
_U0, _U3, _U7, _U20, _U64 = (np.uint64(n) for n in (0, 3, 7, 20, 64))
_LOW7, _HIGH, _MOST_COUNT, _MOST_FIELD = (np.uint64(n) for n in (0x7F, 0x80, 2**32 - 1, 2**29 - 1))
_SIGNS = np.uint64(1 << 20 | 1 << 41 | 1 << 62)
_VALUES = np.uint64((1 << 63) - 1 - (1 << 20 | 1 << 41 | 1 << 62))


@njit(_INT(_WORD), nogil=True, cache=True, inline="always")
def _size(value):  # noqa: ANN001, ANN202
    """Bytes of a number."""
    size = 1
    while value >= _HIGH:
        value >>= _U7
        size += 1
    return size


@njit(_INT(types.uint8[::1], _INT, _WORD), nogil=True, cache=True, inline="always")
def _put(out, at, value):  # noqa: ANN001, ANN202
    """Behind the number, written at ``at``."""
    while value >= _HIGH:
        out[at] = value & _LOW7 | _HIGH
        value >>= _U7
        at += 1
    out[at] = value
    return at + 1


@njit(_WORD(_WORD), nogil=True, cache=True, inline="always")
def _key_of(code):  # noqa: ANN001, ANN202
    negative = ~code & _SIGNS
    ones = negative >> _U20
    return ((code & _VALUES ^ negative - ones) + ones) | negative


@njit(_WORD(_WORD), nogil=True, cache=True, inline="always")
def _code_of(key):  # noqa: ANN001, ANN202
    negative = key & _SIGNS
    ones = negative >> _U20
    return ((key & _VALUES ^ negative - ones) + ones) + (~key & _SIGNS)


@njit(_INT(_WORDS, _COUNTS, _INT, _INT, _WORD), nogil=True, cache=True)
def _content(supervoxels, counts, first, stop, mark):  # noqa: ANN001, ANN202
    """Bytes of the ``SVCount`` of some rows."""
    size = 1 + _size(mark) if mark != _U0 else 0
    for row in range(first, stop):
        size += 4 + _size(supervoxels[row]) + _size(np.uint64(counts[row]))
    return size


@njit(_INT(_WORDS, _WORDS, _COUNTS, _WORDS, types.uint8[::1]), nogil=True, cache=True)
def encode_blocks(codes, supervoxels, counts, surface, out):  # noqa: ANN001, ANN201
    """Writes the field ``blocks`` and tells how many bytes; -1 if ``surface`` is neither one number nor one for each block."""
    at, first, block, n = 0, 0, 0, len(codes)
    while first < n:
        if len(surface) != 1 and block >= len(surface):
            return -1
        mark = surface[0] if len(surface) == 1 else surface[block]
        key, stop = _key_of(codes[first]), first + 1
        while stop < n and codes[stop] == codes[first]:
            stop += 1
        size = 0
        if stop - first > _SHORT:
            size = _content(supervoxels, counts, first, stop, mark)
        out[at] = 0x0A
        entry = at + 1
        at = _put(out, entry, np.uint64(2 + _size(key) + _size(np.uint64(size)) + size)) if size else entry + 1
        out[at] = 0x08
        at = _put(out, at + 1, key)
        out[at] = 0x12
        content = at + 1
        at = _put(out, content, np.uint64(size)) if size else content + 1
        for row in range(first, stop):
            out[at] = 0x0A
            out[at + 2] = 0x08
            behind = _put(out, at + 3, supervoxels[row])
            out[behind] = 0x10
            behind = _put(out, behind + 1, np.uint64(counts[row]))
            out[at + 1] = behind - at - 2
            at = behind
        if mark != _U0:
            out[at] = 0x10
            at = _put(out, at + 1, mark)
        if not size:
            out[entry], out[content] = at - entry - 1, at - content - 1
        first = stop
        block += 1
    return at if len(surface) == 1 or block == len(surface) else -1


@njit(types.Tuple((_WORD, _INT))(_DATA, _INT, _INT), nogil=True, cache=True, inline="always")
def _number(data, at, end):  # noqa: ANN001, ANN202
    value, shift = _U0, _U0
    while at < end:
        byte = np.uint64(data[at])
        at += 1
        if shift == 63 and byte > 1:
            return _U0, _LONG
        value |= (byte & _LOW7) << shift
        if byte < _HIGH:
            return value, at
        shift += _U7
    return _U0, _CUT


@njit(_FIVE(_DATA, _INT, _INT), nogil=True, cache=True)
def _field(data, at, end):  # noqa: ANN001, ANN202
    """(number, wire type, value, start, stop) of the field at ``at``; what is wrong stands in place of the number.

    The value is that of a number (wire type 0); start and stop are those of the payload of all others.
    """
    if end - at > 1 and data[at] & 0x87 == 2 and data[at] > 7 and data[at + 1] < 0x80 and data[at + 1] <= end - at - 2:
        return np.int64(data[at] >> 3), 2, _U0, at + 2, at + 2 + data[at + 1]  # most fields, at less cost
    tag, at = _number(data, at, end)
    if at < 0:
        return at, 0, _U0, 0, 0
    number, wire = tag >> _U3, np.int64(tag & _U7)
    if number == 0 or number > _MOST_FIELD:
        return _NUMBER, 0, _U0, 0, 0
    size = _U0
    if wire == 0:
        value, stop = _number(data, at, end)
        return (np.int64(number) if stop >= 0 else stop), wire, value, at, stop
    if wire == 2:
        size, at = _number(data, at, end)
        if at < 0:
            return at, 0, _U0, 0, 0
    elif wire == 1 or wire == 5:
        size = np.uint64(8 if wire == 1 else 4)
    else:
        return _TYPE, 0, _U0, 0, 0
    if size > np.uint64(end - at):
        return _CUT, 0, _U0, 0, 0
    return np.int64(number), wire, _U0, at, at + np.int64(size)


@njit(_PAIR(_DATA, _INT, _INT, _INT, _WORD[::1], types.uint32[::1]), nogil=True, cache=True)
def _count(data, at, end, row, supervoxels, counts):  # noqa: ANN001, ANN202
    """Reads one entry of ``SVCount.counts`` into ``row``: 0 and ``end``, or what is wrong and where."""
    supervoxel, count = _U0, _U0
    if at < end and data[at] == 0x08:  # as every writer has it: both fields, in this order
        supervoxel, middle = _number(data, at + 1, end)
        if 0 <= middle < end and data[middle] == 0x10:
            count, stop = _number(data, middle + 1, end)
            if stop == end and count <= _MOST_COUNT:
                supervoxels[row], counts[row] = supervoxel, count
                return 0, end
        supervoxel, count = _U0, _U0
    while at < end:
        number, wire, value, _, stop = _field(data, at, end)
        if number < 0:
            return number, at
        if number == 1 or number == 2:
            if wire != 0:
                return _TYPE, at
            if number == 1:
                supervoxel = value
            elif value > _MOST_COUNT:
                return _WIDE, at
            else:
                count = value
        at = stop
    supervoxels[row], counts[row] = supervoxel, count
    return 0, end


@njit(
    types.Tuple((_INT, _INT, _WORD))(_DATA, _INT, _INT, _INT, _WORD, _WORD[::1], types.uint32[::1]),
    nogil=True,
    cache=True,
)
def _counts(data, at, end, row, mark, supervoxels, counts):  # noqa: ANN001, ANN202
    """Reads an ``SVCount``: the row behind its last and its surface_mutid; or what is wrong and where."""
    while at < end:
        number, wire, value, start, stop = _field(data, at, end)
        if number < 0:
            return number, at, _U0
        if number == 1:
            if wire != 2:
                return _TYPE, at, _U0
            wrong, place = _count(data, start, stop, row, supervoxels, counts)
            if wrong < 0:
                return wrong, place, _U0
            row += 1
        elif number == 2:
            if wire != 0:
                return _TYPE, at, _U0
            mark = value
        at = stop
    return row, at, mark


@njit(
    types.Tuple((_INT, _INT, _WORD, _WORD))(_DATA, _INT, _INT, _INT, _WORD[::1], types.uint32[::1]),
    nogil=True,
    cache=True,
)
def _block(data, at, end, row, supervoxels, counts):  # noqa: ANN001, ANN202
    """Reads one entry of ``LabelIndex.blocks``: the row behind its last, -, its key and surface; or what is wrong and where."""
    key, mark = _U0, _U0
    while at < end:
        number, wire, value, start, stop = _field(data, at, end)
        if number < 0:
            return number, at, _U0, _U0
        if number == 1:
            if wire != 0:
                return _TYPE, at, _U0, _U0
            key = value
        elif number == 2:
            if wire != 2:
                return _TYPE, at, _U0, _U0
            row, place, mark = _counts(data, start, stop, row, mark, supervoxels, counts)
            if row < 0:
                return row, place, _U0, _U0
        at = stop
    return row, at, key, mark


@njit(
    _PAIR(
        _DATA,
        _INTS,
        _INTS,
        _WORD[:, ::1],
        _INT[:, ::1],
        _WORD[::1],
        _WORD[::1],
        _INT[::1],
        _WORD[::1],
        types.uint32[::1],
    ),
    nogil=True,
    cache=True,
)
def decode_indices(data, starts, stops, numbers, heads, keys, surface, ends, supervoxels, counts):  # noqa: ANN001, ANN201
    """Fills the arrays from the messages at ``starts`` and tells how many blocks and rows, or what is wrong and where."""
    block = row = 0
    for i in range(len(starts)):
        at, end = starts[i], stops[i]
        numbers[i] = 0
        heads[i] = 0
        ordered = True
        first, first_row = block, row
        while at < end:
            number, wire, value, start, stop = _field(data, at, end)
            if number < 0:
                return number, at
            if number <= 6 and (wire == 0) != (number == 2 or number == 3):
                return _TYPE, at
            if number <= 6 and wire != 0 and wire != 2:
                return _TYPE, at
            if number == 1:
                behind, place, key, mark = _block(data, start, stop, row, supervoxels, counts)
                if behind < 0:
                    return behind, place
                ordered &= behind > row and (block == first or _code_of(keys[block - 1]) < _code_of(key))
                for k in range(row + 1, behind):
                    ordered &= supervoxels[k - 1] < supervoxels[k]
                row = behind
                keys[block], surface[block], ends[block] = key, mark, row - first_row
                block += 1
            elif number <= 3:
                numbers[i, number - 2] = value
            elif number <= 6:
                heads[i, 2 * number - 8], heads[i, 2 * number - 7] = start, stop
            at = stop
        heads[i, 6], heads[i, 7], heads[i, 8] = block, row, ordered
    return block, row


@njit(_PAIR(_DATA, _INT, _INT, _INT, _WORD[::1]), nogil=True, cache=True)
def _packed(data, at, end, row, out):  # noqa: ANN001, ANN202
    """Reads numbers without tags from ``row`` on: the row behind the last, or what is wrong and where."""
    while at < end:
        value, stop = _number(data, at, end)
        if stop < 0:
            return stop, at
        out[row] = value
        row += 1
        at = stop
    return row, at


@njit(_PAIR(_DATA, _INT, _INT, _INT, _WORD[::1], _WORD[::1], _WORD[::1]), nogil=True, cache=True)
def _mapping(data, at, end, row, originals, mapped, mutids):  # noqa: ANN001, ANN202
    """Reads a ``MappingOp`` into the rows from ``row`` on: the row behind the last, or what is wrong and where."""
    first = row
    mutid, body = _U0, _U0
    while at < end:
        number, wire, value, start, stop = _field(data, at, end)
        if number < 0:
            return number, at
        if number <= 3 and wire != 0 and (number != 3 or wire != 2):
            return _TYPE, at
        if number == 1:
            mutid = value
        elif number == 2:
            body = value
        elif number == 3 and wire == 0:
            originals[row] = value
            row += 1
        elif number == 3:
            row, place = _packed(data, start, stop, row, originals)
            if row < 0:
                return row, place
        at = stop
    mapped[first:row] = body
    mutids[first:row] = mutid
    return row, at


@njit(_PAIR(_DATA, _WORD[::1], _WORD[::1], _WORD[::1]), nogil=True, cache=True)
def decode_mappings(data, originals, mapped, mutids):  # noqa: ANN001, ANN201
    """Fills the arrays from a ``MappingOps`` and tells how many rows; or what is wrong and where."""
    at, row, end = 0, 0, len(data)
    while at < end:
        number, wire, _, start, stop = _field(data, at, end)
        if number < 0:
            return number, at
        if number == 1:
            if wire != 2:
                return _TYPE, at
            row, place = _mapping(data, start, stop, row, originals, mapped, mutids)
            if row < 0:
                return row, place
        at = stop
    return row, at
