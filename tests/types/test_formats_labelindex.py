"""Label indices and mappings: DVID's bytes, any order of fields and entries, and one line for every damage."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import lz4.block
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dvidfs import kernels
from dvidfs.errors import BadRequest
from dvidfs.kernels import varints
from dvidfs.types.formats import labelindex
from dvidfs.types.formats.labelindex import LabelIndex

kernels.load("varints_numba")

WORKED = bytes.fromhex(
    "0a160881808082808003120c0a04081710640a04081810051017188394ebdc03"
    "2214323032342d30312d30315430303a30303a30305a2a0275313204617070 31".replace(" ", "")
)
"""Label 23 with 100 voxels of supervoxel 23 and 5 of 24 in block (1, 2, 3), as DVID's documentation of the format has it."""
WORDS = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 300))
COUNTS = st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 300))
SIDE = st.one_of(st.integers(-labelindex.FURTHEST, labelindex.FURTHEST), st.integers(-2, 2))
POINTS = st.tuples(SIDE, SIDE, SIDE)
Rows = dict[tuple[int, int, int], tuple[dict[int, int], int]]
ROWS = st.dictionaries(POINTS, st.tuples(st.dictionaries(WORDS, COUNTS, min_size=1, max_size=9), WORDS), max_size=12)


# A second writer, of plain Python


def varint(number: int) -> bytes:
    head = b""
    while number > 127:
        head += bytes((number % 128 + 128,))
        number //= 128
    return head + bytes((number,))


def number_field(field: int, number: int) -> bytes:
    return varint(field << 3) + varint(number)


