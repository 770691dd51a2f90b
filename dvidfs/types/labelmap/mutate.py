"""Bodies change: merge, cleave, renumber, and what clients say of mapping and index themselves. No voxel is touched.

Each is one transaction that checks everything first: what is refused changed nothing. Mapping, membership and totals are
written together, so every reader sees all of a mutation or none of it. Behaviour: reference note "labelmap" 4.4 to 4.8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from dvidfs.engine import journal
from dvidfs.engine.versions import WriteView
from dvidfs.errors import BadRequest
from dvidfs.types.labelmap import bodies, columns, counters, index
from dvidfs.types.labelmap.books import Book, mapping
from dvidfs.types.labelmap.columns import ABSENT, U64s, pairs
from dvidfs.types.labelmap.index import Counts


def begin(view: WriteView) -> int:
    """The number of a mutation that begins; what the instance shows changes with it."""
    view.txn.touch_whole(view.instance, view.version)
    return view.txn.new_mutation_id(view.instance.repo)


def ids(numbers: Iterable[int]) -> U64s:
    return np.array(list(numbers), np.uint64)


def protected(label: int, what: str) -> None:
    """Raises BadRequest for the background."""
    if label == 0:
        raise BadRequest(f"Label 0 is protected background value and cannot be used as {what}.")


# ---------------------------------------------------------------- merge


def merge(view: WriteView, target: int, others: Sequence[int]) -> int:
    """Bodies become part of ``target``; the mutation's number."""
    wanted = _checked_merge(view, target, others)
    number = begin(view)
    changes, every = bodies.Changes(view, number, counted=False), ids(wanted)
    alone = bodies.without_rows(view, every)
    changes.leave_alone(every[alone])
    moved = [every[alone]]
    for body in every[~alone].tolist():
        held = bodies.members(view, body).supervoxels
        moved.append(held)
        changes.leave(body, held)
    came = np.concatenate(moved)
    changes.come(target, came)
    changes.write()
    columns.append(view, Book.MAPPING, number, pairs(np.sort(came), target))
    sizes = bodies.sizes(view, ids([target, *wanted]))
    _set_totals(view, number, {target: int(sizes.sum())} | dict.fromkeys(wanted, 0))
    journal.record(view, "merge-complete", number=number, Target=target, Labels=list(wanted))
    return number


def _checked_merge(view: WriteView, target: int, others: Sequence[int]) -> list[int]:
    tuple_ = [target, *others]
    if not others:
        raise BadRequest(f"Error on merge: invalid merge tuple {tuple_}, need at least target and to-merge labels")
    if 0 in tuple_:
        raise BadRequest(f"Error on merge: invalid merge tuple {tuple_} -- cannot contain background label 0")
    if target in others:
        raise BadRequest(f"Error on merge: can't merge label {target} into itself")
    wanted = list(dict.fromkeys(others))
    sizes = bodies.sizes(view, ids([target, *wanted]))
    if not sizes[0]:
        raise BadRequest(f"Error on merge: can't merge into a non-existent label {target}")
    if not sizes.all():
        raise BadRequest(f"Error on merge: can't merge non-existent label {wanted[int(np.argmin(sizes[1:]))]}")
    return wanted


def _set_totals(view: WriteView, number: int, sizes: dict[int, int]) -> None:
    columns.append(view, Book.TOTALS, number, pairs(ids(sizes), ids(sizes.values())))


# ---------------------------------------------------------------- cleave


def check_cleave(view: WriteView, body: int, supervoxels: Sequence[int]) -> U64s:
    """Supervoxels that can be cleaved from a body, each once, ascending; BadRequest if they cannot."""
    wanted = np.unique(ids(supervoxels))
    held = bodies.members(view, body).supervoxels
    if not bodies.size(view, body):
        raise BadRequest(f"cannot cleave non-existent label {body}")
    missing = wanted[~bodies.is_in(wanted, held)]
    missing = missing[mapping(view).get(missing) != np.uint64(body)]  # what is mapped here may have no voxels
    if len(missing):
        name = view.instance.name
        raise BadRequest(f"cannot cleave supervoxel {missing[0]}, which does not exist in label {body} ({name})")
    if bodies.is_in(wanted, held).sum() == len(held):
        raise BadRequest(f"cannot cleave all supervoxels from the label {body}")
    return wanted


