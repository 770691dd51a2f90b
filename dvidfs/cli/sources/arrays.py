"""Volumes that are plain arrays: numpy files, voxels without any header, HDF5 datasets.

Decides how they are found and what HDF5's attributes say of a voxel (``element_size_um`` as ilastik and Fiji write it; ``resolution`` and ``offset``
in nm; each z first). Invariant: no more is read than what is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dvidfs.cli.sources.base import PlainFile, Rows, Source, What, library, nearest, volume_of
from dvidfs.errors import BadRequest, NotFound
from dvidfs.types.geometry import Point, parse_ints


def open_npy(path: Path, scratch: Path) -> Source:
    """A ``.npy`` file in either order of axes."""
    try:
        voxels: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as e:
        with path.open("rb") as file:
            is_npy = file.read(6) == b"\x93NUMPY"
        why = str(e) if is_npy else "it does not begin as one, see numpy.save"
        raise BadRequest(f"{path} is not a numpy file of voxels: {why}") from None
    if not isinstance(voxels, np.memmap):
        raise BadRequest(f"{path} is an archive of arrays: want one array, as numpy.save writes it")
    shape, channels = volume_of(path, voxels.shape)
    what = What(path.name, shape, voxels.dtype, channels)
    if voxels.flags.c_contiguous:
        return PlainFile(what, scratch, path, int(voxels.offset))
    return Rows(what, scratch, [path], lambda z, y: voxels[z, y])


def open_raw(path: Path, scratch: Path, shape: str | None, dtype: str | None) -> Source:
    """Voxels in C order; ``shape`` is a text x,y,z or x,y,z,channels, ``dtype`` as numpy writes it."""
    if not shape or not dtype:
        raise BadRequest(
            f"{path} does not tell its size: give --shape X,Y,Z and --dtype, as --shape 512,512,64 --dtype uint16"
        )
    sizes = parse_ints(shape, "--shape", 4 if shape.count(",") == 3 else 3, ",")
    if min(sizes) < 1:
        raise BadRequest(f"--shape {shape}: every side must be positive")
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = np.dtype(object)
    if kind.kind not in "uif":
        raise BadRequest(
            f"--dtype {dtype} is no type of voxels: want uint8, uint16, uint32, uint64 or float32, big-endian as >u2"
        )
    sides, channels = volume_of("--shape", [*reversed(sizes[:3]), *sizes[3:]])
    what = What(path.name, sides, kind, channels)
    wanted, found = what.layer * sides[0], path.stat().st_size
    if found != wanted:
        raise BadRequest(f"{path} has {found} bytes, but --shape {shape} of {kind} are {wanted}")
    return PlainFile(what, scratch, path, 0)


# -- HDF5 --------------------------------------------------------------------------------------------------------


def open_hdf5(path: Path, dataset: str, scratch: Path) -> Source:
    """A dataset of an HDF5 file; without a name, the only one that is a volume.

    Raises:
        Unsupported: h5py is missing.
    """
    h5py = library("h5py", path, "formats")
    try:
        file = h5py.File(path, "r")
    except OSError as e:
        raise BadRequest(f"{path} is not an HDF5 file that can be read: {' '.join(str(e).split())}") from None
    name = dataset.strip("/") or _only(path, file, h5py)
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise NotFound(f'there is no dataset "{name}" in {path}: it has {", ".join(_names(file, h5py)) or "none"}')
    shape, channels = volume_of(f"{path}:/{name}", found.shape)
    voxel = _voxel_size(found)
    what = What(f"{path.name}:/{name}", shape, found.dtype, channels, voxel, offset=_offset(found, voxel))
    return Rows(what, scratch, [path], lambda z, y: found[z, y])


def _names(file: Any, h5py: Any) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def _only(path: Path, file: Any, h5py: Any) -> str:
    names = [name for name in _names(file, h5py) if len(file[name].shape) in (3, 4)]
    if len(names) != 1:
        raise BadRequest(f"say which dataset: {path}:/NAME; it has {', '.join(names) or 'none of three axes'}")
    return names[0]


def _numbers(dataset: Any, name: str) -> list[float] | None:
    """An attribute of three numbers, as (x, y, z)."""
    given = dataset.attrs.get(name)
    if given is None:
        return None
    try:
        numbers = [float(n) for n in np.asarray(given).reshape(-1)]
    except (TypeError, ValueError):
        return None
    return numbers[::-1] if len(numbers) == 3 else None


def _voxel_size(dataset: Any) -> tuple[float, float, float] | None:
    micrometers, nanometers = _numbers(dataset, "element_size_um"), _numbers(dataset, "resolution")
    sizes: Sequence[float] | None = [round(n * 1e3, 9) for n in micrometers] if micrometers else nanometers
    return (sizes[0], sizes[1], sizes[2]) if sizes and min(sizes) > 0 else None


def _offset(dataset: Any, voxel: tuple[float, float, float] | None) -> Point | None:
    position = _numbers(dataset, "offset")
    return nearest(position, voxel) if position and voxel else None
