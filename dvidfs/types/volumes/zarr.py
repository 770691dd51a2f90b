"""A volume as Zarr: ``zarr/`` is an OME-Zarr 0.5 image (Zarr 3), ``zarr2/`` the same as OME-NGFF 0.4 (Zarr 2).

Decides the metadata and the names of chunks. Arrays ``0``, ``1``, ... are the scales, (z, y, x) or (c, z, y, x), beginning at the extents' first
voxel, which the translation tells; chunks are not compressed. In the mount the names of Zarr 2 can be
opened in ``zarr/`` too; they are not listed, so a copy of the folder is one whole Zarr 3. Source: Zarr core specification 3.0 and 2, OME-NGFF 0.5 and 0.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.types.base import Directory, Each, File
from dvidfs.types.volumes.chunks import Chunks, fits
from dvidfs.types.volumes.names import parse_index
from dvidfs.types.volumes.source import Shape, Source

_OPTIONS = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
_UNITS = {
    "nanometers": "nanometer", "nm": "nanometer", "micrometers": "micrometer", "microns": "micrometer",
    "um": "micrometer", "millimeters": "millimeter", "mm": "millimeter",
}  # fmt: skip


def _shape(shape: Shape) -> list[int]:
    return [*shape.kind.channels, *shape.extents.shape]


def _chunk_shape(chunks: Chunks) -> list[int]:
    x, y, z = chunks.size
    return [*chunks.shape.kind.channels, z, y, x]


def _fill(shape: Shape) -> int | float:
    return 0.0 if shape.kind.dtype.kind == "f" else 0


def array_v3(chunks: Chunks) -> dict[str, Any]:
    """``zarr.json`` of an array."""
    shape = chunks.shape
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": _shape(shape),
        "data_type": shape.kind.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": _chunk_shape(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _fill(shape),
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
        "dimension_names": [*"c"[: len(shape.kind.channels)], "z", "y", "x"],
    }


def array_v2(chunks: Chunks) -> dict[str, Any]:
    """``.zarray``."""
    return {
        "zarr_format": 2,
        "shape": _shape(chunks.shape),
        "chunks": _chunk_shape(chunks),
        "dtype": chunks.shape.kind.dtype.str,
        "compressor": None,
        "fill_value": _fill(chunks.shape),
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }


def multiscales(name: str, shapes: list[Shape]) -> dict[str, Any]:
    """The image that the arrays make up; coordinates are those of the centres of voxels."""
    channel = bool(shapes[0].kind.channels)
    units = [_UNITS.get(unit.lower()) for unit in reversed(shapes[0].units)]
    axes: list[dict[str, str]] = [{"name": "c", "type": "channel"}] if channel else []
    for axis, unit in zip("zyx", units, strict=True):
        axes.append({"name": axis, "type": "space"} | ({"unit": unit} if unit else {}))
    finest = shapes[0].voxel_size
    datasets = []
    for shape in shapes:
        first = [
            offset * size + (size - fine) / 2
            for offset, size, fine in zip(shape.extents.offset, shape.voxel_size, finest, strict=True)
        ]
        datasets.append({
            "path": str(shape.scale),
            "coordinateTransformations": [
                {"type": "scale", "scale": [*[1.0] * channel, *map(float, reversed(shape.voxel_size))]},
                {"type": "translation", "translation": [*[0.0] * channel, *map(float, reversed(first))]},
            ],
        })  # fmt: skip
    return {"name": name, "axes": axes, "datasets": datasets, "type": "mean"}


def group_v3(name: str, shapes: list[Shape]) -> dict[str, Any]:
    """``zarr.json`` of the folder."""
    ome = {"version": "0.5", "multiscales": [multiscales(name, shapes)]}
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}


def attributes_v2(name: str, shapes: list[Shape]) -> dict[str, Any]:
    """``.zattrs`` of the folder."""
    return {"multiscales": [{"version": "0.4", **multiscales(name, shapes)}]}


# ---------------------------------------------------------------- files


@dataclass(frozen=True)
class ZarrFiles:
    """The files below ``zarr/``; parts are the scale, then the indices of a chunk."""

    source: Source

    def chunks(self, view: ReadView, scale: int) -> Chunks:
        return Chunks(self.source, self.source.shape(view, scale), clipped=False)

    def shown(self, view: ReadView) -> bool:
        return fits(self.source.shape(view))

    def scale_names(self, view: ReadView) -> Iterator[str]:
        return map(str, range(self.source.scales(view) + 1))

    def has_scale(self, view: ReadView, scale: int) -> bool:
        return scale <= self.source.scales(view)

    def json(self, make: Callable[..., Any], *, listed: bool = True) -> File:
        """A file of metadata; ``make(view, *parts)`` gives its JSON."""

        def text(view: ReadView, *parts: Any) -> bytes:
            return orjson.dumps(make(view, *parts), option=_OPTIONS)

        def read(view: ReadView, *given: Any) -> Buffer:
            *parts, offset, length = given
            return text(view, *parts)[offset : offset + length]

        return File(lambda view, *parts: len(text(view, *parts)), read, listed=listed)

    def group(self, view: ReadView, make: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return make(view.instance.name, self.source.shapes(view))

    # -- chunks ----------------------------------------------------------------------------------------------

    def indices(self, view: ReadView, scale: int, *parts: int) -> range:
        """The numbers that the next part of a chunk's name may be."""
        shape = self.source.shape(view, scale)
        x, y, z = self.chunks(view, scale).grid
        several = [1] if shape.kind.channels else []
        return range([*several, z, y, x][len(parts)])

    def has_index(self, view: ReadView, scale: int, *parts: int) -> bool:
        return parts[-1] in self.indices(view, scale, *parts[:-1])

    def index_names(self, view: ReadView, scale: int, *parts: int) -> Iterator[str]:
        chunks = self.chunks(view, scale)
        if chunks.shape.kind.channels:
            if not parts:
                return iter(["0"])
            parts = parts[1:]
        return map(str, chunks.along(view, *parts))

    def has_chunk(self, view: ReadView, scale: int, *parts: int) -> bool:
        z, y, x = parts[-3:]
        return self.chunks(view, scale).has(view, (x, y, z))

    def chunk_names(self, view: ReadView, scale: int, *parts: int) -> Iterator[str]:
        return map(str, self.chunks(view, scale).along(view, *parts[-2:]))

    def chunk_size(self, view: ReadView, scale: int, *parts: int) -> int:
        z, y, x = parts[-3:]
        return self.chunks(view, scale).bytes((x, y, z))

    def read_chunk(self, view: ReadView, scale: int, *given: int) -> Buffer:
        *parts, offset, length = given
        z, y, x = parts[-3:]
        return self.chunks(view, scale).read(view, (x, y, z), offset, length)

    def is_ready(self, view: ReadView, scale: int, *given: int) -> bool:
        z, y, x = given[-5:-2]
        return self.chunks(view, scale).ready(view, (x, y, z))


