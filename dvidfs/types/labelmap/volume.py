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

from dvidfs.engine.keys import Family
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.kernels import labels as kernel
from dvidfs.kernels import votes
from dvidfs.kernels.labels import Block
from dvidfs.types import workers
from dvidfs.types.formats import blockform
from dvidfs.types.formats.blockform import Bytes
from dvidfs.types.geometry import Box, Point, block_box, covering_blocks, each_block, span
from dvidfs.types.imageblk.volume import Volume
from dvidfs.types.labelmap import stored
from dvidfs.types.labelmap.books import mapping
from dvidfs.types.labelmap.columns import Column, U64s
from dvidfs.types.labelmap.scales import PYRAMID
from dvidfs.types.pyramids.blocks import Blocks
from dvidfs.types.pyramids.level import at_scale
from dvidfs.types.volumes.source import as_bytes
from dvidfs.types.volumes.voxels import VoxelKind

SLAB_BYTES = 4 << 20
"""Long answers are made in slabs of about this size, which memory that was used before can hold."""
SHARED = 1 << 16
"""Voxels from which on threads share the work of pasting."""
THIN = 4
"""Blocks of which less than a part in so many is shown are kept opened,"""
KEPT_BLOCKS = 256
"""if they are no more than these."""

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
        return self.tables([block])[0]

    def decode(self, payload: Buffer) -> Bytes:
        return self.unpack(payload).reshape(-1).view(np.uint8)

    def unpack(self, payload: Buffer, out: NDArray[np.uint64] | None = None) -> NDArray[np.uint64]:
        """The labels of a payload, (z, y, x); into ``out`` if that is given."""
        block = stored.opened(payload)
        if out is None:
            return kernel.voxels(block, self.table(block))
        kernel.paste(out, (0, 0, 0), (0, 0, 0), block, self.table(block))
        return out

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
        self._paste(out, box, coords * self.block_shape, self._open(payloads))
        return out

    def read(self, box: Box, fill: int = 0) -> NDArray:
        """The labels of a box, (z, y, x). Of blocks of which little is shown the opened ones are kept, since neighbours are next."""
        grid = covering_blocks(box, self.block)
        if self.scale or box.volume * THIN > grid.volume * self.block_bytes // 8 or grid.volume > KEPT_BLOCKS:
            return super().read(box, fill)
        out, opened, starts = np.zeros(box.shape, np.uint64), list[Block](), list[Any]()
        for coord in each_block(grid):
            entry = self.view.find(Family.BLOCK, self.level.key(coord))
            if entry is not None:
                opened.append(stored.kept(self.view, entry))
                starts.append(block_box(coord, self.block).origin)
        self._paste(out, box, np.array(starts, np.int64).reshape(-1, 3), opened)
        return out

    def pieces(self, box: Box) -> Iterator[Box]:
        return (slab for _, slabs in self._layers(box) for slab in slabs)

    def _layers(self, box: Box) -> Iterator[tuple[Box, list[Box]]]:
        """Layers of blocks that follow each other in C order, and the slabs that each is made in."""
        depth, plane = self.block[2], 8 * box.size[0] * box.size[1]
        rows = max(1, SLAB_BYTES // plane)
        for piece in super().pieces(box):
            (x, y, first), (x1, y1, end) = piece.offset, piece.stop
            if piece.size[:2] != box.size[:2] or box.volume * 8 <= SLAB_BYTES:  # not even a layer fits, or all of it
                yield piece, [piece]
                continue
            for z in range(first - first % depth, end, depth):
                low, high = max(z, first), min(z + depth, end)
                slabs = [span((x, y, at), (x1, y1, min(at + rows, high))) for at in range(low, high, rows)]
                yield span((x, y, low), (x1, y1, high)), slabs

    def stream(self, box: Box) -> Iterator[memoryview]:
        """The bytes of a box in C order: layer of blocks after layer, each opened once and pasted slab by slab."""
        for layer, slabs in self._layers(box):
            if len(slabs) == 1:
                yield as_bytes(self.read(layer))
                continue
            coords, payloads = self.stored(covering_blocks(layer, self.block))
            starts, opened = coords * self.block_shape, self._open(payloads)
            tables = self.tables(opened)
            for slab in slabs:
                out = np.empty(slab.shape, np.uint64)  # not zeros: these would be fresh memory each time
                if len(opened) < covering_blocks(layer, self.block).volume:
                    out.fill(0)
                self._paste(out, slab, starts, opened, tables)
                yield as_bytes(out)

    def _open(self, payloads: Sequence[Buffer]) -> list[Block]:
        return (
            list(workers.pool().map(stored.opened, payloads)) if len(payloads) > 1 else [*map(stored.opened, payloads)]
        )

    def tables(self, blocks: Sequence[Block]) -> list[U64s]:
        """The labels that stand for the entries of each block's table, looked up together."""
        if self.column is None or not blocks:
            return [block.labels for block in blocks]
        every = np.concatenate([block.labels for block in blocks])
        found = self.column.get(every, every)
        found[every == 0] = 0  # whatever a client has said of the background
        return np.split(found, np.cumsum([len(block.labels) for block in blocks])[:-1])

    def _paste(
        self,
        out: NDArray[np.uint64],
        box: Box,
        starts: NDArray[np.int64],
        opened: Sequence[Block],
        tables: Sequence[U64s] | None = None,
    ) -> None:
        """Put blocks, which start at voxels (n, 3), (z, y, x), into the array of a box, some planes in each thread."""
        if not opened:
            return
        found = self.tables(opened) if tables is None else tables
        parts = workers.shares() if out.size >= SHARED else 1
        cuts = [len(out) * i // parts for i in range(parts + 1)]

        def paste(i: int) -> None:
            z, y, x = box.origin
            kernel.paste_many(out[cuts[i] : cuts[i + 1]], (z + cuts[i], y, x), starts, opened, found)

        spread(paste, parts)

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
