"""The stored blocks of one scale of an instance: their keys, their payloads, and how they are put.

Decides nothing about what a payload means. Coordinates are (x, y, z), tables of them (n, 3) in (z, y, x), both in blocks;
what is listed is z slowest. Payloads may be views of the store's map that die with the snapshot. Invariant: a read raises
Conflict where parents of a merge disagree about a block; lists of keys name such blocks too, or leave them out, as they say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import keys
from dvidfs.engine.keys import Family
from dvidfs.engine.store import Buffer
from dvidfs.engine.values import Prepared, Staged
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import Conflict
from dvidfs.types.geometry import Box, Point

Payload = Buffer | Prepared | Staged
"""A block to be stored: its bytes, or that they lie in the store already."""
Row = tuple[bytes, Buffer]
"""The key of a block and its payload."""
_AT_ONCE = 256
"""Blocks are handed to the store in portions of so many."""
_KEY = np.dtype([("scale", "u1"), ("zyx", ">u4", 3)])


@dataclass(frozen=True)
class Blocks:
    """The blocks of a scale as they are stored. Those of scales above 0 need :class:`~dvidfs.types.pyramids.level.Level`."""

    view: ReadView
    scale: int

    def key(self, coord: Point) -> bytes:
        """The key of a block (x, y, z)."""
        return keys.encode_block(self.scale, *coord)

    def stored(self, blocks: Box) -> tuple[NDArray[np.int64], list[Buffer]]:
        """Coordinates (n, 3), (z, y, x), of the stored ones of a box of blocks, and their payloads."""
        found = self.load_spans(blocks)
        return coords_of([enc for enc, _ in found]), [payload for _, payload in found]

    def load_spans(self, blocks: Box) -> list[Row]:
        """Keys and payloads of the stored ones of a box of blocks, z slowest; made for thousands."""
        return self.view.load_spans(Family.BLOCK, self.spans(blocks))

    def spans(self, blocks: Box) -> Iterator[tuple[bytes, bytes]]:
        """Ranges of keys that hold a box of blocks: one for each row along x."""
        (x0, _, _), (x1, _, _) = blocks.offset, blocks.last
        for z in range(blocks.offset[2], blocks.stop[2]):
            for y in range(blocks.offset[1], blocks.stop[1]):
                yield self.key((x0, y, z)), keys.after(self.key((x1, y, z)))

    def payloads(self, coords: Sequence[Point]) -> list[Buffer | None]:
        """The payloads of blocks (x, y, z), None for one that is not stored; made for thousands."""
        return self.view.load_keys(Family.BLOCK, [self.key(coord) for coord in coords])

    def payload(self, coord: Point) -> Buffer | None:
        """The payload of one block (x, y, z), or None."""
        return self.view.get(Family.BLOCK, self.key(coord))

    def has(self, blocks: Box) -> bool:
        """Whether any of a box of blocks is stored, or in conflict."""
        at: Point | None = blocks.offset
        stop = keys.after(self.key(blocks.last))
        while at is not None:
            enc = next(self.walk(self.key(at), stop), None)
            if enc is None:
                return False
            _, x, y, z = keys.decode_block(enc)
            at = blocks.from_here((x, y, z))
            if at == (x, y, z):
                return True
        return False

    def walk(self, start: bytes, stop: bytes) -> Iterator[bytes]:
        """Keys of the blocks with start <= key < stop, in order, those in conflict too."""
        broken: list[bytes] = []

        def note(conflict: Conflict) -> None:
            broken.append(conflict.key)

        for found in self.view.scan(Family.BLOCK, start, stop, note):
            yield from broken
            broken.clear()
            yield found.enc
        yield from broken

    def coords(self) -> Iterator[Point]:
        """Coordinates (x, y, z) of all stored blocks, z slowest; those in conflict are left out."""
        scale = bytes([self.scale])
        for enc in self.view.names(Family.BLOCK, scale, keys.after(scale)):
            _, x, y, z = keys.decode_block(enc)
            yield x, y, z


def put(view: WriteView, scale: int, blocks: Iterable[tuple[Point, Payload]]) -> list[Point]:
    """Store payloads under block coordinates (x, y, z), of two for one block the later one; the coordinates.

    Of a scale above 0 they must be as :func:`~dvidfs.types.pyramids.scales.seal` makes them.
    """
    waiting, written = iter(blocks), []
    while part := list(islice(waiting, _AT_ONCE)):
        payloads = {keys.encode_block(scale, *coord): _ready(payload) for coord, payload in part}
        view.put_many(Family.BLOCK, [(enc, value, b"") for enc, value in sorted(payloads.items())])
        written += [coord for coord, _ in part]
    return written


def _ready(payload: Payload) -> Prepared | Staged:
    return payload if isinstance(payload, Prepared | Staged) else Prepared(payload, len(payload))


def coords_of(encoded: Sequence[bytes]) -> NDArray[np.int64]:
    """Block coordinates (n, 3), (z, y, x), of keys."""
    table = np.frombuffer(b"".join(encoded), _KEY)
    return table["zyx"].astype(np.int64) - keys.BIAS
