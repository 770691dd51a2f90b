"""What a labelvol answers: sparse volumes of labels, and their mutations, all of them those of the labelblk that it shows.

Decides the wire, and which answer there is where no labelblk is followed. Source: DVID inventory 2.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, NotFound
from dvidfs.types.base import OCTETS, Content
from dvidfs.types.formats import sparsevol
from dvidfs.types.geometry import covering_blocks, is_aligned, join, parse_point, parse_size, span
from dvidfs.types.labelarray import relabel
from dvidfs.types.labelarray import requests as arrays
from dvidfs.types.labelarray.relabel import Move
from dvidfs.types.labelblk import followers
from dvidfs.types.labelmap import edits, mutate, sparse
from dvidfs.types.labelmap.edits import parse_label
from dvidfs.types.labelvol import recount, source
from dvidfs.types.labelvol.recount import Found

Prepared = Mapping[str, Any]
_WHOLE = {"format": sparsevol.RLES, "scale": 0, "supervoxels": False}
_NO_RUNS = np.zeros((0, 4), np.int32)


# ---------------------------------------------------------------- sparse volumes


def get_sparsevol(view: ReadView, label: str, compression: str, **bounds: str) -> Content:
    """The voxels of a label; no runs if none lies within the bounds."""
    mutate.protected(parse_label(label), "sparse volume")
    labels = source.labels(view)
    try:
        return sparse.get_sparsevol(labels, label, compression=compression, **_WHOLE, **bounds)
    except NotFound:
        sparse.need(labels, parse_label(label))
        data = bytes(sparsevol.compress(sparsevol.rles(_NO_RUNS), sparsevol.parse_compression(compression)))
        return Content(data, OCTETS, len(data))


def head_sparsevol(view: ReadView, label: str, **bounds: str) -> Content:
    mutate.protected(parse_label(label), "sparse volume")
    labels = source.find(view)
    if labels is None:
        return Content(b"", "text/html", 0, status=204)
    return sparse.head_sparsevol(labels, label, scale=0, supervoxels=False, **bounds)


def get_sparsevol_by_point(view: ReadView, coord: str, compression: str, **bounds: str) -> Content:
    labels, point = source.need(view), parse_point(coord, "coordinate")
    label = sparse.points.label_at(labels, point)
    return get_sparsevol(view, str(label), compression, **bounds)


def get_coarse(view: ReadView, label: str) -> Content:
    mutate.protected(parse_label(label), "sparse volume")
    return sparse.get_coarse(source.labels(view), label, supervoxels=False)


# ---------------------------------------------------------------- label numbers


def get_maxlabel(view: ReadView) -> dict[str, int]:
    labels = source.find(view)
    if labels is None:
        raise BadRequest(f"No maximum label found for {view.instance.name} version {view.node.id}")
    return arrays.get_maxlabel(labels)


def get_nextlabel(view: ReadView) -> dict[str, int]:
    labels = source.find(view)
    return {"nextlabel": 1} if labels is None else edits.get_nextlabel(labels)


# ---------------------------------------------------------------- mutations


def prepare_merge(view: ReadView, body: Any) -> Prepared:
    target, others = arrays.parse_merge(body)
    if source.find(view) is None:  # it has no labels, and the original takes labels that it does not have
        return {"move": None}
    return {"move": relabel.merge(source.need_mutual(view), target, others)}


def post_merge(view: WriteView, move: Move | None) -> None:
    if move is not None:
        source.need_mutual(view)
        labels = source.written(view)
        followers.tell(labels, relabel.post_merge(labels, move).coords)


def prepare_split(view: ReadView, label: str, splitlabel: int | None, body: Buffer) -> Prepared:
    return {"move": relabel.split(source.need_mutual(view), parse_label(label), body, splitlabel)}


def prepare_split_coarse(view: ReadView, label: str, splitlabel: int | None, body: Buffer) -> Prepared:
    return {"move": relabel.split_coarse(source.need_mutual(view), parse_label(label), body, splitlabel)}


def post_split(view: WriteView, move: Move) -> dict[str, int]:
    source.need_mutual(view)
    labels = source.written(view)
    cut = relabel.post_split(labels, move, counted=False)
    followers.tell(labels, cut.coords)
    return {"label": int(cut.parts.split[0])}


def delete_area(view: WriteView, label: str, size: str, offset: str) -> None:
    """A label is no longer said to be in whole blocks, until it is written there again."""
    number = parse_label(label)
    mutate.protected(number, "sparse volume")
    labels = source.written(view)
    (x, y, z), (w, h, d) = parse_point(offset, "offset"), parse_size(size)
    box = span((x, y, z), (x + w, y + h, z + d))
    a, b, c = labels.instance.settings["BlockSize"]
    if not is_aligned(box, (a, b, c)):
        raise BadRequest(
            f"cannot delete sparsevol in non-block aligned geometry {box}: want multiples of {join((a, b, c))}"
        )
    recount.leave_out(labels, number, covering_blocks(box, (a, b, c)))
    followers.tell(labels, ())


def prepare_resync(view: ReadView, label: str) -> Prepared:
    number = parse_label(label)
    mutate.protected(number, "sparse volume")
    return {"found": recount.look(source.need(view), number)}


def post_resync(view: WriteView, found: Found) -> None:
    """The volume of a label becomes what the voxels say."""
    labels = source.written(view)
    recount.resync(labels, found)
    followers.tell(labels, ())
