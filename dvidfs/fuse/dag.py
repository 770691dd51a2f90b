"""The version graph drawn in text, newest version first, as ``git log --graph`` draws: pure functions.

Ids grow from parent to child, so descending ids never put a parent above its child.
"""

from __future__ import annotations

from collections.abc import Iterator

from dvidfs.engine.graph import MASTER, Node, Repo
from dvidfs.types.common import rfc3339


def draw(repo: Repo) -> str:
    """One line for each version (a star in its lane), with lines between where lanes part or meet."""
    lines: list[str] = []
    lanes: list[int] = []
    for version in sorted(repo.nodes, reverse=True):
        node = repo.nodes[version]
        if version not in lanes:
            lanes.append(version)
        lines.extend(_meet(lanes, version))
        at = lanes.index(version)
        stars = " ".join("*" if lane == at else "|" for lane in range(len(lanes)))
        lines.append(f"{stars}  {describe(repo, node)}")
        lines.extend(_part(lanes, at, node.parents))
    return "".join(line.rstrip() + "\n" for line in lines)


def _meet(lanes: list[int], version: int) -> Iterator[str]:
    """Close all but the first of the lanes that lead to a version: it has several children."""
    first = lanes.index(version)
    while lanes.count(version) > 1:
        last = len(lanes) - 1 - lanes[::-1].index(version)
        row = [" "] * (2 * len(lanes))
        for lane in range(len(lanes)):
            if lane < last:
                row[2 * lane] = "|"
            else:
                row[2 * lane - 1] = "/"
        for gap in range(2 * first + 1, 2 * last - 2, 2):
            row[gap] = "_"
        del lanes[last]
        yield "".join(row)


def _part(lanes: list[int], at: int, parents: tuple[int, ...]) -> Iterator[str]:
    """Lead the lane of a version on to its parents: it ends at a root and is split at a merge."""
    if not parents:
        del lanes[at]
        return
    lanes[at] = parents[0]
    for number, parent in enumerate(parents[1:], 1):
        row = [" "] * (2 * len(lanes) + 2)
        for lane in range(len(lanes)):
            row[2 * lane if lane < at + number else 2 * lane + 1] = "|" if lane < at + number else "\\"
        row[2 * (at + number) - 1] = "\\"
        lanes.insert(at + number, parent)
        yield "".join(row)


def describe(repo: Repo, node: Node) -> str:
    """UUID, branch and whether it is its leaf, state, time, first line of the note."""
    branch = node.branch or MASTER
    leaf = repo.branches.get(node.branch)
    where = f"[{branch}]" if leaf is not None and leaf.id == node.id else branch
    state = "committed" if node.locked else "open"
    note = node.note.splitlines()[0] if node.note.strip() else ""
    return "  ".join(filter(None, (node.uuid, where, state, rfc3339(node.updated)[:19] + "Z", note)))
