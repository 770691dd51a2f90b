"""aiohttp's side: every request that the fast lane leaves goes through :meth:`App.handle`.

It guards browsers (host and origin), reads bodies with bounded memory, runs the row where it belongs (inline, worker
thread, write lane) and sends the reply. Order of checks: reference DVID errors 8.5.
"""

from __future__ import annotations

import asyncio
import mmap
import tempfile
from typing import Any

import orjson
from aiohttp import web

from dvidfs.engine import values
from dvidfs.engine.keys import PIECE
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import Caller
from dvidfs.errors import BadRequest, Busy, DvidfsError, Refused
from dvidfs.http import replies, service
from dvidfs.http.calls import READING, Call, clean_path, split_target
from dvidfs.http.handlers import Found, Handlers, pack
from dvidfs.http.options import HttpOptions, host_of, is_loopback
from dvidfs.http.replies import Reply
from dvidfs.http.requestlog import RequestLog
from dvidfs.http.service import Service
from dvidfs.types.base import Body, Content

IN_MEMORY = 64 << 20
"""A longer body is kept in a temporary file while it is worked on."""
MAX_BODY = 8 << 30
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")


def options_admin(options: HttpOptions) -> tuple[bool, Caller]:
    """Whether one who gives no token is an administrator, and how he writes."""
    return options.is_admin(None), Caller(privileged=options.full_write)


