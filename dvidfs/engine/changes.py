"""Following what any process writes, so that caches and the kernel can be told.

A :class:`Feed` reads the ``changes`` table on from where it stopped. One that fell off its end gets a single
:data:`EVERYTHING`: drop all caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dvidfs.engine.keys import CHANGE, U64, Change, Table
from dvidfs.engine.store import ReadTxn


@dataclass(frozen=True, slots=True)
class Changed:
    """One change: ``key`` is the index key part (instance, family, encoded key) of a KEY change, else empty."""

    what: Change
    instance: int = 0
    version: int = 0
    key: bytes = b""


EVERYTHING = Changed(Change.HISTORY)


class Feed:
    """Changes since this object was made, or since the last :meth:`poll`."""

    def __init__(self, txn: ReadTxn) -> None:
        self._next = txn.counter(b"seq")

    def poll(self, txn: ReadTxn) -> list[Changed]:
        end = txn.counter(b"seq")
        if end == self._next:
            return []
        out: list[Changed] = []
        expected = self._next
        for key, row in txn.scan(Table.CHANGES, U64.pack(self._next), U64.pack(end)):
            if U64.unpack(key)[0] != expected:
                out = [EVERYTHING]
            expected = U64.unpack(key)[0] + 1
            out.extend(_parse(bytes(row)))
        if expected != end:
            out = [EVERYTHING]
        self._next = end
        return out


def _parse(row: bytes) -> Iterator[Changed]:
    at = 0
    while at < len(row):
        what, instance, version, size = CHANGE.unpack_from(row, at)
        at += CHANGE.size
        yield Changed(Change(what), instance, version, row[at : at + size])
        at += size
