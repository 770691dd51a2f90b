"""Files whose size is known only once they are made (:class:`dvidfs.types.base.Made`): making, keeping, letting go.

Each is made once, in a worker thread, out of one snapshot, and kept until its tag changes or others need the room: short
ones in memory, long ones in temporary files. A file that is open keeps what it showed when it was opened; once that is
old, its name leads to another inode. Invariants: what is told of a name and what is read under it are one and the same
product; a listing never makes anything.
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import trio

from dvidfs.engine import Engine, ReadTxn, ReadView
from dvidfs.errors import NotFound
from dvidfs.fuse import inodes, lane
from dvidfs.fuse.at import At
from dvidfs.fuse.nodes import FILE, FOREVER, SOON, Named, Node, Stat
from dvidfs.fuse.scratch import Budget, Scratch
from dvidfs.types.base import Made

UNMADE = stat.S_IFREG | 0o440
"""Of a file of unknown size. Nobody is kept from reading it, but GNU tar stores what is empty and readable by all as
empty without opening it."""
MEMORY = 64 << 20
"""Bytes of memory for all that is kept, open or being made; what finds no room goes to a temporary file."""
KEPT_MEMORY = 48 << 20
KEPT_DISK = 1 << 30
KEPT_FILES = 64
"""Temporary files kept though nobody has them open."""
OVERHEAD = 512
"""Bytes of memory that a product costs beside its content."""
MAKERS = trio.CapacityLimiter(4)
"""Costly files that are made at one time, so that threads remain for all else."""


class Product:
    """A made file. ``number`` counts what was made; ``users``: open files that show it."""

    __slots__ = ("_body", "cached", "mtime", "number", "tag", "users")

    def __init__(self, tag: Hashable, mtime: int, body: Scratch, number: int) -> None:
        self.tag = tag
        self.mtime = mtime
        self.number = number
        self.users = 0
        self.cached = False
        self._body = body

    @property
    def size(self) -> int:
        return self._body.size

    @property
    def on_disk(self) -> bool:
        return self._body.spilled

    def read(self, offset: int, length: int) -> bytes:
        return self._body.read(offset, length)

    def let_go(self) -> None:
        """One reason to keep it has ended."""
        if not self.users and not self.cached:
            self._body.close()


class MadeFile(Named):
    """A made file of a datatype's tree. ``home``: the identity of its folder. ``opened``: what it shows to all who have it
    open; ``paged``: the tag of what the kernel has pages of.
    """

    __slots__ = ("_old", "at", "entry", "home", "name", "opened", "paged", "parts")

    def __init__(self, at: At, entry: Made, parts: tuple[Any, ...], home: bytes, name: bytes) -> None:
        Node.__init__(self)
        self.ident = inodes.below(home, name)
        self.home = home
        self.name = name
        self.at = at
        self.entry = entry
        self.parts = parts
        self.opened: Product | None = None
        self.paged: Hashable = None
        self._old = False

    def watched(self) -> int:
        return self.at.instance

    def same(self, other: Node) -> bool:
        return not self._old and super().same(other)

    def current(self, view: ReadView) -> MadeFile:
        """The node that the name leads to now: another one than this where this is open and shows what is old."""
        if self.opened is None or self.opened.tag == self.tag(view):
            return self
        self._old = True
        return self.at.context.inodes.place(MadeFile(self.at, self.entry, self.parts, self.home, self.name))

    def check(self, view: ReadView) -> None:
        """Raises: NotFound if it is not there; the kernel may know the name from before a change."""
        shown = self.entry.shown
        if shown is not None and not shown(view, *self.parts):
            raise NotFound("what this file would show cannot be shown in this way any more")

    def tag(self, view: ReadView) -> Hashable:
        return view.stamp() if self.entry.tag is None else self.entry.tag(view, *self.parts)

    def mtime(self, view: ReadView) -> int:
        return view.modified() if self.entry.mtime is None else self.entry.mtime(view, *self.parts)

    def costly(self, view: ReadView) -> bool:
        return self.entry.costly is not None and self.entry.costly(view, *self.parts)

    def stat(self, txn: ReadTxn) -> Stat:
        view = self.at.view(txn)
        if self.opened is None:
            self.check(view)
        return self.stat_in(view, view.modified())

    def stat_in(self, view: ReadView, modified: int) -> Stat:
        """What is known without making it; if that is nothing, a size of 0 that the kernel is not to keep."""
        product = self.opened or self.at.context.made.held(self, view)
        if product is not None:
            return self.stat_of(product, view)
        return Stat(UNMADE, 0, modified if self.entry.mtime is None else self.mtime(view), 0.0)

    def stat_of(self, product: Product, view: ReadView) -> Stat:
        return Stat(FILE, product.size, product.mtime, FOREVER if view.frozen and not self._old else SOON)


class _Making:
    """A file that is being made. ``error``: what came of it instead."""

    __slots__ = ("done", "error", "tag")

    def __init__(self, tag: Hashable) -> None:
        self.tag = tag
        self.done = trio.Event()
        self.error: Exception | None = None


class Products:
    """The made files of a mount, by identity; the least recently used go first. All but making happens on the loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._budget = Budget(MEMORY)
        self._held: OrderedDict[bytes, Product] = OrderedDict()
        self._making: dict[bytes, _Making] = {}
        self._started = 0
        self._memory = 0
        self._disk = 0
        self._files = 0

    def __contains__(self, ident: bytes) -> bool:
        return ident in self._held

    def held(self, node: MadeFile, view: ReadView) -> Product | None:
        """The file, if it is made and nothing has changed it since."""
        found = self._held.get(node.ident)
        return found if found is not None and found.tag == node.tag(view) else None

    async def stat(self, node: MadeFile) -> Stat:
        """Attributes of the file, which is made for them unless that is costly.

        Raises:
            NotFound, and whatever making it raises.
        """
        with self._engine.read() as txn:
            found, view = node.stat(txn), node.at.view(txn)
            if found.ttl or node.costly(view):
                return found
        product = await self.get(node)
        with self._engine.read() as txn:
            return node.stat_of(product, node.at.view(txn))

    async def get(self, node: MadeFile) -> Product:
        """The file as it is now, or as it was at any moment since this was called; made if need be.

        Raises:
            NotFound, and whatever making it raises.
        """
        before = self._started
        while True:
            with self._engine.read() as txn:
                view = node.at.view(txn)
                node.check(view)
                tag, limiter = node.tag(view), MAKERS if node.costly(view) else lane.THREADS
            found = self._held.get(node.ident)
            if found is not None and (found.tag == tag or found.number > before):
                self._held.move_to_end(node.ident)
                return found
            making = self._making.get(node.ident)
            if making is None:
                return await self._make(node, tag, limiter)
            await making.done.wait()
            if making.error is not None and making.tag == tag:
                raise making.error

    async def _make(self, node: MadeFile, tag: Hashable, limiter: trio.CapacityLimiter) -> Product:
        making = self._making[node.ident] = _Making(tag)
        self._started += 1
        number = self._started
        try:
            product = await lane.read_in_thread(self._engine, lambda txn: self._product(txn, node, number), limiter)
        except Exception as e:
            making.error = e
            raise
        finally:
            del self._making[node.ident]
            making.done.set()
        self._keep(node.ident, product)
        return product

    def _product(self, txn: ReadTxn, node: MadeFile, number: int) -> Product:
        """Runs in a worker thread."""
        view = node.at.view(txn)
        node.check(view)
        tag, mtime, body = node.tag(view), node.mtime(view), Scratch(self._budget)
        try:
            for piece in node.entry.pieces(view, node.parts):
                body.write(body.size, piece)
        except BaseException:
            body.close()
            raise
        return Product(tag, mtime, body, number)

    # -- what is kept ----------------------------------------------------------------------------------------

    def _keep(self, ident: bytes, product: Product) -> None:
        if ident in self._held:
            self._drop(ident)
        product.cached = True
        self._held[ident] = product
        self._count(product, 1)
        while len(self._held) > 1 and self._crowded():
            self._drop(next(iter(self._held)))

    def _drop(self, ident: bytes) -> None:
        product = self._held.pop(ident)
        self._count(product, -1)
        product.cached = False
        product.let_go()

    def _crowded(self) -> bool:
        return self._memory > KEPT_MEMORY or self._disk > KEPT_DISK or self._files > KEPT_FILES

    def _count(self, product: Product, sign: int) -> None:
        self._memory += sign * (OVERHEAD if product.on_disk else OVERHEAD + product.size)
        if product.on_disk:
            self._disk += sign * product.size
            self._files += sign

    def clear(self) -> None:
        """Let go of all that nobody has open."""
        for ident in list(self._held):
            self._drop(ident)

    def statistics(self) -> dict[str, int]:
        return {"count": len(self._held), "memory": self._memory, "disk": self._disk, "made": self._started}
