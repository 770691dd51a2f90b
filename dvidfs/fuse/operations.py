"""The handlers that look and read: names, attributes, folders, open files. All run in the loop's one thread.

Decides open flags and what the kernel may keep; what things are is left to the nodes, what is open to
:mod:`~dvidfs.fuse.handles`. Invariant: ``lookup``, ``getattr`` and ``readdir`` never wait for anything slow.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
from collections.abc import Sequence
from typing import Any

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext

from dvidfs.engine import ReadTxn
from dvidfs.fuse import lane, names
from dvidfs.fuse.edits import Edits
from dvidfs.fuse.keyfiles import KeyFile, KeysDir
from dvidfs.fuse.made import MadeFile
from dvidfs.fuse.nodes import FOREVER, Context, Dir, Link, Listing, Text, state_of
from dvidfs.fuse.openfiles import OpenFile, OpenKey, OpenMade, OpenText, OpenWindows
from dvidfs.fuse.requests import guarded, refuse
from dvidfs.fuse.typefiles import TypeDir, TypeFile

log = logging.getLogger(__name__)


class OpenDir:
    """A folder that is being listed."""

    __slots__ = ("listing", "node")

    def __init__(self, node: Dir) -> None:
        self.node = node
        self.listing: Listing | None = None


class Operations(Edits):
    """One mount."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._dirs: dict[int, OpenDir] = {}
        self._numbers = itertools.count(1)

    # -- attributes and names --------------------------------------------------------------------------------

    @guarded
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        home = self._inodes.nodes.get(parent_inode)
        if not isinstance(home, Dir):
            home = self._dir(parent_inode)
        if len(name) > names.MAX_NAME:
            raise refuse(errno.ENAMETOOLONG)
        txn = self._store.begin()
        try:
            found = home.find(txn, name)
            if found is None:
                absent = EntryAttributes()
                absent.entry_timeout = home.absent_ttl(txn, name)
                return absent
            node = found[0] if found[0].ino else self._inodes.place(found[0])
            out = self._attributes(node, found[1], home.ttl(txn))
        finally:
            self._store.end(txn)
        self._inodes.remember(node)
        return out

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        try:
            self._inodes.forget(inode_list)
        except Exception:
            log.exception("forget failed")

    @guarded
    async def getattr(self, inode: int, ctx: RequestContext | None) -> EntryAttributes:
        node = self._node(inode)
        if node.slow and isinstance(node, Text):
            return self._attributes(node, await lane.read_in_thread(self._context.engine, node.stat))
        if isinstance(node, MadeFile):
            return self._attributes(node, await self._context.made.stat(node))
        txn = self._store.begin()
        try:
            return self._attributes(node, node.stat(txn))
        finally:
            self._store.end(txn)

    @guarded
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        node = self._node(inode)
        if not isinstance(node, Link):
            raise refuse(errno.EINVAL)
        with self._context.engine.read() as txn:
            return node.resolve(txn)[0]

    @guarded
    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        node = self._node(inode)
        if mode & os.W_OK:
            with self._context.engine.read() as txn:
                if isinstance(node, Dir):
                    self._may_change(txn, node)
                else:
                    self._may_write(txn, node)
        return isinstance(node, (Dir, Link)) or not mode & os.X_OK

    @guarded
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        disk = os.statvfs(self._store.path)
        out = pyfuse3.StatvfsData()
        out.f_bsize = out.f_frsize = disk.f_frsize or 4096
        out.f_blocks, out.f_bfree, out.f_bavail = disk.f_blocks, disk.f_bfree, disk.f_bavail
        out.f_files = disk.f_files or 1 << 20  # some file systems count none
        out.f_ffree = out.f_favail = disk.f_ffree or 1 << 20
        out.f_namemax = names.MAX_NAME
        return out

    # -- extended attributes: refused for good unless asked for, since `ls -l` asks twice for each file --------

    def _no_xattr(self) -> FUSEError:
        return FUSEError(errno.ENOTSUP if self._context.options.xattr else errno.ENOSYS)

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        raise FUSEError(pyfuse3.ENOATTR) if self._context.options.xattr else self._no_xattr()

    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        if self._context.options.xattr:
            return ()
        raise self._no_xattr()

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        raise self._no_xattr()

    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        raise self._no_xattr()

    # -- folders ---------------------------------------------------------------------------------------------

    @guarded
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        handle = next(self._numbers)
        self._dirs[handle] = OpenDir(self._dir(inode))
        return handle

    @guarded
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        opened = self._dirs[fh]
        if start_id == 0 or opened.listing is None:
            opened.listing = await self._list(opened.node)
        txn = self._store.begin()
        try:
            self._reply(opened, opened.listing, txn, start_id, token)
        finally:
            self._store.end(txn)

    async def _list(self, node: Dir) -> Listing:
        if isinstance(node, (KeysDir, TypeDir)):
            return await lane.read_in_thread(self._context.engine, node.listing)
        with self._context.engine.read() as txn:
            return node.listing(txn)

    def _reply(self, opened: OpenDir, listing: Listing, txn: ReadTxn, start: int, token: pyfuse3.ReaddirToken) -> None:
        out = EntryAttributes()
        out.st_uid, out.st_gid = self._uid, self._gid
        out.entry_timeout = opened.node.ttl(txn)
        reply, fill, inodes = pyfuse3.readdir_reply, self._fill, self._inodes
        position = start
        for name, found, stat_ in listing.entries(txn, start):
            node = found if found.ino else inodes.place(found)
            position += 1
            if not reply(token, name, fill(out, node, stat_), position):
                return
            inodes.remember(node)

    @guarded
    async def releasedir(self, fh: int) -> None:
        self._dirs.pop(fh, None)

    @guarded
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Names are stored when the call that makes them returns."""

    # -- open files ------------------------------------------------------------------------------------------

    @guarded
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        node = self._node(inode)
        if isinstance(node, Text):
            return await self._open_text(node, flags)
        if isinstance(node, MadeFile):
            return await self._open_made(node, flags)
        txn = self._store.begin()
        try:
            if flags & (os.O_ACCMODE | os.O_TRUNC):
                self._may_write(txn, node)
            if isinstance(node, KeyFile):
                file, known = self._open_key(txn, node, flags)
            elif isinstance(node, TypeFile):
                file, known = self._open_windows(txn, node, flags)
            else:
                raise refuse(errno.EISDIR)
        finally:
            self._store.end(txn)
        handle = self._opens.add(file, flags)
        if not known:  # the kernel has other attributes than this value has, and would cut it to their size
            await lane.in_thread(forget_attributes, inode)
        return FileInfo(fh=handle, keep_cache=known)

    def _open_key(self, txn: ReadTxn, node: KeyFile, flags: int) -> tuple[OpenKey, bool]:
        """The open key, and whether the kernel knows size and time of what it shows."""
        file = self._opens.get(node.ino)
        if file is None:
            file = OpenKey(self._opens, node)
            if node.home.at.ttl(txn) >= FOREVER:
                return file, True
            if flags & os.O_TRUNC:
                file.start_empty(txn)
                return file, True
            file.pin(txn)
        elif flags & os.O_TRUNC:
            file.empty()
            return file, True
        if file.unsaved or file.entry is None:
            return file, True
        return file, node.told == state_of(file.entry.size, file.entry.mtime)

    def _open_windows(self, txn: ReadTxn, node: TypeFile, flags: int) -> tuple[OpenFile, bool]:
        found = node.stat(txn)
        file = self._opens.shared(node.ino) or OpenWindows(self._opens, node, found.size)
        if flags & os.O_ACCMODE and isinstance(file, OpenWindows):
            file.begin_writing(txn)
        if found.ttl >= FOREVER:
            return file, True
        return file, node.told == state_of(found.size, found.mtime)

    async def _open_made(self, node: MadeFile, flags: int) -> FileInfo:
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            raise refuse(errno.EACCES)
        product = node.opened or await self._context.made.get(node)
        product = node.opened or product  # another may have opened it meanwhile
        handle = self._opens.add(self._opens.shared(node.ino) or OpenMade(node, product), flags)
        known = node.told == state_of(product.size, product.mtime)
        keep, node.paged = known and node.paged == product.tag, product.tag
        if not known:
            await lane.in_thread(forget_attributes, node.ino)
        return FileInfo(fh=handle, keep_cache=keep)

    async def _open_text(self, node: Text, flags: int) -> FileInfo:
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            with self._context.engine.read() as txn:
                self._may_write(txn, node)
        content = await lane.read_in_thread(self._context.engine, node.render)
        file = OpenText(self._opens, node, content, bool(flags & os.O_TRUNC))
        # past the page cache: size and content of a text may change at any time
        return FileInfo(fh=self._opens.add(file, flags), direct_io=True, keep_cache=False)

    @guarded
    async def read(self, fh: int, off: int, size: int) -> Any:
        file = self._opens[fh].file
        data = file.read_now(off, size)
        return data if data is not None else await file.read(off, size)

    @guarded
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        handle = self._opens[fh]
        await handle.file.write(off, buf, append=handle.appends)
        return len(buf)

    @guarded
    async def flush(self, fh: int) -> None:
        handle = self._opens[fh]
        if handle.writes and handle.file.unsaved:
            await handle.file.commit()

    @guarded
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._opens[fh].file.commit()
        if self._store.durability != "durable":
            await lane.in_thread(self._store.sync)

    @guarded
    async def release(self, fh: int) -> None:
        await self._opens.release(fh)


def forget_attributes(inode: int) -> None:
    """Make the kernel ask for an inode's attributes before it uses them again. Runs in a worker thread."""
    try:
        pyfuse3.invalidate_inode(inode, attr_only=True)
    except OSError as e:
        if e.errno != errno.ENOENT:
            raise
