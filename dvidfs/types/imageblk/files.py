"""The files of an image volume in the mount: blocks, slices, and the volume as one npy or raw file.

Decides names, sizes and which bytes stand where; reading and writing ranges of voxels is
:mod:`~dvidfs.types.imageblk.bricks`. Every size is exact and known from the shape, every window costs that window. Files cover
the version's extents. Invariant: the bytes of ``volume.raw`` are those that ``raw/0_1_2`` of the extents answers.
Source: mount design, section 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property

from numpy.typing import NDArray

from dvidfs.engine import journal, keys
from dvidfs.engine.keys import Family
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, Conflict, NotFound
from dvidfs.types.base import Directory, Each, File
from dvidfs.types.formats.npy import npy_header
from dvidfs.types.formats.png import StoredPng
from dvidfs.types.formats.rasters import as_picture
from dvidfs.types.geometry import COORD_MAX, COORD_MIN, SLICES, Box, Plane, Point, join
from dvidfs.types.imageblk import extents, pictures
from dvidfs.types.imageblk.bricks import BRICK_BYTES, Bricks, cache_of, is_ready, read_range, write_range
from dvidfs.types.imageblk.kinds import VoxelKind
from dvidfs.types.imageblk.volume import Volume, as_bytes, put_blocks

MAX_FILE = 1 << 62
MAX_NAMES = 1_000_000
"""A directory of more slices can be named into, but is not listed."""
_BLOCK = re.compile(r"(-?[0-9]{1,10})_(-?[0-9]{1,10})_(-?[0-9]{1,10})")
_SLICE = re.compile(r"(-?[0-9]{5,10})\.png")


@dataclass(frozen=True)
class Shape:
    """What the files of one version are made from; found once, since it stands as long as the view's stamp."""

    box: Box | None
    block: Point
    kind: VoxelKind

    @cached_property
    def header(self) -> bytes:
        """The header of ``volume.npy``."""
        return npy_header(self.kind.dtype, (*self.extents.shape, *self.kind.channels))

    @cached_property
    def extents(self) -> Box:
        if self.box is None:
            raise NotFound("nothing has been written to this volume at this version: it has no extents")
        return self.box

    @cached_property
    def bricks(self) -> Bricks:
        return Bricks(self.extents, self.block, self.kind.bytes)

    @cached_property
    def pngs(self) -> dict[str, StoredPng]:
        """The form of a slice along each plane."""
        channels, sample = self.kind.picture
        sizes = {name: [self.extents.size[axis] for axis in plane.axes] for name, plane in SLICES.items()}
        return {name: StoredPng(width, height, channels, sample) for name, (width, height) in sizes.items()}


def shape_of(view: ReadView) -> Shape:
    """The shape of the volume at this version."""

    def look() -> Shape:
        volume = Volume.of(view)
        return Shape(extents.covered(view), volume.block, volume.kind)

    if isinstance(view, WriteView):  # what it sees may never be committed
        return look()
    return cache_of(view.txn.store).shape(view.stamp(), look)


def has_volume(view: ReadView) -> bool:
    """Whether there are extents, and a file can be so long."""
    shape = shape_of(view)
    return shape.box is not None and shape.bricks.size < MAX_FILE


# ---------------------------------------------------------------- blocks


def block_name(coord: Point) -> str:
    return join(coord)


def parse_block(name: str) -> Point | None:
    """The block coordinate (x, y, z) that a name stands for, or None."""
    match = _BLOCK.fullmatch(name)
    if match is None:
        return None
    x, y, z = map(int, match.groups())
    is_name = block_name((x, y, z)) == name and all(COORD_MIN <= n <= COORD_MAX for n in (x, y, z))
    return (x, y, z) if is_name else None


def block_names(view: ReadView) -> Iterator[str]:
    """Names of the stored blocks, z slowest."""
    for key in view.names(Family.BLOCK):
        scale, x, y, z = keys.decode_block(key)
        if not scale:
            yield block_name((x, y, z))


def has_block(view: ReadView, coord: Point) -> bool:
    try:
        return view.find(Family.BLOCK, keys.encode_block(0, *coord)) is not None
    except Conflict:
        return True  # it is there, and reading it says what is the matter


def block_mtime(view: ReadView, coord: Point) -> int:
    try:
        entry = view.find(Family.BLOCK, keys.encode_block(0, *coord))
    except Conflict:
        entry = None
    return entry.mtime if entry is not None else view.modified()


def block_size(view: ReadView, _coord: Point) -> int:
    return Volume.of(view).block_bytes


def read_block(view: ReadView, coord: Point, offset: int, length: int) -> Buffer:
    """A window of the voxels of a block."""
    volume = Volume.of(view)
    payload = volume.payload(coord)
    if payload is None:
        raise NotFound(f"block {block_name(coord)} is not stored")
    return bytes(as_bytes(volume.decode(payload))[offset : offset + length])


def write_block(view: WriteView, coord: Point, offset: int, data: Buffer) -> None:
    """Changes a window of the voxels of a block."""
    volume = Volume.of(view)
    if offset + len(data) > volume.block_bytes:
        raise BadRequest(f"block {block_name(coord)} has {volume.block_bytes} bytes: its size cannot change")
    voxels = volume.read(Box(_first(coord, volume.block), volume.block))
    as_bytes(voxels)[offset : offset + len(data)] = data
    put_blocks(view, [(coord, payload) for payload in volume.encode(voxels[None])])
    journal.record(view, "mutate", Block=coord, Span=1)


