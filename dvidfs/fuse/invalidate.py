"""Telling the kernel what changed, from a thread of its own.

Follows the store's ``changes`` table: woken by commits of this process, and looking every :data:`POLL` seconds for
those of others. What lies in open versions expires within a second anyhow; the notices make it prompt. What lies in
committed versions never expires: when an administrator changed it, all that the kernel knows of that instance is
dropped. Invariant: no notice is ever sent from the loop's thread, where it could wait for an answer of the loop.
"""

from __future__ import annotations

import errno
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pyfuse3

from dvidfs.engine import Graph, ReadTxn
from dvidfs.engine.changes import EVERYTHING, Changed, Feed
from dvidfs.engine.keys import HEAD, Change, Family, decode_text, is_long
from dvidfs.errors import DvidfsError
from dvidfs.fuse import inodes, names
from dvidfs.fuse.at import At
from dvidfs.fuse.keyfiles import KeyFile, KeysDir
from dvidfs.fuse.made import MadeFile
from dvidfs.fuse.nodes import state_of
from dvidfs.fuse.typefiles import TypeFile

if TYPE_CHECKING:
    from dvidfs.fuse.nodes import Context, Node

log = logging.getLogger(__name__)

POLL = 0.1
"""Seconds between looks for commits of other processes."""
PAUSE = 0.002
"""Seconds between two looks when commits come one after the other."""
AGAIN = 1.0
"""Seconds after which a change of history is told once more, for answers that were under way."""
GONE_BY_NOW = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ENODEV, errno.ENOTEMPTY, errno.EBUSY})


