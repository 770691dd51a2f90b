"""The files of an image volume in the mount: blocks, slices, and the volume as one npy or raw file.

Decides names, sizes and which bytes stand where; reading and writing ranges of voxels is
:mod:`~dvidfs.types.imageblk.bricks`. Every size is exact and known from the shape, every window costs that window. Files cover
the version's extents. Invariant: the bytes of ``volume.raw`` are those that ``raw/0_1_2`` of the extents answers.
Source: mount design, section 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

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
from dvidfs.types.imageblk import bricks, extents, pictures
from dvidfs.types.imageblk.volume import Volume, as_bytes, put_blocks

MAX_FILE = 1 << 62
MAX_NAMES = 1_000_000
"""A directory of more slices can be named into, but is not listed."""
_BLOCK = re.compile(r"(-?[0-9]{1,10})_(-?[0-9]{1,10})_(-?[0-9]{1,10})")
_SLICE = re.compile(r"(-?[0-9]{5,10})\.png")


def _extents(view: ReadView) -> Box:
    box = extents.covered(view)
    if box is None:
        raise NotFound(f'nothing has been written to "{view.instance.name}" at this version')
    return box


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


def _raw_header(_view: ReadView, _box: Box) -> bytes:
    return b""


def _npy_header(view: ReadView, box: Box) -> bytes:
    kind = Volume.of(view).kind
    return npy_header(kind.dtype, (*box.shape, *kind.channels))


Header = Callable[[ReadView, Box], bytes]


def volume_file(header: Header) -> File:
    """The extents as one file: what ``header`` gives, then the voxels in C order (z, y, x)."""

    def size(view: ReadView) -> int:
        box = _extents(view)
        return len(header(view, box)) + box.volume * Volume.of(view).kind.bytes

    def read(view: ReadView, offset: int, length: int) -> Buffer:
        box = _extents(view)
        head = header(view, box)
        end = min(offset + length, len(head) + box.volume * Volume.of(view).kind.bytes)
        if offset >= end:
            return b""
        start = max(offset - len(head), 0)
        voxels = bricks.read_range(view, box, start, end - len(head)) if end > len(head) else b""
        return head[offset:end] + bytes(voxels) if offset < len(head) else voxels

    def write(view: WriteView, offset: int, data: Buffer) -> None:
        box = _extents(view)
        head = header(view, box)
        if offset + len(data) > len(head) + box.volume * Volume.of(view).kind.bytes:
            raise BadRequest(f"the file covers {box}: its size cannot change; write beyond it through raw")
        in_head = max(0, min(len(head) - offset, len(data)))
        if data[:in_head] != head[offset : offset + in_head]:
            raise BadRequest("the header of a volume file cannot change: write voxels only")
        start = offset + in_head - len(head)
        if in_head < len(data):
            bricks.write_range(view, box, start, memoryview(data)[in_head:])
            journal.record(view, "mutate", Offset=box.offset, Size=box.size, Bytes=[start, len(data) - in_head])

    return File(size, read, write, shown=has_volume)


def has_volume(view: ReadView) -> bool:
    """Whether there are extents, and a file can be so long."""
    box = extents.covered(view)
    return box is not None and box.volume * Volume.of(view).kind.bytes < MAX_FILE


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

    def span_of(view: ReadView) -> range:
        box = extents.covered(view)
        return range(box.offset[across], box.stop[across]) if box is not None else range(0)

    def names(view: ReadView) -> Iterator[str]:
        numbers = span_of(view)
        return map(slice_name, numbers if len(numbers) <= MAX_NAMES else ())

    def has(view: ReadView, number: int) -> bool:
        return number in span_of(view) and _png(view, plane).fits

    def size(view: ReadView, _number: int) -> int:
        return _png(view, plane).size

    def read(view: ReadView, number: int, offset: int, length: int) -> Buffer:
        png, whole = _png(view, plane), _extents(view)
        offsets, sizes = list(whole.offset), list(whole.size)
        offsets[across], sizes[across] = number, 1
        box = Box((offsets[0], offsets[1], offsets[2]), (sizes[0], sizes[1], sizes[2]))
        volume = Volume.of(view)

        def make(first: int, last: int) -> memoryview:
            rows = lambda a, b: as_picture(pictures.slice_rows(volume, plane, box, a, b))  # noqa: E731
            return memoryview(png.read(first, last - first, rows))

        if png.size > bricks.BRICK_BYTES:
            return make(offset, offset + length)
        file = bricks.cache_of(view.txn.store).get((view.stamp(), plane.name, number), lambda: make(0, png.size))
        return file[offset : offset + length]

    return Directory(each=(Each(parse_slice, names, has, File(size, read)),), shown=lambda view: _fits(view, plane))


def _png(view: ReadView, plane: Plane) -> StoredPng:
    box, kind = _extents(view), Volume.of(view).kind
    width, height = (box.size[axis] for axis in plane.axes)
    channels, sample = kind.picture
    return StoredPng(width, height, channels, sample)


def _fits(view: ReadView, plane: Plane) -> bool:
    return extents.covered(view) is not None and _png(view, plane).fits


BLOCKS = Each(parse_block, block_names, has_block, BLOCK_FILE)
TREE = Directory(
    {
        "blocks": Directory(each=(BLOCKS,)),
        "slices": Directory({name: slices_of(plane) for name, plane in SLICES.items()}, shown=has_volume),
        "volume.npy": volume_file(_npy_header),
        "volume.raw": volume_file(_raw_header),
    },
    each=(Each(parse_block, block_names, has_block, BLOCK_FILE, listed=False),),
)
"""What the mount shows of an image instance."""
