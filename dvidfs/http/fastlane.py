"""The fast lane: hot requests answered straight from the socket, everything else left to aiohttp.

Decides which received bytes are whole, ordinary HTTP/1.1 requests that the lane may answer, and frames the replies.
Leaves to the responder what a request means and whether it is hot, and to aiohttp every request that is in any way
unusual: malformed, chunked, upgraded, closing, expecting, large, or cut within its headers.

Invariant: the lane takes bytes only while aiohttp stands between two requests of that connection. So no byte is seen
by both, and answers leave in the order of the requests.

The lane leans on names that aiohttp does not publish (``PRIVATE_NAMES``). Where one is missing the server runs
without the lane, and says so at start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache, partial
from http.client import responses
from time import perf_counter, time
from typing import Any, NamedTuple, Protocol

import aiohttp
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.web_protocol import RequestHandler

log = logging.getLogger(__name__)

MAX_HEAD = 8000
"""Longest request line and headers, in bytes, that the lane reads; below aiohttp's limits, which stay the ones met."""

MAX_FIELDS = 100
"""Most header fields that the lane reads; below aiohttp's limit."""

MAX_BODY = 64 * 1024
"""Longest request body in bytes that the lane takes or waits for."""

MAX_HELD = 1024 * 1024
"""Bytes kept behind a write under way before the socket is read no more."""

BIG_REPLY = 64 * 1024
"""Reply bytes from which copying into one write costs more than a second system call."""

MAX_JOINED = 64
"""Pieces, two a reply, that are joined into one write."""

METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"})
"""Methods that the lane can frame; which of them are hot is the responder's to say."""

PRIVATE_NAMES: tuple[tuple[type, str], ...] = (
    (BaseProtocol, "_loop"),
    (BaseProtocol, "_paused"),
    (BaseProtocol, "transport"),
    (RequestHandler, "_close"),
    (RequestHandler, "_force_close"),
    (RequestHandler, "_keepalive"),
    (RequestHandler, "_keepalive_handle"),
    (RequestHandler, "_keepalive_timeout"),
    (RequestHandler, "_manager"),
    (RequestHandler, "_next_keepalive_close_time"),
    (RequestHandler, "_process_keepalive"),
    (RequestHandler, "_request_count"),
    (RequestHandler, "_waiter"),
    (web.Server, "_kwargs"),
    (web.AppRunner, "_make_server"),
)
"""What the lane uses of aiohttp beside its public names: (class, attribute or method)."""

_TOKEN = bytes(set(b"!#$%&'*+-.^_`|~") | set(range(48, 58)) | set(range(65, 91)) | set(range(97, 123)))
_FIELD = bytes([9, *range(32, 127), *range(128, 256)])
_TARGET = bytes(set(range(33, 127)) - {ord("#")})

_FRAMED_OTHERWISE = frozenset(
    {b"transfer-encoding", b"upgrade", b"http2-settings", b"proxy-connection", b"sec-websocket-key1", b"trailer"}
)
_NOT_HOT = frozenset({b"expect", b"content-encoding"})
_NO_BODY = frozenset({204, 304})


class HotRequest:
    """One whole request as it came off the wire.

    ``target`` is the raw path and query, ``head`` the raw header lines, each ended by CRLF, and ``peer`` what the
    transport calls ``peername``. Method, target and headers are well formed; nothing is percent-decoded.
    """

    __slots__ = ("_fields", "body", "head", "method", "peer", "target")

    def __init__(self, method: bytes, target: bytes, head: Head, body: bytes, peer: Any) -> None:
        self.method = method
        self.target = target
        self.head = head.raw
        self.body = body
        self.peer = peer
        self._fields = head.fields

    def __str__(self) -> str:
        return f"{self.method.decode()} {self.target.decode()}"

    def header(self, name: bytes) -> bytes | None:
        """The value of header ``name`` (any case) without surrounding blanks, or None; no header occurs twice."""
        return self._fields.get(name.lower())


@dataclass(slots=True, eq=False)
class HotReply:
    """An answer. ``head`` is ready header lines, each ended by CRLF.

    The lane adds Content-Length and Date and leaves out the body of a HEAD, 204 or 304. ``body`` must outlive the
    call: the socket may still read from it later, so no view into a read transaction.
    """

    # Not frozen: that would make each reply three times as dear to build.
    status: int
    head: bytes
    body: bytes | memoryview


