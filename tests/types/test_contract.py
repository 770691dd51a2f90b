"""What is asked of every datatype: its tables fit its functions, and an instance lives from creation to a child version."""

from __future__ import annotations

import inspect
import re
from typing import Any

import orjson
import pytest

from dvidfs.engine import Engine, Instance, Node, ReadView, WriteTxn, WriteView, repos
from dvidfs.engine.check import check_store
from dvidfs.engine.values import prepare
from dvidfs.errors import BadRequest, Locked
from dvidfs.types.base import Body, Content, DataType, Directory, Each, Endpoint, File, Keys
from dvidfs.types.builtin import registry
from dvidfs.types.common import instance_json

KINDS = list(registry())
ROWS = [(kind, row) for kind in KINDS for row in kind.endpoints]
by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
by_row = pytest.mark.parametrize(("kind", "row"), ROWS, ids=[f"{k.name}-{r.method}-{r.path}" for k, r in ROWS])


def given_to(row: Endpoint) -> set[str]:
    """Names that a row hands to its function."""
    names = {p.rstrip("?*") for p in row.parts} | set(row.defaults)
    return names | ({"body"} if row.body is not Body.NONE else set())


# -- tables ------------------------------------------------------------------------------------------------------


@by_row
def test_what_a_row_gives_is_what_its_function_takes(kind: DataType, row: Endpoint):
    first = row.prepare or row.run
    parameters = inspect.signature(first).parameters
    named = {n for n, p in list(parameters.items())[1:] if p.kind is not p.VAR_KEYWORD}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    assert given_to(row) == named or (takes_all and named <= given_to(row))
    if row.prepare is None:
        return
    required = [p for p in list(inspect.signature(row.run).parameters.values())[1:] if p.default is p.empty]
    assert all(p.kind is not p.POSITIONAL_ONLY for p in required)


@by_row
def test_whether_a_row_writes_is_told_by_its_function(kind: DataType, row: Endpoint):
    first = next(iter(inspect.signature(row.run).parameters.values()))
    assert str(first.annotation).strip("'\"") in ("ReadView", "WriteView")
    assert row.writes == (str(first.annotation).strip("'\"") == "WriteView")
    if row.writes:
        assert row.method in ("POST", "PUT", "DELETE"), "a GET changes nothing"
    if row.prepare is not None:
        assert row.writes or row.body is not Body.NONE


@by_row
def test_rows_are_well_formed(kind: DataType, row: Endpoint):
    assert row.method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "*")
    assert re.fullmatch(r"[a-z0-9-]+(/\{\w+\??\})*(/\{\w+\*\})?", row.path)
    optional = [name.endswith("?") for name in row.parts]
    assert optional == sorted(optional), "what may be missing comes last"
    assert len(set(row.parts)) == len(row.parts)
    assert set(row.args) <= {p.rstrip("?*") for p in row.parts}
    wire = [p.alias or p.name for p in row.query]
    assert len(set(wire)) == len(wire)
    assert "admintoken" not in wire
    assert not row.throttled or "throttle" in wire
    if row.inline:
        assert row.body in (Body.NONE, Body.VALUE)
        assert row.prepare is None


@by_row
def test_options_refuse_nonsense_or_take_it_as_text(kind: DataType, row: Endpoint):
    for param in row.query:
        for text in ("", "nonsense", "-1", "9" * 5000, "\udcff", "true"):
            try:
                param.parse(text)
            except BadRequest as e:
                assert "\n" not in str(e)


@by_kind
def test_a_datatype_names_itself_as_the_original_does(kind: DataType):
    assert re.fullmatch(r"[a-z0-9]+", kind.name)
    assert kind.url.startswith("github.com/janelia-flyem/dvid/datatype/")
    assert kind.version
    assert kind.summary.endswith(".")
    assert {"info", "help", "blobstore"} <= kind.keywords
    assert len({s.name.lower() for s in kind.settings}) == len(kind.settings)
    for setting in kind.settings:
        assert setting.help
    assert kind.configure({}) == {s.name: s.default for s in kind.settings}


