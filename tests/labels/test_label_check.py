"""`dvidfs check` of labels: silent over what mutations do, finds just what was broken, and repairs in favour of one side.

What is broken is written by the ledger's own functions, or said by clients over HTTP.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import live
import numpy as np
import pytest
from client import Connection, Labels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelserver import LabelServer
from wire import LabelIndex

from dvidfs.__main__ import main
from dvidfs.engine import (
    Engine,
    ReadView,
    Store,
    WriteTxn,
    WriteView,
    journal,
    keys,
    ledger,
    open_engine,
    repos,
    values,
)
from dvidfs.engine.check import check_store
from dvidfs.engine.keys import Family
from dvidfs.errors import BadRequest, Corrupt
from dvidfs.types.builtin import registry
from dvidfs.types.labelmap import blocks, bodies, columns, counters, index, mutate, repair, stored
from dvidfs.types.labelmap.books import Book, mapping, totals
from dvidfs.types.labelmap.index import Counts

SIDE = 16
WHOLE = SIDE**3
Voxels = np.ndarray
Change = Callable[[WriteView], object]
T = TypeVar("T")


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint64)


def halves(*labels: int) -> Voxels:
    """A block in layers of equal depth, one for each label."""
    out = np.zeros((SIDE, SIDE, SIDE), np.uint64)
    for number, part in enumerate(np.array_split(out, len(labels))):
        part[:] = labels[number]
    return out


class Segmentation:
    """A labels instance at the version of a repo that is open, in a store of its own."""

    def __init__(self, engine: Engine, kind: str = "labelmap") -> None:
        self.engine, self.kind = engine, kind

        def make(txn: WriteTxn) -> str:
            node = repos.create_repo(txn, alias="r").nodes
            root = next(iter(node.values()))
            given = registry()[kind].configure({"blocksize": "16,16,16", "maxdownreslevel": "1"})
            repos.create_instance(txn, root, kind, "seg", settings=given)
            return root.uuid

        self.uuid = engine.write(make)

    def write(self, change: Change) -> None:
        def run(txn: WriteTxn) -> None:
            node = txn.graph.version(self.uuid)
            change(WriteView(txn, node, txn.graph.instance(node, "seg")))

        self.engine.write(run)

    def read(self, look: Callable[[ReadView], T]) -> T:
        with self.engine.read() as txn:
            node = txn.graph.version(self.uuid)
            return look(ReadView(txn, node, txn.graph.instance(node, "seg")))

    def put(self, found: dict[tuple[int, int, int], Voxels], *, counted: bool = True) -> None:
        """Blocks as a stream brings them."""
        payloads = {at: stored.pack(blocks.kernel.encode(voxels)) for at, voxels in found.items()}
        stream = b"".join(blocks.records(list(payloads), list(payloads.values())))
        with self.engine.read() as txn:
            node = txn.graph.version(self.uuid)
            view = ReadView(txn, node, txn.graph.instance(node, "seg"))
            ready = blocks.prepare_blocks(view, stream, 0, "blocks", False, not counted)
        self.write(lambda view: blocks.post_blocks(view, **ready))

    def check(self) -> tuple[list[str], list[str]]:
        """Damage and differences, the instance and version left out."""
        types = registry()
        found = check_store(self.engine, deep=True, verifier=lambda name: types[name].verify)
        assert {p.where for p in found.problems + found.differences} <= {f'"seg" at version {self.uuid}'}
        return [p.text for p in found.problems], [p.text for p in found.differences]

    def repair(self, side: str) -> dict[str, int]:
        with self.engine.read() as txn:
            node = txn.graph.version(self.uuid)
            plan = worked_out(ReadView(txn, node, txn.graph.instance(node, "seg")), side)
        out: dict[str, int] = {}
        self.write(lambda view: out.update(repair.run(view, plan)))
        return out

    def bodies(self) -> dict[int, set[int]]:
        """The supervoxels of each body that has voxels."""

        def look(view: ReadView) -> dict[int, set[int]]:
            sizes = totals(view).items()
            alive = sizes.keys[sizes.values > 0].tolist()
            return {body: set(bodies.of_body(view, body).supervoxels.tolist()) for body in alive}

        return self.read(look)

    def mapped(self, *supervoxels: int) -> list[int]:
        found = ids(*supervoxels)
        return self.read(lambda view: mapping(view).get(found, found).tolist())


def worked_out(view: ReadView, side: str) -> repair.Plan:
    telling = repair.prepare(view, side)
    while True:
        try:
            next(telling)
        except StopIteration as done:
            return done.value


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    Store.create(tmp_path / "store")
    with open_engine(tmp_path / "store", durability="periodic") as opened:
        yield opened


@pytest.fixture
def seg(engine: Engine) -> Segmentation:
    """Supervoxels 1 and 2 over two blocks and 3 and 4 in a third; body 3 holds 3 and 4, body 9 is 2 renumbered."""
    made = Segmentation(engine)
    made.put({(0, 0, 0): halves(1, 2), (1, 0, 0): halves(0, 1, 0, 2), (-1, 2, 5): halves(3, 4)})
    made.write(lambda view: mutate.merge(view, 3, [4]))
    made.write(lambda view: mutate.renumber(view, 9, 2))
    assert made.check() == ([], [])
    return made


# -- histories ---------------------------------------------------------------------------------------------------------

LABELS = st.integers(0, 6)
PLACES = st.sampled_from([(0, 0, 0), (1, 0, 0), (0, 0, -1)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), PLACES, st.lists(LABELS, min_size=1, max_size=4)),
        st.tuples(st.just("merge"), LABELS, LABELS),
        st.tuples(st.just("cleave"), LABELS, LABELS),
        st.tuples(st.just("renumber"), st.integers(20, 23), LABELS),
        st.tuples(st.just("child")),
    ),
    max_size=12,
)


def cleave(view: WriteView, body: int, supervoxel: int) -> None:
    mutate.check_cleave(view, body, [supervoxel])
    mutate.cleave(view, body, [supervoxel], counters.take(view))


def step(seg: Segmentation, what: str, *given: object) -> None:
    if what == "put":
        place, labels = given
        seg.put({place: halves(*labels)})  # type: ignore[misc,dict-item]
        return

    def change(view: WriteView) -> None:
        if what == "merge":
            mutate.merge(view, given[0], [given[1]])  # type: ignore[arg-type,list-item]
        elif what == "cleave":
            cleave(view, *given)  # type: ignore[arg-type]
        elif what == "renumber":
            mutate.renumber(view, *given)  # type: ignore[arg-type]
        else:
            repos.commit(view.txn, view.node)
            seg.uuid = repos.new_version(view.txn, view.txn.graph.version(seg.uuid)).uuid

    with contextlib.suppress(BadRequest):  # there is no such body
        seg.write(change)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_no_mutation_leaves_a_trace_of_damage(tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple]):
    path = tmp_path_factory.mktemp("history") / "store"
    Store.create(path)
    with open_engine(path, durability="periodic") as engine:
        seg = Segmentation(engine)
        for what, *given in steps:
            step(seg, what, *given)
        assert seg.check() == ([], [])
        before = seg.bodies()
        for side in repair.SIDES:
            assert not any(seg.repair(side).values()), side
        assert seg.bodies() == before


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 3, 5, 1000])
def test_a_book_is_swept_as_it_is_gathered(seg: Segmentation, most: int):
    first = seg.uuid
    step(seg, "child")
    for label in (2, 3, 1):
        seg.put({(0, 0, 0): halves(label, 9, 5)})
    sibling = seg.engine.write(lambda txn: repos.branch(txn, txn.graph.version(first), "b").uuid)
    seg.uuid, mine = sibling, seg.uuid
    seg.put({(0, 0, 0): halves(8)})

    def look(view: ReadView) -> int:
        for book in (Book.SUPERVOXEL, Book.BODY):
            swept = list(ledger.sweep(view, book, most))
            every = np.concatenate([part for part, _, _ in swept])
            assert every.tolist() == sorted({number for number, _ in ledger.scan(view, book)})
            found = [(int(part[i]), row) for part, of, rows in swept for i, row in zip(of, rows, strict=True)]
            of, rows = ledger.gather(view, book, every)
            assert found == [(int(every[i]), row) for i, row in zip(of, rows, strict=True)]
        return len(list(ledger.scan(view, Book.SUPERVOXEL)))

    rows = {}
    for seg.uuid in (mine, sibling, first):
        rows[seg.uuid] = seg.read(look)
    assert rows[mine] > rows[sibling] > rows[first]


def change_index(view: WriteView, supervoxel: int, at: tuple[int, int, int], count: int) -> None:
    rows = Counts(ids(supervoxel), ids(index.code_of(at)), np.array([count], np.uint32))
    index.append(view, mutate.begin(view), rows)


def change_total(view: WriteView, body: int, count: int) -> None:
    columns.append(view, Book.TOTALS, mutate.begin(view), columns.pairs(ids(body), ids(count)))


def change_members(view: WriteView, body: int, came: Sequence[int] = (), left: Sequence[int] = ()) -> None:
    changes = bodies.Changes(view, mutate.begin(view))
    changes.come(body, ids(*came))
    changes.leave(body, ids(*left))
    changes.write()


DAMAGES: dict[str, tuple[Change, list[str], list[str]]] = {
    "a count": (
        lambda view: (change_index(view, 1, (0, 0, 0), 7), change_total(view, 1, 7 + WHOLE // 4)),
        ["block 0_0_0 holds 2048 voxels of supervoxel 1, but the index counts 7"],
        ["voxels"],
    ),
    "a lost count": (
        lambda view: (change_index(view, 1, (1, 0, 0), 0), change_total(view, 1, WHOLE // 2)),
        ["block 1_0_0 holds 1024 voxels of supervoxel 1, but the index counts 0"],
        ["voxels"],
    ),
    "a supervoxel that is not in the block": (
        lambda view: (change_index(view, 3, (0, 0, 0), 5), change_total(view, 3, WHOLE + 5)),
        ["block 0_0_0 holds 0 voxels of supervoxel 3, but the index counts 5"],
        ["voxels"],
    ),
    "a block that is not stored": (
        lambda view: (change_index(view, 3, (7, -7, 0), 5), change_total(view, 3, WHOLE + 5)),
        ["block 7_-7_0 is not stored, but the index counts 5 voxels of supervoxel 3 there"],
        ["voxels"],
    ),
    "a total": (
        lambda view: change_total(view, 9, 5),
        ["body 9 has 3072 voxels by its index, but 5 by its total"],
        ["voxels", "index", "mapping", "membership"],
    ),
    "a total of nothing": (
        lambda view: change_total(view, 77, 5),
        ["body 77 has 0 voxels by its index, but 5 by its total"],
        ["voxels", "index", "mapping", "membership"],
    ),
    "in two bodies": (
        lambda view: (change_members(view, 9, [4]), change_total(view, 9, 3 * WHOLE // 4 + WHOLE // 2)),
        ["supervoxel 4 lies in the bodies 3 and 9, and is mapped to 3"],
        ["voxels", "mapping", "membership"],
    ),
    "in no body": (
        lambda view: (change_members(view, 3, left=[4]), change_total(view, 3, WHOLE // 2)),
        ["supervoxel 4 lies in no body, but has 2048 voxels and is mapped to 3"],
        ["voxels", "mapping"],
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_repaired(seg: Segmentation, name: str):
    damage, lines, sides = DAMAGES[name]
    before = seg.bodies()
    for side in sides:
        seg.write(damage)
        assert seg.check() == (lines, []), side
        assert any(seg.repair(side).values()), side
        assert seg.check() == ([], []), side
        assert seg.bodies() == before
        assert seg.mapped(1, 2, 3, 4) == [1, 9, 3, 3]


def test_a_supervoxel_that_no_body_claims_is_gone_if_membership_is_right(seg: Segmentation):
    seg.write(DAMAGES["in no body"][0])
    assert seg.repair("membership") == {"counts": 0, "supervoxels": 0, "mappings": 1, "bodies": 0}
    assert seg.check() == ([], [])
    assert seg.mapped(3, 4) == [3, 0]
    assert seg.bodies()[3] == {3}


def test_what_a_side_cannot_settle_stays(seg: Segmentation):
    seg.write(DAMAGES["a count"][0])
    for side in ("index", "mapping", "membership"):
        assert not any(seg.repair(side).values())
    assert seg.check() == (DAMAGES["a count"][1], [])


def test_several_things_at_once(seg: Segmentation):
    for damage, _, sides in DAMAGES.values():
        assert "voxels" in sides
        seg.write(damage)
    assert len(seg.check()[0]) > 6
    seg.repair("voxels")
    assert seg.check() == ([], [])
    assert seg.bodies() == {1: {1}, 3: {3, 4}, 9: {2}}


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"", "illegal zero length block at block 1_0_0: want the gzip stream of a label block"),
        (b"no gzip", "block 1_0_0 cannot be read: "),
        (stored.pack(b"\1" * 30), "block 1_0_0 cannot be read: label block: "),
        (
            stored.pack(blocks.kernel.encode(np.ones((32, 32, 32), np.uint64))),
            "block 1_0_0 has 32x32x32 voxels, the blocks of this instance have 16x16x16",
        ),
    ],
)
def test_a_block_that_cannot_be_read(seg: Segmentation, payload: bytes, text: str):
    at = keys.encode_block(0, 1, 0, 0)
    seg.write(lambda view: view.put(Family.BLOCK, at, values.Prepared(payload, len(payload))))
    (line,), differences = seg.check()
    assert line.startswith(text)
    assert differences == []
    with pytest.raises(Corrupt, match="block 1_0_0"):
        seg.repair("voxels")
    assert not any(seg.repair("mapping").values())


def test_blocks_that_parents_of_a_merge_disagree_about_are_left_out(seg: Segmentation):
    first = seg.uuid
    seg.write(lambda view: repos.commit(view.txn, view.node))
    made = []
    for number in (6, 7):
        seg.uuid = seg.engine.write(lambda txn, n=number: repos.branch(txn, txn.graph.version(first), f"b{n}").uuid)
        made.append(seg.uuid)
        seg.put({(0, 0, 0): halves(number, 1)})
        seg.write(lambda view: repos.commit(view.txn, view.node))

    merged = seg.engine.write(lambda txn: repos.merge(txn, [txn.graph.version(uuid) for uuid in made]))
    assert merged.conflicts["seg"].count == 1
    seg.uuid = merged.child.uuid
    assert seg.check() == ([], [])


@pytest.mark.parametrize("kind", ["labelarray", "labelblk"])
def test_labels_that_are_not_mapped_are_checked_and_repaired_too(engine: Engine, kind: str):
    seg = Segmentation(engine, kind)
    seg.put({(0, 0, 0): halves(1, 2)})
    assert seg.check() == ([], [])
    seg.write(lambda view: change_index(view, 1, (0, 0, 0), 7))
    assert seg.check()[0] == [
        "block 0_0_0 holds 2048 voxels of supervoxel 1, but the index counts 7",
        "body 1 has 7 voxels by its index, but 2048 by its total",
    ]
    seg.repair("voxels")
    assert seg.check() == ([], [])


def test_a_label_that_a_labelvol_left_out_of_blocks_is_a_difference(engine: Engine):
    seg = Segmentation(engine, "labelblk")
    seg.put({(0, 0, 0): halves(1, 2)})
    seg.write(lambda view: (change_index(view, 1, (0, 0, 0), 0), change_total(view, 1, 0)))
    line = "block 0_0_0 holds 2048 voxels of supervoxel 1, but the index counts 0"
    assert seg.check() == ([], [line])


def test_a_labelmap_without_index_has_none_to_be_checked(engine: Engine):
    seg = Segmentation(engine)
    seg.write(lambda view: blocks_without_index(view))
    seg.put({(0, 0, 0): halves(1, 2)})
    assert seg.check() == ([], [])
    with pytest.raises(BadRequest, match="IndexedLabels=false"):
        seg.repair("voxels")


def blocks_without_index(view: WriteView) -> None:
    repos.change_instance(view.txn, view.instance, settings={**view.instance.settings, "IndexedLabels": False})


# -- repairs -----------------------------------------------------------------------------------------------------------


def test_a_repair_is_one_mutation_with_a_record(seg: Segmentation):
    seg.write(DAMAGES["in two bodies"][0])
    before = seg.read(lambda view: view.txn.mutation_id(view.instance.repo))
    told = seg.repair("mapping")
    assert told == {"counts": 0, "supervoxels": 1, "mappings": 0, "bodies": 1}
    records = seg.read(lambda view: list(journal.records(view)))
    assert {k: records[-1][k] for k in ("Action", "From", "Changed", "MutationID")} == {
        "Action": "repair",
        "From": "mapping",
        "Changed": told,
        "MutationID": before,
    }
    assert seg.read(lambda view: view.txn.mutation_id(view.instance.repo)) == before + 1
    assert not any(seg.repair("mapping").values())
    assert len(seg.read(lambda view: list(journal.records(view)))) == len(records)


def test_what_was_written_in_between_is_repaired_too(seg: Segmentation):
    seg.write(DAMAGES["in two bodies"][0])
    with seg.engine.read() as txn:
        node = txn.graph.version(seg.uuid)
        plan = worked_out(ReadView(txn, node, txn.graph.instance(node, "seg")), "mapping")
    seg.write(lambda view: mutate.merge(view, 1, [9]))  # 4 goes with body 9, and is mapped to 1
    seg.write(lambda view: repair.run(view, plan))
    assert seg.check() == ([], [])
    assert seg.bodies() == {1: {1, 2, 4}, 3: {3}}


def test_a_side_that_is_none_is_refused(seg: Segmentation):
    with pytest.raises(BadRequest, match='"blocks" cannot be what is right: want voxels, index, mapping, membership'):
        seg.repair("blocks")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    said=st.dictionaries(st.integers(1, 6), st.sampled_from([0, 1, 3, 5, 30, 31]), max_size=6),
    moves=st.lists(st.tuples(st.sampled_from([1, 3, 5, 30]), st.integers(1, 6), st.booleans()), max_size=5),
    count=st.booleans(),
    side=st.sampled_from(["voxels", "mapping", "membership"]),
)
def test_whatever_was_said_a_repair_leaves_no_contradiction(
    tmp_path_factory: pytest.TempPathFactory,
    said: dict[int, int],
    moves: list[tuple[int, int, bool]],
    count: bool,
    side: str,
):
    path = tmp_path_factory.mktemp("said") / "store"
    Store.create(path)
    with open_engine(path, durability="periodic") as engine:
        seg = Segmentation(engine)
        seg.put({(0, 0, 0): halves(1, 2, 3, 4)})
        seg.put({(1, 0, 0): halves(4, 5, 6)}, counted=count)
        seg.write(lambda view: mutate.merge(view, 1, [2]))
        for body, supervoxel, comes in moves:
            seg.write(
                lambda view, a=body, b=[supervoxel], c=comes: change_members(view, a, b if c else (), () if c else b)
            )
        if said:
            seg.write(lambda view: mutate.set_mappings(view, ids(*sorted(said)), ids(*(said[s] for s in sorted(said)))))
        seg.repair(side)
        damage, differences = seg.check()
        assert damage == []
        assert [text for text in differences if "never counted" not in text or side == "voxels"] == []
        counted = range(1, 7) if count or side == "voxels" else range(1, 5)
        held = {s: body for body, supervoxels in seg.bodies().items() for s in supervoxels}
        where = dict(zip(counted, seg.mapped(*counted), strict=True))
        assert held == {s: body for s, body in where.items() if body}
        if side != "membership":
            assert all(where[s] == body for s, body in said.items() if s in where)


# -- what clients say --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelServer]:
    with LabelServer(tmp_path_factory.mktemp("checked"), "--durability", "periodic") as running:
        yield running


@pytest.fixture
def store(server: LabelServer) -> Iterator[Engine]:
    """The store that is served, opened by another process than the server's."""
    with open_engine(server.log.parent / "store") as engine:
        yield engine


