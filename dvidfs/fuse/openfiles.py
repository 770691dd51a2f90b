"""Open files: what each shows, and what is written to it until it is committed.

A key that is open in an open version shows the value that it had when it was opened, or what this mount has written
to it since: one buffer for each inode, committed at flush by a writer and at fsync, and at release if it still holds
something (written through a memory map). A commit that fails drops the buffer and the kernel's pages. Windows written to a
computed file are buffered up to :data:`MAX_WINDOWS` bytes, then committed as one mutation. Texts are written out when
opened. Invariant: what other readers of the store see of a key is always a whole value.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

import trio

from dvidfs.engine import ReadTxn, ReadView, WriteTxn
from dvidfs.engine.keys import PIECE, Kind
from dvidfs.engine.store import Buffer
from dvidfs.engine.values import Entry, Prepared, Upload, Uploaded, prepare, stream
from dvidfs.errors import DvidfsError, Locked, Stale
from dvidfs.fuse import lane, names
from dvidfs.fuse.errors import Errno
from dvidfs.fuse.keyfiles import KeyFile, State, key_stat
from dvidfs.fuse.made import MadeFile, Product
from dvidfs.fuse.nodes import OPEN_FILE, SOON, Inbox, Node, Stat, Text, state_of
from dvidfs.fuse.scratch import Scratch
from dvidfs.fuse.typefiles import TypeFile
from dvidfs.fuse.windows import Source, Windows
from dvidfs.types.base import Keys

if TYPE_CHECKING:
    from dvidfs.fuse.handles import Opens

MAX_WINDOWS = 64 << 20
SMALL = 64 << 10
"""Values up to this size are compressed on the loop."""


def size_is_fixed() -> Errno:
    return Errno(errno.EPERM, "the size of a computed file cannot be changed")


def _moved(view: ReadView) -> Stale:
    """Nothing must land where nobody meant it to."""
    return Stale(
        f'the extents of "{view.instance.name}" changed after a file of it was opened to be written, so what was '
        "written has another place in it now and is dropped: open it anew"
    )


class OpenFile:
    """An open inode, shared by all who have it open."""

    node: Node

    def __init__(self) -> None:
        self.users = 0
        self.writers = 0

    @property
    def unsaved(self) -> bool:
        """Whether something was written that is not committed."""
        return False

    def read_now(self, offset: int, length: int) -> Buffer | None:
        """The bytes, if they can be had without waiting."""
        return None

    async def read(self, offset: int, length: int) -> Buffer:
        raise AssertionError("every open file can be read")

    async def write(self, offset: int, data: bytes, *, append: bool = False) -> None:
        raise Locked("this file is read-only")

    async def truncate(self, size: int) -> None:
        raise Locked("this file is read-only")

    async def commit(self) -> None:
        """Everything written so far is in the store when this returns."""

    def close(self) -> None:
        """Let go of buffers."""


class OpenKey(OpenFile):
    """An open key. ``entry``: what the store holds of it, as far as this one shows it; None if nothing, or not asked yet."""

    node: KeyFile

    def __init__(self, opens: Opens, node: KeyFile) -> None:
        super().__init__()
        self.node = node
        self.at = node.home.at
        self.entry: Entry | None = None
        self._opens = opens
        self._body: Scratch | Windows | None = None
        self._dirty = False
        self._mtime = 0

    @cached_property
    def _lock(self) -> trio.Lock:
        return trio.Lock()

    @property
    def unsaved(self) -> bool:
        return self._dirty

    @property
    def pinned(self) -> bool:
        """Whether its attributes are its own, not the store's of this moment."""
        return self._dirty or self.entry is not None

    def stat(self, txn: ReadTxn) -> Stat:
        if self._dirty:
            assert isinstance(self._body, Scratch)
            return Stat(OPEN_FILE, self._body.size, self._mtime, SOON)
        assert self.entry is not None
        found = key_stat(self.at.view(txn), self.entry)
        return found if self.node.state is State.LIVE else found._replace(ttl=SOON)

    def pin(self, txn: ReadTxn) -> None:
        """From now on show the value that the key has in this snapshot.

        Raises:
            NotFound, Conflict, Corrupt.
        """
        view = self.at.view(txn)
        entry = self.node.entry(view)
        if entry.kind == Kind.PIECES:
            self._body = self._opens.windows(self._pieces(entry))
        else:
            self._body = Scratch(self._opens.budget, bytes(view.load(entry)))
        self.entry = entry

    def _pieces(self, entry: Entry) -> Source:
        instance = self.at.instance

        def fetch(txn: ReadTxn, offset: int, length: int) -> Buffer:
            return b"".join(stream(txn, instance, entry, offset, offset + length))

        return Source(self._opens.engine, fetch, lambda txn: 0)

    def start_empty(self, txn: ReadTxn) -> None:
        """As after O_TRUNC, or for a new key: empty, which counts once it is committed."""
        view = self.at.view(txn)
        with suppress(DvidfsError):  # a conflict may be written over
            self.entry = view.text_entry(self.node.key)
        self.empty()

    def empty(self) -> None:
        self._set_body(Scratch(self._opens.budget))
        self._touch()

    def _set_body(self, body: Scratch | Windows | None) -> None:
        if self._body is not None:
            self._body.close()
        self._body = body

    def _touch(self) -> None:
        self._dirty = True
        self._mtime = time.time_ns()

    # -- reading ---------------------------------------------------------------------------------------------

    def read_now(self, offset: int, length: int) -> Buffer | None:
        if self._body is None:
            self._pin_now()
        return self._body.read(offset, length) if isinstance(self._body, Scratch) else None

    def _pin_now(self) -> None:
        store = self._opens.engine.store
        txn = store.begin()
        try:
            self.pin(txn)
        finally:
            store.end(txn)

    async def read(self, offset: int, length: int) -> Buffer:
        body = self._body
        assert isinstance(body, Windows)
        return await body.read(offset, length)

    # -- writing ---------------------------------------------------------------------------------------------

    async def write(self, offset: int, data: bytes, *, append: bool = False) -> None:
        body = self._body
        if isinstance(body, Scratch) and not body.spilled and not self._lock.locked():
            self._put(body, offset, data, append)
            return
        async with self._lock:
            body = await self._buffer()
            if body.spilled:
                await lane.in_thread(self._put, body, offset, data, append)
            else:
                self._put(body, offset, data, append)

    def _put(self, body: Scratch, offset: int, data: bytes, append: bool) -> None:
        if append and offset != body.size:
            self._opens.notices.pages(self.node.ino)  # the kernel put the bytes elsewhere
            offset = body.size
        body.write(offset, data)
        self._touch()

    async def truncate(self, size: int) -> None:
        async with self._lock:
            if size == 0:
                self.empty()
                return
            body = await self._buffer()
            if size != body.size:
                body.truncate(size)
                self._touch()

    async def _buffer(self) -> Scratch:
        """The value as bytes that can be written; a long one is copied to a temporary file."""
        if self._body is None:
            self._pin_now()
        if isinstance(self._body, Scratch):
            return self._body
        entry = self.entry
        assert entry is not None
        copy = Scratch(self._opens.budget)

        def fill(txn: ReadTxn) -> None:
            offset = 0
            for piece in stream(txn, self.at.instance, entry):
                copy.write(offset, bytes(piece))
                offset += len(piece)

        try:
            await lane.read_in_thread(self._opens.engine, fill)
        except BaseException:
            copy.close()
            raise
        self._set_body(copy)
        return copy

    def set_time(self, mtime: int) -> None:
        """The time that an unsaved buffer will be stored with."""
        self._mtime = mtime

    async def commit(self) -> None:
        if not self._dirty:
            return
        async with self._lock:
            if not self._dirty:
                return
            if self.node.state is State.GONE:
                self._dirty = False
                return
            try:
                entry = await self._store()
            except Exception:
                self._fail()
                raise
            self._dirty = False
            self.entry = entry
            self.node.told = state_of(entry.size, entry.mtime)

    async def _store(self) -> Entry:
        body = self._body
        assert isinstance(body, Scratch)
        if body.size > PIECE:
            return await lane.in_thread(self._store_long, body)
        data = body.read(0, body.size)
        value = prepare(data) if len(data) <= SMALL else await lane.in_thread(prepare, data)
        return await lane.write(self._opens.engine, self._writer(value), len(value.data))

    def _store_long(self, body: Scratch) -> Entry:
        upload = Upload(self._opens.engine.store, self.at.instance)
        for offset in range(0, body.size, PIECE):
            upload.feed(body.read(offset, PIECE))
        return self._opens.engine.write(self._writer(upload.finish()))

    def _writer(self, value: Prepared | Uploaded) -> Callable[[WriteTxn], Entry]:
        tree, key, mtime = self.at.kind.tree, self.node.key, self._mtime
        assert isinstance(tree, Keys)

        def fn(txn: WriteTxn) -> Entry:
            view = self.at.write_view(txn)
            tree.put(view, key, value)
            view.set_time(key, mtime)
            entry = view.text_entry(key)
            assert entry is not None
            return entry

        return fn

    def _fail(self) -> None:
        """Drop what could not be committed, here and in the kernel."""
        self._dirty = False
        self._set_body(None)
        if self.entry is None:
            self.node.state = State.GONE
            self._opens.notices.entry(self.node.home.ino, names.encode(self.node.key))
        self.entry = None
        self._opens.notices.pages(self.node.ino)

    def close(self) -> None:
        self._set_body(None)


