"""uint8blk over a bare store: what is written is read, at every version, in every form, and bad requests write nothing."""

from __future__ import annotations

import io
import itertools
import json

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from imagecase import Case
from PIL import Image

from dvidfs.engine import Store, keys, open_engine
from dvidfs.engine.keys import Family
from dvidfs.engine.values import Prepared
from dvidfs.errors import BadRequest, Conflict, DvidfsError, Locked, UnknownInstance
from dvidfs.types.formats import blockform, blockstream
from dvidfs.types.formats.rasters import as_picture, decode_picture
from dvidfs.types.geometry import Box
from dvidfs.types.imageblk import check_blocks, extents, image_type, pictures, requests, volume
from dvidfs.types.imageblk.kinds import KINDS
from dvidfs.types.imageblk.volume import Volume

BLOCK = (4, 3, 5)
"""(x, y, z), unlike on purpose."""
BLOCKS = "4,3,5"
ORIGIN = np.array([-20, -15, -20])
"""First voxel (x, y, z) of the model arrays."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s"
    Store.create(path)
    with open_engine(path, durability="periodic") as engine:
        yield engine


@pytest.fixture
def case(engine):
    return Case.new(engine, BlockSize=BLOCKS)


def noise(shape, seed=1, dtype=np.uint8):
    return (
        np.random.default_rng(seed).integers(0, 256, (*shape, np.dtype(dtype).itemsize), np.uint8).view(dtype)[..., 0]
    )


class Model:
    """The voxels that a version should show, in one array (z, y, x)."""

    def __init__(self, voxels=None, item=np.uint8):
        self.voxels = np.zeros((60, 60, 60), item) if voxels is None else voxels.copy()

    def window(self, box):
        x, y, z = np.array(box.offset) - ORIGIN
        return self.voxels[z : z + box.size[2], y : y + box.size[1], x : x + box.size[0]]


def text(numbers):
    return "_".join(map(str, numbers))


def read_box(case, box, item=np.uint8):
    return np.frombuffer(case.raw(text(box.size), text(box.offset)), item).reshape(box.shape)


block_boxes = st.tuples(*[st.integers(-2, 2)] * 3).flatmap(
    lambda at: st.tuples(*[st.integers(1, 3)] * 3).map(
        lambda n: Box(
            tuple(a * b for a, b in zip(at, BLOCK, strict=True)), tuple(k * b for k, b in zip(n, BLOCK, strict=True))
        )
    )
)
windows = st.builds(Box, st.tuples(*[st.integers(-14, 12)] * 3), st.tuples(*[st.integers(1, 14)] * 3))
writes = st.lists(st.tuples(block_boxes, st.integers(0, 1000)), min_size=1, max_size=3)


def apply(case, model, changes):
    for box, seed in changes:
        voxels = noise(box.shape, seed, model.voxels.dtype)
        case.post_raw(voxels, box.offset)
        model.window(box)[...] = voxels


# ---------------------------------------------------------------- windows and versions


@settings(deadline=None, max_examples=40)
@given(
    first=writes,
    second=writes,
    window=windows,
    typename=st.sampled_from(list(KINDS)),
    compression=st.sampled_from(["none", "lz4", "gzip", "snappy"]),
)
def test_each_version_shows_what_it_and_its_ancestors_wrote(engine, first, second, window, typename, compression):
    item = KINDS[typename].item
    case, model = Case.new(engine, typename, compression, BlockSize=BLOCKS), Model(item=item)
    apply(case, model, first)
    case.commit()
    child, changed = case.child(), Model(model.voxels)
    apply(child, changed, second)
    assert read_box(case, window, item).tobytes() == model.window(window).tobytes()
    assert read_box(child, window, item).tobytes() == changed.window(window).tobytes()


@settings(deadline=None, max_examples=20)
@given(base=writes, left=writes, right=writes, window=windows)
def test_a_merge_shows_both_sides_and_refuses_contested_blocks(engine, base, left, right, window):
    root, model = Case.new(engine, BlockSize=BLOCKS), Model()
    apply(root, model, base)
    root.commit()
    sides = [(root.child(), Model(model.voxels)), (root.child("side"), Model(model.voxels))]
    for (case, side), changes in zip(sides, (left, right), strict=True):
        apply(case, side, changes)
        case.commit()
    merged = sides[0][0].merge(sides[1][0])
    changed = [np.zeros(model.voxels.shape, bool) for _ in sides]
    for mask, changes in zip(changed, (left, right), strict=True):
        for box, _ in changes:
            Model.window(type("M", (), {"voxels": mask}), box)[...] = True
    want = np.where(changed[0], sides[0][1].voxels, np.where(changed[1], sides[1][1].voxels, model.voxels))
    contested = changed[0] & changed[1] & (sides[0][1].voxels != sides[1][1].voxels)
    cover = Model(np.zeros(model.voxels.shape, np.uint8))
    for at in itertools.product(range(-2, 5), repeat=3):
        box = Box(tuple(a * b for a, b in zip(at, BLOCK, strict=True)), BLOCK)
        cover.window(box)[...] = Model(contested.astype(np.uint8)).window(box).any()
    if cover.window(window).any():
        with pytest.raises(Conflict, match="was changed in versions"):
            read_box(merged, window)
    else:
        assert np.array_equal(read_box(merged, window), Model(want).window(window))


def test_writing_settles_a_conflict(engine):
    root = Case.new(engine, BlockSize="2,2,2")
    root.post_raw(noise((2, 2, 4), 0), (0, 0, 0))
    root.commit()
    left, right = root.child(), root.child("side")
    for i, side in enumerate((left, right)):
        side.post_raw(noise((2, 2, 2), i + 1), (0, 0, 0))
        side.commit()
    merged = left.merge(right)
    for ask in (
        lambda: merged.raw("4_2_2", "0_0_0"),
        lambda: merged.raw("4_2", "0_0_0", "xy"),
        lambda: merged.read(requests.get_blocks, "0_0_0", "1"),
        lambda: merged.read(requests.get_subvolblocks, "4_2_2", "0_0_0", ""),
        lambda: merged.read(requests.get_specificblocks, "0,0,0", "", ""),
    ):
        with pytest.raises(Conflict, match="block 0_0_0"):
            ask()
    assert merged.raw("2_2_2", "2_0_0") == root.raw("2_2_2", "2_0_0")
    merged.post_raw(noise((2, 2, 2), 9), (0, 0, 0))
    assert merged.raw("2_2_2", "0_0_0") == noise((2, 2, 2), 9).tobytes()


def test_a_committed_version_is_not_written_to(case):
    case.post_raw(noise((5, 3, 4)), (0, 0, 0))
    case.commit()
    with pytest.raises(Locked):
        case.post_raw(noise((5, 3, 4), 2), (0, 0, 0))
    assert case.raw("4_3_5", "0_0_0") == noise((5, 3, 4)).tobytes()


def test_what_is_not_stored_reads_as_zero_and_as_background_in_blocks(engine):
    case = Case.new(engine, BlockSize=BLOCKS, Background="200")
    assert case.raw("5_5_5", "-3_-3_-3") == bytes(125)
    assert case.read(requests.get_blocks, "-1_0_0", "2") == bytes([200]) * 120


@pytest.mark.parametrize("limits", [(64, 64), (200, 50), (1000, 300), (10**6, 10**6)])
@given(window=windows)
@settings(deadline=None, max_examples=15)
def test_long_answers_come_in_pieces_that_join(engine, monkeypatch_module, limits, window):
    case, model = monkeypatch_module
    with pytest.MonkeyPatch.context() as patch:
        for name, limit in zip(("PIECE_BYTES", "LIGHT_BYTES"), limits, strict=True):
            patch.setattr(volume, name, limit)
        patch.setattr(requests, "PIECE_BYTES", limits[0])
        assert np.array_equal(read_box(case, window), model.window(window))
        pieces = case.read(lambda view: list(Volume.of(view).pieces(window)))
    assert all(p.volume <= max(limits) for p in pieces)
    order = np.arange(window.volume).reshape(window.shape)
    assert np.array_equal(np.concatenate([order[window.window(p)].ravel() for p in pieces]), np.arange(window.volume))


@pytest.fixture(scope="module")
def monkeypatch_module(engine):
    """A volume with gaps, and its model."""
    case, model = Case.new(engine, BlockSize=BLOCKS), Model()
    apply(case, model, [(Box((-4, -3, -5), (12, 9, 10)), 1), (Box((0, 0, 5), (4, 6, 5)), 2)])
    return case, model


@pytest.mark.parametrize("compression", ["none", "lz4", "gzip", "snappy", "jpeg"])
def test_every_compression_keeps_the_voxels(engine, compression):
    case = Case.new(engine, compression=compression, BlockSize="8,8,8")
    voxels = np.broadcast_to(np.arange(16, dtype=np.uint8) * 10, (8, 8, 16)).copy()
    case.post_raw(voxels, (0, 0, 0))
    found = np.frombuffer(case.raw("16_8_8", "0_0_0"), np.uint8).reshape(voxels.shape)
    assert np.abs(found.astype(int) - voxels).max() <= (6 if compression == "jpeg" else 0)


@pytest.mark.parametrize("typename", KINDS)
def test_every_voxel_type_keeps_its_bytes(engine, typename):
    case, kind = Case.new(engine, typename, BlockSize="4,4,4"), KINDS[typename]
    voxels = noise((8, 4, 8), 3, kind.item)
    case.post_raw(voxels, (4, 0, -4))
    assert case.raw("8_4_8", "4_0_-4") == voxels.tobytes()
    assert case.raw("3_2_5", "6_1_-3") == voxels[1:6, 1:3, 2:5].tobytes()
    header, data = case.file_bytes("volume.npy")[:128], case.file_bytes("volume.npy")[128:]
    assert np.array_equal(np.load(io.BytesIO(header + data)), kind.split(voxels), equal_nan=kind.dtype.kind == "f")
    picture = decode_picture(case.file_bytes("slices/xy/-00004.png"))
    assert picture.shape[:2] == (4, 8)


# ---------------------------------------------------------------- pictures


@settings(deadline=None, max_examples=30)
@given(plane=st.sampled_from(["xy", "xz", "yz"]), window=windows)
def test_slices_show_the_planes_of_the_volume(engine, monkeypatch_module, plane, window):
    case, model = monkeypatch_module
    axes = ["xyz".index(c) for c in plane]
    size = [1, 1, 1]
    for axis in axes:
        size[axis] = window.size[axis]
    box = Box(window.offset, tuple(size))
    data = case.raw(text([window.size[a] for a in axes]), text(window.offset), plane)
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(data))), model.window(box).reshape(size[axes[1]], size[axes[0]])
    )


@pytest.mark.parametrize("form", ["png", "tif", "bmp", "jpg:95"])
def test_slices_come_in_every_format(monkeypatch_module, form):
    case, model = monkeypatch_module
    picture = decode_picture(case.raw("12_9", "-4_-3_0", "xy", form)).astype(int)
    want = model.window(Box((-4, -3, 0), (12, 9, 1)))[0]
    assert np.abs(picture - want).max() <= (40 if form.startswith("jpg") else 0)


def test_a_large_slice_is_made_in_strips(monkeypatch_module, monkeypatch):
    case, model = monkeypatch_module
    monkeypatch.setattr(pictures, "PIECE_BYTES", 30)
    data = case.raw("12_9", "-4_-3_0", "xy")
    assert data.count(b"IDAT") > 3
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), model.window(Box((-4, -3, 0), (12, 9, 1)))[0])


def test_a_volume_as_jpg_is_one_tall_picture(monkeypatch_module):
    case, _ = monkeypatch_module
    assert Image.open(io.BytesIO(case.raw("8_4_3", "0_0_0", form="jpg"))).size == (8, 12)


def averaged(picture, width, height):
    """Exact means of the source pixels that a target pixel covers, by repeating every pixel."""
    big = picture.astype(object).repeat(height, 0).repeat(width, 1)
    h, w = picture.shape
    sums = big.reshape(height, h, width, w).sum((1, 3))
    return sums / (h * w) if picture.dtype.kind == "f" else (sums // (h * w)).astype(picture.dtype)


sides = st.integers(1, 9)


@settings(deadline=None)
@given(sides, sides, sides, sides, st.sampled_from(["u1", "<u2", "<u4", "<u8", "<f4"]))
def test_rescaling_averages(width, height, wanted_width, wanted_height, dtype):
    picture = noise((height, width), width * 10 + height, dtype)
    if dtype == "<f4":
        picture = np.random.default_rng(width * 10 + height).normal(0, 1000, (height, width)).astype(dtype)
    found = pictures.rescale(picture, wanted_width, wanted_height)
    want = averaged(picture, wanted_width, wanted_height)
    assert found.dtype == picture.dtype
    assert np.allclose(found, want.astype(float), 1e-6, 0.01) if dtype == "<f4" else np.array_equal(found, want)


def test_rescaling_keeps_channels_apart_and_bad_numbers_in_their_place():
    colours = noise((6, 5, 4), 4)
    found = pictures.rescale(colours, 10, 3)
    assert all(np.array_equal(found[..., c], pictures.rescale(colours[..., c], 10, 3)) for c in range(4))
    odd = np.ones((4, 4), "<f4")
    odd[0, 0], odd[3, 3] = np.nan, np.inf
    assert np.array_equal(pictures.rescale(odd, 2, 4), [[np.nan, 1], [1, 1], [1, 1], [1, np.inf]], equal_nan=True)


@pytest.mark.parametrize("typename", KINDS)
def test_isotropic_shows_every_type(engine, typename):
    case, kind = Case.new(engine, typename, BlockSize="8,8,8", VoxelSize="4,4,16"), KINDS[typename]
    voxels = noise((8, 8, 16), 2, kind.item)
    case.post_raw(voxels, (0, 0, 0))
    picture = case.read(requests.get_isotropic, "xz", "16_32", "0_3_0", "tif", "", "")
    want = as_picture(kind.split(np.ascontiguousarray(voxels[:, 3]))).repeat(4, 0)
    if kind.dtype.kind == "f":
        picture, want = (
            p[~np.isnan(kind.split(voxels[:, 3]).repeat(4, 0))] for p in (tifffile.imread(io.BytesIO(picture)), want)
        )
        assert np.array_equal(picture, want)
    else:
        assert np.array_equal(tifffile.imread(io.BytesIO(picture)), want)


def test_isotropic_reads_fewer_voxels_of_thick_slices(engine):
    case = Case.new(engine, BlockSize="8,8,8", VoxelSize="4,4,16")
    voxels = noise((8, 8, 16))
    case.post_raw(voxels, (0, 0, 0))
    xz = decode_picture(case.read(requests.get_isotropic, "xz", "16_32", "0_3_0", None, "", ""))
    assert np.array_equal(xz, voxels[:, 3].repeat(4, 0))
    xy = case.read(requests.get_isotropic, "xy", "16_8", "0_0_2", None, "", "")
    assert np.array_equal(decode_picture(xy), voxels[2])
    with pytest.raises(BadRequest, match="Illegal geometry"):
        case.read(requests.get_isotropic, "xz", "1_1", "0_0_0", None, "", "")


def test_arb_interpolates_between_voxels(engine):
    case = Case.new(engine, BlockSize="8,8,8", VoxelSize="2,2,2", Background="7")
    voxels = noise((16, 16, 16))
    case.post_raw(voxels, (0, 0, 0))
    picture = decode_picture(case.read(requests.get_arb, "1_2_3", "25_8_3", "1_14_21", "1.5", None))
    corners = [np.array(p, float) / 2 for p in ((1, 2, 3), (25, 8, 3), (1, 14, 21))]
    steps = [int(np.linalg.norm(c - corners[0]) * 2 / 1.5) for c in corners[1:]]
    assert picture.shape == (steps[1] + 1, steps[0] + 1)
    for y, x in itertools.product(range(steps[1] + 1), range(steps[0] + 1)):
        point = corners[0] + (corners[1] - corners[0]) * x / steps[0] + (corners[2] - corners[0]) * y / steps[1]
        low = np.floor(point + 1e-9).astype(int)
        part, value = point - low, 0.0
        for corner in itertools.product((0, 1), repeat=3):
            weight = np.prod([p if c else 1 - p for p, c in zip(part, corner, strict=True)])
            value += weight * voxels[tuple((low + corner)[::-1])]
        assert abs(int(picture[y, x]) - value) <= 0.51


def test_arb_shows_background_outside_and_samples_far_apart(engine):
    case = Case.new(engine, BlockSize="8,8,8", VoxelSize="1,1,1", Background="7")
    case.post_raw(np.full((8, 8, 8), 50, np.uint8), (0, 0, 0))
    picture = decode_picture(case.read(requests.get_arb, "2_2_2", "1000000_2_2", "2_1000000_2", "100000", None))
    assert picture.shape == (10, 10)
    assert picture[0, 0] == 50
    assert (picture.ravel()[1:] == 7).all()


# ---------------------------------------------------------------- blocks


def records(stream):
    return {c: bytes(p) for c, p in blockstream.read_records(stream)}


def test_block_streams_hold_the_stored_blocks(case):
    voxels = noise((5, 6, 8))
    case.post_raw(voxels, (4, 0, -5))
    form = blockform.FORMS["lz4"]
    raw = records(case.read(requests.get_subvolblocks, "16_9_10", "0_0_-5", "uncompressed"))
    assert list(raw) == [(1, 0, -1), (2, 0, -1), (1, 1, -1), (2, 1, -1)]
    assert raw[2, 1, -1] == voxels[:, 3:6, 4:8].tobytes()
    stored = records(case.read(requests.get_subvolblocks, "16_9_10", "0_0_-5", ""))
    assert {c: blockform.decode(form, p, 60).tobytes() for c, p in stored.items()} == raw
    named = case.read(requests.get_specificblocks, "2,1,-1,9,9,9,1,0,-1", "uncompressed", "")
    assert list(records(named)) == [(2, 1, -1), (1, 0, -1)]
    assert records(named)[2, 1, -1] == raw[2, 1, -1]
    assert case.read(requests.get_specificblocks, "2,1,-1", "", "on") == b""


def test_long_block_streams_come_in_pieces(monkeypatch_module, monkeypatch):
    case, _ = monkeypatch_module
    args = requests.get_subvolblocks, "24_18_20", "-8_-6_-10", "uncompressed"
    whole = case.read(*args)
    monkeypatch.setattr(requests, "PIECE_BYTES", 70)
    assert case.read(*args) == whole
    coords = list(records(whole))
    named = ",".join(str(n) for c in coords for n in c)
    assert records(case.read(requests.get_specificblocks, named, "uncompressed", "")) == records(whole)
    row = case.read(requests.get_blocks, "-1_0_0", "4")
    assert row == b"".join(records(whole).get((x, 0, 0), bytes(60)) for x in range(-1, 3))


def test_jpeg_payloads_come_of_jpeg_storage_only(engine, case):
    stored = Case.new(engine, compression="jpeg", BlockSize="8,8,8")
    stored.post_raw(np.full((8, 8, 8), 90, np.uint8), (0, 0, 0))
    (payload,) = records(stored.read(requests.get_subvolblocks, "8_8_8", "0_0_0", "jpeg")).values()
    assert Image.open(io.BytesIO(payload)).size == (8, 64)
    for operation, *where in (
        (requests.get_subvolblocks, "4_3_5", "0_0_0", "jpeg"),
        (requests.get_specificblocks, "0,0,0", "jpeg", ""),
    ):
        with pytest.raises(BadRequest, match="expected internal block data to be JPEG, was LZ4"):
            case.read(operation, *where)


def test_posted_blocks_are_stored_in_order_and_leave_extents(case):
    body = noise((2, 5, 3, 4)).tobytes()
    case.post_blocks("-1_2_0", "2", body + b"more")
    assert case.read(requests.get_blocks, "-1_2_0", "2") == body
    assert case.raw("4_3_5", "0_6_0") == body[60:]
    assert case.read(extents.covered) is None


# ---------------------------------------------------------------- extents, settings, JSON


def info(case):
    kind = image_type(KINDS["uint8blk"])

    def look(view):
        return json.loads(json.dumps([kind.extended(view.instance, view), kind.extents(view)]))

    return case.read(look)


def test_extents_grow_and_are_versioned(case):
    assert info(case)[1] == {"MinPoint": None, "MaxPoint": None}
    case.post_raw(noise((5, 3, 4)), (4, 0, -5))
    case.post_raw(noise((5, 3, 4)), (-4, 3, 0))
    case.commit()
    child = case.child()
    child.post_raw(noise((5, 3, 4)), (40, 0, 0))
    assert info(case)[1] == {"MinPoint": [-4, 0, -5], "MaxPoint": [7, 5, 4]}
    extended, _ = info(child)
    assert (extended["MinPoint"], extended["MaxPoint"]) == ([-4, 0, -5], [43, 5, 4])
    assert (extended["MinIndex"], extended["MaxIndex"]) == ([-1, 0, -1], [10, 1, 0])


def test_extents_below_a_merge_cover_both_sides(case):
    case.post_raw(noise((5, 3, 4)), (0, 0, 0))
    case.commit()
    left, right = case.child(), case.child("side")
    left.post_raw(noise((5, 3, 4)), (40, 0, 0))
    right.post_raw(noise((5, 3, 4)), (0, 30, 0))
    left.commit()
    right.commit()
    merged = left.merge(right)
    assert merged.read(extents.covered) == Box((0, 0, 0), (44, 33, 5))
    assert info(merged)[1]["MaxPoint"] == [3, 32, 4], "as the original: what was written last anywhere"
    merged.post_raw(noise((5, 3, 4)), (0, 0, 5))
    assert info(merged)[1]["MaxPoint"] == [43, 32, 9]


def test_posted_extents_replace(case):
    case.post_raw(noise((5, 3, 4)), (0, 0, 0))
    case.write(requests.post_extents, b'{"minpoint": [1, 2], "MAXPOINT": [3, 4, 5, 6]}')
    assert info(case)[1] == {"MinPoint": [1, 2, 0], "MaxPoint": [3, 4, 5]}


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b"{}", b'{"MinPoint":[0,0,0]}', b'{"MinPoint":"0,0,0","MaxPoint":"1,1,1"}',
    b'{"MinPoint":[0.5,0,0],"MaxPoint":[1,1,1]}', b'{"MinPoint":[9,9,9],"MaxPoint":[1,1,1]}',
    b'{"MinPoint":[99999999999,0,0],"MaxPoint":[1,1,1]}', b'{"MinPoint":[true,0,0],"MaxPoint":[1,1,1]}', b"\xff",
])  # fmt: skip
def test_extents_that_make_no_sense_are_refused(case, body):
    with pytest.raises(BadRequest):
        case.write(requests.post_extents, body)
    assert info(case)[1] == {"MinPoint": None, "MaxPoint": None}


@pytest.mark.parametrize(("body", "want"), [
    (b"[1e3,2.25,3]", [1000, 2.25, 3]), (b"[4]", [4, 4, 4]), (b"[1,2,3,4]", [1, 2, 3, 4]), (b"null", None),
])  # fmt: skip
def test_resolution_is_set_at_all_versions(case, body, want):
    case.commit()
    child = case.child()
    child.write(requests.post_resolution, body)
    assert info(case)[0]["VoxelSize"] == info(child)[0]["VoxelSize"] == want


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{}", b"[]", b'["1","2","3"]', b"[0,0,0]", b"[-1,2,3]", b"[true,1,1]", b"5"]
)
def test_resolutions_that_make_no_sense_are_refused(case, body):
    with pytest.raises(BadRequest):
        case.write(requests.post_resolution, body)
    assert info(case)[0]["VoxelSize"] == [8, 8, 8]


def test_metadata_lists_axes_and_properties(engine):
    case = Case.new(engine, BlockSize=BLOCKS, VoxelSize="4,5.5,6", VoxelUnits="nm,um,mm")
    case.post_raw(noise((5, 3, 4)), (4, -3, 0))
    answer = case.read(requests.get_metadata)
    assert answer.endswith(b"}\n")
    found = json.loads(answer)
    assert found["Axes"][1] == {"Label": "Y", "Resolution": 5.5, "Units": "um", "Size": 3, "Offset": -3}
    assert found["Properties"] == info(case)[0]


def test_settings_are_shown_as_given(engine):
    case = Case.new(
        engine, BlockSize="16,32,64", VoxelSize="3.2, 3.2, 40.0", VoxelUnits="nm,um,angstrom", Background="255",
        MinPoint="10,20,30", MaxPoint="100,200,300", ScaleLevel="2",
    )  # fmt: skip
    extended, shown = info(case)
    assert extended == {
        "Values": [{"DataType": "uint8", "Label": "uint8"}], "Interpolable": True, "BlockSize": [16, 32, 64],
        "VoxelSize": [3.2, 3.2, 40], "VoxelUnits": ["nm", "um", "angstrom"], "MinPoint": [10, 20, 30],
        "MaxPoint": [100, 200, 300], "MinIndex": [0, 0, 0], "MaxIndex": [6, 6, 4], "Background": 255, "GridStore": "",
        "ScaleLevel": 2,
    }  # fmt: skip
    assert shown == {"MinPoint": [10, 20, 30], "MaxPoint": [100, 200, 300]}


@pytest.mark.parametrize(("name", "value", "shown"), [
    ("BlockSize", "32,16", [32, 16, 16]), ("VoxelSize", "2", [2, 2, 2]), ("VoxelUnits", "nm", ["nm"] * 3),
])  # fmt: skip
def test_short_settings_are_completed(engine, name, value, shown):
    assert info(Case.new(engine, **{name: value}))[0][name] == shown


@pytest.mark.parametrize(("name", "value"), [
    ("BlockSize", "16"), ("BlockSize", "a,b,c"), ("BlockSize", "0,0,0"), ("BlockSize", "-8,8,8"), ("BlockSize", "8,8,8,8"),
    ("BlockSize", "4096,4096,4096"), ("VoxelSize", "x"), ("VoxelSize", "0,1,1"), ("VoxelSize", "1,1,1,1"),
    ("VoxelUnits", "a,b,c,d"), ("Background", "256"), ("Background", "-1"), ("Background", "x"), ("MinPoint", "1,2"),
    ("MinPoint", "1,2,3"), ("ScaleLevel", "x"), ("GridStore", "nosuchstore"),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(name, value):
    with pytest.raises(BadRequest) as error:
        image_type(KINDS["uint8blk"]).configure({name.lower(): value})
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- bad requests


@pytest.mark.parametrize(("dims", "size", "offset", "form"), [
    ("xyz", "4_3", "0_0_0", None), ("xy", "4_3_5", "0_0_0", None), ("xy", "4_3", "0_0", None), ("xy", "4_x", "0_0_0", None),
    ("xy", "0_3", "0_0_0", None), ("0_1_2", "-4_-3_5", "0_0_0", None), ("xy", "4_3", "0_0_0", "gif"),
    ("0_1_2", "4_3_5", "0_0_a", None), ("0_1_2", "2147483647_2_2", "0_0_0", None), ("0_1_2", "2_1_1", "2147483647_0_0", None),
    ("xy", "100000_100000", "0_0_0", None), ("xy", "30000_30000", "0_0_0", "bmp"), ("xy", "4_3", "0_0_0", "jpg:best"),
])  # fmt: skip
def test_malformed_windows_are_refused_in_one_line(case, dims, size, offset, form):
    for operation in (requests.get_raw, requests.get_isotropic):
        with pytest.raises(BadRequest) as error:
            case.read(operation, dims, size, offset, form, "", "")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("size", "offset", "cut", "said"), [
    ("4_3_5", "1_0_0", 0, "non-block aligned"), ("4_3_4", "0_0_0", 0, "non-block aligned"), ("4_3_5", "0_0_0", -1, "59 bytes, expected 60"),
    ("4_3_5", "0_0_0", 1, "61 bytes, expected 60"), ("8_3_5", "0_0_0", -120, "0 bytes, expected 120"),
])  # fmt: skip
def test_a_volume_that_does_not_fit_is_refused_and_nothing_is_written(case, size, offset, cut, said):
    n = int(np.prod([int(s) for s in size.split("_")])) + cut
    with pytest.raises(BadRequest, match=said):
        case.post_raw(np.ones(n, np.uint8), tuple(map(int, offset.split("_"))), size=size)
    assert case.raw("16_9_10", "0_0_0") == bytes(16 * 9 * 10)
    assert case.read(extents.covered) is None


def test_slices_cannot_be_stored(case):
    with pytest.raises(BadRequest, match="2d mutations"):
        case.post_raw(np.ones(12, np.uint8), (0, 0, 0), dims="xy", size="4_3")


def test_a_mask_must_be_a_roi_instance(case):
    with pytest.raises(UnknownInstance):
        case.raw("4_3_5", "0_0_0", roi="none")
    with pytest.raises(BadRequest, match="only an instance of type roi"):
        case.raw("4_3_5", "0_0_0", roi=case.name)
    with pytest.raises(BadRequest, match="from 1 to 7"):
        case.read(requests.get_raw, "0_1_2", "4_3_5", "0_0_0", None, case.name, "8")


@pytest.mark.parametrize(("coord", "span"), [
    ("0_0", "1"), ("0_0_0", "x"), ("0_0_0", "-1"), ("0_0_0", "0"), ("0_0_0", "999999999"), ("2147483647_0_0", "2"), ("0_0_0", " 1"),
])  # fmt: skip
def test_malformed_rows_of_blocks_are_refused(case, coord, span):
    with pytest.raises(BadRequest):
        case.read(requests.get_blocks, coord, span)
    with pytest.raises(BadRequest):
        case.post_blocks(coord, span, bytes(60))


def test_a_short_body_of_blocks_is_refused(case):
    with pytest.raises(BadRequest, match="ceased before"):
        case.post_blocks("0_0_0", "2", bytes(119))
    assert case.read(requests.get_subvolblocks, "8_3_5", "0_0_0", "") == b""


@pytest.mark.parametrize(("size", "offset", "compression"), [
    ("4_3_5", "1_0_0", ""), ("4_3_6", "0_0_0", ""), ("4_3", "0_0_0", ""), ("4_3_5", "0_0_x", ""), ("4_-3_5", "0_0_0", ""),
    ("4_3_5", "0_0_0", "lz4"), ("4_3_5", "0_0_0", "JPEG"), ("4_2147483646_2147483645", "0_0_0", ""),
])  # fmt: skip
def test_malformed_subvolumes_are_refused(case, size, offset, compression):
    with pytest.raises(BadRequest):
        case.read(requests.get_subvolblocks, size, offset, compression)


@pytest.mark.parametrize("blocks", ["1,0", "1,0,0,2", "a,b,c", "1,0,0,", " 1,0,0", "1.5,0,0", "99999999999,0,0"])
def test_malformed_lists_of_blocks_are_refused(case, blocks):
    with pytest.raises(BadRequest):
        case.read(requests.get_specificblocks, blocks, "", "")


@pytest.mark.parametrize("args", [
    ("0_0", "1_0_0", "0_1_0", "1"), ("0_0_0", "1_0_0", "0_1_0", "0"), ("0_0_0", "1_0_0", "0_1_0", "-1"), ("0_0_0", "1_0_0", "0_x_0", "1"),
    ("0_0_0", "1e12_0_0", "0_1_0", "1e9"), ("0_0_0", "100000_0_0", "0_100000_0", "1"), ("0_0_0", "1_0_0", "0_1_0", "nan"),
])  # fmt: skip
def test_malformed_oblique_slices_are_refused(case, args):
    with pytest.raises(BadRequest):
        case.read(requests.get_arb, *args, None)


def test_rawkey_answers_nothing_and_takes_no_path(case):
    assert case.read(requests.get_rawkey, None) == b""
    with pytest.raises(BadRequest, match="query strings"):
        case.read(requests.get_rawkey, "1")


# ---------------------------------------------------------------- damage


def test_a_damaged_block_is_an_error_and_check_finds_it(case):
    case.post_raw(noise((5, 3, 8)), (0, 0, 0))
    case.write(lambda view: view.put(Family.BLOCK, keys.encode_block(0, 1, 0, 0), Prepared(b"no block", 8)))
    assert case.raw("4_3_5", "0_0_0") == noise((5, 3, 8))[:, :, :4].tobytes()
    with pytest.raises(DvidfsError, match="stored block"):
        case.raw("8_3_5", "0_0_0")
    assert [line.split(":")[0] for line in case.read(lambda view: list(check_blocks(view)))] == ["block 1_0_0"]


def test_the_tables_name_what_they_need():
    for kind in KINDS.values():
        described = image_type(kind)
        assert described.name == kind.name
        for row in described.endpoints:
            assert row.summary.endswith(".")
            assert row.example.split("?")[0].split("/")[0] == row.keyword
