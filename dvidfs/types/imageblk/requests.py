"""What can be asked of an image volume over HTTP, as plain functions over a view.

Decides the meaning of paths, options and bodies (reference note "imageblk" 5.2 to 5.6); how voxels are read and written
is :mod:`~dvidfs.types.imageblk.volume`. A writing request is taken apart and encoded before the write lane and only put
there. Invariant: what is refused wrote nothing; a long answer is streamed and never held as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import orjson

from dvidfs.engine import journal, repos, values
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, Locked
from dvidfs.kernels import blocks as kernel
from dvidfs.types import workers
from dvidfs.types.base import OCTETS, Content
from dvidfs.types.formats.blockstream import records
from dvidfs.types.formats.rasters import PictureFormat, parse_format
from dvidfs.types.geometry import (
    Box,
    Point,
    check_volume,
    checked_box,
    covering_blocks,
    is_aligned,
    join,
    parse_box,
    parse_floats,
    parse_int,
    parse_plane,
    parse_point,
    parse_size,
)
from dvidfs.types.imageblk import extents, pictures, settings
from dvidfs.types.imageblk.coarse import PYRAMID
from dvidfs.types.imageblk.masked import Edge, MaskedVolume, joined, select
from dvidfs.types.imageblk.pictures import Window
from dvidfs.types.imageblk.volume import PIECE_BYTES, Payload, Volume, as_bytes, check_writable, is_proxied, put_blocks
from dvidfs.types.pieces import Spool
from dvidfs.types.pyramids import marks, scales
from dvidfs.types.roi.mask import Mask

MAX_ROWS = 1 << 22
WHOLE_BYTES = 1 << 20
"""A longer volume is sent while the rest of it is put together."""
COMPRESSIONS = ("", "uncompressed", "jpeg")
SLOW = ("jpeg", "gzip")
"""Forms of which decoding a block takes so long that all cores share it."""


# ---------------------------------------------------------------- windows


def get_raw(
    view: ReadView, dims: str, size: str, offset: str, format: str | None, roi: str, attenuation: str, scale: int = 0
) -> Content:
    """A slice as a picture, or a volume as its voxels; what is not stored is 0."""
    return _window(view, dims, size, offset, format or "", roi, attenuation, scale, squared=False)


def get_isotropic(
    view: ReadView, dims: str, size: str, offset: str, format: str | None, roi: str, attenuation: str, scale: int = 0
) -> Content:
    """The same with square pixels: of a slice whose voxels are not, fewer are read and scaled to the size asked for."""
    return _window(view, dims, size, offset, format or "", roi, attenuation, scale, squared=True)


def _window(
    view: ReadView,
    dims: str,
    size: str,
    offset: str,
    form: str,
    roi: str,
    attenuation: str,
    scale: int,
    *,
    squared: bool,
) -> Content:
    plane, mask = parse_plane(dims), _mask(view, roi, attenuation)
    if scale and mask is not None:
        raise BadRequest("a mask has no scales: ask for roi, or for scale")
    volume = Volume.of(view, scale) if mask is None else MaskedVolume(Volume.of(view), mask)
    box = parse_box(plane, size, offset)
    n = check_volume(box, volume.kind.bytes)
    if not plane.is_volume:
        picture = parse_format(form)
        if squared:
            return squared_content(view, volume, dims, box, offset, picture)
        return pictures.slice_content(volume, plane, box, picture)
    if form in ("jpg", "jpeg"):
        x, y, z = box.size
        pictures.check_whole(x, y * z)
        return pictures.picture_content(volume.kind.split(volume.read(box).reshape(y * z, x)), PictureFormat("jpeg"))
    if n <= WHOLE_BYTES:
        return Content(as_bytes(volume.read(box)), OCTETS, n)
    return Content(volume.stream(box), OCTETS, n)


def squared_content(view: ReadView, volume: Window, dims: str, box: Box, offset: str, form: PictureFormat) -> Content:
    plane = parse_plane(dims)
    width, height = (box.size[axis] for axis in plane.axes)
    voxel = view.instance.settings["VoxelSize"]
    across, down = (voxel[axis] for axis in plane.axes) if voxel else (1.0, 1.0)
    source = pictures.square_size((across, down), width, height)
    if source == (width, height):
        return pictures.slice_content(volume, plane, box, form)
    box = parse_box(plane, join(source), offset)
    pictures.check_whole(width, height)
    pictures.check_whole(*source)
    picture = pictures.slice_rows(volume, plane, box, 0, source[1])
    return pictures.picture_content(pictures.rescale(picture, width, height), form)


def _mask(view: ReadView, roi: str, attenuation: str) -> Mask | None:
    """The region that an answer or a body is masked by. ``attenuation`` has no effect, as in the original, but must make sense."""
    if not roi:
        return None
    if attenuation:
        parse_int(attenuation, "Attenuation should be from 1 to 7 (divides by 2^n):", 1, 7)
    return Mask.named(view, roi)


def get_arb(
    view: ReadView, top_left: str, top_right: str, bottom_left: str, spacing: str, format: str | None
) -> Content:
    """An oblique slice: the corners are points (x, y, z) in units of the voxel size, ``spacing`` is the size of a pixel."""
    volume, form = Volume.of(view), parse_format(format or "")
    named = (("top left", top_left), ("top right", top_right), ("bottom left", bottom_left))
    first, second, third = (np.array(parse_floats(text, what, 3, "_")) for what, text in named)
    (pixel,) = parse_floats(spacing, "resolution", 1)
    area = pictures.oblique((first, second, third), pixel, view.instance.settings["VoxelSize"])
    return pictures.picture_content(pictures.sample(volume, area), form)


# ---------------------------------------------------------------- writing a volume


def prepare_raw(
    view: ReadView, dims: str, size: str, offset: str, body: Buffer, roi: str, attenuation: str, mutate: bool
) -> Mapping[str, Any]:
    """Takes a volume apart into blocks and encodes them."""
    volume, plane = Volume.of(view), parse_plane(dims)
    if is_proxied(view.instance.settings):
        raise Locked(f'Data "{view.instance.name}" does not support /raw endpoint since it is proxying data')
    if not plane.is_volume:
        raise BadRequest("DVID does not permit 2d mutations, only 3d block-aligned stores")
    mask = _mask(view, roi, attenuation)
    box = parse_box(plane, size, offset)
    n = check_volume(box, volume.kind.bytes)
    if not is_aligned(box, volume.block):
        raise BadRequest(
            f"cannot store voxels in non-block aligned geometry {_corners(box)}: offset and size must be multiples of "
            f"{join(volume.block)}"
        )
    if len(body) != n:
        raise BadRequest(f"voxels data was {len(body)} bytes, expected {n} bytes for a volume of {box}")
    blocks, edges = _encode(volume, box, body, mask)
    return {"box": box, "blocks": blocks, "mutate": mutate, "edges": edges}


def _encode(volume: Volume, box: Box, voxels: Buffer, mask: Mask | None) -> tuple[Spool[Point], list[Edge]]:
    """The payloads of a volume made of whole blocks, made layer by layer; blocks that a mask cuts through are left as voxels."""
    grid = covering_blocks(box, volume.block)
    (x0, y0, z0), (nx, ny, nz) = grid.offset, grid.size
    array, depth = np.frombuffer(voxels, volume.kind.item).reshape(box.shape), volume.block[2]
    out = Spool[Point](partial(values.stage, volume.view.txn.store, volume.view.instance.id))
    edges: list[Edge] = []
    for z in range(z0, z0 + nz):
        layer = kernel.scatter(array[(z - z0) * depth : (z - z0 + 1) * depth], volume.block_shape)
        coords = [(x, y, z) for y in range(y0, y0 + ny) for x in range(x0, x0 + nx)]
        if mask is not None:
            inside = select(mask, Box((x0, y0, z), (nx, ny, 1)), volume.block)
            edges += [(coords[i], layer[i].copy(), flags) for i, flags in inside.partly]
            coords, layer = [c for c, is_in in zip(coords, inside.whole, strict=True) if is_in], layer[inside.whole]
        for coord, payload in zip(coords, volume.encode(layer), strict=True):
            out.add(coord, payload)
    return out, edges


def post_raw(
    view: WriteView, box: Box, blocks: Iterable[tuple[Point, Payload]], mutate: bool, edges: Sequence[Edge] = ()
) -> None:
    """Stores the blocks of a volume, and the part of those at the edges of a mask; extents grow to cover it all."""
    put_blocks(view, blocks)
    put_blocks(view, joined(view, edges))
    extents.grow(view, box)
    action = "mutate" if mutate else "ingest"
    journal.record(view, action, Offset=box.offset, Size=box.size)


def _corners(box: Box) -> str:
    first, last = (",".join(map(str, corner)) for corner in (box.offset, box.last))
    return f"({first}) -> ({last})"


# ---------------------------------------------------------------- blocks


def _row(volume: Volume, coord: str, span: str) -> Box:
    """The blocks of ``/<coord>/<span>``: a row along x, as a box of block coordinates."""
    n = parse_int(span, "span", 0)
    if not n:
        raise BadRequest("a span of 0 blocks: want 1 or more")
    row = checked_box((n, 1, 1), parse_point(coord, "block coordinate"))
    check_volume(Box((0, 0, 0), (n, 1, 1)), volume.block_bytes)
    return row


def get_blocks(view: ReadView, coord: str, span: str, scale: int = 0) -> Content:
    """The voxels of blocks along x, block after block; what is not stored is background."""
    volume = Volume.of(view, scale)
    row = _row(volume, coord, span)
    n = row.size[0] * volume.block_bytes
    empty = bytes([volume.background]) * volume.block_bytes

    def voxels() -> Iterator[Buffer]:
        step = max(1, PIECE_BYTES // volume.block_bytes)
        for first in range(0, row.size[0], step):
            part = Box((row.offset[0] + first, *row.offset[1:]), (min(step, row.size[0] - first), 1, 1))
            coords, payloads = volume.stored(part)
            known = dict(zip(coords[:, 2].tolist(), payloads, strict=True))
            for x in range(part.offset[0], part.stop[0]):
                yield as_bytes(volume.decode(known[x])) if x in known else empty

    return _joined(voxels(), n)


def prepare_blocks(view: ReadView, coord: str, span: str, body: Buffer, mutate: bool) -> Mapping[str, Any]:
    """Encodes the blocks of a row; a longer body is cut, as in the original."""
    volume = Volume.of(view)
    check_writable(view)
    row = _row(volume, coord, span)
    n = row.size[0]
    if len(body) < n * volume.block_bytes:
        raise BadRequest(
            f"block data ceased before all block data read: {n} blocks of {volume.block_bytes} bytes are "
            f"{n * volume.block_bytes} bytes, the body has {len(body)}"
        )
    voxels = np.frombuffer(body, volume.kind.item, n * volume.block_bytes // volume.kind.bytes)
    payloads = volume.encode(voxels.reshape(n, *volume.block_shape))
    x, y, z = row.offset
    return {"row": row, "blocks": [((x + i, y, z), payload) for i, payload in enumerate(payloads)], "mutate": mutate}


def post_blocks(view: WriteView, row: Box, blocks: Sequence[tuple[Point, Buffer]], mutate: bool) -> None:
    """Stores blocks as they are; extents stay, as in the original."""
    put_blocks(view, blocks)
    journal.record(view, "mutate" if mutate else "ingest", Block=row.offset, Span=row.size[0])


def get_subvolblocks(view: ReadView, size: str, offset: str, compression: str, scale: int = 0) -> Content:
    """The stored blocks of a volume made of whole blocks, as a stream of records, z slowest."""
    volume = Volume.of(view, scale)
    box = checked_box(parse_size(size), parse_point(offset, "offset"))
    if not is_aligned(box, volume.block):
        raise BadRequest(
            f"cannot use labels via 'block' endpoint in non-block aligned geometry {_corners(box)}: offset and size must "
            f"be multiples of {join(volume.block)}"
        )
    wire = _Wire(volume, compression)
    blocks = covering_blocks(box, volume.block)
    (x, y, z), (sx, sy, sz) = blocks.offset, blocks.size
    if sy * sz > MAX_ROWS:
        raise BadRequest(f"{sy} x {sz} rows of blocks are too many to look through: want at most {MAX_ROWS}")
    rows = max(1, PIECE_BYTES // (sx * volume.block_bytes))

    def pieces() -> Iterator[Buffer]:
        for layer in range(z, z + sz):
            for first in range(y, y + sy, rows):
                part = Box((x, first, layer), (sx, min(rows, y + sy - first), 1))
                coords, payloads = volume.stored(part)
                yield from records(coords[:, ::-1], wire.sent(payloads))

    return _joined(pieces(), blocks.volume * volume.block_bytes)


def get_specificblocks(view: ReadView, blocks: str, compression: str, prefetch: str, scale: int = 0) -> Content:
    """The stored ones of the blocks that are named (x,y,z,x,y,z,...), as a stream of records in that order."""
    volume = Volume.of(view, scale)
    wire = _Wire(volume, compression)
    words = blocks.split(",") if blocks else []
    if len(words) % 3:
        raise BadRequest("block query string should be three coordinates per block: x,y,z,x,y,z,...")
    numbers = [parse_int(word, "block coordinate") for word in words]
    if prefetch in ("on", "true"):
        return Content(b"", OCTETS, 0)
    coords = [(x, y, z) for x, y, z in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)]
    step = max(1, PIECE_BYTES // volume.block_bytes)

    def pieces() -> Iterator[Buffer]:
        for at in range(0, len(coords), step):
            part = coords[at : at + step]
            found = volume.payloads(part)
            there = [c for c, p in zip(part, found, strict=True) if p is not None]
            yield from records(there, wire.sent([p for p in found if p is not None]))

    return _joined(pieces(), len(coords) * volume.block_bytes)


class _Wire:
    """How blocks go out: as they are stored, or as voxels."""

    def __init__(self, volume: Volume, compression: str) -> None:
        if compression not in COMPRESSIONS:
            raise BadRequest(
                f"don't understand 'compression' query string value: {compression}: want uncompressed, jpeg, or none at all"
            )
        if compression == "jpeg" and volume.form.name != "jpeg":
            raise BadRequest(
                f"can't encode JPEG: expected internal block data to be JPEG, was {volume.form.title} instead"
            )
        self.volume, self.inflated = volume, compression == "uncompressed"

    def sent(self, payloads: list[Buffer]) -> list[Buffer]:
        """What is sent of stored blocks."""
        if not self.inflated:
            return payloads
        if self.volume.form.name in SLOW:
            return list(map(as_bytes, workers.each(self.volume.decode, payloads)))
        form, decode = self.volume.stored_form, self.volume.decode
        head = form.head or b""
        n, whole = len(head), len(head) + form.size if head else -1
        return [p[n:] if len(p) == whole and p[:n] == head else as_bytes(decode(p)) for p in payloads]


def _joined(pieces: Iterator[Buffer], estimate: int) -> Content:
    """A short answer's pieces are all at hand, so that its length is known; a long one is made as it is sent."""
    if estimate > PIECE_BYTES:
        return Content(pieces, OCTETS)
    known = list(pieces)
    return Content(known, OCTETS, sum(map(len, known)))


