"""What happened to bodies and supervoxels: the log of mutations as clients read it.

Decides which records are told and how; they are written with the mutations (:mod:`dvidfs.engine.journal`). Source: reference note "labelmap" 4.3,
4.11.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from dvidfs.engine import journal
from dvidfs.engine.versions import ReadView
from dvidfs.types.base import JSON, Content
from dvidfs.types.labelmap import bodies
from dvidfs.types.labelmap.books import mapping
from dvidfs.types.labelmap.edits import parse_label
from dvidfs.types.labelmap.mutate import ids, protected

TOLD = "-complete"
"""Records of other actions (blocks that came in, indices that were set) are for the store itself."""


def mutations(view: ReadView) -> Iterator[dict[str, Any]]:
    """Mutations of bodies at this very version, oldest first."""
    return (record for record in journal.records(view) if record["Action"].endswith(TOLD))


def get_mutations(view: ReadView, userid: str | None) -> Content:
    return _json(list(mutations(view)))


def get_mutations_range(view: ReadView, begin: str, end: str) -> Content:
    """Mutations of the versions from ``end`` up to ``begin``, the newest version first."""
    return _json([record for at in _line(view, begin, end) for record in mutations(at)])


def _line(view: ReadView, begin: str, end: str) -> list[ReadView]:
    nodes = journal.line(view.txn, view.graph.version(begin), view.graph.version(end))
    return [ReadView(view.txn, node, view.instance) for node in nodes]


def _json(found: Any) -> Content:
    text = orjson.dumps(found)
    return Content(text, JSON, len(text))


def get_supervoxel_splits(view: ReadView) -> list[Any]:
    """For each version from this one up to the root: its UUID and [mutation, supervoxel, remainder, split] of each split."""
    out: list[Any] = []
    repo = view.graph.repos[view.node.repo]
    root = repo.nodes[repo.root].uuid
    for at in _line(view, root, view.node.uuid):
        splits = [row for record in mutations(at) for row in _splits(record)]
        if splits:
            out += [at.node.uuid, splits]
    return out


def _splits(record: dict[str, Any]) -> Iterator[list[int]]:
    number = record["MutationID"]
    if record["Action"] == "split-supervoxel-complete":
        yield [number, record["Supervoxel"], record["RemainSupervoxel"], record["SplitSupervoxel"]]
    for supervoxel, split in record.get("SVSplits", {}).items():
        yield [number, int(supervoxel), split["Remain"], split["Split"]]


# ---------------------------------------------------------------- the history of one body


def get_history(view: ReadView, label: str, begin: str, end: str) -> Content:
    """Mutations between two versions of the bodies that a body came from, oldest first: JSON objects one behind the other."""
    number = parse_label(label)
    protected(number, "sparse volume")
    line = _line(view, begin, end)[::-1]
    if line[0].node.id != view.graph.version(begin).id:  # it comes after the other
        return Content(b"", JSON, 0)
    held = set(bodies.members(line[-1], number).supervoxels.tolist())
    origins = _origins(line[0], held)
    parts = []
    for at in line:
        for record in mutations(at):
            told = _told(record, origins, held)
            if told is not None:
                parts.append(orjson.dumps(told))
    text = b"".join(parts)
    return Content(text, JSON, len(text))


def _origins(view: ReadView, supervoxels: set[int]) -> set[int]:
    """The bodies that hold supervoxels at a version."""
    wanted = ids(sorted(supervoxels))
    return set(mapping(view).get(wanted, wanted).tolist())


def _told(record: dict[str, Any], origins: set[int], held: set[int]) -> dict[str, Any] | None:
    action = record["Action"].removesuffix(TOLD)
    if action == "merge":
        told = {"Action": action, "Target": record["Target"], "Labels": record["Labels"]}
        is_ours = record["Target"] in origins
    elif action == "cleave":
        names = ("OrigLabel", "CleavedLabel", "CleavedSupervoxels")
        told = {"Action": action, **{name: record[name] for name in names}}
        is_ours = record["OrigLabel"] in origins
    elif action == "split":
        told = {"Action": action, "Target": record["Target"], "NewLabel": record["NewLabel"], "Coarse": False}
        is_ours = record["Target"] in origins
    elif action == "split-supervoxel":
        names = ("Supervoxel", "SplitSupervoxel", "RemainSupervoxel")
        told = {"Action": action, **{name: record[name] for name in names}}
        is_ours = not held.isdisjoint(record[name] for name in names)
    else:
        return None
    return told if is_ours else None
