"""Whole volumes as files: real readers get every voxel, its size and its place; a file larger than 4 GiB too.

What each reader cannot read stands in its row of ``READERS``; docs/formats.md tells the same to people.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import imageio.v3
import medpy.io
import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from dvidfs.types.formats.containers import CONTAINERS
from dvidfs.types.formats.frame import Frame
from dvidfs.types.formats.hdf5 import lookup3
from dvidfs.types.formats.metaimage import NRRD
from dvidfs.types.formats.tiff import slice_header
from dvidfs.types.geometry import Box
from dvidfs.types.imageblk.kinds import KINDS

FORMATS = CONTAINERS | {NRRD.suffix: NRRD}
IN_FOLDER = {"companion": "voxels of it.raw"}
SHAPES = ((1, 1, 1), (1, 5, 1), (6, 1, 1), (4, 3, 7), (3, 33, 20))
OFFSETS = ((0, 0, 0), (-300000, 20, 7), (2**31 - 40, -(2**31), 1))
SIZES = (8.0, 8.5, 40.0)
points = st.tuples(*[st.integers(-(2**31), 2**31 - 40)] * 3)
lengths = st.tuples(*[st.floats(0.1, 1e9)] * 3)


def frame_of(kind: str, shape=(4, 3, 7), offset=(-300000, 20, 7), sizes=SIZES, **more) -> Frame:
    z, y, x = shape
    return Frame(Box(offset, (x, y, z)), KINDS[kind].dtype, KINDS[kind].channels, sizes, **more)


def voxels_of(frame: Frame) -> NDArray:
    """Voxels that differ in every byte; floats that are numbers."""
    rng = np.random.default_rng(7)
    if frame.dtype.kind == "f":
        return rng.normal(0, 1e6, frame.shape).astype(frame.dtype)
    voxels = np.frombuffer(rng.bytes(frame.size), frame.dtype).reshape(frame.shape).copy()
    voxels.reshape(-1)[-1] = np.iinfo(frame.dtype).max
    return voxels


def write(folder: Path, suffix: str, frame: Frame, voxels: bytes) -> Path:
    """The file of a volume, and its companion."""
    container, path = FORMATS[suffix], folder / f"volume.{suffix}"
    path.write_bytes(container.header(frame) + (voxels if container.voxels else b""))
    assert path.stat().st_size == container.size(frame)
    if not container.voxels:
        (folder / frame.companion).write_bytes(voxels)
    return path


# ---------------------------------------------------------------- readers


def turned(voxels: NDArray) -> NDArray:
    """(x, y, z[, channel]) as (z, y, x[, channel])."""
    return voxels.transpose(2, 1, 0, *range(3, voxels.ndim))


def by_nibabel(path):
    voxels = np.asanyarray(nibabel.load(path).dataobj)
    if voxels.dtype.names:
        voxels = np.stack([voxels[name] for name in "RGBA"], -1)
    return turned(voxels)


def by_itk(path):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))


def by_h5py(path):
    with h5py.File(path, "r") as file:
        assert list(file) == ["volume"]
        return file["volume"][()]


def by_pillow(path):
    with Image.open(path) as image:
        pages = []
        for n in range(image.n_frames):
            image.seek(n)
            page = np.asarray(image)
            pages.append(page.view(np.uint32) if image.mode == "I" else page)
    return np.stack(pages)


def by_imageio(path):
    return imageio.v3.imread(path, plugin="ITK") if path.suffix in (".nii", ".mhd") else imageio.v3.imread(path)


@dataclass(frozen=True)
class Reader:
    """``read(path)`` gives the voxels; of what it ``cannot`` read it must not be asked."""

    suffix: str
    name: str
    read: Callable[[Path], NDArray]
    cannot: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.suffix}"


READERS = (
    Reader("npy", "numpy", np.load),
    Reader("nii", "nibabel", by_nibabel),
    Reader("nii", "SimpleITK", by_itk),
    Reader("nii", "medpy", lambda path: turned(medpy.io.load(str(path))[0])),
    Reader("nii", "imageio", by_imageio),
    Reader("mhd", "SimpleITK", by_itk),
    Reader("mhd", "medpy", lambda path: turned(medpy.io.load(str(path))[0])),
    Reader("mhd", "imageio", by_imageio),
    Reader("nrrd", "SimpleITK", by_itk),
    Reader("nrrd", "pynrrd", lambda path: nrrd.read(str(path), index_order="C")[0]),
    Reader("nrrd", "medpy", lambda path: turned(medpy.io.load(str(path))[0])),
    Reader("h5", "h5py", by_h5py),
    Reader("tif", "tifffile", tifffile.imread),
    Reader("tif", "tifffile mapped", lambda path: tifffile.memmap(path, mode="r")),
    Reader("tif", "imageio", by_imageio),
    Reader("tif", "SimpleITK", by_itk, cannot=("uint64blk",)),
    Reader("tif", "Pillow", by_pillow, cannot=("uint64blk",)),
)
CASES = [(reader, kind) for reader in READERS for kind in KINDS if kind not in reader.cannot]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("reader", "kind"), CASES, ids=str)
def test_a_reader_gets_every_voxel(reader: Reader, kind: str, shape, tmp_path):
    frame = frame_of(kind, shape, **IN_FOLDER)
    assert FORMATS[reader.suffix].holds(frame)
    voxels = voxels_of(frame)
    seen = reader.read(write(tmp_path, reader.suffix, frame, voxels.tobytes()))
    assert seen.dtype == voxels.dtype
    assert seen.size == voxels.size, seen.shape
    assert np.array_equal(seen.reshape(voxels.shape), voxels)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_headers_are_aligned_and_always_the_same(kind: str, suffix: str):
    container = FORMATS[suffix]
    for shape in SHAPES:
        first, again = (container.header(frame_of(kind, shape)) for _ in range(2))
        assert first == again
        assert len(first) % (32 if suffix == "nii" else 64) == 0 or not container.voxels


# ---------------------------------------------------------------- place and size


@settings(max_examples=40, deadline=None)
@given(points, lengths)
def test_size_and_place_of_voxels(tmp_path_factory, offset, sizes):
    """All formats tell the same place: to 24 bits for NIfTI, exactly in voxels where it is said in voxels."""
    folder = tmp_path_factory.mktemp("place")
    frame = frame_of("uint8blk", (2, 2, 2), offset, sizes)
    paths = {suffix: write(folder, suffix, frame, bytes(8)) for suffix in FORMATS}
    expected = np.array(sizes), np.array(offset) * sizes
    for suffix in ("mhd", "nrrd", "nii"):
        check_itk(paths[suffix], *expected, rtol=1e-6 if suffix == "nii" else 1e-12)
    check_nibabel(paths["nii"], offset, *expected)
    check_h5py(paths["h5"], offset, *expected)
    check_tifffile(paths["tif"], offset, sizes)


def check_itk(path, sizes, place, rtol):
    """In mm; slices stand the way they are looked at."""
    image = SimpleITK.ReadImage(path)
    assert np.allclose(image.GetSpacing(), sizes / 1e6, rtol=rtol, atol=0)
    assert np.allclose(image.GetOrigin(), place / 1e6, rtol=rtol, atol=0)
    assert np.allclose(image.GetDirection(), np.eye(3).reshape(-1))


def check_nibabel(path, offset, sizes, place):
    """In micrometers; x and y point the other way."""
    image = nibabel.load(path)
    affine, other_way = image.affine, np.array((-1, -1, 1))
    assert image.header.get_xyzt_units()[0] == "micron"
    assert np.allclose(image.header.get_zooms(), sizes / 1e3, rtol=1e-6, atol=0)
    assert np.allclose(np.diag(affine)[:3], other_way * sizes / 1e3, rtol=1e-6, atol=0)
    assert np.allclose(affine[:3, 3], other_way * place / 1e3, rtol=1e-6, atol=0)
    assert np.allclose(image.get_qform(), affine, rtol=1e-6, atol=0)
    assert bytes(image.header["descrip"].tobytes()).startswith(b"offset %d_%d_%d voxels" % offset)


def check_h5py(path, offset, sizes, place):
    with h5py.File(path, "r") as file:
        told = dict(file["volume"].attrs)
    assert told["voxel_offset"].tolist() == list(offset[::-1])
    assert np.allclose(told["element_size_um"], sizes[::-1] / 1e3, rtol=1e-12, atol=0)
    assert np.allclose(told["resolution"], sizes[::-1], rtol=1e-12, atol=0)
    assert np.allclose(told["offset"], place[::-1], rtol=1e-12, atol=0)
    assert told["units"] == "nm"
    assert [axis["key"] for axis in json.loads(told["axistags"])["axes"]] == ["z", "y", "x"]


def check_tifffile(path, offset, sizes):
    with tifffile.TiffFile(path) as file:
        told, tags = file.imagej_metadata, file.pages[0].tags
        ratios = [tags[name].value for name in ("XResolution", "YResolution")]
    assert (told["unit"], told["images"], told["slices"]) == ("um", 2, 2)
    assert told["spacing"] == pytest.approx(sizes[2] / 1e3)
    assert [told.get(f"{axis}origin", 0) for axis in "xyz"] == [-at for at in offset]
    assert [b / a for a, b in ratios] == pytest.approx([size / 1e3 for size in sizes[:2]])


def test_colours_are_an_axis_of_the_dataset(tmp_path):
    frame = frame_of("rgba8blk")
    with h5py.File(write(tmp_path, "h5", frame, bytes(frame.size)), "r") as file:
        dataset = file["volume"]
        assert dataset.shape == (4, 3, 7, 4)
        assert [axis["key"] for axis in json.loads(dataset.attrs["axistags"])["axes"]] == ["z", "y", "x", "c"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_units_do_not_matter(suffix: str):
    in_nm = frame_of("uint16blk", sizes=(500.0, 250.0, 4000.0))
    mixed = frame_of("uint16blk", sizes=(0.5, 250.0, 0.004), units=("Microns", "nm", "millimeters"))
    assert FORMATS[suffix].header(in_nm) == FORMATS[suffix].header(mixed)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("sizes", [(0.0, -1.0, 1e300), (float("nan"), float("inf"), 5e-324)], ids=str)
def test_sizes_that_cannot_be_count_as_one(suffix: str, sizes, tmp_path):
    assert FORMATS[suffix].header(frame_of("uint8blk", sizes=sizes)) == FORMATS[suffix].header(
        frame_of("uint8blk", sizes=(1.0, 1.0, 1.0))
    )


# ---------------------------------------------------------------- TIFF


@pytest.mark.parametrize("kind", KINDS)
def test_tiff_pages_follow_each_other(kind: str, tmp_path):
    """ImageJ takes the first page's place and counts on; others go through the directories."""
    frame = frame_of(kind, (5, 3, 7))
    path = write(tmp_path, "tif", frame, bytes(frame.size))
    head, page = len(FORMATS["tif"].header(frame)), frame.size // 5
    with tifffile.TiffFile(path) as file:
        assert (file.byteorder, file.is_bigtiff, file.is_imagej) == ("<", False, True)
        assert [p.dataoffsets for p in file.pages] == [(head + n * page,) for n in range(5)]
        assert all(p.databytecounts == (page,) and p.offset < head for p in file.pages)
        assert [p.is_imagej for p in file.pages] == [True, False, False, False, False]
        assert file.pages[4].extrasamples == ((2,) if frame.channels else ())


