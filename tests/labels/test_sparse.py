"""Sparse volumes over HTTP: every form of every body, runs across blocks, bounds, what is there after mutations, refusals; and long
ones, which are not held in memory."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import numpy as np
import pytest
import wire
from agreement import body_agrees, refused, same
from client import Connection, Labels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model import Frame, State
from wire import Points, Voxels

from dvidfs.engine import Engine, ReadView, WriteView, repos
from dvidfs.engine.store import ReadTxn, WriteTxn
from dvidfs.errors import BadRequest, NotFound
from dvidfs.types.base import Content
from dvidfs.types.labelmap import LABELMAP, mutate, shapes, sparse

FRAME = Frame((16, 16, 16), (3, 3, 2), (-2, -1, 0))
ROW = Frame((16, 16, 16), (37, 2, 1), (-3, 0, 0))
"""Longer than what a thread takes at a time, which is 16 blocks."""
MODEST = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SEEDS = st.integers(0, 2**32 - 1)


def painted(frame: Frame, seed: int, *, labels: int = 6) -> Voxels:
    """Boulders, planks along x through all blocks, and dust."""
    dice = np.random.default_rng(seed)
    voxels = np.zeros(frame.shape, np.uint64)
    for label in range(1, labels + 1):
        z, y, x = (sorted(dice.integers(0, n + 1, 2)) for n in frame.shape)
        voxels[z[0] : z[1], y[0] : y[1], x[0] : x[1]] = label
        plank = [int(dice.integers(0, n)) for n in frame.shape[:2]]
        voxels[plank[0], plank[1] : plank[1] + 3] = label
    voxels[dice.random(voxels.shape) < 0.05] = labels + 1
    return voxels


def written(labels: Labels, frame: Frame, voxels: Voxels) -> State:
    """A labelmap and its model: 1, 3 and 5 are one body, if they are there."""
    state = State.empty(frame)
    stream = {place: voxels[frame.window(place)] for place in frame.places()}
    labels.post_blocks(stream, downres=True)
    state.write(stream)
    others = [label for label in (3, 5) if label in state.bodies()]
    if others and 1 in state.bodies():
        labels.merge(1, others)
        state.merge(1, others)
    return state


@pytest.fixture
def state(labels: Labels) -> State:
    return written(labels, FRAME, painted(FRAME, 11))


def ask(labels: Labels, rest: str, **query: object) -> bytes:
    return labels.ask("GET", rest, **query)


# -- the voxels -------------------------------------------------------------------------------------------------------


@MODEST
@given(seed=SEEDS)
def test_every_form_of_every_body(connection: Connection, seed: int):
    uuid = connection.new_repo()
    connection.new_instance(uuid, "labels", BlockSize="16,16,16", MaxDownresLevel="2")
    labels = Labels(connection, uuid)
    state = written(labels, FRAME, painted(FRAME, seed))
    for body in state.bodies():
        body_agrees(labels, state, body, random.Random(seed))


@MODEST
@given(seed=SEEDS)
def test_runs_are_as_long_as_can_be_across_all_blocks(connection: Connection, seed: int):
    uuid = connection.new_repo()
    connection.new_instance(uuid, "labels", BlockSize="16,16,16")
    labels = Labels(connection, uuid)
    state = written(labels, ROW, painted(ROW, seed))
    for body in state.bodies():
        points = state.points(state.supervoxels(body))
        told = wire.decode_rles(ask(labels, f"sparsevol/{body}"))
        same(in_order(told), wire.runs_of_points(points))
        same(in_order(wire.decode_runs(ask(labels, f"sparsevol/{body}", format="srles"))), in_order(told))
        same(labels.sparsevol(body, "blocks"), points)
        runs = wire.decode_rles(ask(labels, f"sparsevol-coarse/{body}"))
        same(runs, wire.runs_of_points(state.coarse(state.supervoxels(body))))


def in_order(runs: np.ndarray) -> np.ndarray:
    return runs[np.lexsort((runs[:, 0], runs[:, 1], runs[:, 2]))]


def test_what_a_mutation_changes_is_seen_at_once(labels: Labels, state: State):
    """A body is asked for before and after, so nothing that is kept of it may be told again."""
    body, other = 1, 2

    def agrees() -> None:
        for label in state.bodies():
            voxels = state.points(state.supervoxels(label))
            same(labels.sparsevol(label), voxels)
            same(labels.coarse(label), state.coarse(state.supervoxels(label)))
            assert labels.sparsevol_size(label)["voxels"] == len(voxels)

    agrees()
    labels.merge(body, [other])
    state.merge(body, [other])
    agrees()
    refused(labels.sparsevol, other, status=404)
    cleaved, _ = labels.cleave(body, [3])
    state.cleave([3], cleaved)
    agrees()
    place = (-2, -1, 0)
    voxels = np.full(FRAME.block_shape, 4, np.uint64)
    labels.post_blocks({place: voxels})
    state.write({place: voxels})
    agrees()


def test_a_version_keeps_what_it_had(labels: Labels, state: State):
    before, voxels = state.points({4}), labels.sparsevol(4)
    same(voxels, before)
    labels.connection.commit(labels.uuid)
    child = labels.at(labels.connection.child(labels.uuid, "on"))
    child.merge(4, [2])
    same(child.sparsevol(4), state.points({2, 4}))
    same(labels.sparsevol(4), before)
    same(labels.sparsevol(2), state.points({2}))


def test_a_supervoxel_is_told_where_its_body_holds_it(labels: Labels, state: State):
    same(labels.sparsevol(3, supervoxels=True), state.points({3}))
    same(labels.coarse(3, supervoxels=True), state.coarse({3}))
    assert labels.sparsevol_size(3, supervoxels=True)["voxels"] == len(state.points({3}))
    refused(labels.sparsevol, 3, status=404)  # as a body it is gone
    labels.post_mappings({4: [3]})
    refused(labels.sparsevol, 3, supervoxels=True, status=404)  # mapped to a body whose index does not name it
    same(labels.sparsevol(1), state.points({1, 3, 5}))


# -- options ----------------------------------------------------------------------------------------------------------


def test_bounds(labels: Labels, state: State):
    whole, low = state.points({2}), np.array(FRAME.start)
    for x in (-16, -13, 5):  # at a border, and within a sub-block
        assert (whole[:, 0] == x).any()
        same(labels.sparsevol(2, minx=x, maxx=x), whole[whole[:, 0] == x])
    same(labels.sparsevol(2, minx="", maxx=""), whole)
    within = whole[:, 0] < 0
    assert within.any()
    assert not within.all()
    same(labels.sparsevol(2, maxx=-1), whole[within])  # voxel -1 lies in block -1, not in block 0
    same(labels.sparsevol(2, "blocks", maxx=-1), whole[within])
    same(labels.coarse(2, maxx=-1), state.coarse({2})[state.coarse({2})[:, 0] < 0])
    far = int(low[0]) + 10_000
    refused(labels.sparsevol, 2, minx=far, status=404)
    refused(labels.sparsevol, 2, "srles", minx=far, status=404)
    assert not labels.has_sparsevol(2, minx=far)
    assert not labels.has_sparsevol(2, minx=5, maxx=4)
    refused(labels.sparsevol, 2, minx=5, maxx=4, status=404)
    assert ask(labels, "sparsevol-coarse/2", minx=far) == bytes.fromhex("0003000000000000 00000000")


def test_a_box_without_voxels_in_blocks_that_have_some_says_nothing_at_all(labels: Labels):
    voxels = np.full((16, 16, 16), 8, np.uint64)
    voxels[3, 4, 5:9] = 7
    labels.post_blocks({(0, 0, 0): voxels}, downres=True)
    for form in ("rles", "srles"):
        assert ask(labels, "sparsevol/7", format=form, minx=9) == b""
    for compression in ("gzip", "lz4"):
        assert ask(labels, "sparsevol/7", compression=compression, minx=9) == b""
    assert ask(labels, "sparsevol/7", format="srles", minx=9, exact="false") == struct.pack("<4i", 5, 4, 3, 4)
    assert labels.has_sparsevol(7, minx=9)
    assert ask(labels, "sparsevol/7", scale=2) == b""  # outvoted there
    assert ask(labels, "sparsevol/7", scale=2, format="blocks") == b""
    assert ask(labels, "sparsevol/7", scale=200, format="srles") == b""


def test_worked_bytes(labels: Labels):
    """As the format's description has them."""
    voxels = {(4, 0, 0): np.zeros((16, 16, 16), np.uint64), (8, 0, 0): np.full((16, 16, 16), 23, np.uint64)}
    voxels[4, 0, 0][:8, :8, :8] = voxels[4, 0, 0][0, 0, 9] = 23
    labels.post_blocks(voxels)
    mask = b"\x02" + bytes.fromhex("02") + bytes(63)
    head = struct.pack("<3IQ", 2, 2, 2, 23)
    first = struct.pack("<3iB", 64, 0, 0, 2) + b"\x01" + mask + bytes(6)
    assert ask(labels, "sparsevol/23", format="blocks") == head + first + struct.pack("<3iB", 128, 0, 0, 1)
    coarse = "0003000000000000 02000000 04000000 00000000 00000000 01000000 08000000 00000000 00000000 01000000"
    assert ask(labels, "sparsevol-coarse/23") == bytes.fromhex(coarse)
    size = b'{"voxels": 4609, "numblocks": 2, "minvoxel": [64, 0, 0], "maxvoxel": [143, 15, 15]}'
    assert ask(labels, "sparsevol-size/23") == size
    assert ask(labels, "sparsevols-coarse/1/100") == struct.pack("<Qi", 23, 2) + bytes.fromhex(coarse)[12:]


