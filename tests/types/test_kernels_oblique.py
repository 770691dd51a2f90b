"""Oblique slices: both forms find the blocks that a slice touches and mix the voxels around each point alike, and as a plain sum does."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvidfs import kernels
from dvidfs.kernels import blocks, oblique
from dvidfs.kernels.oblique import Patch

SHAPES = ((4, 4, 4), (3, 5, 2), (1, 1, 1), (8, 2, 1))
DTYPES = [np.dtype(t) for t in ("u1", "<u2", "<u4", "<u8", "<f4")]
steps = st.sampled_from([0, 1, -1, 0.5, -0.25, 0.3, 1.7, -2.2, 40.1])
vectors = st.tuples(steps, steps, steps).map(np.array)
corners = st.tuples(*[st.sampled_from([0, -5, 3.5, 11.25, -0.1, 1e6])] * 3).map(np.array)
patches = st.builds(
    lambda corner, right, down, y, x: Patch(corner, right, down, range(y[0], sum(y)), range(x[0], sum(x))),
    corners, vectors, vectors, *[st.tuples(st.integers(0, 3), st.integers(1, 6))] * 2,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    assert kernels.load("blocks_numba") is not None
    assert kernels.load("oblique_numba") is not None


def neighbours(patch, y, x):
    """(voxel (x, y, z), weight) around a point, those without weight left out."""
    point = patch.corner + y * patch.down + x * patch.right
    sides = [[(math.floor(p), 1 - (p - math.floor(p))), (math.floor(p) + 1, p - math.floor(p))] for p in point.tolist()]
    for corner in itertools.product(*sides):
        weight = math.prod(w for _, w in corner)
        if weight:
            yield tuple(v for v, _ in corner), weight


@settings(deadline=None)
@given(patches, st.sampled_from(SHAPES))
def test_touched_names_the_blocks_of_all_neighbours(patch, shape):
    found = oblique.touched(patch, shape)
    plain = oblique.touched_plain(patch, found.first, shape)
    assert np.array_equal(found.numbers, plain.numbers)
    want = {
        tuple(v // s for v, s in zip(voxel, shape, strict=True))
        for y in patch.rows
        for x in patch.columns
        for voxel, _ in neighbours(patch, y, x)
    }
    assert want <= set(found.coords())
    assert found.coords() == sorted(set(found.coords()), key=lambda c: c[::-1])


def test_blocks_too_far_apart_to_be_numbered_are_left_to_smaller_patches():
    patch = Patch(np.zeros(3), np.array([1e9, 0, 0]), np.array([0, 1.0, 0]), range(2), range(3))
    assert oblique.touched(patch, (4, 4, 4)) is None
    assert oblique.touched(patch, (2048, 4, 4)) is not None


@settings(deadline=None, max_examples=200)
@given(patches, st.sampled_from(SHAPES), st.sampled_from(DTYPES), st.booleans(), st.data())
def test_samples_are_sums_of_the_neighbours(patch, shape, dtype, is_coloured, data):
    channels = 4 if is_coloured and dtype == np.uint8 else 1
    found = oblique.touched(patch, shape)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    n = math.prod(shape) * channels
    values = [rng.integers(0, 256, n * dtype.itemsize, np.uint8).view(dtype) for _ in found.numbers]
    if dtype.kind == "f":
        values = [rng.normal(0, 100, n).astype(dtype) for _ in found.numbers]
    held = [None if rng.random() < 0.2 else v.tobytes() for v in values]
    stored = [None if h is None else (b"*" if rng.random() < 0.5 else b"+") + h for h in held]
    form = blocks.Form(n * dtype.itemsize, b"*", lambda p: np.frombuffer(p, np.uint8, offset=1))
    fill = np.array([7], dtype)
    out, plain = (np.empty((len(patch.rows), len(patch.columns), channels), dtype) for _ in range(2))
    oblique.sample(out, patch, found, stored, form, fill)
    decoded = [None if h is None else np.frombuffer(h, np.uint8) for h in held]
    oblique.sample_plain(plain, patch, found, decoded, fill)
    assert np.array_equal(out, plain)
    table = {
        c: None if h is None else v.reshape(*shape[::-1], channels)
        for c, v, h in zip(found.coords(), values, held, strict=True)
    }
    for (i, y), (j, x) in itertools.product(enumerate(patch.rows), enumerate(patch.columns)):
        total = np.zeros(channels, np.float64)
        for voxel, weight in neighbours(patch, y, x):
            block = table[tuple(v // s for v, s in zip(voxel, shape, strict=True))]
            a, b, c = (v % s for v, s in zip(voxel, shape, strict=True))
            total += weight * (np.full(channels, 7.0) if block is None else block[c, b, a].astype(np.float64))
        slack = 1e-6 * np.abs(total).max() + (0.5 if dtype.kind == "u" else 1e-3)
        assert np.abs(out[i, j].astype(np.float64) - total).max() <= slack + 1e-6


def test_a_point_on_a_voxel_is_that_voxel_even_beside_what_is_no_number():
    shape = (2, 2, 2)
    big = np.full(8, 2**64 - 1, "<u8")
    odd = np.array([1, np.inf, 2, np.nan, 3, -np.inf, 4, 5], "<f4")
    patch = Patch(np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 0, 1.0]), range(2), range(2))
    for voxels in (big, odd):
        form = blocks.Form(voxels.nbytes, b"", lambda p: np.frombuffer(p, np.uint8))
        out = np.empty((2, 2, 1), voxels.dtype)
        oblique.sample(out, patch, oblique.touched(patch, shape), [voxels.tobytes()], form, voxels[:1])
        assert np.array_equal(out[..., 0], voxels.reshape(2, 2, 2)[:, 0], equal_nan=voxels.dtype.kind == "f")


def test_means_of_the_largest_numbers_stay_within_their_type():
    voxels = np.full(8, 2**64 - 1, "<u8")
    patch = Patch(np.full(3, 0.5), np.zeros(3), np.zeros(3), range(1), range(1))
    form = blocks.Form(64, b"", lambda p: np.frombuffer(p, np.uint8))
    out, plain = np.empty((1, 1, 1), "<u8"), np.empty((1, 1, 1), "<u8")
    found = oblique.touched(patch, (2, 2, 2))
    oblique.sample(out, patch, found, [voxels.tobytes()], form, voxels[:1])
    oblique.sample_plain(plain, patch, found, [voxels.view(np.uint8)], voxels[:1])
    assert out[0, 0, 0] == plain[0, 0, 0] >= 2**64 - 4096


def test_a_neighbour_without_weight_may_be_infinite():
    voxels = np.array([1, np.inf, 3, np.inf, 1, np.inf, 3, np.inf], "<f4")
    patch = Patch(np.array([0, 0.5, 0]), np.zeros(3), np.zeros(3), range(1), range(1))
    form = blocks.Form(32, b"", lambda p: np.frombuffer(p, np.uint8))
    out = np.empty((1, 1, 1), "<f4")
    oblique.sample(out, patch, oblique.touched(patch, (2, 2, 2)), [voxels.tobytes()], form, voxels[:1])
    assert out[0, 0, 0] == 2
