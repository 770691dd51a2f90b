"""How blocks are stored and streamed, and the NPY header: round trips, other libraries as judges, damage is noticed."""

from __future__ import annotations

import gzip
import io

import lz4.block
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from dvidfs.errors import BadRequest, Corrupt
from dvidfs.types.formats import blockform, blockstream
from dvidfs.types.formats.npy import npy_header

LOSSLESS = ("none", "lz4", "gzip", "snappy")
dtypes = st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64])
blocks = dtypes.flatmap(lambda d: arrays.arrays(d, arrays.array_shapes(min_dims=3, max_dims=3, max_side=9)))
noise = np.random.default_rng(5).integers(0, 256, (16, 16, 16), np.uint8)


@pytest.mark.parametrize("name", LOSSLESS)
@given(block=blocks)
def test_decoding_gives_the_voxels_back(name, block):
    form = blockform.FORMS[name]
    assert blockform.decode(form, form.encode(block), block.nbytes).tobytes() == block.tobytes()


@pytest.mark.parametrize("name", LOSSLESS)
def test_incompressible_blocks_too(name):
    form = blockform.FORMS[name]
    payload = form.encode(noise)
    assert blockform.decode(form, payload, noise.nbytes).tobytes() == noise.tobytes()
    assert len(payload) < noise.nbytes * 1.01


def test_lz4_payload_is_the_size_and_one_lz4_block():
    payload = blockform.FORMS["lz4"].encode(noise)
    assert payload[:4] == (4096).to_bytes(4, "little")
    assert lz4.block.decompress(payload[4:], 4096) == noise.tobytes()


def test_what_lz4_could_not_shrink_is_read_where_it_lies():
    payload = blockform.FORMS["lz4"].encode(noise)
    voxels = blockform.decode(blockform.FORMS["lz4"], payload, noise.nbytes)
    assert np.shares_memory(voxels, np.frombuffer(payload, np.uint8))


def test_gzip_payload_is_a_gzip_stream():
    assert gzip.decompress(blockform.FORMS["gzip"].encode(noise)) == noise.tobytes()


def test_snappy_payload_is_a_snappy_block():
    payload = blockform.FORMS["snappy"].encode(noise)
    assert payload[:2] == bytes([0x80, 0x20]), "4096 as a varint"
    assert payload[2] == 0xFC, "a literal with its length in four bytes"
    assert int.from_bytes(payload[3:7], "little") == 4095
    assert payload[7:] == noise.tobytes()


def test_jpeg_payload_is_a_tall_gray_picture():
    block = np.broadcast_to(np.arange(32, dtype=np.uint8) * 4, (16, 8, 32)).copy()
    payload = blockform.FORMS["jpeg"].encode(block)
    picture = Image.open(io.BytesIO(payload))
    assert (picture.mode, picture.size) == ("L", (32, 128))
    voxels = blockform.decode(blockform.FORMS["jpeg"], payload, block.nbytes).reshape(block.shape)
    assert np.abs(voxels.astype(int) - block).mean() < 2


def cut(payload):
    return payload[:-1]


def cut_short(payload):
    return payload[:9]


def overwritten(payload):
    return b"\xff" * (len(payload) - 1)


def nothing(_payload):
    return b""


@pytest.mark.parametrize("damage", [cut, cut_short, overwritten, nothing])
@pytest.mark.parametrize("name", LOSSLESS)
def test_damage_is_corrupt_and_never_a_crash(name, damage):
    form = blockform.FORMS[name]
    with pytest.raises(Corrupt, match="stored block"):
        blockform.decode(form, damage(form.encode(noise)), noise.nbytes)


@pytest.mark.parametrize("damage", [cut_short, overwritten, nothing])
def test_a_damaged_jpeg_is_corrupt(damage):
    form = blockform.FORMS["jpeg"]
    with pytest.raises(Corrupt, match="stored block"):
        blockform.decode(form, damage(form.encode(noise)), noise.nbytes)


@given(st.binary(max_size=200), st.sampled_from(sorted(blockform.FORMS)))
def test_noise_is_corrupt_and_never_a_crash(payload, name):
    try:
        voxels = blockform.decode(blockform.FORMS[name], payload, 64)
    except Corrupt:
        return
    assert voxels.nbytes == 64


@pytest.mark.parametrize(("compression", "name"), [("lz4", "lz4"), ("gzip:9", "gzip"), ("none", "none")])
def test_each_compression_has_a_form(compression, name):
    assert blockform.block_form(compression).name == name


points = st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 3)
records = st.lists(st.tuples(points, st.binary(max_size=20)), max_size=5)


@given(records)
def test_block_stream_round_trips(items):
    stream = b"".join(blockstream.records([c for c, _ in items], [p for _, p in items]))
    assert [(c, bytes(p)) for c, p in blockstream.read_records(stream)] == items


def test_block_stream_layout():
    stream = b"".join(blockstream.records([(1, -2, 3)], [b"ab"]))
    assert stream == bytes.fromhex("01000000 feffffff 03000000 02000000") + b"ab"


@given(records.filter(bool), st.data())
def test_a_cut_stream_is_refused(items, data):
    stream = b"".join(blockstream.records([c for c, _ in items], [p for _, p in items]))
    ends = {0}
    for _, payload in items:
        ends.add(max(ends) + 16 + len(payload))
    cut = data.draw(st.integers(0, len(stream)).filter(lambda n: n not in ends))
    with pytest.raises(BadRequest, match="byte"):
        list(blockstream.read_records(stream[:cut]))


def test_a_negative_size_is_refused():
    with pytest.raises(BadRequest, match="-1 bytes"):
        list(blockstream.read_records(bytes(12) + b"\xff" * 4))


@pytest.mark.parametrize("dtype", ["|u1", "<u2", "<u4", "<u8", "<f4"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (250, 512, 513), (2**31 - 1,) * 3, (100, 200, 300, 4)])
def test_npy_header_is_what_numpy_writes(dtype, shape):
    out = io.BytesIO()
    fields = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, fields)
    assert npy_header(np.dtype(dtype), shape) == out.getvalue()
    assert len(out.getvalue()) == 128


def test_a_long_npy_header_is_of_version_two():
    shape = (1,) * 30_000
    out = io.BytesIO()
    np.lib.format.write_array_header_2_0(out, {"descr": "|u1", "fortran_order": False, "shape": shape})
    assert npy_header(np.dtype(np.uint8), shape) == out.getvalue()
