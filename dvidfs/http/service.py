"""One HTTP server's ties to the engine: reads inline or in threads, writes through the lane, counters, throttle.

Runs on the server's own asyncio loop. A write that has been queued is finished whatever becomes of the request; a streamed
answer is pulled by worker threads inside one snapshot (:mod:`~dvidfs.http.flows`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dvidfs.engine import Engine, ReadTxn, WriteTxn
from dvidfs.errors import Busy
from dvidfs.http.flows import Answer, Flow, Outflow
from dvidfs.http.options import HttpOptions
from dvidfs.types.base import Content, Registry

T = TypeVar("T")

WORKERS = 8
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
        self.receiving = 0
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
        self._pool.shutdown(wait=True)

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

        Whoever gets a flow must cut it, else its snapshot stays.
        """
        flow = Flow(self.store, self._pool, fn)
        try:
            content = await flow.head
        except BaseException:
            flow.cut()
            raise
        return content, None if flow.whole else flow

    def outflow(self, make: Callable[[ReadTxn], Answer], refuse: Callable[[Exception], Answer]) -> Outflow:
        """A read that worker threads send to the socket themselves."""
        return Outflow(self.store, self._pool, make, refuse, STALLED_SECONDS)

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
