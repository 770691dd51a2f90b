"""``dvidfs pyramid``: what it prints and refuses, that a service takes it over, and that a killed one goes on."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import live
import numpy as np
import pytest

from dvidfs.engine import ReadView, open_engine
from dvidfs.engine.check import check_store
from dvidfs.types.builtin import registry
from dvidfs.types.geometry import Box
from dvidfs.types.imageblk import pyramid
from dvidfs.types.imageblk.volume import Volume


def new_store(folder: Path, side: int = 64, block: int = 16) -> tuple[Path, np.ndarray]:
    """A store with repo `a` and the volume `gray` of random voxels, (z, y, x)."""
    voxels = np.random.default_rng(0).integers(0, 256, (side, side, side)).astype("u1")
    store, source = folder / "store", folder / "gray.npy"
    np.save(source, voxels)
    live.dvidfs("init", store)
    live.dvidfs("repo", "new", store, "--alias", "a")
    size = ",".join([str(block)] * 3)
    live.dvidfs("import", store, source, "--repo", "a", "--instance", "gray", "--block-size", size, "--quiet")
    return store, voxels


def halved(voxels: np.ndarray) -> np.ndarray:
    z, y, x = (n // 2 for n in voxels.shape)
    sums = voxels.astype("u4").reshape(z, 2, y, 2, x, 2).sum((1, 3, 5))
    return ((sums + 4) // 8).astype("u1")


def check(store: Path, voxels: np.ndarray, scales: int) -> None:
    """All scales are there, stored, and right; the store is whole."""
    with open_engine(store) as engine:
        with engine.read() as txn:
            (node,) = txn.graph.nodes()
            view = ReadView(txn, node, txn.graph.instance(node, "gray"))
            assert pyramid.get_pyramid(view) == {"scales": scales, "pending": False}
            for scale in range(1, scales + 1):
                voxels = halved(voxels)
                x = voxels.shape[0]
                assert np.array_equal(Volume.of(view, scale).read(Box((0, 0, 0), (x, x, x))), voxels)
        report = check_store(engine, deep=True, verifier=lambda name: registry()[name].verify)
        assert report.problems == []


def test_scales_are_made_and_added_to(tmp_path: Path):
    store, voxels = new_store(tmp_path)
    assert live.dvidfs("pyramid", store, "a", "gray", "--scales", 1).stdout.startswith('"gray" has scales 0 to 1')
    done = live.dvidfs("pyramid", store, "a", "gray", "--scales", 3, "--json", "--quiet")
    assert (json.loads(done.stdout), done.stderr) == ({"scales": 3}, "")
    check(store, voxels, 3)


def test_what_cannot_be_made_is_one_line(tmp_path: Path):
    store, _ = new_store(tmp_path, side=16)
    live.dvidfs("instance", "new", store, "a", "keyvalue", "kv")

    def said(*words: object) -> tuple[int, str]:
        done = live.dvidfs("pyramid", store, *words, check=False)
        assert (done.stdout, done.stderr.count("\n")) == ("", 1)
        return done.returncode, done.stderr

    assert "which has no scales: name a volume" in said("a", "kv")[1]
    assert 'no instance "missing"' in said("a", "missing")[1]
    assert "want 1 to 24" in said("a", "gray", "--scales", 25)[1]
    live.dvidfs("commit", store, "a")
    for more in ((), ("--background",)):
        code, line = said("a", "gray", "--scales", 1, *more)
        assert code
        assert "dvidfs newversion" in line


def test_a_service_makes_what_is_left_to_it(tmp_path: Path):
    store, voxels = new_store(tmp_path)
    told = live.dvidfs("pyramid", store, "a", "gray", "--scales", 2, "--background").stdout
    assert told.startswith('scales 1 to 2 of "gray" will be made by')
    with live.Server(store, log=tmp_path / "log") as server:
        (uuid,) = server.get("/api/repos/info").json()
        path = f"/api/node/{uuid}/gray"
        live.wait_until(lambda: server.get(f"{path}/pyramid").json() == {"scales": 2, "pending": False}, 30)
        assert server.get(f"{path}/raw/0_1_2/32_32_32/0_0_0?scale=1").ok().body == halved(voxels).tobytes()
        refused = server.get(f"{path}/raw/0_1_2/32_32_32/0_0_0?scale=3")
        assert (refused.status, refused.text.count("\n") <= 1, "dvidfs pyramid" in refused.text) == (400, True, True)
        voxels[:16, :16, 16:32] = 0
        server.post(f"{path}/raw/0_1_2/16_16_16/16_0_0", bytes(16**3)).ok()
        assert server.get(f"{path}/raw/0_1_2/32_32_32/0_0_0?scale=1").ok().body == halved(voxels).tobytes()
        assert server.post(f"{path}/pyramid", b'{"scales": 3}').ok().json() == {"scales": 2, "building": 3}
        live.wait_until(lambda: server.get(f"{path}/pyramid").json() == {"scales": 3, "pending": False}, 30)
    check(store, voxels, 3)


@pytest.mark.parametrize("resumed", ["command", "jobs run"])
def test_a_killed_one_goes_on(tmp_path: Path, resumed: str):
    store, voxels = new_store(tmp_path, side=96, block=8)
    words = ["pyramid", str(store), "a", "gray", "--scales", "3"]
    small = "import dvidfs.types.pyramids.work as w; w.STEP_BYTES = 8192"
    code = f"import sys; {small}; from dvidfs.__main__ import main; sys.argv = ['dvidfs', *{words}]; main()"
    with subprocess.Popen([live.DVIDFS[0], "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            with open_engine(store) as engine:
                live.wait_until(lambda: _steps(engine) > 20, 60, "a part of the work")
        finally:
            running.kill()
    with open_engine(store) as engine:
        assert 20 < _steps(engine) < 110  # of 125
    if resumed == "command":
        live.dvidfs(*words)
    else:
        live.dvidfs("jobs", store, "run")
    check(store, voxels, 3)


def _steps(engine) -> int:
    from dvidfs.engine import jobs

    with engine.read() as txn:
        return sum(job.done for job in jobs.all_jobs(txn) if job.kind == pyramid.JOB)
