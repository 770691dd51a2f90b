"""A merge of versions: what its parents did to bodies apart from each other becomes one state of the child.

Where only one parent changed something, that counts, without anything being written: its rows are the newest that the child
sees. Of what several said of a supervoxel, words that another parent knew of and overrode do not count; if bodies differ then, it
is a conflict: the first parent's word is written into the child, and the conflict is listed. Membership follows the mapping where a parent
spoke of that, and else in the same way. Bodies that several parents changed, and those that their supervoxels went to,
are counted anew. The cost is that of what the parents changed. Invariant: in the child no supervoxel lies in two bodies unless it did
in a parent, and one without voxels lies in none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import ledger
from dvidfs.engine.keys import Family, decode_block, is_derived
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.kernels.labels import tally
from dvidfs.types.labelmap import bodies, columns, index, ingest, mutate, stored
from dvidfs.types.labelmap.bodies import Change
from dvidfs.types.labelmap.books import Book, mapping
from dvidfs.types.labelmap.columns import U64s, pairs

_NONE = np.zeros(0, np.uint64)
_NOWHERE = np.uint64(0)


class Words(NamedTuple):
    """What a parent and those before it said of supervoxels last: their bodies (0: none), and the versions that said so."""

    keys: U64s
    values: U64s
    versions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, which: NDArray) -> Words:
        return Words(self.keys[which], self.values[which], self.versions[which])


def settle(child: WriteView, parents: Sequence[ReadView], keys: Sequence[bytes] = ()) -> list[str]:
    """Write into the child of a merge what settles its conflicts; the supervoxels in conflict. ``keys``: contested ones that
    have got the value of one parent."""
    torn = _settle(child, parents)
    _recount_blocks(child, parents, [key[1:] for key in keys if key[0] == Family.BLOCK and not is_derived(key)])
    return torn


def _settle(child: WriteView, parents: Sequence[ReadView]) -> list[str]:
    sides = _sides(child, parents)
    touched = [_touched(child, side) for side in sides]
    moves = [_moves(child, side, ids) for side, ids in zip(sides, touched, strict=True)]
    several = _several([np.union1d(ids, found.keys) for ids, found in zip(touched, moves, strict=True)])
    said = _standing([_said(child, side) for side in sides], parents)
    mapped = _torn(said)
    if not len(mapped) and not len(several):
        return []
    number = mutate.begin(child)
    columns.append(child, Book.MAPPING, number, pairs(mapped.keys, mapped.values))
    held = _standing([_meant(*both) for both in zip(moves, parents, strict=True)], parents)
    spoken = np.unique(np.concatenate([_NONE, *(told.keys for told in said)]))
    now = _holders(child, moves, held, spoken)
    edits = _Edits(child, number)
    again = [several, now.values[np.isin(now.keys, several)]]
    for side, found in zip(sides, moves, strict=True):
        holders = now.values[np.searchsorted(now.keys, found.keys)]
        wrong = found.values != holders
        edits.leave(found.keys[wrong], found.values[wrong])
        edits.come(found.keys[wrong], holders[wrong])
        again += [found.values[wrong], holders[wrong], _heirs(child, side, found, several)]
    edits.leave_own(now.keys[(now.keys != now.values) & np.isin(now.keys, several)])
    edits.write(np.unique(np.concatenate(again)))
    unspoken = np.setdiff1d(_torn([found.take(found.values != _NOWHERE) for found in held]).keys, spoken)
    return [str(number) for number in np.union1d(mapped.keys, unspoken).tolist()]


class _Edits:
    """Which supervoxels come to bodies and leave them in the child. A body that is counted anew loses those without voxels."""

    def __init__(self, child: WriteView, number: int) -> None:
        self._child, self._number = child, number
        self._left: dict[int, list[U64s]] = {}
        self._came: dict[int, list[U64s]] = {}

    def leave(self, supervoxels: U64s, bodies_of: U64s) -> None:
        for body, ids in _grouped(supervoxels, bodies_of):
            self._left.setdefault(body, []).append(ids)

    def come(self, supervoxels: U64s, bodies_of: U64s) -> None:
        for body, ids in _grouped(supervoxels, bodies_of):
            self._came.setdefault(body, []).append(ids)

    def leave_own(self, supervoxels: U64s) -> None:
        """Supervoxels leave the bodies of their own number, which hold them without a word."""
        there = [
            bool(bodies.is_in(supervoxels[i : i + 1], bodies.by_rows(self._child, n))[0])
            for i, n in enumerate(supervoxels.tolist())
        ]
        own = supervoxels[np.array(there, bool)]
        self.leave(own, own)

    def write(self, recounted: U64s) -> None:
        """Membership, and the totals of these bodies, whatever they were."""
        changes, sizes = bodies.Changes(self._child, self._number, told=False), dict[int, int]()
        came = {body: np.unique(np.concatenate(ids)) for body, ids in self._came.items()}
        left = {body: np.setdiff1d(np.concatenate(ids), came.get(body, _NONE)) for body, ids in self._left.items()}
        for body in recounted[recounted != _NOWHERE].tolist():
            known = bodies.by_rows(self._child, body)
            held = np.union1d(np.setdiff1d(known, left.get(body, _NONE)), came.get(body, _NONE))
            rows = index.counts_of(self._child, held)
            sizes[body] = int(rows.counts.sum(dtype=np.uint64))
            empty = np.setdiff1d(held, rows.supervoxels)
            if len(empty):
                came[body] = np.setdiff1d(came.get(body, _NONE), empty)
                left[body] = np.union1d(left.get(body, _NONE), empty)
        for body, ids in came.items():
            changes.come(body, ids)
        for body, ids in left.items():
            changes.leave(body, ids)
        changes.write()
        totals = pairs(mutate.ids(sizes), mutate.ids(sizes.values()))
        columns.append(self._child, Book.TOTALS, self._number, totals)


def _recount_blocks(child: WriteView, parents: Sequence[ReadView], blocks: Sequence[bytes]) -> None:
    """Index, totals and membership follow blocks of which one parent's voxels were taken."""
    if not blocks or not child.instance.settings["IndexedLabels"]:
        return
    replaced, counts = [_NONE], list[tuple[int, U64s, U64s]]()
    for parent in parents:
        found = parent.load_keys(Family.BLOCK, blocks)
        replaced += [stored.opened(payload).labels for payload in found if payload is not None]
    for enc, payload in zip(blocks, child.load_keys(Family.BLOCK, blocks), strict=True):
        if payload is not None:
            block, (_, x, y, z) = stored.opened(payload), decode_block(enc)
            counts.append((index.code_of((x, y, z)), block.labels, tally(block)))
    labels = np.unique(np.concatenate(replaced))
    codes = np.array([code for code, _, _ in counts], np.uint64)
    ingest.recount(child, mutate.begin(child), codes, ingest.counted(counts), labels[labels != _NOWHERE])


