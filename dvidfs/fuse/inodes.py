"""Which inode number a thing has, and what the kernel knows now.

Numbers are 64-bit hashes of (version UUID, data UUID, path), so they are the same after a remount and on every machine.
Where two things that the kernel knows now would share one (a collision, or a name that was replaced while its old
file is open), the later takes the next free number and keeps it until it is forgotten. Invariant: the table holds
exactly what the kernel has looked up and not yet forgotten, at most some 300 bytes a name.

Only the loop's thread changes the table; other threads may read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from dvidfs.fuse.nodes import Node

ROOT = 1
MASK = (1 << 64) - 1

N = TypeVar("N", bound="Node")


def identity(*parts: str | bytes) -> bytes:
    """An unambiguous byte string of these parts."""
    raw = [p.encode(errors="surrogateescape") if isinstance(p, str) else p for p in parts]
    return b"".join(len(p).to_bytes(2, "big") + p for p in raw)


def below(ident: bytes, name: bytes) -> bytes:
    """The identity of what has this name in a folder: ``identity`` of the folder's parts and the name."""
    return ident + len(name).to_bytes(2, "big") + name


def number(ident: bytes) -> int:
    """The inode number that a thing has where nothing else is in its way."""
    found = int.from_bytes(blake2b(ident, digest_size=8).digest(), "little")
    return found if found > ROOT else found + 2


class Inodes:
    """What the kernel knows, by inode number."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.watched: dict[int, set[Node]] = {}
        """Known folders and computed files by instance id: a change of the instance concerns them all."""
        self.moved: dict[bytes, int] = {}
        """Numbers of those that stand elsewhere than their identity says."""

    def __len__(self) -> int:
        return len(self.nodes)

    def get(self, ino: int) -> Node | None:
        return self.nodes.get(ino)

    def place(self, node: N) -> N:
        """The known node that is the same thing, else ``node`` itself with its number set."""
        if self.moved:
            at = self.moved.get(node.identity())
            known = None if at is None else self.nodes.get(at)
            if known is not None and known.same(node):
                return known  # type: ignore[return-value] # the same thing has the same class
        ino = node.number()
        known = self.nodes.get(ino)
        if known is None:
            node.ino = ino
            return node
        if known.same(node):
            return known  # type: ignore[return-value]
        return self._beside(node, ino)

    def _beside(self, node: N, ino: int) -> N:
        while ino in self.nodes or ino <= ROOT:
            ino = (ino + 1) & MASK
        node.ino = ino
        self.moved[node.identity()] = ino
        return node

    def known(self, ident: bytes, at: int) -> int:
        """The number by which the kernel knows a thing, 0 if it does not. ``at``: the one that it would have.

        For other threads: it changes nothing.
        """
        moved = self.moved.get(ident)
        if moved is not None and moved in self.nodes:
            return moved
        node = self.nodes.get(at)
        return at if node is not None and node.identity() == ident else 0

    def remember(self, node: Node) -> None:
        """The kernel has been told of it once more."""
        node.lookups += 1
        if node.lookups == 1:
            self.nodes[node.ino] = node
            if instance := node.watched():
                self.watched.setdefault(instance, set()).add(node)

    def forget(self, pairs: Sequence[tuple[int, int]]) -> None:
        """The kernel takes back (inode, times)."""
        for ino, times in pairs:
            node = self.nodes.get(ino)
            if node is None:
                continue
            node.lookups -= times
            if node.lookups <= 0 and ino != ROOT:
                del self.nodes[ino]
                self._drop(node)

    def renamed(self, node: Node, old: bytes) -> None:
        """A known node stands for another name now: it keeps its number. ``old``: the identity it had."""
        if self.moved.get(old) == node.ino:
            del self.moved[old]
        if node.number() != node.ino:
            self.moved[node.identity()] = node.ino

    def _drop(self, node: Node) -> None:
        if instance := node.watched():
            self.watched[instance].discard(node)
            if not self.watched[instance]:
                del self.watched[instance]
        if self.moved:
            ident = node.identity()
            if self.moved.get(ident) == node.ino:
                del self.moved[ident]
