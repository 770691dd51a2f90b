"""Help in plain text, written from the tables of a datatype or of the server."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap

from dvidfs.types.base import DataType, Endpoint

WIDTH = 110


def type_help(kind: DataType) -> str:
    """The help page of a datatype: settings, then every endpoint."""
    lines = [f"{kind.name} (version {kind.version})", "", *wrap(kind.summary, WIDTH), ""]
    lines += ["Creation: POST /api/repo/<uuid>/instance with a JSON object of strings", ""]
    rows = [("typename", kind.name), ("dataname", "name of the new instance"), ("versioned", "true (default) or false")]
    rows += [("Compression", "none, snappy, lz4, gzip, gzip:1 to gzip:9"), ("Checksum", "none (default) or crc32")]
    rows += [("Tags", "key=value,key=value")]
    rows += [(s.name, f"{s.help} (default: {_shown(s.default)})") for s in kind.settings]
    lines += [f"    {name:14} {text}" for name, text in rows]
    lines += ["", "Endpoints", ""]
    return "\n".join([*lines, *endpoint_lines(kind.endpoints, "/api/node/<uuid>/<instance>/")])


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def endpoint_lines(rows: Iterable[Endpoint], base: str) -> list[str]:
    """Each endpoint as a paragraph."""
    out: list[str] = []
    for row in rows:
        method = "GET" if row.method == "*" else row.method
        out.append(f"{method:7}{base}{row.path}")
        out += [f"       {line}" for line in wrap(f"{row.summary} {row.detail}".strip(), WIDTH - 7)]
        out += [f"           {p.alias or p.name}={'...':6} {p.help}" for p in row.query]
        if row.example:
            out.append(f"       Example: {method} {base}{row.example}")
        out.append("")
    return out
