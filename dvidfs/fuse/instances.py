"""What an instance holds: files for keys, or the folders and files that its datatype describes.

Everything is read from the description (:mod:`dvidfs.types.base`); no datatype is named. Invariant: sizes and times
in a listing come from arrays or from the description's own arithmetic, never from values.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from enum import Enum
from hashlib import blake2b
from typing import Any

import numpy as np

from dvidfs.engine import Instance, ReadTxn, ReadView, WriteTxn, WriteView
from dvidfs.engine.graph import Node as Version
from dvidfs.engine.keys import MAX_KEY
from dvidfs.engine.values import Entry
from dvidfs.errors import Conflict, DvidfsError, Locked, NotFound, UnknownInstance
from dvidfs.fuse import inodes, names
from dvidfs.fuse.nodes import (
    DIR,
    FILE,
    FOREVER,
    OPEN_DIR,
    OPEN_FILE,
    SOON,
    Context,
    Dir,
    Listing,
    Named,
    Node,
    Stat,
    version_of,
)
from dvidfs.types import common
from dvidfs.types.base import Directory, File, Keys

BATCH = 512


class At:
    """One instance at one version, by ids: what its folders and files share."""

    __slots__ = ("context", "instance", "kind", "prefix", "repo", "version")

    def __init__(self, context: Context, version: Version, instance: Instance) -> None:
        self.context = context
        self.repo = version.repo
        self.version = version.id
        self.instance = instance.id
        self.kind = context.registry[instance.type]
        self.prefix = inodes.identity(version.uuid, instance.uuid)

    def _both(self, txn: ReadTxn) -> tuple[Version, Instance]:
        found = txn.graph.instance_by_id(self.instance)
        if found is None:
            raise UnknownInstance(f"instance {self.instance} has been deleted")
        return version_of(txn, self.repo, self.version), found

    def view(self, txn: ReadTxn) -> ReadView:
        """Raises: NotFound if the instance or the version has been deleted."""
        return ReadView(txn, *self._both(txn))

    def write_view(self, txn: WriteTxn) -> WriteView:
        """Raises: Locked if the version is committed."""
        return WriteView(txn, *self._both(txn))


def refuse_committed(version: Version, versioned: bool) -> None:
    """Raises: Locked if what lies here cannot be changed."""
    if version.locked and versioned:
        raise Locked(f"version {version.uuid} is committed: write to an open child")


def folder(context: Context, version: Version, instance: Instance) -> Dir | None:
    """The folder of an instance; None if this program does not know its datatype."""
    if context.registry.get(instance.type) is None:
        return None
    at = At(context, version, instance)
    tree = at.kind.tree
    return KeysDir(at) if isinstance(tree, Keys) else TypeDir(at, tree, (), ())


def info(context: Context, txn: ReadTxn, version: Version, name: str) -> dict[str, Any]:
    """The instance's info as HTTP gives it; with the number of keys that no file name can hold, if there are any."""
    instance = txn.graph.instance(version, name)
    kind = context.registry[instance.type]
    out = common.instance_json(txn, kind, instance, version)
    if isinstance(kind.tree, Keys):
        keys = context.engine.listings.of(ReadView(txn, version, instance)).keys
        hidden = sum(len(names.encode(k)) > names.MAX_NAME for k in keys if len(k) * 3 > names.MAX_NAME)
        if hidden:
            out["KeysWithoutFile"] = hidden
    return out


# -- keys --------------------------------------------------------------------------------------------------------


class State(Enum):
    """Whether a key's node stands for what the key holds now."""

    LIVE = 0
    OLD = 1
    """The key was changed elsewhere while this one was open: it keeps what it had; writing to it still counts."""
    GONE = 2
    """Deleted or replaced while it was open: nothing written to it is kept."""


class KeysDir(Dir):
    """The folder of an instance whose files are its keys."""

    __slots__ = ("_hash", "at")

    def __init__(self, at: At) -> None:
        Node.__init__(self)
        self.ident = at.prefix
        self.at = at
        self._hash = blake2b(at.prefix, digest_size=8)

    def watched(self) -> int:
        return self.at.instance

    def key_number(self, key: bytes) -> int:
        """The inode number of a key."""
        state = self._hash.copy()
        state.update(len(key).to_bytes(2, "big") + key)
        found = int.from_bytes(state.digest(), "little")
        return found if found > inodes.ROOT else found + 2

    def stat(self, txn: ReadTxn) -> Stat:
        view = self.at.view(txn)
        return Stat(DIR if view.frozen else OPEN_DIR, 0, view.modified(), SOON)

    def ttl(self, txn: ReadTxn) -> float:
        return FOREVER if self.at.view(txn).frozen else SOON

    def find(self, txn: ReadTxn, name: bytes) -> tuple[Node, Stat] | None:
        key = names.decode(name)
        if key is None or len(key) > MAX_KEY:
            return None
        inodes_ = self.at.context.inodes
        node = inodes_.place(KeyFile(self, key))
        open_file = self.at.context.opens.get(node.ino)
        if open_file is not None and open_file.unsaved:
            return node, open_file.stat(txn)
        view = self.at.view(txn)
        try:
            entry = view.text_entry(key)
        except Conflict:
            return node, Stat(FILE if view.frozen else OPEN_FILE, 0, view.node.created, 0.0)
        if open_file is not None and open_file.entry is not None and open_file.entry != entry:
            node.state = State.OLD
            node = inodes_.place(KeyFile(self, key))
        return None if entry is None else (node, key_stat(view, entry))

    def listing(self, txn: ReadTxn) -> Listing:
        return KeyRows(self, self.at.view(txn))


