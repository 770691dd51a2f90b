"""Whole volumes as files: a header, then the voxels in C order.

Decides which formats are shown, and what may be written in place; headers are :mod:`dvidfs.types.formats`, voxels
:mod:`~dvidfs.types.volumes.ranges`. Invariant: the voxels of ``volume.raw`` are those that ``raw/0_1_2`` of the extents answers.
Source: mount design, section 2.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest
from dvidfs.types.base import Directory, File, Windows
from dvidfs.types.formats.containers import CONTAINERS
from dvidfs.types.formats.frame import Container
from dvidfs.types.volumes.bricks import Bricks
from dvidfs.types.volumes.ranges import is_ready, read_range, write_ranges
from dvidfs.types.volumes.source import Pick, Shape, Source


def read_window(
    view: ReadView, source: Source, shape: Shape, head: bytes, bricks: Bricks, offset: int, length: int
) -> Buffer:
    """A window of ``head`` and the voxels behind it."""
    end = min(offset + length, len(head) + bricks.size)
    start = max(offset - len(head), 0)
    voxels = read_range(view, source, shape.scale, bricks, start, end - len(head)) if end > len(head) + start else b""
    return head[offset:end] + bytes(voxels) if offset < len(head) else voxels


def window_ready(
    view: ReadView, source: Source, shape: Shape, head: int, bricks: Bricks, offset: int, length: int
) -> bool:
    stop = min(offset + length - head, bricks.size)
    return stop <= 0 or is_ready(view, source, shape.scale, bricks, max(offset - head, 0), stop)


@dataclass(frozen=True)
class VolumeFile:
    """The extents in one format."""

    source: Source
    pick: Pick
    container: Container

    def size(self, view: ReadView, *parts: Any) -> int:
        shape = self._shape(view, parts)
        return len(shape.header(self.container)) + (shape.bricks.size if self.container.voxels else 0)

    def read(self, view: ReadView, *given: Any) -> Buffer:
        *parts, offset, length = given
        shape = self._shape(view, parts)
        head = shape.header(self.container)
        if not self.container.voxels:
            return head[offset : offset + length]
        return read_window(view, self.source, shape, head, shape.bricks, offset, length)

    def ready(self, view: ReadView, *given: Any) -> bool:
        *parts, offset, length = given
        shape = self._shape(view, parts)
        head = len(shape.header(self.container))
        return not self.container.voxels or window_ready(view, self.source, shape, head, shape.bricks, offset, length)

    def write(self, view: WriteView, windows: Windows) -> None:
        shape = self.source.shape(view)
        head = shape.header(self.container)
        parts = [part for offset, data in windows if (part := _behind(head, shape, offset, data))[1]]
        if not parts:
            return
        write_ranges(view, self.source, shape.bricks, parts)
        first, stop = min(start for start, _ in parts), max(start + len(data) for start, data in parts)
        box = shape.extents
        self.source.record(view, Bytes=[first, stop - first], Offset=box.offset, Size=box.size)

    def layout(self, view: ReadView, *parts: Any) -> Hashable:
        return self._shape(view, parts).box

    def shown(self, view: ReadView, *parts: Any) -> bool:
        return self._shape(view, parts).holds(self.container)

    def _shape(self, view: ReadView, parts: Any) -> Shape:
        return self.pick(view, *parts)[0]


def _behind(head: bytes, shape: Shape, offset: int, data: Buffer) -> tuple[int, Buffer]:
    """The part of a window that lies behind the header, counted from there; the header itself must stay as it is."""
    if offset + len(data) > len(head) + shape.bricks.size:
        raise BadRequest(f"the file covers {shape.box}: its size cannot change; write beyond it through raw")
    in_head = max(0, min(len(head) - offset, len(data)))
    if data[:in_head] != head[offset : offset + in_head]:
        raise BadRequest("the header of a volume file cannot change: write voxels only")
    return offset + in_head - len(head), memoryview(data)[in_head:]


def volume_files(source: Source, pick: Pick, *, writable: bool) -> dict[str, File | Directory]:
    """``volume.<suffix>`` in every format."""
    out: dict[str, File | Directory] = {}
    for container in CONTAINERS.values():
        file = VolumeFile(source, pick, container)
        write = file.write if writable and container.writable else None
        out[f"volume.{container.suffix}"] = File(
            file.size,
            file.read,
            write,
            shown=file.shown,
            ready=file.ready,
            writable=source.writable,
            layout=file.layout,
        )
    return out