# ---------------------------------------------------------------- what parents did


def _sides(child: WriteView, parents: Sequence[ReadView]) -> list[list[int]]:
    """For each parent the versions that not all parents see, the newest first."""
    nodes = child.graph.repos[child.node.repo].nodes
    seen = [{version for version in nodes if parent.lineage.sees(version)} for parent in parents]
    common = set.intersection(*seen)
    return [sorted(side - common, reverse=True) for side in seen]


def _touched(view: ReadView, side: Iterable[int]) -> U64s:
    """The bodies that versions changed."""
    side = list(side)
    rows = [row.data for version in side for row in ledger.of_version(view, Book.TOUCHED, 0, version)]
    told = [np.frombuffer(row, "<u8") for row in rows]
    sizes = [row.data for version in side for row in ledger.of_version(view, Book.TOTALS, 0, version)]
    return np.unique(np.concatenate([_NONE, *told, columns.united(sizes).keys]))


def _said(view: ReadView, side: Iterable[int]) -> Words:
    """What versions said of the mapping."""
    parts = []
    for version in side:
        told = columns.united([row.data for row in ledger.of_version(view, Book.MAPPING, 0, version)])
        parts.append(Words(*told, np.full(len(told), version)))
    return _latest(parts)


def _moves(view: ReadView, side: Iterable[int], touched: U64s) -> Words:
    """Supervoxels that versions moved, and the body that has each now; 0: none has."""
    moves: list[tuple[int, int, bool, Words]] = []
    for body in touched.tolist():
        for version in side:
            for row in ledger.of_version(view, Book.BODY, body, version):
                change = Change.parse(row.data)
                for ids, came in ((change.came, True), (change.left, False)):
                    part = Words(ids, np.full(len(ids), body if came else 0, np.uint64), np.full(len(ids), version))
                    moves.append((version, row.mutation, came, part))
    # Later mutations come first, and within one what came before what left: the last word on a supervoxel counts.
    moves.sort(key=lambda move: move[:3], reverse=True)
    return _latest([part for *_, part in moves])


