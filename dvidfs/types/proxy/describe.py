"""What is found at a place: which array holds the voxels of a scale, which of its axes is which, where it lies in space.

Decides how the metadata of precomputed, Zarr (plain and OME) and N5 (plain, ``s0`` ``s1`` …, ``multiscales``) are understood; lengths are
turned into nanometers where their unit is known. Invariant: a :class:`Remote` is all that is needed to read the
volume later, in any process, and survives JSON. Sources: neuroglancer precomputed, OME-NGFF 0.4 and 0.5, N5 descriptions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dvidfs.errors import BadRequest, Corrupt, NotFound
from dvidfs.types.geometry import COORD_MAX, COORD_MIN, Box, Point
from dvidfs.types.proxy.places import Place, parse_place
from dvidfs.types.proxy.reach import answers, context, library

NANOMETERS = {
    "pm": 1e-3, "picometer": 1e-3, "angstrom": 0.1, "nm": 1.0, "nanometer": 1.0, "nanometers": 1.0, "um": 1e3, "µm": 1e3, "μm": 1e3,
    "micrometer": 1e3, "micron": 1e3, "mm": 1e6, "millimeter": 1e6, "cm": 1e7, "centimeter": 1e7, "m": 1e9, "meter": 1e9,
}  # fmt: skip
"""What a unit of length is in nanometers."""
_NAMES = {"zarr": {3: "zyx", 5: "tczyx"}, "n5": {3: "xyz", 4: "xyzc"}, "neuroglancer_precomputed": {4: "xyzc"}}
"""Axes of arrays that do not name them, by their number."""


@dataclass(frozen=True)
class Remote:
    """A volume that lives elsewhere. ``array`` is what tensorstore opens; ``axes`` says which of its axes are x, y and z, ``channel``
    which holds channels. ``offset``, ``size`` and ``chunk`` are (x, y, z) in voxels. ``jpeg``: chunks are stored as JPEG of 8-bit
    voxels, under ``key``, in shards if ``sharding`` says how. ``labels``: it says that it is a segmentation.
    """

    place: str
    scale: int
    array: Mapping[str, Any]
    axes: tuple[int, int, int]
    channel: int | None
    dtype: str
    channels: int
    offset: Point
    size: Point
    chunk: Point
    voxel_size: tuple[float, float, float] | None = None
    units: str = "nanometers"
    jpeg: bool = False
    key: str = ""
    sharding: Mapping[str, Any] | None = None
    labels: bool = False

    @property
    def box(self) -> Box:
        """The voxels that there are."""
        return Box(self.offset, self.size)

    @property
    def home(self) -> Place:
        return parse_place(self.place)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Remote:
        told: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}
        return cls(**told)


@dataclass(frozen=True)
class _Found:
    """An array and what stands beside it; lists are in the order of its axes."""

    driver: str
    url: str
    names: Sequence[str] | None = None
    scale: Sequence[float] | None = None
    shift: Sequence[float] | None = None
    units: Sequence[str] | None = None
    level: int | None = None


def describe(place: Place, scale: int) -> Remote:
    """Look at a place.

    Raises:
        BadRequest: no such volume or scale, or none with axes x, y and z.
        Unreachable: nobody answers.
    """
    found = _precomputed(place, scale) if place.format == "precomputed" else _LOOK[place.format](place, scale)
    array = {"driver": found.driver, "kvstore": found.url}
    if found.level is not None:
        array["scale_index"] = found.level
    try:
        store = open_array(place, array)
    except (NotFound, Corrupt) as error:
        raise BadRequest(f"there is no volume at {place}: {error}") from None
    return _arranged(place, scale, array, found, store)


def open_array(place: Place, array: Mapping[str, Any]) -> Any:
    """A tensorstore, for reading; what was read once is not asked for again."""
    told = {**array, "recheck_cached_data": False, "recheck_cached_metadata": False}
    ts = library()
    return answers(place.server, lambda: [ts.open(told, read=True, open=True, context=context())])[0]


# -- where the array is --------------------------------------------------------------------------------------------


def _precomputed(place: Place, scale: int) -> _Found:
    info = _documents(place, place.url, ["info"])["info"]
    if info is None:
        raise BadRequest(f"there is no volume at {place}: it has no file named info")
    _level(place, info.get("scales"), scale)
    return _Found("neuroglancer_precomputed", place.url, level=scale)


def _zarr(place: Place, scale: int, drivers: Sequence[str] = ("zarr3", "zarr")) -> _Found:
    wanted = {"zarr3": ["zarr.json"], "zarr": [".zarray", ".zattrs"]}
    said = _documents(place, place.url, [name for driver in drivers for name in wanted[driver]])
    if group := said.get("zarr.json"):
        attributes = group.get("attributes") or {}
        if group.get("node_type") == "array":
            return _alone(place, scale, _Found("zarr3", place.url, group.get("dimension_names")))
        ome = (attributes.get("ome") or {}).get("multiscales") or attributes.get("multiscales")
        return _multiscale(place, scale, "zarr3", ome)
    attributes = said.get(".zattrs") or {}
    if said.get(".zarray"):
        return _alone(place, scale, _Found("zarr", place.url, attributes.get("_ARRAY_DIMENSIONS")))
    if not attributes:
        names = " or ".join(name for name, text in said.items() if name != ".zattrs" and text is None)
        raise BadRequest(f"there is no volume at {place}: it has no file named {names}")
    return _multiscale(place, scale, "zarr", attributes.get("multiscales"))


def _multiscale(place: Place, scale: int, driver: str, listed: Any) -> _Found:
    """A scale of the first image that an OME group lists."""
    if not listed:
        raise BadRequest(f"{place} is a group that lists no multiscales: name one of its arrays")
    image = listed[0]
    chosen = _level(place, image.get("datasets"), scale)
    axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in image.get("axes") or ()]
    size, shift = _transform(
        [*chosen.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())]
    )
    names, units = [str(axis["name"]) for axis in axes] or None, [str(axis.get("unit", "")) for axis in axes] or None
    return _Found(driver, place.below(chosen["path"]), names, size, shift, units)


def _transform(steps: Sequence[Mapping[str, Any]]) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Scale and translation of steps that are done one after the other."""
    size: Sequence[float] | None = None
    shift: Sequence[float] | None = None
    for step in steps:
        if step.get("type") == "scale":
            factors = step["scale"]
            size = factors if size is None else [a * b for a, b in zip(size, factors, strict=True)]
            shift = None if shift is None else [a * b for a, b in zip(shift, factors, strict=True)]
        elif step.get("type") == "translation":
            shift = (
                step["translation"]
                if shift is None
                else [a + b for a, b in zip(shift, step["translation"], strict=True)]
            )
    return size, shift


