"""Every format in and out, for every type of voxels: what comes back is what numpy has, and lies where it lay."""

from __future__ import annotations

import bz2
import gzip
import json
import shlex
import subprocess
import sys
from pathlib import Path

import live
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dvidfs.__main__ import main
from dvidfs.cli import exports, imports
from dvidfs.cli.parser import build

KINDS = {
    "uint8blk": np.uint8,
    "uint16blk": np.uint16,
    "uint32blk": np.uint32,
    "uint64blk": np.uint64,
    "float32blk": np.float32,
    "rgba8blk": np.uint8,
}
OFFSET, VOXEL = (10, -20, 30), (8.0, 8.0, 40.0)


def voxels_of(kind: str, shape: tuple[int, ...] = (35, 41, 29)) -> np.ndarray:
    random = np.random.default_rng(3)
    shape = (*shape, 4) if kind == "rgba8blk" else shape
    if KINDS[kind] is np.float32:
        return random.normal(0, 1e6, shape).astype(np.float32)
    return random.integers(0, np.iinfo(KINDS[kind]).max, shape, KINDS[kind], endpoint=True)


def run(*words: object, code: int = 0) -> None:
    assert main([str(word) for word in words]) == code


def bring(store: Path, source: object, name: str, *words: object, code: int = 0) -> None:
    run("import", store, source, "--repo", "r", "--instance", name, "--quiet", *words, code=code)


def exported(store: Path, name: str, folder: Path, *words: object) -> np.ndarray:
    path = folder / f"back{len(list(folder.iterdir()))}.npy"
    run("export", store, "r", name, path, "--quiet", *words)
    return np.load(path)


def settings_of(store: Path, name: str, capfd) -> dict:
    capfd.readouterr()
    run("repo", "info", store, "r", "--json")
    info = json.loads(capfd.readouterr().out)
    return info["DataInstances"][name]["Extended"]


WAYS = {
    "npy": ("v.npy",),
    "raw": ("v.raw",),
    "nii": ("v.nii",),
    "nii.gz": ("v.nii.gz",),
    "mhd": ("m.mhd",),
    "nrrd": ("v.nrrd",),
    "hdf5": ("v.h5",),
    "tiff": ("v.tif",),
    "png": ("png",),
    "tif slices": ("tif", "--format", "tif"),
    "zarr": ("v.zarr",),
    "zarr shards": ("s.zarr", "--sharded", "--chunk", "16,16,16"),
    "zarr 2": ("w.zarr", "--zarr-format", "2", "--encoding", "gzip"),
    "n5": ("v.n5",),
    "precomputed": ("v.precomputed",),
    "shards": ("s.precomputed", "--sharded", "--chunk", "16,32,8"),
}
PLACED = {"nii", "nii.gz", "mhd", "nrrd", "tiff", "zarr", "zarr shards", "zarr 2", "precomputed", "shards"}
"""Formats that tell where the volume lies."""
SIZED = PLACED | {"hdf5", "n5"}
WIDE = ("uint32blk", "uint64blk", "float32blk")


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_back_what_it_was_given(store_path: Path, tmp_path: Path, kind: str, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    voxels = voxels_of(kind)
    np.save("in.npy", voxels)
    place = ",".join(map(str, OFFSET))
    bring(store_path, "in.npy", "v", f"--offset={place}", "--voxel-size", "8,8,40", "--block-size", "16,16,16")
    back = tmp_path / "back"
    back.mkdir()
    for number, (name, (dest, *words)) in enumerate(WAYS.items()):
        if name == "png" and kind in WIDE:
            run("export", store_path, "r", "v", dest, *words, code=2)
            assert "give --format tif" in capfd.readouterr().err
            continue
        run("export", store_path, "r", "v", dest, "--quiet", *words)
        shape = ("--shape", f"29,41,35{',4' * (voxels.ndim == 4)}", "--dtype", str(voxels.dtype))
        bring(store_path, dest, f"i{number}", *(shape if name == "raw" else ()))
        assert np.array_equal(exported(store_path, f"i{number}", back), voxels), name
        found = settings_of(store_path, f"i{number}", capfd)
        if name in PLACED:
            assert tuple(found["MinPoint"]) == OFFSET, name
        if name in SIZED:
            assert found["VoxelSize"] == pytest.approx(VOXEL, rel=1e-5), name
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith((".part", ".packed")) or "dvidfs-export" in p.name]


