"""The OpenAPI 3.1 document, written from the same tables that serve the requests (source: https://spec.openapis.org/oas/v3.1.0)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from dvidfs import __version__
from dvidfs.types.base import Body, Endpoint, Registry

BODIES = {Body.BYTES: "application/octet-stream", Body.VALUE: "application/octet-stream", Body.JSON: "application/json"}


def document(rows: Iterable[Endpoint], registry: Registry) -> dict[str, Any]:
    """Paths of the server, then of each datatype below ``/api/node/{uuid}/{instance}``."""
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        if not row.path.endswith("/"):  # the twin of one without
            _add(paths, row.path, row, "server")
    for kind in registry:
        for row in kind.endpoints:
            _add(paths, f"/api/node/{{uuid}}/{{{kind.name}}}/{row.path}", row, kind.name)
    return {
        "openapi": "3.1.0",
        "info": {"title": "dvidfs", "version": __version__, "description": "DVID's HTTP API, served by dvidfs."},
        "paths": paths,
    }


def _add(paths: dict[str, dict[str, Any]], path: str, row: Endpoint, tag: str) -> None:
    path = path.replace("?}", "}").replace("*}", "}")
    method = "get" if row.method == "*" else row.method.lower()
    paths.setdefault(path, {})[method] = _operation(path, row, tag, method)


def _operation(path: str, row: Endpoint, tag: str, method: str) -> dict[str, Any]:
    names = re.findall(r"\{([^}]+)\}", path)
    parameters = [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names]
    parameters += [
        {
            "name": p.alias or p.name,
            "in": "query",
            "required": False,
            "description": p.help,
            "schema": {"type": "string"},
        }
        for p in row.query
    ]
    out: dict[str, Any] = {
        "summary": row.summary,
        "tags": [tag],
        "operationId": re.sub(r"\W+", "_", f"{method}_{path}").strip("_"),
        "parameters": parameters,
        "responses": {"200": {"description": "done"}, "400": {"description": "one line that says what is wrong"}},
    }
    if row.detail:
        out["description"] = row.detail
    if row.type:
        out["responses"]["200"]["content"] = {row.type.split(";")[0]: {}}
    if row.body in BODIES:
        out["requestBody"] = {"required": row.body is not Body.JSON, "content": {BODIES[row.body]: {}}}
    return out
