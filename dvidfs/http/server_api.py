"""The server's own endpoints: who it is, what it can, how it does; help pages and the OpenAPI document."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import socket
import time
from collections.abc import Mapping
from html import escape
from typing import Any

from dvidfs import __version__
from dvidfs.engine.store import ReadTxn, WriteTxn
from dvidfs.errors import BadRequest
from dvidfs.http import openapi
from dvidfs.http.calls import Call, Routes, need_admin
from dvidfs.http.service import Service
from dvidfs.types import helptext
from dvidfs.types.base import TEXT, Body, Content, Endpoint
from dvidfs.types.common import rfc3339, string

COMPATIBLE = "v1.0.0-254-dvidfs"
"""``DVID Version``: clients take its first numbers for the API they may use."""
PLAIN = "text/plain"


class ServerApi:
    """Operations about the server; ``routes`` is set once all rows are known."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.options = service.options
        self.registry = service.registry
        self.routes: Routes | None = None
        self._note = Content(self.options.note.encode(), PLAIN)

    def heartbeat(self, txn: ReadTxn, call: Call) -> Content:
        return Content(b"OK", PLAIN)

    def note(self, txn: ReadTxn, call: Call) -> Content:
        return self._note

    def load(self, txn: ReadTxn, call: Call) -> dict[str, int]:
        counters = self.service.counters
        return {
            "file bytes read": 0,
            "file bytes written": 0,
            "key bytes read": 0,
            "key bytes written": 0,
            "value bytes read": counters.bytes_out,
            "value bytes written": counters.bytes_in,
            "GET requests": counters.gets,
            "PUT requests": counters.puts,
            "handlers active": counters.active,
            "goroutines": 0,
            "active CGo writes": 0,
            "pending log messages": 0,
        }

    def info(self, txn: ReadTxn, call: Call) -> dict[str, str]:
        options = self.options
        uptime = time.monotonic() - self.service.counters.started
        out = {
            "Cores": str(os.cpu_count()),
            "Maximum Cores": str(os.cpu_count()),
            "Datastore Version": "0.11.0",
            "DVID Version": COMPATIBLE,
            "dvidfs Version": __version__,
            "Storage backend": f"lmdb {importlib.metadata.version('lmdb')}, {self.service.store.durability}",
            "Server time": rfc3339(time.time_ns()),
            "Server uptime": f"{uptime:.1f}s",
            "RPC Address": "",
            "Host": options.public_host or socket.gethostname(),
            "Note": options.note,
            "TOML location": options.config_path,
            "Max Open Files": "",
            "Python": platform.python_version(),
        }
        if options.read_only:
            out["Mode"] = "read only"
        elif options.full_write:
            out["Mode"] = "allow writes on committed nodes"
        return out

    def config(self, txn: ReadTxn, call: Call) -> Content:
        need_admin(call, "Reading the configuration")
        return Content(self.options.config_text.encode(), TEXT)

    def types(self, txn: ReadTxn, call: Call) -> dict[str, str]:
        used = {i.type for repo in txn.graph.repos.values() for i in repo.instances.values()}
        return {kind.name: kind.url for kind in self.registry if kind.name in used}

    def compiled_types(self, txn: ReadTxn, call: Call) -> dict[str, str]:
        return {kind.name: kind.url for kind in self.registry}

    def groupcache(self, txn: ReadTxn, call: Call) -> dict[str, Any]:
        part = dict.fromkeys(("Bytes", "Items", "Gets", "Hits", "Evictions"), 0)
        names = (
            "Gets",
            "CacheHits",
            "PeerLoads",
            "PeerErrors",
            "Loads",
            "LoadsDeduped",
            "LocalLoads",
            "LocalLoadErrs",
            "ServerRequests",
        )
        return {**dict.fromkeys(names, 0), "MainCache": part, "HotCache": part}

    def latencies(self, txn: ReadTxn, call: Call) -> dict[str, Any]:
        return {}

    def storage(self, txn: ReadTxn, call: Call) -> dict[str, Any]:
        need_admin(call, "A storage summary")
        return self.service.engine.statistics()

    def settings(self, txn: ReadTxn, call: Call, body: Any) -> Content:
        need_admin(call, "Changing settings")
        if not isinstance(body, Mapping):
            raise BadRequest("Malformed JSON request in body: an object of strings is needed")
        lines = []
        for name in ("gc", "throttle"):
            text = string(body, name)
            if text is None:
                continue
            if not re.fullmatch(r"[0-9]{1,9}", text):
                raise BadRequest(f'setting "{name}" must be a whole number in a string, such as "2"')
            lines.append(self._set(name, int(text)))
        return Content("".join(lines).encode(), TEXT)

    def _set(self, name: str, value: int) -> str:
        if name == "throttle":
            old, self.service.max_throttled = self.service.max_throttled, value
            return f"Maximum throttled ops set to {value} from {old}\n"
        return f"GC percentage set to {value}; it has no effect here\n"

    def reload_auth(self, txn: ReadTxn, call: Call) -> Content:
        need_admin(call, "Reloading authorization")
        return Content(b"There is no authorization file to reload.\n", TEXT)

    def reload_blocklist(self, txn: ReadTxn, call: Call) -> Content:
        need_admin(call, "Reloading the blocklist")
        return Content(b"There is no blocklist to reload.\n", TEXT)

    def reload_metadata(self, txn: WriteTxn, call: Call) -> None:
        """Clients call it after other servers wrote; here metadata is always as the store has it."""

    # -- help ------------------------------------------------------------------------------------------------

    def help(self, txn: ReadTxn, call: Call) -> Content:
        kinds = "".join(
            f'<li><a href="/api/help/{escape(k.name)}">{escape(k.name)}</a>: {escape(k.summary)}</li>'
            for k in self.registry
        )
        rows = self.routes.all if self.routes else []
        lines = escape("\n".join(helptext.endpoint_lines([r.endpoint for r in rows], "")))
        page = (
            f"<!DOCTYPE html><html><head><title>dvidfs</title></head><body><h1>dvidfs {__version__}</h1>"
            f'<p>API description: <a href="/api/openapi.json">OpenAPI</a>. Datatypes:</p><ul>{kinds}</ul>'
            f"<h2>Server, repos and versions</h2><pre>{lines}</pre></body></html>"
        )
        return Content(page.encode(), "text/html; charset=utf-8")

    def type_help(self, txn: ReadTxn, call: Call, typename: str) -> Content:
        return Content(helptext.type_help(self.registry[typename]).encode(), TEXT)

    def openapi(self, txn: ReadTxn, call: Call) -> dict[str, Any]:
        return openapi.document([r.endpoint for r in self.routes.all] if self.routes else [], self.registry)

    def rows(self) -> tuple[Endpoint, ...]:
        """The server's rows."""

        def get(path: str, run: Any, summary: str, **more: Any) -> Endpoint:
            return Endpoint("GET", path, run, summary, inline=True, **more)

        return (
            get("/api/heartbeat", self.heartbeat, "OK, as long as the server lives.", type=PLAIN),
            get("/api/load", self.load, "Requests and bytes so far."),
            get("/api/user-latencies", self.latencies, "Latencies of users' heartbeats."),
            get("/api/storage", self.storage, "Sizes of the store. Needs an administrator."),
            get("/api/help", self.help, "This page.", type="text/html"),
            get("/api/help/", self.help, "This page.", type="text/html"),
            get("/api/help/{typename}", self.type_help, "Help of a datatype.", type=TEXT),
            get("/api/openapi.json", self.openapi, "This API as an OpenAPI document."),
            get("/api/server/info", self.info, "Versions, cores, mode."),
            get("/api/server/note", self.note, "The note of the configuration.", type=PLAIN),
            get("/api/server/config", self.config, "The configuration file. Needs an administrator.", type=TEXT),
            get("/api/server/types", self.types, "Datatypes in use."),
            get("/api/server/compiled-types", self.compiled_types, "Datatypes that this server has."),
            get("/api/server/groupcache", self.groupcache, "Always zeros: there is no such cache."),
            Endpoint(
                "POST", "/api/server/settings", self.settings, "Set throttle. Needs an administrator.", body=Body.JSON
            ),
            Endpoint("POST", "/api/server/reload-auth", self.reload_auth, "Needs an administrator.", inline=True),
            Endpoint(
                "POST", "/api/server/reload-blocklist", self.reload_blocklist, "Needs an administrator.", inline=True
            ),
            Endpoint(
                "POST", "/api/server/reload-metadata", self.reload_metadata, "Nothing to do: metadata is current."
            ),
        )