def test_the_lines_of_the_help_run(tmp_path: Path, monkeypatch, capfd):
    """Those that need no other machine, one after the other in one folder; the rest are words that the parsers know."""
    monkeypatch.chdir(tmp_path)
    voxels = voxels_of("uint8blk", (20, 30, 40))
    for line in (*imports.EXAMPLES, *exports.EXAMPLES):
        build().parse_args(shlex.split(line))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a").write_text("a")
    np.save("volume.npy", voxels)
    run("init", "store")
    run("import", "store", "volume.npy", "--repo", "medulla", "--instance", "first")
    Path("volume.npy").unlink()
    there = [line for line in exports.EXAMPLES if "gs://" not in line and "grayscale" in line]
    for line in there:
        run(*shlex.split(line.replace("grayscale", "first")), "--quiet")
    Path("voxels.raw").write_bytes(voxels.astype("<u2").tobytes())
    Path("supervoxels.nii.gz").write_bytes(Path("volume.nii.gz").read_bytes())
    with_h5 = [line.replace("volume.h5:/raw", "volume.h5") for line in imports.EXAMPLES]
    for line in with_h5:
        if "https://" not in line and "s3://" not in line:
            run(*shlex.split(line), "--quiet")
    for line in exports.EXAMPLES[-3:]:
        run(*shlex.split(line), "--quiet")
    shown = capfd.readouterr().out
    assert shown.count("imported") == 14
    for name in ("grayscale", "tif", "npy", "nii", "mhd", "nrrd", "h5", "zarr", "n5"):
        run("export", "store", "medulla", name, f"{name}.back.npy", "--quiet")
        assert np.array_equal(np.load(f"{name}.back.npy"), voxels), name


# -- files of other programs -------------------------------------------------------------------------------------


def written_by_others(folder: Path) -> dict[str, np.ndarray]:
    """Files as other programs write them; what they hold."""
    import h5py
    import nibabel
    import nrrd
    import SimpleITK
    import tifffile
    import zarr

    small, wide, real = (voxels_of(kind, (6, 20, 30)) for kind in ("uint8blk", "uint16blk", "float32blk"))
    tifffile.imwrite(folder / "imagej.tif", wide, imagej=True, resolution=(125.0, 125.0),
                     metadata={"axes": "ZYX", "unit": "um", "spacing": 0.04})  # fmt: skip
    tifffile.imwrite(folder / "packed.tif", real, compression="zlib", photometric="minisblack", bigtiff=True)
    tifffile.imwrite(folder / "big-endian.tif", wide, byteorder=">", photometric="minisblack")
    tifffile.imwrite(folder / "tiles.tif", small, tile=(16, 16), compression="zlib", photometric="minisblack")
    tifffile.imwrite(folder / "rgb.tif", np.stack([small] * 3, -1), photometric="rgb", compression="zlib")
    nibabel.Nifti1Image(wide.T, np.diag([2e-5, 2e-5, 1e-4, 1])).to_filename(folder / "nibabel.nii.gz")
    nrrd.write(str(folder / "packed.nrrd"), wide, {"encoding": "gzip", "spacings": [1, 1, 2]}, index_order="C")
    (folder / "bz2.raw.bz2").write_bytes(bz2.compress(small.tobytes()))
    (folder / "bz2.nhdr").write_text(
        "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 30 20 6\nencoding: bzip2\ndata file: bz2.raw.bz2\n\n"
    )
    image = SimpleITK.GetImageFromArray(real)
    image.SetSpacing((8e-6, 8e-6, 4e-5))
    image.SetOrigin((80e-6, 0, 0))
    SimpleITK.WriteImage(image, str(folder / "packed.mha"), useCompression=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(wide), str(folder / "itk.nrrd"))
    with h5py.File(folder / "ilastik.h5", "w") as file:
        file.create_dataset("data", data=wide, chunks=(4, 8, 8), compression="gzip")
        file["data"].attrs["element_size_um"] = (0.04, 0.008, 0.008)
    np.save(folder / "fortran.npy", np.asfortranarray(small))
    np.save(folder / "big-endian.npy", real.astype(">f4"))
    for version in (2, 3):
        zarr.save_array(str(folder / f"array{version}.zarr"), wide, zarr_format=version)
    with gzip.open(folder / "members.nii.gz", "wb") as file:
        data = nibabel.Nifti1Image(small.T, np.eye(4)).to_bytes()
        file.write(data)
    return {
        "imagej.tif": wide, "packed.tif": real, "big-endian.tif": wide, "tiles.tif": small,
        "rgb.tif": np.stack([small] * 3 + [np.full_like(small, 255)], -1),
        "nibabel.nii.gz": wide, "packed.nrrd": wide, "bz2.nhdr": small, "packed.mha": real, "itk.nrrd": wide,
        "ilastik.h5": wide, "fortran.npy": small, "big-endian.npy": real, "array2.zarr": wide, "array3.zarr": wide,
        "members.nii.gz": small,
    }  # fmt: skip


