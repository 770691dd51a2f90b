"""Image instances whose voxels live elsewhere: every format reads as numpy has it, stored JPEGs pass untouched, nothing is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import remotes
import tensorstore as ts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imagecase import Case

from dvidfs.engine import Engine, Store, open_engine
from dvidfs.engine.check import check_store
from dvidfs.errors import BadRequest, Corrupt, Locked, Unreachable, Unsupported
from dvidfs.types.builtin import registry
from dvidfs.types.formats.blockstream import read_records
from dvidfs.types.geometry import Box
from dvidfs.types.imageblk import check_blocks, pyramid, requests
from dvidfs.types.imageblk.volume import REMOTE, Volume, put_blocks
from dvidfs.types.proxy import gate, places, reach, remote
from dvidfs.types.proxy.describe import Remote

SHAPE = (50, 70, 90)
"""(z, y, x): no multiple of a chunk."""
OFFSET = (32, -64, 96)


@pytest.fixture(autouse=True)
def _as_at_start() -> Iterator[None]:
    yield
    places.configure_stores({})
    reach.configure_cache(reach.CACHE_MB)
    remote.forget()
    gate.gate_of.cache_clear()


def text(numbers: Any) -> str:
    return "_".join(map(str, numbers))


def read_all(case: Case) -> np.ndarray:
    """The voxels of the extents, as ``raw`` answers them."""
    shown = case.read(lambda view: registry()[view.instance.type].extents(view))
    first, last = np.array(shown["MinPoint"]), np.array(shown["MaxPoint"])
    raw = case.raw(text(last - first + 1), text(first))
    item = case.read(lambda view: Volume.of(view).kind)
    return item.split(np.frombuffer(raw, item.item).reshape((last - first + 1)[::-1]))


def extended(case: Case) -> dict[str, Any]:
    return case.read(lambda view: dict(registry()[view.instance.type].extended(view.instance, view)))


# -- formats -------------------------------------------------------------------------------------------------------


def make(form: str, folder: Path, voxels: np.ndarray) -> str:
    if form.startswith("precomputed"):
        encoding = form.split()[1]
        return remotes.precomputed(folder, voxels, encoding=encoding, offset=OFFSET, sharded="sharded" in form)
    if form == "zarr3 sharded":
        remotes.array(folder, "zarr3", voxels, (16, 16, 16), shard=(32, 32, 32))
    elif form == "zarr3 named x y z":
        options = {"domain": ts.IndexDomain(shape=voxels.shape[::-1], labels=["x", "y", "z"])}
        remotes.array(folder, "zarr3", np.ascontiguousarray(voxels.T), (16, 16, 16), **options)
    else:
        remotes.array(folder, form.replace("zarr2", "zarr"), voxels, (16, 16, 32))
    return f"{form.split()[0].rstrip('23')}://{folder.as_uri()}"


FORMATS = (
    "precomputed raw",
    "precomputed png",
    "precomputed raw sharded",
    "zarr2",
    "zarr3",
    "zarr3 sharded",
    "zarr3 named x y z",
    "n5",
)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_reads_as_it_was_written(form: str, engine: Engine, tmp_path: Path):
    voxels = remotes.smooth(SHAPE)
    case = Case.new(engine, GridStore=make(form, tmp_path / "remote", voxels))
    assert np.array_equal(read_all(case), voxels)
    blocks = dict(read_records(case.read(requests.get_subvolblocks, "96_96_64", shifted(case), "uncompressed")))
    size = extended(case)["BlockSize"]
    assert len(blocks) == np.prod([-(-n // b) for n, b in zip(SHAPE[::-1], size, strict=True)])
    first = np.frombuffer(blocks[min(blocks)], np.uint8).reshape(size[::-1])
    assert np.array_equal(first, voxels[: size[2], : size[1], : size[0]])


def shifted(case: Case) -> str:
    return text(extended(case)["MinPoint"])


@pytest.mark.parametrize("sharded", [False, True], ids=["plain", "sharded"])
def test_stored_jpegs_go_out_untouched(sharded: bool, engine: Engine, tmp_path: Path):
    place = remotes.precomputed(tmp_path / "em", remotes.smooth(SHAPE), encoding="jpeg", offset=OFFSET, sharded=sharded)
    case = Case.new(engine, GridStore=place)
    asked = "1,-2,3,3,0,4,9,9,9"
    for compression in ("", "jpeg"):
        found = dict(read_records(case.read(requests.get_specificblocks, asked, compression, "")))
        assert list(found) == [(1, -2, 3), (3, 0, 4)]  # inside, at the border; the third is not there
    decoded = dict(read_records(case.read(requests.get_specificblocks, asked, "uncompressed", "")))
    seen = read_all(case)
    inner = np.frombuffer(decoded[1, -2, 3], np.uint8).reshape(32, 32, 32)
    assert np.array_equal(inner, seen[:32, :32, :32])
    border = np.frombuffer(decoded[3, 0, 4], np.uint8).reshape(32, 32, 32)
    assert np.array_equal(border[:18, :6, :26], seen[32:, 64:, 64:])
    assert not border[18:].any()
    assert len(found[3, 0, 4]) < 32**3
    if not sharded:
        assert found[1, -2, 3] == (tmp_path / "em" / "4_4_40" / "32-64_-64--32_96-128").read_bytes()
    assert case.read(lambda view: Volume.of(view).form.name) == "jpeg"


@pytest.mark.parametrize(
    ("typename", "dtype", "channels"),
    [
        ("uint16blk", "uint16", ()),
        ("uint32blk", "uint32", ()),
        ("uint64blk", "uint64", ()),
        ("float32blk", "float32", ()),
        ("rgba8blk", "uint8", (4,)),
    ],
)
def test_every_voxel_type(typename: str, dtype: str, channels: tuple[int, ...], engine: Engine, tmp_path: Path):
    voxels = remotes.smooth((*SHAPE, *channels), dtype)
    case = Case.new(engine, typename, GridStore=remotes.precomputed(tmp_path / "p", voxels))
    assert np.array_equal(read_all(case), voxels)
    box = Box((-5, 3, 40), (20, 20, 20))
    window = case.read(lambda view: Volume.of(view).kind.split(Volume.of(view).read(box)))
    assert np.array_equal(window[:10, :, 5:], voxels[40:, 3:23, :15])
    assert not window[:, :, :5].any()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_scales_of_ome_zarr(version: str, engine: Engine, tmp_path: Path):
    scales = [remotes.smooth((40, 60, 80)), remotes.smooth((20, 30, 40), seed=1)]
    place = remotes.ome(tmp_path / "ome", version, *scales, offset=(16, 32, -48))
    for level, offset in enumerate(([-48, 32, 16], [-24, 16, 8])):
        case = Case.new(engine, GridStore=place, ScaleLevel=str(level))
        shown = extended(case)
        assert shown["MinPoint"] == offset
        assert shown["VoxelSize"] == [8 * 2**level, 8 * 2**level, 40 * 2**level]
        assert shown["VoxelUnits"] == ["nanometers"] * 3
        assert np.array_equal(read_all(case), scales[level])


def test_scales_of_precomputed_and_n5(engine: Engine, tmp_path: Path):
    scales = [remotes.smooth((40, 60, 80)), remotes.smooth((20, 30, 40), seed=1)]
    root = tmp_path / "n5"
    for level, voxels in enumerate(scales):
        remotes.array(root / f"s{level}", "n5", voxels, (16, 16, 16))
        own = root / f"s{level}" / "attributes.json"
        own.write_text(json.dumps(json.loads(own.read_text()) | {"downsamplingFactors": [2**level] * 3}))
    (root / "attributes.json").write_text('{"pixelResolution": {"dimensions": [4, 4, 40], "unit": "nm"}}')
    for place in (remotes.precomputed(tmp_path / "p", *scales), f"n5://{root.as_uri()}"):
        for level, voxels in enumerate(scales):
            case = Case.new(engine, GridStore=place, ScaleLevel=str(level))
            assert extended(case)["VoxelSize"] == [4 * 2**level, 4 * 2**level, 40 * 2**level]
            assert np.array_equal(read_all(case), voxels)


# -- what an instance becomes --------------------------------------------------------------------------------------


def test_the_remote_says_what_was_not_given(engine: Engine, tmp_path: Path):
    place = remotes.precomputed(tmp_path / "em", remotes.smooth(SHAPE), offset=OFFSET, chunk=(16, 32, 8))
    shown = extended(Case.new(engine, GridStore=place))
    assert {k: shown[k] for k in ("BlockSize", "VoxelSize", "MinPoint", "MaxPoint", "GridStore", "ScaleLevel")} == {
        "BlockSize": [16, 32, 8],
        "VoxelSize": [4, 4, 40],
        "MinPoint": [32, -64, 96],
        "MaxPoint": [121, 5, 145],
        "GridStore": place,
        "ScaleLevel": 0,
    }
    assert REMOTE not in shown
    shown = extended(Case.new(engine, GridStore=place, BlockSize="64,64,64", VoxelSize="1,2,3"))
    assert (shown["BlockSize"], shown["VoxelSize"]) == ([64, 64, 64], [1, 2, 3])


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
@pytest.mark.parametrize("block", ["32,32,32", "20,24,16"])
def test_blocks_that_are_no_chunks(encoding: str, block: str, engine: Engine, tmp_path: Path):
    """A grid that does not agree with the remote's: blocks are put together, and come as voxels."""
    place = remotes.precomputed(tmp_path / "em", remotes.smooth(SHAPE), encoding=encoding, offset=(3, -5, 7))
    case = Case.new(engine, GridStore=place, BlockSize=block)
    seen = read_all(case)
    assert np.abs(seen.astype(int) - remotes.smooth(SHAPE)).max() <= (0 if encoding == "raw" else 250)
    found = dict(read_records(case.read(requests.get_specificblocks, "0,0,0,-9,0,0", "", "")))
    size = [int(n) for n in block.split(",")]
    assert list(found) == [(0, 0, 0)]
    voxels = np.frombuffer(found[0, 0, 0], np.uint8).reshape(size[::-1])
    assert np.array_equal(voxels[7:, :, 3:], seen[: size[2] - 7, 5 : 5 + size[1], : size[0] - 3])
    assert not voxels[:7].any()