class Notices:
    """The thread, and what others ask it to tell the kernel."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._ending = False
        self._thread: threading.Thread | None = None
        self._undo: Callable[[], None] = lambda: None

    # -- what may be asked from any thread -------------------------------------------------------------------

    def pages(self, ino: int) -> None:
        """Drop attributes and pages of an inode."""
        self._ask(lambda: pyfuse3.invalidate_inode(ino))

    def entry(self, parent: int, name: bytes) -> None:
        """Drop a name, present or absent, and all below it."""
        self._ask(lambda: pyfuse3.invalidate_entry(parent, name))

    def _ask(self, notice: Callable[[], None]) -> None:
        self._asked.put(notice)
        self._wake.set()

    # -- the thread ------------------------------------------------------------------------------------------

    def start(self, context: Context) -> None:
        with context.engine.read() as txn:
            feed = Feed(txn)
        self._undo = context.engine.store.on_commit(self._wake.set)
        self._thread = threading.Thread(target=self._run, args=(context, feed), name="mount notices", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> bool:
        """End the thread; False if the kernel holds it up."""
        self._ending = True
        self._undo()
        self._wake.set()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self, context: Context, feed: Feed) -> None:
        follower = Follower(context, feed)
        seen = -1
        while not self._ending:
            self._wake.wait(POLL)
            self._wake.clear()
            while not self._asked.empty() and not self._ending:
                tell(self._asked.get())
            now = context.engine.store.last_txn()
            try:
                if now != seen:
                    seen = now
                    follower.follow()
                follower.repeat()
            except Exception:
                log.exception("changes could not be followed")
            time.sleep(PAUSE)


def tell(notice: Callable[[], None]) -> None:
    """Send one notice; that the kernel knows nothing of it is no error."""
    try:
        notice()
    except OSError as e:
        if e.errno not in GONE_BY_NOW:
            log.warning("the kernel could not be told of a change: %s", e)


class Follower:
    """Maps changes of the store to what the kernel knows. Reads the inode table, which the loop changes meanwhile."""

    def __init__(self, context: Context, feed: Feed) -> None:
        self._context = context
        self._feed = feed
        self._again: list[tuple[float, int]] = []

    def follow(self) -> None:
        with self._context.engine.read() as txn:
            changes = self._feed.poll(txn)
            if any(change is EVERYTHING for change in changes):
                for instance in list(self._context.inodes.watched):
                    self._drop(txn.graph, instance)
                return
            rewritten = any(change.what == Change.HISTORY for change in changes)
            dropped = set()
            for change in dict.fromkeys(changes):
                if not change.instance or change.instance in dropped:
                    continue
                if change.what == Change.HISTORY or (rewritten and is_frozen(txn.graph, change)):
                    dropped.add(change.instance)
                    self._again.append((time.monotonic() + AGAIN, change.instance))
                    self._drop(txn.graph, change.instance)
                else:
                    self._changed(txn, change)

    def repeat(self) -> None:
        """Tell once more of changes to history that are a moment old."""
        while self._again and self._again[0][0] <= time.monotonic():
            _, instance = self._again.pop(0)
            with self._context.engine.read() as txn:
                self._drop(txn.graph, instance)

    def _changed(self, txn: ReadTxn, change: Changed) -> None:
        """Something changed in an open version, or in an unversioned instance."""
        instance = txn.graph.instance_by_id(change.instance)
        for node in tuple(self._context.inodes.watched.get(change.instance, ())):
            at: At = node.at  # type: ignore[attr-defined] # what is watched lies in an instance
            if instance is not None and instance.versioned and at.version != change.version:
                continue
            if isinstance(node, TypeFile):
                self._pages(node)
            elif isinstance(node, MadeFile):
                self._made(node)
            elif isinstance(node, KeysDir) and change.what == Change.KEY:
                self._key(txn, node, change.key)

    def _key(self, txn: ReadTxn, home: KeysDir, index_key: bytes) -> None:
        family, enc = index_key[HEAD.size - 1], index_key[HEAD.size :]
        if family != Family.TEXT or is_long(enc):  # the name of a long key is longer than a name can be
            return
        key = decode_text(enc)
        ino = self._context.inodes.known(home.ident + inodes.identity(key), home.key_number(key))
        node = self._context.inodes.get(ino)
        if node is not None:
            if node.told == self._state(txn, home, key):
                return  # the kernel knows: it was written here
            open_file = self._context.opens.get(ino)
            if open_file is None:
                self._pages(node)
            elif open_file.unsaved:
                return
        parent, name = home.ino, names.encode(key)
        tell(lambda: pyfuse3.invalidate_entry(parent, name))

    @staticmethod
    def _state(txn: ReadTxn, home: KeysDir, key: bytes) -> int:
        try:
            entry = home.at.view(txn).text_entry(key)
        except DvidfsError:
            return 0
        return 0 if entry is None else state_of(entry.size, entry.mtime)

    def _pages(self, node: Node) -> None:
        ino = node.ino
        tell(lambda: pyfuse3.invalidate_inode(ino))

    def _made(self, node: MadeFile) -> None:
        """Of a made file the kernel knows only what was made. While it is open its name leads to another inode."""
        if node.opened is not None:
            parent, name = self._context.inodes.known(node.home, inodes.number(node.home)), node.name
            tell(lambda: pyfuse3.invalidate_entry(parent, name))
        if node.opened is not None or node.ident in self._context.made:
            self._pages(node)

    def _drop(self, graph: Graph, number: int) -> None:
        """Drop all that the kernel was told of an instance: the pages of its files, and every name."""
        instance = graph.instance_by_id(number)
        watched = tuple(self._context.inodes.watched.get(number, ()))
        for node in list(self._context.inodes.nodes.values()):
            if isinstance(node, KeyFile) and node.home.at.instance == number:
                self._pages(node)
        for node in watched:
            if isinstance(node, MadeFile):
                self._made(node)
            self._pages(node)
            at: At = node.at  # type: ignore[attr-defined]
            version = graph.repos[at.repo].nodes.get(at.version) if at.repo in graph.repos else None
            if instance is not None and version is not None and node.identity() == at.prefix:
                parent, name = inodes.number(inodes.identity(version.uuid)), names.encode_str(instance.name)
                tell(lambda parent=parent, name=name: pyfuse3.invalidate_entry(parent, name))


def is_frozen(graph: Graph, change: Changed) -> bool:
    """Whether the change was made to a committed version."""
    instance = graph.instance_by_id(change.instance)
    repo = graph.repos.get(instance.repo) if instance is not None else None
    node = repo.nodes.get(change.version) if repo is not None else None
    return instance is not None and instance.versioned and node is not None and node.locked
