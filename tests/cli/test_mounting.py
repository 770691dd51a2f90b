"""`dvidfs mount` and `umount` as processes: ready when the mount answers, gone without a trace, busy mounts explained."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import live
import pytest

pytestmark = pytest.mark.skipif(bool(live.why_no_mounts()), reason=live.why_no_mounts())


@pytest.fixture
def point(store_path: Path) -> Iterator[Path]:
    """A folder to mount on; the store has repo `r` with a key. What is still mounted there at the end is taken away."""
    live.dvidfs("repo", "new", store_path, "--alias", "r")
    live.dvidfs("instance", "new", store_path, "r", "keyvalue", "kv")
    live.dvidfs("key", "put", store_path, "r", "kv", "k", input="value")
    folder = Path(live.tempfile.mkdtemp(prefix=f"{live.MOUNT_PREFIX}{os.getpid()}-"))
    yield folder
    live.unmount(folder)


def is_mounted(point: Path) -> bool:
    return str(point) in live.mount_points()


def test_a_daemon_mounts_and_umount_ends_it(store_path: Path, point: Path):
    started = live.dvidfs("mount", store_path, point, "--http", "127.0.0.1:0", "--daemon")
    pattern = rf"dvidfs: ready, mounted at {re.escape(str(point))}, http://127\.0\.0\.1:(\d+)\n"
    match = re.fullmatch(pattern, started.stdout)
    assert match
    assert (point / "r/branches/master/kv/k").read_text() == "value"
    assert live.Http(int(match[1])).get("/api/node/:master/kv/key/k").text == "value"
    live.dvidfs("umount", point)
    assert not is_mounted(point)
    live.wait_until(lambda: not _serves(int(match[1])), what="the end of the service")


def _serves(port: int) -> bool:
    try:
        return live.Http(port).get("/api/server/info").status == 200
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_signals_take_the_mount_away(store_path: Path, point: Path, number: signal.Signals):
    words = [*live.DVIDFS, "mount", str(store_path), str(point)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"dvidfs: ready, mounted at {point}\n"
        process.send_signal(number)
        assert process.wait(30) == 0
    assert not is_mounted(point)


def test_a_busy_mount_names_who_holds_it(store_path: Path, point: Path):
    live.dvidfs("mount", store_path, point, "--daemon")
    with subprocess.Popen(["sleep", "60"], cwd=point / "r") as holder:
        done = live.dvidfs("umount", point, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (6, 1)
        assert f"is busy, in use by sleep (pid {holder.pid})" in done.stderr
        assert "--lazy" in done.stderr
        live.dvidfs("umount", "--lazy", point)
        assert not is_mounted(point)
        holder.kill()


def test_what_cannot_be_mounted_is_one_line(store_path: Path, point: Path):
    live.dvidfs("mount", store_path, point, "--daemon")
    for words, says in (
        ((store_path, point), "mounted already: `dvidfs umount"),
        ((store_path, point / "absent"), "mkdir"),
        ((store_path, store_path), "is not empty"),
        ((point, store_path), "is not a dvidfs store"),
    ):
        done = live.dvidfs("mount", *words, check=False)
        assert done.returncode in (2, 3)
        assert done.stderr.startswith("dvidfs: ")
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
    live.dvidfs("umount", point)


def test_a_mount_that_was_killed_is_healed_by_the_next(store_path: Path, point: Path):
    words = [*live.DVIDFS, "mount", str(store_path), str(point)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert is_mounted(point)
    live.dvidfs("mount", store_path, point, "--daemon")
    assert (point / "r/branches/master/kv/k").read_text() == "value"
    live.dvidfs("umount", point)


def test_serving_goes_on_when_its_mount_is_taken_away(store_path: Path, point: Path, tmp_path: Path):
    with live.Server(store_path, "--mount", point, log=tmp_path / "log") as server:
        assert (point / "r/branches/master/kv/k").read_text() == "value"
        live.dvidfs("umount", point)
        assert server.get("/api/node/:master/kv/key/k").text == "value"
