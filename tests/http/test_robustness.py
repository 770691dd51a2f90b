"""Whatever is sent, the answer is a 4xx of one line, nothing is written, and the server lives on; and how it ends.

"Nothing is written" means that the number of rows of every table, and the store's last transaction, are as before.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live import wait_until
from serving import Served, fresh, keyvalues, one_line, serving

from dvidfs.engine import Engine, ReadView, Store
from dvidfs.errors import ErrorKind
from dvidfs.http import errors, service

MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with fresh(tmp_path_factory.mktemp("robust") / "store") as running:
        yield running


@pytest.fixture(scope="module")
def places(server: Served) -> dict[str, str]:
    """A committed root with a value, its open child, an instance."""
    root = server.new_repo()
    server.new_instance(root)
    server.post(f"/api/node/{root}/kv/key/a", b"1").ok()
    server.commit(root)
    return {"root": root, "open": server.child(root)}


@pytest.fixture
def unchanged(server: Served, places: dict[str, str], caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """After the test the store is as before, the server answers, and no bug was logged."""
    before = server.counts(), server.engine.store.last_txn()
    yield
    assert (server.counts(), server.engine.store.last_txn()) == before
    assert server.get(f"/api/node/{places['open']}/kv/key/a").ok().body == b"1"
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []


def refused(reply: Any) -> None:
    assert 400 <= reply.status < 500, (reply.status, reply.body)
    one_line(reply)


# -- malformed requests ------------------------------------------------------------------------------------------

NAMES = [
    "nope", "%00", "%ff", "%F0%9F%98%80", "..%2f", "%2e%2e", "a" * 3000, ":", "::", ":master", "a:b:c", ":master~", ":master~-1",
    ":master~x", f":master~{'9' * 5000}", ":master~%D9%A3", ":nothing", " ", "%20", "+", "0", "-1", "*", "%", "%zz", "18446744073709551616",
    "' or 1=1", "{uuid}", "%0d%0aX: y",
]  # fmt: skip
PAGES = [
    ("GET", "/api/repo/{}/info"), ("HEAD", "/api/repo/{}"), ("GET", "/api/repo/{}/log"), ("POST", "/api/repo/{}/log"),
    ("POST", "/api/repo/{}/info"), ("POST", "/api/repo/{}/instance"), ("POST", "/api/repo/{}/merge"), ("POST", "/api/repo/{}/resolve"),
    ("GET", "/api/node/{}/note"), ("POST", "/api/node/{}/note"), ("POST", "/api/node/{}/commit"), ("POST", "/api/node/{}/branch"),
    ("POST", "/api/node/{}/newversion"), ("POST", "/api/node/{}/tag"), ("GET", "/api/node/{}/status"),
    ("GET", "/api/node/{}/kv/key/a"), ("POST", "/api/node/{}/kv/key/a"), ("DELETE", "/api/node/{}/kv/key/a"),
    ("GET", "/api/node/{}/kv/keys"), ("POST", "/api/node/{}/kv/keyvalues"), ("GET", "/api/node/{}/kv/info"),
]  # fmt: skip


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", NAMES, ids=lambda n: n[:20])
def test_versions_that_are_none(server: Served, places: dict[str, str], name: str):
    fine = name in (":", ":master")  # the only repo's
    for method, path in PAGES:
        if fine and method != "GET":
            continue
        reply = server.request(method, path.format(quote(name, safe="%:~'{}*+")), b"{}" if method == "POST" else None)
        if fine:
            assert reply.status == 200
        elif method == "HEAD":
            assert reply.status in (400, 404)
        else:
            refused(reply)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", [n for n in NAMES if "~" not in n], ids=lambda n: n[:20])
def test_instances_and_keywords_that_are_none(server: Served, places: dict[str, str], name: str):
    word = quote(name, safe="%:'{}*+")
    for method in ("GET", "POST", "DELETE", "PUT"):
        refused(server.request(method, f"/api/node/{places['open']}/{word}/keys", b"x"))
        if name not in (" ", "%20"):
            refused(server.request(method, f"/api/node/{places['open']}/kv/{word}", b"x"))


BODIES = [b"", b"{", b"[]", b"5", b"null", b'"text"', b"\xff\xfe", b"{} {}", b"nan", b'{"a": 1e999}', b"\0" * 100, b"[" * 100_000,
          b'{"note": "\\ud800"}', b'{"a":' * 5000, b"{'a': 1}", "{}\u2028".encode(), b'{"log": 5}', b'{"note": 5}', b'{"log": [5]}',
          b'{"branch": []}', b'{"tag": {}}', b'{"uuid": 5}', b'{"parents": {}, "mergeType": "conflict-free"}']  # fmt: skip
JSON_PAGES = [
    "/api/repo/{root}/log", "/api/repo/{root}/instance", "/api/repo/{root}/merge", "/api/repo/{root}/resolve",
    "/api/node/{open}/note", "/api/node/{open}/log", "/api/node/{root}/branch", "/api/node/{root}/tag",
    "/api/node/{open}/kv/tags", "/api/server/settings", "/api/repos",
]  # fmt: skip


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("body", BODIES, ids=lambda b: repr(b[:24]))
def test_bodies_that_make_no_sense(server: Served, places: dict[str, str], body: bytes):
    for page in JSON_PAGES:
        empty = body in (b"", b"null")
        if page == "/api/repos" and (empty or (body.startswith(b"{") and body.endswith(b"}"))):
            continue  # all of its options are optional, and unknown ones are passed over
        if page == "/api/server/settings" and body.startswith(b'{"'):
            continue
        if page.endswith("/tags") and body == b"{}":
            continue
        reply = server.post(page.format(**places), body)
        if reply.status == 200:  # a line of JSON that is right for this page would not be malformed
            pytest.fail(f"{page} took {body[:40]!r}")
        refused(reply)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "query",
    ["json=maybe&tar=true&json=true", "byte_start=1", "byte_end=99999999999999999999", "byte_start=a&byte_end=b"],
)
def test_options_that_make_no_sense(server: Served, places: dict[str, str], query: str):
    path = "keyrangevalues/a/z?json=true&tar=true" if "tar" in query else f"key/a?{query}"
    refused(server.get(f"/api/node/{places['open']}/kv/{path}"))


texts = st.text(max_size=12)
paths = st.lists(
    st.one_of(
        texts,
        st.sampled_from(["api", "node", "repo", "repos", "kv", "key", "keys", "info", "keyrange", "keyvalues", "mutations", "help",
                         "server", "{open}", "{root}", "", ".", "..", "log", "note", "commit", "a", "branch-versions", "blobstore"]),
    ),
    max_size=8,
)  # fmt: skip
queries = st.lists(
    st.tuples(
        st.one_of(texts, st.sampled_from(["json", "tar", "u", "app", "throttle", "admintoken", "byte_start", "who"])),
        texts,
    ),
    max_size=3,
)
bodies = st.one_of(
    st.binary(max_size=40),
    st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts), lambda v: st.one_of(st.lists(v), st.dictionaries(texts, v)), max_leaves=5)
    .map(json.dumps)
    .map(str.encode),
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]),
    path=paths,
    query=queries,
    body=bodies,
    raw=st.booleans(),
)
def test_any_request_is_answered(
    server: Served,
    places: dict[str, str],
    method: str,
    path: list[str],
    query: list[tuple[str, str]],
    body: bytes,
    raw: bool,
):
    parts = [
        part.format(**places)
        if part in ("{open}", "{root}")
        else quote(part, safe="" if not raw else "%&?=;:@!$'()*,~")
        for part in path
    ]
    target = "/" + "/".join(parts)
    if query:
        target += "?" + "&".join(f"{quote(k)}={quote(v)}" for k, v in query)
    reply = server.request(method, target, body if method in ("POST", "PUT", "PATCH", "DELETE") else None)
    assert reply.status < 500, (method, target, body, reply.body)
    if reply.status >= 400 and method != "HEAD":
        one_line(reply)
    assert server.get("/api/heartbeat").body == b"OK"


WIRE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /api/heartbeat HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/repos HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    b"POST /api/repos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    b"POST /api/repos HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /api/repos HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /api/heartbeat HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"BREW /api/heartbeat HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET //\xff\xfe/../x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET /api//node\xff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET /api/help/\xc3\xbc\xff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"\r\n" * 50,
    b"\0" * 5000,
]


@pytest.mark.parametrize("data", WIRE, ids=lambda d: repr(d[:30]))
def test_bytes_that_are_no_request(server: Served, places: dict[str, str], data: bytes):
    before = server.counts()
    found = server.raw(data, end=True)
    assert found == b"" or found.split(b" ", 2)[1][:1] in (b"3", b"4"), found[:200]
    assert server.counts() == before
    assert server.get("/api/heartbeat").body == b"OK"


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("size", [10, 70_000])
@pytest.mark.parametrize("page", ["key/a", "keyvalues", "blobstore"])
def test_a_body_that_is_cut_short_writes_nothing(server: Served, places: dict[str, str], size: int, page: str):
    path = f"/api/node/{places['open']}/kv/{page}"
    for head in (b"Content-Length: %d\r\n\r\n" % (size * 2), b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (size * 2)):
        server.raw(b"POST %s HTTP/1.1\r\nHost: localhost\r\n%s" % (path.encode(), head) + b"x" * size, end=True)


def test_a_body_that_is_longer_than_told_is_another_request(server: Served, places: dict[str, str]):
    path = f"/api/node/{places['open']}/kv/key/longer".encode()
    found = server.raw(b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabcdef\r\n\r\n" % path)
    assert found.startswith(b"HTTP/1.1 200")
    assert b" 400 Bad Request" in found
    assert server.get(path.decode()).body == b"abc"
    server.delete(path.decode()).ok()


def test_every_kind_of_error_has_a_status():
    assert set(errors.STATUS) == set(ErrorKind)
    assert all(400 <= status < 600 for status in errors.STATUS.values())


def test_our_own_bugs_are_500_and_logged(
    server: Served, places: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("on purpose")

    for name, path in (("text_entry", "key/a"), ("text_keys", "keyrange/a/b")):
        with monkeypatch.context() as patch:
            patch.setattr(f"dvidfs.engine.versions.ReadView.{name}", broken)
            reply = server.get(f"/api/node/{places['open']}/kv/{path}")
        assert reply.status == 500
        assert "log" in one_line(reply)
        assert "ZeroDivisionError" not in reply.text
        assert "ZeroDivisionError" in caplog.text
        assert server.get(f"/api/node/{places['open']}/kv/{path}").status == 200


def test_a_full_disk_is_507(tmp_path: Path):
    Store.create(tmp_path / "store")
    engine = Engine(Store(tmp_path / "store", map_size=4 << 20))
    try:
        with serving(engine) as small:
            root = small.new_repo()
            small.new_instance(root)
            small.post(f"/api/node/{root}/kv/key/kept", b"kept").ok()
            for path, body in (
                ("key/row", os.urandom(60_000)),
                ("key/pieces", os.urandom(8 * MIB)),
                ("keyvalues", keyvalues({b"k": os.urandom(MIB)})),
            ):
                for number in range(100):
                    reply = small.post(f"/api/node/{root}/kv/{path}{number if path == 'key/row' else ''}", body)
                    if reply.status != 200:
                        break
                assert reply.status == 507, path
                assert "full" in one_line(reply)
            assert small.get(f"/api/node/{root}/kv/key/kept").body == b"kept"
            assert small.get("/api/heartbeat").status == 200
    finally:
        engine.close()


# -- clients that vanish or stall --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long(server: Served, places: dict[str, str]) -> str:
    """The path of a value of 48 MiB: more than sockets hold."""
    path = f"/api/node/{places['open']}/kv/key/zlong"
    server.post(path, os.urandom(48 * MIB)).ok()
    return path


def readers(server: Served) -> int:
    """Snapshots that are held."""
    rows = server.engine.store._env.readers().splitlines()[1:]
    return sum(not row.endswith("-") for row in map(str.strip, rows) if row)  # "-": a slot kept for the next snapshot


def begin(server: Served, path: str, method: str = "GET") -> socket.socket:
    """A client that asks, reads a little, and then nothing."""
    sock = socket.create_connection((server.host, server.port), timeout=30)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert sock.recv(1000).startswith(b"HTTP/1.1 200")
    return sock


def test_a_client_that_vanishes_gives_its_snapshot_back(server: Served, long: str):
    before = readers(server)
    for _ in range(service.WORKERS + 4):
        sock = begin(server, long)
        wait_until(lambda: readers(server) > before, what="the snapshot of the stream")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # the connection is reset
        sock.close()
        wait_until(lambda: readers(server) <= before, what="the end of the stream")
    assert len(server.get(long).body) == 48 * MIB


def test_a_client_that_stalls_is_cut_and_its_snapshot_released(
    server: Served, long: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(service, "STALLED_SECONDS", 0.3)
    before = readers(server)
    sock = begin(server, long)
    wait_until(lambda: readers(server) <= before, what="the snapshot")
    with contextlib.suppress(ConnectionError):  # reset, or what the sockets held and then the end
        got = 0
        while part := sock.recv(1 << 20):
            got += len(part)
        assert got < 48 * MIB
    sock.close()
    assert len(server.get(long).body) == 48 * MIB


def test_asking_for_the_head_of_a_long_answer_holds_nothing(server: Served, places: dict[str, str], long: str):
    before = readers(server)
    for _ in range(service.WORKERS + 2):
        assert server.head(f"/api/node/{places['open']}/kv/keyrangevalues/a/zz").status == 200
    wait_until(lambda: readers(server) <= before, what="the release of all snapshots")
    assert len(server.get(f"/api/node/{places['open']}/kv/keyrangevalues/a/zz").body) > 48 * MIB


def test_an_upload_that_vanishes_leaves_only_what_the_sweep_frees(server: Served, places: dict[str, str]):
    path = f"/api/node/{places['open']}/kv/key/never"
    before = server.counts()
    sock = socket.create_connection((server.host, server.port), timeout=30)
    sock.sendall(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {50 * MIB}\r\n\r\n".encode() + os.urandom(5 * MIB)
    )
    wait_until(lambda: server.counts()["trash"] > before["trash"], what="the first piece")
    sock.close()
    assert server.get(path).status == 404
    assert {k: v for k, v in server.counts().items() if k not in ("values", "trash", "meta")} == {
        k: v for k, v in before.items() if k not in ("values", "trash", "meta")
    }


def test_throttled_calls_are_refused_when_too_many_run(server: Served, places: dict[str, str]):
    path = f"/api/node/{places['open']}/kv/mutations"
    server.post("/api/server/settings", {"throttle": "0"}).ok()
    reply = server.get(f"{path}?throttle=true")
    assert reply.status == 503
    one_line(reply)
    assert server.get(path).status == server.get(f"{path}?throttle=false").status == 200
    server.post("/api/server/settings", {"throttle": "1"}).ok()
    assert server.get(f"{path}?throttle=true").status == 200


# -- the request log ---------------------------------------------------------------------------------------------


def test_every_request_is_logged_in_one_line(tmp_path: Path):
    for fast in (True, False):
        log = tmp_path / f"requests-{fast}.log"
        with fresh(tmp_path / f"store-{fast}", request_log=log, fast_lane=fast) as server:
            root = server.new_repo()
            server.new_instance(root)
            server.post(f"/api/node/{root}/kv/key/a", b"12345").ok()
            server.get(f"/api/node/{root}/kv/key/a").ok()
            server.get(f"/api/node/{root}/kv/key/%0a?x=%00")
            server.get("/nothing")
        lines = [line.split(" ") for line in log.read_text().splitlines()]
        assert [(m, t, s, n) for _, m, t, s, n, _, _ in lines][2:4] == [
            ("POST", f"/api/node/{root}/kv/key/a", "200", "0"),
            ("GET", f"/api/node/{root}/kv/key/a", "200", "5"),
        ]
        assert [line[3] for line in lines] == ["200", "200", "200", "200", "404", "404"]
        for when, _, _, _, _, took, peer in lines:
            assert time.strptime(when, "%Y-%m-%dT%H:%M:%SZ")
            assert 0 <= float(took) < 60_000
            assert peer == "127.0.0.1"


# -- shutdown ----------------------------------------------------------------------------------------------------


def test_requests_in_flight_are_finished_at_the_end(tmp_path: Path):
    with fresh(tmp_path / "store") as server:
        root = server.new_repo()
        server.new_instance(root)
        path = f"/api/node/{root}/kv/key/slow"
        sock = socket.create_connection((server.host, server.port), timeout=30)
        idle = server.connect()
        idle.request("GET", "/api/heartbeat")
        assert idle.getresponse().read() == b"OK"
        value = os.urandom(3 * MIB)
        sock.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(value)}\r\n\r\n".encode()
            + value[: 2 * MIB]
        )
        wait_until(lambda: server.counts()["trash"], what="the first piece")
        server.stop()
        wait_until(lambda: _refuses(server), what="that nobody new is let in")
        sock.sendall(value[2 * MIB :])
        answer = b""
        while part := sock.recv(1000):
            answer += part
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert idle.sock is None or idle.sock.recv(10) == b""
        with server.engine.read() as txn:
            node = txn.graph.version(root)
            view = ReadView(txn, node, txn.graph.instance(node, "kv"))
            entry = view.text_entry(b"slow")
            assert entry is not None
            assert bytes(view.load(entry)) == value


def _refuses(server: Served) -> bool:
    try:
        socket.create_connection((server.host, server.port), timeout=5).close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


def test_the_end_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dvidfs.http.server.SHUTDOWN_SECONDS", 0.5)
    others = threading.enumerate()
    with fresh(tmp_path / "store") as server:
        root = server.new_repo()
        server.new_instance(root)
        path = f"/api/node/{root}/kv/key/long"
        server.post(path, os.urandom(32 * MIB)).ok()
        half = socket.create_connection((server.host, server.port), timeout=30)
        half.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345".encode())
        stalled = begin(server, path)
        threads = [t for t in threading.enumerate() if t.name == "http" and t not in others]
        assert len(threads) == 1
        server.stop()
        wait_until(lambda: not any(t.is_alive() for t in threads), what="the end of the server")
        assert half.recv(10) == b""
        half.close()
        stalled.close()
