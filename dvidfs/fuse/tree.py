"""The folders above the instances: the root, repos, versions, branches, tags, and ``.dvid`` of repos and versions.

Decides which name leads where and how long the kernel may keep it (a second at most: all of this can change). What an
instance holds is left to :mod:`~dvidfs.fuse.instances`. Names and promises: docs/mount.md, sections 1 and 3.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial

import orjson

from dvidfs.engine import ReadTxn, WriteTxn, repos
from dvidfs.engine.graph import MASTER, Graph, Repo
from dvidfs.engine.graph import Node as Version
from dvidfs.errors import UnknownVersion
from dvidfs.fuse import control, dag, instances, names
from dvidfs.fuse.at import refuse_committed
from dvidfs.fuse.nodes import (
    DIR,
    FILE,
    FOREVER,
    OPEN_DIR,
    SOON,
    Access,
    Context,
    Dir,
    FewEntries,
    Inbox,
    Link,
    Listing,
    Node,
    SlowText,
    Stat,
    Text,
    repo_of,
    version_of,
)
from dvidfs.types import common

log = logging.getLogger(__name__)

DOT = b".dvid"
CONTROL = b".dvidfs"
Makers = Mapping[bytes, Callable[[], Node]]


class Folder(Dir):
    """A folder with a few entries, each made when it is asked for."""

    __slots__ = ("_made", "_mtime", "_unlisted")

    def __init__(
        self,
        made: Callable[[ReadTxn], Makers],
        mtime: Callable[[ReadTxn], int],
        *ident: str | bytes,
        unlisted: Callable[[ReadTxn], Makers] = lambda txn: {},
    ) -> None:
        super().__init__(*ident)
        self._made = made
        self._mtime = mtime
        self._unlisted = unlisted

    def stat(self, txn: ReadTxn) -> Stat:
        return Stat(DIR, 0, self._mtime(txn), SOON)

    def find(self, txn: ReadTxn, name: bytes) -> tuple[Node, Stat] | None:
        make = self._made(txn).get(name) or self._unlisted(txn).get(name)
        if make is None:
            return None
        node = make()
        return node, Stat(FILE, 0, 0, 0.0) if node.slow else node.stat(txn)

    def listing(self, txn: ReadTxn) -> Listing:
        return FewEntries([(name, make()) for name, make in self._made(txn).items()])


# -- the root ----------------------------------------------------------------------------------------------------


def repo_names(graph: Graph) -> dict[bytes, int]:
    """The folder of each repo: its alias where it has one that nothing else in the root is called, else its root's UUID."""
    aliases: dict[str, int] = {}
    for repo in graph.repos.values():
        aliases[repo.alias] = aliases.get(repo.alias, 0) + 1
    uuids = {repo.uuid for repo in graph.repos.values()}
    out = {}
    for repo in graph.repos.values():
        alias = repo.alias if aliases[repo.alias] == 1 and repo.alias not in uuids else ""
        name = names.encode_str(alias) if alias else names.encode_version(repo.uuid)
        if len(name) > names.MAX_NAME:
            name = names.encode_version(repo.uuid)
        out[name] = repo.id
    return out


class Root(Dir):
    """The mount point: one folder for each repo."""

    __slots__ = ("_names", "context")

    def __init__(self, context: Context) -> None:
        super().__init__("root")
        self.context = context
        self._names: tuple[Graph | None, dict[bytes, int]] = (None, {})

    def number(self) -> int:
        return 1

    def stat(self, txn: ReadTxn) -> Stat:
        return Stat(DIR, 0, max((r.updated for r in txn.graph.repos.values()), default=0), SOON)

    def names(self, graph: Graph) -> dict[bytes, int]:
        known, found = self._names
        if known is not graph:
            found = repo_names(graph)
            self._names = graph, found
        return found

    def absent_ttl(self, txn: ReadTxn, name: bytes) -> float:
        return FOREVER if names.is_noise(name) else SOON

    def find(self, txn: ReadTxn, name: bytes) -> tuple[Node, Stat] | None:
        repo = self.names(txn.graph).get(name)
        node: Node
        if repo is not None:
            node = RepoDir(self.context, txn.graph.repos[repo])
        elif name == CONTROL:
            node = control_folder(self.context)
        elif names.is_noise(name) or self._resolve(name, txn.graph) is None:
            return None
        else:
            node = Link(partial(self._target, name), "root", name)
        return node, node.stat(txn)

    def _resolve(self, name: bytes, graph: Graph) -> int | None:
        """The one repo that has a version whose UUID begins so."""
        found = {graph.versions[uuid][0] for uuid in graph.matching(os.fsdecode(name))}
        if len(found) > 1:
            tell_candidates(os.fsdecode(name), [graph.repos[r].uuid for r in sorted(found)])
        return found.pop() if len(found) == 1 else None

    def _target(self, name: bytes, txn: ReadTxn) -> tuple[bytes, int]:
        repo = self._resolve(name, txn.graph)
        if repo is None:
            raise UnknownVersion(f"no repo, or more than one, has a version beginning with {os.fsdecode(name)}")
        folder = next(n for n, r in self.names(txn.graph).items() if r == repo)
        return folder, txn.graph.repos[repo].updated

    def listing(self, txn: ReadTxn) -> Listing:
        rows: list[tuple[bytes, Node]] = [
            (name, RepoDir(self.context, txn.graph.repos[repo])) for name, repo in self.names(txn.graph).items()
        ]
        if self.context.options.show_control:
            rows.append((CONTROL, control_folder(self.context)))
        return FewEntries(rows)


