"""The store: group commit, failure of one among many, a full disk, several processes, values in pieces, changes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from live import wait_until
from storing import another, ended, get, made, problems, putter, rows, told_by, view

from dvidfs.engine import Engine, Store, WriteTxn, jobs, open_engine, repos, values
from dvidfs.engine import store as store_module
from dvidfs.engine.changes import EVERYTHING, Feed
from dvidfs.engine.keys import PIECE, TRASH, Change, Table
from dvidfs.errors import Corrupt, DiskFull, NotFound, Stale, StoreError


class Gate:
    """Holds the write lane, so that what is queued meanwhile becomes one group."""

    def __init__(self, engine: Engine) -> None:
        self.opened, self.reached = threading.Event(), threading.Event()
        self.engine = engine

    def __enter__(self) -> Gate:
        def wait(txn: WriteTxn) -> None:
            self.reached.set()
            self.opened.wait(30)

        self.engine.store.submit(wait, lambda result, error: None)
        assert self.reached.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.set()


class Answers:
    """What the lane delivered, by the number of the write."""

    def __init__(self) -> None:
        self.results: dict[int, Any] = {}
        self.errors: dict[int, BaseException] = {}

    def to(self, number: int) -> Any:
        def deliver(result: Any, error: BaseException | None) -> None:
            if error is not None:
                self.errors[number] = error
            else:
                self.results[number] = result

        return deliver

    def wait(self, count: int) -> None:
        wait_until(lambda: len(self.results) + len(self.errors) == count, what=f"{count} answers")


# -- the write lane ----------------------------------------------------------------------------------------------


def test_many_threads_write_at_once(engine: Engine):
    uuid = made(engine)

    def work(number: int) -> None:
        for i in range(40):
            engine.write(putter(uuid, f"{number}-{i}".encode(), f"{number * i}".encode()))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine.read() as txn:
        there = view(txn, uuid)
        assert {k: bytes(there.load(e)) for k, e in there.text_entries()} == {
            f"{n}-{i}".encode(): f"{n * i}".encode() for n in range(8) for i in range(40)
        }
    assert problems(engine) == []


def test_a_group_is_one_commit_and_a_failing_write_is_rolled_back_alone(engine: Engine):
    uuid, answers = made(engine), Answers()

    def job(number: int) -> Any:
        def run(txn: WriteTxn) -> int:
            putter(uuid, b"key%d" % number, b"value")(txn)
            if number % 3 == 1:
                repos.create_repo(txn, root=f"never-{number}")
                raise ValueError(number)
            return number

        return run

    with Gate(engine):
        before = engine.store.last_txn()
        for number in range(30):
            engine.store.submit(job(number), answers.to(number))
    answers.wait(30)
    assert engine.store.last_txn() - before <= 2, "the gate's commit and one for the group"
    assert sorted(answers.errors) == [n for n in range(30) if n % 3 == 1]
    assert all(isinstance(e, ValueError) and e.args == (n,) for n, e in answers.errors.items())
    assert answers.results == {n: n for n in range(30) if n % 3 != 1}
    with engine.read() as txn:
        assert view(txn, uuid).text_keys() == sorted(b"key%d" % n for n in range(30) if n % 3 != 1)
        assert len(txn.graph.repos) == 1
    assert problems(engine) == []


def test_writes_of_a_group_see_each_other_in_order(engine: Engine):
    answers = Answers()
    with Gate(engine):
        engine.store.submit(lambda txn: repos.create_repo(txn, root="r1").uuid, answers.to(0))
        engine.store.submit(lambda txn: txn.graph.version("r1").uuid, answers.to(1))
        engine.store.submit(lambda txn: repos.create_repo(txn, root="r1"), answers.to(2))
    answers.wait(3)
    assert answers.results == {0: "r1", 1: "r1"}
    assert "already exists" in str(answers.errors[2])


@pytest.mark.parametrize("error", [KeyError("x"), NotFound("no such thing"), KeyboardInterrupt(), SystemExit(3)])
def test_a_write_that_raises_leaves_nothing_and_the_lane_lives(engine: Engine, error: BaseException):
    uuid = made(engine)
    before = engine.store.statistics()["rows"]

    def fail(txn: WriteTxn) -> None:
        putter(uuid, b"k", b"v" * 1000)(txn)
        repos.commit(txn, txn.graph.version(uuid), note="no", log=["no"])
        repos.new_version(txn, txn.graph.version(uuid))
        raise error

    with pytest.raises(type(error)):
        engine.write(fail)
    assert engine.store.statistics()["rows"] == before
    with engine.read() as txn:
        assert not txn.graph.version(uuid).locked
        assert len(list(txn.graph.nodes())) == 1
    engine.write(putter(uuid, b"k", b"after"))
    assert get(engine, uuid, b"k") == b"after"


def test_ids_of_a_write_that_failed_name_nothing_of_it_later(engine: Engine):
    """What was remembered of a version that was rolled back must not be taken for the next one's."""
    root = made(engine)
    engine.write(lambda txn: repos.commit(txn, txn.graph.version(root)))
    side = engine.write(lambda txn: repos.branch(txn, txn.graph.version(root), "side")).uuid
    engine.write(putter(side, b"k", b"of the side branch"))
    engine.write(lambda txn: repos.commit(txn, txn.graph.version(side)))

    def fail(txn: WriteTxn) -> None:
        child = repos.new_version(txn, txn.graph.version(side))
        assert view(txn, child.uuid).text_keys() == [b"k"]
        raise KeyError

    with pytest.raises(KeyError):
        engine.write(fail)
    other = engine.write(lambda txn: repos.branch(txn, txn.graph.version(root), "other")).uuid
    assert get(engine, other, b"k") is None