class HotFlow(Protocol):
    """A long answer, which others than the loop send straight to the socket."""

    def start(self, fd: int, done: Callable[[int, int, BaseException | None], None]) -> None:
        """Begin; nobody else writes to the socket until ``done(status, body bytes sent, error)`` is called on the loop."""
        ...

    def cut(self) -> None:
        """The connection has gone; ``done`` may be called all the same."""
        ...


class HotSink(Protocol):
    """Where a long body is received: ``buffer`` is exactly as long as the body."""

    buffer: memoryview

    def finish(self) -> HotReply | asyncio.Future[HotReply]:
        """The body is complete."""
        ...

    def drop(self) -> None:
        """The client has gone before that."""
        ...


class Responder(Protocol):
    """Answers a request, says that it is not hot (None), that a write is under way (a future), or that others send."""

    def __call__(self, request: HotRequest) -> HotReply | asyncio.Future[HotReply] | HotFlow | None: ...


Wants = Callable[[bytes, bytes], bool]
"""(method, target) → whether such a request could be hot; asked before its body is complete. Must not raise."""

Receives = Callable[[HotRequest, int], HotSink | None]
"""(request without its body, length of it) → where the body of such a request goes, if the lane takes it. Must not raise."""

OnDone = Callable[[HotRequest, int, int, float], None]
"""(request, status, body bytes sent, seconds) → None, after each hot answer. Must not raise."""


def _never(method: bytes, target: bytes) -> bool:
    return False


class Lane(NamedTuple):
    """What the application gives to the lane."""

    responder: Responder
    wants: Wants = _never
    on_done: OnDone | None = None
    receives: Receives | None = None


class Head(NamedTuple):
    """One header block, judged."""

    raw: bytes
    fields: dict[bytes, bytes]
    length: int
    """Bytes of body that follow, or -1 where the lane cannot tell."""
    plain: bool
    """Whether a request with this head may be hot, its length apart."""


@lru_cache(maxsize=512)
def _read_head(raw: bytes) -> Head:
    """Judge a header block; cached, since a client sends the same one again and again."""
    fields: dict[bytes, bytes] = {}
    for line in raw.split(b"\r\n")[:-1]:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not (name and colon) or name in fields or name.translate(None, _TOKEN) or value.translate(None, _FIELD):
            return Head(raw, {}, -1, False)
        fields[name] = value.strip(b" \t")
    digits = fields.get(b"content-length", b"0")
    if not digits.isdigit() or len(digits) > 15 or not _FRAMED_OTHERWISE.isdisjoint(fields):
        return Head(raw, {}, -1, False)
    length = int(digits)
    stays_open = fields.get(b"connection", b"keep-alive").lower() == b"keep-alive"
    plain = stays_open and b"host" in fields and len(fields) <= MAX_FIELDS and _NOT_HOT.isdisjoint(fields)
    return Head(raw, fields, length, plain)


def _read_request(data: bytes, pos: int, end: int) -> tuple[bytes, bytes, Head, int] | None:
    """Method, target, head and start of body of the request whose head is ``data[pos:end]``, without its empty line.

    None where anything is unusual. A plain tuple, since this is most of what a hot request costs here.
    """
    gap = data.find(b" ", pos, end)
    eol = data.find(b" HTTP/1.1\r\n", gap, end + 2)
    if gap < 0 or eol < 0 or end - pos > MAX_HEAD:
        return None
    method, target = data[pos:gap], data[gap + 1 : eol]
    if method not in METHODS or target[:1] != b"/" or target.translate(None, _TARGET):
        return None
    return method, target, _read_head(data[eol + 11 : end + 2]), end + 4


class Framing:
    """Follows the bytes given to aiohttp, to know when it stands between two requests.

    Errs on one side only: a request whose end cannot be told leaves the connection to aiohttp for good.
    """

    __slots__ = ("_cut", "_left", "_lost")

    def __init__(self) -> None:
        self._left = 0  # body bytes still to come
        self._cut = b""  # a head of which the end is still to come
        self._lost = False

    def feed(self, data: bytes) -> bool:
        """Take what aiohttp takes; return whether it then stands between two requests."""
        if self._lost:
            return False
        if self._left > len(data):
            self._left -= len(data)
            return False
        data, pos = self._cut + data, self._left
        self._cut, self._left = b"", 0
        while pos < len(data):
            end = data.find(b"\r\n\r\n", pos)
            if end < 0 and len(data) - pos <= MAX_HEAD:
                self._cut = data[pos:]
                return False
            request = _read_request(data, pos, end) if end >= 0 else None
            if request is None or request[2].length < 0:
                self._lost = True
                return False
            pos = request[3] + request[2].length
        self._left = pos - len(data)
        return not self._left


