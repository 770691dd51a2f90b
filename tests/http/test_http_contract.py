"""Every row that the fast lane may answer gives the same answer by aiohttp's way: status, headers and body."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from serving import Served, serving

from dvidfs.engine import Store, open_engine
from dvidfs.http import hot
from dvidfs.http.handlers import Handlers
from dvidfs.http.options import HttpOptions
from dvidfs.http.service import Service
from dvidfs.types import builtin
from dvidfs.types.base import Body

ROOT, OPEN, FLAT = "a" * 32, "b" * 32, "flat"
VALUES = {
    "small": b"x",
    "empty": b"",
    "json": b'{"a": [1, 2, 3]}',
    "packed": b"shrinks " * 2000,
    "raw": bytes(range(256)) * 40,
    "long": b"0123456789abcdef" * (1 << 17),
    "a b": b"blank",
    "sl%sh": b"percent",
    "ü😀": b"letters",
    "k" * 600: b"long key",
}


@pytest.fixture(scope="module")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Served]]:
    """A server with the fast lane and one without, over one engine."""
    path = tmp_path_factory.mktemp("lanes") / "store"
    Store.create(path)
    with open_engine(path, durability="periodic") as engine:
        with serving(engine) as fast, serving(engine, fast_lane=False) as slow:
            prepare(slow)
            yield fast, slow


def prepare(server: Served) -> None:
    """A committed root and an open child; values in both, one key deleted in the child."""
    server.new_repo(root=ROOT, alias="both lanes")
    server.new_instance(ROOT)
    server.new_instance(ROOT, FLAT, versioned="false")
    for name in ("kv", FLAT):
        for key, value in VALUES.items():
            server.post(f"/api/node/{ROOT}/{name}/key/{quote(key, safe='')}", value).ok()
    server.post(f"/api/node/{ROOT}/note", {"note": "a note"}).ok()
    server.post(f"/api/node/{ROOT}/log", {"log": ["a line"]}).ok()
    server.commit(ROOT)
    server.post(f"/api/node/{ROOT}/newversion", {"uuid": OPEN}).ok()
    server.post(f"/api/node/{OPEN}/kv/key/more", b"more").ok()
    server.delete(f"/api/node/{OPEN}/kv/key/small").ok()


def answer(server: Served, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Any:
    """What one lane says: status, headers without the date, body."""
    connection = server.connect()
    try:
        connection.request(method, path, body=body, headers=headers)
        reply = connection.getresponse()
        told = sorted((k.lower(), v) for k, v in reply.getheaders() if k.lower() not in ("date", "server"))
        return reply.status, told, reply.read()
    finally:
        connection.close()


def alike(
    lanes: tuple[Served, Served],
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Any:
    """The answer that both lanes gave."""
    fast, slow = (answer(server, method, path, body, headers or {}) for server in lanes)
    assert fast == slow, f"{method} {path} {headers or ''}"
    return fast


# -- rows --------------------------------------------------------------------------------------------------------


def inline_rows() -> list[tuple[str, str, bool]]:
    """(method, path, whether it writes) of each inline row, with words for its parts."""
    registry = builtin.registry()

    class NoStore:
        store = None

    service = Service(NoStore(), registry, HttpOptions())  # type: ignore[arg-type]
    words = {"uuid": OPEN, "branch": "master", "typename": "keyvalue"}
    out = []
    for route in Handlers(service).routes.all:
        if route.endpoint.inline:
            out.append((route.endpoint.method, route.endpoint.path.format(**words), route.endpoint.writes))
    for kind in registry:
        if kind.name != "keyvalue":
            continue
        for row in kind.endpoints:
            if row.inline:
                out.append((row.method, f"/api/node/{OPEN}/kv/{row.example}", row.writes))
    return out


ROWS = inline_rows()
CLOCKS = ("/api/load", "/api/server/info", "/api/storage")
"""What tells the time, or counts requests: no two answers are equal."""
READS = [(m, p) for m, p, writes in ROWS if not writes and p not in CLOCKS]


def test_there_are_rows_of_both_kinds():
    assert len(READS) > 15
    assert sum(writes for _, _, writes in ROWS) >= 2


@pytest.mark.parametrize(("method", "path"), READS)
def test_each_inline_row_answers_alike(lanes: tuple[Served, Served], method: str, path: str):
    status, _, body = alike(lanes, method, path)
    assert status in (200, 400, 404), body
    for spec in ("nope", "a", OPEN[:8], ":master", f"{ROOT[:4]}:master~1"):
        alike(lanes, method, path.replace(OPEN, spec))
    alike(lanes, method, path + "/")
    alike(lanes, method, path + "?u=me&app=tests&x")
    alike(lanes, method, path, headers={"Accept-Encoding": "gzip"})


@pytest.mark.parametrize("path", CLOCKS)
def test_rows_that_tell_the_time_have_the_same_form(lanes: tuple[Served, Served], path: str):
    fast, slow = (server.get(path) for server in lanes)
    assert (fast.status, fast.headers["Content-Type"]) == (slow.status, slow.headers["Content-Type"])
    assert fast.json().keys() == slow.json().keys()


@pytest.mark.parametrize(("uuid", "name"), [(ROOT, "kv"), (OPEN, "kv"), (ROOT, FLAT), (OPEN, FLAT), ("a", "kv")])
@pytest.mark.parametrize("key", [*VALUES, "more", "missing", "k" * 1024, "k" * 1025, "%00", "%ff", "..", "a/b"])
def test_every_kind_of_value_answers_alike(lanes: tuple[Served, Served], uuid: str, name: str, key: str):
    path = f"/api/node/{uuid}/{name}/key/{key if key in ('%00', '%ff', '..', 'a/b') else quote(key, safe='')}"
    for method in ("GET", "HEAD"):
        status, headers, body = alike(lanes, method, path)
        if method == "GET" and key in VALUES and not (uuid == OPEN and name == "kv" and key == "small"):
            assert (status, body) == (200, VALUES[key])


CONDITIONS: list[dict[str, str]] = [
    {"Range": "bytes=0-0"},
    {"Range": "bytes=2-5"},
    {"Range": "bytes=5-"},
    {"Range": "bytes=-3"},
    {"Range": "bytes=-0"},
    {"Range": "bytes=5-2"},
    {"Range": "bytes=0-0,2-3"},
    {"Range": "lines=1-2"},
    {"Range": "bytes=-"},
    {"Range": "bytes=9999999999-"},
    {"Range": "bytes=0-99999999999999999999999"},
    {"Range": f"bytes=0-{'9' * 5000}"},
    {"Range": f"bytes={'9' * 5000}-"},
    {"If-None-Match": '"nothing"'},
    {"If-None-Match": "*"},
    {"Accept-Encoding": "gzip"},
    {"Accept-Encoding": "br, zstd;q=0.5, gzip"},
    {"Accept-Encoding": "identity, gzip;q=0"},
    {"Connection": "close"},
    {"Origin": "http://localhost:1234"},
    {"Origin": "http://elsewhere.example"},
    {"Cookie": "a=b"},
    {"Authorization": "Bearer x"},
    {"Host": "elsewhere.example"},
    {"Host": "localhost"},
    {"Host": "[::1]:80"},
    {"Host": "[::1"},
    {"Host": ""},
]


@pytest.mark.parametrize("headers", CONDITIONS, ids=lambda h: str(h)[:40])
@pytest.mark.parametrize("key", ["small", "empty", "packed", "long", "missing"])
def test_conditions_answer_alike(lanes: tuple[Served, Served], headers: dict[str, str], key: str):
    for method in ("GET", "HEAD"):
        status, _, _ = alike(lanes, method, f"/api/node/{ROOT}/kv/key/{key}", headers=headers)
        assert status < 500
    alike(lanes, "GET", f"/api/repo/{ROOT}/info", headers=headers)


@pytest.mark.parametrize("uuid", [ROOT, OPEN])
def test_what_is_known_already_is_304_in_both(lanes: tuple[Served, Served], uuid: str):
    path = f"/api/node/{uuid}/kv/key/json"
    _, headers, _ = alike(lanes, "GET", path)
    tag = dict(headers)["etag"]
    for given in (tag, f"W/{tag}", f'"other", {tag}', f'"other" , W/{tag}'):
        status, headers, body = alike(lanes, "GET", path, headers={"If-None-Match": given})
        assert (status, body) == (304, b"")
        assert dict(headers)["etag"] == tag
    assert alike(lanes, "GET", path, headers={"If-None-Match": tag[:-2] + '"'})[0] == 200


QUERIES = [
    "byte_start=0&byte_end=0",
    "byte_start=1&byte_end=3",
    "byte_start=1",
    "byte_end=1",
    "byte_start=3&byte_end=1",
    "byte_start=0&byte_end=99999999",
    "byte_start=x&byte_end=1",
    "byte_start=-1&byte_end=1",
    "byte_start=0&byte_end=18446744073709551616",
    f"byte_start=0&byte_end={'9' * 6000}",
    "byte_start=&byte_end=",
    "byte_start=0&byte_start=2&byte_end=3",
    "u=me",
    "u=%ff&app=%00",
    "admintoken=wrong",
    "admintoken=%ff",
    "throttle=true",
    "&&=&",
    "",
]


@pytest.mark.parametrize("query", QUERIES, ids=lambda q: q[:40])
@pytest.mark.parametrize("key", ["small", "raw", "long", "missing"])
def test_options_answer_alike(lanes: tuple[Served, Served], query: str, key: str):
    for method in ("GET", "HEAD"):
        status, _, _ = alike(lanes, method, f"/api/node/{ROOT}/kv/key/{key}?{query}")
        assert status < 500
    alike(lanes, "GET", f"/api/node/{ROOT}/kv/key/{key}?{query}", headers={"Range": "bytes=0-0"})


WRONG = [
    ("GET", "/"),
    ("GET", "/api"),
    ("GET", "/api/"),
    ("GET", "/api/nothing"),
    ("GET", "/api/node"),
    ("GET", f"/api/node/{OPEN}"),
    ("GET", f"/api/node/{OPEN}/kv"),
    ("GET", f"/api/node/{OPEN}/kv/"),
    ("GET", f"/api/node/{OPEN}/kv/key"),
    ("GET", f"/api/node/{OPEN}/kv/key/"),
    ("GET", f"/api/node/{OPEN}/kv/key//"),
    ("GET", f"/api/node/{OPEN}/kv//key/a"),
    ("GET", f"/api/node/{OPEN}/kv/./key/a"),
    ("GET", f"/api/node/{OPEN}/kv/nothing"),
    ("GET", f"/api/node/{OPEN}/none/key/a"),
    ("GET", "/api/node//kv/key/a"),
    ("PUT", f"/api/node/{OPEN}/kv/key/a"),
    ("PATCH", f"/api/node/{OPEN}/kv/key/a"),
    ("OPTIONS", f"/api/node/{OPEN}/kv/key/a"),
    ("OPTIONS", f"/api/node/{OPEN}/note"),
    ("BREW", f"/api/node/{OPEN}/kv/key/a"),
    ("POST", f"/api/node/{ROOT}/kv/key/a"),
    ("DELETE", f"/api/node/{ROOT}/kv/key/a"),
    ("POST", f"/api/node/{OPEN}/kv/key/{'k' * 1025}"),
    ("POST", f"/api/node/{OPEN}/kv/key"),
    ("POST", "/api/node/nope/kv/key/a"),
    ("POST", f"/api/node/{OPEN}/none/key/a"),
    ("DELETE", f"/api/node/{OPEN}/kv"),
    ("HEAD", f"/api/node/{OPEN}/note"),
    ("HEAD", "/api/repo/nope"),
    ("GET", "/api/help/nothing"),
]


@pytest.mark.parametrize(("method", "path"), WRONG)
def test_what_is_refused_is_refused_alike(lanes: tuple[Served, Served], method: str, path: str):
    body = b"v" if method in ("POST", "PUT") else None
    status, headers, _ = alike(lanes, method, path, body)
    assert status in (200, 307, 400, 404)
    assert dict(headers).get("content-length") is not None


# -- writes ------------------------------------------------------------------------------------------------------

numbers = itertools.count()


@pytest.mark.parametrize("key", ["plain", "a%20b", "%C3%BC", "with.dots", "~tilde", "k" * 1024])
@pytest.mark.parametrize("value", [b"", b"v", b"v" * 5000, bytes(range(256)) * 200, b"big" * 400_000], ids=len)
def test_a_value_written_by_either_lane_is_the_same(lanes: tuple[Served, Served], key: str, value: bytes):
    fast, slow = lanes
    path = f"/api/node/{OPEN}/kv/key/{key}"
    for writer in lanes:
        answers = [answer(writer, "POST", f"{path}?u=me&app=t{next(numbers)}", value, {})]
        assert alike(lanes, "GET", path)[2] == value
        answers.append(answer(writer, "DELETE", path, None, {}))
        assert alike(lanes, "GET", path)[0] == 404
        answers.append(answer(writer, "POST", path, value, {}))
        assert [a[0] for a in answers] == [200, 200, 200]
        if writer is fast:
            first = answers
    assert first == answers
    assert alike(lanes, "GET", path)[2] == value


def test_the_log_of_changes_names_the_same_whoever_wrote(lanes: tuple[Served, Served]):
    for server in lanes:
        server.post(f"/api/node/{OPEN}/kv/key/logged?u=ann&app=prog", b"four").ok()
    log = [r for r in lanes[0].get(f"/api/node/{OPEN}/kv/mutations?who=true").ok().json() if r.get("Key") == "logged"]
    for record in log:
        assert record.pop("MutationID")
        assert record.pop("Timestamp")
    assert len(log) == 2
    assert log[0] == log[1]
    assert (log[0]["User"], log[0]["App"], log[0]["Bytes"]) == ("ann", "prog", 4)


def test_requests_on_one_connection_are_answered_in_order(lanes: tuple[Served, Served]):
    for server in lanes:
        connection = server.connect()
        for number in range(20):
            connection.request("POST", f"/api/node/{OPEN}/kv/key/order", body=b"%d" % number)
            assert connection.getresponse().read() == b""
            connection.request("GET", f"/api/node/{OPEN}/kv/key/order")
            assert connection.getresponse().read() == b"%d" % number
            connection.request(
                "GET", f"/api/node/{OPEN}/kv/keyrangevalues/a/z?json=true" if number % 5 == 0 else "/api/heartbeat"
            )
            assert connection.getresponse().read()
        connection.close()


def test_pipelined_requests_are_answered_in_order(lanes: tuple[Served, Served]):
    for server in lanes:
        wire = b""
        for number in range(10):
            wire += b"POST /api/node/%s/kv/key/pipe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n%d" % (
                OPEN.encode(),
                number,
            )
            wire += b"GET /api/node/%s/kv/key/pipe HTTP/1.1\r\nHost: localhost\r\n\r\n" % OPEN.encode()
        wire += b"GET /api/heartbeat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        found = server.raw(wire)
        assert found.count(b"HTTP/1.1 200") == 21
        bodies = [part.partition(b"\r\n\r\n")[2] for part in found.split(b"HTTP/1.1 200")[1:]]
        assert bodies == [x for n in range(10) for x in (b"", b"%d" % n)] + [b"OK"]


def test_the_fast_lane_is_in_use(lanes: tuple[Served, Served], monkeypatch: pytest.MonkeyPatch):
    """Else this whole page would compare aiohttp with itself."""
    taken: list[bytes] = []
    real = hot.Hot.__call__

    def seen(self: Any, request: Any) -> Any:
        found = real(self, request)
        if found is not None:
            taken.append(request.target)
        return found

    monkeypatch.setattr(hot.Hot, "__call__", seen)
    for server in lanes:
        for path in (f"/api/node/{ROOT}/kv/key/json", f"/api/node/{OPEN}/kv/key/json?u=me", "/api/heartbeat"):
            server.get(path).ok()
        server.post(f"/api/node/{OPEN}/kv/key/json", b"{}").ok()
    assert len(taken) == 4, taken


def test_pages_that_are_not_rows_of_the_lane_are_left_alone(lanes: tuple[Served, Served]):
    for path in (f"/api/node/{OPEN}/kv/keys", f"/api/node/{OPEN}/kv/keyrangevalues/a/z?tar=true"):
        alike(lanes, "GET", path)


def test_a_connection_that_asks_to_close_is_closed(lanes: tuple[Served, Served]):
    for server in lanes:
        for version in (b"1.0", b"1.1"):
            found = server.raw(b"GET /api/heartbeat HTTP/%s\r\nHost: localhost\r\nConnection: close\r\n\r\n" % version)
            assert found.endswith(b"OK")


def test_every_writing_inline_row_takes_a_value_or_nothing():
    for kind in builtin.registry():
        for row in kind.endpoints:
            if row.inline and row.writes:
                assert row.body in (Body.VALUE, Body.NONE), row.path
