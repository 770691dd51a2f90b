"""A volume as neuroglancer reads it: ``precomputed/info``, and a folder of chunks for each scale.

Decides metadata and names of chunks, which are cut at the extents. Of images a chunk is (x, y, z, channel) with x fastest, not compressed;
of labels it is compressed, so that its size is known only once it is made. Surfaces of labels stand in the folder ``mesh``.
Source: the neuroglancer precomputed volume format, encodings "raw" and "compressed_segmentation", not sharded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.errors import NotFound
from dvidfs.kernels import segmentation
from dvidfs.types.base import Directory, Each, File, Made
from dvidfs.types.geometry import Box, Point, span
from dvidfs.types.volumes.chunks import Chunks, fits
from dvidfs.types.volumes.source import Shape, Source

_KEY = re.compile("_".join([r"[0-9][0-9.e+-]*"] * 3))
_CHUNK = re.compile("_".join([r"(-?[0-9]{1,10})-(-?[0-9]{1,10})"] * 3))


def scale_key(shape: Shape) -> str:
    """The folder of a scale: its voxel size in nm, as ``8_8_8``."""
    return "_".join(f"{size:.10g}" for size in shape.frame.nanometers)


MESH = "mesh"
_RAW = {"encoding": "raw"}
_COMPRESSED = {
    "encoding": "compressed_segmentation",
    "compressed_segmentation_block_size": [segmentation.SUB] * 3,
}


def info(shapes: list[Shape], chunks: list[Chunks]) -> dict[str, Any]:
    kind, source = shapes[0].kind, chunks[0].source
    return {
        "@type": "neuroglancer_multiscale_volume",
        "type": "segmentation" if source.labels else "image",
        **({} if source.meshes is None else {MESH: MESH}),
        "data_type": kind.dtype.name,
        "num_channels": kind.channels[0] if kind.channels else 1,
        "scales": [
            {
                "key": scale_key(shape),
                "size": shape.extents.size,
                "resolution": shape.frame.nanometers,
                "voxel_offset": shape.extents.offset,
                "chunk_sizes": [grid.size],
                **(_COMPRESSED if source.labels else _RAW),
            }
            for shape, grid in zip(shapes, chunks, strict=True)
        ],
    }


def parse_key(name: str) -> str | None:
    return name if _KEY.fullmatch(name) else None


def chunk_name(box: Box) -> str:
    """``x0-x1_y0-y1_z0-z1``, both in voxels of the scale, the second just outside."""
    return "_".join(f"{low}-{high}" for low, high in zip(box.offset, box.stop, strict=True))


def parse_chunk(name: str) -> Box | None:
    match = _CHUNK.fullmatch(name)
    if match is None:
        return None
    x0, x1, y0, y1, z0, z1 = map(int, match.groups())
    if x1 <= x0 or y1 <= y0 or z1 <= z0:
        return None
    box = span((x0, y0, z0), (x1, y1, z1))
    return box if chunk_name(box) == name else None


@dataclass(frozen=True)
class PrecomputedFiles:
    """The files below ``precomputed/``; parts are a scale's key, then the box of a chunk."""

    source: Source

    def shown(self, view: ReadView) -> bool:
        return fits(self.source.shape(view))

    def info(self, view: ReadView) -> bytes:
        shapes = self.source.shapes(view)
        grids = [Chunks(self.source, shape, clipped=True) for shape in shapes]
        return orjson.dumps(info(shapes, grids), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    def keys(self, view: ReadView) -> list[str]:
        return [scale_key(shape) for shape in self.source.shapes(view)]

    def chunks(self, view: ReadView, key: str) -> Chunks:
        shape = next((shape for shape in self.source.shapes(view) if scale_key(shape) == key), None)
        if shape is None:  # the voxel size is another now
            raise NotFound(f"precomputed/{key} is not there any more: see precomputed/info")
        return Chunks(self.source, shape, clipped=True)

    def names(self, view: ReadView, key: str) -> Iterator[str]:
        chunks = self.chunks(view, key)
        return (chunk_name(chunks.box(index)) for index in chunks.indices(view))

    def _find(self, view: ReadView, key: str, box: Box) -> tuple[Chunks, Point]:
        chunks = self.chunks(view, key)
        origin = chunks.shape.extents.offset
        x, y, z = ((n - o) // side for n, o, side in zip(box.offset, origin, chunks.size, strict=True))
        return chunks, (x, y, z)

    def has(self, view: ReadView, key: str, box: Box) -> bool:
        chunks, index = self._find(view, key, box)
        return chunks.has(view, index) and chunks.box(index) == box

    def size(self, view: ReadView, key: str, box: Box) -> int:
        return box.volume * self.source.shape(view).kind.bytes

    def read(self, view: ReadView, key: str, box: Box, offset: int, length: int) -> Buffer:
        chunks, index = self._find(view, key, box)
        return chunks.read(view, index, offset, length)

    def compressed(self, view: ReadView, key: str, box: Box) -> bytes:
        """A whole chunk of labels."""
        chunks, index = self._find(view, key, box)
        return chunks.segmentation(view, index)

    def ready(self, view: ReadView, key: str, box: Box, _offset: int, _length: int) -> bool:
        chunks, index = self._find(view, key, box)
        return chunks.ready(view, index)


def precomputed_folder(source: Source) -> Directory:
    """``precomputed/``."""
    p = PrecomputedFiles(source)

    def read_info(view: ReadView, offset: int, length: int) -> Buffer:
        return p.info(view)[offset : offset + length]

    file = Made(p.compressed) if source.labels else File(p.size, p.read, ready=p.ready)
    chunk = Each(parse_chunk, p.names, p.has, file)
    scale = Each(parse_key, p.keys, lambda view, key: key in p.keys(view), Directory(each=(chunk,)))
    entries: dict[str, File | Made | Directory] = {"info": File(lambda view: len(p.info(view)), read_info)}
    if source.meshes is not None:
        entries[MESH] = source.meshes
    return Directory(entries, each=(scale,), shown=p.shown)
