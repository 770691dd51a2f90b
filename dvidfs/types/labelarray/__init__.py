"""``labelarray``: segmentation of 64-bit labels in compressed blocks, as labelmap has them, but mapped to nothing.

It is a labelmap in which every body is the one supervoxel of its number: blocks, index, scales and files are labelmap's.
Here stand the tables that HTTP, the mount, help and docs are read from. Behaviour: DVID inventory 2.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dvidfs.engine.graph import Instance
from dvidfs.engine.versions import ReadView
from dvidfs.types.base import Body, Endpoint, Param, Setting
from dvidfs.types.common import parse_bool
from dvidfs.types.imageblk import settings as images
from dvidfs.types.labelarray import files, requests
from dvidfs.types.labelarray.rows import row, rows
from dvidfs.types.labelmap import LABELMAP, edits, settings
from dvidfs.types.labelmap.scales import PYRAMID
from dvidfs.types.labelmap.tables import RUNS
from dvidfs.types.labelmap.volume import KIND as LABELS
from dvidfs.types.pyramids import requests as pyramids
from dvidfs.types.volumes.tree import file_endpoints

KIND = replace(
    LABELS,
    name="labelarray",
    values=(("uint64", "labelarray"),),
    url="github.com/janelia-flyem/dvid/datatype/labelarray",
    summary="Segmentation: 64-bit labels in compressed blocks, without supervoxels.",
)
SPLIT_LABEL = Param("splitlabel", edits.parse_label, help="the number of the new label; without it the next one")

MERGE = Endpoint(
    "POST",
    "merge",
    requests.post_merge,
    "Merge labels into one.",
    body=Body.JSON,
    prepare=requests.prepare_merge,
    type="",
    detail="The body: [target, label, label, ...].",
    example="merge",
)
SPLIT = Endpoint(
    "POST",
    "split/{label}",
    requests.post_split,
    "Take voxels of a label out into a new one.",
    body=Body.BYTES,
    query=(SPLIT_LABEL,),
    prepare=requests.prepare_split,
    detail='The body is a sparse volume (rles) of some of its voxels, each once, and no others. The answer: {"label": 91}',
    example="split/23",
)
SPLIT_COARSE = Endpoint(
    "POST",
    "split-coarse/{label}",
    requests.post_split,
    "Take blocks of a label out into a new one.",
    body=Body.BYTES,
    query=(SPLIT_LABEL,),
    prepare=requests.prepare_split_coarse,
    detail='The body is a coarse sparse volume (rles) of some of its blocks, and no others. The answer: {"label": 92}',
    example="split-coarse/23",
)
LABELS_AT = replace(row("GET", "labels", supervoxels=False), run=requests.get_labels)

_READ = (
    ("GET", "specificblocks"),
    ("GET", "label/{coord}"),
    ("GET", "blocks/{size}/{offset}"),
    ("GET", "raw/{dims}/{size}/{offset}/{format?}"),
    ("GET", "isotropic/{dims}/{size}/{offset}/{format?}"),
    ("GET", "pseudocolor/{dims}/{size}/{offset}/{format?}"),
    ("HEAD", "sparsevol/{label}"),
    ("GET", "sparsevol-coarse/{label}"),
    ("GET", "sparsevols-coarse/{begin}/{end}"),
    ("GET", "nextlabel"),
    ("POST", "resolution"),
)
ENDPOINTS = (
    *rows(_READ, supervoxels=False),
    LABELS_AT,
    replace(
        row("GET", "sparsevol/{label}", supervoxels=False),
        run=requests.get_sparsevol,
        detail=RUNS + "404 if no voxel lies in the box.",
    ),
    replace(row("*", "sparsevol-by-point/{coord}", supervoxels=False), run=requests.get_sparsevol_by_point),
    replace(row("POST", "raw/{dims}/{size}/{offset}"), prepare=requests.prepare_raw),
    replace(row("POST", "blocks", noindexing=False), prepare=requests.prepare_blocks),
    replace(row("*", "metadata"), run=edits.metadata(KIND)),
    Endpoint(
        "GET",
        "sparsevol-size/{label}",
        requests.get_size,
        "The blocks of a label.",
        detail='{"numblocks": 3, "minvoxel": [0, 0, 0], "maxvoxel": [63, 63, 63]}: of whole blocks.',
        example="sparsevol-size/23",
    ),
    Endpoint(
        "GET", "maxlabel", requests.get_maxlabel, "The largest label that this version wrote.", example="maxlabel"
    ),
    MERGE,
    SPLIT,
    SPLIT_COARSE,
)


def _extended(instance: Instance, view: ReadView | None) -> Mapping[str, Any]:
    shown = settings.extended_json(KIND, instance, view)
    return {**shown, "CountLabels": instance.settings["CountLabels"]}


SETTINGS = (
    replace(settings.SETTINGS[0], parse=images.SETTINGS[0].parse),
    *settings.SETTINGS[1:],
    Setting("CountLabels", parse_bool, True, "taken and shown, without effect: voxels are always counted"),
)

LABELARRAY = replace(
    LABELMAP,
    name=KIND.name,
    url=KIND.url,
    summary=KIND.summary,
    endpoints=(*ENDPOINTS, *pyramids.endpoints(PYRAMID), *file_endpoints(files.SOURCE)),
    tree=files.TREE,
    settings=SETTINGS,
    extended=_extended,
    intake=requests.take,
)
