"""What can be done to repos, versions and instances: each a function over a write transaction.

Rules of the original (reference: DVID versioning 1.2): only committed nodes get children, one child per branch name,
a branch name is introduced once in a repo, a committed node changes no more. Texts of errors are those that clients
search for. Merges look for conflicts at once, among the keys that both sides wrote.
"""

from __future__ import annotations

import re
import secrets
import uuid as uuids
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dvidfs.engine import keys
from dvidfs.engine.graph import MASTER, Instance, Node, Repo
from dvidfs.engine.keys import PAIR, Family, Kind, Table
from dvidfs.engine.store import ReadTxn, WriteTxn
from dvidfs.engine.values import Entry
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, Conflict, Exists, Forbidden, Locked, NotEmpty, UnknownInstance, UnknownVersion

RESERVED = frozenset({"log", "branch", "note", "commit", "newversion"})
"""Words that stand in the place of an instance's name in URLs."""
LISTED_CONFLICTS = 1000
NAME_BYTES = 255


def new_uuid() -> str:
    return uuids.UUID(bytes=secrets.token_bytes(16), version=4).hex


def check_uuid(text: str) -> str:
    """A version id that a client chose.

    Raises:
        BadRequest: not 32 hexadecimal digits.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{32}", text):
        raise BadRequest("Bad UUID provided: UUID must be 32 character hexadecimal string")
    return text


def _free(txn: ReadTxn, uuid: str) -> str:
    if uuid in txn.graph.versions:
        raise Exists(f"UUID already exists in datastore: {uuid}")
    return uuid


# -- repos -------------------------------------------------------------------------------------------------------


def create_repo(txn: WriteTxn, *, alias: str = "", description: str = "", root: str = "", passcode: str = "") -> Repo:
    """A new repo with one open version. ``root``: the UUID it shall have.

    Raises:
        Exists: that UUID is taken.
        BadRequest: a root that no path or URL could name.
    """
    uuid = _free(txn, _root_name(root) if root else new_uuid())
    repo = Repo(txn.new_id("repo"), txn.new_id("version"), uuid, alias, description, passcode, {}, txn.now, txn.now)
    txn.put_repo(repo)
    txn.put_node(Node(repo.root, uuid, repo.id, (), created=txn.now, updated=txn.now))
    return txn.graph.repos[repo.id]


def _root_name(text: str) -> str:
    if len(text.encode()) > NAME_BYTES or any(c in text for c in "/:\0") or any(ord(c) < 32 for c in text):
        raise BadRequest(f'root "{text[:40]}" cannot be a UUID: no "/", ":", control characters, at most 255 bytes')
    return text


def set_repo_info(txn: WriteTxn, repo: Repo, *, alias: str | None = None, description: str | None = None) -> None:
    txn.put_repo(
        replace(
            _now(txn, repo),
            alias=repo.alias if alias is None else alias,
            description=repo.description if description is None else description,
            updated=txn.now,
        )
    )


def _now(txn: ReadTxn, repo: Repo) -> Repo:
    found = txn.graph.repos.get(repo.id)
    if found is None:
        raise UnknownVersion(f"repo {repo.uuid} has been deleted")
    return found


def delete_repo(txn: WriteTxn, repo: Repo, passcode: str = "") -> list[int]:
    """Take a repo with all its versions and instances out of the graph; ids of the instances whose rows are to be freed."""
    _check_passcode(repo, passcode)
    gone = [i.id for i in repo.instances.values()]
    for node in repo.nodes.values():
        _drop_lines(txn, b"n", node.id)
    _drop_lines(txn, b"r", repo.id)
    txn.drop_repo(repo)
    txn.rewrite_history()
    return gone


def _drop_lines(txn: WriteTxn, scope: bytes, owner: int) -> None:
    low = keys.LINE_KEY.pack(scope[0], owner, 0)
    txn.delete_range(Table.LINES, low, keys.after(low[:5]))


def _check_passcode(repo: Repo, passcode: str) -> None:
    if repo.passcode and not secrets.compare_digest(repo.passcode, passcode):
        raise Forbidden(f"repo {repo.uuid} is protected by a passcode: give the right one")


# -- versions ----------------------------------------------------------------------------------------------------


def commit(txn: WriteTxn, node: Node, *, note: str = "", log: Sequence[str] = ()) -> None:
    """Lock a version for good. A note that is not empty replaces the old one."""
    node = _fresh(txn, node)
    if node.locked:
        raise Locked(f"Cannot do post on locked node {node.uuid}")
    for line in log:
        txn.add_line(b"n", node.id, line)
    txn.put_node(replace(node, locked=True, note=note or node.note, updated=txn.now))


def _fresh(txn: ReadTxn, node: Node) -> Node:
    """The node as this transaction sees it."""
    repo = txn.graph.repos.get(node.repo)
    if repo is None or node.id not in repo.nodes:
        raise UnknownVersion(f"version {node.uuid} has been deleted")
    return repo.nodes[node.id]


def _child(txn: WriteTxn, parents: Sequence[Node], branch: str, note: str, uuid: str) -> Node:
    for parent in parents:
        if not _fresh(txn, parent).locked:
            raise BadRequest(f"can't branch an unlocked node: commit {parent.uuid} first")
    node = Node(
        txn.new_id("version"),
        _free(txn, uuid or new_uuid()),
        parents[0].repo,
        tuple(p.id for p in parents),
        branch,
        note,
        created=txn.now,
        updated=txn.now,
    )
    txn.put_node(node)
    return node


def new_version(txn: WriteTxn, parent: Node, *, note: str = "", uuid: str = "") -> Node:
    """The child that continues the parent's branch."""
    parent = _fresh(txn, parent)
    nodes = txn.graph.repos[parent.repo].nodes
    uuid = check_uuid(uuid) if uuid else ""
    if parent.locked and any(nodes[c].branch == parent.branch for c in parent.children):
        raise Exists(
            f"branch already exists with given name: {parent.uuid} has a child on branch "
            f'"{parent.branch or MASTER}", start another branch'
        )
    return _child(txn, [parent], parent.branch, note, uuid)


