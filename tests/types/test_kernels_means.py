"""Halving: both forms give the mean of Python's own numbers, to the bit; edges count only what exists."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dvidfs import kernels
from dvidfs.kernels import means

kernels.load("means_numba")
SIDES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5))
WHOLE = ["u1", "<u2", "<u4", "<u8"]


def halve_in_python(voxels: np.ndarray) -> np.ndarray:
    depth, height, width = (n // 2 for n in voxels.shape)
    sums = voxels.astype(object).reshape(depth, 2, height, 2, width, 2).sum((1, 3, 5))
    return ((sums + 4) // 8).astype(voxels.dtype)


@st.composite
def volumes(draw, dtypes: list[str], channels: int = 0) -> np.ndarray:
    shape = tuple(2 * n for n in draw(SIDES)) + ((channels,) if channels else ())
    return draw(hnp.arrays(np.dtype(draw(st.sampled_from(dtypes))), shape))


@given(volumes(WHOLE))
def test_whole_numbers_are_rounded_to_the_nearest(voxels: np.ndarray):
    expected = halve_in_python(voxels)
    for form in (means.halve, means.halve_plain):
        found = form(voxels)
        assert found.dtype == voxels.dtype
        np.testing.assert_array_equal(found, expected)


@given(volumes(["u1"], channels=4))
def test_channels_are_averaged_one_by_one(voxels: np.ndarray):
    for form in (means.halve, means.halve_plain):
        found = form(voxels)
        for channel in range(4):
            np.testing.assert_array_equal(found[..., channel], halve_in_python(voxels[..., channel]))


@given(volumes(["<f4"]))
def test_both_forms_agree_on_every_float(voxels: np.ndarray):
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(means.halve(voxels), means.halve_plain(voxels))


@given(hnp.arrays("<f4", (2, 2, 2), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_floats_are_summed_in_64_bits(voxels: np.ndarray):
    exact = sum(Fraction(float(v)) for v in voxels.reshape(-1)) / 8
    largest = float(np.abs(voxels).max())
    assert abs(Fraction(float(means.halve(voxels)[0, 0, 0])) - exact) <= Fraction(largest) / 10**7 + Fraction(1, 10**44)


@given(volumes(["u1", "<u8"]), st.data())
def test_only_what_lies_inside_counts(voxels: np.ndarray, data: st.DataObject):
    low = tuple(data.draw(st.integers(0, n - 1)) for n in voxels.shape)
    high = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(low, voxels.shape, strict=True))
    inside = np.zeros(voxels.shape, bool)
    inside[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    depth, height, width = (n // 2 for n in voxels.shape)
    cut = np.where(inside, voxels, 0).astype(object).reshape(depth, 2, height, 2, width, 2).sum((1, 3, 5))
    count = inside.astype(object).reshape(depth, 2, height, 2, width, 2).sum((1, 3, 5))
    expected = [0 if not n else (2 * s + n) // (2 * n) for s, n in zip(cut.reshape(-1), count.reshape(-1), strict=True)]
    means.trim(voxels, low, high)
    assert means.halve(voxels).reshape(-1).tolist() == expected


@pytest.mark.parametrize("shape", [(2, 2, 3), (1, 2, 2), (2, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="even sides"):
        means.halve(np.zeros(shape, "u1"))


def test_arrays_that_do_not_lie_in_one_piece_are_refused():
    with pytest.raises(ValueError, match="C-contiguous"):
        means.halve(np.zeros((2, 2, 4), "u1")[:, :, ::2])
