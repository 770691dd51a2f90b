"""Long lists of whole numbers as text: JSON lists of numbers and of points, and lines of two numbers.

Decides what is a list: JSON's own grammar (RFC 8259), whole numbers in 64 bits, written without fraction and exponent; ``null`` is
the empty list. What the numbers mean, and which are allowed, is left to others. Invariant: both forms take the same texts, give
the same numbers, and name the same place where a text is wrong.

A million numbers on one core, in ms: reading a list of labels below 2^40 through orjson 175, compiled 30; reading 333,333 points through orjson
600, compiled 28; writing lines of two labels (a million of them) through orjson 190, compiled 50. Writing a list is orjson's own work: 8.
"""

from __future__ import annotations

import re
from itertools import chain

import numpy as np
import orjson
from numpy.typing import NDArray

from dvidfs import kernels

Buffer = bytes | bytearray | memoryview

_SHORT = 512
"""Shorter texts are read by the plain form before the kernel's call is made."""
_BLANK = re.compile(rb"[ \t\r\n]*")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?=[,\]\x00-\x20]|\Z)")
_WORD = re.compile(rb"[^\s,\[\]]{1,24}")
_UNSIGNED, _SIGNED = (0, 2**64 - 1), (-(2**63), 2**63 - 1)

_NO_LIST, _NO_ROW, _NO_NUMBER, _NO_COMMA, _LONG, _SHORT_ROW, _TAIL = range(-1, -8, -1)
"""What can be wrong, as the compiled form tells it."""


def mapping_lines(keys: NDArray[np.uint64], values: NDArray[np.uint64]) -> bytes:
    """``<key> <value>`` and a line feed for each pair, as ``GET /mappings`` has it.

    Raises:
        ValueError: not equally many of both.
    """
    if keys.shape != values.shape or keys.ndim != 1:
        raise ValueError(f"{keys.size} keys and {values.size} values: there must be as many of both")
    if not len(keys):
        return b""
    compiled = kernels.ready("digits_numba")
    if compiled is None:
        return mapping_lines_plain(keys, values)
    longest = len(str(keys.max())) + len(str(values.max())) + 2
    out = np.empty(len(keys) * longest, np.uint8)
    return out[: compiled.lines(_words(keys), _words(values), out)].tobytes()


def mapping_lines_plain(keys: NDArray[np.uint64], values: NDArray[np.uint64]) -> bytes:
    """The numpy twin of :func:`mapping_lines`."""
    if not len(keys):
        return b""
    text = orjson.dumps(np.stack((keys, values), 1), option=orjson.OPT_SERIALIZE_NUMPY)
    return text[2:-2].replace(b"],[", b"\n").replace(b",", b" ") + b"\n"


def json_numbers(numbers: NDArray[np.uint64]) -> bytes:
    """``[1,2,3]``, without blanks."""
    return orjson.dumps(np.ascontiguousarray(numbers), option=orjson.OPT_SERIALIZE_NUMPY)


def parse_numbers(data: Buffer) -> NDArray[np.uint64]:
    """The numbers of a JSON list of whole numbers from 0 to 2^64 - 1; ``null`` is none.

    Raises:
        ValueError: something else; the text names the place.
    """
    return _parse(data, 0, _UNSIGNED).reshape(-1)


def parse_points(data: Buffer) -> NDArray[np.int64]:
    """The points (n, 3) of a JSON list of ``[x, y, z]``, whole numbers of 64 bits with a sign; ``null`` is none.

    Raises:
        ValueError: something else; the text names the place.
    """
    return _parse(data, 3, _SIGNED).view(np.int64)


def _parse(data: Buffer, width: int, limits: tuple[int, int]) -> NDArray[np.uint64]:
    """Rows (n, width) of a list of lists; for ``width`` 0 (n, 1) of a list of numbers. Numbers below 0 as two's complement."""
    octets = np.frombuffer(data, np.uint8)
    compiled = kernels.ready("digits_numba") if len(octets) >= _SHORT else None
    if compiled is None:
        return parse_plain(data, width, limits)
    room = np.count_nonzero(octets == ord("[")) if width else np.count_nonzero(octets == ord(",")) + 1
    out = np.empty((room, width or 1), np.uint64)
    count, wrong, at = compiled.parse(octets, out, width > 0, limits is _SIGNED)
    if not wrong:
        return out[:count]
    if wrong == _NO_LIST and _is_null(data):
        return out[:0]
    raise ValueError(_complaint(data, at, wrong, width, limits))