class _StatusLines(dict[int, bytes]):
    def __missing__(self, status: int) -> bytes:
        line = self[status] = f"HTTP/1.1 {status} {responses.get(status, '')}\r\n".encode()
        return line


_status_lines = _StatusLines()


@lru_cache(maxsize=1)
def _date_and_end(second: int) -> bytes:
    return f"Date: {formatdate(second, usegmt=True)}\r\n\r\n".encode()


def _frame(method: bytes, reply: HotReply) -> tuple[bytes, bytes | memoryview]:
    """Status line and headers of a reply, and the body to send after them."""
    status, body = reply.status, reply.body
    size = len(body)
    start, end = _status_lines[status], _date_and_end(int(time()))
    if method == b"HEAD" or status in _NO_BODY:
        # As aiohttp: no length for what has no body, nor for a HEAD whose length is unknown.
        length = b"Content-Length: %d\r\n" % size if size and status not in _NO_BODY else b""
        return b"".join((start, reply.head, length, end)), b""
    return b"%b%bContent-Length: %d\r\n%b" % (start, reply.head, size, end), body


def frame_flow(status: int, head: bytes, size: int | None) -> bytes:
    """Status line and headers before a body that is sent piece by piece; ``size`` None: in chunks."""
    length = b"Transfer-Encoding: chunked\r\n" if size is None else b"Content-Length: %d\r\n" % size
    return b"".join((_status_lines[status], head, length, _date_and_end(int(time()))))


def _plain_text(status: int, text: str) -> HotReply:
    return HotReply(status, b"Content-Type: text/plain; charset=utf-8\r\n", f"{text}\n".encode())


_INTERNAL = _plain_text(500, "internal error; the server's log has the traceback")
_STOPPED = _plain_text(503, "stopped before the write was done; ask again")