class OpenText(OpenFile):
    """A text as it was when it was opened; of those that can be written, what was written."""

    def __init__(self, opens: Opens, node: Text, content: bytes, truncated: bool) -> None:
        super().__init__()
        self.node = node
        self._opens = opens
        self._content = content
        self._truncated = truncated
        self._written: Scratch | None = None
        if truncated and not (isinstance(node, Inbox) and node.appends):
            self._buffer()

    @property
    def unsaved(self) -> bool:
        return self._written is not None

    def read_now(self, offset: int, length: int) -> Buffer | None:
        if self._written is not None and not self._appends:
            return self._written.read(offset, length)
        return self._content[offset : offset + length]

    @property
    def _appends(self) -> bool:
        return isinstance(self.node, Inbox) and self.node.appends

    def _buffer(self) -> Scratch:
        if self._written is None:
            base = b"" if self._truncated or self._appends else self._content
            self._written = Scratch(self._opens.budget, base)
        return self._written

    async def write(self, offset: int, data: bytes, *, append: bool = False) -> None:
        buffer = self._buffer()
        buffer.write(buffer.size if append or self._appends else offset, data)

    async def truncate(self, size: int) -> None:
        if not self._appends:
            self._buffer().truncate(size)

    async def commit(self) -> None:
        buffer, node = self._written, self.node
        if buffer is None or not isinstance(node, Inbox):
            return
        data = buffer.read(0, buffer.size)
        self._written, self._truncated = None, False
        buffer.close()
        await lane.write(self._opens.engine, lambda txn: node.save(txn, data), len(data))
        self._content = await lane.read_in_thread(self._opens.engine, node.render)

    def close(self) -> None:
        if self._written is not None:
            self._written.close()


