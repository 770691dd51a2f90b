"""Running rows: the same functions for the fast lane and for aiohttp's.

:meth:`Handlers.find` tells what a call means in a snapshot; :meth:`Handlers.read` runs a reading row in it and makes
the reply with its caching headers; :meth:`Handlers.write` runs a writing row in the write lane. Bodies are parsed by
whoever read them from the socket.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import zstandard
from isal import igzip

from dvidfs.engine.graph import Graph, Instance, Node
from dvidfs.engine.store import ReadTxn, WriteTxn
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, Corrupt, DvidfsError, Locked, Unsupported
from dvidfs.http import errors, replies
from dvidfs.http.calls import MUTATING, READING, Call, Routes, UnknownKeyword, arguments, instance_row
from dvidfs.http.replies import Reply
from dvidfs.http.repo_api import NODE_ROWS, REPO_ROWS, RepoApi
from dvidfs.http.server_api import ServerApi
from dvidfs.http.service import Service
from dvidfs.types.base import Content, DataType, Endpoint

WORTH_PACKING = 4096
"""Shorter answers are sent as they are."""
PACKED_TYPES = ("application/json", "text/")
_REFUSED = re.compile(r";\s*q=0(\.0*)?\s*$")


@dataclass(frozen=True, slots=True)
class Found:
    """What a call means: its row, and for a datatype's row the version and instance."""

    row: Endpoint
    parts: Mapping[str, str]
    node: Node | None = None
    instance: Instance | None = None
    kind: DataType | None = None


class NotModified(Exception):
    """The client has this answer already."""

    def __init__(self, tag: str) -> None:
        self.tag = tag


