"""Reading PNG: the samples are those that Pillow finds, damage is told, and the compiled filters are the plain ones."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dvidfs import kernels
from dvidfs.errors import BadRequest
from dvidfs.kernels.unfilter import unfilter, unfilter_plain
from dvidfs.types.formats.png import SIGNATURE, encode_png
from dvidfs.types.formats.pngread import read_png


@pytest.fixture(autouse=True, scope="module")
def compiled():
    assert kernels.load("unfilter_numba") is not None


def picture(shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    steps = np.random.default_rng(5).integers(-20, 21, shape)
    return (np.cumsum(steps, 1) & np.iinfo(dtype).max).astype(dtype)


def as_png(samples: np.ndarray, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(samples).save(out, "PNG", **options)
    return out.getvalue()


def by_hand(lines: np.ndarray, width: int, bits: int, colour: int, split: int = 1000) -> bytes:
    """A PNG with these filtered rows, its data in several chunks."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = zlib.compress(lines.tobytes(), 1)
    parts = b"".join(chunk(b"IDAT", data[at : at + split]) for at in range(0, len(data), split))
    head = struct.pack(">IIBBBBB", width, len(lines), bits, colour, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", head) + parts + chunk(b"IEND", b"")


@pytest.mark.parametrize("shape", [(1, 1), (40, 37), (37, 40, 3), (300, 400, 4)], ids=str)
def test_pictures_of_pillow_are_read_as_pillow_reads_them(shape: tuple[int, ...]):
    samples = picture(shape)
    assert np.array_equal(read_png(as_png(samples)), samples)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_our_own_pictures_are_read(dtype: type):
    samples = picture((50, 60), dtype)
    found = read_png(encode_png(samples))
    assert found is not None
    assert found.dtype == dtype
    assert np.array_equal(found, samples)


def test_samples_go_where_they_are_wanted():
    samples, room = picture((30, 20)), np.zeros((3, 30, 20), np.uint8)
    assert np.shares_memory(read_png(as_png(samples), room[1]), room)
    assert np.array_equal(room[1], samples)
    assert not room[[0, 2]].any()


@given(
    lines=st.integers(0, 2**32).map(np.random.default_rng),
    height=st.integers(1, 12),
    width=st.integers(1, 20),
    form=st.sampled_from([(8, 0, 1), (16, 0, 2), (8, 2, 3), (8, 6, 4), (16, 6, 8)]),
)
@settings(max_examples=60, deadline=None)
def test_any_filters_give_what_pillow_and_the_twin_give(lines, height, width, form):
    bits, colour, pixel = form
    rows = lines.integers(0, 256, (height, 1 + width * pixel), np.uint8)
    rows[:, 0] = lines.integers(0, 5, height)
    samples = unfilter(rows, pixel)
    assert np.array_equal(samples, unfilter_plain(rows, pixel))
    data = by_hand(rows, width, bits, colour, 20)
    if (bits, colour) != (16, 6):  # which Pillow cuts to 8 bits
        assert np.array_equal(read_png(data), np.asarray(Image.open(io.BytesIO(data))))


def test_other_kinds_are_left_to_others():
    samples = np.zeros((9, 9), np.uint8)
    assert read_png(as_png(samples)) is not None
    assert read_png(as_png(samples, transparency=3)) is None
    assert read_png(as_png(samples > 1)) is None
    assert read_png(b"GIF89a") is None


def damaged() -> dict[str, bytes]:
    whole = as_png(picture((80, 90)))
    middle = len(whole) // 2
    rows = np.zeros((5, 6), np.uint8)
    wrong = rows.copy()
    wrong[3, 0] = 9
    return {
        "cut": whole[:middle],
        "overwritten": whole[:middle] + bytes(20) + whole[middle + 20 :],
        "filter": by_hand(wrong, 5, 8, 0),
        "short": by_hand(rows[:4], 5, 8, 0).replace(struct.pack(">II", 5, 4), struct.pack(">II", 5, 5)),
        "long": by_hand(rows, 5, 8, 0).replace(struct.pack(">II", 5, 5), struct.pack(">II", 5, 4)),
        "huge": by_hand(rows, 5, 8, 0).replace(struct.pack(">II", 5, 5), struct.pack(">II", 2**31, 2**31)),
        "no data": whole[:33],
    }


@pytest.mark.parametrize("name", damaged())
def test_damage_is_told(name: str):
    with pytest.raises(BadRequest):
        read_png(damaged()[name])


def test_rows_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="C-contiguous rows"):
        unfilter(np.zeros((4, 4), np.uint8)[:, ::2], 1)
    with pytest.raises(ValueError, match="C-contiguous rows"):
        unfilter(np.zeros((4, 4), np.uint8), 4)