class App:
    """The handler of one server."""

    def __init__(self, service: Service, handlers: Handlers, requests: RequestLog) -> None:
        self.service = service
        self.handlers = handlers
        self.options = service.options
        self.requests = requests
        self._anonymous = options_admin(self.options)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; never raises but for a broken connection."""
        self.service.counters.active += 1
        try:
            return await self._handle(request)
        finally:
            self.service.counters.active -= 1

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        started = self.requests.now()
        origin = request.headers.get("Origin")
        if origin is not None and not self.options.allows_origin(origin):
            self.service.warn_once(f"a page of {origin} asked, and is refused: allow it with --cors {origin}")
        call = Call(request.method, request.raw_path.partition("?")[0], [])
        try:
            reply, pieces = await self._answer(request, call, origin)
        except Exception as error:  # noqa: BLE001 - failure() tells bugs from users' mistakes
            reply, pieces = self.handlers.failure(error, call), None
        reply = pack(reply, request.headers.get("Accept-Encoding"))
        reply.headers += replies.cors(self.options, origin)
        response, sent = await self._send(request, reply, pieces)
        self.requests.add(started, request.method, request.raw_path, reply.status, sent, request.remote or "")
        self._count(request.method, sent)
        return response

    def _count(self, method: str, sent: int) -> None:
        counters = self.service.counters
        counters.gets += method in READING
        counters.puts += method not in READING
        counters.bytes_out += sent

    # -- what is asked ---------------------------------------------------------------------------------------

    async def _answer(self, request: web.BaseRequest, call: Call, origin: str | None) -> tuple[Reply, Any]:
        self.guard(request.method, request.headers.get("Host", ""), origin)
        target = clean_path(request.raw_path)
        if target is not None:
            return Reply(307, [("Location", target), ("Content-Type", "text/html; charset=utf-8")]), None
        call.path, call.parts, call.query = split_target(request.raw_path)
        self.identify(call, origin)
        if self.service.stopping:
            raise Busy("DVID server is unavailable.")
        if request.method == "OPTIONS":
            return self._options(call), None
        if call.parts == [""]:
            call.parts = ["api", "help"]
        return await self._run(request, call)

    def identify(self, call: Call, origin: str | None = None) -> None:
        """Who asks, and what that allows: the page of a foreign origin is an administrator only by a token."""
        foreign = origin is not None and not is_loopback(host_of(origin))
        if not call.query and not foreign:
            call.admin, call.caller = self._anonymous
            return
        call.admin = self.options.is_admin(call.query.get("admintoken"))
        if foreign and not self.options.admin_token:
            call.admin = False
        explicit = call.admin and bool(self.options.admin_token)
        # An implied administrator makes repos; to change committed versions takes a token or the server's mode.
        call.caller = Caller(call.query.get("u", ""), call.query.get("app", ""), explicit or self.options.full_write)

    def guard(self, method: str, host: str, origin: str | None) -> None:
        """Keep foreign web pages out of a server on this machine.

        Raises:
            Refused: the host is none of ours (DNS rebinding), or a page of another origin writes.
        """
        if not self.options.loopback:
            return
        name = host_of(f"//{host}")
        if host and not is_loopback(name) and not (name and name == self.options.public_host):
            raise Refused(f'host "{host}" is not this machine: a server bound to loopback answers only to localhost')
        if origin is None or method in READING:
            return
        if not self.options.allows_origin(origin):
            raise Refused(f"a page of {origin} may not write here: allow it with --cors {origin}")

    def _options(self, call: Call) -> Reply:
        known = {route.endpoint.method for route, _ in self.handlers.routes.candidates(call.parts)}
        if "GET" in known:
            known |= {"HEAD"}
        allow = ", ".join(m for m in METHODS if m in known or m == "OPTIONS") if known else ", ".join(METHODS)
        return Reply(200, [("Allow", allow), ("Content-Type", "text/plain; charset=utf-8"), *replies.PREFLIGHT])

    # -- running ---------------------------------------------------------------------------------------------

    async def _run(self, request: web.BaseRequest, call: Call) -> tuple[Reply, Any]:
        found = self.service.read_now(lambda txn: self.handlers.find(txn, call))
        if found.row.throttled and call.flag("throttle"):
            with self.service.throttle():
                return await self._run_row(request, call, found)
        return await self._run_row(request, call, found)

    async def _run_row(self, request: web.BaseRequest, call: Call, found: Found) -> tuple[Reply, Any]:
        body = await self._body(request, found)
        row = found.row
        if row.writes:

            def prepare(txn: Any) -> dict[str, Any]:
                return self.handlers.prepare(txn, call, found, body)

            inline = row.prepare is None
            ready = self.service.read_now(prepare) if inline else await self.service.read_in_thread(prepare)
            size = len(body) if isinstance(body, bytes) else getattr(body, "size", 0)
            return await self.service.write(self.handlers.writer(call, ready), size), None
        headers = request.headers.get

        def read(txn: Any) -> Reply:
            return self.handlers.read(txn, call, self.handlers.find(txn, call), headers, body)

        if row.inline:
            reply = self.service.read_now(read)
            if isinstance(reply.content.body, (bytes, memoryview)):
                return reply, None
        return await self._stream(read)

    async def _stream(self, read: Any) -> tuple[Reply, Any]:
        box: list[Reply] = []

        def content(txn: Any) -> Content:
            box.append(read(txn))
            return box[0].content

        whole, pieces = await self.service.stream(content)
        box[0].content = whole
        return box[0], pieces

    # -- bodies ----------------------------------------------------------------------------------------------

    async def _body(self, request: web.BaseRequest, found: Found) -> Any:
        kind = found.row.body
        if kind is Body.NONE:
            return None
        if request.headers.get("Expect", "").lower() == "100-continue":  # curl waits for it before long bodies
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        if kind is Body.VALUE:
            return await self._value(request, found)
        data = await self._buffer(request)
        self.service.counters.bytes_in += len(data)
        if kind is Body.BYTES:
            return data
        if not len(data):
            return None
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as e:
            raise BadRequest(f"Malformed JSON request in body: {e}") from None

    async def _buffer(self, request: web.BaseRequest) -> Buffer:
        """The whole body: in memory, or mapped from a temporary file if it is long."""
        held = bytearray()
        async for chunk in request.content.iter_any():
            held += chunk
            if len(held) > IN_MEMORY:
                return await self._spill(request, held)
        return bytes(held)

    async def _spill(self, request: web.BaseRequest, held: bytearray) -> Buffer:
        with tempfile.TemporaryFile(dir=self.service.store.path) as file:
            await self.service.in_thread(file.write, held)
            size = len(held)
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > MAX_BODY:
                    raise BadRequest(f"the body is longer than {MAX_BODY} bytes: send it in parts")
                await self.service.in_thread(file.write, chunk)
            file.flush()
            return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))

    async def _value(self, request: web.BaseRequest, found: Found) -> values.Prepared | values.Uploaded:
        """A value to be stored: compressed, and its pieces written as they arrive if it is long."""
        assert found.instance is not None
        upload: values.Upload | None = None
        held = bytearray()
        async for chunk in request.content.iter_any():
            held += chunk
            if len(held) > PIECE:
                upload = upload or values.Upload(self.service.store, found.instance.id)
                await self.service.in_thread(upload.feed, bytes(held))
                held.clear()
        self.service.counters.bytes_in += len(held)
        if upload is not None:
            await self.service.in_thread(upload.feed, bytes(held))
            return await self.service.in_thread(upload.finish)
        return values.prepare(bytes(held))

    # -- sending ---------------------------------------------------------------------------------------------

    async def _send(self, request: web.BaseRequest, reply: Reply, pieces: Any) -> tuple[web.StreamResponse, int]:
        body, size = reply.content.body, reply.content.size
        head = request.method == "HEAD"
        if pieces is None and not head:
            data = bytes(body) if isinstance(body, (bytes, memoryview, bytearray)) else b""
            return web.Response(status=reply.status, headers=reply.headers, body=data), len(data)
        response = web.StreamResponse(status=reply.status, headers=reply.headers)
        if isinstance(body, (bytes, memoryview)) and body:
            size = len(body)
        if size is not None:
            response.content_length = size
        elif not head:
            response.enable_chunked_encoding()
        if head:
            if pieces is not None:
                pieces.cut()
            return response, 0
        return response, await self._pump(request, response, pieces)

    async def _pump(self, request: web.BaseRequest, response: web.StreamResponse, pieces: Any) -> int:
        sent = 0
        try:
            await response.prepare(request)
            async for piece in pieces:
                sent += len(piece)
                async with asyncio.timeout(service.STALLED_SECONDS):
                    await response.write(piece)
            await response.write_eof()
        except (DvidfsError, TimeoutError) as error:
            # the status is gone: a cut connection is the only way left to say that this is not all
            self.service.log_bug(error, f"{request.method} {request.raw_path} in mid-answer")
            if request.transport is not None:
                request.transport.abort()
        finally:
            pieces.cut()
        return sent
