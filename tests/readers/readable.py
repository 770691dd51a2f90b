"""Volumes of every voxel type whose voxels are known, in a store that is served and mounted; and what a reader makes of them.

Decides the voxels. Each volume begins at a negative odd coordinate, ends inside a block, and has a corner that is not stored; so
whatever is shifted, padded or turned round is seen. Voxels are equal in cells of 2x2x2, so those of scale 1 are known
too: the mean of equal numbers. Invariant: arrays are (z, y, x) or (z, y, x, channel), points and sizes (x, y, z).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import live
import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import open_engine

Point = tuple[int, int, int]

SCALES = (0, 1)

VOXEL_SIZE = (8.0, 10.0, 40.0)
FIRST, LAST = (-21, -5, 19), (75, 70, 41)
"""The extents, both corners inside: two chunks of 64 voxels along x and y."""
HOLE = 32
"""No block is stored where both x and y are at least so large: one chunk is absent."""


@dataclass(frozen=True)
class Sample:
    """A volume: ``block`` is the length of a block's side."""

    typename: str
    dtype: str
    block: int
    channels: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        return self.typename.removesuffix("blk")

    @cached_property
    def _cells(self) -> NDArray:
        """One number for each 2x2x2 voxels of the blocks around the extents."""
        low, high = self._whole
        cells = [(b - a) // 2 for a, b in zip(low[::-1], high[::-1], strict=True)]
        rng = np.random.default_rng(7)
        if np.dtype(self.dtype).kind == "f":
            return rng.normal(0, 1000, (*cells, *self.channels)).astype(self.dtype)
        top = np.iinfo(self.dtype).max
        return rng.integers(0, top, (*cells, *self.channels), self.dtype, endpoint=True)

    @property
    def _whole(self) -> tuple[Point, Point]:
        """The blocks around the extents: first voxel, and just behind the last."""
        b = self.block
        x, y, z = (n - n % b for n in FIRST)
        p, q, r = (n - n % b + b for n in LAST)
        return (x, y, z), (p, q, r)

    @cached_property
    def _stored(self) -> NDArray:
        """The voxels of the blocks around the extents."""
        voxels = self._cells
        for axis in range(3):
            voxels = voxels.repeat(2, axis)
        x, y, _ = self._whole[0]
        voxels[:, HOLE - y :, HOLE - x :] = 0
        return voxels

    def first(self, scale: int) -> Point:
        """The first voxel of the extents at a scale."""
        x, y, z = (n >> scale for n in FIRST)
        return x, y, z

    def voxels(self, scale: int = 0) -> NDArray:
        """The extents at a scale."""
        step = 1 << scale
        whole = self._stored[::step, ::step, ::step]
        low = [(a >> scale) - (o >> scale) for a, o in zip(FIRST, self._whole[0], strict=True)]
        high = [(a >> scale) - (o >> scale) + 1 for a, o in zip(LAST, self._whole[0], strict=True)]
        x, y, z = (slice(a, b) for a, b in zip(low, high, strict=True))
        return whole[z, y, x]

    def box(self, first: Point, size: Point) -> NDArray:
        """Any box; 0 where nothing is stored."""
        out = np.zeros((*size[::-1], *self.channels), self.dtype)
        low, high = self._whole
        start = [max(a, o) for a, o in zip(first, low, strict=True)]
        stop = [min(a + n, p) for a, n, p in zip(first, size, high, strict=True)]
        if all(a < b for a, b in zip(start, stop, strict=True)):
            x, y, z = (slice(a - f, b - f) for a, b, f in zip(start, stop, first, strict=True))
            u, v, w = (slice(a - o, b - o) for a, b, o in zip(start, stop, low, strict=True))
            out[z, y, x] = self._stored[w, v, u]
        return out

    def store(self, server: live.Http, uuid: str) -> None:
        """Makes the instance, through HTTP, and writes it."""
        size = f"{self.block},{self.block},{self.block}"
        words = {"typename": self.typename, "dataname": self.name, "BlockSize": size}
        words["VoxelSize"] = ",".join(map(str, VOXEL_SIZE))
        server.post(f"/api/repo/{uuid}/instance", words).ok()
        low, high = self._whole
        b, node = self.block, f"/api/node/{uuid}/{self.name}"
        for z in range(low[2], high[2], b):
            for y in range(low[1], high[1], b):
                for x in range(low[0], high[0], b):
                    if x >= HOLE and y >= HOLE:
                        continue
                    part = self._stored[
                        tuple(slice(n - o, n - o + b) for n, o in zip((z, y, x), low[::-1], strict=True))
                    ]
                    server.post(f"{node}/raw/0_1_2/{b}_{b}_{b}/{x}_{y}_{z}", part.tobytes()).ok()
        server.post(f"{node}/extents", {"MinPoint": FIRST, "MaxPoint": LAST}).ok()


SAMPLES = {
    sample.name: sample
    for sample in (
        Sample("uint8blk", "|u1", 16),
        Sample("uint16blk", "<u2", 32),
        Sample("uint32blk", "<u4", 16),
        Sample("uint64blk", "<u8", 32),
        Sample("float32blk", "<f4", 16),
        Sample("rgba8blk", "|u1", 32, (4,)),
    )
}


@dataclass(frozen=True)
class Library:
    """All samples in the committed version ``uuid``, mounted and served; ``child`` is open."""

    mount: live.Mount
    uuid: str
    child: str
    store: Path
    alias: str = "readers"

    def folder(self, sample: Sample, scale: int = 0) -> Path:
        """The files of a volume at a scale."""
        instance = self.mount.path / self.alias / self.uuid / sample.name
        return instance / "scales" / str(scale) if scale else instance

    def readers(self) -> int:
        """Snapshots of the store that are or were open at the same time."""
        with open_engine(self.store) as engine:
            return engine.store.statistics()["readers"]

    def new(self, typename: str, last: Point) -> Path:
        """The folder of a new volume in the open version: nothing is stored, its extents begin at 0."""
        name = f"{typename}_{join(last)}"
        self.mount.post(f"/api/repo/{self.child}/instance", {"typename": typename, "dataname": name}).ok()
        body = {"MinPoint": (0, 0, 0), "MaxPoint": last}
        self.mount.post(f"/api/node/{self.child}/{name}/extents", body).ok()
        return self.mount.path / self.alias / self.child / name

    def path(self, sample: Sample, path: str) -> str:
        """The same over HTTP."""
        return f"/api/node/{self.uuid}/{sample.name}/{path}"


@dataclass(frozen=True)
class Seen:
    """What a reader found: voxels in the order of arrays, and where the format tells it, (x, y, z) of spacing and place."""

    voxels: Any
    spacing: tuple[float, ...] | None = None
    origin: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Reader:
    """A program that opens a file ``view`` of a volume: ``read(path, wanted)``; of what it should find only shape and type may be used."""

    program: str
    view: str
    read: Callable[[Path, NDArray], Seen]

    def __str__(self) -> str:
        return f"{self.program}-{self.view}"


def join(numbers: Point) -> str:
    return "_".join(map(str, numbers))


def bits(voxels: Any) -> NDArray:
    """An array as numbers of its bytes: comparable whatever they mean, little-endian."""
    array = np.ascontiguousarray(voxels)
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return array.view(f"<u{array.dtype.itemsize}")


def check_same(found: Any, wanted: NDArray) -> None:
    """The same shape, type and bits."""
    array = np.asarray(found)
    assert array.shape == wanted.shape
    assert array.dtype.newbyteorder("=") == wanted.dtype.newbyteorder("=")
    assert np.array_equal(bits(array), bits(wanted)), f"{int((bits(array) != bits(wanted)).sum())} voxels differ"