def test_a_store_is_read_without_the_configuration(tmp_path: Path):
    voxels = remotes.smooth(SHAPE)
    remotes.precomputed(tmp_path / "em", voxels)
    Store.create(tmp_path / "store")
    places.configure_stores({"Fly": places.configured_place("ngprecomputed", "", tmp_path / "em")})
    with open_engine(tmp_path / "store") as engine:
        case = Case.new(engine, GridStore="fly")
        assert extended(case)["GridStore"] == "fly"
    places.configure_stores({})
    remote.forget()
    with open_engine(tmp_path / "store") as engine:
        again = Case(engine, case.uuid, case.name)
        assert np.array_equal(read_all(again), voxels)
        assert again.read(check_blocks) == []
        assert check_store(engine, deep=True, verifier=lambda name: registry()[name].verify).problems == []


def test_versions_and_branches_show_the_same(engine: Engine, tmp_path: Path):
    voxels = remotes.smooth(SHAPE)
    root = Case.new(engine, GridStore=remotes.precomputed(tmp_path / "em", voxels))
    root.commit()
    for child in (root.child(), root.child("side")):
        assert np.array_equal(read_all(child), voxels)
        with pytest.raises(Locked, match="does not support /raw endpoint since it is proxying data"):
            child.read(requests.prepare_raw, "0_1_2", "32_32_32", "0_0_0", bytes(32**3), "", "", False)


