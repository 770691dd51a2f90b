"""Pictures of an image volume: slices along two axes, slices with square pixels, oblique slices.

Decides which voxels a picture shows; its file format is :mod:`dvidfs.types.formats.rasters`. A picture is an array (y, x):
the second axis of its plane downward, the first to the right. Invariant: a picture that must be made as a
whole has at most :data:`WHOLE_PIXELS`; slices as png are made in strips and may be larger.
Source: reference note "imageblk" 5.2, 5.3 and 5.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dvidfs.errors import BadRequest
from dvidfs.kernels import oblique as kernel
from dvidfs.kernels.oblique import Patch
from dvidfs.types.base import Content
from dvidfs.types.formats.png import png_strips
from dvidfs.types.formats.rasters import PictureFormat, as_picture, encode_picture
from dvidfs.types.geometry import COORD_MAX, COORD_MIN, Box, Plane, Point
from dvidfs.types.imageblk.kinds import VoxelKind
from dvidfs.types.imageblk.volume import PIECE_BYTES, Volume

WHOLE_PIXELS = 1 << 28
_TILE = 256
"""Oblique slices are sampled in squares of at most so many pixels,"""
_TILE_BYTES = 32 << 20
"""and of so many that the blocks which they touch are no larger together."""


class Window(Protocol):
    """Voxels that a slice can be cut of: a volume, or one seen through a mask."""

    @property
    def kind(self) -> VoxelKind: ...
    @property
    def block(self) -> Point: ...
    def read(self, box: Box) -> NDArray: ...


def slice_rows(volume: Window, plane: Plane, box: Box, first: int, stop: int) -> NDArray:
    """Rows [first, stop) of the slice that ``box`` is (one voxel thick across ``plane``): (y, x), or (y, x, channels)."""
    across, down = plane.axes
    offset, size = list(box.offset), list(box.size)
    offset[down], size[down] = offset[down] + first, stop - first
    part = Box((offset[0], offset[1], offset[2]), (size[0], size[1], size[2]))
    return volume.kind.split(volume.read(part).reshape(stop - first, box.size[across]))


def slice_content(volume: Window, plane: Plane, box: Box, form: PictureFormat) -> Content:
    """The picture file of a slice."""
    width, height = (box.size[axis] for axis in plane.axes)
    if form.name == "png" and box.volume * volume.kind.bytes > PIECE_BYTES:
        return Content(png_strips(width, height, _strips(volume, plane, box)), form.content_type)
    check_whole(width, height)
    return picture_content(slice_rows(volume, plane, box, 0, height), form)


def picture_content(voxels: NDArray, form: PictureFormat) -> Content:
    data = encode_picture(voxels, form)
    return Content(data, form.content_type, len(data))


def _strips(volume: Window, plane: Plane, box: Box) -> Iterator[NDArray]:
    width, height = (box.size[axis] for axis in plane.axes)
    depth = volume.block[plane.axes[1]]
    rows = max(1, PIECE_BYTES // (width * volume.kind.bytes))
    rows = rows // depth * depth or rows
    for first in range(0, height, rows):
        yield as_picture(slice_rows(volume, plane, box, first, min(first + rows, height)))


def check_whole(width: int, height: int) -> None:
    """Refuses a picture that cannot be made in strips and is too large to be held."""
    if width < 1 or height < 1:
        raise BadRequest(f"Illegal geometry requested: a picture of {width} x {height} pixels")
    if width * height > WHOLE_PIXELS:
        raise BadRequest(f"a picture of {width} x {height} pixels is too large: ask for png, or for smaller parts")


# ---------------------------------------------------------------- square pixels


def square_size(sizes: tuple[float, float], width: int, height: int) -> tuple[int, int]:
    """Voxels to be read for a picture of ``width`` x ``height`` square pixels; single precision, as the original counts."""
    rx, ry = map(np.float32, sizes)
    half = np.float32(0.5)
    if rx < ry:
        return width, int(np.float32(height) * rx / ry + half)
    if rx > ry:
        return int(np.float32(width) * ry / rx + half), height
    return width, height


def rescale(picture: NDArray, width: int, height: int) -> NDArray:
    """A picture of voxels, (y, x) or (y, x, channels), averaged to another size; means of whole numbers are cut to whole ones."""
    if picture.shape[:2] == (height, width):
        return picture
    n = picture.shape[0] * picture.shape[1]
    if picture.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            return (_summed(picture.astype(np.float64), width, height) / n).astype(picture.dtype)
    if picture.dtype.itemsize < 8:
        return (_summed(picture.astype(np.int64), width, height) // n).astype(picture.dtype)
    half = np.uint64(32)  # halves of 64 bits are summed on their own: at most 2^28 times 2^32 each
    high, low = (_summed(part, width, height) for part in (picture >> half, picture & np.uint64(0xFFFFFFFF)))
    whole, rest = high // np.uint64(n), high % np.uint64(n)
    return (whole << half) + ((rest << half) + low) // np.uint64(n)


def _summed(picture: NDArray, width: int, height: int) -> NDArray:
    """Sums over the parts of a picture that pixels of another size cover, in units of one pixel's share."""
    return _spread(_spread(picture, height).swapaxes(0, 1), width).swapaxes(0, 1)


