"""The parts of the mount that need none: names, inode numbers, buffers, windows, the drawn graph."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from dvidfs.engine import Engine, repos
from dvidfs.errors import DvidfsError, ErrorKind
from dvidfs.fuse import dag, names
from dvidfs.fuse.errors import ERRNO, errno_of
from dvidfs.fuse.inodes import Inodes, identity, number
from dvidfs.fuse.nodes import Named
from dvidfs.fuse.scratch import Budget, Scratch
from dvidfs.fuse.windows import CHUNK, Source, Windows

ODD = st.lists(
    st.sampled_from(
        [b"%", b"/", b"\0", b".", b".dvid", b"..", b"a", b"41", b"F", b"2f", b"\n", b"\xff", b" ", "é".encode()]
    ),
    min_size=1,
    max_size=8,
).map(b"".join)
KEYS = st.one_of(ODD, st.binary(min_size=1, max_size=300))

# -- names


@given(KEYS)
def test_every_key_has_one_name(key: bytes):
    name = names.encode(key)
    assert names.decode(name) == key
    assert b"/" not in name
    assert b"\0" not in name
    assert name not in (b".", b"..")
    assert not name.startswith(b".dvid")


@given(KEYS)
def test_a_name_that_is_no_keys_name_means_nothing(name: bytes):
    key = names.decode(name)
    assert key is None or names.encode(key) == name


@given(st.lists(KEYS))
def test_many_names_at_once(keys: list[bytes]):
    assert list(names.encode_all(keys)) == [names.encode(key) for key in keys]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (b"plain key", b"plain key"),
        (b"100%", b"100%"),
        (b"%41", b"%2541"),
        (b"a/b", b"a%2Fb"),
        (b".dvidx", b"%2Edvidx"),
        (b"..", b"%2E%2E"),
        (b"...", b"..."),
        ("🙂".encode(), "🙂".encode()),
    ],
)
def test_names_as_they_are_promised(key: bytes, name: bytes):
    assert names.encode(key) == name


UUIDS = st.one_of(st.sampled_from(["branches", "%62ranches", ".x", "%2Ex", ":", "%3A", "tags"]), st.text(min_size=1))


@given(st.lists(UUIDS.filter(lambda t: "/" not in t and t.isprintable()), unique=True))
def test_every_version_has_a_folder_of_its_own(uuids: list[str]):
    folders = [names.encode_version(uuid) for uuid in uuids]
    assert len(set(folders)) == len(uuids)
    assert not {b"branches", b"tags"} & set(folders)
    assert all(folder[:1] not in (b".", b":") and b"/" not in folder for folder in folders)


# -- inode numbers


class Thing(Named):
    __slots__ = ("at",)

    def __init__(self, name: str, at: int = 5) -> None:
        super().__init__(name)
        self.at = at

    def number(self) -> int:
        return self.at


def test_things_that_would_share_a_number_stand_beside_each_other():
    table = Inodes()
    first = table.place(Thing("a"))
    table.remember(first)
    second = table.place(Thing("b"))
    table.remember(second)
    assert (first.ino, second.ino) == (5, 6)
    assert table.place(Thing("a")) is first
    assert table.place(Thing("b")) is second
    table.remember(second)
    table.forget([(5, 1), (6, 1)])
    assert table.place(Thing("b")) is second, "it keeps its number until it is forgotten"
    table.forget([(6, 1)])
    assert table.place(Thing("b")).ino == 5
    assert len(table) == 0


def test_a_renamed_thing_keeps_its_number():
    table = Inodes()
    thing = table.place(Thing("a", 5))
    table.remember(thing)
    old = thing.identity()
    thing.ident, thing.at = identity("z"), 9
    table.renamed(thing, old)
    assert table.place(Thing("z", 9)) is thing
    assert table.place(Thing("a", 5)).ino != 5
    table.forget([(5, 1)])
    assert table.place(Thing("z", 9)).ino == 9


@given(st.lists(st.lists(st.binary(max_size=5), max_size=4), unique_by=tuple))
def test_different_paths_have_different_identities(paths: list[list[bytes]]):
    assert len({identity(*path) for path in paths}) == len(paths)


def test_numbers_are_the_same_on_every_machine():
    assert number(identity("0" * 32, "1" * 32, b"key")) == 13135414591157816563


# -- buffers


@given(
    st.integers(0, 4000),
    st.lists(
        st.tuples(st.sampled_from(["write", "truncate", "read"]), st.integers(0, 3000), st.binary(max_size=2000)),
        max_size=12,
    ),
)
def test_a_scratch_is_a_row_of_bytes(limit: int, steps: list[tuple[str, int, bytes]]):
    budget = Budget(limit)
    scratch, model = Scratch(budget, b"begin"), bytearray(b"begin")
    for what, at, data in steps:
        if what == "write":
            scratch.write(at, data)
            if data:
                model.extend(bytes(max(0, at - len(model))))
                model[at : at + len(data)] = data
        elif what == "truncate":
            scratch.truncate(at)
            model.extend(bytes(max(0, at - len(model))))
            del model[at:]
        else:
            assert scratch.read(at, len(data)) == model[at : at + len(data)]
        assert (scratch.size, scratch.read(0, 10_000)) == (len(model), model)
        assert budget.used <= limit
    scratch.close()
    assert budget.used == 0


# -- windows


class Slow:
    """A source of 3.5 chunks in some state; it counts what it makes."""

    def __init__(self, engine: Engine) -> None:
        self.size = CHUNK * 7 // 2
        self.state = 0
        self.made: list[tuple[int, int]] = []
        self.source = Source(engine, self.fetch, lambda txn: self.state)

    def bytes(self, offset: int, length: int) -> bytes:
        return bytes([self.state]) * max(0, min(length, self.size - offset))

    def fetch(self, txn: object, offset: int, length: int) -> bytes:
        self.made.append((offset, length))
        time.sleep(0.001)
        return self.bytes(offset, length)


@pytest.fixture
def slow(engine: Engine) -> Slow:
    return Slow(engine)


async def test_a_random_window_costs_that_window(slow: Slow, nursery: trio.Nursery):
    windows = Windows(slow.source, Budget(100 * CHUNK), nursery)
    for offset in (9_000_000, 5, slow.size - 3, slow.size + 9):
        assert bytes(await windows.read(offset, 1000)) == slow.bytes(offset, 1000)
    assert max(length for _, length in slow.made) == 1000
    windows.close()


async def test_a_sequential_reader_gets_chunks_made_ahead(slow: Slow, nursery: trio.Nursery):
    budget = Budget(100 * CHUNK)
    windows = Windows(slow.source, budget, nursery)
    step = 1 << 20
    for offset in range(0, slow.size + step, step):
        assert bytes(await windows.read(offset, step)) == slow.bytes(offset, step)
    chunks = [offset // CHUNK for offset, length in slow.made if length == CHUNK]
    assert chunks == sorted(set(chunks)), "each is made once"
    assert len(slow.made) < 10
    await trio.testing.wait_all_tasks_blocked()
    windows.close()
    assert budget.used == 0


async def test_a_read_never_mixes_two_states(slow: Slow, nursery: trio.Nursery):
    windows = Windows(slow.source, Budget(100 * CHUNK), nursery)
    step = 700_001
    for n, offset in enumerate(range(0, slow.size, step)):
        slow.state = n // 3
        assert len(set(bytes(await windows.read(offset, step)))) == 1
    windows.close()


async def test_without_room_for_chunks_windows_are_made_one_by_one(slow: Slow, nursery: trio.Nursery):
    windows = Windows(slow.source, Budget(0), nursery)
    for offset in range(0, slow.size, 1 << 20):
        assert bytes(await windows.read(offset, 1 << 20)) == slow.bytes(offset, 1 << 20)
    windows.close()


# -- the drawn graph


@pytest.fixture
def drawn(engine: Engine) -> Iterator[str]:
    repo = engine.write(lambda t: repos.create_repo(t, alias="a"))
    engine.write(lambda t: repos.commit(t, t.graph.version(repo.uuid), note="first\nmore"))
    left = engine.write(lambda t: repos.new_version(t, t.graph.version(repo.uuid)))
    right = engine.write(lambda t: repos.branch(t, t.graph.version(repo.uuid), "side"))
    engine.write(lambda t: repos.branch(t, t.graph.version(repo.uuid), "third"))
    for node in (left, right):
        engine.write(lambda t, node=node: repos.commit(t, t.graph.version(node.uuid)))
    engine.write(lambda t: repos.merge(t, repos.find_parents(t, [left.uuid, right.uuid])))
    with engine.read() as txn:
        yield dag.draw(txn.graph.repos[repo.id])


def test_the_graph_is_drawn_newest_first(drawn: str):
    lines = drawn.splitlines()
    assert [line.partition("  ")[0].rstrip() for line in lines] == [
        "*",
        "|\\",
        "| | *",
        "| * |",
        "* | |",
        "|_|/",
        "|/",
        "*",
    ]
    stars = [line for line in lines if "*" in line]
    assert len(stars) == 5
    assert "open" in stars[0]
    assert "[third]" in stars[1]
    assert stars[-1].startswith("*  ")
    assert stars[-1].endswith("first")
    assert all(set(line) <= set("|\\/_ ") for line in lines if "*" not in line)


# -- errors


def test_errno_is_total():
    assert set(ERRNO) == set(ErrorKind)
    assert errno_of(DvidfsError("x")) == ERRNO[ErrorKind.BAD_REQUEST]
    assert errno_of(OSError(28, "full")) == 28
    assert errno_of(OSError(2, "our own bug")) == errno_of(KeyError("x")) == 5
    assert os.strerror(errno_of(ValueError())) == "Input/output error"
