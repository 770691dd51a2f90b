"""`dvidfs check`: silent over every history that the engine can make, and each kind of damage is found by its check.

Damage is written into the store's tables by LMDB itself, behind the engine's back.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dvidfs.engine import Engine, Store, WriteTxn, WriteView, blobs, keys, open_engine, repos, values
from dvidfs.engine.check import Report, check_store
from dvidfs.engine.keys import PIECE, Codec, Kind, Table
from dvidfs.engine.upkeep import run_waiting
from dvidfs.kernels.fnv import fnv128
from dvidfs.types.builtin import registry

Damage = Callable[["Tables"], None]


def check(engine: Engine, deep: bool = True) -> Report:
    types = registry()
    return check_store(engine, deep=deep, verifier=lambda name: types[name].verify, name_blob=fnv128)


def told(report: Report) -> list[tuple[str, str, str]]:
    return [(p.check, p.where, p.text) for p in report.problems]


# -- histories ---------------------------------------------------------------------------------------------------

KEYS = [b"a", b"b", b"a\0b", b"k" * 500, b"k" * 500 + b"1", b"\xff", bytes(range(1, 255)) * 2]
VALUES = st.one_of(
    st.sampled_from([b"", b"x", b"x" * 64, b"y" * 65, b"z" * 5000, os.urandom(700)]),
    st.binary(max_size=80),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(KEYS), VALUES),
        st.tuples(st.just("delete"), st.sampled_from(KEYS)),
        st.tuples(st.just("rename"), st.sampled_from(KEYS), st.sampled_from(KEYS)),
        st.tuples(st.just("upload"), st.sampled_from(KEYS), st.integers(PIECE - 1, 3 * PIECE)),
        st.tuples(st.sampled_from(["commit", "branch", "merge", "resolve", "instance", "drop", "blob", "free"])),
    ),
    max_size=25,
)


class History:
    """Applies steps to one repo with a versioned and an unversioned instance; what is not allowed is left out."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        engine.write(lambda txn: repos.create_repo(txn, alias="r"))
        self.count = 0
        self.make_instance("kv")
        self.make_instance("flat", versioned=False)

    def make_instance(self, name: str, versioned: bool = True) -> None:
        def make(txn: WriteTxn) -> None:
            repos.create_instance(txn, self.leaf(txn), "keyvalue", name, versioned=versioned, privileged=True)

        self.engine.write(make)

    def leaf(self, txn: WriteTxn):
        return [n for n in txn.graph.repos[1].nodes.values() if not n.children][-1]

    def views(self, txn: WriteTxn) -> Iterator[WriteView]:
        node = self.leaf(txn)
        for instance in txn.graph.repo_of(node).instances.values():
            if not (node.locked and instance.versioned):
                yield WriteView(txn, node, instance)

    def step(self, what: str, *args) -> None:
        self.count += 1
        getattr(self, f"do_{what}")(*args)

    def do_put(self, key: bytes, value: bytes) -> None:
        self.engine.write(lambda txn: [v.put_text(key, values.prepare(value)) for v in self.views(txn)])

    def do_delete(self, key: bytes) -> None:
        self.engine.write(lambda txn: [v.delete_text(key) for v in self.views(txn)])

    def do_rename(self, old: bytes, new: bytes) -> None:
        def rename(txn: WriteTxn) -> None:
            for view in self.views(txn):
                if not view.lineage.merges:
                    view.rename_text(old, new)

        self.engine.write(rename)

    def do_upload(self, key: bytes, size: int) -> None:
        with self.engine.read() as txn:
            instance = next(iter(txn.graph.repos.values())).instances.get("kv")
        if instance is None:
            return
        upload = values.Upload(self.engine.store, instance.id)
        upload.feed(b"long " * (size // 5))
        value = upload.finish()
        self.engine.write(lambda txn: [v.put_text(key, value) for v in self.views(txn) if v.instance == instance])

    def do_commit(self) -> None:
        def commit(txn: WriteTxn) -> None:
            if not self.leaf(txn).locked:
                repos.commit(txn, self.leaf(txn), note="done", log=["a line"])
            repos.new_version(txn, self.leaf(txn))

        self.engine.write(commit)

    def do_branch(self) -> None:
        def branch(txn: WriteTxn) -> None:
            locked = [n for n in txn.graph.nodes() if n.locked]
            if locked:
                repos.branch(txn, locked[self.count % len(locked)], f"b{self.count}")

        self.engine.write(branch)

    def join(self, resolve: bool) -> None:
        def join(txn: WriteTxn) -> None:
            repo = next(iter(txn.graph.repos.values()))
            trunk = repo.branches[""]
            others = [leaf for name, leaf in sorted(repo.branches.items()) if name]
            if not others or any(repo.nodes[c].branch == "" for c in others[-1].children):
                return
            for node in (trunk, others[-1]):
                if not node.locked:
                    repos.commit(txn, node)
            parents = [txn.graph.repos[repo.id].nodes[n.id] for n in (trunk, others[-1])]
            if resolve and "kv" in repo.instances:
                repos.resolve(txn, parents, ["kv"])
            else:
                repos.merge(txn, parents)

        self.engine.write(join)

    def do_merge(self) -> None:
        self.join(resolve=False)

    def do_resolve(self) -> None:
        self.join(resolve=True)

    def do_instance(self) -> None:
        self.make_instance(f"kv{self.count}")

    def do_drop(self) -> None:
        def drop(txn: WriteTxn) -> None:
            repo = next(iter(txn.graph.repos.values()))
            if repo.instances:
                self.engine.delete_instance(txn, sorted(repo.instances.items())[0][1])

        self.engine.write(drop)

    def do_blob(self) -> None:
        content = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(self.count % 50))
        self.engine.write(lambda txn: blobs.put(txn, fnv128(content), values.prepare(content)))

    def do_free(self) -> None:
        run_waiting(self.engine)
        self.engine.write(lambda txn: values.sweep(txn, keep_ns=0))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_no_history_looks_damaged(tmp_path_factory: pytest.TempPathFactory, steps):
    path = tmp_path_factory.mktemp("history") / "store"
    Store.create(path)
    with open_engine(path, durability="periodic") as engine:
        history = History(engine)
        for what, *args in steps:
            history.step(what, *args)
        report = check(engine)
    assert told(report) == []


def test_an_empty_store_is_sound(tmp_path: Path):
    Store.create(tmp_path / "store")
    with open_engine(tmp_path / "store") as engine:
        report = check(engine)
    assert (report.count, len(report.checks)) == (0, 20)


# -- damage ------------------------------------------------------------------------------------------------------


class Tables:
    """Raw access to the tables of a closed store."""

    def __init__(self, path: Path) -> None:
        self.env = lmdb.open(str(path), max_dbs=32, map_size=1 << 30)
        self.dbs = {t: self.env.open_db(t.encode(), create=False) for t in Table}

    def rows(self, table: Table, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        with self.env.begin(db=self.dbs[table]) as txn:
            return [(k, v) for k, v in txn.cursor() if k.startswith(prefix)]

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        with self.env.begin(write=True, db=self.dbs[table]) as txn:
            txn.put(key, value)

    def delete(self, table: Table, key: bytes) -> None:
        with self.env.begin(write=True, db=self.dbs[table]) as txn:
            assert txn.delete(key)

    def edit(self, kind: bytes, number: int, **changes) -> None:
        """Change fields of a record of the graph."""
        key = kind + keys.U32.pack(number)
        record = orjson.loads(dict(self.rows(Table.GRAPH))[key])
        self.put(Table.GRAPH, key, orjson.dumps({**record, **changes}))

    def entry(self, kind: Kind, codec: Codec | None = None) -> tuple[bytes, bytes]:
        """The first entry of a kind."""
        return next(r for r in self.rows(Table.INDEX) if r[1][0] == kind and codec in (None, r[1][1]))

    def value_of(self, raw: bytes, key: bytes) -> bytes:
        """Key of the first row of the value that an entry names."""
        return key[:4] + keys.U64.pack(keys.ENTRY.unpack_from(raw)[6]) + keys.U32.pack(0)


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[Damage], Report]:
    """Makes a store with something of everything, does damage, and gives what `check` says then."""

    def run(damage: Damage) -> Report:
        path = tmp_path / "store"
        Store.create(path)
        with open_engine(path) as engine:
            history = History(engine)
            history.do_put(b"text", os.urandom(300).hex().encode())
            history.do_put(b"random", os.urandom(500))
            history.do_put(b"small", b"s")
            history.do_put(b"L" * 600, b"with a long name")
            history.do_upload(b"big", 2 * PIECE + 7)
            history.do_commit()
            history.do_delete(b"small")
            history.do_branch()
            history.count = 40
            history.do_blob()
            engine.write(lambda txn: repos.create_repo(txn, alias="second"))

            def log(txn: WriteTxn) -> None:
                from dvidfs.types import keyvalue

                for view in history.views(txn):
                    keyvalue.put_file(view, b"logged", values.prepare(b"v"))

            engine.write(log)
            assert told(check(engine)) == []
        tables = Tables(path)
        damage(tables)
        tables.env.close()
        with open_engine(path) as engine:
            return check(engine)

    return run


def cut_record(tables: Tables) -> None:
    # version 3 is a leaf; an unreadable record may also refuse to open, which tells as well
    tables.edit(b"n", 3, id=33)


def twice_the_uuid(tables: Tables) -> None:
    first = orjson.loads(tables.rows(Table.GRAPH, b"n")[0][1])["uuid"]
    tables.edit(b"n", 3, uuid=first)


def no_parent(tables: Tables) -> None:
    tables.edit(b"n", 3, parents=[77])


def younger_parent(tables: Tables) -> None:
    tables.edit(b"n", 2, parents=[3])


def open_parent(tables: Tables) -> None:
    tables.edit(b"n", 1, locked=False)


def parent_elsewhere(tables: Tables) -> None:
    tables.edit(b"n", 4, repo=1, parents=[1], branch="x")
    tables.edit(b"n", 3, repo=2, parents=[1])


def two_leaves(tables: Tables) -> None:
    tables.edit(b"n", 3, branch="")


def instance_without_repo(tables: Tables) -> None:
    tables.edit(b"i", 1, version=4)


def two_of_a_name(tables: Tables) -> None:
    tables.edit(b"i", 2, name="kv")


def low_counter(tables: Tables) -> None:
    tables.put(Table.META, b"ids", keys.IDS.pack(9, 9, 9, 1, 9))


def lost_change(tables: Tables) -> None:
    tables.delete(Table.CHANGES, tables.rows(Table.CHANGES)[3][0])


def line_of_nobody(tables: Tables) -> None:
    tables.put(Table.LINES, keys.LINE_KEY.pack(ord("n"), 99, 0), keys.I64LE.pack(5) + b"x")


def high_mutation(tables: Tables) -> None:
    tables.put(Table.META, b"mutid" + keys.U32.pack(1), keys.U64LE.pack(5))


def cut_mutation(tables: Tables) -> None:
    key, row = tables.rows(Table.MUTATIONS)[0]
    tables.put(Table.MUTATIONS, key, row[:-2])


def cut_job(tables: Tables) -> None:
    tables.put(Table.JOBS, keys.U64.pack(0), b"{")


def rows_of_nobody(tables: Tables) -> None:
    key, row = tables.entry(Kind.INLINE)
    tables.put(Table.INDEX, keys.U32.pack(50) + key[4:], row)


def entry_of_no_version(tables: Tables) -> None:
    key, row = tables.entry(Kind.INLINE)
    tables.put(Table.INDEX, key[:-5] + keys.version_suffix(4) + key[-1:], row)


def unknown_family(tables: Tables) -> None:
    key, row = tables.entry(Kind.INLINE)
    tables.put(Table.INDEX, key[:4] + b"\x77" + key[5:], row)


def wrong_mark(tables: Tables) -> None:
    key, row = tables.entry(Kind.TOMBSTONE)
    tables.put(Table.INDEX, key[:-1] + keys.VALUE, row)


def wrong_inline_size(tables: Tables) -> None:
    key, row = tables.entry(Kind.INLINE)
    tables.put(Table.INDEX, key, row + b"!")


def lost_long_key(tables: Tables) -> None:
    key, row = next(r for r in tables.rows(Table.INDEX) if keys.is_long(r[0][5:-5]))
    tables.put(Table.INDEX, key, row[:-1] + b"?")


def both(tables: Tables) -> None:
    key, _ = tables.entry(Kind.ROW)
    tables.put(Table.INDEX, key[:-1] + keys.TOMB, keys.ENTRY.pack(0, 0, 0, 0, 0, 0, 0))


def lost_value(tables: Tables) -> None:
    key, row = tables.entry(Kind.ROW)
    tables.delete(Table.VALUES, tables.value_of(row, key))


def lost_piece(tables: Tables) -> None:
    key, row = tables.entry(Kind.PIECES)
    tables.delete(Table.VALUES, tables.value_of(row, key)[:-4] + keys.U32.pack(1))


def short_value(tables: Tables) -> None:
    key, row = tables.entry(Kind.ROW, Codec.RAW)
    at = tables.value_of(row, key)
    tables.put(Table.VALUES, at, dict(tables.rows(Table.VALUES))[at][:-1])


def lost_blob(tables: Tables) -> None:
    tables.delete(Table.VALUES, tables.rows(Table.VALUES, keys.U32.pack(0))[0][0])


def orphan(tables: Tables) -> None:
    tables.put(Table.VALUES, keys.VALUE_KEY.pack(1, 3, 7), b"nobody's")


def surplus_piece(tables: Tables) -> None:
    key, row = tables.entry(Kind.PIECES)
    tables.put(Table.VALUES, tables.value_of(row, key)[:-4] + keys.U32.pack(3), b"more")


def shared_value(tables: Tables) -> None:
    rows = [r for r in tables.rows(Table.INDEX) if r[1][0] == Kind.ROW and not keys.is_long(r[0][5:-5])]
    tables.put(Table.INDEX, rows[1][0], rows[0][1])


def used_trash(tables: Tables) -> None:
    _, row = tables.entry(Kind.ROW)
    tables.put(Table.TRASH, keys.U64.pack(keys.ENTRY.unpack_from(row)[6]), keys.TRASH.pack(1, 1, 0))


def lost_state(tables: Tables) -> None:
    tables.delete(Table.STATE, tables.rows(Table.STATE)[0][0])


def state_of_no_version(tables: Tables) -> None:
    tables.put(Table.STATE, keys.PAIR.pack(1, 4), keys.STATE.pack(1, 1))


def lost_written(tables: Tables) -> None:
    tables.delete(Table.WRITTEN, tables.rows(Table.WRITTEN)[0][0])


def false_written(tables: Tables) -> None:
    tables.put(Table.WRITTEN, keys.PAIR.pack(1, 1) + b"\x10zz\0\0", b"")


def put_ledger(tables: Tables, version: int, mutation: int, row: bytes, instance: int = 1) -> None:
    at = keys.LEDGER_KEY.pack(instance, 1, 5, 0xFFFFFFFF - version, 2**64 - 1 - mutation)
    tables.put(Table.LEDGER, at, row)


def ledger_of_nobody(tables: Tables) -> None:
    put_ledger(tables, 0, 0, bytes(8), instance=50)


def ledger_of_no_version(tables: Tables) -> None:
    put_ledger(tables, 4, 1_000_000_000, b"row")


def ledger_of_the_future(tables: Tables) -> None:
    put_ledger(tables, 1, 2_000_000_000, b"row")


def counter_of_a_mutation(tables: Tables) -> None:
    put_ledger(tables, 0, 1_000_000_000, bytes(8))


def cut_counter(tables: Tables) -> None:
    put_ledger(tables, 0, 0, bytes(7))


def cut_ledger_key(tables: Tables) -> None:
    tables.put(Table.LEDGER, keys.U32.pack(1) + b"\1", b"row")


def bad_frame(tables: Tables) -> None:
    key, row = tables.entry(Kind.ROW, Codec.ZSTD)
    at = tables.value_of(row, key)
    found = dict(tables.rows(Table.VALUES))[at]
    tables.put(Table.VALUES, at, found[:-8])


def other_blob(tables: Tables) -> None:
    name, row = tables.rows(Table.BLOBS)[0]
    tables.delete(Table.BLOBS, name)
    tables.put(Table.BLOBS, bytes(16), row)


DAMAGES: list[tuple[Damage, str]] = [
    (cut_record, "graph-records"),
    (twice_the_uuid, "graph-records"),
    (no_parent, "parents"),
    (younger_parent, "parents"),
    (open_parent, "parents"),
    (parent_elsewhere, "parents"),
    (two_leaves, "branches"),
    (instance_without_repo, "instances"),
    (two_of_a_name, "instances"),
    (low_counter, "counters"),
    (lost_change, "change-log"),
    (line_of_nobody, "log-lines"),
    (high_mutation, "mutation-log"),
    (cut_mutation, "mutation-log"),
    (cut_job, "job-records"),
    (rows_of_nobody, "owners"),
    (entry_of_no_version, "entries"),
    (unknown_family, "entries"),
    (wrong_mark, "entries"),
    (wrong_inline_size, "entries"),
    (lost_long_key, "entries"),
    (both, "tombstones"),
    (lost_value, "sizes"),
    (lost_piece, "sizes"),
    (short_value, "sizes"),
    (lost_blob, "sizes"),
    (orphan, "references"),
    (surplus_piece, "references"),
    (shared_value, "references"),
    (used_trash, "references"),
    (lost_state, "state"),
    (state_of_no_version, "state"),
    (lost_written, "written"),
    (false_written, "written"),
    (ledger_of_nobody, "owners"),
    (ledger_of_no_version, "ledger"),
    (ledger_of_the_future, "ledger"),
    (counter_of_a_mutation, "ledger"),
    (cut_counter, "ledger"),
    (cut_ledger_key, "ledger"),
    (bad_frame, "frames"),
    (other_blob, "blob-names"),
    (bad_frame, "datatypes"),
]


@pytest.mark.parametrize(("damage", "name"), DAMAGES, ids=[f"{d.__name__}-{n}" for d, n in DAMAGES])
def test_damage_is_found(damaged: Callable[[Damage], Report], damage: Damage, name: str):
    report = damaged(damage)
    assert name in {p.check for p in report.problems}, told(report)


def test_every_check_has_its_damage(tmp_path: Path):
    Store.create(tmp_path / "store")
    with open_engine(tmp_path / "store") as engine:
        assert set(check(engine).checks) == {name for _, name in DAMAGES}


def test_a_deleted_instance_is_sound_before_its_rows_are_freed(tmp_path: Path):
    Store.create(tmp_path / "store")
    with open_engine(tmp_path / "store") as engine:
        history = History(engine)
        history.do_put(b"a", os.urandom(300))
        history.do_drop()
        history.do_drop()
        before, rows = check(engine), engine.store.statistics()["rows"]["index"]
        history.do_free()
        after = check(engine)
        freed = engine.store.statistics()["rows"]["index"]
    assert (told(before), rows) == ([], 2)
    assert (told(after), freed) == ([], 0)


def test_only_the_first_problems_are_named(damaged: Callable[[Damage], Report]):
    def many(tables: Tables) -> None:
        with tables.env.begin(write=True, db=tables.dbs[Table.VALUES]) as txn:
            for number in range(1500):
                txn.put(keys.VALUE_KEY.pack(1, 10_000 + number, 0), b"x")

    report = damaged(many)
    assert report.count >= 1500
    assert len(report.problems) == 1000


def test_progress_is_told(tmp_path: Path):
    Store.create(tmp_path / "store")
    said = []
    with open_engine(tmp_path / "store") as engine:
        History(engine)
        check_store(engine, progress=lambda *words: said.append(words))
    assert {name for name, _, _ in said} >= {"parents", "sizes", "written"}