def control_folder(context: Context) -> Folder:
    """``.dvidfs``: the program itself."""
    makers: dict[bytes, Callable[[], Node]] = {
        name: partial(SlowText, partial(_ignore_txn, make), control.now, "control", name)
        for name, make in control.files(context).items()
    }
    return Folder(lambda txn: makers, control.now, "control")


def _ignore_txn(make: Callable[[], bytes], txn: ReadTxn) -> bytes:
    return make()


def tell_candidates(prefix: str, uuids: list[str]) -> None:
    log.warning('"%s" is ambiguous: %s', prefix, ", ".join(uuids[:8]) + (", …" if len(uuids) > 8 else ""))


# -- a repo ------------------------------------------------------------------------------------------------------


def version_names(repo: Repo) -> dict[bytes, int]:
    """The folder of each version of a repo, oldest first."""
    found = repo.memo.get("version names")
    if found is None:
        found = {names.encode_version(n.uuid): n.id for _, n in sorted(repo.nodes.items())}
        repo.memo["version names"] = found
    return found


def branch_links(repo: Repo) -> dict[bytes, Version]:
    """Leaf of each branch; a branch that holds nothing but a tag is found under ``tags``."""
    found = repo.memo.get("branch links")
    if found is None:
        leaves = {names.encode_str(b or MASTER): n for b, n in sorted(repo.branches.items()) if not _is_tag(n)}
        found = repo.memo["branch links"] = _nameable(leaves)
    return found


def tag_links(repo: Repo) -> dict[bytes, Version]:
    found = repo.memo.get("tag links")
    if found is None:
        tags = {names.encode_str(n.uuid): n for _, n in sorted(repo.nodes.items()) if _is_tag(n)}
        found = repo.memo["tag links"] = _nameable(tags)
    return found


def _is_tag(node: Version) -> bool:
    return node.branch == f"tag-{node.uuid}"


def _nameable(links: dict[bytes, Version]) -> dict[bytes, Version]:
    return {name: version for name, version in links.items() if len(name) <= names.MAX_NAME}