@pytest.mark.parametrize("kind", KINDS)
def test_a_slice_is_a_tiff(kind: str, tmp_path):
    voxels = voxels_of(frame_of(kind, (1, 9, 14)))[0]
    path = tmp_path / "000001.tif"
    path.write_bytes(slice_header(14, 9, voxels.dtype, voxels.shape[2:], (8.0, 40.0)) + voxels.tobytes())
    assert np.array_equal(tifffile.imread(path), voxels)
    with tifffile.TiffFile(path) as file:
        assert (file.imagej_metadata or {})["unit"] == "um"
        assert [file.pages[0].tags[n].value for n in ("XResolution", "YResolution")] == [(125, 1), (25, 1)]
    if kind != "uint64blk":
        assert np.array_equal(by_pillow(path)[0], voxels)
        with Image.open(path) as image:
            modes = {"uint8blk": "L", "uint16blk": "I;16", "uint32blk": "I", "float32blk": "F", "rgba8blk": "RGBA"}
            assert image.mode == modes[kind]


@pytest.mark.parametrize(("more", "version"), [(0, 42), (1, 43)])
def test_where_big_tiff_begins(more: int, version: int):
    tiff = FORMATS["tif"]
    head = len(tiff.header(frame_of("uint8blk", (1, 1, 1))))
    longest = 2**32 - 1 - head
    frame = Frame(Box((-300000, 20, 7), (longest + more, 1, 1)), np.dtype("u1"), (), SIZES)
    assert tiff.header(frame)[2] == version
    assert (tiff.size(frame) < 2**32) == (version == 42)