def _n5(place: Place, scale: int) -> _Found:
    root = _documents(place, place.url, ["attributes.json"])["attributes.json"] or {}
    if "dimensions" in root:
        size, units = _n5_voxel(root)
        return _alone(place, scale, _Found("n5", place.url, None, size, None, units))
    listed = (root.get("multiscales") or [{}])[0].get("datasets")
    path = _level(place, listed, scale)["path"] if listed else f"s{scale}"
    below = place.below(path)
    own = _documents(place, below, ["attributes.json"])["attributes.json"]
    if own is None:
        raise BadRequest(f"there is no volume at {place}: neither it nor {path} below it has a file attributes.json")
    size, units = _n5_voxel(own)
    if size is None:
        size, units = _n5_voxel(root)
        factors = own.get("downsamplingFactors") or [1, 1, 1]
        size = None if size is None else [a * b for a, b in zip(size, factors, strict=True)]
    return _Found("n5", below, None, size, None, units)


def _n5_voxel(attributes: Mapping[str, Any]) -> tuple[Sequence[float] | None, Sequence[str] | None]:
    """Voxel size and units, x first."""
    pixel, transform = attributes.get("pixelResolution"), attributes.get("transform")
    if isinstance(transform, Mapping) and "scale" in transform:  # its lists are slowest axis first
        return list(reversed(transform["scale"])), list(reversed(transform.get("units", ())))
    if isinstance(pixel, Mapping):
        return pixel.get("dimensions"), [str(pixel.get("unit", ""))] * 3
    return attributes.get("resolution") or pixel, attributes.get("units")


_LOOK = {
    "zarr": _zarr,
    "zarr2": lambda place, scale: _zarr(place, scale, ("zarr",)),
    "zarr3": lambda place, scale: _zarr(place, scale, ("zarr3",)),
    "n5": _n5,
}


def _documents(place: Place, url: str, names: Sequence[str]) -> dict[str, Any]:
    """The JSON objects of files in a folder; None for one that is not there."""
    ts = library()
    folder = answers(place.server, lambda: [ts.KvStore.open(url, context=context())])[0]
    try:
        read = answers(place.server, lambda: [folder.read(name) for name in names])
    except NotFound:
        return dict.fromkeys(names)
    out = {}
    for name, result in zip(names, read, strict=True):
        try:
            out[name] = json.loads(result.value) if result.state == "value" else None
        except ValueError as error:
            raise BadRequest(f"{url}{name} is not JSON: {error}") from None
        if not isinstance(out[name], dict | None):
            raise BadRequest(f"{url}{name} is not a JSON object")
    return out