TOLD = {
    "imagej.tif": (8, 8, 40),
    "nibabel.nii.gz": (20, 20, 100),
    "packed.nrrd": (1e6, 1e6, 2e6),
    "packed.mha": (8, 8, 40),
    "itk.nrrd": (1e6, 1e6, 1e6),
    "members.nii.gz": (1e6, 1e6, 1e6),
    "ilastik.h5": (8, 8, 40),
}
"""What the files say of the size of a voxel, in nm."""


def test_files_of_other_programs_go_in(store_path: Path, tmp_path: Path, capfd):
    files, back = tmp_path / "files", tmp_path / "back"
    files.mkdir()
    back.mkdir()
    for number, (name, voxels) in enumerate(written_by_others(files).items()):
        bring(store_path, files / name, f"i{number}")
        assert np.array_equal(exported(store_path, f"i{number}", back), voxels), name
        found = settings_of(store_path, f"i{number}", capfd)
        assert found["VoxelSize"] == pytest.approx(TOLD.get(name, (8, 8, 8)), rel=1e-5), name
        if name == "packed.mha":
            assert found["MinPoint"] == [10, 0, 0]


def test_pictures_of_every_kind_go_in(store_path: Path, tmp_path: Path):
    gray = voxels_of("uint8blk", (3, 20, 30))
    colours = voxels_of("rgba8blk", (3, 20, 30))
    pictures = {
        "gray.png": ([Image.fromarray(p) for p in gray], gray),
        "palette.png": ([Image.fromarray(p).convert("P") for p in gray], gray),
        "16.png": ([Image.fromarray(p.astype(np.uint16) * 257) for p in gray], gray.astype(np.uint16) * 257),
        "rgba.png": ([Image.fromarray(p) for p in colours], colours),
        "rgb.png": (
            [Image.fromarray(np.ascontiguousarray(p[..., :3])) for p in colours],
            colours | np.uint8([0, 0, 0, 255]),
        ),
        "real.tif": ([Image.fromarray(p.astype(np.float32)) for p in gray], gray.astype(np.float32)),
    }
    for name, (images, voxels) in pictures.items():
        stem, _, suffix = name.partition(".")
        folder = tmp_path / stem
        folder.mkdir()
        for number, image in enumerate(images):
            image.save(folder / f"{number}.{suffix}")
        bring(store_path, folder, stem)
        assert np.array_equal(exported(store_path, stem, tmp_path), voxels), name


def test_jpeg_slices_go_out_and_in_nearly_alike(store_path: Path, tmp_path: Path):
    smooth = np.add.outer(np.add.outer(np.arange(6), np.arange(40)), np.arange(50)).astype(np.uint8)
    np.save(tmp_path / "v.npy", smooth)
    bring(store_path, tmp_path / "v.npy", "v")
    run("export", store_path, "r", "v", tmp_path / "j", "--format", "jpg:95", "--quiet")
    bring(store_path, tmp_path / "j", "again")
    assert np.abs(exported(store_path, "again", tmp_path).astype(int) - smooth).max() <= 4


