"""The process that makes meshes: the same surfaces as in this one, one after the other, whatever happens to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import live
import numpy as np
import pytest

from dvidfs.errors import BadRequest, Busy
from dvidfs.types import mesher as module
from dvidfs.types.formats import meshes
from dvidfs.types.mesher import Mesher

NM = (8.0, 8.0, 10.0)


@pytest.fixture
def mesher() -> Iterator[Mesher]:
    made = Mesher()
    yield made
    made.stop()


def mask(seed: int = 0, side: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).random((side, side + 1, side + 2)) < 0.4


def pid(mesher: Mesher) -> int:
    assert mesher._process is not None
    return mesher._process.pid


def check(mesher: Mesher, wanted: np.ndarray) -> None:
    found, direct = mesher.mesh(wanted, NM, (1, -2, 3)), meshes.mesh_of(wanted, NM, (1, -2, 3))
    assert np.array_equal(found.vertices, direct.vertices)
    assert np.array_equal(found.triangles, direct.triangles)
    assert (found.vertices.dtype, found.triangles.dtype) == (direct.vertices.dtype, direct.triangles.dtype)


def test_meshes_are_those_of_this_process(mesher: Mesher):
    check(mesher, mask())
    first = pid(mesher)
    check(mesher, np.zeros((2, 3, 4), bool))
    check(mesher, mask(1)[::2, :, ::-1])
    assert pid(mesher) == first != os.getpid()


def test_many_threads_get_their_own(mesher: Mesher):
    failed: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            check(mesher, mask(seed, 3 + seed))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(module.WAITING)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_whoever_would_wait_too_long_is_sent_away(mesher: Mesher):
    check(mesher, mask())
    with mesher._lock:
        threads = [threading.Thread(target=mesher.mesh, args=(mask(), NM, (0, 0, 0))) for _ in range(module.WAITING)]
        for thread in threads:
            thread.start()
        live.wait_until(lambda: mesher._places._value == 0, 10, "the waiting ones")  # type: ignore[attr-defined]
        with pytest.raises(Busy, match="ask again later"):
            mesher.mesh(mask(), NM, (0, 0, 0))
    for thread in threads:
        thread.join()
    check(mesher, mask(1))


def test_what_cannot_be_meshed_is_refused_and_the_next_is_made(mesher: Mesher):
    long = np.zeros((1, 1, meshes.LONGEST + 1), bool)
    with pytest.raises(BadRequest, match="too large to mesh"):
        mesher.mesh(long, NM, (0, 0, 0))
    check(mesher, mask())


def test_a_process_that_died_is_started_again(mesher: Mesher):
    check(mesher, mask())
    for _ in range(3):
        before = pid(mesher)
        os.kill(before, signal.SIGKILL)
        check(mesher, mask(2))
        assert pid(mesher) != before


def test_a_process_that_always_dies_is_told_of(mesher: Mesher, monkeypatch: pytest.MonkeyPatch):
    dying = [sys.executable, "-c", "raise SystemExit(1)"]
    monkeypatch.setattr(
        Mesher, "_start", staticmethod(lambda: subprocess.Popen(dying, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    )
    with pytest.raises(Busy, match="was ended"):
        mesher.mesh(mask(side=200), NM, (0, 0, 0))


def test_it_ends_when_nobody_asks(mesher: Mesher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    script = tmp_path / "hasty.py"
    script.write_text("from dvidfs.types import mesher\nmesher.IDLE = 0.05\nmesher.main()\n")
    words = [sys.executable, str(script)]
    monkeypatch.setattr(
        Mesher, "_start", staticmethod(lambda: subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    )
    check(mesher, mask())
    process = mesher._process
    assert process is not None
    assert process.wait(20) == 0
    check(mesher, mask(3))


def test_it_ends_with_the_process_that_started_it():
    text = (
        "import numpy as np, os\n"
        "from dvidfs.types.mesher import mesher\n"
        "mesher().mesh(np.ones((2, 2, 2), bool), (1, 1, 1), (0, 0, 0))\n"
        "print(mesher()._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -9
    child = int(done.stdout)
    live.wait_until(lambda: not _alive(child), 10, "the end of the process")


def _alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_without_zmesh_there_are_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    module.available.cache_clear()
    assert not module.available()
    monkeypatch.undo()
    module.available.cache_clear()
    assert module.available()
