"""Compiled loop of :mod:`dvidfs.kernels.rows`: one pass over the text, which is looked at byte by byte."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

_TEXT = types.Array(types.uint8, 1, "C", readonly=True)
_ROWS = types.int32[:, ::1]
_OPEN, _CLOSE, _COMMA, _MINUS, _ZERO, _NINE = 91, 93, 44, 45, 48, 57
_LIMIT = 1 << 31


@njit(types.int64(_TEXT, types.int64), nogil=True, cache=True, inline="always")
def _skip(text, at):  # noqa: ANN001, ANN202
    """Behind the blanks at ``at``."""
    while at < len(text) and (text[at] == 32 or text[at] == 10 or text[at] == 13 or text[at] == 9):
        at += 1
    return at


@njit(types.UniTuple(types.int64, 2)(_TEXT, types.int64), nogil=True, cache=True, inline="always")
def _number(text, at):  # noqa: ANN001, ANN202
    """A number and the place behind it; -1 for the place if there is none."""
    size, value = len(text), 0
    negative = at < size and text[at] == _MINUS
    if negative:
        at += 1
    first = at
    while at < size and _ZERO <= text[at] <= _NINE and value < _LIMIT:
        value = value * 10 + (text[at] - _ZERO)
        at += 1
    digits = at - first
    if digits == 0 or (text[first] == _ZERO and digits > 1):
        return 0, -1
    if value > _LIMIT or (value == _LIMIT and not negative):
        return 0, -1
    return (-value if negative else value), at


@njit(types.int64(_TEXT, _ROWS), nogil=True, cache=True)
def _parse(text, out):  # noqa: ANN001, ANN202
    size, width = len(text), out.shape[1]
    at = _skip(text, 0)
    if at >= size or text[at] != _OPEN:
        return -1
    at = _skip(text, at + 1)
    count = 0
    if at < size and text[at] == _CLOSE:
        return 0 if _skip(text, at + 1) == size else -1
    while True:
        if at >= size or text[at] != _OPEN:
            return -1
        at += 1
        for column in range(width):
            value, at = _number(text, _skip(text, at))
            if at < 0:
                return -1
            out[count, column] = value
            at = _skip(text, at)
            if at >= size or text[at] != (_COMMA if column < width - 1 else _CLOSE):
                return -1
            at += 1
        count += 1
        at = _skip(text, at)
        if at >= size:
            return -1
        if text[at] == _CLOSE:
            return count if _skip(text, at + 1) == size else -1
        if text[at] != _COMMA:
            return -1
        at = _skip(text, at + 1)


def parse(text: NDArray[np.uint8], out: NDArray[np.int32]) -> Any:
    """Fills ``out`` with the rows of a text and tells how many, or -1; ``out`` has room for one row for each ``[``."""
    return int(_parse(text, out))
