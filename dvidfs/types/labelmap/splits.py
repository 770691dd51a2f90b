"""Splits: voxels of a supervoxel, or of a body, become parts of their own.

Decides what a split means for mapping, membership, totals and the log; blocks are rewritten by
:mod:`~dvidfs.types.labelmap.cuts`, before the write lane. There it is only looked whether things are still as they were (else it is
done again) and whether the numbers that were guessed for the parts are the next ones (else tables are renamed). Invariant: a split
supervoxel maps to 0 from then on, its parts together have its voxels; what is refused changed nothing, no number was used up.
Source: reference notes "labelmap" 4.7 and "sparsevol" 3.7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from dvidfs.engine import journal, ledger
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest
from dvidfs.kernels.runs import Runs
from dvidfs.types import common
from dvidfs.types.formats import sparsevol
from dvidfs.types.labelmap import blocks, bodies, columns, counters, cuts, index, mutate, settings
from dvidfs.types.labelmap.blocks import Incoming
from dvidfs.types.labelmap.books import Book, mapping
from dvidfs.types.labelmap.columns import ABSENT, U64s, pairs
from dvidfs.types.labelmap.cuts import Cut, Parts
from dvidfs.types.labelmap.edits import parse_label
from dvidfs.types.labelmap.index import NO_COUNTS, Counts

Given = Sequence[int | None]
"""Numbers that a client names, None for each that shall be new."""


@dataclass(frozen=True, eq=False)
class Split:
    """A split as it was asked for, and what was prepared for it. ``text``: what its errors begin with."""

    text: str
    label: int
    runs: Runs
    given: Given
    cut: Cut
    blob: Mapping[str, Any]
    """The runs as :func:`dvidfs.types.common.post_blob` takes them."""


@contextmanager
def _told_of(text: str) -> Iterator[None]:
    try:
        yield
    except BadRequest as error:
        raise BadRequest(f"{text}: {error}") from None


def _prepared(
    view: ReadView, text: str, label: int, body: Buffer, given: Given, make: Callable[[Runs], Cut]
) -> dict[str, Split]:
    runs = _runs(body)
    made = make(runs)
    blob = common.prepare_blob(view, sparsevol.spans(runs))
    return {"split": Split(text, label, runs, given, made, blob)}


def _runs(body: Buffer) -> Runs:
    """The runs of a request; those without a voxel are left out."""
    runs = sparsevol.read_rles(body)
    if len(runs) and runs[:, 3].min() < 0:
        wrong = int(np.argmin(runs[:, 3]))
        raise BadRequest(f"span {wrong} has {runs[wrong, 3]} voxels: want 1 or more")
    return runs[runs[:, 3] > 0]


def _volume(runs: Runs) -> int:
    return int(runs[:, 3].sum(dtype=np.int64))


# ---------------------------------------------------------------- a supervoxel


def prepare_split_supervoxel(
    view: ReadView, label: str, split: int | None, remain: int | None, downres: bool, body: Buffer
) -> Mapping[str, Any]:
    """Makes the blocks of a split of a supervoxel."""
    settings.need_index(view, "split-supervoxel")
    number, given = parse_label(label), (split, remain)
    mutate.protected(number, "split target")
    text = f"split supervoxel {number} -> {split or 0}, {remain or 0}"
    with _told_of(text):
        found = _prepared(view, text, number, body, given, lambda runs: _cut_supervoxel(view, number, runs, given))
    return {**found, "downres": downres}


def _cut_supervoxel(view: ReadView, number: int, runs: Runs, given: Given) -> Cut:
    _body_of(view, number)
    before, size = bodies.of_supervoxel(view, number), _volume(runs)
    total = int(before.counts.sum(dtype=np.uint64))
    if not size:
        raise BadRequest(f"split on supervoxel {number} has zero voxels in split sparse volume")
    if size >= total:
        raise BadRequest(f"split on supervoxel {number} was given split volume of {size} >= {total} of supervoxel")
    return cuts.cut(view, _parts(np.array([number], np.uint64), _guessed(view, given)), before, runs)


def _body_of(view: ReadView, supervoxel: int) -> int:
    """The body that holds a supervoxel. Raises BadRequest if it is gone, or never was."""
    body = mapping(view).one(supervoxel)
    if body == 0:
        raise BadRequest(
            f"cannot get label for supervoxel {supervoxel}, which has been split and doesn't exist anymore"
        )
    body = supervoxel if body == ABSENT else body
    if supervoxel not in bodies.members(view, body).supervoxels:
        what = f'unable to split supervoxel {supervoxel} for data "{view.instance.name}"'
        if not bodies.size(view, body):
            raise BadRequest(f"{what}: missing label index {body}")
        raise BadRequest(f"{what}: it is mapped to body {body}, whose label index does not name it")
    return body


def post_split_supervoxel(view: WriteView, split: Split, downres: bool) -> dict[str, int]:
    """What the runs hold of a supervoxel becomes one new supervoxel of its body, the rest another."""
    with _told_of(split.text):
        body = _body_of(view, split.label)
        cut = split.cut
        if not cut.stands(view):
            cut = _cut_supervoxel(view, split.label, split.runs, split.given)
        inside, outside = numbers = _taken(view, split.given)
        cut = cut.numbered(_parts(cut.parts.whole, numbers))
    mutation = mutate.begin(view)
    _apply(view, mutation, cut, body, body, downres=downres)
    journal.record(
        view,
        "split-supervoxel-complete",
        number=mutation,
        Supervoxel=split.label,
        Body=body,
        SplitSupervoxel=inside,
        RemainSupervoxel=outside,
        Split=common.post_blob(view, **split.blob)["reference"],
        SplitSize=cut.size,
        RemainSize=int(cut.before.counts.sum(dtype=np.uint64)) - cut.size,
    )
    return {"SplitSupervoxel": inside, "RemainSupervoxel": outside, "MutationID": mutation}


# ---------------------------------------------------------------- a body


def prepare_split(view: ReadView, label: str, body: Buffer) -> Mapping[str, Any]:
    """Makes the blocks of a split of a body."""
    settings.need_index(view, "split")
    number = parse_label(label)
    mutate.protected(number, "split target")
    text = f"split label {number}"
    with _told_of(text):
        return _prepared(view, text, number, body, (), lambda runs: _cut_body(view, number, runs))


def _cut_body(view: ReadView, body: int, runs: Runs) -> Cut:
    rows, size = bodies.of_body(view, body), _volume(runs)
    total = int(rows.counts.sum(dtype=np.uint64))
    if not total:
        raise BadRequest(f'unable to modify split index for data "{view.instance.name}": missing label {body}')
    if not size:
        raise BadRequest("bad split since split volume was zero voxels")
    if size >= total:
        raise BadRequest(f"split volume of {size} voxels >= {total} of label {body}")
    touched = _touched(view, body, rows, runs)
    numbers = _guessed(view, _all_new(touched))
    return cuts.cut(view, _parts(touched, numbers[1:]), rows.take(np.isin(rows.supervoxels, touched)), runs)


def _touched(view: ReadView, body: int, rows: Counts, runs: Runs) -> U64s:
    """The supervoxels that runs hold voxels of, ascending; all of them must be the body's."""
    found = cuts.held(view, rows.codes, runs)
    foreign = np.setdiff1d(found, rows.supervoxels)
    if len(foreign):
        raise BadRequest(f"supervoxel {foreign[0]} was part of split volume yet was not part of body label {body}")
    return found


