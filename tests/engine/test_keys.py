"""Every byte layout: keys come back as they went in, and byte order is the order that readers rely on."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dvidfs.engine import keys
from dvidfs.engine.keys import LMDB_KEY, MAX_KEY, SUFFIX, Family
from dvidfs.errors import BadRequest, NameTooLong

LIMIT = LMDB_KEY - keys.HEAD.size - SUFFIX
"""Bytes that an encoded key may have in an LMDB key."""

parts = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"\0", b"\xff", b"\0\xff", b"\0\0", b"\x01", b"\0\x01", b"a" * 398, b"a" * 399, b"a" * 400]),
    st.sampled_from([b"\0" * 200, b"\xff" * 250, b"b" * 97, b"b" * 100, b"\0" * 250]),
)
text_keys = st.lists(parts, min_size=1, max_size=5).map(b"".join).filter(lambda k: 1 <= len(k) <= MAX_KEY)
near = st.builds(
    lambda size, tail: b"a" * size + tail,
    st.integers(397, 401),
    st.lists(st.sampled_from([b"\0", b"a", b"b", b"\xff", b"\x01", b"c" * 100]), max_size=5).map(b"".join),
)
"""Keys that share about as much as a long key keeps."""
coordinates = st.integers(-(1 << 31), (1 << 31) - 1)
blocks = st.tuples(st.integers(0, 255), coordinates, coordinates, coordinates)
versions = st.integers(1, 0xFFFFFFFF)


# -- text keys ---------------------------------------------------------------------------------------------------


@given(text_keys)
def test_a_text_key_fits_lmdb_and_comes_back(key: bytes):
    enc = keys.encode_text(keys.check_key(key))
    assert len(enc) <= LIMIT
    if not keys.is_long(enc):
        assert keys.decode_text(enc) == key


@given(text_keys)
def test_only_what_does_not_fit_is_shortened(key: bytes):
    escaped = len(key) + key.count(b"\0")
    assert keys.is_long(keys.encode_text(key)) == (escaped + 2 > LIMIT)


@given(text_keys, text_keys)
def test_order_of_encoded_is_order_of_keys(a: bytes, b: bytes):
    left, right = keys.encode_text(a), keys.encode_text(b)
    assert (left == right) == (a == b)
    if not keys.is_long(left) and not keys.is_long(right):
        assert (left < right) == (a < b)


@given(st.one_of(near, text_keys), near)
def test_keys_out_of_order_share_the_kept_prefix_of_a_long_one(a: bytes, b: bytes):
    """A scan sorts only the keys that begin as a long one does, so nothing else may be out of order."""
    left, right = keys.encode_text(a), keys.encode_text(b)
    kept = [enc[: -(2 + 16 + 1)] for enc in (left, right) if keys.is_long(enc)]
    in_order = (left < right) == (a < b)
    assert in_order or any(left.startswith(k) and right.startswith(k) for k in kept)


@given(text_keys, text_keys)
def test_no_encoded_key_begins_another(a: bytes, b: bytes):
    """Else a seek for one would stand on the other."""
    assume(a != b)
    assert not keys.encode_text(a).startswith(keys.encode_text(b))


@given(*[st.one_of(near, text_keys, st.just(b""))] * 3)
def test_a_span_holds_every_key_of_its_range(key: bytes, first: bytes, last: bytes):
    assume(key)
    enc = keys.encode_text(key)
    if key >= first:
        assert keys.text_span_start(first) <= enc
    if key <= last:
        assert enc < keys.text_span_end(last)


@given(
    *[st.lists(st.sampled_from([b"\0", b"\xff", b"\x01", b"a", b"b" * 90]), min_size=1, max_size=4).map(b"".join)] * 2
)
def test_a_span_of_short_keys_holds_nothing_else(key: bytes, end: bytes):
    """Where no long key is in play the bounds are exact, so readers need not look at names again."""
    enc = keys.encode_text(key)
    assert (enc >= keys.text_span_start(end)) == (key >= end)
    assert (enc < keys.text_span_end(end)) == (key <= end)


@pytest.mark.parametrize("size", [1, 2, 398, 399, 400, 401, 498, 499, 500, 501, 1023, 1024])
@pytest.mark.parametrize("fill", [b"a", b"\0", b"\xff", b"\x01"])
def test_every_length_up_to_the_limit(size: int, fill: bytes):
    key = keys.check_key(fill * size)
    enc = keys.encode_text(key)
    assert len(enc) <= LIMIT
    assert keys.text_span_start(key) <= enc < keys.text_span_end(key)
    assert keys.is_long(enc) or keys.decode_text(enc) == key


def test_long_keys_that_differ_at_their_end_are_told_apart():
    long = [b"p" * 1000 + bytes([i]) for i in range(256)]
    assert len({keys.encode_text(k) for k in long}) == 256


@pytest.mark.parametrize(("key", "error"), [(b"", BadRequest), (b"a" * 1025, NameTooLong), (b"\0" * 4000, NameTooLong)])
def test_keys_beyond_the_limits_are_refused(key: bytes, error: type[Exception]):
    with pytest.raises(error) as told:
        keys.check_key(key)
    assert "\n" not in str(told.value)


# -- blocks ------------------------------------------------------------------------------------------------------


@given(*[st.one_of(coordinates, st.sampled_from([-(1 << 31), -1, 0, 1, (1 << 31) - 1]))] * 3, st.integers(0, 255))
def test_a_block_key_comes_back(x: int, y: int, z: int, scale: int):
    enc = keys.encode_block(scale, x, y, z)
    assert len(enc) == keys.BLOCK.size
    assert keys.decode_block(enc) == (scale, x, y, z)


@given(blocks, blocks)
def test_blocks_lie_in_order_of_scale_z_y_x(a: tuple[int, ...], b: tuple[int, ...]):
    left, right = keys.encode_block(*a), keys.encode_block(*b)
    assert (left < right) == ((a[0], a[3], a[2], a[1]) < (b[0], b[3], b[2], b[1]))


@pytest.mark.parametrize(
    ("scale", "x", "y", "z"),
    [(0, 1 << 31, 0, 0), (0, 0, -(1 << 31) - 1, 0), (0, 0, 0, 1 << 64), (256, 0, 0, 0), (-1, 0, 0, 0)],
)
def test_blocks_out_of_range_are_refused(scale: int, x: int, y: int, z: int):
    with pytest.raises(BadRequest, match=r"block .* is out of range"):
        keys.encode_block(scale, x, y, z)


# -- versions and bounds -----------------------------------------------------------------------------------------


@given(versions, versions)
def test_newer_versions_come_first(a: int, b: int):
    left, right = keys.version_suffix(a), keys.version_suffix(b)
    assert keys.suffix_version(left) == a
    assert keys.suffix_version(left + keys.TOMB) == a
    assert (left < right) == (a > b)


@given(st.binary(min_size=1, max_size=40), st.binary(max_size=40))
def test_after_is_the_least_bound_above_a_prefix(prefix: bytes, rest: bytes):
    bound = keys.after(prefix)
    assert prefix + rest < bound
    if not prefix.rstrip(b"\xff"):
        return
    below = bound[:-1] + bytes([bound[-1] - 1])
    assert below <= prefix, "anything below the bound and above the prefix begins with the prefix"


@given(st.integers(1, 0xFFFFFFFE), st.sampled_from(Family), st.binary(max_size=500))
def test_instances_and_families_do_not_mix(instance: int, family: Family, enc: bytes):
    key = keys.head(instance, family) + enc
    assert keys.U32.pack(instance) <= key < keys.after(keys.U32.pack(instance))
    others = [f for f in Family if f != family]
    assert not any(keys.head(instance, f) <= key < keys.after(keys.head(instance, f)) for f in others)


@given(st.integers(0, (1 << 64) - 1), st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, MAX_KEY))
def test_entries_hold_their_numbers(number: int, when: int, length: int):
    packed = keys.ENTRY.pack(3, 1, length, 0, number, when, number)
    assert len(packed) == keys.ENTRY.size
    assert keys.ENTRY.unpack(packed) == (3, 1, length, 0, number, when, number)
