"""A cache of listings: the keys of one instance at one version, with sizes and times.

An entry is right as long as its :meth:`~dvidfs.engine.versions.ReadView.stamp` is: everything older than the view's own version
is committed, and the stamp counts what changed there. The cache holds at most :data:`LIMIT` bytes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from dvidfs.engine import keys

if TYPE_CHECKING:
    import numpy as np

    from dvidfs.engine.versions import ReadView

LIMIT = 128 << 20
PER_KEY = 90
"""About what a key costs in memory: the bytes object, its place in the list, size and time."""


class Listing:
    """Text keys in byte order; ``sizes`` (uint64) and ``mtimes`` (int64, ns) are read when first asked for."""

    def __init__(self, view: ReadView) -> None:
        self.keys = view.text_keys()
        self.memo: dict[str, bytes] = {}
        self._sizes: np.ndarray | None = None
        self._mtimes: np.ndarray | None = None

    def attributes(self, view: ReadView) -> tuple[np.ndarray, np.ndarray]:
        """Sizes and times, one for each key; ``view`` has the stamp that this listing was made with."""
        if self._sizes is None or self._mtimes is None:
            import numpy as np  # here: a short command never needs it

            if self.keys and max(map(len, self.keys)) >= keys.PREFIX // 2:  # long keys may stand in another order
                found = b"".join(e.header() for _, e in view.text_entries())
            else:
                found = view.headers(keys.Family.TEXT)
            entry = np.dtype([("kind", "V8"), ("size", "<u8"), ("mtime", "<i8"), ("ref", "<u8")])  # keys.ENTRY
            table = np.frombuffer(found, entry)
            self._sizes, self._mtimes = table["size"].copy(), table["mtime"].copy()
        return self._sizes, self._mtimes

    def derive(self, name: str, make: Callable[[], bytes]) -> bytes:
        """Bytes made of the keys, kept with them."""
        found = self.memo.get(name)
        if found is None:
            found = self.memo[name] = make()
        return found

    @property
    def cost(self) -> int:
        return PER_KEY * len(self.keys) + sum(map(len, self.memo.values())) + 256


class Listings:
    """Recently used listings, least recently used first; safe to use from several threads."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[int, int, int, int], Listing] = OrderedDict()
        self._cost: dict[tuple[int, int, int, int], int] = {}

    def known(self, view: ReadView) -> Listing | None:
        """The listing, if it is in the cache."""
        stamp = view.stamp()
        with self._lock:
            found = self._held.get(stamp)
            if found is not None:
                self._held.move_to_end(stamp)
            return found

    def of(self, view: ReadView) -> Listing:
        found = self.known(view)
        if found is None:
            found = Listing(view)
            self._keep(view.stamp(), found)
        return found

    def _keep(self, stamp: tuple[int, int, int, int], listing: Listing) -> None:
        cost = 2 * listing.cost  # its keys once more in what is derived from them
        with self._lock:
            for old in [s for s in self._held if s[:2] == stamp[:2]]:
                self._drop(old)
            if cost > self.limit:
                return
            self._held[stamp] = listing
            self._cost[stamp] = cost
            while sum(self._cost.values()) > self.limit:
                self._drop(next(iter(self._held)))

    def _drop(self, stamp: tuple[int, int, int, int]) -> None:
        del self._held[stamp]
        del self._cost[stamp]

    def statistics(self) -> dict[str, int]:
        with self._lock:
            return {"listings": len(self._held), "bytes": sum(self._cost.values()), "limit": self.limit}
