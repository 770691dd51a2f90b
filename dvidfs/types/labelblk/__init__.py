"""``labelblk``: the oldest volumes of 64-bit labels; labelvols that follow one show its labels as sparse volumes.

It is a labelmap in which every body is the one supervoxel of its number, with neither scales nor requests for labels.
The index is kept with the blocks, so that each labelvol reads and changes the one that it follows (:mod:`~dvidfs.types.labelvol`).
Here stand the tables that HTTP, the mount, help and docs are read from. Behaviour: DVID inventory 2.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from dvidfs.engine.graph import Instance
from dvidfs.engine.versions import ReadView
from dvidfs.types.base import OCTETS, DataType, Endpoint, Param
from dvidfs.types.imageblk import extents
from dvidfs.types.imageblk import settings as images
from dvidfs.types.labelarray import LABELS_AT
from dvidfs.types.labelarray.rows import fixed, row, rows
from dvidfs.types.labelblk import followers, voxels
from dvidfs.types.labelmap import LABELMAP, check, edits, files, settings
from dvidfs.types.labelmap.tables import STREAM, THROTTLE
from dvidfs.types.labelmap.volume import KIND as LABELS
from dvidfs.types.volumes.tree import file_endpoints, volume_tree

SIDE = 32
KIND = replace(
    LABELS,
    name=followers.NAME,
    values=(("uint64", followers.NAME),),
    url="github.com/janelia-flyem/dvid/datatype/labelblk",
    summary="Segmentation: 64-bit labels, shown as sparse volumes by labelvols.",
)

ENDPOINTS = (
    *rows(
        (
            ("GET", "label/{coord}"),
            ("GET", "raw/{dims}/{size}/{offset}/{format?}"),
            ("GET", "isotropic/{dims}/{size}/{offset}/{format?}"),
            ("GET", "pseudocolor/{dims}/{size}/{offset}/{format?}"),
            ("POST", "resolution"),
        ),
        supervoxels=False,
        scale=0,
    ),
    fixed(LABELS_AT, scale=0),
    replace(row("POST", "raw/{dims}/{size}/{offset}"), run=voxels.post_raw),
    replace(row("*", "metadata"), run=edits.metadata(KIND)),
    Endpoint(
        "GET",
        "blocks/{size}/{offset}",
        voxels.get_blocks,
        "The voxels of the stored blocks of a volume, as a stream of records.",
        query=(Param("compression", default="", help="lz4 (default) or uncompressed"), THROTTLE),
        type=OCTETS,
        throttled=True,
        detail="Size and offset, in voxels, are multiples of the block size. " + STREAM,
        example="blocks/64_64_64/0_0_0?compression=uncompressed",
    ),
)


def _extended(instance: Instance, view: ReadView | None) -> Mapping[str, Any]:
    first, last = instance.settings["MinPoint"], instance.settings["MaxPoint"]
    alone = images.corner_box(first, last) if first is not None else None
    shown = images.extended_json(KIND, instance.settings, extents.shown(view) if view else alone)
    return {**shown, "Interpolable": False, "MinIndex": None, "MaxIndex": None}


SOURCE = replace(files.SOURCE, change=voxels.change)

LABELBLK = DataType(
    name=KIND.name,
    url=KIND.url,
    version="0.1",
    summary=KIND.summary,
    endpoints=(*ENDPOINTS, *file_endpoints(SOURCE)),
    tree=volume_tree(SOURCE),
    settings=(
        replace(settings.SETTINGS[0], default=[SIDE] * 3),
        *(setting for setting in settings.SETTINGS[1:] if setting.name != "MaxDownresLevel"),
    ),
    extended=_extended,
    accepts_sync=lambda kind: kind in (followers.NAME, followers.VOLUMES),
    info_method="GET",
    check=images.check,
    refused_compressions=frozenset({"jpeg"}),
    verify=partial(check.verify, left_out=True),
    repair=LABELMAP.repair,
    warm=LABELMAP.warm,
    merged=LABELMAP.merged,
    volumes=(SOURCE,),
    intake=voxels.take,
)
