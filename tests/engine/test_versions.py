"""Versioned reads and writes against a model: plain dictionaries, and ancestors found by walking.

The rule that both follow: of the entries of a key, one whose version is an ancestor of another entry's does not count;
if a value remains, tombstones do not; one left, or equal bytes, is the answer; else the versions conflict.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dvidfs.engine import Engine, ReadView, Store, WriteTxn, WriteView, keys, repos, values
from dvidfs.engine.check import check_store
from dvidfs.engine.keys import PIECE, Family
from dvidfs.errors import BadRequest, Conflict, Exists, Locked

LONG = b"p" * 400
KEYS = [
    b"a",
    b"ab",
    b"a\0",
    b"a\0b",
    b"\0",
    b"\xff",
    b"p" * 399,
    LONG,
    LONG + b"a",
    LONG + b"\xff",
    LONG + b"\xff\xff",
    LONG + b"\0" * 60,
    LONG + b"x" * 200,
    LONG + b"x" * 200 + b"\0",
    LONG + b"x" * 624,
    LONG + b"\xff" * 300,
    b"p" * 399 + b"\0" + b"q" * 150,
    b"p" * 399 + b"\0" + b"q",
    b"q",
]
SMALL = [b"", b"1", b"2", b"3" * 64, b"4" * 65, b"shrinks " * 100, random.Random(1).randbytes(700)]
BIG = [b"long" * (PIECE // 4) + b"tail", random.Random(2).randbytes(PIECE + 1)]
TOMB = None
CONFLICT = "conflict"

some_key = st.sampled_from(KEYS)
some_value = st.sampled_from([*SMALL, *SMALL, *SMALL, *BIG])
some_end = st.one_of(st.none(), some_key, st.sampled_from([b"", b"b", b"p", LONG + b"m", b"\xff" * 1100]))


@dataclass
class Version:
    """A version in the model; ``names`` are the instances of its repo, shared by all versions of the repo."""

    uuid: str
    parents: list[Version]
    branch: str
    repo: int
    locked: bool = False
    children: list[Version] = field(default_factory=list)

    def above(self) -> list[Version]:
        """Itself and its ancestors."""
        found, todo = [], [self]
        while todo:
            version = todo.pop()
            if version not in found:
                found.append(version)
                todo.extend(version.parents)
        return found

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


Entries = dict[Version, Any]


class Model:
    """What a store should hold."""

    def __init__(self) -> None:
        self.versions: list[Version] = []
        self.data: dict[tuple[int, str], dict[bytes, Entries]] = {}

    def root(self, repo: int) -> Version:
        return next(v for v in self.versions if v.repo == repo)

    def entries(self, at: Version, name: str) -> dict[bytes, Entries]:
        return self.data.setdefault((at.repo, name), {})

    def write(self, at: Version, name: str, key: bytes, value: bytes | None) -> None:
        entries = self.entries(at, name).setdefault(key, {})
        if name == "flat":
            at = self.root(at.repo)
            if value is TOMB:
                entries.pop(at, None)
                return
        entries[at] = value

    def counting(self, at: Version, name: str, key: bytes) -> list[tuple[Version, bytes | None]]:
        """Entries of a key that no other one hides."""
        above = (self.root(at.repo) if name == "flat" else at).above()
        seen = {v: x for v, x in self.entries(at, name).get(key, {}).items() if v in above}
        return [(v, x) for v, x in seen.items() if not any(v is not w and v in w.above() for w in seen)]

    def read(self, at: Version, name: str, key: bytes) -> Any:
        live = {x for _, x in self.counting(at, name, key) if x is not TOMB}
        if len(live) > 1:
            return CONFLICT
        return live.pop() if live else None

    def contents(self, at: Version, name: str) -> dict[bytes, bytes]:
        found = {key: self.read(at, name, key) for key in sorted(self.entries(at, name))}
        return {k: v for k, v in found.items() if v is not None and v is not CONFLICT}

    def conflicts(self, at: Version, name: str) -> set[bytes]:
        return {k for k in self.entries(at, name) if self.read(at, name, k) is CONFLICT}

    def warnings(self, at: Version, name: str) -> set[bytes]:
        """Keys that one side deleted and another changed."""
        out = set()
        for key in self.entries(at, name):
            kinds = {x is TOMB for _, x in self.counting(at, name, key)}
            if len(kinds) == 2 and self.read(at, name, key) is not CONFLICT:
                out.add(key)
        return out


def shown(found: set[bytes]) -> set[str]:
    return {k.decode(errors="replace") for k in found}


class Versions(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "store"
        Store.create(self.path)
        self.engine = Engine(Store(self.path, durability="periodic"))
        self.model = Model()
        self.count = 0

    def teardown(self) -> None:
        try:
            for version in self.model.versions:
                self.compare(version)
            report = check_store(self.engine, deep=True)
            assert report.problems == []
        finally:
            self.engine.close()
            self.folder.cleanup()

    # -- helpers -----------------------------------------------------------------------------------------------

    def view(self, txn: Any, at: Version, name: str, kind: type[ReadView] = ReadView) -> Any:
        node = txn.graph.version(at.uuid)
        return kind(txn, node, txn.graph.instance(node, name))

    def pick(self, number: int, locked: bool | None = None) -> Version:
        found = [v for v in self.model.versions if locked is None or v.locked == locked]
        return found[number % len(found)]

    def any_locked(self) -> bool:
        return any(v.locked for v in self.model.versions)

    def added(self, node: Any, parents: list[Version], branch: str, repo: int) -> Version:
        version = Version(node.uuid, parents, branch, repo)
        self.model.versions.append(version)
        for parent in parents:
            parent.children.append(version)
        return version

    def compare(self, at: Version, first: bytes | None = None, last: bytes | None = None) -> None:
        """All that can be read at a version is as the model has it."""
        with self.engine.read() as txn:
            for name in ("kv", "flat"):
                view = self.view(txn, at, name)
                wanted = self.model.contents(at, name)
                for key in KEYS:
                    self.compare_key(view, at, name, key)
                inside = [k for k in wanted if (first is None or k >= first) and (last is None or k <= last)]
                assert view.text_keys(first, last) == inside
                entries = list(view.text_entries(first, last))
                assert [k for k, _ in entries] == inside
                assert [bytes(view.load(e)) for _, e in entries] == [wanted[k] for k in inside]
                listing = self.engine.listings.of(view)
                assert listing.keys == list(wanted)
                assert listing.attributes(view)[0].tolist() == list(map(len, wanted.values()))
                assert sorted(view.names(Family.TEXT)) == sorted(map(keys.encode_text, wanted))
                self.compare_many(view, wanted, self.model.conflicts(at, name))
                told: list[Conflict] = []
                scanned = [f.key for f in view.scan(Family.TEXT, on_conflict=told.append)]
                assert sorted(scanned) == list(wanted)
                assert len(told) == len(self.model.conflicts(at, name))

    def compare_many(self, view: ReadView, wanted: dict[bytes, bytes], conflicts: set[bytes]) -> None:
        """Reads of many values at once are as reads of one after the other; a conflict among them is told."""
        agreed = [k for k in KEYS if k not in conflicts]
        found = view.load_keys(Family.TEXT, list(map(keys.encode_text, agreed)))
        assert [None if v is None else bytes(v) for v in found] == [wanted.get(k) for k in agreed]
        by_name = {keys.encode_text(k): v for k, v in wanted.items()}
        with pytest.raises(Conflict) if conflicts else contextlib.nullcontext():
            everything = view.load_spans(Family.TEXT, [(b"", b"\xff" * 511)])
            assert [(enc, bytes(v)) for enc, v in everything] == sorted(by_name.items())
        if conflicts:
            with pytest.raises(Conflict):
                view.load_keys(Family.TEXT, list(map(keys.encode_text, KEYS)))

    def compare_key(self, view: ReadView, at: Version, name: str, key: bytes) -> None:
        wanted = self.model.read(at, name, key)
        if wanted is CONFLICT:
            with pytest.raises(Conflict) as told:
                view.text_entry(key)
            sides = [v.uuid for v, x in self.model.counting(at, name, key) if x is not TOMB]
            assert all(uuid in str(told.value) for uuid in sides)
            return
        entry = view.text_entry(key)
        found = None if entry is None else bytes(view.load(entry))
        assert found == wanted
        if entry is not None:
            assert entry.size == len(wanted)

    # -- rules -------------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.new_repo()

    @precondition(lambda self: len({v.repo for v in self.model.versions}) < 2)
    @rule()
    def new_repo(self) -> None:
        def make(txn: WriteTxn) -> Any:
            repo = repos.create_repo(txn)
            node = repo.nodes[repo.root]
            repos.create_instance(txn, node, "keyvalue", "kv")
            repos.create_instance(txn, node, "keyvalue", "flat", versioned=False)
            return node

        node = self.engine.write(make)
        self.added(node, [], "", node.repo)

    @rule(number=st.integers(-6, 6), name=st.sampled_from(["kv", "kv", "flat"]), key=some_key, value=some_value)
    def put(self, number: int, name: str, key: bytes, value: bytes) -> None:
        at = self.pick(number)
        prepared: Any = values.prepare(value)
        if len(value) > PIECE:
            with self.engine.read() as txn:
                upload = values.Upload(self.engine.store, self.view(txn, at, name).instance.id)
            upload.feed(value)
            prepared = upload.finish()
        if self.written(at, name, lambda view: view.put_text(key, prepared)):
            self.model.write(at, name, key, value)

    @rule(
        number=st.integers(-6, 6),
        name=st.sampled_from(["kv", "kv", "flat"]),
        pairs=st.dictionaries(some_key, st.sampled_from(SMALL), max_size=5),
    )
    def put_many(self, number: int, name: str, pairs: dict[bytes, bytes]) -> None:
        at = self.pick(number)
        rows = [(keys.encode_text(k), values.prepare(v), k) for k, v in pairs.items()]
        rows = [(enc, value, k if keys.is_long(enc) else b"") for enc, value, k in sorted(rows, key=lambda r: r[0])]
        if self.written(at, name, lambda view: view.put_many(Family.TEXT, rows)):
            for key, value in pairs.items():
                self.model.write(at, name, key, value)

    @rule(number=st.integers(-6, 6), name=st.sampled_from(["kv", "kv", "flat"]), key=some_key)
    def delete(self, number: int, name: str, key: bytes) -> None:
        at = self.pick(number)
        if self.written(at, name, lambda view: view.delete_text(key)):
            self.model.write(at, name, key, TOMB)

    @rule(number=st.integers(-6, 6), name=st.sampled_from(["kv", "kv", "flat"]), old=some_key, new=some_key)
    def rename(self, number: int, name: str, old: bytes, new: bytes) -> None:
        at = self.pick(number)
        value = self.model.read(at, name, old)
        if value is CONFLICT and not at.locked:
            with pytest.raises(Conflict):
                self.written(at, name, lambda view: view.rename_text(old, new))
            return
        if self.written(at, name, lambda view: view.rename_text(old, new)) and value is not None and old != new:
            self.model.write(at, name, new, value)
            self.model.write(at, name, old, TOMB)

    def written(self, at: Version, name: str, change: Any) -> bool:
        """Run a write; False if the version refused it, as it must when it is committed."""
        refused = at.locked and name == "kv"
        with pytest.raises(Locked) if refused else contextlib.nullcontext():
            self.engine.write(lambda txn: change(self.view(txn, at, name, WriteView)))
        return not refused

    @rule(number=st.integers(-6, 6))
    def commit(self, number: int) -> None:
        at = self.pick(number)
        with pytest.raises(Locked) if at.locked else contextlib.nullcontext():
            self.engine.write(lambda txn: repos.commit(txn, txn.graph.version(at.uuid)))
        at.locked = True

    @rule(number=st.integers(-6, 6))
    def new_version(self, number: int) -> None:
        at = self.pick(number)
        taken = any(c.branch == at.branch for c in at.children)
        error = BadRequest if not at.locked else Exists if taken else None
        with pytest.raises(error) if error else contextlib.nullcontext():
            node = self.engine.write(lambda txn: repos.new_version(txn, txn.graph.version(at.uuid)))
            self.added(node, [at], at.branch, at.repo)

    @rule(number=st.integers(-6, 6), fresh=st.booleans())
    def branch(self, number: int, fresh: bool) -> None:
        at = self.pick(number)
        self.count += fresh
        name = f"b{self.count}"
        taken = any(v.branch == name and v.repo == at.repo for v in self.model.versions)
        if name == at.branch:
            return self.new_version(number)
        error = BadRequest if not at.locked else Exists if taken else None
        with pytest.raises(error) if error else contextlib.nullcontext():
            node = self.engine.write(lambda txn: repos.branch(txn, txn.graph.version(at.uuid), name))
            self.added(node, [at], name, at.repo)

    @rule(number=st.integers(-4, 4), keys=st.lists(some_key, min_size=2, max_size=3), one=some_value, other=some_value)
    def diverge(self, number: int, keys: list[bytes], one: bytes, other: bytes) -> None:
        """Two branches of one version that change the same keys, committed: what merges are about."""
        at = self.pick(number)
        if not at.locked:
            self.commit(number)
        here = self.model.versions.index(at)
        for value in (one, other):
            self.branch(here, fresh=True)
            for key in keys[:-1]:
                self.put(-1, "kv", key, value)
            self.delete(-1, "kv", keys[-1])
            self.commit(-1)

    @precondition(any_locked)
    @rule(numbers=st.lists(st.integers(-5, -1), min_size=2, max_size=3), strict=st.booleans())
    def merge(self, numbers: list[int], strict: bool) -> None:
        parents = [self.pick(n, locked=True) for n in numbers]
        if len(set(parents)) < len(parents) or len({p.repo for p in parents}) > 1:
            with pytest.raises(BadRequest):
                self.merged(parents, strict)
            return
        planned = Version("", parents, "", parents[0].repo)
        fresh = self.model.conflicts(planned, "kv").difference(*(self.model.conflicts(p, "kv") for p in parents))
        try:
            merged = self.merged(parents, strict)
        except Conflict as e:
            assert strict
            assert "kv" in str(e)
            assert self.model.conflicts(planned, "kv")
            return
        child = self.added(merged.child, parents, "", parents[0].repo)
        assert not (strict and fresh)
        for told, all_of_them in (
            (merged.conflicts, self.model.conflicts),
            (merged.warnings, self.model.warnings),
        ):
            found = set(told["kv"].keys) if "kv" in told else set()
            assert set(told) <= {"kv"}, "an unversioned instance cannot conflict"
            everywhere = all_of_them(child, "kv")
            new = everywhere.difference(*(all_of_them(p, "kv") for p in parents))
            assert shown(new) <= found <= shown(everywhere)
            if "kv" in told:
                assert told["kv"].count == len(told["kv"].keys) > 0

    def merged(self, parents: list[Version], strict: bool) -> repos.Merged:
        return self.engine.write(
            lambda txn: repos.merge(txn, [txn.graph.version(p.uuid) for p in parents], strict=strict)
        )

    @rule(number=st.integers(-6, 6), first=some_end, last=some_end)
    def look(self, number: int, first: bytes | None, last: bytes | None) -> None:
        self.compare(self.pick(number), first, last)

    @rule()
    def reopen(self) -> None:
        self.engine.close()
        self.engine = Engine(Store(self.path, durability="periodic"))

    @rule(number=st.integers(-6, 6), name=st.sampled_from(["kv", "flat"]), key=some_key)
    def fail_in_the_middle(self, number: int, name: str, key: bytes) -> None:
        """A write that raises after it made a version and wrote to it leaves nothing, not even in caches."""
        at = self.pick(number)

        def fail(txn: WriteTxn) -> None:
            node = txn.graph.version(at.uuid)
            if node.locked:
                node = repos.branch(txn, node, f"never{len(self.model.versions)}-{random.random()}")
            WriteView(txn, node, txn.graph.instance(node, name)).put_text(key, values.prepare(b"never"))
            raise KeyError("on purpose")

        with pytest.raises(KeyError):
            self.engine.write(fail)

    @invariant()
    def graph_is_as_the_model_has_it(self) -> None:
        with self.engine.read() as txn:
            found = {
                n.uuid: ([txn.graph.repos[n.repo].nodes[p].uuid for p in n.parents], n.branch, n.locked)
                for n in txn.graph.nodes()
            }
        assert found == {v.uuid: ([p.uuid for p in v.parents], v.branch, v.locked) for v in self.model.versions}

    @invariant()
    def newest_is_as_the_model_has_it(self) -> None:
        if self.model.versions:
            self.compare(self.model.versions[-1])


TestVersions = Versions.TestCase
TestVersions.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.reuse, Phase.generate],
)
