"""The foreground of a volume: the region of the blocks that hold more than background."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagecase import Case

from dvidfs.engine import ReadView, Store, open_engine
from dvidfs.errors import BadRequest, Conflict, Locked
from dvidfs.types.imageblk import foreground
from dvidfs.types.roi import store as regions

BLOCK = (4, 3, 5)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s"
    Store.create(path)
    with open_engine(path, durability="periodic") as engine:
        yield engine


def region(case, name="tissue"):
    with case.engine.read() as txn:
        node = txn.graph.version(case.uuid)
        view = ReadView(txn, node, txn.graph.instance(node, name))
        return regions.region(view).runs.tolist(), regions.block_size(view.instance)


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(st.tuples(*[st.integers(-2, 2)] * 3), st.integers(0, 3), min_size=1, max_size=20),
    st.sampled_from([(0,), (0, 255), (255,)]),
    st.integers(1, 5),
)
def test_a_block_counts_when_any_voxel_is_none_of_the_background(engine, blocks, background, portion):
    case = Case.new(engine, BlockSize="4,3,5")
    shown = set()
    for at, content in blocks.items():  # all 0, all 255, one other voxel, both backgrounds
        voxels = np.full(BLOCK[::-1], 255 if content == 1 else 0, np.uint8)
        voxels[-1, -1, -1] = {2: 7, 3: 255}.get(content, voxels[0, 0, 0])
        case.post_raw(voxels, tuple(a * b for a, b in zip(at, BLOCK, strict=True)))
        if not set(voxels.ravel().tolist()) <= set(background):
            shown.add(at)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreground, "PORTION", portion)
        spans = foreground.make(engine, case.uuid, case.name, "tissue", background)
    found, size = region(case)
    assert size == BLOCK
    assert found == spans.tolist()
    assert {(x, y, z) for z, y, x0, x1 in found for x in range(x0, x1 + 1)} == shown
    assert found == sorted(found)
    for (z, y, _, x1), (v, u, x0, _) in itertools.pairwise(found):
        assert (z, y) != (v, u) or x0 > x1 + 1  # spans that touch are one


def test_a_region_that_is_there_is_replaced_at_this_version_only(engine):
    case = Case.new(engine, BlockSize="4,3,5")
    case.post_raw(np.ones((5, 3, 8), np.uint8), (0, 0, 0))
    foreground.make(engine, case.uuid, case.name, "tissue")
    case.commit()
    child = case.child()
    child.post_raw(np.zeros((5, 3, 4), np.uint8), (0, 0, 0))
    foreground.make(engine, child.uuid, child.name, "tissue")
    assert region(child)[0] == [[0, 0, 1, 1]]
    assert region(case)[0] == [[0, 0, 0, 1]]


def test_a_volume_without_blocks_has_an_empty_foreground(engine):
    case = Case.new(engine)
    assert foreground.make(engine, case.uuid, case.name, "tissue").tolist() == []
    assert region(case) == ([], (32, 32, 32))


def test_what_has_no_foreground_is_refused_and_no_region_is_made(engine):
    wide = Case.new(engine, "uint16blk")
    case = Case.new(engine, BlockSize="4,3,5")
    for ask in (
        lambda: foreground.make(engine, wide.uuid, wide.name, "tissue"),
        lambda: foreground.make(engine, case.uuid, case.name, "tissue", (256,)),
        lambda: foreground.make(engine, case.uuid, case.name, case.name),
    ):
        with pytest.raises(BadRequest) as error:
            ask()
        assert "\n" not in str(error.value)
    case.commit()
    with pytest.raises(Locked):
        foreground.make(engine, case.uuid, case.name, "tissue")
    for made in (wide, case):
        with engine.read() as txn:
            repo = txn.graph.repo_of(txn.graph.version(made.uuid))
            assert "tissue" not in repo.instances


def test_a_region_of_other_blocks_is_refused(engine):
    coarse = Case.new(engine, BlockSize="8,8,8")
    foreground.make(engine, coarse.uuid, coarse.name, "tissue")

    def add(txn):
        from dvidfs.engine import repos

        node = txn.graph.version(coarse.uuid)
        there = txn.graph.instance(node, coarse.name)
        repos.create_instance(txn, node, "uint8blk", "fine", settings={**there.settings, "BlockSize": [4, 4, 4]})

    engine.write(add)
    with pytest.raises(BadRequest, match="blocks of"):
        foreground.make(engine, coarse.uuid, "fine", "tissue")


def test_a_conflict_is_told(engine):
    root = Case.new(engine, BlockSize="2,2,2")
    root.commit()
    sides = [root.child(), root.child("side")]
    for value, side in enumerate(sides):
        side.post_raw(np.full((2, 2, 2), value, np.uint8), (0, 0, 0))
        side.commit()
    merged = sides[0].merge(sides[1])
    with pytest.raises(Conflict):
        foreground.make(engine, merged.uuid, merged.name, "tissue")
