"""Which label lies at a point, one or thousands; which body a supervoxel belongs to.

A point costs bit arithmetic in one sub-block of an opened block. Points are (x, y, z) in voxels of their scale. Source: reference
note "labels" 2.6, "labelmap" 4.3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import keys
from dvidfs.engine.keys import Family
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.errors import BadRequest
from dvidfs.kernels import digits
from dvidfs.kernels import labels as kernel
from dvidfs.kernels.labels import Block
from dvidfs.types.base import JSON, Content
from dvidfs.types.geometry import Point, parse_point
from dvidfs.types.labelmap import bodies, stored
from dvidfs.types.labelmap.books import mapping
from dvidfs.types.labelmap.columns import ABSENT, U64s
from dvidfs.types.labelmap.volume import LabelVolume

FEW = 16
"""So few points of a block are looked up faster one by one."""


def label_at(view: ReadView, point: Point, scale: int = 0, *, supervoxels: bool = False) -> int:
    """The label of one voxel."""
    x, y, z = point
    a, b, c = view.instance.settings["BlockSize"]
    coord = (x // a, y // b, z // c)
    block = _block(view, coord, scale)
    if block is None:
        return 0
    at = kernel.entry_at(block, x - coord[0] * a, y - coord[1] * b, z - coord[2] * c)
    found = int(block.labels[at]) if at >= 0 else 0
    if supervoxels or not found:
        return found
    body = mapping(view).one(found)
    return found if body == ABSENT else body


def _block(view: ReadView, coord: Point, scale: int) -> Block | None:
    if scale:
        payload = LabelVolume.of(view, scale).payload(coord)
        return None if payload is None else stored.opened(payload)
    entry = view.find(Family.BLOCK, keys.encode_block(0, *coord))
    return None if entry is None else stored.kept(view, entry)


def is_light(view: ReadView, coord: str, scale: int = 0, **_: Any) -> bool:
    """Whether looking a point up costs less than handing it to a thread: opening a block does, making a coarse one does not."""
    return not scale


def labels_at(view: ReadView, points: NDArray[np.int64], scale: int = 0, *, supervoxels: bool = False) -> U64s:
    """The labels of points (n, 3), x y z."""
    out = np.zeros(len(points), np.uint64)
    if not len(points):
        return out
    side = np.array(view.instance.settings["BlockSize"], np.int64)
    coords = points // side
    local = points - coords * side
    for coord, which in _grouped(coords):
        block = _block(view, coord, scale)
        if block is None:
            continue
        if len(which) <= FEW:
            for i, (x, y, z) in zip(which.tolist(), local[which].tolist(), strict=True):
                at = kernel.entry_at(block, x, y, z)
                out[i] = block.labels[at] if at >= 0 else 0
        else:
            entries = kernel.entries_at(block, local[which])
            out[which] = np.where(entries >= 0, block.labels[np.maximum(entries, 0)], 0)
    return out if supervoxels else np.where(out == 0, out, mapping(view).get(out, out))


def _grouped(coords: NDArray[np.int64]) -> Iterator[tuple[Point, NDArray[np.int64]]]:
    """Each block that points lie in, and which of them do."""
    order = np.lexsort((coords[:, 0], coords[:, 1], coords[:, 2]))
    found = coords[order]
    starts = np.flatnonzero(np.append(True, (found[1:] != found[:-1]).any(axis=1)))
    cuts = [*starts.tolist(), len(order)]
    for (x, y, z), first, stop in zip(found[starts].tolist(), cuts, cuts[1:], strict=False):
        yield (x, y, z), order[first:stop]


def bodies_of(view: ReadView, supervoxels: U64s, *, checked: bool = True) -> U64s:
    """The bodies of supervoxels. ``checked``: 0 for one without a mapping that no body of its number holds."""
    column = mapping(view)
    found = column.get(supervoxels)
    alone = found == np.uint64(ABSENT)
    if not checked:
        return np.where(alone, supervoxels, found)
    sizes = bodies.sizes(view, supervoxels)
    out = np.where(alone, np.where(sizes > 0, supervoxels, 0), found).astype(np.uint64)
    asked = np.flatnonzero(alone & (sizes > 0))
    if len(asked):
        changed = asked[~bodies.without_rows(view, supervoxels[asked])]
        for i in changed.tolist():
            if not bodies.is_in(supervoxels[i : i + 1], bodies.members(view, int(supervoxels[i])).supervoxels)[0]:
                out[i] = 0
    return out


# ---------------------------------------------------------------- requests


def get_label(view: ReadView, coord: str, scale: int, supervoxels: bool) -> Content:
    found = label_at(view, parse_point(coord, "coordinate"), scale, supervoxels=supervoxels)
    text = b'{"Label": %d}' % found
    return Content(text, JSON, len(text))


def get_labels(view: ReadView, body: Buffer, scale: int, supervoxels: bool, hash: str) -> Content:
    check_hash(body, hash)
    return numbers(labels_at(view, parse_points(body), scale, supervoxels=supervoxels))


def get_mapping(view: ReadView, body: Buffer, nolookup: bool, hash: str) -> Content:
    check_hash(body, hash)
    return numbers(bodies_of(view, parse_labels(body), checked=not nolookup))


# ---------------------------------------------------------------- lists in and out


def check_hash(body: Buffer, expected: str) -> None:
    """Refuses a body that is not the one whose MD5 a client gave."""
    found = hashlib.md5(body, usedforsecurity=False).hexdigest() if expected else ""
    if expected and found != expected:
        raise BadRequest(f"content hash incorrect.  expected {expected}, got {found}")


def parse_labels(body: Buffer) -> U64s:
    """A JSON list of labels."""
    try:
        return digits.parse_numbers(body)
    except ValueError as error:
        raise BadRequest(f"the body must be a JSON list of labels, as [23, 911]: {error}") from None


def parse_points(body: Buffer) -> NDArray[np.int64]:
    """A JSON list of points: (n, 3)."""
    try:
        return digits.parse_points(body)
    except ValueError as error:
        raise BadRequest(f"the body must be a JSON list of points, as [[10, 20, 30]]: {error}") from None


def numbers(found: NDArray) -> Content:
    """A JSON list of whole numbers."""
    text = digits.json_numbers(found)
    return Content(text, JSON, len(text))
