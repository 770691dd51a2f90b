"""Painting a packed block gives what painting its voxels gives, and a block that lists nothing in vain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelcase import SEEDS, foreign, in_both_forms, volumes

from dvidfs.kernels import labels, repaint, runs

RATES = st.sampled_from([0.0005, 0.02, 0.5, 1.0])
MODEST = settings(max_examples=60, deadline=None)


def some_runs(random: np.random.Generator, shape: tuple[int, int, int], share: float) -> np.ndarray:
    """Runs in any order; on average each selects a few voxels."""
    chosen = random.random(shape) < share
    chosen[:: random.integers(1, 9), random.integers(shape[1]) :] = False
    found = runs.runs_of_mask(chosen)
    return found[random.permutation(len(found))]


def check(data: bytes, seed: int, share: float) -> labels.Block:
    """Paints two of the labels at most; the block that comes of it."""
    random, block = np.random.default_rng(seed), labels.parse(data)
    voxels = labels.voxels(block)
    pieces = some_runs(random, voxels.shape, share)
    old = random.permutation(np.unique(voxels))[: random.integers(1, 3)]
    free = np.setdiff1d(np.arange(5, 5 + len(block.labels) + 2, dtype=np.uint64), block.labels)
    new = random.permutation(free)[: len(old)]

    made, counts = repaint.repaint(block, pieces, old, new)
    wanted = voxels.copy()
    assert counts.tolist() == runs.paint_many(wanted, pieces, old, new).tolist()
    after = labels.parse(made)
    np.testing.assert_array_equal(labels.voxels(after), wanted)
    return after


@MODEST
@given(voxels=volumes(), seed=SEEDS, share=RATES)
def test_painted_blocks_hold_what_painted_voxels_are(voxels: np.ndarray, seed: int, share: float):
    after = check(labels.encode(voxels), seed, share)
    assert sorted(after.labels) == np.unique(labels.voxels(after)).tolist()


@MODEST
@given(parts=foreign(), seed=SEEDS, share=RATES)
def test_blocks_of_others_too(parts, seed: int, share: float):
    check(parts.write(), seed, share)


@settings(max_examples=15, deadline=None)
@given(voxels=volumes(), seed=SEEDS)
def test_both_forms_give_the_same_bytes(voxels: np.ndarray, seed: int):
    block = labels.parse(labels.encode(voxels))
    pieces = some_runs(np.random.default_rng(seed), voxels.shape, 0.02)
    old, new = block.labels[:1], np.setdiff1d(np.array([3, 4], np.uint64), block.labels)[:1]
    in_both_forms(lambda: np.frombuffer(repaint.repaint(block, pieces, old, new)[0], np.uint8))


def test_a_block_with_many_sub_blocks_touched_is_painted_too():
    voxels = np.random.default_rng(2).integers(1, 9, (64, 64, 64)).astype(np.uint64)
    pieces = np.array([[0, y, z, 64] for z in range(0, 64, 4) for y in range(0, 64, 4)], np.int32)
    made, counts = repaint.repaint(
        labels.parse(labels.encode(voxels)), pieces, np.array([3], np.uint64), np.array([30], np.uint64)
    )
    inside = np.zeros(voxels.shape, bool)
    inside[::4, ::4] = True
    assert counts.tolist() == [(voxels[inside] == 3).sum()]
    voxels[inside & (voxels == 3)] = 30
    np.testing.assert_array_equal(labels.voxels(labels.parse(made)), voxels)


def test_a_block_that_becomes_one_label_is_stored_as_one():
    voxels = np.full((8, 8, 16), 5, np.uint64)
    voxels[:, :, :8] = 6
    block = labels.parse(labels.encode(voxels))
    everything = np.array([[0, y, z, 16] for z in range(8) for y in range(8)], np.int32)
    both, one = np.array([5, 6], np.uint64), np.array([7, 7], np.uint64)
    made, counts = repaint.repaint(block, everything, both, one)
    assert (len(made), counts.tolist()) == (24, [512, 512])


@pytest.mark.parametrize("piece", [(-1, 0, 0, 2), (15, 0, 0, 2), (0, 8, 0, 1), (0, 0, -1, 1), (0, 0, 8, 1)])
def test_runs_outside_the_block_are_refused(piece: tuple[int, int, int, int]):
    voxels = np.zeros((8, 8, 16), np.uint64)
    voxels[0, 0, 0] = 4
    for data in (labels.encode(voxels), labels.encode(np.zeros_like(voxels))):
        with pytest.raises(ValueError, match="inside"):
            repaint.repaint(
                labels.parse(data), np.array([piece], np.int32), np.array([4], np.uint64), np.array([9], np.uint64)
            )