class RepoDir(Dir):
    """A repo: a folder for each version, ``branches``, ``tags``, ``.dvid``; ``:branch~n`` and UUID prefixes resolve."""

    __slots__ = ("context", "repo")

    def __init__(self, context: Context, repo: Repo) -> None:
        super().__init__("repo", repo.uuid)
        self.context = context
        self.repo = repo.id

    def stat(self, txn: ReadTxn) -> Stat:
        return Stat(DIR, 0, repo_of(txn, self.repo).updated, SOON)

    def absent_ttl(self, txn: ReadTxn, name: bytes) -> float:
        return FOREVER if names.is_noise(name) else SOON

    def find(self, txn: ReadTxn, name: bytes) -> tuple[Node, Stat] | None:
        repo = repo_of(txn, self.repo)
        version = version_names(repo).get(name)
        if version is not None:
            node: Node = VersionDir(self.context, repo.nodes[version])
        elif name in (b"branches", b"tags", DOT):
            node = self._fixed(repo)[name]()
        elif names.is_noise(name) or self._resolve(name, txn.graph) is None:
            return None
        else:
            node = Link(partial(self._target, name), "repo", repo.uuid, name)
        return node, node.stat(txn)

    def _fixed(self, repo: Repo) -> Makers:
        uuid = repo.uuid
        return {
            b"branches": partial(links_folder, self.repo, b"../", branch_links, "repo", uuid, "branches"),
            b"tags": partial(links_folder, self.repo, b"../", tag_links, "repo", uuid, "tags"),
            DOT: partial(repo_dot, self.context, repo),
        }

    def _resolve(self, name: bytes, graph: Graph) -> Version | None:
        """The version that ``:branch``, ``:branch~n`` or a unique prefix of a UUID means here."""
        repo = graph.repos[self.repo]
        if name.startswith(b":"):
            spec = names.decode_str(name)
            try:
                return None if spec is None else graph.version(repo.uuid + spec)
            except UnknownVersion as e:
                log.info("%s", e)
                return None
        found = [u for u in graph.matching(os.fsdecode(name)) if graph.versions[u][0] == self.repo]
        if len(found) > 1:
            tell_candidates(os.fsdecode(name), found)
        return repo.nodes[graph.versions[found[0]][1]] if len(found) == 1 else None

    def _target(self, name: bytes, txn: ReadTxn) -> tuple[bytes, int]:
        repo_of(txn, self.repo)
        found = self._resolve(name, txn.graph)
        if found is None:
            raise UnknownVersion(f"{os.fsdecode(name)} names no version any more")
        return names.encode_version(found.uuid), found.updated

    def listing(self, txn: ReadTxn) -> Listing:
        repo = repo_of(txn, self.repo)
        rows: list[tuple[bytes, Node]] = [(name, make()) for name, make in self._fixed(repo).items()]
        rows += [(name, VersionDir(self.context, repo.nodes[v])) for name, v in version_names(repo).items()]
        return FewEntries(rows)


def links_folder(repo: int, up: bytes, links: Callable[[Repo], Mapping[bytes, Version]], *ident: str | bytes) -> Folder:
    """A folder of links to versions of a repo; ``up`` leads from it to the repo's folder."""

    def resolve(name: bytes, txn: ReadTxn) -> tuple[bytes, int]:
        version = links(repo_of(txn, repo)).get(name)
        if version is None:
            raise UnknownVersion(f"{os.fsdecode(name)} is there no more")
        return up + names.encode_version(version.uuid), version.updated

    def made(txn: ReadTxn) -> Makers:
        found = links(repo_of(txn, repo))
        return {name: partial(Link, partial(resolve, name), *ident, name) for name in found}

    def mtime(txn: ReadTxn) -> int:
        return max((v.created for v in links(repo_of(txn, repo)).values()), default=repo_of(txn, repo).created)

    return Folder(made, mtime, *ident)


def pretty(data: object) -> bytes:
    return orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def as_lines(lines: list[str]) -> bytes:
    return "".join(line.rstrip("\n") + "\n" for line in lines).encode(errors="surrogateescape")


def repo_dot(context: Context, repo: Repo) -> Folder:
    """``.dvid`` of a repo."""
    number, registry = repo.id, context.registry

    def mtime(txn: ReadTxn) -> int:
        return repo_of(txn, number).updated

    def graph_json(txn: ReadTxn) -> bytes:
        return pretty(common.repo_json(txn, registry, repo_of(txn, number))["DAG"])

    texts: dict[bytes, Callable[[ReadTxn], bytes]] = {
        b"info.json": lambda txn: pretty(common.repo_json(txn, registry, repo_of(txn, number))),
        b"log": lambda txn: as_lines(common.log_lines(txn, repo_of(txn, number))),
        b"dag.json": graph_json,
        b"dag.txt": lambda txn: dag.draw(repo_of(txn, number)).encode(errors="surrogateescape"),
    }
    makers = {name: partial(SlowText, text, mtime, "repo", repo.uuid, DOT, name) for name, text in texts.items()}
    return Folder(lambda txn: makers, mtime, "repo", repo.uuid, DOT)


# -- a version ---------------------------------------------------------------------------------------------------