def _level(place: Place, scales: Any, scale: int) -> Mapping[str, Any]:
    if not isinstance(scales, list) or not scales:
        raise BadRequest(f"the metadata of {place} lists no scales")
    if scale >= len(scales):
        raise BadRequest(
            f"{place} has {len(scales)} scales: ScaleLevel {scale} is none of them, want 0 to {len(scales) - 1}"
        )
    return scales[scale]


def _alone(place: Place, scale: int, found: _Found) -> _Found:
    if scale:
        raise BadRequest(f"{place} is a single array: ScaleLevel must be 0, or name the group that lists its scales")
    return found


# -- what the array is ---------------------------------------------------------------------------------------------


def _arranged(place: Place, scale: int, array: Mapping[str, Any], found: _Found, store: Any) -> Remote:
    names = _axis_names(place, found, store)
    axes = [names.index(name) for name in "xyz"]
    channel = names.index("c") if "c" in names and store.shape[names.index("c")] > 1 else None
    for axis, name in enumerate(names):
        if name not in "xyzc" and store.shape[axis] > 1:
            raise BadRequest(
                f"{place} has {store.shape[axis]} items along axis {name}: only x, y, z and channels can be shown"
            )
    grid = store.chunk_layout.read_chunk.shape
    voxel_size, units = _voxel_size(found, store, axes)
    origin = [store.domain[axis].inclusive_min for axis in axes]
    if found.shift is not None and found.scale is not None:
        origin = [
            round(found.shift[a] / found.scale[a]) + o if found.scale[a] else o
            for a, o in zip(axes, origin, strict=True)
        ]
    remote = Remote(
        str(place),
        scale,
        array,
        (axes[0], axes[1], axes[2]),
        channel,
        store.dtype.name,
        store.shape[channel] if channel is not None else 1,
        _triple(origin),
        _triple([store.shape[axis] for axis in axes]),
        _triple([grid[axis] for axis in axes]),
        voxel_size,
        units,
        labels=store.spec().to_json().get("multiscale_metadata", {}).get("type") == "segmentation",
    )
    if min(remote.size) < 1 or min(remote.offset) < COORD_MIN or max(remote.box.last) > COORD_MAX:
        raise BadRequest(f"{place} covers {remote.box}: that is no volume with 32-bit coordinates")
    return _with_jpeg(remote, store) if place.format == "precomputed" else remote


def _triple(numbers: Sequence[Any]) -> Point:
    x, y, z = map(int, numbers)
    return x, y, z


def _axis_names(place: Place, found: _Found, store: Any) -> list[str]:
    """One letter for each axis of the array: x, y, z, c, or what else it is called."""
    given = found.names or (store.domain.labels if all(store.domain.labels) else None)
    names = [str(name).lower() for name in given or _NAMES[found.driver.rstrip("3")].get(store.rank, "")]
    names = ["c" if name == "channel" else name for name in names]
    if len(names) != store.rank or len(set(names)) != len(names) or not set("xyz") <= set(names):
        shown = ", ".join(names) if given else f"{store.rank} without names"
        raise BadRequest(f"{place} has the axes {shown}: a volume has x, y and z")
    return names


def _voxel_size(found: _Found, store: Any, axes: Sequence[int]) -> tuple[tuple[float, float, float] | None, str]:
    """Size of a voxel along x, y, z, and its unit; None where the metadata do not tell."""
    if found.scale is not None:
        sizes, units = [float(found.scale[a]) for a in axes], [(found.units or [""] * store.rank)[a] for a in axes]
    elif all(store.dimension_units[a] is not None for a in axes):
        known = [store.dimension_units[a] for a in axes]
        sizes, units = [unit.multiplier for unit in known], [unit.base_unit for unit in known]
    else:
        return None, "nanometers"
    factors = [NANOMETERS.get(unit.lower()) for unit in units]
    if None in factors:
        x, y, z = sizes
        return ((x, y, z), units[0] or "pixels") if min(sizes) > 0 else (None, "nanometers")
    x, y, z = (round(size * (factor or 1.0), 9) for size, factor in zip(sizes, factors, strict=True))
    return ((x, y, z) if min(x, y, z) > 0 else None), "nanometers"


def _with_jpeg(remote: Remote, store: Any) -> Remote:
    stored = store.spec().to_json()["scale_metadata"]
    is_gray = stored["encoding"] == "jpeg" and remote.dtype == "uint8" and remote.channels == 1
    return replace(remote, jpeg=is_gray, key=stored["key"], sharding=stored.get("sharding"))
