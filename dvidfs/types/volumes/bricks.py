"""A volume as the bytes of one long file, in bricks that are decoded as a whole and kept.

Decides how a byte range of the voxels (C order: z slowest) falls into bricks, and which bricks stay in memory. A brick is
a layer of blocks, or as many of its rows as :data:`BRICK_BYTES` allow, so that reading plane after plane decodes each
block once. Where a whole layer would not fit the cache, ranges are read straight from the blocks. Invariant: a brick is kept under the
stamp of its view, which changes with the voxels, so a kept brick is never wrong.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from dvidfs.engine.store import Store
from dvidfs.types.geometry import Box, Point, span

BRICK_BYTES = 16 << 20
CACHE_BYTES = 160 << 20
PICTURE_BYTES = 32 << 20
SHAPES = 4096
TOUCHES = 1024
GHOSTS = 32
"""Values that were let go last are remembered by name, so many at most."""
HAUNTS = 64
"""How often such a value is asked for before it is made again."""


@dataclass(frozen=True)
class Run:
    """Bytes that follow each other in the file and in a brick: ``count`` bytes at ``offset`` of brick ``number``."""

    number: tuple[int, int]
    offset: int
    count: int


@dataclass(frozen=True)
class Bricks:
    """How the file of a box of voxels is cut: ``number`` of a brick is (layer of blocks, group of rows of blocks)."""

    box: Box
    block: Point
    item: int

    @cached_property
    def row(self) -> int:
        return self.box.size[0] * self.item

    @cached_property
    def plane(self) -> int:
        return self.row * self.box.size[1]

    @cached_property
    def size(self) -> int:
        """Bytes of the file."""
        return self.plane * self.box.size[2]

    @cached_property
    def height(self) -> int:
        """Rows of voxels in a brick: whole blocks, and all rows if they fit."""
        one = self.row * self.block[1] * self.block[2]
        rows = max(1, BRICK_BYTES // one) * self.block[1]
        return rows if rows < self.box.size[1] else self.box.size[1] + self.block[1]

    @property
    def layer_bytes(self) -> int:
        return self.plane * self.block[2]

    def brick(self, number: tuple[int, int]) -> Box:
        """The voxels of a brick."""
        layer, group = number
        (x, y, z), (x1, y1, z1) = self.box.offset, self.box.stop
        floor = y - y % self.block[1]
        low = x, max(y, floor + group * self.height), max(z, layer * self.block[2])
        high = x1, min(y1, floor + (group + 1) * self.height), min(z1, (layer + 1) * self.block[2])
        return span(low, high)

    def bytes(self, number: tuple[int, int]) -> int:
        return self.brick(number).volume * self.item

    def runs(self, start: int, stop: int) -> Iterator[Run]:
        """The byte range [start, stop) of the file as runs within bricks, in order."""
        floor = self.box.offset[1] - self.box.offset[1] % self.block[1]
        while start < stop:
            z, in_plane = divmod(start, self.plane)
            z, y = z + self.box.offset[2], in_plane // self.row + self.box.offset[1]
            number = z // self.block[2], (y - floor) // self.height
            brick = self.brick(number)
            flat = (
                (z - brick.offset[2]) * brick.size[1] * self.row
                + in_plane
                - (brick.offset[1] - self.box.offset[1]) * self.row
            )
            planes = brick.size[2] if brick.size[1] == self.box.size[1] else z - brick.offset[2] + 1
            count = min(planes * brick.size[1] * self.row - flat, stop - start)
            if self.row > BRICK_BYTES:  # what no cache holds is read for itself: never a row besides
                count = min(count, self.row - flat % self.row)
            yield Run(number, flat, count)
            start += count


# ---------------------------------------------------------------- the cache


class Cache:
    """Values made once and kept until ``limit`` bytes are exceeded, the least recently used go first; for many threads.

    Whoever asks for a value that another thread is making waits for it.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.used = 0
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, Future[memoryview]] = OrderedDict()
        self._touched: OrderedDict[Hashable, None] = OrderedDict()
        self._ghosts: OrderedDict[Hashable, int] = OrderedDict()
        self._shapes: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], memoryview]) -> memoryview:
        with self._lock:
            future = self._held.get(key)
            if future is not None:
                self._held.move_to_end(key)
                mine = None
            else:
                mine = self._held[key] = Future()
        return self._make(key, make, mine) if mine is not None else future.result()  # type: ignore[union-attr]

    def _make(self, key: Hashable, make: Callable[[], memoryview], mine: Future[memoryview]) -> memoryview:
        try:
            made = make()
        except BaseException as error:
            with self._lock:
                self._held.pop(key, None)
            mine.set_exception(error)
            raise
        mine.set_result(made)
        self._shrink(made)
        return made

    def has(self, key: Hashable) -> bool:
        """Whether a value is there already."""
        future = self._held.get(key)
        return future is not None and future.done()

    def touch(self, key: Hashable) -> bool:
        """Whether it was touched not long ago; it counts as touched from now on."""
        with self._lock:
            if key in self._touched:
                return True
            self._touched[key] = None
            if len(self._touched) > TOUCHES:
                self._touched.popitem(last=False)
            return False

    def thrashes(self, key: Hashable) -> bool:
        """Whether a value was let go so lately that making it again would only drive out others that are in use."""
        with self._lock:
            left = self._ghosts.get(key, 0)
            if not left:
                return False
            if left == 1:
                del self._ghosts[key]
            else:
                self._ghosts[key] = left - 1
            return True

    def shape(self, stamp: Hashable, look: Callable[[], Any]) -> Any:
        """Something small that is found by ``look`` and stands as long as a stamp."""
        found = self._shapes.get(stamp)
        if found is None:
            if len(self._shapes) >= SHAPES:
                self._shapes.clear()
            found = self._shapes[stamp] = look()
        return found

    def _shrink(self, made: memoryview) -> None:
        with self._lock:
            self.used += made.nbytes
            for key, future in list(self._held.items()):
                if self.used <= self.limit:
                    return
                if future.done():
                    del self._held[key]
                    self.used -= future.result().nbytes
                    self._ghosts[key] = HAUNTS
                    if len(self._ghosts) > GHOSTS:
                        self._ghosts.popitem(last=False)


_caches: WeakKeyDictionary[Store, dict[str, Cache]] = WeakKeyDictionary()


def cache_of(store: Store, what: str = "bricks") -> Cache:
    """The bricks, or the pictures, of a store that this process keeps; gone when the store is."""
    found = _caches.get(store)
    if found is None:
        found = _caches.setdefault(store, {"bricks": Cache(), "pictures": Cache(PICTURE_BYTES)})
    return found[what]
