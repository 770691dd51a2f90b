"""What things in the mount are: folders, links and files that the kernel can know, and what they all share.

A node names its thing by ids and is looked up anew in every snapshot, so it never goes stale; what is gone raises
NotFound. Nodes do no I/O of their own beyond the transaction that they are given, and never wait: a folder or text
that takes long says so (``slow``), and is then read in a worker thread.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dvidfs.engine import Engine, ReadTxn, WriteTxn
from dvidfs.engine.graph import Node as Version
from dvidfs.engine.graph import Repo
from dvidfs.errors import UnknownVersion
from dvidfs.fuse import inodes
from dvidfs.fuse.inodes import Inodes
from dvidfs.types.base import Keys, Registry

if TYPE_CHECKING:
    from dvidfs.fuse.handles import Opens
    from dvidfs.fuse.keyfiles import RowsCache
    from dvidfs.fuse.made import Products

FOREVER = 1e9
"""Seconds that the kernel keeps what cannot change: 30 years."""
SOON = 1.0
"""Seconds that the kernel keeps what can."""

DIR = stat.S_IFDIR | 0o555
OPEN_DIR = stat.S_IFDIR | 0o755
FILE = stat.S_IFREG | 0o444
OPEN_FILE = stat.S_IFREG | 0o644
LINK = stat.S_IFLNK | 0o777


@dataclass(frozen=True)
class MountOptions:
    """How a mount behaves. ``mkdir_type``: the datatype of a folder made in an open version; the first type whose
    files are keys if it is empty. ``xattr``: answer questions for extended attributes (a listing then costs more).
    """

    allow_other: bool = False
    auto_unmount: bool = False
    xattr: bool = False
    show_control: bool = False
    mkdir_type: str = ""
    read_ahead_kb: int = 1024
    max_background: int = 64


class Stat(NamedTuple):
    """Attributes: file type and permissions, bytes, ns, how long the kernel may keep them in seconds."""

    mode: int
    size: int
    mtime: int
    ttl: float


def state_of(size: int, mtime: int) -> int:
    """A number for what the kernel compares to see whether a file has changed."""
    return hash((size, mtime))


class Access(Enum):
    """Whether a file can be written, and if not, why."""

    OPEN = "open"
    COMMITTED = "committed"
    SYNTHESISED = "synthesised"


@dataclass
class Context:
    """What all nodes of one mount share."""

    engine: Engine
    registry: Registry
    options: MountOptions
    mountpoint: Path
    opens: Opens
    rows: RowsCache
    made: Products
    inodes: Inodes = field(default_factory=Inodes)

    @property
    def mkdir_type(self) -> str:
        """The datatype that ``mkdir`` makes an instance of; empty if there is none."""
        return self.options.mkdir_type or next((t.name for t in self.registry if isinstance(t.tree, Keys)), "")


class Node:
    """A thing that has an inode. ``lookups``: how often the kernel has been told of it; ``told`` stands for the size
    and time that the kernel was told last, where these can change.
    """

    __slots__ = ("ino", "lookups", "told")

    slow = False
    """Whether attributes and content are made in a worker thread."""

    def __init__(self) -> None:
        self.ino = 0
        self.lookups = 0
        self.told = 0

    def identity(self) -> bytes:
        """What its number is made of."""
        raise AssertionError("every kind of node has an identity")

    def number(self) -> int:
        return inodes.number(self.identity())

    def same(self, other: Node) -> bool:
        return self.__class__ is other.__class__ and self.identity() == other.identity()

    def watched(self) -> int:
        """The instance whose changes concern it, if that cannot be told from its number; else 0."""
        return 0

    def stat(self, txn: ReadTxn) -> Stat:
        raise AssertionError("every kind of node has attributes")


class Named(Node):
    """A node that keeps its identity; all but the keys, of which there may be millions."""

    __slots__ = ("ident",)

    def __init__(self, *ident: str | bytes) -> None:
        super().__init__()
        self.ident = inodes.identity(*ident)

    def identity(self) -> bytes:
        return self.ident


class Dir(Named):
    """A folder."""

    __slots__ = ()

    def ttl(self, txn: ReadTxn) -> float:
        """How long the kernel may keep names in it, and that a name is absent."""
        return SOON

    def absent_ttl(self, txn: ReadTxn, name: bytes) -> float:
        return self.ttl(txn)

    def find(self, txn: ReadTxn, name: bytes) -> tuple[Node, Stat] | None:
        """The entry of that name, or None."""
        raise AssertionError("every folder can be searched")

    def listing(self, txn: ReadTxn) -> Listing:
        """What it holds now."""
        raise AssertionError("every folder can be listed")


class Listing:
    """What a folder held when it was opened, read on from any position."""

    def entries(self, txn: ReadTxn, start: int) -> Iterator[tuple[bytes, Node, Stat]]:
        raise AssertionError("every listing has entries")


class FewEntries(Listing):
    """The listing of a small folder."""

    def __init__(self, rows: list[tuple[bytes, Node]]) -> None:
        self.rows = rows

    def entries(self, txn: ReadTxn, start: int) -> Iterator[tuple[bytes, Node, Stat]]:
        for name, node in self.rows[start:]:
            try:
                found = Stat(FILE, 0, 0, 0.0) if node.slow else node.stat(txn)
            except UnknownVersion:
                continue
            yield name, node, found


class Link(Named):
    """A symbolic link. ``resolve`` gives where it leads, relative to where it stands, and its time in ns."""

    __slots__ = ("resolve",)

    def __init__(self, resolve: Callable[[ReadTxn], tuple[bytes, int]], *ident: str | bytes) -> None:
        super().__init__(*ident)
        self.resolve = resolve

    def stat(self, txn: ReadTxn) -> Stat:
        target, mtime = self.resolve(txn)
        return Stat(LINK, len(target), mtime, SOON)


class Text(Named):
    """A small file that is written out on request; nobody writes it."""

    __slots__ = ("_mtime", "_render")

    def __init__(
        self, render: Callable[[ReadTxn], bytes], mtime: Callable[[ReadTxn], int], *ident: str | bytes
    ) -> None:
        super().__init__(*ident)
        self._render = render
        self._mtime = mtime

    def render(self, txn: ReadTxn) -> bytes:
        return self._render(txn)

    def access(self, txn: ReadTxn) -> Access:
        return Access.SYNTHESISED

    def stat(self, txn: ReadTxn) -> Stat:
        mode = OPEN_FILE if self.access(txn) is Access.OPEN else FILE
        return Stat(mode, len(self.render(txn)), self._mtime(txn), SOON)


class SlowText(Text):
    """A text that takes long to write out."""

    __slots__ = ()

    slow = True


class Inbox(Text):
    """A text that can be written while its version is open; ``save(txn, data)`` takes what was written."""

    __slots__ = ("_access", "appends", "save")

    def __init__(
        self,
        render: Callable[[ReadTxn], bytes],
        mtime: Callable[[ReadTxn], int],
        access: Callable[[ReadTxn], Access],
        save: Callable[[WriteTxn, bytes], None],
        *ident: str | bytes,
        appends: bool = False,
    ) -> None:
        """``appends``: what is written is added at the end, wherever the writer thinks it goes."""
        super().__init__(render, mtime, *ident)
        self._access = access
        self.save = save
        self.appends = appends

    def access(self, txn: ReadTxn) -> Access:
        return self._access(txn)


def repo_of(txn: ReadTxn, repo: int) -> Repo:
    """Raises: UnknownVersion if it has been deleted."""
    found = txn.graph.repos.get(repo)
    if found is None:
        raise UnknownVersion(f"repo {repo} has been deleted")
    return found


def version_of(txn: ReadTxn, repo: int, version: int) -> Version:
    """Raises: UnknownVersion if it has been deleted."""
    found = repo_of(txn, repo).nodes.get(version)
    if found is None:
        raise UnknownVersion(f"version {version} has been deleted")
    return found