def bytes_field(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def key_of(point: tuple[int, int, int]) -> int:
    x, y, z = (abs(n) | (1 << 20 if n < 0 else 0) for n in point)
    return z << 42 | y << 21 | x


def entry(key: int, counts: dict[int, int], surface: int) -> bytes:
    content = b"".join(bytes_field(1, number_field(1, sv) + number_field(2, n)) for sv, n in counts.items())
    content += number_field(2, surface) if surface else b""
    return bytes_field(1, number_field(1, key) + bytes_field(2, content))


def message(rows: Rows, label: int = 23) -> bytes:
    blocks = b"".join(entry(key_of(point), counts, surface) for point, (counts, surface) in rows.items())
    return blocks + (number_field(2, label) if label else b"")


def in_order(rows: Rows) -> Rows:
    return {p: (dict(sorted(rows[p][0].items())), rows[p][1]) for p in sorted(rows, key=lambda p: p[::-1])}


def index_of(rows: Rows, label: int = 23) -> LabelIndex:
    flat = [(p, sv, n) for p, (counts, _) in in_order(rows).items() for sv, n in counts.items()]
    return LabelIndex(
        label,
        labelindex.codes_of_points([p for p, _, _ in flat] or np.zeros((0, 3))),
        np.array([sv for _, sv, _ in flat], np.uint64),
        np.array([n for _, _, n in flat], np.uint32),
        np.array([surface for _, surface in in_order(rows).values()], np.uint64),
    )


def rows_of(index: LabelIndex) -> Rows:
    """What an index says; its order is checked on the way."""
    points = [tuple(p) for p in labelindex.points_of_codes(index.blocks).tolist()]
    out: Rows = {}
    surface: Iterator[int] = iter(np.atleast_1d(index.surface).tolist())
    pairs = list(zip(index.blocks.tolist(), index.supervoxels.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    for point, sv, n in zip(points, index.supervoxels.tolist(), index.counts.tolist(), strict=True):
        if point not in out:
            out[point] = ({}, next(surface))
        out[point][0][sv] = n
    assert next(surface, None) is None
    return out


def forms(data: bytes, spans: list[tuple[int, int]]) -> list[varints.Indices | str]:
    """What the compiled form and its twin read, or the words of refusal; the first is given a longer buffer."""
    out: list[varints.Indices | str] = []
    for form, buffer in ((varints.decode_indices, data + bytes(400)), (varints.decode_indices_plain, data)):
        try:
            out.append(form(buffer, spans))
        except ValueError as error:
            out.append(str(error))
    return out


def assert_forms_agree(data: bytes) -> varints.Indices | str:
    compiled, plain = forms(data, [(0, len(data))])
    if isinstance(compiled, str) or isinstance(plain, str):
        assert compiled == plain
    else:
        for name in varints.Indices.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(compiled, name), getattr(plain, name), err_msg=name)
    return compiled


# The numbers of blocks


def test_numbers_of_blocks_are_dvids():
    points = [(0, 0, 0), (1, 2, 3), (-1, 2, -3)]
    codes = labelindex.codes_of_points(points)
    assert labelindex.keys_of_codes(codes).tolist() == [0, 0x0C0000400001, 0x40000C0000500001]
    assert codes[0] == (1 << 62) + (1 << 41) + (1 << 20)


@settings(deadline=None)
@given(st.lists(POINTS))
def test_blocks_come_back_and_sort_by_z_y_x(points: list[tuple[int, int, int]]):
    codes = labelindex.codes_of_points(points or np.zeros((0, 3)))
    keys = labelindex.keys_of_codes(codes)
    assert keys.tolist() == [key_of(p) for p in points]
    assert labelindex.codes_of_keys(keys).tolist() == codes.tolist()
    assert [tuple(p) for p in labelindex.points_of_codes(codes).tolist()] == points
    assert [points[i][::-1] for i in np.argsort(codes, kind="stable")] == sorted(p[::-1] for p in points)


def test_a_negative_zero_is_zero():
    keys = np.array([1 << 20 | 5 << 21 | 1 << 62], np.uint64)
    assert labelindex.points_of_codes(labelindex.codes_of_keys(keys)).tolist() == [[0, 5, 0]]


@pytest.mark.parametrize("side", [1 << 20, -(1 << 20), 1 << 40])
def test_blocks_too_far_out_are_named(side: int):
    with pytest.raises(BadRequest, match=rf"block \(1,{side},2\) is too far out"):
        labelindex.codes_of_points([(0, 0, 0), (1, side, 2)])


def test_a_number_of_64_bits_is_no_block():
    with pytest.raises(BadRequest, match="block 9223372036854775813"):
        labelindex.decode_index(entry(1 << 63 | 5, {1: 1}, 0))


# Indices


def test_the_worked_example_is_read_and_written():
    index = labelindex.decode_index(WORKED)
    assert (index.label, index.last_mutid) == (23, 1000000003)
    assert (index.last_mod_time, index.last_mod_user, index.last_mod_app) == ("2024-01-01T00:00:00Z", "u1", "app1")
    assert rows_of(index) == {(1, 2, 3): ({23: 100, 24: 5}, 0)}
    assert labelindex.encode_index(index) == WORKED


@settings(deadline=None)
@given(ROWS)
@example({(0, 0, 0): (dict.fromkeys(range(2**64 - 40, 2**64), 2**32 - 1), 2**64 - 1)})
@example({(i, 0, 0): ({7: 1}, 0) for i in range(-3, 3)})
def test_both_forms_write_what_a_plain_writer_does(rows: Rows):
    index = index_of(rows)
    assert labelindex.encode_index(index) == message(in_order(rows))
    arrays = index.blocks, index.supervoxels, index.counts, np.asarray(index.surface)
    assert varints.encode_blocks_plain(*arrays) == message(in_order(rows), label=0)


@settings(deadline=None)
@given(ROWS, WORDS)
def test_one_surface_id_may_stand_for_all(rows: Rows, surface: int):
    index = index_of(rows)
    wanted = message({p: (counts, surface) for p, (counts, _) in in_order(rows).items()}, label=0)
    one = np.array([surface], np.uint64)
    for encode in (varints.encode_blocks, varints.encode_blocks_plain):
        assert encode(index.blocks, index.supervoxels, index.counts, one) == wanted


@pytest.mark.parametrize("encode", [varints.encode_blocks, varints.encode_blocks_plain])
@pytest.mark.parametrize("surface", [0, 2, 4])
def test_surface_ids_that_do_not_fit_the_blocks_are_refused(encode, surface: int):
    codes = np.array([1, 1, 2, 3], np.uint64)
    with pytest.raises(ValueError, match=f"{surface} surface ids for 3 blocks"):
        encode(codes, codes, codes.astype(np.uint32), np.zeros(surface, np.uint64))


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="0 blocks, 1 supervoxels, 0 counts"):
        labelindex.encode_index(LabelIndex(1, supervoxels=np.ones(1, np.uint64)))


@settings(deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_entries_may_come_in_any_order(rows: Rows, random):
    order = random.sample(list(rows), len(rows))
    mixed = {p: (dict(random.sample(list(rows[p][0].items()), len(rows[p][0]))), rows[p][1]) for p in order}
    data = message(mixed)
    assert rows_of(labelindex.decode_index(data)) == rows
    assert_forms_agree(data)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.lists(st.tuples(st.integers(0, 2), COUNTS), max_size=3), WORDS))
)
def test_of_what_comes_twice_the_last_counts(entries: list):
    expected: Rows = {}
    data = b""
    for x, pairs, surface in entries:
        content = b"".join(bytes_field(1, number_field(1, sv) + number_field(2, n)) for sv, n in pairs)
        content += number_field(2, surface)
        data += bytes_field(1, number_field(1, x) + bytes_field(2, content))
        expected[x, 0, 0] = (dict(pairs), surface)
    assert rows_of(labelindex.decode_index(data)) == {p: rows for p, rows in expected.items() if rows[0]}
    assert_forms_agree(data)


