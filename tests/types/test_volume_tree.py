"""Everything below an image instance: what is listed can be opened, sizes are exact, any window is that window, voxels are the voxels."""

from __future__ import annotations

import io
import itertools
import json

import numpy as np
import pytest
from imagecase import Case
from PIL import Image

from dvidfs.engine import Store, open_engine
from dvidfs.errors import NotFound
from dvidfs.types.base import Directory, File, find_entry, find_file, is_shown
from dvidfs.types.formats.containers import CONTAINERS
from dvidfs.types.imageblk import files, requests
from dvidfs.types.imageblk.kinds import KINDS
from dvidfs.types.imageblk.volume import Volume

FIRST, SHAPE = (-3, 2, -6), (13, 11, 9)
"""Extents: first voxel (x, y, z), shape (z, y, x); they begin within a block."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s"
    Store.create(path)
    with open_engine(path, durability="periodic") as engine:
        yield engine


@pytest.fixture(scope="module", params=sorted(KINDS))
def case(engine, request):
    """A volume of each voxel type, with a hole: blocks are not stored everywhere."""
    kind = KINDS[request.param]
    case = Case.new(engine, request.param, BlockSize="4,3,5", VoxelSize="8,8,40")
    rng = np.random.default_rng(5)
    for offset in ((-8, 0, -10), (4, 9, 5)):
        voxels = rng.integers(1, 250, (5, 6, 8, kind.bytes), np.uint8)
        case.post_raw(voxels.view(kind.item)[..., 0], offset)
    last = [f + n - 1 for f, n in zip(FIRST, SHAPE[::-1], strict=True)]
    case.write(requests.post_extents, f'{{"MinPoint": {list(FIRST)}, "MaxPoint": {last}}}'.encode())
    return case


def voxels_of(case):
    """(z, y, x) or (z, y, x, 4), as raw answers."""
    raw = case.raw("_".join(map(str, SHAPE[::-1])), "_".join(map(str, FIRST)))
    kind = kind_of(case)
    return np.frombuffer(raw, kind.dtype).reshape(*SHAPE, *kind.channels)


def kind_of(case):
    return KINDS[case.read(lambda view: view.instance.type)]


def walk(view, folder=files.TREE, parts=(), path=""):
    """(path, file, parts) of everything that is listed."""
    for name, entry in folder.entries.items():
        if entry.listed and is_shown(entry, view, parts):
            yield from _below(view, entry, parts, f"{path}{name}")
    for each in folder.each:
        if each.listed and is_shown(each.entry, view, parts):
            for name in each.names(view, *parts):
                yield from _below(view, each.entry, (*parts, each.parse(name)), f"{path}{name}")


def _below(view, entry, parts, path):
    if isinstance(entry, Directory):
        yield from walk(view, entry, parts, f"{path}/")
    else:
        yield path, entry, parts


def content(case, path):
    def read(view):
        file, parts = find_file(files.TREE, view, path.split("/"))
        return bytes(file.read(view, *parts, 0, file.size(view, *parts)))

    return case.read(read)


def test_whatever_is_listed_is_found_with_its_exact_size_and_every_window(case):
    def look(view):
        seen = []
        for path, file, parts in walk(view):
            assert find_file(files.TREE, view, path.split("/")) == (file, parts), path
            size = file.size(view, *parts)
            whole = bytes(file.read(view, *parts, 0, size + 9))
            assert len(whole) == size, path
            for start, stop in itertools.product((0, 1, size // 2, size - 1), (size // 3, size, size + 5)):
                assert bytes(file.read(view, *parts, start, max(0, stop - start))) == whole[start:stop], (path, start)
            seen.append(path)
        return seen

    seen = case.read(look)
    assert len(seen) == len(set(seen))
    for want in ("volume.raw", "scales/0/volume.npy", "zarr/zarr.json", "zarr/0/zarr.json", "precomputed/info"):
        assert want in seen
    assert not [path for path in seen if "cutout" in path or ("/." in path and "zarr2/" not in path)]


def test_all_formats_end_with_the_same_voxels(case):
    raw = voxels_of(case).tobytes()
    shown = [c for c in CONTAINERS.values() if c.voxels and case.read(files.TREE.entries[f"volume.{c.suffix}"].shown)]
    assert {"npy", "raw"} <= {c.suffix for c in shown}
    for container in shown:
        assert content(case, f"volume.{container.suffix}").endswith(raw), container.suffix
        assert content(case, f"scales/0/volume.{container.suffix}") == content(case, f"volume.{container.suffix}")


def far_apart(engine):
    """Three blocks as far from each other as can be."""
    case = Case.new(engine, BlockSize="32,32,32")
    for at in (2**31 - 32, -(2**31), 0):
        case.post_raw(np.full((32, 32, 32), 7, np.uint8), (at, at, at))
    return case


def test_blocks_far_from_each_other_are_listed_without_a_look_at_what_lies_between(engine):
    case = far_apart(engine)
    listed = case.read(lambda view: [path for path, *_ in walk(view)])
    far, half = 2**26 - 1, 2**25
    chunks = [path for path in listed if path.startswith("zarr/0/c/")]
    assert chunks == [f"zarr/0/c/{n}/{n}/{n}" for n in (0, half, far)]
    assert len([path for path in listed if path.startswith("precomputed/8")]) == 3
    assert len([path for path in listed if path.startswith("blocks/")]) == 3
    assert {path.split("/")[0] for path in listed} == {"blocks", "scales", "zarr", "zarr2", "precomputed"}
    for path in chunks:
        assert content(case, path).count(7) == 32**3


def test_a_window_of_rows_that_no_cache_holds_costs_that_window(engine, monkeypatch):
    case = far_apart(engine)
    read = []
    monkeypatch.setattr(Volume, "read", lambda self, box: read.append(box) or np.zeros(box.shape, np.uint8))
    file, parts = case.file("cutout/2000000000_3_1/5_0_0.raw")
    assert case.read(file.read, *parts, 1_999_999_990, 20) == bytes(20)
    assert sum(box.volume for box in read) <= 20


def test_files_tell_the_resolution_that_is_set_later(engine):
    case = Case.new(engine, BlockSize="4,4,4")
    case.post_raw(np.ones((4, 4, 4), np.uint8), (0, 0, 0))
    case.commit()
    child = case.child()
    paths = ("volume.nii", "volume.mhd", "volume.h5", "zarr/zarr.json", "precomputed/info", "slices/xy/000000.tif")
    before = {path: content(case, path) for path in paths}
    child.write(requests.post_resolution, b"[5, 6, 70]")
    for path in paths:
        assert content(case, path) == content(child, path) != before[path], path
    chunk = "precomputed/8_8_8/0-4_0-4_0-4"
    with pytest.raises(NotFound):
        content(case, chunk)
    file, parts = case.file(chunk.replace("8_8_8", "5_6_70"))
    with pytest.raises(NotFound, match="not there any more"):  # as by a program that has the folder open
        case.read(file.read, "8_8_8", *parts[1:], 0, 64)


def test_zarr_chunks_make_up_the_extents(case):
    want = voxels_of(case)
    meta = json.loads(content(case, "zarr/0/zarr.json"))
    several = meta["dimension_names"][0] == "c"
    if several:
        want = np.moveaxis(want, -1, 0)
    assert meta["shape"] == list(want.shape)
    chunk = meta["chunk_grid"]["configuration"]["chunk_shape"]
    got = np.zeros(want.shape, want.dtype)
    for index in itertools.product(*(range(-(-n // c)) for n, c in zip(want.shape, chunk, strict=True))):
        path = "/".join(map(str, index))
        try:
            data = content(case, f"zarr/0/c/{path}")
        except NotFound:
            continue
        assert content(case, f"zarr/0/{path}") == data, "the same chunk by its name in Zarr 2"
        part = tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, chunk, strict=True))
        voxels = np.frombuffer(data, want.dtype).reshape(chunk)
        got[part] = voxels[tuple(slice(0, n) for n in got[part].shape)]
    assert np.array_equal(got, want, equal_nan=want.dtype.kind == "f")


def test_precomputed_chunks_make_up_the_extents(case):
    want = voxels_of(case)
    info = json.loads(content(case, "precomputed/info"))
    (scale,) = info["scales"]
    assert (scale["resolution"], scale["voxel_offset"], scale["size"]) == ([8, 8, 40], list(FIRST), list(SHAPE[::-1]))
    assert info["num_channels"] == (want.shape[3] if want.ndim == 4 else 1)
    got = np.zeros(want.shape, want.dtype)
    listed = [path for path, *_ in case.read(lambda view: iter(walk(view))) if path.startswith("precomputed/8_8_40/")]
    for path in listed:
        (x0, x1), (y0, y1), (z0, z1) = (
            map(
                int,
                part.rsplit("-", 1) if part[0] != "-" else ("-" + part[1:].split("-", 1)[0], part[1:].split("-", 1)[1]),
            )
            for part in path.rsplit("/", 1)[1].split("_")
        )
        voxels = np.frombuffer(content(case, path), want.dtype).reshape(-1, z1 - z0, y1 - y0, x1 - x0)
        part = np.s_[z0 - FIRST[2] : z1 - FIRST[2], y0 - FIRST[1] : y1 - FIRST[1], x0 - FIRST[0] : x1 - FIRST[0]]
        got[part] = np.moveaxis(voxels, 0, -1) if want.ndim == 4 else voxels[0]
    assert listed
    assert np.array_equal(got, want, equal_nan=want.dtype.kind == "f")


@pytest.mark.parametrize(
    ("size", "offset"), [((4, 3, 2), (-2, 3, -5)), ((20, 1, 9), (-10, 2, -9)), ((1, 1, 1), (0, 5, 0))]
)
def test_cutouts_are_any_box_also_outside(case, size, offset):
    name = "cutout/{}/{}".format("_".join(map(str, size)), "_".join(map(str, offset)))
    raw = case.raw("_".join(map(str, size)), "_".join(map(str, offset)))
    assert content(case, f"{name}.raw") == raw
    assert content(case, f"scales/0/{name}.raw") == raw
    kind = kind_of(case)
    npy = np.load(io.BytesIO(content(case, f"{name}.npy")))
    assert npy.tobytes() == raw
    assert npy.shape == (*size[::-1], *kind.channels)


def test_one_layer_is_a_picture_too(engine):
    case = Case.new(engine, BlockSize="4,3,5")
    voxels = np.random.default_rng(1).integers(0, 256, (5, 6, 8), np.uint8)
    case.post_raw(voxels, (0, 0, 0))
    for name, want in (
        ("8_6_1/0_0_2", voxels[2]), ("8_1_5/0_3_0", voxels[:, 3]), ("1_6_5/4_0_0", voxels[:, :, 4]),
    ):  # fmt: skip
        picture = Image.open(io.BytesIO(content(case, f"cutout/{name}.png")))
        assert np.array_equal(np.asarray(picture), want)
    with pytest.raises(NotFound):
        content(case, "cutout/2_2_2/0_0_0.png")


@pytest.mark.parametrize("path", [
    "cutout", "cutout/8_6_1", "cutout/0_6_1/0_0_0.raw", "cutout/-1_6_1/0_0_0.raw", "cutout/8_6/0_0_0.raw",
    "cutout/8_6_1/0_0_0.xyz", "cutout/8_6_1/0_0_0", "cutout/8_6_1/2147483645_0_0.raw",
    "cutout/2147483647_2147483647_2147483647/0_0_0.raw", "scales/1/volume.raw", "scales/00/volume.raw", "zarr/1/zarr.json",
    "zarr/0/c/9/0/0", "zarr/0/c/0/0", "zarr/0/c/0/0/00", "zarr/0/c/0/0/0/0", "precomputed/8_8_8/0-64_0-64_0-64",
    "precomputed/8_8_40/0-1_0-1_0-1", "precomputed/8_8_40/x", "volume.xyz", "slices/zz/000000.png",
])  # fmt: skip
def test_other_names_are_no_files(engine, path):
    case = Case.new(engine, BlockSize="4,3,5", VoxelSize="8,8,40")
    case.post_raw(np.ones((5, 6, 8), np.uint8), (0, 0, 0))
    with pytest.raises(NotFound):
        content(case, path)


def test_chunks_over_nothing_are_not_there(engine):
    case = Case.new(engine, BlockSize="32,32,32")
    case.post_raw(np.ones((32, 32, 32), np.uint8), (0, 0, 0))
    case.write(requests.post_extents, b'{"MinPoint": [0,0,0], "MaxPoint": [255,255,255]}')
    listed = [path for path, *_ in case.read(lambda view: iter(walk(view))) if "/0/0/0" in path or "64_" in path]
    assert listed == ["zarr/0/c/0/0/0", "zarr2/0/0/0/0", "precomputed/8_8_8/0-64_0-64_0-64"]


def test_the_folder_of_an_entry_that_is_not_shown_is_not_found(engine):
    case = Case.new(engine)
    for name in ("zarr", "precomputed", "slices", "volume.npy"):
        assert case.read(lambda view, n=name: find_entry(files.TREE, view, (), n)) is None
    assert isinstance(case.read(lambda view: find_entry(files.TREE, view, (), "cutout"))[0], Directory)
    assert not isinstance(files.TREE, File)
