"""Columns over random version graphs, against plain dictionaries: what is held is never other than what is stored."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from engine_processes import ended, other_process, told_by
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from versioned import Failed, Versions

from dvidfs.engine import Engine, ReadView, WriteTxn
from dvidfs.types.labelmap import columns
from dvidfs.types.labelmap.columns import ABSENT, Column, Pairs, pairs

BOOK = 77
KEYS = (0, 1, 2, 3, 4, 5, 1000, 2**32, 2**63, 2**64 - 2, 2**64 - 1)
MODEST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Values = dict[int, int]


@pytest.fixture(autouse=True)
def _small_layers() -> Iterator[None]:
    """So small that a few writes go through all of them."""
    with mock.patch.multiple(columns, LATEST=3, SMALL=5, BEHIND=2, VERSIONS=3):
        yield


def as_pairs(values: Values) -> Pairs:
    keys = sorted(values)
    return pairs(np.array(keys, np.uint64), np.array([values[key] for key in keys], np.uint64))


def as_dict(found: Pairs) -> Values:
    assert sorted(set(found.keys.tolist())) == found.keys.tolist()
    return dict(zip(found.keys.tolist(), found.values.tolist(), strict=True))


def some(chance: random.Random) -> Values:
    keys = chance.sample(KEYS, chance.randint(1, chance.choice([2, len(KEYS)])))
    return {key: chance.choice([0, 1, 7, key, ABSENT - 1, ABSENT]) for key in keys}


def same_column(column: Column, wanted: Values) -> None:
    there = {key: value for key, value in wanted.items() if value != ABSENT}
    assert as_dict(column.items()) == there
    assert [column.one(key) for key in KEYS] == [there.get(key, ABSENT) for key in KEYS]
    keys = np.array(KEYS[::-1], np.uint64)
    assert column.get(keys).tolist() == [there.get(key, ABSENT) for key in KEYS[::-1]]
    assert column.get(keys, 3).tolist() == [there.get(key, 3) for key in KEYS[::-1]]
    assert column.get(keys, keys).tolist() == [there.get(key, key) for key in KEYS[::-1]]
    assert column.nbytes == 16 * len(column) >= 16 * len(there)
    for layer in (column.base, column.changed, column.latest):
        as_dict(layer)
    assert len(column.latest) <= columns.LATEST


class Store:
    """A column over a graph of versions, and what was committed: (version, mutation, values)."""

    def __init__(self, engine: Engine) -> None:
        self.versions = Versions(engine)
        self.rows: list[tuple[int, int, Values]] = []

    def wanted(self, version: int) -> Values:
        line, out = self.versions.line(version), Values()
        for at, _, values in sorted(self.rows, key=lambda row: row[:2]):
            if at in line:
                out |= values
        return out

    def job(self, version: int, values: Values, *, fails: bool) -> Callable[[WriteTxn], int]:
        """A write that looks before and after."""
        before = self.wanted(version)

        def run(txn: WriteTxn) -> int:
            view = self.versions.write_view(txn, version)
            mutation = txn.new_mutation_id(view.instance.repo)
            same_column(columns.read(view, BOOK), before)
            columns.append(view, BOOK, mutation, as_pairs(values))
            same_column(columns.read(view, BOOK), before | values)
            same_column(columns.read(ReadView(txn, view.node, view.instance), BOOK), before | values)
            if fails:
                raise Failed
            return mutation

        return run

    def write(self, version: int, values: Values) -> None:
        mutation = self.versions.engine.write(self.job(version, values, fails=False))
        self.rows.append((version, mutation, values))

    def fail(self, version: int, values: Values) -> None:
        with pytest.raises(Failed):
            self.versions.engine.write(self.job(version, values, fails=True))

    def group(self, version: int, chance: random.Random) -> None:
        """Several at once, of which some fail after they have written."""
        jobs, told, before = [], [], len(self.rows)
        for _ in range(chance.randint(2, 5)):
            values, fails = some(chance), chance.random() < 0.4
            jobs.append(self.job(version, values, fails=fails))
            if not fails:
                self.rows.append((version, 2**64 + len(self.rows), values))  # later than all so far; its number comes
            told.append(fails)
        found = self.versions.together(jobs)
        assert [isinstance(one, Failed) for one in found] == told, found
        numbers = [one for one in found if isinstance(one, int)]
        self.rows[before:] = [(version, n, row[2]) for n, row in zip(numbers, self.rows[before:], strict=True)]

    def agrees(self, version: int) -> None:
        wanted = self.wanted(version)
        self.versions.read(version, lambda view: same_column(columns.read(view, BOOK), wanted))


STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "write", "look", "grow", "fail", "group", "past"]), st.integers(0, 2**32)),
    max_size=20,
)


@MODEST
@given(steps=STEPS)
def test_what_is_held_is_what_is_stored(engine: Engine, steps: list[tuple[str, int]]):
    store = Store(engine)
    for kind, seed in steps:
        chance = random.Random(seed)
        some_open = chance.choice(sorted(store.versions.open))
        anywhere = chance.choice(sorted(store.versions.parents))
        if kind == "write":
            store.write(some_open, some(chance))
        elif kind == "past":  # an administrator may write to what is committed
            store.write(anywhere, some(chance))
        elif kind == "fail":
            store.fail(anywhere, some(chance))
        elif kind == "group":
            store.group(some_open, chance)
        elif kind == "grow":
            store.versions.grow(chance)
        else:
            store.agrees(anywhere)
    for version in store.versions.parents:
        store.agrees(version)


def test_an_old_snapshot_sees_the_old_column(engine: Engine):
    store = Store(engine)
    root = next(iter(store.versions.parents))
    for number in range(1, 12):
        with engine.read() as old:
            before = store.wanted(root)
            if number % 2:
                same_column(columns.read(store.versions.view(old, root), BOOK), before)
            store.write(root, {number % 5: number})
            if number % 3:
                store.agrees(root)
            same_column(columns.read(store.versions.view(old, root), BOOK), before)
            store.agrees(root)


def test_another_process_writes_what_this_one_holds(engine: Engine, store_path: Path):
    store = Store(engine)
    root = next(iter(store.versions.parents))
    child = store.versions.child(root)
    store.write(child, {1: 10, 2: 20})
    store.agrees(child)
    with other_process(
        store_path,
        f"""
        import numpy as np
        from dvidfs.types.labelmap import columns
        from dvidfs.engine.versions import Caller
        def set_to(uuid, key, value):
            def run(txn):
                node = txn.graph.version(uuid)
                view = WriteView(txn, node, txn.graph.instance(node, "data"), Caller(privileged=True))
                number = txn.new_mutation_id(view.instance.repo)
                columns.append(view, {BOOK}, number, columns.pairs(np.array([key], np.uint64), value))
                return number
            return run
        def get(uuid):
            with engine.read() as txn:
                node = txn.graph.version(uuid)
                found = columns.read(ReadView(txn, node, txn.graph.instance(node, "data")), {BOOK}).items()
                return dict(zip(found.keys.tolist(), found.values.tolist()))
        for line in sys.stdin:
            print(eval(line), flush=True)
        """,
    ) as process:

        def ask(code: str) -> str:
            assert process.stdin is not None
            process.stdin.write(code + "\n")
            process.stdin.flush()
            return told_by(process)

        uuids = store.versions.uuids
        for value in range(100, 108):
            assert ask(f"get({uuids[child]!r})") == str(dict(sorted(store.wanted(child).items())))
            for at in (child, root) if value % 3 == 0 else (child,):  # the root is committed: history changes
                mutation = int(ask(f"engine.write(set_to({uuids[at]!r}, {value % 4}, {value}))"))
                store.rows.append((at, mutation, {value % 4: value}))
            if value % 2:
                store.agrees(child)
            store.write(child, {value % 3: value + 1000})
            store.agrees(child)
            store.agrees(root)
        ended(process)


def test_a_version_costs_what_it_changes(engine: Engine):
    store = Store(engine)
    root = next(iter(store.versions.parents))
    many = 1_000_000
    base = pairs(np.arange(1, many + 1, dtype=np.uint64), np.arange(many, dtype=np.uint64) // 7)
    with mock.patch.multiple(columns, LATEST=4096, SMALL=1 << 16, VERSIONS=32):
        store.versions.write(root, lambda view: columns.append(view, BOOK, 1, base))
        line = [root]
        for number in range(10):
            line.append(store.versions.child(line[-1]))
            new = pairs(np.array([number], np.uint64), 5)
            store.versions.write(line[-1], lambda view, new=new: columns.append(view, BOOK, 100, new))
        both = [store.versions.child(line[-1]) for _ in range(2)]
        for number, version in enumerate(both):
            new = pairs(np.array([number + 100], np.uint64), 5)
            store.versions.write(version, lambda view, new=new: columns.append(view, BOOK, 200, new))
        line += [*both, store.versions.merge(*both)[0]]
        store.versions.write(line[-1], lambda view, new=new: columns.append(view, BOOK, 300, new))
        assert columns.held_bytes(engine.store) <= 16 * (many + 1000), "a write made a second base"
        columns._known.clear()  # as a process that has just begun
        gc.collect()
        tracemalloc.start()
        try:
            for version in line:
                found = store.versions.read(version, lambda view: columns.read(view, BOOK))
                assert found.one(many) == many // 7 - (0 if many % 7 else 1)
            gc.collect()
            resident, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert columns.held_bytes(engine.store) <= 16 * (many + 200)
        assert resident <= 24 * many
