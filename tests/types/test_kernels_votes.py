"""Votes: both forms choose as plain counting does, and as the recorded sums of real blocks say."""

from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dvidfs import kernels
from dvidfs.kernels import labels, votes

REAL = Path(__file__).parent.parent / "data" / "label-blocks"
FORMS = [votes.halve, votes.halve_plain]
SIDES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)).map(lambda s: tuple(2 * n for n in s))
LABELS = st.sampled_from([0, 1, 2, 3, 2**63, 2**64 - 1])


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    assert kernels.load("votes_numba") is not None


def winner(cell: list[int]) -> int:
    votes = Counter(label for label in cell if label)
    return min(votes, key=lambda label: (-votes[label], label)) if votes else 0


@pytest.mark.parametrize("halve", FORMS)
@given(SIDES.flatmap(lambda shape: hnp.arrays(np.uint64, shape, elements=LABELS)))
def test_the_most_frequent_label_wins(halve, voxels: np.ndarray):
    found = halve(voxels)
    assert found.dtype == np.uint64
    for z, y, x in np.ndindex(found.shape):
        cell = voxels[2 * z : 2 * z + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].reshape(-1).tolist()
        assert found[z, y, x] == winner(cell), cell


@pytest.mark.parametrize("halve", FORMS)
@pytest.mark.parametrize(
    ("cell", "wins"), [((0, 0, 0, 0, 0, 9, 4, 4), 4), ((8, 8, 3, 3, 0, 0, 0, 1), 3), ((0, 0, 0, 7, 0, 0, 0, 0), 7)]
)
def test_worked_cells(halve, cell: tuple[int, ...], wins: int):
    assert halve(np.array(cell, np.uint64).reshape(2, 2, 2)).item() == wins


@pytest.mark.parametrize("halve", FORMS)
@pytest.mark.parametrize(
    ("name", "md5"),
    [
        ("cx-1", "64c0313a01f521ab27bdcfc9730e49c7"),
        ("cx-2", "584b3d3fbc36317b90c5e9c98581267e"),
        ("fib19-1", "e09109c2a265eb00d3b3f939811e505c"),
        ("fib19-2", "e6c7ae3a246b89eefaae53c628377d11"),
    ],
)
def test_real_blocks(halve, name: str, md5: str):
    voxels = labels.voxels(labels.parse(gzip.decompress((REAL / f"{name}.block.gz").read_bytes())))
    assert hashlib.md5(halve(voxels).tobytes()).hexdigest() == md5


@pytest.mark.parametrize(
    "voxels",
    [
        np.zeros((2, 2, 3), np.uint64),
        np.zeros((2, 2), np.uint64),
        np.zeros((2, 2, 2), np.int64),
        np.zeros((2, 2, 4), np.uint64)[:, :, ::2],
    ],
)
def test_other_arrays_are_refused(voxels: np.ndarray):
    with pytest.raises(ValueError, match="C-contiguous 64-bit labels with even sides"):
        votes.halve(voxels)