def test_nothing_is_written(engine: Engine, tmp_path: Path):
    case = Case.new(engine, GridStore=remotes.precomputed(tmp_path / "em", remotes.smooth(SHAPE)))
    before = engine.store.statistics()["rows"]
    immutable = "uses an immutable GridStore so cannot received POSTs"
    with pytest.raises(Locked, match=immutable):
        case.post_blocks("0_0_0", "1", bytes(32**3))
    with pytest.raises(Locked, match=immutable):
        case.write(lambda view: put_blocks(view, [((0, 0, 0), b"")]))
    assert engine.store.statistics()["rows"] == before


def test_missing_chunks_are_background(engine: Engine, tmp_path: Path):
    place = remotes.precomputed(tmp_path / "em", remotes.smooth((64, 64, 64)), encoding="jpeg")
    (tmp_path / "em" / "4_4_40" / "32-64_0-32_0-32").unlink()
    case = Case.new(engine, GridStore=place, Background="7")
    assert set(dict(read_records(case.read(requests.get_subvolblocks, "64_64_64", "0_0_0", "")))) == {
        (x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)
    } - {(1, 0, 0)}
    row = np.frombuffer(case.read(requests.get_blocks, "0_0_0", "2"), np.uint8).reshape(2, -1)
    assert set(row[1]) == {7}
    assert not read_all(case)[:32, :32, 32:].any()


