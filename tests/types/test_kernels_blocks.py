"""Gather and scatter: the compiled form and its numpy twin give the bytes that plain slicing of the volume gives."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvidfs import kernels
from dvidfs.kernels import blocks

dtypes = st.sampled_from([np.uint8, np.uint16, np.float32, np.uint64])
shapes = st.tuples(*[st.integers(1, 9)] * 3)
grids = st.tuples(*[st.integers(1, 4)] * 3)


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    assert kernels.load("blocks_numba") is not None


def volume_of(shape, grid, dtype):
    full = tuple(s * g for s, g in zip(shape, grid, strict=True))
    return np.random.default_rng(7).integers(0, 200, full).astype(dtype)


def starts_of(shape, grid, first):
    return [
        tuple(f + i * s for f, i, s in zip(first, at, shape, strict=True))
        for at in itertools.product(*map(range, grid))
    ]


@settings(deadline=None)
@given(shapes, grids, dtypes)
def test_scatter_cuts_a_volume_into_its_blocks(shape, grid, dtype):
    volume = volume_of(shape, grid, dtype)
    want = [
        volume[z : z + shape[0], y : y + shape[1], x : x + shape[2]] for z, y, x in starts_of(shape, grid, (0, 0, 0))
    ]
    assert np.array_equal(blocks.scatter(volume, shape), want)
    assert np.array_equal(blocks.scatter_plain(volume, shape), want)


@settings(deadline=None)
@given(shapes, grids, dtypes, st.data())
def test_gather_fills_a_window_from_blocks(shape, grid, dtype, data):
    volume = volume_of(shape, grid, dtype)
    first = data.draw(st.tuples(*[st.integers(-20, 20)] * 3))
    lo = [data.draw(st.integers(f - 3, f + n)) for f, n in zip(first, volume.shape, strict=True)]
    size = [data.draw(st.integers(1, n + 5)) for n in volume.shape]
    pieces = [b.reshape(-1).view(np.uint8) for b in blocks.scatter(volume, shape)]
    want = np.full(size, 201, dtype)
    inside = [slice(max(a, f), min(a + s, f + n)) for a, s, f, n in zip(lo, size, first, volume.shape, strict=True)]
    if all(s.start < s.stop for s in inside):
        target = tuple(slice(s.start - a, s.stop - a) for s, a in zip(inside, lo, strict=True))
        source = tuple(slice(s.start - f, s.stop - f) for s, f in zip(inside, first, strict=True))
        want[target] = volume[source]
    for gather in (blocks.gather, blocks.gather_plain):
        out = np.full(size, 201, dtype)
        gather(out, tuple(lo), starts_of(shape, grid, first), pieces, shape)
        assert np.array_equal(out, want)


def test_gather_leaves_gaps_as_they_are():
    out = np.full((2, 2, 4), 9, np.uint8)
    blocks.gather(out, (0, 0, 0), [(0, 0, 2)], [np.zeros(8, np.uint8)], (2, 2, 2))
    assert out.tolist() == [[[9, 9, 0, 0]] * 2] * 2


def test_gather_of_nothing_changes_nothing():
    out = np.ones((2, 2, 2), np.uint8)
    blocks.gather(out, (0, 0, 0), [], [], (2, 2, 2))
    assert out.all()


def test_blocks_of_another_size_are_refused_before_anything_is_copied():
    out = np.zeros((4, 4, 4), np.uint8)
    with pytest.raises(ValueError, match="8 bytes"):
        blocks.gather(out, (0, 0, 0), [(0, 0, 0)] * 9, [np.ones(7, np.uint8)] * 9, (2, 2, 2))
    assert not out.any()


def test_a_window_with_gaps_in_memory_is_refused():
    with pytest.raises(ValueError, match="C-contiguous"):
        blocks.gather(np.zeros((4, 4, 4), np.uint8)[:, :, ::2], (0, 0, 0), [], [], (2, 2, 2))


def test_scatter_wants_whole_blocks():
    with pytest.raises(ValueError, match="whole blocks"):
        blocks.scatter(np.zeros((4, 4, 5), np.uint8), (2, 2, 2))


def test_without_numba_the_twin_answers(monkeypatch):
    monkeypatch.setenv("DVIDFS_KERNELS", "numpy")
    slot = kernels._Slot("blocks_numba")
    assert slot.load() is None
    monkeypatch.setattr(kernels, "ready", lambda name: slot.ready())
    volume = volume_of((2, 2, 2), (3, 3, 3), np.uint8)
    assert np.array_equal(blocks.scatter(volume, (2, 2, 2)), blocks.scatter_plain(volume, (2, 2, 2)))


@settings(deadline=None)
@given(shapes, grids, dtypes, st.sampled_from([None, b"", b"head", bytes(40)]), st.data())
def test_stored_blocks_are_gathered_whether_they_must_be_decoded_or_not(shape, grid, dtype, head, data):
    volume = volume_of(shape, grid, dtype)
    pieces = [b.tobytes() for b in blocks.scatter(volume, shape)]
    size, mark = len(pieces[0]), head or b""

    def decode(payload):
        payload = bytes(payload)
        return np.frombuffer(payload[:-1][::-1] if payload.endswith(b"!") else payload[len(mark) :], np.uint8)

    kinds = [data.draw(st.booleans()) for _ in pieces]
    payloads = [mark + p if lies else p[::-1] + b"!" for p, lies in zip(pieces, kinds, strict=True)]
    payloads = [p if i % 2 else memoryview(p) for i, p in enumerate(payloads)]
    origin = tuple(data.draw(st.integers(0, n - 1)) for n in volume.shape)
    want = volume[tuple(slice(o, None) for o in origin)]
    form, starts = blocks.Form(size, head, decode), np.array(starts_of(shape, grid, (0, 0, 0)))
    for portion in (1, 1 << 20):
        out = np.empty(want.shape, dtype)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "_INFLATED", portion)
            blocks.gather_stored(out, origin, starts, payloads, shape, form)
        assert np.array_equal(out, want)


def test_an_empty_payload_is_given_to_the_decoder():
    def decode(payload):
        raise ValueError(f"{len(payload)} bytes")

    form, starts = blocks.Form(8, b"x", decode), np.zeros((5, 3), np.int64)
    with pytest.raises(ValueError, match="0 bytes"):
        blocks.gather_stored(np.empty((2, 2, 2), np.uint8), (0, 0, 0), starts, [b""] * 5, (2, 2, 2), form)
