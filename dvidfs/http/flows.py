"""Long answers: read piece by piece from one snapshot by worker threads, at the pace of whoever takes them.

:class:`Outflow` sends what it reads straight to the socket, from the thread that read it (fast lane). :class:`Flow` hands
pieces to a coroutine (aiohttp's side). Both decide when a thread works and when it does not; what is read is for others.

Invariants: a thread never waits for a client that takes nothing: it leaves, and another one goes on when there is room.
One thread at a time touches a snapshot, and whatever happens, it is given back exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from dvidfs.engine.store import Buffer, ReadTxn, Store
from dvidfs.types.base import Content

T = TypeVar("T")

PATIENCE = 0.02
"""Seconds that a thread waits for room in a socket before it leaves the answer until there is some."""
BURST_BYTES = 1 << 20
BURST_PARTS = 512
"""Bytes and buffers handed to the system at once; it takes at most 1024 buffers."""
AHEAD = 2
"""Pieces read before the socket has taken the last ones."""
SMALL = 256 << 10
"""Pieces below this size are joined for the coroutine, to which each costs a wake-up."""


class Snapshot:
    """A read transaction and the iterator that reads in it, for one thread at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._txn: ReadTxn | None = None
        self._pieces: Iterator[Buffer] = iter(())

    def open(self, fn: Callable[[ReadTxn], T]) -> T:
        self._txn = self._store.begin()
        return fn(self._txn)

    def pull(self, pieces: Iterable[Buffer]) -> Iterator[Buffer]:
        """The iterator, closed together with the snapshot."""
        self._pieces = iter(pieces)
        return self._pieces

    def close(self) -> None:
        txn, self._txn = self._txn, None
        if txn is None:
            return
        try:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()
        finally:
            self._store.end(txn)


Ended = Callable[[int, int, BaseException | None], None]
"""Told on the loop how an outflow ended: status, body bytes sent, and the error if that is not all of them."""


class Answer(NamedTuple):
    """What an outflow sends: ``head`` ends with an empty line; ``size`` None: the length is not known, so chunks."""

    status: int
    head: bytes
    body: Buffer | Iterable[Buffer]
    size: int | None


