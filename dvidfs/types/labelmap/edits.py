"""Mutations of bodies over HTTP: what their bodies and answers look like.

Decides only the wire; what a mutation does is :mod:`~dvidfs.types.labelmap.mutate`. Source: reference note "labelmap" 4.2 and 4.4 to 4.8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from dvidfs.engine import repos
from dvidfs.engine.keys import Family
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest
from dvidfs.types.base import PLAIN, Content
from dvidfs.types.common import string_settings
from dvidfs.types.geometry import parse_int
from dvidfs.types.imageblk import extents
from dvidfs.types.imageblk import settings as images
from dvidfs.types.labelmap import counters, mutate, settings
from dvidfs.types.volumes.voxels import VoxelKind

MOST = 2**64 - 1


def parse_label(text: str, what: str = "label") -> int:
    return parse_int(text, what, 0, MOST)


def labels_of(body: Any, what: str) -> list[int]:
    if body is None:
        return []
    if not isinstance(body, list) or not all(type(n) is int and 0 <= n <= MOST for n in body):
        raise BadRequest(f"Bad {what} op JSON, must be list of numbers: want labels, as [23, 911]")
    return body


def post_merge(view: WriteView, body: Any) -> dict[str, int]:
    settings.need_index(view, "merge")
    given = labels_of(body, "merge")
    if not given:
        raise BadRequest("Error on merge: invalid merge tuple [], need at least target and to-merge labels")
    return {"MutationID": mutate.merge(view, given[0], given[1:])}


def post_cleave(view: WriteView, label: str, body: Any) -> dict[str, int]:
    settings.need_index(view, "cleave")
    number = parse_label(label)
    mutate.protected(number, "cleave target")
    given = labels_of(body, "cleave")
    if not given:
        raise BadRequest("no cleave supervoxels JSON was POSTed: want a list of supervoxels, as [23, 911]")
    mutate.check_cleave(view, number, given)
    cleaved = counters.take(view)
    return {"CleavedLabel": cleaved, "MutationID": mutate.cleave(view, number, given, cleaved)}


def post_renumber(view: WriteView, body: Buffer) -> None:
    try:
        given = labels_of(orjson.loads(body), "renumber")
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"Bad renumber op JSON, must be list of numbers: {error}") from None
    if len(given) % 2:
        raise BadRequest("Bad renumber op JSON, must be even list of numbers [new1, old1, new2, old2, ...]")
    for new, old in zip(given[::2], given[1::2], strict=True):
        mutate.renumber(view, new, old)


# ---------------------------------------------------------------- label numbers


def get_maxlabel(view: ReadView) -> dict[str, int]:
    settings.need_index(view, "maxlabel")
    found = counters.largest(view)
    if not found:
        raise BadRequest(f"No maximum label found for {view.instance.name} version {view.node.id}")
    return {"maxlabel": found}


def post_maxlabel(view: WriteView, label: str) -> None:
    settings.need_index(view, "maxlabel")
    number = parse_label(label, "maxlabel")
    if not 0 < number <= 2**48:
        raise BadRequest(f"maxlabel {number} cannot be: want 1 to {2**48}")
    mutate.begin(view)
    counters.saw(view, number)


def get_nextlabel(view: ReadView) -> dict[str, int]:
    settings.need_index(view, "nextlabel")
    return {"nextlabel": counters.following(view)}


def post_nextlabel(view: WriteView, count: str) -> dict[str, int]:
    settings.need_index(view, "nextlabel")
    number = parse_label(count, "count")
    mutate.begin(view)
    first = counters.take(view, number)
    return {"start": first, "end": first + number - 1}


def post_set_nextlabel(view: WriteView, label: str, ceiling: str | None) -> None:
    number = parse_label(label, "next label")
    most = parse_label(ceiling, "ceiling") if ceiling is not None else None
    counters.check(number, "next label")
    limit = counters.get_ceiling(view) if most is None else most
    if limit and number > limit:
        raise BadRequest(f"next label {number} lies above the ceiling {limit}")
    mutate.begin(view)
    counters.set_next(view, number, most)


# ---------------------------------------------------------------- the instance


def post_info(view: WriteView, body: Any) -> Content:
    """Changes settings of the instance, at all versions."""
    given = {name.lower(): value for name, value in string_settings(body).items()}
    known = {setting.name.lower(): setting for setting in settings.SETTINGS}
    changed = {known[name].name: known[name].parse(value) for name, value in given.items() if name in known}
    told = {**view.instance.settings, **changed}
    if told["BlockSize"] != view.instance.settings["BlockSize"] and next(view.scan(Family.BLOCK), None) is not None:
        raise BadRequest("BlockSize cannot change once blocks are stored: make another instance")
    images.check(told)
    mutate.begin(view)
    repos.change_instance(view.txn, view.instance, settings=told)
    view.txn.rewrite_history(view.instance.id)
    shown = " ".join(f"{name}:{value}" for name, value in sorted(given.items()))
    text = f"Changed '{view.instance.name}' based on received configuration:\n{{map[{shown}]}}\n".encode()
    return Content(text, PLAIN, len(text))


def metadata(kind: VoxelKind) -> Callable[[ReadView], Content]:
    """What answers with axes and properties of a volume of such voxels, in one JSON object, and a line feed."""

    def get_metadata(view: ReadView) -> Content:
        told = images.metadata_json(kind, view.instance.settings, extents.shown(view))
        told["Properties"]["Interpolable"] = False
        text = orjson.dumps(told) + b"\n"
        return Content(text, "application/vnd.dvid-nd-data+json", len(text))

    return get_metadata
