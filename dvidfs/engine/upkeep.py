"""The engine's trio service: background jobs are run, and freed pieces swept, until it is cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from dvidfs.engine import jobs

if TYPE_CHECKING:
    from dvidfs.engine.engine import Engine

JOB_SECONDS = 1.0
"""How often waiting jobs of other processes are looked for."""
SWEEP_SECONDS = 300.0


async def run(engine: Engine, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Look after the store until cancelled. A job's step that has begun is finished."""
    engine.closing = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_jobs, engine)
        nursery.start_soon(_run_jobs, engine)
        nursery.start_soon(_sweep, engine)
        task_status.started()


async def _stop_jobs(engine: Engine) -> None:
    """Tell the threads, when the service is cancelled, to stop after their step."""
    try:
        await trio.sleep_forever()
    finally:
        engine.closing = True


async def _run_jobs(engine: Engine) -> None:
    seen = -1
    while True:
        now = engine.store.last_txn()
        if now != seen:
            with engine.store.read() as txn:
                found = jobs.all_jobs(txn)
            # a process that dies writes nothing, so running jobs are looked at again and again
            seen = -1 if any(j.state == "running" for j in found) else now
            if any(map(jobs.waits, found)):
                await trio.to_thread.run_sync(run_waiting, engine)
                continue
        await trio.sleep(JOB_SECONDS)


def run_waiting(engine: Engine) -> None:
    """Run the jobs that wait, in this thread, until there are none."""
    while not engine.closing:
        job = engine.store.write(jobs.claim)
        if job is None:
            return
        jobs.run(engine, job)


async def _sweep(engine: Engine) -> None:
    while True:
        await trio.to_thread.run_sync(jobs.sweep, engine)
        await trio.sleep(SWEEP_SECONDS)
