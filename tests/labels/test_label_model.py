"""What labels are tested with is right itself: worked examples of the formats, and facts recorded of the original."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import wire
from hypothesis import given, settings
from hypothesis import strategies as st
from model import Frame, Model, State, vote

FRAME = Frame((16, 16, 16), (2, 2, 2), (-1, 0, 1))


def painted(seed: int, labels: int, shape: tuple[int, int, int] = (16, 16, 16)) -> wire.Voxels:
    chance = np.random.default_rng(seed)
    return chance.integers(0, labels, shape).astype(np.uint64) * np.uint64(1 << 40)


def test_a_block_with_four_labels_is_packed_as_in_the_worked_example():
    voxels = np.zeros((16, 16, 16), np.uint64)
    voxels[:8, :8, 8:], voxels[0, 0, :4] = 9, (5, 5, 5, 7)
    data = wire.encode_block(voxels)
    assert len(data) == 232
    assert data[:16] == struct.pack("<4I", 2, 2, 2, 4)
    assert data[16:48] == struct.pack("<4Q", 5, 7, 0, 9)
    assert data[-128:] == b"\x01" + b"\xaa" * 127
    assert (
        wire.encode_block(np.full((64, 64, 64), 23, np.uint64)).hex()
        == "080000000800000008000000010000001700000000000000"
    )


def test_values_of_three_bits_cross_bytes():
    voxels = np.zeros((16, 16, 16), np.uint64)
    voxels[0, 0, :5] = (1, 2, 3, 4, 5)
    values = wire.encode_block(voxels)[-192:]
    assert values[:3].hex() == "05396d"


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1 << 30), labels=st.sampled_from([1, 2, 3, 5, 600]))
def test_blocks_and_runs_come_back(seed: int, labels: int):
    voxels = painted(seed, labels)
    assert (wire.decode_block(wire.encode_block(voxels)) == voxels).all()
    points = wire.points_of_mask(voxels != 0, (-5, 0, 7))
    runs = wire.runs_of_points(points)
    assert (wire.points_of_runs(wire.decode_rles(wire.encode_rles(runs[::-1]))) == points).all()
    assert runs[:, 3].sum() == (voxels != 0).sum()


def test_masks_are_read_with_the_first_voxel_in_the_lowest_bit():
    mixed = b"\x01" + b"\x02\x02" + bytes(63) + bytes(6)
    data = struct.pack("<3IQ", 2, 2, 2, 23) + struct.pack("<3i", 64, 0, 0) + b"\x02" + mixed
    points = wire.decode_masks(data + struct.pack("<3i", 128, 0, 0) + b"\x01", 23)
    assert len(points) == 512 + 1 + 4096
    assert [73, 0, 0] in points.tolist()


@pytest.mark.parametrize(
    ("place", "key"), [((0, 0, 0), 0), ((1, 2, 3), 13194143727617), ((-1, 2, -3), 4611699212572164097)]
)
def test_block_keys(place: wire.Xyz, key: int):
    assert wire.block_key(place) == key
    assert wire.block_place(key) == place


def test_an_index_is_written_as_in_the_worked_example():
    index = wire.LabelIndex(23, {(1, 2, 3): {23: 100, 24: 5}}, 1000000003, "2024-01-01T00:00:00Z", "u1", "app1")
    data = wire.encode_index(index)
    assert len(data) == 64
    assert data[:26].hex() == "0a1608818080828080" + "03120c0a04081710640a0408181005" + "1017"
    assert wire.decode_index(data) == index
    assert wire.decode_indices(wire.encode_indices([index, wire.LabelIndex(5)])) == [index, wire.LabelIndex(5)]
    assert wire.encode_mappings({23: [24, 300]}, 1000000004).hex() == "0a0d088494ebdc0310171a0318ac02"


@pytest.mark.parametrize(
    ("eight", "winner"),
    [((0, 0, 0, 0, 0, 9, 4, 4), 4), ((8, 8, 3, 3, 0, 0, 0, 1), 3), ((0,) * 8, 0), ((0,) * 7 + (6,), 6)],
)
def test_votes(eight: tuple[int, ...], winner: int):
    assert vote(np.array(eight, np.uint64).reshape(2, 2, 2)).item() == winner


def two_halves() -> State:
    """Bodies 10, 20, 30 and 40, a quarter of the box each; none of its blocks is of one label."""
    state = State.empty(FRAME)
    voxels = state.voxels.copy()
    for number in range(4):
        voxels[:, :, number::4] = 10 * (number + 1)
    state.write({place: voxels[FRAME.window(place)] for place in FRAME.places()})
    return state


def test_mutations_say_what_the_original_says():
    state = two_halves()
    assert state.in_step()
    assert (state.bodies(), state.size(10)) == ([10, 20, 30, 40], 8192)
    state.merge(10, [20, 30])
    state.cleave([20], 91)
    assert [state.looked_up(s) for s in (10, 20, 30, 91)] == [10, 91, 10, 0]
    state.cleave([10], 92)
    assert [state.looked_up(s) for s in (10, 30, 92)] == [92, 10, 0]
    assert state.mapping == {20: 91, 30: 10, 91: 0, 10: 92, 92: 0}
    state.merge(91, [92])
    assert [state.looked_up(s) for s in (10, 20, 91, 92)] == [91, 91, 0, 0]
    state.renumber(5000, 91)
    assert state.mapping[5000] == 0
    assert state.supervoxels(5000) == {10, 20}
    assert state.in_step()


def test_a_split_supervoxel_is_no_more():
    state = two_halves()
    state.merge(10, [30])
    mask = np.zeros(FRAME.shape, bool)
    mask[:7] = True
    state.split_supervoxel(30, mask, 91, 92)
    assert [state.looked_up(s) for s in (30, 91, 92)] == [0, 10, 10]
    assert (state.sizes()[91], state.sizes()[92]) == (7 * 32 * 8, 25 * 32 * 8)
    assert (state.splits, state.in_step(), state.size(10)) == ([(30, 92, 91)], True, 2 * 8192)
    state.split(mask, 93, {10: (94, 95)})
    assert state.body_of(94) == 93
    assert state.body_of(95) == 10
    assert (state.bodies(), state.in_step()) == ([10, 20, 40, 93], True)


def test_mapping_and_membership_are_two_facts():
    state = two_halves()
    state.post_mappings({10: [20]})
    assert (state.body_of(20), state.supervoxels(20), state.in_step()) == (10, {20}, False)
    moved = [state.index(10), state.index(20)]
    for place, counts in moved[1].blocks.items():
        moved[0].blocks.setdefault(place, {}).update(counts)
    state.post_indices([moved[0], wire.LabelIndex(20)])
    assert (state.supervoxels(10), state.in_step()) == ({10, 20}, True)
    assert (state.mapped(state.voxels) == np.where(state.voxels == 20, 10, state.voxels)).all()


def test_the_first_parent_of_a_merge_has_its_way():
    model = Model({"root": two_halves()})
    for name in ("left", "right"):
        model.versions[name] = model.versions["root"].child("root")
    left, right = model.versions["left"], model.versions["right"]
    left.merge(10, [20])
    right.merge(40, [20, 30])
    assert left.frame.places()[0] not in left.wrote_blocks
    merged, torn = model.merged(["left", "right"])
    assert (merged.mapping, torn, merged.parents) == ({20: 10, 30: 40}, {20}, ("left", "right"))
    assert model.merged(["right", "left"])[0].mapping == {20: 40, 30: 40}
    right.write({(0, 1, 2): np.full((16, 16, 16), 7, np.uint64)})
    merged, _ = model.merged(["left", "right"])
    assert merged.supervoxels(7) == {7}
    assert merged.in_step()
    left.write({(0, 1, 2): np.full((16, 16, 16), 8, np.uint64)})
    assert model.merged(["left", "right"]) is None


def test_scales_of_a_box_that_begins_below_zero():
    state = two_halves()
    assert state.frame.scaled(1) == ((-8, 0, 8), (16, 16, 16))
    assert (state.scale(1)[:, :, ::2] == 10).all()
    assert (state.points([10], 1)[0] == (-8, 0, 8)).all()
    assert state.coarse([10], 1).tolist() == [[-1, 0, 0], [0, 0, 0], [-1, 0, 1], [0, 0, 1]]
    blocks = state.blocks([(-1, 0, 0), (0, 0, 0)], 1)
    assert (blocks[-1, 0, 0][8:, :, 8:] == state.scale(1)[:8, :, :8]).all()
    assert not blocks[-1, 0, 0][:8].any()
