"""The fast lane answers as aiohttp would, in order, and never takes bytes that are not its own.

Every test speaks raw bytes over loopback to a real server in a thread; ``X-Lane`` tells who answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import logging
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live import wait_until

from dvidfs.http import fastlane
from dvidfs.http.fastlane import FastProtocol, FastRunner, FastServer, Framing, HotReply, HotRequest, Lane

LOOPS = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]
HOST = b"Host: localhost\r\n"
TEXT = b"Content-Type: text/plain\r\n"
GATE = web.AppKey("gate", asyncio.Event)
BIG = bytes(range(256)) * 16 * 1024


def get(path: str, head: bytes = b"", method: bytes = b"GET") -> bytes:
    return method + b" " + path.encode() + b" HTTP/1.1\r\n" + HOST + head + b"\r\n"


def post(path: str, body: bytes, head: bytes = b"") -> bytes:
    return get(path, head + b"Content-Length: %d\r\n" % len(body), b"POST") + body


def answer_to(method: str, path: str, body: bytes) -> HotReply:
    """What both lanes say, each by its own means."""
    if path == "/hot/big":
        return HotReply(200, TEXT, BIG)
    if path.startswith("/hot/status/"):
        status = int(path.rsplit("/", 1)[1])
        return HotReply(status, TEXT, b"as asked")
    if path == "/hot/half":
        return HotReply(200, TEXT, BIG[: fastlane.BIG_REPLY])
    if path == "/hot/empty":
        return HotReply(200, b"", b"")
    return HotReply(200, TEXT, f"{method} {path} ".encode() + body)


class Book:
    """A responder that writes down what it was asked; ``/hot/write`` is answered when the test says so."""

    def __init__(self) -> None:
        self.seen: list[HotRequest] = []
        self.done: list[tuple[HotRequest, int, int, float]] = []
        self.writes: list[asyncio.Future[HotReply]] = []
        self.lane = Lane(self.answer, self.wants, lambda *row: self.done.append(row))

    def wants(self, method: bytes, target: bytes) -> bool:
        return b"hot" in target

    def answer(self, request: HotRequest) -> HotReply | asyncio.Future[HotReply] | None:
        if b"hot" not in request.target:
            return None
        self.seen.append(request)
        if request.target == b"/hot/boom":
            raise ValueError("a bug of ours")
        if request.target == b"/hot/write":
            self.writes.append(asyncio.get_running_loop().create_future())
            return self.writes[-1]
        reply = answer_to(request.method.decode(), request.target.decode(), request.body)
        return HotReply(reply.status, reply.head + b"X-Lane: fast\r\n", reply.body)


async def cold_answer(request: web.Request) -> web.StreamResponse:
    if request.headers.get("Upgrade") == "websocket":
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.close()
        return socket
    if request.path == "/cold/wait":
        await request.app[GATE].wait()
    reply = answer_to(request.method, request.path_qs, await request.read())
    head = dict(line.split(": ") for line in reply.head.decode().splitlines())
    return web.Response(status=reply.status, body=bytes(reply.body), headers=head | {"X-Lane": "cold"})


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def lane(self) -> str:
        return self.headers["x-lane"]

    def same(self) -> tuple[int, dict[str, str], bytes]:
        """Itself without what may differ between the lanes or two seconds."""
        return self.status, {k: v for k, v in self.headers.items() if k not in ("date", "server", "x-lane")}, self.body


class Wire:
    """One connection, raw."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self, method: str = "GET") -> Reply:
        start = self.file.readline()
        assert start.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), start
        headers: dict[str, str] = {}
        while (line := self.file.readline()) != b"\r\n":
            name, value = line.decode().rstrip("\r\n").split(": ", 1)
            headers[name.lower()] = value
        status = int(start.split()[1])
        size = 0 if method == "HEAD" or status in (101, 204, 304) else int(headers.get("content-length", 0))
        return Reply(status, headers, self.file.read(size))

    def ask(self, data: bytes) -> Reply:
        self.send(data)
        return self.reply("HEAD" if data.startswith(b"HEAD ") else "GET")

    def is_closed(self) -> bool:
        """Whether the server closes, having sent nothing more."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True


class Served:
    """A server in a thread of its own."""

    def __init__(self, lane: Lane | None, new_loop: Callable[[], asyncio.AbstractEventLoop], **options: Any) -> None:
        self.lane, self.new_loop, self.options = lane, new_loop, options
        ready = threading.Event()
        self.thread = threading.Thread(target=self._main, args=(ready,), daemon=True)
        self.thread.start()
        assert ready.wait(20)

    def _main(self, ready: threading.Event) -> None:
        with asyncio.Runner(loop_factory=self.new_loop) as loops:
            loops.run(self._serve(ready))

    async def _serve(self, ready: threading.Event) -> None:
        self.loop, self.ended = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=1 << 30)
        self.gate = app[GATE] = asyncio.Event()
        app.router.add_route("*", "/{path:.*}", cold_answer)
        self.runner = FastRunner(app, self.lane, **self.options)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        assert self.runner.server is not None
        self.server = self.runner.server
        self.port = self.runner.addresses[0][1]
        ready.set()
        await self.ended.wait()
        await self.runner.cleanup()

    def call(self, work: Callable[[], Any]) -> Any:
        """What `work` returns in the server's thread."""

        async def run() -> Any:
            return work()

        return self.run(run())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def connect(self) -> Wire:
        return Wire(self.port)

    def protocol(self) -> Any:
        """The protocol of the one connection there is."""
        return wait_until(lambda: self.server.connections, what="a connection")[0]

    def stop(self) -> None:
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.ended.set)
            self.thread.join(20)
            assert not self.thread.is_alive()


