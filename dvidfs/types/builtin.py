"""The datatypes that dvidfs has, in one list."""

from __future__ import annotations

from dataclasses import replace

from dvidfs.types.base import DataType, Registry
from dvidfs.types.common import common_endpoints
from dvidfs.types.imageblk import UINT8BLK
from dvidfs.types.keyvalue import KEYVALUE

BUILTIN_TYPES = (KEYVALUE, UINT8BLK)


def complete(kind: DataType) -> DataType:
    """A datatype with the endpoints that all have."""
    return replace(kind, endpoints=(*kind.endpoints, *common_endpoints(kind)))


def registry() -> Registry:
    return Registry(complete(kind) for kind in BUILTIN_TYPES)
