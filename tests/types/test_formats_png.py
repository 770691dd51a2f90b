"""PNG: other readers get the samples back, and every window of a stored PNG is the same bytes as the whole file's."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from dvidfs.types.formats.png import StoredPng, encode_png

shapes = st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.tuples(
    st.integers(1, 20), st.integers(1, 20), st.just(4)
)
pictures = arrays.arrays(np.uint8, shapes) | arrays.arrays(np.uint16, arrays.array_shapes(min_dims=2, max_dims=2))


def pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def stored(picture):
    return StoredPng(picture.shape[1], picture.shape[0], picture.shape[2:], picture.dtype)


def whole(picture):
    return stored(picture).read(0, 1 << 40, lambda first, stop: picture[first:stop])


@given(pictures)
def test_pillow_reads_what_was_encoded(picture):
    assert np.array_equal(pillow(encode_png(picture)), picture)
    assert np.array_equal(pillow(whole(picture)), picture)


@settings(deadline=None)
@given(st.sampled_from([65533, 65534, 65535, 65536, 131069, 131070, 131071]))
def test_rows_longer_than_a_stored_block(width):
    picture = np.random.default_rng(width).integers(0, 256, (3, width), np.uint8)
    assert np.array_equal(pillow(whole(picture)), picture)


def test_sixteen_bit_colour_keeps_both_bytes():
    picture = np.arange(4 * 6 * 4, dtype=np.uint16).reshape(4, 6, 4) * 600
    data = whole(picture)
    assert (data[24], data[25]) == (16, 6), "16 bits, RGBA"
    samples = np.frombuffer(data[stored(picture).head.__len__() :], np.uint8)[: 4 * stored(picture).stride]
    rows = samples.reshape(4, -1)[:, 6:]
    assert np.array_equal(rows.copy().view(">u2").reshape(4, 6, 4), picture)


@given(pictures, st.data())
def test_any_window_is_the_same_bytes_as_the_whole_file(picture, data):
    png, all_bytes = stored(picture), whole(picture)
    assert len(all_bytes) == png.size
    offset = data.draw(st.integers(0, png.size + 3))
    length = data.draw(st.integers(0, png.size + 3))
    window = png.read(offset, length, lambda first, stop: picture[first:stop])
    assert window == all_bytes[offset : offset + length]


def test_a_window_asks_for_its_rows_only():
    picture, asked = np.zeros((1000, 500), np.uint8), []

    def rows(first, stop):
        asked.append((first, stop))
        return picture[first:stop]

    png = stored(picture)
    png.read(len(png.head) + 10 * png.stride, 3 * png.stride, rows)
    assert asked == [(10, 13)]
    asked.clear()
    png.read(0, len(png.head), rows)
    assert asked == []


@pytest.mark.parametrize(
    "picture", [np.zeros((2, 2), np.float32), np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2), np.int8)]
)
def test_what_no_png_holds_is_refused(picture):
    with pytest.raises(ValueError, match="no PNG holds"):
        encode_png(picture)
