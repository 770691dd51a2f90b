"""The HTTP server as a trio service: an asyncio loop in a thread of its own, until it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

import trio
from aiohttp import web

from dvidfs.engine import Engine
from dvidfs.errors import StoreError
from dvidfs.http.app import App
from dvidfs.http.fastlane import HotRequest, Lane, make_server
from dvidfs.http.handlers import Handlers
from dvidfs.http.hot import Hot
from dvidfs.http.options import HttpOptions
from dvidfs.http.requestlog import RequestLog
from dvidfs.http.service import Service
from dvidfs.types.base import Registry

KEEPALIVE_SECONDS = 75.0
SHUTDOWN_SECONDS = 20.0
DRAIN_SECONDS = 5.0
"""How long requests in flight may take at the end."""
CUT_SECONDS = 1.0
"""How long those may take to notice that they are cut."""


async def serve_http(
    engine: Engine,
    registry: Registry,
    options: HttpOptions,
    *,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; ``started`` gives the bound (host, port). Requests in flight are finished, then it returns.

    Raises:
        StoreError: the address cannot be bound; the text says what to do.
    """
    listener = bind(options)
    thread = _Thread(engine, registry, options, listener)
    thread.start()
    try:
        await trio.to_thread.run_sync(thread.ready.wait)
        if thread.error is not None:
            raise thread.error
        task_status.started((options.host, listener.getsockname()[1]))
        await trio.to_thread.run_sync(thread.join, abandon_on_cancel=True)
        if thread.error is not None:
            raise thread.error
    finally:
        with trio.CancelScope(shield=True):
            thread.stop()
            await trio.to_thread.run_sync(thread.join)


def bind(options: HttpOptions) -> socket.socket:
    """A listening socket."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
        listener.listen(1024)
    except (OSError, OverflowError) as e:
        listener.close()
        text = getattr(e, "strerror", None) or str(e)
        raise StoreError(
            f"cannot serve on {options.host}:{options.port}: {text}; choose another with --http HOST:PORT, "
            "or end what listens there"
        ) from None
    listener.setblocking(False)
    return listener


class _Thread(threading.Thread):
    """The asyncio side: builds everything on its own loop, serves, takes it down."""

    def __init__(self, engine: Engine, registry: Registry, options: HttpOptions, listener: socket.socket) -> None:
        super().__init__(name="http", daemon=True)
        self.engine = engine
        self.registry = registry
        self.options = options
        self.listener = listener
        self.ready = threading.Event()
        self.error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._halt: asyncio.Event | None = None

    def run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._serve())
        except BaseException as e:  # noqa: BLE001 - handed to the trio task
            self.error = e
        finally:
            self.ready.set()

    def stop(self) -> None:
        loop, halt = self._loop, self._halt
        if loop is not None and halt is not None and not loop.is_closed():
            loop.call_soon_threadsafe(halt.set)

    async def _serve(self) -> None:
        self._loop, self._halt = asyncio.get_running_loop(), asyncio.Event()
        requests = RequestLog(self.options.request_log)
        service = Service(self.engine, self.registry, self.options)
        handlers = Handlers(service)
        app = App(service, handlers, requests)
        lane = _lane(app, handlers, requests) if self.options.fast_lane else None
        server = make_server(
            app.handle,
            lane,
            request_factory=_request,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=KEEPALIVE_SECONDS,
            auto_decompress=False,
        )
        listening = await self._loop.create_server(server, sock=self.listener)
        self.ready.set()
        try:
            await self._halt.wait()
        finally:
            service.stopping = True
            listening.close()
            await service.quiet(SHUTDOWN_SECONDS)
            server.pre_shutdown()
            connections = server.connections
            await server.shutdown(CUT_SECONDS)
            await _drained(connections)
            await asyncio.to_thread(service.close)  # beside the loop, on which what was cut gives its snapshots back
            requests.close()


async def _drained(connections: list[Any]) -> None:
    """Wait until what was written has left: closing a transport sends its buffer only while the loop runs on."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while any(c.transport is not None for c in connections):
                await asyncio.sleep(0.005)


def _lane(app: App, handlers: Handlers, requests: RequestLog) -> Lane:
    hot = Hot(app, handlers)

    def done(request: HotRequest, status: int, sent: int, seconds: float) -> None:
        requests.add(
            requests.now() - seconds,
            request.method.decode(),
            request.target.decode(),
            status,
            sent,
            str(request.peer[0]) if request.peer else "",
        )

    return Lane(hot, hot.wants, done if requests.kept else None, hot.receives)


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop())


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
