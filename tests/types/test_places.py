"""What is kept of where blocks lie: reads stay right whatever is written, and look nothing up twice."""

from __future__ import annotations

import numpy as np
import pytest
from imagecase import Case

from dvidfs import kernels
from dvidfs.engine import ReadView, Store, keys, open_engine
from dvidfs.engine.keys import VALUE_KEY, Family, Table
from dvidfs.errors import Corrupt
from dvidfs.types.geometry import Box
from dvidfs.types.imageblk import places
from dvidfs.types.imageblk.volume import Volume

BLOCK = np.array([4, 3, 5])
ORIGIN = np.array([-40, -30, -50])
"""First voxel (x, y, z) of the model arrays, which are 20 blocks along each side: three bricks or four."""
SIDE = 20


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    kernels.load("blocks_numba")  # until it is there nothing is kept
    path = tmp_path_factory.mktemp("store") / "s"
    Store.create(path)
    with open_engine(path, durability="periodic") as engine:
        yield engine


@pytest.fixture
def case(engine, monkeypatch):
    monkeypatch.setattr(places, "BRICK", 0)  # every brick is kept as soon as it is asked for
    return Case.new(engine, BlockSize="4,3,5")


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def text(numbers):
    return "_".join(map(str, numbers))


def some_box(rng, aligned):
    unit = BLOCK if aligned else 1
    whole = SIDE if aligned else SIDE * BLOCK
    first = rng.integers(0, whole, 3)
    size = rng.integers(1, np.minimum(9 if aligned else 40, whole - first) + 1)
    return first * unit, size * unit


def window(first, size):
    return tuple(slice(a, a + n) for a, n in zip(first[::-1], size[::-1], strict=True))


def write(case, model, first, size, voxels):
    model[window(first, size)] = voxels
    case.post_raw(voxels, tuple(map(int, first + ORIGIN)))


def check(case, model, first, size):
    got = case.raw(text(size), text(first + ORIGIN))
    assert got == model[window(first, size)].tobytes()


def test_reads_are_right_between_writes(case, rng):
    model = np.zeros(tuple(SIDE * BLOCK[::-1]), np.uint8)
    for number in range(8):
        first, size = some_box(rng, aligned=True)
        high = 256 if number % 2 else 2  # some blocks shrink
        write(case, model, first, size, rng.integers(0, high, tuple(size[::-1]), np.uint8))
        for _ in range(10):
            box = some_box(rng, aligned=False)
            check(case, model, *box)
            check(case, model, *box)


def test_an_older_snapshot_shows_what_it_did(case, rng):
    model = np.zeros(tuple(SIDE * BLOCK[::-1]), np.uint8)
    zero, size = np.zeros(3, int), 8 * BLOCK
    write(case, model, zero, size, rng.integers(0, 256, tuple(size[::-1]), np.uint8))
    before = model.copy()
    with case.engine.read() as txn:
        node = txn.graph.version(case.uuid)
        old = Volume.of(ReadView(txn, node, txn.graph.instance(node, case.name)))
        whole = Box(tuple(map(int, ORIGIN)), tuple(map(int, size)))
        assert (old.read(whole) == before[window(zero, size)]).all()
        write(case, model, zero, size, rng.integers(0, 256, tuple(size[::-1]), np.uint8))
        for _ in range(2):
            check(case, model, zero, size)
            assert (old.read(whole) == before[window(zero, size)]).all()


def test_nothing_is_looked_up_twice_in_a_snapshot(case, rng, monkeypatch):
    assert kernels.load("blocks_numba") is not None
    model = np.zeros(tuple(SIDE * BLOCK[::-1]), np.uint8)
    zero, size = np.zeros(3, int), 20 * BLOCK
    write(case, model, zero, size, rng.integers(0, 256, tuple(size[::-1]), np.uint8))
    check(case, model, zero, size)
    for name in ("load_spans", "load_keys"):
        monkeypatch.setattr(ReadView, name, lambda *_: pytest.fail("looked up again"))
    for _ in range(10):
        check(case, model, *some_box(rng, aligned=False))
    coords = [(int(x), int(y), int(z)) for x, y, z in rng.integers(-10, 10, (50, 3))]
    found = case.read(lambda view: [bytes(p) for p in Volume.of(view).payloads(coords)])
    assert len(found) == 50


def test_payloads_are_those_of_the_store(case, rng):
    model = np.zeros(tuple(SIDE * BLOCK[::-1]), np.uint8)
    for _ in range(5):
        first, size = some_box(rng, aligned=True)
        write(case, model, first, size, rng.integers(0, 256, tuple(size[::-1]), np.uint8))

    def both(view):
        volume, blocks = Volume.of(view), Box((-9, -10, -7), (12, 17, 15))
        stored = [(key, bytes(payload)) for key, payload in volume.load_spans(blocks)]
        for _ in range(2):
            coords, payloads = volume.stored(blocks)
            named = [(keys.encode_block(0, x, y, z), bytes(p)) for (z, y, x), p in zip(coords, payloads, strict=True)]
            assert named == stored
            ordered = [(x, y, z) for z, y, x in coords.tolist()] + [(100, 100, 100)]
            assert [p and bytes(p) for p in volume.payloads(ordered)] == [*(p for _, p in stored), None]

    case.read(both)


def test_what_is_kept_is_bounded(case, rng, monkeypatch):
    monkeypatch.setattr(places, "LIMIT", 200_000)
    monkeypatch.setattr(places, "_ASKED", 3)
    model = np.zeros(tuple(SIDE * BLOCK[::-1]), np.uint8)
    zero, size = np.zeros(3, int), 20 * BLOCK
    write(case, model, zero, size, rng.integers(0, 256, tuple(size[::-1]), np.uint8))
    for _ in range(20):
        check(case, model, *some_box(rng, aligned=False))


def test_a_damaged_block_is_told_to_who_reads_it(case, rng):
    model = np.zeros(tuple(SIDE * BLOCK[::-1]), np.uint8)
    zero, size = np.zeros(3, int), 4 * BLOCK
    write(case, model, zero, size, rng.integers(0, 256, tuple(size[::-1]), np.uint8))
    damaged = tuple(map(int, ORIGIN // BLOCK))

    def lose(view):
        entry = view.find(Family.BLOCK, keys.encode_block(0, *damaged))
        view.txn.delete(Table.VALUES, VALUE_KEY.pack(view.instance.id, entry.ref, 0))

    case.write(lose)
    for _ in range(3):
        check(case, model, BLOCK, 2 * BLOCK)
        with pytest.raises(Corrupt):
            check(case, model, zero, BLOCK)
