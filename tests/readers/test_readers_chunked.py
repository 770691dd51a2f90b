"""Zarr and neuroglancer precomputed, opened by zarr-python and tensorstore, from the mount's files and over HTTP.

A further program is a row of :data:`READERS`; each opens the folder ``view`` of a volume at a scale.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from readable import SAMPLES, SCALES, VOXEL_SIZE, Library, Sample, Seen, check_same
from zarr.core.common import ZarrFormat
from zarr.errors import ZarrUserWarning


@dataclass(frozen=True)
class Place:
    """A folder of a volume: where its files are in the mount, and what tensorstore calls it there or over HTTP."""

    path: str
    kvstore: dict[str, str]


@dataclass(frozen=True)
class ChunkReader:
    program: str
    view: str
    read: Callable[[Place, int], Seen]

    def __str__(self) -> str:
        return f"{self.program}-{self.view}"


def in_zarr_order(voxels: Any) -> Any:
    """(z, y, x) or (c, z, y, x), as (z, y, x) or (z, y, x, c)."""
    array = np.asarray(voxels)
    return np.moveaxis(array, 0, -1) if array.ndim == 4 else array


def placed(image: dict[str, Any], scale: int) -> dict[str, Any]:
    """Spacing and place (x, y, z) of a scale, as the OME metadata of an image tell."""
    assert [axis["unit"] for axis in image["axes"] if axis["type"] == "space"] == ["nanometer"] * 3
    found = next(entry for entry in image["datasets"] if entry["path"] == str(scale))
    size, shift = (entry[entry["type"]][-3:][::-1] for entry in found["coordinateTransformations"])
    return {"spacing": tuple(size), "origin": tuple(shift)}


def zarr_group(version: ZarrFormat) -> Callable[[Place, int], Seen]:
    """zarr-python, told which version the folder is."""

    def read(place: Place, scale: int) -> Seen:
        group = zarr.open_group(place.path, mode="r", zarr_format=version)
        about: Any = group.attrs["ome"] if version == 3 else group.attrs.asdict()
        array: Any = group[str(scale)]
        return Seen(in_zarr_order(array[...]), **placed(about["multiscales"][0], scale))

    return read


def zarr_alone(place: Place, scale: int) -> Seen:
    """zarr-python, which looks for itself what the folder is, and has nothing to say against it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ZarrUserWarning)
        array: Any = zarr.open_array(f"{place.path}/{scale}", mode="r")
    return Seen(in_zarr_order(array[...]))


def tensorstore_zarr(driver: str) -> Callable[[Place, int], Seen]:
    def read(place: Place, scale: int) -> Seen:
        kvstore = dict(place.kvstore)
        kvstore["path"] += f"{scale}/"
        return Seen(in_zarr_order(tensorstore.open({"driver": driver, "kvstore": kvstore}).result().read().result()))

    return read


def tensorstore_precomputed(place: Place, scale: int) -> Seen:
    spec = {"driver": "neuroglancer_precomputed", "kvstore": place.kvstore, "scale_index": scale}
    volume: Any = tensorstore.open(spec).result()
    voxels = volume.read().result().transpose(2, 1, 0, 3)
    units = volume.dimension_units[:3]
    assert [unit.base_unit for unit in units] == ["nm"] * 3
    spacing = tuple(unit.multiplier for unit in units)
    origin = tuple(first * size for first, size in zip(volume.domain.origin, spacing, strict=False))
    return Seen(voxels if voxels.shape[-1] > 1 else voxels[..., 0], spacing, origin)


TENSORSTORE = (
    ChunkReader("tensorstore zarr3", "zarr", tensorstore_zarr("zarr3")),
    ChunkReader("tensorstore zarr", "zarr2", tensorstore_zarr("zarr")),
    ChunkReader("tensorstore", "precomputed", tensorstore_precomputed),
)
READERS = (
    ChunkReader("zarr 3", "zarr", zarr_group(3)),
    ChunkReader("zarr 2", "zarr2", zarr_group(2)),
    ChunkReader("zarr", "zarr2", zarr_alone),
    ChunkReader("zarr 2 of both", "zarr", zarr_group(2)),
    ChunkReader("tensorstore zarr of both", "zarr", tensorstore_zarr("zarr")),
    *TENSORSTORE,
)


def check(seen: Seen, sample: Sample, scale: int, *, centred: bool) -> None:
    """Voxels, spacing, place. ``centred``: places are those of the centres of voxels, so that coarser ones begin later."""
    check_same(seen.voxels, sample.voxels(scale))
    if seen.spacing is not None:
        spacing = [size * 2**scale for size in VOXEL_SIZE]
        shift = [(size - fine) / 2 if centred else 0 for size, fine in zip(spacing, VOXEL_SIZE, strict=True)]
        assert seen.spacing == pytest.approx(spacing)
        first = sample.first(scale)
        assert seen.origin == pytest.approx([f * s + d for f, s, d in zip(first, spacing, shift, strict=True)])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("reader", READERS, ids=str)
@pytest.mark.parametrize("name", SAMPLES)
def test_it_opens_from_the_mount(library: Library, name: str, reader: ChunkReader, scale: int):
    sample = SAMPLES[name]
    path = library.folder(sample) / reader.view
    seen = reader.read(Place(str(path), {"driver": "file", "path": f"{path}/"}), scale)
    check(seen, sample, scale, centred=reader.view.startswith("zarr"))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("reader", TENSORSTORE, ids=str)
@pytest.mark.parametrize("name", SAMPLES)
def test_it_opens_over_http(library: Library, name: str, reader: ChunkReader, scale: int):
    sample = SAMPLES[name]
    kvstore = {"driver": "http", "base_url": library.mount.url, "path": library.path(sample, reader.view) + "/"}
    check(reader.read(Place("", kvstore), scale), sample, scale, centred=reader.view.startswith("zarr"))


@pytest.mark.parametrize("name", SAMPLES)
def test_a_copied_folder_is_a_whole_zarr(library: Library, name: str, tmp_path: Any):
    """What `cp -r` of ``zarr/`` makes is read as before: nothing that matters is hidden."""
    sample = SAMPLES[name]
    shutil.copytree(library.folder(sample) / "zarr", tmp_path / "copy.zarr")
    for scale in SCALES:
        check(zarr_group(3)(Place(str(tmp_path / "copy.zarr"), {}), scale), sample, scale, centred=True)
