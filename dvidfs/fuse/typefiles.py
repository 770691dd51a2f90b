"""The folders and files that a datatype describes (:mod:`dvidfs.types.base`); no datatype is named.

Files of unknown size are left to :mod:`~dvidfs.fuse.made`. Invariant: a listing takes sizes from the description's own arithmetic, never from values,
and costs the same for each name however many there are.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from dvidfs.engine import ReadTxn, ReadView, WriteView
from dvidfs.errors import DvidfsError, NotFound
from dvidfs.fuse import inodes, names
from dvidfs.fuse.at import At
from dvidfs.fuse.made import MadeFile
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
from dvidfs.types.base import Directory, Each, File, Made, Numbered, Windows, find_entry, is_shown

BATCH = 256
"""Names that are made at one time: about what one answer to the kernel holds."""


class TypeDir(Dir):
    """A folder of a datatype's tree. ``parts``: what the names of patterns above it stand for."""

    __slots__ = ("at", "entry", "parts")

    def __init__(self, at: At, entry: Directory, parts: tuple[Any, ...], ident: bytes) -> None:
        Node.__init__(self)
        self.ident = ident
        self.at = at
        self.entry = entry
        self.parts = parts

    def watched(self) -> int:
        """Only the folder of the instance itself: the kernel drops what lies below with it."""
        return self.at.instance if self.ident == self.at.prefix else 0

    def stat(self, txn: ReadTxn) -> Stat:
        view = self.at.view(txn)
        return self.stat_in(view, view.modified())

    def stat_in(self, view: ReadView, modified: int) -> Stat:
        own = self.entry.mtime
        return folder_stat(view, modified if own is None else own(view, *self.parts))

    def ttl(self, txn: ReadTxn) -> float:
        return self.at.ttl(txn)

    def find(self, txn: ReadTxn, name: bytes) -> tuple[Node, Stat] | None:
        text = names.decode_str(name)
        view = self.at.view(txn)
        found = None if text is None else find_entry(self.entry, view, self.parts, text)
        if found is None:
            return None
        node = self.place(view, *found, name)
        return node, node.stat_in(view, view.modified())

    def place(
        self, view: ReadView, entry: File | Made | Directory, parts: tuple[Any, ...], name: bytes
    ) -> TypeDir | TypeFile | MadeFile:
        """The node of what has this name here."""
        place = self.at.context.inodes.place
        if isinstance(entry, Directory):
            return place(TypeDir(self.at, entry, parts, inodes.below(self.ident, name)))
        if isinstance(entry, File):
            return place(TypeFile(self.at, entry, parts, inodes.below(self.ident, name)))
        return place(MadeFile(self.at, entry, parts, self.ident, name)).current(view)

    def listing(self, txn: ReadTxn) -> Listing:
        return TypeRows(self, self.at.view(txn))

    def groups(self, view: ReadView) -> Iterator[tuple[Sequence[str], Each | None]]:
        """Names that are listed, and the pattern that they belong to; the fixed entries first."""
        entries = self.entry.entries
        yield [n for n, entry in entries.items() if entry.listed and is_shown(entry, view, self.parts)], None
        for each in self.entry.each:
            if each.listed and is_shown(each.entry, view, self.parts):
                found = each.names(view, *self.parts)
                if isinstance(found, Numbered):
                    yield found, each
                else:
                    yield [text for text in found if len(names.encode_str(text)) <= names.MAX_NAME], each


class TypeRows(Listing):
    """What a folder of a datatype's tree held when it was opened; nodes and sizes are made as the listing is read."""

    def __init__(self, home: TypeDir, view: ReadView) -> None:
        self.home = home
        self.groups = list(home.groups(view))

    def entries(self, txn: ReadTxn, start: int) -> Iterator[tuple[bytes, Node, Stat]]:
        home = self.home
        view = home.at.view(txn)
        above, modified = home.parts, view.modified()
        folder = folder_stat(view, modified)
        for texts, each in self.groups:
            for low in range(start, len(texts), BATCH):
                batch = texts[low : low + BATCH]
                for text, name in zip(batch, names.encode_all([os.fsencode(t) for t in batch]), strict=True):
                    if each is None:
                        node = home.place(view, home.entry.entries[text], above, name)
                    else:
                        node = home.place(view, each.entry, (*above, each.parse(text)), name)
                    plain = isinstance(node, TypeDir) and node.entry.mtime is None
                    yield name, node, folder if plain else stat_listed(node, view, modified)
            start = max(0, start - len(texts))


def folder_stat(view: ReadView, mtime: int) -> Stat:
    return Stat(DIR, 0, mtime, FOREVER) if view.frozen else Stat(OPEN_DIR, 0, mtime, SOON)


def stat_listed(node: TypeDir | TypeFile | MadeFile, view: ReadView, modified: int) -> Stat:
    try:
        return node.stat_in(view, modified)
    except DvidfsError:
        return Stat(DIR if isinstance(node, TypeDir) else FILE, 0, modified, 0.0)  # opening it will tell


class TypeFile(Named):
    """A file of a datatype's tree: any window of it is made on request."""

    __slots__ = ("at", "entry", "parts")

    def __init__(self, at: At, entry: File, parts: tuple[Any, ...], ident: bytes) -> None:
        Node.__init__(self)
        self.ident = ident
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