# ---------------------------------------------------------------- large volumes, and too large ones

LARGE = (1100, 2000, 2001)
"""4.1 GiB of uint8, above 2^32 voxels: (z, y, x)."""
LAST = bytes(range(1, 9))


@pytest.fixture(params=["uint8blk", "float32blk", "rgba8blk"])
def large(request, tmp_path):
    """Makes a file of a large volume that is nothing but holes, and its last eight bytes; and tells these as voxels."""
    frame = frame_of(request.param, LARGE)

    def make(suffix: str) -> tuple[Path, NDArray]:
        container = FORMATS[suffix]
        path, head = tmp_path / f"volume.{suffix}", container.header(frame)
        path.write_bytes(head)
        voxels, at = (path, len(head)) if container.voxels else (tmp_path / frame.companion, 0)
        with voxels.open("r+b" if container.voxels else "wb") as file:
            file.truncate(at + frame.size)
            file.seek(at + frame.size - len(LAST))
            file.write(LAST)
        assert path.stat().st_size == container.size(frame)
        return path, np.frombuffer(LAST, frame.dtype).reshape(-1, *frame.channels)

    return make


def test_large_nifti(large):
    path, last = large("nii")
    image = nibabel.load(path)
    seen = image.dataobj[-len(last) :, -1, -1]
    if seen.dtype.names:
        seen = np.stack([seen[name] for name in "RGBA"], -1)
    assert image.shape == LARGE[::-1]
    assert np.array_equal(seen, last)


