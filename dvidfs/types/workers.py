"""Threads for work that releases the GIL: decoding, encoding, copying voxels.

Decides how many there are (one per core) and how work is shared out. Invariant: what runs here waits for nothing else
that runs here, and touches no transaction.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_ALONE = 16
"""So few items are done faster than they are handed over."""


@functools.cache
def pool() -> ThreadPoolExecutor:
    """The threads of this process; made at first use."""
    return ThreadPoolExecutor(shares(), thread_name_prefix="voxels")


@functools.cache
def shares() -> int:
    """Into how many parts work is cut."""
    return os.cpu_count() or 1


def each(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """``work`` of every item, in order; long lists are shared out to all cores."""
    if len(items) <= _ALONE or shares() == 1:
        return [work(item) for item in items]
    step = -(-len(items) // shares())
    parts = [items[at : at + step] for at in range(0, len(items), step)]
    done = [pool().submit(lambda part: [work(item) for item in part], part) for part in parts[1:]]
    first = [work(item) for item in parts[0]]
    return first + [result for future in done for result in future.result()]