@pytest.fixture
def labels(server: LabelServer) -> Iterator[Labels]:
    connection = Connection(server.port)
    uuid = connection.new_repo()
    connection.new_instance(uuid, "seg", BlockSize="16,16,16")
    found = Labels(connection, uuid, "seg")
    found.post_blocks({(0, 0, 0): halves(5, 6), (1, 0, 0): halves(7)})
    yield found
    connection.close()


def told(store: Engine, labels: Labels) -> tuple[list[str], list[str]]:
    """Damage and differences of a version; other tests leave theirs in the same store."""
    found, where = check_store(store, deep=True, verifier=lambda name: registry()[name].verify), labels.uuid
    return [p.text for p in found.problems if where in p.where], [p.text for p in found.differences if where in p.where]


def mend(store: Engine, labels: Labels, side: str) -> dict[str, int]:
    seg = Segmentation.__new__(Segmentation)
    seg.engine, seg.uuid = store, labels.uuid
    return seg.repair(side)


def test_mappings_that_clients_post_are_a_difference(labels: Labels, store: Engine):
    labels.post_mappings({20: [5], 7: [6]})
    lines = ["supervoxel 5: mapped to 20, but in the index of 5", "supervoxel 6: mapped to 7, but in the index of 6"]
    assert told(store, labels) == ([], lines)
    mend(store, labels, "mapping")
    assert told(store, labels) == ([], [])
    assert labels.listlabels_sizes() == {7: WHOLE + WHOLE // 2, 20: WHOLE // 2}
    assert labels.supervoxels(7) == {6, 7}
    labels.post_mappings({5: [5, 6]})
    assert len(told(store, labels)[1]) == 2
    mend(store, labels, "membership")
    assert told(store, labels) == ([], [])
    assert labels.mapping([5, 6, 7]) == [20, 7, 7]


def test_indices_that_clients_post_count_and_hold_what_they_say(labels: Labels, store: Engine):
    labels.post_index(LabelIndex(5, {(0, 0, 0): {5: 100, 6: WHOLE // 2}}))
    assert told(store, labels) == (
        [
            "block 0_0_0 holds 2048 voxels of supervoxel 5, but the index counts 100",
            "supervoxel 6 lies in the bodies 5 and 6, and is mapped to 6",
        ],
        [],
    )
    assert mend(store, labels, "voxels") == {"counts": 1, "supervoxels": 1, "mappings": 0, "bodies": 1}
    assert told(store, labels) == ([], [])
    assert labels.listlabels_sizes() == {5: WHOLE // 2, 6: WHOLE // 2, 7: WHOLE}
    assert labels.index(5).blocks == {(0, 0, 0): {5: WHOLE // 2}}


def test_blocks_that_came_without_being_counted_are_told_in_one_line(labels: Labels, store: Engine):
    labels.ingest({(x, 0, 1): halves(8) for x in range(3)})
    labels.post_blocks({(0, 1, 0): halves(5, 9), (5, 5, 5): halves(0)}, noindexing=True)
    damage, (line,) = told(store, labels)
    assert damage == []
    assert line == (
        "4 blocks hold labels that were never counted, as after ingest-supervoxels or noindexing=true: "
        "block 0_1_0, block 0_0_1, block 1_0_1, ..."
    )
    labels.post_mappings({7: [8]})
    mend(store, labels, "voxels")
    assert told(store, labels) == ([], [])
    assert labels.listlabels_sizes() == {5: WHOLE, 6: WHOLE // 2, 7: 4 * WHOLE, 9: WHOLE // 2}
    assert labels.supervoxel_sizes(7) == {7: WHOLE, 8: 3 * WHOLE}
    assert labels.max_label() >= 9


def test_a_block_that_came_uncounted_in_place_of_another_is_damage(labels: Labels, store: Engine):
    labels.post_blocks({(1, 0, 0): halves(7, 8)}, noindexing=True)
    assert told(store, labels)[0] == [
        "block 1_0_0 holds 2048 voxels of supervoxel 7, but the index counts 4096",
        "block 1_0_0 holds 2048 voxels of supervoxel 8, but the index counts 0",
    ]
    mend(store, labels, "voxels")
    assert labels.listlabels_sizes() == {5: WHOLE // 2, 6: WHOLE // 2, 7: WHOLE // 2, 8: WHOLE // 2}


def test_a_committed_version_is_repaired_in_its_child(labels: Labels, store: Engine):
    labels.post_mappings({20: [5]})
    labels.connection.commit(labels.uuid)
    child = labels.at(labels.connection.child(labels.uuid, "next"))
    assert told(store, child)[1] == ["supervoxel 5: mapped to 20, but in the index of 5"]
    mend(store, child, "mapping")
    assert told(store, child) == ([], [])
    assert labels.supervoxels(5) == {5}
    assert child.supervoxels(20) == {5}


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_tells_damage_from_differences_and_repairs(seg: Segmentation, tmp_path: Path):
    def run(*words: object, code: int = 0) -> str:
        done = live.dvidfs("check", tmp_path / "store", *words, check=False)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    seg.write(lambda view: mutate.set_mappings(view, ids(1), ids(5)))
    line = f'datatypes: "seg" at version {seg.uuid}: supervoxel 1: mapped to 5, but in the index of 1\n'
    shown = run("--deep")
    assert shown.startswith(line)
    assert " is sound: " in shown
    assert shown.endswith(" rows, 1 differences\n")
    seg.write(DAMAGES["a count"][0])
    found = json.loads(run("--deep", "--json", code=5))
    assert (found["ok"], found["problem_count"], found["difference_count"]) == (False, 1, 1)
    assert [p["text"] for p in found["problems"]] == DAMAGES["a count"][1]
    repair_it = ("--repair", "r:master", "seg", "--from")
    told = json.loads(run(*repair_it, "voxels", "--json"))
    assert told == {"from": "voxels", "changed": {"counts": 1, "supervoxels": 1, "mappings": 0, "bodies": 2}}
    assert run(*repair_it, "mapping") == f'nothing to repair: "seg" at version {seg.uuid} agrees with its mapping\n'
    assert seg.check() == ([], [])
    records = seg.read(lambda view: list(journal.records(view)))
    assert (records[-1]["From"], records[-1]["App"]) == ("voxels", "dvidfs")


def test_the_command_refuses_what_it_cannot_repair(tmp_path: Path, capsys: pytest.CaptureFixture):
    Store.create(tmp_path / "store")
    with open_engine(tmp_path / "store") as engine:
        seg = Segmentation(engine)
        seg.write(lambda view: repos.create_instance(view.txn, view.node, "keyvalue", "kv"))
        committed = seg.uuid
        step(seg, "child")

    def refused(*words: str) -> str:
        assert main(["check", str(tmp_path / "store"), *words]) != 0
        return capsys.readouterr().err

    sides = "is right: --from voxels, index, mapping, membership"
    assert sides in refused("--repair", seg.uuid, "seg")
    assert sides in refused("--repair", seg.uuid, "seg", "--from", "blocks")
    assert 'no instance "nothing"' in refused("--repair", seg.uuid, "nothing", "--from", "index")
    assert "--from belongs to --repair" in refused("--from", "index")
    assert "has nothing to repair" in refused("--repair", seg.uuid, "kv", "--from", "index")
    assert "is committed: repair an open child" in refused("--repair", committed, "seg", "--from", "index")
