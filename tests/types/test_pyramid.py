"""The scales of image volumes against a plain model: whatever is written, branched, merged and built, they are the means."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import remotes
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from imagecase import Case

from dvidfs.engine import Engine, ReadView, Store, WriteView, jobs, keys, open_engine, repos
from dvidfs.engine.check import check_store
from dvidfs.engine.keys import Family
from dvidfs.engine.upkeep import run_waiting
from dvidfs.engine.values import Prepared
from dvidfs.engine.versions import Caller
from dvidfs.errors import BadRequest, Conflict, Locked
from dvidfs.types.builtin import registry
from dvidfs.types.geometry import Box, span
from dvidfs.types.imageblk import check_blocks, pyramid, requests
from dvidfs.types.imageblk.kinds import KINDS
from dvidfs.types.imageblk.volume import Volume
from dvidfs.types.pyramids import work
from dvidfs.types.pyramids.level import Level
from dvidfs.types.pyramids.scales import SEAL, extents_at

Coord = tuple[int, int, int]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("pyramid") / "store"
    Store.create(path)
    registry()
    with open_engine(path, durability="periodic") as opened:
        yield opened


# -- the model ---------------------------------------------------------------------------------------------------


def mean(voxels: np.ndarray, box: Box) -> tuple[np.ndarray, Box]:
    """The next scale of the voxels (z, y, x, channels) of a box, voxel by voxel in Python's own numbers."""
    first, last = [n // 2 for n in box.origin], [(n + s - 1) // 2 for n, s in zip(box.origin, box.shape, strict=True)]
    shape = tuple(b - a + 1 for a, b in zip(first, last, strict=True))
    sums = np.zeros((*shape, voxels.shape[3]), object)
    counts = np.zeros((*shape, 1), object)
    at = np.ix_(*(np.arange(n, n + s) // 2 - f for n, s, f in zip(box.origin, box.shape, first, strict=True)))
    np.add.at(sums, at, voxels.astype(object))
    np.add.at(counts, at, 1)
    means = sums / counts if voxels.dtype.kind == "f" else (2 * sums + counts) // (2 * counts)
    x, y, z = first[::-1]
    return means.astype(voxels.dtype), Box((x, y, z), (shape[2], shape[1], shape[0]))


@dataclass
class Version:
    """What one version wrote itself."""

    parents: tuple[Version, ...]
    case: Case
    blocks: dict[Coord, np.ndarray] = field(default_factory=dict)
    box: Box | None = None
    scales: int = 0
    committed: bool = False

    @functools.cached_property
    def lineage(self) -> list[Version]:
        """This version and its ancestors, each once."""
        found = [self]
        for parent in self.parents:
            found += [v for v in parent.lineage if not any(v is w for w in found)]
        return found

    def newest(self, has: Any) -> list[Version]:
        """Versions of the lineage that have something and that no other one of them comes after."""
        having = [v for v in self.lineage if has(v)]
        return [v for v in having if not any(v is not w and any(v is x for x in w.lineage) for w in having)]

    @property
    def extents(self) -> Box | None:
        boxes = [v.box for v in self.newest(lambda v: v.box is not None) if v.box is not None]
        return functools.reduce(Box.union, boxes) if boxes else None

    @property
    def ready(self) -> int:
        return max(v.scales for v in self.lineage)

    def block(self, coord: Coord) -> np.ndarray | None:
        """The voxels of a block; Conflict if versions disagree."""
        found = [v.blocks[coord] for v in self.newest(lambda v: coord in v.blocks)]
        if any(not np.array_equal(found[0], other) for other in found[1:]):
            raise Conflict("in the model")
        return found[0] if found else None

    def coords(self) -> set[Coord]:
        return {coord for v in self.lineage for coord in v.blocks}

    def voxels(self, block: Coord, dtype: np.dtype, channels: int) -> tuple[np.ndarray, Box]:
        """The voxels of the extents, (z, y, x, channels); what is not stored is 0."""
        box = self.extents
        assert box is not None
        out = np.zeros((*box.shape, channels), dtype)
        for coord in self.coords():
            place = Box((coord[0] * block[0], coord[1] * block[1], coord[2] * block[2]), block)
            shared = place.intersect(box)
            voxels = self.block(coord) if shared else None
            if shared and voxels is not None:
                out[box.window(shared)] = voxels[place.window(shared)]
        return out, box


# -- any history -------------------------------------------------------------------------------------------------

SIDES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
PLACES = st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.integers(-3, 3))


class History(RuleBasedStateMachine):
    """Random writes, versions and jobs; ``engine`` is set by the test."""

    engine: Engine
    versions = Bundle("versions")

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Version] = []

    @initialize(
        target=versions,
        kind=st.sampled_from(["uint8blk", "uint64blk", "float32blk", "rgba8blk"]),
        block=st.sampled_from([(4, 4, 4), (5, 3, 2)]),
        compression=st.sampled_from(["lz4", "none"]),
    )
    def begin(self, kind: str, block: Coord, compression: str):
        self.kind, self.block = KINDS[kind], block
        case = Case.new(self.engine, kind, compression, BlockSize=",".join(map(str, block)))
        return self.added(Version((), case))

    def added(self, version: Version) -> Version:
        self.all.append(version)
        return version

    def random(self, shape: Coord, seed: int) -> np.ndarray:
        """Voxels (z, y, x, channels); few values, so that different writes may agree."""
        chance = np.random.default_rng(seed % 7)
        values = (*shape, max(1, len(self.kind.values)))
        if self.kind.dtype.kind == "f":
            return chance.choice(np.array([0, 1.5, -3e30, 7e-20], "<f4"), values)
        top = int(np.iinfo(self.kind.dtype).max)
        return chance.choice(np.array([0, 1, top - 1, top], self.kind.dtype), values)

    @rule(version=versions, at=PLACES, size=SIDES, seed=st.integers(0, 100))
    def write(self, version: Version, at: Coord, size: Coord, seed: int):
        if version.committed:
            return
        offset = tuple(a * b for a, b in zip(at, self.block, strict=True))
        box = Box(offset, tuple(a * b for a, b in zip(size, self.block, strict=True)))  # type: ignore[arg-type]
        voxels = self.random(box.shape, seed)
        version.case.post_raw(voxels.view(self.kind.item).reshape(box.shape), offset)  # type: ignore[arg-type]
        for z in range(size[2]):
            for y in range(size[1]):
                for x in range(size[0]):
                    part = Box((x * self.block[0], y * self.block[1], z * self.block[2]), self.block)
                    window = Box((0, 0, 0), box.size).window(part)
                    version.blocks[at[0] + x, at[1] + y, at[2] + z] = voxels[window]
        known = version.extents
        version.box = box if known is None else known.union(box)

    @rule(version=versions, at=PLACES, seed=st.integers(0, 100))
    def write_block(self, version: Version, at: Coord, seed: int):
        if version.committed:
            return
        voxels = self.random(self.block[::-1], seed)
        version.case.post_blocks("_".join(map(str, at)), "1", voxels.tobytes())
        version.blocks[at] = voxels

    @rule(version=versions, at=PLACES, size=st.tuples(*[st.integers(1, 20)] * 3))
    def set_extents(self, version: Version, at: Coord, size: Coord):
        if version.committed:
            return
        box = Box((at[0] * 3, at[1] * 3, at[2] * 3), size)
        text = str({"MinPoint": list(box.offset), "MaxPoint": list(box.last)}).replace("'", '"')
        version.case.write(requests.post_extents, text.encode())
        version.box = box

    @rule(version=versions, count=st.integers(1, 3), later=st.booleans())
    def build(self, version: Version, count: int, later: bool):
        case = version.case
        if version.committed or count < version.ready:
            with pytest.raises(Locked if version.committed else BadRequest):
                pyramid.build(self.engine, case.uuid, case.name, count)
            return
        try:
            if later:
                case.write(pyramid.post_pyramid, {"scales": count})
                for other in self.all:
                    if not other.committed:
                        other.case.write(lambda view: None)
                run_waiting(self.engine)
            else:
                assert pyramid.build(self.engine, case.uuid, case.name, count) == count
        except Conflict:
            return
        version.scales = case.read(pyramid.ready)
        assert version.scales in (count, version.ready)

    @rule()
    def drain(self):
        run_waiting(self.engine)
        for version in self.all:
            version.scales = version.case.read(pyramid.ready)

    @rule(target=versions, version=versions, branch=st.booleans())
    def child(self, version: Version, branch: bool):
        if not version.committed:
            version.case.commit()
            version.committed = True
        name = f"b{len(self.all)}" if branch or any(version in v.parents for v in self.all) else ""
        return self.added(Version((version,), version.case.child(name)))

    @rule(target=versions, one=versions, other=versions)
    def merge(self, one: Version, other: Version):
        if one is other:
            return one
        for version in (one, other):
            if not version.committed:
                version.case.commit()
                version.committed = True
        return self.added(Version((one, other), one.case.merge(other.case)))

    @invariant()
    def scales_are_the_means(self):
        for version in self.all[-3:]:
            self.compare(version)

    def teardown(self) -> None:
        for version in self.all:
            self.compare(version)

    def compare(self, version: Version) -> None:
        case = version.case
        assert case.read(pyramid.ready) == version.ready
        if not version.ready or version.extents is None:
            return
        try:
            voxels, box = version.voxels(self.block, self.kind.dtype, max(1, len(self.kind.values)))
        except Conflict:
            with pytest.raises(Conflict):
                case.read(lambda view: Volume.of(view, version.ready).read(extents_at(version.extents, version.ready)))
            return
        for scale in range(1, version.ready + 1):
            voxels, box = mean(voxels, box)
            assert box == extents_at(version.extents, scale)
            around = span(tuple(n - 2 for n in box.offset), tuple(n + 2 for n in box.stop))  # type: ignore[arg-type]
            found = case.read(lambda view, s=scale, b=around: self.kind.split(Volume.of(view, s).read(b)))
            expected = np.zeros((*around.shape, voxels.shape[3]), voxels.dtype)
            expected[around.window(box)] = voxels
            if voxels.dtype.kind == "f":
                np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-6)
            else:
                np.testing.assert_array_equal(found.reshape(expected.shape), expected)


