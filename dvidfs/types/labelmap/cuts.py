"""Supervoxels cut in two by runs of voxels: the blocks that come of it, made of a snapshot and taken over by a transaction.

Decides how blocks are rewritten: of those that the runs touch the voxels are painted, of all others the table alone is
renamed, by all cores. What the parts mean for bodies, and who numbers them, is :mod:`~dvidfs.types.labelmap.splits`. A cut can
be taken over as long as blocks and index are those that it was made of (:meth:`Cut.stands`), so a transaction looks at entries
and at no voxel. Invariant: nothing is cut unless the index counts of the supervoxels just what the blocks hold, and every
voxel of the runs, each named once, is one of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import keys, ledger
from dvidfs.engine.keys import Family
from dvidfs.engine.store import Buffer
from dvidfs.engine.values import Entry
from dvidfs.engine.versions import ReadView
from dvidfs.errors import BadRequest
from dvidfs.kernels import labels as kernel
from dvidfs.kernels import runs as run_kernel
from dvidfs.kernels.labels import Block
from dvidfs.kernels.repaint import repaint
from dvidfs.kernels.runs import Runs
from dvidfs.types import workers
from dvidfs.types.formats.labelindex import codes_of_points, points_of_codes
from dvidfs.types.geometry import Point, join
from dvidfs.types.labelmap import index, stored
from dvidfs.types.labelmap.books import Book
from dvidfs.types.labelmap.columns import U64s
from dvidfs.types.labelmap.index import Counts

Stamp = tuple[int, int] | None
_NO_RUNS = np.zeros((0, 4), np.int32)


class Parts(NamedTuple):
    """Supervoxels that are cut, ascending, and the numbers of what the runs hold of each and of what remains."""

    whole: U64s
    split: U64s
    remain: U64s


@dataclass(frozen=True, eq=False)
class Cut:
    """What a cut makes. ``before``: the index of the supervoxels, by block and supervoxel; ``inside``: the voxels of each of its
    rows that the runs hold; ``entries``, ``payloads``: of each block what was there, and what takes its place."""

    parts: Parts
    before: Counts
    inside: NDArray[np.uint32]
    stamps: list[Stamp]
    entries: list[Entry | None]
    payloads: list[Buffer]

    @cached_property
    def coords(self) -> list[Point]:
        """The blocks (x, y, z), in the order of their keys."""
        return _coords(np.unique(self.before.codes))

    @property
    def after(self) -> Counts:
        """The index of the parts."""
        at = np.searchsorted(self.parts.whole, self.before.supervoxels)
        codes, counts = self.before.codes, self.before.counts
        split = Counts(self.parts.split[at], codes, self.inside)
        remain = Counts(self.parts.remain[at], codes, counts - self.inside)
        rows = index.joined([split, remain])
        return rows.take(rows.counts > 0)

    @property
    def left(self) -> U64s:
        """The remainders that have voxels."""
        return np.unique(self.before.supervoxels[self.inside < self.before.counts])

    @property
    def size(self) -> int:
        """Voxels that the runs hold."""
        return int(self.inside.sum(dtype=np.uint64))

    def stands(self, view: ReadView) -> bool:
        """Whether blocks and index are still those that this was made of."""
        return _stamps(view, self.parts.whole) == self.stamps and _entries(view, self.coords) == self.entries

    def numbered(self, parts: Parts) -> Cut:
        """The same with other numbers for the parts."""
        old, new = (np.concatenate((p.split, p.remain)) for p in (self.parts, parts))
        if np.array_equal(old, new):
            return self
        order = np.argsort(old)
        ranked, names, taken = old[order], new[order], np.sort(new)

        def work(payload: Buffer) -> bytes:
            block = stored.opened(payload)
            at, mine = _places(ranked, block.labels)
            _need_absent(taken, block.labels[~mine])
            return stored.pack(kernel.retable(block.data, np.where(mine, names[at], block.labels)))

        return replace(self, parts=parts, payloads=list(workers.pool().map(work, self.payloads)))


def cut(view: ReadView, parts: Parts, before: Counts, runs: Runs) -> Cut:
    """Cut supervoxels, whose whole index is ``before``, by runs (n, 4) of positive length.

    Raises:
        BadRequest: the runs overlap or leave the supervoxels, the index is not what the blocks hold, or a number is in use.
    """
    before = before.take(np.lexsort((before.supervoxels, before.codes)))
    codes, starts = np.unique(before.codes, return_index=True)
    coords, stops = _coords(codes), np.append(starts[1:], len(before))
    entries = _entries(view, coords)
    pieces, work = _by_block(view, codes, runs), _Work(parts, coords)
    payloads = _payloads(view, entries, coords)
    places = np.arange(len(before))
    rows = [before.take(places[a:b]) for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]
    made = list(workers.pool().map(work.cut, range(len(coords)), payloads, rows, pieces))
    inside = np.concatenate([counts for _, counts in made])
    return Cut(parts, before, inside, _stamps(view, parts.whole), entries, [payload for payload, _ in made])


def held(view: ReadView, known: U64s, runs: Runs) -> U64s:
    """The supervoxels that runs of positive length hold, ascending; ``known``: the blocks (codes) they may lie in.

    Raises:
        BadRequest: the runs overlap, or leave those blocks.
    """
    codes = np.unique(known)
    pieces = _by_block(view, codes, runs)
    some = np.array([len(part) > 0 for part in pieces], bool)
    coords = _coords(codes[some])
    payloads = _payloads(view, _entries(view, coords), coords)

    def work(payload: Buffer, part: Runs, coord: Point) -> U64s:
        return _below(stored.opened(payload), part, coord)

    found = list(workers.pool().map(work, payloads, [part for part in pieces if len(part)], coords))
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *found]))


class _Work:
    """What is done to each block; touches no transaction."""

    def __init__(self, parts: Parts, coords: Sequence[Point]) -> None:
        self.parts, self.coords = parts, coords
        self.names = np.setdiff1d(
            np.concatenate((parts.split, parts.remain)), parts.whole
        )  # what remains may keep its own

    def cut(self, i: int, payload: Buffer, rows: Counts, pieces: Runs) -> tuple[bytes, NDArray[np.uint32]]:
        """The new payload of block i and how many voxels of each of its rows the pieces hold."""
        block, parts = stored.opened(payload), self.parts
        _need_absent(self.names, block.labels)
        at, mine = _places(parts.whole, block.labels)
        self._check(i, rows, at[mine], kernel.tally(block)[mine])
        which = np.searchsorted(parts.whole, rows.supervoxels)
        inside = np.zeros(len(which), np.uint32)
        if not len(pieces):
            return self._renamed(block, parts.remain), inside
        native, counts = repaint(block, pieces, rows.supervoxels, parts.split[which])
        inside[:] = counts
        if int(counts.sum()) != _volume(pieces):
            self._refuse(i, block, pieces)
        return self._renamed(kernel.parse_trusted(native), parts.remain), inside

    def _renamed(self, block: Block, names: U64s) -> bytes:
        at, mine = _places(self.parts.whole, block.labels)
        return stored.pack(kernel.retable(block.data, np.where(mine, names[at], block.labels)))

    def _check(self, i: int, rows: Counts, at: NDArray[np.int64], tally: U64s) -> None:
        """Refuses a block that does not hold what the index says."""
        counts = np.zeros(len(self.parts.whole), np.uint64)
        np.add.at(counts, at, tally)
        said = np.zeros_like(counts)
        said[np.searchsorted(self.parts.whole, rows.supervoxels)] = rows.counts
        if (wrong := counts != said).any():
            k = int(np.argmax(wrong))
            raise BadRequest(
                f"the index counts {said[k]} voxels of supervoxel {self.parts.whole[k]} in {_name(self.coords[i])}, which "
                f"holds {counts[k]}"
            )

    def _refuse(self, i: int, block: Block, pieces: Runs) -> None:
        others = np.setdiff1d(_below(block, pieces, self.coords[i]), self.parts.whole)
        raise BadRequest(f"the spans hold voxels of {others[0]} in {_name(self.coords[i])}: want none but its own")


# ---------------------------------------------------------------- small things


def _coords(codes: U64s) -> list[Point]:
    return [(x, y, z) for x, y, z in points_of_codes(codes).tolist()]


def _name(coord: Point) -> str:
    return f"block {join(coord)}"


def _entries(view: ReadView, coords: Sequence[Point]) -> list[Entry | None]:
    return [view.find(Family.BLOCK, keys.encode_block(0, *coord)) for coord in coords]


def _stamps(view: ReadView, supervoxels: U64s) -> list[Stamp]:
    return [ledger.stamp(view, Book.SUPERVOXEL, number) for number in supervoxels.tolist()]


def _payloads(view: ReadView, entries: Sequence[Entry | None], coords: Sequence[Point]) -> list[Buffer]:
    there = [entry for entry in entries if entry is not None]
    if len(there) < len(entries):
        raise BadRequest(f"the index names {_name(coords[entries.index(None)])}, which is not stored")
    return view.load_many(there)


def _by_block(view: ReadView, codes: U64s, runs: Runs) -> list[Runs]:
    """What of the runs lies in each of some blocks, in its coordinates; BadRequest if some lies elsewhere."""
    size: Point = tuple(view.instance.settings["BlockSize"])
    try:
        coords, starts, pieces = run_kernel.partition(runs, size)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    at, known = _places(codes, codes_of_points(coords))
    if not known.all():
        first = coords[int(np.argmin(known))].tolist()
        raise BadRequest(f"the spans reach into {_name((first[0], first[1], first[2]))}, where none of its voxels are")
    out = [_NO_RUNS] * len(codes)
    for place, a, b in zip(at.tolist(), starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        out[place] = pieces[a:b]
    return out


def _places(ranked: U64s, labels: U64s) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each of ``labels`` stands in a list that is ascending and not empty, and whether it does."""
    at = np.minimum(np.searchsorted(ranked, labels), len(ranked) - 1)
    return at, ranked[at] == labels


def _below(block: Block, pieces: Runs, coord: Point) -> U64s:
    """The labels of the voxels of some runs; BadRequest if one is named twice."""
    mask = np.zeros(block.shape, bool)
    run_kernel.fill_mask(mask, (0, 0, 0), pieces)
    if int(mask.sum()) != _volume(pieces):
        raise BadRequest(f"the spans overlap in {_name(coord)}: want each voxel once")
    return np.unique(kernel.voxels(block)[mask])


def _volume(runs: Runs) -> int:
    return int(runs[:, 3].sum(dtype=np.int64))


def _need_absent(names: U64s, labels: U64s) -> None:
    """Refuses numbers, ascending, one of which a block has already."""
    _, used = _places(names, labels)
    if used.any():
        raise BadRequest(f"label {labels[int(np.argmax(used))]} is in use by voxels: want numbers that are new")