def test_a_range_of_bodies(labels: Labels, state: State):
    known = {body: state.coarse(state.supervoxels(body)) for body in state.bodies()}
    for first, last in ((0, 2**64 - 1), (2, 4), (3, 3), (4, 2)):
        found = labels.coarse_many(first, last)
        assert list(found) == [body for body in known if first <= body <= last]
        for body, coarse in found.items():
            same(coarse, known[body])
    few = wire.decode_coarse_stream(ask(labels, "sparsevols-coarse/1/9", minx=0, maxx=15))
    assert {body: coarse.tolist() for body, coarse in few.items()} == {
        body: coarse[coarse[:, 0] == 0].tolist() for body, coarse in known.items()
    }


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "query", "status"),
    [
        ("sparsevol/0", {}, 400),
        ("sparsevol/", {}, 400),
        ("sparsevol", {}, 400),
        ("sparsevol/-1", {}, 400),
        ("sparsevol/18446744073709551616", {}, 400),
        ("sparsevol/1", {"minx": "a"}, 400),
        ("sparsevol/1", {"maxz": "99999999999"}, 400),
        ("sparsevol/1", {"scale": "-1"}, 400),
        ("sparsevol/1", {"scale": "x"}, 400),
        ("sparsevol/1", {"compression": "zip"}, 400),
        ("sparsevol/424242", {}, 404),
        ("sparsevol/424242", {"supervoxels": "true"}, 404),
        ("sparsevol-size/0", {}, 400),
        ("sparsevol-size/424242", {}, 404),
        ("sparsevol-coarse/0", {}, 400),
        ("sparsevol-coarse/1", {"miny": "1.5"}, 400),
        ("sparsevol-coarse/424242", {}, 404),
        ("sparsevols-coarse/1", {}, 400),
        ("sparsevols-coarse/1/x", {}, 400),
        ("sparsevol-by-point/1_2", {}, 400),
        ("sparsevol-by-point/a_b_c", {}, 400),
        ("sparsevol-by-point/5000_0_0", {}, 400),
        ("proximity/1/1", {}, 400),
        ("proximity/0/1", {}, 400),
        ("proximity/1/424242", {}, 404),
    ],
)
def test_refused(labels: Labels, state: State, rest: str, query: dict[str, str], status: int):
    refused(labels.ask, "GET", rest, status=status, **query)
    assert labels.sparsevol_size(1)["voxels"] == state.size(1)  # and the next request is answered