# ---------------------------------------------------------------- the volume as a whole


def get_metadata(view: ReadView, scale: int = 0) -> Content:
    """Axes and properties in one JSON object, and a line feed."""
    kind, told, box = Volume.of(view, scale).kind, view.instance.settings, extents.shown(view)
    if scale:
        told = settings.at_scale(told, scale)
        box = scales.extents_at(box, scale) if box is not None else None
    text = orjson.dumps(settings.metadata_json(kind, told, box)) + b"\n"
    return Content(text, "application/vnd.dvid-nd-data+json", len(text))


def post_extents(view: WriteView, body: Buffer) -> None:
    """Sets the extents of this version; they may shrink. A point with too few numbers is completed with 0."""
    given = _json(body)
    if not isinstance(given, dict):
        raise BadRequest(f"extents must be a JSON object, as {_EXTENTS}")
    lower = {name.lower(): value for name, value in given.items()}
    first, last = (_corner(lower.get(name.lower()), name) for name in ("MinPoint", "MaxPoint"))
    extents.replace(view, settings.corner_box(first, last))
    marks.recheck(PYRAMID, view)
    journal.record(view, "post-extents", MinPoint=first, MaxPoint=last)


_EXTENTS = '{"MinPoint": [0,0,0], "MaxPoint": [511,511,511]}'