def entries(tree: Any) -> list[File | Directory | Each]:
    found: list[Any] = [tree]
    if isinstance(tree, Directory):
        for entry in tree.entries.values():
            found += entries(entry)
        for each in tree.each:
            found += [each, *entries(each.entry)]
    return found


@by_kind
def test_the_tree_is_well_formed(kind: DataType):
    if isinstance(kind.tree, Keys):
        return
    for entry in entries(kind.tree):
        if isinstance(entry, Directory):
            assert all(name and "/" not in name and name not in (".", "..") for name in entry.entries)
        if isinstance(entry, Each):
            assert entry.parse("no such name, surely") is None
            assert entry.parse("") is None


# -- life --------------------------------------------------------------------------------------------------------


def create(engine: Engine, kind: DataType, **more: Any) -> tuple[Node, Instance]:
    def make(txn: WriteTxn) -> tuple[Node, Instance]:
        repo = repos.create_repo(txn)
        node = repo.nodes[repo.root]
        settings = kind.configure({})
        return node, repos.create_instance(txn, node, kind.name, "data", settings=settings, **more)

    return engine.write(make)


def info(engine: Engine, kind: DataType, node: Node) -> Any:
    with engine.read() as txn:
        here = txn.graph.version(node.uuid)
        return orjson.loads(orjson.dumps(instance_json(txn, kind, txn.graph.instance(here, "data"), here)))


def simple_writers(kind: DataType) -> list[Endpoint]:
    """Rows that store one value under a name."""
    return [r for r in kind.endpoints if r.writes and r.body is Body.VALUE and r.prepare is None and len(r.parts) == 1]


@by_kind
@pytest.mark.parametrize("versioned", [True, False])
def test_an_instance_lives_through_a_commit(engine: Engine, kind: DataType, versioned: bool):
    node, instance = create(engine, kind, versioned=versioned)
    told = info(engine, kind, node)
    assert told["Base"]["TypeName"] == kind.name
    assert told["Base"]["Name"] == "data"
    assert told["Base"]["DataUUID"] == instance.uuid
    assert told["Base"]["RepoUUID"] == node.uuid
    assert told["Base"]["Versioned"] is versioned
    assert isinstance(told["Extended"], dict)

    writers = simple_writers(kind)
    for row in writers:
        part = row.parts[0]
        engine.write(
            lambda txn, r=row, p=part: r.run(
                WriteView(txn, node, instance), **{p: "one"}, **r.defaults, body=prepare(b"{}")
            )
        )
    engine.write(lambda txn: repos.commit(txn, txn.graph.version(node.uuid)))
    child = engine.write(lambda txn: repos.new_version(txn, txn.graph.version(node.uuid)))
    with engine.read() as txn:
        old, new = (ReadView(txn, txn.graph.version(n.uuid), txn.graph.instance(n, "data")) for n in (node, child))
        for row in writers:
            reader = kind.table["GET", row.keyword]
            found = [reader.run(v, **{reader.parts[0]: "one"}, **reader.defaults) for v in (old, new)]
            bodies = [bytes(f.body) if isinstance(f, Content) else orjson.dumps(f) for f in found]
            assert bodies == [b"{}", b"{}"]
    if versioned:
        with pytest.raises(Locked):
            engine.write(lambda txn: WriteView(txn, txn.graph.version(node.uuid), instance))
    assert info(engine, kind, child)["Base"] == told["Base"]
    types = registry()
    report = check_store(engine, deep=True, verifier=lambda name: types[name].verify)
    assert report.problems == []


@by_kind
def test_every_reading_row_without_parts_answers_on_an_empty_instance(engine: Engine, kind: DataType):
    node, instance = create(engine, kind)
    for row in kind.endpoints:
        if row.writes or row.parts or row.body is not Body.NONE or row.method == "HEAD":
            continue
        with engine.read() as txn:
            try:
                found = row.run(ReadView(txn, node, instance), **row.defaults)
            except BadRequest as e:  # a row may need what an empty instance lacks, or an option
                assert "\n" not in str(e)
                continue
            body = found.body if isinstance(found, Content) else orjson.dumps(found)
            assert isinstance(body, (bytes, memoryview)) or b"".join(map(bytes, body)) is not None