def loop_maker(kind: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop


@contextlib.contextmanager
def serving(lane: Lane | None, kind: str = "asyncio", **options: Any) -> Iterator[Served]:
    served = Served(lane, options.pop("new_loop", loop_maker(kind)), **options)
    try:
        yield served
    finally:
        served.stop()


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture(params=LOOPS)
def served(request: pytest.FixtureRequest, book: Book) -> Iterator[Served]:
    with serving(book.lane, request.param) as running:
        yield running


@pytest.fixture(scope="module")
def plain() -> Iterator[Served]:
    """aiohttp alone, as the measure of what is right."""
    with serving(None) as running:
        yield running


@pytest.fixture
def wire(served: Served) -> Iterator[Wire]:
    with served.connect() as connected:
        yield connected


def is_hot_again(wire: Wire) -> bool:
    """Whether the lane takes the connection back; a client that is quick enough still meets aiohttp tidying up."""
    return bool(wait_until(lambda: wire.ask(get("/hot/again")).lane == "fast", what="the lane"))


# What the lane answers


def test_a_hot_get_is_answered_by_the_lane(wire: Wire, book: Book):
    reply = wire.ask(get("/hot/key?a=%20b", b"X-Thing:  seven \r\n"))
    assert (reply.lane, reply.status, reply.body) == ("fast", 200, b"GET /hot/key?a=%20b ")
    assert set(reply.headers) == {"content-type", "content-length", "date", "x-lane"}
    [asked] = book.seen
    assert (asked.method, asked.target, asked.body) == (b"GET", b"/hot/key?a=%20b", b"")
    assert asked.head == HOST + b"X-Thing:  seven \r\n"
    assert (asked.header(b"x-thing"), asked.header(b"X-THING"), asked.header(b"absent")) == (b"seven", b"seven", None)
    assert asked.peer == wire.socket.getsockname()


def test_the_end_of_each_answer_is_told(wire: Wire, book: Book):
    wire.ask(get("/hot/key"))
    wire.ask(get("/hot/key", method=b"HEAD"))
    assert [(str(asked), status, sent) for asked, status, sent, _ in book.done] == [
        ("GET /hot/key", 200, 13),
        ("HEAD /hot/key", 200, 0),
    ]
    assert all(0 <= seconds < 20 for *_, seconds in book.done)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "path", ["/hot/key", "/hot/empty", "/hot/big", *(f"/hot/status/{n}" for n in (201, 204, 304, 404, 412, 599))]
)
def test_both_lanes_answer_alike(wire: Wire, plain: Served, method: str, path: str):
    data = get(path, b"Content-Length: 3\r\n", method.encode()) + b"abc"
    with plain.connect() as other:
        fast, cold = wire.ask(data), other.ask(data)
        assert (fast.lane, cold.lane) == ("fast", "cold")
        assert fast.same() == cold.same()
        assert wire.ask(get("/hot/next")).body == other.ask(get("/hot/next")).body


