"""What the fast lane may answer: inline rows asked in the plainest way. Everything else is left to aiohttp.

The same :class:`~dvidfs.http.handlers.Handlers` run the rows, so both lanes answer alike; a contract test asks every
inline row through both.
"""

from __future__ import annotations

import asyncio
from typing import Any

from dvidfs.engine import values
from dvidfs.engine.store import ReadTxn
from dvidfs.errors import DvidfsError
from dvidfs.http import replies
from dvidfs.http.app import App
from dvidfs.http.calls import Call, trim
from dvidfs.http.fastlane import HotReply, HotRequest
from dvidfs.http.handlers import Handlers, NotModified, pack
from dvidfs.http.options import is_loopback
from dvidfs.http.replies import Reply
from dvidfs.types.base import Body

_LEFT = (b"origin", b"authorization", b"cookie", b"x-dvid-internal")
_STRANGE = b"%+\\"


class Hot:
    """The responder of the fast lane."""

    def __init__(self, app: App, handlers: Handlers) -> None:
        self.app = app
        self.service = app.service
        self.handlers = handlers
        self.options = app.options
        self._hosts: dict[bytes, bool] = {}
        self._cors = [f"{k}: {v}\r\n" for k, v in replies.cors(app.options, None)]
        self._heads: dict[tuple[tuple[str, str], ...], bytes] = {}

    def wants(self, method: bytes, target: bytes) -> bool:
        """Whether it is worth waiting for the rest of this request."""
        return target.startswith(b"/api/node/") and method == b"POST"

    def __call__(self, request: HotRequest) -> HotReply | asyncio.Future[HotReply] | None:
        target = request.target
        if not target.startswith(b"/api/") or self.service.stopping or not self._plain(request):
            return None
        call = self._call(request)
        if call is None:
            return None
        if call.method in ("GET", "HEAD"):
            return self._read(request, call)
        return self._write(request, call) if call.method in ("POST", "DELETE") else None

    # -- which requests --------------------------------------------------------------------------------------

    def _plain(self, request: HotRequest) -> bool:
        for name in _LEFT:
            if request.header(name) is not None:
                return False
        host = request.header(b"host")
        if host is None:
            return False
        known = self._hosts.get(host)
        if known is None:
            name = host.decode("latin-1").rpartition(":")[0] or host.decode("latin-1")
            known = not self.options.loopback or is_loopback(name)
            if len(self._hosts) < 64:
                self._hosts[host] = known
        return known

    def _call(self, request: HotRequest) -> Call | None:
        """The request taken apart, if it is spelled in the plainest way."""
        target = request.target
        path, mark, query = target.partition(b"?")
        if not target.isascii() or b"//" in path or b"/." in path or any(c in target for c in _STRANGE):
            return None
        text = path.decode()
        parts = text.split("/")[1:]
        trim(parts)
        options: dict[str, str] = {}
        if mark:
            for pair in query.decode().split("&"):
                name, _, value = pair.partition("=")
                options.setdefault(name, value)
            if "admintoken" in options or "throttle" in options:
                return None
        call = Call(request.method.decode(), text, parts, options)
        self.app.identify(call)
        return call

    # -- reading ---------------------------------------------------------------------------------------------

    def _read(self, request: HotRequest, call: Call) -> HotReply | None:
        service = self.service
        txn = service.store.begin()
        try:
            reply = self._reply(txn, request, call)
        finally:
            service.store.end(txn)
        if reply is None:
            return None
        service.counters.gets += 1
        return self._hot(reply, request)

    def _reply(self, txn: ReadTxn, request: HotRequest, call: Call) -> Reply | None:
        def header(name: str) -> str | None:
            value = request.header(name.encode())
            return None if value is None else value.decode("latin-1")

        try:
            found = self.handlers.find(txn, call)
            if not found.row.inline or found.row.writes or found.row.body is not Body.NONE:
                return None
            reply = self.handlers.read(txn, call, found, header)
        except (DvidfsError, NotModified) as error:
            return self.handlers.failure(error, call)
        return reply if isinstance(reply.content.body, bytes) else None

    # -- writing ---------------------------------------------------------------------------------------------

    def _write(self, request: HotRequest, call: Call) -> asyncio.Future[HotReply] | None:
        service = self.service
        try:
            found = service.read_now(lambda txn: self.handlers.find(txn, call))
        except DvidfsError:
            return None
        row = found.row
        if not row.inline or not row.writes or found.instance is None or row.body not in (Body.VALUE, Body.NONE):
            return None
        body = values.prepare(request.body) if row.body is Body.VALUE else None
        given = service.read_now(lambda txn: self.handlers.prepare(txn, call, found, body))
        service.counters.puts += 1
        service.counters.bytes_in += len(request.body)
        answer: asyncio.Future[HotReply] = asyncio.get_running_loop().create_future()

        def done(written: asyncio.Future[Reply]) -> None:
            error = written.exception()
            reply = self.handlers.failure(error, call) if isinstance(error, Exception) else written.result()
            if not answer.cancelled():
                answer.set_result(self._hot(reply, request))

        service.submit(self.handlers.writer(call, given), len(request.body)).add_done_callback(done)
        return answer

    # -- answers ---------------------------------------------------------------------------------------------

    def _hot(self, reply: Reply, request: HotRequest) -> HotReply:
        accept = request.header(b"accept-encoding")
        if accept is not None:
            reply = pack(reply, accept.decode("latin-1"))
        lines = [f"{k}: {v}\r\n" for k, v in reply.headers]
        lines += self._cors
        body: Any = reply.content.body
        return HotReply(reply.status, "".join(lines).encode("latin-1", "replace"), body)
