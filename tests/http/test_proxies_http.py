"""Proxied image volumes over HTTP: the same voxels as numpy, the original's refusals, and a server behind that comes and goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import live
import numpy as np
import pytest
import remotes
from serving import Served, fresh, one_line

from dvidfs.types.formats.blockstream import read_records
from dvidfs.types.proxy import gate, places, reach, remote

SHAPE = (50, 70, 90)


@pytest.fixture(autouse=True)
def _as_at_start() -> Iterator[None]:
    yield
    places.configure_stores({})
    reach.configure_cache(reach.CACHE_MB)
    remote.forget()
    gate.gate_of.cache_clear()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with fresh(tmp_path / "store") as server:
        yield server


@pytest.fixture
def files(tmp_path: Path) -> Iterator[remotes.FileServer]:
    (tmp_path / "files").mkdir()
    with remotes.file_server(tmp_path / "files") as server:
        yield server


def made(served: Served, place: str, **given: str) -> str:
    """The path of a new proxied instance."""
    uuid = served.new_repo()
    served.new_instance(uuid, "em", "uint8blk", GridStore=place, **given)
    return f"/api/node/{uuid}/em"


@pytest.mark.parametrize("form", ["precomputed raw", "precomputed jpeg sharded", "zarr", "n5"])
def test_volumes_behind_http(form: str, served: Served, files: remotes.FileServer):
    voxels, folder = remotes.smooth(SHAPE), files.folder / "em"
    kind, *how = form.split()
    if kind == "precomputed":
        remotes.precomputed(folder, voxels, encoding=how[0], sharded="sharded" in how)
    else:
        remotes.array(folder, kind, voxels, (16, 16, 32))
    em = made(served, f"{kind}://{files.url}/em")
    raw = np.frombuffer(served.get(f"{em}/raw/0_1_2/90_70_50/0_0_0").ok().body, np.uint8).reshape(SHAPE)
    if "jpeg" not in how:
        assert np.array_equal(raw, voxels)
    picture = served.get(f"{em}/raw/xy/90_70/0_0_10").ok()
    assert picture.headers["Content-Type"] == "image/png"
    blocks = dict(read_records(served.get(f"{em}/subvolblocks/32_32_32/0_0_0?compression=uncompressed").ok().body))
    first = np.frombuffer(blocks[0, 0, 0], np.uint8)
    size = served.get(f"{em}/info").ok().json()["Extended"]["BlockSize"]
    assert np.array_equal(first.reshape(size[::-1]), raw[: size[2], : size[1], : size[0]])
    row = np.frombuffer(served.get(f"{em}/blocks/0_0_0/1").ok().body, np.uint8)
    assert np.array_equal(row, first)


def test_what_info_says(served: Served, tmp_path: Path):
    place = remotes.precomputed(tmp_path / "em", remotes.smooth(SHAPE), encoding="jpeg", offset=(32, 0, -32))
    info = served.get(f"{made(served, place, Compression='lz4')}/info").ok().json()
    assert info["Base"]["Compression"] == "jpeg compression, level 80"
    assert info["Extents"] == {"MinPoint": [32, 0, -32], "MaxPoint": [121, 69, 17]}
    assert "Remote" not in info["Extended"]
    assert info["Extended"]["GridStore"] == place


def test_the_originals_words_for_writes(served: Served, tmp_path: Path):
    em = made(served, remotes.precomputed(tmp_path / "em", remotes.smooth(SHAPE)))
    before = served.counts()
    said = [
        served.post(f"{em}/raw/0_1_2/32_32_32/0_0_0", bytes(32**3)),
        served.post(f"{em}/blocks/0_0_0/1", bytes(32**3)),
    ]
    assert [reply.status for reply in said] == [400, 400]
    assert 'Data "em" does not support /raw endpoint since it is proxying data' in one_line(said[0])
    assert 'Data "em" uses an immutable GridStore so cannot received POSTs' in one_line(said[1])
    assert served.counts() == before


def test_configured_stores_and_who_may_name_places(tmp_path: Path):
    place = remotes.precomputed(tmp_path / "em", remotes.smooth(SHAPE))
    places.configure_stores({"fly": places.parse_place(place)})
    with fresh(tmp_path / "store", admin_token="open") as served:
        uuid = served.post("/api/repos?admintoken=open", {}).ok().json()["root"]
        path, told = f"/api/repo/{uuid}/instance", {"typename": "uint8blk", "dataname": "em"}
        refused = served.post(path, told | {"GridStore": place})
        assert "requires admin privileges" in one_line(refused)
        served.post(path, told | {"GridStore": "Fly"}).ok()
        served.post(f"{path}?admintoken=open", told | {"GridStore": place, "dataname": "too"}).ok()
        unknown = served.post(path, told | {"GridStore": "bee", "dataname": "no"})
        assert 'bad store (bee) designated for GridStore: could not find store with alias "bee"' in one_line(unknown)


def test_an_instance_is_not_made_when_nobody_answers(served: Served, files: remotes.FileServer):
    remotes.precomputed(files.folder / "em", remotes.smooth(SHAPE))
    files.stop()
    uuid, told = served.new_repo(), {"typename": "uint8blk", "dataname": "em"}
    before = served.counts()
    reply = served.post(f"/api/repo/{uuid}/instance", told | {"GridStore": f"precomputed://{files.url}/em"})
    assert reply.status == 502
    assert f"{files.url} cannot be reached: " in one_line(reply)
    assert served.counts() == before


def test_a_server_that_goes_and_comes_back(served: Served, files: remotes.FileServer, monkeypatch: pytest.MonkeyPatch):
    remotes.precomputed(files.folder / "em", remotes.smooth(SHAPE), encoding="jpeg")
    em = made(served, f"precomputed://{files.url}/em")
    first, second = (f"{em}/specificblocks?blocks={n},0,0" for n in range(2))
    kept = served.get(first).ok().body
    files.stop()
    down = served.get(second)
    assert down.status == 502
    assert f"{files.url} cannot be reached: " in one_line(down)
    assert "Could not connect" in down.text
    assert served.get(first).ok().body == kept, "what is in memory can still be had"
    files.start()
    files.asked.clear()
    assert served.get(second).status == 502, "asked a moment ago"
    assert files.asked == []
    now = gate.time.monotonic()
    monkeypatch.setattr(gate.time, "monotonic", lambda: now + gate.COOLDOWN)
    live.wait_until(lambda: served.get(second).status == 200, what="the volume behind the server")
    assert served.get(f"{em}/raw/0_1_2/90_70_50/0_0_0").ok()


def test_one_silent_server_is_given_up(served: Served, files: remotes.FileServer, monkeypatch: pytest.MonkeyPatch):
    remotes.precomputed(files.folder / "em", remotes.smooth(SHAPE))
    em = made(served, f"precomputed://{files.url}/em")
    monkeypatch.setattr(reach, "DEADLINE", 0.0)
    monkeypatch.setattr(reach, "SLOWEST", 1 << 60)
    reply = served.get(f"{em}/raw/0_1_2/90_70_50/0_0_0")
    assert reply.status == 502
    assert "no answer within" in one_line(reply)


def test_damage_is_a_server_error_that_names_the_chunk(served: Served, files: remotes.FileServer):
    remotes.precomputed(files.folder / "em", remotes.smooth(SHAPE), encoding="jpeg")
    em = made(served, f"precomputed://{files.url}/em")
    (files.folder / "em" / "4_4_40" / "0-32_0-32_0-32").write_bytes(b"no picture")
    for path in ("raw/0_1_2/8_8_8/0_0_0", "specificblocks?blocks=0,0,0&compression=uncompressed"):
        reply = served.get(f"{em}/{path}")
        assert reply.status == 500
        assert "0-32_0-32_0-32" in one_line(reply)
    served.get(f"{em}/raw/0_1_2/8_8_8/40_0_0").ok()


def test_versions_are_read_alike(served: Served, tmp_path: Path):
    voxels = remotes.smooth(SHAPE)
    uuid = served.new_repo()
    served.new_instance(uuid, "em", "uint8blk", GridStore=remotes.precomputed(tmp_path / "em", voxels))
    served.commit(uuid)
    child = served.child(uuid, "side")
    bodies = {served.get(f"/api/node/{u}/em/raw/0_1_2/90_70_50/0_0_0").ok().body for u in (uuid, child)}
    assert bodies == {voxels.tobytes()}
