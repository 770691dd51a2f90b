"""Boxes, block grids and the coordinate texts of requests and settings.

Decides how a text becomes numbers ("64_64_64", "0_1_2", "8.0,8.0,8.0") and how voxels fall into blocks. What is done
with a box is for others. Invariant: points and sizes are (x, y, z) as on the wire, arrays are (z, y, x); the one place
where the order turns is :attr:`Box.shape` and :meth:`Box.window`.

Every malformed text raises :class:`~dvidfs.errors.BadRequest` with one line: what, where, what would be right.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from dvidfs.errors import BadRequest

Point = tuple[int, int, int]
"""Voxel or block coordinate or size, (x, y, z)."""

COORD_MIN, COORD_MAX = -(2**31), 2**31 - 1
"""Coordinates are signed 32-bit on the wire and in keys."""

MAX_REQUEST_BYTES = 3 << 30
"""No answer or body of voxels is larger than this (3 GiB, as in the original)."""

_INT = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Box:
    """A region of voxels (or blocks), half-open: ``offset`` to ``stop``, both (x, y, z). Sizes are positive."""

    offset: Point
    size: Point

    @property
    def stop(self) -> Point:
        """The corner just outside."""
        (x, y, z), (sx, sy, sz) = self.offset, self.size
        return x + sx, y + sy, z + sz

    @property
    def last(self) -> Point:
        """The corner just inside, as extents give it."""
        x, y, z = self.stop
        return x - 1, y - 1, z - 1

    @property
    def shape(self) -> Point:
        """Shape of an array that holds this box: (z, y, x)."""
        sx, sy, sz = self.size
        return sz, sy, sx

    @property
    def origin(self) -> Point:
        """The first voxel in the order of arrays: (z, y, x)."""
        x, y, z = self.offset
        return z, y, x

    @property
    def volume(self) -> int:
        """Number of voxels."""
        return math.prod(self.size)

    def __str__(self) -> str:
        return f"{join(self.size)} at {join(self.offset)}"

    def intersect(self, other: Box) -> Box | None:
        """What both boxes cover, or None."""
        start = _each(max, self.offset, other.offset)
        stop = _each(min, self.stop, other.stop)
        return span(start, stop) if all(a < b for a, b in zip(start, stop, strict=True)) else None

    def union(self, other: Box) -> Box:
        """The smallest box that covers both."""
        return span(_each(min, self.offset, other.offset), _each(max, self.stop, other.stop))

    def contains(self, other: Box) -> bool:
        return self.intersect(other) == other

    def from_here(self, at: Point) -> Point | None:
        """The first coordinate of the box that is ``at`` or comes after it, z slowest; None behind the last."""
        (x, y, z), (x0, y0, z0), (x1, y1, z1) = at, self.offset, self.stop
        if z >= z1:
            return None
        if z < z0:
            return self.offset
        if y < y0:
            return x0, y0, z
        if y < y1 and x < x1:
            return max(x, x0), y, z
        if y + 1 < y1:
            return x0, y + 1, z
        return (x0, y0, z + 1) if z + 1 < z1 else None

    def window(self, part: Box) -> tuple[slice, slice, slice]:
        """Where ``part`` (which lies inside) is found in an array of this box: slices in (z, y, x)."""
        x, y, z = (p - o for p, o in zip(part.offset, self.offset, strict=True))
        sx, sy, sz = part.size
        return slice(z, z + sz), slice(y, y + sy), slice(x, x + sx)


def span(start: Point, stop: Point) -> Box:
    """The half-open box between two corners; ``stop`` is larger on every axis."""
    return Box(start, (stop[0] - start[0], stop[1] - start[1], stop[2] - start[2]))


def _each(choose: Callable[[int, int], int], a: Point, b: Point) -> Point:
    return choose(a[0], b[0]), choose(a[1], b[1]), choose(a[2], b[2])


# ---------------------------------------------------------------- blocks


def block_of(point: Point, block: Point) -> Point:
    """Block coordinate of a voxel: floor division, so that voxel -1 lies in block -1."""
    return point[0] // block[0], point[1] // block[1], point[2] // block[2]


def block_box(coord: Point, block: Point) -> Box:
    """The voxels of one block."""
    return Box((coord[0] * block[0], coord[1] * block[1], coord[2] * block[2]), block)


def covering_blocks(box: Box, block: Point) -> Box:
    """The blocks that hold any voxel of ``box``, as a box of block coordinates."""
    first, last = block_of(box.offset, block), block_of(box.last, block)
    return Box(first, (last[0] - first[0] + 1, last[1] - first[1] + 1, last[2] - first[2] + 1))


def is_aligned(box: Box, block: Point) -> bool:
    """Whether the box is made of whole blocks."""
    return all(o % b == 0 and s % b == 0 for o, s, b in zip(box.offset, box.size, block, strict=True))


def each_block(blocks: Box) -> Iterator[Point]:
    """The coordinates of a box of blocks, z slowest, x fastest (the order of keys and of the wire)."""
    (x0, y0, z0), (x1, y1, z1) = blocks.offset, blocks.stop
    return ((x, y, z) for z, y, x in itertools.product(range(z0, z1), range(y0, y1), range(x0, x1)))


# ---------------------------------------------------------------- planes


@dataclass(frozen=True, slots=True)
class Plane:
    """The orientation of a request: ``axes`` 0, 1, 2 for x, y, z; two of them for a slice, three for a volume."""

    name: str
    axes: tuple[int, ...]

    @property
    def is_volume(self) -> bool:
        return len(self.axes) == 3

    def box(self, size: tuple[int, ...], offset: Point) -> Box:
        """The voxels of ``size`` (one number per axis of the plane, checked) at ``offset``."""
        full = [1, 1, 1]
        for axis, n in zip(self.axes, size, strict=True):
            full[axis] = n
        return checked_box((full[0], full[1], full[2]), offset)


XY, XZ, YZ = Plane("xy", (0, 1)), Plane("xz", (0, 2)), Plane("yz", (1, 2))
VOLUME = Plane("vol", (0, 1, 2))
SLICES = {plane.name: plane for plane in (XY, XZ, YZ)}
_PLANES = SLICES | {"0_1": XY, "0_2": XZ, "1_2": YZ, "vol": VOLUME, "0_1_2": VOLUME}


def parse_plane(text: str) -> Plane:
    """``xy``, ``0_1``, ``0,1`` and so on, ``vol``, ``0_1_2``; case does not matter."""
    plane = _PLANES.get(text.lower().replace(",", "_"))
    if plane is None:
        raise BadRequest(f'unknown shape "{text}": want xy, xz, yz, 0_1, 0_2, 1_2, vol or 0_1_2')
    return plane


# ---------------------------------------------------------------- texts


def join(numbers: tuple[int, ...]) -> str:
    """``(1, -2, 3)`` as the wire writes it: ``1_-2_3``."""
    return "_".join(map(str, numbers))


def parse_int(text: str, what: str, low: int = COORD_MIN, high: int = COORD_MAX) -> int:
    """One decimal number within [low, high], of the digits 0 to 9 and a sign only."""
    if not _INT.fullmatch(text):
        raise BadRequest(f'{what} "{text}" is not a whole number')
    number = int(text)
    if not low <= number <= high:
        raise BadRequest(f"{what} {text} is out of range: want {low} to {high}")
    return number


def parse_ints(text: str, what: str, count: int, separator: str = "_") -> tuple[int, ...]:
    """``count`` whole numbers, blanks around each allowed; ``what`` names the text in errors ("offset")."""
    words = text.split(separator)
    if len(words) != count:
        example = separator.join(["64", "64", "64"][:count])
        raise BadRequest(f'{what} "{text}" cannot be converted to a {count}d point: want {count} numbers, as {example}')
    return tuple(parse_int(word.strip(" "), f'{what} "{text}":') for word in words)


def parse_point(text: str, what: str, separator: str = "_") -> Point:
    """Three whole numbers, (x, y, z), of either sign."""
    x, y, z = parse_ints(text, what, 3, separator)
    return x, y, z


def parse_size(text: str, what: str = "size", separator: str = "_") -> Point:
    """Three positive whole numbers, (x, y, z)."""
    size = parse_point(text, what, separator)
    if min(size) < 1:
        raise BadRequest(f'{what} "{text}" has a side below 1: every side must be positive')
    return size


def parse_floats(text: str, what: str, count: int = 3, separator: str = ",") -> tuple[float, ...]:
    """``count`` finite decimal numbers; blanks around each are allowed."""
    words = [word.strip(" ") for word in text.split(separator)]
    if len(words) != count or not all(map(_FLOAT.fullmatch, words)):
        example = separator.join(["8.0", "8.0", "8.0"][:count])
        raise BadRequest(f'{what} "{text}": want {count} numbers, as {example}')
    numbers = tuple(map(float, words))
    if not all(map(math.isfinite, numbers)):
        raise BadRequest(f'{what} "{text}" is too large')
    return numbers


@lru_cache(maxsize=1024)  # what decides how a request is answered asks once, what answers it once more
def parse_box(plane: Plane, size: str, offset: str) -> Box:
    """The region that ``/<dims>/<size>/<offset>`` asks for; size has one number per axis of the plane."""
    where = parse_point(offset, "offset")
    return plane.box(parse_ints(size, "size", len(plane.axes)), where)


def checked_box(size: Point, offset: Point) -> Box:
    """A box whose sides are positive and whose corners are all 32-bit coordinates, else BadRequest."""
    if min(size) < 1:
        raise BadRequest(
            f"Illegal geometry requested: size {join(size)} at {join(offset)}: every side must be positive"
        )
    box = Box(offset, size)
    if max(box.last) > COORD_MAX:
        raise BadRequest(f"Illegal geometry requested: size {box}: it ends beyond {COORD_MAX}, the last coordinate")
    return box


def check_volume(box: Box, bytes_per_voxel: int) -> int:
    """Bytes of the box's voxels; more than :data:`MAX_REQUEST_BYTES` is refused."""
    n = box.volume * bytes_per_voxel
    if n > MAX_REQUEST_BYTES:
        raise BadRequest(f"Requested payload ({n} bytes) exceeds this DVID server's set limit ({MAX_REQUEST_BYTES})")
    return n
