"""What a labelarray answers otherwise than a labelmap: mutations of labels that are not mapped, the largest label, sizes.

Decides the wire. What a mutation does is :mod:`~dvidfs.types.labelarray.relabel`. Source: DVID inventory 2.9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, NotFound
from dvidfs.types.base import JSON, Content
from dvidfs.types.geometry import Box
from dvidfs.types.labelarray import relabel
from dvidfs.types.labelarray.relabel import Move
from dvidfs.types.labelmap import blocks, counters, edits, intake, mutate, points, settings, shapes, sparse
from dvidfs.types.labelmap.edits import parse_label
from dvidfs.types.labelmap.shapes import Shape

Prepared = Mapping[str, Any]


def prepare_merge(view: ReadView, body: Any) -> Prepared:
    settings.need_index(view, "merge")
    target, others = parse_merge(body)
    return {"move": relabel.merge(view, target, others)}


def parse_merge(body: Any) -> tuple[int, list[int]]:
    """Target and the labels that become it."""
    given = edits.labels_of(body, "merge")
    if not given:
        raise BadRequest("invalid merge tuple [], need at least target and to-merge labels")
    return given[0], given[1:]


def post_merge(view: WriteView, move: Move) -> None:
    relabel.post_merge(view, move)


def prepare_split(view: ReadView, label: str, splitlabel: int | None, body: Buffer) -> Prepared:
    settings.need_index(view, "split")
    return {"move": relabel.split(view, parse_label(label), body, splitlabel)}


def prepare_split_coarse(view: ReadView, label: str, splitlabel: int | None, body: Buffer) -> Prepared:
    settings.need_index(view, "split-coarse")
    return {"move": relabel.split_coarse(view, parse_label(label), body, splitlabel)}


def post_split(view: WriteView, move: Move) -> dict[str, int]:
    return {"label": int(relabel.post_split(view, move).parts.split[0])}


def get_maxlabel(view: ReadView) -> dict[str, int]:
    """The largest label that was written at this very version."""
    settings.need_index(view, "maxlabel")
    found = counters.by_version(view).get(str(view.version))
    if found is None:
        raise BadRequest(f"No maximum label found for {view.instance.name} version {view.node.id}")
    return {"maxlabel": found}


def get_size(view: ReadView, label: str) -> Content:
    """Blocks of a label and their box; the block at the origin for a label that has none."""
    number = parse_label(label)
    mutate.protected(number, "sparse volume")
    found = shapes.of_body(view, number)
    return Content(_size(view, found), JSON)


def _size(view: ReadView, found: Shape | None) -> bytes:
    coords, side = np.zeros((1, 3), np.int64), np.array(view.instance.settings["BlockSize"])
    if found is not None:
        coords = shapes.blocks(view, found)
    return orjson.dumps(
        {
            "numblocks": 0 if found is None else len(coords),
            "minvoxel": (coords.min(axis=0) * side).tolist(),
            "maxvoxel": ((coords.max(axis=0) + 1) * side - 1).tolist(),
        }
    )


def get_sparsevol(view: ReadView, label: str, **query: Any) -> Content:
    """The voxels of a label; 404 if none lies within the bounds."""
    return _not_empty(sparse.get_sparsevol(view, label, supervoxels=False, **query))


def get_sparsevol_by_point(view: ReadView, coord: str, **query: Any) -> Content:
    return _not_empty(sparse.get_sparsevol_by_point(view, coord, supervoxels=False, **query))


def _not_empty(content: Content) -> Content:
    if content.size == 0:
        raise NotFound("")
    return content


# ---------------------------------------------------------------- voxels


def get_labels(view: ReadView, body: Buffer, scale: int, hash: str) -> Content:
    """The labels of points; coordinates that are missing are 0, as in the original."""
    points.check_hash(body, hash)
    try:
        wanted = points.parse_points(body)
    except BadRequest:
        completed = _completed(body)
        if completed is None:
            raise
        wanted = points.parse_points(completed)
    return points.numbers(points.labels_at(view, wanted, scale))


def _completed(body: Buffer) -> bytes | None:
    """A list of points with all their coordinates; None if it is no list of points."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(given, list) or not all(isinstance(point, list) and len(point) <= 3 for point in given):
        return None
    return orjson.dumps([[*point, 0, 0, 0][:3] for point in given])


MOST_SIDE = 1024
"""The longest side that a label block can have."""


def can_store(view: ReadView) -> bool:
    """Whether blocks of this size can be label blocks; any size is taken at creation, as in the original."""
    return all(n % 8 == 0 and n <= MOST_SIDE for n in view.instance.settings["BlockSize"])


def _need_sides(view: ReadView) -> None:
    if not can_store(view):
        size = "x".join(map(str, view.instance.settings["BlockSize"]))
        raise BadRequest(
            f'data "{view.instance.name}" has blocks of {size}: labels need sides of 8 to {MOST_SIDE}, multiples of 8'
        )


def prepare_raw(view: ReadView, **given: Any) -> Prepared:
    _need_sides(view)
    return blocks.prepare_raw(view, **given)


def take(view: ReadView, box: Box, voxels: NDArray) -> Callable[[WriteView], None]:
    """As :func:`dvidfs.types.labelmap.intake.take`."""
    _need_sides(view)
    return intake.take(view, box, voxels)


def prepare_blocks(view: ReadView, **given: Any) -> Prepared:
    _need_sides(view)
    return blocks.prepare_blocks(view, noindexing=False, **given)
