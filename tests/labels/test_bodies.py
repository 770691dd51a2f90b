"""Bodies over random version graphs, in one process: what is kept of them follows the rows, whoever reads in between.

The model is that of the tests over HTTP; here writes fail, are grouped and prepared too early, history is rewritten, and reads
happen (or not) at any moment, so that what is kept is old, new, or not there. Below a merge the model goes on from what a reader
sees that keeps nothing, after a look that this is sound.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import numpy as np
import pytest
import wire
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model import Frame, State
from proofreaders import texture
from versioned import Failed, Versions

from dvidfs.engine import Engine, ReadView, WriteTxn, WriteView
from dvidfs.types.builtin import registry
from dvidfs.types.formats.labelindex import points_of_codes
from dvidfs.types.labelmap import blocks, bodies, columns, counters, index, mutate, splits
from dvidfs.types.labelmap.books import mapping, totals
from dvidfs.types.labelmap.held import Held
from dvidfs.types.labelmap.index import Counts

FRAME = Frame((16, 16, 16), (2, 2, 1), (-1, 0, 0))
BOX = "32_32_16", "-16_0_0"
MODEST = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Change = Callable[[WriteView], Any]
Known = Callable[[State, Any], None]


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
    """As in a process that has just begun."""
    with mock.patch.object(bodies, "HELD", Held(1)), mock.patch.object(columns, "_known", WeakKeyDictionary()):
        yield


# ---------------------------------------------------------------- what is stored


def voxels_of(view: ReadView) -> wire.Voxels:
    content = blocks.get_blocks(view, *BOX, "uncompressed", 0, True)
    found = wire.decode_blocks(b"".join(map(bytes, content.body)), "uncompressed", FRAME.block_shape)
    out = np.zeros(FRAME.shape, np.uint64)
    for place, block in found.items():
        out[FRAME.window(place)] = block
    return out


def by_block(rows: Counts) -> dict[tuple[int, ...], dict[int, int]]:
    """An index as the model tells it; no pair of block and supervoxel comes twice, and blocks come in order."""
    out: dict[tuple[int, ...], dict[int, int]] = {}
    assert (np.diff(rows.codes.astype(np.int64)) >= 0).all()
    places = map(tuple, points_of_codes(rows.codes).tolist())
    for place, supervoxel, count in zip(places, rows.supervoxels.tolist(), rows.counts.tolist(), strict=True):
        assert supervoxel not in out.setdefault(place, {})
        out[place][supervoxel] = count
    return out


def state_of(view: ReadView) -> State:
    """A version as it is stored, whose facts must go together."""
    voxels = voxels_of(view)
    with nothing_kept():
        said = mapping(view).items()
        sizes = totals(view).items()
        known = {int(b): set(bodies.members(view, int(b)).supervoxels.tolist()) for b in sizes.keys[sizes.values > 0]}
        state = State(FRAME, voxels, dict(zip(said.keys.tolist(), said.values.tolist(), strict=True)))
        state.counts = state.counted()
        holders = Counter(s for held in known.values() for s in held)
        assert {s: n for s, n in holders.items() if n > 1} == {}, "supervoxels in several bodies"
        state.members = {s: body for body, held in known.items() for s in held if s in state.counts}
        assert state.members.keys() == state.counts.keys(), "supervoxels in no body"
        same_bodies(view, state)
    return state


def same_bodies(view: ReadView, state: State) -> None:
    """Every body, and a few numbers that are none."""
    sizes = totals(view).items()
    there = dict(zip(sizes.keys.tolist(), sizes.values.tolist(), strict=True))
    assert {body: size for body, size in there.items() if size} == {body: state.size(body) for body in state.bodies()}
    for body in {*state.bodies(), *list(there)[:5]}:
        same_body(view, state, body)


def same_body(view: ReadView, state: State, body: int) -> None:
    wanted = state.index(body).blocks
    assert by_block(bodies.of_body(view, body)) == wanted
    assert bodies.size(view, body) == state.size(body)
    if wanted:
        assert bodies.members(view, body).supervoxels.tolist() == sorted(state.supervoxels(body))
    for supervoxel in sorted(state.supervoxels(body))[:2]:
        assert mapping(view).get(np.array([supervoxel], np.uint64), supervoxel).tolist() == [state.body_of(supervoxel)]


# ---------------------------------------------------------------- what is done


class Work:
    """A graph of versions of a labelmap, and the model of each."""

    def __init__(self, engine: Engine) -> None:
        self.versions = Versions(engine, "labelmap", registry()["labelmap"].configure({"blocksize": "16,16,16"}))
        root = next(iter(self.versions.parents))
        self.states = {root: State.empty(FRAME)}
        self.wrote: dict[int, set[Any]] = {root: set()}
        self.top = 0

    def fresh(self, chance: random.Random) -> int:
        self.top = max(self.top, *(max(s.labels_in_use(), default=0) for s in self.states.values()))
        self.top += chance.randint(1, 3)
        return self.top

    # Each of these gives what to write and what it means.

    def paint(self, state: State, chance: random.Random) -> tuple[Change, Known]:
        places = sorted(chance.sample(FRAME.places(), chance.randint(1, 3)), key=lambda p: p[::-1])
        alive = sorted(s for s in {*state.mapping, *state.counts} if state.mapping.get(s, s))
        ids = [0, self.fresh(chance), self.fresh(chance), *chance.sample(alive, min(4, len(alive)))]
        made = {place: texture(chance, ids, FRAME.block_shape) for place in places}
        stack = np.stack([made[place] for place in places])
        return lambda view: blocks.write_blocks(view, places, stack, "mutate"), lambda state, _: state.write(made)

    def merge(self, state: State, chance: random.Random) -> tuple[Change, Known]:
        known = state.bodies()
        target, *others = chance.sample(known, min(len(known), chance.choice([2, 2, 3, 6])))
        return lambda view: mutate.merge(view, target, others), lambda state, _: state.merge(target, others)

    def cleave(self, state: State, chance: random.Random) -> tuple[Change, Known]:
        body = chance.choice([b for b in state.bodies() if len(state.supervoxels(b)) > 1] or [0])
        if not body:
            return self.merge(state, chance)
        held = sorted(state.supervoxels(body))
        part = chance.sample(held, chance.randint(1, len(held) - 1))

        def change(view: WriteView) -> int:
            label = counters.take(view)
            mutate.cleave(view, body, part, label)
            return label

        return change, lambda state, label: state.cleave(part, label)

    def renumber(self, state: State, chance: random.Random) -> tuple[Change, Known]:
        old = chance.choice(state.bodies())
        new = chance.choice([self.fresh(chance), *sorted(state.supervoxels(old) - set(state.bodies()))])
        return lambda view: mutate.renumber(view, new, old), lambda state, _: state.renumber(new, old)

    def by_hand(self, state: State, chance: random.Random) -> tuple[Change, Known]:
        """A supervoxel goes to another body, as clients do it: index, then mapping."""
        supervoxel = chance.choice(sorted(state.counts))
        old = state.members[supervoxel]
        new = chance.choice([*(b for b in state.bodies() if b != old), self.fresh(chance)])

        def rows(view: WriteView, body: int, keep: Callable[[Counts], Counts]) -> Counts:
            return keep(bodies.of_body(view, body))

        def change(view: WriteView) -> None:
            mine = bodies.of_supervoxel(view, supervoxel)
            left = rows(view, old, lambda found: found.take(found.supervoxels != supervoxel))
            came = rows(view, new, lambda found: index.joined([found, mine]))
            mutate.set_index(view, [(old, left), (new, came)])
            mutate.set_mappings(view, np.array([supervoxel], np.uint64), np.array([new], np.uint64))

        return change, lambda state, _: state._move(supervoxel, new)

    def split(self, version: int, chance: random.Random) -> tuple[Change, Known]:
        """Prepared now; what is written afterwards may have changed the supervoxel."""
        state = self.states[version]
        supervoxel = chance.choice(sorted(s for s, size in state.sizes().items() if size > 1))
        mine = state.voxels == supervoxel
        mask = mine & (np.cumsum(mine).reshape(mine.shape) <= chance.randint(1, int(mine.sum()) - 1))
        body = wire.encode_rles(wire.runs_of_points(wire.points_of_mask(mask, FRAME.start)))
        ready = self.versions.read(
            version, lambda view: splits.prepare_split_supervoxel(view, str(supervoxel), None, None, True, body)
        )

        def known(state: State, told: dict[str, int]) -> None:
            state.split_supervoxel(supervoxel, mask, told["SplitSupervoxel"], told["RemainSupervoxel"])

        return lambda view: splits.post_split_supervoxel(view, **dict(ready)), known

    def some(self, version: int, chance: random.Random) -> tuple[Change, Known]:
        state = self.states[version]
        if len(state.bodies()) < 3:
            return self.paint(state, chance)
        kind = chance.choice([self.paint, self.merge, self.merge, self.cleave, self.renumber, self.by_hand, self.split])
        return kind(version if kind == self.split else state, chance)  # type: ignore[arg-type]

    # ---------------------------------------------------------------- steps

    def write(self, version: int, chance: random.Random) -> None:
        change, known = self.some(version, chance)
        known(self.states[version], self.versions.write(version, change))

    def fail(self, version: int, chance: random.Random) -> None:
        change, _ = self.some(version, chance)
        with pytest.raises(Failed):
            self.versions.write(version, lambda view: self.then_fail(view, change, version))

    @staticmethod
    def then_fail(view: WriteView, change: Change, version: int) -> None:
        change(view)
        for body in totals(view).items().keys.tolist():
            bodies.members(view, body)
            bodies.of_body(view, body)
            bodies.of_body(ReadView(view.txn, view.node, view.instance), body)
        raise Failed

    def group(self, version: int, chance: random.Random) -> None:
        """Edits of different bodies at once, some of which fail after they have written."""
        jobs: list[Callable[[WriteTxn], Any]] = []
        after: list[Known | None] = []
        touched = set[int]()
        for _ in range(6):
            state = self.states[version]
            free = sorted(set(state.bodies()) - touched)
            if len(free) < 2:
                break
            a, b = chance.sample(free, 2)
            touched |= {a, b}
            fails = chance.random() < 0.3

            def job(txn: WriteTxn, a: int = a, b: int = b, fails: bool = fails) -> None:
                view = self.versions.write_view(txn, version)
                mutate.merge(view, a, [b])
                bodies.of_body(view, a)
                if fails:
                    raise Failed

            jobs.append(job)
            after.append(None if fails else lambda state, _, a=a, b=b: state.merge(a, [b]))
        if not jobs:
            return
        for known, found in zip(after, self.versions.together(jobs), strict=True):
            assert isinstance(found, Failed) == (known is None), found
            if known is not None:
                known(self.states[version], found)

    def grow(self, chance: random.Random) -> None:
        before = set(self.versions.parents)
        heads = [v for v in before if not any(v in p for p in self.versions.parents.values())]
        if len(heads) > 1 and chance.random() < 0.7:
            a, b = chance.sample(heads, 2)
            lines = [set(self.versions.line(v)) for v in (a, b)]
            wrote = [
                set().union(*(self.states[v].wrote_blocks for v in line - (lines[0] & lines[1]))) for line in lines
            ]
            gone = {s for v in (a, b) for s, body in self.states[v].mapping.items() if not body}
            if wrote[0] & wrote[1] or gone & set(np.unique(self.together((a, b))).tolist()):
                return  # contested blocks, or one side has split what another has painted
            child, _ = self.versions.merge(a, b)
            self.states[child] = self.versions.read(child, state_of)
        elif len(before) < 6:
            parent = chance.choice(sorted(before))
            child = self.versions.child(parent)
            self.states[child] = self.states[parent].child()

    def together(self, parents: Sequence[int]) -> wire.Voxels:
        """The voxels of a merge of versions that wrote different blocks."""
        lines = [set(self.versions.line(parent)) for parent in parents]
        common = set.intersection(*lines)
        out = self.states[parents[0]].voxels.copy()
        for version in sorted(set.union(*lines) - common):
            for place in self.states[version].wrote_blocks:
                out[FRAME.window(place)] = self.states[version].voxels[FRAME.window(place)]
        return out

    def look(self, version: int, chance: random.Random) -> None:
        state = self.states[version]
        known = state.bodies()
        for body in chance.sample(known, min(len(known), chance.randint(1, 4))):
            self.versions.read(version, lambda view, body=body: same_body(view, state, body))


STEPS = st.lists(
    st.tuples(st.sampled_from(["write"] * 4 + ["look", "grow", "fail", "group"]), st.integers(0, 2**32)), max_size=25
)


@MODEST
@given(steps=STEPS)
def test_bodies_are_what_was_written(engine: Engine, steps: list[tuple[str, int]]):
    work = Work(engine)
    for kind, seed in steps:
        chance = random.Random(seed)
        if kind == "grow":
            work.grow(chance)
        elif kind == "look":
            work.look(chance.choice(sorted(work.states)), chance)
        else:
            version = chance.choice(sorted(work.versions.open))
            {"write": work.write, "fail": work.fail, "group": work.group}[kind](version, chance)
    for version, state in work.states.items():
        work.versions.read(version, lambda view, state=state: same_bodies(view, state))
        fresh = work.versions.read(version, state_of)
        assert (fresh.members, fresh.counts) == (state.members, state.counts)
        np.testing.assert_array_equal(fresh.voxels, state.voxels)


def test_a_supervoxel_without_voxels_can_be_cleaved_and_lies_in_no_body(engine: Engine):
    """Clients may not have seen yet that it lost the last of them; its mapping is still there."""
    work = Work(engine)
    root = next(iter(work.states))
    a, b, *_ = FRAME.places()
    for place, label in ((a, 1), (b, 2)):
        stack = np.full((1, *FRAME.block_shape), label, np.uint64)
        work.versions.write(root, lambda view, p=place, s=stack: blocks.write_blocks(view, [p], s, "mutate"))
    work.versions.write(root, lambda view: mutate.merge(view, 1, [2]))
    stack = np.full((1, *FRAME.block_shape), 3, np.uint64)
    work.versions.write(root, lambda view: blocks.write_blocks(view, [b], stack, "mutate"))
    work.versions.write(root, lambda view: mutate.cleave(view, 1, [2], 9))
    state = work.versions.read(root, state_of)
    assert (state.members, state.mapping) == ({1: 1, 3: 3}, {2: 9, 9: 0})
    assert work.versions.read(root, lambda view: bodies.members(view, 9)).supervoxels.tolist() == []
    assert work.versions.read(root, lambda view: bodies.size(view, 1)) == 4096


def test_an_administrator_who_writes_history_is_seen_below(engine: Engine):
    work, chance = Work(engine), random.Random(3)
    root = next(iter(work.states))
    state = work.states[root]
    while len(state.bodies()) < 4:
        work.write(root, chance)
    child = work.versions.child(root)
    target, other, third = state.bodies()[:3]
    for version in (root, child):
        work.versions.read(version, lambda view: same_bodies(view, state))
    work.versions.write(root, lambda view: mutate.merge(view, target, [other]))
    state.merge(target, [other])
    for version in (root, child):
        work.versions.read(version, lambda view: same_bodies(view, state))
    work.versions.write(child, lambda view: mutate.merge(view, third, [target]))
    work.states[child] = state.child()
    work.states[child].merge(third, [target])
    work.versions.read(child, lambda view: same_bodies(view, work.states[child]))
    work.versions.read(root, lambda view: same_bodies(view, state))
