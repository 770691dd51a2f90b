"""JSON records of the ``graph`` table to and from the values of :mod:`dvidfs.engine.graph`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson

from dvidfs.engine.graph import Graph, Instance, Node, Repo
from dvidfs.engine.keys import U32
from dvidfs.errors import Corrupt


def dump(record: dict[str, Any]) -> bytes:
    return orjson.dumps(record)


def _repo(data: dict[str, Any]) -> Repo:
    return Repo(**data)


def _node(data: dict[str, Any]) -> Node:
    return Node(**{**data, "parents": tuple(data["parents"])})


def _instance(data: dict[str, Any]) -> Instance:
    return Instance(**{**data, "syncs": tuple(data["syncs"])})


def load(rows: Iterable[tuple[bytes, bytes]], gen: int, history: int) -> Graph:
    repos, nodes, instances = [], [], []
    for key, value in rows:
        try:
            data = orjson.loads(value)
            if key[:1] == b"r":
                repos.append(_repo(data))
            elif key[:1] == b"n":
                nodes.append(_node(data))
            else:
                instances.append(_instance(data))
        except (ValueError, TypeError, KeyError) as e:
            raise Corrupt(f"the record {bytes(key)!r} of the version graph is damaged: {e}") from None
    return Graph.load(gen, history, repos, nodes, instances)


def apply(graph: Graph, key: bytes, value: bytes | None) -> Graph:
    """The graph after one row of ``graph`` was written (None: deleted)."""
    kind, number = key[:1], U32.unpack(key[1:])[0]
    if value is None:
        if kind == b"i":
            instance = graph.instance_by_id(number)
            return graph.without_instance(instance) if instance else graph
        repo = graph.repos.get(number) if kind == b"r" else None
        return graph.without_repo(repo) if repo else graph
    data = orjson.loads(value)
    if kind == b"r":
        known = graph.repos.get(number)
        return graph.with_repo(
            replace(_repo(data), nodes=known.nodes, instances=known.instances) if known else _repo(data)
        )
    if kind == b"n":
        return graph.with_node(_node(data)) if data["repo"] in graph.repos else graph
    return graph.with_instance(_instance(data)) if data["repo"] in graph.repos else graph


def with_counters(graph: Graph, *, gen: int | None = None, history: int | None = None) -> Graph:
    return replace(graph, gen=graph.gen if gen is None else gen, history=graph.history if history is None else history)
