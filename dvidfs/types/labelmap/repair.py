"""A labelmap whose facts contradict each other is brought into agreement, in favour of the one that somebody takes as right.

Decides what follows from each side (:data:`SIDES`); totals always follow. What has to change is worked out of a snapshot, outside
the write lane; the one mutation that changes it looks whether the instance is still as it was, else it is worked out again.
So readers see all of a repair or nothing of it, and voxels are never changed. A supervoxel that two bodies claim goes to the
one that it is mapped to, or else to the smallest. Memory is that of :mod:`~dvidfs.types.labelmap.audit`, and up to 1 KB for
each supervoxel that changes; a million of them take the write lane some 10 s. Invariant: afterwards ``dvidfs check`` finds
nothing that the side could settle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import journal
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, Corrupt
from dvidfs.types.base import Repair
from dvidfs.types.labelmap import audit, bodies, columns, counters, index, mutate, settings
from dvidfs.types.labelmap.audit import Members, Telling
from dvidfs.types.labelmap.bodies import distinct, is_in
from dvidfs.types.labelmap.books import Book, mapping, totals
from dvidfs.types.labelmap.check import summed
from dvidfs.types.labelmap.columns import NO_PAIRS, Pairs, U64s, pairs
from dvidfs.types.labelmap.index import NO_COUNTS, Counts

SIDES = {
    "voxels": "the index is counted anew from the blocks, and bodies follow the mapping",
    "index": "totals are added up anew from index and bodies",
    "mapping": "each supervoxel lies in the body that it is mapped to",
    "membership": "each supervoxel is mapped to the body that holds it, to 0 where none does",
}
_NOWHERE = np.uint64(0)


@dataclass(frozen=True, eq=False)
class Plan:
    """What has to change, at the state that ``stamp`` tells: rows of the index; pairs of supervoxel and body that begin
    and that end; bodies that begin without the supervoxel of their number; bodies whose counts change; what supervoxels map to;
    totals."""

    side: str
    stamp: Any
    rows: Counts
    come: Pairs
    leave: Pairs
    empty: U64s
    noted: U64s
    mapped: Pairs
    totals: Pairs

    @property
    def told(self) -> dict[str, int]:
        """How much changes, by name."""
        touched = np.concatenate((self.come.values, self.leave.values, self.noted, self.totals.keys))
        return {
            "counts": len(self.rows),
            "supervoxels": len(distinct(np.concatenate((self.come.keys, self.leave.keys)))),
            "mappings": len(self.mapped),
            "bodies": len(distinct(touched)),
        }


# ---------------------------------------------------------------- what has to change


def prepare(view: ReadView, side: str) -> Telling[Plan]:
    """Works out what ``side`` being right means for the others.

    Raises:
        BadRequest: there is no such side, or no index.
        Corrupt: a block cannot be read.
    """
    settings.need_index(view, "repair")
    if side not in SIDES:
        raise BadRequest(f'"{side}" cannot be what is right: want {", ".join(SIDES)}')
    if side == "voxels":
        rows, sizes = yield from _recounted(view)
    else:
        rows, (sizes, _) = NO_COUNTS, (yield from audit.sizes(view))
    held = yield from audit.members(view)
    there = held.take(is_in(held.supervoxels, sizes.keys))
    targets = Pairs(sizes.keys, mapping(view).get(sizes.keys, sizes.keys))
    mapped = come = leave = NO_PAIRS
    if side == "index":
        wanted = there
    else:
        if side == "membership":
            wanted = _one_each(there, targets)
            mapped = _differing(targets, wanted)
        else:
            wanted = _as_mapped(targets, held.written)
        come, leave = _moves(held, there, wanted)
    said = totals(view).items()
    counted = summed(sizes, wanted)
    gone = said.keys[(said.values > 0) & ~is_in(said.keys, counted.keys)]
    now = pairs(np.concatenate((counted.keys, gone)), np.append(counted.values, np.zeros(len(gone), np.uint64)))
    differs = totals(view).get(now.keys, 0) != now.values
    noted = np.union1d(*(who.bodies[np.isin(who.supervoxels, distinct(rows.supervoxels))] for who in (held, wanted)))
    own = wanted.bodies[wanted.supervoxels == wanted.bodies]
    empty = np.setdiff1d(come.values, np.concatenate((held.written, own)))
    return Plan(side, view.stamp(), rows, come, leave, empty, noted, mapped, _those(now, differs))


def _recounted(view: ReadView) -> Telling[tuple[Counts, Pairs]]:
    """The rows that the index needs, and the voxels of each supervoxel then."""
    sums = yield from _readable(audit.voxels(view))
    sizes, strays = yield from audit.sizes(view, sums)
    wrong = distinct(np.concatenate((sums.differing, sums.uncounted, strays.codes)))
    if not len(wrong):
        return NO_COUNTS, sizes
    before, after = yield from audit.closely(view, wrong)
    every = distinct(np.concatenate((sizes.keys, after.supervoxels)))
    new = np.zeros(len(every), np.uint64)
    new[np.searchsorted(every, sizes.keys)] = sizes.values
    new += index.sizes_of(after, every) - index.sizes_of(before, every)  # unsigned numbers wrap around and come back
    return index.change(before, after), _those(Pairs(every, new), new > 0)


def _readable(telling: Telling[audit.Sums]) -> Telling[audit.Sums]:
    """Raises Corrupt where a line tells of a block that cannot be read."""
    while True:
        try:
            told = next(telling)
        except StopIteration as done:
            return done.value
        if isinstance(told, str):
            raise Corrupt(f"{told}: the index cannot be counted from it, write that block anew first")
        yield told


def _those(found: Pairs, chosen: NDArray[np.bool_]) -> Pairs:
    return Pairs(found.keys[chosen], found.values[chosen])


def _as_mapped(targets: Pairs, written: U64s) -> Members:
    """Every supervoxel in the body that it is mapped to."""
    found = _those(targets, targets.values != _NOWHERE)
    return Members(found.keys, found.values, np.zeros(len(found), bool), written)


def _one_each(there: Members, targets: Pairs) -> Members:
    """Of bodies that hold the same supervoxel the one that it is mapped to, or the smallest."""
    elsewhere = targets.values[np.searchsorted(targets.keys, there.supervoxels)] != there.bodies
    ordered = there.take(np.lexsort((there.bodies, elsewhere, there.supervoxels)))
    first = np.ones(len(ordered.supervoxels), bool)
    first[1:] = ordered.supervoxels[1:] != ordered.supervoxels[:-1]
    return ordered.take(first)


def _differing(targets: Pairs, wanted: Members) -> Pairs:
    """What supervoxels have to be mapped to; ``wanted``: ascending, one body each."""
    now = np.zeros(len(targets), np.uint64)
    now[np.searchsorted(targets.keys, wanted.supervoxels)] = wanted.bodies
    return _those(Pairs(targets.keys, now), now != targets.values)


def _moves(held: Members, there: Members, wanted: Members) -> tuple[Pairs, Pairs]:
    """Pairs (supervoxel, body) that must come and leave.

    A body without rows holds the supervoxel of its number as soon as it has a total: that needs no row. A body with rows that holds
    its own number without voxels does no harm: that stays.
    """
    come = wanted.take(~_among(wanted, there))
    come = come.take((come.supervoxels != come.bodies) | is_in(come.bodies, held.written))
    idle = held.take(held.said & ~_among(held, there))
    leave = there.take(~_among(there, wanted))
    return (
        Pairs(come.supervoxels, come.bodies),
        Pairs(np.concatenate((idle.supervoxels, leave.supervoxels)), np.concatenate((idle.bodies, leave.bodies))),
    )


_PAIR = np.dtype([("body", "<u8"), ("supervoxel", "<u8")])


def _among(these: Members, those: Members) -> NDArray[np.bool_]:
    """Which pairs are also in ``those``."""
    return np.isin(_rows(these), _rows(those))


def _rows(held: Members) -> NDArray:
    out = np.empty(len(held.bodies), _PAIR)
    out["body"], out["supervoxel"] = held.bodies, held.supervoxels
    return out


# ---------------------------------------------------------------- changing it


def run(view: WriteView, plan: Plan) -> Mapping[str, int]:
    """Changes what has to change, as one mutation; how much that was."""
    if plan.stamp != view.stamp():
        plan = _done(prepare(view, plan.side))
    told = plan.told
    if not any(told.values()):
        return told
    number = mutate.begin(view)
    index.append(view, number, plan.rows)
    changes = bodies.Changes(view, number)
    changes.come_each(plan.come.values, plan.come.keys)
    changes.leave_each(plan.leave.values, plan.leave.keys)
    changes.leave_alone(plan.empty)
    for body in plan.noted.tolist():
        changes.note(body)
    changes.write()
    columns.append(view, Book.MAPPING, number, plan.mapped)
    columns.append(view, Book.TOTALS, number, plan.totals)
    if len(plan.rows):
        counters.saw(view, int(plan.rows.supervoxels.max()))
    journal.record(view, "repair", number=number, From=plan.side, Changed=told)
    return told


def _done(telling: Telling[Plan]) -> Plan:
    while True:
        try:
            next(telling)
        except StopIteration as done:
            return done.value


REPAIR = Repair(SIDES, prepare, run)
