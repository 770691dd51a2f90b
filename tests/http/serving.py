"""A server in this process, so that a test can look at its engine, change its limits, and ask over real sockets.

Decides how such a server is started and ended; what is asked is the tests' own. Invariant: the server has ended, and
its store is closed, when the ``with`` is left.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import live
import trio

from dvidfs.engine import Engine, Store, open_engine
from dvidfs.http.options import HttpOptions
from dvidfs.http.server import serve_http
from dvidfs.types import builtin


class Served(live.Http):
    """One server over an engine; `get`, `post` and so on ask it on a connection of their own."""

    def __init__(self, engine: Engine, options: HttpOptions, port: int, stop: Callable[[], None]) -> None:
        super().__init__(port, "127.0.0.1")
        self.engine = engine
        self.options = options
        self.stop = stop

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=30)

    def raw(self, data: bytes, *, end: bool = False) -> bytes:
        """What comes back until the server closes, for bytes sent as they are; ``end``: then nothing more is sent."""
        with socket.create_connection((self.host, self.port), timeout=30) as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(data)
                if end:
                    sock.shutdown(socket.SHUT_WR)
            found = b""
            with contextlib.suppress(ConnectionError):
                while part := sock.recv(1 << 16):
                    found += part
            return found

    # -- what most tests begin with --------------------------------------------------------------------------------

    def new_repo(self, **given: str) -> str:
        return self.post("/api/repos", given).ok().json()["root"]

    def new_instance(self, uuid: str, name: str = "kv", kind: str = "keyvalue", **given: Any) -> None:
        self.post(f"/api/repo/{uuid}/instance", {"typename": kind, "dataname": name, **given}).ok()

    def commit(self, uuid: str) -> None:
        self.post(f"/api/node/{uuid}/commit", {}).ok()

    def child(self, uuid: str, branch: str = "") -> str:
        """A new version below a committed one."""
        if branch:
            return self.post(f"/api/node/{uuid}/branch", {"branch": branch}).ok().json()["child"]
        return self.post(f"/api/node/{uuid}/newversion", {}).ok().json()["child"]

    def counts(self) -> dict[str, int]:
        """Rows of each table: what a refused request must not change."""
        return self.engine.store.statistics()["rows"]


@contextlib.contextmanager
def serving(engine: Engine, **options: Any) -> Iterator[Served]:
    """A server of ``engine`` on a free port, in a trio loop of its own thread."""
    told = HttpOptions(**{"port": 0, **options})
    ready, box = threading.Event(), {}

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            _, box["port"] = await nursery.start(serve_http, engine, builtin.registry(), told)
            box["token"], box["scope"] = trio.lowlevel.current_trio_token(), nursery.cancel_scope
            ready.set()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as e:
            box["error"] = e
        finally:
            ready.set()

    def stop() -> None:
        with contextlib.suppress(trio.RunFinishedError):
            box["token"].run_sync_soon(box["scope"].cancel)

    thread = threading.Thread(target=run, name="test server", daemon=True)
    thread.start()
    assert ready.wait(30)
    if "error" in box:
        raise box["error"]
    try:
        yield Served(engine, told, box["port"], stop)
    finally:
        stop()
        thread.join(60)
        assert not thread.is_alive(), "the server did not end"
    if "error" in box:
        raise box["error"]


@contextlib.contextmanager
def fresh(path: Path, **options: Any) -> Iterator[Served]:
    """A server over a fresh store."""
    Store.create(path)
    with open_engine(path, durability="periodic") as engine, serving(engine, **options) as server:
        yield server


def one_line(reply: live.Reply) -> str:
    """The text of an error, which is one line."""
    assert reply.headers["Content-Type"].startswith("text/plain"), reply
    assert reply.body.endswith(b"\n")
    assert reply.body.count(b"\n") == 1, reply.body
    return reply.body.decode().strip()


def keyvalues(pairs: dict[bytes, bytes]) -> bytes:
    """The protobuf message KeyValues, written by hand: field 1 of it are pairs with key 1 and value 2."""
    out = b""
    for key, value in pairs.items():
        pair = b"\x0a" + _varint(len(key)) + key + b"\x12" + _varint(len(value)) + value
        out += b"\x0a" + _varint(len(pair)) + pair
    return out


def read_keyvalues(data: bytes) -> dict[bytes, bytes]:
    out, at = {}, 0
    while at < len(data):
        assert data[at] == 0x0A
        size, at = _read_varint(data, at + 1)
        pair, at = data[at : at + size], at + size
        fields, inner = {1: b"", 2: b""}, 0
        while inner < len(pair):
            number = pair[inner] >> 3
            length, inner = _read_varint(pair, inner + 1)
            fields[number], inner = pair[inner : inner + length], inner + length
        out[fields[1]] = fields[2]
    return out


def key_list(keys: list[bytes]) -> bytes:
    """The protobuf message Keys: field 1 repeated."""
    return b"".join(b"\x0a" + _varint(len(k)) + k for k in keys)


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
