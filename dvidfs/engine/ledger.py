"""Rows that a datatype adds and never replaces: what it keeps beside its keys, by *book* and id, version and mutation.

Decides keys and order alone; what a row means is the datatype's affair. Of the rows of one id the newest come first: those of
the version itself and of its ancestors, newer versions before older ones (version ids grow from parent to child, so a row
never comes before one that overrides it), within a version later mutations first. Below a merge rows of all parents
are seen; where that is not what should be, a merge appends to the child what settles it. Invariant: a row that was
committed is never changed, so any former state can be told from the rows up to a mutation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine.keys import LEDGER_KEY, U64LE, Table, after
from dvidfs.engine.store import Buffer, ReadTxn, WriteTxn
from dvidfs.engine.versions import ReadView, WriteView

_VERSION, _MUTATION = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_LEDGER = Table.LEDGER
_ID = LEDGER_KEY.size - 12
"""Bytes of a key up to and with the id."""
_KEY = np.dtype([("instance", ">u4"), ("book", "u1"), ("id", ">u8"), ("version", ">u4"), ("mutation", ">u8")])
_PREFIX = np.dtype([("instance", ">u4"), ("book", "u1"), ("id", ">u8"), ("version", ">u4")])


class Row(NamedTuple):
    """A row of one id: who wrote it, and its bytes."""

    version: int
    mutation: int
    data: bytes


def append(view: WriteView, book: int, mutation: int, ids: NDArray[np.uint64], rows: Sequence[Buffer]) -> None:
    """Add a row for each id; ``ids`` ascending, each once. The same mutation may write an id only once."""
    keys = np.empty(len(ids), _KEY)
    keys["instance"], keys["book"], keys["id"] = view.instance.id, book, ids
    keys["version"], keys["mutation"] = _VERSION - view.version, _MUTATION - mutation
    text, size = keys.tobytes(), _KEY.itemsize
    cut = [text[at : at + size] for at in range(0, len(text), size)]
    view.txn.put_many(_LEDGER, list(zip(cut, rows, strict=True)))


def newest(view: ReadView, book: int, number: int) -> Row | None:
    """The newest row of an id, or None."""
    at = stamp(view, book, number)
    return None if at is None else Row(*at, bytes(view.txn.cursor(_LEDGER).value()))


def stamp(view: ReadView, book: int, number: int) -> tuple[int, int] | None:
    """Version and mutation of the newest row of an id, or None: what is derived from its rows stands as long as this."""
    prefix = LEDGER_KEY.pack(view.instance.id, book, number, _VERSION - view.version, 0)
    cursor: Any = view.txn.cursor(_LEDGER)
    head, mask = prefix[:_ID], view.lineage.mask
    alive = cursor.set_range(prefix)
    while alive:
        key = cursor.key()
        if not key.startswith(head):
            return None
        version = _VERSION - int.from_bytes(key[_ID : _ID + 4], "big")
        if mask[version]:
            return version, _MUTATION - int.from_bytes(key[_ID + 4 :], "big")
        older = view.lineage.next_older(version)
        alive = older > 0 and cursor.set_range(head + (_VERSION - older).to_bytes(4, "big"))
    return None


def rows(view: ReadView, book: int, number: int, *, after: tuple[int, int] = (0, 0)) -> list[Row]:
    """The rows of an id, newest first; only those newer than ``after`` (version, mutation)."""
    prefix = LEDGER_KEY.pack(view.instance.id, book, number, _VERSION - view.version, 0)
    head, mask, out = prefix[:_ID], view.lineage.mask, []
    with view.txn.new_cursor(_LEDGER) as cursor:
        if not cursor.set_range(prefix):
            return out
        keys: Any = cursor.iternext(keys=True, values=False)
        value: Any = cursor.value  # asked for only where it is wanted: the row behind may be millions of bytes
        for key in keys:
            if not key.startswith(head):
                break
            version = _VERSION - int.from_bytes(key[_ID : _ID + 4], "big")
            if mask[version]:
                at = version, _MUTATION - int.from_bytes(key[_ID + 4 :], "big")
                if at <= after:
                    break
                out.append(Row(*at, value()))
    return out


def later(view: ReadView, book: int, number: int, mutation: int) -> list[Row]:
    """The rows of an id that the version itself wrote after a mutation, newest first."""
    start = LEDGER_KEY.pack(view.instance.id, book, number, _VERSION - view.version, 0)
    stop = LEDGER_KEY.pack(view.instance.id, book, number, _VERSION - view.version, _MUTATION - mutation)
    rows = view.txn.scan(_LEDGER, start, stop)
    return [Row(view.version, _MUTATION - int.from_bytes(key[_ID + 4 :], "big"), data) for key, data in rows]


def gather(view: ReadView, book: int, ids: NDArray[np.uint64]) -> tuple[NDArray[np.int64], list[bytes]]:
    """The rows of many ids, newest first for each: the place in ``ids`` that each row belongs to, and the rows. Made for
    10^5 ids; ascending ones are found fastest."""
    keys = np.empty(len(ids), _PREFIX)
    keys["instance"], keys["book"], keys["id"], keys["version"] = view.instance.id, book, ids, _VERSION - view.version
    text, size = keys.tobytes(), _PREFIX.itemsize
    mask, of, out = view.lineage.mask, list[int](), list[bytes]()
    cursor: Any
    with view.txn.new_cursor(_LEDGER) as cursor:
        seek, name, value, step = cursor.set_range, cursor.key, cursor.value, cursor.next
        for i, at in enumerate(range(0, len(text), size)):
            head = text[at : at + _ID]
            alive = seek(text[at : at + size])
            while alive:
                key = name()
                if not key.startswith(head):
                    break
                if mask[_VERSION - int.from_bytes(key[_ID : _ID + 4], "big")]:
                    of.append(i)
                    out.append(value())
                alive = step()
    return np.array(of, np.int64), out


def scan(view: ReadView, book: int, first: int = 0, last: int = _MUTATION) -> Iterator[tuple[int, Row]]:
    """All rows of ids from ``first`` to ``last``: (id, row), ids ascending, newest first."""
    start = LEDGER_KEY.pack(view.instance.id, book, first, 0, 0)
    stop = after(LEDGER_KEY.pack(view.instance.id, book, last, 0, 0)[:_ID])
    mask, size = view.lineage.mask, len(view.lineage.mask)
    for key, data in view.txn.scan(_LEDGER, start, stop):
        _, _, number, version, mutation = LEDGER_KEY.unpack(key)
        version = _VERSION - version
        if version < size and mask[version]:
            yield number, Row(version, _MUTATION - mutation, data)


def sweep(
    view: ReadView, book: int, most: int = 1 << 15
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64], list[bytes]]]:
    """A whole book in parts of about ``most`` rows: ids, ascending, and what :func:`gather` gives of them. No id is in two parts."""
    head = LEDGER_KEY.pack(view.instance.id, book, 0, 0, 0)[:5]
    mask = np.append(np.frombuffer(view.lineage.mask, bool), False)
    rows = view.txn.scan(_LEDGER, head, after(head))
    names, data = list[bytes](), list[bytes]()
    while True:
        part = list(islice(rows, most))
        names += [key for key, _ in part]
        data += [row for _, row in part]
        keys = np.frombuffer(b"".join(names), _KEY)
        ids = keys["id"].astype(np.uint64)
        whole = int(np.searchsorted(ids, ids[-1])) if part else len(ids)  # of the last id more rows may come
        at = np.minimum(_VERSION - keys["version"][:whole], len(mask) - 1)
        seen = np.flatnonzero(mask[at])
        found, of = np.unique(ids[seen], return_inverse=True)
        if len(found):
            yield found, of, [data[i] for i in seen.tolist()]
        if not part:
            return
        names, data = names[whole:], data[whole:]


def of_version(view: ReadView, book: int, number: int, version: int) -> list[Row]:
    """The rows of an id that one version wrote, newest first; whether the view sees it is not looked at."""
    prefix = LEDGER_KEY.pack(view.instance.id, book, number, _VERSION - version, 0)[: _ID + 4]
    rows = view.txn.scan(_LEDGER, prefix, after(prefix))
    return [Row(version, _MUTATION - int.from_bytes(key[_ID + 4 :], "big"), data) for key, data in rows]


def is_empty(view: ReadView, book: int) -> bool:
    """Whether nothing was ever written into a book, at any version."""
    head = LEDGER_KEY.pack(view.instance.id, book, 0, 0, 0)[:5]
    cursor: Any = view.txn.cursor(_LEDGER)
    return not (cursor.set_range(head) and cursor.key().startswith(head))


# -- counters of the whole instance ------------------------------------------------------------------------------


def counter(txn: ReadTxn, instance: int, book: int, number: int) -> int:
    """A number that belongs to the instance, not to a version; 0 at first."""
    row = txn.get(_LEDGER, LEDGER_KEY.pack(instance, book, number, _VERSION, _MUTATION))
    return U64LE.unpack(row)[0] if row else 0


def set_counter(txn: WriteTxn, instance: int, book: int, number: int, value: int) -> None:
    txn.put(_LEDGER, LEDGER_KEY.pack(instance, book, number, _VERSION, _MUTATION), U64LE.pack(value))