def test_pipelined_requests_are_answered_in_order(wire: Wire, served: Served):
    paths = ["/hot/1", "/hot/2", "/cold/3", "/hot/4", "/cold/5"]
    wire.send(b"".join(get(path) for path in paths))
    replies = [wire.reply() for _ in paths]
    assert [r.body.decode().split()[1] for r in replies] == paths
    assert [r.lane for r in replies] == ["fast", "fast", "cold", "cold", "cold"]
    assert served.server.requests_count == 5
    assert is_hot_again(wire)


def test_a_long_pipeline_is_answered_whole(wire: Wire):
    paths = [f"/hot/{n}" for n in range(5000)]
    sender = threading.Thread(target=wire.send, args=(b"".join(map(get, paths)),))
    sender.start()
    replies = [wire.reply() for _ in paths]
    sender.join()
    assert [r.body.decode().split()[1] for r in replies] == paths


@pytest.mark.parametrize(
    "data", [get("/hot/key", TEXT), post("/hot/key", b"value\r\n\r\nGET "), post("/cold/key", b"value")]
)
def test_a_request_may_be_cut_anywhere(served: Served, data: bytes, monkeypatch: pytest.MonkeyPatch):
    pieces: list[bytes] = []
    take = FastProtocol.data_received

    def noted(self: FastProtocol, piece: bytes) -> None:
        pieces.append(piece)
        take(self, piece)

    monkeypatch.setattr(FastProtocol, "data_received", noted)
    with served.connect() as wire:
        whole = wire.ask(data).same()
        for cut in range(1, len(data)):
            pieces.clear()
            wire.send(data[:cut])
            wait_until(lambda cut=cut: b"".join(pieces) == data[:cut], what="the first piece")
            assert wire.ask(data[cut:]).same() == whole
        assert is_hot_again(wire)


def test_a_small_body_in_a_segment_of_its_own_is_waited_for(wire: Wire, served: Served, book: Book):
    request = post("/hot/key", b"value")
    wire.send(request[:-5])
    wait_until(lambda: served.protocol()._held, what="the head")
    wire.send(b"val")
    wait_until(lambda: len(served.protocol()._held) == len(request) - 2, what="half the body")
    assert book.seen == []
    assert wire.ask(b"ue" + get("/hot/behind")).body == b"POST /hot/key value"
    assert wire.reply().lane == "fast"


@pytest.mark.parametrize("path", ["/cold/key", "/hot/key"], ids=["not-wanted", "too-long"])
def test_other_cut_bodies_go_to_aiohttp_at_once(wire: Wire, served: Served, book: Book, path: str):
    body = b"v" * (fastlane.MAX_BODY + 1 if path == "/hot/key" else 5)
    request = post(path, body)
    wire.send(request[:-2])
    wait_until(lambda: served.protocol()._request_in_progress, what="aiohttp's handler")
    reply = wire.ask(request[-2:])
    assert (reply.lane, len(reply.body)) == ("cold", len(f"POST {path} ") + len(body))
    assert is_hot_again(wire)


# What it leaves to aiohttp