class OpenMade(OpenFile):
    """A made file as it was when the first of those who have it open opened it."""

    node: MadeFile

    def __init__(self, node: MadeFile, product: Product) -> None:
        super().__init__()
        self.node = node
        self.product = node.opened = product
        product.users += 1

    def read_now(self, offset: int, length: int) -> Buffer | None:
        return self.product.read(offset, length)

    def close(self) -> None:
        self.node.opened = None
        self.product.users -= 1
        self.product.let_go()


class OpenWindows(OpenFile):
    """A computed file: a live view of its instance, written window by window."""

    node: TypeFile

    def __init__(self, opens: Opens, node: TypeFile, size: int) -> None:
        super().__init__()
        self.node = node
        self.size = size
        self._opens = opens
        self._at = node.at

        def fetch(txn: ReadTxn, offset: int, length: int) -> Buffer:
            return node.read(node.at.view(txn), offset, length)

        def quick(txn: ReadTxn, offset: int, length: int) -> Buffer | None:
            view = node.at.view(txn)
            return node.read(view, offset, length) if node.ready(view, offset, length) else None

        self._windows = opens.windows(Source(opens.engine, fetch, lambda txn: node.at.view(txn).stamp(), quick))
        self._written: list[tuple[int, bytearray]] = []
        self._waiting = 0  # bytes of these
        self._committing: list[tuple[int, bytearray]] = []
        self._layout: Hashable = None
        self._lock = trio.Lock()

    def begin_writing(self, txn: ReadTxn) -> None:
        """Somebody opened it to write: what is written from now on stands where the file has it now.

        Raises:
            Stale: others write to it as it was before its layout changed.
        """
        view = self._at.view(txn)
        layout = self.node.layout(view)
        if not self.writers:
            self._layout, self.size = layout, self.node.stat_in(view, 0).size
        elif layout != self._layout:
            raise _moved(view)

    @property
    def unsaved(self) -> bool:
        return bool(self._written)

    async def read(self, offset: int, length: int) -> Buffer:
        data = await self._windows.read(offset, length)
        if not self._written and not self._committing:
            return data
        mixed = bytearray(data)
        for at, piece in (*self._committing, *self._written):
            low, high = max(at, offset), min(at + len(piece), offset + len(mixed))
            if low < high:
                mixed[low - offset : high - offset] = piece[low - at : high - at]
        return memoryview(mixed)

    async def write(self, offset: int, data: bytes, *, append: bool = False) -> None:
        if append or offset + len(data) > self.size:
            raise size_is_fixed()
        if self._written and self._written[-1][0] + len(self._written[-1][1]) == offset:
            self._written[-1][1].extend(data)
        else:
            self._written.append((offset, bytearray(data)))
        self._waiting += len(data)
        if self._waiting >= MAX_WINDOWS:
            await self.commit()

    async def truncate(self, size: int) -> None:
        if size != self.size:
            raise size_is_fixed()

    async def commit(self) -> None:
        async with self._lock:
            if not self._written:
                return
            pieces, size = self._written, self._waiting
            self._committing, self._written, self._waiting = pieces, [], 0

            def fn(txn: WriteTxn) -> None:
                view = self._at.write_view(txn)
                if self.node.layout(view) != self._layout:
                    raise _moved(view)
                self.node.write(view, [(at, memoryview(piece)) for at, piece in pieces])

            try:
                await lane.write(self._opens.engine, fn, size)
            except Exception:
                self._opens.notices.pages(self.node.ino)
                raise
            finally:
                self._committing = []

    def close(self) -> None:
        self._windows.close()
