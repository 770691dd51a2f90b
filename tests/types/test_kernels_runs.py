"""Sparse volumes: both forms of every kernel against a mask that is made voxel by voxel, on made and on real blocks."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvidfs import kernels
from dvidfs.kernels import labels, runs

REAL = Path(__file__).parent.parent / "data" / "label-blocks"
LAST = 2**31 - 1
grids = st.tuples(*[st.integers(1, 3)] * 3) | st.sampled_from([(9, 1, 1), (16, 1, 1), (20, 1, 2)])
starts = st.tuples(*[st.integers(-3, 3).map(lambda n: 72 * n)] * 3)


@pytest.fixture(params=["compiled", "plain"])
def form(request, monkeypatch):
    """Runs a test once with the compiled kernels and once without."""
    assert kernels.load("runs_numba") is not None
    if request.param == "plain":
        monkeypatch.setattr(kernels, "ready", lambda name: None)


every_form = pytest.mark.usefixtures("form")


def block_with(grid: tuple[int, int, int], palette: int, seed: int, solid: float) -> labels.Block:
    """A block whose sub-blocks have up to ``palette`` labels; a share of them has one."""
    random = np.random.default_rng(seed)
    shape = tuple(8 * n for n in reversed(grid))
    voxels = random.integers(0, palette, shape).astype(np.uint64)
    for z, y, x in np.ndindex(*reversed(grid)):
        if random.random() < solid:
            voxels[8 * z : 8 * z + 8, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = random.integers(0, palette)
    return labels.parse(labels.encode(voxels))


made = st.builds(
    block_with,
    grids,
    st.sampled_from([1, 2, 3, 4, 7, 20, 60, 100, 200, 600]),
    st.integers(0, 99),
    st.sampled_from([0, 0.5, 1]),
)


def real(name: str) -> labels.Block:
    return labels.parse(gzip.decompress((REAL / f"{name}.block.gz").read_bytes()))


def choose(block: labels.Block, seed: int, share: float) -> np.ndarray:
    return np.random.default_rng(seed).random(len(block.labels)) < share


def mask_of(block: labels.Block, wanted: np.ndarray) -> np.ndarray:
    """Where the wanted labels are, seen from the voxels (made and real tables name a label once)."""
    return np.isin(labels.voxels(block), block.labels[wanted])


def runs_in_python(mask: np.ndarray, start: tuple[int, int, int]) -> list[list[int]]:
    """Sorted, maximal runs of a mask (z, y, x)."""
    out = []
    for z, y in np.ndindex(mask.shape[:2]):
        x = 0
        row = mask[z, y].tolist()
        while x < len(row):
            if not row[x]:
                x += 1
                continue
            first = x
            while x < len(row) and row[x]:
                x += 1
            out.append([start[0] + first, start[1] + y, start[2] + z, x - first])
    return out


def voxels_of(rows) -> set[tuple[int, int, int]]:
    return {(x + k, y, z) for x, y, z, n in np.asarray(rows).tolist() for k in range(n)}


# Blocks


@every_form
@settings(deadline=None, max_examples=60)
@given(block=made, seed=st.integers(0, 9), share=st.sampled_from([0, 0.1, 0.5, 1]), start=starts)
def test_the_runs_of_a_block(block, seed, share, start):
    wanted = choose(block, seed, share)
    found = runs.block_runs(block, wanted, start)
    assert found.dtype == np.int32
    assert found.shape[1] == 4
    assert found.tolist() == runs_in_python(mask_of(block, wanted), start)


@every_form
@settings(deadline=None, max_examples=60)
@given(block=made, seed=st.integers(0, 9), start=starts, data=st.data())
def test_runs_are_cut_to_a_box(block, seed, start, data):
    wanted = choose(block, seed, 0.5)
    mask = mask_of(block, wanted)
    low = [data.draw(st.integers(s - 3, s + n + 1)) for s, n in zip(start, block.shape[::-1], strict=True)]
    high = [data.draw(st.integers(a, s + n + 3)) for a, s, n in zip(low, start, block.shape[::-1], strict=True)]
    for axis, (a, b, s) in enumerate(zip(low, high, start, strict=True)):
        line = mask.swapaxes(0, 2 - axis)
        line[: max(a - s, 0)] = False
        line[max(b - s, 0) :] = False
    assert runs.block_runs(block, wanted, start, (*low, *high)).tolist() == runs_in_python(mask, start)


@every_form
@pytest.mark.parametrize(
    ("palette", "bits"), [(2, 1), (4, 2), (7, 3), (12, 4), (30, 5), (60, 6), (110, 7), (200, 8), (900, 9)]
)
def test_values_of_every_width(palette, bits):
    block = block_with((2, 1, 1), palette, 4, 0)
    assert [(n - 1).bit_length() for n in block.counts.tolist()] == [bits, bits]
    for seed in range(4):
        wanted = choose(block, seed, 0.5)
        mask = mask_of(block, wanted)
        assert runs.block_runs(block, wanted, (0, 0, 0)).tolist() == runs_in_python(mask, (0, 0, 0))
        assert np.array_equal(read_masks(runs.block_masks(block, wanted), block.grid), mask)


@every_form
def test_runs_that_cross_whole_rows():
    """A row of more than 64 voxels, with runs that end with it, and one over all of it."""
    voxels = np.zeros((8, 8, 128), np.uint64)
    voxels[0, 0, 60:] = 1
    voxels[0, 1, 5:128:2] = 1
    voxels[0, 2] = 1
    voxels[7, 7, :64] = 1
    block = labels.parse(labels.encode(voxels))
    assert runs.block_runs(block, block.labels == 1, (0, 0, 0)).tolist() == runs_in_python(voxels == 1, (0, 0, 0))


def test_of_real_blocks_both_forms_give_the_same(monkeypatch):
    assert kernels.load("runs_numba") is not None
    for name in ("cx-1", "cx-2", "fib19-1", "fib19-2"):
        block = real(name)
        for share in (0.2, 0.6, 1):
            wanted = choose(block, 3, share)
            compiled = runs.block_runs(block, wanted, (-64, 0, 64)), runs.block_masks(block, wanted)
            with monkeypatch.context() as patch:
                patch.setattr(kernels, "ready", lambda name: None)
                plain = runs.block_runs(block, wanted, (-64, 0, 64)), runs.block_masks(block, wanted)
            np.testing.assert_array_equal(compiled[0], plain[0])
            assert compiled[1] == plain[1]
            assert int(compiled[0][:, 3].sum()) == int(labels.tally(block)[wanted].sum())


@every_form
def test_a_damaged_block_is_survived():
    """Stored blocks are not looked through again: their values may point beyond the list of a sub-block."""
    voxels = np.zeros((8, 8, 24), np.uint64)
    voxels[0, 0] = [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0]
    data = bytearray(labels.encode(voxels))
    data[-2 * 64 * 3 :] = b"\xff" * (2 * 64 * 3)
    with pytest.raises(ValueError, match="sub-block 1"):
        labels.parse(bytes(data))
    broken = labels.parse_trusted(bytes(data))
    wanted = broken.labels > 0
    assert runs.block_runs(broken, wanted, (0, 0, 0)).tolist() == [[1, 0, 0, 7]]
    assert read_masks(runs.block_masks(broken, wanted), broken.grid).sum() == 7


@pytest.mark.parametrize("wanted", [np.ones(2, bool), np.ones((4, 1), bool), np.ones(3, np.uint8)])
def test_what_is_wanted_has_one_truth_value_a_label(wanted):
    block = block_with((2, 2, 2), 3, 1, 0)
    for kernel in (lambda: runs.block_runs(block, wanted, (0, 0, 0)), lambda: runs.block_masks(block, wanted)):
        with pytest.raises(ValueError, match="3 truth values are wanted"):
            kernel()


def read_masks(data: bytes, grid: tuple[int, int, int]) -> np.ndarray:
    """The voxels (z, y, x) of a block of binary blocks; the sub-blocks x fastest, and so their voxels."""
    gx, gy, gz = grid
    out = np.zeros((gz * 8, gy * 8, gx * 8), bool)
    if data[0] != 2:
        assert len(data) == 1
        out[:] = data[0] == 1
        return out
    at = 1
    for z, y, x in np.ndindex(gz, gy, gx):
        flag, at = data[at], at + 1
        cube = out[8 * z : 8 * z + 8, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
        if flag == 2:
            mask = np.frombuffer(data, np.uint8, 64, at)
            at += 64
            for k in range(512):
                cube[k // 64, k // 8 % 8, k % 8] = mask[k // 8] >> k % 8 & 1
        else:
            cube[:] = flag == 1
    assert at == len(data)
    return out


@every_form
@settings(deadline=None, max_examples=40)
@given(block=made, seed=st.integers(0, 9), share=st.sampled_from([0, 0.1, 0.5, 1]))
def test_the_masks_of_a_block(block, seed, share):
    wanted = choose(block, seed, share)
    data, mask = runs.block_masks(block, wanted), mask_of(block, wanted)
    assert np.array_equal(read_masks(data, block.grid), mask)
    assert data[0] == (1 if mask.all() else 2 if mask.any() else 0)


@every_form
def test_the_worked_masks():
    """An octant and one voxel beside it: label 23 in a block of 16³ voxels."""
    voxels = np.zeros((16, 16, 16), np.uint64)
    voxels[:8, :8, :8] = 23
    voxels[0, 0, 9] = 23
    block = labels.parse(labels.encode(voxels))
    assert runs.block_masks(block, block.labels == 23) == b"\2\1\2\2" + bytes(63) + bytes(6)
    solid = labels.parse(labels.encode(np.full((16, 16, 16), 23, np.uint64)))
    assert runs.block_masks(solid, np.array([True])) == b"\1"


@every_form
def test_a_table_may_name_a_label_twice():
    voxels = np.zeros((8, 8, 16), np.uint64)
    voxels[0, 0] = [1, 1, 2, 2, 0, 0, 3, 3, 4, 4, 4, 0, 0, 0, 0, 1]
    data = labels.encode(voxels)
    body = np.array([0 if n == 0 else 7 for n in labels.parse(data).labels], np.uint64)
    block = labels.parse(labels.retable(data, body))
    rows = runs.block_runs(block, block.labels == 7, (0, 0, 0))
    assert rows.tolist() == [[0, 0, 0, 4], [6, 0, 0, 5], [15, 0, 0, 1]]


# Runs

near = st.integers(-40, 40)
rows = st.lists(st.tuples(near, st.integers(-2, 1), st.integers(-1, 1), st.integers(-2, 30)), max_size=40)


def array(rows) -> np.ndarray:
    return np.array(rows, np.int32).reshape(-1, 4)


@every_form
@given(rows)
def test_joined_runs_select_the_same_voxels(rows):
    found = runs.join_runs(array(rows)).tolist()
    assert voxels_of(found) == voxels_of(array(rows))
    assert found == sorted(found, key=lambda r: (r[2], r[1], r[0]))
    assert all(n > 0 for *_, n in found)
    for (x, y, z, n), after in itertools.pairwise(found):
        assert after[1:3] != [y, z] or after[0] > x + n, "they touch"


@every_form
@pytest.mark.parametrize(
    ("rows", "joined"),
    [
        ([[0, 0, 0, 30], [5, 0, 0, 3], [20, 0, 0, 4]], [[0, 0, 0, 30]]),
        ([[4, 0, 0, 4], [0, 0, 0, 4]], [[0, 0, 0, 8]]),
        ([[4, 0, 1, 4], [0, 0, 0, 4], [4, 1, 0, 4]], [[0, 0, 0, 4], [4, 1, 0, 4], [4, 0, 1, 4]]),
        ([[5, 0, 0, 4], [0, 0, 0, 4], [4, 0, 0, 0]], [[0, 0, 0, 4], [5, 0, 0, 4]]),
    ],
)
def test_what_is_joined(rows, joined):
    assert runs.join_runs(array(rows)).tolist() == joined


@every_form
@pytest.mark.parametrize("count", [0, 1, 5000])
def test_runs_all_over_the_world_are_sorted(count):
    random = np.random.default_rng(8)
    rows = random.integers(-(2**31), 2**31 - 10, (count, 4)).astype(np.int32)
    rows[:, 3] = 5
    found = runs.join_runs(rows)
    assert np.array_equal(found, rows[np.lexsort((rows[:, 0], rows[:, 1], rows[:, 2]))])


@every_form
def test_the_runs_of_blocks_are_joined_across_their_borders():
    voxels = np.random.default_rng(2).integers(0, 2, (32, 16, 48)).astype(np.uint64)
    voxels[:, :, 10:40] |= voxels[:, :, 10:11]
    parts = []
    for z, y, x in np.ndindex(2, 1, 3):
        cut = voxels[16 * z : 16 * z + 16, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
        block = labels.parse(labels.encode(np.ascontiguousarray(cut)))
        parts.append(runs.block_runs(block, block.labels == 1, (16 * x, 16 * y, 16 * z)))
    assert runs.join_runs(np.concatenate(parts)).tolist() == runs_in_python(voxels == 1, (0, 0, 0))


@every_form
@pytest.mark.parametrize("call", [runs.join_runs, lambda rows: runs.partition(rows, (64, 64, 64))])
def test_runs_end_at_the_last_coordinate(call):
    call(array([[LAST, 0, 0, 1], [LAST - 4, 1, 0, 5]]))
    with pytest.raises(ValueError, match=r"^run 1 of 2 voxels at 2147483647,-5,0 ends beyond 2147483647"):
        call(array([[0, 0, 0, 1], [LAST, -5, 0, 2]]))


@every_form
def test_a_joined_run_that_has_no_length_is_refused():
    with pytest.raises(ValueError, match="more than 2147483647 voxels"):
        runs.join_runs(array([[-LAST, 0, 0, LAST], [0, 0, 0, LAST]]))


@pytest.mark.parametrize("rows", [np.zeros((2, 4), np.int64), np.zeros((2, 3), np.int32), np.zeros(4, np.int32)])
def test_other_arrays_are_no_runs(rows):
    for call in (runs.join_runs, lambda rows: runs.partition(rows, (8, 8, 8))):
        with pytest.raises(ValueError, match="runs are rows x, y, z, length of int32"):
            call(rows)


sizes = st.tuples(*[st.sampled_from([8, 16, 24])] * 3)


@every_form
@given(rows, sizes)
def test_partition_cuts_runs_at_the_borders_of_blocks(rows, size):
    coords, starts, pieces = runs.partition(array(rows), size)
    assert len(starts) == len(coords) + 1
    assert (starts[0], starts[-1]) == (0, len(pieces))
    order = coords[:, ::-1].tolist()
    assert order == sorted(order)
    assert len({tuple(c) for c in order}) == len(order)
    found = []
    for coord, first, stop in zip(coords, starts, starts[1:], strict=False):
        local = pieces[first:stop]
        assert len(local)
        assert (local[:, :3] >= 0).all()
        assert (local[:, 3] > 0).all()
        assert (local[:, :3] < size).all()
        assert (local[:, 0] + local[:, 3] <= size[0]).all()
        found.append(local + np.append(coord * size, 0))
    assert voxels_of(np.concatenate(found) if found else []) == voxels_of(array(rows))
    assert sum(n for *_, n in pieces.tolist()) == sum(max(n, 0) for *_, n in rows), "what overlaps stays so"


@given(rows, sizes)
def test_both_forms_of_partition_give_the_same(rows, size):
    assert kernels.load("runs_numba") is not None
    compiled = runs.partition(array(rows), size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "ready", lambda name: None)
        plain = runs.partition(array(rows), size)
    for one, other in zip(compiled, plain, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@every_form
@given(rows, st.tuples(near, st.integers(-3, 3), st.integers(-3, 3)), st.tuples(near, *[st.integers(-3, 4)] * 2))
def test_partition_within_a_box(rows, low, high):
    coords, starts, pieces = runs.partition(array(rows), (16, 8, 8), (*low, *high))
    where = np.repeat(coords * (16, 8, 8), np.diff(starts), axis=0)
    found = voxels_of(np.column_stack((pieces[:, :3] + where, pieces[:, 3])))
    inside = {p for p in voxels_of(array(rows)) if all(a <= c < b for a, c, b in zip(low, p, high, strict=True))}
    assert found == inside


def test_a_few_runs_cannot_claim_the_world():
    claim = array([[-(2**31), 0, 0, LAST]] * 40)
    with pytest.raises(ValueError, match="fall into 1342177280 pieces of blocks"):
        runs.partition(claim, (64, 64, 64))
    coords, _, pieces = runs.partition(claim, (64, 64, 64), (0, 0, 0, 64, 64, 64))
    assert (len(coords), len(pieces)) == (0, 0)


# Voxels

inside = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3), st.integers(0, 2), st.integers(-1, 8)), max_size=20)


@every_form
@given(inside, st.integers(0, 99))
def test_paint_replaces_labels_inside_runs(rows, seed):
    rows = [(x, y, z, min(n, 8 - x)) for x, y, z, n in rows]
    voxels = np.random.default_rng(seed).integers(0, 5, (3, 4, 8)).astype(np.uint64) + np.uint64(2**63)
    old, new = np.array([2**63 + 3, 2**63 + 1, 2**63 + 77], np.uint64), np.array([9, 0, 5], np.uint64)
    want, counts = voxels.copy(), [0, 0, 0]
    for x, y, z in voxels_of(array(rows)):
        for i in range(3):
            if voxels[z, y, x] == old[i]:
                want[z, y, x] = new[i]
                counts[i] += 1
    one = voxels.copy()
    assert runs.paint(one, array(rows), int(old[0]), 9) == counts[0]
    assert np.array_equal(one == 9, want == 9)
    assert runs.paint_many(voxels, array(rows), old, new).tolist() == counts
    assert np.array_equal(voxels, want)


@every_form
def test_paint_with_nothing_to_paint():
    voxels, none = np.ones((2, 2, 2), np.uint64), np.empty(0, np.uint64)
    assert runs.paint(voxels, array([]), 1, 2) == 0
    assert runs.paint_many(voxels, array([[0, 0, 0, 2]]), none, none).tolist() == []
    assert (voxels == 1).all()


@every_form
def test_background_can_be_painted():
    voxels = np.zeros((1, 1, 4), np.uint64)
    assert runs.paint(voxels, array([[1, 0, 0, 2], [2, 0, 0, 2]]), 0, 5) == 3
    assert voxels.tolist() == [[[0, 5, 5, 5]]]


@every_form
@pytest.mark.parametrize("run", [(-1, 0, 0, 2), (0, -1, 0, 1), (0, 0, 2, 1), (0, 2, 0, 1), (1, 0, 0, 2), (2, 0, 0, 1)])
def test_runs_outside_the_voxels_are_not_painted(run):
    voxels = np.ones((2, 2, 2), np.uint64)
    with pytest.raises(ValueError, match="lie inside the voxels"):
        runs.paint(voxels, array([(0, 0, 0, 1), run]), 1, 2)
    assert (voxels == 1).all()


@pytest.mark.parametrize(("old", "new"), [([1, 1], [2, 3]), ([1, 2], [2, 3]), ([1], [1]), ([1], [2, 3])])
def test_paint_wants_labels_that_cannot_be_mixed_up(old, new):
    with pytest.raises(ValueError, match="different old labels"):
        runs.paint_many(np.ones((2, 2, 2), np.uint64), array([]), np.array(old, np.uint64), np.array(new, np.uint64))


@pytest.mark.parametrize(
    "voxels", [np.ones((2, 2, 2), np.int64), np.ones((2, 2), np.uint64), np.ones((2, 2, 4), np.uint64)[:, :, ::2]]
)
def test_paint_wants_blocks(voxels):
    with pytest.raises(ValueError, match="C-contiguous"):
        runs.paint(voxels, array([]), 1, 2)


@every_form
@given(rows, st.tuples(near, *[st.integers(-3, 3)] * 2), st.sampled_from([np.bool_, np.uint8]))
def test_a_mask_is_what_runs_select_of_a_window(rows, origin, dtype):
    out = np.zeros((3, 2, 20), dtype)
    runs.fill_mask(out, origin, array(rows))
    selected = voxels_of(array(rows))
    for z, y, x in np.ndindex(out.shape):
        assert out[z, y, x] == ((x + origin[0], y + origin[1], z + origin[2]) in selected)


@every_form
def test_what_a_mask_held_stays():
    out = np.zeros((1, 1, 4), np.uint8)
    out[0, 0, 3] = 1
    runs.fill_mask(out, (0, 0, 0), array([[-5, 0, 0, 6], [LAST, 0, 0, 1]]))
    assert out.tolist() == [[[1, 0, 0, 1]]]
    with pytest.raises(ValueError, match="array of bytes"):
        runs.fill_mask(np.zeros((1, 1, 4), np.uint16), (0, 0, 0), array([]))  # type: ignore[arg-type]


@every_form
@given(st.integers(0, 99), st.tuples(*[st.integers(0, 9)] * 3), st.sampled_from([0, 0.2, 0.5, 0.9, 1]), starts)
def test_the_runs_of_a_mask(seed, shape, share, start):
    mask = np.random.default_rng(seed).random(shape) < share
    assert runs.runs_of_mask(mask, start).tolist() == runs_in_python(mask, start)
    assert runs.runs_of_mask(mask.swapaxes(0, 2), start).tolist() == runs_in_python(mask.swapaxes(0, 2), start)


def test_other_arrays_are_no_masks():
    with pytest.raises(ValueError, match="truth values"):
        runs.runs_of_mask(np.zeros((2, 2, 2), np.uint8))  # type: ignore[arg-type]
