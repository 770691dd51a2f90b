"""The blob store: content kept once for the whole store, under the name that its hash gives it."""

from __future__ import annotations

from collections.abc import Iterator

from dvidfs.engine import values
from dvidfs.engine.keys import Table
from dvidfs.engine.store import Buffer, ReadTxn, WriteTxn
from dvidfs.engine.values import Entry, Prepared, Uploaded

OWNER = 0
"""Blobs are values of no instance."""


def put(txn: WriteTxn, ref: bytes, value: Prepared | Uploaded) -> None:
    """Keep a blob under its 16-byte name; equal content is kept once."""
    if txn.get(Table.BLOBS, ref) is None:
        txn.put(Table.BLOBS, ref, values.store_value(txn, OWNER, value, b"", txn.now))


def get(txn: ReadTxn, ref: bytes) -> Entry | None:
    row = txn.get(Table.BLOBS, ref)
    return None if row is None else Entry.parse(row, 0)


def stream(txn: ReadTxn, entry: Entry) -> Iterator[Buffer]:
    return values.stream(txn, OWNER, entry)
