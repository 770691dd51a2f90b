"""Volumes that come as pictures: a folder with one for each z, or one TIFF file with many pages.

Decides which files are slices and in what order, and that colours stay colours; pictures are decoded by all cores at once.
Invariant: all slices are alike, one that is not or is damaged is refused by its name.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvidfs.cli.sources.base import COLOURS, PlainFile, Source, What, fingerprint, library, natural, nearest
from dvidfs.errors import BadRequest, DvidfsError, Unsupported
from dvidfs.types.formats.frame import NANOMETERS
from dvidfs.types.formats.pngread import read_png

PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
_MODES = ("L", "I;16", "I;16B", "I;16L", "F", "RGB", "RGBA")
_FORMATS = ("PNG", "JPEG", "TIFF")
_MAX_PIXELS = 3 << 30


class Slices(Source):
    """A folder of pictures, one for each z, in natural order of their names."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.files = sorted(
            (p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")),
            key=lambda p: natural(p.name),
        )
        if not self.files:
            raise BadRequest(f"{folder} holds no PNG, TIFF or JPEG slices")
        first = read_slice(self.files[0])
        height, width = first.shape[:2]
        channels = first.shape[2] if first.ndim == 3 else 0
        title = f"{len(self.files)} slices of {width} x {height}"
        super().__init__(What(title, (len(self.files), height, width), first.dtype, channels), scratch, self.files)

    def seal(self, layers: int) -> str:
        return fingerprint(self.files[:layers])

    def tasks(self, z: range, out: NDArray) -> Iterable[Callable[[], None]]:
        for i, number in enumerate(z):
            yield lambda i=i, number=number: self._fill(out, i, number)

    def _fill(self, out: NDArray, at: int, number: int) -> None:
        picture = read_slice(self.files[number], out[at])
        if picture.shape != out.shape[1:] or picture.dtype != self.what.dtype:
            raise BadRequest(
                f"{self.files[number]} is {_words(picture)}, but {self.files[0].name} is {_words(out[at])}: "
                f"all slices must be alike"
            )
        if not np.shares_memory(picture, out):
            out[at] = picture


def _words(picture: NDArray) -> str:
    colour = f", {picture.shape[2]} channels" if picture.ndim == 3 else ""
    return f"{picture.shape[1]} x {picture.shape[0]} of {picture.dtype}{colour}"


def read_slice(path: Path, out: NDArray | None = None) -> NDArray:
    """The samples of a picture: (y, x), or (y, x, channels) for colours; perhaps in ``out``, if that is such an array.

    Raises:
        BadRequest: it is damaged, or neither gray nor RGB nor RGBA.
    """
    data = path.read_bytes()
    try:
        picture = read_png(data, out)
        if picture is None:
            picture = _read_pillow(data)
    except BadRequest as error:
        raise BadRequest(f"{path} is not a picture that can be read: {error}") from None
    if picture is None:
        picture = _read_tiff(path)
    if picture.ndim != 2 and not (picture.ndim == 3 and picture.shape[2] in COLOURS):
        raise BadRequest(f"{path} has the shape {picture.shape}: slices are gray, RGB or RGBA, one in a file")
    return picture


