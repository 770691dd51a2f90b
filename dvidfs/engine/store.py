"""The LMDB environment: snapshot reads, and the one write lane with group commit. The only module that imports lmdb.

A write is a plain synchronous function over a :class:`WriteTxn`, begun and ended on the lane's own thread. The lane
takes what is queued (up to :data:`BATCH_BYTES` or :data:`BATCH_SECONDS`), runs the functions in one transaction,
commits once (one fsync when durable) and answers all. One that fails is rolled back alone: nearly all fail before they write;
if one has written already, the group is run again with a nested transaction for each. So a function may be run more than once, and touches
nothing but its transaction. No API returns an open write transaction.

A transaction knows raw rows of tables, ids, the :class:`~dvidfs.engine.graph.Graph` of its snapshot and the notes of
what it changed (``changes``, ``state``, ``written``); versions, values and rules lie in the modules above.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import lmdb

from dvidfs.engine import records
from dvidfs.engine.graph import Graph, Instance, Node, Repo
from dvidfs.engine.keys import (
    CHANGE,
    FORMAT,
    I64LE,
    IDS,
    LINE_KEY,
    NOW,
    PAIR,
    STATE,
    U32,
    U64,
    U64LE,
    Change,
    Table,
)
from dvidfs.engine.listings import Listings
from dvidfs.errors import DiskFull, StoreError

log = logging.getLogger(__name__)

T = TypeVar("T")
Durability = Literal["durable", "periodic"]
Buffer = bytes | memoryview

MAP_SIZE = 1 << 44
"""Address space reserved: 16 TiB. The file grows with the data, so full means that the disk is full. (64 TiB would
leave room for one store in a process: the address space of x86-64 has 128.)"""
BATCH_BYTES = 32 << 20
BATCH_SECONDS = 0.05
GATHER_SECONDS = 0.0005
CHANGES_KEPT = 65_536
"""Rows of the ``changes`` table; a process that fell further behind drops all of its caches."""
GRAPHLOG_KEPT = 4_096
KEYS_PER_CHANGE = 64
"""A transaction that changed more keys of an instance than this notes the instance as a whole."""
WHOLE = b""
"""In place of a key: the instance as a whole."""
SYNC_SECONDS = 1.0
ZERO = NOW.pack(0, 0)
NETWORK_FS = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "ceph",
        "lustre",
        "gpfs",
        "beegfs",
        "afs",
        "fuse.sshfs",
        "glusterfs",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.rclone",
        "orangefs",
    }
)


class ReadTxn:
    """One snapshot: rows, and the graph that belongs to them. Not for two threads at once."""

    __slots__ = ("_cursors", "_dbs", "_lmdb", "_views", "graph", "store")

    def __init__(self, store: Store, txn: lmdb.Transaction, graph: Graph) -> None:
        self.store = store
        self._lmdb = txn
        self._views: lmdb.Transaction | None = None
        self._dbs = store.dbs
        self._cursors = None
        self.graph = graph

    @property
    def snapshot(self) -> int | None:
        """What is seen: to transactions of the same number the same rows, at the same addresses. None while writing."""
        return self._lmdb.id()

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self._lmdb.get(key, db=self._dbs[table])  # type: ignore[return-value] # no buffers here

    def get_many(self, table: Table, keys: list[bytes]) -> list[Buffer]:
        """Values of those rows that exist, in the order of ``keys``: views of the map, dead when the transaction ends.

        Whether values are copied is decided for a whole LMDB transaction, so a second one looks at the same snapshot;
        if a commit came between the two, values are copied after all.
        """
        if self._views is None:
            twin = self.store.views()
            if twin.id() != self._lmdb.id():
                twin.abort()
                twin = self._lmdb
            self._views = twin
        with self._views.cursor(db=self._dbs[table]) as cursor:
            return [value for _, value in cursor.getmulti(keys)]

    def end(self) -> None:
        """Give the snapshot back."""
        if self._views is not None:
            self._views.abort()
        self._lmdb.abort()

    def cursor(self, table: Table) -> lmdb.Cursor:
        """This transaction's own cursor on a table: shared by its users, so it moves under a generator of another."""
        held = self._cursors
        if held is None:
            held = self._cursors = {}
        found = held.get(table)
        if found is None:
            found = held[table] = self._lmdb.cursor(db=self._dbs[table])
        return found

    def new_cursor(self, table: Table) -> lmdb.Cursor:
        return self._lmdb.cursor(db=self._dbs[table])

    def scan(self, table: Table, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < stop, in key order, on a cursor of its own."""
        with self.new_cursor(table) as cursor:
            if not cursor.set_range(start):
                return
            steps: Any = cursor.iternext(keys=True, values=True)
            for key, value in steps:
                if key >= stop:
                    return
                yield key, value

    def counter(self, name: bytes) -> int:
        row = self.get(Table.META, name)
        return U64LE.unpack(row)[0] if row else 0

    def state(self, instance: int, version: int) -> tuple[int, int]:
        """How often an instance changed at a version, and the time (ns) of the last change; zeros if never."""
        row = self.get(Table.STATE, PAIR.pack(instance, version))
        return STATE.unpack(row) if row else (0, 0)

    def mutation_id(self, repo: int) -> int:
        """The next mutation id of a repo."""
        row = self.get(Table.META, b"mutid" + U32.pack(repo))
        return U64LE.unpack(row)[0] if row else self.store.first_mutation_id

    def lines(self, scope: bytes, owner: int) -> list[tuple[int, str]]:
        """The log of a repo (scope ``r``) or node (``n``): (time ns, text), oldest first."""
        start = LINE_KEY.pack(scope[0], owner, 0)
        stop = LINE_KEY.pack(scope[0], owner, 0xFFFFFFFF)
        return [(I64LE.unpack_from(v)[0], bytes(v[8:]).decode()) for _, v in self.scan(Table.LINES, start, stop)]


class WriteTxn(ReadTxn):
    """A transaction of the lane, for one function or for a group. What it notes is written by :meth:`finish`.

    ``changes`` counts calls that write; ``now`` (ns) is the time of everything that this transaction writes; ``after`` is
    run when it has been committed, in the lane: to keep for readers what was found while writing. It must not fail.
    """

    __slots__ = ("_flags", "_ids", "_mutids", "_rewritten", "_touched", "_tracked", "after", "changes", "now")

    def __init__(self, store: Store, txn: lmdb.Transaction, graph: Graph) -> None:
        super().__init__(store, txn, graph)
        self.now = time.time_ns()
        self.changes = 0
        self.after: list[Callable[[], None]] = []
        self._mutids: dict[int, int] = {}
        self._flags: set[Change] = set()
        self._rewritten: set[int] = set()
        self._touched: dict[tuple[int, int], list[bytes]] = {}
        self._tracked: dict[tuple[int, int], bool] = {}
        self._ids: list[int] | None = None
        self._views = txn  # a snapshot beside it would not see what it has written

    @property
    def snapshot(self) -> None:
        return None

    def put(self, table: Table, key: bytes, value: Buffer) -> None:
        self.changes += 1
        self._lmdb.put(key, value, db=self._dbs[table])

    def put_many(self, table: Table, rows: list[tuple[bytes, Buffer]]) -> None:
        """Rows in key order go in fastest."""
        self.changes += 1
        self.cursor(table).putmulti(rows)

    def delete(self, table: Table, key: bytes) -> bool:
        self.changes += 1
        return self._lmdb.delete(key, db=self._dbs[table])

    def delete_range(self, table: Table, start: bytes, stop: bytes, limit: int = 1 << 62) -> int:
        """Delete rows with start <= key < stop, at most ``limit``; how many went."""
        self.changes += 1
        cursor, count = self.cursor(table), 0
        alive = cursor.set_range(start)
        while alive and count < limit and bytes(cursor.key()) < stop:
            alive = cursor.delete()
            count += 1
        return count

    def new_id(self, which: Literal["repo", "version", "instance", "value", "job"]) -> int:
        if self._ids is None:
            row = self.get(Table.META, b"ids")
            self._ids = list(IDS.unpack(row)) if row else [1, 1, 1, 1, 1]
        at = ("repo", "version", "instance", "value", "job").index(which)
        self._ids[at] += 1
        return self._ids[at] - 1

    def new_ids(self, which: Literal["value"], count: int) -> int:
        """The first of ``count`` ids in a row."""
        first = self.new_id(which)
        if self._ids is not None and count > 0:
            self._ids[3] += count - 1
        return first

    def new_mutation_id(self, repo: int) -> int:
        found = self.mutation_id(repo)
        self._mutids[repo] = found + 1
        self.changes += 1
        return found

    def mutation_id(self, repo: int) -> int:
        return self._mutids.get(repo) or super().mutation_id(repo)

    def state(self, instance: int, version: int) -> tuple[int, int]:
        count, when = super().state(instance, version)
        pending = self._touched.get((instance, version))
        return (count + len(pending), self.now) if pending else (count, when)

    def add_line(self, scope: bytes, owner: int, text: str) -> None:
        cursor = self.cursor(Table.LINES)
        end = LINE_KEY.pack(scope[0], owner, 0xFFFFFFFF)
        before = cursor.prev() if cursor.set_range(end) else cursor.last()
        number = 0
        if before and cursor.key()[:5] == end[:5]:
            number = LINE_KEY.unpack(cursor.key())[2] + 1
        self.put(Table.LINES, LINE_KEY.pack(scope[0], owner, number), I64LE.pack(self.now) + text.encode())

    # -- the graph -------------------------------------------------------------------------------------------

    def put_repo(self, repo: Repo) -> None:
        self.graph = self.graph.with_repo(repo)
        self._graph_row(b"r" + U32.pack(repo.id), records.dump(repo.record()))

    def put_node(self, node: Node) -> None:
        self.graph = self.graph.with_node(node)
        self._graph_row(b"n" + U32.pack(node.id), records.dump(node.record()))

    def put_instance(self, instance: Instance) -> None:
        self.graph = self.graph.with_instance(instance)
        self._graph_row(b"i" + U32.pack(instance.id), records.dump(instance.record()))

    def drop_instance(self, instance: Instance) -> None:
        self.graph = self.graph.without_instance(instance)
        self._graph_row(b"i" + U32.pack(instance.id), None)

    def drop_repo(self, repo: Repo) -> None:
        for instance in repo.instances.values():
            self.drop_instance(instance)
        for node in repo.nodes.values():
            self._graph_row(b"n" + U32.pack(node.id), None)
        self._graph_row(b"r" + U32.pack(repo.id), None)
        self.graph = self.graph.without_repo(repo)

    def _graph_row(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self.delete(Table.GRAPH, key)
        else:
            self.put(Table.GRAPH, key, value)
        gen = self.graph.gen + 1
        self.put(Table.GRAPHLOG, U64.pack(gen), key)
        if gen > GRAPHLOG_KEPT:
            self.delete(Table.GRAPHLOG, U64.pack(gen - GRAPHLOG_KEPT))
        self.graph = records.with_counters(self.graph, gen=gen)
        self.put(Table.META, b"now", self.graph.now)
        self._flags.add(Change.GRAPH)

    def rewrite_history(self, instance: int = 0) -> None:
        """Note that committed data were changed: caches keyed by version and ``history`` are void.

        ``instance``: one of which all versions look different now.
        """
        if instance:
            self._rewritten.add(instance)
        self.graph = records.with_counters(self.graph, history=self.graph.history + 1)
        self.put(Table.META, b"now", self.graph.now)
        self._flags.add(Change.HISTORY)

    # -- what changed ----------------------------------------------------------------------------------------

    def touch(self, instance: Instance, version: int, key: bytes) -> None:
        """Note that the entry ``key`` (index key without its suffix) of an instance changed at a version."""
        at = instance.id, version
        if at not in self._touched:
            self._touched[at] = []
            self._tracked[at] = instance.versioned
        self._touched[at].append(key)

    def touch_whole(self, instance: Instance, version: int) -> None:
        """Note that what an instance shows at a version changed without any entry of its keys."""
        self.touch(instance, version, WHOLE)

    def touch_many(self, instance: Instance, version: int, keys: list[bytes]) -> None:
        if keys:
            self.touch(instance, version, keys[0])
            self._touched[instance.id, version].extend(keys[1:])

    def finish(self) -> None:
        """Write the counters and notes that the functions left; called once, by the lane."""
        for at, keys in self._touched.items():
            self.put(Table.STATE, PAIR.pack(*at), STATE.pack(*self.state(*at)))
            if self._tracked[at]:  # only versions can be merged; an unversioned instance has one
                pair = PAIR.pack(*at)
                self.put_many(Table.WRITTEN, [(pair + key[4:], b"") for key in sorted(keys) if key != WHOLE])
        if self._ids is not None:
            self.put(Table.META, b"ids", IDS.pack(*self._ids))
        for repo, number in self._mutids.items():
            self.put(Table.META, b"mutid" + U32.pack(repo), U64LE.pack(number))
        if self._touched or self._flags:
            seq = self.counter(b"seq")
            self.put(Table.CHANGES, U64.pack(seq), b"".join(self._notes()))
            self.put(Table.META, b"seq", U64LE.pack(seq + 1))
            if seq >= CHANGES_KEPT:
                self.delete(Table.CHANGES, U64.pack(seq - CHANGES_KEPT))

    def _notes(self) -> Iterator[bytes]:
        for flag in sorted(self._flags):
            yield CHANGE.pack(flag, 0, 0, 0)
        for instance in sorted(self._rewritten):
            yield CHANGE.pack(Change.HISTORY, instance, 0, 0)
        for at, keys in self._touched.items():
            if len(keys) > KEYS_PER_CHANGE or WHOLE in keys:
                yield CHANGE.pack(Change.INSTANCE, *at, 0)
                continue
            for key in keys:
                yield CHANGE.pack(Change.KEY, *at, len(key)) + key


class _Job:
    """A queued write: what to run, whom to tell, and how it ended."""

    __slots__ = ("deliver", "error", "fn", "result", "size")

    def __init__(
        self, fn: Callable[[WriteTxn], Any], deliver: Callable[[Any, BaseException | None], None], size: int
    ) -> None:
        self.fn = fn
        self.deliver = deliver
        self.size = size
        self.result: Any = None
        self.error: BaseException | None = None


class _Spoilt(Exception):  # a signal inside the lane
    """A function of a group failed after it had written something."""


class Store:
    """One open environment; at most one per process and path. Close it with :meth:`close`."""

    def __init__(
        self,
        path: Path,
        *,
        durability: Durability = "durable",
        first_mutation_id: int = 1_000_000_000,
        map_size: int = MAP_SIZE,
    ) -> None:
        """Open an existing store (see :meth:`create`).

        Raises:
            StoreError: no store there, another format, a network file system; the text says what to do.
        """
        self.path = path
        self.durability: Durability = durability
        self.first_mutation_id = first_mutation_id
        if not (path / "data.mdb").exists():
            raise StoreError(f"{path} is not a dvidfs store: make one with `dvidfs init {path}`")
        refuse_network(path)
        self._env = _open(path, durability, map_size)
        self.dbs = self._open_tables()
        self._meta = self.dbs[Table.META]
        self._graph = self._load_graph()
        self._graph_lock = threading.Lock()
        self._seen = (-1, self._graph)
        self.listings = Listings()
        self._listeners: list[Callable[[], None]] = []
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._dirty = threading.Event()
        self._ending = threading.Event()
        self._lane = threading.Thread(target=self._run_lane, name="write lane", daemon=True)
        self._lane.start()
        self._syncer: threading.Thread | None = None
        if durability == "periodic":
            self._syncer = threading.Thread(target=self._run_syncer, name="periodic sync", daemon=True)
            self._syncer.start()
        self._env.reader_check()

    @staticmethod
    def create(path: Path) -> None:
        """Make an empty store in a new or empty folder."""
        if (path / "data.mdb").exists():
            raise StoreError(f"{path} already holds a dvidfs store: use it, or choose another folder")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise StoreError(f"{path} exists and is not an empty folder: choose another place for the store")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise StoreError(f"cannot make {path}: {e.strerror}") from None
        refuse_network(path)
        env = _open(path, "durable", MAP_SIZE)
        with env.begin(write=True) as txn:
            for table in Table:
                env.open_db(table.encode(), txn=txn)
            txn.put(b"format", str(FORMAT).encode(), db=env.open_db(Table.META.encode(), txn=txn))
        env.close()

    def close(self) -> None:
        """Finish what is queued, sync, close. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        self._lane.join()
        if self._syncer is not None:
            self._ending.set()
            self._dirty.set()
            self._syncer.join()
        with suppress(lmdb.Error):
            self._env.sync(True)
        self._env.close()

    # -- reading ---------------------------------------------------------------------------------------------

    @contextmanager
    def read(self) -> Iterator[ReadTxn]:
        """A snapshot for the length of a ``with``."""
        txn = self.begin()
        try:
            yield txn
        finally:
            self.end(txn)

    def begin(self) -> ReadTxn:
        """Like :meth:`read` for the hottest callers, who promise to call :meth:`end`."""
        txn = self._env.begin()
        snapshot, graph = self._seen
        if txn.id() != snapshot:
            graph = self._graph
            if txn.get(b"now", db=self._meta, default=ZERO) != graph.now:
                graph = self._refresh(txn)
            self._seen = txn.id(), graph
        return ReadTxn(self, txn, graph)

    @staticmethod
    def end(txn: ReadTxn) -> None:
        txn.end()

    def views(self) -> lmdb.Transaction:
        """A snapshot whose values are views of the map; for :meth:`ReadTxn.get_many`."""
        return self._env.begin(buffers=True)

    def last_txn(self) -> int:
        """Id of the last committed transaction of any process: a cheap wake-up."""
        return self._env.info()["last_txnid"]

    def on_commit(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` (from the lane's thread, briefly) after each commit of this process; returns the undo."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def statistics(self) -> dict[str, Any]:
        """Sizes for ``dvidfs status``: bytes of the file, rows of each table."""
        with self._env.begin() as txn:
            tables = {str(t): txn.stat(db)["entries"] for t, db in self.dbs.items()}
        return {
            "path": str(self.path),
            "format": FORMAT,
            "durability": self.durability,
            "bytes": (self.path / "data.mdb").stat().st_size,
            "rows": tables,
            "readers": self._env.info()["num_readers"],
        }

    # -- writing ---------------------------------------------------------------------------------------------

    def submit(
        self, fn: Callable[[WriteTxn], Any], deliver: Callable[[Any, BaseException | None], None], size: int = 0
    ) -> None:
        """Queue a write. ``deliver(result, error)`` is called from the lane's thread once it is decided.

        ``size`` is about how many bytes it will write. A write that has been queued is never abandoned.
        """
        if self._closed:
            raise StoreError(f"the store {self.path} is closed")
        self._jobs.put(_Job(fn, deliver, size))

    def write(self, fn: Callable[[WriteTxn], T], size: int = 0) -> T:
        """Run a write and wait for its commit; for threads that may block."""
        done = threading.Event()
        box: list[Any] = []

        def deliver(result: Any, error: BaseException | None) -> None:
            box.extend((result, error))
            done.set()

        self.submit(fn, deliver, size)
        done.wait()
        if box[1] is not None:
            raise box[1]
        return box[0]

    def sync(self) -> None:
        """Everything committed so far is on disk when this returns."""
        self._env.sync(True)

    def _run_lane(self) -> None:
        expected = 1
        while (first := self._jobs.get()) is not None:
            batch, stop = self._gather(first, expected)
            expected = len(batch)
            self._run_batch(batch)
            for job in batch:
                try:
                    job.deliver(job.result, job.error)
                except Exception:
                    log.exception("the answer of a write could not be delivered")
            if stop:
                return

    def _gather(self, first: _Job, expected: int) -> tuple[list[_Job], bool]:
        """What is queued behind the first; whether the lane shall end.

        Those who were answered together ask again together: so as many as last time are waited for, a moment each.
        """
        batch, size = [first], first.size
        deadline = time.monotonic() + BATCH_SECONDS
        while size < BATCH_BYTES and time.monotonic() < deadline:
            try:
                job = self._jobs.get(timeout=GATHER_SECONDS) if len(batch) < expected else self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return batch, True
            batch.append(job)
            size += job.size
        return batch, False

    def _run_batch(self, batch: list[_Job], *, nested: bool = False) -> None:
        try:
            top = self._commit(batch, nested=nested)
        except BaseException as e:  # noqa: BLE001 - whatever it is, its caller is told and the lane lives on
            self._run_apart(batch, e)
            return
        graph = top.graph
        if graph is not self._graph:
            with self._graph_lock:
                if (graph.gen, graph.history) > (self._graph.gen, self._graph.history):
                    self._graph = graph
        for keep in top.after:
            keep()
        self._dirty.set()
        for listener in self._listeners:
            listener()

    def _run_apart(self, batch: list[_Job], error: BaseException) -> None:
        """A group failed as a whole: tell the one that cannot be written from those that can."""
        if len(batch) == 1:
            batch[0].result, batch[0].error = None, _domain(error)
            return
        for job in batch:
            job.result = job.error = None
        if isinstance(error, _Spoilt):
            self._run_batch(batch, nested=True)
            return
        for job in batch:
            self._run_batch([job])

    def _commit(self, batch: list[_Job], *, nested: bool) -> WriteTxn:
        """Run a group in one transaction. Most functions fail before they write anything, if at all: so they run one
        after the other in it, and only when one has failed in its middle does each get a nested transaction."""
        with self._env.begin(write=True) as txn:
            top = self._fresh(txn)
            for job in batch:
                if nested:
                    self._run_nested(txn, top, job)
                else:
                    self._run_flat(top, job, alone=len(batch) == 1)
            top.finish()
        return top

    @staticmethod
    def _run_flat(top: WriteTxn, job: _Job, *, alone: bool) -> None:
        before = top.changes
        try:
            job.result = job.fn(top)
        except BaseException as e:
            if alone:
                raise
            if top.changes != before:
                raise _Spoilt from e
            job.error = _domain(e)

    def _run_nested(self, parent: lmdb.Transaction, top: WriteTxn, job: _Job) -> None:
        child = self._env.begin(write=True, parent=parent)
        inner = WriteTxn(self, child, top.graph)
        try:
            job.result = job.fn(inner)
            inner.finish()
            child.commit()
            top.graph = inner.graph
            top.after += inner.after
        except BaseException as e:
            child.abort()
            error = _domain(e)
            if isinstance(error, DiskFull):
                raise
            job.error = error

    def _fresh(self, txn: lmdb.Transaction) -> WriteTxn:
        gen, history = self._counters(txn)
        graph = self._graph
        if (gen, history) != (graph.gen, graph.history):
            graph = self._catch_up(txn, graph, gen, history)
        return WriteTxn(self, txn, graph)

    def _run_syncer(self) -> None:
        while not self._closed:
            self._dirty.wait()
            self._dirty.clear()
            with suppress(lmdb.Error):
                self._env.sync(True)
            self._ending.wait(SYNC_SECONDS)

    # -- the graph in memory ---------------------------------------------------------------------------------

    def _counters(self, txn: lmdb.Transaction) -> tuple[int, int]:
        return NOW.unpack(txn.get(b"now", db=self._meta, default=ZERO))

    def _refresh(self, txn: lmdb.Transaction) -> Graph:
        """The graph of this snapshot; kept if it is newer than the one in memory."""
        gen, history = self._counters(txn)
        with self._graph_lock:
            known = self._graph
            graph = self._catch_up(txn, known, gen, history)
            if (gen, history) > (known.gen, known.history):
                self._graph = graph
            return graph

    def _catch_up(self, txn: lmdb.Transaction, graph: Graph, gen: int, history: int) -> Graph:
        if graph.gen > gen or gen - graph.gen > min(GRAPHLOG_KEPT, 512):
            return self._load_graph(txn)
        for g in range(graph.gen + 1, gen + 1):
            key = txn.get(U64.pack(g), db=self.dbs[Table.GRAPHLOG])
            if key is None:
                return self._load_graph(txn)
            row: Any = txn.get(key, db=self.dbs[Table.GRAPH])
            graph = records.apply(graph, bytes(key), row)
        return records.with_counters(graph, gen=gen, history=history)

    def _load_graph(self, txn: lmdb.Transaction | None = None) -> Graph:
        if txn is None:
            with self._env.begin() as own:
                return self._load_graph(own)
        with txn.cursor(db=self.dbs[Table.GRAPH]) as cursor:
            rows: Any = cursor.iternext(keys=True, values=True)
            return records.load(rows, *self._counters(txn))

    def _open_tables(self) -> dict[Table, Any]:
        try:
            dbs = {Table.META: self._env.open_db(Table.META.encode(), create=False)}
            with self._env.begin() as txn:
                found = bytes(txn.get(b"format", db=dbs[Table.META]) or b"").decode()
        except lmdb.NotFoundError:
            found = "unknown"
            dbs = {}
        if found != str(FORMAT):
            self._env.close()
            newer = found.isdecimal() and int(found) > FORMAT
            hint = "install a newer dvidfs" if newer else "it was not made by `dvidfs init`, or is damaged"
            raise StoreError(f"{self.path} has store format {found}, this dvidfs reads {FORMAT}: {hint}")
        return {table: self._env.open_db(table.encode()) for table in Table}  # a table may be newer than the store


def _open(path: Path, durability: Durability, map_size: int) -> lmdb.Environment:
    try:
        # Never writemap: nested transactions fail with it. readahead off would hurt scans of blocks.
        return lmdb.open(
            str(path),
            map_size=map_size,
            max_dbs=32,
            max_readers=1024,
            sync=durability == "durable",
            metasync=durability == "durable",
            subdir=True,
            create=True,
        )
    except lmdb.Error as e:
        raise StoreError(f"cannot open the store {path}: {e}") from None


def _domain(error: BaseException) -> BaseException:
    """What a caller is told: LMDB's own errors become ours."""
    if (
        isinstance(error, (lmdb.MapFullError, lmdb.DiskError))
        or getattr(error, "errno", None) == errno.ENOSPC
        or (isinstance(error, lmdb.Error) and "No space left" in str(error))
    ):
        return DiskFull("the disk of the store is full: nothing of this write was kept; free some space and repeat it")
    return error


def refuse_network(path: Path) -> None:
    """LMDB needs a real local file system: memory maps and locks of a network one lose data."""
    kind = _file_system(path)
    if kind in NETWORK_FS:
        raise StoreError(
            f"{path} lies on a network file system ({kind}), where a store would be damaged: "
            "choose a local disk, and serve it with `dvidfs serve`"
        )


def _file_system(path: Path) -> str:
    real, best, kind = os.path.realpath(path), "", ""
    with suppress(OSError), Path("/proc/self/mounts").open() as mounts:
        for line in mounts:
            _, point, found, *_ = line.split(" ")
            point = point.replace("\\040", " ")
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, found
    return kind