@pytest.mark.parametrize(
    ("dtype", "right"),
    [
        ("int16", "uint16 (uint16blk)"),
        ("float64", "float32 (float32blk)"),
        ("bool", "uint8 (uint8blk)"),
        ("complex64", "uint8"),
    ],
)
def test_voxels_of_no_datatype_are_refused_with_what_would_be_right(store_path, tmp_path, dtype, right, capfd):
    np.save(tmp_path / "v.npy", np.zeros((4, 5, 6), dtype))
    bring(store_path, tmp_path / "v.npy", "v", code=2)
    said = capfd.readouterr().err
    assert f"holds {dtype}, which no datatype has: convert it to {right}" in said
    assert said.count("\n") == 1
    assert live.dvidfs("repos", store_path).stdout == "no repos\n"


def bad_files(folder: Path) -> dict[str, str]:
    """Names, with the words after them, and what is said of them."""
    import nibabel
    import tifffile

    (folder / "short.raw").write_bytes(bytes(100))
    for name in ("no.nii", "no.nrrd", "no.mhd", "no.tif", "no.h5", "no.nii.gz"):
        (folder / name).write_bytes(b"this is nothing of the kind" * 20)
    scaled = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.eye(4))
    scaled.header.set_slope_inter(2.0, 1.0)
    scaled.to_filename(folder / "scaled.nii")
    nibabel.Nifti1Image(np.zeros((3, 4, 5, 6), np.uint8), np.eye(4)).to_filename(folder / "time.nii")
    tifffile.imwrite(folder / "channels.tif", np.zeros((3, 2, 8, 8), np.uint16), imagej=True, metadata={"axes": "ZCYX"})
    (folder / "many.mhd").write_text(
        "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = s%d.raw 1 2 1\n"
    )
    (folder / "alone.mhd").write_text(
        "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = none.raw\n"
    )
    (folder / "cut.mha").write_bytes(
        b"NDims = 3\nDimSize = 9 9 9\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n123"
    )
    (folder / "empty.zarr").mkdir()
    (folder / "empty.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    return {
        "short.raw": "give --shape X,Y,Z and --dtype",
        "short.raw --shape 9,9,9 --dtype uint8": "has 100 bytes, but --shape 9,9,9 of uint8 are 729",
        "short.raw --shape 4,5,5 --dtype text": "is no type of voxels",
        "short.raw --shape 0,5,5 --dtype uint8": "every side must be positive",
        "no.nii": "no.nii is not a NIfTI file",
        "no.nii.gz": "no.nii.gz is not a NIfTI file",
        "no.nrrd": "no.nrrd is not an NRRD file",
        "no.mhd": "no.mhd is not a MetaImage header",
        "no.tif": "no.tif is not a TIFF volume",
        "no.h5": "no.h5 is not an HDF5 file",
        "scaled.nii": "wants its voxels scaled (slope 2, intercept 1)",
        "time.nii": "a volume of three axes (x, y, z) is needed",
        "channels.tif": "a volume has one axis of pages beside y and x",
        "many.mhd": "has its voxels in several files",
        "alone.mhd": "there is no",
        "cut.mha": "is 726 bytes too short for 9 x 9 x 9 voxels",
        "empty.zarr": "is a group that lists no multiscales",
        "precomputed://none": "there is no",
        "http://127.0.0.1:9/em": "does not tell its format: say precomputed://http://127.0.0.1:9/em",
        "no.nii --source-scale 2": "no.nii is not a NIfTI file",
    }


def test_bad_files_are_one_line_and_make_nothing(store_path: Path, tmp_path: Path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for words, says in bad_files(tmp_path).items():
        assert main(["import", str(store_path), *words.split(), "--repo", "r", "--instance", "v", "--quiet"]) in (1, 2)
        said = capfd.readouterr().err
        assert says in said, words
        assert said.count("\n") == 1, said
    run("repos", store_path)
    assert capfd.readouterr().out == "no repos\n"


@pytest.mark.parametrize(
    ("library", "source", "extra"),
    [("h5py", "v.h5", "formats"), ("nibabel", "v.nii", "formats"), ("nrrd", "v.nrrd", "formats"), ("tifffile", "v.tif", "formats"),
     ("tensorstore", "precomputed://https://127.0.0.1:9/em", "proxy")],
)  # fmt: skip
def test_a_library_that_is_missing_is_named_with_its_extra(
    store_path, tmp_path, monkeypatch, capfd, library, source, extra
):
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / source).write_bytes(b"x") if "://" not in source else None
    bring(store_path, source if "://" in source else tmp_path / source, "v", code=1)
    said = capfd.readouterr().err
    assert f"pip install 'dvidfs[{extra}]'" in said
    assert said.count("\n") == 1