def cleave(view: WriteView, body: int, supervoxels: Sequence[int], label: int) -> int:
    """Supervoxels of a body become the body ``label``; the mutation's number. Those that are only mapped to the body, and have no
    voxels in it, are mapped to the other and lie in neither."""
    wanted = check_cleave(view, body, supervoxels)
    number = begin(view)
    moved = wanted[bodies.is_in(wanted, bodies.members(view, body).supervoxels)]
    size = int(index.counts_of(view, moved).counts.sum(dtype=np.uint64))
    remain = bodies.size(view, body) - size
    changes = bodies.Changes(view, number, counted=False)
    changes.leave(body, moved)
    changes.found(label, moved)
    changes.write()
    _map(view, number, wanted, label)
    _set_totals(view, number, {body: remain, label: size})
    journal.record(
        view,
        "cleave-complete",
        number=number,
        OrigLabel=body,
        CleavedLabel=label,
        CleavedSupervoxels=wanted.tolist(),
        CleavedSize=size,
        RemainSize=remain,
    )
    return number


def _map(view: WriteView, number: int, supervoxels: U64s, body: int) -> None:
    """Supervoxels map to a body; its number, which may be no supervoxel's, stands for no supervoxel from now on."""
    keys, values = supervoxels, np.full(len(supervoxels), body, np.uint64)
    if body not in supervoxels and mapping(view).one(body) == ABSENT:
        keys, values = np.append(keys, np.uint64(body)), np.append(values, np.uint64(0))
    columns.append(view, Book.MAPPING, number, pairs(keys, values))


# ---------------------------------------------------------------- renumber


def renumber(view: WriteView, new: int, old: int) -> int:
    """A body gets another number; the mutation's number."""
    counters.check(new, "new number")
    if bodies.size(view, new):
        raise BadRequest(f"Error on merge: can't renumber into an existing label {new}")
    size = bodies.size(view, old)
    if not size:
        raise BadRequest(f"Error on merge: can't renumber non-existent body with label {old}")
    number = begin(view)
    held = bodies.members(view, old).supervoxels
    changes = bodies.Changes(view, number, counted=False)
    changes.leave(old, held)
    changes.found(new, held)
    changes.write()
    _map(view, number, held, new)
    _set_totals(view, number, {old: 0, new: size})
    counters.saw(view, new)
    journal.record(view, "renumber-complete", number=number, NewLabel=new, OrigLabel=old)
    return number


# ---------------------------------------------------------------- what clients say themselves


def set_mappings(view: WriteView, supervoxels: U64s, targets: U64s) -> None:
    """Supervoxels map to bodies from now on; the index stays as it is. What is said of 0 is kept, but the background stays 0."""
    if not len(supervoxels):
        return
    _refuse_above(supervoxels, counters.MOST, "supervoxel")
    _refuse_above(targets, counters.MAX_LABEL, "body")
    number = begin(view)
    columns.append(view, Book.MAPPING, number, pairs(supervoxels, targets))
    counters.reserve(view, int(targets.max()))


def _refuse_above(labels: U64s, most: int, what: str) -> None:
    if len(labels) and int(labels.max()) > most:
        raise BadRequest(f"{what} {labels.max()} cannot be: want {most} at most")


def set_index(view: WriteView, given: Sequence[tuple[int, Counts]]) -> None:
    """Bodies have these indices from now on (an empty one: the body is gone); the mapping stays as it is.

    Of a supervoxel that was in another body too, the rows are the same for both.
    """
    latest = dict(given)
    for label in latest:
        if label == 0:
            raise BadRequest("there is no index for protected label 0")
    _refuse_above(ids(latest), counters.MOST, "label")
    for rows in latest.values():
        _refuse_above(rows.supervoxels, counters.MOST, "supervoxel")
    number = begin(view)
    changes, sizes, every = bodies.Changes(view, number), dict[int, int](), list[Counts]()
    for label, rows in latest.items():
        wanted = np.unique(rows.supervoxels)
        changes.come(label, np.setdiff1d(wanted, bodies.members(view, label).supervoxels))
        changes.leave(label, np.setdiff1d(bodies.by_rows(view, label), wanted))
        sizes[label] = int(rows.counts.sum(dtype=np.uint64))
        every.append(rows)
    after = index.joined(every)
    _refuse_twice(after)
    before = index.counts_of(view, np.unique(after.supervoxels))
    index.append(view, number, index.change(before, after))
    changes.write()
    _set_totals(view, number, sizes)
    top = max((int(rows.supervoxels.max()) for rows in every if len(rows)), default=0)
    counters.saw(view, max(top, *latest))
    journal.record(view, "post-indices", number=number, Labels=list(latest)[:1000])


def _refuse_twice(rows: Counts) -> None:
    ordered = index.ordered(rows)
    twice = (ordered.supervoxels[1:] == ordered.supervoxels[:-1]) & (ordered.codes[1:] == ordered.codes[:-1])
    if twice.any():
        raise BadRequest(
            f"supervoxel {ordered.supervoxels[int(np.argmax(twice))]} is in two of the indices: it lies in one body"
        )
