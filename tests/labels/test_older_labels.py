"""Labels that are mapped to nothing: labelarray, and the pair of labelblk and labelvol. Over HTTP, in versions, as files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import live
import numpy as np
import pytest
import wire
from agreement import refused, same
from client import Connection, Labels, Refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model import Frame, vote
from numpy.typing import NDArray

from dvidfs.engine import Engine, ReadView, WriteView, repos
from dvidfs.errors import BadRequest
from dvidfs.types.labelarray import LABELARRAY, relabel
from dvidfs.types.labelmap import blocks, bodies, sparse
from dvidfs.types.labelvol import recount

FRAME = Frame((16, 16, 16), (2, 2, 2), (-2, 0, 0))
MODEST = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LABELS = range(1, 7)


def painted(seed: int = 5) -> wire.Voxels:
    """Boulders 1 to 6 and background, with a dust of them in between."""
    dice = np.random.default_rng(seed)
    voxels = np.kron(dice.integers(0, 7, (4, 4, 4)), np.ones((8, 8, 8), int)).astype(np.uint64)
    dust = dice.random(voxels.shape) < 0.02
    voxels[dust] = dice.integers(0, 7, int(dust.sum()))
    return voxels


def runs_of(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    return wire.runs_of_points(wire.points_of_mask(mask, FRAME.start))


def half(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The first half of some voxels."""
    return mask & (np.cumsum(mask).reshape(mask.shape) <= mask.sum() // 2)


def body(runs: Any) -> bytes:
    return wire.encode_rles(np.asarray(runs, np.int32))


@dataclass
class Pair:
    """Where voxels are read and written, where labels are, and what the voxels are to be."""

    voxels: Labels
    volumes: Labels
    model: wire.Voxels = field(default_factory=painted)

    @property
    def scales(self) -> int:
        return 2 if self.voxels is self.volumes else 0

    def at(self, uuid: str) -> Pair:
        voxels = self.voxels.at(uuid)
        volumes = voxels if self.voxels is self.volumes else self.volumes.at(uuid)
        return Pair(voxels, volumes, self.model.copy())

    def write(self) -> None:
        self.voxels.post_raw(FRAME.start, self.model, mutate=True)

    def merge(self, target: int, *others: int) -> None:
        assert self.volumes.ask("POST", "merge", [target, *others]) == b""
        self.model[np.isin(self.model, others)] = target

    def split(self, label: int, mask: NDArray[np.bool_], new: int | None = None) -> int:
        answer = self.volumes.ask("POST", f"split/{label}", body(runs_of(mask)), splitlabel=new)
        self.model[mask] = found = json.loads(answer)["label"]
        return found

    def split_coarse(self, label: int, places: NDArray[np.int64], new: int | None = None) -> int:
        """``places``: (n, 3) blocks."""
        answer = self.volumes.ask("POST", f"split-coarse/{label}", body(wire.runs_of_points(places)), splitlabel=new)
        found = json.loads(answer)["label"]
        for place in places.tolist():
            block = self.model[FRAME.window(tuple(place))]
            block[block == label] = found
        return found

    def places(self, label: int) -> NDArray[np.int64]:
        """The blocks of a label, by z, y, x."""
        points = wire.points_of_mask(self.model == label, FRAME.start)
        return wire.ordered(np.unique(FRAME.places_of(points), axis=0))

    def agrees(self) -> None:
        same(self.voxels.raw(FRAME.start, FRAME.shape), self.model)
        scaled = self.model
        for scale in range(1, self.scales + 1):
            start, shape = FRAME.scaled(scale)
            scaled = vote(scaled)
            same(self.voxels.raw(start, shape, scale=scale), scaled)
        there = np.unique(self.model[self.model > 0]).tolist()
        for label in there:
            mine = wire.ordered(wire.points_of_mask(self.model == label, FRAME.start))
            same(self.volumes.sparsevol(label), mine)
            same(self.volumes.coarse(label), self.places(label))
            assert self.volumes.has_sparsevol(label)
        point = np.argwhere(self.model > 0)[0].tolist()
        label = int(self.model[tuple(point)])
        where = (np.array(point[::-1]) + FRAME.start).tolist()
        assert self.voxels.label(where) == label
        mine = wire.ordered(wire.points_of_mask(self.model == label, FRAME.start))
        same(self.volumes.sparsevol_by_point(where, label), mine)
        for label in {*LABELS, 999} - {*there}:
            refused(self.volumes.sparsevol, label, status=404)
            refused(self.volumes.coarse, label, status=404)
            assert not self.volumes.has_sparsevol(label)


def new_array(connection: Connection) -> Pair:
    uuid = connection.new_repo()
    connection.new_instance(uuid, "segmentation", "labelarray", BlockSize="16,16,16", MaxDownresLevel="2")
    labels = Labels(connection, uuid, "segmentation")
    return Pair(labels, labels)


def follow(follower: Labels, *names: str) -> None:
    follower.ask("POST", "sync", {"sync": ",".join(names)})


def new_pair(connection: Connection) -> Pair:
    uuid = connection.new_repo()
    connection.new_instance(uuid, "voxels", "labelblk", BlockSize="16,16,16")
    connection.new_instance(uuid, "volumes", "labelvol", BlockSize="16,16,16")
    found = Pair(Labels(connection, uuid, "voxels"), Labels(connection, uuid, "volumes"))
    follow(found.voxels, "volumes")
    follow(found.volumes, "voxels")
    return found


KINDS: dict[str, Callable[[Connection], Pair]] = {"labelarray": new_array, "labelvol": new_pair}


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, connection: Connection) -> Pair:
    found = KINDS[request.param](connection)
    found.write()
    return found