def _all_new(touched: U64s) -> Given:
    """A number for the new body, and two for each supervoxel."""
    return (None,) * (1 + 2 * len(touched))


def post_split(view: WriteView, split: Split) -> dict[str, int]:
    """What the runs hold of a body becomes a new body; every supervoxel that they touch is split."""
    body, cut = split.label, split.cut
    with _told_of(split.text):
        if not (cut.stands(view) and _holds_more(view, body, cut)):
            cut = _cut_body(view, body, split.runs)
        label, *numbers = _taken(view, _all_new(cut.parts.whole))
        cut = cut.numbered(_parts(cut.parts.whole, numbers))
    mutation = mutate.begin(view)
    _apply(view, mutation, cut, body, label, downres=True)
    size = bodies.size(view, body)
    totals = pairs(np.array([body, label], np.uint64), np.array([size - cut.size, cut.size], np.uint64))
    columns.append(view, Book.TOTALS, mutation, totals)
    journal.record(
        view,
        "split-complete",
        number=mutation,
        Target=body,
        NewLabel=label,
        SVSplits={
            str(whole): {"Split": inside, "Remain": outside}
            for whole, inside, outside in zip(*map(np.ndarray.tolist, cut.parts), strict=True)
        },
        Split=common.post_blob(view, **split.blob)["reference"],
    )
    return {"label": label, "MutationID": mutation}