def _corner(point: Any, name: str) -> Point:
    is_point = isinstance(point, list) and point and all(type(n) is int and -(2**31) <= n < 2**31 for n in point)
    if not is_point:
        raise BadRequest(f"{name} must be a list of three whole 32-bit numbers, as {_EXTENTS}")
    x, y, z = (*point, 0, 0)[:3]
    return x, y, z


def post_resolution(view: WriteView, body: Buffer) -> None:
    """Sets the voxel size of the instance, at all versions; null: not known."""
    given = _json(body)
    is_numbers = isinstance(given, list) and all(type(n) in (int, float) for n in given)
    if given is not None and not is_numbers:
        raise BadRequest("the resolution must be a JSON list of three numbers, as [8.0, 8.0, 8.0]")
    voxel = None if given is None else settings.voxel_size(given)
    repos.change_instance(view.txn, view.instance, settings={**view.instance.settings, "VoxelSize": voxel})
    view.txn.rewrite_history(view.instance.id)  # headers of files of all versions tell it
    journal.record(view, "post-resolution", VoxelSize=voxel)


def _json(body: Buffer) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


def get_rawkey(view: ReadView, rest: str | None) -> Content:
    """Nothing, as the original answers (its documentation promises the key of a block in its store)."""
    if rest is not None:
        raise BadRequest("rawkey endpoint should be followed by query strings (x, y, and z) giving block coord")
    return Content(b"", "", 0)
