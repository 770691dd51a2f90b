"""The open files of a mount: by inode where they are shared, and by the handle that each call of open(2) got.

Decides when a file that nobody has open any more is closed, and what is committed then; what an open file is stands in
:mod:`~dvidfs.fuse.openfiles`. Invariant: all of them together keep at most :data:`MEMORY` bytes in memory.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import trio

from dvidfs.engine import Engine
from dvidfs.errors import BadRequest
from dvidfs.fuse.invalidate import Notices
from dvidfs.fuse.keyfiles import KeysDir
from dvidfs.fuse.openfiles import OpenFile, OpenKey, OpenText
from dvidfs.fuse.scratch import Budget
from dvidfs.fuse.windows import Source, Windows

MEMORY = 256 << 20
"""Bytes of memory for values, buffers and chunks of all open files together."""


class Handle:
    """What one call of open(2) gave."""

    __slots__ = ("appends", "file", "writes")

    def __init__(self, file: OpenFile, flags: int) -> None:
        self.file = file
        self.writes = bool(flags & os.O_ACCMODE)
        self.appends = bool(flags & os.O_APPEND)


class Opens:
    """All open files: by inode where they are shared, and by handle."""

    def __init__(self, engine: Engine, notices: Notices) -> None:
        self.engine = engine
        self.notices = notices
        self.budget = Budget(MEMORY)
        self.nursery: trio.Nursery | None = None
        self._shared: dict[int, OpenFile] = {}
        self._handles: dict[int, Handle] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._handles)

    def get(self, ino: int) -> OpenKey | None:
        """The open key of that inode; computed files are not asked for in this way."""
        return self._shared.get(ino)  # type: ignore[return-value] # inodes of keys have OpenKeys

    def shared(self, ino: int) -> OpenFile | None:
        return self._shared.get(ino)

    def windows(self, source: Source) -> Windows:
        assert self.nursery is not None
        return Windows(source, self.budget, self.nursery)

    def unsaved_in(self, home: KeysDir) -> Iterator[OpenKey]:
        for file in list(self._shared.values()):
            if isinstance(file, OpenKey) and file.unsaved and file.node.home.ident == home.ident:
                yield file

    def add(self, file: OpenFile, flags: int) -> int:
        """A new handle of a file."""
        number, handle = next(self._numbers), Handle(file, flags)
        file.users += 1
        file.writers += handle.writes
        self._handles[number] = handle
        if not isinstance(file, OpenText):
            self._shared[file.node.ino] = file
        return number

    def __getitem__(self, number: int) -> Handle:
        found = self._handles.get(number)
        if found is None:
            raise BadRequest(f"no open file has the handle {number}")
        return found

    async def release(self, number: int) -> None:
        """Give a handle back; the last one that writes commits what is unsaved, the last one closes the file."""
        handle = self[number]
        file = handle.file
        try:
            if handle.writes and file.writers == 1:
                await file.commit()
        finally:
            del self._handles[number]
            file.users -= 1
            file.writers -= handle.writes
            if not file.users:
                if self._shared.get(file.node.ino) is file:
                    del self._shared[file.node.ino]
                file.close()

    async def commit_all(self) -> list[Exception]:
        """Commit every buffer, as at an unmount; what went wrong."""
        errors: list[Exception] = []
        for file in {id(h.file): h.file for h in self._handles.values()}.values():
            try:
                await file.commit()
            except Exception as e:  # noqa: BLE001 - the others are to be committed all the same
                errors.append(e)
        return errors
