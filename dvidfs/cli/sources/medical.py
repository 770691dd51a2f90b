"""Volumes with medical headers: NIfTI, MetaImage (mhd, mha), NRRD.

Decides what their headers say of size, voxels and place; the voxels are read as plain files, compressed ones as streams from front to back.
Lengths are turned into nanometers: MetaImage and NRRD without units count in mm, as ITK has it. An offset is taken when the axes
of the file are those of space, in either direction. Invariant: voxels are the stored ones; a file that wants them scaled is refused.
Sources: nifti1.h, the MetaIO and NRRD format descriptions.
"""

from __future__ import annotations

import bz2
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvidfs.cli.sources.base import COLOURS, PART, PlainFile, Source, What, existing, library, nearest
from dvidfs.errors import BadRequest
from dvidfs.types.geometry import Point

_MM = 1e6
_UNITS = {
    "m": 1e9,
    "mm": 1e6,
    "um": 1e3,
    "µm": 1e3,
    "microns": 1e3,
    "micron": 1e3,
    "micrometer": 1e3,
    "nm": 1.0,
    "nanometer": 1.0,
}
_OFFSET = re.compile(rb"offset (-?\d+)_(-?\d+)_(-?\d+) voxels")


class Packed(Source):
    """Voxels in C order in a compressed stream, read once from front to back by a thread of its own."""

    def __init__(self, what: What, scratch: Path, paths: Sequence[Path], begin: Callable[[], Any]) -> None:
        super().__init__(what, scratch, paths)
        self._begin = begin
        self._stream: Any = None
        self._at = 0
        self._one = ThreadPoolExecutor(1, "source")

    def threads(self) -> Executor:
        return self._one

    def tasks(self, z: range, out: NDArray) -> Iterable[Callable[[], None]]:
        yield lambda: self._fill(z, out)

    def _fill(self, z: range, out: NDArray) -> None:
        try:
            if self._stream is None or self._at > z.start * self.what.layer:
                self._stream, self._at = self._begin(), 0
            while (skip := z.start * self.what.layer - self._at) > 0:
                self._at += self._some(bytearray(min(skip, PART)))
            flat = out.reshape(-1).view(np.uint8).data
            for at in range(0, len(flat), PART):
                self._at += self._some(flat[at : at + PART])
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise BadRequest(f"{self.paths[-1]} cannot be unpacked: {' '.join(str(error).split())}") from None

    def _some(self, into: Any) -> int:
        view, done = memoryview(into), 0
        while done < len(view):
            count = self._stream.readinto(view[done:])
            if not count:
                raise EOFError(f"it ends {len(view) - done} bytes too early")
            done += count
        return done

    def close(self) -> None:
        super().close()
        self._one.shutdown(wait=False, cancel_futures=True)


def _gzip(path: Path, start: int, skip: int = 0) -> Callable[[], Any]:
    """Opens a gzip stream that begins at ``start``, behind ``skip`` of its unpacked bytes."""

    def begin() -> Any:
        from isal import igzip

        file = path.open("rb")
        file.seek(start)
        stream: Any = igzip.GzipFile(fileobj=file)
        if skip and len(stream.read(skip)) < skip:
            raise EOFError("it ends within the header")
        return stream

    return begin


class _Zlib:
    """The zlib stream of a MetaImage."""

    def __init__(self, path: Path, start: int) -> None:
        self._file = path.open("rb")
        self._file.seek(start)
        self._inflate = zlib.decompressobj()

    def readinto(self, into: Any) -> int:
        data = b""
        while not data and not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(1 << 20)
            if not packed:
                return 0
            data = self._inflate.decompress(packed, len(into))
        into[: len(data)] = data
        return len(data)


# -- NIfTI -------------------------------------------------------------------------------------------------------


def open_nifti(path: Path, scratch: Path) -> Source:
    """A ``.nii`` or ``.nii.gz`` file.

    Raises:
        Unsupported: nibabel is missing.
    """
    nibabel = library("nibabel", path, "formats")
    try:
        image: Any = nibabel.load(path)
        header, dtype, shape = image.header, np.dtype(image.get_data_dtype()), tuple(image.shape)
        start = int(image.dataobj.offset)
    except Exception as error:  # noqa: BLE001 - whatever it says, the file cannot be read
        raise BadRequest(f"{path} is not a NIfTI file that can be read: {' '.join(str(error).split())}") from None
    channels = len(dtype.fields) if dtype.fields else 0
    if channels:
        dtype = np.dtype(np.uint8)
    shape = shape[:3] + tuple(n for n in shape[3:] if n > 1)
    if len(shape) != 3 or min(shape) < 1 or (channels and channels not in COLOURS):
        raise BadRequest(f"{path} has the shape {shape}: a volume of three axes (x, y, z) is needed")
    slope, inter = (image.dataobj.slope, image.dataobj.inter)
    if (slope, inter) != (1.0, 0.0):
        raise BadRequest(
            f"{path} wants its voxels scaled (slope {slope:g}, intercept {inter:g}): save what they mean, without scaling"
        )
    unit = {"meter": 1e9, "mm": _MM, "micron": 1e3}.get(header.get_xyzt_units()[0], _MM)
    x, y, z = (round(float(n) * unit, 6) for n in header.get_zooms()[:3])
    what = What(path.name, (shape[2], shape[1], shape[0]), dtype, channels, (x, y, z), offset=_nifti_offset(image))
    if path.suffix == ".gz":
        return Packed(what, scratch, [path], _gzip(path, 0, start))
    return PlainFile(what, scratch, path, start)


