"""Tables of supervoxels and bodies: after any mutations each supervoxel is where it was put last, and all that is stored agrees."""

from __future__ import annotations

import random
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from versioned import Versions

from dvidfs.engine import Engine, ReadView
from dvidfs.errors import BadRequest
from dvidfs.types.builtin import registry
from dvidfs.types.geometry import Box
from dvidfs.types.labelmap import agglomerate, bodies, files, intake, mutate
from dvidfs.types.labelmap.books import mapping, totals
from dvidfs.types.labelmap.volume import LabelVolume

BOX = Box((-16, 0, 0), (32, 16, 16))
KNOWN, LATER = range(1, 10), range(10, 14)
"""Supervoxels that are there from the beginning, and others that come later or never."""


def labelmap(engine: Engine) -> Versions:
    return Versions(engine, "labelmap", registry()["labelmap"].configure({"blocksize": "16,16,16"}))


def put(versions: Versions, at: int, voxels: np.ndarray, box: Box = BOX) -> None:
    write = versions.read(at, lambda view: intake.take(view, box, voxels))
    versions.write(at, write)


def table(*rows: tuple[int, int]) -> agglomerate.Pairs:
    both = np.array(rows, np.uint64).reshape(-1, 2)
    return agglomerate.checked(both[:, 0], both[:, 1])


def agglomerated(versions: Versions, at: int, *rows: tuple[int, int]) -> int:
    plan = versions.read(at, lambda view: agglomerate.prepare(view, table(*rows)))
    return versions.write(at, lambda view: agglomerate.run(view, plan))


class Model:
    """Where each supervoxel is (what is not named is a body of its own), and the voxels."""

    def __init__(self, voxels: np.ndarray, bodies_of: dict[int, int] | None = None) -> None:
        self.voxels, self.bodies_of = voxels, dict(bodies_of or {})

    def copy(self) -> Model:
        return Model(self.voxels.copy(), self.bodies_of)

    def body(self, supervoxel: int) -> int:
        return self.bodies_of.get(supervoxel, supervoxel)

    @property
    def held(self) -> dict[int, set[int]]:
        out: dict[int, set[int]] = {}
        for supervoxel in np.unique(self.voxels).tolist():
            if supervoxel and self.body(supervoxel):
                out.setdefault(self.body(supervoxel), set()).add(supervoxel)
        return out

    def check(self, view: ReadView) -> None:
        every = np.arange(self.voxels.max() + 1)
        mapped = np.array([self.body(int(n)) if n else 0 for n in every], np.uint64)[self.voxels]
        assert np.array_equal(LabelVolume.of(view).read(BOX), mapped)
        counted = totals(view).items()
        there = counted.values > 0
        sizes = {body: int((mapped == body).sum()) for body in self.held}
        assert dict(zip(counted.keys[there].tolist(), counted.values[there].tolist(), strict=True)) == sizes
        for body, supervoxels in self.held.items():
            assert supervoxels == set(bodies.members(view, body).supervoxels.tolist()) & set(every.tolist())
            assert int(bodies.of_body(view, body).counts.sum()) == sizes[body]
        verify = registry()["labelmap"].verify
        assert verify is not None
        assert [told for told in verify(view) if isinstance(told, str)] == []


def random_table(rng: random.Random, model: Model) -> list[tuple[int, int]]:
    chosen = rng.sample([*KNOWN, *LATER], rng.randint(1, 8))
    targets = [rng.choice([*KNOWN, *LATER, 900, 901]) for _ in range(rng.randint(1, 3))]
    return [(number, rng.choice([*targets, number, model.body(number) or number])) for number in chosen]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_after_any_mutations_all_that_is_stored_agrees(engine: Engine, seed: int):
    rng = random.Random(seed)
    versions, fresh = labelmap(engine), iter(range(500, 600))
    (root,) = versions.parents
    models = {root: Model(np.random.default_rng(seed).choice([0, *KNOWN], BOX.shape).astype(np.uint64))}
    put(versions, root, models[root].voxels)
    for _ in range(rng.randint(3, 10)):
        at = rng.choice(sorted(versions.open))
        model = models[at]
        what = rng.choice(["agglomerate"] * 4 + ["merge", "cleave", "renumber", "come", "child"])
        some = sorted(model.held)
        if what == "agglomerate":
            rows = random_table(rng, model)
            late = rng.random() < 0.3  # the plan is of a state that has passed
            plan = versions.read(at, lambda view, rows=rows: agglomerate.prepare(view, table(*rows)))
            if late:
                other = random_table(rng, model)
                agglomerated(versions, at, *other)
                model.bodies_of.update(other)
            versions.write(at, lambda view, plan=plan: agglomerate.run(view, plan))
            model.bodies_of.update(rows)
        elif what == "merge" and len(some) > 1:
            target, *others = rng.sample(some, rng.randint(2, len(some)))
            moved = [number for body in others for number in model.held[body]]
            versions.write(at, lambda view, t=target, o=others: mutate.merge(view, t, o))
            model.bodies_of.update(dict.fromkeys(moved, target))
        elif what == "cleave" and any(len(held) > 1 for held in model.held.values()):
            body = next(body for body, held in sorted(model.held.items()) if len(held) > 1)
            chosen, label = sorted(model.held[body])[1:], next(fresh)
            versions.write(at, lambda view, b=body, c=chosen, n=label: mutate.cleave(view, b, c, n))
            model.bodies_of.update(dict.fromkeys(chosen, label))
        elif what == "renumber" and some:
            old, new = rng.choice(some), next(fresh)
            moved = model.held[old]
            versions.write(at, lambda view, o=old, n=new: mutate.renumber(view, n, o))
            model.bodies_of.update(dict.fromkeys(moved, new))
        elif what == "come":
            model.voxels[:, :, :16] = rng.choice([*KNOWN, *LATER])
            put(versions, at, model.voxels[:, :, :16], Box(BOX.offset, (16, 16, 16)))
        elif what == "child":
            models[versions.child(at)] = model.copy()
    for at, model in models.items():
        versions.read(at, model.check)