def branch(txn: WriteTxn, parent: Node, name: str, *, note: str = "", uuid: str = "") -> Node:
    """A child on a new branch; the parent's own branch name continues that branch."""
    parent = _fresh(txn, parent)
    if name in ("", MASTER):
        raise BadRequest("Cannot create a master branch: give the new branch a name of its own")
    if name == parent.branch:
        return new_version(txn, parent, note=note, uuid=uuid)
    uuid = check_uuid(uuid) if uuid else ""
    _check_branch(name)
    if parent.locked and any(n.branch == name for n in txn.graph.repos[parent.repo].nodes.values()):
        raise Exists(f'branch already exists with given name "{name}"')
    return _child(txn, [parent], name, note, uuid)


def _check_branch(name: str) -> None:
    if "\0" in name or len(name.encode()) > NAME_BYTES:
        raise BadRequest(f"branch name {name[:40]!r} must be at most {NAME_BYTES} bytes and hold no NUL")


def tag(txn: WriteTxn, parent: Node, name: str) -> Node:
    """A committed child whose UUID is the tag's text, on branch ``tag-<text>``."""
    parent = _fresh(txn, parent)
    if not name:
        raise BadRequest("a tag needs a name: give 'tag'")
    _free(txn, _root_name(name))
    if not parent.locked:
        raise BadRequest(f"can't branch an unlocked node: commit {parent.uuid} first")
    if any(n.branch == f"tag-{name}" for n in txn.graph.repos[parent.repo].nodes.values()):
        raise Exists(f'branch already exists with given name "tag-{name}"')
    node = _child(txn, [parent], f"tag-{name}", "", name)
    node = replace(
        txn.graph.repos[node.repo].nodes[node.id], locked=True, note=f'Tag of version {parent.uuid} with "{name}"'
    )
    txn.put_node(node)
    return node