# -- selections and scales ---------------------------------------------------------------------------------------

COORD = st.integers(-40, 40)
SIDE = st.integers(1, 50)


@given(offset=st.tuples(COORD, COORD, COORD), size=st.tuples(SIDE, SIDE, SIDE))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_box_comes_out(tmp_path_factory, offset, size):
    folder = tmp_path_factory.mktemp("box")
    voxels = voxels_of("uint16blk", (21, 33, 27))
    np.save(folder / "v.npy", voxels)
    run("init", folder / "store")
    bring(folder / "store", folder / "v.npy", "v", "--offset=-13,5,-7", "--block-size", "16,16,16")
    world = np.zeros((200, 200, 200), np.uint16)
    world[93:114, 105:138, 87:114] = voxels
    (x, y, z), (a, b, c) = (tuple(100 + o for o in offset), size)
    found = exported(
        folder / "store", "v", folder, "--box=" + ",".join(map(str, offset)) + "+" + ",".join(map(str, size))
    )
    assert np.array_equal(found, world[z : z + c, y : y + b, x : x + a])


@given(first=st.tuples(COORD, COORD, COORD), second=st.tuples(COORD, COORD, COORD))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_imports_at_any_offset_leave_the_rest_as_it_was(tmp_path_factory, first, second):
    from dvidfs.cli import ingest_voxels

    folder = tmp_path_factory.mktemp("two")
    run("init", folder / "store")
    world, limit = np.zeros((140, 140, 140), np.uint8), ingest_voxels.STEP_BYTES
    ingest_voxels.STEP_BYTES = 1 << 13
    try:
        for number, (x, y, z) in enumerate((first, second)):
            voxels = voxels_of("uint8blk", (25 - number, 30, 20 + number))
            np.save(folder / f"{number}.npy", voxels)
            bring(folder / "store", folder / f"{number}.npy", "v", f"--offset={x},{y},{z}", "--block-size", "16,16,16")
            world[50 + z : 75 - number + z, 50 + y : 80 + y, 50 + x : 70 + number + x] = voxels
    finally:
        ingest_voxels.STEP_BYTES = limit
    found = exported(folder / "store", "v", folder, "--box=-50,-50,-50+140,140,140")
    assert np.array_equal(found, world)


