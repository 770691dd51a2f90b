"""The label index: in which blocks a supervoxel lies, and with how many voxels.

Rows belong to the supervoxel, so merging and cleaving bodies rewrites none of them: a body's index is the join of its
supervoxels' rows (:mod:`~dvidfs.types.labelmap.bodies`). A row holds pairs (:data:`PAIR`) of a block and the voxels there from this
mutation on, 0: none any more; of several rows the newest that names a block counts. Blocks are *codes*
(:mod:`~dvidfs.types.formats.labelindex`), whose numeric order is ZYX order. Invariant: after each mutation of voxels the counts are those of the blocks that
were written with indexing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import ledger
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest
from dvidfs.types.formats.labelindex import FURTHEST
from dvidfs.types.geometry import Point
from dvidfs.types.labelmap.books import Book
from dvidfs.types.labelmap.columns import U64s

PAIR = np.dtype([("code", "<u8"), ("count", "<u4")])
_BIAS = 1 << 20


class Counts(NamedTuple):
    """Voxels of supervoxels in blocks, column by column: row i says that ``supervoxels[i]`` has ``counts[i]`` voxels in block
    ``codes[i]``."""

    supervoxels: U64s
    codes: U64s
    counts: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, which: NDArray) -> Counts:
        return Counts(self.supervoxels[which], self.codes[which], self.counts[which])


NO_COUNTS = Counts(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.uint32))


def code_of(coord: Point) -> int:
    """The code of a block (x, y, z). Raises BadRequest if it lies too far out to be indexed."""
    x, y, z = coord
    if not all(-FURTHEST <= n <= FURTHEST for n in coord):
        raise BadRequest(
            f"block {x}_{y}_{z} cannot be indexed: block coordinates must lie in -{FURTHEST} to {FURTHEST}"
        )
    return (z + _BIAS) << 42 | (y + _BIAS) << 21 | (x + _BIAS)


def joined(parts: list[Counts]) -> Counts:
    """All rows of several."""
    return Counts(*map(np.concatenate, zip(*parts, strict=True))) if parts else NO_COUNTS


def ordered(rows: Counts) -> Counts:
    """Rows by supervoxel, then block."""
    return rows.take(np.lexsort((rows.codes, rows.supervoxels)))


# ---------------------------------------------------------------- reading


def blocks_of(view: ReadView, supervoxel: int) -> tuple[U64s, NDArray[np.uint32]]:
    """The blocks of one supervoxel, ascending, and its voxels in each; empty if it has none."""
    return latest([row.data for row in ledger.rows(view, Book.SUPERVOXEL, supervoxel)])


def latest(rows: list[bytes]) -> tuple[U64s, NDArray[np.uint32]]:
    """What rows, newest first, say together: blocks, ascending, and voxels in each."""
    if not rows:
        return NO_COUNTS.codes, NO_COUNTS.counts
    table = np.frombuffer(rows[0] if len(rows) == 1 else b"".join(rows), PAIR)
    codes, counts = table["code"], table["count"]
    if len(rows) > 1:
        codes, first = np.unique(codes, return_index=True)
        counts = counts[first]
    there = counts > 0
    return (codes, counts) if there.all() else (codes[there], counts[there])


def counts_of(view: ReadView, supervoxels: U64s, *, zeros: bool = False) -> Counts:
    """The rows of many supervoxels, by supervoxel and block; ``zeros``: also blocks that they have left."""
    ids = np.unique(supervoxels)
    return counts_in(ids, *ledger.gather(view, Book.SUPERVOXEL, ids), zeros=zeros)


def counts_in(ids: U64s, of: NDArray[np.int64], rows: list[bytes], *, zeros: bool = False) -> Counts:
    """What rows, newest first, say of supervoxels: ``rows[i]`` is one of ``ids[of[i]]``."""
    if not rows:
        return NO_COUNTS
    table = np.frombuffer(b"".join(rows), PAIR)
    lengths = np.fromiter(map(len, rows), np.int64, len(rows)) // PAIR.itemsize
    found = Counts(ids[np.repeat(of, lengths)], table["code"], table["count"])
    if len(of) > 1 and (of[1:] == of[:-1]).any():  # several rows of one supervoxel: the first of a block counts
        order = np.lexsort((np.arange(len(found)), found.codes, found.supervoxels))
        found = found.take(order)
        first = np.ones(len(found), bool)
        first[1:] = (found.codes[1:] != found.codes[:-1]) | (found.supervoxels[1:] != found.supervoxels[:-1])
        found = found.take(first)
    return found if zeros else found.take(found.counts > 0)


def sizes_of(rows: Counts, supervoxels: U64s) -> U64s:
    """Voxels of each of ``supervoxels`` (ascending) in ``rows``."""
    out = np.zeros(len(supervoxels), np.uint64)
    at = np.searchsorted(supervoxels, rows.supervoxels)
    np.add.at(out, at, rows.counts.astype(np.uint64))
    return out


# ---------------------------------------------------------------- writing


def append(view: WriteView, mutation: int, rows: Counts) -> None:
    """Set counts; each supervoxel in one mutation once, each pair of block and supervoxel once."""
    if not len(rows):
        return
    rows = ordered(rows)
    table = np.empty(len(rows), PAIR)
    table["code"], table["count"] = rows.codes, rows.counts
    starts = np.flatnonzero(np.concatenate(([True], rows.supervoxels[1:] != rows.supervoxels[:-1])))
    text, ends = table.tobytes(), np.append(starts[1:], len(rows))
    cuts = zip((starts * PAIR.itemsize).tolist(), (ends * PAIR.itemsize).tolist(), strict=True)
    ledger.append(view, Book.SUPERVOXEL, mutation, rows.supervoxels[starts], [text[a:b] for a, b in cuts])


def change(before: Counts, after: Counts) -> Counts:
    """What must be appended so that rows that say ``before`` say ``after``: counts that differ, and 0 where something is gone."""
    gone = Counts(before.supervoxels, before.codes, np.zeros(len(before), np.uint32))
    both, had = joined([after, gone]), np.concatenate((np.zeros(len(after), np.uint32), before.counts))
    order = np.lexsort((np.arange(len(both)), both.codes, both.supervoxels))
    both, had = both.take(order), had[order]
    again = (both.codes[1:] == both.codes[:-1]) & (both.supervoxels[1:] == both.supervoxels[:-1])
    differs = np.ones(len(both), bool)
    differs[1:] = ~again
    differs[:-1] &= ~(again & (had[1:] == both.counts[:-1]))
    return both.take(differs)