def test_a_write_transaction_begins_and_ends_on_the_lane(engine: Engine):
    seen = {engine.write(lambda txn: threading.current_thread().name) for _ in range(3)}
    assert seen == {"write lane"}


def test_a_listener_hears_of_each_commit_until_it_is_undone(engine: Engine):
    heard: list[int] = []
    undo = engine.store.on_commit(lambda: heard.append(1))
    made(engine)
    assert heard == [1]
    undo()
    made(engine)
    assert heard == [1]


def test_a_delivery_that_fails_harms_nobody(engine: Engine):
    def broken(result: Any, error: BaseException | None) -> None:
        raise RuntimeError("the one who asked is gone")

    engine.store.submit(lambda txn: repos.create_repo(txn), broken)
    assert made(engine)
    with engine.read() as txn:
        assert len(txn.graph.repos) == 2


def test_close_finishes_what_is_queued(store_path: Path):
    answers = Answers()
    with open_engine(store_path) as engine:
        uuid = made(engine)
        for number in range(200):
            engine.store.submit(putter(uuid, b"%d" % number, b"v"), answers.to(number))
    assert len(answers.results) == 200
    with pytest.raises(StoreError, match="closed"):
        engine.write(lambda txn: None)
    engine.close()
    with open_engine(store_path) as engine, engine.read() as txn:
        assert len(view(txn, uuid).text_keys()) == 200


def test_a_snapshot_does_not_move(engine: Engine):
    uuid = made(engine)
    engine.write(putter(uuid, b"k", b"old"))
    with engine.read() as txn:
        engine.write(putter(uuid, b"k", b"new"))
        engine.write(lambda w: repos.commit(w, w.graph.version(uuid)))
        assert bytes(view(txn, uuid).load(view(txn, uuid).text_entry(b"k"))) == b"old"
        assert not txn.graph.version(uuid).locked
    assert get(engine, uuid, b"k") == b"new"


# -- a full disk -------------------------------------------------------------------------------------------------


@pytest.fixture
def small(store_path: Path) -> Iterator[Engine]:
    """An engine whose map is full after about 4 MB."""
    engine = Engine(Store(store_path, map_size=4 << 20))
    yield engine
    engine.close()