def _spread(rows: NDArray, wanted: int) -> NDArray:
    """Along the first axis: each of n values is repeated ``wanted`` times, then runs of n are summed, giving ``wanted`` sums."""
    n = len(rows)
    starts = np.arange(wanted) * n
    cuts = np.union1d(np.arange(n) * wanted, starts)
    shares = np.diff(cuts, append=n * wanted).astype(rows.dtype).reshape(-1, *[1] * (rows.ndim - 1))
    return np.add.reduceat(rows[cuts // wanted] * shares, np.searchsorted(cuts, starts))


# ---------------------------------------------------------------- oblique slices


@dataclass(frozen=True)
class Oblique:
    """A rectangle anywhere in space: corners and steps as vectors (x, y, z) in voxels."""

    corner: NDArray[np.float64]
    right: NDArray[np.float64]
    down: NDArray[np.float64]
    width: int
    height: int


def oblique(corners: tuple[NDArray, NDArray, NDArray], spacing: float, voxel: list[float] | None) -> Oblique:
    """The rectangle with these corners (top left, top right, bottom left), in units of the voxel size, a pixel each ``spacing``."""
    if voxel is None:
        raise BadRequest("the voxel size of this volume is not known: POST resolution first")
    if not spacing > 0:
        raise BadRequest(f"a spacing of {spacing} cannot be: want a number above 0")
    top_left, top_right, bottom_left = corners
    steps = [math.floor(math.dist(end, top_left) / spacing) for end in (top_right, bottom_left)]
    check_whole(steps[0] + 1, steps[1] + 1)
    right, down = (
        (end - top_left) / n if n else np.zeros(3) for end, n in zip((top_right, bottom_left), steps, strict=True)
    )
    scale = np.array(voxel[:3])
    return Oblique(top_left / scale, right / scale, down / scale, steps[0] + 1, steps[1] + 1)


def sample(volume: Volume, area: Oblique) -> NDArray:
    """The picture of an oblique slice, (y, x) or (y, x, channels): trilinear between the eight voxels around each point.

    Whole numbers are rounded; blocks that are not stored are background.
    """
    corners = [area.corner + area.right * x + area.down * y for x in (0, area.width) for y in (0, area.height)]
    if np.abs(corners).max() > COORD_MAX - 1:
        raise BadRequest(f"the slice leaves the space of coordinates, {COORD_MIN} to {COORD_MAX}")
    kind = volume.kind
    out = np.empty((area.height, area.width, *kind.channels), kind.dtype)
    fill = np.frombuffer(bytes([volume.background]) * kind.dtype.itemsize, kind.dtype)
    for y in range(0, area.height, _TILE):
        for x in range(0, area.width, _TILE):
            rows, columns = range(y, min(y + _TILE, area.height)), range(x, min(x + _TILE, area.width))
            _sample_tile(volume, Patch(area.corner, area.right, area.down, rows, columns), out, fill)
    return out


def _sample_tile(volume: Volume, patch: Patch, out: NDArray, fill: NDArray) -> None:
    """Fills a part of the picture from the blocks that it touches; where these are too many, in smaller parts."""
    blocks = kernel.touched(patch, volume.block)
    is_point = len(patch.rows) == len(patch.columns) == 1
    if blocks is None or (len(blocks.numbers) * volume.block_bytes > _TILE_BYTES and not is_point):
        for rows in _halves(patch.rows):
            for columns in _halves(patch.columns):
                _sample_tile(volume, replace(patch, rows=rows, columns=columns), out, fill)
        return
    part = np.empty((len(patch.rows), len(patch.columns), *(volume.kind.channels or (1,))), out.dtype)
    kernel.sample(part, patch, blocks, volume.payloads(blocks.coords()), volume.stored_form, fill)
    rows, columns = patch.rows, patch.columns
    out[rows.start : rows.stop, columns.start : columns.stop] = part.reshape(*part.shape[:2], *volume.kind.channels)


def _halves(part: range) -> list[range]:
    middle = (part.start + part.stop) // 2
    return [r for r in (range(part.start, middle), range(middle, part.stop)) if r]