def halved(voxels: np.ndarray, offset: tuple[int, int, int]) -> np.ndarray:
    """Means of what there is of each 2x2x2 voxels, by the definition; offset (z, y, x)."""
    stop = [o + n for o, n in zip(offset, voxels.shape, strict=True)]
    first, last = [o // 2 for o in offset], [-(-s // 2) for s in stop]
    out = np.zeros([b - a for a, b in zip(first, last, strict=True)], voxels.dtype)
    for at in np.ndindex(*out.shape):
        part = tuple(
            slice(max(2 * (f + i) - o, 0), 2 * (f + i) + 2 - o) for i, f, o in zip(at, first, offset, strict=True)
        )
        there = voxels[part].astype(np.float64)
        out[at] = np.floor(there.mean() + 0.5)
    return out


@pytest.mark.parametrize("form", ["zarr", "precomputed"])
def test_exports_in_chunks_have_scales_of_means(store_path: Path, tmp_path: Path, form: str):
    voxels = voxels_of("uint8blk", (9, 21, 30))
    np.save(tmp_path / "v.npy", voxels)
    bring(store_path, tmp_path / "v.npy", "v", "--offset=3,-5,7")
    dest = tmp_path / f"v.{form}"
    run("export", store_path, "r", "v", dest, "--scales", "3", "--chunk", "16,8,8", "--quiet")
    bring(store_path, dest, "s1", "--source-scale", "1")
    bring(store_path, dest, "s2", "--source-scale", "2")
    one = halved(voxels, (7, -5, 3))
    assert np.array_equal(exported(store_path, "s1", tmp_path), one)
    assert np.array_equal(exported(store_path, "s2", tmp_path), halved(one, (3, -3, 1)))


def test_scales_of_the_volume_itself_are_exported(store_path: Path, tmp_path: Path):
    voxels = voxels_of("uint8blk", (40, 50, 60))
    np.save(tmp_path / "v.npy", voxels)
    bring(store_path, tmp_path / "v.npy", "v", "--pyramid", "2", "--block-size", "16,16,16")
    own = exported(store_path, "v", tmp_path, "--scale", "1")
    assert np.array_equal(own, halved(voxels, (0, 0, 0)))
    run("export", store_path, "r", "v", tmp_path / "v.n5", "--scales", "2", "--quiet")
    bring(store_path, tmp_path / "v.n5", "s", "--source-scale", "1")
    assert np.array_equal(exported(store_path, "s", tmp_path), own)


def test_the_json_of_both_tells_what_was_done(store_path: Path, tmp_path: Path, capfd):
    np.save(tmp_path / "v.npy", voxels_of("uint8blk", (4, 5, 6)))
    bring(store_path, tmp_path / "v.npy", "v", "--json")
    told = json.loads(capfd.readouterr().out)
    assert (told["instance"], told["size"], told["offset"], told["bytes"], told["already"]) == (
        "v",
        [6, 5, 4],
        [0, 0, 0],
        120,
        0,
    )
    run("export", store_path, "r", "v", tmp_path / "o.raw", "--quiet", "--json")
    told = json.loads(capfd.readouterr().out)
    assert (told["size"], told["bytes"], told["dest"]) == ([6, 5, 4], 120, str(tmp_path / "o.raw"))


# -- going on ----------------------------------------------------------------------------------------------------

DYING = """
import os, signal, sys
from dvidfs.cli.sinks import chunked, files, layouts, slices
slices.IN_MEMORY = files.PIECE = chunked.PART = 1 << 12
left = int(sys.argv[1])
layouts.SHARD = 1 << 15
def count(owner, name):
    whole = getattr(owner, name)
    def counted(*given):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*given)
    setattr(owner, name, counted)
count(slices.SliceSink, "_write")
count(files.FileSink, "_write")
count(chunked.ChunkSink, "_send")
from dvidfs.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


def dying(steps: int, *words: object) -> int:
    return subprocess.run([sys.executable, "-c", DYING, str(steps), *map(str, words)], check=False).returncode


CHUNKS = ("--chunk", "16,16,16", "--scales", "2")
FORMS = {
    "slices": (),
    "v.npy": (),
    "v.nii.gz": (),
    "v.mhd": (),
    "v.zarr": CHUNKS,
    "s.precomputed": ("--sharded", *CHUNKS),
}


@pytest.mark.parametrize("dest", FORMS)
def test_a_killed_export_goes_on(store_path: Path, tmp_path: Path, dest: str, capfd, monkeypatch):
    voxels = voxels_of("uint8blk", (40, 48, 50))
    np.save(tmp_path / "in.npy", voxels)
    bring(store_path, tmp_path / "in.npy", "v", "--block-size", "16,16,16")
    words = ("export", store_path, "r", "v", tmp_path / dest, "--quiet", "--json", *FORMS[dest])
    monkeypatch.setattr("dvidfs.cli.sinks.layouts.SHARD", 1 << 15)
    monkeypatch.setattr("dvidfs.cli.sinks.chunked.PART", 1 << 12)
    assert dying(6, *words) == -9
    assert not (tmp_path / dest).is_file()
    run(*words[:5], "--quiet", "--box", "0,0,0+8,8,8", *FORMS[dest], code=1)
    assert "is there already, begun by another export" in capfd.readouterr().err
    run(*words)
    assert json.loads(capfd.readouterr().out)["already"] > 0
    bring(store_path, tmp_path / dest, "again")
    assert np.array_equal(exported(store_path, "again", tmp_path), voxels)


def test_what_is_there_is_left_as_it_is(store_path: Path, tmp_path: Path, capfd):
    np.save(tmp_path / "v.npy", voxels_of("uint8blk", (4, 5, 6)))
    bring(store_path, tmp_path / "v.npy", "v")
    for dest in ("old", "old.zarr"):
        (tmp_path / dest).mkdir()
        (tmp_path / dest / "mine").write_text("mine")
        run("export", store_path, "r", "v", tmp_path / dest, "--quiet", code=1)
        assert "is there already" in capfd.readouterr().err
        assert [p.name for p in (tmp_path / dest).iterdir()] == ["mine"]
    (tmp_path / "h.raw").write_text("mine")
    run("export", store_path, "r", "v", tmp_path / "h.mhd", "--quiet", code=1)
    assert (tmp_path / "h.raw").read_text() == "mine"


def test_a_corrupt_slice_in_the_middle_is_named_and_the_import_goes_on_when_it_is_repaired(
    store_path: Path, tmp_path: Path, capfd
):
    voxels = voxels_of("uint8blk", (48, 32, 32))
    folder = tmp_path / "s"
    folder.mkdir()
    for number, picture in enumerate(voxels):
        Image.fromarray(picture).save(folder / f"{number:03d}.png")
    whole = (folder / "037.png").read_bytes()
    (folder / "037.png").write_bytes(whole[: len(whole) // 2] + bytes(50) + whole[len(whole) // 2 + 50 :])
    limit, words = (1 << 14), ("--block-size", "16,16,16")
    import dvidfs.cli.ingest_voxels as steps

    usual, steps.STEP_BYTES = steps.STEP_BYTES, limit
    try:
        bring(store_path, folder, "v", *words, code=2)
        said = capfd.readouterr().err
        assert "037.png is not a picture that can be read" in said
        assert said.count("\n") == 1
        assert np.array_equal(exported(store_path, "v", tmp_path), voxels[:32])
        (folder / "037.png").write_bytes(whole)
        capfd.readouterr()
        bring(store_path, folder, "v", "--json", *words)
        assert json.loads(capfd.readouterr().out)["already"] == 32 * 32 * 32
    finally:
        steps.STEP_BYTES = usual
    assert np.array_equal(exported(store_path, "v", tmp_path), voxels)


def test_an_export_that_no_file_can_hold_is_refused_and_leaves_nothing(store_path: Path, tmp_path: Path, capfd):
    np.save(tmp_path / "v.npy", np.ones((4, 4, 4), np.uint8))
    bring(store_path, tmp_path / "v.npy", "v")
    before = sorted(path.name for path in tmp_path.iterdir())
    words = ("export", store_path, "r", "v", tmp_path / "o.npy", "--quiet")
    run(*words, "--box", "0,0,0+2000000000,2000000000,2000", code=2)
    assert "more than a file can hold: want a smaller --box" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    run(*words)


def test_an_export_whose_part_was_removed_is_forgotten(store_path: Path, tmp_path: Path, capfd):
    np.save(tmp_path / "in.npy", np.random.default_rng(0).integers(0, 255, (64, 32, 32), np.uint8))
    bring(store_path, tmp_path / "in.npy", "v", "--block-size", "16,16,16")
    words = ("export", store_path, "r", "v", tmp_path / "o.npy", "--quiet")
    assert dying(3, *words) == -9
    run(*words, "--box", "0,0,0+8,8,8", code=1)
    assert "o.npy.part is there already, begun by another export: remove it" in capfd.readouterr().err
    (tmp_path / "o.npy.part").unlink()
    run(*words, "--box", "0,0,0+8,8,8")
    assert np.load(tmp_path / "o.npy").shape == (8, 8, 8)


def test_files_of_sparse_volumes_are_sparse(store_path: Path, tmp_path: Path, capfd):
    np.save(tmp_path / "v.npy", np.ones((4, 4, 4), np.uint8))
    bring(store_path, tmp_path / "v.npy", "v")
    run("export", store_path, "r", "v", tmp_path / "o.npy", "--box", "0,0,0+1000,1000,300", "--quiet")
    found = np.load(tmp_path / "o.npy", mmap_mode="r")
    assert (found.shape, int(found[:5].sum())) == ((300, 1000, 1000), 64)
    assert (tmp_path / "o.npy").stat().st_blocks * 512 < 100 << 20
    run("export", store_path, "r", "v", tmp_path / "o.zarr", "--box", "0,0,0+1000,1000,300", "--quiet")
    assert sum(1 for path in (tmp_path / "o.zarr").rglob("*") if path.is_file() and path.name != "zarr.json") < 8