def set_note(txn: WriteTxn, node: Node, note: str) -> None:
    txn.put_node(replace(_fresh(txn, node), note=note, updated=txn.now))


def add_log(txn: WriteTxn, scope: Node | Repo, lines: Iterable[str]) -> None:
    """Append lines to the log of a node or a repo."""
    if isinstance(scope, Node):
        node = _fresh(txn, scope)
        for line in lines:
            txn.add_line(b"n", node.id, line)
        txn.put_node(replace(node, updated=txn.now))
    else:
        repo = _now(txn, scope)
        for line in lines:
            txn.add_line(b"r", repo.id, line)
        txn.put_repo(replace(repo, updated=txn.now))


# -- merging -----------------------------------------------------------------------------------------------------


SETTLERS: dict[str, Callable[[WriteView, Sequence[ReadView], Sequence[bytes]], Iterable[str]]] = {}
"""By type of instance: writes into the child of a merge what settles conflicts of what the type keeps beside its keys; these
conflicts by name. It is also given the contested keys (family and encoded key) that the first parent has settled. Filled by
who knows the types."""


@dataclass
class Differences:
    """Keys of one instance on which the parents of a merge disagree; the first thousand by name."""

    count: int = 0
    keys: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.keys) < LISTED_CONFLICTS:
            self.keys.append(name)

    def json(self) -> dict[str, Any]:
        return {"count": self.count, "keys": self.keys}


@dataclass
class Merged:
    """A merge's child; conflicts and warnings (deleted on one side, changed on another) by instance name."""

    child: Node
    conflicts: dict[str, Differences] = field(default_factory=dict)
    warnings: dict[str, Differences] = field(default_factory=dict)


def find_parents(txn: ReadTxn, names: Sequence[str]) -> list[Node]:
    if len(names) < 2:
        raise BadRequest("Must specify at least two parent UUIDs using 'parents' field")
    found = []
    for name in names:
        try:
            found.append(txn.graph.version(name))
        except UnknownVersion as e:
            raise UnknownVersion(f'can\'t match parent "{name}": {e}') from None
    return found


def merge(txn: WriteTxn, parents: Sequence[Node], *, note: str = "", uuid: str = "", strict: bool = False) -> Merged:
    """A child of several committed versions of one repo, on the trunk.

    Raises:
        Conflict: ``strict`` and keys were changed on several sides; nothing is made.
    """
    merged = _merge(txn, parents, (), note, uuid)
    if strict and merged.conflicts:
        told = ", ".join(f"{name} ({d.count}: {', '.join(d.keys[:3])})" for name, d in merged.conflicts.items())
        raise Conflict(f"versions conflict in {told}: nothing was merged; allow conflicts, or resolve with priorities")
    return merged


def _merge(
    txn: WriteTxn, parents: Sequence[Node], chosen: Sequence[Instance], note: str = "", uuid: str = ""
) -> Merged:
    """``chosen``: instances of which the first parent that has a value settles what is contested."""
    if len({p.id for p in parents}) < len(parents):
        raise BadRequest("a version cannot be merged with itself: give different parents")
    if len({p.repo for p in parents}) > 1:
        raise BadRequest("all parents of a merge must be in one repo: server-specific version id is invalid")
    child = _child(txn, parents, "", note, check_uuid(uuid) if uuid else "")
    merged, settled = Merged(child), dict[int, list[bytes]]()
    for instance, key in _contested(txn, parents):
        _judge(txn, merged, instance, key)
        ours = instance in chosen and not keys.is_united(key)
        if ours and _settle(txn, child, parents, instance, Family(key[0]), key[1:]):
            settled.setdefault(instance.id, []).append(key)
    for _, instance in sorted(txn.graph.repos[child.repo].instances.items()):
        settle = SETTLERS.get(instance.type) if instance.versioned else None
        if settle is not None:
            views = [ReadView(txn, parent, instance) for parent in parents]
            for name in settle(WriteView(txn, child, instance), views, settled.get(instance.id, ())):
                merged.conflicts.setdefault(instance.name, Differences()).add(name)
    return merged


