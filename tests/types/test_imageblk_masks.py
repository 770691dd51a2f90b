"""Reading and writing an image volume through a region of interest, against a plain array."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagecase import Case

from dvidfs.engine import ReadView, Store, WriteView, open_engine, repos
from dvidfs.errors import BadRequest, UnknownInstance
from dvidfs.types.formats.rasters import decode_picture
from dvidfs.types.geometry import Box
from dvidfs.types.imageblk import extents, requests, volume
from dvidfs.types.imageblk.kinds import KINDS
from dvidfs.types.roi import store as regions

BLOCK = (4, 3, 5)
"""(x, y, z) of the volume; those of regions are the same, larger, smaller, or do not fit at all."""
SIZES = ((4, 3, 5), (8, 3, 10), (2, 3, 1), (3, 4, 4))
LOW, SIDE = -20, 60


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s"
    Store.create(path)
    with open_engine(path, durability="periodic") as engine:
        yield engine


def text(numbers):
    return "_".join(map(str, numbers))


def noise(shape, seed, kind=KINDS["uint8blk"]):
    return np.random.default_rng(seed).integers(1, 256, (*shape, kind.bytes), np.uint8).view(kind.item)[..., 0]


def make_region(case, spans, size):
    """An instance ``roi`` with these spans (z, y, x0, x1)."""

    def make(txn):
        node = txn.graph.version(case.uuid)
        repos.create_instance(txn, node, "roi", "roi", settings={"BlockSize": list(size)})

    case.engine.write(make)
    rows = np.array(spans, np.int32).reshape(-1, 4)
    with case.engine.read() as txn:
        node = txn.graph.version(case.uuid)
        values = regions.prepared(ReadView(txn, node, txn.graph.instance(node, "roi")), rows)

    def put(txn):
        node = txn.graph.version(case.uuid)
        regions.replace(WriteView(txn, node, txn.graph.instance(node, "roi")), *values)

    case.engine.write(put)


def inside_of(spans, size):
    """Which voxels of the model's space (z, y, x) lie in the region."""
    inside = np.zeros((SIDE,) * 3, bool)
    for z, y, x0, x1 in spans:
        low = [max(a * s - LOW, 0) for a, s in zip((z, y, x0), size[::-1], strict=True)]
        high = [max((a + 1) * s - LOW, 0) for a, s in zip((z, y, x1), size[::-1], strict=True)]
        inside[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return inside


def window(model, box):
    z, y, x = (o - LOW for o in box.origin)
    return model[z : z + box.size[2], y : y + box.size[1], x : x + box.size[0]]


spans = st.lists(st.tuples(*[st.integers(-2, 2)] * 3, st.integers(0, 2)), max_size=5).map(
    lambda found: [(z, y, x, x + n) for z, y, x, n in found]
)
windows = st.builds(Box, st.tuples(*[st.integers(-14, 12)] * 3), st.tuples(*[st.integers(1, 14)] * 3))
block_boxes = st.tuples(st.tuples(*[st.integers(-2, 1)] * 3), st.tuples(*[st.integers(1, 3)] * 3)).map(
    lambda found: Box(*(tuple(a * b for a, b in zip(part, BLOCK, strict=True)) for part in found))
)


def filled(engine, typename="uint8blk", background=0):
    """A volume around the origin that has a value everywhere but in one block, and its model."""
    case, kind = (
        Case.new(engine, typename, BlockSize=text(BLOCK).replace("_", ","), Background=str(background)),
        KINDS[typename],
    )
    model = np.zeros((SIDE,) * 3, kind.item)
    box = Box((-16, -12, -20), (36, 27, 45))
    window(model, box)[...] = noise(box.shape, 5, kind)
    case.post_raw(np.ascontiguousarray(window(model, box)), box.offset)
    return case, model


@settings(deadline=None, max_examples=40)
@given(
    spans=spans, size=st.sampled_from(SIZES), box=windows, typename=st.sampled_from(list(KINDS)), is_cut=st.booleans()
)
def test_what_lies_outside_reads_as_background(engine, spans, size, box, typename, is_cut):
    case, model = filled(engine, typename, 7)
    make_region(case, spans, size)
    item = KINDS[typename].item
    want = np.where(inside_of(spans, size), model, np.frombuffer(b"\7" * item.itemsize, item)[0])
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((volume, "PIECE_BYTES"), (volume, "LIGHT_BYTES"), (requests, "PIECE_BYTES")):
            patch.setattr(module, name, 300 if is_cut else 1 << 20)
        found = case.raw(text(box.size), text(box.offset), roi="roi")
    assert found == window(want, box).tobytes()


@pytest.mark.parametrize("plane", ["xy", "xz", "yz"])
def test_slices_are_masked(engine, plane):
    case, model = filled(engine, background=9)
    make_region(case, [(0, 0, -1, 0), (1, 1, 0, 0)], BLOCK)
    axes = ["xyz".index(c) for c in plane]
    size = [1, 1, 1]
    size[axes[0]], size[axes[1]] = 20, 15
    box = Box((-3, -2, 1), tuple(size))
    want = window(np.where(inside_of([(0, 0, -1, 0), (1, 1, 0, 0)], BLOCK), model, 9), box).reshape(15, 20)
    for operation in (requests.get_raw, requests.get_isotropic):
        picture = case.read(operation, plane, "20_15", text(box.offset), None, "roi", "")
        assert np.array_equal(decode_picture(picture), want)


@settings(deadline=None, max_examples=40)
@given(spans=spans, size=st.sampled_from(SIZES), box=block_boxes, typename=st.sampled_from(["uint8blk", "uint64blk"]))
def test_only_what_lies_inside_is_written(engine, spans, size, box, typename):
    case, model = filled(engine, typename)
    make_region(case, spans, size)
    case.commit()
    child, kind = case.child(), KINDS[typename]
    voxels = noise(box.shape, 8, kind)
    child.post_raw(voxels, box.offset, roi="roi")
    want = model.copy()
    target = window(want, box)
    target[...] = np.where(window(inside_of(spans, size), box), voxels, target)
    everything = Box((LOW,) * 3, (SIDE,) * 3)
    assert child.raw(text(everything.size), text(everything.offset)) == want.tobytes()
    assert case.raw(text(everything.size), text(everything.offset)) == model.tobytes()


def test_blocks_outside_are_not_stored_at_all(engine):
    case = Case.new(engine, BlockSize="4,3,5")
    make_region(case, [(0, 0, 1, 1)], BLOCK)
    case.post_raw(noise((5, 3, 12), 1), (0, 0, 0), roi="roi")
    stored = case.read(requests.get_subvolblocks, "12_3_5", "0_0_0", "uncompressed")
    assert len(stored) == 16 + 60
    assert case.read(extents.covered) == Box((0, 0, 0), (12, 3, 5))


def test_an_empty_region_hides_everything_and_lets_nothing_in(engine):
    case, _ = filled(engine)
    make_region(case, [], BLOCK)
    assert case.raw("8_8_8", "0_0_0", roi="roi") == bytes(512)
    before = case.raw("12_3_5", "0_0_0")
    case.post_raw(noise((5, 3, 12), 3), (0, 0, 0), roi="roi")
    assert case.raw("12_3_5", "0_0_0") == before


def test_a_region_is_seen_at_the_version_of_the_request(engine):
    case, model = filled(engine)
    make_region(case, [(0, 0, 0, 0)], BLOCK)
    case.commit()
    child = case.child()

    def grow(txn):
        node = txn.graph.version(child.uuid)
        view = WriteView(txn, node, txn.graph.instance(node, "roi"))
        regions.replace(view, *regions.prepared(view, np.array([(0, 0, 0, 1)], np.int32)))

    engine.write(grow)
    box = Box((0, 0, 0), (8, 3, 5))
    for at, span in ((case, (0, 0, 0, 0)), (child, (0, 0, 0, 1))):
        want = np.where(inside_of([span], BLOCK), model, 0)
        assert at.raw("8_3_5", "0_0_0", roi="roi") == window(want, box).astype(np.uint8).tobytes()


@pytest.mark.parametrize(("roi", "attenuation", "error"), [
    ("none", "", UnknownInstance), ("self", "", BadRequest), ("roi", "0", BadRequest), ("roi", "8", BadRequest), ("roi", "x", BadRequest),
])  # fmt: skip
def test_masks_that_make_no_sense_are_refused_and_nothing_is_written(engine, roi, attenuation, error):
    case, _ = filled(engine)
    make_region(case, [(0, 0, 0, 0)], BLOCK)
    roi = case.name if roi == "self" else roi
    for ask in (
        lambda: case.read(requests.get_raw, "0_1_2", "4_3_5", "0_0_0", None, roi, attenuation),
        lambda: case.read(requests.prepare_raw, "0_1_2", "4_3_5", "0_0_0", bytes(60), roi, attenuation, False),
    ):
        with pytest.raises(error) as found:
            ask()
        assert "\n" not in str(found.value)


def test_attenuation_changes_nothing(engine):
    case, _ = filled(engine)
    make_region(case, [(0, 0, 0, 0)], BLOCK)
    plain, dimmed = (case.read(requests.get_raw, "0_1_2", "8_3_5", "0_0_0", None, "roi", word) for word in ("", "3"))
    assert plain == dimmed
    assert set(itertools.chain(plain)) != {0}
