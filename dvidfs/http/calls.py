"""From a request line to the row that answers it: what both lanes share.

A :class:`Call` is a request taken apart; :class:`Routes` finds its row in the tables of the server's own endpoints;
:func:`instance_row` finds the row of a datatype. Nothing here touches a socket or a store.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from dvidfs.engine.graph import Instance, Node
from dvidfs.engine.versions import Caller
from dvidfs.errors import BadRequest, Forbidden, Locked, NotFound
from dvidfs.types.base import DataType, Endpoint

MUTATING = frozenset({"POST", "PUT", "DELETE"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})


class PageNotFound(NotFound):
    """No such route: the original's plain 404."""


@dataclass(slots=True)
class Call:
    """A request: ``path`` decoded, ``parts`` its segments without the leading empty one and one trailing empty one."""

    method: str
    path: str
    parts: list[str]
    query: Mapping[str, str] = field(default_factory=dict)
    caller: Caller = field(default_factory=Caller)
    admin: bool = False
    full_write: bool = False

    def flag(self, name: str) -> bool:
        return self.query.get(name, "").lower() in ("true", "on", "1")


def split_target(raw: str) -> tuple[str, list[str], dict[str, str]]:
    """Decoded path, its segments, and the query (of an option given twice the first counts)."""
    path, _, query = raw.partition("?")
    path = unquote(path, errors="surrogateescape")
    parts = path.split("/")[1:]
    trim(parts)
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, errors="replace"):
        options.setdefault(name, value)
    return path, parts, options


def trim(parts: list[str]) -> None:
    """Drop the empty segment behind a trailing slash, for calls of a datatype only; to blobs it is a reference."""
    if len(parts) > 5 and not parts[-1] and parts[1] == "node" and parts[4] != "blobstore":
        parts.pop()


def clean_path(raw: str) -> str | None:
    """Where a path with ``//``, ``.`` or ``..`` segments should have gone, with its query; None if it is clean."""
    path, mark, query = raw.partition("?")
    if "//" not in path and "/." not in path:
        return None
    clean = posixpath.normpath(path)
    clean = "/" + clean.lstrip("/")
    if path.endswith("/") and not clean.endswith("/"):
        clean += "/"
    return None if clean == path else clean + mark + query


@dataclass(frozen=True)
class Route:
    """A row of the server's own endpoints; its path is absolute."""

    endpoint: Endpoint
    segments: tuple[str, ...]

    def match(self, parts: list[str]) -> dict[str, str] | None:
        if len(parts) != len(self.segments):
            return None
        found = {}
        for part, segment in zip(parts, self.segments, strict=True):
            if segment.startswith("{"):
                if not part:
                    return None
                found[segment[1:-1]] = part
            elif part != segment:
                return None
        return found


class Routes:
    """The server's own endpoints, by path."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self.all = [Route(e, tuple(e.path[1:].split("/"))) for e in endpoints]
        self._by_shape: dict[tuple[int, str], list[Route]] = {}
        for route in self.all:
            self._by_shape.setdefault((len(route.segments), route.segments[1]), []).append(route)

    def candidates(self, parts: list[str]) -> list[tuple[Route, dict[str, str]]]:
        """Rows of that path, whatever their method."""
        rows = self._by_shape.get((len(parts), parts[1]), ()) if len(parts) > 1 else ()
        return [(route, found) for route in rows if (found := route.match(parts)) is not None]

    def find(self, method: str, parts: list[str]) -> tuple[Endpoint, dict[str, str]]:
        """The row and its path parts; HEAD is answered by GET rows.

        Raises:
            PageNotFound: no such path, or not with this method.
        """
        for route, found in self.candidates(parts):
            if route.endpoint.method == method or (method == "HEAD" and route.endpoint.method == "GET"):
                return route.endpoint, found
        raise PageNotFound("404 page not found")


def instance_row(kind: DataType, call: Call, node: Node, instance: Instance, host: str) -> Endpoint:
    """The row of ``/api/node/<uuid>/<instance>/<keyword>/...``.

    Raises:
        Locked: a mutation of a committed version by one who may not.
        BadRequest: no such keyword, or not with this verb.
    """
    keyword, method = call.parts[4], call.method
    row = kind.table.get((method, keyword)) or kind.table.get(("*", keyword))
    lockable = row is None or row.lockable
    if lockable and method in MUTATING and node.locked and instance.versioned and not call.caller.privileged:
        raise Locked(f'Cannot do {method} on endpoint "{keyword}" of locked node {node.uuid}')
    if row is not None:
        if row.admin and not call.admin:
            raise BadRequest(f'endpoint "{keyword}" requires admin privileges: give an admintoken')
        return row
    if keyword in kind.keywords:
        raise BadRequest(f'{keyword} endpoint does not support "{method.lower()}" HTTP verb')
    raise UnknownKeyword(
        f'Bad API call ({call.path}) for data "{instance.name}".  See API help at http://{host}/api/help/{kind.name}'
    )


class UnknownKeyword(BadRequest):
    """The original's text for a keyword that the datatype does not have; it names the path itself."""


def arguments(row: Endpoint, call: Call, first: int) -> dict[str, Any]:
    """Path parts (from ``call.parts[first]`` on) and query options of a row, parsed.

    Raises:
        BadRequest: a part is missing, or an option is malformed.
    """
    given = call.parts[first:]
    out: dict[str, Any] = {}
    for i, name in enumerate(row.parts):
        if name.endswith("*"):
            out[name[:-1]] = tuple(given[i:])
            continue
        optional = name.endswith("?")
        if i >= len(given) or (optional and not given[i]):
            if optional:
                out[name[:-1]] = None
                continue
            raise BadRequest(
                f"incomplete API specification: {row.keyword} needs {'/'.join(row.parts)}, as in {row.example}"
            )
        name = name.rstrip("?")
        parse = row.args.get(name)
        out[name] = given[i] if parse is None else parse(given[i])
    return options(row, call, out)


def options(row: Endpoint, call: Call, out: dict[str, Any]) -> dict[str, Any]:
    """Query options added to ``out``, parsed."""
    if not call.query:
        out.update(row.defaults)
        return out
    for param in row.query:
        if param.name == "throttle":
            continue
        text = call.query.get(param.alias or param.name)
        try:
            out[param.name] = param.default if text is None else param.parse(text)
        except BadRequest as e:
            raise BadRequest(f"option {param.alias or param.name}: {e}") from None
    return out


def need_admin(call: Call, action: str) -> None:
    if not call.admin:
        raise Forbidden(f"{action} requires admin privileges (admintoken or DSG admin)")
