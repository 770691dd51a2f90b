"""The scales of image volumes against a plain model: whatever is written, branched, merged and built, they are the means."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from imagecase import Case

from dvidfs.engine import Engine, Store, open_engine
from dvidfs.engine.check import check_store
from dvidfs.engine.upkeep import run_waiting
from dvidfs.errors import BadRequest, Conflict, Locked
from dvidfs.types.builtin import registry
from dvidfs.types.geometry import Box, span
from dvidfs.types.imageblk import pyramid, requests
from dvidfs.types.imageblk.kinds import KINDS
from dvidfs.types.imageblk.volume import Volume

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
PLACES = st.tuples(st.integers(-2, 1), st.integers(-1, 1), st.integers(-1, 0))


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
        version.scales = case.read(pyramid.scales)
        assert version.scales in (count, version.ready)

    @rule()
    def drain(self):
        run_waiting(self.engine)
        for version in self.all:
            version.scales = version.case.read(pyramid.scales)

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
        assert case.read(pyramid.scales) == version.ready
        if not version.ready or version.extents is None:
            return
        try:
            voxels, box = version.voxels(self.block, self.kind.dtype, max(1, len(self.kind.values)))
        except Conflict:
            with pytest.raises(Conflict):
                case.read(
                    lambda view: Volume.of(view, version.ready).read(pyramid.extents_at(version.extents, version.ready))
                )
            return
        for scale in range(1, version.ready + 1):
            voxels, box = mean(voxels, box)
            assert box == pyramid.extents_at(version.extents, scale)
            around = span(tuple(n - 2 for n in box.offset), tuple(n + 2 for n in box.stop))  # type: ignore[arg-type]
            found = case.read(lambda view, s=scale, b=around: self.kind.split(Volume.of(view, s).read(b)))
            expected = np.zeros((*around.shape, voxels.shape[3]), voxels.dtype)
            expected[around.window(box)] = voxels
            if voxels.dtype.kind == "f":
                np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-6)
            else:
                np.testing.assert_array_equal(found.reshape(expected.shape), expected)


def test_any_history_shows_the_means(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pyramid, "QUIET_SECONDS", 0)
    monkeypatch.setattr(pyramid, "STEP_BYTES", 4000)
    from hypothesis.stateful import run_state_machine_as_test

    History.engine = engine
    run_state_machine_as_test(
        History,
        settings=settings(
            max_examples=400, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    report = check_store(engine, deep=True, verifier=lambda name: registry()[name].verify)
    assert report.problems == []
