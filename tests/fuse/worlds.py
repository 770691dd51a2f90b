"""Stores with known versions, and what a test sees of one that is mounted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mounting

from dvidfs.engine import Engine, ReadView, Store, WriteTxn, WriteView, open_engine, repos
from dvidfs.engine.values import prepare
from dvidfs.types.base import Keys
from dvidfs.types.builtin import registry


def write(engine: Engine, uuid: str, name: str, values: dict[bytes, bytes | None]) -> None:
    def fn(txn: WriteTxn) -> None:
        node = txn.graph.version(uuid)
        view = WriteView(txn, node, txn.graph.instance(node, name))
        tree = registry()[view.instance.type].tree
        assert isinstance(tree, Keys)
        for key, value in values.items():
            if value is None:
                tree.delete(view, key)
            else:
                tree.put(view, key, prepare(value))

    engine.write(fn)


@dataclass(frozen=True)
class World:
    """A repo `fly`: a committed root with keys, tag `v1` on it, branch `side`, and the open leaf of the trunk."""

    store: Path
    root: str
    side: str
    leaf: str

    def versions(self) -> tuple[str, str, str]:
        return self.root, self.side, self.leaf


def make_world(store: Path) -> World:
    Store.create(store)
    with open_engine(store, durability="periodic") as engine:
        repo = engine.write(lambda t: repos.create_repo(t, alias="fly", description="tests"))
        root = repo.uuid
        engine.write(lambda t: repos.create_instance(t, t.graph.version(root), "keyvalue", "kv"))
        engine.write(lambda t: repos.create_instance(t, t.graph.version(root), "keyvalue", "other"))
        engine.write(lambda t: repos.create_instance(t, t.graph.version(root), "keyvalue", "loose", versioned=False))
        engine.write(lambda t: repos.create_instance(t, t.graph.version(root), "grid", "grid"))
        write(engine, root, "kv", {b"a": b"first\n", b"b": b"second\n", b"deep/er": b"slash\n", b"empty": b""})
        write(engine, root, "loose", {b"l": b"loose\n"})
        engine.write(lambda t: repos.commit(t, t.graph.version(root), note="the beginning"))
        engine.write(lambda t: repos.tag(t, t.graph.version(root), "v1"))
        side = engine.write(lambda t: repos.branch(t, t.graph.version(root), "side")).uuid
        leaf = engine.write(lambda t: repos.new_version(t, t.graph.version(root))).uuid
        write(engine, leaf, "kv", {b"a": b"changed\n", b"b": None})
    return World(store, root, side, leaf)


@dataclass(frozen=True)
class Stage:
    """A world, mounted; `engine` is another process's view of the store: this test's."""

    world: World
    mount: mounting.Mounted
    engine: Engine

    @property
    def fly(self) -> Path:
        return self.mount.path / "fly"

    @property
    def root(self) -> Path:
        """The committed version."""
        return self.fly / self.world.root

    @property
    def leaf(self) -> Path:
        """The open version of the trunk."""
        return self.fly / self.world.leaf

    @property
    def kv(self) -> Path:
        return self.leaf / "kv"

    def value(self, key: bytes, version: str | None = None, name: str = "kv") -> bytes | None:
        """What another process reads."""
        with self.engine.read() as txn:
            node = txn.graph.version(version or self.world.leaf)
            view = ReadView(txn, node, txn.graph.instance(node, name))
            entry = view.text_entry(key)
            return None if entry is None else b"".join(view.stream(entry))


MakeStage = Callable[..., Stage]