def _contested(txn: ReadTxn, parents: Sequence[Node]) -> list[tuple[Instance, bytes]]:
    """Keys (family + encoded) that at least two sides of a merge wrote, at the cost of what they wrote.

    Not those that are made from others: datatypes make them again.
    """
    repo = txn.graph.repos[parents[0].repo]
    lineages = [txn.graph.lineage(p) for p in parents]
    sides = [{v for v in repo.nodes if line.sees(v)} for line in lineages]
    common = set.intersection(*sides)
    out: list[tuple[Instance, bytes]] = []
    for _, instance in sorted(repo.instances.items()):
        if not instance.versioned:
            continue
        written: dict[bytes, set[int]] = {}
        for side in sides:
            for version in side - common:
                pair = PAIR.pack(instance.id, version)
                for row, _ in txn.scan(Table.WRITTEN, pair, keys.after(pair)):
                    written.setdefault(bytes(row[8:]), set()).add(version)
        shared = (key for key in sorted(written) if len(written[key]) > 1)
        out.extend((instance, key) for key in shared if not keys.is_derived(key))
    return out


def _judge(txn: ReadTxn, merged: Merged, instance: Instance, key: bytes) -> None:
    family, enc = Family(key[0]), key[1:]
    if keys.is_united(key):
        return
    view = ReadView(txn, merged.child, instance)
    newest = view.newest(family, enc)
    name = _shown(enc, family, newest)
    try:
        view.find(family, enc)
    except Conflict:
        merged.conflicts.setdefault(instance.name, Differences()).add(name)
        return
    kinds = {entry.kind == Kind.TOMBSTONE for entry in newest}
    if len(kinds) > 1:
        merged.warnings.setdefault(instance.name, Differences()).add(name)


def _shown(enc: bytes, family: Family, entries: Sequence[Entry]) -> str:
    if family == Family.TEXT:
        whole = next((e.key for e in entries if e.key), b"") or keys.decode_text(enc)
        return whole.decode(errors="replace")
    if family == Family.BLOCK:
        scale, x, y, z = keys.decode_block(enc)
        return f"{x}_{y}_{z}" if not scale else f"{x}_{y}_{z} at scale {scale}"
    return str(int.from_bytes(enc, "big"))


def resolve(txn: WriteTxn, parents: Sequence[Node], names: Sequence[str], *, note: str = "") -> Merged:
    """A merge in which, for the named instances, the value of the first parent that has one settles each conflict.

    The settled values are written in the child; the parents stay as they are.
    """
    if not names:
        raise BadRequest("Must specify at least one data instance using 'data' field")
    chosen = [txn.graph.instance(parents[0], name) for name in names]
    merged = _merge(txn, parents, chosen, note)
    for name in names:
        merged.conflicts.pop(name, None)
    return merged


def _settle(
    txn: WriteTxn, child: Node, parents: Sequence[Node], instance: Instance, family: Family, enc: bytes
) -> bool:
    """Whether a key was in conflict; its value is that of the first parent now."""
    view = WriteView(txn, child, instance)
    try:
        view.find(family, enc)
    except Conflict:
        for parent in parents:
            entry = ReadView(txn, parent, instance).find(family, enc)
            if entry is not None:
                view.put(family, enc, view.copy(entry), entry.key)
                return True
    return False


# -- instances ---------------------------------------------------------------------------------------------------


def check_name(name: str) -> str:
    if not name:
        raise BadRequest("an instance needs a name: give 'dataname'")
    if name in RESERVED:
        raise BadRequest(f'cannot use reserved name "{name}"')
    if "\0" in name or len(name.encode(errors="surrogatepass")) > NAME_BYTES:
        raise BadRequest(f"instance name {name[:40]!r} must be at most {NAME_BYTES} bytes and hold no NUL")
    return name