UNUSUAL = {
    "chunked": get("/hot/a", b"Transfer-Encoding: chunked\r\n", b"POST") + b"3\r\nabc\r\n0\r\n\r\n",
    "http-1.0": b"GET /hot/a HTTP/1.0\r\n" + HOST + b"\r\n",
    "http-1.0-below": b"GET /hot/a HTTP/1.0\r\nX-A: b HTTP/1.1\r\n" + HOST + b"\r\n",
    "close": get("/hot/a", b"CONNECTION: Close\r\n"),
    "encoded-body": post("/hot/a", b"abc", b"Content-Encoding: identity\r\n"),
    "upgrade-alone": get("/hot/a", b"Upgrade: tea\r\n"),
    "unknown-method": get("/hot/a", method=b"BREW"),
    "no-host": b"GET /hot/a HTTP/1.1\r\n\r\n",
    "two-hosts": get("/hot/a", HOST),
    "two-lengths": post("/hot/a", b"abc", b"content-length: 3\r\n"),
    "odd-length": get("/hot/a", b"Content-Length: +3\r\n", b"POST"),
    "no-length": get("/hot/a", b"Content-Length:\r\n", b"POST"),
    "blank-in-name": get("/hot/a", b"Content-Length : 3\r\n"),
    "no-colon": get("/hot/a", b"nonsense\r\n"),
    "no-name": get("/hot/a", b": nonsense\r\n"),
    "folded": get("/hot/a", b"X-A: b\r\n c\r\n"),
    "bare-lf": get("/hot/a", b"X-A: b\nTransfer-Encoding: chunked\r\n"),
    "nul-in-value": get("/hot/a", b"X-A: b\0c\r\n"),
    "nul-in-target": get("/hot/a\0"),
    "blank-in-target": get("/hot/a b"),
    "fragment": get("/hot/a#b"),
    "no-slash": get("hot/a"),
    "asterisk": get("*", method=b"OPTIONS"),
    "long-target": get("/hot/" + "a" * 9000),
    "long-header": get("/hot/a", b"X-A: " + b"b" * 9000 + b"\r\n"),
    "many-headers": get("/hot/a", b"".join(b"X-%d: b\r\n" % n for n in range(200))),
    "leading-line": b"\r\n" + get("/hot/a"),
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40) + b"\r\n\r\n",
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_the_unusual_goes_to_aiohttp(wire: Wire, plain: Served, book: Book, name: str):
    with plain.connect() as other:
        assert wire.ask(UNUSUAL[name]).same() == other.ask(UNUSUAL[name]).same()
    assert book.seen == []


def test_expect_is_answered_by_aiohttp(wire: Wire, book: Book):
    wire.send(get("/hot/a", b"Expect: 100-continue\r\nContent-Length: 3\r\n", b"POST"))
    assert wire.reply().status == 100
    assert wire.ask(b"abc").lane == "cold"
    assert book.seen == []
    assert is_hot_again(wire)


def test_an_upgrade_is_answered_by_aiohttp(wire: Wire, book: Book):
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    assert wire.ask(get("/hot/a", b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + key)).status == 101
    assert wire.file.read(2)[0] == 0x88
    assert book.seen == []


def test_after_a_request_without_a_told_end_aiohttp_keeps_the_connection(wire: Wire, book: Book):
    wire.ask(UNUSUAL["chunked"])
    assert [wire.ask(get("/hot/a")).lane for _ in range(3)] == ["cold"] * 3


@pytest.mark.parametrize(
    "data", [get("/cold"), post("/cold", b"v" * 200_000), post("/cold", b""), get("/cold", method=b"OPTIONS")]
)
def test_the_lane_comes_back_after_a_cold_request(wire: Wire, data: bytes):
    assert wire.ask(data).lane == "cold"
    assert is_hot_again(wire)


def test_a_hot_request_waits_for_a_cold_one_under_way(wire: Wire, served: Served):
    wire.send(get("/cold/wait"))
    wait_until(lambda: served.protocol()._request_in_progress, what="aiohttp's handler")
    wire.send(get("/hot/a"))
    wait_until(lambda: served.protocol()._messages, what="the request behind")
    served.call(served.gate.set)
    assert [wire.reply().body for _ in range(2)] == [b"GET /cold/wait ", b"GET /hot/a "]


def test_a_request_behind_a_cold_body_goes_to_aiohttp(wire: Wire, served: Served):
    wire.send(post("/cold", b"12345")[:-2])
    wait_until(lambda: served.protocol()._request_in_progress, what="aiohttp's handler")
    assert wire.ask(b"45" + get("/hot/a")).body == b"POST /cold 12345"
    assert wire.reply().lane == "cold"


# Writes under way


def settle(served: Served, book: Book, result: HotReply | Exception | None, number: int = 0) -> None:
    """End the write of that number: with a reply, an error, or by cancelling it."""
    wait_until(lambda: len(book.writes) > number, what="the write")
    write = book.writes[number]
    if result is None:
        served.call(write.cancel)
    elif isinstance(result, Exception):
        served.call(lambda: write.set_exception(result))
    else:
        served.call(lambda: write.set_result(result))


WRITTEN = HotReply(200, TEXT + b"X-Lane: fast\r\n", b"written")