@pytest.mark.parametrize("suffix", ["mhd", "nrrd"])
def test_large_volumes_in_itk(large, suffix):
    path, last = large(suffix)
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    assert reader.GetSize() == LARGE[::-1]
    if suffix == "mhd":  # ITK reads windows of MetaImage
        reader.SetExtractIndex([LARGE[2] - len(last), LARGE[1] - 1, LARGE[0] - 1])
        reader.SetExtractSize([len(last), 1, 1])
        assert np.array_equal(SimpleITK.GetArrayFromImage(reader.Execute())[0, 0], last)


def test_large_hdf5(large):
    path, last = large("h5")
    with h5py.File(path, "r") as file:
        assert file["volume"].shape[:3] == LARGE
        assert np.array_equal(file["volume"][-1, -1, -len(last) :], last)


def test_large_tiff(large):
    path, last = large("tif")
    mapped = tifffile.memmap(path, mode="r")
    assert mapped.shape[:3] == LARGE
    assert np.array_equal(mapped[-1, -1, -len(last) :], last)
    with Image.open(path) as image:
        image.seek(LARGE[0] - 1)
        assert np.array_equal(np.asarray(image)[-1, -len(last) :], last)


@pytest.mark.parametrize(("suffix", "size", "held"), [
    ("nii", (32767, 1, 32767), True), ("nii", (32768, 1, 1), False), ("nii", (1, 1, 40000), False),
    ("tif", (1, 1, 199_000), True), ("tif", (1, 1, 199_001), False),
    ("mhd", (2**31, 2**31, 2), True), ("h5", (2**31, 2**31, 2), True), ("nrrd", (2**31, 2**31, 2), True),
    ("npy", (2**31, 2**31, 2), True), ("raw", (2**31, 2**31, 2), True),
])  # fmt: skip
def test_what_a_format_can_hold(suffix, size, held):
    frame = Frame(Box((0, 0, 0), size), np.dtype("u1"))
    assert FORMATS[suffix].holds(frame) == held
    if held:
        assert FORMATS[suffix].size(frame) >= frame.size * FORMATS[suffix].voxels


def test_the_longest_tiff_header_is_below_64_mib():
    frame = Frame(Box((0, 0, 0), (70000, 70000, 199_000)), np.dtype("u1"), (4,))
    assert len(FORMATS["tif"].header(frame)) <= 64 << 20


@pytest.mark.parametrize(("suffix", "dtype", "channels"), [
    ("nii", "u1", (3,)), ("nii", "u2", (4,)), ("nii", "f2", ()), ("mhd", "f2", ()), ("mhd", "u1", (2,)), ("nrrd", "f2", ()),
    ("h5", "f2", ()), ("h5", "c8", ()), ("tif", "u1", (3,)), ("tif", "c8", ()),
])  # fmt: skip
def test_voxels_without_a_name_in_the_format(suffix, dtype, channels):
    assert not FORMATS[suffix].holds(Frame(Box((0, 0, 0), (2, 2, 2)), np.dtype(f"<{dtype}"), channels))


@pytest.mark.parametrize(("text", "code"), [
    (b"", 0xDEADBEEF), (b"Four score and seven years ago", 0x17770551),
])  # fmt: skip
def test_checksum_is_that_of_its_author(text, code):
    assert lookup3(text) == code
