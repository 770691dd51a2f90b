"""Lists of numbers as text: both forms agree with Python's own JSON on every text, right or wrong."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dvidfs import kernels
from dvidfs.kernels import digits

kernels.load("digits_numba")
WORDS = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 300), st.integers(0, 19).map(lambda n: 10**n))
SIGNED = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-300, 300))
LONG = b" " * 600
"""Before a text, so that the compiled form reads it."""


def numbers_in_python(text: bytes, low: int, high: int, width: int) -> list | None:
    """What a text says, or None if it is no such list."""

    def refuse(_: str):
        raise ValueError

    try:
        found = json.loads(text.decode("ascii"), parse_float=refuse, parse_constant=refuse)
    except ValueError:
        return None
    if found is None:
        return []
    if type(found) is not list or (width and not all(type(row) is list and len(row) == width for row in found)):
        return None
    numbers = [n for row in found for n in row] if width else found
    return found if all(type(n) is int and low <= n <= high for n in numbers) else None


def outcomes(data: bytes, points: bool) -> list[tuple[str, object]]:
    """What each form says of a text: ("is", numbers) or ("bad", words)."""
    width, limits = (3, (-(2**63), 2**63 - 1)) if points else (0, (0, 2**64 - 1))
    parse = digits.parse_points if points else digits.parse_numbers
    kind = np.int64 if points else np.uint64
    out: list[tuple[str, object]] = []
    plain = lambda data: digits.parse_plain(data, width, digits._SIGNED if points else digits._UNSIGNED)  # noqa: E731
    for form in (parse, plain):
        try:
            found = form(LONG + data).view(kind)
            out.append(("is", found.tolist() if points else found.reshape(-1).tolist()))
        except ValueError as error:
            out.append(("bad", str(error)))
    expected = numbers_in_python(data, *limits, width)
    assert out[0][0] == ("bad" if expected is None else "is"), out[0]
    if expected is not None:
        assert out[0][1] == expected
    return out


def pieces(width: int) -> st.SearchStrategy[bytes]:
    """Texts put together from what lists are made of, mostly wrong."""
    parts = [b"[", b"]", b",", b"[[", b"]]", b"],[", b" ", b"\n", b"1", b"0", b"-", b"-7", b"-0", b"12,3", b"1.5", b"1e3", b"01", b"null",
             b"true", b'"4"', b"[1,2,3]", b"[1,2,3],", b"18446744073709551615", b"18446744073709551616", b"9223372036854775807",
             b"-9223372036854775808", b"9223372036854775808", b"9" * 30, b"\0", b"\xff", b"{}", b"NaN", b"\x0b"]  # fmt: skip
    middle = st.lists(st.sampled_from(parts), max_size=8).map(b"".join)
    brackets = (b"[[", b"]]") if width else (b"[", b"]")
    return st.one_of(middle, middle.map(lambda text: brackets[0] + text + brackets[1]))


@settings(deadline=None)
@given(pieces(0))
@example(b"null")
@example(b" null ")
@example(b"[]")
@example(b"")
def test_numbers_are_read_as_json_says_or_refused(text: bytes):
    compiled, plain = outcomes(text, points=False)
    assert compiled == plain


@settings(deadline=None)
@given(pieces(3))
@example(b"null")
@example(b"[[1,2,3],[4,5]]")
@example(b"[[1,2,3,4]]")
@example(b"[[]]")
def test_points_are_read_as_json_says_or_refused(text: bytes):
    compiled, plain = outcomes(text, points=True)
    assert compiled == plain


@settings(deadline=None, max_examples=30)
@given(st.lists(WORDS, min_size=100, max_size=200), st.sampled_from([None, 1, "\t"]))
def test_numbers_come_back(numbers: list[int], indent: int | str | None):
    assert digits.parse_numbers(json.dumps(numbers, indent=indent).encode()).tolist() == numbers
    assert digits.parse_numbers(memoryview(digits.json_numbers(np.array(numbers, np.uint64)))).tolist() == numbers


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(SIGNED, min_size=3, max_size=3), min_size=60, max_size=100))
def test_points_come_back(points: list[list[int]]):
    found = digits.parse_points(json.dumps(points).encode())
    assert found.dtype == np.int64
    assert found.tolist() == points


@pytest.mark.parametrize("text", [b"null", b"[]", b" [ ] ", LONG + b"[]", LONG + b"null\n"])
def test_nothing_is_an_empty_list(text: bytes):
    assert digits.parse_numbers(text).shape == (0,)
    assert digits.parse_points(text).shape == (0, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"[1, 2.5]", "position 4: '2.5' where a whole number from 0 to 18446744073709551615 should be"),
        (b"[1, -2]", "position 4: '-2' where a whole number from 0"),
        (b"[1 2]", "position 3: '2' where ',' or ']' should be"),
        (b"[1,", "position 3: the end of the text where"),
        (b'{"a":1}', "position 0: '{\"a\":1}' where a JSON list of whole numbers should begin"),
        (b"[1] 2", "position 4: '2' where the text should end"),
    ],
)
def test_the_place_of_a_fault_is_named(text: bytes, words: str):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        digits.parse_numbers(text)


def test_the_place_of_a_wrong_point_is_named():
    with pytest.raises(ValueError, match=r"position 11: '\]' where \[number, number, number\] should go on"):
        digits.parse_points(b"[[1,2,3],[4]]")
    with pytest.raises(ValueError, match=r"position 7: ',' where \[number, number, number\] should end"):
        digits.parse_points(b"[[1,2,3,4]]")


@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), max_size=50))
def test_lines_hold_both_numbers(pairs: list[tuple[int, int]]):
    keys, values = np.array(pairs, np.uint64).reshape(-1, 2).T
    expected = "".join(f"{key} {value}\n" for key, value in pairs).encode()
    assert digits.mapping_lines(keys, values) == expected
    assert digits.mapping_lines_plain(keys, values) == expected


def test_lines_of_unequal_columns_are_refused():
    with pytest.raises(ValueError, match="2 keys and 3 values"):
        digits.mapping_lines(np.zeros(2, np.uint64), np.zeros(3, np.uint64))