def test_what_is_not_looked_at(labels: Labels, state: State):
    whole = ask(labels, "sparsevol/2")
    assert ask(labels, "sparsevol/2", format="BLOCKS") == ask(labels, "sparsevol/2", exact="no") == whole
    assert ask(labels, "sparsevol/0002/more") == whole
    assert ask(labels, "sparsevol/2", format="srles", compression="zip") == whole[12:]
    assert ask(labels, "proximity/1/2") == b""


def test_no_index_no_sparse_volumes(connection: Connection):
    uuid = connection.new_repo()
    connection.new_instance(uuid, "labels", BlockSize="16,16,16", IndexedLabels="false")
    labels = Labels(connection, uuid)
    labels.post_blocks({(0, 0, 0): np.full((16, 16, 16), 7, np.uint64)})
    for rest in ("sparsevol/7", "sparsevol-coarse/7", "sparsevol-by-point/1_1_1"):
        refused(labels.ask, "GET", rest, status=400)
    refused(labels.ask, "HEAD", "sparsevol/7", status=400)
    assert labels.coarse_many(1, 100) == {}


# -- long ones, in this process ---------------------------------------------------------------------------------------

LONG = painted(ROW, 3)


@pytest.fixture
def view(engine: Engine) -> Iterator[ReadView]:
    """A labelmap of :data:`LONG` whose bodies 1 and 3 are one."""

    def make(txn: WriteTxn) -> str:
        repo = repos.create_repo(txn, alias="long")
        node = txn.graph.version(repo.uuid)
        chosen = LABELMAP.configure({"blocksize": "16,16,16"})
        repos.create_instance(txn, node, "labelmap", "labels", compression="gzip", settings=chosen)
        return node.uuid

    uuid = engine.write(make)

    def over(kind: type, txn: ReadTxn) -> ReadView:
        node = txn.graph.version(uuid)
        return kind(txn, node, txn.graph.instance(node, "labels"))

    stream = wire.encode_blocks({place: LONG[ROW.window(place)] for place in ROW.places()})
    row = LABELMAP.table["POST", "blocks"]
    with engine.read() as txn:
        assert row.prepare is not None
        values = row.prepare(over(ReadView, txn), body=stream, **row.defaults)
    engine.write(lambda txn: row.run(over(WriteView, txn), **values))
    engine.write(lambda txn: mutate.merge(over(WriteView, txn), 1, [3]))  # type: ignore[arg-type]
    with engine.read() as txn:
        yield over(ReadView, txn)


