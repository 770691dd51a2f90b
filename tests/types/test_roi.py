"""roi over a bare store: what is posted is answered, at every version and below merges; masks, points and partitions
agree with sets of blocks counted one by one; bad requests write nothing."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from roicase import SPANS, RoiCase, blocks_of, regions

from dvidfs import kernels
from dvidfs.engine import Store, open_engine, repos
from dvidfs.engine.keys import Family
from dvidfs.engine.values import Prepared
from dvidfs.errors import BadRequest, Locked, UnknownInstance
from dvidfs.kernels import rows
from dvidfs.types.geometry import COORD_MAX, COORD_MIN, Box
from dvidfs.types.roi import ROI, region, requests, store, text
from dvidfs.types.roi import partition as partitions
from dvidfs.types.roi.mask import Mask
from dvidfs.types.roi.region import Region, ordered

EMPTY_INFO = {"BlockSize": [32, 32, 32], "MinZ": COORD_MAX, "MaxZ": COORD_MIN}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s"
    Store.create(path)
    with open_engine(path, durability="periodic") as engine:
        yield engine


@pytest.fixture
def case(engine):
    return RoiCase.new(engine)


def region_of(spans) -> Region:
    return Region(ordered(np.array(spans, np.int32).reshape(-1, 4)))


def boxes(reach=8, side=8):
    return st.builds(
        Box, st.tuples(*[st.integers(-reach, reach)] * 3), st.tuples(*[st.integers(1, side)] * 3)
    )  # (x, y, z)


def inside(spans, box, block=(1, 1, 1)) -> np.ndarray:
    """Which voxels of a box lie inside, one by one: (z, y, x)."""
    blocks = blocks_of(spans)
    (x0, y0, z0), (x1, y1, z1) = box.offset, box.stop
    flags = [
        (x // block[0], y // block[1], z // block[2]) in blocks
        for z, y, x in itertools.product(range(z0, z1), range(y0, y1), range(x0, x1))
    ]
    return np.array(flags).reshape(box.shape)


# ---------------------------------------------------------------- regions


@settings(deadline=None)
@given(regions())
def test_a_region_keeps_its_spans_in_order_each_once(spans):
    found = region_of(spans)
    assert found.spans.tolist() == sorted(map(list, set(map(tuple, spans))))
    assert found.count == len(blocks_of(spans))
    assert blocks_of(found.runs.tolist()) == blocks_of(spans)
    runs = found.runs.tolist()
    assert all(a[:2] < b[:2] or (a[:2] == b[:2] and a[3] + 1 < b[2]) for a, b in itertools.pairwise(runs))


@settings(deadline=None)
@given(regions(), boxes())
def test_a_grid_is_the_blocks_of_a_box(spans, box):
    assert (region_of(spans).grid(box) == inside(spans, box)).all()


@settings(deadline=None)
@given(regions(), st.data())
def test_a_window_is_a_part_of_the_grid_of_the_box(spans, data):
    found = region_of(spans)
    if found.box is None:
        assert spans == []
        return
    assert {p for p in blocks_of(spans) if Box(p, (1, 1, 1)).intersect(found.box) is None} == set()
    flat = inside(spans, found.box).ravel()
    start = data.draw(st.integers(0, len(flat)))
    stop = data.draw(st.integers(start, len(flat)))
    assert (found.window(start, stop) == flat[start:stop]).all()


@settings(deadline=None)
@given(regions(), st.lists(st.tuples(*[st.integers(-9, 12)] * 3), max_size=40), st.booleans())
def test_points_are_found_by_grid_and_by_search(spans, points, dense):
    found = region_of(spans)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(region, "DENSE", region.DENSE if dense else 0)
        told = found.has(np.array(points, np.int64).reshape(-1, 3))
    assert told.tolist() == [p in blocks_of(spans) for p in points]


def test_regions_as_wide_as_coordinates_go():
    found = region_of([[COORD_MAX, COORD_MIN, COORD_MIN, COORD_MAX], [COORD_MIN, 0, 5, 6], [0, 0, 0, 0]])
    assert found.count == 2**32 + 3
    assert found.box is not None
    assert (found.box.offset, found.box.last) == ((COORD_MIN,) * 3, (COORD_MAX, 0, COORD_MAX))
    points = [(7, COORD_MIN, COORD_MAX), (7, COORD_MIN, COORD_MAX - 1), (6, 0, COORD_MIN), (7, 0, COORD_MIN), (0, 0, 0)]
    assert found.has(np.array(points)).tolist() == [True, False, True, False, True]
    corner = Box((COORD_MAX - 1, COORD_MIN, COORD_MAX), (2, 2, 1))
    assert found.grid(corner).tolist() == [[[True, True], [False, False]]]


# ---------------------------------------------------------------- masks


@settings(deadline=None)
@given(regions(3), boxes(20, 12), st.tuples(*[st.integers(1, 5)] * 3), st.integers(0, 255))
def test_voxels_are_inside_where_their_block_is(spans, box, block, value):
    mask, wanted = Mask(block, region_of(spans)), inside(spans, box, block)
    assert (mask.voxels(box) == wanted).all()
    voxels = np.random.default_rng(1).integers(0, 2**32, box.shape, np.uint32)
    kept = voxels.copy()
    mask.erase(voxels, box, value)
    assert (voxels[wanted] == kept[wanted]).all()
    assert (voxels[~wanted].view(np.uint8) == value).all()


@settings(deadline=None)
@given(regions(3), boxes(10, 6), st.tuples(*[st.integers(1, 3)] * 3), st.tuples(*[st.integers(1, 3)] * 3))
def test_whole_blocks_are_told_where_none_is_cut(spans, grid, block, factor):
    own = tuple(b * f for b, f in zip(block, factor, strict=True))
    found = Mask(own, region_of(spans)).blocks(grid, block)
    assert found is not None
    assert (found == inside(spans, grid, factor)).all()
    larger = tuple(2 * b for b in own)
    assert Mask(own, region_of(spans)).blocks(grid, larger) is None


@settings(max_examples=25, deadline=None)
@given(
    spans=regions(3),
    box=boxes(30, 20),
    block=st.tuples(*[st.integers(1, 9)] * 3),
    piece=st.sampled_from([1, 7, 64, 10**6]),
    plane=st.sampled_from([0, 10**6]),
)
def test_masks_are_cut_in_pieces_that_fit_together(engine, spans, box, block, piece, plane):
    case = RoiCase.new(engine, BlockSize=",".join(map(str, block)))
    case.post(spans)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "PIECE_BYTES", piece)
        patch.setattr(requests, "_PLANE", plane)
        found = case.mask("_".join(map(str, box.size)), "_".join(map(str, box.offset)))
    assert (found == inside(spans, box, block)).all()


def test_masks_below_zero_and_across_it(case):
    """Where the original divides toward zero, and so answers voxels of the wrong block."""
    case.post([[0, 0, 0, 0]])
    assert case.mask("64_1_1", "-32_0_0").ravel().tolist() == [0] * 32 + [1] * 32
    case.post([[-1, -1, -1, -1]])
    assert case.mask("3_3_3", "-1_-1_-1").ravel().tolist() == [1] + [0] * 26
    assert case.mask("40_1_1", "-40_-1_-32").sum() == 32


@pytest.mark.parametrize(
    ("dims", "size", "offset", "says"),
    [
        ("xy", "32_32", "0_0_0", "3d masks"),
        ("0_1_2", "0_1_1", "0_0_0", "positive"),
        ("0_1_2", "-3_1_1", "0_0_0", "positive"),
        ("0_1_2", "2147483648_1_1", "0_0_0", "out of range"),
        ("0_1_2", "4096_4096_4096", "0_0_0", "exceeds"),
        ("0_1_2", "2_2_2", "2147483647_0_0", "beyond"),
        ("0_1_2", "3_3", "0_0_0", "3d point"),
        ("0_1_2", "a_b_c", "0_0_0", "whole number"),
        ("0_1_2_3", "3_3_3", "0_0_0", "shape"),
    ],
)
def test_masks_that_cannot_be(case, dims, size, offset, says):
    with pytest.raises(BadRequest, match=says):
        case.read(requests.get_mask, dims, size, offset)


def test_a_mask_is_named_by_its_instance(case):
    case.post([[0, 0, 0, 0]])
    assert case.read(lambda view: Mask.named(view, case.name)).block == (32, 32, 32)
    with pytest.raises(UnknownInstance):
        case.read(lambda view: Mask.named(view, "none"))
    case.write(lambda view: repos.create_instance(view.txn, view.node, "keyvalue", "kv"))
    with pytest.raises(BadRequest, match="type keyvalue"):
        case.read(lambda view: Mask.named(view, "kv"))


# ---------------------------------------------------------------- the text

NUMBER = st.one_of(st.integers(-9, 9), st.sampled_from([COORD_MIN, COORD_MAX, COORD_MIN - 1, COORD_MAX + 1, 10**30]))
ODD = st.one_of(NUMBER, st.sampled_from([None, 1.5, "1", True, [], {}, 0.0]))


@settings(deadline=None)
@given(st.one_of(st.none(), st.integers(), st.lists(st.one_of(st.none(), st.lists(ODD, max_size=6), ODD), max_size=5)))
def test_rows_are_completed_and_cut_and_else_refused(given_):
    data = json.dumps(given_).encode()
    good = given_ is None or isinstance(given_, list)
    for row in given_ if isinstance(given_, list) else ():
        cut = row[:3] if isinstance(row, list) else [None] if row is None else ["bad"]
        good &= all(n is None or (type(n) is int and COORD_MIN <= n <= COORD_MAX) for n in cut)
    if not good:
        with pytest.raises(BadRequest) as refused:
            text.parse_points(data)
        assert "\n" not in str(refused.value)
        return
    wanted = [([n or 0 for n in (row or [])] + [0, 0, 0])[:3] for row in given_ or []]
    assert text.parse_points(data).tolist() == wanted


BLANK = st.sampled_from(["", " ", "\n", "\t \r"])


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(COORD_MIN, COORD_MAX), min_size=3, max_size=3), max_size=60), st.data())
def test_both_kernels_read_the_same(rows_, data):
    blanks = itertools.cycle(data.draw(st.lists(BLANK, min_size=1, max_size=5)))
    written = "".join(
        c if c in "-0123456789" else next(blanks) + c + next(blanks) for c in json.dumps(rows_, separators=(",", ":"))
    )
    compiled = kernels.load("rows_numba")
    assert compiled is not None
    damaged = data.draw(st.integers(0, len(written)))
    for body in (written.encode(), (written[:damaged] + written[damaged + 1 :]).encode()):
        plain = rows.parse_plain(body, 3)
        out = np.empty((body.count(b"["), 3), np.int32)
        count = compiled.parse(np.frombuffer(body, np.uint8), out)
        assert (count < 0) == (plain is None), body
        assert plain is None or out[:count].tolist() == plain.tolist()
    assert rows.parse_plain(written.encode(), 3) is not None


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"{}", b"5", b"[1,2,3,4]", b"[[0.5,0,0,1]]", b'[["0",0,0,1]]', b"[[0,0,0,2147483648]]", b"[[0,0,0,9]] x",
     b"[[0,0,5,1]]", b"[[0,0,1,1],[0,0,5,1],[0,0,7,8]]", b"[[0,0,0,-1]]", b"\xff"],
)  # fmt: skip
def test_bad_spans_write_nothing(case, body):
    case.post(SPANS)
    before = case.read(lambda view: view.stamp())
    with pytest.raises(BadRequest) as refused:
        case.post(body)
    assert "\n" not in str(refused.value)
    assert case.spans() == SPANS
    assert case.read(lambda view: view.stamp()) == before


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"null", []),
        (b"[[0,0,0]]", [[0, 0, 0, 0]]),
        (b"[[1]]", [[1, 0, 0, 0]]),
        (b"[[]]", [[0, 0, 0, 0]]),
        (b"[[0,0,0,1,2]]", [[0, 0, 0, 1]]),
        (b"[[null,0,0,1]]", [[0, 0, 0, 1]]),
        (b"[[1,0,0,0],[0,0,5,9],[0,0,3,7],[0,0,3,7]]", [[0, 0, 3, 7], [0, 0, 5, 9], [1, 0, 0, 0]]),
    ],
)
def test_spans_that_the_original_takes(case, body, wanted):
    case.post(body)
    assert case.spans() == wanted
    assert case.check() == []


# ---------------------------------------------------------------- versions


def test_each_version_has_its_region(case):
    case.post(SPANS)
    assert case.info() == {"BlockSize": [32, 32, 32], "MinZ": -1, "MaxZ": 3}
    case.commit()
    with pytest.raises(Locked):
        case.post([])
    child = case.child()
    assert child.spans() == SPANS
    child.post([[7, 7, 7, 7]])
    assert (case.spans(), child.spans()) == (SPANS, [[7, 7, 7, 7]])
    child.delete()
    assert (case.spans(), child.spans()) == (SPANS, [])
    assert (case.info()["MinZ"], child.info()) == (-1, EMPTY_INFO)
    assert not any(child.points([[0, 0, 0]]))
    assert case.check() == child.check() == []


def test_answers_follow_each_change(case):
    """Regions are kept in memory: never longer than they are right."""
    for at in range(4):
        case.post([[0, 0, at, at]])
        assert case.points([[32 * x, 0, 0] for x in range(4)]) == [x == at for x in range(4)]
        assert case.file_bytes("roi.json") == f"[[0,0,{at},{at}]]".encode()


def test_an_unversioned_region_is_one(engine):
    case = RoiCase.new(engine, versioned=False)
    case.post(SPANS)
    case.commit()
    case.post([[0, 0, 0, 1]])
    child = case.child()
    assert child.spans() == [[0, 0, 0, 1]]
    child.delete()
    assert case.spans() == child.spans() == []


def test_below_a_merge_both_sides_count(case):
    case.post([[0, 0, 0, 3], [1, 0, 0, 3], [2, 0, 0, 3]])
    case.commit()
    left, right, idle = case.child(), case.child("side"), case.child("idle")
    left.post([[0, 0, 0, 3], [5, 5, 5, 5]])
    right.post([[0, 0, 0, 3], [1, 0, 0, 3], [6, 6, 6, 6]])
    for side in (left, right, idle):
        side.commit()
    merged = left.merge(right)
    assert merged.spans() == [[0, 0, 0, 3], [1, 0, 0, 3], [5, 5, 5, 5], [6, 6, 6, 6]]
    assert (merged.info()["MinZ"], merged.info()["MaxZ"]) == (0, 6)
    assert merged.points([[0, 0, 0], [0, 0, 64], [160, 160, 160]]) == [True, False, True]
    assert merged.file_bytes("roi.json") == b"[[0,0,0,3],[1,0,0,3],[5,5,5,5],[6,6,6,6]]"
    assert merged.check() == []
    assert left.merge(idle).spans() == left.spans()
    merged.post(SPANS)
    assert merged.spans() == SPANS
    merged.delete()
    assert merged.spans() == []


def test_a_side_that_emptied_the_region_gives_nothing(case):
    case.post(SPANS)
    case.commit()
    left, right = case.child(), case.child("side")
    left.delete()
    right.post([[1, 1, 1, 1]])
    for side in (left, right):
        side.commit()
    assert left.merge(right).spans() == [[1, 1, 1, 1]]


@settings(max_examples=20, deadline=None)
@given(sides=st.lists(st.one_of(st.none(), regions()), min_size=2, max_size=3), first=regions())
def test_merges_are_unions_of_what_sides_set(engine, sides, first):
    """The oracle keeps a tombstone or value for each span, as the original does."""
    case = RoiCase.new(engine)
    case.post(first)
    case.commit()
    children = [case.child(f"b{i}") for i in range(len(sides))]
    for child, spans in zip(children, sides, strict=True):
        if spans is not None:
            child.post(spans)
        child.commit()
    merged = children[0]
    for child in children[1:]:
        merged = merged.merge(child)
        merged.commit()
    told = [s for s in sides if s is not None]
    wanted = {tuple(s) for spans in told for s in spans} if told else {tuple(s) for s in first}
    assert merged.spans() == [list(s) for s in sorted(wanted)]


def test_a_long_region_lies_in_pieces(case):
    spans = [[z, y, 2 * x, 2 * x] for z in range(10) for y in range(100) for x in range(100)]
    case.post(spans)
    entry = case.read(lambda view: store.entries(view)[0])
    assert entry.size > 1 << 20
    assert case.spans() == spans
    data = json.dumps(spans, separators=(",", ":")).encode()
    assert case.file_bytes("roi.json") == data
    assert case.file_bytes("roi.json", 1_000_000, 200_000) == data[1_000_000:1_200_000]
    assert case.check() == []


def test_regions_in_memory_are_bounded(engine, monkeypatch):
    monkeypatch.setattr(store, "KEPT_BYTES", 5000)
    cases = [RoiCase.new(engine) for _ in range(6)]
    for n, case in enumerate(cases):
        case.post([[z, n, 0, 0] for z in range(50)])
    for n, case in enumerate(cases * 2):
        assert case.points([[0, 32 * (n % 6), 0], [0, -32, 0]]) == [True, False]
    assert sum(case.read(store.known) for case in cases) < 6


def test_damage_is_found(case):
    case.post(SPANS)

    def put(view, key, value):
        view.put(Family.UNITED, key, Prepared(value, len(value)))

    case.write(put, store.SPANS, b"[[1,0,0,0],[0,0,0,0]]")
    assert any("order" in line for line in case.check())
    assert any("lie in" in line for line in case.check())
    case.write(put, store.SPANS, b"[[1,0")
    assert len(case.check()) == 1
    case.post(SPANS)
    case.write(put, store.BOX, b"[1")
    assert len(case.check()) == 1


# ---------------------------------------------------------------- settings


def test_block_sizes(engine):
    assert ROI.configure({"blocksize": "8,16,32"}) == {"BlockSize": [8, 16, 32]}
    for text_ in ("64", "32,32", "a,b,c", "2147483648,1,1", ""):
        with pytest.raises(BadRequest):
            ROI.configure({"blocksize": text_})
    odd = RoiCase.new(engine, BlockSize="-32,32,32")
    odd.post(SPANS)
    assert odd.spans() == SPANS
    assert odd.listed() == ["roi.json"]
    for ask in (lambda: odd.points([[0, 0, 0]]), lambda: odd.mask("1_1_1", "0_0_0"), lambda: odd.partition(8)):
        with pytest.raises(BadRequest, match="-32_32_32"):
            ask()


# ---------------------------------------------------------------- partitions


@settings(max_examples=60, deadline=None)
@given(regions(), st.integers(1, 9), st.booleans())
def test_partitions_count_every_block_once(spans, batch, optimized):
    found = partitions.partition(region_of(spans), batch, optimized=optimized)
    blocks = blocks_of(spans)
    assert sum(part.active for part in found.parts) == found.active == len(blocks)
    assert sum(part.total for part in found.parts) <= found.total
    for part in found.parts:
        if part.merged:
            continue
        box = Box(part.first, tuple(b - a + 1 for a, b in zip(part.first, part.last, strict=True)))
        assert part.total == box.volume
        assert part.active == sum(box.contains(Box(p, (1, 1, 1))) for p in blocks)
        if not optimized:
            assert box.size == (batch, batch, batch)
    if blocks:
        assert (found.first[2], found.last[2]) == (min(p[2] for p in blocks), max(p[2] for p in blocks))


def test_partitions_across_gaps_hold_their_blocks(case):
    """A layer lies where its blocks are, where the original falls behind."""
    case.post([[0, 0, 0, 0], [50, 0, 0, 0], [90, 0, 0, 0]])
    found = case.partition(4)
    assert [(v["MinChunk"][2], v["MaxChunk"][2], v["ActiveBlocks"]) for v in found["Subvolumes"]] == [
        (-1, 2, 1),
        (47, 50, 1),
        (87, 90, 1),
    ]


def test_a_small_region_is_partitioned_closely(case):
    """Where the original crashes."""
    case.post([[0, 0, 0, 5], [0, 1, 0, 5], [1, 0, 2, 3]])
    found = case.partition(8, optimized=True)
    assert (found["NumSubvolumes"], found["NumActiveBlocks"]) == (1, 14)
    assert found["Subvolumes"][0]["ActiveBlocks"] == 14


def test_partitions_of_nothing(case):
    for optimized in (False, True):
        found = case.partition(8, optimized=optimized)
        assert (found["NumSubvolumes"], found["Subvolumes"]) == (0, [])
        assert found["ROI"] == {"MinChunk": [0, 0, COORD_MAX], "MaxChunk": [0, 0, COORD_MIN]}


@pytest.mark.parametrize("batch", [None, "", "x", "0", "-1", "2147483648", "1.5"])
def test_batch_sizes_that_cannot_be(case, batch):
    with pytest.raises(BadRequest, match="batchsize"):
        case.read(requests.get_partition, batch, False)


def test_partitions_too_large_to_make_are_refused(case):
    case.post([[0, 0, 0, COORD_MAX], [0, COORD_MAX, 0, 0]])
    for optimized in (False, True):
        with pytest.raises(BadRequest, match="too small"):
            case.partition(1, optimized=optimized)
        assert case.partition(COORD_MAX, optimized=optimized)["NumActiveBlocks"] == COORD_MAX + 2


def test_a_long_partition_is_sent_in_pieces(case):
    case.post([[z, 0, 0, 99] for z in range(100)])
    found = case.partition(1)
    assert found["NumSubvolumes"] == len(found["Subvolumes"]) == 10_000 > partitions.FEW
