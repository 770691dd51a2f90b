"""Asks a server about one version in every way there is, and compares with the model.

Decides what is asked: all that is cheap each time, and of what there is much (bodies, formats, boxes) what ``chance``
picks. Invariant: nothing is asked that changes anything.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import numpy as np
from client import Labels, Refused
from model import State, among
from wire import LabelIndex, Points

SCALES = (1, 2)
"""Those above the voxels as they were written."""
AXES = "xyz"


def agree(labels: Labels, state: State, chance: random.Random, *, bodies: int = 2) -> None:
    """``bodies``: how many of them are looked at closely."""
    voxels_agree(labels, state, chance)
    mapping_agrees(labels, state)
    indices_agree(labels, state)
    points_agree(labels, state, chance)
    known = state.bodies()
    for body in chance.sample(known, min(bodies, len(known))):
        body_agrees(labels, state, body, chance)
    nothing_there(labels, max(state.labels_in_use(), default=0) + 1000)


def refused(ask: object, *arguments: object, status: int | None = None, **query: object) -> None:
    """The request is answered with a 4xx (or just ``status``) and one line that says why."""
    try:
        found = ask(*arguments, **query)  # type: ignore[operator]
    except Refused as e:
        assert 400 <= e.status < 500 if status is None else e.status == status, e
        return
    raise AssertionError(f"{ask} {arguments} was answered: {found}")


def voxels_agree(labels: Labels, state: State, chance: random.Random) -> None:
    for scale in (0, chance.choice(SCALES)):
        start, shape = state.frame.scaled(scale)
        wanted = state.scale(scale)
        form = chance.choice([None, "lz4", "gzip"])
        query = {"scale": scale} if scale else {}
        same(labels.raw(start, shape, form, supervoxels=True, **query), wanted)
        same(labels.raw(start, shape, form, **query), state.mapped(wanted))
    block, places = state.frame.block_shape, state.frame.places()
    form, which = chance.choice(["lz4", "gzip", "blocks", "uncompressed"]), chance.random() < 0.5
    found = labels.blocks(state.frame.start, state.frame.shape, block, form, supervoxels=which)
    found.update(labels.specific_blocks(chance.sample(places, 2), block, form, supervoxels=which))
    for place in places:
        wanted = state.voxels[state.frame.window(place)]
        same(found.get(place, np.zeros_like(wanted)), wanted if which else state.mapped(wanted))


def same(found: np.ndarray, wanted: np.ndarray) -> None:
    if not np.array_equal(found, wanted):
        assert found.shape == wanted.shape
        first = tuple(np.argwhere(found != wanted)[0].tolist())
        raise AssertionError(
            f"{(found != wanted).sum()} differ, the first at {first}: {found[first]}, not {wanted[first]}"
        )


def mapping_agrees(labels: Labels, state: State) -> None:
    said = {s: body for s, body in state.mapping.items() if s != body}
    assert labels.mappings() == said
    asked = sorted(state.labels_in_use())
    assert labels.mapping(asked) == [state.looked_up(s) for s in asked]
    assert labels.mapping(asked, nolookup=True) == [state.body_of(s) for s in asked]


def indices_agree(labels: Labels, state: State) -> None:
    bodies, asked = state.bodies(), sorted(state.labels_in_use())
    sizes = {body: state.size(body) for body in bodies}
    assert labels.listlabels_sizes() == sizes
    assert labels.existing_labels() == bodies
    assert labels.sizes(asked) == [sizes.get(label, 0) for label in asked]
    if state.in_step():
        counted = state.sizes()
        assert labels.sizes(asked, supervoxels=True) == [counted.get(s, 0) for s in asked]
    wanted = {label: state.index(label) for label in asked}
    for found in labels.indices(asked):
        assert found.blocks == wanted[found.label].blocks, found.label
    packed = labels.indices_compressed(asked)
    assert {label for label, index in packed.items() if index} == set(bodies)
    assert all(index.blocks == wanted[label].blocks for label, index in packed.items() if index)
    if bodies:
        assert labels.max_label() >= max(bodies)
    assert labels.next_label() > max(asked, default=0)


def points_agree(labels: Labels, state: State, chance: random.Random) -> None:
    for scale in (0, chance.choice(SCALES)):
        start, shape = state.frame.scaled(scale)
        points = [
            [first + chance.randrange(n) for first, n in zip(start, reversed(shape), strict=True)] for _ in range(8)
        ]
        here = tuple(np.array(points)[:, axis] - start[axis] for axis in (2, 1, 0))
        wanted = state.scale(scale)[here]
        query = {"scale": scale} if scale else {}
        assert labels.labels(points, supervoxels=True, **query) == wanted.tolist()
        assert labels.labels(points, **query) == state.mapped(wanted).tolist()
    assert labels.label(points[0], **query) == state.body_of(int(wanted[0]))
    assert labels.label(points[0], supervoxels=True, **query) == wanted[0]


def nothing_there(labels: Labels, label: int) -> None:
    for ask in (labels.index, labels.sparsevol, labels.coarse, labels.size, labels.supervoxels, labels.sparsevol_size):
        refused(ask, label, status=404)
    assert not labels.has_sparsevol(label)
    assert labels.indices([label]) == [LabelIndex(label)]


def body_agrees(labels: Labels, state: State, body: int, chance: random.Random) -> None:
    """One body by every endpoint, and its voxels in every form, whole and in a box."""
    supervoxels, index = state.supervoxels(body), state.index(body)
    found = labels.index(body)
    assert (found.label, found.blocks) == (body, index.blocks)
    assert labels.index_metadata(body)["num_voxels"] == labels.size(body) == index.voxels
    assert labels.index_metadata(body)["last_mutid"] == labels.lastmod(body)["mutation id"] == found.last_mutid
    assert labels.supervoxels(body) == supervoxels
    assert labels.supervoxel_sizes(body) == {s: state.sizes()[s] for s in supervoxels}
    assert labels.index_version(body)
    coarse_agrees(labels, state, body)
    whole = state.points(supervoxels)
    for form in ("rles", "srles", "blocks"):
        same(labels.sparsevol(body, form), whole)
    same(labels.sparsevol(body, compression=chance.choice(["lz4", "gzip"])), whole)
    for scale in SCALES:
        same(
            labels.sparsevol(body, chance.choice(["rles", "srles", "blocks"]), scale=scale),
            state.points(supervoxels, scale),
        )
    for scale in (0, *SCALES):
        box_agrees(labels, state, body, scale, chance)
    if state.in_step():
        same(labels.sparsevol_by_point(chance.choice(whole.tolist()), body, chance.choice(["rles", "srles"])), whole)
        supervoxel = chance.choice(sorted(supervoxels))
        same(labels.sparsevol(supervoxel, supervoxels=True), state.points([supervoxel]))
        assert labels.size(supervoxel, supervoxels=True) == state.sizes()[supervoxel]
        same(labels.coarse(supervoxel, supervoxels=True), state.coarse([supervoxel]))


def coarse_agrees(labels: Labels, state: State, body: int) -> None:
    coarse = state.coarse(state.supervoxels(body))
    same(labels.coarse(body), coarse)
    many = labels.coarse_many(body, body + 1)
    assert set(many) == {body, body + 1} & set(state.bodies())
    same(many[body], coarse)
    side = np.array(state.frame.block)
    assert labels.sparsevol_size(body) == {
        "voxels": state.size(body),
        "numblocks": len(coarse),
        "minvoxel": (coarse.min(axis=0) * side).tolist(),
        "maxvoxel": ((coarse.max(axis=0) + 1) * side - 1).tolist(),
    }


def box_agrees(labels: Labels, state: State, body: int, scale: int, chance: random.Random) -> None:
    """A random box: exact, by whole blocks, and by HEAD."""
    start, shape = state.frame.scaled(scale)
    query: dict[str, int] = {"scale": scale} if scale else {}
    low, high = np.array(start) - 100, np.array(start) + 1000
    for axis in chance.sample(range(3), chance.randint(1, 3)):
        ends = sorted(start[axis] + chance.randint(-3, shape[2 - axis] + 3) for _ in range(2))
        low[axis], high[axis] = ends
        query |= {f"min{AXES[axis]}": ends[0], f"max{AXES[axis]}": ends[1]}
    supervoxels, side = state.supervoxels(body), np.array(state.frame.block)
    coarse = state.coarse(supervoxels, scale)
    touched = coarse[within(coarse, low // side, high // side)]
    if not scale:
        assert labels.has_sparsevol(body, **query) == (len(touched) > 0)
    if not len(touched):
        refused(labels.sparsevol, body, status=404, **query)
        return
    whole = state.points(supervoxels, scale)
    same(labels.sparsevol(body, chance.choice(["rles", "srles"]), **query), whole[within(whole, low, high)])
    rough = whole[among(state.frame.places_of(whole), touched)]
    same(labels.sparsevol(body, "blocks", **query), rough)
    same(labels.sparsevol(body, exact=False, **query), rough)


def within(points: Points, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return ((points >= low) & (points <= high)).all(axis=1)


def splits_agree(labels: Labels, expected: Iterable[tuple[str, list[tuple[int, int, int]]]]) -> None:
    """`supervoxel-splits` of versions, the nearest first: (old, remain, split) each."""
    found = [(uuid, [tuple(split[1:]) for split in splits]) for uuid, splits in labels.supervoxel_splits()]
    assert found == [(uuid, splits) for uuid, splits in expected if splits]
