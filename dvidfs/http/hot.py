"""What the fast lane may answer: reading rows and short writes, asked in the plainest way. The rest is left to aiohttp.

The same :class:`~dvidfs.http.handlers.Handlers` find and run the rows, so both lanes answer alike; a contract test asks
every inline row through both. Rows that are not inline, and not light, are read and sent by worker threads. What a method, version, instance and keyword mean is kept (:class:`Plan`) for as long as
the graph is the same object.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from resource import RUSAGE_THREAD, getrusage
from typing import Any, NamedTuple

import numpy as np

from dvidfs.engine import values
from dvidfs.engine.graph import Graph
from dvidfs.engine.store import ReadTxn
from dvidfs.engine.versions import ReadView
from dvidfs.errors import DvidfsError
from dvidfs.http import replies
from dvidfs.http.app import IN_MEMORY, App
from dvidfs.http.calls import Call, arguments, trim
from dvidfs.http.fastlane import HotFlow, HotReply, HotRequest, frame_flow
from dvidfs.http.flows import Answer
from dvidfs.http.handlers import WORTH_PACKING, Found, Handlers, NotModified, pack
from dvidfs.http.options import is_loopback
from dvidfs.http.replies import Reply
from dvidfs.http.service import Service
from dvidfs.types.base import Body, Content, Endpoint

LEFT_TO_AIOHTTP = (b"authorization", b"cookie")
CONDITIONS = (b"if-none-match", b"range")
WHO_ASKS = re.compile(rb"(?:(?:u|app|interactive)=[^&]*(?:&|$))+")
"""Options that say who asks, as many clients send with every request, and change no answer."""
KEPT = 512
"""Plans and header blocks remembered."""


MISSING: Any = object()
RECEIVED = 256 << 20
"""Bytes of bodies that may be on their way at once; what comes beyond is left to aiohttp, which takes less at a time."""
RESTING = 64
"""So many light reads go to threads after one that met blocks that were not in memory."""
Hotly = HotReply | asyncio.Future[HotReply] | HotFlow | None


class Client(NamedTuple):
    """What a header block says: whether the lane may answer, whether it sets conditions, what it can unpack, and of
    which page it is (only one that may read the answer) with the header lines that this takes."""

    plain: bool
    conditional: bool
    accept: str | None
    origin: str | None
    cors: str


class Plan:
    """A row, and the view that it runs on: the view's transaction is set anew for each request."""

    __slots__ = ("caching", "call", "found", "heads", "names", "row", "view")

    def __init__(self, found: Found, view: ReadView | None, call: Call) -> None:
        spec = call.parts[2] if len(call.parts) > 2 else ""
        self.found = found
        self.row: Endpoint = found.row
        self.view = view
        self.call = call
        # of a datatype's row: a row of the server names its parts in its path, and they are in ``found``
        self.names = () if view is None else tuple(n for n in found.row.parts if not n.endswith("?"))
        self.caching = replies.NO_CACHE if view is None else replies.caching(view, spec)
        self.heads: dict[str, tuple[Mapping[str, str], str]] = {}


