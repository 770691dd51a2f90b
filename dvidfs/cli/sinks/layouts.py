"""How volumes in chunks describe themselves: metadata of Zarr 3 and 2, N5 and precomputed, for tensorstore and for readers.

Decides chunks, shards and packing; the image of an OME-Zarr is described as in the mount (:mod:`dvidfs.types.volumes.zarr`). Sources: OME-NGFF 0.5
and 0.4, Zarr 3 codecs, N5 description, neuroglancer precomputed and its sharded format.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from dvidfs.errors import BadRequest
from dvidfs.types.formats.frame import Frame
from dvidfs.types.geometry import Point, parse_int
from dvidfs.types.proxy.places import Place
from dvidfs.types.volumes.precomputed import scale_key
from dvidfs.types.volumes.source import Shape
from dvidfs.types.volumes.zarr import attributes_v2, group_v3

SHARD = 64 << 20
"""Voxels of a shard, in bytes, at most: a shard is made in memory."""
ENCODINGS = {
    "zarr": ("zstd", "gzip", "raw"),
    "zarr2": ("zstd", "gzip", "raw"),
    "n5": ("gzip", "zstd", "raw"),
    "precomputed": ("raw", "jpeg", "png", "compressed_segmentation"),
}
"""How chunks may be packed, the default first (of labels in precomputed: compressed_segmentation)."""
_NAMES = {"zarr3": "zarr", "jpg": "jpeg", "compressed": "compressed_segmentation"}
_QUALITY = 80
_OF_LABELS = "compressed_segmentation"


@dataclass(frozen=True)
class Layout:
    """A format with its choices; ``chunk`` is (x, y, z) in voxels. ``labels``: the voxels are numbers of things."""

    format: str
    chunk: Point
    encoding: str
    quality: int = _QUALITY
    sharded: bool = False
    labels: bool = False

    @classmethod
    def of(cls, form: str, chunk: Point, encoding: str | None, sharded: bool, *, labels: bool = False) -> Layout:
        """Raises BadRequest for an encoding that the format has not."""
        form = _NAMES.get(form, form)
        default = _OF_LABELS if labels and form == "precomputed" else ENCODINGS[form][0]
        word, colon, quality = (encoding or default).lower().partition(":")
        word = _NAMES.get(word, word)
        if word not in ENCODINGS[form] or (colon and word != "jpeg"):
            raise BadRequest(f"--encoding {encoding}: {form} has {', '.join(ENCODINGS[form])}")
        if sharded and form not in ("zarr", "precomputed"):
            raise BadRequest(f"--sharded: {form} has no shards, precomputed and Zarr 3 have")
        most = parse_int(quality, "JPEG quality", 1, 100) if colon else _QUALITY
        return cls(form, chunk, word, most, sharded, labels)

    def plan(self) -> list[Any]:
        return [self.format, self.chunk, self.encoding, self.quality, self.sharded and SHARD]

    def check(self, frame: Frame) -> None:
        """Refuses voxels that the encoding cannot hold."""
        name = frame.dtype.name
        can = {
            "jpeg": name == "uint8" and not frame.channels,
            "png": name in ("uint8", "uint16"),
            "compressed_segmentation": name in ("uint32", "uint64") and not frame.channels,
        }
        if not can.get(self.encoding, True):
            shown = f"{name} in {frame.channels[0]} channels" if frame.channels else name
            raise BadRequest(f"--encoding {self.encoding} cannot hold voxels of {shown}: choose raw")

    def order(self, channels: bool) -> str:
        """The axes of the arrays."""
        return {"precomputed": "xyzc", "n5": "xyzc" if channels else "xyz"}.get(
            self.format, "czyx" if channels else "zyx"
        )

    # -- what readers see ------------------------------------------------------------------------------------

    def documents(self, name: str, shapes: list[Shape]) -> dict[str, bytes]:
        """Files of metadata above the arrays."""
        made = {
            "zarr": lambda: {"zarr.json": group_v3(name, shapes)},
            "zarr2": lambda: {".zgroup": {"zarr_format": 2}, ".zattrs": attributes_v2(name, shapes)},
            "n5": lambda: {"attributes.json": _n5_group(name, shapes)},
        }.get(self.format, dict)()
        return {key: orjson.dumps(data, option=orjson.OPT_INDENT_2) for key, data in made.items()}

    def array(self, place: Place, number: int, shape: Shape) -> dict[str, Any]:
        """What tensorstore makes an array from."""
        if self.format == "precomputed":
            return self._precomputed(place, number, shape)
        make = {"zarr": self._zarr3, "zarr2": self._zarr2, "n5": self._n5}[self.format]
        path = f"s{number}" if self.format == "n5" else str(number)
        driver = {"zarr": "zarr3", "zarr2": "zarr", "n5": "n5"}[self.format]
        return {"driver": driver, "kvstore": place.below(path), "metadata": make(shape, number)}

    def _zarr3(self, shape: Shape, number: int) -> dict[str, Any]:
        channels = shape.kind.channels
        packers = {"zstd": {"cname": "zstd", "clevel": 3, "shuffle": _shuffle(shape)}, "gzip": {"level": 5}}
        codecs: list[Any] = [{"name": "bytes", "configuration": {"endian": "little"}}]
        if self.encoding != "raw":
            codec = {"zstd": "blosc", "gzip": "gzip"}[self.encoding]
            codecs.append({"name": codec, "configuration": packers[self.encoding]})
        chunk = [*channels, *reversed(self.chunk)]
        if self.sharded:
            inner = {"chunk_shape": chunk, "codecs": codecs,
                     "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]}  # fmt: skip
            codecs = [{"name": "sharding_indexed", "configuration": inner}]
            chunk = [*channels, *reversed(self._shard(shape))]
        return {
            "shape": [*channels, *shape.extents.shape],
            "data_type": shape.kind.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "fill_value": 0,
            "codecs": codecs,
            "dimension_names": [*"c"[: len(channels)], "z", "y", "x"],
        }

    def _shard(self, shape: Shape) -> Point:
        """Sides of a shard: chunks doubled along z, y and x in turn while they are within the volume and the limit."""
        sides = list(self.chunk)
        for axis in [2, 1, 0] * 12:
            if sides[axis] < shape.extents.size[axis] and 2 * math.prod(sides) * shape.kind.bytes <= SHARD:
                sides[axis] *= 2
        return sides[0], sides[1], sides[2]

    def _zarr2(self, shape: Shape, number: int) -> dict[str, Any]:
        packers = {
            "zstd": {"id": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 1 if shape.kind.dtype.itemsize > 1 else 0},
            "gzip": {"id": "gzip", "level": 5},
            "raw": None,
        }
        return {
            "shape": [*shape.kind.channels, *shape.extents.shape],
            "chunks": [*shape.kind.channels, *reversed(self.chunk)],
            "dtype": shape.kind.dtype.str,
            "compressor": packers[self.encoding],
            "fill_value": 0,
            "order": "C",
            "filters": None,
            "dimension_separator": "/",
        }

    def _n5(self, shape: Shape, number: int) -> dict[str, Any]:
        packers = {
            "gzip": {"type": "gzip", "level": 5},
            "zstd": {"type": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 0},
        }
        return {
            "dimensions": [*shape.extents.size, *shape.kind.channels],
            "blockSize": [*self.chunk, *shape.kind.channels],
            "dataType": shape.kind.dtype.name,
            "compression": packers.get(self.encoding, {"type": "raw"}),
            "units": [*["nm"] * 3, *[""] * len(shape.kind.channels)],
            "resolution": [*shape.frame.nanometers, *[1.0] * len(shape.kind.channels)],
        }

    def _precomputed(self, place: Place, number: int, shape: Shape) -> dict[str, Any]:
        kind = shape.kind
        scale: dict[str, Any] = {
            "key": scale_key(shape),
            "size": shape.extents.size,
            "resolution": shape.frame.nanometers,
            "voxel_offset": shape.extents.offset,
            "chunk_size": self.chunk,
            "encoding": self.encoding,
        }
        if self.encoding == "jpeg":
            scale["jpeg_quality"] = self.quality
        if self.encoding == "compressed_segmentation":
            scale["compressed_segmentation_block_size"] = [8, 8, 8]
        if self.sharded:
            scale["sharding"] = self._sharding(shape)
        return {
            "driver": "neuroglancer_precomputed",
            "kvstore": place.url,
            "multiscale_metadata": {
                "type": "segmentation" if self.labels or self.encoding == _OF_LABELS else "image",
                "data_type": kind.dtype.name,
                "num_channels": kind.channels[0] if kind.channels else 1,
            },
            "scale_metadata": scale,
        }

    def _sharding(self, shape: Shape) -> dict[str, Any]:
        """As many chunks in a shard, all in one minishard, as :data:`SHARD` allows."""
        grid = [-(-n // c) for n, c in zip(shape.extents.size, self.chunk, strict=True)]
        bits = sum((n - 1).bit_length() for n in grid)
        room = max(1, SHARD // (math.prod(self.chunk) * shape.kind.bytes)).bit_length() - 1
        packed = "raw" if self.encoding in ("jpeg", "png") else "gzip"
        return {
            "@type": "neuroglancer_uint64_sharded_v1",
            "hash": "identity",
            "preshift_bits": min(room, bits),
            "minishard_bits": 0,
            "shard_bits": max(0, bits - room),
            "minishard_index_encoding": "gzip",
            "data_encoding": packed,
        }


def _shuffle(shape: Shape) -> str:
    return "shuffle" if shape.kind.dtype.itemsize > 1 else "noshuffle"


def _n5_group(name: str, shapes: Sequence[Shape]) -> dict[str, Any]:
    """Scales as the N5 viewers know them, and as OME does."""
    finest = shapes[0]
    factors = [[2**n] * 3 for n in range(len(shapes))]
    datasets = [
        {
            "path": f"s{n}",
            "transform": {
                "axes": ["z", "y", "x"],
                "scale": [*reversed(shape.frame.nanometers)],
                "translate": [
                    o * s + (s - f) / 2
                    for o, s, f in zip(
                        shape.extents.origin,
                        reversed(shape.frame.nanometers),
                        reversed(finest.frame.nanometers),
                        strict=True,
                    )
                ],
                "units": ["nm"] * 3,
            },
        }
        for n, shape in enumerate(shapes)
    ]
    return {
        "n5": "2.0.0",
        "pixelResolution": {"unit": "nm", "dimensions": [*finest.frame.nanometers]},
        "scales": factors,
        "downsamplingFactors": factors,
        "multiscales": [{"name": name, "datasets": datasets}],
    }