@pytest.fixture
def array(connection: Connection) -> Pair:
    found = new_array(connection)
    found.write()
    return found


@pytest.fixture
def volumes(connection: Connection) -> Pair:
    found = new_pair(connection)
    found.write()
    return found


# ---------------------------------------------------------------- mutations

STEPS = st.lists(
    st.tuples(st.sampled_from(["merge", "split", "coarse", "write"]), st.integers(0, 2**32 - 1)), max_size=6
)


@pytest.mark.parametrize("kind", KINDS)
@MODEST
@given(steps=STEPS)
def test_whatever_is_done_voxels_and_volumes_are_those_of_the_model(connection: Connection, kind: str, steps):
    pair = KINDS[kind](connection)
    pair.write()
    for what, seed in steps:
        dice = np.random.default_rng(seed)
        there = np.unique(pair.model[pair.model > 0])
        label = int(dice.choice(there))
        if what == "write":
            pair.model[:] = np.where(dice.random(FRAME.shape) < 0.5, pair.model, painted(seed))
            pair.write()
        elif what == "merge":
            others = dice.choice(np.append(there, 7000), 2)
            pair.merge(label, *(int(n) for n in others if n != label), 8000)
        elif what == "split":
            mine = pair.model == label
            pair.split(
                label,
                mine & (dice.random(FRAME.shape) < dice.choice([0.1, 1.0]))
                | mine & (mine.cumsum() == 1).reshape(mine.shape),
            )
        else:
            places = pair.places(label)
            pair.split_coarse(label, places[: dice.integers(1, len(places) + 1)])
        pair.agrees()


def test_versions_keep_what_each_was_told(pair: Pair):
    connection, root = pair.voxels.connection, pair.voxels.uuid
    connection.commit(root)
    left, right = (pair.at(connection.child(root, name)) for name in ("left", "right"))
    refused(pair.merge, 1, 2, status=400)
    left.merge(1, 2)
    new = right.split(3, half(right.model == 3))
    assert new == left.split(3, half(left.model == 3)) - 1
    for version in (pair, left, right):
        version.agrees()


def test_versions_that_changed_different_blocks_can_be_merged(pair: Pair):
    connection, root = pair.voxels.connection, pair.voxels.uuid
    first, last = (np.array([place]) for place in (FRAME.places()[0], FRAME.places()[-1]))
    one, other = (pair.model[FRAME.window(tuple(at[0].tolist()))] for at in (first, last))
    label = int(np.intersect1d(one, other)[-1])
    assert label > 0
    connection.commit(root)
    left, right = (pair.at(connection.child(root, name)) for name in ("left", "right"))
    left.split_coarse(label, first, 100)
    right.split_coarse(label, last, 200)
    for version in (left, right):
        connection.commit(version.voxels.uuid)
    child, conflicts = connection.merge_versions([left.voxels.uuid, right.voxels.uuid])
    assert not any(found["count"] for found in conflicts.values())
    merged = left.at(child)
    at = FRAME.window(tuple(last[0].tolist()))
    merged.model[at] = right.model[at]
    merged.agrees()
    merged.merge(100, 200)
    merged.agrees()