def create_instance(
    txn: WriteTxn,
    node: Node,
    typename: str,
    name: str,
    *,
    versioned: bool = True,
    compression: str = "lz4",
    checksum: str = "none",
    tags: Mapping[str, str] | None = None,
    syncs: Sequence[int] = (),
    settings: Mapping[str, Any] | None = None,
    privileged: bool = False,
) -> Instance:
    """A new data instance, to be seen from every version of the repo."""
    node = _fresh(txn, node)
    repo = txn.graph.repos[node.repo]
    if node.locked and not privileged:
        raise Locked(f"New data instance cannot be created on locked node {node.uuid}")
    if check_name(name) in repo.instances:
        raise Exists(f'Data named "{name}" already exists in repo (root {repo.uuid})')
    instance = Instance(
        txn.new_id("instance"),
        new_uuid(),
        name,
        typename,
        repo.id,
        node.id,
        repo.root,
        versioned,
        compression,
        checksum,
        dict(tags) if tags else None,
        tuple(syncs),
        settings or {},
        txn.now,
    )
    txn.put_instance(instance)
    return instance


def fresh_instance(txn: ReadTxn, instance: Instance) -> Instance:
    """The instance as this transaction sees it."""
    found = txn.graph.instance_by_id(instance.id)
    if found is None:
        raise UnknownInstance(f'instance "{instance.name}" has been deleted')
    return found


def change_instance(txn: WriteTxn, instance: Instance, **changes: Any) -> Instance:
    """Set fields of an instance (tags, syncs, settings)."""
    changed = replace(fresh_instance(txn, instance), **changes)
    txn.put_instance(changed)
    return changed


def rename_instance(txn: WriteTxn, instance: Instance, name: str, passcode: str = "") -> Instance:
    instance = fresh_instance(txn, instance)
    repo = txn.graph.repos[instance.repo]
    _check_passcode(repo, passcode)
    if check_name(name) in repo.instances:
        raise Exists(f'Data named "{name}" already exists in repo (root {repo.uuid})')
    txn.rewrite_history()
    return change_instance(txn, instance, name=name)


def delete_instance(txn: WriteTxn, instance: Instance, passcode: str = "") -> int:
    """Take an instance out of the graph; its id, whose rows a job frees (:func:`free_rows`)."""
    instance = fresh_instance(txn, instance)
    _check_passcode(txn.graph.repos[instance.repo], passcode)
    txn.drop_instance(instance)
    txn.rewrite_history()
    return instance.id


def remove_empty_instance(txn: WriteTxn, node: Node, instance: Instance) -> int:
    """rmdir: only an instance made in this open version, in which no version holds anything."""
    instance = fresh_instance(txn, instance)
    if instance.version != node.id or _fresh(txn, node).locked:
        raise NotEmpty(f'"{instance.name}" was made in another version: only `dvidfs instance delete` removes it')
    for row, _ in txn.scan(Table.INDEX, keys.U32.pack(instance.id), keys.after(keys.U32.pack(instance.id))):
        if row[-1:] == keys.VALUE and row[4] != Family.PRIVATE:
            raise NotEmpty(f'"{instance.name}" is not empty')
    return delete_instance(txn, instance, txn.graph.repos[instance.repo].passcode)


def free_rows(txn: WriteTxn, instance: int, limit: int = 4096) -> bool:
    """Free some rows of an instance that is out of the graph; True while there are more."""
    low = keys.U32.pack(instance)
    for table in (Table.INDEX, Table.VALUES, Table.STATE, Table.WRITTEN, Table.MUTATIONS, Table.LEDGER):
        limit -= txn.delete_range(table, low, keys.after(low), limit)
        if limit <= 0:
            return True
    return False
