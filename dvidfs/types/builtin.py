"""The datatypes that dvidfs has, in one list."""

from __future__ import annotations

from dataclasses import replace

from dvidfs.engine import jobs, repos
from dvidfs.types.base import DataType, Registry
from dvidfs.types.common import common_endpoints
from dvidfs.types.imageblk import IMAGE_TYPES
from dvidfs.types.keyvalue import KEYVALUE
from dvidfs.types.labelarray import LABELARRAY
from dvidfs.types.labelblk import LABELBLK
from dvidfs.types.labelmap import LABELMAP
from dvidfs.types.labelvol import LABELVOL
from dvidfs.types.roi import ROI

BUILTIN_TYPES = (KEYVALUE, *IMAGE_TYPES, LABELMAP, LABELARRAY, LABELBLK, LABELVOL, ROI)


def complete(kind: DataType) -> DataType:
    """A datatype with the endpoints that all have."""
    return replace(kind, endpoints=(*kind.endpoints, *common_endpoints(kind)))


def registry() -> Registry:
    """All datatypes; from now on this process can run their jobs and settle their merges."""
    for kind in BUILTIN_TYPES:
        jobs.KINDS.update(kind.jobs)
        if kind.merged is not None:
            repos.SETTLERS[kind.name] = kind.merged
    return Registry(complete(kind) for kind in BUILTIN_TYPES)
