"""Splits over HTTP: what comes of them in every answer, what is refused, and what happens when others are at work meanwhile."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import live
import numpy as np
import pytest
import wire
from agreement import agree, refused, same, splits_agree
from client import Connection, Labels, Refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelserver import LabelServer
from model import Frame, State
from numpy.typing import NDArray

from dvidfs.engine import Engine, ReadView, WriteView, repos
from dvidfs.errors import BadRequest
from dvidfs.types.labelmap import LABELMAP, blocks, counters, mutate, splits

FRAME = Frame((16, 16, 16), (2, 2, 2), (-1, 0, 0))
MASKS = st.tuples(st.integers(0, 2**32 - 1), st.sampled_from([0.02, 0.5, 0.98]))
MODEST = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def painted() -> wire.Voxels:
    """Boulders 1 to 6 with dust of 7, and background."""
    dice = np.random.default_rng(5)
    voxels = np.kron(dice.integers(0, 7, (4, 4, 4)), np.ones((8, 8, 8), int)).astype(np.uint64)
    voxels[dice.random(voxels.shape) < 0.03] = 7
    return voxels


@pytest.fixture
def state(labels: Labels) -> State:
    """A labelmap and its model: 2, 3 and 7 are one body."""
    found = State.empty(FRAME)
    stream = {place: painted()[FRAME.window(place)] for place in FRAME.places()}
    labels.post_blocks(stream, downres=True)
    found.write(stream)
    labels.merge(2, [3, 7])
    found.merge(2, [3, 7])
    return found


def runs_of(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    return wire.runs_of_points(wire.points_of_mask(mask, FRAME.start))


def some(mine: NDArray[np.bool_], dice: tuple[int, float]) -> NDArray[np.bool_]:
    """A part of a mask that is neither nothing nor all."""
    seed, share = dice
    part = mine & (np.random.default_rng(seed).random(mine.shape) < share)
    where = np.argwhere(mine)
    part[tuple(where[0])], part[tuple(where[-1])] = True, False
    return part


def half(mine: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mine & (np.cumsum(mine).reshape(mine.shape) <= mine.sum() // 2)


def agrees(labels: Labels, state: State) -> None:
    agree(labels, state, random.Random(1), bodies=4)
    splits_agree(labels, [(labels.uuid, state.splits)])


# ---------------------------------------------------------------- what comes of it


@MODEST
@given(dice=MASKS, supervoxel=st.sampled_from([1, 2, 3, 7]))
def test_a_supervoxel_is_cut_in_two(connection: Connection, dice: tuple[int, float], supervoxel: int):
    labels, state = fresh(connection)
    mask = some(state.voxels == supervoxel, dice)
    split, remain, _ = labels.split_supervoxel(supervoxel, runs_of(mask)[::-1])
    assert (split, remain) == (8, 9)
    state.split_supervoxel(supervoxel, mask, split, remain)
    agrees(labels, state)


def fresh(connection: Connection) -> tuple[Labels, State]:
    """As the fixtures, anew for each example."""
    uuid = connection.new_repo()
    connection.new_instance(uuid, "labels", BlockSize="16,16,16", MaxDownresLevel="2")
    labels = Labels(connection, uuid)
    found = State.empty(FRAME)
    stream = {place: painted()[FRAME.window(place)] for place in FRAME.places()}
    labels.post_blocks(stream, downres=True)
    found.write(stream)
    labels.merge(2, [3, 7])
    found.merge(2, [3, 7])
    return labels, found


@MODEST
@given(dice=MASKS)
def test_voxels_of_a_body_become_a_body(connection: Connection, dice: tuple[int, float]):
    labels, state = fresh(connection)
    split_body(labels, state, some(np.isin(state.voxels, [2, 3, 7]), dice))
    agrees(labels, state)


def split_body(labels: Labels, state: State, mask: NDArray[np.bool_]) -> int:
    touched = sorted(np.unique(state.voxels[mask]).tolist())
    label, mutation = labels.split(2, runs_of(mask))
    record = labels.mutations()[-1]
    pairs = {int(old): (to["Split"], to["Remain"]) for old, to in record["SVSplits"].items()}
    assert (record["MutationID"], record["Target"], record["NewLabel"]) == (mutation, 2, label)
    assert sorted(pairs) == touched
    state.split(mask, label, pairs)
    state.post_mappings({0: [label]})
    return label


def test_a_supervoxel_that_a_body_split_takes_whole_has_no_remainder(labels: Labels, state: State):
    label = split_body(labels, state, state.voxels == 3)
    assert len(labels.supervoxels(label)) == 1
    agrees(labels, state)


def test_parts_get_the_numbers_that_are_named(labels: Labels, state: State):
    masks = [half(state.voxels == n) for n in (1, 4)]
    assert labels.split_supervoxel(1, runs_of(masks[0]), split=500)[:2] == (500, 501)
    assert labels.split_supervoxel(4, runs_of(masks[1]), split=900, remain=800)[:2] == (900, 800)
    state.split_supervoxel(1, masks[0], 500, 501)
    state.split_supervoxel(4, masks[1], 900, 800)
    assert labels.next_label() == 901
    agrees(labels, state)


def test_parts_are_split_again_in_a_child_version(labels: Labels, state: State):
    mask = half(state.voxels == 2)
    split, remain, _ = labels.split_supervoxel(2, runs_of(mask))
    state.split_supervoxel(2, mask, split, remain)
    labels.connection.commit(labels.uuid)
    below, child = labels.at(labels.connection.child(labels.uuid, "work")), state.child(labels.uuid)
    mask = half(child.voxels == split)
    again = below.split_supervoxel(split, runs_of(mask))
    child.split_supervoxel(split, mask, *again[:2])
    agree(below, child, random.Random(2))
    splits_agree(below, [(below.uuid, child.splits), (labels.uuid, state.splits)])
    agrees(labels, state)
    refused(labels.split_supervoxel, remain, runs_of(half(state.voxels == remain)))


def test_numbers_of_a_series_that_are_in_use_are_passed_over(labels: Labels, state: State):
    labels.ask("POST", "set-nextlabel/3")
    mask = half(state.voxels == 1)
    assert labels.split_supervoxel(1, runs_of(mask))[:2] == (8, 9)
    state.split_supervoxel(1, mask, 8, 9)
    assert labels.next_label() == 10
    agrees(labels, state)


def test_scales_stay_as_they_were_if_that_is_wanted(labels: Labels, state: State):
    start, shape = FRAME.scaled(1)
    live.wait_until(lambda: not labels.json("pyramid")["pending"], what="the end of the work on scales")
    before = labels.raw(start, shape, scale=1, supervoxels=True)
    split, _, _ = labels.split_supervoxel(1, runs_of(half(state.voxels == 1)), downres=False)
    same(labels.raw(start, shape, scale=1, supervoxels=True), before)
    assert split in labels.raw(FRAME.start, FRAME.shape, supervoxels=True)


def test_the_log_tells_sizes_and_where_the_runs_are(labels: Labels, state: State):
    mask = half(state.voxels == 3)
    split, remain, mutation = labels.split_supervoxel(3, runs_of(mask), u="sue", app="neu")
    record = labels.mutations()[-1]
    blob = labels.ask("GET", f"blobstore/{record.pop('Split')}")
    assert blob == runs_of(mask).astype("<i4").tobytes()
    told = {key: record[key] for key in record if key not in ("Timestamp", "UUID")}
    assert told == {
        "Action": "split-supervoxel-complete",
        "MutationID": mutation,
        "Supervoxel": 3,
        "Body": 2,
        "SplitSupervoxel": split,
        "RemainSupervoxel": remain,
        "SplitSize": mask.sum(),
        "RemainSize": (state.voxels == 3).sum() - mask.sum(),
        "User": "sue",
        "App": "neu",
    }
    assert labels.lastmod(2)["last mod user"] == "sue"


# ---------------------------------------------------------------- what is refused


def wrong_runs(state: State) -> Iterator[tuple[str, NDArray[np.int32]]]:
    """Runs that cannot split supervoxel 3, by what is wrong with them."""
    mine = state.voxels == 3
    good = runs_of(half(mine))
    yield "none", good[:0]
    yield "all of it", runs_of(mine)
    yield "without length", good * np.array([1, 1, 1, 0], np.int32)
    yield "one of negative length", np.concatenate((good, good[:1] * np.array([1, 1, 1, -1], np.int32)))
    yield "one twice", np.concatenate((good, good[:1]))
    yield "others alone", runs_of(half(state.voxels == 1))
    yield (
        "one voxel of another",
        np.concatenate((good, runs_of(state.voxels == 1)[:1] * np.array([1, 1, 1, 0]) + [0, 0, 0, 1])),
    )
    yield "background", np.concatenate((good, runs_of(state.voxels == 0)[:1] * np.array([1, 1, 1, 0]) + [0, 0, 0, 1]))
    yield "a block that is not there", np.concatenate((good, [[16 * 40, 0, 0, 1]]))
    yield "a block that is nowhere", np.concatenate((good, [[2**31 - 2, 2**31 - 1, -(2**31), 1]]))
    yield "beyond the last coordinate", np.concatenate((good, [[2**31 - 2, 0, 0, 5]]))


def test_wrong_runs_change_nothing(labels: Labels, state: State):
    number = labels.next_label()
    for what, runs in wrong_runs(state):
        refused(labels.split_supervoxel, 3, runs.astype(np.int32), status=400)
        if what not in ("all of it", "others alone"):
            refused(labels.split, 2, runs.astype(np.int32), status=400)
    refused(labels.split, 2, runs_of(np.isin(state.voxels, [2, 3, 7])), status=400)
    refused(labels.split, 2, runs_of(half(state.voxels == 1)), status=400)
    payload = wire.encode_rles(runs_of(half(state.voxels == 3)))
    for damaged in (b"", payload[:7], payload[:12], payload[:-1], payload + b"\0", b"\1" + payload[1:]):
        refused(labels.ask, "POST", "split-supervoxel/3", damaged, status=400)
        refused(labels.ask, "POST", "split/2", damaged, status=400)
    assert labels.next_label() == number
    agrees(labels, state)


def test_wrong_labels_change_nothing(labels: Labels, state: State):
    runs = runs_of(half(state.voxels == 3))
    for label in (0, 99, 2**64 - 1, 2**64):
        refused(labels.split_supervoxel, label, runs, status=400)
        refused(labels.split, label, runs, status=400)
    refused(labels.split, 3, runs, status=400)
    for text in ("x", "-3", "3.5"):
        refused(labels.ask, "POST", f"split-supervoxel/{text}", wire.encode_rles(runs), status=400)
    for numbers in ((3, 50), (50, 3), (50, 1), (7, 50), (50, 50), (0, 50), (50, 2**63 + 1), ("x", 50), (50, -1)):
        refused(labels.split_supervoxel, 3, runs, split=numbers[0], remain=numbers[1], status=400)
    agrees(labels, state)
    split, remain, _ = labels.split_supervoxel(3, runs)
    state.split_supervoxel(3, half(state.voxels == 3), split, remain)
    with pytest.raises(Refused, match="has been split and doesn't exist anymore"):
        labels.split_supervoxel(3, runs)
    refused(labels.split_supervoxel, remain, runs_of(half(state.voxels == remain)), split=3, remain=77, status=400)
    agrees(labels, state)


def test_numbers_that_only_the_mapping_knows_are_in_use(labels: Labels, state: State):
    labels.post_mappings({2: [600]})
    cleaved, _ = labels.cleave(2, [7])
    labels.merge(2, [cleaved])
    for number in (600, cleaved):
        refused(labels.split_supervoxel, 3, runs_of(half(state.voxels == 3)), split=number, status=400)
    assert labels.supervoxels(2) == {2, 3, 7}
    same(labels.raw(FRAME.start, FRAME.shape, supervoxels=True), state.voxels)


def test_an_index_that_is_not_what_the_blocks_hold_is_not_split(labels: Labels, state: State):
    index = labels.index(1)
    place = next(iter(index.blocks))
    index.blocks[place][1] += 1
    labels.post_index(index)
    mine = state.voxels == 1
    with pytest.raises(Refused, match="the index counts"):
        labels.split_supervoxel(1, runs_of(half(mine)))
    same(labels.raw(FRAME.start, FRAME.shape, supervoxels=True), state.voxels)
    assert labels.index(1).blocks == index.blocks


def test_a_server_splits_bodies_only_if_it_is_told_to(tmp_path: Path):
    with LabelServer(tmp_path) as able:
        at, state = fresh(Connection(able.port))
        at.connection.close()
    with live.Server(tmp_path / "store", log=tmp_path / "other.log") as server:
        labels = Labels(Connection(server.port), at.uuid)
        runs = runs_of(half(state.voxels == 3))
        with pytest.raises(Refused, match="Split endpoint deactivated in this DVID server's configuration"):
            labels.split(2, runs)
        assert labels.split_supervoxel(3, runs)[0] == 8
        labels.connection.close()


# ---------------------------------------------------------------- others at work


def test_many_split_the_same_blocks_at_once(label_server: LabelServer, labels: Labels, state: State):
    done: dict[int, tuple[int, int, int]] = {}

    def work(supervoxel: int, runs: NDArray[np.int32]) -> None:
        connection = Connection(label_server.port)
        own = Labels(connection, labels.uuid, labels.name)
        done[supervoxel] = own.split_supervoxel(supervoxel, runs)
        connection.close()

    masks = {n: half(state.voxels == n) for n in range(1, 8)}
    threads = [threading.Thread(target=work, args=(n, runs_of(mask))) for n, mask in masks.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for supervoxel, (split, remain, _) in sorted(done.items(), key=lambda item: item[1][2]):
        state.split_supervoxel(supervoxel, masks[supervoxel], split, remain)
    assert len({n for split, remain, _ in done.values() for n in (split, remain)}) == 14
    agrees(labels, state)


class Bench:
    """A labelmap in this process, so that a split can be prepared now and done later."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.uuid = engine.write(self._make)
        self.write(self._fill)

    @staticmethod
    def _make(txn) -> str:
        repo = repos.create_repo(txn)
        node = txn.graph.version(repo.uuid)
        told = LABELMAP.configure({"blocksize": "16,16,16"})
        repos.create_instance(txn, node, "labelmap", "labels", compression="gzip", settings=told)
        return repo.uuid

    @staticmethod
    def _fill(view: WriteView) -> None:
        voxels = painted()
        stack = np.stack([voxels[FRAME.window(place)] for place in FRAME.places()])
        blocks.write_blocks(view, FRAME.places(), stack, "ingest")

    def read(self, operation, *given, **named):
        with self.engine.read() as txn:
            node = txn.graph.version(self.uuid)
            return operation(ReadView(txn, node, txn.graph.instance(node, "labels")), *given, **named)

    def write(self, operation, *given, **named):
        def run(txn):
            node = txn.graph.version(self.uuid)
            return operation(WriteView(txn, node, txn.graph.instance(node, "labels")), *given, **named)

        return self.engine.write(run)

    def prepared(self, supervoxel: int, mask: NDArray[np.bool_]) -> dict:
        body = wire.encode_rles(runs_of(mask))
        return dict(self.read(splits.prepare_split_supervoxel, str(supervoxel), None, None, True, body))

    def voxels(self) -> wire.Voxels:
        def look(view: ReadView) -> wire.Voxels:
            content = blocks.get_blocks(view, "32_32_32", "-16_0_0", "uncompressed", 0, True)
            found = wire.decode_blocks(b"".join(map(bytes, content.body)), "uncompressed", FRAME.block_shape)
            out = np.zeros(FRAME.shape, np.uint64)
            for place, block in found.items():
                out[FRAME.window(place)] = block
            return out

        return self.read(look)


