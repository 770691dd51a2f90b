"""Long bodies in pieces: of answers, and of what waits to be written.

Decides how much is held in memory; what the pieces mean is for others. Invariant: no more than :data:`SPOOL` bytes of a
request that waits for the write lane are held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from dvidfs.engine.keys import INLINE
from dvidfs.engine.store import Buffer
from dvidfs.engine.values import Prepared, Staged

K = TypeVar("K")

PIECE = 1 << 20
SPOOL = 64 << 20
GROUP = 16 << 20


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
    """(key, payload) pairs for a write to come: in memory as long as they are few, else in the store ahead of it.

    It may be gone through any number of times, from any thread, in the order in which the pairs were added.
    """

    def __init__(self, stage: Callable[[list[Prepared]], list[Staged]], limit: int = SPOOL, group: int = GROUP) -> None:
        """``stage`` puts payloads in the store, about ``group`` bytes at once, as soon as there are more than ``limit``."""
        self._stage = stage
        self._limit = limit
        self._group = group
        self._staged: list[tuple[K, Prepared | Staged]] = []
        self._held: list[tuple[K, Prepared]] = []
        self._bytes = 0
        self.size = 0

    def add(self, key: K, data: bytes) -> None:
        self._held.append((key, Prepared(data, len(data))))
        self._bytes += len(data)
        self.size += len(data)
        if self.size > self._limit and self._bytes >= self._group:
            self._put_by()

    def _put_by(self) -> None:
        """Everything held goes to the store; what an entry holds itself is no burden."""
        held, self._held, self._bytes = self._held, [], 0
        while held:
            count = size = 0
            while count < len(held) and size < self._group:
                size += held[count][1].size
                count += 1
            group, held = held[:count], held[count:]
            staged = iter(self._stage([value for _, value in group if value.size > INLINE]))
            self._staged += [(key, next(staged) if value.size > INLINE else value) for key, value in group]

    def __iter__(self) -> Iterator[tuple[K, Prepared | Staged]]:
        yield from self._staged
        yield from self._held

    def __len__(self) -> int:
        return len(self._staged) + len(self._held)
