"""The HTTP reference in Markdown (docs/http.md), written from the tables that serve the requests.

``script/reference`` writes the page; a test
holds it to the tables.
"""

from __future__ import annotations

from collections.abc import Iterable

from dvidfs.types.base import Body, DataType, Endpoint

BODY_WORDS = {Body.BYTES: "bytes", Body.VALUE: "bytes", Body.JSON: "JSON"}


def rows(endpoints: Iterable[Endpoint], base: str) -> list[str]:
    """A table of endpoints."""
    lines = ["| request | what it does | options | body | answer |", "| --- | --- | --- | --- | --- |"]
    for row in endpoints:
        method = "any" if row.method == "*" else row.method
        options = "<br>".join(f"`{p.alias or p.name}`: {p.help}" for p in row.query)
        text = f"{row.summary} {row.detail}".strip()
        kind = f"`{row.type.split(';')[0]}`" if row.type else ""
        cells = (f"{method} `{base}{row.path}`", text, options, BODY_WORDS.get(row.body, ""), kind)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def datatype(kind: DataType) -> list[str]:
    """A section for a datatype."""
    lines = [f"## {kind.name}", "", kind.summary, ""]
    if kind.settings:
        lines += ["Settings at creation (strings):", "", "| setting | meaning | default |", "| --- | --- | --- |"]
        for s in kind.settings:
            default = ",".join(map(str, s.default)) if isinstance(s.default, (tuple, list)) else s.default
            lines.append(f"| `{s.name}` | {s.help} | {default} |")
        lines.append("")
    return [*lines, *rows(kind.endpoints, ""), ""]
