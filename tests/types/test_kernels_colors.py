"""Colours of labels: the published hash, whatever form computes it and whatever shape the labels have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from labelcase import in_both_forms

from dvidfs import kernels
from dvidfs.kernels import colors

kernels.load("colors_numba")


def murmur(label: int) -> int:
    """MurmurHash3 (x86, 32 bits, seed 0) of 8 bytes, in Python's own numbers."""

    def turned(word: int, bits: int) -> int:
        return (word << bits | word >> 32 - bits) % 2**32

    found = 0
    for part in (label % 2**32, label >> 32):
        found ^= turned(part * 0xCC9E2D51 % 2**32, 15) * 0x1B873593 % 2**32
        found = (turned(found, 13) * 5 + 0xE6546B64) % 2**32
    found ^= 8
    found = (found ^ found >> 16) * 0x85EBCA6B % 2**32
    found = (found ^ found >> 13) * 0xC2B2AE35 % 2**32
    return found ^ found >> 16


def test_the_published_value_of_eight_zero_bytes():
    assert murmur(0) == 0x63852AFC
    assert in_both_forms(lambda: colors.pseudocolor(np.zeros(1, np.uint64))).tolist() == [[0x63, 0x85, 0x2A]]


@given(hnp.arrays(np.uint64, hnp.array_shapes(max_dims=3, max_side=5), elements=st.integers(0, 2**64 - 1)))
def test_colors_are_the_upper_bytes_of_the_hash(labels: np.ndarray):
    found = in_both_forms(lambda: colors.pseudocolor(labels))
    assert (found.shape, found.dtype) == ((*labels.shape, 3), np.uint8)
    assert [bytes(color) for color in found.reshape(-1, 3)] == [
        murmur(label).to_bytes(4, "big")[:3] for label in labels.reshape(-1).tolist()
    ]


@pytest.mark.parametrize("shape", [(0,), (3, 0), ()])
def test_nothing_and_one_label(shape: tuple[int, ...]):
    found = in_both_forms(lambda: colors.pseudocolor(np.zeros(shape, np.uint64)))
    assert found.shape == (*shape, 3)


def test_labels_need_not_lie_in_one_piece():
    labels = np.arange(24, dtype=np.uint64).reshape(4, 6)
    expected = colors.pseudocolor(labels)[:, ::2]
    np.testing.assert_array_equal(in_both_forms(lambda: colors.pseudocolor(labels[:, ::2])), expected)
