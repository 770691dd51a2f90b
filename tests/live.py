"""Real processes under test: started, awaited, spoken to, and ended whatever happens.

Decides how a server or a mount is started and when it counts as ready; leaves to the fixtures in ``conftest.py``
which test gets which. Invariant: nothing started here outlives the process that started it (the kernel signals the
child when its parent dies), and a mount left dead by such an end is cleaned by the next run.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pytest

T = TypeVar("T")

DVIDFS = (sys.executable, "-m", "dvidfs")
READY = re.compile(r"^dvidfs: ready\b(?:.*http://[\d.]+:(\d+))?", re.MULTILINE)
"""The line by which `dvidfs serve` and `dvidfs mount` say that they can be used, and at which port."""

MOUNT_PREFIX = "dvidfs-test-"


def wait_until(predicate: Callable[[], T], timeout: float = 10.0, what: str = "the condition") -> T:
    """The first true value of `predicate`, asked again and again; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pause = 0.001
    while not (value := predicate()):
        assert time.monotonic() < deadline, f"{what} did not come within {timeout:g} s"
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return value


def dvidfs(*words: object, check: bool = True, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run one `dvidfs` command to its end; its output as text. A failure shows what the command said."""
    done = subprocess.run(
        [*DVIDFS, *map(str, words)], capture_output=True, text=True, timeout=timeout, check=False, **options
    )
    if check:
        assert done.returncode == 0, (
            f"dvidfs {' '.join(map(str, words))}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done


@dataclass(frozen=True)
class Reply:
    """One HTTP answer, its body whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)

    def ok(self) -> Self:
        """Itself, if the status is 2xx."""
        assert 200 <= self.status < 300, f"{self.status}: {self.body[:500]!r}"
        return self


class Http:
    """Small requests to one server, each on a connection of its own."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.host, self.port = host, port

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, timeout: float = 60
    ) -> Reply:
        """Send one request; a dict or list as body goes out as JSON."""
        if isinstance(body, dict | list):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, answer.read())  # type: ignore[arg-type]

    def get(self, path: str, **options: Any) -> Reply:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Reply:
        return self.request("POST", path, body, **options)

    def put(self, path: str, body: Any = None, **options: Any) -> Reply:
        return self.request("PUT", path, body, **options)

    def delete(self, path: str, **options: Any) -> Reply:
        return self.request("DELETE", path, **options)

    def head(self, path: str, **options: Any) -> Reply:
        return self.request("HEAD", path, **options)


class Running:
    """A `dvidfs` process that has said that it is ready. As a context manager it is stopped at the end."""

    def __init__(
        self, *words: object, log: Path, env: Mapping[str, str] | None = None, timeout: float = 30, death: str = "KILL"
    ) -> None:
        self.log = log
        self.words = [str(w) for w in words]
        command: Sequence[str] = ["setpriv", "--pdeathsig", death, *DVIDFS, *self.words]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **(env or {})}
            )
        atexit.register(self.kill)
        try:
            wait_until(self._ready, timeout, f"the readiness line of `dvidfs {' '.join(self.words)}`")
        except BaseException:
            self.kill()
            raise

    def _ready(self) -> bool:
        said = self.output()
        if READY.search(said):
            return True
        assert self.process.poll() is None, f"dvidfs {' '.join(self.words)} ended: {self.process.returncode}\n{said}"
        return False

    def port_it_says(self) -> int:
        """The port in the readiness line; asked for port 0, a server takes a free one."""
        said = READY.search(self.output())
        assert said is not None
        assert said[1], f"no address in the readiness line:\n{self.output()}"
        return int(said[1])

    def output(self) -> str:
        """All that it has printed so far."""
        return self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self, timeout: float = 15) -> int:
        """Ask it to end (SIGTERM) and wait; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(
                    f"dvidfs {' '.join(self.words)} did not end within {timeout:g} s of SIGTERM\n{self.output()}"
                ) from None
        atexit.unregister(self.kill)
        return self.process.returncode

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        atexit.unregister(self.kill)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()


class Server(Running, Http):
    """`dvidfs serve STORE` on a free loopback port (or `port`); `words` are further words of the command."""

    def __init__(self, store: Path, *words: object, log: Path, port: int = 0, **options: Any) -> None:
        Running.__init__(self, "serve", store, "--http", f"127.0.0.1:{port}", *words, log=log, **options)
        Http.__init__(self, self.port_it_says())


class Mount(Running, Http):
    """`dvidfs mount STORE DIR --http HOST:PORT`, in a folder of its own; `path` is where it is mounted."""

    def __init__(self, store: Path, *words: object, log: Path, port: int = 0, **options: Any) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"{MOUNT_PREFIX}{os.getpid()}-"))
        words = ("mount", store, self.path, "--http", f"127.0.0.1:{port}", *words)
        try:
            Running.__init__(self, *words, log=log, death="TERM", **options)
        except BaseException:
            unmount(self.path)
            raise
        Http.__init__(self, self.port_it_says())

    def stop(self, timeout: float = 15) -> int:
        try:
            return super().stop(timeout)
        finally:
            unmount(self.path)

    def kill(self) -> None:
        super().kill()
        unmount(self.path)


def mount_points() -> Iterator[str]:
    """Every mount point of this machine, as the kernel lists it."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        yield line.split()[4].encode().decode("unicode_escape")


def unmount(path: Path) -> None:
    """Take away a mount of ours and its folder, busy or dead; nothing happens if there is none."""
    if str(path) in mount_points():
        subprocess.run(["fusermount3", "-uz", str(path)], check=False, capture_output=True)
    with contextlib.suppress(OSError):
        path.rmdir()


def clean_dead_mounts() -> None:
    """Take away what killed runs left: mounts in folders of ours whose owner is gone."""
    ours = re.compile(rf"{re.escape(tempfile.gettempdir())}/{MOUNT_PREFIX}(\d+)-[^/]*$")
    folders = {*mount_points(), *map(str, Path(tempfile.gettempdir()).glob(f"{MOUNT_PREFIX}*-*"))}
    for folder in folders:
        if (match := ours.match(folder)) and not Path("/proc", match[1]).exists():
            unmount(Path(folder))


def why_no_mounts() -> str:
    """Why nothing can be mounted here; empty when it can."""
    if not Path("/dev/fuse").exists():
        return "/dev/fuse is absent: this kernel or container offers no FUSE"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is absent: script/setup installs it"
    return ""


def need_mounts() -> None:
    """For fixtures that mount: on a machine that cannot, their tests are left out, and the summary says why."""
    if reason := why_no_mounts():
        pytest.skip(reason)