def test_blocks_that_both_changed_are_settled_by_writing_them(pair: Pair):
    connection, root = pair.voxels.connection, pair.voxels.uuid
    connection.commit(root)
    left, right = (pair.at(connection.child(root, name)) for name in ("left", "right"))
    left.merge(1, 2)
    right.merge(3, 2, 4)
    for version in (left, right):
        connection.commit(version.voxels.uuid)
    child, conflicts = connection.merge_versions([left.voxels.uuid, right.voxels.uuid])
    merged = left.at(child)
    assert conflicts[merged.voxels.name]["count"] > 0
    refused(merged.voxels.raw, FRAME.start, FRAME.shape)
    merged.model = painted(9)
    merged.write()
    merged.agrees()
    merged.merge(3, 1)
    merged.agrees()


def test_labels_without_voxels_are_merged_into_nothing(pair: Pair):
    pair.merge(1, 5000)
    pair.merge(5000, 5001)
    pair.agrees()
    pair.merge(5000, 1)
    pair.agrees()


def wrong(pair: Pair) -> Iterator[tuple[str, object]]:
    """Requests that are refused: a path and a body."""
    yield from (("merge", text) for text in (b"", b"x", b"{}", b'["1", 2]', b"[1, -2]", b"[1, 2.5]"))
    yield from (("merge", given) for given in ([], [1], [1, 0], [0, 1], [1, 1], [1, 2, 1], [2**64 - 1, 1], [1, 2**64]))
    mine = pair.model == 1
    good, other = runs_of(half(mine)), runs_of(half(pair.model == 2))
    outside = runs_of(pair.model == 0)[:1] * np.array([1, 1, 1, 0]) + [0, 0, 0, 1]
    for label in ("0", "99", "x", "-1", str(2**64)):
        yield f"split/{label}", body(good)
        yield f"split-coarse/{label}", body(wire.runs_of_points(pair.places(1)))
    for runs in (
        good[:0],
        other,
        np.concatenate((good, outside)),
        np.concatenate((good, good[:1])),
        good * [1, 1, 1, -1],
    ):
        yield "split/1", body(runs)
    for runs in ([[400, 0, 0, 1]], [[2**31 - 2, 0, 0, 1]], [[-(2**31), 0, 0, 2**31 - 1]], [[2**31 - 2, 0, 0, 5]]):
        yield "split/1", body(np.concatenate((good, runs)))
        yield "split-coarse/1", body(runs)
    yield "split-coarse/1", body([[-2, 0, 0, 0]])
    payload = body(good)
    for damaged in (b"", payload[:7], payload[:-1], payload + b"\0", b"\1" + payload[1:]):
        yield "split/1", damaged
        yield "split-coarse/1", damaged
    for new in ("0", "2", "x", "-1", str(2**63 + 1)):
        yield f"split/1?splitlabel={new}", payload
        yield f"split-coarse/1?splitlabel={new}", body(wire.runs_of_points(pair.places(1)[:1]))


def test_what_is_refused_changes_nothing(pair: Pair):
    before = pair.volumes.next_label()
    for path, given_body in wrong(pair):
        path, _, query = path.partition("?")
        named = dict([query.split("=")]) if query else {}
        refused(pair.volumes.ask, "POST", path, given_body, status=400, **named)
    assert pair.volumes.next_label() == before
    pair.agrees()


def test_labels_that_are_named_count_in_a_labelarray(array: Pair):
    assert array.split(1, half(array.model == 1), 800) == 800
    assert array.volumes.max_label() == 800
    assert array.split(2, half(array.model == 2)) == 801
    array.agrees()


def test_labels_that_are_named_do_not_count_in_a_labelvol_but_are_not_given_again(volumes: Pair):
    assert volumes.split(1, half(volumes.model == 1), 7) == 7
    assert volumes.volumes.max_label() == 6
    assert volumes.volumes.next_label() == 7
    assert volumes.split(2, half(volumes.model == 2)) == 8
    volumes.agrees()


def test_the_largest_label_is_that_of_the_version_itself(pair: Pair):
    connection = pair.voxels.connection
    assert pair.volumes.max_label() == 6
    connection.commit(pair.voxels.uuid)
    below = pair.at(connection.child(pair.voxels.uuid, "work"))
    refused(below.volumes.max_label, status=400)
    assert below.volumes.next_label() == 7
    refused(below.volumes.reserve, 2, status=400)