class Hot:
    """The responder of the fast lane."""

    def __init__(self, app: App, handlers: Handlers) -> None:
        self.app = app
        self.service = app.service
        self.handlers = handlers
        self.options = app.options
        self._clients: dict[bytes, Client] = {}
        self._plans: dict[tuple[bytes, ...], Plan | None] = {}
        self._graph: Graph | None = None
        self._resting = 0

    def wants(self, method: bytes, target: bytes) -> bool:
        """Whether it is worth waiting for the rest of this request."""
        return method == b"POST" and target.startswith(b"/api/node/")

    def __call__(self, request: HotRequest) -> Hotly:
        if self.service.stopping:
            return None
        client = self._clients.get(request.head) or self._judge(request)
        target = request.target
        if not client.plain or not target.startswith(b"/api/") or b"%" in target or b"+" in target or b"\\" in target:
            return None
        txn = self.service.store.begin()
        try:
            path, mark, query = target.partition(b"?")
            if client.origin is not None and request.method not in (b"GET", b"HEAD"):
                return None
            if client.conditional or client.origin is not None or (mark and not WHO_ASKS.fullmatch(query)):
                return self._general(txn, request, client)
            return self._planned(txn, request, client, path)
        finally:
            self.service.store.end(txn)

    def _judge(self, request: HotRequest) -> Client:
        host = request.header(b"host")
        plain = host is not None and all(request.header(name) is None for name in LEFT_TO_AIOHTTP)
        if host is not None and self.options.loopback:
            text = host.decode("latin-1")
            plain = plain and is_loopback(text.rpartition(":")[0] or text)
        accept, page = request.header(b"accept-encoding"), request.header(b"origin")
        origin = None if page is None else page.decode("latin-1")
        plain = plain and (origin is None or self.options.allows_origin(origin))
        client = Client(
            plain,
            any(request.header(name) is not None for name in CONDITIONS),
            accept.decode("latin-1") if accept is not None else None,
            origin,
            _joined(replies.cors(self.options, origin)),
        )
        if len(self._clients) >= KEPT:
            self._clients.clear()
        self._clients[request.head] = client
        return client

    def receives(self, request: HotRequest, length: int) -> Receiving | None:
        """Where a long body goes: that of a row that takes bytes, and works on them in a thread."""
        service, target = self.service, request.target
        if length > IN_MEMORY or service.stopping or service.receiving + length > RECEIVED or request.method != b"POST":
            return None
        client = self._clients.get(request.head) or self._judge(request)
        if (
            not client.plain
            or client.conditional
            or client.origin
            or not target.startswith(b"/api/node/")
            or not target.isascii()
        ):
            return None
        if any(word in target for word in (b"%", b"+", b"\\", b"//", b"/.", b"admintoken", b"throttle")):
            return None
        call = self._call(request, client)
        txn = service.store.begin()
        try:
            row = self.handlers.find(txn, call).row
        except DvidfsError:
            return None
        finally:
            service.store.end(txn)
        if not row.writes or row.body is not Body.BYTES or row.prepare is None:
            return None
        return Receiving(self, call, client, length)

    async def take(self, call: Call, client: Client, body: memoryview) -> HotReply:
        """Run a writing row: its preparation in a thread, then in the write lane."""
        handlers, service = self.handlers, self.service

        def prepare(txn: ReadTxn) -> dict[str, Any]:
            return handlers.prepare(txn, call, handlers.find(txn, call), body)

        try:
            given = await service.read_in_thread(prepare)
            reply = await service.write(handlers.writer(call, given), len(body))
        except Exception as error:  # noqa: BLE001 - failure() tells bugs from users' mistakes
            reply = handlers.failure(error, call)
        return self._sent(reply, client)

    # -- the shortest way ------------------------------------------------------------------------------------

    def _planned(self, txn: ReadTxn, request: HotRequest, client: Client, target: bytes) -> Hotly:
        method = request.method
        pieces = target.split(b"/", 6)
        rest = b""
        if len(pieces) > 5 and pieces[2] == b"node":
            rest = pieces[6] if len(pieces) > 6 else b""
            name = (method, pieces[3], pieces[4], pieces[5])
        else:
            name = (method, target)
        if txn.graph is not self._graph:
            self._plans.clear()
            self._graph = txn.graph
        plan = self._plans.get(name, MISSING)
        if plan is MISSING:
            plan = self._plan(txn, request, client, name)
        if plan is None:
            return None
        parts = rest.split(b"/") if rest else []
        if len(parts) < len(plan.names) or b"" in parts or b"/." in target:
            return self._general(txn, request, client)
        if plan.row.writes:
            return self._write(txn, request, plan, self._call(request, client), client)
        if not plan.row.inline:
            return self._run_long(txn, request, plan.found, client, plan)
        return self._run(txn, request, plan, parts, client)

    def _plan(self, txn: ReadTxn, request: HotRequest, client: Client, name: tuple[bytes, ...]) -> Plan | None:
        """What this kind of request means; None if the lane leaves it to aiohttp."""
        plan = None
        call = self._call(request, client)
        try:
            found = self.handlers.find(txn, call)
        except DvidfsError:
            return None
        if self._hot(found, call) or self._long(found, call):
            view = None
            if found.node is not None and found.instance is not None:
                view = ReadView(txn, found.node, found.instance)
            plan = Plan(found, view, call)
        if len(self._plans) >= KEPT:
            self._plans.clear()
        self._plans[name] = plan
        return plan

    @staticmethod
    def _hot(found: Found, call: Call) -> bool:
        row = found.row
        if not row.inline or call.method not in ("GET", "HEAD", "POST", "DELETE"):
            return False
        if row.writes:
            return found.instance is not None and row.body in (Body.VALUE, Body.NONE)
        return row.body is Body.NONE

    @staticmethod
    def _long(found: Found, call: Call) -> bool:
        """Whether threads may read and send the answer."""
        row = found.row
        return call.method == "GET" and found.instance is not None and not row.writes and row.body is Body.NONE

    def _run_long(self, txn: ReadTxn, request: HotRequest, found: Found, client: Client, plan: Plan | None) -> Hotly:
        """A row that is not inline: answered at once if it is light, else by threads."""
        call = self._call(request, client)
        light = found.row.light
        if light is None or call.method != "GET":
            return self._outflow(request, call, client)
        if self._resting:
            self._resting -= 1
            return self._outflow(request, call, client)
        assert found.node is not None
        assert found.instance is not None
        try:
            given = arguments(found.row, call, 5)
        except DvidfsError as error:
            return self._sent(self.handlers.failure(error, call), client)
        if plan is not None and plan.view is not None:
            view = plan.view
            view.txn = txn
        else:
            view = ReadView(txn, found.node, found.instance)
        if not light(view, **given):
            return self._outflow(request, call, client)
        faults = getrusage(RUSAGE_THREAD).ru_majflt
        try:
            reply = self.handlers.read(txn, call, found, _headers(request))
        except (DvidfsError, NotModified) as error:
            reply = self.handlers.failure(error, call)
        body: Any = reply.content.body
        if type(body) is not bytes and not isinstance(body, memoryview):
            reply.content.body = b"".join(body)
        if getrusage(RUSAGE_THREAD).ru_majflt != faults:
            self._resting = RESTING
        self.service.counters.gets += 1
        return self._sent(reply, client)

    def _outflow(self, request: HotRequest, call: Call, client: Client) -> HotFlow:
        """The answer, read and sent by threads."""
        handlers, headers = self.handlers, _headers(request)

        def make(txn: ReadTxn) -> Answer:
            return answer(handlers.read(txn, call, handlers.find(txn, call), headers))

        def refuse(error: Exception) -> Answer:
            return answer(handlers.failure(error, call))

        def answer(reply: Reply) -> Answer:
            reply = pack(reply, client.accept)
            body = reply.content.body
            size = len(body) if isinstance(body, (bytes, memoryview)) else reply.content.size
            return Answer(reply.status, frame_flow(reply.status, _lines(reply, client), size), body, size)

        return Told(self.service, self.service.outflow(make, refuse), str(request))

    def _run(self, txn: ReadTxn, request: HotRequest, plan: Plan, parts: list[bytes], client: Client) -> Hotly:
        row, view = plan.row, plan.view
        try:
            if view is None:
                result = row.run(txn, plan.call, **plan.found.parts)
            elif row.cached:
                view.txn = txn
                given = row.defaults.copy()
                for name, part in zip(plan.names, parts, strict=False):
                    given[name] = part.decode()
                result = row.run(view, **given)
            else:
                return self._general(txn, request, client)
        except DvidfsError as error:
            return self._sent(self.handlers.failure(error, self._call(request, client)), client)
        content = result if type(result) is Content else replies.to_content(row, result)
        body: Any = content.body
        if type(body) is not bytes:
            return (
                self._outflow(request, self._call(request, client), client)
                if self._long(plan.found, plan.call)
                else None
            )
        if client.accept is not None and len(body) >= WORTH_PACKING:
            return self._general(txn, request, client)
        self.service.counters.gets += 1
        known = plan.heads.get(content.type)
        if known is None or known[0] is not content.headers:
            lines = "".join(f"{k}: {v}\r\n" for k, v in replies.success(content, []).headers)
            known = plan.heads[content.type] = (content.headers, lines)
        tag = "" if view is None else f"ETag: {replies.etag(view, content)}\r\n"
        head = f"{known[1]}{tag}Cache-Control: {plan.caching}\r\n{client.cors}"
        if request.method == b"HEAD" and not body and content.size is not None:
            head += f"Content-Length: {content.size}\r\n"  # of what a GET would send: the lane cannot know it
        return HotReply(content.status, head.encode("latin-1"), body)

    # -- requests with options or conditions -----------------------------------------------------------------

    def _call(self, request: HotRequest, client: Client) -> Call:
        path, mark, query = request.target.partition(b"?")
        text = path.decode("latin-1")
        parts = text.split("/")[1:]
        trim(parts)
        options: dict[str, str] = {}
        if mark:
            for pair in query.decode("latin-1").split("&"):
                name, _, value = pair.partition("=")
                options.setdefault(name, value)
        call = Call(request.method.decode(), text, parts, options)
        self.app.identify(call, client.origin)
        return call

    def _general(self, txn: ReadTxn, request: HotRequest, client: Client) -> Hotly:
        target = request.target
        if not target.isascii() or b"//" in target or b"/." in target:
            return None
        call = self._call(request, client)
        if "admintoken" in call.query or "throttle" in call.query:
            return None
        try:
            found = self.handlers.find(txn, call)
            if not self._hot(found, call):
                return self._run_long(txn, request, found, client, None) if self._long(found, call) else None
            if found.row.writes:
                return self._write(txn, request, Plan(found, None, call), call, client)
            reply = self.handlers.read(txn, call, found, _headers(request))
            if request.method == b"HEAD" and not reply.content.body and reply.content.size is not None:
                reply.headers.append(("Content-Length", str(reply.content.size)))
        except (DvidfsError, NotModified) as error:
            return self._sent(self.handlers.failure(error, call), client)
        if not isinstance(reply.content.body, bytes):
            return self._outflow(request, call, client) if self._long(found, call) else None
        self.service.counters.gets += 1
        return self._sent(reply, client)

    # -- writing ---------------------------------------------------------------------------------------------

    def _write(
        self, txn: ReadTxn, request: HotRequest, plan: Plan, call: Call, client: Client
    ) -> HotReply | asyncio.Future[HotReply]:
        service, row = self.service, plan.row
        body = values.prepare(request.body) if row.body is Body.VALUE else None
        try:
            given = self.handlers.prepare(txn, call, plan.found, body)
        except DvidfsError as error:
            return self._sent(self.handlers.failure(error, call), client)
        service.counters.puts += 1
        service.counters.bytes_in += len(request.body)
        answer: asyncio.Future[HotReply] = asyncio.get_running_loop().create_future()

        def done(written: asyncio.Future[Reply]) -> None:
            error = written.exception()
            reply = self.handlers.failure(error, call) if isinstance(error, Exception) else written.result()
            if not answer.cancelled():
                answer.set_result(self._sent(reply, client))

        writer = self.handlers.writer(call, given, plan.found, txn.graph)
        service.submit(writer, len(request.body)).add_done_callback(done)
        return answer

    def _sent(self, reply: Reply, client: Client) -> HotReply:
        reply = pack(reply, client.accept)
        body: Any = reply.content.body
        return HotReply(reply.status, _lines(reply, client), body)


