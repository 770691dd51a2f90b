"""Values that lie in the store before the write that points to them: kept by it, freed without it."""

from __future__ import annotations

import pytest
from storing import problems

from dvidfs.engine import Engine, ReadView, WriteView, keys, repos, values
from dvidfs.engine.keys import Family
from dvidfs.errors import Stale


@pytest.fixture
def place(engine: Engine) -> tuple[str, int]:
    """A version, and the id of its instance ``blocks``."""

    def make(txn):
        root = repos.create_repo(txn, alias="r").uuid
        return root, repos.create_instance(txn, txn.graph.version(root), "uint8blk", "blocks").id

    return engine.write(make)


def prepared(count: int) -> list[values.Prepared]:
    return [values.Prepared(bytes([n]) * 1000, 1000) for n in range(count)]


def put(engine: Engine, root: str, staged: list[values.Staged], *, many: bool) -> None:
    """Entries that point to staged values, one block after the other along x."""

    def write(txn):
        node = txn.graph.version(root)
        view = WriteView(txn, node, txn.graph.instance(node, "blocks"))
        items = [(keys.encode_block(0, x, 0, 0), value, b"") for x, value in enumerate(staged)]
        if many:
            view.put_many(Family.BLOCK, items)
        else:
            for enc, value, _ in items:
                view.put(Family.BLOCK, enc, value)

    engine.write(write)


def rows(engine: Engine) -> tuple[int, int]:
    """Rows of values, and of the trash."""
    found = engine.store.statistics()["rows"]
    return found["values"], found["trash"]


@pytest.mark.parametrize("many", [True, False])
def test_a_write_adopts_what_was_staged(engine: Engine, place: tuple[str, int], many: bool):
    root, instance = place
    for _ in range(2):  # the second time it replaces what is there
        staged = values.stage(engine.store, instance, prepared(3))
        assert rows(engine)[1] == 3
        put(engine, root, staged, many=many)
        assert rows(engine) == (3, 0)
    with engine.read() as txn:
        node = txn.graph.version(root)
        view = ReadView(txn, node, txn.graph.instance(node, "blocks"))
        found = view.load_keys(Family.BLOCK, [keys.encode_block(0, x, 0, 0) for x in range(3)])
        assert [bytes(data) for data in found] == [p.data for p in prepared(3)]
    assert problems(engine) == []


def test_what_nobody_adopts_is_freed_and_then_refused(engine: Engine, place: tuple[str, int]):
    root, instance = place
    staged = values.stage(engine.store, instance, prepared(3))
    assert not engine.write(lambda txn: values.sweep(txn)), "too early"
    assert rows(engine) == (3, 3)
    engine.write(lambda txn: values.sweep(txn, keep_ns=0))
    assert rows(engine) == (0, 0)
    with pytest.raises(Stale):
        put(engine, root, staged, many=True)
    assert problems(engine) == []


def test_a_refused_write_leaves_what_was_staged_to_be_freed(engine: Engine, place: tuple[str, int]):
    _, instance = place
    staged = values.stage(engine.store, instance, prepared(2))

    def fail(txn):
        for value in staged:
            values.adopt(txn, value)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        engine.write(fail)
    assert rows(engine) == (2, 2)
