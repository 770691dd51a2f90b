"""What can be asked of pyramids over HTTP: a row to look, a row to build. And what ``dvidfs check`` looks at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from dvidfs.engine import keys
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, Conflict, DvidfsError
from dvidfs.types.base import Body, Endpoint
from dvidfs.types.pyramids import rows, work
from dvidfs.types.pyramids.level import Level
from dvidfs.types.pyramids.marks import queue
from dvidfs.types.pyramids.pyramid import Pyramid
from dvidfs.types.pyramids.scales import levels

COMPARED = 16
"""Blocks of each scale that a check makes again."""


def get_pyramid(pyramid: Pyramid, view: ReadView) -> dict[str, Any]:
    """How many scales there are above 0, how many will be if some are being built, and how many blocks wait."""
    told = levels(pyramid, view)
    building = {"building": told.marked} if told.marked > told.ready else {}
    return {"scales": told.ready, **building, "pending": rows.pending(pyramid, view) or False}


def post_pyramid(pyramid: Pyramid, view: WriteView, body: Any) -> dict[str, Any]:
    """Make scales in the background. ``body``: {"scales": 4}, or nothing for as many as the extents or the settings say."""
    given = {} if body is None else body
    wanted = given.get("scales") if isinstance(given, Mapping) else given
    if not isinstance(given, Mapping) or not (wanted is None or type(wanted) is int):
        raise BadRequest('the scales to be made must be a JSON object with a whole number, as {"scales": 4}')
    count = work.begin(pyramid, view, wanted)
    queue(pyramid, view, build=count)
    return {"scales": levels(pyramid, view).ready, "building": count}


def endpoints(pyramid: Pyramid) -> tuple[Endpoint, ...]:
    """The rows of a datatype that has scales."""

    def get(view: ReadView) -> dict[str, Any]:
        return get_pyramid(pyramid, view)

    def post(view: WriteView, body: Any) -> dict[str, Any]:
        return post_pyramid(pyramid, view, body)

    count = "without a number they are made until no side of the volume is longer than 256."
    if pyramid.setting:
        count = f"the number is that of {pyramid.setting}, and need not be given."
    return (
        Endpoint(
            "GET",
            "pyramid",
            get,
            "How many scales there are above 0, and how many of their blocks wait to be made.",
            cached=False,
            detail='The answer: {"scales": 4, "pending": false}; "building": the number that there will be, while they are made.',
            example="pyramid",
        ),
        Endpoint(
            "POST",
            "pyramid",
            post,
            "Make scales in the background.",
            body=Body.JSON,
            detail=f'The body: {{"scales": 4}}; {count}',
            example="pyramid",
        ),
    )


# ---------------------------------------------------------------- dvidfs check


def check(pyramid: Pyramid, view: ReadView) -> Iterator[str]:
    """Blocks of the scales of this version that cannot be read; of some of each scale also whether they are right.

    Where a setting says how many scales there are a client may have given any blocks: then none is compared.
    """
    for scale in range(1, levels(pyramid, view).marked + 1):
        level, prefix = Level(view, scale, pyramid), bytes([scale])
        found, compared = level.walk(prefix, keys.after(prefix)), COMPARED if pyramid.setting else 0
        while part := list(islice(found, rows.LOOK)):
            for enc, payload in level.settle(part)[0]:
                fault = _fault(level, enc, payload, compare=compared < COMPARED) if payload else ""
                compared += 1
                if fault:
                    _, x, y, z = keys.decode_block(enc)
                    yield f"block {x}_{y}_{z} at scale {scale}: {fault}"


def _fault(level: Level, enc: bytes, payload: Buffer, *, compare: bool) -> str:
    decode = level.maker.decode
    try:
        voxels = decode(payload)
        made = next(payload for _, payload in level.make([enc])) if compare else None
    except Conflict:  # of what lies below: no fault of the store
        return ""
    except DvidfsError as error:
        return str(error)
    is_right = made is None or np.array_equal(decode(made), voxels)
    return "" if is_right else "it is not what the scale below says: rebuild it with `dvidfs pyramid`"