def _nifti_offset(image: Any) -> Point | None:
    told = _OFFSET.match(bytes(image.header["descrip"].tobytes()))
    if told:
        return int(told[1]), int(told[2]), int(told[3])
    return _offset_of(image.affine[:3, :3].T, image.affine[:3, 3])


def _offset_of(directions: Any, origin: Any) -> Point | None:
    """The first voxel by the vectors of the file's axes (one a row) and its position; None for axes that are turned."""
    matrix = np.asarray(directions, float)
    diagonal = np.diag(matrix)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or not diagonal.all():
        return None
    if abs(matrix - np.diag(diagonal)).max() > 1e-4 * abs(diagonal).min():
        return None
    return nearest(list(map(float, origin)), diagonal.tolist())


# -- MetaImage ---------------------------------------------------------------------------------------------------

_META = {"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4", "LONG": "i4", "ULONG": "u4",
         "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8"}  # fmt: skip
_MAX_HEADER = 1 << 16


def open_meta(path: Path, scratch: Path) -> Source:
    """A ``.mhd`` file with its voxels beside it, or a ``.mha`` file with them behind its header."""
    told, end = _meta_header(path)
    sizes = _ints(path, told, "DimSize")
    sizes = [*sizes, 1] if len(sizes) == 2 else sizes
    word = told.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
    if word not in _META or len(sizes) != 3 or min(sizes) < 1:
        raise BadRequest(f"{path} says ElementType {word or 'nothing'} and DimSize {sizes}: want three axes of numbers")
    channels = int(told.get("ElementNumberOfChannels", "1"))
    is_big = "true" in (told.get(key, "").lower() for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"))
    what = What(
        path.name,
        (sizes[2], sizes[1], sizes[0]),
        np.dtype((">" if is_big else "<") + _META[word]),
        channels if channels > 1 else 0,
        _meta_voxel(path, told),
        offset=_meta_offset(path, told),
    )
    if channels > 1 and channels not in COLOURS:
        raise BadRequest(f"{path} has {channels} channels: want one, or 3 or 4 colours")
    name = told.get("ElementDataFile", "")
    is_local = name.upper() == "LOCAL"
    if not name or (not is_local and (name.upper().startswith("LIST") or "%" in name)):
        raise BadRequest(f"{path} has its voxels in several files ({name}): import those slices as a folder")
    file = path if is_local else existing(path.parent / name)
    start = end if is_local else 0
    if told.get("CompressedData", "").lower() == "true":
        return Packed(what, scratch, [path, file], lambda: _Zlib(file, start))
    if told.get("HeaderSize"):
        given = int(told["HeaderSize"])
        start = file.stat().st_size - what.layer * what.shape[0] if given < 0 else max(start, given)
    return PlainFile(what, scratch, file, start, path)


def _meta_header(path: Path) -> tuple[dict[str, str], int]:
    """The header's lines, and where it ends."""
    with path.open("rb") as file:
        data = file.read(_MAX_HEADER)
    told: dict[str, str] = {}
    at = 0
    for line in data.splitlines(keepends=True):
        key, equals, value = line.decode("latin-1").partition("=")
        at += len(line)
        if not equals:
            break
        told[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            return told, at
    raise BadRequest(f"{path} is not a MetaImage header that can be read: it has no line ElementDataFile = FILE")


def _ints(path: Path, told: Mapping[str, str], key: str) -> list[int]:
    try:
        return [int(word) for word in told.get(key, "").split()]
    except ValueError:
        raise BadRequest(f"{path}: {key} = {told[key]} are no whole numbers") from None


def _floats(path: Path, told: Mapping[str, str], *keys: str) -> list[float]:
    for key in keys:
        if key in told:
            try:
                return [float(word) for word in told[key].split()]
            except ValueError:
                raise BadRequest(f"{path}: {key} = {told[key]} are no numbers") from None
    return []


def _meta_voxel(path: Path, told: Mapping[str, str]) -> tuple[float, float, float] | None:
    sizes = _floats(path, told, "ElementSpacing", "ElementSize")
    if len(sizes) < 3 or min(sizes) <= 0:
        return None
    unit = _UNITS.get(told.get("DistanceUnits", "mm").lower(), _MM)
    x, y, z = (round(n * unit, 6) for n in sizes[:3])
    return x, y, z


def _meta_offset(path: Path, told: Mapping[str, str]) -> Point | None:
    sizes = _floats(path, told, "ElementSpacing", "ElementSize")
    origin = _floats(path, told, "Offset", "Position", "Origin")
    matrix = _floats(path, told, "TransformMatrix", "Orientation", "Rotation") or [1, 0, 0, 0, 1, 0, 0, 0, 1]
    if len(sizes) < 3 or len(origin) < 3 or len(matrix) != 9:
        return None
    return _offset_of(np.reshape(matrix, (3, 3)) * np.reshape(sizes[:3], (3, 1)), origin[:3])


# -- NRRD --------------------------------------------------------------------------------------------------------

_NRRD = {
    "i1": ("signed char", "int8", "int8_t"), "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"), "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",), "f8": ("double",),
}  # fmt: skip
_NRRD_TYPES = {word: code for code, words in _NRRD.items() for word in words}