def test_a_split_that_others_were_faster_than_is_made_anew(engine: Engine):
    bench, voxels = Bench(engine), painted()
    masks = {n: half(voxels == n) for n in (1, 4)}
    waiting = {n: bench.prepared(n, mask) for n, mask in masks.items()}
    for supervoxel in (4, 1):
        made = bench.write(splits.post_split_supervoxel, **waiting[supervoxel])
        mine = voxels == supervoxel
        voxels[mine] = made["RemainSupervoxel"]
        voxels[masks[supervoxel]] = made["SplitSupervoxel"]
    assert made == {"SplitSupervoxel": 10, "RemainSupervoxel": 11, "MutationID": made["MutationID"]}
    same(bench.voxels(), voxels)


def test_numbers_that_others_have_taken_are_replaced(engine: Engine):
    bench, voxels = Bench(engine), painted()
    mask, mine = half(voxels == 1), voxels == 1
    waiting = bench.prepared(1, mask)
    assert bench.write(counters.take, 3) == 8
    made = bench.write(splits.post_split_supervoxel, **waiting)
    assert (made["SplitSupervoxel"], made["RemainSupervoxel"]) == (11, 12)
    voxels[mine] = 12
    voxels[mask] = 11
    same(bench.voxels(), voxels)


def test_a_body_that_lost_the_rest_meanwhile_is_not_split(engine: Engine):
    bench, voxels = Bench(engine), painted()
    bench.write(mutate.merge, 2, [3])
    waiting = dict(bench.read(splits.prepare_split, "2", wire.encode_rles(runs_of(voxels == 3))))
    bench.write(mutate.cleave, 2, [2], bench.write(counters.take))
    with pytest.raises(BadRequest, match="split volume of"):
        bench.write(splits.post_split, **waiting)
    same(bench.voxels(), voxels)


def test_a_split_prepared_twice_is_done_once(engine: Engine):
    bench, voxels = Bench(engine), painted()
    first, second = (bench.prepared(1, half(voxels == 1)) for _ in range(2))
    bench.write(splits.post_split_supervoxel, **first)
    after = bench.voxels()
    with pytest.raises(BadRequest, match="has been split"):
        bench.write(splits.post_split_supervoxel, **second)
    same(bench.voxels(), after)
