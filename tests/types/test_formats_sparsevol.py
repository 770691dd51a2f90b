"""Sparse volumes on the wire: the worked examples, round trips, damage is noticed, and which box the options mean."""

from __future__ import annotations

import gzip
import struct

import lz4.block
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dvidfs.errors import BadRequest
from dvidfs.types.formats import sparsevol
from dvidfs.types.formats.sparsevol import EVERYWHERE, Bounds

LAST = 2**31 - 1
WORKED = bytes.fromhex(
    "00030000 00000000 03000000"
    "65000000 c8000000 2c010000 03000000"
    "64000000 c9000000 2d010000 01000000"
    "67000000 c9000000 2d010000 03000000"
)
spans = hnp.arrays(np.int32, st.tuples(st.integers(0, 9), st.just(4)), elements=st.integers(-1000, LAST // 2))


# Runs


def test_the_worked_example():
    runs = np.array([[101, 200, 300, 3], [100, 201, 301, 1], [103, 201, 301, 3]], np.int32)
    assert sparsevol.rles(runs) == WORKED
    assert sparsevol.spans(runs) == WORKED[12:]
    assert sparsevol.read_rles(WORKED).tolist() == runs.tolist()
    assert sparsevol.spans(np.array([[-2, 0, 5, 3]], np.int32)).hex() == "feffffff000000000500000003000000"


def test_a_coarse_volume_counts_blocks():
    runs = np.array([[4, 7, 2, 2]], np.int32)
    assert sparsevol.rles(runs).hex(" ", 4) == "00030000 00000000 01000000 04000000 07000000 02000000 02000000"
    assert sparsevol.coarse_record(2**64 - 1, runs) == b"\xff" * 8 + struct.pack("<5i", 1, 4, 7, 2, 2)


@given(spans)
def test_reading_gives_the_runs_back(runs: np.ndarray):
    read = sparsevol.read_rles(memoryview(b"_" + sparsevol.rles(runs))[1:])
    assert read.dtype == np.int32
    assert read.flags.aligned
    assert read.flags.writeable
    assert np.array_equal(read, runs)


def test_dimensions_and_the_number_of_voxels_are_not_looked_at():
    body = bytes.fromhex("00 ff fe fd 77777777 01000000") + WORKED[12:28]
    assert sparsevol.read_rles(body).tolist() == [[101, 200, 300, 3]]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "ends in its header: want 12 bytes, got 0"),
        (WORKED[:11], "ends in its header: want 12 bytes, got 11"),
        (b"\1", "sparse vol is not binary: 1 at byte 0"),
        (b"\1" + WORKED[1:], "sparse vol is not binary: 1 at byte 0"),
        (WORKED[:-1], "3 spans at byte 8: want 60 bytes, got 59"),
        (WORKED + b"\0", "3 spans at byte 8: want 60 bytes, got 61"),
        (WORKED[:8] + b"\xff\xff\xff\xff" + WORKED[12:], "4294967295 spans at byte 8: want 68719476732 bytes, got 60"),
        (
            sparsevol.rles(np.array([[0, 0, 0, 1], [LAST, -4, 5, 2]], np.int32)),
            "span 1 at byte 28: 2 voxels at 2147483647,-4,5 end beyond 2147483647",
        ),
    ],
)
def test_what_is_no_sparse_volume_is_refused(body: bytes, said: str):
    with pytest.raises(BadRequest, match=said):
        sparsevol.read_rles(body)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes):
    try:
        runs = sparsevol.read_rles(body)
    except BadRequest as error:
        assert "\n" not in str(error)
    else:
        assert len(body) == 12 + 16 * len(runs)


# Binary blocks


def test_the_worked_heads_of_binary_blocks():
    assert sparsevol.stream_head((2, 2, 2), 23).hex(" ", 4) == "02000000 02000000 02000000 17000000 00000000"
    assert sparsevol.block_head((64, 0, -64)).hex(" ", 4) == "40000000 00000000 c0ffffff"


# Options


@pytest.mark.parametrize(
    ("text", "form"),
    [("", "rles"), ("rles", "rles"), ("srles", "srles"), ("blocks", "blocks"), ("BLOCKS", "rles"), ("xyz", "rles")],
)
def test_other_forms_mean_rles(text: str, form: str):
    assert sparsevol.parse_form(text) == form


def test_compressions():
    assert sparsevol.compress(WORKED, sparsevol.parse_compression("")) == WORKED
    packed = sparsevol.compress(WORKED, sparsevol.parse_compression("lz4"))
    assert lz4.block.decompress(packed, uncompressed_size=len(WORKED)) == WORKED
    assert gzip.decompress(sparsevol.compress(WORKED, sparsevol.parse_compression("gzip"))) == WORKED
    for other in ("zip", "LZ4", "none"):
        with pytest.raises(BadRequest, match=f'unknown compression type "{other}"'):
            sparsevol.parse_compression(other)


def test_no_bounds():
    for query in ({}, {"minx": "", "maxz": ""}, {"exact": "no"}, {"scale": "1"}):
        bounds = Bounds.parse(query)
        assert bounds == EVERYWHERE
        assert bounds.is_open
        assert bounds.voxels is None
    assert Bounds.parse({"exact": "false"}).voxels is None


def test_bounds_are_inclusive():
    bounds = Bounds.parse({"minx": "-3", "maxx": "3", "miny": "7", "maxz": str(LAST)})
    assert bounds.voxels == (-3, 7, -(2**31), 4, 2**31, 2**31)
    assert not bounds.is_open
    assert Bounds.parse({"minx": "-3", "exact": "false"}).voxels is None


@pytest.mark.parametrize("text", ["a", "1.5", "99999999999", "1 ", "0x1"])
def test_bounds_are_coordinates(text: str):
    with pytest.raises(BadRequest, match="maxy"):
        Bounds.parse({"maxy": text})


corner = st.tuples(*[st.integers(-70, 70)] * 3)


@given(corner, corner, st.booleans(), st.lists(corner.map(lambda c: tuple(n // 16 for n in c)), max_size=8))
def test_the_blocks_that_a_box_touches(low, high, exact, coords):
    size = (16, 8, 24)
    bounds = Bounds(low, high, exact)
    kept = bounds.keep(np.array(coords, np.int32).reshape(-1, 3), size)
    whole = list(zip(low, high, strict=True))
    for coord, keep in zip(coords, kept.tolist(), strict=True):
        first = [c * n for c, n in zip(coord, size, strict=True)]
        shared = [max(a, f) <= min(b, f + n - 1) for (a, b), f, n in zip(whole, first, size, strict=True)]
        assert keep == all(shared)


def test_open_bounds_keep_every_block():
    coords = np.array([[-(2**25), 0, 2**25 - 1], [0, 0, 0]], np.int32)
    assert EVERYWHERE.keep(coords, (64, 64, 64)).all()
    assert Bounds.parse({"maxx": "-1"}).keep(coords, (64, 64, 64)).tolist() == [True, False]