def expected(*supervoxels: int) -> Points:
    return wire.points_of_mask(np.isin(LONG, supervoxels), ROW.start)


def sent(content: Content) -> bytes:
    data = content.body if isinstance(content.body, bytes) else b"".join(map(bytes, content.body))
    assert content.size in (None, len(data))
    return data


def test_runs_above_the_limit_wait_in_a_file(view: ReadView, monkeypatch: pytest.MonkeyPatch):
    whole = b"".join(sparse.rles(view, 1))
    same(wire.points_of_runs(wire.decode_rles(whole)), expected(1, 3))
    assert len(whole) > 2000
    for limit in (1, 500, len(whole) - 13):
        monkeypatch.setattr(sparse, "HELD", limit)
        assert b"".join(sparse.rles(view, 1)) == whole
    monkeypatch.setattr(sparse, "PIECE", 1000)
    query = {"format": "rles", "scale": 0, "supervoxels": False}
    assert sent(sparse.get_sparsevol(view, "1", compression="", **query)) == whole
    packed = sent(sparse.get_sparsevol(view, "1", compression="gzip", **query))
    assert wire.gzip.decompress(packed) == whole
    monkeypatch.setattr(sparse, "LZ4_MOST", len(whole))
    packed = sent(sparse.get_sparsevol(view, "1", compression="lz4", **query))
    assert wire.lz4.block.decompress(packed, uncompressed_size=len(whole)) == whole
    monkeypatch.setattr(sparse, "LZ4_MOST", len(whole) - 1)
    with pytest.raises(BadRequest, match="want compression=gzip"):
        sparse.get_sparsevol(view, "1", compression="lz4", **query)


def test_for_files(view: ReadView):
    same(wire.points_of_runs(wire.decode_rles(b"".join(sparse.rles(view, 3, supervoxels=True)))), expected(3))
    places = np.unique(expected(3) // ROW.block, axis=0)
    same(wire.points_of_runs(wire.decode_rles(sparse.coarse(view, 3, supervoxels=True))), wire.ordered(places))
    for nobody in (3, 99):
        with pytest.raises(NotFound):
            sparse.rles(view, nobody)
        with pytest.raises(NotFound):
            sparse.coarse(view, nobody)


def test_blocks_that_are_kept_opened_change_no_answer(engine: Engine, view: ReadView, monkeypatch: pytest.MonkeyPatch):
    shape, whole = sparse.need(view, 1), expected(1, 3)
    sought = shapes.Sought(view, shape.supervoxels, shape.coords)

    def ready() -> int:
        """How many of the blocks are opened."""
        each = (shapes.Sought(view, shape.supervoxels, shape.coords[i : i + 1]) for i in range(len(shape.coords)))
        return sum(one.is_light(1) for one in each)

    assert len(shape.coords) > 20
    for most, kept in (
        (len(shape.coords) // 2 - 1, 0),
        (0, 0),
        (20, 20),
        (1000, len(shape.coords)),
        (0, len(shape.coords)),
    ):
        monkeypatch.setattr(shapes, "KEPT", most)
        same(wire.points_of_runs(np.concatenate(list(sought.runs()))), whole)
        assert ready() == kept
    assert sought.is_light(1000)
    assert not sought.is_light(len(shape.coords) - 1)


def test_an_answer_that_nobody_reads_on_leaves_nothing_running(view: ReadView):
    shape = sparse.need(view, 1)
    runs = shapes.Sought(view, shape.supervoxels, shape.coords).runs()
    next(runs)
    runs.close()  # type: ignore[attr-defined] # it is a generator
    same(wire.points_of_runs(wire.decode_rles(b"".join(sparse.rles(view, 1)))), expected(1, 3))
