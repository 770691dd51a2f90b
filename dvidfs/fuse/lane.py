"""From the loop to the write lane and to worker threads, and back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import trio

from dvidfs.engine import Engine, ReadTxn, WriteTxn

T = TypeVar("T")

THREADS = trio.CapacityLimiter(16)
"""Worker threads of the mount at one time."""


async def write(engine: Engine, fn: Callable[[WriteTxn], T], size: int = 0) -> T:
    """Run a write in the lane and wait for its commit, which is finished even if the caller is cancelled."""
    token, done = trio.lowlevel.current_trio_token(), trio.Event()
    box: list[Any] = []

    def deliver(result: Any, error: BaseException | None) -> None:
        box.extend((result, error))
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    engine.store.submit(fn, deliver, size)
    with trio.CancelScope(shield=True):
        await done.wait()
    if box[1] is not None:
        raise box[1]
    return box[0]


async def in_thread(fn: Callable[..., T], *args: Any, limiter: trio.CapacityLimiter = THREADS) -> T:
    """Run what takes long in a worker thread, to its end."""
    return await trio.to_thread.run_sync(fn, *args, limiter=limiter)  # not abandoned on cancellation


async def read_in_thread(engine: Engine, fn: Callable[[ReadTxn], T], limiter: trio.CapacityLimiter = THREADS) -> T:
    """Run a long read in a worker thread, in a snapshot of its own."""

    def run() -> T:
        with engine.read() as txn:
            return fn(txn)

    return await in_thread(run, limiter=limiter)