def key_stat(view: ReadView, entry: Entry) -> Stat:
    if view.frozen:
        return Stat(FILE, entry.size, entry.mtime, FOREVER)
    return Stat(OPEN_FILE, entry.size, entry.mtime, SOON)


class KeyFile(Node):
    """A key."""

    __slots__ = ("home", "key", "state")

    def __init__(self, home: KeysDir, key: bytes) -> None:
        self.ino = 0
        self.lookups = 0
        self.told = 0
        self.home = home
        self.key = key
        self.state = State.LIVE

    def identity(self) -> bytes:
        return self.home.ident + inodes.identity(self.key)

    def number(self) -> int:
        return self.home.key_number(self.key)

    def same(self, other: Node) -> bool:
        """Whether this (known) one is what ``other`` is; not if the key has moved on from it."""
        return (
            other.__class__ is KeyFile
            and self.key == other.key  # type: ignore[attr-defined] # it is a KeyFile
            and self.state is State.LIVE
            and self.home.ident == other.home.ident  # type: ignore[attr-defined]
        )

    def stat(self, txn: ReadTxn) -> Stat:
        open_file = self.home.at.context.opens.get(self.ino)
        if open_file is not None and open_file.pinned:
            return open_file.stat(txn)
        view = self.home.at.view(txn)
        entry = self.entry(view)
        return key_stat(view, entry)

    def entry(self, view: ReadView) -> Entry:
        """Raises: NotFound, Conflict."""
        found = view.text_entry(self.key)
        if found is None:
            raise NotFound(f"key {self.key[:60]!r} is there no more")
        return found


class KeyRows(Listing):
    """Keys of an instance with sizes and times, as of when it was opened; then those that are only in buffers yet."""

    def __init__(self, home: KeysDir, view: ReadView) -> None:
        listing = home.at.context.engine.listings.of(view)
        self.home = home
        self.frozen = view.frozen
        self.stamp = view.stamp()
        self.sizes, self.mtimes = listing.attributes(view)
        self.keys: Sequence[bytes] = listing.keys
        self.names = names.encode_all(self.keys)
        if self.names and max(map(len, self.names)) > names.MAX_NAME:
            kept = [i for i, name in enumerate(self.names) if len(name) <= names.MAX_NAME]
            self.keys, self.names = [self.keys[i] for i in kept], [self.names[i] for i in kept]
            self.sizes, self.mtimes = self.sizes[np.array(kept)], self.mtimes[np.array(kept)]
        new = [f.node for f in list(home.at.context.opens.unsaved_in(home)) if f.entry is None]
        self.unsaved = [node for node in new if node.state is State.LIVE]

    def entries(self, txn: ReadTxn, start: int) -> Iterator[tuple[bytes, Node, Stat]]:
        home, context = self.home, self.home.at.context
        mode, ttl = (FILE, FOREVER) if self.frozen else (OPEN_FILE, SOON)
        if home.at.view(txn).stamp() != self.stamp:
            ttl = 0.0  # what is told now may be old already
        place, opens = context.inodes.place, context.opens
        for low in range(start, len(self.keys), BATCH):
            high = low + BATCH
            rows = zip(
                self.keys[low:high],
                self.names[low:high],
                self.sizes[low:high].tolist(),
                self.mtimes[low:high].tolist(),
                strict=True,
            )
            for key, name, size, mtime in rows:
                node = place(KeyFile(home, key))
                open_file = opens.get(node.ino)
                if open_file is not None and open_file.pinned:
                    yield name, node, open_file.stat(txn)
                else:
                    yield name, node, Stat(mode, size, mtime, ttl)
        for node in self.unsaved[max(0, start - len(self.keys)) :]:
            open_file = opens.get(node.ino)
            if open_file is not None:
                yield names.encode(node.key), node, open_file.stat(txn)


# -- folders and files that a datatype describes -----------------------------------------------------------------