def _holds_more(view: ReadView, body: int, cut: Cut) -> bool:
    """Whether a body still holds the supervoxels that are cut, and voxels that are not."""
    held = bodies.members(view, body).supervoxels
    return bool(np.isin(cut.parts.whole, held).all()) and bodies.size(view, body) > cut.size


# ---------------------------------------------------------------- both


def _apply(view: WriteView, mutation: int, cut: Cut, body: int, target: int, *, downres: bool) -> None:
    """Supervoxels of a body are cut: what remains of them is the body's, what the runs hold is that of ``target``."""
    parts = cut.parts
    index.append(view, mutation, index.change(cut.before, cut.after))
    changes = bodies.Changes(view, mutation)
    changes.leave(body, parts.whole)
    changes.come(body, parts.remain[np.isin(parts.whole, cut.left)])
    told = [(parts.whole, 0), (parts.remain, body), (parts.split, target)]
    if target == body:
        changes.come(body, parts.split)
    else:
        changes.found(target, parts.split)
        told.append((np.array([target], np.uint64), 0))  # it is no supervoxel's number
    changes.write()
    names = np.concatenate([ids for ids, _ in told])
    values = np.concatenate([np.full(len(ids), to, np.uint64) for ids, to in told])
    columns.append(view, Book.MAPPING, mutation, pairs(names, values))
    blocks.store(view, Incoming(0, cut.coords, cut.payloads, NO_COUNTS, 0), downres=downres)


def _parts(whole: U64s, numbers: Sequence[int]) -> Parts:
    """``numbers``: for each supervoxel that of what the runs hold, and of what remains."""
    names = np.array(numbers, np.uint64)
    return Parts(whole, names[::2], names[1::2])


# ---------------------------------------------------------------- numbers


def _guessed(view: ReadView, given: Given) -> list[int]:
    """The numbers that the parts will probably have."""
    named = [n for n in given if n is not None]
    return _numbers(view, given, max(counters.following(view), *(n + 1 for n in named), 1))


def _taken(view: WriteView, given: Given) -> list[int]:
    """The numbers that the parts have, used up now."""
    for number in given:
        if number is not None:
            counters.saw(view, number)
    first = counters.following(view)
    numbers = _numbers(view, given, first)
    new = [n for n, own in zip(numbers, given, strict=True) if own is None]
    if new:
        counters.take(view, new[-1] - first + 1)
    return numbers


def _numbers(view: ReadView, given: Given, first: int) -> list[int]:
    """Those given, which must be free, and for the others the first free ones from ``first`` on."""
    named = [n for n in given if n is not None]
    _need_free(view, named)
    fresh = (n for n in count(first) if n not in named and not _is_used(view, n))
    numbers = [next(fresh) if n is None else n for n in given]
    counters.check(max(numbers), "new label")
    return numbers


def _need_free(view: ReadView, named: Sequence[int]) -> None:
    for number in named:
        counters.check(number, "label")
        if _is_used(view, number) or mapping(view).one(number) != ABSENT:
            raise BadRequest(f"label {number} is in use: want one that no supervoxel or body ever had")
    if len(set(named)) < len(named):
        raise BadRequest(f"label {named[0]} is given to both parts: want two different ones")


def _is_used(view: ReadView, label: int) -> bool:
    """Whether there is a body of that number, or was a supervoxel."""
    return bodies.size(view, label) > 0 or ledger.stamp(view, Book.SUPERVOXEL, label) is not None
