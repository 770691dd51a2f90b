"""Labels that are not mapped to anything change: merge, split and coarse split rewrite the blocks, and the index with them.

A label is its own supervoxel and its own body, so a mutation moves voxels from one label to another. Where whole blocks are concerned
only their tables are renamed, by all cores; voxels are painted where runs cut through a block (:mod:`~dvidfs.types.labelmap.cuts`).
That is done before the write lane; in it only what is no longer true is made again. Invariant: blocks, index and totals
change together, and what is refused changed nothing. Labels without voxels can be merged, as in the original: nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from dvidfs.engine import journal, keys, ledger
from dvidfs.engine.keys import Family
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest
from dvidfs.kernels import labels as kernel
from dvidfs.kernels.runs import Runs, join_runs, partition
from dvidfs.types import workers
from dvidfs.types.formats import sparsevol
from dvidfs.types.formats.labelindex import codes_of_points, points_of_codes
from dvidfs.types.labelmap import blocks, bodies, columns, counters, cuts, index, mutate, stored
from dvidfs.types.labelmap.blocks import Incoming
from dvidfs.types.labelmap.books import Book, totals
from dvidfs.types.labelmap.columns import U64s, pairs
from dvidfs.types.labelmap.cuts import Cut, Parts
from dvidfs.types.labelmap.index import NO_COUNTS, Counts


@dataclass(frozen=True, eq=False)
class Move:
    """Voxels that shall go to other labels. ``make`` works out how, ``cut`` is what came of it before the write lane;
    ``new``: a new label for them, if a client has named one."""

    make: Callable[[ReadView], Cut]
    cut: Cut
    new: int | None = None


# ---------------------------------------------------------------- what is asked for


def merge(view: ReadView, target: int, others: Sequence[int]) -> Move:
    """All voxels of ``others`` become those of ``target``."""
    given = [target, *others]
    if not others:
        raise BadRequest(f"invalid merge tuple {given}, need at least target and to-merge labels")
    if 0 in given:
        raise BadRequest(f"invalid merge tuple {given} -- cannot contain background label 0")
    if target in others:
        raise BadRequest(f"can't merge label {target} into itself")
    counters.check(target, "merge target")
    whole = np.unique(mutate.ids(others))
    parts = Parts(whole, np.full(len(whole), target, np.uint64), whole)

    def make(now: ReadView) -> Cut:
        return _renamed(now, parts, index.counts_of(now, whole))

    return Move(make, make(view))


def split(view: ReadView, label: int, body: Buffer, new: int | None) -> Move:
    """Voxels of a label, given as runs, become those of a new one."""
    runs = _runs(label, body)

    def make(now: ReadView) -> Cut:
        rows = _rows(now, label)
        x, y, z = now.instance.settings["BlockSize"]
        try:
            touched = codes_of_points(partition(runs, (x, y, z))[0])
        except ValueError as error:
            raise BadRequest(f"split of label {label}: {error}") from None
        concerned = rows.take(np.isin(rows.codes, touched))
        if len(concerned) < len(touched):
            _refuse(label, np.setdiff1d(touched, rows.codes))
        return cuts.cut(now, _parts(label, _free(now, new)), concerned, runs)

    return Move(make, make(view), new)


def split_coarse(view: ReadView, label: int, body: Buffer, new: int | None) -> Move:
    """All voxels of a label in blocks, given as runs of blocks, become those of a new one."""
    runs = join_runs(_runs(label, body))

    def make(now: ReadView) -> Cut:
        rows = _rows(now, label)
        named = _codes(label, runs, len(rows))
        concerned = rows.take(np.isin(rows.codes, named))
        if len(concerned) < len(named):
            _refuse(label, np.setdiff1d(named, rows.codes))
        return _renamed(now, _parts(label, _free(now, new)), concerned)

    return Move(make, make(view), new)


def _runs(label: int, body: Buffer) -> Runs:
    mutate.protected(label, "sparse volume")
    runs = sparsevol.read_rles(body)
    if not len(runs) or runs[:, 3].min() < 1:
        raise BadRequest(f"split of label {label}: want spans, each of 1 voxel or more")
    return runs


def _rows(view: ReadView, label: int) -> Counts:
    """The index of a label that is there, by block."""
    rows = bodies.of_supervoxel(view, label)
    if not len(rows):
        raise BadRequest(f"cannot split label {label}: it has no voxels")
    return rows


def _codes(label: int, runs: Runs, most: int) -> U64s:
    """The codes of blocks given as runs that do not overlap; BadRequest if they are more than ``most``."""
    ends = runs[:, :3] + np.stack((runs[:, 3] - 1, *np.zeros((2, len(runs)), np.int32)), axis=1)
    firsts, _ = codes_of_points(runs[:, :3]), codes_of_points(ends)
    lengths = runs[:, 3].astype(np.int64)
    if int(lengths.sum()) > most:
        raise BadRequest(f"split: {lengths.sum()} blocks are named, original label {label} has {most}")
    each = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(firsts, lengths) + each.astype(np.uint64)


def _refuse(label: int, codes: U64s) -> None:
    x, y, z = points_of_codes(codes[:1])[0].tolist()
    raise BadRequest(f"split: block {x}_{y}_{z} is not part of original label {label}: want none but its own")


def _parts(label: int, new: int) -> Parts:
    """What is taken out of a label is ``new``, what remains keeps its number."""
    return Parts(mutate.ids([label]), mutate.ids([new]), mutate.ids([label]))


def _free(view: ReadView, new: int | None) -> int:
    """The label that was named, which must not be in use, or the one that will probably be given."""
    if new is None:
        return next(label for label in count(counters.following(view)) if not bodies.size(view, label))
    counters.check(new, "splitlabel")
    if bodies.size(view, new):
        raise BadRequest(f"splitlabel {new} is in use: want a label without voxels")
    return new


def _renamed(view: ReadView, parts: Parts, rows: Counts) -> Cut:
    """Everything that ``rows`` count goes to ``parts.split``: only tables of blocks change."""
    rows = rows.take(np.lexsort((rows.supervoxels, rows.codes)))
    coords = [(x, y, z) for x, y, z in points_of_codes(np.unique(rows.codes)).tolist()]
    entries = [view.find(Family.BLOCK, keys.encode_block(0, *coord)) for coord in coords]
    there = [entry for entry in entries if entry is not None]
    if len(there) < len(coords):
        x, y, z = coords[entries.index(None)]
        raise BadRequest(f"the index names block {x}_{y}_{z}, which is not stored: run `dvidfs check`")

    def work(payload: Buffer) -> bytes:
        block = stored.opened(payload)
        at = np.minimum(np.searchsorted(parts.whole, block.labels), len(parts.whole) - 1)
        table = np.where(parts.whole[at] == block.labels, parts.split[at], block.labels)
        return stored.pack(kernel.retable(block.data, table))

    stamps = [ledger.stamp(view, Book.SUPERVOXEL, number) for number in parts.whole.tolist()]
    payloads: list[Buffer] = list(workers.pool().map(work, view.load_many(there)))
    return Cut(parts, rows, rows.counts, stamps, entries, payloads)


# ---------------------------------------------------------------- what comes of it


def post_merge(view: WriteView, move: Move) -> Cut:
    """Carries out a merge; what was done."""
    cut = _standing(view, move)
    if len(cut.before):
        target = int(cut.parts.split[0])
        counters.saw(view, target)
        _apply(view, cut, "merge", Target=target, Labels=cut.parts.whole.tolist())
    return cut


def post_split(view: WriteView, move: Move, *, counted: bool = True) -> Cut:
    """Carries out a split; what was done. ``counted``: the largest label follows a label that a client has named."""
    cut = _standing(view, move)
    label = int(cut.parts.whole[0])
    if move.new is None:
        new = _taken(view)
    else:
        new = _free(view, move.new)
        if counted:
            counters.saw(view, new)
    cut = cut.numbered(_parts(label, new))
    _apply(view, cut, "split", Target=label, NewLabel=new, Size=cut.size)
    return cut


def _taken(view: WriteView) -> int:
    """A new label; one that a client has named may be in use without having been counted."""
    while bodies.size(view, label := counters.take(view)):
        pass
    return label


def _standing(view: WriteView, move: Move) -> Cut:
    return move.cut if move.cut.stands(view) else move.make(view)


def _apply(view: WriteView, cut: Cut, action: str, **told: Any) -> None:
    number = mutate.begin(view)
    _recount(view, number, cut)
    blocks.store(view, Incoming(0, cut.coords, cut.payloads, NO_COUNTS, 0), downres=True)
    journal.record(view, f"{action}-complete", number=number, **told)


def _recount(view: WriteView, number: int, cut: Cut) -> None:
    """Index and totals of the labels that lose voxels, and of those that get them."""
    rows, moved = cut.before, cut.inside.astype(np.int64)
    targets = cut.parts.split[np.searchsorted(cut.parts.whole, rows.supervoxels)]
    labels = np.unique(np.concatenate((rows.supervoxels, targets)))
    had = index.counts_of(view, labels)
    had = had.take(np.isin(had.codes, rows.codes))
    names = np.concatenate((had.supervoxels, rows.supervoxels, targets))
    codes = np.concatenate((had.codes, rows.codes, rows.codes))
    counts = np.concatenate((had.counts.astype(np.int64), -moved, moved))
    order = np.lexsort((codes, names))
    names, codes, counts = names[order], codes[order], counts[order]
    first = np.flatnonzero(np.append(True, (names[1:] != names[:-1]) | (codes[1:] != codes[:-1])))
    summed = np.add.reduceat(counts, first).astype(np.uint32)
    index.append(view, number, Counts(names[first], codes[first], summed))
    sizes = totals(view).get(labels, 0).astype(np.int64)
    np.add.at(sizes, np.searchsorted(labels, rows.supervoxels), -moved)
    np.add.at(sizes, np.searchsorted(labels, targets), moved)
    columns.append(view, Book.TOTALS, number, pairs(labels, sizes.astype(np.uint64)))