windows = st.builds(Box, st.tuples(*[st.integers(-20, 60)] * 3), st.tuples(*[st.integers(1, 50)] * 3))


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Case, np.ndarray]]:
    folder = tmp_path_factory.mktemp("proxied")
    voxels = remotes.smooth((48, 40, 56))
    Store.create(folder / "store")
    with open_engine(folder / "store", durability="periodic") as engine:
        yield Case.new(engine, GridStore=remotes.precomputed(folder / "em", voxels, offset=(0, 0, 0))), voxels


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(box=windows, fill=st.sampled_from([0, 9]))
def test_any_window_is_numpys(proxied: tuple[Case, np.ndarray], box: Box, fill: int):
    case, voxels = proxied
    padded = np.pad(voxels, 128, constant_values=fill)
    z, y, x = (o + 128 for o in box.origin)
    want = padded[z : z + box.size[2], y : y + box.size[1], x : x + box.size[0]]
    assert np.array_equal(case.read(lambda view: Volume.of(view).read(box, fill)), want)
    if fill == 0:
        streamed = case.read(lambda view: (bytes(piece) for piece in Volume.of(view).stream(box)))
        assert b"".join(streamed) == want.tobytes()


# -- what is refused -----------------------------------------------------------------------------------------------


def wrong_places(folder: Path) -> dict[str, tuple[dict[str, str], str]]:
    """Settings that name nothing that can be shown, and what is said of them."""
    good = remotes.precomputed(folder / "good", remotes.smooth((8, 8, 8)))
    sixteen = remotes.precomputed(folder / "sixteen", remotes.smooth((8, 8, 8), np.uint16))
    three = remotes.precomputed(folder / "three", remotes.smooth((8, 8, 8, 3)))
    remotes.array(folder / "flat", "zarr", np.zeros((8, 8), np.uint8), (8, 8))
    remotes.array(folder / "films", "zarr", np.zeros((2, 2, 8, 8, 8), np.uint8), (1, 1, 8, 8, 8))
    remotes.array(folder / "single", "zarr", np.zeros((8, 8, 8), np.uint8), (8, 8, 8))
    for name, content in (("text", "hello"), ("list", "[]"), ("empty", "{}"), ("odd", '{"scales": [{}]}')):
        (folder / name).mkdir()
        (folder / name / "info").write_text(content)
    (folder / "group").mkdir()
    (folder / "group" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    uri = folder.as_uri()
    return {
        "unknown alias": ({"GridStore": "fly"}, 'could not find store with alias "fly" in TOML config file'),
        "unknown format": ({"GridStore": f"tiff://{uri}/good"}, "names no volume"),
        "unknown scheme": ({"GridStore": "zarr://ftp://host/em"}, "is no place of a volume"),
        "no host": ({"GridStore": "zarr://https:///em"}, "is no place of a volume"),
        "password": ({"GridStore": "zarr://https://me:secret@host/em"}, "leave the password out"),
        "nothing there": ({"GridStore": f"precomputed://{uri}/none"}, "has no file named info"),
        "no zarr there": ({"GridStore": f"zarr://{uri}/none"}, "has no file named zarr.json or .zarray"),
        "no n5 there": ({"GridStore": f"n5://{uri}/none"}, "has a file attributes.json"),
        "another format": ({"GridStore": f"zarr://{uri}/good"}, "has no file named"),
        "scale": ({"GridStore": good, "ScaleLevel": "3"}, "has 1 scales: ScaleLevel 3 is none of them"),
        "scale of one array": ({"GridStore": f"zarr://{uri}/single", "ScaleLevel": "1"}, "ScaleLevel must be 0"),
        "other voxels": ({"GridStore": sixteen}, "uint16 voxels, which uint8blk cannot show: make .* uint16blk"),
        "channels": ({"GridStore": three}, "3 channels, which uint8blk cannot show"),
        "two axes": ({"GridStore": f"zarr://{uri}/flat"}, "2 without names: a volume has x, y and z"),
        "films": ({"GridStore": f"zarr://{uri}/films"}, "2 items along axis t"),
        "group": ({"GridStore": f"zarr://{uri}/group"}, "lists no multiscales"),
        "no JSON": ({"GridStore": f"precomputed://{uri}/text"}, "is not JSON"),
        "no object": ({"GridStore": f"precomputed://{uri}/list"}, "is not a JSON object"),
        "no scales": ({"GridStore": f"precomputed://{uri}/empty"}, "lists no scales"),
        "odd scale": ({"GridStore": f"precomputed://{uri}/odd"}, "there is no volume at"),
    }


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, str], str]]:
    return wrong_places(tmp_path_factory.mktemp("wrong"))


