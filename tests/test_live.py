"""The helpers that start real processes keep their word: they wait for readiness, and nothing outlives its test."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import live
import pytest

needs_mounts = pytest.mark.skipif(bool(live.why_no_mounts()), reason=live.why_no_mounts())


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def starter(expression: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Another process that evaluates `expression` over `live` and then waits; the words that it printed."""
    code = f"import sys, live; from pathlib import Path; print(*({expression}), flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(live.__file__).parent), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().split()
    finally:
        process.kill()
        process.wait()


def test_a_server_answers_as_soon_as_it_is_ready(server: live.Server):
    assert server.get("/api/server/info").ok().json()


def test_a_server_ends_when_it_is_asked_to(store_path: Path, tmp_path: Path):
    with live.Server(store_path, log=tmp_path / "log") as server:
        assert listens(server.port)
    assert server.process.returncode == 0
    assert not listens(server.port)


def test_a_server_dies_with_its_test(store_path: Path, tmp_path: Path):
    made = f"(lambda s: (s.port, s))(live.Server(Path({str(store_path)!r}), log=Path({str(tmp_path / 'log')!r})))"
    with starter(f"globals().update(kept={made}) or kept[:1]") as (process, words):
        port = int(words[0])
        assert listens(port)
        process.kill()
        live.wait_until(lambda: not listens(port), what="the end of the server")


def test_a_server_that_cannot_start_says_why(tmp_path: Path):
    with pytest.raises(AssertionError, match="nowhere"):
        live.Server(tmp_path / "nowhere", log=tmp_path / "log")


def test_waiting_ends():
    with pytest.raises(AssertionError, match="a miracle did not come"):
        live.wait_until(lambda: False, timeout=0.01, what="a miracle")


@needs_mounts
def test_a_mount_goes_with_its_test(store_path: Path, tmp_path: Path):
    made = f"live.Mount(Path({str(store_path)!r}), log=Path({str(tmp_path / 'log')!r}))"
    with starter(f"globals().update(kept={made}) or (kept.path,)") as (process, words):
        assert words[0] in live.mount_points()
        process.kill()
        live.wait_until(lambda: words[0] not in live.mount_points(), what="the end of the mount")


@needs_mounts
def test_a_mount_left_dead_is_cleaned_by_the_next_run(store_path: Path, tmp_path: Path):
    made = f"live.Mount(Path({str(store_path)!r}), log=Path({str(tmp_path / 'log')!r}))"
    with starter(f"globals().update(kept={made}) or (kept.path, kept.pid)") as (process, words):
        subprocess.run(["kill", "-KILL", words[1]], check=True)
        assert words[0] in live.mount_points()
        live.clean_dead_mounts()
        assert words[0] in live.mount_points(), "its owner lives: it is not ours to clean"
        process.kill()
        process.wait()
        live.clean_dead_mounts()
        assert words[0] not in live.mount_points()
        assert not Path(words[0]).exists()
