"""Label blocks over HTTP: streams of stored blocks in and out, and whole volumes of labels stored.

Decides what options and records mean (reference note "labels" 2.4 to 2.6). Blocks are checked, counted and encoded before the
write lane; what their counts mean is :mod:`~dvidfs.types.labelmap.ingest`. Invariant: a stream is stored as a whole or not at all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lz4.block
import numpy as np
from isal import igzip
from numpy.typing import NDArray

from dvidfs import kernels
from dvidfs.engine import journal, keys
from dvidfs.engine.keys import Family, Kind
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, Conflict
from dvidfs.kernels import blocks as block_kernel
from dvidfs.kernels import labels as kernel
from dvidfs.types import workers
from dvidfs.types.base import OCTETS, Content
from dvidfs.types.formats.blockform import gunzip
from dvidfs.types.formats.blockstream import read_records, records
from dvidfs.types.geometry import (
    COORD_MAX,
    COORD_MIN,
    Box,
    Point,
    block_box,
    check_volume,
    checked_box,
    covering_blocks,
    is_aligned,
    join,
    parse_box,
    parse_int,
    parse_plane,
    parse_point,
    parse_size,
)
from dvidfs.types.imageblk import extents
from dvidfs.types.labelmap import counters, index, ingest, mutate, stored
from dvidfs.types.labelmap.index import Counts
from dvidfs.types.labelmap.scales import PYRAMID
from dvidfs.types.labelmap.volume import LabelVolume
from dvidfs.types.pyramids import marks, scales, work
from dvidfs.types.pyramids.blocks import Payload, put

COMPRESSIONS = ("lz4", "gzip", "blocks", "uncompressed")
PIECE_BLOCKS = 64
"""Blocks that an answer makes at a time."""
_local = threading.local()
_NOT_ALIGNED = "cannot use labels via 'blocks' endpoint in non-block aligned geometry"


def scale_of(text: str) -> int:
    """A scale in a query."""
    return parse_int(text, "scale", 0, 255) if text else 0


# ---------------------------------------------------------------- out


def get_blocks(view: ReadView, size: str, offset: str, compression: str, scale: int, supervoxels: bool) -> Content:
    """The stored blocks of a volume made of whole blocks, as a stream of records, z slowest."""
    volume = LabelVolume.of(view, scale, supervoxels=supervoxels)
    if parse_point(size, "size") == (0, 0, 0):
        return Content(b"", OCTETS, 0)
    box = checked_box(parse_size(size), parse_point(offset, "offset"))
    if not is_aligned(box, volume.block):
        raise BadRequest(f"{_NOT_ALIGNED} {_corners(box)}: want multiples of {join(volume.block)}")
    wire = Wire(volume, compression)
    grid = covering_blocks(box, volume.block)
    (x, y, z), (sx, sy, sz) = grid.offset, grid.size
    rows = max(1, PIECE_BLOCKS // sx)

    def pieces() -> Iterator[Buffer]:
        for layer in range(z, z + sz):
            for first in range(y, y + sy, rows):
                part = Box((x, first, layer), (sx, min(rows, y + sy - first), 1))
                coords, payloads = volume.stored(part)
                yield from records(coords[:, ::-1], wire.sent(payloads))

    return Content(pieces(), OCTETS)


def get_specificblocks(view: ReadView, blocks: str, compression: str, scale: int, supervoxels: bool) -> Content:
    """The stored ones of the blocks that are named (x,y,z,x,y,z,...), as a stream of records in that order."""
    volume = LabelVolume.of(view, scale, supervoxels=supervoxels)
    wire = Wire(volume, compression)
    words = blocks.split(",") if blocks else []
    if len(words) % 3:
        raise BadRequest("block query string should be three coordinates per block: x,y,z,x,y,z,...")
    numbers = [parse_int(word, "block coordinate", -(2**63), 2**63 - 1) for word in words]
    every = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    coords = [coord for coord in every if all(COORD_MIN <= n <= COORD_MAX for n in coord)]

    def pieces() -> Iterator[Buffer]:
        for at in range(0, len(coords), PIECE_BLOCKS):
            part = coords[at : at + PIECE_BLOCKS]
            found = volume.payloads(part)
            there = [c for c, p in zip(part, found, strict=True) if p is not None]
            yield from records(there, wire.sent([p for p in found if p is not None]))

    if len(coords) > PIECE_BLOCKS:
        return Content(pieces(), OCTETS)
    known = list(pieces())
    return Content(known, OCTETS, sum(map(len, known)))


def _corners(box: Box) -> str:
    first, last = (",".join(map(str, corner)) for corner in (box.offset, box.last))
    return f"({first}) -> ({last})"


class Wire:
    """How blocks go out: native blocks as they are stored, with bodies in their tables, or voxels."""

    def __init__(self, volume: LabelVolume, compression: str) -> None:
        if compression not in COMPRESSIONS:
            raise BadRequest('compression must be "lz4" (default), "gzip", "blocks" or "uncompressed"')
        self.volume, self.compression = volume, compression

    def sent(self, payloads: Sequence[Buffer]) -> list[Buffer]:
        """What is sent of stored blocks."""
        if self.compression == "blocks":
            if self.volume.column is None:
                return list(payloads)
            return list(workers.pool().map(self.volume.mapped, payloads))
        _ = self.volume.column  # looked up here, since other threads must not use the transaction
        return list(workers.pool().map(self._voxels, payloads))

    def _voxels(self, payload: Buffer) -> Buffer:
        if self.compression == "uncompressed":
            return self.volume.decode(payload).data
        scratch = getattr(_local, "scratch", None)  # used again: fresh memory costs more than unpacking
        if scratch is None or scratch.shape != self.volume.block_shape:
            scratch = _local.scratch = np.empty(self.volume.block_shape, np.uint64)
        return packed(self.volume.unpack(payload, scratch), self.compression)


def packed(voxels: NDArray, compression: str) -> Buffer:
    """Bytes of voxels under one of the compressions of the wire."""
    if compression == "lz4":
        return lz4.block.compress(voxels, store_size=False)
    if compression == "gzip":
        return igzip.compress(voxels, compresslevel=stored.LEVEL, mtime=0)
    return voxels.data


def unpacked(body: Buffer, compression: str, size: int) -> Buffer:
    """The ``size`` bytes of voxels in a body; raises BadRequest if that is not what it holds."""
    try:
        if compression == "lz4":
            body = lz4.block.decompress(body, uncompressed_size=size)
        elif compression == "gzip":
            body = gunzip(body, size)
        elif compression:
            raise BadRequest(f'unknown compression type "{compression}": want lz4, gzip, or none at all')
    except (lz4.block.LZ4BlockError, *stored._DAMAGE) as error:
        raise BadRequest(f"the body cannot be read as {compression}: {error}") from None
    return body


# ---------------------------------------------------------------- in


@dataclass(frozen=True)
class Incoming:
    """Blocks of one scale on their way in: coordinates (x, y, z) and payloads, each block once, in the order of keys; the
    codes of those that are counted, and their counts; the largest label."""

    scale: int
    coords: list[Point]
    payloads: list[Buffer]
    counts: Counts
    largest: int


def prepare_blocks(
    view: ReadView, body: Buffer, scale: int, compression: str, downres: bool, noindexing: bool
) -> Mapping[str, Any]:
    """Checks and counts the blocks of a stream."""
    if compression not in ("blocks", ""):
        raise BadRequest('compression must be "blocks" (default) at this time')
    if downres and scale:
        raise BadRequest("cannot downscale blocks of scale > 0")
    counted = not scale and not noindexing and view.instance.settings["IndexedLabels"]
    return {"blocks": incoming(view, body, scale, counted=counted), "downres": downres, "counted": counted}


def prepare_ingest(view: ReadView, body: Buffer, scale: int) -> Mapping[str, Any]:
    return {"blocks": incoming(view, body, scale, counted=False)}


def incoming(view: ReadView, body: Buffer, scale: int, *, counted: bool) -> Incoming:
    """The blocks of a stream."""
    kernels.load("labels_numba")  # worth waiting for: the twin takes twenty times as long
    size: Point = tuple(view.instance.settings["BlockSize"])
    latest: dict[Point, Buffer] = {}
    for coord, payload in read_records(body):
        if coord in latest:
            raise BadRequest("block {}_{}_{} is given twice in this stream: want each block once".format(*coord))
        latest[coord] = payload
    coords = sorted(latest, key=lambda coord: coord[::-1])
    for coord in coords:
        block_key(scale, coord)
    codes = [index.code_of(coord) for coord in coords] if counted else [0] * len(coords)

    def look(i: int) -> tuple[int, NDArray, NDArray | None]:
        block = stored.checked(latest[coords[i]], coords[i], size)
        top = int(block.labels.max())
        if top > counters.MOST:
            name = "_".join(map(str, coords[i]))
            raise BadRequest(f"block {name} holds label {top}: labels above {counters.MOST} cannot be stored")
        return top, block.labels, kernel.tally(block) if counted else None

    looked = list(workers.pool().map(look, range(len(coords))))
    counts = [
        (code, labels, tally) for code, (_, labels, tally) in zip(codes, looked, strict=True) if tally is not None
    ]
    largest = max((top for top, _, _ in looked), default=0)
    return Incoming(scale, coords, [latest[c] for c in coords], ingest.counted(counts), largest)


def block_key(scale: int, coord: Point) -> bytes:
    return keys.encode_block(scale, *coord)


def post_blocks(view: WriteView, blocks: Incoming, downres: bool, counted: bool) -> None:
    """Stores the blocks of a stream; those of scale 0 with index, extents and largest label."""
    if not blocks.coords:
        return
    number = mutate.begin(view)
    if not blocks.scale:
        settle(view, number, blocks, counted=counted)
    store(view, blocks, downres=downres)
    journal.record(view, "blocks", number=number, Scale=blocks.scale, NumBlocks=len(blocks.coords))


def post_ingest(view: WriteView, blocks: Incoming) -> None:
    """Stores the blocks of a stream and nothing else: index, mapping and extents are said by the client."""
    if blocks.coords:
        number = mutate.begin(view)
        store(view, blocks, downres=False)
        journal.record(view, "ingest-supervoxels", number=number, Scale=blocks.scale, NumBlocks=len(blocks.coords))


def settle(view: WriteView, number: int, blocks: Incoming, *, counted: bool, box: Box | None = None) -> None:
    """What follows from blocks of scale 0, before they are stored. ``box``: the voxels that count as written; absent: the blocks."""
    if counted:
        codes = np.array([index.code_of(coord) for coord in blocks.coords], np.uint64)
        ingest.recount(view, number, codes, blocks.counts, _replaced(view, blocks.coords))
    if blocks.largest:
        counters.saw(view, blocks.largest)
    extents.grow(view, box or _around(view, blocks.coords))


def _around(view: ReadView, coords: Sequence[Point]) -> Box:
    low = tuple(min(c[i] for c in coords) for i in range(3))
    high = tuple(max(c[i] for c in coords) for i in range(3))
    size: Point = tuple(view.instance.settings["BlockSize"])
    first, last = block_box((low[0], low[1], low[2]), size), block_box((high[0], high[1], high[2]), size)
    return first.union(last)


def _replaced(view: WriteView, coords: Sequence[Point]) -> NDArray[np.uint64]:
    """The supervoxels of the blocks that are there already; those of all versions of one that parents of a merge disagree about."""
    wanted = [block_key(0, coord) for coord in coords]
    try:
        found = view.load_keys(Family.BLOCK, wanted)
    except Conflict:  # what is written settles it
        every = [entry for enc in wanted for entry in view.newest(Family.BLOCK, enc)]
        found = view.load_many([entry for entry in every if entry.kind != Kind.TOMBSTONE])
    parts = [stored.opened(payload).labels for payload in found if payload is not None]
    every = np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)
    return every[every != 0]


def store(view: WriteView, blocks: Incoming, *, downres: bool) -> None:
    """Puts payloads; whatever writes label blocks does it through here. ``downres``: the scales above follow."""
    pairs: Iterable[tuple[Point, Payload]] = zip(blocks.coords, blocks.payloads, strict=True)
    if blocks.scale:
        pairs = scales.seal(PYRAMID, view, blocks.scale, pairs)
    elif not downres:
        work.fix(PYRAMID, view, blocks.coords)
    written = put(view, blocks.scale, pairs)
    if downres:
        marks.mark(PYRAMID, view, written)


# ---------------------------------------------------------------- volumes in


def prepare_raw(
    view: ReadView, dims: str, size: str, offset: str, body: Buffer, roi: str, compression: str, mutate: bool
) -> Mapping[str, Any]:
    """Takes a volume apart into blocks, encodes and counts them."""
    volume, plane = LabelVolume.of(view), parse_plane(dims)
    if not plane.is_volume:
        raise BadRequest("DVID does not permit 2d mutations, only 3d block-aligned stores")
    box = parse_box(plane, size, offset)
    n = check_volume(box, 8)
    if not is_aligned(box, volume.block):
        name = view.instance.name
        raise BadRequest(
            f'cannot store labels for data "{name}" in non-block aligned geometry {_corners(box)}: want multiples of '
            f"{join(volume.block)}"
        )
    body = unpacked(body, compression, n)
    if len(body) != n:
        name = view.instance.name
        raise BadRequest(f'expected {n} bytes for data "{name}" label PUT but only received {len(body)} bytes')
    return {
        "blocks": cut(volume, box, np.frombuffer(body, "<u8").reshape(box.shape), roi),
        "box": box,
        "mutate": mutate,
    }


def cut(volume: LabelVolume, box: Box, voxels: NDArray, roi: str = "") -> Incoming:
    """The blocks of a volume made of whole blocks; with ``roi`` only those inside."""
    kernels.load("labels_numba")
    top = int(voxels.max())
    if top > counters.MOST:
        raise BadRequest(f"the volume holds label {top}: labels above {counters.MOST} cannot be stored")
    grid = covering_blocks(box, volume.block)
    (x0, y0, z0), (nx, ny, nz) = grid.offset, grid.size
    coords: list[Point] = []
    payloads: list[Buffer] = []
    parts: list[tuple[int, NDArray, NDArray]] = []
    counted, depth = volume.view.instance.settings["IndexedLabels"], volume.block[2]

    def made(block: NDArray) -> tuple[bytes, NDArray, NDArray]:
        native = kernel.encode(block)
        parsed = kernel.parse_trusted(native)
        return stored.pack(native), parsed.labels, kernel.tally(parsed)

    for z in range(nz):
        layer = block_kernel.scatter(voxels[z * depth : (z + 1) * depth], volume.block_shape)
        here = [(x0 + x, y0 + y, z0 + z) for y in range(ny) for x in range(nx)]
        inside = _inside(volume, Box((x0, y0, z0 + z), (nx, ny, 1)), roi)
        here, layer = [c for c, keep in zip(here, inside, strict=True) if keep], layer[inside]
        for coord, (payload, labels, tally) in zip(here, workers.pool().map(made, list(layer)), strict=True):
            coords.append(coord)
            payloads.append(payload)
            if counted:
                parts.append((index.code_of(coord), labels, tally))
    return Incoming(0, coords, payloads, ingest.counted(parts), top)


def _inside(volume: LabelVolume, grid: Box, roi: str) -> NDArray[np.bool_]:
    """Which blocks of a grid may be written."""
    if not roi:
        return np.ones(grid.volume, bool)
    from dvidfs.types.imageblk.masked import select
    from dvidfs.types.roi.mask import Mask

    return select(Mask.named(volume.view, roi), grid, volume.block).whole


def post_raw(view: WriteView, blocks: Incoming, box: Box, mutate: bool) -> None:
    """Stores the blocks of a volume; extents grow to cover it all, scales follow."""
    write(view, blocks, "mutate" if mutate else "ingest", box, Offset=box.offset, Size=box.size)
    extents.grow(view, box)


def write(view: WriteView, blocks: Incoming, action: str, box: Box | None = None, **told: Any) -> int:
    """Blocks of scale 0 with all that follows from them, ``box`` as in :func:`settle`; the mutation's number."""
    number = mutate.begin(view)
    if blocks.coords:
        settle(view, number, blocks, counted=view.instance.settings["IndexedLabels"], box=box)
        store(view, blocks, downres=True)
    journal.record(view, action, number=number, **told)
    return number


def write_blocks(view: WriteView, coords: Sequence[Point], voxels: NDArray, action: str) -> int:
    """Whole blocks (n, z, y, x) of scale 0, as :func:`write`."""
    parts, payloads = [], list[Buffer]()
    for coord, block in zip(coords, voxels, strict=True):
        native = kernel.encode(np.ascontiguousarray(block))
        parsed = kernel.parse_trusted(native)
        parts.append((index.code_of(coord), parsed.labels, kernel.tally(parsed)))
        payloads.append(stored.pack(native))
    order = sorted(range(len(coords)), key=lambda i: coords[i][::-1])
    counts = ingest.counted(parts)
    found = Incoming(0, [coords[i] for i in order], [payloads[i] for i in order], counts, int(voxels.max()))
    return write(view, found, action, Blocks=len(coords))
