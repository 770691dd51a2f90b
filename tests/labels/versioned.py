"""Random version graphs over one engine, and a plain memory of the rows that were written at each version.

Decides how graphs grow (children, branches, merges) and what is seen where; what rows mean is for the tests. Invariant: the
memory is changed only after the engine has said that a write is committed.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from dvidfs.engine import Engine, ReadView, WriteTxn, WriteView, repos
from dvidfs.engine.store import ReadTxn
from dvidfs.engine.versions import Caller

T = TypeVar("T")
ADMINISTRATOR = Caller(privileged=True)


class Failed(Exception):
    """Raised on purpose by a write that shall leave nothing behind."""


class Versions:
    """One instance in a repo of its own. ``parents`` by version id; ``open``: those that can be written."""

    def __init__(self, engine: Engine, kind: str = "keyvalue", settings: dict[str, Any] | None = None) -> None:
        self.engine = engine

        def make(txn: WriteTxn) -> tuple[str, int]:
            repo = repos.create_repo(txn)
            node = repo.nodes[repo.root]
            repos.create_instance(txn, node, kind, "data", settings=settings or {})
            return node.uuid, node.id

        uuid, root = engine.write(make)
        self.uuids = {root: uuid}
        self.parents: dict[int, tuple[int, ...]] = {root: ()}
        self.open = {root}

    # -- seeing ------------------------------------------------------------------------------------------------------

    def view(self, txn: ReadTxn, version: int) -> ReadView:
        node = txn.graph.version(self.uuids[version])
        return ReadView(txn, node, txn.graph.instance(node, "data"))

    def write_view(self, txn: WriteTxn, version: int) -> WriteView:
        node = txn.graph.version(self.uuids[version])
        return WriteView(txn, node, txn.graph.instance(node, "data"), ADMINISTRATOR)

    def read(self, version: int, look: Callable[[ReadView], T]) -> T:
        with self.engine.read() as txn:
            return look(self.view(txn, version))

    def write(self, version: int, change: Callable[[WriteView], T]) -> T:
        """``version`` may be committed: it is an administrator who writes."""
        return self.engine.write(lambda txn: change(self.write_view(txn, version)))

    def line(self, version: int) -> list[int]:
        """A version and all before it, the newest first."""
        found, todo = set[int](), [version]
        while todo:
            at = todo.pop()
            if at not in found:
                found.add(at)
                todo += self.parents[at]
        return sorted(found, reverse=True)

    # -- growing -----------------------------------------------------------------------------------------------------

    def commit(self, version: int) -> None:
        if version in self.open:
            self.engine.write(lambda txn: repos.commit(txn, txn.graph.version(self.uuids[version])))
            self.open.remove(version)

    def child(self, version: int) -> int:
        self.commit(version)
        name = f"branch-{len(self.parents)}"
        return self._begun(
            self.engine.write(lambda txn: repos.branch(txn, txn.graph.version(self.uuids[version]), name)), (version,)
        )

    def merge(self, *parents: int, strict: bool = False) -> tuple[int, dict[str, Any]]:
        """The child, and the conflicts that are listed."""
        for version in parents:
            self.commit(version)

        def run(txn: WriteTxn) -> repos.Merged:
            return repos.merge(txn, [txn.graph.version(self.uuids[p]) for p in parents], strict=strict)

        merged = self.engine.write(run)
        return self._begun(merged.child, parents), merged.conflicts

    def _begun(self, node: Any, parents: tuple[int, ...]) -> int:
        self.uuids[node.id], self.parents[node.id] = node.uuid, parents
        self.open.add(node.id)
        return node.id

    def grow(self, chance: random.Random, most: int = 8) -> None:
        """A child of some version, or a merge of some that do not come one after the other."""
        if len(self.parents) >= most:
            return
        chosen = chance.sample(list(self.parents), min(len(self.parents), chance.choice([1, 1, 2, 2, 3])))
        apart = [a for a in chosen if not any(a in self.line(b) for b in chosen if b != a)]
        if len(apart) > 1:
            self.merge(*apart)
        else:
            self.child(chosen[0])

    # -- groups ------------------------------------------------------------------------------------------------------

    def together(self, changes: list[Callable[[WriteTxn], Any]]) -> list[Any]:
        """Writes that the lane finds queued at once, so that it runs them as a group: a result or an error of each."""
        waiting, done = threading.Event(), threading.Event()
        out: list[Any] = [None] * len(changes)
        left = [len(changes)]

        def deliver(i: int) -> Callable[[Any, BaseException | None], None]:
            def told(result: Any, error: BaseException | None) -> None:
                out[i] = error if error is not None else result
                left[0] -= 1
                if not left[0]:
                    done.set()

            return told

        self.engine.store.submit(lambda txn: waiting.wait(10), lambda *_: None)
        for i, change in enumerate(changes):
            self.engine.store.submit(change, deliver(i))
        waiting.set()
        assert done.wait(30)
        return out
