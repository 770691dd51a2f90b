"""The steps of an import of voxels: slabs of whole blocks, cut where the blocks of the instance are.

Decides which voxels a datatype takes, how a volume is cut, and what becomes of its samples: one item for each voxel, alpha 255
where colours have none; labels may be whole numbers of any size. How voxels become blocks is the datatype's. Invariant: a block
belongs to one step, so steps can be prepared before the ones before them are written.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvidfs.cli.ingest import Target, Write
from dvidfs.cli.names import registry
from dvidfs.cli.sources.base import COLOURS, Source, What
from dvidfs.engine import ReadView
from dvidfs.errors import BadRequest
from dvidfs.types.geometry import COORD_MAX, Box, Point
from dvidfs.types.imageblk.kinds import KINDS, VoxelKind

STEP_BYTES = 64 << 20
"""Voxels of a step; one that is a whole row of blocks may be larger."""
LABELS = "labelmap"
"""The datatype of volumes that say that they are segmentation."""
_OPAQUE = 255


def type_of(what: What) -> str:
    """The datatype whose voxels these are.

    Raises:
        BadRequest: none has such voxels; the text says what they would have to be converted to.
    """
    if what.labels:
        return LABELS
    found = next((kind.name for kind in KINDS.values() if _is(what, kind)), None)
    if found is not None:
        return found
    shown = f"{what.dtype.newbyteorder('=')}{f' in {what.channels} channels' if what.channels else ''}"
    hint = f", or, if these are labels, give --type {LABELS}" if what.dtype.kind == "i" and not what.channels else ""
    raise BadRequest(f"{what.title} holds {shown}, which no datatype has: convert it to {_right(what)} first{hint}")


def takes_labels(typename: str) -> bool:
    """Whether the voxels of a datatype are labels."""
    volumes = registry()[typename].volumes
    return bool(volumes) and volumes[0].labels


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
    shown = f"{what.channels} channels of {what.dtype}" if what.channels else str(what.dtype.newbyteorder("="))
    if registry()[typename].intake is None:
        raise BadRequest(f"type {typename} takes no voxels: import a volume into one such as uint8blk or {LABELS}")
    if takes_labels(typename):
        if what.channels or what.dtype.kind not in "iu":
            raise BadRequest(f"{what.title} holds {shown}, {typename} holds whole numbers: convert it first")
    elif not _is(what, KINDS[typename]):
        wanted = "3 or 4 channels of uint8" if KINDS[typename].channels else str(KINDS[typename].dtype)
        raise BadRequest(f"{what.title} holds {shown}, {typename} holds {wanted}: convert it first")
    if any(o + n - 1 > COORD_MAX for o, n in zip(offset, reversed(what.shape), strict=True)):
        raise BadRequest(f"{what.title} would end beyond {COORD_MAX}, the last coordinate: choose another --offset")


class VoxelSteps:
    """A volume in slabs of blocks: layers one block high, several where they are small, cut along y where they are large."""

    def __init__(self, target: Target, source: Source, offset: Point) -> None:
        _, instance = target.read()
        datatype = registry()[instance.type]
        assert datatype.intake is not None
        self.intake = datatype.intake
        self.kind = None if takes_labels(instance.type) else KINDS[instance.type]
        self.target = target
        self.source = source
        self.offset = offset
        self.title = source.what.title
        self.parts, cuts = _parts(
            source.what, offset, tuple(instance.settings["BlockSize"]), 8 if self.kind is None else 0
        )
        self.sizes: Sequence[int] = [len(z) * len(y) * source.what.row for z, y in self.parts]
        self.plan: dict[str, Any] = {
            "source": source.seal(0) + repr((source.what.shape, str(source.what.dtype), source.what.channels)),
            "offset": list(offset),
            "rows": cuts,
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
            items = voxels if self.kind is None else as_items(voxels, self.kind)
            return self.intake(ReadView(txn, node, instance), box, items)


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


def _parts(what: What, offset: Point, block: Point, item: int) -> tuple[list[tuple[range, range]], list[int]]:
    """The slabs of a volume, (layers, rows) of the source, and after how many rows and layers it is cut; ``item``: bytes that a voxel
    has while it is encoded, if more than in the source."""
    depth, height, width = what.shape
    row = max(what.row, width * item)
    rows = max(1, STEP_BYTES // (row * block[1] * block[2])) * block[1]
    layers = max(1, STEP_BYTES // (row * height * block[2])) * block[2]
    return list(itertools.product(_cuts(offset[2], depth, layers), _cuts(offset[1], height, rows))), [rows, layers]


def _cuts(offset: int, length: int, step: int) -> list[range]:
    """0 to ``length`` in ranges that end where ``offset`` plus their end is a multiple of ``step``."""
    ends = [*range(step - offset % step, length, step), length]
    return [range(a, b) for a, b in itertools.pairwise([0, *ends])]
