"""The request log: one line a request, formatted and written by a thread of its own so that no request waits for it."""

from __future__ import annotations

import queue
import threading
import time
from pathlib import Path


class RequestLog:
    """Lines of time, method, path, status, bytes, milliseconds, peer. Without a path nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._queue: queue.SimpleQueue[tuple[float, float, str, str, int, int, str] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._path = path
        if path is not None:
            path.open("a").close()  # a log that cannot be written is told at start
            self._thread = threading.Thread(target=self._run, name="request log", daemon=True)
            self._thread.start()

    @property
    def kept(self) -> bool:
        return self._thread is not None

    now = staticmethod(time.perf_counter)

    def add(self, started: float, method: str, target: str, status: int, sent: int, peer: str) -> None:
        if self._thread is not None:
            self._queue.put((time.time(), time.perf_counter() - started, method, target, status, sent, peer))

    def close(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        assert self._path is not None
        with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            while (item := self._queue.get()) is not None:
                when, seconds, method, target, status, sent, peer = item
                stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when))
                file.write(f"{stamp}Z {method} {target} {status} {sent} {seconds * 1000:.1f} {peer}\n")
                if self._queue.empty():
                    file.flush()
