"""Compiled loops of :mod:`dvidfs.kernels.digits`: numbers to text and back, looked at byte by byte.

Every read is guarded by the size of the text, every write by the room that the caller has proved (see there).
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

_TEXT = types.Array(types.uint8, 1, "C", readonly=True)
_WORDS = types.Array(types.uint64, 1, "C", readonly=True)
_OUT, _ROWS = types.uint8[::1], types.uint64[:, ::1]
_INT, _WORD = types.int64, types.uint64
_PAIR, _TRIPLE = types.UniTuple(_INT, 2), types.UniTuple(_INT, 3)

_OPEN, _CLOSE, _COMMA, _MINUS, _ZERO, _NINE, _SPACE, _LINE = 91, 93, 44, 45, 48, 57, 32, 10
_NO_LIST, _NO_ROW, _NO_NUMBER, _NO_COMMA, _LONG, _SHORT, _TAIL = -1, -2, -3, -4, -5, -6, -7
_U0, _U10, _U100 = np.uint64(0), np.uint64(10), np.uint64(100)
_MOST, _HALF = np.uint64(2**64 - 1), np.uint64(2**63)
_TENTH, _LAST = np.uint64((2**64 - 1) // 10), np.uint64((2**64 - 1) % 10)


@njit(_INT(_OUT, _INT, _WORD), nogil=True, cache=True, inline="always")
def _write(out, at, value):  # noqa: ANN001, ANN202
    """Behind the digits of ``value``, written from ``at`` on."""
    size, bound = 1, _U10
    while value >= bound:
        size += 1
        if size == 20:
            break
        bound *= _U10
    stop = at + size
    at = stop
    while value >= _U100:
        rest = value // _U100
        two = np.int64(value - rest * _U100)
        out[at - 1] = _ZERO + two % 10
        out[at - 2] = _ZERO + two // 10
        at -= 2
        value = rest
    last = np.int64(value)
    out[at - 1] = _ZERO + last % 10
    if last >= 10:
        out[at - 2] = _ZERO + last // 10
    return stop


@njit(_INT(_WORDS, _WORDS, _OUT), nogil=True, cache=True)
def lines(keys, values, out):  # noqa: ANN001, ANN201
    """Writes ``key value\\n`` for each pair and tells how many bytes; ``out`` has room for 42 bytes each, or for what is known to do."""
    at = 0
    for i in range(len(keys)):
        at = _write(out, at, keys[i])
        out[at] = _SPACE
        at = _write(out, at + 1, values[i])
        out[at] = _LINE
        at += 1
    return at


@njit(_INT(_TEXT, _INT), nogil=True, cache=True, inline="always")
def _skip(text, at):  # noqa: ANN001, ANN202
    """Behind the blanks at ``at``."""
    while at < len(text) and (text[at] == 32 or text[at] == 10 or text[at] == 13 or text[at] == 9):
        at += 1
    return at


@njit(types.boolean(_TEXT, _INT), nogil=True, cache=True, inline="always")
def _digit(text, at):  # noqa: ANN001, ANN202
    return at < len(text) and _ZERO <= text[at] <= _NINE


@njit(types.Tuple((_WORD, _INT))(_TEXT, _INT, types.boolean), nogil=True, cache=True, inline="always")
def _number(text, at, signed):  # noqa: ANN001, ANN202
    """A number as 64 bits and the place behind it; -1 for the place if there is none of that kind."""
    negative = at < len(text) and text[at] == _MINUS
    if negative:
        at += 1
    first, value = at, _U0
    safe = min(at + 19, len(text))  # so many figures fit whatever they are
    while at < safe and _ZERO <= text[at] <= _NINE:
        value = value * _U10 + np.uint64(text[at] - _ZERO)
        at += 1
    while _digit(text, at):
        figure = np.uint64(text[at] - _ZERO)
        if value >= _TENTH and (value > _TENTH or figure > _LAST):
            return _U0, -1
        value = value * _U10 + figure
        at += 1
    if at == first or (text[first] == _ZERO and at - first > 1):
        return _U0, -1
    if at < len(text) and not (text[at] == _COMMA or text[at] == _CLOSE or text[at] <= _SPACE):
        return _U0, -1
    if negative:
        most = _HALF if signed else _U0
    else:
        most = _HALF - np.uint64(1) if signed else _MOST
    if value > most:
        return _U0, -1
    return (_U0 - value if negative else value), at


@njit(_PAIR(_TEXT, _INT, _ROWS, _INT, types.boolean), nogil=True, cache=True)
def _row(text, at, out, count, signed):  # noqa: ANN001, ANN202
    """Reads the row at ``at``: the place behind it and 0, or where it is wrong and why."""
    if at >= len(text) or text[at] != _OPEN:
        return at, _NO_ROW
    at = _skip(text, at + 1)
    width = out.shape[1]
    for column in range(width):
        if column == 0 and at < len(text) and text[at] == _CLOSE:
            return at, _SHORT
        value, stop = _number(text, at, signed)
        if stop < 0:
            return at, _NO_NUMBER
        out[count, column] = value
        at = _skip(text, stop)
        wanted = _COMMA if column < width - 1 else _CLOSE
        if at < len(text) and text[at] == wanted:
            at += 1
        elif at < len(text) and text[at] == _CLOSE:
            return at, _SHORT
        elif at < len(text) and text[at] == _COMMA:
            return at, _LONG
        else:
            return at, _NO_COMMA
        if column < width - 1:
            at = _skip(text, at)
    return at, 0


@njit(_TRIPLE(_TEXT, _ROWS, types.boolean, types.boolean), nogil=True, cache=True)
def parse(text, out, nested, signed):  # noqa: ANN001, ANN201
    """Fills ``out`` with a list and tells how many rows, 0, 0; or a number below 0 (why) in the second place and where in the third.

    ``nested``: rows are lists of their own; else numbers, and ``out`` has one column. ``out`` has room for as many rows as
    the text has opening brackets, or commas and one more.
    """
    size = len(text)
    at = _skip(text, 0)
    if at >= size or text[at] != _OPEN:
        return 0, _NO_LIST, at
    at = _skip(text, at + 1)
    count = 0
    if at < size and text[at] == _CLOSE:
        at = _skip(text, at + 1)
        return 0, (0 if at == size else _TAIL), at
    while True:
        if nested:
            at, wrong = _row(text, at, out, count, signed)
            if wrong != 0:
                return 0, wrong, at
        else:
            value, stop = _number(text, at, signed)
            if stop < 0:
                return 0, _NO_NUMBER, at
            out[count, 0] = value
            at = stop
        count += 1
        at = _skip(text, at)
        if at < size and text[at] == _COMMA:
            at = _skip(text, at + 1)
        elif at < size and text[at] == _CLOSE:
            break
        else:
            return 0, _NO_COMMA, at
    at = _skip(text, at + 1)
    return count, (0 if at == size else _TAIL), at
