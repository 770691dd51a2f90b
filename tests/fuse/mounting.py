"""Mounts in processes of their own, for tests; run as a script, the process that is started.

Faults: a JSON file ``{"handler": "exception"}`` beside the store makes that handler raise it, inside the wall that
is under test. Nothing outlives the test: the process ends with its parent, and mounts of dead runs are taken away by
the fixtures of all tests (their folders are named as live.py names them).
"""

from __future__ import annotations

import inspect
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
HERE = Path(__file__).resolve().parent


class Mounted:
    """A store mounted by a process of its own. ``path`` is where; ``log`` what the process has said."""

    def __init__(self, store: Path, *, path: Path | None = None, **options: Any) -> None:
        import live

        self.store = store
        self.path = path or Path(tempfile.mkdtemp(prefix=f"{live.MOUNT_PREFIX}{os.getpid()}-"))
        self._options = options
        self._unmount = live.unmount
        self.log_file = store.parent / f"mount-{time.time_ns()}.log"
        self.faults = store.parent / "faults.json"
        self.start()

    def start(self) -> None:
        words = [sys.executable, str(HERE / "mounting.py"), str(self.store), str(self.path), json.dumps(self._options)]
        out = self.log_file.open("ab")
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=out
        )
        out.close()
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], 30)
        line = self.process.stdout.readline() if ready else b""
        if line != b"ready\n":
            self.kill()
            raise AssertionError(f"the mount did not become ready: {self.log}")

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(15)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it as `kill -9` does, and take the mount away."""
        self.die()
        self._unmount(self.path)

    def die(self) -> None:
        """End it as `kill -9` does; the dead mount stays."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def alive(self) -> bool:
        return self.process.poll() is None and os.path.isdir(self.path)

    def __enter__(self) -> Mounted:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


def errno_of(action: Callable[[], object]) -> int:
    """The errno that a call ends with; 0 if it succeeds."""
    try:
        action()
    except OSError as e:
        return e.errno or -1
    return 0


def run(*words: object, **options: Any) -> str:
    """What a program prints; it must succeed."""
    done = subprocess.run(
        [*map(str, words)], capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL, **options
    )
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


# -- the process -------------------------------------------------------------------------------------------------

EXCEPTIONS = {
    "OSError": OSError,
    "KeyError": KeyError,
    "MemoryError": MemoryError,
    "Group": None,
    "AssertionError": AssertionError,
}


def _inject(faults: Path) -> None:
    from dvidfs.fuse.operations import Operations
    from dvidfs.fuse.requests import guarded

    def faulty(handler: Any) -> Any:
        def wanted() -> str | None:
            return json.loads(faults.read_text()).get(handler.__name__) if faults.exists() else None

        async def run(self: Any, *args: Any) -> Any:
            name = wanted()
            if name == "Group":
                raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])
            if name:
                raise EXCEPTIONS[name]("injected")
            return await handler(self, *args)

        run.__name__ = handler.__name__
        return guarded(run)

    for name, handler in inspect.getmembers(Operations):
        if hasattr(handler, "__wrapped__"):
            setattr(Operations, name, faulty(handler.__wrapped__))


async def _serve(store: Path, point: Path, options: dict[str, Any]) -> None:
    import trio
    from fakes import GRID
    from shelf import SHELF

    from dvidfs.engine import open_engine
    from dvidfs.fuse.mount import MountOptions, serve_mount
    from dvidfs.types.base import Registry
    from dvidfs.types.builtin import BUILTIN_TYPES

    if options.pop("inject", False):
        _inject(store.parent / "faults.json")
    with open_engine(store, durability=options.pop("durability", "periodic")) as engine:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)

            async def mount(task_status: trio.TaskStatus[Path]) -> None:
                registry = Registry((*BUILTIN_TYPES, GRID, SHELF))
                await serve_mount(engine, registry, point, MountOptions(**options), task_status=task_status)
                nursery.cancel_scope.cancel()

            await nursery.start(mount)
            print("ready", flush=True)
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                async for _ in signals:
                    nursery.cancel_scope.cancel()


if __name__ == "__main__":
    import logging

    import trio

    logging.basicConfig(level=logging.INFO)
    trio.run(_serve, Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