class TypeDir(Dir):
    """A folder of a datatype's tree. ``parts``: what the names of patterns above it stand for."""

    __slots__ = ("at", "entry", "parts", "path")

    def __init__(self, at: At, entry: Directory, parts: tuple[Any, ...], path: tuple[bytes, ...]) -> None:
        Node.__init__(self)
        self.ident = at.prefix + inodes.identity(*path)
        self.at = at
        self.entry = entry
        self.parts = parts
        self.path = path

    def watched(self) -> int:
        return self.at.instance

    def stat(self, txn: ReadTxn) -> Stat:
        return self._stat(self.at.view(txn))

    def _stat(self, view: ReadView) -> Stat:
        return Stat(DIR if view.frozen else OPEN_DIR, 0, view.modified(), SOON)

    def ttl(self, txn: ReadTxn) -> float:
        return FOREVER if self.at.view(txn).frozen else SOON

    def find(self, txn: ReadTxn, name: bytes) -> tuple[Node, Stat] | None:
        view = self.at.view(txn)
        entry = self.entry.entries.get(os.fsdecode(name))
        if entry is not None:
            node = self._child(entry, name, ()) if is_shown(entry, view) else None
        else:
            node = self._named(view, name)
        return None if node is None else (node, node.stat(txn))

    def _named(self, view: ReadView, name: bytes) -> TypeDir | TypeFile | None:
        text = names.decode_str(name)
        if text is None:
            return None
        for each in self.entry.each:
            part = each.parse(text)
            if part is not None and is_shown(each.entry, view) and each.has(view, *self.parts, part):
                return self._child(each.entry, name, (part,))
        return None

    def _child(self, entry: File | Directory, name: bytes, part: tuple[Any, ...]) -> TypeDir | TypeFile:
        parts, path = (*self.parts, *part), (*self.path, name)
        if isinstance(entry, Directory):
            return TypeDir(self.at, entry, parts, path)
        return TypeFile(self.at, entry, parts, path)

    def listing(self, txn: ReadTxn) -> Listing:
        return TypeRows(self, self.at.view(txn))

    def rows(self, view: ReadView) -> Iterator[tuple[bytes, File | Directory, tuple[Any, ...]]]:
        """(name, entry, part) of all that is listed."""
        for name, entry in self.entry.entries.items():
            if is_shown(entry, view):
                yield os.fsencode(name), entry, ()
        for each in self.entry.each:
            if each.listed and is_shown(each.entry, view):
                for text in each.names(view, *self.parts):
                    name = names.encode_str(text)
                    if len(name) <= names.MAX_NAME:
                        yield name, each.entry, (each.parse(text),)


def is_shown(entry: File | Directory, view: ReadView) -> bool:
    return entry.shown is None or entry.shown(view)


class TypeRows(Listing):
    """What a folder of a datatype's tree held when it was opened; sizes are computed as the listing is read."""

    def __init__(self, home: TypeDir, view: ReadView) -> None:
        self.home = home
        self.rows = list(home.rows(view))

    def entries(self, txn: ReadTxn, start: int) -> Iterator[tuple[bytes, Node, Stat]]:
        home = self.home
        view = home.at.view(txn)
        place, modified = home.at.context.inodes.place, view.modified()
        for name, entry, part in self.rows[start:]:
            node = place(home._child(entry, name, part))
            if isinstance(node, TypeFile):
                try:
                    yield name, node, node.stat_in(view, modified)
                except DvidfsError:
                    yield name, node, Stat(FILE, 0, modified, 0.0)  # opening it will tell
            else:
                yield name, node, Stat(DIR if view.frozen else OPEN_DIR, 0, modified, SOON)


class TypeFile(Named):
    """A file of a datatype's tree: any window of it is made on request."""

    __slots__ = ("at", "entry", "parts")

    def __init__(self, at: At, entry: File, parts: tuple[Any, ...], path: tuple[bytes, ...]) -> None:
        Node.__init__(self)
        self.ident = at.prefix + inodes.identity(*path)
        self.at = at
        self.entry = entry
        self.parts = parts

    def watched(self) -> int:
        return self.at.instance

    def stat(self, txn: ReadTxn) -> Stat:
        view = self.at.view(txn)
        return self.stat_in(view, view.modified())

    def stat_in(self, view: ReadView, modified: int) -> Stat:
        entry = self.entry
        mtime = modified if entry.mtime is None else entry.mtime(view, *self.parts)
        mode = OPEN_FILE if entry.write is not None and not view.frozen else FILE
        return Stat(mode, entry.size(view, *self.parts), mtime, FOREVER if view.frozen else SOON)

    def read(self, view: ReadView, offset: int, length: int) -> bytes | memoryview:
        return self.entry.read(view, *self.parts, offset, length)

    def ready(self, view: ReadView, offset: int, length: int) -> bool:
        """Whether that window can be read without keeping anybody waiting."""
        return self.entry.ready is None or self.entry.ready(view, *self.parts, offset, length)

    def write(self, view: WriteView, offset: int, data: bytes) -> None:
        assert self.entry.write is not None
        self.entry.write(view, *self.parts, offset, data)
