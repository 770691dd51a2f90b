"""Columns of numbers, versioned and held in memory: which body a supervoxel maps to, how many voxels a body has.

A column maps u64 to u64. It lies in the ledger as rows of id 0, one for each mutation: the keys, then their values. In
memory it is three layers of sorted arrays: a *base* that the versions of an instance share, the differences of one version
to it, and the latest changes. So a version costs what it changed, an entry of the base 16 bytes, a look-up three binary
searches, and a mutation a copy of the latest changes. Nothing is loaded before it is asked for. Invariant: what is held
is used only if the version's newest row is the one that it was made with, and no history was rewritten since.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import pairwise
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import ledger
from dvidfs.engine.store import Store, WriteTxn
from dvidfs.engine.versions import ReadView, WriteView, committed

U64s = NDArray[np.uint64]
ABSENT = 2**64 - 1
"""In place of a value: the key has none."""
LATEST = 4096
"""More changes than these are put into the differences."""
SMALL = 1 << 16
"""So many differences are always kept apart from the base."""
BEHIND = 32
"""A write that finds what is held so many mutations old has it brought up to date."""
VERSIONS = 32
"""Versions of a column that are held; others are loaded again."""
_NONE = np.zeros(0, np.uint64)


class Pairs(NamedTuple):
    """Keys, ascending and each once, and their values."""

    keys: U64s
    values: U64s

    def __len__(self) -> int:
        return len(self.keys)

    def bytes(self) -> bytes:
        return self.keys.tobytes() + self.values.tobytes()


NO_PAIRS = Pairs(_NONE, _NONE)


def pairs(keys: U64s, values: U64s | int) -> Pairs:
    """Pairs in order; of a key that is given several times the last value counts."""
    if isinstance(values, int):
        values = np.full(len(keys), values, np.uint64)
    if len(keys) < 2 or bool((keys[1:] > keys[:-1]).all()):
        return Pairs(keys, values)
    found, first = np.unique(keys[::-1], return_index=True)
    return Pairs(found, values[::-1][first])


def _parse(row: bytes) -> Pairs:
    both = np.frombuffer(row, "<u8")
    half = len(both) // 2
    return Pairs(both[:half], both[half:])


def _over(newer: Pairs, older: Pairs) -> Pairs:
    """Both, of a key in both the newer value."""
    if not len(newer) or not len(older):
        return newer if len(newer) else older
    if newer.keys[0] > older.keys[-1]:
        return Pairs(*map(np.concatenate, zip(older, newer, strict=True)))
    at = np.searchsorted(older.keys, newer.keys)
    same = older.keys[np.minimum(at, len(older) - 1)] == newer.keys
    values = older.values.copy()
    values[at[same]] = newer.values[same]
    fresh = ~same
    if not fresh.any():
        return Pairs(older.keys, values)
    return Pairs(np.insert(older.keys, at[fresh], newer.keys[fresh]), np.insert(values, at[fresh], newer.values[fresh]))


def united(rows: Sequence[bytes]) -> Pairs:
    """All rows, newest first, as one."""
    parts = [part for part in map(_parse, rows) if len(part)]
    if len(parts) < 2:
        return parts[0] if parts else NO_PAIRS
    in_order = sorted(parts, key=lambda part: int(part.keys[0]))
    if all(a.keys[-1] < b.keys[0] for a, b in pairwise(in_order)):  # as a long list comes in: nothing to sort
        return Pairs(*map(np.concatenate, zip(*in_order, strict=True)))
    keys, values = (np.concatenate(which) for which in zip(*parts, strict=True))
    found, first = np.unique(keys, return_index=True)  # the first is the newest
    return Pairs(found, values[first])


@dataclass(frozen=True)
class Column:
    """The column at one version: ``latest`` over ``changed`` over ``base``."""

    base: Pairs = NO_PAIRS
    changed: Pairs = NO_PAIRS
    latest: Pairs = NO_PAIRS

    def get(self, keys: U64s, default: U64s | int = ABSENT) -> U64s:
        """The values of keys; ``default`` where there is none."""
        out = np.full(len(keys), ABSENT, np.uint64)
        for layer in (self.base, self.changed, self.latest):
            if len(layer):
                at = np.searchsorted(layer.keys, keys)
                np.minimum(at, len(layer) - 1, out=at)
                same = layer.keys[at] == keys
                out[same] = layer.values[at[same]]
        if isinstance(default, int) and default == ABSENT:
            return out
        return np.where(out == np.uint64(ABSENT), default, out).astype(np.uint64, copy=False)

    @cached_property
    def _views(self) -> list[tuple[memoryview, memoryview]]:
        layers = (self.latest, self.changed, self.base)
        return [(a.keys.data, a.values.data) for a in layers if len(a)]

    def one(self, key: int) -> int:
        """The value of one key, or ABSENT; in about a microsecond."""
        for keys, values in self._views:
            at = bisect_left(keys, key)
            if at < len(keys) and keys[at] == key:
                return values[at]
        return ABSENT

    def over(self, newer: Pairs) -> Column:
        """This column with newer values."""
        if not len(newer):
            return self
        latest = _over(newer, self.latest)
        if len(latest) <= LATEST:
            return Column(self.base, self.changed, latest)
        return _layered(self.base, _over(latest, self.changed))

    def items(self) -> Pairs:
        """All keys that have a value; a copy as large as the column."""
        whole = _over(self.latest, _over(self.changed, self.base))
        there = whole.values != np.uint64(ABSENT)
        return whole if there.all() else Pairs(whole.keys[there], whole.values[there])

    @property
    def nbytes(self) -> int:
        return 16 * (len(self.base) + len(self.changed) + len(self.latest))

    def __len__(self) -> int:
        """Entries, those without a value too: an upper bound."""
        return len(self.base) + len(self.changed) + len(self.latest)


def _layered(base: Pairs, changed: Pairs) -> Column:
    if len(changed) <= max(SMALL, len(base) // 2):
        return Column(base, changed)
    return Column(_over(changed, base))


def _against(base: Pairs, whole: Pairs) -> Column:
    """A column that holds ``whole``, as differences to a base if these are few."""
    if not len(base):
        return Column(whole)
    at = np.minimum(np.searchsorted(base.keys, whole.keys), len(base) - 1)
    known = base.keys[at] == whole.keys
    new = ~(known & (base.values[at] == whole.values))
    gone = np.ones(len(base), bool)
    gone[at[known]] = False
    lost = base.keys[gone]
    changed = _over(Pairs(whole.keys[new], whole.values[new]), pairs(lost, ABSENT))
    return Column(base, changed) if len(changed) <= max(SMALL, len(base) // 2) else Column(whole)


# ---------------------------------------------------------------- what is held


class _Held(NamedTuple):
    column: Column
    history: int
    mutation: int
    """Of the version's own newest row; 0 if it has none."""


