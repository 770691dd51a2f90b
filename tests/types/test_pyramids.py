"""Scales whose number is a setting, of a datatype made for this: they follow a write only if it says so, and clients give blocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dvidfs.engine import Engine, ReadView, Store, WriteView, jobs, open_engine, repos
from dvidfs.engine.keys import Family
from dvidfs.engine.upkeep import run_waiting
from dvidfs.engine.versions import Caller
from dvidfs.errors import BadRequest, Corrupt, Locked
from dvidfs.types.geometry import Box, Point
from dvidfs.types.pyramids import blocks, level, marks, requests, rows, scales, work
from dvidfs.types.pyramids.pyramid import Children, Pyramid

LONG = bytes(range(256)) * 20
"""Behind the number of a block, so that values lie in rows of their own."""


class Largest:
    """A block is a number, that of a coarser one the largest below it; 0 is not stored."""

    def make(self, children: Children) -> bytes | None:
        assert children.payloads
        largest = max(map(self.decode, children.payloads))
        return number(largest) if largest else None

    def decode(self, payload: Any) -> int:
        if bytes(payload[1:]) != LONG:
            raise Corrupt("no number")
        return payload[0]


PYRAMID = Pyramid("largest", lambda view, scale, box: Largest(), lambda view: 1, setting="Scales")


def number(value: int) -> bytes:
    return bytes([value]) + LONG


@dataclass(frozen=True)
class Numbers:
    """An instance of two scales above 0, at version ``uuid``."""

    engine: Engine
    uuid: str

    def view(self, txn: Any, make: Callable[..., Any] = ReadView, **more: Any) -> Any:
        node = txn.graph.version(self.uuid)
        return make(txn, node, txn.graph.instance(node, "numbers"), **more)

    def read(self, look: Callable[[ReadView], Any]) -> Any:
        with self.engine.read() as txn:
            return look(self.view(txn))

    def write(self, change: Callable[[WriteView], Any], privileged: bool = False) -> Any:
        caller = Caller(privileged=privileged)
        return self.engine.write(lambda txn: change(self.view(txn, WriteView, caller=caller)))

    def put(self, found: dict[Point, int], *, follow: bool = True, privileged: bool = False) -> None:
        """Blocks of scale 0."""

        def change(view: WriteView) -> None:
            written = blocks.put(view, 0, [(coord, number(value)) for coord, value in found.items()])
            if follow:
                marks.mark(PYRAMID, view, written)

        self.write(change, privileged)

    def give(self, scale: int, found: dict[Point, int]) -> None:
        """Blocks of another scale, sealed before they come to the write lane."""
        plain = [(coord, number(value)) for coord, value in found.items()]
        sealed = self.read(lambda view: list(scales.seal(PYRAMID, view, scale, plain)))
        self.write(lambda view: blocks.put(view, scale, sealed))

    def shown(self, scale: int) -> dict[Point, int]:
        """What a scale holds, which every way to ask agrees about."""

        def look(view: ReadView) -> dict[Point, int]:
            found, box = level.at_scale(PYRAMID, view, scale), Box((-8, -8, -8), (16, 16, 16))
            coords, payloads = found.stored(box)
            shown = {(x, y, z): p[0] for (z, y, x), p in zip(coords.tolist(), payloads, strict=True)}
            assert all(bytes(p[1:]) == LONG for p in payloads)
            asked = [*shown, (7, 7, 7)]
            assert [p and p[0] for p in found.payloads(asked)] == [*shown.values(), None]
            assert list(shown) == sorted(shown, key=lambda coord: coord[::-1])
            assert set(shown) <= set(found.coords())
            assert all(found.has(Box(coord, (1, 1, 1))) for coord in shown)
            return shown

        return self.read(look)

    def pending(self) -> int:
        return self.read(lambda view: rows.pending(PYRAMID, view))

    def job(self) -> jobs.Job:
        """The one that waits."""
        with self.engine.read() as txn:
            own = self.view(txn).instance.id
            (job,) = [job for job in jobs.all_jobs(txn) if job.args.get("instance") == own and job.state == "queued"]
            return job

    def drain(self) -> None:
        run_waiting(self.engine)

    def commit(self) -> None:
        self.engine.write(lambda txn: repos.commit(txn, txn.graph.version(self.uuid)))

    def child(self, branch: str = "") -> Numbers:
        def make(txn):
            parent = txn.graph.version(self.uuid)
            return (repos.branch(txn, parent, branch) if branch else repos.new_version(txn, parent)).uuid

        return replace(self, uuid=self.engine.write(make))

    def merge(self, other: Numbers) -> Numbers:
        both = [self.uuid, other.uuid]
        return replace(
            self, uuid=self.engine.write(lambda txn: repos.merge(txn, repos.find_parents(txn, both))).child.uuid
        )


_names = itertools.count()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path: Path = tmp_path_factory.mktemp("pyramids") / "store"
    Store.create(path)
    with open_engine(path, durability="periodic") as opened:
        yield opened


@pytest.fixture
def numbers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Numbers:
    monkeypatch.setattr(work, "QUIET_SECONDS", 0)
    monkeypatch.setitem(jobs.KINDS, PYRAMID.job, work.stepper(PYRAMID))
    given = {"BlockSize": [4, 4, 4], "Scales": 2}

    def make(txn):
        repo = repos.create_repo(txn, alias=f"numbers{next(_names)}")
        node = txn.graph.version(repo.uuid)
        repos.create_instance(txn, node, "numbers", "numbers", compression="none", settings=given)
        return repo.uuid

    return Numbers(engine, engine.write(make))


def test_scales_follow_a_write_that_says_so(numbers: Numbers):
    numbers.put({(0, 0, 0): 3, (1, 1, 1): 5, (-1, 0, 0): 9, (4, 0, 0): 1})
    made = [{(-1, 0, 0): 9, (0, 0, 0): 5, (2, 0, 0): 1}, {(-1, 0, 0): 9, (0, 0, 0): 5, (1, 0, 0): 1}]
    for _ in range(2):
        assert [numbers.shown(1), numbers.shown(2)] == made
        numbers.drain()
        assert numbers.pending() == 0
    numbers.put({(1, 1, 1): 2})
    assert numbers.pending() == 2
    assert (numbers.shown(1)[0, 0, 0], numbers.shown(2)[0, 0, 0]) == (3, 3)
    assert numbers.shown(3) == {}


def test_scales_do_not_follow_a_write_that_does_not_say_so(numbers: Numbers):
    numbers.put({(0, 0, 0): 3, (6, 0, 0): 1}, follow=False)
    assert (numbers.shown(1), numbers.shown(2), numbers.pending()) == ({}, {}, 0)
    numbers.put({(2, 0, 0): 4})
    numbers.drain()
    numbers.put({(2, 0, 0): 7, (3, 0, 0): 8}, follow=False)
    assert (numbers.shown(1), numbers.shown(2)) == ({(1, 0, 0): 4}, {(0, 0, 0): 4})
    assert numbers.pending() == 0


def test_scales_that_did_not_follow_can_be_built(numbers: Numbers):
    numbers.put({(0, 0, 0): 3, (6, 0, 0): 1}, follow=False)
    assert numbers.write(lambda view: requests.post_pyramid(PYRAMID, view, None)) == {"scales": 2, "building": 2}
    numbers.drain()
    assert (numbers.shown(1), numbers.shown(2)) == ({(0, 0, 0): 3, (3, 0, 0): 1}, {(0, 0, 0): 3, (1, 0, 0): 1})
    assert numbers.read(lambda view: requests.get_pyramid(PYRAMID, view)) == {"scales": 2, "pending": False}
    assert work.build(PYRAMID, numbers.engine, numbers.uuid, "numbers") == 2
    with pytest.raises(BadRequest, match='"numbers" has 2 scales, not 3: its setting Scales says how many'):
        work.build(PYRAMID, numbers.engine, numbers.uuid, "numbers", 3)
    numbers.commit()
    with pytest.raises(Locked):
        work.build(PYRAMID, numbers.engine, numbers.uuid, "numbers")


@pytest.mark.parametrize("scale", [1, 2])
def test_a_given_block_counts_until_something_below_it_is_written(numbers: Numbers, scale: int):
    numbers.put({(0, 0, 0): 3}, follow=False)
    numbers.give(scale, {(0, 0, 0): 200, (1, 0, 0): 100})
    assert numbers.shown(scale) == {(0, 0, 0): 200, (1, 0, 0): 100}
    assert numbers.shown(3 - scale) == {}
    numbers.drain()
    assert numbers.pending() == 0
    numbers.put({(0, 0, 1): 4})
    assert numbers.shown(scale) == {(0, 0, 0): 4, (1, 0, 0): 100}
    numbers.drain()
    numbers.give(scale, {(0, 0, 0): 201})
    assert numbers.shown(scale) == {(0, 0, 0): 201, (1, 0, 0): 100}


def test_a_given_block_wins_over_a_job_that_makes_it(numbers: Numbers, monkeypatch: pytest.MonkeyPatch):
    plain = level.Level.make

    def make_and_give(of: level.Level, wanted: list[bytes]):
        made = list(plain(of, wanted))
        monkeypatch.setattr(level.Level, "make", plain)
        numbers.give(1, {(0, 0, 0): 50})
        return iter(made)

    numbers.put({(0, 0, 0): 3})
    monkeypatch.setattr(level.Level, "make", make_and_give)
    numbers.drain()
    assert (numbers.shown(1), numbers.shown(2)) == ({(0, 0, 0): 50}, {(0, 0, 0): 50})


def test_blocks_of_scales_that_nothing_is_made_for_can_be_given(numbers: Numbers):
    numbers.give(5, {(1, 2, -3): 7})
    assert numbers.shown(5) == {(1, 2, -3): 7}
    numbers.put({(32, 64, -96): 4})
    assert numbers.shown(5) == {(1, 2, -3): 7}


def test_what_comes_to_nothing_is_not_there(numbers: Numbers):
    numbers.put({(0, 0, 0): 3})
    numbers.drain()
    numbers.put({(0, 0, 0): 0})
    for _ in range(2):
        assert (numbers.shown(1), numbers.shown(2)) == ({}, {})
        numbers.drain()
        assert numbers.pending() == 0
    numbers.put({(0, 0, 0): 6})
    assert (numbers.shown(1), numbers.shown(2)) == ({(0, 0, 0): 6}, {(0, 0, 0): 6})


@pytest.mark.parametrize("drained", [False, True])
def test_a_merge_is_made_of_both_sides(numbers: Numbers, drained: bool):
    numbers.put({(0, 0, 0): 1, (4, 0, 0): 1})
    numbers.commit()
    sides = [numbers.child(), numbers.child("other")]
    sides[0].put({(1, 0, 0): 10})
    sides[1].put({(0, 1, 0): 20, (5, 0, 0): 30})
    for side in sides:
        if drained:
            side.drain()
        side.commit()
    merged = sides[0].merge(sides[1])
    for _ in range(2):
        assert merged.shown(1) == {(0, 0, 0): 20, (2, 0, 0): 30}
        assert merged.shown(2) == {(0, 0, 0): 20, (1, 0, 0): 30}
        merged.put({(7, 7, 7): 1})
        assert merged.shown(2).pop((1, 1, 1)) == 1
        merged.put({(7, 7, 7): 0})
    merged.drain()
    assert merged.shown(2) == {(0, 0, 0): 20, (1, 0, 0): 30}


def test_an_administrator_changes_what_later_versions_were_made_of(numbers: Numbers):
    numbers.put({(0, 0, 0): 1})
    numbers.commit()
    child = numbers.child()
    child.put({(1, 0, 0): 5})
    child.drain()
    numbers.put({(0, 0, 0): 9}, privileged=True)
    assert [case.shown(2) for case in (numbers, child)] == [{(0, 0, 0): 9}, {(0, 0, 0): 9}]


def test_a_job_looks_only_above_what_was_written(numbers: Numbers):
    numbers.put({(0, 0, 0): 1, (60, 60, 60): 1})
    numbers.drain()
    numbers.put({(2, 3, 4): 1, (8, 8, 8): 1})
    job = numbers.job()
    assert job.args["blocks"] == [2, 3, 4, 8, 8, 8]


def test_a_job_that_was_stopped_goes_on(numbers: Numbers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(work, "STEP_BYTES", 1)
    monkeypatch.setattr(rows, "LOOK", 2)
    coords = [(x, y, z) for z in range(4) for y in range(0, 6, 3) for x in range(0, 9, 2)]
    numbers.put({coord: 1 + i for i, coord in enumerate(coords)})
    job = numbers.job()
    left, args = [numbers.pending()], dict(job.args)
    while (args := work.step(PYRAMID, numbers.engine, args)) is not None:
        left.append(numbers.pending())
    assert left[0] == len({(x // 2, y // 2, z // 2) for x, y, z in coords}) + len(numbers.shown(2))
    assert set(np.diff(left)) == {-1, 0}
    assert left[-1] == 0


def test_payloads_are_views_of_the_map_without_what_stands_behind_them(numbers: Numbers):
    numbers.put({(x, 0, 0): 1 + x for x in range(8)})
    numbers.drain()

    def look(view: ReadView) -> None:
        found = level.at_scale(PYRAMID, view, 1)
        rows_found = found.load_spans(Box((0, 0, 0), (4, 1, 1)))
        for payload in [*(payload for _, payload in rows_found), *found.payloads([(x, 0, 0) for x in range(4)])]:
            assert isinstance(payload, memoryview)
            stored = payload.obj
            assert not isinstance(stored, bytes)
        assert [bytes(payload) for _, payload in rows_found] == [number(2 * x + 2) for x in range(4)]

    numbers.read(look)


def test_check_names_blocks_that_cannot_be_read(numbers: Numbers):
    numbers.put({(0, 0, 0): 3}, follow=False)
    numbers.give(1, {(0, 0, 0): 200, (3, 0, 0): 4})

    def look(view: ReadView) -> list[str]:
        return list(requests.check(PYRAMID, view))

    assert numbers.read(look) == []
    sealed = numbers.read(lambda view: list(scales.seal(PYRAMID, view, 1, [((3, 0, 0), b"cut")])))
    numbers.write(lambda view: blocks.put(view, 1, sealed))
    assert numbers.read(look) == ["block 3_0_0 at scale 1: no number"]
    numbers.write(lambda view: view.put(Family.BLOCK, level.at_scale(PYRAMID, view, 1).key((3, 0, 0)), marks.MARK))
    assert numbers.read(look) == []


def test_without_the_setting_there_are_no_scales(numbers: Numbers):
    def forget(txn):
        instance = numbers.view(txn).instance
        repos.change_instance(txn, instance, settings={**instance.settings, "Scales": 0})

    numbers.engine.write(forget)
    numbers.put({(0, 0, 0): 3})
    assert numbers.shown(1) == {}
    with pytest.raises(BadRequest, match="has no scales: its setting Scales"):
        numbers.write(lambda view: requests.post_pyramid(PYRAMID, view, None))


def test_children_say_which_eighth_they_are():
    found = Children((-1, 0, 3), np.array([(6, 0, -2), (6, 1, -1), (7, 1, -2)]), [b""] * 3)
    assert found.octants == [0, 3, 6]
