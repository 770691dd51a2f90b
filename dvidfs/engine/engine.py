"""The engine: one open store with what belongs to it in this process, and the trio service that looks after it.

Which threads there are, and who may do what:

* the write lane (:mod:`~dvidfs.engine.store`) runs every write function, one after the other;
* reads run wherever the caller is: inline on an event loop when they are a few keys, else in a worker thread;
* :mod:`~dvidfs.engine.upkeep` is the only trio service: background jobs, the sweep of freed pieces.

No transaction is ever held across an ``await``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from dvidfs.engine import jobs, repos
from dvidfs.engine.graph import Instance, Node, Repo
from dvidfs.engine.store import Durability, ReadTxn, Store, WriteTxn

T = TypeVar("T")


class Engine:
    """An open store. Close it, or use :func:`open_engine`."""

    log = logging.getLogger("dvidfs.engine")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.listings = store.listings
        self.closing = False

    @contextmanager
    def read(self) -> Iterator[ReadTxn]:
        with self.store.read() as txn:
            yield txn

    def write(self, fn: Callable[[WriteTxn], T], size: int = 0) -> T:
        """Run a write and wait for it; not on an event loop (see :meth:`Store.submit`)."""
        return self.store.write(fn, size)

    def close(self) -> None:
        self.closing = True
        self.store.close()

    def delete_instance(self, txn: WriteTxn, instance: Instance, passcode: str = "") -> None:
        """Take an instance out of sight now; its rows are freed in the background."""
        self._free_later(txn, repos.delete_instance(txn, instance, passcode), instance.name)

    def remove_empty_instance(self, txn: WriteTxn, node: Node, instance: Instance) -> None:
        """Take away an instance that was made in this open version and holds nothing.

        Raises:
            NotEmpty: it holds something, or was made elsewhere.
        """
        self._free_later(txn, repos.remove_empty_instance(txn, node, instance), instance.name)

    def delete_repo(self, txn: WriteTxn, repo: Repo, passcode: str = "") -> None:
        names = {i.id: name for name, i in repo.instances.items()}
        for instance in repos.delete_repo(txn, repo, passcode):
            self._free_later(txn, instance, names[instance])

    def _free_later(self, txn: WriteTxn, instance: int, name: str) -> None:
        jobs.add(txn, "free-instance", {"instance": instance}, title=f'free the space of "{name}"')

    def statistics(self) -> dict[str, Any]:
        return {"store": self.store.statistics(), "listings": self.listings.statistics()}

    async def run(self, **given: Any) -> None:
        """Look after the store until cancelled (:func:`dvidfs.engine.upkeep.run`)."""
        from dvidfs.engine import upkeep  # here: a short command runs no service, and needs no trio

        await upkeep.run(self, **given)


@contextmanager
def open_engine(
    path: Path | str, *, durability: Durability = "durable", first_mutation_id: int = 1_000_000_000
) -> Iterator[Engine]:
    """The engine of the store at ``path``, for the length of a ``with``."""
    engine = Engine(Store(Path(path), durability=durability, first_mutation_id=first_mutation_id))
    try:
        yield engine
    finally:
        engine.close()
