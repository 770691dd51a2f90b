"""An image instance over a store of its own, with its operations called as the adapters call them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dvidfs.engine import Engine, ReadView, WriteView, repos
from dvidfs.types.base import Content, Directory, File
from dvidfs.types.imageblk import files, image_type, requests
from dvidfs.types.imageblk.kinds import KINDS

_numbers = itertools.count()


def body_of(content: Content) -> bytes:
    """A body as it goes out; its stated size is right."""
    body = content.body
    data = bytes(body) if isinstance(body, (bytes, memoryview)) else b"".join(map(bytes, body))
    assert content.size in (None, len(data))
    return data


@dataclass(frozen=True)
class Case:
    """One instance, seen at version ``uuid``."""

    engine: Engine
    uuid: str
    name: str

    @staticmethod
    def new(engine: Engine, typename: str = "uint8blk", compression: str = "lz4", **settings: str) -> Case:
        """A new instance in a repo of its own."""
        name = f"volume{next(_numbers)}"
        configured = image_type(KINDS[typename]).configure({k.lower(): v for k, v in settings.items()})

        def make(txn):
            repo = repos.create_repo(txn, alias=name)
            node = txn.graph.version(repo.uuid)
            repos.create_instance(txn, node, typename, name, compression=compression, settings=configured)
            return repo.uuid

        return Case(engine, engine.write(make), name)

    def at(self, uuid: str) -> Case:
        return replace(self, uuid=uuid)

    # -- versions --------------------------------------------------------------------------------------------

    def commit(self) -> None:
        self.engine.write(lambda txn: repos.commit(txn, txn.graph.version(self.uuid)))

    def child(self, branch: str = "") -> Case:
        """A new open version below this committed one."""

        def make(txn):
            parent = txn.graph.version(self.uuid)
            return (repos.branch(txn, parent, branch) if branch else repos.new_version(txn, parent)).uuid

        return self.at(self.engine.write(make))

    def merge(self, other: Case) -> Case:
        both = [self.uuid, other.uuid]
        return self.at(self.engine.write(lambda txn: repos.merge(txn, repos.find_parents(txn, both))).child.uuid)

    # -- operations ------------------------------------------------------------------------------------------

    def read(self, operation: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """An operation's answer in a snapshot of its own; of a Content the body, of an iterator a list."""
        with self.engine.read() as txn:
            node = txn.graph.version(self.uuid)
            answer = operation(ReadView(txn, node, txn.graph.instance(node, self.name)), *args, **options)
            if isinstance(answer, Iterator):
                return list(answer)
            return body_of(answer) if isinstance(answer, Content) else answer

    def write(self, operation: Callable[..., Any], *args: Any, **options: Any) -> Any:
        def run(txn):
            node = txn.graph.version(self.uuid)
            return operation(WriteView(txn, node, txn.graph.instance(node, self.name)), *args, **options)

        return self.engine.write(run)

    def raw(self, size: str, offset: str, dims: str = "0_1_2", form: str | None = None, roi: str = "") -> bytes:
        return self.read(requests.get_raw, dims, size, offset, form, roi, "")

    def post_raw(
        self, voxels: np.ndarray, offset: tuple[int, int, int], dims: str = "0_1_2", size: str = "", roi: str = ""
    ) -> None:
        """Store voxels (z, y, x) at ``offset`` (x, y, z)."""
        size = size or "_".join(map(str, voxels.shape[::-1]))
        text = "_".join(map(str, offset))
        values = self.read(requests.prepare_raw, dims, size, text, voxels.tobytes(), roi, "", False)
        self.write(requests.post_raw, **values)

    def post_blocks(self, coord: str, span: str, body: bytes) -> None:
        self.write(requests.post_blocks, **self.read(requests.prepare_blocks, coord, span, body, False))

    # -- files -----------------------------------------------------------------------------------------------

    def file(self, path: str) -> tuple[File, list[Any]]:
        """The entry that a path of the tree names, and its parts."""
        entry, parts = files.TREE, []
        for word in path.split("/"):
            assert isinstance(entry, Directory)
            if word in entry.entries:
                entry = entry.entries[word]
                continue
            each, part = next((e, p) for e in entry.each if (p := e.parse(word)) is not None)
            if not self.read(each.has, *parts, part):
                raise FileNotFoundError(path)
            entry, parts = each.entry, [*parts, part]
        assert isinstance(entry, File)
        return entry, parts

    def file_bytes(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        entry, parts = self.file(path)
        size = self.read(entry.size, *parts)
        data = bytes(self.read(entry.read, *parts, offset, size if length is None else length))
        assert len(data) == (size if length is None else max(0, min(length, size - offset)))
        return data

    def write_file(self, path: str, offset: int, data: bytes) -> None:
        entry, parts = self.file(path)
        self.write(entry.write, *parts, [(offset, data)])