def parse_plain(data: Buffer, width: int, limits: tuple[int, int]) -> NDArray[np.uint64]:
    """The twin of :func:`_parse`."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        found = False
    rows = [] if found is None else found
    if type(rows) is list and (not width or all(type(row) is list and len(row) == width for row in rows)):
        numbers = list(chain.from_iterable(rows)) if width else rows
        if all(type(n) is int and limits[0] <= n <= limits[1] for n in numbers):
            return (
                np.array(numbers, np.int64 if limits is _SIGNED else np.uint64).view(np.uint64).reshape(-1, width or 1)
            )
    wrong, at = _Reader(bytes(data), width, limits).fault()
    raise ValueError(_complaint(data, at, wrong, width, limits))


def _words(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.require(numbers, np.uint64, ["C", "A"])


def _is_null(data: Buffer) -> bool:
    return len(data) < 1 << 16 and bytes(data).strip(b" \t\r\n") == b"null"


class _Reader:
    """Goes through a text that is known to be wrong, to find the place."""

    def __init__(self, data: bytes, width: int, limits: tuple[int, int]) -> None:
        self.data, self.width, self.limits = data, width, limits
        self.at = 0
        self.blanks()

    def fault(self) -> tuple[int, int]:
        """What is wrong, and where."""
        return self.list_fault(self.row_fault if self.width else self.number_fault), self.at

    def blanks(self) -> None:
        self.at = _BLANK.match(self.data, self.at).end()  # type: ignore[union-attr]

    def take(self, mark: bytes) -> bool:
        """Step over ``mark`` and the blanks behind it, if it is there."""
        found = self.data.startswith(mark, self.at)
        if found:
            self.at += 1
            self.blanks()
        return found

    def list_fault(self, item_fault) -> int:  # noqa: ANN001 - a method of this class
        if not self.take(b"["):
            return _NO_LIST
        if not self.take(b"]"):
            while True:
                if wrong := item_fault():
                    return wrong
                if self.take(b"]"):
                    break
                if not self.take(b","):
                    return _NO_COMMA
        return _TAIL

    def number_fault(self) -> int:
        found = _NUMBER.match(self.data, self.at)
        # The length is looked at first: reading very many digits takes Python very long.
        if found is None or len(found[0]) > 20 or not self.limits[0] <= int(found[0]) <= self.limits[1]:
            return _NO_NUMBER
        self.at = found.end()
        self.blanks()
        return 0

    def row_fault(self) -> int:
        if not self.take(b"["):
            return _NO_ROW
        for column in range(self.width):
            if column == 0 and self.data.startswith(b"]", self.at):
                return _SHORT_ROW
            if wrong := self.number_fault():
                return wrong
            last = column == self.width - 1
            if self.take(b"]" if last else b","):
                continue
            if self.data.startswith(b"," if last else b"]", self.at):
                return _LONG if last else _SHORT_ROW
            return _NO_COMMA
        return 0


def _complaint(data: Buffer, at: int, wrong: int, width: int, limits: tuple[int, int]) -> str:
    """One line: where, what stands there, and what would be right."""
    rest = bytes(data[at : at + 64])
    word = _WORD.match(rest)
    found = (word[0] if word else rest[:1]).decode(errors="replace")
    stands = repr(found) if found else "the end of the text"
    row = "[" + ", ".join(["number"] * width) + "]"
    wanted = {
        _NO_LIST: f"a JSON list of {row if width else 'whole numbers'} should begin",
        _NO_ROW: f"{row} should be",
        _NO_NUMBER: f"a whole number from {limits[0]} to {limits[1]} should be",
        _NO_COMMA: "',' or ']' should be",
        _LONG: f"{row} should end",
        _SHORT_ROW: f"{row} should go on",
        _TAIL: "the text should end, behind its list",
    }
    return f"position {at}: {stands} where {wanted[wrong]}"