class FastProtocol(RequestHandler):
    """aiohttp's server protocol with the lane before it."""

    __slots__ = ("_busy", "_flow", "_framing", "_given", "_held", "_lane", "_needed", "_peer", "_pending", "_receiver")

    def __init__(self, manager: web.Server, lane: Lane, *, loop: asyncio.AbstractEventLoop, **kwargs: Any) -> None:
        super().__init__(manager, loop=loop, **kwargs)
        self._lane = lane
        self._peer: Any = None
        self._framing = Framing()
        self._busy = False  # bytes wait here, or aiohttp stands within a request
        self._given = False  # whether aiohttp has been given any bytes
        self._held = bytearray()  # one request cut in its body, or what came behind a write under way
        self._needed = 0  # length of the held request
        self._pending: asyncio.Future[HotReply] | None = None
        self._flow: HotFlow | None = None
        self._receiver: _Receiver | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._peer = transport.get_extra_info("peername")

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._flow is not None:
            self._flow.cut()
        if self._receiver is not None:
            self._receiver.sink.drop()
            self._receiver = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # Pending: aiohttp waits for a request and has none queued. None: its task has not begun, has work, or has ended.
        waiter = self._waiter
        if (
            self._busy
            or (self._given if waiter is None else waiter.done())
            or self._paused
            or self._close
            or self._force_close
        ):
            self._receive_busy(data)
        else:
            self._serve(data)

    def _receive_busy(self, data: bytes) -> None:
        if self._pending is not None or self._flow is not None:
            self._held += data
            if len(self._held) > MAX_HELD and self.transport is not None:
                self.transport.pause_reading()
        elif self._needed:
            self._held += data
            if len(self._held) >= self._needed:
                self._release()
        else:
            self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        """Give bytes to aiohttp."""
        self._given = True
        self._busy = not self._framing.feed(data)
        super().data_received(data)

    def _release(self) -> None:
        """Take up the held bytes again."""
        data = bytes(self._held)
        self._held.clear()
        self._needed = 0
        self._busy = False
        if data:
            self.data_received(data)

    def _serve(self, data: bytes) -> None:
        """Answer the requests at the start of ``data`` while they are hot; aiohttp gets the rest."""
        lane, pos, size, count = self._lane, 0, len(data), 0
        out: list[bytes | memoryview] = []
        while pos < size and not self._paused:
            end = data.find(b"\r\n\r\n", pos)
            found = _read_request(data, pos, end) if end >= 0 else None
            if found is None:
                break
            method, target, head, start = found
            if not head.plain:
                break
            stop = start + head.length
            if head.length > MAX_BODY:
                if not out and self._receive_long(
                    HotRequest(method, target, head, b"", self._peer), head.length, data[pos:]
                ):
                    pos = size
                break
            if stop > size:
                if lane.wants(method, target):
                    self._hold(data[pos:], stop - pos)
                    pos = size
                break
            request = HotRequest(method, target, head, data[start:stop], self._peer)
            started = perf_counter()
            try:
                answer = lane.responder(request)
            except Exception:
                log.exception("error in the answer to %s", request)
                answer = _INTERNAL
            if answer is None:
                break
            if isinstance(answer, HotReply):
                self._reply(out, request, answer, started)
                pos = stop
            elif not isinstance(answer, asyncio.Future):
                if out or self._unsent():
                    break  # what was answered before must leave first: aiohttp's side sees to that
                self._hand_over(answer, request, started, data[stop:])
                pos = size
            else:
                self._wait_for(answer, request, started, data[stop:])
                pos = size
            count += 1
        if count:
            self._flush(out)
            self._request_count += count
            if self._manager is not None:
                self._manager.requests_count += count
            self._renew()
        if pos < size:
            self._pass_on(data[pos:])

    def _reply(self, out: list[bytes | memoryview], request: HotRequest, reply: HotReply, started: float) -> None:
        """Append a reply to ``out``; what is big is written at once, since joining would copy it."""
        head, body = _frame(request.method, reply)
        out.append(head)
        if len(body) > BIG_REPLY:
            out.append(body)
            if self.transport is not None:
                self.transport.writelines(out)  # uvloop: one system call, and nothing is copied
            out.clear()
        else:
            out.append(body)
            if len(out) > MAX_JOINED:
                self._flush(out)
        if self._lane.on_done is not None:
            self._lane.on_done(request, reply.status, len(body), perf_counter() - started)

    def _flush(self, out: list[bytes | memoryview]) -> None:
        if out and self.transport is not None:
            self.transport.write(b"".join(out))
            out.clear()

    def _hold(self, data: bytes, needed: int) -> None:
        """Keep a request until its body is complete, at most for one keep-alive period."""
        self._busy = True
        self._held += data
        self._needed = needed
        self._renew()

    def _receive_long(self, request: HotRequest, length: int, data: bytes) -> bool:
        """Receive the body of a request, of which ``data`` is the start, into a buffer of its own; False: aiohttp shall."""
        transport: Any = self.transport
        begun = len(data) - data.index(b"\r\n\r\n") - 4
        if self._lane.receives is None or begun > length or transport is None:
            return False
        sink = self._lane.receives(request, length)
        if sink is None:
            return False
        self._busy = True
        sink.buffer[:begun] = data[len(data) - begun :]
        self._receiver = _Receiver(self, request, sink, begun)
        self._exchange(self._receiver)
        self._renew()
        if begun == length:
            self._received(request, sink)
        return True

    def _exchange(self, protocol: asyncio.BaseProtocol) -> None:
        """Who is given what is received from now on; a loop looks at the kind of protocol when it starts to read."""
        transport: Any = self.transport
        transport.pause_reading()
        transport.set_protocol(protocol)
        transport.resume_reading()

    def _received(self, request: HotRequest, sink: HotSink) -> None:
        """A long body is complete."""
        self._receiver = None
        self._exchange(self)
        started = perf_counter()
        answer = sink.finish()
        if isinstance(answer, asyncio.Future):
            self._wait_for(answer, request, started, b"")
            return
        out: list[bytes | memoryview] = []
        self._reply(out, request, answer, started)
        self._flush(out)
        self._renew()
        self._release()

    def _wait_for(self, answer: asyncio.Future[HotReply], request: HotRequest, started: float, rest: bytes) -> None:
        """A write is under way: answer when it is done, and keep ``rest`` until then."""
        self._busy = True
        self._pending = answer
        self._held += rest
        answer.add_done_callback(partial(self._written, request, started))

    def _written(self, request: HotRequest, started: float, answer: asyncio.Future[HotReply]) -> None:
        """Send the answer of a write, unless the client has gone, and take up what came behind it."""
        self._pending = None
        try:
            reply = _STOPPED if answer.cancelled() else answer.result()
        except Exception:
            log.exception("error in the answer to %s", request)
            reply = _INTERNAL
        out: list[bytes | memoryview] = []
        self._reply(out, request, reply, started)
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        self._flush(out)
        self._renew()
        transport.resume_reading()
        self._release()

    def _unsent(self) -> int:
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    def _hand_over(self, flow: HotFlow, request: HotRequest, started: float, rest: bytes) -> None:
        """Others send the answer: keep ``rest`` until they are done."""
        assert self.transport is not None
        self._busy = True
        self._flow = flow
        self._held += rest
        flow.start(self.transport.get_extra_info("socket").fileno(), partial(self._handed_back, request, started))

    def _handed_back(
        self, request: HotRequest, started: float, status: int, sent: int, error: BaseException | None
    ) -> None:
        """The answer has been sent, or what of it was sent is all there will be: then only a cut tells the client."""
        self._flow = None
        if self._lane.on_done is not None:
            self._lane.on_done(request, status, sent, perf_counter() - started)
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if error is not None:
            transport.abort()
            return
        self._renew()
        transport.resume_reading()
        self._release()

    def _renew(self) -> None:
        """Start the keep-alive period anew."""
        self._keepalive = True  # older aiohttp: false until it has answered itself, and then nothing closes
        close_time = self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(close_time, self._process_keepalive)

    def _process_keepalive(self) -> None:
        receiver = self._receiver
        moved = receiver is not None and receiver.has_moved()
        if self._pending is not None or self._flow is not None or moved:  # aiohttp takes the connection for idle
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 aiohttp's signature
        """Finish a write under way within ``timeout`` seconds, then as aiohttp does."""
        if self._pending is not None:
            self.close()
            await asyncio.wait({self._pending}, timeout=timeout)
        await super().shutdown(timeout)


