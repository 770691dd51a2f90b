"""The handlers of FUSE requests: find the node, ask it, translate. All of them run in the loop's one thread.

Decides open flags, what may be written where, and the errno of what may not; what things are is left to the nodes,
what is open to :mod:`~dvidfs.fuse.handles`. Invariant: no exception leaves a handler but FUSEError, so none can end
the mount; what is not expected is logged with its traceback and is EIO to the caller.
"""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext

from dvidfs.engine import ReadTxn, WriteTxn, repos
from dvidfs.engine.values import Entry
from dvidfs.errors import Conflict, DvidfsError, Exists, NotEmpty, NotFound
from dvidfs.fuse import lane, names
from dvidfs.fuse.errors import LOGGED, Errno, errno_of
from dvidfs.fuse.handles import OpenFile, OpenKey, OpenText, OpenWindows
from dvidfs.fuse.instances import KeyFile, KeysDir, State, TypeDir, TypeFile, folder, refuse_committed
from dvidfs.fuse.nodes import FOREVER, Access, Context, Dir, Link, Listing, Node, Stat, Text, state_of
from dvidfs.fuse.tree import Root, VersionDir
from dvidfs.types.base import Keys

log = logging.getLogger(__name__)

RENAME_FLAGS = pyfuse3.RENAME_NOREPLACE | pyfuse3.RENAME_EXCHANGE
Handler = Callable[..., Awaitable[Any]]


def guarded(handler: Handler) -> Handler:
    """The wall between our errors and the loop."""

    @functools.wraps(handler)
    async def run(self: Operations, *args: Any) -> Any:
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


class OpenDir:
    """A folder that is being listed."""

    __slots__ = ("listing", "node")

    def __init__(self, node: Dir) -> None:
        self.node = node
        self.listing: Listing | None = None