def open_nrrd(path: Path, scratch: Path) -> Source:
    """A ``.nrrd`` file, or a ``.nhdr`` header with its voxels beside it.

    Raises:
        Unsupported: pynrrd is missing.
    """
    nrrd = library("nrrd", path, "formats")
    try:
        with path.open("rb") as file:
            told: Any = nrrd.read_header(file)
            end = file.tell()
        sizes = [int(n) for n in told["sizes"]]
        code = _NRRD_TYPES[str(told["type"]).lower()]
    except Exception as error:  # noqa: BLE001 - whatever it says, the file cannot be read
        raise BadRequest(f"{path} is not an NRRD file that can be read: {' '.join(str(error).split())}") from None
    channels = sizes.pop(0) if len(sizes) == 4 and sizes[0] in COLOURS else 0
    if len(sizes) != 3 or min(sizes) < 1:
        raise BadRequest(f"{path} has the sizes {list(told['sizes'])}: want three axes, or 3 or 4 colours before them")
    dtype = np.dtype((">" if told.get("endian") == "big" else "<") + code)
    voxel, offset = _nrrd_place(told, bool(channels))
    what = What(path.name, (sizes[2], sizes[1], sizes[0]), dtype, channels, voxel, offset=offset)
    return _nrrd_voxels(path, scratch, told, what, end)


def _nrrd_voxels(path: Path, scratch: Path, told: Any, what: What, end: int) -> Source:
    named = told.get("data file", told.get("datafile"))
    if named is not None and (str(named).upper().startswith("LIST") or "%" in str(named)):
        raise BadRequest(f"{path} has its voxels in several files ({named}): import those slices as a folder")
    file = path if named is None else existing(path.parent / str(named))
    start = end if named is None else 0
    encoding, skip = str(told["encoding"]).lower(), int(told.get("byte skip", told.get("byteskip", 0)))
    if int(told.get("line skip", told.get("lineskip", 0))):
        raise BadRequest(f"{path} wants lines skipped before its voxels: save it again without")
    if encoding == "raw":
        start = file.stat().st_size - what.layer * what.shape[0] if skip < 0 else start + skip
        return PlainFile(what, scratch, file, start, path)
    if encoding in ("gz", "gzip"):
        return Packed(what, scratch, [path, file], _gzip(file, start, max(skip, 0)))
    if encoding in ("bz2", "bzip2"):
        return Packed(what, scratch, [path, file], lambda: bz2.BZ2File(_from(file, start)))
    raise BadRequest(f"{path} has the encoding {encoding}: want raw, gzip or bzip2")


def _from(path: Path, start: int) -> Any:
    file = path.open("rb")
    file.seek(start)
    return file


def _nrrd_place(told: Any, colours: bool) -> tuple[tuple[float, float, float] | None, Point | None]:
    """Voxel size in nm and offset (x, y, z) in voxels."""
    vectors = told.get("space directions")
    unit_words = told.get("space units", told.get("units")) or []
    unit = _UNITS.get(str(unit_words[-1]).strip('"').lower() if len(unit_words) else "mm", _MM)
    if vectors is None:
        spacings = [float(n) for n in told.get("spacings", ())][int(colours) :]
        if len(spacings) != 3 or not np.isfinite(spacings).all() or min(spacings) <= 0:
            return None, None
        return (round(spacings[0] * unit, 6), round(spacings[1] * unit, 6), round(spacings[2] * unit, 6)), None
    matrix = np.array([v if v is not None else [np.nan] * 3 for v in vectors], float)[int(colours) :]
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        return None, None
    x, y, z = (round(float(np.linalg.norm(row)) * unit, 6) for row in matrix)
    origin = told.get("space origin")
    offset = _offset_of(matrix, origin) if origin is not None else None
    return ((x, y, z) if min(x, y, z) > 0 else None), offset
