"""The mutation log: one record for each change that an endpoint made, in the order of the mutation ids.

A record is a JSON object with ``Action``, ``MutationID``, ``UUID``, ``Timestamp`` and what the datatype adds
(reference: DVID mutation logs). A batch is one row; ``expand`` of the reader makes the single records.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from dvidfs.engine.graph import Node
from dvidfs.engine.keys import MUTATION_KEY, PAIR, Table, after
from dvidfs.engine.store import ReadTxn
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest

STARTED = time.time_ns()


def go_time(ns: int) -> str:
    """A time as the original prints it, which clients parse: ``2026-11-22 20:28:59.629117548 +0000 UTC m=+2.535981826``."""
    seconds, rest = divmod(ns, 10**9)
    passed = max(0, ns - STARTED)  # of the time told alone, so that a record reads alike each time
    return (
        f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))}.{rest:09d} +0000 UTC "
        f"m=+{passed // 10**9}.{passed % 10**9:09d}"
    )


def record(view: WriteView, action: str, *, number: int | None = None, **fields: Any) -> int:
    """Log one mutation of this transaction; its mutation id (``number``: one that it has been given already)."""
    if number is None:
        number = view.txn.new_mutation_id(view.instance.repo)
    entry = {
        "Action": action,
        **fields,
        "MutationID": number,
        "UUID": view.node.uuid,
        "Timestamp": view.txn.now,
    }
    if view.user:
        entry["User"] = view.user
    if view.app:
        entry["App"] = view.app
    view.txn.put(Table.MUTATIONS, MUTATION_KEY.pack(view.instance.id, view.version, number), orjson.dumps(entry))
    return number


def records(view: ReadView) -> Iterator[dict[str, Any]]:
    """Mutations of the instance at this very version, oldest first."""
    pair = PAIR.pack(view.instance.id, view.version)
    for _, row in view.txn.scan(Table.MUTATIONS, pair, after(pair)):
        entry = orjson.loads(row)
        entry["Timestamp"] = go_time(entry["Timestamp"])
        yield entry


def find(view: ReadView, version: int, number: int) -> dict[str, Any] | None:
    """The record of one mutation of the instance at a version; its time in ns."""
    row = view.txn.get(Table.MUTATIONS, MUTATION_KEY.pack(view.instance.id, version, number))
    return None if row is None else orjson.loads(row)


def line(txn: ReadTxn, begin: Node, end: Node) -> Sequence[Node]:
    """Versions from ``end`` up through first parents to ``begin``; to the root where ``begin`` is none of them.

    Raises:
        BadRequest: the two lie in different repos.
    """
    if begin.repo != end.repo:
        raise BadRequest(f"versions {begin.uuid} and {end.uuid} lie in different repos")
    nodes = txn.graph.repos[end.repo].nodes
    out = [end]
    while out[-1].id != begin.id and out[-1].parents:
        out.append(nodes[out[-1].parents[0]])
    return out