@pytest.mark.parametrize("name", [
    "unknown alias", "unknown format", "unknown scheme", "no host", "password", "nothing there", "no zarr there", "no n5 there",
    "another format", "scale", "scale of one array", "other voxels", "channels", "two axes", "films", "group", "no JSON",
    "no object", "no scales", "odd scale",
])  # fmt: skip
def test_wrong_places_are_refused_in_one_line(name: str, refused: dict[str, tuple[dict[str, str], str]]):
    told, says = refused[name]
    with pytest.raises(BadRequest, match=says) as caught:
        registry()["uint8blk"].configure({k.lower(): v for k, v in told.items()})
    assert len(str(caught.value).splitlines()) == 1
    assert "secret" not in str(caught.value)


def test_without_tensorstore_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    place = remotes.precomputed(tmp_path / "em", remotes.smooth((8, 8, 8)))
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(Unsupported, match=r"pip install 'dvidfs\[proxy\]'"):
        registry()["uint8blk"].configure({"gridstore": place})


def test_a_volume_that_was_replaced_is_not_read(engine: Engine, tmp_path: Path):
    case = Case.new(engine, GridStore=remotes.precomputed(tmp_path / "em", remotes.smooth((8, 8, 8))))
    (tmp_path / "em" / "info").unlink()
    remotes.precomputed(tmp_path / "em", remotes.smooth((8, 8, 16)))
    reach.configure_cache(16)
    remote.forget()
    with pytest.raises(Corrupt, match="is not the one that the instance was made for"):
        case.raw("8_8_8", "0_0_0")


@pytest.mark.parametrize("compression", ["uncompressed", "raw"])
def test_damage_names_the_chunk(compression: str, engine: Engine, tmp_path: Path):
    place = remotes.precomputed(tmp_path / "em", remotes.smooth((64, 64, 64)), encoding="jpeg")
    case = Case.new(engine, GridStore=place)
    (tmp_path / "em" / "4_4_40" / "0-32_32-64_0-32").write_bytes(b"\xff\xd8 nothing of the kind")
    with pytest.raises(Corrupt, match="0-32_32-64_0-32"):
        if compression == "raw":
            case.raw("8_64_8", "0_0_0")
        else:
            case.read(requests.get_specificblocks, "0,1,0", compression, "")
    assert len(case.raw("8_8_8", "0_0_0")) == 512, "the rest can be read"


# -- parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine_name", "ref", "place"),
    [
        ("ngprecomputed", "my-bucket/em/jpeg", "precomputed://gs://my-bucket/em/jpeg/"),
        ("ngprecomputed", "s3://bucket/em/", "precomputed://s3://bucket/em/"),
        ("ngprecomputed", "gs://bucket", "precomputed://gs://bucket/"),
        ("zarr", "https://host:8000/em.zarr", "zarr://https://host:8000/em.zarr/"),
        ("n5", "/data/em.n5", "n5://file:///data/em.n5/"),
        ("n5", "n5://file:///data/em.n5", "n5://file:///data/em.n5/"),
    ],
)
def test_places_of_configured_stores(engine_name: str, ref: str, place: str):
    found = places.configured_place(engine_name, ref, None)
    assert str(found) == place
    assert places.parse_place(str(found)) == found


@pytest.mark.parametrize(
    ("url", "key", "below"),
    [
        ("file:///data/em/", "8_8_8", "file:///data/em/8_8_8/"),
        ("https://host/em/", "../other/./1", "https://host/other/1/"),
        ("gs://bucket/", "a//b", "gs://bucket/a/b/"),
    ],
)
def test_folders_below_a_place(url: str, key: str, below: str):
    assert places.Place("precomputed", url).below(key) == below


def test_a_remote_survives_json(engine: Engine, tmp_path: Path):
    case = Case.new(engine, GridStore=remotes.precomputed(tmp_path / "p", remotes.smooth((8, 8, 8)), sharded=True))
    kept = case.read(lambda view: view.instance.settings[REMOTE])
    again = Remote.from_json(json.loads(json.dumps(kept)))
    assert again == Remote.from_json(kept)
    assert again.box == Box((0, 0, 0), (8, 8, 8))


