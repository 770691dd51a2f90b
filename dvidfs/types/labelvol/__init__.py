"""``labelvol``: the labels of a labelblk as sparse volumes, and their mutations; both must follow each other.

Here stand the tables that HTTP, the mount, help and docs are read from. Behaviour: DVID inventory 2.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dvidfs.engine.graph import Instance
from dvidfs.engine.versions import ReadView
from dvidfs.types.base import OCTETS, DataType, Endpoint, Param
from dvidfs.types.imageblk import settings as images
from dvidfs.types.labelarray import MERGE, SPLIT, SPLIT_COARSE
from dvidfs.types.labelblk import LABELBLK, followers
from dvidfs.types.labelmap import counters
from dvidfs.types.labelmap.tables import BOX, RUNS
from dvidfs.types.labelvol import files, requests, source

COMPRESSION = Param("compression", default="", help="lz4 or gzip; without it plain")
EXACT = Param("exact", default="", help="false: whole blocks that the box touches")

ENDPOINTS = (
    Endpoint(
        "GET",
        "sparsevol/{label}",
        requests.get_sparsevol,
        "The voxels of a label.",
        query=(COMPRESSION, *BOX, EXACT),
        type=OCTETS,
        detail=RUNS,
        example="sparsevol/23",
    ),
    Endpoint(
        "HEAD",
        "sparsevol/{label}",
        requests.head_sparsevol,
        "Whether a label has blocks within a box: 200 or 204.",
        query=BOX,
        type="",
        example="sparsevol/23",
    ),
    Endpoint(
        "GET",
        "sparsevol-by-point/{coord}",
        requests.get_sparsevol_by_point,
        "The voxels of the label at a point.",
        query=(COMPRESSION, *BOX, EXACT),
        type=OCTETS,
        detail="coord: x_y_z. " + RUNS,
        example="sparsevol-by-point/10_20_30",
    ),
    Endpoint(
        "GET",
        "sparsevol-coarse/{label}",
        requests.get_coarse,
        "The blocks of a label.",
        type=OCTETS,
        detail="Runs whose numbers count blocks.",
        example="sparsevol-coarse/23",
    ),
    Endpoint(
        "GET", "maxlabel", requests.get_maxlabel, "The largest label that this version wrote.", example="maxlabel"
    ),
    Endpoint("GET", "nextlabel", requests.get_nextlabel, "The next new label.", example="nextlabel"),
    replace(MERGE, run=requests.post_merge, prepare=requests.prepare_merge),
    replace(SPLIT, run=requests.post_split, prepare=requests.prepare_split),
    replace(SPLIT_COARSE, run=requests.post_split, prepare=requests.prepare_split_coarse),
    Endpoint(
        "DELETE",
        "area/{label}/{size}/{offset}",
        requests.delete_area,
        "Leave blocks out of the volume of a label; the voxels of the labelblk stay.",
        type="",
        detail="Size and offset, in voxels, are multiples of the block size.",
        example="area/23/64_64_64/0_0_0",
    ),
    Endpoint(
        "POST",
        "resync/{label}",
        requests.post_resync,
        "Make the volume of a label anew, from the voxels of the labelblk.",
        prepare=requests.prepare_resync,
        type="",
        example="resync/23",
    ),
)


def _extended(instance: Instance, view: ReadView | None) -> Mapping[str, Any]:
    told = instance.settings
    labels = None if view is None else source.find(view)
    return {
        "VoxelSize": images.numbers(told["VoxelSize"]),
        "VoxelUnits": told["VoxelUnits"],
        "BlockSize": told["BlockSize"],
        "MaxLabel": {} if labels is None else counters.by_version(labels),
        "MaxRepoLabel": 0 if labels is None else counters.largest_anywhere(labels.txn, labels.instance),
    }


LABELVOL = DataType(
    name=followers.VOLUMES,
    url="github.com/janelia-flyem/dvid/datatype/labelvol",
    version="0.1",
    summary="The labels of a labelblk as sparse volumes.",
    endpoints=tuple(replace(row, cached=False) if not row.writes else row for row in ENDPOINTS),
    tree=files.TREE,
    settings=tuple(row for row in LABELBLK.settings if row.name in ("BlockSize", "VoxelSize", "VoxelUnits")),
    extended=_extended,
    accepts_sync=lambda kind: kind == followers.NAME,
)
