"""Reading windows of what is made on request: long values, and the computed files of a datatype.

What the source has in memory is answered at once; the rest hops to a worker thread. Random reads make just what was
asked for. A reader that goes on where it stopped gets whole chunks, the next one made while it consumes this one.
Invariant: chunks that are held together were made of one and the same state (``stamp``), so one read never mixes two.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import trio

from dvidfs.engine import Engine, ReadTxn
from dvidfs.engine.store import Buffer
from dvidfs.fuse.lane import read_in_thread
from dvidfs.fuse.scratch import Budget

CHUNK = 4 << 20
KEPT = 4
"""Chunks held for one file."""
SEQUENTIAL = 3
"""Reads in a row after which a reader is taken to be sequential."""


@dataclass(frozen=True)
class Source:
    """Where windows come from: ``fetch(txn, offset, length)`` (short only at the end), ``stamp(txn)`` names the state,
    ``quick(txn, offset, length)``: the window if it is in memory, so that fetching it keeps nobody waiting, else None.
    """

    engine: Engine
    fetch: Callable[[ReadTxn, int, int], Buffer]
    stamp: Callable[[ReadTxn], Hashable]
    quick: Callable[[ReadTxn, int, int], Buffer | None] = lambda txn, offset, length: None


class Windows:
    """One open file's way of reading its source."""

    def __init__(self, source: Source, budget: Budget, nursery: trio.Nursery) -> None:
        self._source = source
        self._budget = budget
        self._nursery = nursery
        self._stamp: Hashable = None
        self._chunks: OrderedDict[int, Buffer] = OrderedDict()
        self._loading: dict[int, trio.Event] = {}
        self._expected = 0
        self._run = 0
        self._looked = -1  # the last chunk from which a look was cast at the next
        self._closed = False

    async def read(self, offset: int, length: int) -> Buffer:
        """A window; fewer bytes only at the end of the file."""
        self._run = self._run + 1 if offset == self._expected else 0
        self._expected = offset + length
        data = self._at_once(offset, length)
        if data is not None:
            return data
        self._refresh()
        if self._run < SEQUENTIAL:
            held = self._held(offset, length)
            return held if held is not None else await self._exact(offset, length)
        return await self._ahead(offset, length)

    def _at_once(self, offset: int, length: int) -> Buffer | None:
        """The window, if the source has it in memory; a look at what a sequential reader will want next."""
        source, store = self._source, self._source.engine.store
        txn = store.begin()
        try:
            data = source.quick(txn, offset, length)
            number = (offset + length) // CHUNK
            if data is not None and self._run >= SEQUENTIAL and number != self._looked:
                self._looked = number
                if source.quick(txn, (number + 1) * CHUNK, 1) is None:
                    self._start(number + 1)
            return data
        finally:
            store.end(txn)

    async def _exact(self, offset: int, length: int) -> Buffer:
        return await read_in_thread(self._source.engine, lambda txn: self._source.fetch(txn, offset, length))

    def _refresh(self) -> None:
        """Let go of chunks that show an older state."""
        store = self._source.engine.store
        txn = store.begin()
        try:
            stamp = self._source.stamp(txn)
        finally:
            store.end(txn)
        if stamp != self._stamp:
            self._drop_all()
            self._stamp = stamp

    def _drop_all(self) -> None:
        self._budget.give(CHUNK * len(self._chunks))
        self._chunks.clear()

    def _held(self, offset: int, length: int) -> Buffer | None:
        """The window out of chunks in memory."""
        first, last = offset // CHUNK, (offset + length - 1) // CHUNK
        pieces = []
        for number in range(first, last + 1):
            chunk = self._chunks.get(number)
            if chunk is None:
                return None
            at = number * CHUNK
            pieces.append(memoryview(chunk)[max(offset - at, 0) : offset + length - at])
            if len(chunk) < CHUNK:
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _ahead(self, offset: int, length: int) -> Buffer:
        first, last = offset // CHUNK, (offset + length - 1) // CHUNK
        for number in range(first, last + 1):
            if number not in self._chunks and not await self._load(number):
                return await self._exact(offset, length)
        if len(self._chunks.get(last, b"")) == CHUNK:
            self._start(last + 1)
        held = self._held(offset, length)
        return held if held is not None else await self._exact(offset, length)

    def _start(self, number: int) -> None:
        """Make a chunk that will be wanted soon."""
        if number not in self._chunks and number not in self._loading and not self._closed:
            self._nursery.start_soon(self._load_ahead, number)

    async def _load_ahead(self, number: int) -> None:
        try:
            await self._load(number)
        except Exception:  # noqa: BLE001 - whoever reads there will meet the error and be told
            return

    async def _load(self, number: int) -> bool:
        """Have a chunk in memory; False if it could not be held."""
        if (event := self._loading.get(number)) is not None:
            await event.wait()
            return number in self._chunks
        if not self._room():
            return False
        event = self._loading[number] = trio.Event()
        kept = False
        try:
            stamp, data = await read_in_thread(self._source.engine, lambda txn: self._chunk(txn, number))
            if stamp == self._stamp and not self._closed:
                self._chunks[number] = data
                kept = True
        finally:
            if not kept:
                self._budget.give(CHUNK)
            del self._loading[number]
            event.set()
        return kept

    def _room(self) -> bool:
        while len(self._chunks) >= KEPT:
            self._chunks.popitem(last=False)
            self._budget.give(CHUNK)
        return self._budget.take(CHUNK)

    def _chunk(self, txn: ReadTxn, number: int) -> tuple[Hashable, Buffer]:
        return self._source.stamp(txn), self._source.fetch(txn, number * CHUNK, CHUNK)

    def close(self) -> None:
        self._closed = True
        self._drop_all()