def test_a_write_is_answered_before_what_came_behind_it(wire: Wire, served: Served, book: Book):
    wire.send(get("/hot/1") + post("/hot/write", b"v") + get("/hot/2"))
    assert wire.reply().body == b"GET /hot/1 "
    wire.send(get("/cold/3") + get("/hot/4"))
    wait_until(lambda: served.protocol()._held.count(b"HTTP/1.1") == 3, what="the requests behind")
    assert len(book.seen) == 2
    settle(served, book, WRITTEN)
    replies = [wire.reply() for _ in range(4)]
    assert [r.body for r in replies] == [b"written", b"GET /hot/2 ", b"GET /cold/3 ", b"GET /hot/4 "]
    assert [r.lane for r in replies] == ["fast", "fast", "cold", "cold"]
    assert [str(asked) for asked, *_ in book.done] == ["GET /hot/1", "POST /hot/write", "GET /hot/2"]
    assert served.server.requests_count == 5


def test_writes_behind_each_other_are_done_one_by_one(wire: Wire, served: Served, book: Book):
    wire.send(post("/hot/write", b"1") + post("/hot/write", b"2"))
    settle(served, book, WRITTEN, 0)
    assert wire.reply().body == b"written"
    settle(served, book, HotReply(201, b"", b"again"), 1)
    assert (wire.reply().status, [asked.body for asked in book.seen]) == (201, [b"1", b"2"])


@pytest.mark.parametrize("path", ["/hot/key", "/cold/key"])
def test_what_comes_behind_a_write_is_bounded(wire: Wire, served: Served, book: Book, path: str):
    behind = [post(path, b"v" * fastlane.MAX_BODY)] * 128
    wire.send(post("/hot/write", b""))
    sender = threading.Thread(target=wire.send, args=(b"".join(behind),))
    sender.start()
    wait_until(lambda: not served.protocol().transport.is_reading(), what="the pause")
    assert fastlane.MAX_HELD < len(served.protocol()._held) < 2 * fastlane.MAX_HELD
    settle(served, book, WRITTEN)
    assert wire.reply().body == b"written"
    assert {len(wire.reply().body) for _ in behind} == {len(f"POST {path} ") + fastlane.MAX_BODY}
    sender.join()
    assert is_hot_again(wire)


@pytest.mark.parametrize(("result", "status"), [(OSError("disk"), 500), (None, 503)], ids=["failed", "cancelled"])
def test_a_write_that_fails_is_answered(wire: Wire, served: Served, book: Book, result: Exception | None, status: int):
    wire.send(post("/hot/write", b"v") + get("/hot/next"))
    settle(served, book, result)
    assert wire.reply().status == status
    assert wire.reply().body == b"GET /hot/next "


def test_a_write_outlives_its_client(served: Served, book: Book, caplog: pytest.LogCaptureFixture):
    with served.connect() as wire:
        wire.send(post("/hot/write", b"v") + get("/hot/behind"))
        wait_until(lambda: book.writes, what="the write")
    wait_until(lambda: not served.server.connections, what="the loss of the connection")
    assert not book.writes[0].done()
    settle(served, book, WRITTEN)
    wait_until(lambda: book.done, what="the end of the write")
    assert [(str(asked), status) for asked, status, *_ in book.done] == [("POST /hot/write", 200)]
    assert len(book.seen) == 1
    assert caplog.records == []
    with served.connect() as wire:
        assert wire.ask(get("/hot/next")).lane == "fast"


# Errors


def test_a_bug_is_a_500_and_the_connection_goes_on(wire: Wire, book: Book, caplog: pytest.LogCaptureFixture):
    wire.send(get("/hot/boom") + get("/hot/next"))
    reply = wire.reply()
    assert (reply.status, reply.headers["content-type"]) == (500, "text/plain; charset=utf-8")
    assert wire.reply().body == b"GET /hot/next "
    assert "a bug of ours" in caplog.text
    assert "Traceback" in caplog.text
    assert [status for _, status, *_ in book.done] == [500, 200]


def test_garbage_after_hot_requests_is_not_taken_for_a_stray_client(wire: Wire, caplog: pytest.LogCaptureFixture):
    wire.ask(get("/hot/a"))
    assert wire.ask(UNUSUAL["unknown-method"]).status == 400
    assert "Error handling request" in caplog.text


