"""A merge of versions: what its parents did to bodies apart from each other becomes one state of the child.

Where only one parent changed something, that counts, without anything being written: its rows are the newest that the child
sees. A supervoxel that parents mapped to different bodies is a conflict: the first parent's word is written into the child, and
the conflict is listed. Membership of supervoxels that several parents moved follows the mapping, if any of them spoke of it, and
else the first parent. Bodies that several parents changed, and those that their supervoxels went to, are counted anew. The
cost is that of what the parents changed. Invariant: in the child no supervoxel lies in two bodies unless it did in a parent, and
one without voxels lies in none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import ledger
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.types.labelmap import bodies, columns, index, mutate
from dvidfs.types.labelmap.bodies import Change
from dvidfs.types.labelmap.books import Book, mapping
from dvidfs.types.labelmap.columns import NO_PAIRS, Pairs, U64s, pairs

_NONE = np.zeros(0, np.uint64)
_NOWHERE = np.uint64(0)


def settle(child: WriteView, parents: Sequence[ReadView]) -> list[str]:
    """Write into the child of a merge what settles its conflicts; the supervoxels in conflict."""
    sides = _sides(child, parents)
    touched = [_touched(child, side) for side in sides]
    said = [_column(child, Book.MAPPING, side) for side in sides]
    moves = [_moves(child, side, ids) for side, ids in zip(sides, touched, strict=True)]
    mapped, several = _settled(said), _several(touched)
    torn = _settled([_where(found, found.values != _NOWHERE) for found in moves]).keys
    if not len(mapped) and not len(torn) and not len(several):
        return []
    number = mutate.begin(child)
    columns.append(child, Book.MAPPING, number, mapped)
    spoken = np.isin(torn, np.concatenate([_NONE, *(told.keys for told in said)]))
    holders = _holders(child, moves, torn[spoken], several)
    changes, again = bodies.Changes(child, number, told=False), [several]
    for side, found in zip(sides, moves, strict=True):
        wrong = found.values != holders.values[np.searchsorted(holders.keys, found.keys)]
        now = holders.values[np.searchsorted(holders.keys, found.keys[wrong])]
        again += [now, found.values[wrong], _heirs(child, side, found, several)]
        for body, supervoxels in _grouped(_where(found, wrong)):
            changes.leave(body, supervoxels)
        for body, supervoxels in _grouped(Pairs(found.keys[wrong], now)):
            changes.come(body, supervoxels)
    for body in np.setdiff1d(several, index.counts_of(child, several).supervoxels).tolist():
        if ledger.stamp(child, Book.BODY, body) is not None:  # it may hold the supervoxel of its number without a row
            changes.leave(body, np.array([body], np.uint64))
    changes.write()
    _recount(child, number, np.unique(np.concatenate(again)))
    return [str(number) for number in np.union1d(mapped.keys, torn[~spoken]).tolist()]


def _holders(child: WriteView, moves: Sequence[Pairs], spoken: U64s, several: U64s) -> Pairs:
    """The body that each supervoxel which versions moved lies in now; 0: in none.

    ``spoken``: those that parents moved to different bodies, and of which the mapping tells.
    """
    keys = np.unique(np.concatenate([_NONE, *(found.keys for found in moves)]))
    holders, bodies_of = np.zeros(len(keys), np.uint64), mapping(child).get(keys, keys)
    for found in reversed(moves):  # the first parent has the last word
        there = found.values != _NOWHERE
        holders[np.searchsorted(keys, found.keys[there])] = found.values[there]
    # Who lost the last voxels on one side may have got others on another.
    mapped = np.isin(keys, spoken) | (holders == _NOWHERE) & np.isin(bodies_of, several)
    holders[mapped] = bodies_of[mapped]
    holders[~np.isin(keys, index.counts_of(child, keys).supervoxels)] = _NOWHERE
    return Pairs(keys, holders)


def _recount(child: WriteView, number: int, ids: U64s) -> None:
    """Totals of bodies follow from their index, whatever they were."""
    ids = ids[ids != _NOWHERE]
    sizes = [_size(child, body) for body in ids.tolist()]
    columns.append(child, Book.TOTALS, number, pairs(ids, np.array(sizes, np.uint64)))


def _size(child: WriteView, body: int) -> int:
    """The voxels of a body, whatever totals say."""
    alone = ledger.stamp(child, Book.BODY, body) is None
    rows = bodies.of_supervoxel(child, body) if alone else bodies.of_body(child, body)
    return int(rows.counts.sum(dtype=np.uint64))


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


def _moves(view: ReadView, side: Iterable[int], touched: U64s) -> Pairs:
    """Supervoxels that versions moved, and the body that has each now; 0: none has."""
    moves: list[tuple[int, int, U64s, int]] = []
    for body in touched.tolist():
        for version in side:
            for row in ledger.of_version(view, Book.BODY, body, version):
                change = Change.parse(row.data)
                moves += [(version, row.mutation, change.came, body), (version, row.mutation, change.left, 0)]
    if not moves:
        return NO_PAIRS
    # Later mutations come last, and within one what came after what left: the last word on a supervoxel counts.
    moves.sort(key=lambda move: (move[0], move[1], move[3] > 0))
    keys = np.concatenate([ids for _, _, ids, _ in moves])
    values = np.concatenate([np.full(len(ids), body, np.uint64) for _, _, ids, body in moves])
    return pairs(keys, values)


def _heirs(view: ReadView, side: Sequence[int], found: Pairs, several: U64s) -> U64s:
    """The bodies that versions moved supervoxels to out of ``several``: other sides may have changed how large these are."""
    moved = [_NONE]
    for body in several.tolist():
        for version in side:
            moved += [Change.parse(row.data).left for row in ledger.of_version(view, Book.BODY, body, version)]
    return np.unique(found.values[np.isin(found.keys, np.concatenate(moved))])


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


def _where(found: Pairs, chosen: NDArray[np.bool_]) -> Pairs:
    return Pairs(found.keys[chosen], found.values[chosen])


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