def zarr_folder(source: Source, *, both: bool) -> Directory:
    """``zarr/``: OME-Zarr 0.5, an array for each scale; with ``both`` the names of Zarr 2 can be opened too."""
    z = ZarrFiles(source)
    array = Directory(
        {
            "zarr.json": z.json(lambda view, scale: array_v3(z.chunks(view, scale))),
            "c": Directory(each=_chunk_folders(z, listed=True)),
            **(_array_v2(z, listed=False) if both else {}),
        },
        each=_chunk_folders(z, listed=False) if both else (),
    )
    entries = {
        "zarr.json": z.json(lambda view: z.group(view, group_v3)),
        **(_group_v2(z, listed=False) if both else {}),
    }
    return Directory(entries, each=(Each(parse_index, z.scale_names, z.has_scale, array),), shown=z.shown)


def zarr2_folder(source: Source) -> Directory:
    """``zarr2/``: the same as OME-NGFF 0.4, for readers of Zarr 2 that would stumble over both."""
    z = ZarrFiles(source)
    array = Directory({**_array_v2(z, listed=True)}, each=_chunk_folders(z, listed=True))
    scales = Each(parse_index, z.scale_names, z.has_scale, array)
    return Directory({**_group_v2(z, listed=True)}, each=(scales,), shown=z.shown)


def _group_v2(z: ZarrFiles, *, listed: bool) -> dict[str, File]:
    return {
        ".zgroup": z.json(lambda view: {"zarr_format": 2}, listed=listed),
        ".zattrs": z.json(lambda view: z.group(view, attributes_v2), listed=listed),
    }


def _array_v2(z: ZarrFiles, *, listed: bool) -> dict[str, File]:
    return {
        ".zarray": z.json(lambda view, scale: array_v2(z.chunks(view, scale)), listed=listed),
        ".zattrs": z.json(lambda view, scale: {}, listed=listed),
    }


def _chunk_folders(z: ZarrFiles, *, listed: bool) -> tuple[Each, ...]:
    """Folders z/y above the chunks; where there are channels, below one folder for them all."""

    def several(view: ReadView, scale: int, *_: Any) -> bool:
        return bool(z.source.shape(view, scale).kind.channels)

    def one(view: ReadView, scale: int, *_: Any) -> bool:
        return not several(view, scale)

    chunk = Each(parse_index, z.chunk_names, z.has_chunk, File(z.chunk_size, z.read_chunk, ready=z.is_ready))
    rows = Directory(each=(Each(parse_index, z.index_names, z.has_index, Directory(each=(chunk,))),))
    layers = Each(parse_index, z.index_names, z.has_index, rows)
    alone = Directory(each=rows.each, shown=one)
    return (
        Each(parse_index, z.index_names, z.has_index, Directory(each=(layers,), shown=several), listed=listed),
        Each(parse_index, z.index_names, z.has_index, alone, listed=listed),
    )
