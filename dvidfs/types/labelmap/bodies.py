"""Bodies: which supervoxels each holds, how large it is, who changed it last; and its index, joined from its supervoxels.

At first a body holds the supervoxel of its own number. Its rows in the ledger tell which supervoxels came since and which
left (of several that name one the newest counts), so merging into a large body appends what came and nothing else.
Decides how these rows lie in the store; who writes them is :mod:`~dvidfs.types.labelmap.ingest`, :mod:`~dvidfs.types.labelmap.mutate`
and :mod:`~dvidfs.types.labelmap.splits`. What was put together is kept under the newest row of the body, up to a stated size.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import ledger
from dvidfs.engine.store import WriteTxn
from dvidfs.engine.versions import ReadView, WriteView, committed
from dvidfs.errors import BadRequest, NotFound
from dvidfs.types.labelmap import index
from dvidfs.types.labelmap.books import Book, mapping, totals
from dvidfs.types.labelmap.columns import ABSENT, U64s
from dvidfs.types.labelmap.held import Held
from dvidfs.types.labelmap.index import Counts

_HEAD = struct.Struct("<qIIHHB3x")
"""Time ns, supervoxels that came, that left, bytes of user and app, flags: :data:`_TOLD`, :data:`_COUNTED`."""
_TOLD, _COUNTED = 1, 2
_NONE = np.zeros(0, np.uint64)
HELD = Held(64 << 20)
"""Members and indices of bodies."""


class LastChange(NamedTuple):
    """Who changed a body last: zeros and empty strings if no mutation of bodies has."""

    mutation: int = 0
    time: int = 0
    user: str = ""
    app: str = ""


@dataclass(frozen=True)
class Change:
    """What a row says: supervoxels that came and that left.

    ``told``: it counts as a change of the body (ingest does not). ``counted``: the counts of other supervoxels may have changed too.
    """

    came: U64s
    left: U64s
    time: int
    user: str = ""
    app: str = ""
    told: bool = True
    counted: bool = True

    def head(self, came: int, left: int) -> bytes:
        """What stands before the supervoxels, if so many came and left."""
        user, app = self.user.encode()[:65535], self.app.encode()[:65535]
        flags = _TOLD * self.told | _COUNTED * self.counted
        return _HEAD.pack(self.time, came, left, len(user), len(app), flags) + user + app

    @classmethod
    def parse(cls, row: bytes) -> Change:
        when, n, m, u, a, flags = _HEAD.unpack_from(row)
        at = _HEAD.size
        user, app = row[at : at + u].decode(errors="replace"), row[at + u : at + u + a].decode(errors="replace")
        ids = np.frombuffer(row, "<u8", n + m, at + u + a)
        return cls(ids[:n], ids[n:], when, user, app, bool(flags & _TOLD), bool(flags & _COUNTED))


def named_in(rows: Sequence[bytes]) -> tuple[U64s, NDArray[np.int64]]:
    """What many rows name: row after row the supervoxels that came, then those that left; and how many of both, (n, 2)."""
    parts, lengths = list[bytes](), list[tuple[int, int]]()
    for row in rows:
        _, n, m, user, app, _ = _HEAD.unpack_from(row)
        at = _HEAD.size + user + app
        parts.append(row[at : at + 8 * (n + m)])
        lengths.append((n, m))
    return np.frombuffer(b"".join(parts), "<u8"), np.array(lengths, np.int64).reshape(-1, 2)


class Members(NamedTuple):
    """The supervoxels of a body, ascending, and the mutation that put each there (0: it always was)."""

    supervoxels: U64s
    since: U64s

    @property
    def nbytes(self) -> int:
        return self.supervoxels.nbytes + self.since.nbytes


# ---------------------------------------------------------------- reading


def size(view: ReadView, body: int) -> int:
    """Voxels of a body; 0 if there is none of that number."""
    found = totals(view).one(body)
    return 0 if found == ABSENT else found


def sizes(view: ReadView, bodies: U64s) -> U64s:
    return totals(view).get(bodies, 0)


def members(view: ReadView, body: int) -> Members:
    """The supervoxels of a body; none if there is no such body."""
    at = ledger.stamp(view, Book.BODY, body)
    if at is None:
        own = np.array([body] if size(view, body) else [], np.uint64)
        return Members(own, np.zeros(len(own), np.uint64))
    return _kept(view, "members", body, at, lambda seen: _members(ledger.rows(seen, Book.BODY, body), body), _moved)


def by_rows(view: ReadView, body: int) -> U64s:
    """The supervoxels of a body by its rows alone, ascending, whether or not it has voxels: at first that of its own number."""
    if ledger.stamp(view, Book.BODY, body) is None:
        return np.array([body], np.uint64)
    return members(view, body).supervoxels


Known = TypeVar("Known", "Members", Counts)


class _Kept(NamedTuple):
    """Something of a body, made when its newest row was ``at``."""

    at: tuple[int, int]
    value: Any

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.value)


def _kept(
    view: ReadView,
    what: str,
    body: int,
    at: tuple[int, int],
    make: Callable[[ReadView], Known],
    follow: Callable[[ReadView, Known, Sequence[ledger.Row]], Known | None],
) -> Known:
    """What is kept of a body, brought up to date by its latest rows if these allow it, or made anew."""
    key = (what, view.instance.id, view.version, body, view.graph.history)
    held = HELD.peek(view.txn.store, key)
    if held is None and isinstance(view.txn, WriteTxn):
        with committed(view) as known:
            if known is not None and (then := ledger.stamp(known, Book.BODY, body)) is not None:
                _kept(known, what, body, then, make, follow)
        held = HELD.peek(view.txn.store, key)
    if held is not None and held.at == at:
        return held.value
    value = None
    if held is not None and held.at < at and not view.lineage.merges:
        rows = ledger.rows(view, Book.BODY, body, after=held.at)
        value = follow(view, held.value, rows)
    if value is None:
        value = make(view)
    store, made = view.txn.store, _Kept(at, value)
    if isinstance(view.txn, WriteTxn):  # what that sees may never be committed
        view.txn.after.append(lambda: HELD.keep(store, key, made))
    else:
        HELD.keep(store, key, made)
    return value


def _moved(view: ReadView, held: Members, rows: Sequence[ledger.Row]) -> Members:
    """Members after further rows, newest first."""
    supervoxels, since = held
    for row in reversed(rows):
        change = Change.parse(row.data)
        if len(change.left):
            at = np.searchsorted(supervoxels, change.left)
            gone = at[supervoxels[np.minimum(at, len(supervoxels) - 1)] == change.left] if len(supervoxels) else at[:0]
            supervoxels, since = np.delete(supervoxels, gone), np.delete(since, gone)
        if len(change.came):
            new = change.came[~is_in(change.came, supervoxels)]
            at = np.searchsorted(supervoxels, new)
            supervoxels, since = np.insert(supervoxels, at, new), np.insert(since, at, np.uint64(row.mutation))
    return Members(supervoxels, since)


def distinct(numbers: U64s) -> U64s:
    """Numbers in order, each once; np.unique without further results takes forty times as long since numpy 2.3."""
    ordered = np.sort(numbers)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered


def is_in(numbers: U64s, sorted_: U64s) -> NDArray[np.bool_]:
    """Which of ``numbers`` are in a sorted array."""
    if not len(sorted_):
        return np.zeros(len(numbers), bool)
    at = np.minimum(np.searchsorted(sorted_, numbers), len(sorted_) - 1)
    return sorted_[at] == numbers


def _members(rows: list[ledger.Row], body: int) -> Members:
    ids, since, came = [], [], []
    for row in rows:  # newest first: the first word on a supervoxel counts
        change = Change.parse(row.data)
        ids += [change.came, change.left]
        since.append(np.full(len(change.came) + len(change.left), row.mutation, np.uint64))
        came.append(np.arange(len(change.came) + len(change.left)) < len(change.came))
    ids.append(np.array([body], np.uint64))
    since.append(np.zeros(1, np.uint64))
    came.append(np.ones(1, bool))
    found, first = np.unique(np.concatenate(ids), return_index=True)
    there = np.concatenate(came)[first]
    return Members(found[there], np.concatenate(since)[first[there]])


def last_change(view: ReadView, body: int) -> LastChange:
    """Who changed a body last, of mutations that tell."""
    return _last(ledger.rows(view, Book.BODY, body))


def _last(rows: list[ledger.Row]) -> LastChange:
    for row in rows:
        change = Change.parse(row.data)
        if change.told:
            return LastChange(row.mutation, change.time, change.user, change.app)
    return LastChange()


def of_supervoxel(view: ReadView, supervoxel: int) -> Counts:
    """The index of one supervoxel."""
    codes, counts = index.blocks_of(view, supervoxel)
    return Counts(np.full(len(codes), supervoxel, np.uint64), codes, counts)


def of_body(view: ReadView, body: int) -> Counts:
    """The index of a body, by block and supervoxel; nothing if there is no such body."""
    at = ledger.stamp(view, Book.BODY, body)
    if at is None:
        return of_supervoxel(view, body) if size(view, body) else index.NO_COUNTS
    return _kept(view, "index", body, at, lambda seen: _joined(seen, body), _indexed)


def _indexed(view: ReadView, held: Counts, rows: Sequence[ledger.Row]) -> Counts | None:
    """An index after further rows, newest first; None if they changed more than which supervoxels there are."""
    changes = [Change.parse(row.data) for row in reversed(rows)]
    if any(change.counted for change in changes) or sum(len(change.came) for change in changes) > len(held):
        return None
    for change in changes:
        gone = np.union1d(change.left, change.came)
        stay = held.take(~is_in(held.supervoxels, gone)) if len(gone) else held
        new = index.counts_of(view, change.came)
        if not len(new):
            held = stay
            continue
        new = new.take(np.lexsort((new.supervoxels, new.codes)))
        at = np.searchsorted(
            stay.codes, new.codes
        )  # in a block they stand before the others: no order is promised there
        held = Counts(
            np.insert(stay.supervoxels, at, new.supervoxels),
            np.insert(stay.codes, at, new.codes),
            np.insert(stay.counts, at, new.counts),
        )
    return held


def _joined(view: ReadView, body: int) -> Counts:
    rows = index.counts_of(view, members(view, body).supervoxels)
    return rows.take(np.lexsort((rows.supervoxels, rows.codes)))


def former(view: ReadView, body: int, until: int) -> tuple[Counts, LastChange] | None:
    """The index of a body, and its last change, as they were before the latest of its mutations up to ``until``."""
    rows = ledger.rows(view, Book.BODY, body)
    at = next((row[:2] for row in rows if row.mutation <= until and Change.parse(row.data).told), None)
    if at is None:
        return None
    before = [row for row in rows if row[:2] < at]
    held = _members(before, body).supervoxels
    parts = []
    for number in held.tolist():
        earlier = [row.data for row in ledger.rows(view, Book.SUPERVOXEL, number) if row[:2] < at]
        codes, counts = index.latest(earlier)
        parts.append(Counts(np.full(len(codes), number, np.uint64), codes, counts))
    found = index.joined(parts)
    return found.take(np.lexsort((found.supervoxels, found.codes))), _last(before)


def without_rows(view: ReadView, bodies: U64s) -> NDArray[np.bool_]:
    """Which bodies hold just the supervoxel of their own number, because nothing ever came or left."""
    out = np.ones(len(bodies), bool)
    if not ledger.is_empty(view, Book.BODY):
        order = np.argsort(bodies)
        of, _ = ledger.gather(view, Book.BODY, bodies[order])
        out[order[of]] = False
    return out


def blocks(rows: Counts) -> U64s:
    """The blocks of an index, each once, ascending."""
    return np.unique(rows.codes)


def need(view: ReadView, body: int) -> Counts:
    """The index of a body. Raises NotFound (with an empty text, as clients expect) if there is none."""
    rows = of_body(view, body)
    if not len(rows):
        raise NotFound("")
    return rows


def need_supervoxel(view: ReadView, supervoxel: int) -> None:
    """Raises BadRequest for a number that stands for no supervoxel any more."""
    if mapping(view).one(supervoxel) == 0:
        raise BadRequest(
            f"cannot get label for supervoxel {supervoxel}, which has been split and doesn't exist anymore"
        )


# ---------------------------------------------------------------- writing


class Changes:
    """Changes of bodies that one mutation makes, written together."""

    def __init__(self, view: WriteView, mutation: int, *, told: bool = True, counted: bool = True) -> None:
        self._view, self._mutation = view, mutation
        self._change = Change(_NONE, _NONE, view.txn.now, view.user, view.app, told, counted)
        self._moves: list[tuple[U64s, U64s, bool]] = []
        self._noted: list[int] = []

    def come(self, body: int, supervoxels: U64s) -> None:
        """Supervoxels come to a body that is there."""
        self._move(body, supervoxels, leave=False)

    def found(self, body: int, supervoxels: U64s) -> None:
        """A body begins, or begins anew, with these supervoxels alone."""
        self.leave(body, by_rows(self._view, body))
        self.come(body, supervoxels)

    def leave(self, body: int, supervoxels: U64s) -> None:
        """Supervoxels leave a body; one that comes in the same mutation stays."""
        self._move(body, supervoxels, leave=True)

    def come_each(self, bodies: U64s, supervoxels: U64s) -> None:
        """Supervoxels come to bodies, each to the one beside it."""
        self._moves.append((bodies, supervoxels, False))

    def leave_each(self, bodies: U64s, supervoxels: U64s) -> None:
        """Supervoxels leave bodies, each the one beside it."""
        self._moves.append((bodies, supervoxels, True))

    def leave_alone(self, bodies: U64s) -> None:
        """Each of many bodies loses the supervoxel of its number."""
        self.leave_each(bodies, bodies)

    def note(self, body: int) -> None:
        """The body's index has changed, but not which supervoxels it holds."""
        if ledger.stamp(self._view, Book.BODY, body) is not None:
            self._noted.append(body)

    def _move(self, body: int, supervoxels: U64s, *, leave: bool) -> None:
        self._noted.append(body)  # it changes, even if there are none
        self._moves.append((np.full(len(supervoxels), body, np.uint64), supervoxels, leave))

    def write(self) -> None:
        """Raises nothing; writes each body once."""
        bodies, supervoxels, leave = self._settled()
        ids = distinct(np.concatenate((bodies, np.array(self._noted, np.uint64))))
        if not len(ids):
            return
        at = np.searchsorted(ids, bodies)
        came, left = (np.bincount(at[leave == gone], minlength=len(ids)).tolist() for gone in (False, True))
        text, start, rows = supervoxels.astype("<u8").tobytes(), 0, list[bytes]()
        for n, m in zip(came, left, strict=True):
            stop = start + 8 * (n + m)
            rows.append(self._change.head(n, m) + text[start:stop])
            start = stop
        ledger.append(self._view, Book.BODY, self._mutation, ids, rows)
        ledger.append(self._view, Book.TOUCHED, self._mutation, np.zeros(1, np.uint64), [ids.astype("<u8").tobytes()])

    def _settled(self) -> tuple[U64s, U64s, NDArray[np.bool_]]:
        """All moves, each once: bodies, supervoxels and which of them leave, in the order of rows."""
        bodies = np.concatenate([_NONE, *(move[0] for move in self._moves)])
        supervoxels = np.concatenate([_NONE, *(move[1] for move in self._moves)])
        leave = np.concatenate([np.zeros(0, bool), *(np.full(len(move[0]), move[2]) for move in self._moves)])
        order = np.lexsort((leave, supervoxels, bodies))  # of one that comes and leaves the first word counts
        first = np.ones(len(order), bool)
        first[1:] = (bodies[order][1:] != bodies[order][:-1]) | (supervoxels[order][1:] != supervoxels[order][:-1])
        order = order[first]
        order = order[np.lexsort((supervoxels[order], leave[order], bodies[order]))]
        return bodies[order], supervoxels[order], leave[order]