@given(sizes=st.lists(st.integers(0, 400), min_size=1, max_size=60))
def test_kept_chunks_stay_within_their_limit(sizes: list[int]):
    chunks = remote.Chunks(2000)
    for number, size in enumerate(sizes):
        chunks.keep("v", {(number, 0, 0): bytes(size) if size else None})
    found, missing = chunks.find("v", [(n, 0, 0) for n in range(len(sizes))])
    assert sum(len(c or b"") for c in found.values()) <= 2000
    assert len(found) + len(missing) == len(sizes)
    assert (len(sizes) - 1, 0, 0) in found, "what was used last is kept"
    kept = sorted(n for n, _, _ in found)
    assert kept == list(range(kept[0], len(sizes))), "what was used first goes first"


def test_a_gate_closes_and_lets_one_try(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(gate.time, "monotonic", lambda: now[0])
    way = gate.Gate()

    def fail() -> None:
        with way.through():
            raise Unreachable("down")

    with pytest.raises(Unreachable):
        fail()
    with pytest.raises(Unreachable, match="down"), way.through():
        pytest.fail("it is closed")
    now[0] += gate.COOLDOWN
    with way.through():
        with pytest.raises(Unreachable), way.through():
            pytest.fail("somebody else is trying")
    with way.through(), way.through():
        pass  # it is open again, to all
    with pytest.raises(Unreachable):
        fail()
    now[0] += gate.COOLDOWN
    with pytest.raises(Corrupt), way.through():
        raise Corrupt("an answer, though a bad one")
    with way.through(), way.through():
        pass


# -- with the rest of the house ------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_pyramids_are_made_of_proxied_volumes(encoding: str, engine: Engine, tmp_path: Path):
    voxels = remotes.smooth((64, 64, 64)) // 2 * 2
    case = Case.new(engine, GridStore=remotes.precomputed(tmp_path / "em", voxels, encoding=encoding))
    assert pyramid.build(engine, case.uuid, case.name, 1) == 1
    own = Case.new(engine, BlockSize="32,32,32")
    own.post_raw(voxels, (0, 0, 0))
    pyramid.build(engine, own.uuid, own.name, 1)
    whole = Box((0, 0, 0), (32, 32, 32))
    seen, want = (c.read(lambda view: Volume.of(view, 1).read(whole)) for c in (case, own))
    assert np.array_equal(seen, want)


def test_many_threads_read_one_volume(engine: Engine, tmp_path: Path):
    voxels = remotes.smooth(SHAPE)
    case = Case.new(engine, GridStore=remotes.precomputed(tmp_path / "em", voxels, encoding="jpeg"))
    want = case.raw("90_70_50", "0_0_0")
    reach.configure_cache(1)
    remote.forget()

    def both(number: int) -> bool:
        blocks = case.read(requests.get_subvolblocks, "96_96_64", "0_0_0", "")
        return case.raw("90_70_50", "0_0_0") == want and len(dict(read_records(blocks))) == 18

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(both, range(24)))


def test_what_is_read_can_be_changed_by_who_asked(engine: Engine, tmp_path: Path):
    """Masks are laid over the voxels in place; what is kept stays as it is."""
    voxels = remotes.smooth((32, 32, 32))
    case = Case.new(engine, GridStore=remotes.precomputed(tmp_path / "em", voxels))

    def spoil(view: Any) -> None:
        for data in Volume.of(view).stream(Box((0, 0, 0), (32, 32, 32))):
            np.frombuffer(data, np.uint8)[:] = 0
        Volume.of(view).read(Box((0, 0, 0), (32, 32, 32)))[:] = 0

    case.read(spoil)
    assert np.array_equal(read_all(case), voxels)


def test_tensorstore_is_loaded_at_first_use():
    code = "import sys, dvidfs.service, dvidfs.types.builtin; print('tensorstore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_folders_with_odd_names(engine: Engine, tmp_path: Path):
    voxels = remotes.smooth((8, 8, 8))
    remotes.precomputed(tmp_path / "fly brain, 10%", voxels)
    place = places.configured_place("ngprecomputed", "", tmp_path / "fly brain, 10%")
    assert np.array_equal(read_all(Case.new(engine, GridStore=str(place))), voxels)