def test_unknown_fields_are_passed_over_everywhere():
    odd = (
        number_field(9, 5) + bytes_field(77, b"abc") + bytes((8 << 3 | 1,)) + bytes(8) + bytes((8 << 3 | 5,)) + bytes(4)
    )
    counts = bytes_field(1, odd + number_field(2, 5) + odd + number_field(1, 24) + odd)
    block = bytes_field(1, bytes_field(2, odd + counts + number_field(2, 9)) + odd + number_field(1, key_of((1, 2, 3))))
    index = labelindex.decode_index(odd + number_field(2, 23) + block + odd)
    assert (index.label, rows_of(index)) == (23, {(1, 2, 3): ({24: 5}, 9)})
    assert_forms_agree(odd + block)


def test_absent_numbers_are_zero():
    index = labelindex.decode_index(bytes_field(1, bytes_field(2, bytes_field(1, b""))))
    assert (index.label, rows_of(index)) == (0, {(0, 0, 0): ({0: 0}, 0)})
    assert labelindex.decode_index(b"").label == 0


BAD = [
    (b"\x0a", "byte 0: a field or number that is cut off"),
    (number_field(2, 23) + b"\x0a\x05abc", "byte 2: a field or number that is cut off"),
    (b"\x10\x80", "byte 0: a field or number that is cut off"),
    (b"\x10" + b"\xff" * 9 + b"\x02", "byte 0: a number of more than 64 bits"),
    (number_field(1, 5), "byte 0: a field whose wire type"),
    (bytes_field(2, b""), "byte 0: a field whose wire type"),
    (b"\x0b\x0c", "byte 0: a field whose wire type"),
    (b"\x25\0\0\0\0", "byte 0: a field whose wire type"),
    (b"\x00\x01", "byte 0: a field number"),
    (bytes_field(1, bytes_field(2, bytes_field(1, number_field(2, 2**32)))), "byte 6: a count above 4294967295"),
    (bytes_field(1, bytes_field(2, number_field(1, 2))), "byte 4: a field whose wire type"),
    (bytes_field(1, bytes_field(1, b"")), "byte 2: a field whose wire type"),
    (bytes_field(1, number_field(2, 1)), "byte 2: a field whose wire type"),
    (bytes_field(1, bytes_field(2, bytes_field(2, b""))), "byte 4: a field whose wire type"),
    (bytes_field(1, bytes_field(2, bytes_field(1, bytes_field(1, b"")))), "byte 6: a field whose wire type"),
]


@pytest.mark.parametrize(("data", "words"), BAD)
def test_damage_is_named_with_its_place(data: bytes, words: str):
    with pytest.raises(BadRequest, match=f"bad LabelIndex message, {words}"):
        labelindex.decode_index(data)
    with pytest.raises(BadRequest, match=r"bad LabelInd(ex|ices) message, byte"):
        labelindex.decode_indices(bytes_field(1, data))
    assert assert_forms_agree(data).startswith(words)


def test_texts_are_utf8():
    with pytest.raises(BadRequest, match="byte 2: a text that is not UTF-8"):
        labelindex.decode_index(bytes_field(5, b"\xff"))
    assert labelindex.decode_index(bytes_field(5, "Zoë".encode())).last_mod_user == "Zoë"


@settings(deadline=None, max_examples=150)
@given(ROWS, st.data())
def test_both_forms_read_damaged_messages_alike(rows: Rows, data: st.DataObject):
    octets = bytearray(message(rows) + number_field(3, 7) + bytes_field(4, b"2024"))
    for _ in range(data.draw(st.integers(1, 3))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    assert_forms_agree(bytes(octets[: data.draw(st.integers(0, len(octets)))]))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(ROWS, st.integers(1, 2**64 - 1)), max_size=6))
def test_many_indices_come_back(pairs: list[tuple[Rows, int]]):
    data = labelindex.encode_indices(index_of(rows, label) for rows, label in pairs)
    assert data == b"".join(bytes_field(1, message(in_order(rows), label)) for rows, label in pairs)
    found = labelindex.decode_indices(data)
    assert [(rows_of(index), index.label) for index in found] == pairs


