"""How far long work is: one line that renews itself on a terminal, a line now and then elsewhere, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from dvidfs.cli.output import size

TTY_SECONDS = 0.2
LINE_SECONDS = 10.0


class Progress:
    """``total`` and ``done`` in bytes, or in what ``told`` makes text of; ``already`` is what an earlier run has done, which tells
    nothing of the speed."""

    def __init__(
        self,
        what: str,
        total: int,
        *,
        already: int = 0,
        quiet: bool = False,
        told: Callable[[float], str] = size,
    ) -> None:
        self.what = what
        self.total = total
        self.already = already
        self.quiet = quiet
        self._size = told
        self._tty = sys.stderr.isatty()
        self.started = self._told = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    @property
    def rate(self) -> str:
        """``, 123.4 MB/s`` of what this run has done; empty where it was too quick to tell."""
        seconds = self.seconds
        return f", {self._size((self.total - self.already) / seconds)}/s" if seconds >= 1 else ""

    def at(self, done: int) -> None:
        """Tell how far it is, if it is time to."""
        now = time.monotonic()
        if self.quiet or now - self._told < (TTY_SECONDS if self._tty else LINE_SECONDS):
            return
        self._told = now
        speed = (done - self.already) / (now - self.started)
        left = (self.total - done) / speed if speed > 0 else 0
        text = (
            f"{self.what}: {100 * done // max(self.total, 1)} % of {self._size(self.total)}, {self._size(speed)}/s, "
            f"{_duration(left)} left"
        )
        sys.stderr.write(f"\r\033[K{text}" if self._tty else f"{text}\n")
        sys.stderr.flush()

    def end(self) -> None:
        if self._tty and not self.quiet:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
