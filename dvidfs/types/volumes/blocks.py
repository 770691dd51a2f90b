"""The stored blocks of a volume, one file for each: ``blocks/<x>_<y>_<z>`` in block coordinates, its voxels in C order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, NotFound
from dvidfs.types.base import Each, File, Windows
from dvidfs.types.geometry import Box, Point, block_box, join
from dvidfs.types.volumes.names import parse_point
from dvidfs.types.volumes.source import Pick, Source, as_bytes

_ONE = (1, 1, 1)


@dataclass(frozen=True)
class Blocks:
    """The block files of a scale; the last part is the coordinate (x, y, z)."""

    source: Source
    pick: Pick

    def names(self, view: ReadView, *parts: Any) -> Iterator[str]:
        shape, _ = self.pick(view, *parts)
        return map(join, self.source.open(view, shape.scale).coords())

    def has(self, view: ReadView, *parts: Any) -> bool:
        shape, (coord,) = self.pick(view, *parts)
        return self.source.open(view, shape.scale).has(Box(coord, _ONE))

    def mtime(self, view: ReadView, *parts: Any) -> int:
        shape, (coord,) = self.pick(view, *parts)
        return self.source.open(view, shape.scale).mtime(coord)

    def size(self, view: ReadView, *parts: Any) -> int:
        shape, _ = self.pick(view, *parts)
        return Box((0, 0, 0), shape.block).volume * shape.kind.bytes

    def read(self, view: ReadView, *given: Any) -> Buffer:
        *parts, offset, length = given
        shape, (coord,) = self.pick(view, *parts)
        volume = self.source.open(view, shape.scale)
        if not volume.has(Box(coord, _ONE)):
            raise NotFound(f"block {join(coord)} is not stored")
        return as_bytes(volume.read(block_box(coord, shape.block)))[offset : offset + length]

    def write(self, view: WriteView, coord: Point, windows: Windows) -> None:
        """Changes windows of the voxels of a block of scale 0; one that covers all of it settles a conflict too."""
        shape = self.source.shape(view)
        size, box = self.size(view, coord), block_box(coord, shape.block)
        if any(offset + len(data) > size for offset, data in windows):
            raise BadRequest(f"block {join(coord)} has {size} bytes: its size cannot change")
        if any(len(data) == size for _, data in windows):
            voxels = np.empty(box.shape, shape.kind.item)
        else:
            voxels = np.array(self.source.open(view, 0).read(box))
        for offset, data in windows:
            as_bytes(voxels)[offset : offset + len(data)] = data
        self.source.change(view, [coord], voxels[None])
        self.source.record(view, Block=coord, Span=1)


def block_files(source: Source, pick: Pick, *, writable: bool, listed: bool = True) -> Each:
    """A file for each stored block."""
    blocks = Blocks(source, pick)
    file = File(
        blocks.size,
        blocks.read,
        blocks.write if writable else None,
        blocks.mtime,
        ready=lambda *_: False,
        writable=source.writable,
    )
    return Each(parse_point, blocks.names, blocks.has, file, listed=listed)
