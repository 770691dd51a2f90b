"""What is put together from the store and kept: up to a stated number of bytes, the least recently used goes first.

Decides only what stays. Invariant: a key names everything that its value depends on, so what is kept is never wrong; what was
made of a write transaction is not kept.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from dvidfs.engine.store import Store, WriteTxn
from dvidfs.engine.versions import ReadView

T = TypeVar("T")
_COST = 200
"""About what an entry costs beside its value."""


class Held:
    """Values by key, for each open store; for any number of threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._stores: WeakKeyDictionary[Store, OrderedDict[Hashable, Any]] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._used: WeakKeyDictionary[Store, int] = WeakKeyDictionary()

    def get(self, view: ReadView, key: Hashable, make: Callable[[], T]) -> T:
        store = view.txn.store
        found = self.peek(store, key)
        if found is None:
            found = make()
            if not isinstance(view.txn, WriteTxn):
                self.keep(store, key, found)
        return found

    def peek(self, store: Store, key: Hashable) -> Any:
        """What is kept, or None."""
        held = self._stores.get(store)
        found = None if held is None else held.get(key)
        if found is not None:
            with self._lock:
                if key in held:  # type: ignore[operator] # found, so there is one
                    held.move_to_end(key)  # type: ignore[union-attr]
        return found

    def keep(self, store: Store, key: Hashable, value: Any) -> None:
        cost = _cost(value)
        if cost > self.limit // 2:
            return
        with self._lock:
            held = self._stores.setdefault(store, OrderedDict())
            used = self._used.get(store, 0)
            if key not in held:
                used += cost
            held[key] = value
            while used > self.limit:
                used -= _cost(held.popitem(last=False)[1])
            self._used[store] = used

    def used(self, store: Store) -> int:
        """Bytes that are kept of a store."""
        return self._used.get(store, 0)


def _cost(value: Any) -> int:
    size = getattr(value, "nbytes", None)
    if size is None:
        size = sum(getattr(part, "nbytes", 0) or sys.getsizeof(part) for part in value)
    return int(size) + _COST