def _joined(headers: list[tuple[str, str]]) -> str:
    return "".join(f"{k}: {v}\r\n" for k, v in headers)


def _lines(reply: Reply, client: Client) -> bytes:
    return (_joined(reply.headers) + client.cors).encode("latin-1", "replace")


class Receiving:
    """A body on its way to :meth:`Hot.take`; counted as a request under way until it is answered."""

    def __init__(self, hot: Hot, call: Call, client: Client, length: int) -> None:
        self._hot = hot
        self._call = call
        self._client = client
        self._service = hot.service
        self._length = length
        self._service.receiving += length
        self._service.counters.active += 1
        self.buffer = np.empty(length, np.uint8).data  # not zeroed first, as a bytearray would be

    def finish(self) -> asyncio.Future[HotReply]:
        self._service.counters.puts += 1
        self._service.counters.bytes_in += self._length
        answer = asyncio.ensure_future(self._hot.take(self._call, self._client, self.buffer))
        answer.add_done_callback(lambda _: self.drop())
        return answer

    def drop(self) -> None:
        self._service.receiving -= self._length
        self._service.counters.active -= 1


class Told:
    """A flow that is counted, and whose failure is logged."""

    def __init__(self, service: Service, flow: HotFlow, what: str) -> None:
        self._service = service
        self._flow = flow
        self._what = what

    def start(self, fd: int, done: Callable[[int, int, BaseException | None], None]) -> None:
        counters = self._service.counters
        counters.active += 1
        counters.gets += 1

        def ended(status: int, sent: int, error: BaseException | None) -> None:
            counters.active -= 1
            counters.bytes_out += sent
            if error is not None and not isinstance(error, ConnectionError):
                self._service.log_bug(error, f"{self._what} in mid-answer")
            done(status, sent, error)

        self._flow.start(fd, ended)

    def cut(self) -> None:
        self._flow.cut()


def _headers(request: HotRequest) -> Any:
    def header(name: str) -> str | None:
        value = request.header(name.encode())
        return None if value is None else value.decode("latin-1")

    return header
