"""The handlers that make, change, remove and rename: keys as files, instances as folders.

What may not be done is refused before anything is written; what is done is one write of the lane. Invariant: a node
that the kernel knows follows its file through a rename, and stands for nothing once it is removed.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, RequestContext

from dvidfs.engine import ReadTxn, WriteTxn, repos
from dvidfs.engine.values import Entry
from dvidfs.errors import Conflict, Exists, NotEmpty, NotFound
from dvidfs.fuse import lane, names
from dvidfs.fuse.at import refuse_committed
from dvidfs.fuse.instances import folder
from dvidfs.fuse.keyfiles import KeyFile, KeysDir, State
from dvidfs.fuse.nodes import Dir, Node
from dvidfs.fuse.openfiles import OpenKey
from dvidfs.fuse.requests import Requests, guarded, refuse
from dvidfs.fuse.tree import VersionDir
from dvidfs.fuse.typefiles import TypeDir
from dvidfs.types.base import Keys

RENAME_FLAGS = pyfuse3.RENAME_NOREPLACE | pyfuse3.RENAME_EXCHANGE


class Edits(Requests):
    """Making, changing, removing, renaming."""

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
            await self._resize(node, attr.st_size, fh, ctx)
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

    async def _resize(self, node: Node, size: int, fh: int | None, ctx: RequestContext) -> None:
        if fh is not None:
            await self._opens[fh].file.truncate(size)
            return
        info = await self.open(node.ino, os.O_WRONLY, ctx)
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
