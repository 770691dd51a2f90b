"""Long bodies in pieces: of answers, and of what waits to be written.

Decides how much is held in memory; what the pieces mean is for others. Invariant: no more than :data:`SPOOL` bytes of a
request that waits for the write lane are held in memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from dvidfs.engine.store import Buffer

K = TypeVar("K")

PIECE = 1 << 20
SPOOL = 128 << 20


def batched(pieces: Iterable[Buffer], size: int = PIECE) -> Iterator[Buffer]:
    """The same bytes in pieces of about ``size``; views are copied before the next one is asked for."""
    held: list[Buffer] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece)
        if count >= size:
            yield b"".join(held)
            held, count = [], 0
    if held:
        yield b"".join(held)


class Spool(Generic[K]):
    """(key, bytes) pairs for later: the first :data:`SPOOL` bytes lie in memory, the rest in an unnamed temporary file.

    It may be gone through any number of times, from any thread.
    """

    def __init__(self, limit: int = SPOOL) -> None:
        self._limit = limit
        self._held: list[tuple[K, bytes]] = []
        self._filed: list[tuple[K, int, int]] = []
        self._file = None
        self.size = 0

    def add(self, key: K, data: bytes) -> None:
        if self.size + len(data) <= self._limit and self._file is None:
            self._held.append((key, data))
        else:
            self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
            self._filed.append((key, self._file.seek(0, os.SEEK_END), len(data)))
            self._file.write(data)
        self.size += len(data)

    def __iter__(self) -> Iterator[tuple[K, bytes]]:
        yield from self._held
        if self._file is not None:
            self._file.flush()
            for key, offset, size in self._filed:
                yield key, os.pread(self._file.fileno(), size, offset)

    def __len__(self) -> int:
        return len(self._held) + len(self._filed)