def test_what_is_put_where_it_is_changes_nothing(engine: Engine):
    versions = labelmap(engine)
    put(versions, 1, np.arange(8, dtype=np.uint64).repeat(1024).reshape(BOX.shape))
    assert agglomerated(versions, 1, (3, 3), (4, 5), (6, 5)) == 2
    stamp = versions.read(1, lambda view: view.stamp())
    assert agglomerated(versions, 1, (3, 3), (4, 5), (6, 5), (4, 5)) == 0
    assert versions.read(1, lambda view: view.stamp()) == stamp


def test_a_supervoxel_that_comes_later_finds_its_body(engine: Engine):
    versions = labelmap(engine)
    agglomerated(versions, 1, (7, 900), (8, 900))
    assert versions.read(1, lambda view: len(totals(view))) == 0
    put(versions, 1, np.full(BOX.shape, 7, np.uint64))
    assert versions.read(1, lambda view: np.unique(bodies.of_body(view, 900).supervoxels).tolist()) == [7]
    assert versions.read(1, lambda view: bodies.size(view, 900)) == BOX.volume


def test_supervoxels_that_a_client_put_elsewhere_are_found(engine: Engine):
    """Mapping and index were set apart: 3 is in the index of 4, and mapped to nothing."""
    versions = labelmap(engine)
    put(versions, 1, np.arange(8, dtype=np.uint64).repeat(1024).reshape(BOX.shape))

    def apart(view):
        rows = bodies.index.joined([bodies.of_body(view, 3), bodies.of_body(view, 4)])
        mutate.set_index(view, [(4, rows), (3, bodies.index.NO_COUNTS)])

    versions.write(1, apart)
    agglomerated(versions, 1, (3, 5))
    found = {b: versions.read(1, lambda view, b=b: bodies.members(view, b).supervoxels.tolist()) for b in (3, 4, 5)}
    assert found == {3: [], 4: [4], 5: [3, 5]}
    assert versions.read(1, lambda view: bodies.sizes(view, np.array([3, 4, 5], np.uint64)).tolist()) == [0, 1024, 2048]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([(0, 5)], "supervoxel 0 is background"),
        ([(3, 4), (3, 5)], "supervoxel 3 is put into two bodies, 4 and 5"),
        ([(3, 2**63 + 1)], f"body {2**63 + 1} cannot be: want 1 to {2**63}"),
        ([(2**64 - 1, 5)], f"supervoxel {2**64 - 1} cannot be"),
        ([(3, 0)], "supervoxel 3 has voxels and cannot be put into body 0"),
    ],
)
def test_tables_that_cannot_be_change_nothing(engine: Engine, rows: list[tuple[int, int]], says: str):
    versions = labelmap(engine)
    put(versions, 1, np.arange(8, dtype=np.uint64).repeat(1024).reshape(BOX.shape))
    stamp = versions.read(1, lambda view: view.stamp())
    with pytest.raises(BadRequest, match=says):
        agglomerated(versions, 1, *rows)
    assert versions.read(1, lambda view: view.stamp()) == stamp


def test_long_tables_are_several_mutations_and_no_body_is_in_two():
    rng = np.random.default_rng(1)
    given_ = agglomerate.checked(np.arange(1, 1001, dtype=np.uint64), rng.integers(1, 60, 1000).astype(np.uint64))
    with mock.patch.object(agglomerate, "PART", 100):
        found = list(agglomerate.parts(given_))
    assert len(found) > 3
    assert sum(map(len, found)) == 1000
    assert sum(len(np.unique(part.values)) for part in found) == len(np.unique(given_.values))
    for part in found:
        assert (np.diff(part.keys.astype(np.int64)) > 0).all()


def test_what_is_printed_can_be_put_into_another_store(engine: Engine):
    voxels = np.arange(8, dtype=np.uint64).repeat(1024).reshape(BOX.shape)
    first, second = labelmap(engine), labelmap(engine)
    for versions in (first, second):
        put(versions, next(iter(versions.parents)), voxels)
    (at,), (there,) = first.parents, second.parents
    agglomerated(first, at, (3, 900), (4, 900), (5, 6))
    lines = first.read(at, lambda view: b"".join(files.mappings(view))).decode().splitlines()[1:]
    agglomerated(second, there, *[(int(a), int(b)) for a, b in (line.split(",") for line in lines)])
    every = np.arange(10, dtype=np.uint64)
    assert [
        versions.read(v, lambda view: mapping(view).get(every, every).tolist())
        for versions, v in ((first, at), (second, there))
    ] == [[0, 1, 2, 900, 900, 6, 6, 7, 8, 9]] * 2
