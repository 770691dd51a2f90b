"""Rows of a ledger over random version graphs, against a plain list of what was appended."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from versioned import Failed, Versions

from dvidfs.engine import Engine, ReadView, WriteTxn, WriteView, ledger
from dvidfs.engine.ledger import Row

BOOKS = (7, 8)
IDS = (0, 1, 5, 255, 256, 2**32, 2**63, 2**64 - 1)
MODEST = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Rows:
    """A graph of versions, and all rows that were committed: (book, id, version, mutation, bytes)."""

    def __init__(self, engine: Engine) -> None:
        self.versions = Versions(engine)
        self.all: list[tuple[int, int, Row]] = []

    def append(self, version: int, chance: random.Random, *, fails: bool = False) -> None:
        book, ids = chance.choice(BOOKS), sorted(chance.sample(IDS, chance.randint(1, len(IDS))))
        data = [chance.randbytes(chance.choice([0, 1, 20])) for _ in ids]

        def change(view: WriteView) -> int:
            mutation = view.txn.new_mutation_id(view.instance.repo)
            ledger.append(view, book, mutation, np.array(ids, np.uint64), data)
            if fails:
                raise Failed
            return mutation

        if fails:
            with pytest.raises(Failed):
                self.versions.write(version, change)
            return
        mutation = self.versions.write(version, change)
        self.all += [(book, i, Row(version, mutation, d)) for i, d in zip(ids, data, strict=True)]

    def wanted(self, version: int, book: int, number: int) -> list[Row]:
        line = self.versions.line(version)
        found = [row for b, i, row in self.all if (b, i) == (book, number) and row.version in line]
        return sorted(found, reverse=True)


def grown(engine: Engine, seed: int) -> tuple[Rows, random.Random]:
    chance = random.Random(seed)
    rows = Rows(engine)
    for _ in range(chance.randint(1, 25)):
        versions = list(rows.versions.parents)
        if chance.random() < 0.3:
            rows.versions.grow(chance)
        else:
            rows.append(chance.choice(versions), chance, fails=chance.random() < 0.1)
    return rows, chance


@MODEST
@given(seed=st.integers(0, 2**32))
def test_what_is_seen_is_what_was_appended(engine: Engine, seed: int):
    rows, chance = grown(engine, seed)
    for version in rows.versions.parents:
        rows.versions.read(version, lambda view: same_rows(rows, view, chance))


def same_rows(rows: Rows, view: ReadView, chance: random.Random) -> None:
    version = view.version
    for book in (*BOOKS, 9):
        wanted = {number: rows.wanted(version, book, number) for number in IDS}
        for number, found in wanted.items():
            assert ledger.rows(view, book, number) == found
            assert ledger.newest(view, book, number) == (found[0] if found else None)
            assert ledger.stamp(view, book, number) == (found[0][:2] if found else None)
            for row in found:
                newer = [other for other in found if other[:2] > row[:2]]
                assert ledger.rows(view, book, number, after=row[:2]) == newer
                own = [other for other in newer if other.version == version]
                assert ledger.later(view, book, number, row.mutation) == [r for r in own if r.mutation > row.mutation]
            for other in rows.versions.parents:
                told = [row for b, i, row in rows.all if (b, i) == (book, number) and row.version == other]
                assert ledger.of_version(view, book, number, other) == sorted(told, reverse=True)
        asked = chance.sample(IDS, len(IDS))
        of, data = ledger.gather(view, book, np.array(asked, np.uint64))
        assert list(zip(of.tolist(), data, strict=True)) == [
            (i, row.data) for i, number in enumerate(asked) for row in wanted[number]
        ]
        first, last = sorted(chance.choices(IDS, k=2))
        between = [(i, row) for i, found in wanted.items() if first <= i <= last for row in found]
        assert list(ledger.scan(view, book, first, last)) == between
        assert list(ledger.scan(view, book)) == [(i, row) for i, found in wanted.items() for row in found]
        assert ledger.is_empty(view, book) == (not any(b == book for b, _, _ in rows.all))


def test_other_instances_and_repos_are_not_seen(engine: Engine):
    first, second = Rows(engine), Rows(engine)
    chance = random.Random(1)
    for _ in range(10):
        first.append(chance.choice(list(first.versions.parents)), chance)
        first.versions.grow(chance)
    for version in second.versions.parents:
        second.versions.read(version, lambda view: same_rows(second, view, chance))
    for version in first.versions.parents:
        first.versions.read(version, lambda view: same_rows(first, view, chance))


def test_what_fails_in_a_group_leaves_no_row(engine: Engine):
    rows = Rows(engine)
    root = next(iter(rows.versions.parents))

    def job(number: int) -> Callable[[WriteTxn], int]:
        def run(txn: WriteTxn) -> int:
            view = rows.versions.write_view(txn, root)
            mutation = txn.new_mutation_id(view.instance.repo)
            ledger.append(view, 7, mutation, np.array([number], np.uint64), [b"%d" % number])
            if number % 3 == 1:
                raise Failed
            return mutation

        return run

    found = rows.versions.together([job(n) for n in range(10)])
    assert [isinstance(one, Failed) for one in found] == [n % 3 == 1 for n in range(10)]
    kept = [n for n in range(10) if n % 3 != 1]
    mutations = [found[n] for n in kept]
    assert mutations == sorted(set(mutations))
    seen = rows.versions.read(root, lambda view: list(ledger.scan(view, 7)))
    assert seen == [(n, Row(root, found[n], b"%d" % n)) for n in kept]


def test_counters_belong_to_the_instance_alone(engine: Engine):
    one, two = Versions(engine), Versions(engine)
    root = next(iter(one.parents))

    def set_to(value: int) -> Callable[[WriteView], None]:
        return lambda view: ledger.set_counter(view.txn, view.instance.id, 7, 3, value)

    def get(view: ReadView) -> int:
        return ledger.counter(view.txn, view.instance.id, 7, 3)

    one.write(root, set_to(2**64 - 1))
    child = one.child(root)
    one.write(child, set_to(5))
    assert [one.read(root, get), one.read(child, get)] == [5, 5]
    assert two.read(next(iter(two.parents)), get) == 0
    assert one.read(child, lambda view: list(ledger.scan(view, 7))) == []
