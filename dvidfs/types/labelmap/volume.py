"""The voxels of a labelmap at one version and scale: of bodies, or of the supervoxels that the blocks hold.

Decides how windows come out of label blocks; how a block is stored is :mod:`~dvidfs.types.labelmap.stored`, what maps to what
:mod:`~dvidfs.types.labelmap.books`. A block is mapped by its table of labels, never voxel by voxel. Arrays are (z, y, x) of uint64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.kernels import labels as kernel
from dvidfs.kernels import votes
from dvidfs.kernels.labels import Block
from dvidfs.types import workers
from dvidfs.types.formats import blockform
from dvidfs.types.formats.blockform import Bytes
from dvidfs.types.geometry import Box, Point
from dvidfs.types.imageblk.volume import Volume
from dvidfs.types.labelmap import stored
from dvidfs.types.labelmap.books import mapping
from dvidfs.types.labelmap.columns import Column, U64s
from dvidfs.types.labelmap.scales import PYRAMID
from dvidfs.types.pyramids.blocks import Blocks
from dvidfs.types.pyramids.level import at_scale
from dvidfs.types.volumes.voxels import VoxelKind

KIND = VoxelKind(
    "labelmap",
    np.dtype("<u8"),
    (("uint64", "labelmap"),),
    "github.com/janelia-flyem/dvid/datatype/labelmap",
    "Segmentation: 64-bit supervoxels in compressed blocks, mapped to bodies.",
    votes.halve,
)


@dataclass(frozen=True)
class LabelVolume(Volume):
    """A labelmap at a version and scale; ``supervoxels``: as the blocks hold them, not mapped to bodies."""

    supervoxels: bool = False

    @classmethod
    def of(cls, view: ReadView, scale: int = 0, *, supervoxels: bool = False) -> LabelVolume:
        block: Point = tuple(view.instance.settings["BlockSize"])
        return cls(view, KIND, block, blockform.FORMS["gzip"], 0, scale, supervoxels)

    @cached_property
    def level(self) -> Blocks:
        return at_scale(PYRAMID, self.view, self.scale)

    @cached_property
    def column(self) -> Column | None:
        """What supervoxels are mapped by; None: they stay as they are."""
        found = None if self.supervoxels else mapping(self.view)
        return found if found else None

    def table(self, block: Block) -> U64s:
        """The labels that stand for the entries of a block's table."""
        if self.column is None:
            return block.labels
        found = self.column.get(block.labels, block.labels)
        found[block.labels == 0] = 0  # whatever a client has said of the background
        return found

    def decode(self, payload: Buffer) -> Bytes:
        block = stored.opened(payload)
        return kernel.voxels(block, self.table(block)).reshape(-1).view(np.uint8)

    def encode(self, blocks: NDArray) -> list[bytes]:
        """The payloads of blocks (n, z, y, x)."""
        return workers.each(lambda voxels: stored.pack(kernel.encode(voxels)), list(blocks))

    def assemble(
        self,
        box: Box,
        coords: NDArray[np.int64],
        payloads: Sequence[Buffer],
        fill: int = 0,
        known: Any = None,
    ) -> NDArray:
        out = np.zeros(box.shape, np.uint64)
        starts = (coords * self.block_shape).tolist()
        _ = self.column  # looked up here, since other threads must not use the transaction

        def paste(i: int) -> None:
            block = stored.opened(payloads[i])
            kernel.paste(out, box.origin, starts[i], block, self.table(block))

        spread(paste, len(payloads))
        return out

    def mapped(self, payload: Buffer) -> Buffer:
        """A payload with bodies in place of supervoxels; itself where nothing changes."""
        if self.column is None:
            return payload
        native = stored.unpack(payload)
        block = kernel.parse_trusted(native)
        table = self.table(block)
        return payload if np.array_equal(table, block.labels) else stored.pack(kernel.retable(native, table))


def spread(work: Any, count: int) -> None:
    """``work(i)`` for each i, shared out to all cores; each call is long enough to be worth it."""
    if count < 2:
        for i in range(count):
            work(i)
        return
    list(workers.pool().map(work, range(count)))


def each_stored(volume: LabelVolume, blocks: Box) -> Iterator[tuple[Point, Buffer]]:
    """Coordinates (x, y, z) and payloads of the stored blocks of a box of blocks."""
    coords, payloads = volume.stored(blocks)
    yield from zip(map(tuple, coords[:, ::-1].tolist()), payloads, strict=True)
