"""The voxels of one image instance at one version: windows out of blocks, blocks out of windows.

Decides how a window is put together and taken apart; what a window is for (a picture, a file, a stream) is for others.
Arrays are (z, y, x) with one item per voxel. Blocks that are not stored read as ``fill``. Memory is bounded by
:data:`PIECE_BYTES` and not by the volume: long answers are made piece by piece, the next one while the last one is sent.
Invariant: a read sees one snapshot, and raises Conflict where parents of a merge disagree about a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine.keys import Family
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import Conflict, Locked
from dvidfs.kernels import blocks as kernel
from dvidfs.types import workers
from dvidfs.types.formats import blockform
from dvidfs.types.formats.blockform import BlockForm, Bytes
from dvidfs.types.geometry import Box, Point, covering_blocks
from dvidfs.types.imageblk import places
from dvidfs.types.imageblk.kinds import KINDS, VoxelKind
from dvidfs.types.imageblk.places import Located
from dvidfs.types.pyramids import marks
from dvidfs.types.pyramids.blocks import Blocks, Payload, coords_of, put

PIECE_BYTES = 32 << 20
"""No piece of an answer is larger."""
LIGHT_BYTES = 2 << 20
"""Layers of blocks are joined to pieces of about this size: large enough to share out, small enough to overlap."""
REMOTE = "Remote"
"""The private setting of an instance whose voxels live elsewhere: what is known of that place."""


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
        """Raises BadRequest if this version does not have the scale."""
        settings = view.instance.settings
        if scale:
            from dvidfs.types.imageblk.coarse import Coarse

            return Coarse.of(view, scale)
        if cls is Volume and is_proxied(settings):
            from dvidfs.types.imageblk.proxies import ProxyVolume

            return ProxyVolume.of(view)
        form = blockform.block_form(view.instance.compression)
        block: Point = tuple(settings["BlockSize"])
        return cls(view, KINDS[view.instance.type], block, form, settings["Background"])

    @cached_property
    def level(self) -> Blocks:
        """The stored blocks."""
        return Blocks(self.view, self.scale)

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
        return self.locate(blocks)[:2]

    def locate(self, blocks: Box) -> Located:
        """The same, and where the voxels lie, if it is known."""
        kept = self._kept()
        if kept is None:
            return self._look_up(blocks)
        found = kept.locate(self._owner, blocks)
        if found is None:
            found = self._look_up(blocks)
            kept.note_box(self._owner, blocks, self._survey)
        return found

    def _look_up(self, blocks: Box) -> Located:
        found = self.load_spans(blocks)
        return Located(coords_of([key for key, _ in found]), [payload for _, payload in found])

    def _survey(self, blocks: Box) -> Located:
        coords, payloads, _ = self._look_up(blocks)
        return Located(coords, payloads, kernel.locate(payloads, self.stored_form))

    @property
    def _owner(self) -> tuple[int, int]:
        return self.view.instance.id, self.view.version

    def _kept(self) -> places.Kept | None:
        """Where blocks lie is kept of what is read as it is stored, and only where no merge makes a choice."""
        return None if type(self) is not Volume or self.view.lineage.merges else places.of(self.view.txn)

    def load_spans(self, blocks: Box) -> list[tuple[bytes, Buffer]]:
        """Keys and payloads of the stored blocks within a box of blocks, z slowest."""
        return self.level.load_spans(blocks)

    def payload(self, coord: Point) -> Buffer | None:
        """The payload of one block (x, y, z), or None."""
        return self.level.payload(coord)

    def payloads(self, coords: Sequence[Point]) -> list[Buffer | None]:
        """The payloads of blocks (x, y, z), None for one that is not stored."""
        kept = self._kept()
        found = kept.pick(self._owner, coords) if kept is not None else None
        if found is None:
            found = self.level.payloads(coords)
            if kept is not None:
                kept.note(self._owner, coords, self._survey)
        return found

    def has(self, blocks: Box) -> bool:
        """Whether any of these blocks is stored."""
        return self.level.has(blocks)

    def coords(self) -> Iterator[Point]:
        """Coordinates (x, y, z) of the stored blocks, z slowest."""
        return self.level.coords()

    def mtime(self, coord: Point) -> int:
        """When a block was stored, in ns; the volume's last change where parents of a merge disagree."""
        try:
            entry = self.view.find(Family.BLOCK, self.level.key(coord))
        except Conflict:
            entry = None
        return entry.mtime if entry is not None else self.view.modified()

    def decode(self, payload: Buffer) -> Bytes:
        """The voxels of a payload, as bytes."""
        return blockform.decode(self.form, payload, self.block_bytes)

    @property
    def stored_form(self) -> kernel.Form:
        """Where the voxels of payloads are found. Not kept: it holds this volume, and a cycle would keep the snapshot's reader slot."""
        head = self.form.literal_head
        return kernel.Form(self.block_bytes, None if head is None else head(self.block_bytes), self.decode)

    # -- reading ---------------------------------------------------------------------------------------------

    def read(self, box: Box, fill: int = 0) -> NDArray:
        """The voxels of a box, (z, y, x); every byte of what is not stored is ``fill``."""
        coords, payloads, known = self.locate(covering_blocks(box, self.block))
        return self.assemble(box, coords, payloads, fill, known)

    def assemble(
        self,
        box: Box,
        coords: NDArray[np.int64],
        payloads: Sequence[Buffer],
        fill: int = 0,
        known: NDArray[np.int64] | None = None,
    ) -> NDArray:
        """The voxels of a box out of the blocks that it touches, (z, y, x); ``known`` as in :class:`Located`."""
        out = np.empty(box.shape, self.kind.item)
        if len(payloads) < covering_blocks(box, self.block).volume:
            out.view(np.uint8)[...] = fill
        starts = coords * self.block_shape
        kernel.gather_stored(out, box.origin, starts, payloads, self.block_shape, self.stored_form, known)
        return out

    def stream(self, box: Box) -> Iterator[memoryview]:
        """The bytes of a box in C order, made piece by piece as they are asked for."""
        parts = ((piece, self.locate(covering_blocks(piece, self.block))) for piece in self.pieces(box))
        if box.volume * self.kind.bytes <= PIECE_BYTES:
            parts = iter(list(parts))  # so a conflict is told before the first byte
        for piece, (coords, payloads, known) in parts:
            yield as_bytes(self.assemble(piece, coords, payloads, 0, known))

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


def put_blocks(view: WriteView, blocks: Iterable[tuple[Point, Payload]]) -> None:
    """Stores payloads under block coordinates (x, y, z) of scale 0, and sees to it that further scales follow.

    Whatever writes voxels does it through here.
    """
    from dvidfs.types.imageblk.coarse import PYRAMID

    check_writable(view)
    marks.mark(PYRAMID, view, put(view, 0, blocks))


def is_proxied(settings: Mapping[str, Any]) -> bool:
    """Whether the voxels of an instance with these settings live elsewhere."""
    return settings.get(REMOTE) is not None


def check_writable(view: ReadView) -> None:
    """Raises Locked, in the words of the original, if the voxels of the instance live elsewhere."""
    if is_proxied(view.instance.settings):
        raise Locked(f'Data "{view.instance.name}" uses an immutable GridStore so cannot received POSTs')


def as_bytes(voxels: NDArray) -> memoryview:
    """The bytes of a C-contiguous array, not copied."""
    return voxels.reshape(-1).view(np.uint8).data
