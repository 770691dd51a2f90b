"""Where imported volumes come from: a folder of slices, a numpy file, an HDF5 dataset; all as windows of one array.

Decides how each is opened and read with bounded memory; what becomes of the voxels is for others. Invariant: a source
has one shape (z, y, x) and one dtype, known before the first voxel is read; a slice that does not fit is refused by name.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dvidfs.errors import BadRequest, NotFound, Unsupported
from dvidfs.types import workers
from dvidfs.types.formats.rasters import decode_picture

PICTURES = (".png", ".tif", ".tiff")
IN_MEMORY = 256 << 20
"""A slab of slices above this lies in an unnamed temporary file."""

Shape = tuple[int, int, int]


class Source(Protocol):
    """A volume to be read. ``fingerprint`` changes when it does; ``title`` is for people."""

    shape: Shape
    dtype: np.dtype
    fingerprint: str
    title: str

    def read(self, z: range, y: range) -> NDArray:
        """The voxels of some layers and rows, (z, y, x)."""
        ...

    def expect(self, z: range) -> None:
        """These layers are wanted next: begin to read them."""
        ...


def open_source(text: str, scratch: Path) -> Source:
    """The volume that a word of the command names; ``scratch`` is a folder with room for a slab.

    Raises:
        NotFound: nothing there.
        BadRequest: it is no volume that can be read.
        Unsupported: a library is missing; the text says which.
    """
    file, colon, dataset = text.rpartition(":")
    if colon and file.endswith((".h5", ".hdf5")):
        return Hdf5(_existing(Path(file)), dataset)
    path = _existing(Path(text))
    if path.is_dir():
        return Slices(path, scratch)
    if path.suffix == ".npy":
        return Numpy(path)
    if path.suffix in (".h5", ".hdf5"):
        return Hdf5(path, "")
    raise BadRequest(f"{path} is no volume: give a folder of PNG or TIFF slices, a .npy file or FILE.h5:/dataset")


def _existing(path: Path) -> Path:
    if not path.exists():
        raise NotFound(f"there is no {path} to import")
    return path


def fingerprint(paths: Iterable[Path]) -> str:
    """A text that is another one when a file was added, removed or written."""
    digest = hashlib.sha256()
    for path in paths:
        found = path.stat()
        digest.update(f"{path.name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def natural(name: str) -> list[Any]:
    """Sorts z2 before z10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _volume(path: str, shape: tuple[int, ...]) -> Shape:
    if len(shape) != 3 or not all(shape):
        raise BadRequest(f"{path} has the shape {shape}: a volume of three axes (z, y, x) is needed")
    return shape[0], shape[1], shape[2]


# -- slices ------------------------------------------------------------------------------------------------------


@dataclass
class _Slab:
    """Layers that are read or being read."""

    z: range
    voxels: NDArray
    coming: list[Future[None]]