class Outflow:
    """An answer that worker threads read and send; :meth:`start` and :meth:`cut` are called on the loop."""

    def __init__(
        self,
        store: Store,
        pool: Executor,
        make: Callable[[ReadTxn], Answer],
        refuse: Callable[[Exception], Answer],
        stalled: float,
    ) -> None:
        """``refuse`` makes the answer for an error of ``make`` or of the first piece; a client that takes nothing for
        ``stalled`` seconds is given up."""
        self._pool = pool
        self._make = make
        self._refuse = refuse
        self._snapshot = Snapshot(store)
        self._patience = stalled
        self._lock = threading.Lock()
        self._parked = self._cut = False
        self._deadline: asyncio.TimerHandle | None = None
        self._unsent: deque[Buffer] = deque()
        self._status = 0
        self._sent = 0
        self._size: int | None = None
        self._in_chunks = False

    # -- on the loop -----------------------------------------------------------------------------------------

    def start(self, fd: int, done: Ended) -> None:
        """Send to the socket ``fd``, to which nobody else writes until ``done`` is called."""
        self._loop = asyncio.get_running_loop()
        self._done = done
        self._socket = socket.socket(fileno=socket.dup(fd))  # its own: the transport may close the other at any time
        self._socket.settimeout(PATIENCE)
        self._submit(self._open)

    def cut(self) -> None:
        """The connection has gone."""
        with self._lock:
            self._cut = True
            parked, self._parked = self._parked, False
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        if parked:
            self._awake()
            self._submit(self._stop)

    def _park(self) -> None:
        """The socket is full: wait for room without a thread."""
        with self._lock:
            self._parked = not self._cut
        if not self._parked:
            self._submit(self._stop)
            return
        self._loop.add_writer(self._socket.fileno(), self._go_on)
        self._deadline = self._loop.call_later(self._patience, self._give_up)

    def _go_on(self) -> None:
        with self._lock:
            parked, self._parked = self._parked, False
        if parked:
            self._awake()
            self._submit(self._send)

    def _give_up(self) -> None:
        with self._lock:
            parked, self._parked = self._parked, False
        if parked:
            self._awake()
            self._submit(self._stall)

    def _awake(self) -> None:
        self._loop.remove_writer(self._socket.fileno())
        if self._deadline is not None:
            self._deadline.cancel()

    def _submit(self, step: Callable[[], bool]) -> None:
        try:
            self._pool.submit(self._run, step)
        except RuntimeError:  # the server ends, and its threads have
            self._run(self._stop)

    # -- in a thread -----------------------------------------------------------------------------------------

    def _run(self, step: Callable[[], bool]) -> None:
        """One stretch of work; the end of all work, if there is to be no other."""
        error: BaseException | None = None
        try:
            if step():
                self._post(self._park)
                return
        except BaseException as e:  # noqa: BLE001 - the loop is told
            error = e
        try:
            self._snapshot.close()
        except BaseException as e:  # noqa: BLE001 - the loop is told
            error = error or e
        self._unsent.clear()
        with self._lock:
            self._cut = True
            self._socket.close()
        self._post(self._done, self._status, self._sent, error)

    def _post(self, fn: Callable[..., Any], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(fn, *args)

    def _open(self) -> bool:
        if self._cut:
            return self._stop()
        try:
            answer = self._snapshot.open(self._make)
            parts, size = self._begin(answer)
        except Exception as error:  # noqa: BLE001 - what fails at once has a status of its own
            answer = self._refuse(error)
            parts, size = self._begin(answer)
        self._status, self._size, self._in_chunks = answer.status, answer.size, answer.size is None
        self._unsent.append(answer.head)
        self._sent = -len(answer.head)
        self._queue(parts, size)
        return self._send()

    def _begin(self, answer: Answer) -> tuple[list[Buffer], int]:
        body = answer.body
        whole = isinstance(body, (bytes, bytearray, memoryview))
        pieces: Any = (body,) if whole else body
        self._pieces = self._snapshot.pull(pieces)
        return self._next_burst()

    def _next_burst(self) -> tuple[list[Buffer], int]:
        parts, size = [], 0
        for piece in self._pieces:
            if len(piece):
                parts.append(piece)
                size += len(piece)
                if size >= BURST_BYTES or len(parts) >= BURST_PARTS:
                    break
        return parts, size

    def _queue(self, parts: list[Buffer], size: int) -> None:
        if not self._in_chunks:
            self._unsent.extend(parts)
            return
        self._unsent.append(b"%x\r\n" % size)
        self._unsent.extend(parts)
        self._unsent.append(b"\r\n")
        if not size:
            self._in_chunks = False  # that was the end

    def _send(self) -> bool:
        """Send until all has gone, False, or the socket stays full, True."""
        send, unsent = self._socket.sendmsg, self._unsent
        while True:
            while unsent:
                try:
                    count = send(unsent)
                except TimeoutError:
                    return True
                self._sent += count
                _drop(unsent, count)
            parts, size = self._next_burst()
            if not size and not self._in_chunks:
                if self._size not in (None, self._sent):
                    raise RuntimeError(f"an answer of {self._size} bytes had {self._sent}")
                return False
            self._queue(parts, size)

    def _stop(self) -> bool:
        raise ConnectionResetError("the client has gone")

    def _stall(self) -> bool:
        raise TimeoutError(f"the client took nothing for {self._patience:g} s")


def _drop(buffers: deque[Buffer], count: int) -> None:
    """Takes the first ``count`` bytes away."""
    while buffers and count >= len(buffers[0]):
        count -= len(buffers.popleft())
    if count:
        buffers[0] = memoryview(buffers[0])[count:]


class Flow:
    """A read whose answer is taken by a coroutine: whole, or piece by piece."""

    def __init__(self, store: Store, pool: Executor, fn: Callable[[ReadTxn], Content]) -> None:
        self._loop = asyncio.get_running_loop()
        self._pool = pool
        self._fn = fn
        self._snapshot = Snapshot(store)
        self.head: asyncio.Future[Content] = self._loop.create_future()
        self.whole = False
        self._queue: asyncio.Queue[Buffer | BaseException | None] = asyncio.Queue()
        self._lock = threading.Lock()
        self._room = AHEAD
        self._parked = self._cut = False
        self._pieces: Iterator[Buffer] = iter(())
        pool.submit(self._run, self._open)

    # -- on the loop -----------------------------------------------------------------------------------------

    async def __aiter__(self) -> AsyncIterator[Buffer]:
        """The pieces, in order.

        Raises:
            whatever the read raised in its middle.
        """
        while (piece := await self._queue.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
            self._wake(room=1)

    def cut(self) -> None:
        """No more pieces are wanted: the snapshot is given back."""
        self._cut = True
        self._wake(room=1)

    def _wake(self, room: int) -> None:
        with self._lock:
            self._room += room
            parked, self._parked = self._parked, False
        if parked:
            self._pool.submit(self._run, self._pull)

    def _settle(self, content: Content | None, error: BaseException | None) -> None:
        if self.head.done():
            if error is not None:
                self._queue.put_nowait(error)
        elif error is not None:
            self.head.set_exception(error)
        else:
            assert content is not None
            self.head.set_result(content)

    # -- in a thread -----------------------------------------------------------------------------------------

    def _run(self, step: Callable[[], bool]) -> None:
        try:
            if step():
                return
        except BaseException as e:  # noqa: BLE001 - whoever awaits the answer is told
            self._post(self._settle, None, e)
        self._snapshot.close()

    def _open(self) -> bool:
        if self._cut:
            return False
        content = self._snapshot.open(self._fn)
        if isinstance(content.body, (bytes, bytearray, memoryview)):
            self._answer(content, whole=True)
            return False
        self._pieces = self._snapshot.pull(content.body)
        first, second = self._next(), self._next()
        if second is None:  # short after all: one answer with its length
            body = first or b""
            self._answer(replace(content, body=bytes(body), size=len(body)), whole=True)
            return False
        assert first is not None
        self._answer(content, whole=False)
        for piece in (first, second):
            self._post(self._queue.put_nowait, piece)
        self._room -= 2
        return self._pull()

    def _pull(self) -> bool:
        """Hand over pieces while there is room, True, or until there are no more, False."""
        while not self._cut:
            with self._lock:
                if not self._room:
                    self._parked = True
                    return True
                self._room -= 1
            piece = self._next()
            self._post(self._queue.put_nowait, piece)
            if piece is None:
                break
        return False

    def _next(self) -> Buffer | None:
        """The next piece: a large one as it is, small ones joined. None is a view of the map, since a transport may
        keep what it is given beyond the snapshot."""
        held: list[Buffer] = []
        size = 0
        for piece in self._pieces:
            held.append(piece)
            size += len(piece)
            if size >= SMALL:
                break
        if len(held) == 1 and not (isinstance(held[0], memoryview) and held[0].readonly):
            return held[0]
        return b"".join(held) if held else None

    def _answer(self, content: Content, *, whole: bool) -> None:
        self.whole = whole
        self._post(self._settle, content, None)

    def _post(self, fn: Callable[..., Any], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(fn, *args)
