"""A merge of versions: what its parents did to bodies apart from each other becomes one state of the child.

Where only one parent changed something, that counts, without anything being written: its rows are the newest that the child sees. A
supervoxel that parents gave to different bodies is a conflict: the first parent's word is written into the child, for mapping
and membership, and the conflict is listed. Totals of bodies that several parents changed are counted anew. The cost is that of what
the parents changed. Invariant: in the child no supervoxel lies in two bodies unless it did in a parent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from dvidfs.engine import ledger
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.types.labelmap import bodies, columns, mutate
from dvidfs.types.labelmap.books import Book
from dvidfs.types.labelmap.columns import NO_PAIRS, Pairs, U64s, pairs

_NONE = np.zeros(0, np.uint64)
_NOWHERE = np.uint64(0)


def settle(child: WriteView, parents: Sequence[ReadView]) -> list[str]:
    """Write into the child of a merge what settles its conflicts; the supervoxels in conflict."""
    sides = _sides(child, parents)
    touched = [_touched(child, side) for side in sides]
    mapped = _settled([_column(child, Book.MAPPING, side) for side in sides])
    holders = [_holders(child, side, ids) for side, ids in zip(sides, touched, strict=True)]
    held = _settled(holders)
    several = _several(touched)
    if not len(mapped) and not len(held) and not len(several):
        return []
    number = mutate.begin(child)
    columns.append(child, Book.MAPPING, number, mapped)
    changes = bodies.Changes(child, number, told=False)
    for body, supervoxels in _grouped(held):
        changes.come(body, supervoxels)
    again = [several, held.values]
    for found in holders:
        lost = _differing(found, held)
        again.append(lost.values)
        for body, supervoxels in _grouped(lost):
            changes.leave(body, supervoxels)
    changes.write()
    recounted = np.unique(np.concatenate(again))
    recounted = recounted[recounted != _NOWHERE]
    sizes = [bodies.of_body(child, body).counts.sum(dtype=np.uint64) for body in recounted.tolist()]
    columns.append(child, Book.TOTALS, number, pairs(recounted, np.array(sizes, np.uint64)))
    return [str(number) for number in np.union1d(mapped.keys, held.keys).tolist()]


def _sides(child: WriteView, parents: Sequence[ReadView]) -> list[list[int]]:
    """For each parent the versions that not all parents see, the newest first."""
    nodes = child.graph.repos[child.node.repo].nodes
    seen = [{version for version in nodes if parent.lineage.sees(version)} for parent in parents]
    common = set.intersection(*seen)
    return [sorted(side - common, reverse=True) for side in seen]


def _column(view: ReadView, book: int, side: Iterable[int]) -> Pairs:
    """What versions wrote into a column."""
    return columns.united([row.data for version in side for row in ledger.of_version(view, book, 0, version)])


def _touched(view: ReadView, side: Iterable[int]) -> U64s:
    """The bodies that versions changed."""
    side = list(side)
    rows = [row.data for version in side for row in ledger.of_version(view, Book.TOUCHED, 0, version)]
    told = [np.frombuffer(row, "<u8") for row in rows]
    return np.unique(np.concatenate([_NONE, *told, _column(view, Book.TOTALS, side).keys]))


def _holders(view: ReadView, side: Iterable[int], touched: U64s) -> Pairs:
    """Supervoxels that versions moved, and the body that has each now; 0: none has."""
    moves: list[tuple[int, int, U64s, int]] = []
    for body in touched.tolist():
        for version in side:
            for row in ledger.of_version(view, Book.BODY, body, version):
                change = bodies.Change.parse(row.data)
                moves += [(version, row.mutation, change.came, body), (version, row.mutation, change.left, 0)]
    if not moves:
        return NO_PAIRS
    # Later mutations come last, and within one what came after what left: the last word on a supervoxel counts.
    moves.sort(key=lambda move: (move[0], move[1], move[3] > 0))
    keys = np.concatenate([ids for _, _, ids, _ in moves])
    values = np.concatenate([np.full(len(ids), body, np.uint64) for _, _, ids, body in moves])
    return pairs(keys, values)


def _settled(sides: Sequence[Pairs]) -> Pairs:
    """Keys to which sides gave different values, with the value of the first side that gave one."""
    every = [side for side in sides if len(side)]
    if len(every) < 2:
        return NO_PAIRS
    keys, values = (np.concatenate(which) for which in zip(*every, strict=True))
    found, first, of = np.unique(keys, return_index=True, return_inverse=True)
    differing = np.zeros(len(found), bool)
    np.logical_or.at(differing, of, values != values[first][of])
    return Pairs(found[differing], values[first][differing])


def _differing(side: Pairs, settled: Pairs) -> Pairs:
    """What a side said otherwise than was settled."""
    if not len(settled):
        return NO_PAIRS
    at = np.minimum(np.searchsorted(settled.keys, side.keys), len(settled) - 1)
    lost = (settled.keys[at] == side.keys) & (settled.values[at] != side.values)
    return Pairs(side.keys[lost], side.values[lost])


def _grouped(found: Pairs) -> Iterable[tuple[int, U64s]]:
    """Keys by value, but for value 0."""
    order = np.argsort(found.values, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(found.values[order])) + 1):
        if len(part) and found.values[part[0]] != _NOWHERE:
            yield int(found.values[part[0]]), found.keys[part]


def _several(sides: Sequence[U64s]) -> U64s:
    """Bodies that more than one of these name."""
    named, count = np.unique(np.concatenate([np.unique(side) for side in sides]), return_counts=True)
    return named[(count > 1) & (named != _NOWHERE)]
