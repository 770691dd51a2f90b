"""The voxels of one image instance at one version: windows out of blocks, blocks out of windows.

Decides how a window is put together and taken apart; what a window is for (a picture, a file, a stream) is for others.
Arrays are (z, y, x) with one item per voxel. Blocks that are not stored read as ``fill``. Memory is bounded by
:data:`PIECE_BYTES` and not by the volume: long answers are made piece by piece, the next one while the last one is sent.
Invariant: a read sees one snapshot, and raises Conflict where parents of a merge disagree about a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import keys
from dvidfs.engine.keys import Family
from dvidfs.engine.store import Buffer
from dvidfs.engine.values import Prepared
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.kernels import blocks as kernel
from dvidfs.types import workers
from dvidfs.types.formats import blockform
from dvidfs.types.formats.blockform import BlockForm, Bytes
from dvidfs.types.geometry import Box, Point, covering_blocks
from dvidfs.types.imageblk.kinds import KINDS, VoxelKind

PIECE_BYTES = 32 << 20
"""No piece of an answer is larger."""
LIGHT_BYTES = 8 << 20
"""Layers of blocks are joined to pieces of about this size: large enough to share out, small enough to overlap."""
_KEY = np.dtype([("scale", "u1"), ("zyx", ">u4", 3)])


@dataclass(frozen=True)
class Volume:
    """An image instance at a version and scale: ``block`` is the size of a block (x, y, z), in voxels of the scale.

    Scale 0 is what was stored; each further one has half the voxels along each axis.
    """

    view: ReadView
    kind: VoxelKind
    block: Point
    form: BlockForm
    background: int
    scale: int = 0

    @classmethod
    def of(cls, view: ReadView, scale: int = 0) -> Volume:
        settings = view.instance.settings
        form = blockform.block_form(view.instance.compression)
        block: Point = tuple(settings["BlockSize"])
        return cls(view, KINDS[view.instance.type], block, form, settings["Background"], scale)

    def key(self, coord: Point) -> bytes:
        """The key of a block (x, y, z) of this scale."""
        return keys.encode_block(self.scale, *coord)

    @cached_property
    def block_bytes(self) -> int:
        """Bytes of the voxels of a block."""
        x, y, z = self.block
        return x * y * z * self.kind.bytes

    @cached_property
    def block_shape(self) -> Point:
        """Shape of an array that holds a block: (z, y, x)."""
        x, y, z = self.block
        return z, y, x

    # -- stored blocks ---------------------------------------------------------------------------------------

    def stored(self, blocks: Box) -> tuple[NDArray[np.int64], list[Buffer]]:
        """Coordinates (n, 3) in (z, y, x) of the stored blocks within a box of blocks, and their payloads.

        Payloads may be views that die with the snapshot.
        """
        (x0, _, _), (x1, _, _) = blocks.offset, blocks.last
        spans = (
            (self.key((x0, y, z)), keys.after(self.key((x1, y, z))))
            for z in range(blocks.offset[2], blocks.stop[2])
            for y in range(blocks.offset[1], blocks.stop[1])
        )
        found = self.view.load_spans(Family.BLOCK, spans)
        table = np.frombuffer(b"".join([key for key, _ in found]), _KEY)
        return table["zyx"].astype(np.int64) - keys.BIAS, [payload for _, payload in found]

    def payload(self, coord: Point) -> Buffer | None:
        """The payload of one block (x, y, z), or None."""
        return self.view.get(Family.BLOCK, self.key(coord))

    def decode(self, payload: Buffer) -> Bytes:
        """The voxels of a payload, as bytes."""
        return blockform.decode(self.form, payload, self.block_bytes)

    # -- reading ---------------------------------------------------------------------------------------------

    def read(self, box: Box, fill: int = 0) -> NDArray:
        """The voxels of a box, (z, y, x); every byte of what is not stored is ``fill``."""
        return self.assemble(box, *self.stored(covering_blocks(box, self.block)), fill)

    def assemble(self, box: Box, coords: NDArray[np.int64], payloads: Sequence[Buffer], fill: int = 0) -> NDArray:
        """The voxels of a box out of the blocks that it touches, (z, y, x); needs no transaction."""
        out = np.empty(box.shape, self.kind.item)
        if len(payloads) < covering_blocks(box, self.block).volume:
            out.view(np.uint8)[...] = fill
        decoded = [self.decode(payload) for payload in payloads]
        kernel.gather(out, box.origin, coords * self.block_shape, decoded, self.block_shape)
        return out

    def stream(self, box: Box) -> Iterator[memoryview]:
        """The bytes of a box in C order; one piece is being assembled by other threads while the last one is used."""
        waiting = None
        try:
            for piece in self.pieces(box):
                found = self.stored(covering_blocks(piece, self.block))
                coming = workers.pool().submit(self.assemble, piece, *found)
                last, waiting = waiting, coming
                if last is not None:
                    yield as_bytes(last.result())
            if waiting is not None:
                yield as_bytes(waiting.result())
        finally:
            if waiting is not None:  # it looks at the snapshot, which ends with this generator
                waiting.exception()

    def pieces(self, box: Box) -> Iterator[Box]:
        """Boxes that follow each other in C order and make up ``box``: layers of blocks; where these are too large, thinner."""
        if box.volume * self.kind.bytes <= LIGHT_BYTES:
            yield box
            return
        axis = next(a for a in (2, 1, 0) if box.size[a] > 1)
        one, depth = box.volume // box.size[axis] * self.kind.bytes, self.block[axis]
        if one * depth <= PIECE_BYTES:
            depth *= max(1, LIGHT_BYTES // (one * depth))
        else:
            depth = max(1, PIECE_BYTES // one)
        for part in _cut(box, axis, depth, self.block[axis]):
            if one > PIECE_BYTES:
                yield from self.pieces(part)
            else:
                yield part

    # -- writing ---------------------------------------------------------------------------------------------

    def encode(self, blocks: NDArray) -> list[bytes]:
        """The payloads of blocks (n, z, y, x)."""
        return workers.each(self.form.encode, list(blocks))


def _cut(box: Box, axis: int, depth: int, block: int) -> Iterator[Box]:
    """A box in slices across an axis: of whole blocks where ``depth`` is so many, else none crosses a block's border."""
    at, end = box.offset[axis], box.stop[axis]
    while at < end:
        floor = at - at % block
        stop = min(floor + depth if depth >= block else min(at + depth, floor + block), end)
        offset, size = list(box.offset), list(box.size)
        offset[axis], size[axis] = at, stop - at
        yield Box((offset[0], offset[1], offset[2]), (size[0], size[1], size[2]))
        at = stop


def put_blocks(view: WriteView, blocks: Iterable[tuple[Point, Buffer]], scale: int = 0) -> None:
    """Stores payloads under block coordinates (x, y, z) of a scale."""
    for coord, payload in blocks:
        view.put(Family.BLOCK, keys.encode_block(scale, *coord), Prepared(payload, len(payload)))


def as_bytes(voxels: NDArray) -> memoryview:
    """The bytes of a C-contiguous array, not copied."""
    return voxels.reshape(-1).view(np.uint8).data
