"""One HTTP server's ties to the engine: reads inline or in threads, writes through the lane, counters, throttle.

Runs on the server's own asyncio loop. A write that has been queued is finished whatever becomes of the request; a streamed
answer is pulled by one worker thread inside one snapshot, two pieces ahead of the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from dvidfs.engine import Engine, ReadTxn, WriteTxn
from dvidfs.engine.store import Buffer
from dvidfs.errors import Busy, Timeout
from dvidfs.http.options import HttpOptions
from dvidfs.types.base import Content, Registry

T = TypeVar("T")

WORKERS = 8
AHEAD = 2
STALLED_SECONDS = 60.0
"""A client that takes nothing for so long is cut: the snapshot that it holds keeps old pages alive."""

log = logging.getLogger("dvidfs.http")


@dataclass
class Counters:
    """What ``/api/load`` tells; plain numbers, each written by one thread."""

    gets: int = 0
    puts: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    active: int = 0
    started: float = field(default_factory=time.monotonic)


class Service:
    """Engine, datatypes and options of one HTTP server."""

    def __init__(self, engine: Engine, registry: Registry, options: HttpOptions) -> None:
        self.engine = engine
        self.store = engine.store
        self.registry = registry
        self.options = options
        self.counters = Counters()
        self.stopping = False
        self.max_throttled = options.max_throttled
        self._throttled = 0
        self._warned: set[str] = set()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="http worker")
        self.loop: asyncio.AbstractEventLoop | None = None

    def warn_once(self, text: str) -> None:
        """A line in the log, the first time only."""
        if text not in self._warned and len(self._warned) < 1000:
            self._warned.add(text)
            log.warning(text)

    def log_bug(self, error: BaseException, what: str) -> None:
        """Our own fault: the traceback goes to the log."""
        log.error("%s failed", what, exc_info=error)

    async def quiet(self, seconds: float) -> None:
        """Wait until no request is being answered, at most so long: once closing, aiohttp drops the rest of a body."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.counters.active:
                    await asyncio.sleep(0.01)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    # -- reading ---------------------------------------------------------------------------------------------

    def read_now(self, fn: Callable[[ReadTxn], T]) -> T:
        """A short read on this thread."""
        txn = self.store.begin()
        try:
            return fn(txn)
        finally:
            self.store.end(txn)

    async def in_thread(self, fn: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, fn, *args)

    async def read_in_thread(self, fn: Callable[[ReadTxn], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: self.read_now(fn))

    async def stream(self, fn: Callable[[ReadTxn], Content]) -> tuple[Content, Flow | None]:
        """Run a read that may give a long answer: its content, and the pieces if it was not whole at once.

        Whoever gets a flow must cut it, else its thread waits.
        """
        flow = Flow(asyncio.get_running_loop(), self.store, fn)
        self._pool.submit(flow.run)
        try:
            content = await flow.head
        except BaseException:
            flow.cut()
            raise
        return content, None if flow.whole else flow

    # -- writing ---------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[[WriteTxn], T], size: int = 0) -> asyncio.Future[T]:
        """Queue a write; the future is done when it is committed. Cancelling the future does not undo the write."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if answer.cancelled():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(result)

        def deliver(result: Any, error: BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, result, error)

        self.store.submit(fn, deliver, size)
        return answer

    async def write(self, fn: Callable[[WriteTxn], T], size: int = 0) -> T:
        return await asyncio.shield(self.submit(fn, size))

    # -- throttling ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def throttle(self) -> Iterator[None]:
        """One of the few heavy calls that asked for it.

        Raises:
            Busy: too many of them are running.
        """
        limit = self.max_throttled
        if self._throttled >= limit:
            raise Busy(f"Server already running {self._throttled} throttled operations (max = {limit})")
        self._throttled += 1
        try:
            yield
        finally:
            self._throttled -= 1


class Flow:
    """A streamed read: a worker thread runs it in one snapshot and waits for the socket between pieces."""

    def __init__(self, loop: asyncio.AbstractEventLoop, store: Any, fn: Callable[[ReadTxn], Content]) -> None:
        self.loop = loop
        self.store = store
        self.fn = fn
        self.head: asyncio.Future[Content] = loop.create_future()
        self.whole = False
        self._queue: asyncio.Queue[Buffer | BaseException | None] = asyncio.Queue()
        self._room = threading.Semaphore(AHEAD - 2)  # the first two are sent without asking
        self._cut = False

    def run(self) -> None:
        try:
            with self.store.read() as txn:
                content = self.fn(txn)
                if isinstance(content.body, (bytes, bytearray, memoryview)):
                    self._answer(content, whole=True)
                    return
                self._pull(content, iter(content.body))
        except BaseException as e:  # noqa: BLE001 - whoever awaits the answer is told
            self._fail(e)

    def _pull(self, content: Content, pieces: Iterator[Buffer]) -> None:
        first = next(pieces, b"")
        second = next(pieces, None)
        if second is None:  # short after all: one answer with its length
            self._answer(replace(content, body=first, size=len(first)), whole=True)
            return
        self._answer(content, whole=False)
        for piece in (first, second):
            self._send(piece)
        for piece in pieces:
            if self._cut:
                return
            if not self._room.acquire(timeout=STALLED_SECONDS):
                raise Timeout(f"the client took nothing for {STALLED_SECONDS:g} s")
            self._send(piece)
        self._post(self._queue.put_nowait, None)

    def _send(self, piece: Buffer) -> None:
        self._post(self._queue.put_nowait, piece)

    def _answer(self, content: Content, *, whole: bool) -> None:
        self.whole = whole
        self._post(self._settle, content, None)

    def _fail(self, error: BaseException) -> None:
        self._post(self._settle, None, error)

    def _settle(self, content: Content | None, error: BaseException | None) -> None:
        if self.head.done():
            if error is not None:
                self._queue.put_nowait(error)
        elif error is not None:
            self.head.set_exception(error)
        else:
            assert content is not None
            self.head.set_result(content)

    def _post(self, fn: Callable[..., Any], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(fn, *args)

    async def __aiter__(self) -> AsyncIterator[Buffer]:
        """The pieces, in order.

        Raises:
            whatever the read raised in its middle.
        """
        while (piece := await self._queue.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
            self._room.release()

    def cut(self) -> None:
        """No more pieces are wanted: the thread ends, and gives its snapshot back."""
        self._cut = True
        self._room.release()