class Slices:
    """A folder of pictures, one for each z, in natural order of their names."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.files = sorted(
            (p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")),
            key=lambda p: natural(p.name),
        )
        if not self.files:
            raise BadRequest(f"{folder} holds no PNG or TIFF slices")
        first = read_slice(self.files[0])
        self.shape = (len(self.files), *first.shape)
        self.dtype = first.dtype
        self.fingerprint = fingerprint(self.files)
        self.title = f"{len(self.files)} slices of {first.shape[1]} x {first.shape[0]}"
        self._scratch = scratch
        self._slabs: list[_Slab] = []

    def expect(self, z: range) -> None:
        if not any(slab.z == z for slab in self._slabs):
            voxels = self._room((len(z), *self.shape[1:]))
            coming = [workers.pool().submit(self._fill, voxels, i, n) for i, n in enumerate(z)]
            self._slabs = [*self._slabs[-1:], _Slab(z, voxels, coming)]

    def read(self, z: range, y: range) -> NDArray:
        self.expect(z)
        slab = next(slab for slab in self._slabs if slab.z == z)
        for picture in slab.coming:
            picture.result()
        return slab.voxels[:, y.start : y.stop]

    def _fill(self, voxels: NDArray, at: int, number: int) -> None:
        picture = read_slice(self.files[number])
        if picture.shape != self.shape[1:] or picture.dtype != self.dtype:
            raise BadRequest(
                f"{self.files[number]} is {_size(picture)} of {picture.dtype}, but {self.files[0].name} is "
                f"{self.shape[2]} x {self.shape[1]} of {self.dtype}: all slices must be alike"
            )
        voxels[at] = picture

    def _room(self, shape: Shape) -> NDArray:
        if np.prod(shape) * self.dtype.itemsize <= IN_MEMORY:
            return np.empty(shape, self.dtype)
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            return np.memmap(file, self.dtype, "w+", shape=shape)


def _size(picture: NDArray) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]}"


def read_slice(path: Path) -> NDArray:
    """The gray samples of a picture, (y, x).

    Raises:
        BadRequest: it cannot be read, or has colours.
    """
    try:
        picture = decode_picture(path.read_bytes())
    except BadRequest:
        picture = _read_tiff(path)
    if picture.ndim != 2:
        raise BadRequest(f"{path} is in colour ({picture.shape[2]} channels): gray slices are needed")
    return picture


def _read_tiff(path: Path) -> NDArray:
    """A TIFF that Pillow does not know, with tifffile if it is there."""
    if path.suffix.lower() == ".png":
        raise BadRequest(f"{path} is not a PNG picture that can be read")
    try:
        import tifffile
    except ImportError:
        raise Unsupported(f"{path} needs tifffile to be read: pip install 'dvidfs[tiff]'") from None
    with suppress(Exception):  # whatever it says, the file cannot be read
        return np.squeeze(tifffile.imread(path))
    raise BadRequest(f"{path} is not a TIFF picture that can be read")


# -- arrays ------------------------------------------------------------------------------------------------------


class Numpy:
    """A ``.npy`` file, read through the page cache."""

    def __init__(self, path: Path) -> None:
        try:
            self._voxels = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as e:
            raise BadRequest(f"{path} is not a numpy file of voxels: {e}") from None
        self.shape = _volume(str(path), self._voxels.shape)
        self.dtype = self._voxels.dtype
        self.fingerprint = fingerprint([path])
        self.title = path.name

    def expect(self, z: range) -> None:
        """The kernel reads ahead."""

    def read(self, z: range, y: range) -> NDArray:
        return self._voxels[z.start : z.stop, y.start : y.stop]


class Hdf5:
    """A dataset of an HDF5 file; without a name, the only one of three axes."""

    def __init__(self, path: Path, dataset: str) -> None:
        try:
            import h5py
        except ImportError:
            raise Unsupported(f"{path} needs h5py to be read: pip install 'dvidfs[hdf5]'") from None
        try:
            self._file = h5py.File(path, "r")
        except OSError as e:
            raise BadRequest(f"{path} is not an HDF5 file that can be read: {e}") from None
        name = dataset.strip("/") or self._only(path, h5py)
        found = self._file.get(name)
        if not isinstance(found, h5py.Dataset):
            raise NotFound(f'there is no dataset "{name}" in {path}: it has {", ".join(self._names(h5py)) or "none"}')
        self._voxels = found
        self.shape = _volume(f"{path}:/{name}", found.shape)
        self.dtype = found.dtype
        self.fingerprint = fingerprint([path]) + name
        self.title = f"{path.name}:/{name}"

    def _names(self, h5py: Any) -> list[str]:
        names: list[str] = []
        self._file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        return names

    def _only(self, path: Path, h5py: Any) -> str:
        file: Any = self._file
        names = [name for name in self._names(h5py) if len(file[name].shape) == 3]
        if len(names) != 1:
            raise BadRequest(f"say which dataset: {path}:/NAME; it has {', '.join(names) or 'none of three axes'}")
        return names[0]

    def expect(self, z: range) -> None:
        """A file has one reader at a time."""

    def read(self, z: range, y: range) -> NDArray:
        return self._voxels[z.start : z.stop, y.start : y.stop]
