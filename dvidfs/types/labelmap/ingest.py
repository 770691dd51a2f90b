"""Blocks of supervoxels coming in: what they change in the index, in totals and in bodies, in the transaction that stores them.

A block is counted before the write lane; here is decided what its counts mean beside what was there. Counts of a block replace
those of the block that it replaces (the original adds them up, so that writing a block twice counts it twice).
Supervoxels are counted to the body that the mapping names; one that the mapping says is gone (0) to none. Invariant:
index, totals and membership say the same when the transaction ends.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import ledger
from dvidfs.engine.versions import WriteView
from dvidfs.types.labelmap import bodies, columns, index
from dvidfs.types.labelmap.books import Book, mapping, totals
from dvidfs.types.labelmap.columns import Column, U64s, pairs
from dvidfs.types.labelmap.index import Counts


def recount(view: WriteView, mutation: int, blocks: U64s, after: Counts, replaced: U64s) -> None:
    """The blocks (codes) hold these counts from now on.

    ``replaced``: supervoxels that blocks which are overwritten held, which may have lost voxels there.
    """
    bodies_of, sizes = mapping(view), totals(view)
    supervoxels = np.unique(np.concatenate((after.supervoxels, replaced)))
    targets = bodies_of.get(supervoxels, supervoxels)
    known = _perhaps_known(view, supervoxels, targets, replaced, sizes)
    before = index.counts_of(view, supervoxels[known])
    had = index.sizes_of(before, supervoxels)
    targets, stray = _holders(view, supervoxels, targets, had)
    here = before.take(np.isin(before.codes, blocks) | np.isin(before.supervoxels, supervoxels[stray]))
    rows = index.change(here, after)
    index.append(view, mutation, rows)
    has = had - index.sizes_of(here, supervoxels) + index.sizes_of(after, supervoxels)
    had[stray] = 0
    told = np.isin(supervoxels, rows.supervoxels) & (targets != 0)
    _move(view, mutation, supervoxels[told], targets[told], had[told], has[told], sizes)


def _perhaps_known(
    view: WriteView, supervoxels: U64s, targets: U64s, replaced: U64s, sizes: Column
) -> NDArray[np.bool_]:
    """Which supervoxels may have rows already: all but those that are their own body, which never was one."""
    fresh = (targets == supervoxels) & (sizes.get(supervoxels, 0) == 0)
    fresh[fresh] = bodies.without_rows(view, supervoxels[fresh])
    return ~fresh | np.isin(supervoxels, replaced)


def _move(
    view: WriteView, mutation: int, supervoxels: U64s, targets: U64s, had: U64s, has: U64s, sizes: Column
) -> None:
    """Totals follow, bodies gain supervoxels that are new and lose those that have no voxels any more; all are told of the change."""
    if not len(supervoxels):
        return
    changes = bodies.Changes(view, mutation, told=False)
    if (targets != supervoxels).any() or not ledger.is_empty(view, Book.BODY):
        _join(view, changes, supervoxels, targets, had, has)
    touched, of = np.unique(targets, return_inverse=True)
    former = sizes.get(touched, 0)
    totalled = former.copy()
    np.add.at(totalled, of, has - had)  # unsigned numbers wrap around and come back
    changes.write()
    differs = totalled != former
    columns.append(view, Book.TOTALS, mutation, pairs(touched[differs], totalled[differs]))


def _holders(view: WriteView, supervoxels: U64s, targets: U64s, had: U64s) -> tuple[U64s, NDArray[np.bool_]]:
    """The bodies that the voxels are counted to, and which supervoxels are in none: what their rows still say was given up.

    A supervoxel that was its own body when a mapping was posted still is.
    """
    targets, stray = targets.copy(), np.zeros(len(supervoxels), bool)
    asked = np.flatnonzero(had > 0)
    changed = (targets[asked] != supervoxels[asked]) | ~bodies.without_rows(view, supervoxels[asked])
    for i in asked[changed].tolist():
        number, one = int(supervoxels[i]), supervoxels[i : i + 1]
        if not bodies.is_in(one, bodies.members(view, int(targets[i])).supervoxels)[0]:
            if bodies.is_in(one, bodies.members(view, number).supervoxels)[0]:
                targets[i] = number
            else:
                stray[i] = True
    return targets, stray


def _join(view: WriteView, changes: bodies.Changes, supervoxels: U64s, targets: U64s, had: U64s, has: U64s) -> None:
    order = np.argsort(targets, kind="stable")
    cuts = np.flatnonzero(np.diff(targets[order])) + 1
    for part in np.split(order, cuts):
        body = int(targets[part[0]])
        own = len(part) == 1 and int(supervoxels[part[0]]) == body
        if own and ledger.stamp(view, Book.BODY, body) is None:
            continue
        came, left = supervoxels[part][had[part] == 0], supervoxels[part][has[part] == 0]
        held = bodies.members(view, body).supervoxels if len(came) else came
        came = np.setdiff1d(came, held)
        if len(came):
            changes.come(body, came)
        if len(left):
            changes.leave(body, left)
        changes.note(body)


def counted(parts: Iterable[tuple[int, U64s, U64s]]) -> Counts:
    """Counts out of (block code, labels, voxels of each label); label 0 and labels without voxels do not count."""
    rows = []
    for code, labels, voxels in parts:
        there = (voxels > 0) & (labels != 0)
        found, of = np.unique(labels[there], return_inverse=True)
        summed = np.zeros(len(found), np.uint64)
        np.add.at(summed, of, voxels[there].astype(np.uint64))
        rows.append(Counts(found, np.full(len(found), code, np.uint64), summed.astype(np.uint32)))
    return index.joined(rows)