def test_any_history_shows_the_means(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(work, "QUIET_SECONDS", 0)
    monkeypatch.setattr(work, "STEP_BYTES", 4000)
    History.engine = engine
    run_state_machine_as_test(
        History,
        settings=settings(
            max_examples=60, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    report = check_store(engine, deep=True, verifier=lambda name: registry()[name].verify)
    assert report.problems == []


# -- named histories ---------------------------------------------------------------------------------------------

BLOCK = (4, 4, 4)
GRID = Box((0, 0, 0), (16, 16, 16))


@pytest.fixture
def case(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A volume of 4 x 4 x 4 blocks without scales."""
    monkeypatch.setattr(work, "QUIET_SECONDS", 0)
    case = Case.new(engine, BlockSize="4,4,4")
    case.post_raw(np.random.default_rng(1).integers(0, 256, GRID.shape).astype("u1"), (0, 0, 0))
    return case


def read(case: Case, scale: int) -> np.ndarray:
    def look(view: ReadView) -> np.ndarray:
        volume = Volume.of(view, scale)
        return volume.read(extents_at(GRID, scale))

    return case.read(look)


def expected(case: Case, scale: int) -> np.ndarray:
    voxels, box = read(case, 0)[..., None], GRID
    for _ in range(scale):
        voxels, box = mean(voxels, box)
    return voxels[..., 0]


def is_right(case: Case) -> bool:
    return all(np.array_equal(read(case, s), expected(case, s)) for s in range(case.read(pyramid.ready) + 1))


def paint(case: Case, at: Coord, value: int) -> None:
    """One block of one value."""
    case.post_raw(np.full(BLOCK, value, "u1"), (4 * at[0], 4 * at[1], 4 * at[2]))


def make(case: Case, count: int = 2) -> None:
    assert pyramid.build(case.engine, case.uuid, case.name, count) == count


def waiting(case: Case) -> list[jobs.Job]:
    with case.engine.read() as txn:
        instance = txn.graph.instance(txn.graph.version(case.uuid), case.name)
        found = [job for job in jobs.all_jobs(txn) if job.args.get("instance") == instance.id]
    return [job for job in found if job.state in ("queued", "running")]


@pytest.mark.parametrize("later", [False, True], ids=["read", "drained"])
def test_a_merge_shows_what_a_side_without_scales_wrote(case: Case, later: bool):
    case.commit()
    one, other = case.child(), case.child("other")
    make(one)
    paint(other, (1, 2, 3), 200)
    one.commit()
    other.commit()
    merged = one.merge(other)
    assert merged.read(pyramid.ready) == 2
    assert is_right(merged)
    assert merged.read(pyramid.pending) == 2
    if later:
        make(merged)
        assert merged.read(pyramid.pending) == 0
        assert is_right(merged)
    merged.commit()
    child = merged.child()
    paint(child, (0, 0, 0), 9)
    assert is_right(child)


def test_a_merge_of_equal_means_of_different_voxels_is_made_anew(engine: Engine):
    """One side raises one voxel, the other its neighbour: both means are the same, that of the merge is another."""
    case = Case.new(engine, BlockSize="1,1,1")
    case.post_raw(np.zeros((2, 2, 2), "u1"), (0, 0, 0))
    make(case, 1)
    case.commit()
    sides = [case.child(), case.child("other")]
    for x, side in enumerate(sides):
        side.post_raw(np.full((1, 1, 1), 80, "u1"), (x, 0, 0))
        run_waiting(engine)
        assert side.read(pyramid.pending) == 0
        side.commit()
    merged = sides[0].merge(sides[1])
    assert merged.read(lambda view: Volume.of(view, 1).read(Box((0, 0, 0), (1, 1, 1))))[0, 0, 0] == 20


def test_only_voxels_that_were_written_are_in_conflict(case: Case):
    make(case)
    case.commit()
    sides = [case.child(), case.child("other")]
    paint(sides[0], (0, 0, 0), 10)
    paint(sides[1], (1, 0, 0), 20)
    run_waiting(case.engine)
    for side in sides:
        side.commit()
    uuids = [side.uuid for side in sides]

    def settle(txn):
        merged = repos.resolve(txn, repos.find_parents(txn, uuids), [case.name])
        assert not merged.conflicts
        assert not merged.warnings
        return merged.child.uuid

    assert is_right(case.at(case.engine.write(settle)))


def test_a_block_in_conflict_is_named_when_a_scale_needs_it(case: Case):
    make(case)
    case.commit()
    sides = [case.child(), case.child("other")]
    for value, side in enumerate(sides):
        paint(side, (0, 0, 0), value)
        side.commit()
    merged = sides[0].merge(sides[1])
    for scale in (1, 2):
        with pytest.raises(Conflict, match="block 0_0_0 of"):
            read(merged, scale)
    paint(merged, (0, 0, 0), 7)
    assert is_right(merged)


def test_an_administrator_may_change_what_scales_were_made_of(case: Case):
    case.commit()
    child = case.child()
    paint(child, (1, 0, 0), 50)
    make(child)

    def change(txn):
        node = txn.graph.version(case.uuid)
        view = WriteView(txn, node, txn.graph.instance(node, case.name), Caller(privileged=True))
        values = child.read(requests.prepare_raw, "0_1_2", "4_4_4", "0_0_0", bytes([99]) * 64, "", "", False)
        requests.post_raw(view, **values)

    case.engine.write(change)
    assert read(child, 0)[0, 0, 0] == 99
    assert is_right(child)
    run_waiting(case.engine)
    assert is_right(child)


def test_scales_are_shown_when_they_are_complete(case: Case, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(work, "STEP_BYTES", 1024)
    case.write(pyramid.post_pyramid, {"scales": 2})
    (job,) = waiting(case)
    args = pyramid.step(case.engine, dict(job.args))
    steps = 1
    while args is not None:
        assert case.read(pyramid.get_pyramid) == {"scales": 0, "building": 2, "pending": case.read(pyramid.pending)}
        with pytest.raises(
            BadRequest, match="has no scale 1 at this version, only 0 to 0: make more with `dvidfs pyramid`"
        ):
            read(case, 1)
        if steps == 2:
            paint(case, (3, 3, 3), 77)
            paint(case, (0, 0, 0), 78)
        args = pyramid.step(case.engine, args)
        steps += 1
    assert steps > 4
    assert case.read(pyramid.get_pyramid)["scales"] == 2
    assert is_right(case)
    run_waiting(case.engine)
    assert case.read(pyramid.get_pyramid) == {"scales": 2, "pending": False}
    assert is_right(case)


@pytest.mark.parametrize("drain", [False, True], ids=["built", "filled"])
def test_what_is_written_while_a_block_is_made_wins(case: Case, monkeypatch: pytest.MonkeyPatch, drain: bool):
    if drain:
        make(case)
        paint(case, (0, 0, 0), 1)
    plain = Level.make

    def make_and_write(volume: Level, wanted: list[bytes]):
        made = list(plain(volume, wanted))
        monkeypatch.setattr(Level, "make", plain)
        paint(case, (0, 0, 0), 250)
        return iter(made)

    monkeypatch.setattr(Level, "make", make_and_write)
    if drain:
        (job,) = waiting(case)
        pyramid.step(case.engine, dict(job.args))
    else:
        make(case)
    assert read(case, 0)[0, 0, 0] == 250
    assert is_right(case)
    run_waiting(case.engine)
    assert case.read(pyramid.pending) == 0
    assert is_right(case)


def test_one_job_waits_for_any_number_of_writes(case: Case):
    make(case)
    for x in range(4):
        paint(case, (x, 1, 2), x)
    assert len(waiting(case)) == 1
    run_waiting(case.engine)
    assert waiting(case) == []
    paint(case, (1, 1, 1), 5)
    (job,) = waiting(case)
    case.engine.write(lambda txn: jobs.cancel(txn, job.id))
    assert is_right(case)
    paint(case, (2, 1, 1), 6)
    assert [again.id for again in waiting(case)] == [job.id]
    run_waiting(case.engine)
    assert case.read(pyramid.pending) == 0


def test_a_committed_version_keeps_its_marks_and_is_right(case: Case):
    make(case)
    paint(case, (1, 1, 1), 5)
    case.commit()
    run_waiting(case.engine)
    assert waiting(case) == []
    assert case.read(pyramid.pending) == 2
    assert is_right(case)
    with pytest.raises(Locked, match="dvidfs newversion"):
        make(case)
    child = case.child()
    make(child)
    assert child.read(pyramid.pending) == 0


def test_a_moved_edge_changes_the_means_at_it(engine: Engine):
    case = Case.new(engine, BlockSize="3,3,3")
    case.post_raw(np.full((3, 3, 3), 9, "u1"), (0, 0, 0))
    make(case, 1)
    top = Box((0, 0, 0), (3, 2, 2))
    assert case.read(lambda view: Volume.of(view, 1).read(top)).max() == 9
    assert case.read(lambda view: Volume.of(view, 1).read(top))[0, 0].tolist() == [9, 9, 0]
    case.post_raw(np.full((3, 3, 3), 1, "u1"), (3, 0, 0))
    assert case.read(lambda view: Volume.of(view, 1).read(top))[0, 0].tolist() == [9, 5, 1]
    case.write(requests.post_extents, b'{"MinPoint": [0,0,0], "MaxPoint": [2,2,2]}')
    assert case.read(lambda view: Volume.of(view, 1).read(top))[0, 0].tolist() == [9, 9, 0]
    assert case.read(pyramid.pending) == 1
    run_waiting(engine)
    assert case.read(pyramid.pending) == 0


def test_reads_at_a_scale_agree(case: Case):
    make(case)
    paint(case, (1, 1, 1), 5)
    whole = expected(case, 1)
    assert case.read(requests.get_raw, "0_1_2", "8_8_8", "0_0_0", None, "", "", 1) == whole.tobytes()
    row = case.read(requests.get_blocks, "0_1_1", "2", 1)
    assert row == whole[4:8, 4:8, :4].tobytes() + whole[4:8, 4:8, 4:].tobytes()
    one = case.read(requests.get_specificblocks, "1,1,1", "uncompressed", "", 1)
    assert one == np.array([1, 1, 1, 64], "<i4").tobytes() + whole[4:8, 4:8, 4:].tobytes()
    assert case.read(requests.get_subvolblocks, "4_4_4", "4_4_4", "uncompressed", 1) == one
    packed = case.read(requests.get_subvolblocks, "8_8_8", "0_0_0", "", 1)
    run_waiting(case.engine)
    assert case.read(requests.get_subvolblocks, "8_8_8", "0_0_0", "", 1) == packed
    axes = orjson.loads(case.read(requests.get_metadata, 2))["Axes"]
    assert [(axis["Size"], axis["Resolution"]) for axis in axes] == [(4, 32)] * 3


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"scales": 0}, "0 scales cannot be made: want 1 to 24"),
        ({"scales": 25}, "want 1 to 24"),
        ({"scales": True}, "a whole number"),
        ([4], "a JSON object"),
        ({"scales": 1}, "has 2 scales already: want 2 or more"),
    ],
)
def test_a_wrong_number_of_scales_is_told(case: Case, body: Any, said: str):
    make(case)
    with pytest.raises(BadRequest, match=said):
        case.write(pyramid.post_pyramid, body)


def test_without_a_number_there_are_as_many_as_it_takes(engine: Engine):
    case = Case.new(engine, BlockSize="4,4,4")
    with pytest.raises(BadRequest, match="give the number of scales"):
        case.write(pyramid.post_pyramid, None)
    case.post_raw(np.ones((4, 4, 4), "u1"), (-1200, 0, 0))
    case.post_raw(np.ones((4, 4, 4), "u1"), (0, 0, 0))
    assert case.write(pyramid.post_pyramid, None) == {"scales": 0, "building": 3}
    run_waiting(engine)
    assert case.read(pyramid.get_pyramid) == {"scales": 3, "pending": False}
    assert case.read(pyramid.get_pyramid)["scales"] == case.read(pyramid.ready)


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_check_finds_blocks_that_are_wrong(case: Case, damage: str):
    make(case)

    def spoil(view: WriteView) -> None:
        enc = keys.encode_block(1, 1, 0, 0)
        old = bytes(view.get(Family.BLOCK, enc) or b"")
        seal = old[-SEAL.size :]
        payload = b"no block" if damage == "cut" else Volume.of(view).encode(np.full((1, *BLOCK), 3, "u1"))[0]
        view.put(Family.BLOCK, enc, Prepared(payload + seal, len(payload + seal)))

    assert case.read(check_blocks) == []
    case.write(spoil)
    fault, *_ = case.read(check_blocks)  # what is made of it is wrong too
    assert fault.startswith("block 1_0_0 at scale 1: ")
    assert ("cannot be read" in fault) == (damage == "cut")


def test_a_proxied_volume_has_scales_of_its_own(engine: Engine, tmp_path: Path):
    voxels = remotes.smooth((40, 50, 60))
    remotes.array(tmp_path / "remote", "zarr", voxels, (16, 16, 32))
    case = Case.new(engine, GridStore=f"zarr://{(tmp_path / 'remote').as_uri()}")
    assert pyramid.build(engine, case.uuid, case.name, 2) == 2
    assert case.read(pyramid.pending) == 0
    level, box = voxels[..., None], Box((0, 0, 0), (60, 50, 40))
    for scale in (1, 2):
        level, box = mean(level, box)
        found = case.read(lambda view, s=scale, b=box: Volume.of(view, s).read(b))
        np.testing.assert_array_equal(found, level[..., 0])