def test_messages_that_overlap_are_refused():
    with pytest.raises(ValueError, match="one behind the other"):
        varints.decode_indices(bytes(400), [(0, 10), (5, 20)])


def test_a_record_holds_what_dvid_stores():
    record = labelindex.encode_record(23, labelindex.encode_index(labelindex.decode_index(WORKED)))
    size, label, kind, length = struct.unpack_from("<QQBI", record)
    assert (size, label, kind, length) == (len(record) - 16, 23, 0x80, len(WORKED))
    assert lz4.block.decompress(record[21:], uncompressed_size=length) == WORKED
    assert labelindex.encode_record(24, None) == struct.pack("<QQ", 0, 24)


# Mappings


OPS = st.lists(st.tuples(WORDS, WORDS, st.lists(WORDS, max_size=8)), max_size=40)


def mappings_in_both_forms(data: bytes) -> list:
    out: list = []
    for form in (varints.decode_mappings, varints.decode_mappings_plain):
        try:
            # A field of no meaning in front, so that the compiled form is asked.
            out.append([column.tolist() for column in form(bytes_field(15, bytes(300)) + data)])
        except ValueError as error:
            out.append(str(error))
    return out


def test_the_worked_mapping_is_read_and_written():
    data = bytes.fromhex("0a0d088494ebdc0310171a0318ac02")
    assert [column.tolist() for column in labelindex.decode_mappings(data)] == [[24, 300], [23, 23], [1000000004] * 2]
    assert labelindex.encode_mapping(1000000004, 23, np.array([24, 300], np.uint64)) == data


@settings(deadline=None)
@given(OPS, st.booleans())
def test_mappings_come_back_packed_or_not(ops: list[tuple[int, int, list[int]]], packed: bool):
    data = b""
    for mutid, mapped, originals in ops:
        if packed:
            data += labelindex.encode_mapping(mutid, mapped, np.array(originals, np.uint64))
        else:
            each = b"".join(number_field(3, original) for original in originals)
            data += bytes_field(1, each + number_field(2, mapped) + number_field(1, mutid))
    rows = [(original, mapped, mutid) for mutid, mapped, originals in ops for original in originals]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    assert [column.tolist() for column in labelindex.decode_mappings(data)] == columns
    assert mappings_in_both_forms(data) == [columns, columns]


@settings(deadline=None, max_examples=200)
@given(OPS, st.data())
def test_both_forms_read_damaged_mappings_alike(ops: list, data: st.DataObject):
    whole = b"".join(labelindex.encode_mapping(a, b, np.array(c, np.uint64)) for a, b, c in ops) + b"\x0a\x02\x10\x01"
    octets = bytearray(whole)
    octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    compiled, plain = mappings_in_both_forms(bytes(octets[: data.draw(st.integers(0, len(octets)))]))
    assert compiled == plain


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes_field(1, bytes_field(3, b"\x01\x80")), "byte 5: a field or number that is cut off"),
        (bytes_field(1, bytes_field(2, b"")), "byte 2: a field whose wire type"),
        (bytes_field(1, b"\x1d\0\0\0\0"), "byte 2: a field whose wire type"),
        (number_field(1, 3), "byte 0: a field whose wire type"),
        (b"\x0a\x09", "byte 0: a field or number that is cut off"),
    ],
)
def test_damaged_mappings_are_named_with_their_place(data: bytes, words: str):
    with pytest.raises(BadRequest, match=f"bad MappingOps message, {words}"):
        labelindex.decode_mappings(data)


@given(
    st.lists(st.tuples(st.integers(1, 2**64 - 1), st.integers(0, 4)), min_size=1, max_size=8, unique_by=lambda t: t[0])
)
def test_many_small_indices_are_as_each_alone(bodies):
    """Neighbours may lie in the same block: each keeps its own entry."""
    labels = np.array([label for label, _ in bodies], np.uint64)
    counts = np.array([n for _, n in bodies], np.int64)
    codes = np.concatenate([labelindex.codes_of_points([(i, -i, 3) for i in range(n)]) for n in counts.tolist()])
    codes = np.concatenate([np.sort(part) for part in np.split(codes, np.cumsum(counts)[:-1])])
    supervoxels, voxels = np.repeat(labels, counts), np.arange(1, len(codes) + 1, dtype=np.uint32)
    made = labelindex.encode_singles(labels, counts, (codes, supervoxels, voxels))
    at = 0
    for (label, n), message in zip(bodies, made, strict=True):
        part = slice(at, at + n)
        at += n
        index = labelindex.LabelIndex(label, codes[part], supervoxels[part], voxels[part])
        assert message == labelindex.encode_index(index)