class _Versions:
    """The versions of one column that this process holds, the latest used last."""

    def __init__(self) -> None:
        self.held: OrderedDict[int, _Held] = OrderedDict()
        self.lock = threading.Lock()

    def keep(self, version: int, held: _Held) -> None:
        with self.lock:
            self.held[version] = held
            self.held.move_to_end(version)
            while len(self.held) > VERSIONS:
                self.held.popitem(last=False)

    def find(self, view: ReadView) -> _Held | None:
        """What is held of a version, unless history was rewritten since."""
        held = self.held.get(view.version)
        return held if held is not None and held.history == view.graph.history else None

    def base(self, history: int) -> Pairs:
        """The largest base that is held."""
        with self.lock:
            bases = [held.column.base for held in self.held.values() if held.history == history]
        return max(bases, key=len, default=NO_PAIRS)


_known: WeakKeyDictionary[Store, dict[tuple[int, int], _Versions]] = WeakKeyDictionary()


def _versions(view: ReadView, book: int) -> _Versions:
    of_store = _known.setdefault(view.txn.store, {})
    found = of_store.get((view.instance.id, book))
    return found if found is not None else of_store.setdefault((view.instance.id, book), _Versions())


def read(view: ReadView, book: int) -> Column:
    """The column that a book holds, at the version of a view."""
    versions = _versions(view, book)
    newest = _own(view, book, view.version)
    held = versions.find(view)
    if held is not None and held.mutation == newest:
        return held.column
    if isinstance(view.txn, WriteTxn):
        return _uncommitted(versions, view, book, held)
    if held is not None and held.mutation < newest:
        column = held.column.over(_since(view, book, held.mutation))
    else:
        column = _load(versions, view, book)
    versions.keep(view.version, _Held(column, view.graph.history, newest))
    return column


