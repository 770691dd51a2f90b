"""The folders and files that a datatype describes (:mod:`dvidfs.types.base`); no datatype is named.

Invariant: a listing takes sizes from the description's own arithmetic, never from values.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from typing import Any

from dvidfs.engine import ReadTxn, ReadView, WriteView
from dvidfs.errors import DvidfsError, NotFound
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
    Named,
    Node,
    Stat,
)
from dvidfs.types.base import Directory, File, Windows, find_entry, is_shown


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
        text = names.decode_str(name)
        found = None if text is None else find_entry(self.entry, self.at.view(txn), self.parts, text)
        if found is None:
            return None
        node = self._child(*found, name)
        return node, node.stat(txn)

    def _child(self, entry: File | Directory, parts: tuple[Any, ...], name: bytes) -> TypeDir | TypeFile:
        path = (*self.path, name)
        if isinstance(entry, Directory):
            return TypeDir(self.at, entry, parts, path)
        return TypeFile(self.at, entry, parts, path)

    def listing(self, txn: ReadTxn) -> Listing:
        return TypeRows(self, self.at.view(txn))

    def rows(self, view: ReadView) -> Iterator[tuple[bytes, File | Directory, tuple[Any, ...]]]:
        """(name, entry, parts) of all that is listed."""
        for name, entry in self.entry.entries.items():
            if entry.listed and is_shown(entry, view, self.parts):
                yield os.fsencode(name), entry, self.parts
        for each in self.entry.each:
            if each.listed and is_shown(each.entry, view, self.parts):
                for text in each.names(view, *self.parts):
                    name = names.encode_str(text)
                    if len(name) <= names.MAX_NAME:
                        yield name, each.entry, (*self.parts, each.parse(text))


class TypeRows(Listing):
    """What a folder of a datatype's tree held when it was opened; sizes are computed as the listing is read."""

    def __init__(self, home: TypeDir, view: ReadView) -> None:
        self.home = home
        self.rows = list(home.rows(view))

    def entries(self, txn: ReadTxn, start: int) -> Iterator[tuple[bytes, Node, Stat]]:
        home = self.home
        view = home.at.view(txn)
        place, modified = home.at.context.inodes.place, view.modified()
        for name, entry, parts in self.rows[start:]:
            node = place(home._child(entry, parts, name))
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
        view, shown = self.at.view(txn), self.entry.shown
        if shown is not None and not shown(view, *self.parts):  # the kernel knows the name from before a change
            raise NotFound("what this file would show cannot be shown in this way any more")
        return self.stat_in(view, view.modified())

    def stat_in(self, view: ReadView, modified: int) -> Stat:
        entry = self.entry
        mtime = modified if entry.mtime is None else entry.mtime(view, *self.parts)
        is_open = entry.write is not None and not view.frozen and entry.writable(view)
        mode = OPEN_FILE if is_open else FILE
        return Stat(mode, entry.size(view, *self.parts), mtime, FOREVER if view.frozen else SOON)

    def read(self, view: ReadView, offset: int, length: int) -> bytes | memoryview:
        return self.entry.read(view, *self.parts, offset, length)

    def ready(self, view: ReadView, offset: int, length: int) -> bool:
        """Whether that window can be read without keeping anybody waiting."""
        return self.entry.ready is None or self.entry.ready(view, *self.parts, offset, length)

    def layout(self, view: ReadView) -> Hashable:
        """What tells where in the file a thing stands."""
        return None if self.entry.layout is None else self.entry.layout(view, *self.parts)

    def write(self, view: WriteView, windows: Windows) -> None:
        assert self.entry.write is not None
        self.entry.write(view, *self.parts, windows)
