"""What an image instance can be told at creation, and how it shows itself in JSON.

Decides which settings are taken. The original takes nearly anything and fails later; here a list that is too short is
completed with its last number (a block of "32,32" is 32 deep), and what could never work is refused. Invariant: the settings
of an instance always describe a volume that can be read and written, except that its voxel size may be unknown (None).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from dvidfs.errors import BadRequest
from dvidfs.types.base import Setting
from dvidfs.types.geometry import (
    COORD_MAX,
    Box,
    Point,
    block_of,
    parse_floats,
    parse_int,
    parse_ints,
    parse_point,
    span,
)
from dvidfs.types.imageblk.kinds import VoxelKind
from dvidfs.types.proxy.places import names_a_place, resolve

MAX_BLOCK_VOXELS = 1 << 24
"""Voxels of a block (256 x 256 x 256); the default has 32,768."""
Extents = Mapping[str, list[int] | None]


def _block_size(text: str) -> list[int]:
    block = parse_ints(text, "BlockSize", 2 if text.count(",") == 1 else 3, ",")
    block = (*block, block[-1])[:3]
    if min(block) < 1 or math.prod(block) > MAX_BLOCK_VOXELS:
        raise BadRequest(f'BlockSize "{text}" cannot be: want sides above 0 and at most {MAX_BLOCK_VOXELS} voxels')
    return list(block)


def _voxel_size(text: str) -> list[float]:
    return voxel_size(parse_floats(text, "VoxelSize", min(text.count(",") + 1, 3)))


def voxel_size(numbers: tuple[float, ...] | list[float]) -> list[float]:
    """Voxel sizes along x, y, z; missing ones are the last one given, further ones are kept and mean nothing."""
    if not numbers or not all(math.isfinite(n) and n > 0 for n in numbers):
        raise BadRequest(f"VoxelSize {list(numbers)} cannot be: want three numbers above 0, as 8,8,8")
    return [*numbers, *[numbers[-1]] * (3 - len(numbers))]


def _voxel_units(text: str) -> list[str]:
    units = [unit.strip() for unit in text.split(",")]
    if len(units) > 3:
        raise BadRequest(f'VoxelUnits "{text}": want three units, as nanometers,nanometers,nanometers')
    return units + units[-1:] * (3 - len(units))


def _corner(name: str) -> Callable[[str], list[int]]:
    return lambda text: list(parse_point(text, name, ","))


def _grid_store(text: str) -> str:
    if text:
        resolve(text)
    return text


SETTINGS = (
    Setting("BlockSize", _block_size, [32, 32, 32], "voxels of a block along x, y, z"),
    Setting("VoxelSize", _voxel_size, [8.0, 8.0, 8.0], "size of a voxel along x, y, z"),
    Setting("VoxelUnits", _voxel_units, ["nanometers"] * 3, "unit of each voxel size"),
    Setting("MinPoint", _corner("MinPoint"), None, "first voxel of the volume, until something is written"),
    Setting("MaxPoint", _corner("MaxPoint"), None, "last voxel of the volume, until something is written"),
    Setting("Background", lambda text: parse_int(text, "Background", 0, 255), 0, "byte of blocks that are not stored"),
    Setting(
        "GridStore",
        _grid_store,
        "",
        "where the voxels live: alias of a configured store, or zarr://https://host/em.zarr",
        names_a_place,
    ),
    Setting("ScaleLevel", lambda text: parse_int(text, "ScaleLevel", 0, COORD_MAX), 0, "scale within the GridStore"),
)


def check(settings: Mapping[str, Any]) -> None:
    """Refuses settings that contradict each other."""
    corners = settings["MinPoint"], settings["MaxPoint"]
    if (corners[0] is None) != (corners[1] is None):
        raise BadRequest("MinPoint and MaxPoint must be given together")
    if corners[0] is not None:
        corner_box(*corners)


def corner_box(first: Any, last: Any) -> Box:
    """The box between two corners, both inside; BadRequest if the first lies behind the last."""
    if any(a > b for a, b in zip(first, last, strict=True)):
        raise BadRequest(f"MinPoint {list(first)} lies behind MaxPoint {list(last)}")
    return span(tuple(first), (last[0] + 1, last[1] + 1, last[2] + 1))


def extents_json(box: Box | None) -> Extents:
    return {"MinPoint": list(box.offset) if box else None, "MaxPoint": list(box.last) if box else None}


def extended_json(kind: VoxelKind, settings: Mapping[str, Any], box: Box | None) -> dict[str, Any]:
    """The ``Extended`` part of ``info`` for a volume with these extents."""
    block: Point = tuple(settings["BlockSize"])
    return {
        "Values": [{"DataType": value, "Label": label} for value, label in kind.values],
        "Interpolable": True,
        "BlockSize": settings["BlockSize"],
        "VoxelSize": numbers(settings["VoxelSize"]),
        "VoxelUnits": settings["VoxelUnits"],
        **extents_json(box),
        "MinIndex": list(block_of(box.offset, block)) if box else None,
        "MaxIndex": list(block_of(box.last, block)) if box else None,
        "Background": settings["Background"],
        "GridStore": settings["GridStore"],
        "ScaleLevel": settings["ScaleLevel"],
    }


def at_scale(settings: Mapping[str, Any], scale: int) -> dict[str, Any]:
    """The settings as they hold for a scale above 0: voxels are larger."""
    size = settings["VoxelSize"]
    return {**settings, "VoxelSize": None if size is None else [n * 2**scale for n in size]}


def metadata_json(kind: VoxelKind, settings: Mapping[str, Any], box: Box | None) -> dict[str, Any]:
    """The volume as dvid-nd-data: its axes, then all properties."""
    sizes, offsets = (box.size, box.offset) if box else ((0, 0, 0), (0, 0, 0))
    resolution = numbers(settings["VoxelSize"]) or [None] * 3
    axes = zip("XYZ", resolution, settings["VoxelUnits"], sizes, offsets, strict=False)
    return {
        "Axes": [
            {"Label": label, "Resolution": size, "Units": unit, "Size": n, "Offset": at}
            for label, size, unit, n, at in axes
        ],
        "Properties": extended_json(kind, settings, box),
    }


def numbers(values: list[float] | None) -> list[float] | None:
    """Whole numbers are written without a fraction, as the original does."""
    return None if values is None else [int(v) if float(v).is_integer() else v for v in values]