def _read_pillow(data: bytes) -> NDArray | None:
    """None for a TIFF that Pillow does not know, or does not keep whole."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = _MAX_PIXELS
    is_tiff = data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if is_tiff and (image.mode not in _MODES or getattr(image, "n_frames", 1) > 1):
                return None
            if image.mode in ("1", "P"):
                return _without_palette(image)
            if image.mode not in _MODES:
                raise BadRequest(f"its pixels are {image.mode}: want gray, RGB or RGBA")
            if image.format == "PNG" and data[24] == 16 and image.mode in ("RGB", "RGBA"):
                raise BadRequest("it has 16-bit colours: want 8 bits for each")
            picture = np.asarray(image)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        if is_tiff:
            return None
        raise BadRequest(_one_line(error)) from None
    return picture if picture.dtype.byteorder != ">" else picture.astype(picture.dtype.newbyteorder("<"))


def _without_palette(image: Any) -> NDArray:
    """Gray where all colours are, as many tools write gray slices."""
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    colours = np.asarray(image.convert("RGBA" if "transparency" in image.info else "RGB"))
    is_gray = colours.shape[2] == 3 and bool((colours == colours[:, :, :1]).all())
    return np.ascontiguousarray(colours[:, :, 0]) if is_gray else colours


def _read_tiff(path: Path) -> NDArray:
    tifffile = library("tifffile", path, "formats")
    try:
        with tifffile.TiffFile(path) as file:
            if len(file.pages) != 1:
                raise BadRequest(f"{path} has {len(file.pages)} pages: import it as a volume of its own")
            picture = file.pages[0].asarray()
    except DvidfsError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it says, the file cannot be read
        raise _unreadable(path, error) from None
    return np.squeeze(picture).astype(picture.dtype.newbyteorder("<"), copy=False)


def _unreadable(path: Path, error: Exception, what: str = "picture") -> DvidfsError:
    if "imagecodecs" in str(error):
        return Unsupported(f"{path} is compressed in a way that needs imagecodecs: pip install imagecodecs")
    return BadRequest(f"{path} is not a TIFF {what} that can be read: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# -- many pages --------------------------------------------------------------------------------------------------


def open_tiff(path: Path, scratch: Path) -> Source:
    """The first series of a TIFF, BigTIFF or ImageJ hyperstack: its pages are the layers.

    Raises:
        BadRequest: damaged, or more than one stack.
        Unsupported: tifffile is missing.
    """
    tifffile = library("tifffile", path, "formats")
    try:
        file = tifffile.TiffFile(path)
        series = file.series[0]
    except Exception as error:  # noqa: BLE001 - whatever it says, the file cannot be read
        raise _unreadable(path, error, "volume") from None
    what = _describe(path, file, series)
    start = series.dataoffset
    if start is not None and series.keyframe.compression == 1 and series.keyframe.fillorder == 1:
        file.close()
        return PlainFile(what, scratch, path, start)
    return Pages(path, scratch, what, file, series)


class Pages(Source):
    """The pages of a TIFF, decoded by all cores."""

    def __init__(self, path: Path, scratch: Path, what: What, file: Any, series: Any) -> None:
        what_little = What(**{**what.__dict__, "dtype": what.dtype.newbyteorder("<")})
        super().__init__(what_little, scratch, [path])
        self._path = path
        self._file = file
        self._pages = series.pages
        file.filehandle.set_lock(True)

    def tasks(self, z: range, out: NDArray) -> Iterable[Callable[[], None]]:
        for i, number in enumerate(z):
            yield lambda i=i, number=number: self._fill(out, i, number)

    def _fill(self, out: NDArray, at: int, number: int) -> None:
        try:
            page = self._pages[number]
            if page is None:
                raise ValueError("it is missing")
            out[at] = page.asarray(maxworkers=1).reshape(out.shape[1:])
        except Exception as error:  # noqa: BLE001 - whatever it says, the page cannot be read
            raise BadRequest(f"page {number} of {self._path} cannot be read: {_one_line(error)}") from None

    def close(self) -> None:
        super().close()
        self._file.close()


def _describe(path: Path, file: Any, series: Any) -> What:
    axes, shape = series.axes, series.shape
    kept = [(axis, n) for axis, n in zip(axes, shape, strict=True) if n > 1 or axis in "YX"]
    names = "".join(axis for axis, _ in kept)
    sizes = [n for _, n in kept]
    channels = 0
    if names.endswith("S"):
        channels = sizes.pop()
        names = names[:-1]
    if len(names) == 2:
        sizes = [1, *sizes]
    elif len(names) != 3:
        found = " x ".join(f"{n} {axis}" for axis, n in kept)
        raise BadRequest(
            f"{path} holds {found}: a volume has one axis of pages beside y and x; write one file for each"
        )
    if names[-2:] != "YX" or (channels and channels not in COLOURS):
        raise BadRequest(f"{path} has the axes {axes} with {shape} samples: want pages of y, x and at most 4 colours")
    voxel, units = _voxel_size(file)
    dtype = np.dtype(series.dtype)
    if series.dataoffset is not None and dtype.itemsize > 1:
        dtype = dtype.newbyteorder(file.byteorder)
    return What(path.name, (sizes[0], sizes[1], sizes[2]), dtype, channels, voxel, units, _origin(file, voxel))


def _voxel_size(file: Any) -> tuple[tuple[float, float, float] | None, str]:
    """What ImageJ says of the size of a voxel."""
    told = file.imagej_metadata or {}
    factor = NANOMETERS.get(str(told.get("unit", "")).replace("\\u00B5", "u").replace("µ", "u").lower())
    tags = file.pages[0].tags
    if factor is None or "XResolution" not in tags or "YResolution" not in tags:
        return None, "nanometers"
    sides = [_inverse(tags[name].value) for name in ("XResolution", "YResolution")]
    x, y, z = (round(side * factor, 9) for side in (*sides, float(told.get("spacing", sides[0]))))
    return ((x, y, z) if min(x, y, z) > 0 else None), "nanometers"


def _inverse(ratio: Any) -> float:
    above, below = ratio
    return below / above if above else 0.0


def _origin(file: Any, voxel: tuple[float, float, float] | None) -> tuple[int, int, int] | None:
    """ImageJ keeps the origin as the voxel that lies at zero."""
    told = file.imagej_metadata or {}
    if voxel is None or not any(name in told for name in ("xorigin", "yorigin", "zorigin")):
        return None
    return nearest([-float(told.get(f"{axis}origin", 0)) for axis in "xyz"], (1, 1, 1))