class VersionDir(Dir):
    """A version: a folder for each instance, and ``.dvid``. ``mkdir`` and ``rmdir`` work here while it is open."""

    __slots__ = ("context", "repo", "uuid", "version")

    def __init__(self, context: Context, version: Version) -> None:
        super().__init__(version.uuid)
        self.context = context
        self.repo = version.repo
        self.version = version.id
        self.uuid = version.uuid

    def node(self, txn: ReadTxn) -> Version:
        return version_of(txn, self.repo, self.version)

    def stat(self, txn: ReadTxn) -> Stat:
        node = self.node(txn)
        return Stat(DIR if node.locked else OPEN_DIR, 0, node.updated, SOON)

    def find(self, txn: ReadTxn, name: bytes) -> tuple[Node, Stat] | None:
        version = self.node(txn)
        if name == DOT:
            node: Node = version_dot(self.context, version)
            return node, node.stat(txn)
        text = names.decode_str(name)
        instance = None if text is None else txn.graph.repos[self.repo].instances.get(text)
        node_of = None if instance is None else instances.folder(self.context, version, instance)
        return None if node_of is None else (node_of, node_of.stat(txn))

    def listing(self, txn: ReadTxn) -> Listing:
        """Instances made here or above; the others only resolve, so that a committed version's listing never changes."""
        version = self.node(txn)
        lineage = txn.graph.lineage(version)
        rows: list[tuple[bytes, Node]] = [(DOT, version_dot(self.context, version))]
        for name, instance in sorted(txn.graph.repos[self.repo].instances.items()):
            node = instances.folder(self.context, version, instance) if lineage.sees(instance.version) else None
            if node is not None and len(names.encode_str(name)) <= names.MAX_NAME:
                rows.append((names.encode_str(name), node))
        return FewEntries(rows)


def version_dot(context: Context, version: Version) -> Folder:
    """``.dvid`` of a version."""
    repo, number, uuid = version.repo, version.id, version.uuid
    ident = (uuid, "", DOT)

    def node(txn: ReadTxn) -> Version:
        return version_of(txn, repo, number)

    def mtime(txn: ReadTxn) -> int:
        return node(txn).updated

    def access(txn: ReadTxn) -> Access:
        return Access.COMMITTED if node(txn).locked else Access.OPEN

    def related(which: Callable[[Version], tuple[int, ...]]) -> Callable[[Repo], dict[bytes, Version]]:
        return lambda r: {names.encode_version(r.nodes[v].uuid): r.nodes[v] for v in which(r.nodes[number])}

    def note(txn: ReadTxn) -> bytes:
        text = node(txn).note
        return text.encode(errors="surrogateescape") + b"\n" if text else b""

    def save_note(txn: WriteTxn, data: bytes) -> None:
        refuse_committed(node(txn), True)
        repos.set_note(txn, node(txn), data.decode(errors="replace").removesuffix("\n"))

    def save_log(txn: WriteTxn, data: bytes) -> None:
        refuse_committed(node(txn), True)
        repos.add_log(txn, node(txn), data.decode(errors="replace").splitlines())

    def log_text(txn: ReadTxn) -> bytes:
        return as_lines(common.log_lines(txn, node(txn)))

    makers: dict[bytes, Callable[[], Node]] = {
        b"info.json": partial(Text, lambda t: pretty(common.node_json(t, node(t))), mtime, *ident, "info.json"),
        b"note": partial(Inbox, note, mtime, access, save_note, *ident, "note"),
        b"log": partial(Inbox, log_text, mtime, access, save_log, *ident, "log", appends=True),
        b"status": partial(Text, lambda t: b"committed\n" if node(t).locked else b"open\n", mtime, *ident, "status"),
        b"parents": partial(links_folder, repo, b"../../../", related(lambda n: n.parents), *ident, "parents"),
        b"children": partial(links_folder, repo, b"../../../", related(lambda n: n.children), *ident, "children"),
        b"instances": partial(infos_folder, context, version),
    }
    return Folder(lambda txn: makers, mtime, *ident)


def infos_folder(context: Context, version: Version) -> Folder:
    """``.dvid/instances``: the info of each instance that has a folder in the version."""
    ident = (version.uuid, "", DOT, "instances")

    def mtime(txn: ReadTxn) -> int:
        return version_of(txn, version.repo, version.id).updated

    def render(name: str, txn: ReadTxn) -> bytes:
        return pretty(instances.info(context, txn, version_of(txn, version.repo, version.id), name))

    def made(txn: ReadTxn, seen: bool = True) -> Makers:
        lineage = txn.graph.lineage(version_of(txn, version.repo, version.id))
        found = sorted(repo_of(txn, version.repo).instances.items())
        shown = [(name, names.encode_str(name) + b".json") for name, i in found if lineage.sees(i.version) == seen]
        return {
            file: partial(SlowText, partial(render, name), mtime, *ident, file)
            for name, file in shown
            if len(file) <= names.MAX_NAME
        }

    return Folder(made, mtime, *ident, unlisted=partial(made, seen=False))
