"""Many supervoxels are put into bodies at once, as a table of an agglomeration says; mapping and membership stay in step.

Decides what a table means: a supervoxel leaves whatever body holds it for the one that it is put into, which begins if there
is none of that number. Supervoxels without voxels are mapped all the same, so that they find their body when they come. What has to
change is worked out of a snapshot, outside the write lane; the mutation looks whether the instance is still as it was, else it
is worked out again. Holders are looked for where they must be: at the body that a supervoxel is mapped to, and at its own number; everywhere
only if it is found at neither (clients may set mapping and index apart). Invariant: one mutation, no voxel is touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import journal, ledger
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest
from dvidfs.types.labelmap import audit, bodies, columns, counters, index, mutate, settings
from dvidfs.types.labelmap.bodies import distinct, is_in
from dvidfs.types.labelmap.books import Book, mapping, totals
from dvidfs.types.labelmap.columns import Pairs, U64s

PART = 1 << 20
"""More supervoxels than these are several mutations."""
LOOK = 1 << 16
"""Supervoxels whose blocks are read at a time."""
_NONE = np.zeros(0, np.uint64)


@dataclass(frozen=True, eq=False)
class Plan:
    """What has to change at the state that ``stamp`` tells: pairs of supervoxel and body that begin and that end; bodies
    that begin without the supervoxel of their number; what supervoxels map to; totals."""

    wanted: Pairs
    stamp: Any
    come: Pairs
    leave: Pairs
    begun: U64s
    mapped: Pairs
    totals: Pairs


def checked(supervoxels: U64s, targets: U64s) -> Pairs:
    """A table, by supervoxel; each once.

    Raises:
        BadRequest: a number that cannot be, or a supervoxel in two bodies.
    """
    order = np.lexsort((targets, supervoxels))
    supervoxels, targets = supervoxels[order], targets[order]
    again = supervoxels[1:] == supervoxels[:-1]
    twice = again & (targets[1:] != targets[:-1])
    if twice.any():
        at = int(np.argmax(twice))
        raise BadRequest(f"supervoxel {supervoxels[at]} is put into two bodies, {targets[at]} and {targets[at + 1]}")
    if len(supervoxels):
        if not supervoxels[0]:
            raise BadRequest("supervoxel 0 is background, which lies in no body")
        for numbers, most, what in ((supervoxels, counters.MOST, "supervoxel"), (targets, counters.MAX_LABEL, "body")):
            if int(numbers.max()) > most:
                raise BadRequest(f"{what} {numbers.max()} cannot be: want 1 to {most}")
    first = np.append(np.ones(min(len(supervoxels), 1), bool), ~again)
    return Pairs(supervoxels[first], targets[first])


def parts(table: Pairs) -> Iterator[Pairs]:
    """A table in parts that are a mutation each; no body is in two."""
    order = np.argsort(table.values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(table.values[order])) + 1, len(order))
    start = 0
    while start < len(order):
        stop = int(ends[min(np.searchsorted(ends, start + PART), len(ends) - 1)])
        chosen = np.sort(order[start:stop])
        yield Pairs(table.keys[chosen], table.values[chosen])
        start = stop


# ---------------------------------------------------------------- what has to change


def prepare(view: ReadView, wanted: Pairs) -> Plan:
    """Works out what a table, as :func:`checked` gives it, changes.

    Raises:
        BadRequest: a supervoxel that has voxels is put into body 0; or there is no index.
    """
    settings.need_index(view, "mappings")
    held, alone, written = _holders(view, wanted)
    sizes = _sizes(view, wanted.keys, alone)
    lost = (sizes > 0) & (wanted.values == 0)
    if lost.any():
        number = wanted.keys[int(np.argmax(lost))]
        raise BadRequest(f"supervoxel {number} has voxels and cannot be put into body 0, the background")
    targets = wanted.values[np.searchsorted(wanted.keys, held.keys)]
    stays = held.keys[held.values == targets]
    comes = (sizes > 0) & ~is_in(wanted.keys, np.sort(stays))
    come, come_sizes = Pairs(wanted.keys[comes], wanted.values[comes]), sizes[comes]
    leaves = held.values != targets
    leave = Pairs(held.keys[leaves], held.values[leaves])
    both = np.concatenate((come.values, leave.values))
    delta = distinct(both)
    of = np.searchsorted(delta, both)
    now = totals(view).get(delta, 0)
    np.add.at(now, of[: len(come)], come_sizes)
    np.subtract.at(now, of[len(come) :], sizes[np.searchsorted(wanted.keys, leave.keys)])
    column = mapping(view)
    differs = column.get(wanted.keys, wanted.keys) != wanted.values
    begun = distinct(come.values)
    begun = begun[~is_in(begun, written) & ~is_in(begun, come.keys[come.keys == come.values])]
    return Plan(
        wanted,
        view.stamp(),
        come,
        leave,
        begun[bodies.sizes(view, begun) == 0],
        Pairs(wanted.keys[differs], wanted.values[differs]),
        Pairs(delta, now),
    )


def _holders(view: ReadView, wanted: Pairs) -> tuple[Pairs, U64s, U64s]:
    """Which bodies hold the supervoxels now (perhaps several one of them), those of these bodies that hold just the supervoxel of
    their number and have no rows, and those of all bodies that are concerned that have rows."""
    now, lives = mapping(view).get(wanted.keys, wanted.keys), bodies.sizes(view, wanted.keys) > 0
    candidates = distinct(np.concatenate((wanted.values, now, wanted.keys[lives])))
    of, rows = _rows(view, candidates)
    found, place = np.unique(of, return_inverse=True)
    written = candidates[found]
    members = audit.members_in(written, place, rows)
    ours = is_in(members.supervoxels, wanted.keys)
    alone = wanted.keys[lives & ~is_in(wanted.keys, written)]
    held = Pairs(np.append(members.supervoxels[ours], alone), np.append(members.bodies[ours], alone))
    missing = wanted.keys[~is_in(wanted.keys, np.sort(held.keys))]
    strays = missing[_sizes(view, missing, _NONE) > 0]
    if len(strays):
        every = _done(audit.members(view))
        ours = is_in(every.supervoxels, strays)
        held = Pairs(np.append(held.keys, every.supervoxels[ours]), np.append(held.values, every.bodies[ours]))
        written = every.written
    return held, alone, written


def _rows(view: ReadView, ids: U64s) -> tuple[NDArray[np.int64], list[bytes]]:
    """The rows of bodies; quickly known where nothing was ever written."""
    return (np.zeros(0, np.int64), []) if ledger.is_empty(view, Book.BODY) else ledger.gather(view, Book.BODY, ids)


def _done(telling: audit.Telling[audit.Members]) -> audit.Members:
    while True:
        try:
            next(telling)
        except StopIteration as done:
            return done.value


def _sizes(view: ReadView, supervoxels: U64s, alone: U64s) -> U64s:
    """The voxels of supervoxels, ascending; those of ``alone`` are all that the body of their number has."""
    out = bodies.sizes(view, supervoxels)
    rest = np.flatnonzero(~is_in(supervoxels, alone))
    for at in range(0, len(rest), LOOK):
        some = supervoxels[rest[at : at + LOOK]]
        out[rest[at : at + LOOK]] = index.sizes_of(index.counts_of(view, some), some)
    return out


# ---------------------------------------------------------------- changing it


def run(view: WriteView, plan: Plan) -> int:
    """Changes what has to change, as one mutation; how many supervoxels are in another body, or mapped otherwise, than before."""
    if plan.stamp != view.stamp():
        plan = prepare(view, plan.wanted)
    changed = len(distinct(np.concatenate((plan.come.keys, plan.leave.keys, plan.mapped.keys))))
    if not changed:
        return 0
    number = mutate.begin(view)
    changes = bodies.Changes(view, number, counted=False)
    changes.come_each(plan.come.values, plan.come.keys)
    changes.leave_each(plan.leave.values, plan.leave.keys)
    changes.leave_alone(plan.begun)
    changes.write()
    columns.append(view, Book.MAPPING, number, plan.mapped)
    columns.append(view, Book.TOTALS, number, plan.totals)
    if len(plan.mapped):
        counters.reserve(view, int(plan.mapped.values.max()))
    if len(plan.come):
        counters.saw(view, int(plan.come.values.max()))
    named = len(distinct(plan.wanted.values))
    journal.record(view, "agglomerate", number=number, Supervoxels=len(plan.wanted), Bodies=named, Changed=changed)
    return changed
