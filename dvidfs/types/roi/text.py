"""Spans and points as JSON: lists of lists of whole 32-bit numbers.

Decides which texts are taken. As the original does, ``null`` is an empty list or a 0, a row that is too short is completed with 0 and
one that is too long is cut. Text that is plainly a list of rows of the right length is read by a kernel; anything else takes the slow way, which
says what is wrong. Invariant: both ways give the same numbers for every text that the kernel takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dvidfs.engine.store import Buffer
from dvidfs.errors import BadRequest
from dvidfs.kernels import rows as kernel
from dvidfs.types.geometry import COORD_MAX, COORD_MIN

SPAN, POINT = "span", "point"
_FORMS = {SPAN: "[z, y, x0, x1]", POINT: "[x, y, z]"}
_WIDTHS = {SPAN: 4, POINT: 3}


def parse_spans(data: Buffer) -> NDArray[np.int32]:
    """Spans (n, 4) of (z, y, x0, x1), in the order of the text.

    Raises:
        BadRequest: it is no such text, or a span ends before it begins.
    """
    spans = _parse(data, SPAN)
    bad = np.flatnonzero(spans[:, 3] < spans[:, 2])
    if len(bad):
        wrong = spans[bad[0]].tolist()
        raise BadRequest(f"Got weird span {wrong}.  span[3] (X1) < span[2] (X0): nothing was written")
    return spans


def parse_points(data: Buffer) -> NDArray[np.int32]:
    """Points (n, 3) of (x, y, z).

    Raises:
        BadRequest: it is no such text.
    """
    return _parse(data, POINT)


def dump(rows: NDArray[np.int32]) -> bytes:
    """Rows as the wire writes them."""
    return orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)


def _parse(data: Buffer, what: str) -> NDArray[np.int32]:
    found = kernel.parse(data, _WIDTHS[what])
    return _read(data, what) if found is None else found


def _read(data: Buffer, what: str) -> NDArray[np.int32]:
    """The slow way: every form that is taken, every error."""
    try:
        given = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"Error trying to parse POSTed JSON: {error}") from None
    if given is None:
        given = []
    if not isinstance(given, list):
        raise BadRequest(f"Error trying to parse POSTed JSON: want a list of {what}s, [{_FORMS[what]}, ...]")
    rows = [_row(row, what, at) for at, row in enumerate(given)]
    return np.array(rows, np.int32).reshape(-1, _WIDTHS[what])


def _row(row: Any, what: str, at: int) -> list[int]:
    width = _WIDTHS[what]
    if row is None:
        return [0] * width
    if not isinstance(row, list):
        raise _wrong(row, what, at)
    numbers = [0 if n is None else n for n in row[:width]]
    if not all(type(n) is int and COORD_MIN <= n <= COORD_MAX for n in numbers):
        raise _wrong(row, what, at)
    return numbers + [0] * (width - len(numbers))


def _wrong(row: Any, what: str, at: int) -> BadRequest:
    shown = orjson.dumps(row).decode()[:60]
    return BadRequest(
        f"Error trying to parse POSTed JSON: {what} {at} is {shown}, want {_FORMS[what]} of whole 32-bit numbers"
    )
