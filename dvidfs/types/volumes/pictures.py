"""Files that show one layer of voxels: PNG (stored, so that any window is readable) and TIFF.

Decides the picture of a box that is one voxel thick: the second axis of its plane downward, the first to the right. What a
pixel is, is :mod:`dvidfs.types.formats.rasters`. Small pictures are made once and kept.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.types.base import Directory, Each, File
from dvidfs.types.formats.png import StoredPng
from dvidfs.types.formats.rasters import as_picture
from dvidfs.types.formats.tiff import slice_header
from dvidfs.types.geometry import SLICES, Box, Plane, span
from dvidfs.types.volumes import bricks
from dvidfs.types.volumes.bricks import cache_of
from dvidfs.types.volumes.names import MAX_NAMES, parse_slice, slice_name
from dvidfs.types.volumes.source import Pick, Shape, Source, as_bytes

PICTURES = ("png", "tif")
TIFF_BYTES = (1 << 32) - (1 << 20)
"""Pixels that a TIFF with 32-bit offsets holds beside its header."""


@dataclass(frozen=True)
class Layer:
    """A box that is one voxel thick, and its plane."""

    source: Source
    shape: Shape
    plane: Plane
    box: Box

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in voxels."""
        right, down = self.plane.axes
        return self.box.size[right], self.box.size[down]

    def voxels(self, view: ReadView, first: int, stop: int) -> NDArray:
        """Rows [first, stop): (y, x), or (y, x, channels)."""
        right, down = self.plane.axes
        low, high = list(self.box.offset), list(self.box.stop)
        low[down], high[down] = low[down] + first, low[down] + stop
        part = span((low[0], low[1], low[2]), (high[0], high[1], high[2]))
        voxels = self.source.open(view, self.shape.scale).read(part)
        return self.shape.kind.split(voxels.reshape(stop - first, self.box.size[right]))

    # -- the file --------------------------------------------------------------------------------------------

    def holds(self, suffix: str) -> bool:
        return self._png.fits if suffix == "png" else self.size[0] * self.size[1] * self.shape.kind.bytes < TIFF_BYTES

    def file_size(self, suffix: str) -> int:
        width, height = self.size
        return self._png.size if suffix == "png" else len(self._head()) + width * height * self.shape.kind.bytes

    def read(self, view: ReadView, suffix: str, offset: int, length: int) -> Buffer:
        """A window of the file; the whole of a small one is made at once and kept."""
        size = self.file_size(suffix)
        if size > bricks.BRICK_BYTES:
            return self._make(view, suffix, offset, length)
        made = cache_of(view.txn.store, "pictures").get(
            self._key(view, suffix), lambda: memoryview(self._make(view, suffix, 0, size))
        )
        return made[offset : offset + length]

    def ready(self, view: ReadView, suffix: str) -> bool:
        return cache_of(view.txn.store, "pictures").has(self._key(view, suffix))

    def _key(self, view: ReadView, suffix: str) -> Hashable:
        return self.source.key(view, self.shape.scale), self.plane.name, self.box, suffix

    @property
    def _png(self) -> StoredPng:
        channels, sample = self.shape.kind.picture
        return StoredPng(*self.size, channels, sample)

    def _head(self) -> bytes:
        right, down = self.plane.axes
        x, y, z = self.shape.frame_of(self.box).nanometers
        sizes = (x, y, z)
        return slice_header(*self.size, self.shape.kind.dtype, self.shape.kind.channels, (sizes[right], sizes[down]))

    def _make(self, view: ReadView, suffix: str, offset: int, length: int) -> Buffer:
        if suffix == "png":
            return self._png.read(offset, length, lambda first, stop: as_picture(self.voxels(view, first, stop)))
        head, (width, height) = self._head(), self.size
        row = width * self.shape.kind.bytes
        start, stop = max(offset - len(head), 0), min(offset + length - len(head), row * height)
        if stop <= start:
            return head[offset : offset + length]
        first = start // row
        pixels = as_bytes(self.voxels(view, first, -(-stop // row)))[start - first * row : stop - first * row]
        return b"".join((head[offset:], pixels)) if offset < len(head) else pixels


# ---------------------------------------------------------------- slices


@dataclass(frozen=True)
class Slices:
    """The layers of the extents along a plane, one for each voxel across it."""

    source: Source
    pick: Pick
    plane: Plane

    @property
    def across(self) -> int:
        (axis,) = {0, 1, 2} - set(self.plane.axes)
        return axis

    def numbers(self, view: ReadView, *parts: Any) -> range:
        shape, _ = self.pick(view, *parts)
        box = shape.box
        return range(box.offset[self.across], box.stop[self.across]) if box is not None else range(0)

    def names(self, view: ReadView, *parts: Any) -> Iterator[str]:
        """One format is listed, so that a folder opens as one stack: the one whose samples are the voxels."""
        found, (shape, _) = self.numbers(view, *parts), self.pick(view, *parts)
        if 0 < len(found) <= MAX_NAMES:
            usual = "png" if shape.kind.picture[1] == shape.kind.dtype else "tif"
            suffixes = self._suffixes(view, *parts)
            suffix = usual if usual in suffixes else next(iter(suffixes), None)
            yield from (f"{slice_name(n)}.{suffix}" for n in found if suffix)

    def has(self, view: ReadView, *parts: Any) -> bool:
        *above, (number, suffix) = parts
        return number in self.numbers(view, *above) and suffix in self._suffixes(view, *above)

    def _suffixes(self, view: ReadView, *parts: Any) -> list[str]:
        shape, _ = self.pick(view, *parts)
        layer = self._of(shape, shape.extents.offset[self.across])
        return [suffix for suffix in PICTURES if layer.holds(suffix)]

    def _of(self, shape: Shape, number: int) -> Layer:
        offset, size = list(shape.extents.offset), list(shape.extents.size)
        offset[self.across], size[self.across] = number, 1
        box = Box((offset[0], offset[1], offset[2]), (size[0], size[1], size[2]))
        return Layer(self.source, shape, self.plane, box)

    def _layer(self, view: ReadView, parts: Any) -> tuple[Layer, str]:
        shape, ((number, suffix),) = self.pick(view, *parts)
        return self._of(shape, number), suffix

    def size(self, view: ReadView, *parts: Any) -> int:
        layer, suffix = self._layer(view, parts)
        return layer.file_size(suffix)

    def read(self, view: ReadView, *given: Any) -> Buffer:
        *parts, offset, length = given
        layer, suffix = self._layer(view, parts)
        return layer.read(view, suffix, offset, length)

    def ready(self, view: ReadView, *given: Any) -> bool:
        layer, suffix = self._layer(view, given[:-2])
        return layer.ready(view, suffix)


def parse_slice_file(name: str) -> tuple[int, str] | None:
    """The coordinate and format of ``NNNNNN.png`` or ``.tif``, or None."""
    stem, _, suffix = name.rpartition(".")
    number = parse_slice(stem)
    return (number, suffix) if number is not None and suffix in PICTURES else None


def slice_folders(source: Source, pick: Pick) -> Directory:
    """``slices/xy|xz|yz/``."""

    def shown(view: ReadView, *parts: Any) -> bool:
        return pick(view, *parts)[0].box is not None

    def folder(plane: Plane) -> Directory:
        slices = Slices(source, pick, plane)
        return Directory(
            each=(Each(parse_slice_file, slices.names, slices.has, File(slices.size, slices.read, ready=slices.ready)),)
        )

    return Directory({name: folder(plane) for name, plane in SLICES.items()}, shown=shown)
