"""Label blocks: what is read is what the format says, whoever wrote it; what is wrong is told, and never read beyond."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import labelcase
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from labelcase import Parts, in_both_forms

from dvidfs import kernels
from dvidfs.kernels import labels, labels_plain

kernels.load("labels_numba")
REAL = Path(__file__).parent.parent / "data" / "label-blocks"
SOLID = bytes.fromhex("08000000 08000000 08000000 01000000 1700000000000000")
slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def small() -> np.ndarray:
    """Four labels in 16x16x16 voxels: three in the first sub-block, one in the second, background elsewhere."""
    voxels = np.zeros((16, 16, 16), np.uint64)
    voxels[0, 0, :4] = 5, 5, 5, 7
    voxels[:8, :8, 8:] = 9
    return voxels


# What the bytes are


def test_a_block_of_a_few_labels():
    head = struct.pack("<4I4Q", 2, 2, 2, 4, 5, 7, 0, 9)
    counts, index = struct.pack("<8H", 3, *[1] * 7), struct.pack("<10I", 0, 1, 2, 3, *[2] * 6)
    expected = head + counts + index + b"\x01" + b"\xaa" * 127
    assert len(expected) == 232
    assert in_both_forms(lambda: labels.encode(small())) == expected
    np.testing.assert_array_equal(in_both_forms(lambda: labels.voxels(labels.parse(expected))), small())


def test_a_block_of_one_label():
    assert in_both_forms(lambda: labels.encode(np.full((64, 64, 64), 23, np.uint64))) == SOLID
    block = labels.parse(SOLID)
    assert (block.is_solid, block.shape, block.labels.tolist()) == (True, (64, 64, 64), [23])
    assert labels.entry_at(block, 63, 0, 5) == 0
    assert in_both_forms(lambda: labels.tally(block)).tolist() == [64**3]
    assert in_both_forms(lambda: labels.entries_at(block, np.array([[1, 2, 3]]))).tolist() == [0]


def test_values_may_straddle_bytes():
    voxels = np.zeros((8, 8, 8), np.uint64)
    voxels[0, 0, :5] = 1, 2, 3, 4, 5
    data = in_both_forms(lambda: labels.encode(voxels))
    assert data[16 + 8 * 6 + 2 + 4 * 6 :][:3].hex() == "05396d"


REAL_BLOCKS = [
    ("cx-1", "1b9dfc150c73ccf1223f8d452ad529b5"),
    ("cx-2", "0521ce6e50b1add7cfef76973e8d7849"),
    ("fib19-1", "ef28ab40318722da8b2616853b884037"),
    ("fib19-2", "8ed412b404acb01bc713f6f6496089fe"),
]


@pytest.mark.parametrize(("name", "md5"), REAL_BLOCKS)
def test_real_blocks_are_read_and_made_to_the_byte(name: str, md5: str):
    data = gzip.decompress((REAL / f"{name}.block.gz").read_bytes())
    voxels = in_both_forms(lambda: labels.voxels(labels.parse(data)))
    assert hashlib.md5(voxels.tobytes()).hexdigest() == md5
    assert in_both_forms(lambda: labels.encode(voxels)) == data


@slow
@given(labelcase.volumes())
def test_made_blocks_say_what_the_volume_says(voxels: np.ndarray):
    data = in_both_forms(lambda: labels.encode(voxels))
    parts = labelcase.read(data)
    np.testing.assert_array_equal(parts.voxels(), voxels)
    np.testing.assert_array_equal(labels.voxels(labels.parse(data)), voxels)
    assert parts.write() == data, "bytes too many"
    assert len(set(parts.table)) == len(parts.table)
    for own, values in zip(parts.lists, parts.values, strict=True):
        assert list(dict.fromkeys(values)) == list(range(len(own))), "not by first appearance"
    listed = [entry for own in parts.lists for entry in own]
    assert list(dict.fromkeys(listed)) == (list(range(len(parts.table))) if parts.lists else [])


def test_more_labels_than_any_table_begins_with():
    voxels = np.random.default_rng(5).permutation(32**3).astype(np.uint64).reshape(32, 32, 32)
    data = in_both_forms(lambda: labels.encode(voxels))
    np.testing.assert_array_equal(in_both_forms(lambda: labels.voxels(labels.parse(data))), voxels)


def test_any_order_of_axes_is_encoded():
    voxels = np.random.default_rng(1).integers(0, 9, (8, 16, 24)).astype(np.uint64)
    assert labels.encode(voxels.transpose(2, 1, 0)) == labels.encode(voxels.transpose(2, 1, 0).copy())


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 12), (0, 8, 8), (8, 8, 1032)])
def test_other_shapes_are_no_blocks(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="uint64 with sides 8, 16"):
        labels.encode(np.zeros(shape, np.uint64))


def test_other_numbers_are_no_labels():
    with pytest.raises(ValueError, match="not int64"):
        labels.encode(np.zeros((8, 8, 8), np.int64))  # type: ignore[arg-type]


# What is read from it


@slow
@given(labelcase.foreign(), st.data())
def test_blocks_of_others_are_read(parts: Parts, data: st.DataObject):
    check_reading(labels.parse(parts.write()), parts, data)


@slow
@given(labelcase.foreign(damaged=True), st.data())
def test_values_beyond_their_list_are_none(parts: Parts, data: st.DataObject):
    written = parts.write()
    check_reading(labels.parse_trusted(written), parts, data)
    sound = all(max(values) < max(len(own), 1) for own, values in zip(parts.lists, parts.values, strict=True))
    if sound or len(parts.table) == 1:
        assert labels.parse(written).data == written
    else:
        with pytest.raises(ValueError, match=r"sub-block \d+ has a voxel beyond its \d+ labels"):
            in_both_forms(lambda: labels.parse(written))


def check_reading(block: labels.Block, parts: Parts, data: st.DataObject) -> None:
    entries, voxels = parts.entries(), parts.voxels()
    assert (block.grid, block.shape, block.labels.tolist()) == (parts.grid, voxels.shape, parts.table)
    assert block.nbytes >= len(block.data)
    np.testing.assert_array_equal(in_both_forms(lambda: labels.voxels(block)), voxels)
    counted = np.bincount(entries[entries >= 0], minlength=len(parts.table))
    np.testing.assert_array_equal(in_both_forms(lambda: labels.tally(block)), counted)
    random = np.random.default_rng(data.draw(labelcase.SEEDS))
    points = random.integers(0, voxels.shape[::-1], (100, 3))
    expected = entries[points[:, 2], points[:, 1], points[:, 0]]
    np.testing.assert_array_equal(in_both_forms(lambda: labels.entries_at(block, points)), expected)
    assert [labels.entry_at(block, *point) for point in points.tolist()] == expected.tolist()


@slow
@given(st.lists(labelcase.foreign(), min_size=1, max_size=3), st.data())
def test_windows_take_their_part_of_each_block(several: list[Parts], data: st.DataObject):
    places = st.tuples(*[st.integers(-30, 30)] * 3)
    origin = data.draw(places)
    sides = data.draw(st.tuples(*[st.integers(1, 40)] * 3))
    starts = [data.draw(places) for _ in several]
    blocks = [labels.parse(parts.write()) for parts in several]
    tables = [None if data.draw(st.booleans()) else block.labels[::-1] for block in blocks]
    expected = np.full(sides, 77, np.uint64)
    for parts, table, start in zip(several, tables, starts, strict=True):
        held = parts if table is None else Parts(parts.grid, table.tolist(), parts.lists, parts.values)
        put(expected, origin, held.voxels(), start)

    def pasted(one_by_one: bool) -> np.ndarray:
        out = np.full(sides, 77, np.uint64)
        if one_by_one:
            for start, block, table in zip(starts, blocks, tables, strict=True):
                labels.paste(out, origin, start, block, table)
        else:
            labels.paste_many(out, origin, starts, blocks, tables)
        return out

    np.testing.assert_array_equal(in_both_forms(lambda: pasted(True)), expected)
    np.testing.assert_array_equal(in_both_forms(lambda: pasted(False)), expected)


def put(out: np.ndarray, origin: tuple, voxels: np.ndarray, start: tuple) -> None:
    """Copies what lies in the window: on each axis the places that both have."""
    seen = [set(range(o, o + n)) for o, n in zip(origin, out.shape, strict=True)]
    had = [set(range(s, s + n)) for s, n in zip(start, voxels.shape, strict=True)]
    both = [np.array(sorted(a & b), int) for a, b in zip(seen, had, strict=True)]
    target, source = ([at - o for at, o in zip(both, first, strict=True)] for first in (origin, start))
    out[np.ix_(*target)] = voxels[np.ix_(*source)]


def test_windows_must_be_arrays_of_labels():
    block = labels.parse(SOLID)
    for out in (np.zeros((4, 4, 8), np.uint64)[:, :, ::2], np.zeros((4, 4, 4), np.int64), np.zeros(4, np.uint64)):
        with pytest.raises(ValueError, match="C-contiguous"):
            labels.paste(out, (0, 0, 0), (0, 0, 0), block)  # type: ignore[arg-type]


def test_every_block_has_a_place_and_a_table_of_its_length():
    block, out = labels.parse(SOLID), np.zeros((4, 4, 4), np.uint64)
    with pytest.raises(ValueError, match="2 blocks have 1 places"):
        in_both_forms(lambda: labels.paste_many(out, (0, 0, 0), [(0, 0, 0)], [block, block]))
    with pytest.raises(ValueError, match="a table of 1 labels is wanted"):
        in_both_forms(lambda: labels.paste(out, (0, 0, 0), (0, 0, 0), block, np.zeros(2, np.uint64)))
    labels.paste_many(out, (0, 0, 0), [], [])
    assert not out.any()


def test_points_outside_are_refused():
    block = labels.parse(labels.encode(small()))
    for point in ((16, 0, 0), (0, -1, 0)):
        with pytest.raises(ValueError, match="16 x 16 x 16 voxels"):
            in_both_forms(lambda p=point: labels.entries_at(block, np.array([p])))


@slow
@given(labelcase.foreign())
def test_another_table_changes_labels_and_nothing_else(parts: Parts):
    table = np.arange(len(parts.table), dtype=np.uint64) // np.uint64(2)
    expected = Parts(parts.grid, table.tolist(), parts.lists, parts.values).write()
    assert labels.retable(parts.write(), table) == expected
    with pytest.raises(ValueError, match=f"a table of {len(table)} labels"):
        labels.retable(parts.write(), table[1:])


@pytest.mark.parametrize("shift", range(8))
def test_bytes_may_lie_anywhere(shift: int):
    parts = Parts((1, 1, 1), [3, 4, 5], [[2, 0, 1]], [[i % 3 for i in range(512)]])
    data = memoryview(bytearray(shift) + parts.write())[shift:]
    block = labels.parse(data)
    np.testing.assert_array_equal(in_both_forms(lambda: labels.voxels(block)), parts.voxels())
    assert in_both_forms(lambda: labels.tally(block)).tolist() == [171, 170, 171]
    assert not block.labels.flags.writeable


# What is wrong with it


def wrong(data: bytes) -> str:
    with pytest.raises(ValueError, match="label block: ") as caught:
        in_both_forms(lambda: labels.parse(data))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("at", "field", "said"),
    [
        (0, struct.pack("<I", 0), "0 x 2 x 2 sub-blocks, 1 to 128"),
        (8, struct.pack("<I", 129), "2 x 2 x 129 sub-blocks, 1 to 128"),
        (12, struct.pack("<I", 0), "0 labels, 1 to 1073741824"),
        (12, struct.pack("<I", 2**32 - 1), "4294967295 labels, 1 to"),
        (12, struct.pack("<I", 1), "208 bytes too many behind its end at byte 24"),
        (
            12,
            struct.pack("<I", 1000),
            "cut off after 232 bytes, its 1000 labels and 8 counts from byte 16 on end at 8032",
        ),
        (48, struct.pack("<H", 513), "sub-block 0 lists 513 labels, it has 512 voxels"),
        (48, struct.pack("<H", 400), "its 407 indices from byte 64 on end at 1692"),
        (50, struct.pack("<H", 3), "its 256 bytes of voxels"),
        (68, struct.pack("<I", 4), "index 1 is 4, the table has 4 labels"),
        (104, b"\xc0", "sub-block 0 has a voxel beyond its 3 labels"),
        (231, b"\xab", "sub-block 0 has a voxel beyond its 3 labels"),
    ],
)
def test_each_field_is_checked(at: int, field: bytes, said: str):
    data = labels.encode(small())
    assert said in wrong(data[:at] + field + data[at + len(field) :])


@pytest.mark.parametrize("data", [labels_plain.encode_plain(small()), SOLID], ids=["mixed", "solid"])
def test_blocks_end_where_they_end(data: bytes):
    for size in range(len(data)):
        assert "at least 24 are needed" in wrong(data[:size]) or "cut off" in wrong(data[:size])
    assert "1 bytes too many" in wrong(data + b"\0")


@slow
@given(labelcase.foreign(), st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), min_size=1, max_size=8))
def test_any_byte_may_be_anything(parts: Parts, changes: list[tuple[int, int]]):
    data = bytearray(parts.write())
    for at, value in changes:
        data[at % len(data)] = value
    check_damaged(bytes(data))


@slow
@given(labelcase.foreign(), st.integers(0, 40), st.sampled_from("<BHIQ"[1:]), st.integers(0, 2**64 - 1))
def test_any_field_may_be_anything(parts: Parts, place: int, kind: str, value: int):
    """Fields of the head and of each section, 0 to 40 items from where it begins."""
    data = bytearray(parts.write())
    item = struct.calcsize("<" + kind)
    n, subs = len(parts.table), len(parts.lists)
    for start in (0, 16 + 8 * n, 16 + 8 * n + 2 * subs, len(data) - 41 * item):
        at = start + place * item
        assume(at >= 0)
        if at + item <= len(data):
            struct.pack_into("<" + kind, data, at, value % (1 << 8 * item))
            check_damaged(bytes(data))


def check_damaged(data: bytes) -> None:
    """It is refused in both forms, or it is a block that all functions read alike."""
    try:
        block = in_both_forms_block(data)
    except ValueError as error:
        assert str(error).startswith("label block: ")
        return
    assume(block.shape[0] * block.shape[1] * block.shape[2] <= 2**21)
    voxels = in_both_forms(lambda: labels.voxels(block))
    in_both_forms(lambda: labels.tally(block))
    last = tuple(n - 1 for n in voxels.shape[::-1])
    entry = in_both_forms(lambda: labels.entries_at(block, np.array([last])))[0]
    assert labels.entry_at(block, *last) == entry
    np.testing.assert_array_equal(labelcase.read(data).voxels(), voxels)


def in_both_forms_block(data: bytes) -> labels.Block:
    assert in_both_forms(lambda: bytes(labels.parse(data).data)) == data
    return labels.parse(data)
