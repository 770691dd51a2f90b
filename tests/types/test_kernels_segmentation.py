"""Compressed segmentation: a reader that knows only the format finds the labels again, from volumes and from native blocks."""

from __future__ import annotations

import struct

import labelcase
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelcase import Parts, in_both_forms

from dvidfs import kernels
from dvidfs.kernels import labels, segmentation

kernels.load("labels_numba")
kernels.load("segmentation_numba")
slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def read(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """What a reader of the format sees, which looks at one voxel after the other."""
    assert data[:4] == struct.pack("<I", 1)
    words = struct.unpack(f"<{len(data) // 4 - 1}I", data[4:])
    out = np.empty(shape, np.uint64)
    _, gy, gx = (n // 8 for n in shape)
    for z, y, x in np.ndindex(*shape):
        head, values = words[2 * ((z // 8 * gy + y // 8) * gx + x // 8) :][:2]
        table, bits = head & 0xFFFFFF, head >> 24
        assert bits in (0, 1, 2, 4, 8, 16)
        bit = (64 * (z % 8) + 8 * (y % 8) + x % 8) * bits
        number = words[values + bit // 32] >> bit % 32 & (1 << bits) - 1 if bits else 0
        out[z, y, x] = words[table + 2 * number] | words[table + 2 * number + 1] << 32
    return out


def test_a_volume_of_two_sub_blocks():
    volume = np.zeros((8, 8, 16), np.uint64)
    volume[0, 0, 1] = 300
    volume[:, :, 8:] = 7
    heads = bytes.fromhex("01000000 14000001 04000000 18000000 18000000")
    tables = struct.pack("<3Q", 0, 300, 7)
    assert in_both_forms(lambda: segmentation.encode(volume)) == heads + b"\2" + bytes(63) + tables


@slow
@given(labelcase.volumes())
def test_volumes_come_back(volume: np.ndarray):
    data = in_both_forms(lambda: segmentation.encode(volume))
    np.testing.assert_array_equal(read(data, volume.shape), volume)
    np.testing.assert_array_equal(segmentation.decode(data, volume.shape), volume)


@slow
@given(labelcase.volumes(), st.integers(1, 50))
def test_blocks_become_what_their_voxels_become(volume: np.ndarray, bodies: int):
    block = labels.parse(labels.encode(volume))
    assert in_both_forms(lambda: segmentation.encode_block(block)) == segmentation.encode(volume)
    table = block.labels % np.uint64(bodies)
    expected = segmentation.encode(labels.voxels(block, table))
    assert in_both_forms(lambda: segmentation.encode_block(block, table)) == expected


@slow
@given(labelcase.foreign())
def test_blocks_of_others_keep_their_labels(parts: Parts):
    check_foreign(parts)


@slow
@given(labelcase.foreign(damaged=True))
def test_values_beyond_their_list_become_0(parts: Parts):
    check_foreign(parts)


def check_foreign(parts: Parts) -> None:
    block, voxels = labels.parse_trusted(parts.write()), parts.voxels()
    data = segmentation.encode_block(block)
    np.testing.assert_array_equal(segmentation.decode(data, voxels.shape), voxels)
    words = np.frombuffer(data, "<u4")[1:]
    for sub in range(len(parts.lists)):
        head, values = words[2 * sub : 2 * sub + 2].tolist()
        following = words[2 * sub + 3] if 2 * sub + 2 < 2 * len(parts.lists) else len(words)
        table = words[head & 0xFFFFFF : following].copy().view("<u8").tolist()
        assert len(set(table)) == len(table), "a label twice in a table"
        assert (head & 0xFFFFFF) - values == 16 * (head >> 24)


def test_one_label_everywhere():
    block = labels.parse(struct.pack("<4IQ", 2, 3, 4, 1, 2**64 - 5))
    for table in (None, np.array([0], np.uint64)):
        expected = segmentation.encode(labels.voxels(block, table))
        assert in_both_forms(lambda t=table: segmentation.encode_block(block, t)) == expected


def test_what_no_offset_reaches_is_refused():
    """Each of these sub-blocks has 2 words of header, 256 of values and 1024 of table; the last table must begin before 2^24."""
    fits = 13087
    assert 2 * fits + 1280 * (fits - 1) + 256 < 1 << 24 <= 2 * (fits + 1) + 1280 * fits + 256
    volume = np.tile(np.arange(512, dtype=np.uint64).reshape(8, 8, 8), (1, 1, fits + 1))
    with pytest.raises(ValueError, match="ask for a smaller one"):
        segmentation.encode(volume)
    held = np.ascontiguousarray(volume[:, :, : 8 * fits])
    data = segmentation.encode(held)
    assert len(data) == 4 * (1 + 1282 * fits)
    np.testing.assert_array_equal(segmentation.decode(data, held.shape), held)


def test_the_plain_form_refuses_it_too(monkeypatch: pytest.MonkeyPatch):
    volume = np.zeros((8, 8, 16), np.uint64)
    monkeypatch.setattr(segmentation, "REACH", 7)
    assert len(segmentation.encode_plain(volume)) == 4 * 9
    monkeypatch.setattr(segmentation, "REACH", 6)
    with pytest.raises(ValueError, match="ask for a smaller one"):
        segmentation.encode_plain(volume)


def test_the_largest_solid_block_is_within_reach():
    block = labels.parse(struct.pack("<4IQ", 128, 128, 128, 1, 7))
    assert len(segmentation.encode_block(block)) == 4 * (1 + 4 * 128**3)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 12), (0, 8, 8)])
def test_other_shapes_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="multiples of 8"):
        segmentation.encode(np.zeros(shape, np.uint64))


def test_tables_have_the_length_of_the_block_s():
    block = labels.parse(labels.encode(np.arange(512, dtype=np.uint64).reshape(8, 8, 8)))
    with pytest.raises(ValueError, match="a table of 512 labels is wanted"):
        segmentation.encode_block(block, np.zeros(511, np.uint64))


@slow
@given(
    labelcase.volumes(), st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 255)), max_size=6), st.integers(0, 9)
)
def test_damage_is_told(volume: np.ndarray, changes: list[tuple[int, int]], cut: int):
    data = bytearray(segmentation.encode(volume))
    for at, value in changes:
        data[at % min(len(data), 200)] = value
    del data[len(data) - cut :]
    try:
        found = segmentation.decode(bytes(data), volume.shape)
    except ValueError as error:
        assert str(error).startswith("compressed segmentation: ")
    else:
        assert found.shape == volume.shape
        assert cut == 0 or changes, "cut off, and nobody noticed"
