"""What an instance holds: files for keys, or the folders and files that its datatype describes.

Everything is read from the description (:mod:`dvidfs.types.base`); no datatype is named. Invariant: sizes and times
in a listing come from arrays or from the description's own arithmetic, never from values.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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

    __slots__ = ("_found", "context", "instance", "kind", "prefix", "repo", "version")

    def __init__(self, context: Context, version: Version, instance: Instance) -> None:
        self.context = context
        self.repo = version.repo
        self.version = version.id
        self.instance = instance.id
        self.kind = context.registry[instance.type]
        self.prefix = inodes.identity(version.uuid, instance.uuid)
        self._found = b"", version, instance

    def both(self, txn: ReadTxn) -> tuple[Version, Instance]:
        """Version and instance as they are in this snapshot.

        Raises:
            NotFound: one of them has been deleted.
        """
        now = txn.graph.now
        seen, version, instance = self._found
        if seen == now and not isinstance(txn, WriteTxn):
            return version, instance
        found = txn.graph.instance_by_id(self.instance)
        if found is None:
            raise UnknownInstance(f"instance {self.instance} has been deleted")
        version = version_of(txn, self.repo, self.version)
        self._found = now, version, found
        return version, found

    def ttl(self, txn: ReadTxn) -> float:
        """How long the kernel may keep what is told of it."""
        version, instance = self.both(txn)
        return FOREVER if version.locked and instance.versioned else SOON

    def view(self, txn: ReadTxn) -> ReadView:
        """Raises: NotFound if the instance or the version has been deleted."""
        return ReadView(txn, *self.both(txn))

    def write_view(self, txn: WriteTxn) -> WriteView:
        """Raises: Locked if the version is committed."""
        return WriteView(txn, *self.both(txn))


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

    __slots__ = ("_hash", "_rows", "at")

    def __init__(self, at: At) -> None:
        Node.__init__(self)
        self.ident = at.prefix
        self.at = at
        self._hash = blake2b(at.prefix, digest_size=8)
        self._rows: Rows | None = None

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
        return self.at.ttl(txn)

    def find(self, txn: ReadTxn, name: bytes) -> tuple[Node, Stat] | None:
        key = names.decode(name)
        if key is None or len(key) > MAX_KEY:
            return None
        context = self.at.context
        node = context.inodes.place(KeyFile(self, key))
        open_file = context.opens.get(node.ino) if node.lookups else None
        if open_file is not None and open_file.unsaved:
            return node, open_file.stat(txn)
        view = self.at.view(txn)
        try:
            entry = view.text_entry(key)
        except Conflict:
            return node, Stat(FILE if view.frozen else OPEN_FILE, 0, view.node.created, 0.0)
        if open_file is not None and open_file.entry is not None and open_file.entry != entry:
            node.state = State.OLD
            node = context.inodes.place(KeyFile(self, key))
        return None if entry is None else (node, key_stat(view, entry))

    def listing(self, txn: ReadTxn) -> Listing:
        view = self.at.view(txn)
        rows = self._rows
        if rows is None or rows.stamp != view.stamp():
            rows = self._rows = Rows.of(self, view)
        return KeyListing(self, rows, view.frozen)


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

    def is_for(self, key: bytes) -> bool:
        """Whether it stands for that key of its folder now."""
        return self.key == key and self.state is State.LIVE

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


@dataclass(frozen=True)
class Rows:
    """Keys that have a file name, in order, with what a listing tells of them; right while the stamp is the view's."""

    stamp: tuple[int, int, int, int]
    keys: Sequence[bytes]
    names: Sequence[bytes]
    sizes: np.ndarray
    mtimes: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of(cls, home: KeysDir, view: ReadView) -> Rows:
        listing = home.at.context.engine.listings.of(view)
        sizes, mtimes = listing.attributes(view)
        keys: Sequence[bytes] = listing.keys
        shown = names.encode_all(keys)
        if shown and max(map(len, shown)) > names.MAX_NAME:
            kept = [i for i, name in enumerate(shown) if len(name) <= names.MAX_NAME]
            keys, shown = [keys[i] for i in kept], [shown[i] for i in kept]
            sizes, mtimes = sizes[np.array(kept, int)], mtimes[np.array(kept, int)]
        numbers = np.fromiter(map(home.key_number, keys), np.uint64, len(keys))
        return cls(view.stamp(), keys, shown, sizes, mtimes, numbers)


class KeyListing(Listing):
    """Keys of an instance as of when it was opened; then those that are only in buffers yet."""

    def __init__(self, home: KeysDir, rows: Rows, frozen: bool) -> None:
        self.home = home
        self.rows = rows
        self.frozen = frozen
        new = [f.node for f in home.at.context.opens.unsaved_in(home) if f.entry is None]
        self.unsaved = [node for node in new if node.state is State.LIVE]

    def entries(self, txn: ReadTxn, start: int) -> Iterator[tuple[bytes, Node, Stat]]:
        home, rows, context = self.home, self.rows, self.home.at.context
        mode, ttl = (FILE, FOREVER) if self.frozen else (OPEN_FILE, SOON)
        if home.at.view(txn).stamp() != rows.stamp:
            ttl = 0.0  # what is told now may be old already
        inodes_, opens, count = context.inodes, context.opens, len(rows.keys)
        known = inodes_.nodes.get
        for low in range(start, count, BATCH):
            part = slice(low, low + BATCH)
            batch = zip(
                rows.keys[part],
                rows.names[part],
                rows.numbers[part].tolist(),
                rows.sizes[part].tolist(),
                rows.mtimes[part].tolist(),
                strict=True,
            )
            for key, name, number, size, mtime in batch:
                node = known(number)
                if node is None and not inodes_.moved:
                    node = KeyFile(home, key)
                    node.ino = number
                elif not (node.__class__ is KeyFile and node.home is home and node.is_for(key)):  # type: ignore[union-attr]
                    node = inodes_.place(KeyFile(home, key))
                open_file = opens.get(number) if len(opens) else None
                if open_file is not None and open_file.pinned:
                    yield name, node, open_file.stat(txn)  # type: ignore[misc] # there is a node
                else:
                    yield name, node, Stat(mode, size, mtime, ttl)  # type: ignore[misc]
        for node in self.unsaved[max(0, start - count) :]:
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
        return self.at.ttl(txn)

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
