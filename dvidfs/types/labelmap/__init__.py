"""``labelmap``: segmentation of 64-bit supervoxels in compressed blocks, mapped to bodies; the index says where each lies.

Here stand the tables that HTTP, the mount, help and docs are read from. Behaviour and byte formats: DVID inventory 2.7 and the reference
notes "labels", "sparsevol" and "labelmap".
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from dvidfs import kernels
from dvidfs.engine.versions import ReadView
from dvidfs.types.base import DataType
from dvidfs.types.imageblk import extents
from dvidfs.types.imageblk import settings as images
from dvidfs.types.labelmap import check, files, intake, repair, settings, tables, unite
from dvidfs.types.labelmap.scales import PYRAMID
from dvidfs.types.labelmap.volume import KIND
from dvidfs.types.pyramids import requests as pyramids
from dvidfs.types.pyramids import work
from dvidfs.types.volumes.tree import file_endpoints


def _extents(view: ReadView) -> Mapping[str, Any]:
    return images.extents_json(extents.shown(view))


def _warm() -> None:
    for name in ("blocks_numba", "labels_numba", "runs_numba", "votes_numba", "segmentation_numba", "varints_numba"):
        kernels.load(name)


LABELMAP = DataType(
    name=KIND.name,
    url=KIND.url,
    version="0.1",
    summary=KIND.summary,
    endpoints=(*tables.ENDPOINTS, *pyramids.endpoints(PYRAMID), *file_endpoints(files.SOURCE)),
    tree=files.TREE,
    settings=settings.SETTINGS,
    compression="gzip",
    extended=partial(settings.extended_json, KIND),
    extents=_extents,
    check=images.check,
    verify=check.verify,
    repair=repair.REPAIR,
    refused_compressions=frozenset({"jpeg"}),
    warm=_warm,
    merged=unite.settle,
    jobs={PYRAMID.job: work.stepper(PYRAMID)},
    volumes=(files.SOURCE, files.SUPERVOXELS),
    intake=intake.take,
    pyramid=PYRAMID,
)