class _Receiver(asyncio.BufferedProtocol):
    """Takes the rest of a long body off the socket, into the buffer where it is wanted, for a fast protocol."""

    def __init__(self, owner: FastProtocol, request: HotRequest, sink: HotSink, begun: int) -> None:
        self.owner = owner
        self.request = request
        self.sink = sink
        self._at = begun
        self._seen = -1

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.sink.buffer[self._at : self._at + MAX_HELD]

    def buffer_updated(self, nbytes: int) -> None:
        self._at += nbytes
        if self._at == len(self.sink.buffer):
            self.owner._received(self.request, self.sink)

    def has_moved(self) -> bool:
        """Whether anything has come since the last call."""
        seen, self._seen = self._seen, self._at
        return seen != self._at

    def pause_writing(self) -> None:
        self.owner.pause_writing()

    def resume_writing(self) -> None:
        self.owner.resume_writing()

    def eof_received(self) -> bool | None:
        return self.owner.eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.owner.connection_lost(exc)


class FastServer(web.Server):
    """aiohttp's server, which builds a fast protocol for each connection."""

    def __init__(self, handler: Callable[[Any], Awaitable[Any]], lane: Lane, **kwargs: Any) -> None:
        super().__init__(handler, **kwargs)
        self._lane = lane

    def __call__(self) -> RequestHandler:
        return FastProtocol(self, self._lane, loop=self._loop, **self._kwargs)


def supported() -> str | None:
    """Why this aiohttp cannot carry the lane, in one line; None where it can."""
    for owner, name in PRIVATE_NAMES:
        if not any(name in vars(cls) or name in _names_used_at_birth(cls) for cls in owner.__mro__):
            return f"aiohttp {aiohttp.__version__} has no {owner.__name__}.{name}"
    return None


def _names_used_at_birth(cls: type) -> tuple[str, ...]:
    code = getattr(vars(cls).get("__init__"), "__code__", None)
    return code.co_names if code else ()


def make_server(handler: Callable[[Any], Awaitable[Any]], lane: Lane | None, **kwargs: Any) -> web.Server:
    """A server for ``loop.create_server``; with no lane, or an aiohttp that cannot carry one, aiohttp's own."""
    if lane is None:
        return web.Server(handler, **kwargs)
    if reason := supported():
        log.warning("serving without the fast lane: %s", reason)
        return web.Server(handler, **kwargs)
    return FastServer(handler, lane, **kwargs)


class FastRunner(web.AppRunner):
    """Runs an application with the lane before it.

    A vanished client cancels its handler, and nothing is logged per request here: writes shield themselves, and
    whoever wants a request log takes it from ``Lane.on_done`` and a middleware.
    """

    def __init__(self, app: web.Application, lane: Lane | None, **kwargs: Any) -> None:
        super().__init__(app, **({"handler_cancellation": True, "access_log": None} | kwargs))
        self._lane = lane

    async def _make_server(self) -> web.Server:
        plain = await super()._make_server()
        return make_server(
            plain.request_handler,
            self._lane,
            request_factory=plain.request_factory,
            handler_cancellation=plain.handler_cancellation,
            **plain._kwargs,
        )
