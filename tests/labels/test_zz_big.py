"""Merges of versions of labels: what several people did to bodies becomes one state, and what they disagree on is told."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import wire
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_bodies import FRAME, Change, Work, nothing_kept, same_bodies, state_of, voxels_of

from dvidfs.engine import Engine, ReadView, ledger, repos
from dvidfs.engine.check import check_store
from dvidfs.errors import Conflict
from dvidfs.types.builtin import registry
from dvidfs.types.labelmap import blocks, bodies, columns, mutate, splits
from dvidfs.types.labelmap.books import Book, mapping

MODEST = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
A, B, C, D = FRAME.places()


# ---------------------------------------------------------------- the rule, plainly


def words(work: Work, version: int) -> dict[int, tuple[int, int]]:
    """What a version and those before it said of supervoxels last: at which version, and the body."""
    line, out = work.versions.line(version), dict[int, tuple[int, int]]()

    def look(view: ReadView) -> None:
        for at in reversed(line):
            said = columns.united([row.data for row in ledger.of_version(view, Book.MAPPING, 0, at)])
            out.update({s: (at, body) for s, body in zip(*map(np.ndarray.tolist, said), strict=True)})

    work.versions.read(version, look)
    return out


def settled(work: Work, parents: tuple[int, ...]) -> tuple[dict[int, int], set[int]]:
    """The mapping of a child of versions, and the supervoxels in conflict: words that others know and overrode do not count."""
    said = [words(work, parent) for parent in parents]
    out, torn = dict[int, int](), set[int]()
    for supervoxel in set().union(*said):
        spoken = [found[supervoxel] for found in said if supervoxel in found]
        known = {at: set(work.versions.line(at)) - {at} for at, _ in spoken}
        count = [word for word in spoken if not any(word[0] in before for before in known.values())]
        out[supervoxel] = count[0][1]
        if len({body for _, body in count}) > 1:
            torn.add(supervoxel)
    return out, torn


def merge_well(work: Work, *parents: int) -> int | None:
    """Merges versions that wrote different blocks, and looks whether all is as it must be."""
    lines = [set(work.versions.line(parent)) for parent in parents]
    common = set.intersection(*lines)
    for i, line in enumerate(lines):
        for other in lines[:i]:
            wrote = [set().union(*(work.states[v].wrote_blocks for v in side)) for side in (line - other, other - line)]
            if wrote[0] & wrote[1]:
                return None
    wanted, torn = settled(work, parents)
    voxels = work.together(parents)
    if any(wanted.get(s) == 0 for s in np.unique(voxels[voxels > 0]).tolist()):
        return None  # one side has split what another has painted
    child, conflicts = work.versions.merge(*parents)
    work.states[child] = state = work.versions.read(child, state_of)
    assert state.mapping == wanted, (parents, common)
    told = set(map(int, conflicts["data"].keys)) if "data" in conflicts else set()
    assert told >= torn
    assert not told - torn or all(s not in wanted for s in told - torn), "what no one disagrees on is listed"
    for supervoxel, body in state.members.items():
        if supervoxel in torn:
            assert body == wanted[supervoxel]
    np.testing.assert_array_equal(state.voxels, voxels)
    work.versions.read(child, lambda view: same_bodies(view, state))
    return child


def begun(engine: Engine, chance: random.Random) -> Work:
    work = Work(engine)
    for _ in range(chance.randint(2, 4)):
        work.write(next(iter(work.states)), chance)
    return work


def forked(work: Work, parent: int, chance: random.Random) -> int:
    child = work.versions.child(parent)
    work.states[child] = work.states[parent].child()
    for _ in range(chance.randint(0, 3)):
        work.write(child, chance)
    return child


SEEDS = st.integers(0, 2**32)


@MODEST
@given(seed=SEEDS)
def test_two_or_three_sides_become_one(engine: Engine, seed: int):
    chance = random.Random(seed)
    work = begun(engine, chance)
    root = next(iter(work.states))
    sides = [forked(work, root, chance) for _ in range(chance.choice([2, 2, 3]))]
    if chance.random() < 0.4:  # two sides know of what the third does not
        sides += [forked(work, sides.pop(), chance) for _ in range(1)]
        sides.append(forked(work, work.versions.parents[sides[-1]][0], chance))
    chance.shuffle(sides)
    child = merge_well(work, *sides[:4])
    if child is not None:
        work.write(child, chance)
        work.versions.read(child, lambda view: same_bodies(view, work.states[child]))


@MODEST
@given(seed=SEEDS)
def test_merged_both_ways_and_merged_again(engine: Engine, seed: int):
    chance = random.Random(seed)
    work = begun(engine, chance)
    root = next(iter(work.states))
    a, b = forked(work, root, chance), forked(work, root, chance)
    both = [merge_well(work, a, b), merge_well(work, b, a)]
    if both[0] is None or both[1] is None:
        return
    for child in both:
        for _ in range(chance.randint(0, 2)):
            work.write(child, chance)
    last = merge_well(work, both[0], both[1])
    if last is not None:
        forked(work, last, chance)
        for version, state in work.states.items():
            work.versions.read(version, lambda view, state=state: same_bodies(view, state))


# ---------------------------------------------------------------- cases by hand


def painted(work: Work, version: int, place: Any, label: int) -> None:
    stack = np.full((1, *FRAME.block_shape), label, np.uint64)
    work.versions.write(version, lambda view: blocks.write_blocks(view, [place], stack, "mutate"))


def done(work: Work, version: int, change: Change) -> None:
    work.versions.write(version, change)


@pytest.fixture
def work(engine: Engine) -> Work:
    """Four blocks of one supervoxel each, 1 to 4, committed; two branches of it, numbered 2 and 3."""
    found = Work(engine)
    root = next(iter(found.states))
    for label, place in enumerate(FRAME.places(), 1):
        painted(found, root, place, label)
    assert [found.versions.child(root) for _ in range(2)] == [root + 1, root + 2]
    return found


def sizes(view: ReadView) -> dict[int, int]:
    return {n: size for n in range(1, 20) if (size := bodies.size(view, n))}


def problems(engine: Engine) -> list[str]:
    types = registry()
    return [found.text for found in check_store(engine, deep=True, verifier=lambda name: types[name].verify).problems]


def test_one_supervoxel_is_given_to_two_bodies(work: Work):
    root, one, two = work.versions.parents
    done(work, one, lambda view: mutate.merge(view, 1, [3]))
    done(work, two, lambda view: mutate.merge(view, 2, [3]))
    with pytest.raises(Conflict, match=r"data \(1: 3\): nothing was merged"):
        work.versions.merge(one, two, strict=True)
    assert set(work.versions.read(one, lambda view: view.graph.repos[view.node.repo].nodes)) == {root, one, two}
    for parents, winner, loser in (((one, two), 1, 2), ((two, one), 2, 1)):
        child, conflicts = work.versions.merge(*parents)
        assert (conflicts["data"].count, conflicts["data"].keys) == (1, ["3"])
        state = work.versions.read(child, state_of)
        assert state.mapping == {3: winner}
        assert work.versions.read(child, sizes) == {winner: 8192, loser: 4096, 4: 4096}
    assert problems(work.versions.engine) == []


def test_what_one_side_merges_grows_on_the_other(work: Work):
    """The total of a body that only one side has named."""
    _, one, two = work.versions.parents
    done(work, one, lambda view: mutate.merge(view, 1, [3]))
    painted(work, two, D, 3)
    child, conflicts = work.versions.merge(one, two)
    assert conflicts == {}
    assert work.versions.read(child, sizes) == {1: 3 * 4096, 2: 4096}
    assert work.versions.read(child, state_of).supervoxels(1) == {1, 3}


def test_both_sides_bring_voxels_of_the_same_new_supervoxel(work: Work):
    _, one, two = work.versions.parents
    painted(work, one, A, 9)
    painted(work, two, B, 9)
    child, conflicts = work.versions.merge(one, two)
    assert conflicts == {}
    assert work.versions.read(child, sizes) == {9: 8192, 3: 4096, 4: 4096}
    assert problems(work.versions.engine) == []


def test_the_last_voxels_go_on_one_side_and_come_on_another(work: Work):
    _, one, two = work.versions.parents
    painted(work, one, A, 2)
    painted(work, two, B, 1)
    for parents in ((one, two), (two, one)):
        child, conflicts = work.versions.merge(*parents)
        assert conflicts == {}
        assert work.versions.read(child, sizes) == {1: 4096, 2: 4096, 3: 4096, 4: 4096}
    assert problems(work.versions.engine) == []


def test_a_side_that_knows_the_other_has_the_last_word(work: Work):
    _, one, two = work.versions.parents
    done(work, one, lambda view: mutate.merge(view, 1, [3]))
    later = work.versions.child(one)
    done(work, later, lambda view: mutate.cleave(view, 1, [3], 7))
    for parents in ((one, later, two), (two, one, later), (later, one)):
        child, conflicts = work.versions.merge(*parents)
        assert conflicts == {}, parents
        assert work.versions.read(child, sizes) == {1: 4096, 2: 4096, 4: 4096, 7: 4096}


def test_blocks_that_both_sides_wrote_are_in_conflict_until_someone_writes_them(work: Work):
    _, one, two = work.versions.parents
    painted(work, one, A, 5)
    painted(work, two, A, 6)
    painted(work, two, B, 6)
    child, conflicts = work.versions.merge(one, two)
    assert conflicts["data"].keys == ["-1_0_0"]
    with pytest.raises(Conflict, match="write or delete it"):
        work.versions.read(child, voxels_of)
    painted(work, child, A, 6)
    assert work.versions.read(child, state_of).counted() == {6: {A: 4096, B: 4096}, 3: {C: 4096}, 4: {D: 4096}}
    assert problems(work.versions.engine) == []


@pytest.mark.parametrize("first", [0, 1])
def test_resolving_takes_blocks_and_index_of_the_first_parent(work: Work, first: int):
    _, one, two = work.versions.parents
    painted(work, one, A, 5)
    painted(work, two, A, 6)
    painted(work, two, B, 6)
    done(work, two, lambda view: mutate.merge(view, 3, [6]))
    for version in (one, two):
        work.versions.commit(version)
    order = [(one, two), (two, one)][first]

    def run(txn: Any) -> repos.Merged:
        return repos.resolve(txn, [txn.graph.version(work.versions.uuids[v]) for v in order], ["data"])

    merged = work.versions.engine.write(run)
    assert merged.conflicts == {}
    child = work.versions._begun(merged.child, order)
    state = work.versions.read(child, state_of)
    assert state.voxels[FRAME.window(A)].max() == state.voxels[FRAME.window(A)].min() == (5, 6)[first]
    assert work.versions.read(child, sizes) == [{5: 4096, 3: 8192, 4: 4096}, {3: 3 * 4096, 4: 4096}][first]
    work.versions.read(child, lambda view: same_bodies(view, state))
    assert problems(work.versions.engine) == []


def test_voxels_of_what_another_side_has_split_are_in_no_body(work: Work):
    """As if they had been written after the split."""
    _, one, two = work.versions.parents
    mask = np.zeros(FRAME.shape, bool)
    mask[FRAME.window(A)][:3] = True
    runs = wire.encode_rles(wire.runs_of_points(wire.points_of_mask(mask, FRAME.start)))
    ready = work.versions.read(one, lambda view: splits.prepare_split_supervoxel(view, "1", 8, 9, True, runs))
    done(work, one, lambda view: splits.post_split_supervoxel(view, **dict(ready)))
    painted(work, two, B, 1)
    done(work, two, lambda view: mutate.merge(view, 4, [1]))
    for parents, body in (((one, two), 0), ((two, one), 4)):
        child, conflicts = work.versions.merge(*parents)
        assert conflicts["data"].keys == ["1"]
        wanted = {1: 4096, 3: 4096, 4: 4096} if not body else {1: 4096, 3: 4096, 4: 8192}
        assert work.versions.read(child, sizes) == wanted
        assert work.versions.read(child, lambda view: mapping(view).one(1)) == body
        assert work.versions.read(child, lambda view: bodies.members(view, 1)).supervoxels.tolist() == [8, 9]


def test_mapping_that_both_sides_changed_alike_is_no_conflict(work: Work):
    _, one, two = work.versions.parents
    for version in (one, two):
        done(work, version, lambda view: mutate.merge(view, 1, [3]))
    child, conflicts = work.versions.merge(one, two)
    assert conflicts == {}
    assert work.versions.read(child, sizes) == {1: 8192, 2: 4096, 4: 4096}
    with nothing_kept():
        found = work.versions.read(child, lambda view: mapping(view).items())
    assert (found.keys.tolist(), found.values.tolist()) == ([3], [1])