FRAGMENTS = st.sampled_from(
    [*UNUSUAL.values(), get("/hot/a"), get("/cold"), post("/hot/b", b"xyz"), b"\r\n", b"\r\n\r\n", b" HTTP/1.1\r\n", b"GET ",
     b"POST /hot HTTP/1.1\r\nContent-Length: 5\r\n", HOST, b"\n", b":", b"0\r\n\r\n"]
)  # fmt: skip


@pytest.fixture(scope="module")
def steady() -> Iterator[Served]:
    """A server that lives through many examples."""
    with serving(Book().lane) as running:
        yield running


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.lists(FRAGMENTS | st.binary(max_size=30), max_size=6).map(b"".join))
def test_no_bytes_bring_the_server_down(steady: Served, data: bytes):
    with steady.connect() as wire, contextlib.suppress(ConnectionError):
        wire.send(data)
        wire.socket.shutdown(socket.SHUT_WR)
        wire.file.read()
    with steady.connect() as wire:
        assert wire.ask(get("/hot/alive")).lane == "fast"


REQUESTS = st.lists(
    st.sampled_from([get("/hot/a"), get("/cold/b"), get("/hot/c", TEXT), post("/hot/d", b"value"), post("/cold/e", b"\r\n\r\n"),
                     post("/hot/f", b""), post("/cold/g", b"x" * 70_000)]),
    min_size=1, max_size=8,
)  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=REQUESTS, cuts=st.lists(st.integers(0, 400), max_size=6))
def test_any_requests_in_any_pieces_are_answered_as_by_aiohttp(
    steady: Served, plain: Served, requests: list[bytes], cuts: list[int]
):
    stream = b"".join(requests)
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    with steady.connect() as wire, plain.connect() as other:
        for start, stop in itertools.pairwise(places):
            wire.send(stream[start:stop])
        assert [wire.reply().same() for _ in requests] == [other.ask(request).same() for request in requests]


@given(requests=REQUESTS, cuts=st.lists(st.integers(0, 400), max_size=6))
def test_framing_knows_the_ends_of_requests(requests: list[bytes], cuts: list[int]):
    stream = b"".join(requests)
    ends = {len(b"".join(requests[:n])) for n in range(1, len(requests) + 1)}
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(stream)}), len(stream)]
    framing = Framing()
    for start, stop in itertools.pairwise(places):
        assert framing.feed(stream[start:stop]) == (stop in ends)


@pytest.mark.parametrize(
    "name", ["chunked", "http-1.0", "two-lengths", "odd-length", "folded", "bare-lf", "leading-line"]
)
def test_framing_gives_up_what_it_cannot_follow(name: str):
    framing = Framing()
    assert not framing.feed(UNUSUAL[name] + get("/hot"))
    assert not framing.feed(get("/hot"))


def test_framing_gives_up_an_endless_head():
    framing = Framing()
    framing.feed(b"GET /" + b"a" * fastlane.MAX_HEAD)
    assert not framing.feed(get("/hot")[4:])
    assert not framing.feed(get("/hot"))


# Idle connections


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time the test moves on."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def pass_time(served: Served, seconds: float) -> None:
    def move() -> None:
        assert isinstance(served.loop, Clock)
        served.loop.ahead += seconds

    served.call(move)
    served.run(asyncio.sleep(0))
    served.run(asyncio.sleep(0))


@pytest.fixture
def clocked(book: Book) -> Iterator[Served]:
    with serving(book.lane, new_loop=Clock, keepalive_timeout=100) as running:
        yield running


def test_hot_requests_keep_a_connection_open_and_silence_closes_it(clocked: Served):
    with clocked.connect() as wire:
        for _ in range(4):
            assert wire.ask(get("/hot/a")).lane == "fast"
            pass_time(clocked, 60)
        pass_time(clocked, 60)
        assert wire.is_closed()


def test_a_long_write_is_not_silence(clocked: Served, book: Book):
    with clocked.connect() as wire:
        wire.send(post("/hot/write", b"v"))
        wait_until(lambda: book.writes, what="the write")
        for _ in range(3):
            pass_time(clocked, 101)
        settle(clocked, book, WRITTEN)
        assert wire.reply().body == b"written"
        wire.send(post("/hot/write", b"v"))
        wait_until(lambda: len(book.writes) == 2, what="the second write")
        pass_time(clocked, 60)
        settle(clocked, book, WRITTEN, 1)
        assert wire.reply().body == b"written"
        pass_time(clocked, 60)
        assert clocked.server.connections
        pass_time(clocked, 60)
        assert wire.is_closed()


