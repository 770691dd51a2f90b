"""The scales of a volume above 0: reads the stored blocks that count, and makes the others from the scale below.

Decides how a block of a scale comes from its eight children: their voxels, only those within the extents, halved as
the voxel type says. Which stored blocks count is decided by :mod:`~dvidfs.types.imageblk.scales`, when blocks are stored by
:mod:`~dvidfs.types.imageblk.pyramid`. Children that do not count are made in their turn, so what is read is always
right; a block none of whose children is stored is not there. Invariant: what is made is what would be stored.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import keys
from dvidfs.engine.keys import Family
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import Found, ReadView
from dvidfs.errors import BadRequest, Conflict
from dvidfs.kernels import means
from dvidfs.types import workers
from dvidfs.types.formats import blockform
from dvidfs.types.geometry import Box, Point, block_box
from dvidfs.types.imageblk import scales
from dvidfs.types.imageblk.kinds import KINDS
from dvidfs.types.imageblk.volume import Volume, coords_of

MAKE_BYTES = 64 << 20
"""Voxels of children that are held at a time, as they are stored."""
Children = tuple[Point, NDArray[np.int64], Sequence[Buffer]]
"""A block (x, y, z), the coordinates (n, 3), (z, y, x), of its children that are stored, and their payloads."""


@dataclass(frozen=True)
class Coarse(Volume):
    """An image instance at a scale above 0."""

    @classmethod
    def of(cls, view: ReadView, scale: int = 1) -> Coarse:
        """Raises BadRequest if this version does not have the scale."""
        most = scales.scales(view)
        if not 0 < scale <= most:
            raise BadRequest(
                f'"{view.instance.name}" has no scale {scale} at this version, only 0 to {most}: '
                "make more with `dvidfs pyramid`"
            )
        return cls.at(view, scale)

    @classmethod
    def at(cls, view: ReadView, scale: int) -> Coarse:
        """A scale that may not be complete yet."""
        settings = view.instance.settings
        form = blockform.block_form(view.instance.compression)
        return cls(
            view, KINDS[view.instance.type], tuple(settings["BlockSize"]), form, settings["Background"], scale
        )  # fmt: skip

    @cached_property
    def below(self) -> Volume:
        """The next finer scale."""
        return Coarse.at(self.view, self.scale - 1) if self.scale > 1 else Volume.of(self.view)

    @cached_property
    def known(self) -> scales.State:
        return scales.state(self.view)

    @property
    def strays(self) -> scales.Strays:
        return self.known.strays.get(self.scale, {})

    # -- stored blocks ---------------------------------------------------------------------------------------

    def load_spans(self, blocks: Box) -> list[tuple[bytes, Buffer]]:
        spans = self.spans(blocks)
        if not self.view.lineage.merges:
            right, wrong = self.sort(self.view.load_spans(Family.BLOCK, spans))
        else:
            right, wrong = self._sort_merged(blocks, spans)
        if wrong:
            right += [(enc, payload) for enc, payload in self.make(wrong) if payload is not None]
            right.sort(key=lambda row: row[0])
        return right

    def _sort_merged(
        self, blocks: Box, spans: Iterable[tuple[bytes, bytes]]
    ) -> tuple[list[tuple[bytes, Buffer]], list[bytes]]:
        broken: list[bytes] = []

        def note(conflict: Conflict) -> None:
            broken.append(conflict.key)

        found = [f for start, stop in spans for f in self.view.scan(Family.BLOCK, start, stop, note)]
        right, wrong = self.sort(self._loaded(found))
        seen = {*broken, *(f.enc for f in found)}
        hidden = [enc for enc in self.strays if enc not in seen and blocks.contains(_one(enc))]
        return right, [*wrong, *broken, *hidden]

    def _loaded(self, found: Sequence[Found]) -> list[tuple[bytes, Buffer]]:
        return list(zip([f.enc for f in found], self.view.load_many([f.entry for f in found]), strict=True))

    def has(self, blocks: Box) -> bool:
        return super().has(blocks) or any(blocks.contains(_one(enc)) for enc in self.strays)

    def coords(self) -> Iterator[Point]:
        if not self.view.lineage.merges:
            yield from super().coords()
        else:  # some may be known only from what is below them
            yield from sorted(scales.above(set(self.below.coords())), key=lambda coord: coord[::-1])

    def payload(self, coord: Point) -> Buffer | None:
        return self.payloads([coord])[0]

    def payloads(self, coords: Sequence[Point]) -> list[Buffer | None]:
        wanted = [self.key(coord) for coord in coords]
        right, wrong = self.settle(wanted)
        found = dict([*right, *self.make([enc for enc in wrong if self.is_there(enc)])])
        return [found.get(enc) for enc in wanted]

    def settle(self, wanted: Sequence[bytes]) -> tuple[list[tuple[bytes, Buffer]], list[bytes]]:
        """Of those keys the payloads that count, and the keys of all others: those that are not there too."""
        found: list[tuple[bytes, Buffer]] = []
        if self.view.lineage.merges:
            for enc in wanted:
                try:
                    payload = self.view.get(Family.BLOCK, enc)
                except Conflict:
                    continue
                if payload is not None:
                    found.append((enc, payload))
        else:
            payloads = self.view.load_keys(Family.BLOCK, wanted)
            found = [(enc, payload) for enc, payload in zip(wanted, payloads, strict=True) if payload is not None]
        right, _ = self.sort(found)
        known = {enc for enc, _ in right}
        return right, [enc for enc in dict.fromkeys(wanted) if enc not in known]

    def sort(self, found: Sequence[tuple[bytes, Buffer]]) -> tuple[list[tuple[bytes, Buffer]], list[bytes]]:
        """Stored blocks that count, without their seals, and the keys of the others."""
        right, wrong, strays = [], [], self.strays
        coords = coords_of([enc for enc, _ in found])
        for (enc, stored), part in zip(found, self.parts(coords), strict=True):
            payload = scales.unsealed(self.view, stored, part, strays.get(enc, ()))
            if payload is None:
                wrong.append(enc)
            else:
                right.append((enc, payload))
        return right, wrong

    def parts(self, coords: NDArray[np.int64]) -> list[bytes]:
        """What the seal of each block must say of the extents; coords (n, 3), (z, y, x)."""
        return scales.parts(self.known, self.scale, coords, self.block)

    def is_there(self, enc: bytes) -> bool:
        """Whether a block is stored, marked or in conflict; or made of blocks that are, unknown to this scale."""
        try:
            return self.view.find(Family.BLOCK, enc) is not None or enc in self.strays
        except Conflict:
            return True

    # -- making ----------------------------------------------------------------------------------------------

    def make(self, wanted: Sequence[bytes]) -> Iterator[tuple[bytes, bytes | None]]:
        """Keys of blocks and their payloads, None where no child is stored; by all cores.

        Raises:
            Conflict: parents of a merge disagree about a block of scale 0 below one of them.
        """
        step = max(1, MAKE_BYTES // (8 * self.block_bytes))
        _ = self.known  # looked up here, since other threads must not use the transaction
        for at in range(0, len(wanted), step):
            part = wanted[at : at + step]
            yield from zip(part, _each(self._made, [self._children(enc) for enc in part]), strict=True)

    def _children(self, enc: bytes) -> Children:
        _, x, y, z = keys.decode_block(enc)
        return (x, y, z), *self.below.stored(Box((2 * x, 2 * y, 2 * z), (2, 2, 2)))

    def _made(self, children: Children) -> bytes | None:
        coord, coords, payloads = children
        if not payloads:
            return None
        a, b, c = self.block
        region = block_box(coord, (2 * a, 2 * b, 2 * c))
        voxels = self.below.assemble(region, coords, payloads)
        if self.known.box is not None:
            inside = region.intersect(scales.extents_at(self.known.box, self.scale - 1))
            if inside is None:
                voxels[...] = 0
            elif inside != region:
                low = np.subtract(inside.origin, region.origin)
                means.trim(voxels, tuple(low.tolist()), tuple((low + inside.shape).tolist()))
        halved = self.kind.halve(self.kind.split(voxels))
        return self.form.encode(halved.view(self.kind.item).reshape(self.block_shape))


def _one(enc: bytes) -> Box:
    """The block of a key, as a box of blocks."""
    return Box(keys.decode_block(enc)[1:], (1, 1, 1))


def _each(work, items: Sequence[Children]) -> list[bytes | None]:  # noqa: ANN001
    if len(items) == 1 or os.cpu_count() == 1:
        return [work(item) for item in items]
    return list(workers.pool().map(work, items))