# ---------------------------------------------------------------- labelarray


def test_what_a_labelarray_tells_of_itself(array: Pair):
    told = array.voxels.json("info")
    assert told["Extended"]["Values"] == [{"DataType": "uint64", "Label": "labelarray"}]
    assert told["Extended"]["CountLabels"] is True
    assert array.voxels.json("metadata")["Properties"]["Values"][0]["Label"] == "labelarray"
    places = array.places(1)
    assert array.volumes.sparsevol_size(1) == {
        "numblocks": len(places),
        "minvoxel": (places.min(axis=0) * 16).tolist(),
        "maxvoxel": (places.max(axis=0) * 16 + 15).tolist(),
    }
    empty = {"numblocks": 0, "minvoxel": [0, 0, 0], "maxvoxel": [15, 15, 15]}
    assert array.volumes.sparsevol_size(999) == empty
    refused(array.volumes.cleave, 1, [2], status=400)
    refused(array.volumes.mapping, [1], status=400)


def test_a_labelarray_has_no_volume_where_no_voxel_lies_within_the_bounds(array: Pair):
    array.model[0, 0, 0] = 50
    array.write()
    assert len(array.volumes.sparsevol(50, maxx=-30)) == 1
    refused(array.volumes.sparsevol, 50, minx=-30, status=404)
    refused(array.volumes.sparsevol_by_point, FRAME.start, 50, minx=-30, status=404)


def test_points_may_lack_coordinates(pair: Pair):
    assert pair.voxels.labels([[-1, 2], [-1, 2, 0]]) == [int(pair.model[0, 2, -1 - FRAME.start[0]])] * 2
    for text in (b"[[1, 2, 3, 4]]", b"[1]", b'[["x"]]', b"{}", b""):
        refused(pair.voxels.ask, "GET", "labels", text, status=400)


def test_blocks_that_no_label_block_can_be_are_refused_when_they_come(connection: Connection):
    uuid = connection.new_repo()
    connection.new_instance(uuid, "odd", "labelarray", BlockSize="12,13,14")
    odd = Labels(connection, uuid, "odd")
    with pytest.raises(Refused, match="multiples of 8"):
        odd.post_raw((0, 0, 0), np.ones((14, 13, 12), np.uint64))
    refused(odd.post_blocks, {(0, 0, 0): np.ones((16, 16, 16), np.uint64)}, status=400)
    assert odd.label((1, 2, 3)) == 0
    refused(connection.new_instance, uuid, "odder", "labelblk", BlockSize="12,13,14", status=400)