def _latest(parts: Sequence[Words]) -> Words:
    """All words, newest first, as one for each key."""
    keys, values, versions = (
        np.concatenate(which) for which in zip(Words(_NONE, _NONE, np.zeros(0, np.int64)), *parts, strict=True)
    )
    found, first = np.unique(keys, return_index=True)
    return Words(found, values[first], versions[first])


def _heirs(view: ReadView, side: Sequence[int], found: Words, several: U64s) -> U64s:
    """The bodies that versions moved supervoxels to out of ``several``: other sides may have changed how large these are."""
    moved = [_NONE]
    for body in several.tolist():
        for version in side:
            moved += [Change.parse(row.data).left for row in ledger.of_version(view, Book.BODY, body, version)]
    return np.unique(found.values[np.isin(found.keys, np.concatenate(moved))])


# ---------------------------------------------------------------- which words count


def _standing(words: Sequence[Words], parents: Sequence[ReadView]) -> list[Words]:
    """The words that no other parent knew of and overrode."""
    out = []
    for i, mine in enumerate(words):
        stands = np.ones(len(mine), bool)
        for j, (theirs, parent) in enumerate(zip(words, parents, strict=True)):
            known = [version for version in np.unique(mine.versions).tolist() if parent.lineage.sees(version)]
            if j != i and known and len(theirs):
                at = np.minimum(np.searchsorted(theirs.keys, mine.keys), len(theirs) - 1)
                newer = (theirs.keys[at] == mine.keys) & (theirs.versions[at] != mine.versions)
                stands &= ~(newer & np.isin(mine.versions, known))
        out.append(mine.take(stands))
    return out


def _meant(found: Words, parent: ReadView) -> Words:
    """Words but for those of supervoxels that lie in no body just because the parent has no voxels of them."""
    nowhere = found.values == _NOWHERE
    empty = np.setdiff1d(found.keys[nowhere], index.counts_of(parent, found.keys[nowhere]).supervoxels)
    return found.take(~np.isin(found.keys, empty))


def _holders(child: WriteView, moves: Sequence[Words], held: Sequence[Words], mapped: U64s) -> Words:
    """The body that each supervoxel which versions moved lies in now; 0: in none. ``held``: the words on that which count;
    ``mapped``: supervoxels that a parent mapped, which lie where they are mapped to."""
    keys = np.unique(np.concatenate([_NONE, *(found.keys for found in moves)]))
    holders, open_ = mapping(child).get(keys, keys), ~np.isin(keys, mapped)
    told = np.zeros(len(keys), bool)
    for found in reversed(held):  # the first parent has the last word
        at = np.searchsorted(keys, found.keys)
        told[at] = True
        at, values = at[open_[at]], found.values[open_[at]]
        holders[at] = values
    silent = keys[open_ & ~told]  # all of its voxels are gone, or another side has given it others
    gone = np.setdiff1d(silent, index.counts_of(child, silent).supervoxels)
    holders[np.isin(keys, gone)] = _NOWHERE
    return Words(keys, holders, np.zeros(len(keys), np.int64))


def _torn(words: Sequence[Words]) -> Words:
    """Of keys to which parents gave different values the word of the first parent that gave one."""
    keys, values, versions = (np.concatenate(which) for which in zip(*words, strict=True))
    found, first, of = np.unique(keys, return_index=True, return_inverse=True)
    differing = np.zeros(len(found), bool)
    np.logical_or.at(differing, of, values != values[first][of])
    return Words(keys, values, versions).take(first[differing])


def _grouped(supervoxels: U64s, bodies_of: U64s) -> Iterable[tuple[int, U64s]]:
    """Supervoxels by body, but for body 0."""
    order = np.argsort(bodies_of, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(bodies_of[order])) + 1):
        if len(part) and bodies_of[part[0]] != _NOWHERE:
            yield int(bodies_of[part[0]]), supervoxels[part]


def _several(sides: Sequence[U64s]) -> U64s:
    """Bodies that more than one of these name."""
    named, count = np.unique(np.concatenate([np.unique(side) for side in sides]), return_counts=True)
    return named[(count > 1) & (named != _NOWHERE)]
