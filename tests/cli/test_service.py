"""`dvidfs serve` as a process: ready when it says so, gone when it is told, one line when it cannot start."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import live
import pytest

READY_LINE = re.compile(r"dvidfs: ready, http://127\.0\.0\.1:(\d+)\n")


def run(*words: object, **options) -> subprocess.CompletedProcess[str]:
    return live.dvidfs(*words, check=False, **options)


@contextlib.contextmanager
def daemon(*words: object, env: dict[str, str] | None = None) -> Iterator[subprocess.CompletedProcess[str]]:
    """A service in the background; whatever happens it is ended."""
    started = run(*words, "--daemon", env={**os.environ, **(env or {})})
    try:
        yield started
    finally:
        for pid in pids_of(words[1]):
            os.kill(pid, signal.SIGKILL)


def pids_of(word: object) -> list[int]:
    """Processes that have this word on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(word).encode() in words and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def test_ready_is_one_line_on_stdout(store_path: Path):
    words = [*live.DVIDFS, "serve", str(store_path), "--http", "127.0.0.1:0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        match = READY_LINE.fullmatch(process.stdout.readline())
        assert match
        assert live.Http(int(match[1])).get("/api/server/info").status == 200
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=30)
    assert (process.returncode, rest, errors) == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_signals_end_it_well(store_path: Path, tmp_path: Path, number: signal.Signals):
    server = live.Server(store_path, log=tmp_path / "log")
    server.process.send_signal(number)
    assert server.process.wait(30) == 0


def test_an_answer_in_flight_is_finished(store_path: Path, tmp_path: Path):
    """A long answer of which the client has read only the head when the server is told to end still comes whole."""
    value = os.urandom(1 << 20) * 40
    root = live.dvidfs("repo", "new", store_path, "--alias", "r").stdout.strip()
    live.dvidfs("instance", "new", store_path, "r", "keyvalue", "kv")
    (tmp_path / "value").write_bytes(value)
    live.dvidfs("key", "put", store_path, "r", "kv", "k", tmp_path / "value")
    server = live.Server(store_path, log=tmp_path / "log")
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", f"/api/node/{root}/kv/key/k")
        answer = connection.getresponse()
        server.process.terminate()
        assert answer.read() == value
    assert server.process.wait(30) == 0


def test_a_port_in_use_is_one_line(store_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("serve", store_path, "--http", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode != 0
    assert done.stdout == ""
    assert re.fullmatch(r"dvidfs: .*in use.*--http HOST:PORT.*\n", done.stderr)


def test_a_daemon_is_ready_when_the_command_returns(store_path: Path):
    with daemon("serve", store_path, "--http", "127.0.0.1:0") as started:
        match = READY_LINE.fullmatch(started.stdout)
        assert match
        assert started.returncode == 0
        assert live.Http(int(match[1])).get("/api/server/info").status == 200
        (pid,) = pids_of(store_path)
        assert os.getsid(pid) != os.getsid(0)
        os.kill(pid, signal.SIGTERM)
        live.wait_until(lambda: not pids_of(store_path), what="the end of the daemon")
    assert (store_path / "dvidfs.log").exists()


def test_a_daemon_that_cannot_start_fails_the_command(tmp_path: Path):
    with daemon("serve", tmp_path / "nothing") as started:
        assert (started.returncode, started.stdout) == (3, "")
        assert started.stderr.startswith("dvidfs: ")
        assert started.stderr.count("\n") == 1


def test_a_file_of_the_original_starts_it_and_makes_the_store(tmp_path: Path):
    config = tmp_path / "config.toml"
    config.write_text(
        '[server]\nhttpAddress = "127.0.0.1:0"\nnote = "a note"\nwrong = 1\n'
        '[store.main]\nengine = "lmdb"\npath = "db"\n[backend.default]\nstore = "main"\n'
    )
    command = [*live.DVIDFS, "-verbose", "-fullwrite", "serve", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        match = READY_LINE.fullmatch(process.stdout.readline())
        assert match
        info = live.Http(int(match[1])).get("/api/server/info").json()
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert info["Note"] == "a note"
    assert "unknown key server.wrong is ignored" in errors
    assert (tmp_path / "db" / "data.mdb").exists()


def test_a_wide_bind_without_a_token_says_that_nobody_is_admin(store_path: Path):
    with daemon("serve", store_path, "--http", "0.0.0.0:0", env={"DVID_ADMIN_TOKEN": ""}) as started:
        assert "nobody is an administrator" in started.stderr
    with daemon("serve", store_path, "--http", "0.0.0.0:0", env={"DVID_ADMIN_TOKEN": "t"}) as started:
        assert started.stderr == ""


def test_periodic_durability_is_told(store_path: Path):
    with daemon("serve", store_path, "--http", "127.0.0.1:0", "--durability", "periodic") as started:
        assert "a power cut may lose the last second" in started.stderr


def test_the_pid_file_is_there_while_it_runs(tmp_path: Path):
    config = tmp_path / "config.toml"
    config.write_text(
        '[server]\nhttpAddress = "127.0.0.1:0"\npidFile = "pid"\n'
        '[store.main]\nengine = "lmdb"\npath = "db"\n[backend.default]\nstore = "main"\n'
    )
    with daemon("serve", config):
        pid = int((tmp_path / "pid").read_text())
        assert pid in pids_of(config)
        os.kill(pid, signal.SIGTERM)
        live.wait_until(lambda: not (tmp_path / "pid").exists())


def test_mount_without_pyfuse3_says_what_to_install(store_path: Path, tmp_path: Path):
    code = (
        "import sys; sys.modules['pyfuse3'] = None; from dvidfs.__main__ import main; "
        f"sys.exit(main(['mount', {str(store_path)!r}, {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'dvidfs[mount]'" in done.stderr
    assert "libfuse3-dev" in done.stderr
    assert done.stderr.count("\n") == 1
