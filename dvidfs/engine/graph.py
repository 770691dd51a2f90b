"""The version graph as an immutable value: repos, nodes, data instances, and who is whose ancestor.

A :class:`Graph` is made from the records of the ``graph`` table and replaced, never changed: a reader keeps the one
of its snapshot, a writer derives the next. Nothing here touches the store. Rules of naming versions follow
reference: DVID's UUID, ``:branch`` and ``~n`` syntax.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from dvidfs.engine.keys import NOW
from dvidfs.errors import UnknownInstance, UnknownVersion

MASTER = "master"
"""How the trunk is called in URLs and commands; nodes and JSON call it ``""``."""


@dataclass(frozen=True)
class Node:
    """A version. ``branch`` is ``""`` on the trunk; ``parents`` and ``children`` are version ids; times in ns."""

    id: int
    uuid: str
    repo: int
    parents: tuple[int, ...]
    branch: str = ""
    note: str = ""
    locked: bool = False
    created: int = 0
    updated: int = 0
    children: tuple[int, ...] = ()

    def record(self) -> dict[str, Any]:
        """What is stored: everything but the children, which the parents of others tell."""
        return {
            "id": self.id,
            "uuid": self.uuid,
            "repo": self.repo,
            "parents": self.parents,
            "branch": self.branch,
            "note": self.note,
            "locked": self.locked,
            "created": self.created,
            "updated": self.updated,
        }


@dataclass(frozen=True)
class Instance:
    """A data instance: ``id`` is local to the store, ``uuid`` the data UUID, ``version`` the id where it was made.

    ``settings`` belong to the datatype. ``syncs`` are ids of other instances.
    """

    id: int
    uuid: str
    name: str
    type: str
    repo: int
    version: int
    root: int
    versioned: bool = True
    compression: str = "lz4"
    checksum: str = "none"
    tags: Mapping[str, str] | None = None
    syncs: tuple[int, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    created: int = 0

    def record(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in INSTANCE_FIELDS}

    def store_version(self, version: int) -> int:
        """The version under which data asked for at ``version`` lie: the root for an unversioned instance."""
        return version if self.versioned else self.root


INSTANCE_FIELDS = (
    "id",
    "uuid",
    "name",
    "type",
    "repo",
    "version",
    "root",
    "versioned",
    "compression",
    "checksum",
    "tags",
    "syncs",
    "settings",
    "created",
)


@dataclass(frozen=True)
class Repo:
    """A rooted graph of versions and the instances that all of them share."""

    id: int
    root: int
    uuid: str
    alias: str = ""
    description: str = ""
    passcode: str = ""
    properties: Mapping[str, Any] = field(default_factory=dict)
    created: int = 0
    updated: int = 0
    nodes: Mapping[int, Node] = field(default_factory=dict)
    instances: Mapping[str, Instance] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "root": self.root,
            "uuid": self.uuid,
            "alias": self.alias,
            "description": self.description,
            "passcode": self.passcode,
            "properties": self.properties,
            "created": self.created,
            "updated": self.updated,
        }

    @cached_property
    def branches(self) -> dict[str, Node]:
        """Branch name -> its leaf: the newest node of that branch without a child on it."""
        leaves: dict[str, Node] = {}
        for node in self.nodes.values():
            on_branch = any(self.nodes[c].branch == node.branch for c in node.children)
            if not on_branch and (node.branch not in leaves or leaves[node.branch].id < node.id):
                leaves[node.branch] = node
        return leaves

    @cached_property
    def memo(self) -> dict[str, Any]:
        """Things derived from this very value (its JSON, listings); dies with it."""
        return {}

    def branch_versions(self, branch: str) -> list[Node]:
        """Nodes of a branch from its leaf up to the root of the repo, as the original climbs: at a merge the other
        parents are listed once, then the climb goes on with the last parent. ``[]`` if there is no such branch."""
        node = self.branches.get(branch)
        if node is None:
            return []
        self._check_line(branch)
        out = [node]
        while node.parents:
            out.extend(self.nodes[other] for other in node.parents)
            node = out[-1]
        return out

    def _check_line(self, branch: str) -> None:
        for node in self.nodes.values():
            if node.branch == branch:
                same = [self.nodes[c].uuid for c in node.children if self.nodes[c].branch == branch]
                if len(same) > 1:
                    raise UnknownVersion(f'branch "{branch or MASTER}" has more than 1 child: {same[0]} and {same[1]}')


class Lineage:
    """The ancestors of one version, for reads: which entries of a key count, and which of two is the nearer.

    ``mask[v]`` is 1 for the version itself and each ancestor. ``merges`` tells that several parents occur, so that
    the newest entry need not be the only one. Version ids grow from parent to child: the newest entry of a key
    that counts is never an ancestor of another that counts.
    """

    __slots__ = ("marks", "mask", "merges", "suffix", "version")

    def __init__(self, version: int, mask: bytes, merges: bool) -> None:
        self.version = version
        self.mask = mask
        self.merges = merges
        self.suffix = (0xFFFFFFFF - version).to_bytes(4, "big")
        self.marks: dict[bytes, int] = {}

    def mark(self, suffix: bytes) -> int:
        """What an index entry with these last 5 bytes means here: 0 not ours, 1 a value, 2 a tombstone."""
        found = self.marks.get(suffix)
        if found is None:
            version = 0xFFFFFFFF - int.from_bytes(suffix[:4], "big")
            visible = version < len(self.mask) and self.mask[version]
            found = self.marks[suffix] = (1 + suffix[4]) if visible else 0
        return found

    def sees(self, version: int) -> bool:
        return version < len(self.mask) and bool(self.mask[version])

    def next_older(self, version: int) -> int:
        """The newest version that counts and is older than ``version``; 0 if there is none."""
        return self.mask.rfind(1, 0, min(version, len(self.mask))) if version > 0 else 0


class Lineages:
    """A bounded cache of lineages. Parents never change, so an entry is right for as long as its repo lives."""

    def __init__(self, limit: int = 64) -> None:
        self.limit = limit
        self.known: dict[int, Lineage] = {}

    def of(self, nodes: Mapping[int, Node], version: int) -> Lineage:
        found = self.known.get(version)
        if found is None:
            found = self._build(nodes, version)
            if len(self.known) >= self.limit:
                for old in list(self.known)[: self.limit // 4]:
                    self.known.pop(old, None)
            self.known[version] = found
        return found

    def copy(self) -> Lineages:
        """Another cache that knows as much; what is added to one is not in the other."""
        other = Lineages(self.limit)
        other.known = dict(self.known)
        return other

    def _build(self, nodes: Mapping[int, Node], version: int) -> Lineage:
        mask, merges, todo = bytearray(version + 1), False, [version]
        while todo:
            v = todo.pop()
            if mask[v]:
                continue
            known = self.known.get(v)
            if known is not None:
                mask[: v + 1] = _either(mask[: v + 1], known.mask)
                merges = merges or known.merges
                continue
            mask[v] = 1
            parents = nodes[v].parents
            merges = merges or len(parents) > 1
            todo.extend(parents)
        return Lineage(version, bytes(mask), merges)


def _either(a: bytes | bytearray, b: bytes) -> bytes:
    """Two masks of one length, or-ed."""
    return (int.from_bytes(a, "little") | int.from_bytes(b, "little")).to_bytes(len(a), "little")


@dataclass(frozen=True)
class Graph:
    """Everything known of versions and instances at one moment; ``gen`` and ``history`` are the store's counters."""

    gen: int = 0
    history: int = 0
    repos: Mapping[int, Repo] = field(default_factory=dict)
    versions: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    lineages: Lineages = field(default_factory=Lineages)

    @cached_property
    def now(self) -> bytes:
        """Both counters as they lie in the store."""
        return NOW.pack(self.gen, self.history)

    # -- finding ---------------------------------------------------------------------------------------------

    @cached_property
    def _uuids(self) -> list[str]:
        return sorted(self.versions)

    def matching(self, prefix: str) -> list[str]:
        """All version UUIDs that begin with ``prefix``."""
        at = bisect.bisect_left(self._uuids, prefix)
        out = []
        while at < len(self._uuids) and self._uuids[at].startswith(prefix):
            out.append(self._uuids[at])
            at += 1
        return out

    def version(self, spec: str) -> Node:
        """The node that a UUID, a unique prefix, ``prefix:branch`` or ``prefix:branch~n`` names.

        A whole UUID wins over longer ones that begin with it. ``:branch`` needs a store with one repo.
        """
        known = self.versions.get(spec)
        if known is not None:
            return self.repos[known[0]].nodes[known[1]]
        prefix, colon, branch = spec.partition(":")
        if not colon:
            return self._by_prefix(spec)
        if ":" in branch:
            raise UnknownVersion(f'bad UUID specification "{spec}": give UUID, UUID:branch or UUID:branch~n')
        if prefix:
            node = self._by_prefix(prefix)
            if not branch:
                return node
            repo = self.repos[node.repo]
        else:
            if len(self.repos) != 1:
                raise UnknownVersion(
                    "UUID must be specified if more than one repo exists"
                    if self.repos
                    else "there is no repo yet: make one with POST /api/repos or `dvidfs repo new`"
                )
            repo = next(iter(self.repos.values()))
        return self._on_branch(repo, branch, prefix)

    def _by_prefix(self, prefix: str) -> Node:
        found = [prefix] if prefix in self.versions else self.matching(prefix) if prefix else []
        if not found:
            raise UnknownVersion(f"could not find UUID with partial match to {prefix}")
        if len(found) > 1:
            some = ", ".join(u[:12] for u in found[:4])
            raise UnknownVersion(f"more than one UUID matches {prefix}: {some}{', …' if len(found) > 4 else ''}")
        repo, version = self.versions[found[0]]
        return self.repos[repo].nodes[version]

    def _on_branch(self, repo: Repo, spec: str, prefix: str) -> Node:
        branch, tilde, steps = spec.partition("~")
        name = "" if branch in ("", MASTER) else branch
        if not tilde:
            leaf = repo.branches.get(name)
            if leaf is None:
                raise UnknownVersion(f'branch "{branch}" not found in repo "{prefix or repo.uuid}"')
            return leaf
        if not re.fullmatch(r"[0-9]{1,18}", steps):
            raise UnknownVersion(f'can\'t parse parent "{steps}" in branch "{branch}": give a whole number, 0 or more')
        line = repo.branch_versions(name)
        if int(steps) >= len(line):
            raise UnknownVersion(f'parent {steps} is out of range for branch "{branch}"')
        return line[int(steps)]

    def repo_of(self, node: Node) -> Repo:
        return self.repos[node.repo]

    def instance(self, node: Node, name: str) -> Instance:
        found = self.repos[node.repo].instances.get(name)
        if found is None:
            raise UnknownInstance("invalid data instance name")
        return found

    def instance_by_id(self, instance: int) -> Instance | None:
        return self._by_id.get(instance)

    @cached_property
    def _by_id(self) -> dict[int, Instance]:
        return {i.id: i for repo in self.repos.values() for i in repo.instances.values()}

    def lineage(self, node: Node) -> Lineage:
        return self.lineages.of(self.repos[node.repo].nodes, node.id)

    def nodes(self) -> Iterator[Node]:
        for repo in self.repos.values():
            yield from repo.nodes.values()

    # -- deriving the next -----------------------------------------------------------------------------------

    def with_repo(self, repo: Repo) -> Graph:
        return replace(self, repos={**self.repos, repo.id: repo})

    def with_node(self, node: Node) -> Graph:
        """With a new node, or a changed one; children of its parents are kept in step."""
        repo = self.repos[node.repo]
        nodes = dict(repo.nodes)
        old = nodes.get(node.id)
        nodes[node.id] = replace(node, children=old.children if old else ())
        for parent in node.parents:
            p = nodes[parent]
            if node.id not in p.children:
                nodes[parent] = replace(p, children=(*p.children, node.id))
        graph = replace(self, repos={**self.repos, repo.id: replace(repo, nodes=nodes)})
        if old:
            return graph
        # A write that is rolled back gives its version ids back: what was remembered of them must go with its graph.
        return replace(graph, versions={**self.versions, node.uuid: (repo.id, node.id)}, lineages=self.lineages.copy())

    def with_instance(self, instance: Instance) -> Graph:
        repo = self.repos[instance.repo]
        kept = {name: i for name, i in repo.instances.items() if i.id != instance.id}
        kept[instance.name] = instance
        return self.with_repo(replace(repo, instances=kept))

    def without_instance(self, instance: Instance) -> Graph:
        repo = self.repos[instance.repo]
        return self.with_repo(replace(repo, instances={n: i for n, i in repo.instances.items() if i.id != instance.id}))

    def without_repo(self, repo: Repo) -> Graph:
        gone = {n.uuid for n in repo.nodes.values()}
        return replace(
            self,
            repos={k: r for k, r in self.repos.items() if k != repo.id},
            versions={u: v for u, v in self.versions.items() if u not in gone},
        )

    @staticmethod
    def load(gen: int, history: int, repos: list[Repo], nodes: list[Node], instances: list[Instance]) -> Graph:
        """The graph of these records, in one pass."""
        by_repo: dict[int, dict[int, Node]] = {r.id: {} for r in repos}
        children: dict[int, list[int]] = {}
        nodes = [n for n in sorted(nodes, key=lambda n: n.id) if n.repo in by_repo]
        for node in nodes:
            for parent in node.parents:
                children.setdefault(parent, []).append(node.id)
        for node in nodes:
            by_repo[node.repo][node.id] = replace(node, children=tuple(children.get(node.id, ())))
        named: dict[int, dict[str, Instance]] = {r.id: {} for r in repos}
        for instance in sorted(instances, key=lambda i: i.id):
            if instance.repo in named:
                named[instance.repo][instance.name] = instance
        return Graph(
            gen,
            history,
            {r.id: replace(r, nodes=by_repo[r.id], instances=named[r.id]) for r in repos},
            {n.uuid: (n.repo, n.id) for n in nodes},
        )
