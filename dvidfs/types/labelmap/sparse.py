"""Sparse volumes of bodies and supervoxels: over HTTP, and whole for those who make files of them.

Decides what options mean and which answer there is where nothing is found; where voxels lie is
:mod:`~dvidfs.types.labelmap.shapes`, how they travel :mod:`~dvidfs.types.formats.sparsevol`. An srles or blocks answer is sent
while its blocks are read. An rles answer tells first how many runs follow: they are collected, above :data:`HELD` bytes in a
temporary file; only LZ4, which is one block, must have them all in memory, so it is refused above :data:`LZ4_MOST`. A block
that the index names but that is not stored is left out. Invariant: runs are as long as can be, and no voxel is in two.
Source: reference note "sparsevol" 3.2 to 3.8.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np
from isal import isal_zlib

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.errors import BadRequest, DvidfsError, NotFound
from dvidfs.kernels.runs import Runs
from dvidfs.types.base import JSON, OCTETS, Content
from dvidfs.types.formats import sparsevol
from dvidfs.types.formats.sparsevol import Bounds
from dvidfs.types.geometry import parse_point
from dvidfs.types.labelmap import lists, mutate, points, settings, shapes
from dvidfs.types.labelmap.edits import parse_label
from dvidfs.types.labelmap.shapes import Shape, Sought
from dvidfs.types.pieces import PIECE, batched

HELD = 32 << 20
"""Bytes of runs that are held in memory."""
LZ4_MOST = 256 << 20
"""Bytes of runs that can be sent as one LZ4 block."""
LIGHT = 4
"""The blocks of a sparse volume that is answered at once, if they are opened already."""
_GZIP = 31
"""The window of the largest size, in a gzip stream."""


# ---------------------------------------------------------------- for files


def rles(view: ReadView, label: int, *, supervoxels: bool = False) -> Iterator[bytes]:
    """A body or supervoxel as a sparse volume, in pieces. Raises NotFound if there is none."""
    shape = need(view, label, supervoxels=supervoxels)
    return _Collected(Sought(view, shape.supervoxels, shape.coords).runs()).pieces()


def coarse(view: ReadView, label: int, *, supervoxels: bool = False) -> bytes:
    """The blocks of a body or supervoxel as a coarse sparse volume. Raises NotFound if there is none."""
    return sparsevol.rles(shapes.coarse(need(view, label, supervoxels=supervoxels).coords))


def need(view: ReadView, label: int, *, supervoxels: bool = False) -> Shape:
    """The shape of a body or supervoxel. Raises NotFound (with an empty text, as clients expect) if there is none."""
    found = shapes.of_supervoxel(view, label) if supervoxels else shapes.of_body(view, label)
    if found is None:
        raise NotFound("")
    return found


# ---------------------------------------------------------------- sparse volumes


def get_sparsevol(view: ReadView, label: str, **query: Any) -> Content:
    settings.need_index(view, "sparsevol")
    return _content(view, _label(label), **query)


def get_sparsevol_by_point(view: ReadView, coord: str, scale: int, supervoxels: bool, **query: Any) -> Content:
    settings.need_index(view, "sparsevol-by-point")
    label = points.label_at(view, parse_point(coord, "coordinate"), scale, supervoxels=supervoxels)
    mutate.protected(label, "sparse volume")
    return _content(view, label, scale=scale, supervoxels=supervoxels, **query)


def head_sparsevol(view: ReadView, label: str, scale: int, supervoxels: bool, **query: Any) -> Content:
    """200 if there is any block within the bounds, 204 if not."""
    settings.need_index(view, "sparsevol")
    try:
        _sought(view, _label(label), Bounds.parse(query), scale, supervoxels=supervoxels)
    except NotFound:
        return Content(b"", "text/html", 0, status=204)
    return Content(b"", "text/html", 0)


def is_light(view: ReadView, label: str, scale: int, supervoxels: bool, **query: Any) -> bool:
    """Whether all that is needed for the answer is in memory, and little."""
    if scale or not is_known(view, label, supervoxels):
        return False
    try:
        found = _sought(view, _label(label), Bounds.parse(query), 0, supervoxels=False)
    except DvidfsError:
        return False
    return found.is_light(LIGHT)


def is_known(view: ReadView, label: str, supervoxels: bool, **_: Any) -> bool:
    """Whether the blocks of a body are found without waiting."""
    try:
        return not supervoxels and shapes.is_light(view, parse_label(label))
    except DvidfsError:
        return False


def _label(text: str) -> int:
    label = parse_label(text)
    mutate.protected(label, "sparse volume")
    return label


def _sought(view: ReadView, label: int, bounds: Bounds, scale: int, *, supervoxels: bool) -> Sought:
    """Raises NotFound if no block of the label is touched by the bounds."""
    shape = need(view, label, supervoxels=supervoxels)
    coords = shapes.blocks(view, shape, scale, bounds)
    if not len(coords):
        raise NotFound("")
    return Sought(view, shape.supervoxels, coords, scale, bounds)


def _content(
    view: ReadView, label: int, format: str, compression: str, scale: int, supervoxels: bool, **bounds: str
) -> Content:
    sought = _sought(view, label, Bounds.parse(bounds), scale, supervoxels=supervoxels)
    if format == sparsevol.RLES:
        return _rles(sought.runs(), compression)
    if format == sparsevol.SRLES:
        pieces = (sparsevol.spans(found) for found in sought.runs())
    else:
        pieces = _binary(sought, label)
    if len(sought.coords) > shapes.TASK:
        return Content(pieces, OCTETS)
    data = b"".join(pieces)
    return Content(data, OCTETS, len(data))


def _binary(sought: Sought, label: int) -> Iterator[bytes]:
    """A stream of binary blocks, without its head where it has none."""
    x, y, z = (side // 8 for side in sought.block)
    head = sparsevol.stream_head((x, y, z), label)
    for piece in sought.masks():
        yield head + piece
        head = b""


# ---------------------------------------------------------------- runs behind their number


class _Collected:
    """Runs, one behind the other: in memory, or in a temporary file that is gone with this."""

    def __init__(self, runs: Iterable[Runs]) -> None:
        self._file: IO[bytes] | None = None
        self._held: list[bytes] = []
        self.count = 0
        size = 0
        for found in runs:
            self._held.append(sparsevol.spans(found))
            self.count += len(found)
            size += len(self._held[-1])
            if size > HELD:
                self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - read when this is filled
                self._file.writelines(self._held)
                self._held, size = [], 0

    @property
    def size(self) -> int:
        """Bytes of the whole, head included."""
        return len(sparsevol.rles_head(0)) + 16 * self.count

    def pieces(self) -> Iterator[bytes]:
        """The whole, once."""
        yield sparsevol.rles_head(self.count)
        if self._file is not None:
            self._file.seek(0)
            while piece := self._file.read(PIECE):
                yield piece
        yield from self._held


def _rles(runs: Iterable[Runs], compression: str) -> Content:
    """Runs behind their number. Nothing at all is sent if there is none."""
    compression = sparsevol.parse_compression(compression)
    found = _Collected(runs)
    size = found.size
    if not found.count:
        return Content(b"", OCTETS, 0)
    if compression == "lz4" and size > LZ4_MOST:
        raise BadRequest(f"{size} bytes of runs do not fit in one LZ4 block: want compression=gzip, or format=srles")
    if size > PIECE and compression != "lz4":
        return Content(_gzipped(found.pieces()), OCTETS) if compression else Content(found.pieces(), OCTETS, size)
    data = bytes(sparsevol.compress(b"".join(found.pieces()), compression))
    return Content(data, OCTETS, len(data))


def _gzipped(pieces: Iterable[Buffer]) -> Iterator[bytes]:
    """One gzip stream."""
    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, _GZIP)
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


# ---------------------------------------------------------------- blocks of labels


def get_size(view: ReadView, label: str, supervoxels: bool) -> Content:
    """Voxels, blocks, and the box of the blocks."""
    shape = need(view, _label(label), supervoxels=supervoxels)
    coords, side = shape.coords, np.array(view.instance.settings["BlockSize"])
    low, high = (coords.min(axis=0) * side).tolist(), ((coords.max(axis=0) + 1) * side - 1).tolist()
    text = (
        f'{{"voxels": {shape.voxels}, "numblocks": {len(coords)}, '
        f'"minvoxel": [{low[0]}, {low[1]}, {low[2]}], "maxvoxel": [{high[0]}, {high[1]}, {high[2]}]}}'
    )
    return Content(text.encode(), JSON, len(text))


def get_coarse(view: ReadView, label: str, supervoxels: bool, **bounds: str) -> Content:
    """Runs of blocks; those of a label that has none within the bounds are no runs, not nothing."""
    settings.need_index(view, "sparsevol-coarse")
    number, box = _label(label), Bounds.parse(bounds)
    data = sparsevol.rles(shapes.coarse(shapes.blocks(view, need(view, number, supervoxels=supervoxels), 0, box)))
    return Content(data, OCTETS, len(data))


def get_coarse_range(view: ReadView, begin: str, end: str, **bounds: str) -> Content:
    """Runs of blocks of all bodies from ``begin`` up to and with ``end``."""
    first, last, box = parse_label(begin, "first label"), parse_label(end, "last label"), Bounds.parse(bounds)
    known = lists.listed(view).keys
    wanted = known[np.searchsorted(known, np.uint64(first)) : np.searchsorted(known, np.uint64(last), "right")]

    def records() -> Iterator[bytes]:
        for label in wanted.tolist():
            shape = shapes.of_body(view, label)
            if shape is not None:
                yield sparsevol.coarse_record(label, shapes.coarse(shapes.blocks(view, shape, 0, box)))

    return Content(batched(records()), OCTETS)


def get_proximity(view: ReadView, label1: str, label2: str) -> Content:
    """Checks the labels and says nothing of them, as the original."""
    labels = [parse_label(label1), parse_label(label2)]
    if labels[0] == labels[1]:
        raise BadRequest(f"proximity is of two labels: {labels[0]} was given twice")
    for label in labels:
        mutate.protected(label, "label of an index")
        need(view, label)
    return Content(b"", JSON, 0)