def _first(coord: Point, block: Point) -> Point:
    return coord[0] * block[0], coord[1] * block[1], coord[2] * block[2]


BLOCK_FILE = File(block_size, read_block, write_block, block_mtime)


# ---------------------------------------------------------------- the volume


def volume_file(header: Callable[[Shape], bytes]) -> File:
    """The extents as one file: what ``header`` gives, then the voxels in C order (z, y, x)."""

    def size(view: ReadView) -> int:
        shape = shape_of(view)
        return len(header(shape)) + shape.bricks.size

    def read(view: ReadView, offset: int, length: int) -> Buffer:
        shape = shape_of(view)
        head = header(shape)
        end = min(offset + length, len(head) + shape.bricks.size)
        start = max(offset - len(head), 0)
        voxels = read_range(view, shape.bricks, start, end - len(head)) if end > len(head) + start else b""
        return head[offset:end] + bytes(voxels) if offset < len(head) else voxels

    def ready(view: ReadView, offset: int, length: int) -> bool:
        shape = shape_of(view)
        start = offset - len(header(shape))
        return is_ready(view, shape.bricks, max(start, 0), min(start + length, shape.bricks.size))

    def write(view: WriteView, offset: int, data: Buffer) -> None:
        shape = shape_of(view)
        head = header(shape)
        if offset + len(data) > len(head) + shape.bricks.size:
            raise BadRequest(f"the file covers {shape.box}: its size cannot change; write beyond it through raw")
        in_head = max(0, min(len(head) - offset, len(data)))
        if data[:in_head] != head[offset : offset + in_head]:
            raise BadRequest("the header of a volume file cannot change: write voxels only")
        start = offset + in_head - len(head)
        if in_head < len(data):
            write_range(view, shape.bricks, start, memoryview(data)[in_head:])
            journal.record(view, "mutate", Bytes=[start, len(data) - in_head], **_where(shape.extents))

    return File(size, read, write, shown=has_volume, ready=ready)


def _where(box: Box) -> dict[str, Point]:
    return {"Offset": box.offset, "Size": box.size}


# ---------------------------------------------------------------- slices


def slice_name(number: int) -> str:
    return f"{number:06d}.png"


def parse_slice(name: str) -> int | None:
    """The voxel coordinate across the plane that a name stands for, or None."""
    match = _SLICE.fullmatch(name)
    return int(match[1]) if match and slice_name(int(match[1])) == name else None


def slices_of(plane: Plane) -> Directory:
    """The slices of the extents along a plane, one PNG for each voxel across it."""
    (across,) = {0, 1, 2} - set(plane.axes)

    def numbers(view: ReadView) -> range:
        box = shape_of(view).box
        return range(box.offset[across], box.stop[across]) if box is not None else range(0)

    def names(view: ReadView) -> Iterator[str]:
        found = numbers(view)
        return map(slice_name, found if len(found) <= MAX_NAMES else ())

    def has(view: ReadView, number: int) -> bool:
        return number in numbers(view)

    def size(view: ReadView, _number: int) -> int:
        return shape_of(view).pngs[plane.name].size

    def key(view: ReadView, number: int) -> Hashable:
        return view.stamp(), plane.name, number

    def read(view: ReadView, number: int, offset: int, length: int) -> Buffer:
        png, volume = shape_of(view).pngs[plane.name], Volume.of(view)
        box = _slice_box(shape_of(view).extents, across, number)

        def make(first: int, count: int) -> memoryview:
            def rows(start: int, stop: int) -> NDArray:
                return as_picture(pictures.slice_rows(volume, plane, box, start, stop))

            return memoryview(png.read(first, count, rows))

        if png.size > BRICK_BYTES:
            return make(offset, length)
        return cache_of(view.txn.store).get(key(view, number), lambda: make(0, png.size))[offset : offset + length]

    def ready(view: ReadView, number: int, _offset: int, _length: int) -> bool:
        return cache_of(view.txn.store).has(key(view, number))

    def shown(view: ReadView) -> bool:
        return has_volume(view) and shape_of(view).pngs[plane.name].fits

    return Directory(each=(Each(parse_slice, names, has, File(size, read, ready=ready)),), shown=shown)


def _slice_box(box: Box, across: int, number: int) -> Box:
    offset, size = list(box.offset), list(box.size)
    offset[across], size[across] = number, 1
    return Box((offset[0], offset[1], offset[2]), (size[0], size[1], size[2]))


BLOCKS = Each(parse_block, block_names, has_block, BLOCK_FILE)
TREE = Directory(
    {
        "blocks": Directory(each=(BLOCKS,)),
        "slices": Directory({name: slices_of(plane) for name, plane in SLICES.items()}, shown=has_volume),
        "volume.npy": volume_file(lambda shape: shape.header),
        "volume.raw": volume_file(lambda _shape: b""),
    },
    each=(Each(parse_block, block_names, has_block, BLOCK_FILE, listed=False),),
)
"""What the mount shows of an image instance."""
