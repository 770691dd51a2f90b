"""Long answers and long bodies in the fast lane, with an application that does nothing else; both kinds of loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from live import wait_until
from test_fastlane import (
    LOOPS,
    TEXT,
    Book,
    Clock,
    Served,
    Wire,
    get,
    pass_time,
    post,
    serving,
)

from dvidfs.http import fastlane
from dvidfs.http.fastlane import HotFlow, HotReply, HotRequest, Lane

LONG = bytes(range(251)) * 40_000
"""10 MB: more than sockets hold."""


class Sender:
    """A flow that a thread of its own sends; it ends with ``error`` after ``size`` bytes."""

    def __init__(self, error: BaseException | None = None, size: int = len(LONG)) -> None:
        self.error, self.size, self.is_cut = error, size, threading.Event()

    def start(self, fd: int, done: Callable[[int, int, BaseException | None], None]) -> None:
        loop, own = asyncio.get_running_loop(), socket.socket(fileno=socket.dup(fd))

        def send() -> None:
            own.settimeout(20)
            error = self.error
            try:
                own.sendall(fastlane.frame_flow(200, TEXT + b"X-Lane: fast\r\n", len(LONG)) + LONG[: self.size])
            except OSError as failure:
                error = failure
                self.is_cut.wait(20)  # the loop notices by itself, though perhaps later
            own.close()
            with contextlib.suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(done, 200, self.size, error)

        threading.Thread(target=send, daemon=True).start()

    def cut(self) -> None:
        self.is_cut.set()


class Sink:
    """A body; its answer tells how much came."""

    def __init__(self, book: LongBook, length: int, *, later: bool) -> None:
        self.book, self.later = book, later
        self.buffer = memoryview(bytearray(length))
        self.dropped = threading.Event()

    def finish(self) -> HotReply | asyncio.Future[HotReply]:
        reply = HotReply(200, TEXT + b"X-Lane: fast\r\n", bytes(self.buffer))
        if not self.later:
            return reply
        self.book.writes.append(asyncio.get_running_loop().create_future())
        asyncio.get_running_loop().call_soon(self.book.writes[-1].set_result, reply)
        return self.book.writes[-1]

    def drop(self) -> None:
        self.dropped.set()


class LongBook(Book):
    """A book that also sends ``/hot/flow`` and receives long bodies for ``/hot/sink`` and ``/hot/later``."""

    def __init__(self) -> None:
        super().__init__()
        self.sinks: list[Sink] = []
        self.flow = Sender()
        self.lane = Lane(self.answer, self.wants, lambda *row: self.done.append(row), self.receives)

    def answer(self, request: HotRequest) -> HotReply | asyncio.Future[HotReply] | HotFlow | None:
        if request.target == b"/hot/flow":
            return self.flow
        return super().answer(request)

    def receives(self, request: HotRequest, length: int) -> Sink | None:
        if request.target not in (b"/hot/sink", b"/hot/later"):
            return None
        self.sinks.append(Sink(self, length, later=request.target == b"/hot/later"))
        return self.sinks[-1]


@pytest.fixture
def book() -> LongBook:
    return LongBook()


@pytest.fixture(params=LOOPS)
def served(request: pytest.FixtureRequest, book: LongBook) -> Iterator[Served]:
    with serving(book.lane, request.param) as running:
        yield running


@pytest.fixture
def wire(served: Served) -> Iterator[Wire]:
    with served.connect() as connected:
        yield connected


# Long answers


def test_a_flow_is_sent_whole_and_the_connection_goes_on(wire: Wire, book: LongBook):
    for _ in range(3):
        reply = wire.ask(get("/hot/flow"))
        assert (reply.lane, reply.body) == ("fast", LONG)
    assert wire.ask(get("/hot/a")).lane == "fast"
    request, *told = book.done[0]
    assert (str(request), told[:2]) == ("GET /hot/flow", [200, len(LONG)])


def test_what_comes_behind_a_flow_waits_for_its_end(wire: Wire, served: Served, book: LongBook):
    wire.send(get("/hot/flow") + get("/hot/a") + get("/cold/b"))
    wait_until(lambda: served.protocol()._flow, what="the flow")
    assert book.seen == []
    assert wire.reply().body == LONG
    assert [wire.reply().body for _ in range(2)] == [b"GET /hot/a ", b"GET /cold/b "]


def test_a_flow_behind_an_answer_that_has_not_left_is_no_flow_yet(wire: Wire):
    """What was answered before it leaves first, whoever answers then."""
    wire.send(get("/hot/a") + get("/hot/flow") + get("/hot/b"))
    assert wire.reply().body == b"GET /hot/a "
    assert wire.reply().lane == "cold"
    assert wire.reply().body == b"GET /hot/b "


def test_a_flow_that_fails_in_its_middle_cuts_the_connection(wire: Wire, book: LongBook):
    book.flow = Sender(ValueError("half way"), 1000)
    wire.send(get("/hot/flow"))
    got = b""
    try:
        while part := wire.socket.recv(1 << 16):
            got += part
    except ConnectionResetError:
        pass
    assert len(got) < 2000


def test_a_flow_is_cut_when_its_client_goes(served: Served, book: LongBook):
    with served.connect() as wire:
        wire.send(get("/hot/flow"))
        wait_until(lambda: served.protocol()._flow, what="the flow")
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    wait_until(book.flow.is_cut.is_set, what="the cut")


def test_a_flow_is_cut_at_the_end(served: Served, book: LongBook):
    with served.connect() as wire:
        wire.send(get("/hot/flow"))
        wait_until(lambda: served.protocol()._flow, what="the flow")
        served.stop()
    assert book.flow.is_cut.is_set()


# Long bodies


@pytest.mark.parametrize("path", ["/hot/sink", "/hot/later"])
@pytest.mark.parametrize("length", [fastlane.MAX_BODY + 1, 300_000, 3_000_000])
def test_a_long_body_goes_where_it_is_wanted(wire: Wire, book: LongBook, path: str, length: int):
    body = LONG[:length]
    for _ in range(2):
        reply = wire.ask(post(path, body))
        assert (reply.lane, reply.body) == ("fast", body)
    assert wire.ask(get("/hot/a")).lane == "fast"


def test_a_long_body_may_be_cut_anywhere(wire: Wire, served: Served, book: LongBook):
    body = LONG[: fastlane.MAX_BODY + 10]
    request = post("/hot/sink", body)
    for cut in (60, len(request) - len(body), len(request) - len(body) + 1, len(request) - 1):
        seen = len(book.sinks)
        wire.send(request[:cut])
        if cut >= len(request) - len(body):
            wait_until(lambda n=seen: len(book.sinks) > n or served.protocol()._framing._left, what="the head")
        assert wire.ask(request[cut:]).body.endswith(body)


def test_a_long_body_with_something_behind_it(wire: Wire):
    body = LONG[:100_000]
    wire.send(post("/hot/sink", body) + get("/hot/a"))
    assert wire.reply().body.endswith(body)
    assert wire.reply().body == b"GET /hot/a "


def test_a_body_that_nobody_wants_goes_to_aiohttp(wire: Wire):
    body = LONG[:200_000]
    reply = wire.ask(post("/hot/key", body))
    assert (reply.lane, reply.body) == ("cold", b"POST /hot/key " + body)


def test_a_body_that_stops_is_dropped(served: Served, book: LongBook):
    with served.connect() as wire:
        wire.send(post("/hot/sink", LONG)[:500_000])
        [sink] = wait_until(lambda: book.sinks, what="the sink")
    assert wait_until(sink.dropped.is_set, what="the drop")


def test_a_body_that_rests_too_long_is_cut(book: LongBook):
    with serving(book.lane, new_loop=Clock, keepalive_timeout=100) as served, served.connect() as wire:
        request = post("/hot/sink", LONG)
        for start in (0, 200_000, 400_000):  # it comes slowly, but it comes
            wire.send(request[start : start + 200_000])
            at = start + 200_000 - (len(request) - len(LONG))
            wait_until(lambda n=at: getattr(served.protocol()._receiver, "_at", 0) == n, what="the piece")
            pass_time(served, 101)
            assert served.server.connections
        pass_time(served, 101)
        assert wire.is_closed()
    assert book.sinks[0].dropped.is_set()
