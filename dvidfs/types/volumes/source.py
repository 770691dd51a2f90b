"""What a datatype tells of its voxels, so that files can be made of them; and what such files are made from.

A :class:`Source` is given once by a datatype. A :class:`Shape` is what it says of one version and scale, found once and kept as long as
the view's stamp stands. Invariant: no file knows its datatype; whatever it reads or changes goes through the source.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import NotFound
from dvidfs.types.base import Directory
from dvidfs.types.formats.frame import Container, Frame
from dvidfs.types.geometry import Box, Point
from dvidfs.types.volumes.bricks import Bricks, cache_of
from dvidfs.types.volumes.voxels import VoxelKind

MAX_FILE = 1 << 62
UNKNOWN_SIZE = (1.0, 1.0, 1.0)


class Volume(Protocol):
    """The voxels of an instance at one version and scale; coordinates are (x, y, z) of that scale, arrays (z, y, x)."""

    @property
    def kind(self) -> VoxelKind: ...
    @property
    def block(self) -> Point: ...
    def read(self, box: Box, fill: int = 0) -> NDArray:
        """The voxels of a box; what is not stored is ``fill``."""
        ...

    def has(self, blocks: Box) -> bool:
        """Whether any block of a box of blocks is stored."""
        ...

    def coords(self) -> Iterator[Point]:
        """Coordinates of all stored blocks, z slowest."""
        ...

    def mtime(self, coord: Point) -> int:
        """When a block was stored, in ns."""
        ...


@dataclass(frozen=True)
class Source:
    """How files reach the voxels of a datatype.

    ``open(view, scale)``: the volume. ``extents(view, scale)``: the box that files show, None before anything was written.
    ``scales(view)``: how many further scales there are. ``change(view, coords, blocks)``: store whole blocks of
    scale 0, coordinates (x, y, z) and voxels (n, z, y, x); ``record(view, **what)``: a line of the mutation log. ``writable(view)``: whether anything can be changed at all.
    ``name`` tells sources of the same instance from each other. ``labels``: voxels are uint64 numbers of things; ``meshes``: the
    folder of their surfaces, if it has them.
    """

    open: Callable[[ReadView, int], Volume]
    extents: Callable[[ReadView, int], Box | None]
    scales: Callable[[ReadView], int]
    change: Callable[[WriteView, Sequence[Point], NDArray], None]
    record: Callable[..., None]
    writable: Callable[[ReadView], bool] = lambda view: True
    name: str = ""
    labels: bool = False
    meshes: Directory | None = None

    def key(self, view: ReadView, scale: int) -> Hashable:
        """What a cache of these voxels is keyed by."""
        return view.stamp(), self.name, scale

    def shape(self, view: ReadView, scale: int = 0) -> Shape:
        """What the files of this version and scale are made from."""

        def look() -> Shape:
            volume = self.open(view, scale)
            return Shape(scale, self.extents(view, scale), volume.block, volume.kind, *_voxel_size(view, scale))

        if isinstance(view, WriteView):  # what it sees may never be committed
            return look()
        return cache_of(view.txn.store).shape(self.key(view, scale), look)

    def shapes(self, view: ReadView) -> list[Shape]:
        """Those of all scales, the finest first."""
        return [self.shape(view, scale) for scale in range(self.scales(view) + 1)]


def _voxel_size(view: ReadView, scale: int) -> tuple[tuple[float, float, float], tuple[str, str, str]]:
    settings: Any = view.instance.settings
    x, y, z = (settings["VoxelSize"] or UNKNOWN_SIZE)[:3]
    u, v, w = [*settings["VoxelUnits"], "nanometers", "nanometers", "nanometers"][:3]
    return (x * 2**scale, y * 2**scale, z * 2**scale), (u, v, w)


@dataclass(frozen=True)
class Shape:
    """What the files of one version and scale are made from."""

    scale: int
    box: Box | None
    block: Point
    kind: VoxelKind
    voxel_size: tuple[float, float, float]
    units: tuple[str, str, str]

    @property
    def extents(self) -> Box:
        if self.box is None:
            raise NotFound("nothing has been written to this volume at this version: it has no extents")
        return self.box

    @cached_property
    def frame(self) -> Frame:
        """The extents, as file formats describe them."""
        return self.frame_of(self.extents)

    @cached_property
    def bricks(self) -> Bricks:
        return Bricks(self.extents, self.block, self.kind.bytes)

    @cached_property
    def _headers(self) -> dict[str, bytes]:
        return {}

    def header(self, container: Container) -> bytes:
        """What stands before the voxels of the extents; made once."""
        found = self._headers.get(container.suffix)
        if found is None:
            found = self._headers[container.suffix] = container.header(self.frame)
        return found

    def holds(self, container: Container) -> bool:
        """Whether there are voxels, and the format can hold them."""
        return self.box is not None and self.frame.size < MAX_FILE and container.holds(self.frame)

    def frame_of(self, box: Box, companion: str = "") -> Frame:
        """Another box of the same volume, as file formats describe it."""
        frame = Frame(box, self.kind.dtype, self.kind.channels, self.voxel_size, self.units)
        return replace(frame, companion=companion) if companion else frame


Pick = Callable[..., tuple[Shape, tuple[Any, ...]]]
"""(view, *parts) -> the shape that these parts of a path mean, and the parts that are left."""


def at_root(source: Source) -> Pick:
    """For files that stand directly below the instance: scale 0."""
    return lambda view, *parts: (source.shape(view), parts)


def at_scale(source: Source) -> Pick:
    """For files below ``scales/<scale>/``."""
    return lambda view, *parts: (source.shape(view, parts[0]), parts[1:])


def as_bytes(voxels: NDArray) -> memoryview:
    """The bytes of a C-contiguous array, not copied."""
    return voxels.reshape(-1).view(np.uint8).data


def join_buffers(parts: Sequence[Buffer]) -> Buffer:
    """The same bytes as one buffer; not copied where there is one."""
    return parts[0] if len(parts) == 1 else b"".join(parts)
