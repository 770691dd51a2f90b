"""``roi``: regions of interest, sets of blocks that masks, points and partitions are asked of; versioned as a whole.

Here stand the tables that HTTP, the mount, help and docs are read from. Behaviour: reference DVID inventory 2.5 and the reference note
"annotation", roi.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from dvidfs import kernels
from dvidfs.engine.graph import Instance
from dvidfs.engine.versions import ReadView
from dvidfs.types.base import OCTETS, Body, DataType, Endpoint, Param, Setting
from dvidfs.types.geometry import COORD_MAX, COORD_MIN, parse_point
from dvidfs.types.roi import files, requests, store

_SPANS = "[[z, y, x0, x1], ...] in blocks, both ends inside."


def _nothing(keyword: str, *verbs: str) -> Iterator[Endpoint]:
    for verb in verbs:
        yield Endpoint(verb, keyword, requests.nothing, "Nothing: kept for old clients.", type="", example=keyword)


ENDPOINTS = (
    Endpoint(
        "GET",
        "roi",
        requests.get_roi,
        "The spans of the region.",
        detail=_SPANS + " In order of z, y, x0, as they were given: overlapping ones stay.",
        example="roi",
    ),
    Endpoint(
        "POST",
        "roi",
        requests.post_roi,
        "Replace the region of this version.",
        body=Body.BYTES,
        prepare=requests.prepare_roi,
        type="",
        detail="The body is "
        + _SPANS
        + " Any order; a span that ends before it begins is refused, and nothing is written.",
        example="roi",
    ),
    Endpoint("DELETE", "roi", requests.delete_roi, "Empty the region from this version on.", type="", example="roi"),
    *_nothing("roi", "HEAD", "PUT", "PATCH"),
    Endpoint(
        "GET",
        "mask/{dims}/{size}/{offset}",
        requests.get_mask,
        "One byte for each voxel of a box: 1 inside, 0 outside.",
        type=OCTETS,
        detail="dims: 0_1_2; size and offset: x_y_z in voxels. x fastest.",
        example="mask/0_1_2/64_64_64/0_0_0",
    ),
    Endpoint(
        "POST",
        "ptquery",
        requests.post_ptquery,
        "Which points are inside: a list of true and false.",
        body=Body.BYTES,
        lockable=False,
        detail="The body is [[x, y, z], ...] in voxels. Allowed on committed versions.",
        example="ptquery",
    ),
    *_nothing("ptquery", "HEAD", "PUT", "PATCH", "DELETE"),
    Endpoint(
        "GET",
        "partition",
        requests.get_partition,
        "The region cut into boxes of blocks, for work that is shared out.",
        query=(
            Param("batchsize", help="side of a box in blocks; must be given"),
            Param("optimized", lambda t: t in ("true", "on"), False, "true: boxes that fit closer, of different sizes"),
        ),
        example="partition?batchsize=8",
    ),
)


def _extended(instance: Instance, view: ReadView | None) -> Mapping[str, Any]:
    box = store.box(view) if view is not None else None
    low, high = (box.offset[2], box.last[2]) if box is not None else (COORD_MAX, COORD_MIN)
    return {"BlockSize": instance.settings["BlockSize"], "MinZ": low, "MaxZ": high}


def _block_size(text: str) -> list[int]:
    return list(parse_point(text, "BlockSize", ","))


ROI = DataType(
    name="roi",
    url="github.com/janelia-flyem/dvid/datatype/roi",
    version="0.1",
    summary="Regions of interest: sets of blocks, versioned as a whole.",
    endpoints=ENDPOINTS,
    tree=files.TREE,
    settings=(Setting("BlockSize", _block_size, [32, 32, 32], "voxels of a block along x, y, z"),),
    extended=_extended,
    verify=store.check,
    warm=partial(kernels.load, "rows_numba"),
)