class Handlers:
    """All rows of a server, and how they are run."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.registry = service.registry
        self.options = service.options
        server = ServerApi(service)
        self.routes = Routes((*server.rows(), *RepoApi(service).rows(), *REPO_ROWS, *NODE_ROWS))
        server.routes = self.routes
        self.host = f"{self.options.host}:{self.options.port}"

    def find(self, txn: ReadTxn, call: Call) -> Found:
        """What a call means in this snapshot.

        Raises:
            DvidfsError: unknown path, version, instance or keyword, a locked version, a read-only server.
        """
        parts = call.parts
        if len(parts) > 4 and parts[1] == "node":
            self._check_mode(call)
            node = txn.graph.version(parts[2])
            instance = txn.graph.instance(node, parts[3])
            kind = self.registry.get(instance.type)
            if kind is None:
                raise Unsupported(f'data "{instance.name}" is of type {instance.type}, which this server does not have')
            row = instance_row(kind, call, node, instance, self.host)
            if row.option and not getattr(self.options, row.option):
                raise BadRequest(
                    f"{row.keyword.capitalize()} endpoint deactivated in this DVID server's configuration."
                )
            return Found(row, {}, node, instance, kind)
        if len(parts) > 2 and parts[1] in ("repo", "node") and self.routes.candidates(parts):
            self._check_mode(call)
            self._check_lock(txn, call)
        row, found = self.routes.find(call.method, parts)
        return Found(row, found)

    def _check_lock(self, txn: ReadTxn, call: Call) -> None:
        """What is done to a committed version itself; children may be made of it."""
        node = txn.graph.version(call.parts[2])
        if (
            node.locked
            and call.method in MUTATING
            and call.parts[1] == "node"
            and call.parts[3] not in ("branch", "newversion", "tag")
            and not call.caller.privileged
        ):
            raise Locked(f"Cannot do {call.method.lower()} on locked node {node.uuid}")

    def _check_mode(self, call: Call) -> None:
        if self.options.read_only and call.method not in READING and not call.admin:
            raise Unsupported("Server in read-only mode and will only accept GET and HEAD requests")

    # -- reading ---------------------------------------------------------------------------------------------

    def read(
        self, txn: ReadTxn, call: Call, found: Found, headers: Callable[[str], str | None], body: Any = None
    ) -> Reply:
        """Run a reading row in this snapshot."""
        row = found.row
        given = {"body": body} if row.body.value != "none" else {}
        if found.instance is None:
            result = row.run(txn, call, **found.parts, **given)
            return replies.success(replies.to_content(row, result), [("Cache-Control", replies.NO_CACHE)])
        assert found.node is not None
        view = ReadView(txn, found.node, found.instance)
        cached = row.cached and call.method in ("GET", "HEAD") and not any(map(call.query.get, row.uncached))
        known = headers("If-None-Match") if cached else None
        if known is not None and not row.inline and replies.is_known(tag := replies.etag(view), known):
            raise NotModified(tag)  # without the work of making it again
        asked = headers("Range")
        if asked is not None and ("byte_start" in call.query or "byte_end" in call.query):
            raise BadRequest("cannot combine Range header with byte_start/byte_end query parameters")
        content = replies.to_content(row, row.run(view, **arguments(row, call, 5), **given))
        extra = [("Cache-Control", replies.NO_CACHE)]
        if cached:
            tag = replies.etag(view, content)
            if replies.is_known(tag, known):
                raise NotModified(tag)
            extra = [("ETag", tag), ("Cache-Control", replies.caching(view, call.parts[2]))]
        span = replies.byte_range(content, asked)
        return replies.success(content, extra, span)

    # -- writing ---------------------------------------------------------------------------------------------

    def prepare(self, txn: ReadTxn, call: Call, found: Found, body: Any) -> dict[str, Any]:
        """What the writing row will be called with; parses, and runs the row's ``prepare``."""
        row = found.row
        given = {"body": body} if row.body.value != "none" else {}
        if found.instance is None:
            values = {**found.parts, **given}
            return values if row.prepare is None else dict(row.prepare(txn, call, **values))
        values = {**arguments(row, call, 5), **given}
        if row.prepare is None:
            return values
        assert found.node is not None
        return dict(row.prepare(ReadView(txn, found.node, found.instance), **values))

    def writer(
        self, call: Call, values: Mapping[str, Any], known: Found | None = None, graph: Graph | None = None
    ) -> Callable[[WriteTxn], Reply]:
        """The function for the write lane: finds everything anew in its own transaction.

        ``known`` is right as long as the graph is still ``graph``.
        """

        def run(txn: WriteTxn) -> Reply:
            found = known if known is not None and txn.graph is graph else self.find(txn, call)
            row = found.row
            if found.instance is None:
                result = row.run(txn, call, **values)
            else:
                assert found.node is not None
                refusal = f'Cannot do {call.method} on endpoint "{row.keyword}" of locked node {found.node.uuid}'
                result = row.run(self._view(txn, call, found, refusal), **values)
            content = replies.to_content(row, result)
            return replies.success(content, [("Cache-Control", replies.NO_CACHE)])

        return run

    @staticmethod
    def _view(txn: WriteTxn, call: Call, found: Found, refusal: str) -> ReadView:
        assert found.node is not None
        assert found.instance is not None
        if not found.row.lockable and found.node.locked:
            return ReadView(txn, found.node, found.instance)  # writes nothing of the version itself
        return WriteView(txn, found.node, found.instance, call.caller, refusal=refusal)

    # -- answers ---------------------------------------------------------------------------------------------

    def failure(self, error: Exception, call: Call) -> Reply:
        """The answer for an error: one line for a user's, a traceback in the log for ours."""
        if isinstance(error, NotModified):
            return Reply(304, [("ETag", error.tag)])
        if not isinstance(error, DvidfsError):
            self.service.log_bug(error, f"{call.method} {call.path}")
            return Reply(500, [("Content-Type", errors.TEXT)], Content(f"{errors.INTERNAL}\n".encode()))
        if isinstance(error, Corrupt):
            self.service.log_bug(error, f"{call.method} {call.path}")
        text = errors.one_line(str(error)) if isinstance(error, UnknownKeyword) else errors.text_of(error, call.path)
        body = text.encode(errors="replace")
        return Reply(errors.status_of(error), errors.headers_of(error), Content(body, errors.TEXT, len(body)))


def pack(reply: Reply, accept: str | None) -> Reply:
    """Compress a long text answer for a client that asks for it."""
    body = reply.content.body
    if accept is None or not isinstance(body, bytes) or len(body) < WORTH_PACKING or reply.status != 200:
        return reply
    kind = next((v for k, v in reply.headers if k == "Content-Type"), "")
    if not kind.startswith(PACKED_TYPES):
        return reply
    names = [part.split(";")[0].strip() for part in accept.split(",") if not _REFUSED.search(part)]
    if "zstd" in names:
        packed, name = zstandard.compress(body, 1), "zstd"
    elif "gzip" in names:
        packed, name = igzip.compress(body, 1), "gzip"
    else:
        return reply
    headers = [(k, v if k != "ETag" else f"W/{v}") for k, v in reply.headers]
    return Reply(
        200, [*headers, ("Content-Encoding", name), ("Vary", "Accept-Encoding")], Content(packed, kind, len(packed))
    )
