"""The files of an image volume: exact sizes, any window, the same voxels as HTTP gives; written in place on open versions."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagecase import Case
from PIL import Image

from dvidfs.engine import Store, journal, open_engine
from dvidfs.engine.keys import INLINE
from dvidfs.engine.values import Prepared, Staged
from dvidfs.errors import BadRequest, Conflict, Locked, NotFound
from dvidfs.types import pieces, workers
from dvidfs.types.geometry import Box, join, span
from dvidfs.types.imageblk import files, requests
from dvidfs.types.imageblk.volume import Volume
from dvidfs.types.volumes import bricks, names
from dvidfs.types.volumes.bricks import Bricks, Cache
from dvidfs.types.volumes.pictures import parse_slice_file

SHAPE = (13, 11, 9)
"""Of the extents, (z, y, x); they begin within a block, at FIRST (x, y, z)."""
FIRST = (-3, 2, -6)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s"
    Store.create(path)
    with open_engine(path, durability="periodic") as engine:
        yield engine


@pytest.fixture
def case(engine):
    """A volume whose extents are not aligned to its blocks of 4 x 3 x 5."""
    case = Case.new(engine, BlockSize="4,3,5")
    stored = np.random.default_rng(3).integers(0, 256, (20, 15, 16), np.uint8)
    case.post_raw(stored, (-8, 0, -10))
    last = [f + n - 1 for f, n in zip(FIRST, SHAPE[::-1], strict=True)]
    text = f'{{"MinPoint": {list(FIRST)}, "MaxPoint": {last}}}'
    case.write(requests.post_extents, text.encode())
    return case


def model(case):
    """The voxels of the extents as raw gives them: (z, y, x)."""
    size, offset = "_".join(map(str, SHAPE[::-1])), "_".join(map(str, FIRST))
    return np.frombuffer(case.raw(size, offset), np.uint8).reshape(SHAPE).copy()


@pytest.fixture(params=["whole layers", "rows of blocks", "no cache"])
def cut(request, monkeypatch):
    """How files are cut into bricks."""
    if request.param != "whole layers":
        monkeypatch.setattr(bricks, "BRICK_BYTES", 200)
    if request.param == "no cache":
        monkeypatch.setattr(bricks, "CACHE_BYTES", 100)


def block_names(view):
    return [join(coord) for coord in Volume.of(view).coords()]


# ---------------------------------------------------------------- reading


def test_volume_npy_is_what_numpy_loads(case, cut, tmp_path):
    path = tmp_path / "volume.npy"
    path.write_bytes(case.file_bytes("volume.npy"))
    loaded = np.load(path, mmap_mode="r")
    assert loaded.dtype == np.uint8
    assert np.array_equal(loaded, model(case))


def test_volume_raw_is_what_http_gives(case, cut):
    assert case.file_bytes("volume.raw") == model(case).tobytes()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_window_of_a_file_is_its_bytes(engine, shared, data):
    path, whole = data.draw(st.sampled_from(sorted(shared[1].items())))
    offset, length = (data.draw(st.integers(0, len(whole) + 5)) for _ in range(2))
    assert shared[0].file_bytes(path, offset, length) == whole[offset : offset + length]


@pytest.fixture(scope="module")
def shared(engine):
    case = Case.new(engine, BlockSize="4,3,5")
    case.post_raw(np.random.default_rng(4).integers(0, 256, (10, 9, 12), np.uint8), (-4, 0, -5))
    paths = (
        "volume.npy",
        "volume.raw",
        "slices/xy/-00003.png",
        "slices/xz/000004.png",
        "slices/yz/000007.png",
        "blocks/-1_0_0",
    )
    return case, {path: case.file_bytes(path) for path in paths}


@pytest.mark.parametrize(("plane", "number", "index"), [
    ("xy", -6, np.s_[0]), ("xy", 6, np.s_[12]), ("xz", 2, np.s_[:, 0]), ("xz", 12, np.s_[:, 10]), ("yz", -3, np.s_[:, :, 0]),
    ("yz", 5, np.s_[:, :, 8]),
])  # fmt: skip
@pytest.mark.parametrize("windowed", [False, True])
def test_slices_show_the_planes_of_the_extents(case, monkeypatch, plane, number, index, windowed):
    if windowed:
        monkeypatch.setattr(bricks, "BRICK_BYTES", 10)
    data = case.file_bytes(f"slices/{plane}/{number:06d}.png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), model(case)[index])


def test_slices_are_named_by_the_voxel_across(case):
    listed = {
        name: list(case.read(files.TREE.entries["slices"].entries[name].each[0].names)) for name in ("xy", "xz", "yz")
    }
    assert listed["xy"] == [f"{z:06d}.png" for z in range(-6, 7)]
    assert listed["xz"] == [f"{y:06d}.png" for y in range(2, 13)]
    assert listed["yz"] == [f"{x:06d}.png" for x in range(-3, 6)]
    for path in ("slices/xy/000007.png", "slices/xz/000001.png"):
        with pytest.raises(FileNotFoundError):
            case.file(path)


@pytest.mark.parametrize(
    "name", ["1.png", "0000001.png", "+00001.png", "000001.PNG", "000001", "x.png", "-0001.png", "-00000.png"]
)
def test_other_names_are_no_slices(name):
    assert parse_slice_file(name) is None


@given(st.integers(-(2**31), 2**31 - 1))
def test_names_of_slices_and_blocks_stand_for_one_thing(n):
    assert names.parse_slice(names.slice_name(n)) == n
    assert names.parse_point(join((n, -n - 1, 0))) == (n, -n - 1, 0)


@pytest.mark.parametrize(
    "name", ["1_2", "01_2_3", "+1_2_3", "1_2_3_4", "-0_0_0", "a_b_c", "9999999999_0_0", "1_2_3.raw"]
)
def test_other_names_are_no_blocks(name):
    assert names.parse_point(name) is None


def test_blocks_are_listed_and_named(case):
    names = list(case.read(block_names))
    assert names[:3] == ["-2_0_-2", "-1_0_-2", "0_0_-2"]
    assert len(names) == len(set(names)) == 4 * 5 * 4
    assert case.file_bytes("blocks/1_2_-1") == case.file_bytes("1_2_-1") == case.raw("4_3_5", "4_6_-5")
    for path in ("blocks/9_9_9", "9_9_9"):
        with pytest.raises(FileNotFoundError):
            case.file(path)


def test_without_extents_there_are_no_volume_files(engine):
    case = Case.new(engine)
    shown = {name: entry.shown is None or case.read(entry.shown) for name, entry in files.TREE.entries.items()}
    assert {name for name, is_there in shown.items() if is_there} == {"blocks", "scales", "cutout"}
    with pytest.raises(NotFound, match="no extents"):
        case.file_bytes("volume.raw")


def test_extents_that_no_file_can_hold_show_no_volume(engine):
    case = Case.new(engine)
    case.write(requests.post_extents, b'{"MinPoint": [0,0,0], "MaxPoint": [2147483646,2147483646,9]}')
    assert not case.read(files.TREE.entries["volume.raw"].shown)
    assert case.read(files.TREE.entries["slices"].entries["xy"].each[0].has, (0, "png")) is False


def test_too_many_slices_are_named_but_not_listed(engine):
    case = Case.new(engine)
    case.write(requests.post_extents, b'{"MinPoint": [0,0,0], "MaxPoint": [9,9,2000000]}')
    entry = files.TREE.entries["slices"].entries["xy"].each[0]
    assert list(case.read(entry.names)) == []
    assert case.read(entry.has, (1_999_999, "png"))


def test_a_window_that_is_read_again_is_ready(case):
    entry, _ = case.file("volume.raw")
    assert not case.read(entry.ready, 0, 10)
    case.file_bytes("volume.raw", 0, 10)
    assert not case.read(entry.ready, 5, 3), "a lone window is not worth a brick"
    case.file_bytes("volume.raw", 5, 3)
    assert case.read(entry.ready, 20, 30)
    picture, parts = case.file("slices/xy/000000.png")
    assert not case.read(picture.ready, *parts, 0, 10)
    case.file_bytes("slices/xy/000000.png", 0, 10)
    assert case.read(picture.ready, *parts, 0, 10)


def test_contested_blocks_are_listed_by_name_and_fail_when_read(engine):
    root = Case.new(engine, BlockSize="2,2,2")
    root.post_raw(np.zeros((2, 2, 4), np.uint8), (0, 0, 0))
    root.commit()
    sides = root.child(), root.child("side")
    for i, side in enumerate(sides):
        side.post_raw(np.full((2, 2, 2), i + 1, np.uint8), (0, 0, 0))
        side.commit()
    merged = sides[0].merge(sides[1])
    for path in ("0_0_0", "volume.raw", "slices/xy/000001.png"):
        with pytest.raises(Conflict):
            merged.file_bytes(path)
    assert merged.file_bytes("1_0_0") == bytes(8)


# ---------------------------------------------------------------- writing


@settings(deadline=None, max_examples=25)
@given(data=st.data())
@pytest.mark.parametrize("size", [16 << 20, 200])
def test_windows_written_in_place_are_read_everywhere(engine, size, data):
    case = Case.new(engine, BlockSize="4,3,5", MinPoint="-3,2,-6", MaxPoint="5,12,6")
    case.post_raw(np.random.default_rng(3).integers(0, 256, (5, 6, 8), np.uint8), (-4, 0, -5))
    case.write(requests.post_extents, b'{"MinPoint": [-3,2,-6], "MaxPoint": [5,12,6]}')
    want = model(case).reshape(-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bricks, "BRICK_BYTES", size)
        for seed in range(data.draw(st.integers(1, 3))):
            offset = data.draw(st.integers(0, want.size - 1))
            count = data.draw(st.integers(1, want.size - offset))
            new = np.random.default_rng(seed).integers(0, 256, count, np.uint8)
            want[offset : offset + count] = new
            case.write_file(
                *data.draw(st.sampled_from([("volume.raw", offset), ("volume.npy", 128 + offset)])), new.tobytes()
            )
            assert case.file_bytes("volume.raw") == want.tobytes()
    assert model(case).tobytes() == want.tobytes()


def test_windows_written_together_are_one_mutation(case):
    """Later ones lie over earlier ones; whatever their number, a block is read and stored once."""
    entry, _ = case.file("volume.npy")
    windows = [(128 + 99 * z + 9 * y, bytes([y] * 3)) for z in range(2, 12) for y in range(1, 10)]
    want = model(case)
    want[2:12, 1:10, :3] = np.arange(1, 10)[:, None]
    want.reshape(-1)[99 * 2 + 9 : 99 * 2 + 11] = 200
    stored = []
    change = files.SOURCE.change

    def spy(view, coords, blocks):
        stored.extend(coords)
        change(view, coords, blocks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(files.SOURCE.__dict__, "change", spy)
        case.write(entry.write, [*windows, (128 + 99 * 2 + 9, b"\xc8\xc8")])
    assert model(case).tobytes() == want.tobytes()
    assert len(stored) == len(set(stored))
    last = case.read(journal.records)[-2:]
    assert [record["Action"] for record in last] == ["post-extents", "mutate"]
    assert last[-1]["Bytes"] == [99 * 2 + 9, 99 * 9 + 9 * 8 + 3]


def test_a_whole_block_settles_a_conflict(engine):
    base = Case.new(engine, BlockSize="2,2,2", MinPoint="0,0,0", MaxPoint="3,1,1")
    base.post_raw(np.zeros((2, 2, 4), np.uint8), (0, 0, 0))
    base.commit()
    sides = base.child(), base.child("side")
    for i, side in enumerate(sides):
        side.post_raw(np.full((2, 2, 2), i + 1, np.uint8), (0, 0, 0))
        side.commit()
    merged = sides[0].merge(sides[1])
    with pytest.raises(Conflict):
        merged.write_file("blocks/0_0_0", 0, b"half")
    merged.write_file("blocks/0_0_0", 0, b"settled.")
    assert merged.file_bytes("0_0_0") == merged.raw("2_2_2", "0_0_0") == b"settled."


def test_a_write_touches_its_blocks_only(case):
    before = {name: case.file_bytes(name) for name in case.read(block_names)}
    case.commit()
    child = case.child()
    voxels = model(case).reshape(-1)
    child.write_file("volume.raw", 0, bytes(255 - voxels[:4]))
    changed = [name for name in before if child.file_bytes(name) != before[name]]
    assert changed == ["-1_0_-2", "0_0_-2"]
    own = child.read(lambda view: [f.enc for f in view.scan(0x20) if f.entry.version == view.version])
    assert len(own) == 2, "untouched blocks are not stored again"
    assert {name: case.file_bytes(name) for name in before} == before


def test_writing_what_is_there_stores_nothing(case):
    case.commit()
    child = case.child()
    child.write_file("volume.raw", 0, model(case).tobytes())
    assert child.read(lambda view: [f for f in view.scan(0x20) if f.entry.version == view.version]) == []


def test_writing_zeros_where_nothing_is_stored_makes_blocks(engine):
    case = Case.new(engine, BlockSize="2,2,2", Background="9", MinPoint="0,0,0", MaxPoint="3,1,1")
    case.write_file("volume.raw", 0, bytes(2))
    assert list(case.read(block_names)) == ["0_0_0"]
    assert case.read(requests.get_blocks, "0_0_0", "2") == bytes(8) + bytes([9] * 8)


def test_blocks_are_written_in_place(case):
    want = bytearray(case.file_bytes("blocks/1_2_-1"))
    want[7:10] = b"abc"
    case.write_file("blocks/1_2_-1", 7, b"abc")
    assert case.file_bytes("1_2_-1") == bytes(want) == case.raw("4_3_5", "4_6_-5")


@pytest.mark.parametrize(
    ("path", "offset", "count"), [("volume.raw", 1280, 20), ("volume.npy", 128 + 1280, 20), ("1_2_-1", 59, 2)]
)
def test_files_do_not_grow(case, path, offset, count):
    before = case.file_bytes(path)
    with pytest.raises(BadRequest, match="size cannot change"):
        case.write_file(path, offset, bytes(count))
    assert case.file_bytes(path) == before


def test_the_header_stays(case):
    npy = case.file_bytes("volume.npy")
    case.write_file("volume.npy", 0, npy[:100])
    case.write_file("volume.npy", 100, npy[100:128] + b"xyz")
    assert case.file_bytes("volume.npy")[:131] == npy[:128] + b"xyz"
    with pytest.raises(BadRequest, match="header"):
        case.write_file("volume.npy", 20, b"?")


def test_files_of_committed_versions_are_not_written(case):
    case.commit()
    with pytest.raises(Locked):
        case.write_file("volume.raw", 0, b"x")


def test_files_follow_the_extents_of_an_open_version(case):
    size = len(case.file_bytes("volume.raw"))
    case.post_raw(np.zeros((5, 3, 4), np.uint8), (40, 0, 0))
    assert len(case.file_bytes("volume.raw")) > size
    assert case.read(files.SOURCE.shape).extents == Box((-3, 0, -6), (47, 13, 13))


# ---------------------------------------------------------------- bricks


@settings(deadline=None)
@given(
    offset=st.tuples(*[st.integers(-9, 9)] * 3), size=st.tuples(*[st.integers(1, 12)] * 3),
    block=st.tuples(*[st.integers(1, 5)] * 3), item=st.sampled_from([1, 4]), limit=st.integers(1, 3000), data=st.data(),
)  # fmt: skip
def test_runs_cover_a_range_once_and_lie_in_their_bricks(offset, size, block, item, limit, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bricks, "BRICK_BYTES", limit)
        cut = Bricks(Box(offset, size), block, item)
        start = data.draw(st.integers(0, cut.size))
        stop = data.draw(st.integers(start, cut.size))
        voxels = np.arange(cut.size, dtype=np.int32).reshape(*cut.box.shape, item)
        found = []
        for run in cut.runs(start, stop):
            brick = cut.brick(run.number)
            assert cut.box.contains(brick)
            layer = span((-99, -99, run.number[0] * block[2]), (99, 99, (run.number[0] + 1) * block[2]))
            assert layer.contains(brick)
            found.append(voxels[cut.box.window(brick)].reshape(-1)[run.offset : run.offset + run.count])
            assert len(found[-1]) == run.count
    joined = np.concatenate(found) if found else np.zeros(0, int)
    assert np.array_equal(joined, np.arange(start, stop))


def test_the_cache_keeps_what_was_used_last():
    cache, made = Cache(limit=100), []

    def get(key):
        return cache.get(key, lambda: made.append(key) or memoryview(bytes(40)))

    for key in "ababcab":
        get(key)
    assert made == ["a", "b", "c", "a", "b"]
    assert cache.used <= 100


def test_a_value_is_made_once_though_many_ask():
    cache, made, gate = Cache(), [], threading.Event()

    def make():
        gate.wait(10)
        made.append(1)
        return memoryview(b"x")

    threads = [threading.Thread(target=lambda: cache.get("k", make)) for _ in range(5)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(10)
    assert made == [1]
    assert cache.get("k", make) == b"x"


def test_a_failure_is_told_and_not_kept():
    cache = Cache()

    def fail():
        raise BadRequest("no")

    for _ in range(2):
        with pytest.raises(BadRequest):
            cache.get("k", fail)
    assert cache.get("k", lambda: memoryview(b"y")) == b"y"


# ---------------------------------------------------------------- helpers


@given(st.lists(st.integers(), max_size=100))
def test_shared_out_work_comes_back_in_order(items):
    assert workers.each(lambda n: n * 2, items) == [n * 2 for n in items]


@given(st.lists(st.binary(max_size=9), max_size=20), st.integers(1, 30))
def test_batches_join_to_the_same_bytes(items, size):
    batches = list(pieces.batched(items, size))
    assert b"".join(batches) == b"".join(items)
    assert all(len(batch) >= size for batch in batches[:-1])


@given(st.lists(st.integers(1, 200), max_size=20), st.integers(0, 600), st.integers(1, 300))
def test_a_spool_gives_back_what_went_in(sizes, limit, group):
    """In order, whatever lies in the store ahead; and little is held beyond the limit."""
    store: list[bytes] = []

    def stage(prepared):
        store.extend(bytes(p.data) for p in prepared)
        return [Staged(1, len(store) - len(prepared) + i, p.size, 0) for i, p in enumerate(prepared)]

    items = [bytes([i]) * size for i, size in enumerate(sizes)]
    spool = pieces.Spool[int](stage, limit, group)
    for i, data in enumerate(items):
        spool.add(i, data)
        held = sum(p.size for _, p in spool if isinstance(p, Prepared) and p.size > INLINE)
        assert held <= max(limit, group)
    for _ in range(2):
        assert [(key, bytes(p.data) if isinstance(p, Prepared) else store[p.ref]) for key, p in spool] == list(
            enumerate(items)
        )
    assert (len(spool), spool.size) == (len(items), sum(sizes))
