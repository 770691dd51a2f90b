"""Label numbers: the largest seen, and the next new one.

Decides which number a new supervoxel or body gets. The largest label is known for each version (of several parents the largest)
and for all versions together; new labels follow the latter, or a series of their own once an administrator has set its start.
Invariant: numbers that were handed out are never handed out again. Source: reference note "labelmap" 4.2.
"""

from __future__ import annotations

from dvidfs.engine import keys, ledger
from dvidfs.engine.graph import Instance
from dvidfs.engine.keys import U64LE, Family, Kind, Table
from dvidfs.engine.store import ReadTxn
from dvidfs.engine.values import Entry, Prepared, load
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest
from dvidfs.types.labelmap.books import Book

KEY = keys.encode_text(b"maxlabel")
MOST = 2**64 - 2
"""Voxels hold no larger label."""
MAX_LABEL = 2**63
"""No larger number is given to a new label, by whom it may be: many clients hold them in signed numbers."""
_REPO_MAX, _NEXT, _CEILING = 1, 2, 3


def largest(view: ReadView) -> int:
    """The largest label of this version and its ancestors; 0 if nothing was written."""
    found = [entry for entry in view.newest(Family.PRIVATE, KEY) if entry.kind != Kind.TOMBSTONE]
    return max((_parse(view, entry) for entry in found), default=0)


def by_version(view: ReadView) -> dict[str, int]:
    """What was written at each version, by version id."""
    prefix, found = view.heads[Family.PRIVATE] + KEY, {}
    for key, raw in view.txn.scan(Table.INDEX, prefix, keys.after(prefix)):
        version = keys.suffix_version(key[-keys.SUFFIX :])
        entry = Entry.parse(raw, version)
        if entry.kind != Kind.TOMBSTONE:
            found[str(version)] = _parse(view, entry)
    return found


def _parse(view: ReadView, entry: Entry) -> int:
    return U64LE.unpack(bytes(load(view.txn, view.instance.id, entry)))[0]


def largest_anywhere(txn: ReadTxn, instance: Instance) -> int:
    """The largest label of all versions."""
    return ledger.counter(txn, instance.id, Book.COUNTERS, _REPO_MAX)


def next_label(txn: ReadTxn, instance: Instance) -> int:
    """What the series of an administrator gave last; 0: there is none."""
    return ledger.counter(txn, instance.id, Book.COUNTERS, _NEXT)


def following(view: ReadView) -> int:
    """The label that would be given next."""
    return min(MOST + 1, (next_label(view.txn, view.instance) or largest_anywhere(view.txn, view.instance)) + 1)


def saw(view: WriteView, label: int) -> None:
    """A label is in use at this version."""
    _raise(view, label)
    reserve(view, label)


def _raise(view: WriteView, label: int) -> None:
    if label > largest(view):
        row = U64LE.pack(label)
        view.put(Family.PRIVATE, KEY, Prepared(row, len(row)))


def reserve(view: WriteView, label: int) -> None:
    """A label is spoken of, so it is no new one."""
    if label > largest_anywhere(view.txn, view.instance):
        ledger.set_counter(view.txn, view.instance.id, Book.COUNTERS, _REPO_MAX, label)


def take(view: WriteView, count: int = 1) -> int:
    """The first of ``count`` new labels in a row.

    Raises:
        BadRequest: there are not so many, or the ceiling of the series is reached.
    """
    if count < 1:
        raise BadRequest("cannot request 0 new labels, must be 1 or more")
    txn, instance = view.txn, view.instance
    start = next_label(txn, instance)
    first = (start or largest_anywhere(txn, instance)) + 1
    last, ceiling = first + count - 1, ledger.counter(txn, instance.id, Book.COUNTERS, _CEILING)
    if start and ceiling and last > ceiling:
        raise BadRequest(
            f'{count} new labels for data "{instance.name}" would exceed configured next label ceiling {ceiling}'
        )
    if last > MAX_LABEL:
        raise BadRequest(f'{count} new labels for data "{instance.name}" would overflow: the last would be {last}')
    if start:  # a series of its own
        ledger.set_counter(txn, instance.id, Book.COUNTERS, _NEXT, last)
        _raise(view, last)
    else:
        saw(view, last)
    return first


def set_next(view: WriteView, label: int, ceiling: int | None) -> None:
    """New labels follow ``label`` from now on; ``ceiling``: none is larger (0: no limit, None: as it was)."""
    txn, instance = view.txn, view.instance
    if ceiling is not None:
        ledger.set_counter(txn, instance.id, Book.COUNTERS, _CEILING, ceiling)
    ledger.set_counter(txn, instance.id, Book.COUNTERS, _NEXT, label)


def check(label: int, what: str) -> None:
    """Raises BadRequest for a number that no new label may have."""
    if not 0 < label <= MAX_LABEL:
        raise BadRequest(f"{what} {label} cannot be: want 1 to {MAX_LABEL}")


def get_ceiling(view: ReadView) -> int:
    return ledger.counter(view.txn, view.instance.id, Book.COUNTERS, _CEILING)
