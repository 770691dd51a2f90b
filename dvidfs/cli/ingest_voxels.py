"""The steps of an import of voxels: slabs of whole blocks, cut where the blocks of the instance are.

Decides how a volume is cut, and what becomes of its samples: little-endian, one item for each voxel, alpha 255 where colours have none.
Invariant: a block belongs to one step, so steps can be prepared before the ones before them are written; at the
edges of the volume a block keeps what it held.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvidfs.cli.ingest import Target, Write
from dvidfs.cli.sources.base import COLOURS, Source, What
from dvidfs.engine import ReadView
from dvidfs.errors import BadRequest
from dvidfs.types import workers
from dvidfs.types.geometry import COORD_MAX, Box, Point, covering_blocks, each_block
from dvidfs.types.imageblk import requests
from dvidfs.types.imageblk.kinds import KINDS, VoxelKind
from dvidfs.types.imageblk.volume import Volume, check_writable

STEP_BYTES = 64 << 20
"""Voxels of a step; one that is a whole row of blocks may be larger."""
_OPAQUE = 255


def type_of(what: What) -> str:
    """The datatype whose voxels these are.

    Raises:
        BadRequest: none has such voxels; the text says what they would have to be converted to.
    """
    found = next((kind.name for kind in KINDS.values() if _is(what, kind)), None)
    if found is not None:
        return found
    shown = f"{what.dtype.newbyteorder('=')}{f' in {what.channels} channels' if what.channels else ''}"
    raise BadRequest(f"{what.title} holds {shown}, which no datatype has: convert it to {_right(what)} first")


def _is(what: What, kind: VoxelKind) -> bool:
    is_same = what.dtype.newbyteorder("<") == kind.dtype
    return is_same and (what.channels in COLOURS if kind.channels else not what.channels)


def _right(what: What) -> str:
    """What voxels of no datatype could become without loss, or nearly."""
    if what.channels:
        return "uint8 (rgba8blk)"
    if what.dtype.kind == "f":
        return "float32 (float32blk)"
    if what.dtype.kind not in "iu":
        return "uint8 (uint8blk)"
    return f"uint{8 * what.dtype.itemsize} (uint{8 * what.dtype.itemsize}blk)"


def check_fits(what: What, typename: str, offset: Point) -> None:
    """Refuse a volume that an instance of this type cannot take at this place.

    Raises:
        BadRequest: it has other voxels, or lies beyond the last coordinate.
    """
    kind = KINDS.get(typename)
    if kind is None:
        raise BadRequest(f"type {typename} takes no voxels: import a volume into one such as uint8blk")
    if not _is(what, kind):
        shown = f"{what.channels} channels of {what.dtype}" if what.channels else str(what.dtype.newbyteorder("="))
        wanted = "3 or 4 channels of uint8" if kind.channels else str(kind.dtype)
        raise BadRequest(f"{what.title} holds {shown}, {typename} holds {wanted}: convert it first")
    if any(o + n - 1 > COORD_MAX for o, n in zip(offset, reversed(what.shape), strict=True)):
        raise BadRequest(f"{what.title} would end beyond {COORD_MAX}, the last coordinate: choose another --offset")


class VoxelSteps:
    """A volume in slabs of blocks: layers one block high, several where they are small, cut along y where they are large."""

    def __init__(self, target: Target, source: Source, offset: Point) -> None:
        self.block: Point = tuple(target.read()[1].settings["BlockSize"])
        self.target = target
        self.source = source
        self.offset = offset
        self.title = source.what.title
        depth, height, _ = source.what.shape
        row = source.what.row * self.block[1] * self.block[2]
        rows = max(1, STEP_BYTES // row) * self.block[1]
        layers = max(1, STEP_BYTES // (source.what.layer * self.block[2])) * self.block[2]
        cuts = _cuts(offset[2], depth, layers), _cuts(offset[1], height, rows)
        self.parts = list(itertools.product(*cuts))
        self.sizes: Sequence[int] = [len(z) * len(y) * source.what.row for z, y in self.parts]
        self.plan: dict[str, Any] = {
            "source": source.seal(0) + repr((source.what.shape, str(source.what.dtype), source.what.channels)),
            "offset": list(offset),
            "rows": [rows, layers],
        }

    def seal(self, done: int) -> str:
        return self.source.seal(self.parts[done - 1][0].stop if done else 0)

    @property
    def summary(self) -> dict[str, Any]:
        return {"offset": list(self.offset), "size": list(reversed(self.source.what.shape))}

    def close(self) -> None:
        self.source.close()

    def prepare(self, number: int) -> Write:
        z, y = self.parts[number]
        voxels = self.source.read(z, y)
        following = next((part[0] for part in self.parts[number + 1 :] if part[0] != z), None)
        if following is not None:
            self.source.expect(following)
        x0, y0, z0 = self.offset
        box = Box((x0, y0 + y.start, z0 + z.start), (voxels.shape[2], len(y), len(z)))
        node, instance = self.target.read()
        with self.target.engine.read() as txn:
            view = ReadView(txn, node, instance)
            check_writable(view)
            volume = Volume.of(view)
            whole = _padded(volume, box, as_items(voxels, volume.kind))
        made = list(zip(each_block(covering_blocks(box, self.block)), _payloads(volume, whole), strict=True))
        return lambda write: requests.post_raw(write, box, made, False)


def as_items(voxels: NDArray, kind: VoxelKind) -> NDArray:
    """Samples (z, y, x) or (z, y, x, channels) as voxels: (z, y, x), one item each; not copied where they are that."""
    if not kind.channels:
        return voxels.astype(kind.item, copy=False)
    if voxels.shape[3] == len(kind.values):
        colours = np.ascontiguousarray(voxels)
    else:
        colours = np.full((*voxels.shape[:3], len(kind.values)), _OPAQUE, kind.dtype)
        colours[..., : voxels.shape[3]] = voxels
    return colours.view(kind.item)[..., 0]


def _padded(volume: Volume, box: Box, voxels: NDArray) -> NDArray:
    """Whole blocks: at the edges of the volume filled up with what is there already."""
    grid, block = covering_blocks(box, volume.block), volume.block
    (x, y, z), (i, j, k) = grid.offset, grid.size
    whole = Box((x * block[0], y * block[1], z * block[2]), (i * block[0], j * block[1], k * block[2]))
    if whole == box:
        return voxels
    padded = volume.read(whole, volume.background)
    padded[whole.window(box)] = voxels
    return padded


def _payloads(volume: Volume, voxels: NDArray) -> list[bytes]:
    """The payloads of the blocks that the voxels are made of, z slowest. Each is copied by the thread that packs it, while it is in
    the cache: a third of the time of cutting all first."""
    (z, y, x), (depth, height, width) = volume.block_shape, voxels.shape

    def packed(at: Point) -> bytes:
        k, j, i = at
        return volume.form.encode(np.ascontiguousarray(voxels[k : k + z, j : j + y, i : i + x]))

    corners = itertools.product(range(0, depth, z), range(0, height, y), range(0, width, x))
    return workers.each(packed, list(corners))


def _cuts(offset: int, length: int, step: int) -> list[range]:
    """0 to ``length`` in ranges that end where ``offset`` plus their end is a multiple of ``step``."""
    ends = [*range(step - offset % step, length, step), length]
    return [range(a, b) for a, b in itertools.pairwise([0, *ends])]
