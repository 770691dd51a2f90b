"""Making and keeping files of unknown size, without a mount; what other adapters see of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from dvidfs.engine import Engine
from dvidfs.errors import Corrupt, NotFound
from dvidfs.fuse import made
from dvidfs.fuse.made import MadeFile, Product, Products
from dvidfs.fuse.openfiles import OpenMade
from dvidfs.fuse.scratch import IN_MEMORY
from dvidfs.types.base import Directory, File, Made, Numbered, find_file


class Anywhere:
    """Where the files of these tests lie: they look at no view."""

    instance = 1

    def view(self, txn: object) -> None:
        return None


class Shown:
    """One file, its content, its tag and how often it was made."""

    def __init__(self, name: str, content: bytes = b"", **options: Any) -> None:
        self.content = content
        self.tag = 0
        self.count = 0
        self.pause = 0.0
        self.error: Exception | None = None
        entry = Made(self.make, tag=lambda view: self.tag, mtime=lambda view: 0, **options)
        self.node = MadeFile(Anywhere(), entry, (), b"", name.encode())  # type: ignore[arg-type] # it serves as one

    def make(self, view: None) -> Iterator[bytes]:
        self.count += 1
        content = self.content
        time.sleep(self.pause)
        yield content[: len(content) // 2]
        if self.error is not None:
            raise self.error
        yield content[len(content) // 2 :]


@pytest.fixture
def products(engine: Engine) -> Products:
    return Products(engine)


async def together(count: int, fn: Callable[[], Any]) -> list[Any]:
    """What so many calls at one time give or raise."""
    found: list[Any] = []

    async def one() -> None:
        try:
            found.append(await fn())
        except Exception as e:
            found.append(e)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return found


async def test_one_making_for_all_who_ask(products: Products):
    file = Shown("a", b"content")
    file.pause = 0.02
    found = await together(9, lambda: products.get(file.node))
    assert {id(p) for p in found} == {id(found[0])}
    assert found[0].read(0, 99) == b"content"
    assert await products.get(file.node) is found[0]
    assert file.count == 1


async def test_nobody_gets_what_is_older_than_the_question(products: Products):
    """Each change makes it old; whoever asks during a making that began before waits for another."""
    file = Shown("a", b"0")
    file.pause = 0.03
    found: dict[int, bytes] = {}

    async def ask(number: int) -> None:
        found[number] = (await products.get(file.node)).read(0, 9)

    async with trio.open_nursery() as nursery:
        for number in range(12):
            file.tag, file.content = number, b"%d" % number
            nursery.start_soon(ask, number)
            await trio.sleep(0.005)
    assert all(int(content) >= number for number, content in found.items())
    assert len(found) == 12
    assert file.count < 12


async def test_an_error_is_told_to_all_who_wait_for_it(products: Products):
    file = Shown("a", b"content")
    file.pause, file.error = 0.02, Corrupt("damaged")
    found = await together(5, lambda: products.get(file.node))
    assert found == [file.error] * 5
    assert file.count == 1
    file.error = None
    assert (await products.get(file.node)).size == 7
    assert products.statistics()["count"] == 1


async def test_what_is_not_shown_is_not_made(products: Products):
    gone = Shown("a", b"12345", shown=lambda view: False)
    with pytest.raises(NotFound):
        await products.get(gone.node)
    assert gone.count == 0


async def test_the_least_recently_used_go_first(products: Products, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(made, "KEPT_MEMORY", 3 * (made.OVERHEAD + 1000))
    files = {name: Shown(name, bytes([ord(name)]) * 1000) for name in "abcd"}
    for name in "abcad":
        await products.get(files[name].node)
    assert [name for name, file in files.items() if file.node.ident in products] == ["a", "c", "d"]
    await products.get(files["b"].node)
    assert {name: file.count for name, file in files.items()} == {"a": 1, "b": 2, "c": 1, "d": 1}
    products.clear()
    assert products.statistics() == {"count": 0, "memory": 0, "disk": 0, "made": 5}
    assert products._budget.used == 0


async def test_an_open_file_outlives_its_place(products: Products, monkeypatch: pytest.MonkeyPatch):
    """Long ones lie in temporary files, which are gone when the last one lets go."""
    monkeypatch.setattr(made, "KEPT_DISK", IN_MEMORY)
    before = len(os.listdir("/proc/self/fd"))
    long, other = Shown("a", os.urandom(IN_MEMORY + 9)), Shown("b", bytes(IN_MEMORY + 9))
    product: Product = await products.get(long.node)
    opened = OpenMade(long.node, product)
    assert product.on_disk
    await products.get(other.node)
    assert long.node.ident not in products
    assert opened.read_now(5, 2 * IN_MEMORY) == long.content[5:]
    assert long.node.opened is product
    opened.close()
    products.clear()
    assert long.node.opened is None
    assert len(os.listdir("/proc/self/fd")) == before


async def test_one_that_is_longer_than_all_that_may_be_kept_is_kept_alone(
    products: Products, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(made, "KEPT_MEMORY", 10)
    file, other = Shown("a", bytes(1000)), Shown("b", bytes(1000))
    assert (await products.get(file.node)).size == 1000
    assert (await products.get(other.node)).size == 1000
    assert [f.node.ident in products for f in (file, other)] == [False, True]


# -- beside the mount


def test_a_made_file_is_found_as_one_of_known_size():
    tree = Directory({"a": Made(lambda view: iter([b"one", memoryview(b"two")])), "b": Made(lambda view: b"whole")})
    for name, content in (("a", b"onetwo"), ("b", b"whole")):
        file, parts = find_file(tree, None, [name])  # type: ignore[arg-type] # these look at no view
        assert isinstance(file, File)
        assert file.size(None, *parts) == len(content)
        assert file.read(None, *parts, 1, 3) == content[1:4]
        assert file.read(None, *parts, 0, 99) == content


@given(st.lists(st.integers(0, 2**64 - 1)), st.sampled_from(["", ".csv"]), st.slices(20))
def test_numbered_names_are_a_sequence(numbers: list[int], suffix: str, part: slice):
    names, want = Numbered(np.array(numbers, np.uint64), suffix), [f"{n}{suffix}" for n in numbers]
    assert list(names) == want
    assert (len(names), names[part]) == (len(want), want[part])
    assert [names[i] for i in range(-len(want), len(want))] == want * 2


def test_numbered_names_of_more_than_one_batch():
    assert list(Numbered(np.arange(9000))) == [str(n) for n in range(9000)]
