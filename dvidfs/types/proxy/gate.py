"""When a server counts as out of reach, and what is asked of it meanwhile.

Decides who may ask: after a failure nobody for :data:`COOLDOWN` seconds, so that requests fail at once instead of waiting for
their deadline one after the other; then a single one, and all once that one has been answered. What failed is for
:mod:`~dvidfs.types.proxy.remote` to tell. Invariant: whoever was let in is let out again, whatever happens.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dvidfs.errors import Unreachable

COOLDOWN = 5.0
"""Seconds."""


class Gate:
    """The way to one server; for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason = ""
        self._until = 0.0
        self._trying = False

    @contextmanager
    def through(self) -> Iterator[None]:
        """Let in, or not.

        Raises:
            Unreachable: the server failed a moment ago, or what is done inside says that it fails.
        """
        mine = self._enter()
        try:
            yield
        except Unreachable as error:
            with self._lock:
                self._reason, self._until = str(error), time.monotonic() + COOLDOWN
            raise
        except Exception:  # it answered, though not with what was wanted
            self._reason = ""
            raise
        else:
            self._reason = ""
        finally:
            if mine:
                self._trying = False

    def _enter(self) -> bool:
        """Whether this is the one that tries again."""
        if not self._reason:
            return False
        with self._lock:
            if not self._reason:
                return False
            if self._trying or time.monotonic() < self._until:
                raise Unreachable(self._reason)
            self._trying = True
            return True


@functools.cache
def gate_of(server: str) -> Gate:
    """The gate to a server; all volumes there share it."""
    return Gate()
