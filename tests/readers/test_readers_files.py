"""Whole volumes and slices of the mount, opened by the programs that people have: every voxel, and where the header tells it, place and spacing.

A new format or program is a row of :data:`READERS` or :data:`PICTURE_READERS`, a new voxel type a row of ``SAMPLES``. What a
program cannot read is a pair in :data:`CANNOT`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import imageio.v3
import medpy.io
import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from numpy.typing import NDArray
from PIL import Image
from readable import SAMPLES, SCALES, VOXEL_SIZE, Library, Point, Reader, Sample, Seen, check_same, join

MM, UM = 1e6, 1e3
"""Nanometers in the units of headers."""


# ---------------------------------------------------------------- programs


def numpy_raw(path: Path, wanted: NDArray) -> Seen:
    return Seen(np.fromfile(path, wanted.dtype).reshape(wanted.shape))


def numpy_mapped(path: Path, wanted: NDArray) -> Seen:
    return Seen(np.memmap(path, wanted.dtype, "r", shape=wanted.shape))


def with_nibabel(path: Path, wanted: NDArray) -> Seen:
    """(x, y, z); colours are records; x and y axes point the other way."""
    image: Any = nibabel.load(path)
    voxels = np.asanyarray(image.dataobj).T
    if voxels.dtype.names:
        voxels = np.ascontiguousarray(voxels).view(np.uint8).reshape(*voxels.shape, 4)
    assert image.header.get_xyzt_units()[0] == "micron"
    origin = image.affine[:3, 3] * (-UM, -UM, UM)
    return Seen(voxels, tuple(np.multiply(image.header.get_zooms()[:3], UM)), tuple(origin))


def with_itk(unit: float) -> Callable[[Path, NDArray], Seen]:
    def read(path: Path, wanted: NDArray) -> Seen:
        image = SimpleITK.ReadImage(str(path))
        assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
        place = tuple(np.multiply(numbers, unit) for numbers in (image.GetSpacing(), image.GetOrigin()))
        return Seen(SimpleITK.GetArrayFromImage(image), *(place if unit else ()))

    return read


def with_medpy(path: Path, wanted: NDArray) -> Seen:
    """(x, y, z), or (channel, x, y, z) transposed alike."""
    voxels, header = medpy.io.load(str(path))
    order = (2, 1, 0, 3) if voxels.ndim == 4 else (2, 1, 0)
    place = (tuple(np.multiply(n, MM)) for n in (header.get_voxel_spacing(), header.get_offset()))
    return Seen(voxels.transpose(order), *place)


def with_h5py(path: Path, wanted: NDArray) -> Seen:
    with h5py.File(path) as file:
        volume: Any = file["volume"]
        spacing, origin = volume.attrs["resolution"][::-1], volume.attrs["offset"][::-1]
        assert origin == pytest.approx(volume.attrs["voxel_offset"][::-1] * spacing)
        return Seen(volume[...], tuple(spacing), tuple(origin))


def with_tifffile(path: Path, wanted: NDArray) -> Seen:
    with tifffile.TiffFile(path) as file:
        about: Any = file.imagej_metadata
        page: Any = file.pages[0]
        x, y = (denominator / number for number, denominator in (page.tags[n].value for n in (282, 283)))
        assert about["unit"] in ("um", "µm", "micron")
        first = [-about.get(name, 0) for name in ("xorigin", "yorigin", "zorigin")]
        spacing = [n * UM for n in (x, y, about["spacing"])]
        return Seen(file.asarray(), tuple(spacing), tuple(np.multiply(first, spacing)))


def tifffile_mapped(path: Path, wanted: NDArray) -> Seen:
    return Seen(tifffile.memmap(path, mode="r"))


def with_imageio(**options: Any) -> Callable[[Path, NDArray], Seen]:
    return lambda path, wanted: Seen(imageio.v3.imread(path, **options))


def with_pillow(path: Path, wanted: NDArray) -> Seen:
    """Page after page; 32-bit numbers come as signed ones."""
    with Image.open(path) as image:
        pages = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            pages.append(np.array(image))
    return Seen(unsigned(np.stack(pages)))


READERS = (
    Reader("numpy.load", "volume.npy", lambda path, wanted: Seen(np.load(path))),
    Reader("numpy.load mapped", "volume.npy", lambda path, wanted: Seen(np.load(path, mmap_mode="r"))),
    Reader("numpy.fromfile", "volume.raw", numpy_raw),
    Reader("numpy.memmap", "volume.raw", numpy_mapped),
    Reader("nibabel", "volume.nii", with_nibabel),
    Reader("SimpleITK", "volume.nii", with_itk(MM)),
    Reader("medpy", "volume.nii", with_medpy),
    Reader("SimpleITK", "volume.mhd", with_itk(MM)),
    Reader("medpy", "volume.mhd", with_medpy),
    Reader("imageio", "volume.mhd", with_imageio(plugin="ITK")),
    Reader("h5py", "volume.h5", with_h5py),
    Reader("tifffile", "volume.tif", with_tifffile),
    Reader("tifffile mapped", "volume.tif", tifffile_mapped),
    Reader("imageio", "volume.tif", with_imageio()),
    Reader("SimpleITK", "volume.tif", with_itk(0)),
    Reader("Pillow", "volume.tif", with_pillow),
)
CANNOT = {
    ("Pillow", "volume.tif", "uint64"),
    ("SimpleITK", "volume.tif", "uint64"),
}
"""(program, file, voxel type): pixels of 64 bits are unknown to their TIFF readers."""

PAIRS = [(r, s) for r in READERS for s in SAMPLES.values() if (r.program, r.view, s.name) not in CANNOT]


def check(seen: Seen, wanted: NDArray, first: Point, scale: int = 0) -> None:
    check_same(seen.voxels, wanted)
    spacing = [size * 2**scale for size in VOXEL_SIZE]
    if seen.spacing is not None:
        assert seen.spacing == pytest.approx(spacing)
    if seen.origin is not None:
        assert seen.origin == pytest.approx(np.multiply(first, spacing))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("reader", "sample"), PAIRS, ids=str)
def test_a_volume_opens(library: Library, reader: Reader, sample: Sample, scale: int):
    wanted = sample.voxels(scale)
    check(reader.read(library.folder(sample, scale) / reader.view, wanted), wanted, sample.first(scale), scale)


CUTS = {
    "across the corner": ((-40, -9, 10), (50, 40, 20)),
    "needle": ((3, 4, 33), (1, 1, 2)),
    "far away": ((900, -800, 0), (3, 4, 5)),
}
"""First voxel and size of boxes; the first begins outside the extents and ends inside."""


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("reader", "sample"), PAIRS, ids=str)
def test_a_cutout_opens(library: Library, reader: Reader, sample: Sample, cut: str):
    first, size = CUTS[cut]
    name = f"cutout/{join(size)}/{join(first)}.{reader.view.removeprefix('volume.')}"
    wanted = sample.box(first, size)
    check(reader.read(library.folder(sample) / name, wanted), wanted, first)


# ---------------------------------------------------------------- slices


PLANES = {"xy": 0, "xz": 1, "yz": 2}
"""Axis of arrays across each plane."""
PICTURE_READERS: dict[tuple[str, str], Callable[[Path], Any]] = {
    ("Pillow", "png"): lambda path: np.array(Image.open(path)),
    ("Pillow", "tif"): lambda path: unsigned(np.array(Image.open(path))),
    ("imageio", "png"): imageio.v3.imread,
    ("imageio", "tif"): imageio.v3.imread,
    ("tifffile", "tif"): tifffile.imread,
    ("SimpleITK", "png"): lambda path: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))),
}
CANNOT_SHOW = {("Pillow", "png", "uint64"), ("imageio", "png", "uint64"), ("Pillow", "tif", "uint64")}
"""Pillow, and imageio through it, have no pictures of several samples of 16 bits, nor of one of 64."""
SHOWN = [
    (reader, sample)
    for reader in PICTURE_READERS
    for sample in SAMPLES.values()
    if (*reader, sample.name) not in CANNOT_SHOW
]
LISTED = {"uint8": "png", "uint16": "png", "rgba8": "png", "uint32": "tif", "uint64": "tif", "float32": "tif"}
"""Which kind of pictures a folder of slices lists; the other can be named."""


def unsigned(voxels: NDArray) -> NDArray:
    return voxels.view(np.uint32) if voxels.dtype == np.int32 else voxels


def as_shown(voxels: NDArray, suffix: str) -> NDArray:
    """What the picture of a slice holds. PNG knows samples of 8 and 16 bits only: longer voxels are their bytes, in four samples."""
    if suffix == "tif" or voxels.ndim == 3 or (voxels.dtype.kind == "u" and voxels.dtype.itemsize <= 2):
        return voxels
    sample = np.dtype("u1") if voxels.dtype.itemsize == 4 else np.dtype(">u2")
    return np.ascontiguousarray(voxels).view(sample).reshape(*voxels.shape, 4)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("reader", "sample"), SHOWN, ids=str)
def test_slices_open(library: Library, reader: tuple[str, str], sample: Sample, plane: str, scale: int):
    """Some of each folder: all are like them, and :func:`test_a_folder_of_slices_is_the_volume` reads all."""
    suffix, axis, voxels = reader[1], PLANES[plane], sample.voxels(scale)
    first, count = sample.first(scale)[2 - axis], voxels.shape[axis]
    for n in {0, count // 2, count - 1}:
        path = library.folder(sample, scale) / f"slices/{plane}/{first + n:06d}.{suffix}"
        check_same(PICTURE_READERS[reader](path), as_shown(voxels.take(n, axis), suffix))


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("sample", SAMPLES.values(), ids=str)
def test_a_folder_of_slices_is_the_volume(library: Library, sample: Sample, plane: str):
    folder, axis = library.folder(sample) / "slices" / plane, PLANES[plane]
    names = sorted(os.listdir(folder), key=lambda name: int(name.split(".")[0]))
    first, suffix = sample.first(0)[2 - axis], LISTED[sample.name]
    assert names == [f"{first + n:06d}.{suffix}" for n in range(sample.voxels().shape[axis])]
    check_same(np.stack([imageio.v3.imread(folder / name) for name in names], axis), sample.voxels())


# ---------------------------------------------------------------- what is listed


FILES = {f"volume.{suffix}" for suffix in ("npy", "raw", "nii", "mhd", "h5", "tif")}
FOLDERS = {"blocks", "slices", "scales", "zarr", "zarr2", "precomputed"}


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=str)
def test_every_type_lists_every_format(library: Library, sample: Sample):
    assert set(os.listdir(library.folder(sample))) == FILES | FOLDERS
    assert set(os.listdir(library.folder(sample) / "scales")) == set(map(str, SCALES))
    assert set(os.listdir(library.folder(sample, 1))) == FILES | {"blocks", "slices"}
    assert set(os.listdir(library.folder(sample) / "slices")) == set(PLANES)


@pytest.mark.parametrize(
    ("last", "absent"),
    [
        ((32_766, 1, 1), set()),
        ((32_767, 1, 1), {"volume.nii"}),
        ((1, 32_767, 1), {"volume.nii"}),
        ((1, 1, 198_999), {"volume.nii"}),
        ((1, 1, 199_000), {"volume.nii", "volume.tif"}),
    ],
)
@pytest.mark.parametrize("typename", ["uint8blk", "rgba8blk"])
def test_a_file_that_a_format_cannot_hold_is_not_listed(library: Library, typename: str, last: Point, absent: set[str]):
    folder = library.new(typename, last)
    assert set(os.listdir(folder)) == (FILES | FOLDERS) - absent
    for name in FILES:
        assert (folder / name).exists() == (name not in absent)


def test_what_was_read_is_let_go(library: Library):
    """A store has 1024 places for readers: a read that keeps its own would end them all after a while."""
    sample = SAMPLES["uint32"]
    before = library.readers()
    for n in range(100):
        first = f"{n - 20}_0_20"
        assert (library.folder(sample) / "cutout" / "30_9_8" / f"{first}.npy").read_bytes()
        assert library.mount.get(library.path(sample, f"raw/0_1_2/30_9_8/{first}")).ok().body
    assert library.readers() - before < 20