def _uncommitted(versions: _Versions, view: ReadView, book: int, held: _Held | None) -> Column:
    """What a write sees: what is held, which is committed, and what was written since; only the former is ever kept."""
    if held is None or _own(view, book, view.version) - held.mutation > BEHIND:
        with committed(view) as known:
            if known is not None:
                read(known, book)
        held = versions.find(view)
    if held is None:  # history was rewritten by this very write, or the version is new
        return _load(versions, view, book)
    return held.column.over(_since(view, book, held.mutation))


def _own(view: ReadView, book: int, version: int) -> int:
    """The newest mutation of a version that wrote to a book; 0 if none did."""
    at = ledger.stamp(view, book, 0)
    return at[1] if at is not None and at[0] == version else 0


def _since(view: ReadView, book: int, mutation: int) -> Pairs:
    return united([row.data for row in ledger.later(view, book, 0, mutation)])


def _load(versions: _Versions, view: ReadView, book: int) -> Column:
    near = _nearest(versions, view, book)
    if near is None:
        rows = ledger.rows(view, book, 0)
        return _against(versions.base(view.graph.history), united([row.data for row in rows]))
    ancestor, held = near
    rows = ledger.rows(view, book, 0, after=(_first_unseen(ancestor, view), 0))
    return held.column.over(united([row.data for row in rows]))


def _nearest(versions: _Versions, view: ReadView, book: int) -> tuple[ReadView, _Held] | None:
    """The nearest ancestor that is held, and up to date."""
    nodes = view.graph.repos[view.node.repo].nodes
    version = view.lineage.next_older(view.version)
    while version > 0:
        held = versions.held.get(version)
        if held is not None and held.history == view.graph.history:
            ancestor = ReadView(view.txn, nodes[version], view.instance)
            if held.mutation == _own(ancestor, book, version):
                return ancestor, held
        version = view.lineage.next_older(version)
    return None


def _first_unseen(ancestor: ReadView, view: ReadView) -> int:
    """The oldest version that a view sees and its ancestor does not: of a key that was said nothing of since, the ancestor knows
    all. (What was said since may be older than what the ancestor knows, if it was on another side of a merge.)"""
    known, seen = (np.frombuffer(at.lineage.mask, np.uint8) for at in (ancestor, view))
    return int(np.argmax(seen > np.pad(known, (0, len(seen) - len(known)))))


def append(view: WriteView, book: int, mutation: int, changed: Pairs) -> None:
    """Set values at a version, as part of a mutation; each mutation once. Readers find them at hand once they are committed."""
    if not len(changed):
        return
    versions = _versions(view, book)
    before = read(view, book)
    ledger.append(view, book, mutation, np.zeros(1, np.uint64), [changed.bytes()])
    history = view.graph.history
    view.txn.after.append(lambda: versions.keep(view.version, _Held(before.over(changed), history, mutation)))


def held_bytes(store: Store) -> int:
    """Memory that the columns of a store take in this process; layers that versions share count once."""
    layers = {
        id(layer.keys): 16 * len(layer)
        for versions in _known.get(store, {}).values()
        for held in list(versions.held.values())
        for layer in (held.column.base, held.column.changed, held.column.latest)
    }
    return reduce(int.__add__, layers.values(), 0)