class Operations(pyfuse3.Operations):
    """One mount."""

    supports_dot_lookup = False

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._store = context.engine.store
        self._inodes = context.inodes
        self._opens = context.opens
        self._dirs: dict[int, OpenDir] = {}
        self._numbers = itertools.count(1)
        self._uid, self._gid = os.getuid(), os.getgid()
        root = self._inodes.place(Root(context))
        self._inodes.remember(root)

    # -- attributes and names --------------------------------------------------------------------------------

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
        if ttl < FOREVER:
            node.told = state_of(size, mtime)
        return out

    def _attributes(self, node: Node, found: Stat, ttl: float = 0.0) -> EntryAttributes:
        out = EntryAttributes()
        out.st_uid, out.st_gid = self._uid, self._gid
        out.entry_timeout = ttl
        return self._fill(out, node, found)

    @guarded
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
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

    @guarded
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        node = self._node(inode)
        if isinstance(node, Text):
            return await self._open_text(node, flags)
        txn = self._store.begin()
        try:
            if flags & (os.O_ACCMODE | os.O_TRUNC):
                self._may_write(txn, node)
            if isinstance(node, KeyFile):
                file, known = self._open_key(txn, node, flags)
            elif isinstance(node, TypeFile):
                file, known = self._open_windows(txn, node)
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

    def _open_windows(self, txn: ReadTxn, node: TypeFile) -> tuple[OpenFile, bool]:
        found = node.stat(txn)
        file = self._opens.shared(node.ino) or OpenWindows(self._opens, node, found.size)
        if found.ttl >= FOREVER:
            return file, True
        return file, node.told == state_of(found.size, found.mtime)

    async def _open_text(self, node: Text, flags: int) -> FileInfo:
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            with self._context.engine.read() as txn:
                self._may_write(txn, node)
        content = await lane.read_in_thread(self._context.engine, node.render)
        file = OpenText(self._opens, node, content, bool(flags & os.O_TRUNC))
        # past the page cache: size and content of a text may change at any time
        return FileInfo(fh=self._opens.add(file, flags), direct_io=True, keep_cache=False)

    @guarded
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        home, node = self._new_key(parent_inode, name)
        txn = self._store.begin()
        try:
            self._may_change(txn, home)
            file = self._opens.get(node.ino) or OpenKey(self._opens, node)
            file.start_empty(txn)
            out = self._attributes(node, file.stat(txn), home.ttl(txn))
        finally:
            self._store.end(txn)
        self._inodes.remember(node)
        return FileInfo(fh=self._opens.add(file, flags), keep_cache=False), out

    def _new_key(self, parent: int, name: bytes) -> tuple[KeysDir, KeyFile]:
        """The node of a key that may be new.

        Raises:
            Errno: nothing can be made there, or under that name.
        """
        home = self._dir(parent)
        if not isinstance(home, KeysDir):
            with self._context.engine.read() as txn:
                self._may_change(txn, home)
            raise refuse(errno.EPERM)
        if len(name) > names.MAX_NAME:
            raise refuse(errno.ENAMETOOLONG)
        key = names.decode(name)
        if key is None:
            raise refuse(errno.EINVAL)
        return home, self._inodes.place(KeyFile(home, key))

    @guarded
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        if not stat.S_ISREG(mode):
            raise refuse(errno.EPERM)
        info, out = await self.create(parent_inode, name, mode, os.O_WRONLY, ctx)
        await self._opens.release(info.fh)
        return out

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

    @guarded
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: pyfuse3.SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        node = self._node(inode)
        changes = fields.update_size or fields.update_mtime or fields.update_mode or fields.update_uid
        if changes or fields.update_gid or fields.update_atime:
            with self._context.engine.read() as txn:
                if isinstance(node, Dir):
                    self._may_set(txn, node)
                else:
                    self._may_write(txn, node)
        if fields.update_size:
            await self._resize(node, attr.st_size, fh)
        if fields.update_mtime and isinstance(node, KeyFile):
            await self._set_time(node, attr.st_mtime_ns)
        return await self.getattr(inode, ctx)

    def _may_set(self, txn: ReadTxn, home: Dir) -> None:
        """Raises: a folder's times and modes cannot be set. Where they can be, nothing happens."""
        if isinstance(home, TypeDir):
            view = home.at.view(txn)
            refuse_committed(view.node, view.instance.versioned)
        else:
            self._may_change(txn, home)

    async def _resize(self, node: Node, size: int, fh: int | None) -> None:
        if fh is not None:
            await self._opens[fh].file.truncate(size)
            return
        info = await self.open(node.ino, os.O_WRONLY, None)
        try:
            await self._opens[info.fh].file.truncate(size)
            await self._opens[info.fh].file.commit()
        finally:
            await self._opens.release(info.fh)

    async def _set_time(self, node: KeyFile, mtime: int) -> None:
        file = self._opens.get(node.ino)
        if file is not None and file.unsaved:
            file.set_time(mtime)
            return

        def fn(txn: WriteTxn) -> Entry | None:
            view = node.home.at.write_view(txn)
            view.set_time(node.key, mtime)
            return view.text_entry(node.key)

        entry = await lane.write(self._context.engine, fn)
        if file is not None:
            file.entry = entry

    # -- removing, renaming, making folders ------------------------------------------------------------------

    def _existing(self, parent: int, name: bytes) -> tuple[KeysDir, KeyFile]:
        """A key that is there, as this mount shows it.

        Raises:
            Errno, NotFound, Locked.
        """
        home = self._dir(parent)
        with self._context.engine.read() as txn:
            found = home.find(txn, name) if len(name) <= names.MAX_NAME else None
            if found is None:
                raise NotFound(f"there is no {os.fsdecode(name)}")
            self._may_change(txn, home)
        node = found[0]
        if not isinstance(home, KeysDir) or not isinstance(node, KeyFile):
            raise refuse(errno.EPERM)
        return home, node

    @guarded
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        home, node = self._existing(parent_inode, name)
        tree, key, at = home.at.kind.tree, node.key, home.at
        assert isinstance(tree, Keys)

        def fn(txn: WriteTxn) -> None:
            view = at.write_view(txn)
            if stands(view, key):
                tree.delete(view, key)

        await lane.write(self._context.engine, fn)
        node.state = State.GONE

    @guarded
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        home, node = self._existing(parent_inode_old, name_old)
        if flags & pyfuse3.RENAME_EXCHANGE or flags & ~RENAME_FLAGS:
            raise refuse(errno.EINVAL)
        target_home = self._dir(parent_inode_new)
        if isinstance(target_home, KeysDir) and target_home.ident != home.ident:
            raise refuse(errno.EXDEV)
        target_home, target = self._new_key(parent_inode_new, name_new)
        if target is node:
            return
        file, replaced = self._opens.get(node.ino), self._opens.get(target.ino)
        if flags & pyfuse3.RENAME_NOREPLACE and replaced is not None and replaced.unsaved:
            raise Exists(f"{os.fsdecode(name_new)} is there already")
        if file is not None:
            await file.commit()
        entry = await self._rename(home, node.key, target.key, bool(flags & pyfuse3.RENAME_NOREPLACE))
        target.state = State.GONE
        old = node.identity()
        node.key = target.key
        self._inodes.renamed(node, old)
        if file is not None:
            file.entry = entry

    async def _rename(self, home: KeysDir, old: bytes, new: bytes, keep: bool) -> Entry | None:
        tree, at = home.at.kind.tree, home.at
        assert isinstance(tree, Keys)

        def fn(txn: WriteTxn) -> Entry | None:
            view = at.write_view(txn)
            if keep and stands(view, new):
                raise Exists(f"key {new[:60]!r} is there already")
            if view.text_entry(old) is None:
                raise NotFound(f"key {old[:60]!r} is there no more")
            tree.rename(view, old, new)
            return view.text_entry(new)

        return await lane.write(self._context.engine, fn)

    @guarded
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        home = self._dir(parent_inode)
        with self._context.engine.read() as txn:
            self._may_change(txn, home)
        text = names.decode_str(name)
        if not isinstance(home, VersionDir) or not self._context.mkdir_type:
            raise refuse(errno.EPERM)
        if len(name) > names.MAX_NAME:
            raise refuse(errno.ENAMETOOLONG)
        if text is None or names.is_noise(name):
            raise refuse(errno.EINVAL)
        kind = self._context.registry[self._context.mkdir_type]
        settings = kind.configure({})

        def fn(txn: WriteTxn) -> None:
            repos.create_instance(txn, home.node(txn), kind.name, text, compression=kind.compression, settings=settings)

        await lane.write(self._context.engine, fn)
        return await self.lookup(parent_inode, name, ctx)

    @guarded
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        home = self._dir(parent_inode)
        with self._context.engine.read() as txn:
            found = home.find(txn, name)
            if found is None:
                raise NotFound(f"there is no {os.fsdecode(name)}")
            self._may_change(txn, home)
            if not isinstance(found[0], Dir):
                raise refuse(errno.ENOTDIR)
            text = names.decode_str(name)
            if not isinstance(home, VersionDir) or text is None:
                raise refuse(errno.EPERM)
            instance = txn.graph.instance(home.node(txn), text)
            made = folder(self._context, home.node(txn), instance)
        if isinstance(made, KeysDir) and next(self._opens.unsaved_in(made), None) is not None:
            raise NotEmpty(f'"{text}" is not empty')
        engine = self._context.engine
        await lane.write(engine, lambda txn: engine.remove_empty_instance(txn, home.node(txn), instance))

    @guarded
    async def symlink(self, *args: Any) -> EntryAttributes:
        raise refuse(errno.EPERM)

    @guarded
    async def link(self, *args: Any) -> EntryAttributes:
        raise refuse(errno.EPERM)


def stands(view: Any, key: bytes) -> bool:
    """Whether a key has a value, or several that conflict."""
    try:
        return view.text_entry(key) is not None
    except Conflict:
        return True


def forget_attributes(inode: int) -> None:
    """Make the kernel ask for an inode's attributes before it uses them again. Runs in a worker thread."""
    try:
        pyfuse3.invalidate_inode(inode, attr_only=True)
    except OSError as e:
        if e.errno != errno.ENOENT:
            raise