def test_a_full_disk_refuses_writes_and_nothing_else(small: Engine):
    uuid = made(small)
    noise = os.urandom(100_000)
    kept = 0
    with pytest.raises(DiskFull) as told:
        for kept in range(100):
            small.write(putter(uuid, b"%03d" % kept, noise))
    assert "\n" not in str(told.value)
    assert 10 < kept < 45
    for _ in range(3):
        with pytest.raises(DiskFull):
            small.write(putter(uuid, b"more", noise * 3))
    with small.read() as txn:
        assert view(txn, uuid).text_keys() == [b"%03d" % n for n in range(kept)]
    assert get(small, uuid, b"005") == noise
    assert problems(small) == []
    for number in range(kept // 2):  # freeing works, and makes room
        small.write(lambda txn, n=number: view(txn, uuid).delete_text(b"%03d" % n))
    small.write(putter(uuid, b"again", noise))
    assert get(small, uuid, b"again") == noise
    assert problems(small) == []


def test_in_a_group_only_what_does_not_fit_is_refused(small: Engine):
    uuid, answers = made(small), Answers()
    with Gate(small):
        small.store.submit(putter(uuid, b"first", b"1"), answers.to(0))
        small.store.submit(putter(uuid, b"huge", os.urandom(8 << 20)), answers.to(1))
        small.store.submit(putter(uuid, b"last", b"3"), answers.to(2))
    answers.wait(3)
    assert sorted(answers.results) == [0, 2]
    assert isinstance(answers.errors[1], DiskFull)
    with small.read() as txn:
        assert view(txn, uuid).text_keys() == [b"first", b"last"]
    assert problems(small) == []


def test_an_upload_into_a_full_disk_fails_and_is_freed(small: Engine):
    uuid = made(small)
    with small.read() as txn:
        upload = values.Upload(small.store, view(txn, uuid).instance.id)
    with pytest.raises(DiskFull):
        upload.feed(os.urandom(8 << 20))
    small.write(lambda txn: values.sweep(txn, keep_ns=-1))
    assert rows(small, Table.VALUES) == rows(small, Table.TRASH) == 0
    small.write(putter(uuid, b"k", os.urandom(100_000)))
    assert problems(small) == []


# -- several processes -------------------------------------------------------------------------------------------


def test_two_processes_write_the_same_store(store_path: Path):
    with open_engine(store_path) as engine:
        uuid = made(engine)
        child = another(
            store_path,
            f"""
            print("ready", flush=True)
            for i in range(150):
                engine.write(put({uuid!r}, b"theirs%d" % i, b"t" * i))
                if i % 10 == 0:
                    engine.write(lambda txn: repos.create_repo(txn, alias=f"theirs{{i}}"))
            """,
        )
        assert told_by(child) == "ready"
        for i in range(150):
            engine.write(putter(uuid, b"ours%d" % i, b"o" * i))
            if i % 10 == 0:
                engine.write(lambda txn, i=i: repos.create_repo(txn, alias=f"ours{i}"))
        ended(child)
        with engine.read() as txn:
            there = view(txn, uuid)
            assert {k: e.size for k, e in there.text_entries()} == {
                f"{who}{i}".encode(): i for who in ("ours", "theirs") for i in range(150)
            }
            aliases = sorted(r.alias for r in txn.graph.repos.values())
        assert aliases == sorted(["", *(f"{who}{i}" for who in ("ours", "theirs") for i in range(0, 150, 10))])
        assert problems(engine) == []


def test_what_another_process_did_to_the_graph_is_seen_at_once(store_path: Path):
    with open_engine(store_path) as engine:
        uuid = made(engine)
        child = another(
            store_path,
            """
            for line in sys.stdin:
                exec(line)
                print("done", flush=True)
            """,
        )

        def there(line: str) -> None:
            assert child.stdin is not None
            child.stdin.write(line + "\n")
            child.stdin.flush()
            assert told_by(child) == "done"

        there("other = engine.write(lambda txn: repos.create_repo(txn, root='0' * 32)).uuid")
        with engine.read() as txn:
            assert txn.graph.version("0" * 32).uuid == "0" * 32
        there(f"engine.write(lambda txn: repos.commit(txn, txn.graph.version({uuid!r})))")
        there(f"engine.write(lambda txn: repos.new_version(txn, txn.graph.version({uuid!r}), uuid='1' * 32))")
        engine.write(putter("1" * 32, b"k", b"v"))
        there(
            f"engine.write(lambda txn: repos.rename_instance(txn, txn.graph.instance(txn.graph.version({uuid!r}), 'kv'), 'new'))"
        )
        assert get(engine, "1" * 32, b"k", "new") == b"v"
        there("engine.write(lambda txn: engine.delete_repo(txn, txn.graph.repo_of(txn.graph.version('0' * 32))))")
        with engine.read() as txn:
            assert "0" * 32 not in txn.graph.versions
        assert child.stdin is not None
        child.stdin.close()
        ended(child)


def test_a_process_that_missed_more_than_the_log_keeps_loads_the_graph_anew(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(store_module, "GRAPHLOG_KEPT", 8)
    with open_engine(store_path) as engine:
        uuid = made(engine)
        loads: list[int] = []
        load = engine.store._load_graph
        monkeypatch.setattr(engine.store, "_load_graph", lambda *args: loads.append(1) or load(*args))
        for count, loaded in ((3, 0), (20, 1), (2, 1)):
            child = another(
                store_path,
                f"""
                from dvidfs.engine import store
                store.GRAPHLOG_KEPT = 8
                for i in range({count}):
                    engine.write(lambda txn: repos.create_repo(txn))
                engine.write(lambda txn: repos.set_note(txn, txn.graph.version({uuid!r}), "{count}"))
                with engine.read() as txn:
                    print(*sorted(n.uuid for n in txn.graph.nodes()), flush=True)
                """,
            )
            theirs = told_by(child).split()
            ended(child)
            with engine.read() as txn:
                assert sorted(n.uuid for n in txn.graph.nodes()) == theirs
                assert txn.graph.version(uuid).note == str(count)
            assert len(loads) == loaded
        assert rows(engine, Table.GRAPHLOG) <= 9


# -- opening -----------------------------------------------------------------------------------------------------


def test_no_store_there(tmp_path: Path):
    with pytest.raises(StoreError, match="dvidfs init"):
        Store(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_store_is_made_once_and_only_in_an_empty_folder(tmp_path: Path, store_path: Path):
    with pytest.raises(StoreError, match="already holds"):
        Store.create(store_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(StoreError, match="not an empty folder"):
        Store.create(tmp_path / "full")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="not an empty folder"):
        Store.create(tmp_path / "file")
    with pytest.raises(StoreError, match="cannot make"):
        Store.create(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "file").read_text() == "mine"


@pytest.mark.parametrize("content", [b"", b"no database" * 1000, b"\0" * 8192], ids=["empty", "text", "zeros"])
def test_a_file_that_is_no_store_is_refused_in_one_line(tmp_path: Path, content: bytes):
    (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(StoreError) as told:
        Store(tmp_path)
    assert "\n" not in str(told.value)
    assert str(tmp_path) in str(told.value)


def test_somebody_elses_database_is_refused(tmp_path: Path):
    with lmdb.open(str(tmp_path), max_dbs=2) as env, env.begin(write=True) as txn:
        txn.put(b"k", b"v")
    with pytest.raises(StoreError, match="format unknown"):
        Store(tmp_path)


@pytest.mark.parametrize(("number", "hint"), [(b"2", "newer dvidfs"), (b"0", "init"), (b"x", "init")])
def test_another_format_says_what_to_do(store_path: Path, number: bytes, hint: str):
    with lmdb.open(str(store_path), max_dbs=32) as env:
        meta = env.open_db(b"meta")
        with env.begin(write=True) as txn:
            txn.put(b"format", number, db=meta)
    with pytest.raises(StoreError, match=hint):
        Store(store_path)


def test_network_file_systems_are_refused(store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "_file_system", lambda path: "nfs4")
    with pytest.raises(StoreError, match="network file system"):
        Store(store_path)
    with pytest.raises(StoreError, match="network file system"):
        Store.create(tmp_path / "fresh")


def test_the_file_system_of_a_folder_is_known(tmp_path: Path):
    assert store_module._file_system(Path("/proc")) == "proc"
    assert store_module._file_system(tmp_path)


@pytest.mark.parametrize("durability", ["durable", "periodic"])
def test_both_durabilities_keep_what_was_written(store_path: Path, durability: Any):
    with open_engine(store_path, durability=durability) as engine:
        uuid = made(engine)
        engine.write(putter(uuid, b"k", b"v"))
        engine.store.sync()
    with open_engine(store_path) as engine:
        assert get(engine, uuid, b"k") == b"v"


# -- values in pieces --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 17])
@pytest.mark.parametrize("noise", [False, True])
def test_an_upload_comes_back(engine: Engine, size: int, noise: bool):
    uuid = made(engine)
    data = os.urandom(size) if noise else b"ab" * (size // 2) + b"c" * (size % 2)
    with engine.read() as txn:
        upload = values.Upload(engine.store, view(txn, uuid).instance.id)
    for at in range(0, size, 300_000):
        upload.feed(data[at : at + 300_000])
    value = upload.finish()
    engine.write(lambda txn: view(txn, uuid).put_text(b"k", value))
    assert get(engine, uuid, b"k") == data
    with engine.read() as txn:
        there = view(txn, uuid)
        entry = there.text_entry(b"k")
        assert entry.size == size
        for start, stop in [(0, 1), (PIECE - 1, PIECE + 1), (size - 1, size), (size // 2, None), (5, 5), (0, size * 2)]:
            if start >= 0:
                found = b"".join(map(bytes, there.stream(entry, start, stop)))
                assert found == data[start:stop]
    assert rows(engine, Table.TRASH) == 0
    assert problems(engine) == []


def test_replaced_pieces_stay_for_an_hour(engine: Engine):
    uuid = made(engine)
    with engine.read() as txn:
        instance = view(txn, uuid).instance.id
    big = os.urandom(2 * PIECE + 5)
    upload = values.Upload(engine.store, instance)
    upload.feed(big)
    value = upload.finish()
    engine.write(lambda txn: view(txn, uuid).put_text(b"k", value))
    with engine.read() as txn:
        old = view(txn, uuid).text_entry(b"k")
    engine.write(putter(uuid, b"k", b"short"))
    jobs.sweep(engine)
    with engine.read() as txn:
        assert b"".join(map(bytes, view(txn, uuid).stream(old))) == big
    assert engine.write(lambda txn: values.sweep(txn, limit=2, keep_ns=-1)), "more are waiting"
    while engine.write(lambda txn: values.sweep(txn, limit=2, keep_ns=-1)):
        pass
    with engine.read() as txn, pytest.raises(Stale):
        list(view(txn, uuid).stream(old))
    assert get(engine, uuid, b"k") == b"short"
    assert rows(engine, Table.VALUES) == rows(engine, Table.TRASH) == 0
    assert problems(engine) == []


def age(engine: Engine) -> None:
    """Make everything in the trash older than it may get."""

    def change(txn: WriteTxn) -> None:
        for key, row in list(txn.scan(Table.TRASH, b"", b"\xff" * 9)):
            instance, count, _ = TRASH.unpack(row)
            txn.put(Table.TRASH, key, TRASH.pack(instance, count, txn.now - 2 * values.KEEP_NS))

    engine.write(change)


@pytest.mark.parametrize("limit", [256, 1], ids=["swept", "half swept"])
@pytest.mark.parametrize("more", [True, False], ids=["goes on", "ends"])
def test_an_upload_that_paused_too_long_is_refused_whole(engine: Engine, limit: int, more: bool):
    uuid = made(engine)
    with engine.read() as txn:
        upload = values.Upload(engine.store, view(txn, uuid).instance.id)
    upload.feed(os.urandom(2 * PIECE))
    age(engine)
    engine.write(lambda txn: values.sweep(txn, limit=limit))

    def finish() -> None:
        if more:
            upload.feed(os.urandom(PIECE))
        value = upload.finish()
        engine.write(lambda txn: view(txn, uuid).put_text(b"k", value))

    with pytest.raises(Stale):
        finish()
    assert get(engine, uuid, b"k") is None
    assert problems(engine) == []


def test_an_upload_that_nobody_points_to_is_freed(engine: Engine):
    uuid = made(engine)
    with engine.read() as txn:
        upload = values.Upload(engine.store, view(txn, uuid).instance.id)
    upload.feed(os.urandom(3 * PIECE))
    jobs.sweep(engine)
    assert rows(engine, Table.VALUES) == 3
    age(engine)
    jobs.sweep(engine)
    assert rows(engine, Table.VALUES) == rows(engine, Table.TRASH) == 0


def test_a_damaged_value_is_told_as_such(engine: Engine):
    uuid = made(engine)
    engine.write(putter(uuid, b"k", bytes(range(256)) * 20))

    def damage(txn: WriteTxn) -> None:
        key, _ = next(txn.scan(Table.VALUES, b"", b"\xff" * 20))
        txn.put(Table.VALUES, bytes(key), b"no frame")

    engine.write(damage)
    with pytest.raises(Corrupt, match="dvidfs check"):
        get(engine, uuid, b"k")


# -- changes -----------------------------------------------------------------------------------------------------


def test_a_feed_tells_what_was_written(engine: Engine):
    uuid = made(engine)
    with engine.read() as txn:
        feed = Feed(txn)
        instance = view(txn, uuid).instance.id
        assert feed.poll(txn) == []
    engine.write(putter(uuid, b"k", b"v"))
    engine.write(lambda txn: [putter(uuid, b"%d" % i, b"v")(txn) for i in range(200)])
    engine.write(lambda txn: repos.commit(txn, txn.graph.version(uuid)))
    engine.write(lambda txn: repos.rename_instance(txn, txn.graph.instance_by_id(instance), "other"))
    with engine.read() as txn:
        found = feed.poll(txn)
        assert feed.poll(txn) == []
    assert [c.what for c in found] == [Change.KEY, Change.INSTANCE, Change.GRAPH, Change.GRAPH, Change.HISTORY]
    assert {c.instance for c in found[:2]} == {instance}
    assert found[0].key.endswith(b"k\0\0")


def test_a_feed_that_fell_off_the_end_says_everything(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "CHANGES_KEPT", 10)
    uuid = made(engine)
    with engine.read() as txn:
        feed = Feed(txn)
    for i in range(30):
        engine.write(putter(uuid, b"%d" % i, b"v"))
    with engine.read() as txn:
        assert feed.poll(txn)[0] == EVERYTHING
        assert feed.poll(txn) == []
    assert rows(engine, Table.CHANGES) <= 11
    engine.write(putter(uuid, b"k", b"v"))
    with engine.read() as txn:
        assert [c.what for c in feed.poll(txn)] == [Change.KEY]
