"""What a labelvol says of one label without a voxel being changed: blocks are left out, or counted anew from the voxels.

Invariant: index and totals say the same; voxels and index of the label differ between leaving blocks out and counting them anew, as
in the original.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from dvidfs.engine import journal, keys
from dvidfs.engine.keys import Family
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import Conflict
from dvidfs.kernels import labels as kernel
from dvidfs.types import workers
from dvidfs.types.formats.labelindex import points_of_codes
from dvidfs.types.geometry import Box
from dvidfs.types.labelmap import bodies, columns, counters, index, mutate, stored
from dvidfs.types.labelmap.books import Book
from dvidfs.types.labelmap.columns import pairs
from dvidfs.types.labelmap.index import Counts

_AT_ONCE = 64
"""Blocks that are looked through at a time."""


@dataclass(frozen=True, eq=False)
class Found:
    """Where the voxels of a label are, at the state that ``stamp`` tells."""

    label: int
    rows: Counts
    stamp: Any


def look(view: ReadView, label: int) -> Found:
    """Looks for a label in all blocks."""

    def count(payload: Buffer) -> int:
        block = stored.opened(payload)
        mine = block.labels == label
        return int(kernel.tally(block)[mine].sum()) if mine.any() else 0

    def skip(_conflict: Conflict) -> None:
        return None

    codes, counts = list[int](), list[int]()
    every = view.scan(Family.BLOCK, stop=bytes([1]), on_conflict=skip)
    while part := list(islice(every, _AT_ONCE)):
        codes += [index.code_of(keys.decode_block(found.enc)[1:]) for found in part]
        counts += workers.each(count, view.load_many([found.entry for found in part]))
    there = np.array(counts, np.uint32)
    rows = Counts(np.full(len(codes), label, np.uint64), np.array(codes, np.uint64), there)
    return Found(label, rows.take(there > 0), view.stamp())


def resync(view: WriteView, found: Found) -> None:
    """The index of a label becomes what its voxels say."""
    if found.stamp != view.stamp():
        found = look(view, found.label)
    if len(found.rows):
        counters.saw(view, found.label)
    _set(view, found.label, found.rows, "resync")


def leave_out(view: WriteView, label: int, blocks: Box) -> None:
    """A label's volume ends at a box of blocks; the voxels there stay what they are."""
    rows = bodies.of_supervoxel(view, label)
    at, low, stop = points_of_codes(rows.codes), np.array(blocks.offset), np.array(blocks.stop)
    outside = np.any((at < low) | (at >= stop), axis=1)
    _set(view, label, rows.take(np.flatnonzero(outside)), "area", Offset=blocks.offset, Size=blocks.size)


def _set(view: WriteView, label: int, rows: Counts, action: str, **told: Any) -> None:
    before = bodies.of_supervoxel(view, label)
    if len(before) == len(rows) and all(np.array_equal(a, b) for a, b in zip(before, rows, strict=True)):
        return
    number = mutate.begin(view)
    index.append(view, number, index.change(before, rows))
    size = int(rows.counts.sum(dtype=np.uint64))
    columns.append(view, Book.TOTALS, number, pairs(mutate.ids([label]), size))
    journal.record(view, action, number=number, Label=label, **told)
