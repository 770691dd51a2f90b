"""Names of blocks, sizes and slices in the mount: each thing has one name, each name stands for one thing."""

from __future__ import annotations

import re
from typing import Any

from dvidfs.types.geometry import COORD_MAX, COORD_MIN, Point, join

_NUMBER = r"(-?[0-9]{1,10})"
_POINT = re.compile(f"{_NUMBER}_{_NUMBER}_{_NUMBER}")
_SLICE = re.compile(r"-?[0-9]{5,10}")
_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")

MAX_NAMES = 1_000_000
"""A folder of more entries can be named into, but is not listed."""


def parse_point(name: str) -> Point | None:
    """The coordinate (x, y, z) that a name ``x_y_z`` stands for, or None."""
    match = _POINT.fullmatch(name)
    if match is None:
        return None
    x, y, z = map(int, match.groups())
    return (x, y, z) if join((x, y, z)) == name and is_coordinate(x, y, z) else None


def parse_size(name: str) -> Point | None:
    """The same of a size: all sides positive."""
    size = parse_point(name)
    return size if size is not None and min(size) > 0 else None


def is_coordinate(*numbers: int) -> bool:
    """Whether all are signed 32-bit numbers."""
    return all(COORD_MIN <= n <= COORD_MAX for n in numbers)


def slice_name(number: int) -> str:
    return f"{number:06d}"


def parse_slice(name: str) -> int | None:
    """The voxel coordinate across a plane that a name stands for, or None."""
    return int(name) if _SLICE.fullmatch(name) and slice_name(int(name)) == name else None


def parse_index(name: str) -> int | None:
    """A number from 0 on, without leading zeros."""
    return int(name) if _INDEX.fullmatch(name) else None


def nothing(*_: Any) -> tuple[str, ...]:
    """Lists no names."""
    return ()


def always(*_: Any) -> bool:
    """Whatever is named is there."""
    return True
