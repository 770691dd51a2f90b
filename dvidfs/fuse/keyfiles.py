"""Keys as files: the folder of an instance whose files are its keys, a key, and listings of many.

Invariant: sizes and times in a listing come from arrays, never from values. A key that is changed elsewhere while it is
open here goes on under another inode; the open one keeps what it had.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b

import numpy as np

from dvidfs.engine import ReadTxn, ReadView
from dvidfs.engine.keys import MAX_KEY
from dvidfs.engine.values import Entry
from dvidfs.errors import Conflict, NotFound
from dvidfs.fuse import inodes, names
from dvidfs.fuse.at import At
from dvidfs.fuse.nodes import (
    DIR,
    FILE,
    FOREVER,
    OPEN_DIR,
    OPEN_FILE,
    SOON,
    Dir,
    Listing,
    Node,
    Stat,
)

BATCH = 512
ROWS_KEPT = 1_000_000
"""Keys whose attributes are held for listings, some 100 bytes each."""


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
        return self.at.ttl(txn)

    def find(self, txn: ReadTxn, name: bytes) -> tuple[Node, Stat] | None:
        key = names.decode(name)
        if key is None or len(key) > MAX_KEY:
            return None
        node = self.file(key, self.key_number(key))
        open_file = self.at.context.opens.get(node.ino) if node.lookups else None
        if open_file is not None and open_file.unsaved:
            return node, open_file.stat(txn)
        view = self.at.view(txn)
        try:
            entry = view.text_entry(key)
        except Conflict:
            return node, Stat(FILE if view.frozen else OPEN_FILE, 0, view.node.created, 0.0)
        if open_file is not None and open_file.entry is not None and open_file.entry != entry:
            node.state = State.OLD
            node = self.at.context.inodes.place(KeyFile(self, key))
        return None if entry is None else (node, key_stat(view, entry))

    def file(self, key: bytes, number: int) -> KeyFile:
        """The node of a key, whose inode number would be ``number``: the known one, or a new one."""
        known = self.at.context.inodes.nodes.get(number)
        if known is None and not self.at.context.inodes.moved:
            made = KeyFile(self, key)
            made.ino = number
            return made
        if known.__class__ is KeyFile and known.home is self and known.key == key and known.state is State.LIVE:  # type: ignore[union-attr]
            return known  # type: ignore[return-value]
        return self.at.context.inodes.place(KeyFile(self, key))

    def listing(self, txn: ReadTxn) -> Listing:
        view = self.at.view(txn)
        return KeyListing(self, self.at.context.rows.get(self, view), view.frozen)


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


class RowsCache:
    """The rows of folders listed lately, at most :data:`ROWS_KEPT` in all; safe to use from several threads."""

    def __init__(self) -> None:
        self._held: OrderedDict[bytes, Rows] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, home: KeysDir, view: ReadView) -> Rows:
        with self._lock:
            found = self._held.get(home.ident)
            if found is not None and found.stamp == view.stamp():
                self._held.move_to_end(home.ident)
                return found
        found = Rows.of(home, view)
        with self._lock:
            self._held[home.ident] = found
            self._held.move_to_end(home.ident)
            while len(self._held) > 1 and self.count() > ROWS_KEPT:
                self._held.popitem(last=False)
        return found

    def count(self) -> int:
        return sum(len(rows.keys) for rows in self._held.values())


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
        file, opens, count = home.file, context.opens, len(rows.keys)
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
                node = file(key, number)
                open_file = opens.get(node.ino) if len(opens) else None
                if open_file is not None and open_file.pinned:
                    yield name, node, open_file.stat(txn)
                else:
                    yield name, node, Stat(mode, size, mtime, ttl)
        for node in self.unsaved[max(0, start - count) :]:
            open_file = opens.get(node.ino)
            if open_file is not None:
                yield names.encode(node.key), node, open_file.stat(txn)
