"""What web pages may do to a server on this machine: CORS, preflight, rebinding of names, writes from foreign pages."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from serving import Served, fresh, one_line, serving

OURS = [
    "http://localhost",
    "http://localhost:3000",
    "https://127.0.0.1:8443",
    "http://[::1]:80",
    "http://app.localhost",
]
FOREIGN = [
    "http://elsewhere.example",
    "https://elsewhere.example:8443",
    "http://localhost.elsewhere.example",
    "http://127.0.0.1.elsewhere.example",
    "http://notlocalhost",
    "null",
    "file://",
    "http://[",
    "http://[::1",
    "",
    "x" * 3000,
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with fresh(tmp_path_factory.mktemp("browser") / "store") as running:
        yield running


@pytest.fixture(scope="module")
def kv(server: Served) -> str:
    uuid = server.new_repo()
    server.new_instance(uuid)
    server.post(f"/api/node/{uuid}/kv/key/a", b"1").ok()
    return f"/api/node/{uuid}/kv"


def allowed(reply: object) -> str | None:
    return reply.headers.get("Access-Control-Allow-Origin")  # type: ignore[attr-defined]


# -- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", OURS)
def test_pages_of_this_machine_may_read_and_write(server: Served, kv: str, origin: str):
    for method, path, body in (
        ("GET", f"{kv}/key/a", None),
        ("GET", f"{kv}/keys", None),
        ("HEAD", f"{kv}/key/a", None),
        ("GET", f"{kv}/key/missing", None),
        ("POST", f"{kv}/key/b", b"2"),
        ("DELETE", f"{kv}/key/b", None),
    ):
        reply = server.request(method, path, body, headers={"Origin": origin})
        assert reply.status in (200, 404)
        assert allowed(reply) == origin
        assert "Origin" in reply.headers["Vary"]


@pytest.mark.parametrize("origin", FOREIGN, ids=lambda o: o[:40])
def test_foreign_pages_may_neither_read_nor_write(server: Served, kv: str, origin: str):
    before = server.counts()
    for method, path, body in (
        ("POST", f"{kv}/key/a", b"evil"),
        ("DELETE", f"{kv}/key/a", None),
        ("PUT", f"{kv}/key/a", b"evil"),
        ("POST", f"{kv}/keyvalues", b""),
        ("POST", "/api/repos", b"{}"),
        ("POST", "/api/server/settings", b'{"throttle": "0"}'),
        ("PATCH", f"{kv}/keys", None),
    ):
        reply = server.request(method, path, body, headers={"Origin": origin})
        assert reply.status == 403
        one_line(reply)
        assert allowed(reply) is None
    assert server.counts() == before
    for path in (f"{kv}/key/a", f"{kv}/keys", "/api/repos/info"):
        assert allowed(server.get(path, headers={"Origin": origin})) is None


def test_a_refused_page_is_logged_once_with_the_option_that_allows_it(
    server: Served, kv: str, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING, "dvidfs.http"):
        for method, origin in (
            ("GET", "http://reads.example"),
            ("POST", "http://writes.example"),
            ("OPTIONS", "http://asks.example"),
        ):
            for _ in range(3):
                server.request(method, f"{kv}/key/a", headers={"Origin": origin})
            lines = [r.getMessage() for r in caplog.records if origin in r.getMessage()]
            assert len(lines) == 1
            assert f"--cors {origin}" in lines[0]


# -- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listed", ["http://good.example", "good.example"])
def test_listed_origins_may(server: Served, kv: str, listed: str):
    with serving(server.engine, cors=(listed,)) as other:
        good, bad = {"Origin": "http://good.example"}, {"Origin": "http://bad.example"}
        assert allowed(other.get(f"{kv}/key/a", headers=good)) == "http://good.example"
        assert other.post(f"{kv}/key/c", b"1", headers=good).status == 200
        assert allowed(other.get(f"{kv}/key/a", headers=bad)) is None
        assert other.post(f"{kv}/key/c", b"1", headers=bad).status == 403
        assert allowed(other.get(f"{kv}/key/a", headers={"Origin": OURS[1]})) == OURS[1]


def test_any_origin_may_with_a_star(server: Served, kv: str):
    with serving(server.engine, cors=("*",)) as other:
        for headers in ({}, {"Origin": "http://bad.example"}):
            assert allowed(other.get(f"{kv}/key/a", headers=headers)) == "*"
        assert other.post(f"{kv}/key/c", b"1", headers={"Origin": "http://bad.example"}).status == 200


def test_timing_is_told_only_when_allowed(server: Served, kv: str):
    assert "Timing-Allow-Origin" not in server.get(f"{kv}/key/a").headers
    with serving(server.engine, allow_timing=True) as other:
        for path in (f"{kv}/key/a", f"{kv}/keys"):
            assert other.get(path).headers["Timing-Allow-Origin"] == "*"


# -- preflight ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["key/a", "keys", "keyvalues"])
def test_preflight(server: Served, kv: str, path: str):
    asked = {
        "Origin": OURS[1],
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    reply = server.request("OPTIONS", f"{kv}/{path}", headers=asked)
    assert reply.status == 200
    assert allowed(reply) == OURS[1]
    assert {"GET", "POST", "DELETE"} <= set(reply.headers["Access-Control-Allow-Methods"].split(", "))
    assert {"content-type", "range"} <= {h.lower() for h in reply.headers["Access-Control-Allow-Headers"].split(", ")}
    assert allowed(server.request("OPTIONS", f"{kv}/{path}", headers={**asked, "Origin": FOREIGN[0]})) is None


# -- names of this machine ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:1", 200),
        ("127.9.9.9", 200),
        ("[::1]:8000", 200),
        ("x.localhost", 200),
        ("", 200),
        ("elsewhere.example", 403),
        ("elsewhere.example:8000", 403),
        ("localhost.elsewhere.example", 403),
        ("localhost@elsewhere.example", 403),
        ("192.168.1.5:8000", 403),
        ("0.0.0.0", 403),
        ("[::1", 403),
        ("[", 403),
        ("]", 403),
    ],
)
@pytest.mark.parametrize("page", ["/api/heartbeat", "key/a", "keys"])
def test_names_that_are_not_this_machine_are_refused(server: Served, kv: str, page: str, host: str, status: int):
    path = page if page.startswith("/") else f"{kv}/{page}"
    reply = server.get(path, headers={"Host": host})
    assert reply.status == status
    if status == 403:
        assert "not this machine" in one_line(reply)


def test_a_server_bound_wider_answers_to_any_name(server: Served, kv: str):
    with serving(server.engine, host="0.0.0.0") as other:
        assert other.get(f"{kv}/key/a", headers={"Host": "elsewhere.example"}).status == 200
    with serving(server.engine, public_host="data.example") as other:
        assert other.get(f"{kv}/key/a", headers={"Host": "data.example"}).status == 200
        assert other.get(f"{kv}/key/a", headers={"Host": "elsewhere.example"}).status == 403
