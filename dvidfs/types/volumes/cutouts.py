"""Any box of a volume as a file: ``cutout/<sx>_<sy>_<sz>/<x>_<y>_<z>.<ext>``. Can be named, is not listed.

Every format of whole volumes; a box that is one voxel thick also as picture. What is not stored is 0, inside the extents and outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.types.base import Directory, Each, File
from dvidfs.types.formats.containers import CONTAINERS
from dvidfs.types.geometry import XY, XZ, YZ, Box, Plane, Point, join
from dvidfs.types.volumes.bricks import Bricks
from dvidfs.types.volumes.files import read_window, window_ready
from dvidfs.types.volumes.names import always, is_coordinate, nothing, parse_point, parse_size
from dvidfs.types.volumes.pictures import Layer
from dvidfs.types.volumes.source import MAX_FILE, Pick, Shape, Source

_PLANE_ACROSS = {2: XY, 1: XZ, 0: YZ}


def parse_file(name: str) -> tuple[Point, str] | None:
    """Where a cutout begins, and its format; None if the name is none."""
    stem, _, suffix = name.rpartition(".")
    offset = parse_point(stem)
    return (offset, suffix) if offset is not None and (suffix in CONTAINERS or suffix == "png") else None


@lru_cache(maxsize=256)
def _head(shape: Shape, box: Box, suffix: str) -> bytes:
    return CONTAINERS[suffix].header(shape.frame_of(box, f"{join(box.offset)}.raw"))


def _plane(box: Box) -> Plane | None:
    return next((_PLANE_ACROSS[axis] for axis in (2, 1, 0) if box.size[axis] == 1), None)


@dataclass(frozen=True)
class Cutouts:
    """The files below ``cutout/``; parts are the size, then (offset, format)."""

    source: Source
    pick: Pick

    def _find(self, view: ReadView, parts: Any) -> tuple[Shape, Box, str]:
        shape, (size, (offset, suffix)) = self.pick(view, *parts)
        return shape, Box(offset, size), suffix

    def _layer(self, shape: Shape, box: Box) -> Layer | None:
        plane = _plane(box)
        return None if plane is None else Layer(self.source, shape, plane, box)

    def has(self, view: ReadView, *parts: Any) -> bool:
        shape, box, suffix = self._find(view, parts)
        if not is_coordinate(*box.last):
            return False
        if suffix == "png":
            layer = self._layer(shape, box)
            return layer is not None and layer.holds(suffix)
        frame = shape.frame_of(box)
        return frame.size < MAX_FILE and CONTAINERS[suffix].holds(frame)

    def size(self, view: ReadView, *parts: Any) -> int:
        shape, box, suffix = self._find(view, parts)
        if suffix == "png":
            layer = self._layer(shape, box)
            return layer.file_size(suffix) if layer is not None else 0
        return len(_head(shape, box, suffix)) + (shape.frame_of(box).size if CONTAINERS[suffix].voxels else 0)

    def read(self, view: ReadView, *given: Any) -> Buffer:
        *parts, offset, length = given
        shape, box, suffix = self._find(view, parts)
        if suffix == "png":
            layer = self._layer(shape, box)
            return layer.read(view, suffix, offset, length) if layer is not None else b""
        head = _head(shape, box, suffix)
        if not CONTAINERS[suffix].voxels:
            return head[offset : offset + length]
        return read_window(view, self.source, shape, head, self._bricks(shape, box), offset, length)

    def ready(self, view: ReadView, *given: Any) -> bool:
        *parts, offset, length = given
        shape, box, suffix = self._find(view, parts)
        if suffix == "png":
            layer = self._layer(shape, box)
            return layer is None or layer.ready(view, suffix)
        if not CONTAINERS[suffix].voxels:
            return True
        head = len(_head(shape, box, suffix))
        return window_ready(view, self.source, shape, head, self._bricks(shape, box), offset, length)

    def _bricks(self, shape: Shape, box: Box) -> Bricks:
        return Bricks(box, shape.block, shape.kind.bytes)


def cutouts(source: Source, pick: Pick) -> Directory:
    """The folder ``cutout``."""
    cuts = Cutouts(source, pick)
    file = Each(parse_file, nothing, cuts.has, File(cuts.size, cuts.read, ready=cuts.ready), listed=False)
    sizes = Each(parse_size, nothing, always, Directory(each=(file,)), listed=False)
    return Directory(each=(sizes,), listed=False)
