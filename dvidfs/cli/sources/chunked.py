"""Volumes in chunks: Zarr, OME-Zarr, N5 and neuroglancer precomputed, on disk or at HTTP(S), S3 and GCS.

Decides which words name such a volume and how a folder shows what it is; metadata and voxels are read as those of
proxied volumes are (:mod:`dvidfs.types.proxy`). Invariant: nothing is asked of a server before the volume is wanted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dvidfs.cli.sources.base import COLOURS, Rows, What, existing
from dvidfs.errors import BadRequest
from dvidfs.types.geometry import Box
from dvidfs.types.proxy.places import FORMATS, SCHEMES, Place, parse_place

_SIGNS = {
    "zarr.json": "zarr",
    ".zarray": "zarr",
    ".zattrs": "zarr",
    ".zgroup": "zarr",
    "attributes.json": "n5",
    "info": "precomputed",
}
"""What the folder is that holds such a file."""
_SUFFIXES = {".zarr": "zarr", ".n5": "n5", ".precomputed": "precomputed"}


def place_of(text: str, *, anew: bool = False) -> Place | None:
    """The volume that a word names, None if it is no such volume. ``anew``: it need not be there.

    ``FORMAT://URL``, a URL or a path with the suffix .zarr, .n5 or .precomputed, or a folder that holds the metadata of one.
    """
    head, separator, rest = text.partition("://")
    if separator and head.lower() in FORMATS:
        if "://" not in rest:
            rest = str((Path(rest) if anew else existing(Path(rest))).absolute())
        return parse_place(f"{head}://{rest}")
    if separator and head.lower() in SCHEMES:
        form = _SUFFIXES.get(Path(rest.rstrip("/")).suffix)
        if form is None:
            raise BadRequest(f"{text} does not tell its format: say precomputed://{text}, zarr://{text} or n5://{text}")
        return parse_place(f"{form}://{text}")
    path = Path(text)
    form = _SUFFIXES.get(path.suffix) if anew else _sign(path)
    return parse_place(f"{form}://{path.absolute()}") if form else None


def _sign(path: Path) -> str | None:
    if not path.is_dir():
        return None
    found = next((form for name, form in _SIGNS.items() if (path / name).is_file()), None)
    if found is None and any((path / f"s{n}" / "attributes.json").is_file() for n in (0,)):
        return "n5"
    return found


class Chunked(Rows):
    """One scale of a volume in chunks."""

    def __init__(self, place: Place, scratch: Path, scale: int = 0) -> None:
        from dvidfs.types.proxy.describe import describe
        from dvidfs.types.proxy.remote import Chunks, RemoteVolume

        remote = describe(place, scale)
        if remote.channel is not None and remote.channels not in COLOURS:
            raise BadRequest(f"{place} has {remote.channels} channels: want one, or 3 or 4 colours")
        x, y, z = remote.size
        what = What(
            str(place),
            (z, y, x),
            np.dtype(remote.dtype),
            remote.channels if remote.channel is not None else 0,
            remote.voxel_size,
            remote.units,
            remote.offset,
            remote.labels,
        )
        super().__init__(what, scratch, (), self._read)
        self._volume = RemoteVolume(remote.to_json(), Chunks(0))
        self._sealed = repr((str(place), scale, remote.size, remote.offset, remote.dtype))

    def _read(self, z: slice, y: slice) -> NDArray:
        box = self._volume.box
        offset = (box.offset[0], box.offset[1] + y.start, box.offset[2] + z.start)
        return self._volume.read([Box(offset, (box.size[0], y.stop - y.start, z.stop - z.start))])[0]

    def seal(self, layers: int) -> str:
        return self._sealed