def test_a_body_that_never_ends_is_cut(clocked: Served, book: Book):
    with clocked.connect() as wire:
        wire.ask(get("/hot/a"))
        pass_time(clocked, 60)
        wire.send(post("/hot/key", b"value")[:-1])
        wait_until(lambda: clocked.protocol()._held, what="the head")
        pass_time(clocked, 60)
        assert clocked.server.connections
        pass_time(clocked, 60)
        assert wire.is_closed()


# Slow readers


@pytest.mark.parametrize(("path", "count"), [("/hot/big", 6), ("/hot/half", 400)])
def test_a_slow_reader_gets_every_byte(wire: Wire, served: Served, path: str, count: int):
    wire.send(get(path) * count + get("/hot/end"))
    wait_until(lambda: served.protocol().writing_paused, what="a full socket")
    replies = [wire.reply() for _ in range(count)]
    body = answer_to("GET", path, b"").body
    assert all(r.body == body for r in replies)
    assert wire.reply().body == b"GET /hot/end "
    lanes = [r.lane for r in replies]
    assert lanes == sorted(lanes, reverse=True)
    assert {"fast", "cold"} == set(lanes)
    assert is_hot_again(wire)


# The end


def test_shutdown_waits_for_a_write_and_closes_the_idle(served: Served, book: Book):
    with served.connect() as idle, served.connect() as writer, served.connect() as waiting:
        idle.ask(get("/hot/a"))
        waiting.send(post("/hot/key", b"value")[:-1])
        writer.send(post("/hot/write", b"v") + get("/hot/behind"))
        wait_until(lambda: book.writes, what="the write")
        served.loop.call_soon_threadsafe(served.ended.set)
        wait_until(lambda: writer_is_closing(served), what="the shutdown")
        settle(served, book, WRITTEN)
        assert writer.reply().body == b"written"
        assert writer.is_closed()
        assert idle.is_closed()
        assert waiting.is_closed()
    served.stop()
    assert [str(asked) for asked in book.seen] == ["GET /hot/a", "POST /hot/write"]


def test_a_closing_server_takes_no_more(served: Served, book: Book):
    with served.connect() as wire:
        wire.ask(get("/hot/a"))
        served.call(served.server.pre_shutdown)
        wire.send(get("/hot/b"))
        for _ in range(5):
            served.run(asyncio.sleep(0))
        served.stop()
        assert wire.is_closed()
    assert [str(asked) for asked in book.seen] == ["GET /hot/a"]


def writer_is_closing(served: Served) -> bool:
    return any(connection._pending is not None and connection._close for connection in served.server.connections)  # type: ignore[attr-defined]


def test_shutdown_does_not_wait_for_ever(book: Book):
    with serving(book.lane, shutdown_timeout=0.05) as served, served.connect() as wire:
        wire.send(post("/hot/write", b"v"))
        wait_until(lambda: book.writes, what="the write")
        served.stop()
        assert wire.is_closed()
        assert book.done == []


# Without the lane


def test_the_aiohttp_here_carries_the_lane(served: Served):
    assert fastlane.supported() is None
    assert isinstance(served.server, FastServer)


def test_a_missing_private_name_means_no_lane(
    book: Book, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(fastlane, "PRIVATE_NAMES", (*fastlane.PRIVATE_NAMES, (web.Server, "_vanished")))
    with caplog.at_level(logging.WARNING), serving(book.lane) as served, served.connect() as wire:
        assert wire.ask(get("/hot/a")).lane == "cold"
        with served.connect() as second:
            assert second.ask(get("/hot/b")).lane == "cold"
    assert book.seen == []
    [said] = [record.getMessage() for record in caplog.records if "fast lane" in record.getMessage()]
    assert "Server._vanished" in said


def test_without_a_responder_the_server_is_aiohttps_own(plain: Served):
    assert type(plain.server) is web.Server


def test_the_runner_cancels_handlers_of_vanished_clients(served: Served):
    assert served.server.handler_cancellation
