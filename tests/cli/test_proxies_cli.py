"""Proxied volumes through the command: stores of the TOML file, instances made of them, the example of the page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import live
import numpy as np
import pytest
import remotes

from dvidfs.config import GridStore, read_toml
from dvidfs.errors import BadRequest

SHAPE = (40, 50, 60)
TOML = """
[server]
cacheMB = 64
[store.main]
engine = "lmdb"
path = "store"
[store.Fly]
engine = "ngprecomputed"
{where}
[backend.default]
store = "main"
"""


def written(folder: Path, where: str) -> Path:
    path = folder / "config.toml"
    path.write_text(TOML.format(where=where))
    return path


@pytest.mark.parametrize(
    ("where", "store"),
    [
        ('ref = "gs://bucket/em"', GridStore("ngprecomputed", "gs://bucket/em")),
        ('url = "https://host/em"', GridStore("ngprecomputed", "https://host/em")),
        ('path = "em"', GridStore("ngprecomputed", "", Path("em"))),
    ],
    ids=["ref", "url", "path"],
)
def test_stores_that_are_volumes_elsewhere(where: str, store: GridStore, tmp_path: Path):
    config = read_toml(written(tmp_path, where))
    if store.path is not None:
        store = GridStore(store.engine, "", tmp_path / store.path)
    assert (config.grid_stores, config.cache_mb, config.store) == ({"fly": store}, 64, tmp_path / "store")
    assert config.warnings == ()


@pytest.mark.parametrize("where", ["", 'ref = "a"\npath = "b"'], ids=["nothing", "two"])
def test_a_store_says_once_where_it_is(where: str, tmp_path: Path):
    with pytest.raises(BadRequest, match=r"store.fly: give one of ref"):
        read_toml(written(tmp_path, where))


@pytest.mark.parametrize("size", ["0", '"much"', "9999999999"])
def test_the_cache_has_a_size(size: str, tmp_path: Path):
    path = written(tmp_path, 'path = "em"')
    path.write_text(path.read_text().replace("64", size))
    with pytest.raises(BadRequest, match=r"server\.cachemb"):
        read_toml(path)


def test_from_the_toml_file_to_an_export(tmp_path: Path):
    voxels = remotes.smooth(SHAPE)
    remotes.precomputed(tmp_path / "em", voxels)
    toml, store = written(tmp_path, 'path = "em"'), tmp_path / "store"
    live.dvidfs("init", store)
    live.dvidfs("repo", "new", store, "--alias", "medulla")
    unknown = live.dvidfs("instance", "new", store, "medulla", "uint8blk", "em", "--set", "GridStore=fly", check=False)
    assert (unknown.returncode, len(unknown.stderr.splitlines())) == (2, 1)
    assert 'could not find store with alias "fly"' in unknown.stderr
    live.dvidfs("instance", "new", toml, "medulla", "uint8blk", "em", "--set", "GridStore=fly")
    live.dvidfs("export", store, "medulla", "em", tmp_path / "out.npy")
    assert np.array_equal(np.load(tmp_path / "out.npy"), voxels)
    live.dvidfs("check", store, "--deep")


def test_the_server_knows_the_stores_of_its_file(tmp_path: Path):
    voxels = remotes.smooth(SHAPE)
    remotes.precomputed(tmp_path / "em", voxels)
    toml = written(tmp_path, 'path = "em"')
    with live.Server(toml, log=tmp_path / "log") as server:
        uuid = server.post("/api/repos", {}).ok().json()["root"]
        told = {"typename": "uint8blk", "dataname": "em", "GridStore": "FLY"}
        server.post(f"/api/repo/{uuid}/instance", told).ok()
        assert server.get(f"/api/node/{uuid}/em/raw/0_1_2/60_50_40/0_0_0").ok().body == voxels.tobytes()


def test_the_example_of_the_page_runs(tmp_path: Path):
    page = Path(__file__).parents[2] / "docs" / "proxies.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    command = tmp_path / "bin" / "dvidfs"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m dvidfs "$@"\n')
    command.chmod(0o755)
    env = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=page.parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_instances_that_the_file_asks_for(tmp_path: Path):
    scales = [remotes.smooth(SHAPE), remotes.smooth((20, 25, 30), seed=1)]
    remotes.precomputed(tmp_path / "em", *scales)
    toml, store = written(tmp_path, 'path = "em"\ninstance = "gray"'), tmp_path / "store"
    with live.Server(toml, log=tmp_path / "log") as server:
        assert "there are 0 repos" in (tmp_path / "log").read_text()
        uuid = server.post("/api/repos", {}).ok().json()["root"]
    for _ in range(2):
        with live.Server(toml, log=tmp_path / "log") as server:
            for name, voxels in zip(("gray", "gray_1"), scales, strict=True):
                size = "_".join(map(str, voxels.shape[::-1]))
                assert server.get(f"/api/node/{uuid}/{name}/raw/0_1_2/{size}/0_0_0").ok().body == voxels.tobytes()
    assert len(live.dvidfs("instance", "list", store, uuid).stdout.splitlines()) == 3


def test_a_volume_out_of_reach_keeps_no_service_from_starting(tmp_path: Path):
    toml, store = written(tmp_path, 'path = "none"\ninstance = "gray"'), tmp_path / "store"
    live.dvidfs("init", store)
    live.dvidfs("repo", "new", store, "--alias", "medulla")
    with live.Server(toml, log=tmp_path / "log") as server:
        server.get("/api/repos/info").ok()
    assert 'no instances "gray" of store fly: there is no volume at' in (tmp_path / "log").read_text()
