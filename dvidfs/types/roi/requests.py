"""What HTTP asks of a region of interest: its spans, a mask of voxels, points, a partition.

Decides how requests are read and how long answers are cut. What a region is stands in :mod:`~dvidfs.types.roi.region`. Invariant: a
request that is refused has written nothing, and no answer of voxels is held in memory beyond :data:`PIECE_BYTES`.
Source: reference DVID inventory 2.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson

from dvidfs.engine import journal
from dvidfs.engine.keys import Kind
from dvidfs.engine.store import Buffer
from dvidfs.engine.values import Prepared, Uploaded
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest
from dvidfs.types.base import JSON, OCTETS, Content
from dvidfs.types.geometry import COORD_MAX, Box, check_volume, parse_box, parse_int, parse_plane, span
from dvidfs.types.pieces import batched
from dvidfs.types.roi import partition as partitions
from dvidfs.types.roi import store, text
from dvidfs.types.roi.mask import Mask
from dvidfs.types.roi.region import ordered

PIECE_BYTES = 8 << 20
"""No piece of a mask is larger."""
_PLANE = 4096
"""Masks of smaller planes are made at once, not layer by layer."""


# ---------------------------------------------------------------- spans


def get_roi(view: ReadView) -> Content:
    """The spans [z, y, x0, x1] in order, as they were given."""
    found = store.entries(view)
    if len(found) == 1 and found[0].kind == Kind.PIECES:
        return Content(view.stream(found[0]), JSON, found[0].size)
    body = store.json(view)
    return Content(body, JSON, len(body))


def prepare_roi(view: ReadView, body: Buffer) -> Mapping[str, Any]:
    """Reads spans in any order, and makes both values that will be stored."""
    spans = ordered(text.parse_spans(body))
    value, around = store.prepared(view, spans)
    return {"spans": value, "around": around, "count": len(spans)}


def post_roi(view: WriteView, spans: Prepared | Uploaded, around: Prepared, count: int) -> None:
    """Replaces the region of this version."""
    store.replace(view, spans, around)
    journal.record(view, "post-roi", Spans=count)


def delete_roi(view: WriteView) -> None:
    """Empties the region from this version on."""
    store.clear(view)
    journal.record(view, "delete-roi")


def nothing(view: ReadView) -> None:
    """What the original answers to verbs that mean nothing here: 200 and no body."""


# ---------------------------------------------------------------- questions


def get_mask(view: ReadView, dims: str, size: str, offset: str) -> Content:
    """One byte for each voxel of a box, x fastest: 1 inside, 0 outside."""
    plane = parse_plane(dims)
    if not plane.is_volume:
        raise BadRequest(f"Currently only 3d masks ('0_1_2' shape) is supported, not \"{dims}\"")
    box = parse_box(plane, size, offset)
    n, mask = check_volume(box, 1), Mask.of(view)
    if n <= PIECE_BYTES:
        return Content(_octets(mask, box), OCTETS, n)
    return Content((_octets(mask, part) for part in _cut(box)), OCTETS, n)


def _octets(mask: Mask, box: Box) -> memoryview:
    if box.size[0] * box.size[1] < _PLANE:
        out = np.ascontiguousarray(mask.voxels(box))
    else:
        out = np.empty(box.shape, np.bool_)
        for planes, inside in mask.layers(box):
            out[planes] = inside
    return out.reshape(-1).view(np.uint8).data


def _cut(box: Box) -> Iterator[Box]:
    """Boxes of at most :data:`PIECE_BYTES` voxels that follow each other in C order and make up ``box``."""
    (x0, y0, z0), (x1, y1, z1), (sx, sy, _) = box.offset, box.stop, box.size
    across = min(sx, PIECE_BYTES)
    down = max(1, min(sy, PIECE_BYTES // sx))
    deep = max(1, PIECE_BYTES // (sx * sy))
    for z in range(z0, z1, deep):
        for y in range(y0, y1, down):
            for x in range(x0, x1, across):
                yield span((x, y, z), (min(x + across, x1), min(y + down, y1), min(z + deep, z1)))


def post_ptquery(view: ReadView, body: Buffer) -> Content:
    """For each voxel (x, y, z) whether it is inside."""
    points, mask = text.parse_points(body), Mask.of(view)
    inside = mask.region.has(np.floor_divide(points, np.array(mask.block, np.int32)).astype(np.int64))
    return Content(orjson.dumps(inside, option=orjson.OPT_SERIALIZE_NUMPY), JSON)


def get_partition(view: ReadView, batchsize: str | None, optimized: bool) -> Content:
    """The region cut into boxes of about ``batchsize`` blocks a side."""
    if not batchsize:
        raise BadRequest("Error reading batchsize query string: give the side of a subvolume in blocks, as batchsize=8")
    batch = parse_int(batchsize, "Error reading batchsize query string:", 1, COORD_MAX)
    mask = Mask.of(view)
    found = partitions.partition(mask.region, batch, optimized=optimized)
    pieces = partitions.dump(found, mask.block)
    return Content(b"".join(pieces) if len(found.parts) < partitions.FEW else batched(pieces), JSON)
