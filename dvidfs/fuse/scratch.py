"""Bytes that are being written or are held for an open file: in memory while there is room, else in a temporary file.

Invariant: all scratches of one budget together keep at most its limit in memory, each at most :data:`IN_MEMORY`.
"""

from __future__ import annotations

import os
import tempfile
import threading
from typing import IO

IN_MEMORY = 1 << 20
"""A longer scratch lies in a temporary file."""


class Budget:
    """A number of bytes of memory that several share, also from several threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Whether there was room for so many more."""
        with self._lock:
            if self.used + count > self.limit:
                return False
            self.used += count
            return True

    def give(self, count: int) -> None:
        with self._lock:
            self.used -= count


class Scratch:
    """Random-access bytes. Close it."""

    __slots__ = ("_budget", "_data", "_file", "_taken", "size")

    def __init__(self, budget: Budget, data: bytes = b"") -> None:
        self._budget = budget
        self._data: bytes | bytearray = data
        self._file: IO[bytes] | None = None
        self._taken = 0
        self.size = len(data)
        self._fit(len(data))

    @property
    def spilled(self) -> bool:
        return self._file is not None

    def _fit(self, size: int) -> None:
        """Take room for ``size`` bytes in memory, or move to a file."""
        if self._file is not None or size <= self._taken:
            return
        if size <= IN_MEMORY and self._budget.take(size - self._taken):
            self._taken = size
            return
        self._file = tempfile.TemporaryFile(prefix="dvidfs-", buffering=0)  # noqa: SIM115 - lives as long as this
        _write_all(self._file.fileno(), 0, self._data)
        self._data = b""
        self._budget.give(self._taken)
        self._taken = 0

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset``, fewer at the end."""
        if self._file is None:
            return bytes(self._data[offset : offset + length])
        return os.pread(self._file.fileno(), max(0, min(length, self.size - offset)), offset)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if not data:
            return
        end = offset + len(data)
        self._fit(max(end, self.size))
        if self._file is not None:
            _write_all(self._file.fileno(), offset, data)
        else:
            own = self._mutable()
            if offset > len(own):
                own.extend(bytes(offset - len(own)))
            own[offset:end] = data
        self.size = max(self.size, end)

    def truncate(self, size: int) -> None:
        """Cut off, or lengthen with zeros."""
        self._fit(size)
        if self._file is not None:
            os.ftruncate(self._file.fileno(), size)
        elif size < self.size:
            del self._mutable()[size:]
        else:
            self._mutable().extend(bytes(size - self.size))
        self.size = size

    def _mutable(self) -> bytearray:
        if not isinstance(self._data, bytearray):
            self._data = bytearray(self._data)
        return self._data

    def close(self) -> None:
        self._budget.give(self._taken)
        self._taken = 0
        self._data = b""
        if self._file is not None:
            self._file.close()
            self._file = None
        self.size = 0


def _write_all(fd: int, offset: int, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done
