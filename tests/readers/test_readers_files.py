"""Whole volumes and slices of the mount, opened by the programs that people have: every voxel, and where the header tells it, place and spacing.

A new format or program is a row of :data:`READERS` or :data:`PICTURE_READERS`, a new voxel type a row of ``SAMPLES``. What a
program cannot read is a pair in :data:`CANNOT`.
"""

from __future__ import annotations

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
from readable import SAMPLES, SCALES, VOXEL_SIZE, Library, Reader, Sample, Seen, check_same

MM, UM = 1e6, 1e3
"""Nanometers in the units of headers."""


# ---------------------------------------------------------------- programs


def numpy_raw(path: Path, sample: Sample, scale: int) -> Seen:
    return Seen(np.fromfile(path, sample.dtype).reshape(sample.voxels(scale).shape))


def numpy_mapped(path: Path, sample: Sample, scale: int) -> Seen:
    return Seen(np.memmap(path, sample.dtype, "r", shape=sample.voxels(scale).shape))


def with_nibabel(path: Path, sample: Sample, scale: int) -> Seen:
    """(x, y, z); colours are records; x and y axes point the other way."""
    image: Any = nibabel.load(path)
    voxels = np.asanyarray(image.dataobj).T
    if voxels.dtype.names:
        voxels = np.ascontiguousarray(voxels).view(np.uint8).reshape(*voxels.shape, 4)
    assert image.header.get_xyzt_units()[0] == "micron"
    origin = image.affine[:3, 3] * (-UM, -UM, UM)
    return Seen(voxels, tuple(np.multiply(image.header.get_zooms()[:3], UM)), tuple(origin))


def with_itk(unit: float) -> Callable[[Path, Sample, int], Seen]:
    def read(path: Path, sample: Sample, scale: int) -> Seen:
        image = SimpleITK.ReadImage(str(path))
        assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
        place = tuple(np.multiply(numbers, unit) for numbers in (image.GetSpacing(), image.GetOrigin()))
        return Seen(SimpleITK.GetArrayFromImage(image), *(place if unit else ()))

    return read


def with_medpy(path: Path, sample: Sample, scale: int) -> Seen:
    """(x, y, z), or (channel, x, y, z) transposed alike."""
    voxels, header = medpy.io.load(str(path))
    order = (2, 1, 0, 3) if voxels.ndim == 4 else (2, 1, 0)
    place = (tuple(np.multiply(n, MM)) for n in (header.get_voxel_spacing(), header.get_offset()))
    return Seen(voxels.transpose(order), *place)


def with_h5py(path: Path, sample: Sample, scale: int) -> Seen:
    with h5py.File(path) as file:
        volume: Any = file["volume"]
        spacing, origin = volume.attrs["resolution"][::-1], volume.attrs["offset"][::-1]
        assert list(volume.attrs["voxel_offset"][::-1]) == list(sample.first(scale))
        return Seen(volume[...], tuple(spacing), tuple(origin))


def with_tifffile(path: Path, sample: Sample, scale: int) -> Seen:
    with tifffile.TiffFile(path) as file:
        about: Any = file.imagej_metadata
        page: Any = file.pages[0]
        x, y = (denominator / number for number, denominator in (page.tags[n].value for n in (282, 283)))
        assert about["unit"] in ("um", "µm", "micron")
        first = [-about[name] for name in ("xorigin", "yorigin", "zorigin")]
        spacing = [n * UM for n in (x, y, about["spacing"])]
        return Seen(file.asarray(), tuple(spacing), tuple(np.multiply(first, spacing)))


def tifffile_mapped(path: Path, sample: Sample, scale: int) -> Seen:
    return Seen(tifffile.memmap(path, mode="r"))


def with_imageio(**options: Any) -> Callable[[Path, Sample, int], Seen]:
    return lambda path, sample, scale: Seen(imageio.v3.imread(path, **options))


def with_pillow(path: Path, sample: Sample, scale: int) -> Seen:
    """Page after page; 32-bit numbers come as signed ones."""
    with Image.open(path) as image:
        pages = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            pages.append(np.array(image))
    voxels = np.stack(pages)
    return Seen(voxels.view(np.uint32) if voxels.dtype == np.int32 else voxels)


READERS = (
    Reader("numpy.load", "volume.npy", lambda path, sample, scale: Seen(np.load(path))),
    Reader("numpy.load mapped", "volume.npy", lambda path, sample, scale: Seen(np.load(path, mmap_mode="r"))),
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


def check(seen: Seen, sample: Sample, scale: int) -> None:
    check_same(seen.voxels, sample.voxels(scale))
    spacing = [size * 2**scale for size in VOXEL_SIZE]
    if seen.spacing is not None:
        assert seen.spacing == pytest.approx(spacing)
    if seen.origin is not None:
        assert seen.origin == pytest.approx(np.multiply(sample.first(scale), spacing))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("reader", "sample"), PAIRS, ids=str)
def test_a_volume_opens(library: Library, reader: Reader, sample: Sample, scale: int):
    check(reader.read(library.folder(sample, scale) / reader.view, sample, scale), sample, scale)


# ---------------------------------------------------------------- cutouts


CUTS = ("npy", "raw", "nii", "mhd", "h5", "tif")


# ---------------------------------------------------------------- slices


PLANES = {"xy": 0, "xz": 1, "yz": 2}
"""Axis of arrays across each plane."""


def as_shown(voxels: NDArray, suffix: str) -> NDArray:
    """What the picture of a slice holds. PNG knows samples of 8 and 16 bits only: longer voxels are their bytes, in four samples."""
    if suffix == "tif" or voxels.ndim == 3 or voxels.dtype.itemsize <= 2:
        return voxels
    sample = np.dtype("u1") if voxels.dtype.itemsize == 4 else np.dtype(">u2")
    return np.ascontiguousarray(voxels).view(sample).reshape(*voxels.shape, 4)
