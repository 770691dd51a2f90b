"""What all handlers of FUSE requests share: the wall around them, finding nodes, attributes, who may write what.

Invariant: no exception leaves a handler but FUSEError, so none can end the mount; what is not expected is logged with
its traceback and is EIO to the caller.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pyfuse3
from pyfuse3 import EntryAttributes, FUSEError

from dvidfs.engine import ReadTxn
from dvidfs.errors import DvidfsError
from dvidfs.fuse.at import refuse_committed
from dvidfs.fuse.errors import LOGGED, Errno, errno_of
from dvidfs.fuse.keyfiles import KeyFile, KeysDir
from dvidfs.fuse.made import MadeFile
from dvidfs.fuse.nodes import FOREVER, Access, Context, Dir, Node, Stat, Text, state_of
from dvidfs.fuse.tree import Root, VersionDir
from dvidfs.fuse.typefiles import TypeDir, TypeFile

log = logging.getLogger(__name__)

Handler = Callable[..., Awaitable[Any]]


def guarded(handler: Handler) -> Handler:
    """The wall between our errors and the loop."""

    @functools.wraps(handler)
    async def run(self: Requests, *args: Any) -> Any:
        try:
            return await handler(self, *args)
        except FUSEError:
            raise
        except Exception as e:  # noqa: BLE001 - the wall: whatever it is, the mount lives on
            raise FUSEError(report(handler.__name__, e)) from None

    return run


def report(where: str, error: Exception) -> int:
    """Log what a person should know of an error; its errno."""
    number = errno_of(error)
    if isinstance(error, DvidfsError):
        if error.kind in LOGGED:
            log.error("%s: %s", where, error)
        elif log.isEnabledFor(logging.DEBUG):
            log.debug("%s: %s", where, error)
    elif number == errno.EIO:
        log.error("%s failed: %s", where, error, exc_info=error)
    return number


def refuse(number: int, text: str = "") -> Errno:
    return Errno(number, text or os.strerror(number))


class Requests(pyfuse3.Operations):
    """The state of one mount's handlers."""

    supports_dot_lookup = False

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._store = context.engine.store
        self._inodes = context.inodes
        self._opens = context.opens
        self._uid, self._gid = os.getuid(), os.getgid()
        root = self._inodes.place(Root(context))
        self._inodes.remember(root)

    def _node(self, ino: int) -> Node:
        found = self._inodes.nodes.get(ino)
        if found is None:
            raise refuse(errno.ESTALE)
        return found

    def _dir(self, ino: int) -> Dir:
        found = self._node(ino)
        if not isinstance(found, Dir):
            raise refuse(errno.ENOTDIR)
        return found

    def _fill(self, out: EntryAttributes, node: Node, found: Stat) -> EntryAttributes:
        mode, size, mtime, ttl = found
        out.st_ino = node.ino
        out.st_mode = mode
        out.st_size = size
        out.st_blocks = (size + 511) >> 9
        out.st_mtime_ns = mtime
        out.st_ctime_ns = mtime
        out.st_atime_ns = mtime
        out.attr_timeout = ttl
        if ttl < FOREVER or node.__class__ is MadeFile:
            node.told = state_of(size, mtime)
        return out

    def _attributes(self, node: Node, found: Stat, ttl: float = 0.0) -> EntryAttributes:
        out = EntryAttributes()
        out.st_uid, out.st_gid = self._uid, self._gid
        out.entry_timeout = ttl
        return self._fill(out, node, found)

    def _may_write(self, txn: ReadTxn, node: Node) -> None:
        """Raises: the reason why a file cannot be written."""
        if isinstance(node, KeyFile):
            view = node.home.at.view(txn)
            refuse_committed(view.node, view.instance.versioned)
        elif isinstance(node, TypeFile):
            view = node.at.view(txn)
            if node.entry.write is None:
                raise refuse(errno.EACCES)
            refuse_committed(view.node, view.instance.versioned)
            if not node.entry.writable(view):
                raise refuse(errno.EROFS)
        elif isinstance(node, MadeFile):
            raise refuse(errno.EACCES)
        elif isinstance(node, Text):
            access = node.access(txn)
            if access is not Access.OPEN:
                raise refuse(errno.EROFS if access is Access.COMMITTED else errno.EACCES)
        else:
            raise refuse(errno.EISDIR)

    def _may_change(self, txn: ReadTxn, home: Dir) -> None:
        """Raises: the reason why nothing can be made or removed in a folder."""
        if isinstance(home, VersionDir):
            refuse_committed(home.node(txn), True)
        elif isinstance(home, (KeysDir, TypeDir)):
            view = home.at.view(txn)
            refuse_committed(view.node, view.instance.versioned)
            if isinstance(home, TypeDir):
                raise refuse(errno.EPERM)
        else:
            raise refuse(errno.EPERM)
