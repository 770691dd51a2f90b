"""The blocks of one scale above 0: those stored that count, and the others, made from the scale below.

Which stored blocks count is decided by :mod:`~dvidfs.types.pyramids.scales`, how one is made by the datatype, when they are stored by
:mod:`~dvidfs.types.pyramids.work`. A block is there if it is stored or marked, if parents of a merge disagree about it, or if one of
them wrote below it without knowing this scale. Children that do not count are made in their turn, so what is read is always
right; a block none of whose children is there is not there. Invariant: what is made is what would be stored.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from dvidfs.engine import keys
from dvidfs.engine.keys import Family
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.errors import Conflict
from dvidfs.types import workers
from dvidfs.types.geometry import Box, Point
from dvidfs.types.pyramids import scales
from dvidfs.types.pyramids.blocks import Blocks, Row, coords_of
from dvidfs.types.pyramids.pyramid import Base, Children, Maker, Pyramid, block_size

MAKE_BYTES = 64 << 20
"""Voxels of children that are held at a time."""


def at_scale(pyramid: Pyramid, view: ReadView, scale: int) -> Blocks:
    """The blocks of a scale, 0 included where they are stored like those of others."""
    return Level(view, scale, pyramid) if scale else Blocks(view, 0)


@dataclass(frozen=True)
class Level(Blocks):
    """A scale above 0 at a version, complete or not. Payloads come without their seals, as views of the map where they lie there."""

    pyramid: Pyramid

    @cached_property
    def below(self) -> Base:
        """The next finer scale."""
        return Level(self.view, self.scale - 1, self.pyramid) if self.scale > 1 else self.pyramid.base(self.view)

    @cached_property
    def known(self) -> scales.State:
        return scales.state(self.pyramid, self.view)

    @property
    def strays(self) -> scales.Strays:
        return self.known.strays.get(self.scale, {})

    @cached_property
    def maker(self) -> Maker:
        return self.pyramid.maker(self.view, self.scale, self.known.box)

    # -- what is there ---------------------------------------------------------------------------------------

    def has(self, blocks: Box) -> bool:
        return super().has(blocks) or any(blocks.contains(_one(enc)) for enc in self.strays)

    def walk(self, start: bytes, stop: bytes) -> Iterator[bytes]:
        found, hidden = super().walk(start, stop), sorted(enc for enc in self.strays if start <= enc < stop)
        return (enc for enc, _ in groupby(heapq.merge(found, hidden))) if hidden else found

    def coords(self) -> Iterator[Point]:
        """Coordinates (x, y, z) of all blocks that are there, z slowest."""
        if not self.view.lineage.merges:
            yield from super().coords()
            return
        scale = bytes([self.scale])
        for enc in self.walk(scale, keys.after(scale)):
            _, x, y, z = keys.decode_block(enc)
            yield x, y, z

    def is_there(self, enc: bytes) -> bool:
        """Whether the block of a key is there."""
        try:
            return self.view.find(Family.BLOCK, enc) is not None or enc in self.strays
        except Conflict:
            return True

    # -- reading ---------------------------------------------------------------------------------------------

    def load_spans(self, blocks: Box) -> list[Row]:
        if not self.view.lineage.merges:
            right, wrong = self._sorted(self.view.load_spans(Family.BLOCK, self.spans(blocks)))
        else:
            right, wrong = self._load_merged(blocks)
        if wrong:
            right += [(enc, payload) for enc, payload in self.make(wrong) if payload is not None]
            right.sort(key=lambda row: row[0])
        return [row for row in right if row[1]]

    def _load_merged(self, blocks: Box) -> tuple[list[Row], list[bytes]]:
        broken: list[bytes] = []

        def note(conflict: Conflict) -> None:
            broken.append(conflict.key)

        found = [f for start, stop in self.spans(blocks) for f in self.view.scan(Family.BLOCK, start, stop, note)]
        payloads = self.view.load_many([f.entry for f in found])
        right, wrong = self._sorted(list(zip([f.enc for f in found], payloads, strict=True)))
        seen = {*broken, *(f.enc for f in found)}
        hidden = [enc for enc in self.strays if enc not in seen and blocks.contains(_one(enc))]
        return right, [*wrong, *broken, *hidden]

    def payload(self, coord: Point) -> Buffer | None:
        return self.payloads([coord])[0]

    def payloads(self, coords: Sequence[Point]) -> list[Buffer | None]:
        wanted = [self.key(coord) for coord in coords]
        right, wrong = self.settle(wanted)
        found = dict([*right, *self.make([enc for enc in wrong if self.is_there(enc)])]) if wrong else dict(right)
        return [found.get(enc) or None for enc in wanted]

    def settle(self, wanted: Sequence[bytes]) -> tuple[list[Row], list[bytes]]:
        """Of those keys the payloads that count (of no bytes where it counts that there is no block), and the keys of all others: those that are not there too."""
        if self.view.lineage.merges:
            payloads = [self._own_payload(enc) for enc in wanted]
        else:
            payloads = self.view.load_keys(Family.BLOCK, wanted)
        right, _ = self._sorted([(enc, held) for enc, held in zip(wanted, payloads, strict=True) if held is not None])
        if len(right) == len(wanted):
            return right, []
        known = {enc for enc, _ in right}
        return right, [enc for enc in dict.fromkeys(wanted) if enc not in known]

    def _own_payload(self, enc: bytes) -> Buffer | None:
        """What is stored, None if parents of a merge disagree about it: then no part of it is right."""
        try:
            return self.view.get(Family.BLOCK, enc)
        except Conflict:
            return None

    def suspects(self, start: bytes, stop: bytes) -> Iterator[bytes]:
        """Keys of the blocks that may not count, in order: of all that are there, or of fewer where their size tells."""
        if self._needs_payloads:
            return self.walk(start, stop)
        return (found.enc for found in self.view.scan(Family.BLOCK, start, stop) if not found.entry.size)

    def wrong(self, wanted: Sequence[bytes]) -> list[bytes]:
        """Of those keys those of blocks that do not count, or are not there."""
        if self._needs_payloads:
            return self.settle(wanted)[1]
        entries = ((enc, self.view.find(Family.BLOCK, enc)) for enc in wanted)
        return [enc for enc, entry in entries if entry is None or not entry.size]

    @property
    def _needs_payloads(self) -> bool:
        """Whether only its seal tells if a block counts; else marks alone do not, and have no size."""
        return self.pyramid.covered is not None or self.view.lineage.merges

    def _sorted(self, found: Sequence[Row]) -> tuple[list[Row], list[bytes]]:
        """Stored blocks that count, without their seals, and the keys of the others."""
        right, wrong, strays = [], [], self.strays
        if self.known.box is None and not strays:
            part, size = scales.EVERYWHERE, scales.SEAL.size
            usual = [(enc, stored[:-size]) for enc, stored in found if stored[-len(part) :] == part]
            if len(usual) == len(found):
                return usual, []
        for (enc, stored), part in zip(found, self.parts([enc for enc, _ in found]), strict=True):
            payload = scales.unsealed(self.view, stored, part, strays.get(enc, ()))
            if payload is None:
                wrong.append(enc)
            else:
                right.append((enc, payload))
        return right, wrong

    def parts(self, wanted: Sequence[bytes]) -> list[bytes]:
        """What the seals of those blocks must say of the box of all voxels."""
        if self.known.box is None:
            return [scales.EVERYWHERE] * len(wanted)
        return scales.parts(self.known.box, self.scale, coords_of(wanted), block_size(self.view))

    # -- making ----------------------------------------------------------------------------------------------

    @property
    def held_bytes(self) -> int:
        """Memory that the children of a block take."""
        return 8 * self.pyramid.block_bytes(self.view)

    def make(self, wanted: Sequence[bytes]) -> Iterator[tuple[bytes, bytes | None]]:
        """Keys of blocks and their payloads, None where no child is there; by all cores.

        Raises:
            Conflict: parents of a merge disagree about a block of scale 0 below one of them.
        """
        step = max(1, MAKE_BYTES // self.held_bytes)
        make = self.maker.make  # looked up here, since other threads must not use the transaction

        def work(children: Children) -> bytes | None:
            return make(children) if children.payloads else None

        for at in range(0, len(wanted), step):
            part = wanted[at : at + step]
            yield from zip(part, _each(work, [self._children(enc) for enc in part]), strict=True)

    def _children(self, enc: bytes) -> Children:
        _, x, y, z = keys.decode_block(enc)
        return Children((x, y, z), *self.below.stored(Box((2 * x, 2 * y, 2 * z), (2, 2, 2))))


def _one(enc: bytes) -> Box:
    """The block of a key, as a box of blocks."""
    return Box(keys.decode_block(enc)[1:], (1, 1, 1))


def _each(work: Callable[[Children], bytes | None], items: Sequence[Children]) -> list[bytes | None]:
    if len(items) == 1 or os.cpu_count() == 1:
        return [work(item) for item in items]
    return list(workers.pool().map(work, items))