class Bench:
    """A labelarray in this process, so that a mutation can be prepared now and done later."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.model = engine, painted()
        self.uuid = engine.write(self._make)
        stack = np.stack([self.model[FRAME.window(place)] for place in FRAME.places()])
        self.write(blocks.write_blocks, FRAME.places(), stack, "ingest")

    @staticmethod
    def _make(txn: Any) -> str:
        repo = repos.create_repo(txn)
        told = LABELARRAY.configure({"blocksize": "16,16,16"})
        repos.create_instance(txn, txn.graph.version(repo.uuid), "labelarray", "labels", settings=told)
        return repo.uuid

    def read(self, operation: Callable[..., Any], *given_to: Any) -> Any:
        with self.engine.read() as txn:
            node = txn.graph.version(self.uuid)
            return operation(ReadView(txn, node, txn.graph.instance(node, "labels")), *given_to)

    def write(self, operation: Callable[..., Any], *given_to: Any) -> Any:
        def run(txn: Any) -> Any:
            node = txn.graph.version(self.uuid)
            return operation(WriteView(txn, node, txn.graph.instance(node, "labels")), *given_to)

        return self.engine.write(run)

    def agrees(self) -> None:
        def look(view: ReadView) -> dict[wire.Xyz, wire.Voxels]:
            x, y, z = FRAME.start
            content = blocks.get_blocks(view, "32_32_32", f"{x}_{y}_{z}", "uncompressed", 0, False)
            return wire.decode_blocks(b"".join(map(bytes, content.body)), "uncompressed", FRAME.block_shape)

        for place, block in self.read(look).items():
            same(block, self.model[FRAME.window(place)])
        for label in np.unique(self.model[self.model > 0]).tolist():
            found = self.read(lambda view, n=label: b"".join(sparse.rles(view, n)))
            mine = wire.points_of_mask(self.model == label, FRAME.start)
            same(wire.points_of_runs(wire.decode_rles(found)), wire.ordered(mine))
            assert self.read(lambda view, n=label: bodies.size(view, n)) == len(mine)


def test_what_others_were_faster_than_is_made_anew(engine: Engine):
    bench = Bench(engine)
    mask = half(bench.model == 1)
    merge = bench.read(relabel.merge, 2, [1, 3])
    split = bench.read(relabel.split, 1, body(runs_of(mask)), None)
    bench.write(relabel.post_split, split)
    bench.model[mask] = 7
    bench.agrees()
    bench.write(relabel.post_merge, merge)
    bench.model[np.isin(bench.model, [1, 3])] = 2
    bench.agrees()
    with pytest.raises(BadRequest, match="has no voxels"):
        bench.write(relabel.post_split, split)
    bench.agrees()


def test_a_label_that_changed_while_it_was_looked_for_is_looked_for_again(engine: Engine):
    bench = Bench(engine)
    mask = half(bench.model == 1)
    found = bench.read(recount.look, 1)
    bench.write(relabel.post_split, bench.read(relabel.split, 1, body(runs_of(mask)), None))
    bench.model[mask] = 7
    bench.write(recount.resync, found)
    bench.agrees()


# ---------------------------------------------------------------- labelblk and labelvol


def test_a_labelvol_that_follows_nobody_has_no_labels(connection: Connection):
    uuid = connection.new_repo()
    connection.new_instance(uuid, "voxels", "labelblk")
    connection.new_instance(uuid, "volumes", "labelvol")
    voxels, alone = Labels(connection, uuid, "voxels"), Labels(connection, uuid, "volumes")
    voxels.post_raw((0, 0, 0), np.ones((32, 32, 32), np.uint64))
    assert not alone.has_sparsevol(1)
    refused(alone.sparsevol, 1, status=404)
    refused(alone.coarse, 1, status=404)
    refused(alone.max_label, status=400)
    assert alone.next_label() == 1
    assert alone.ask("POST", "merge", [1, 2]) == b""
    for path in ("split/1", "split-coarse/1", "resync/1"):
        refused(alone.ask, "POST", path, body([[0, 0, 0, 1]]), status=400)
    refused(alone.ask, "DELETE", "area/1/32_32_32/0_0_0", status=400)
    refused(follow, alone, "volumes", status=400)
    follow(alone, "voxels")
    assert len(alone.sparsevol(1)) == 32**3
    for path in ("split/1", "split-coarse/1"):
        with pytest.raises(Refused, match="does not follow volumes"):
            alone.ask("POST", path, body([[0, 0, 0, 1]]))
    with pytest.raises(Refused, match="does not follow volumes"):
        alone.ask("POST", "merge", [1, 2])


def test_a_labelvol_of_other_blocks_shows_nothing(volumes: Pair):
    connection, uuid = volumes.voxels.connection, volumes.voxels.uuid
    connection.new_instance(uuid, "wide", "labelvol", BlockSize="32,32,32")
    wide = Labels(connection, uuid, "wide")
    follow(wide, "voxels")
    refused(wide.sparsevol, 1, status=404)


def test_bounds_of_a_labelvol_never_hide_that_a_label_is_there(volumes: Pair):
    low, high = -30, -20
    mine = wire.ordered(wire.points_of_mask(volumes.model == 1, FRAME.start))
    within = mine[(mine[:, 0] >= low) & (mine[:, 0] <= high)]
    same(volumes.volumes.sparsevol(1, minx=low, maxx=high), within)
    for compression in (None, "lz4", "gzip"):
        assert len(volumes.volumes.sparsevol(1, compression=compression, minx=4000)) == 0
    assert not volumes.volumes.has_sparsevol(1, minx=4000)
    same(volumes.volumes.coarse(1, minx=4000), volumes.places(1))
    refused(volumes.volumes.sparsevol, 99, minx=4000, status=404)
    refused(volumes.volumes.sparsevol, 1, minx="x", status=400)
    refused(volumes.volumes.sparsevol, 1, compression="zip", minx=4000, status=400)


def test_an_area_is_left_out_until_it_is_written_or_counted_again(volumes: Pair):
    connection, root = volumes.voxels.connection, volumes.voxels.uuid
    connection.commit(root)
    below = volumes.at(connection.child(root, "work"))
    whole = wire.ordered(wire.points_of_mask(volumes.model == 1, FRAME.start))
    left = whole[whole[:, 0] >= -16]
    assert 0 < len(left) < len(whole)
    area = "area/1/16_32_32/-32_0_0"
    refused(volumes.volumes.ask, "DELETE", area, status=400)
    below.volumes.ask("DELETE", area)
    same(below.volumes.sparsevol(1), left)
    same(below.voxels.raw(FRAME.start, FRAME.shape), below.model)
    below.volumes.ask("POST", "resync/1")
    below.agrees()
    below.volumes.ask("DELETE", area)
    below.write()
    below.agrees()
    volumes.agrees()


def test_areas_that_are_wrong_leave_nothing_out(volumes: Pair):
    for area in ("1/16_32_32/-31_0_0", "1/15_32_32/-32_0_0", "0/16_32_32/-32_0_0", "x/16_32_32/-32_0_0", "1/16_32_32"):
        refused(volumes.volumes.ask, "DELETE", f"area/{area}", status=400)
    for label in ("0", "x"):
        refused(volumes.volumes.ask, "POST", f"resync/{label}", status=400)
    volumes.volumes.ask("DELETE", "area/99/16_32_32/-32_0_0")
    volumes.volumes.ask("POST", "resync/99")
    volumes.agrees()


def test_labelblks_that_follow_have_half_the_voxels(connection: Connection):
    uuid = connection.new_repo()
    chain = []
    for name, before in (("full", None), ("half", "full"), ("quarter", "half")):
        connection.new_instance(uuid, name, "labelblk", BlockSize="16,16,16")
        chain.append(Labels(connection, uuid, name))
        if before:
            follow(chain[-1], before)
    full, halved, quarter = chain
    follow(full, "quarter", "full")
    connection.new_instance(uuid, "volumes", "labelvol", BlockSize="16,16,16")
    volumes = Labels(connection, uuid, "volumes")
    follow(volumes, "full")
    follow(full, "volumes")
    pair = Pair(full, volumes)

    def agree() -> None:
        pair.agrees()
        wanted = pair.model
        for scale, labels in ((1, halved), (2, quarter)):
            wanted = vote(wanted)
            same(labels.raw(FRAME.scaled(scale)[0], wanted.shape), wanted)

    pair.write()
    agree()
    pair.merge(1, 2, 3)
    agree()
    pair.split(4, half(pair.model == 4))
    agree()
    pair.model[:] = 0
    pair.write()
    same(quarter.raw((-8, 0, 0), (8, 8, 8)), np.zeros((8, 8, 8), np.uint64))
    assert quarter.label((5, 5, 5)) == 0


# ---------------------------------------------------------------- files


def test_labels_are_files(mounted: live.Mount):
    connection = Connection(mounted.port)
    for make in KINDS.values():
        pair = make(connection)
        pair.write()
        folder = mounted.path / pair.voxels.uuid / pair.voxels.uuid
        bodies, volume = folder / pair.volumes.name / "bodies", folder / pair.voxels.name / "volume.npy"
        assert sorted(map(int, os.listdir(bodies))) == list(LABELS)
        assert not {"supervoxels.csv"} & set(os.listdir(bodies / "1"))
        same(np.load(volume), pair.model)
        check_body(pair, bodies / "1")
        pair.merge(1, 2)
        live.wait_until(lambda at=bodies: "2" not in os.listdir(at), what="the merge in the mount")
        check_body(pair, bodies / "1")
        write_in_place(pair, volume)
        pair.agrees()
        live.wait_until(lambda at=bodies: "77" in os.listdir(at), what="the new label in the mount")
        check_body(pair, bodies / "77")
    connection.close()


def check_body(pair: Pair, folder: Path) -> None:
    mine = wire.ordered(wire.points_of_mask(pair.model == int(folder.name), FRAME.start))

    def agrees() -> bool:
        found = wire.points_of_runs(wire.decode_rles((folder / "sparsevol.rles").read_bytes()))
        return np.array_equal(found, mine) and json.loads((folder / "info.json").read_bytes())["voxels"] == len(mine)

    live.wait_until(agrees, what=f"the voxels of {folder.name}")


def write_in_place(pair: Pair, volume: Path) -> None:
    """A corner of the volume becomes 77."""
    pair.model[0, 0, :3] = 77
    with volume.open("r+b") as file:
        file.seek(-pair.model.nbytes, os.SEEK_END)
        file.write(np.full(3, 77, "<u8").tobytes())
        os.fsync(file.fileno())
