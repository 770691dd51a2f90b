"""An operation's result as status, headers and body: caching, byte ranges, JSON. The same for both lanes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from dvidfs.engine.versions import ReadView
from dvidfs.errors import RangeError
from dvidfs.http.options import HttpOptions
from dvidfs.types.base import Content, Endpoint

NO_CACHE = "no-cache"
LONG_CACHE = "max-age=3600"
_RANGE = re.compile(r"bytes=([0-9]{0,30})-([0-9]{0,30})")


@dataclass(slots=True)
class Reply:
    """Status, headers (in order), and a content whose body is bytes or pieces."""

    status: int
    headers: list[tuple[str, str]]
    content: Content = field(default_factory=Content)


def to_content(row: Endpoint, result: Any) -> Content:
    """What an operation returned, as a body of the row's type."""
    if isinstance(result, Content):
        return result
    if result is None:
        return Content(b"", "")
    if isinstance(result, (bytes, memoryview)):
        return Content(result, row.type)
    if isinstance(result, str):
        return Content(result.encode(), row.type)
    return Content(orjson.dumps(result), row.type)


def etag(view: ReadView, content: Content | None = None) -> str:
    """What changes when the answer may change: the content's own tag, or any change of the instance at this version."""
    if content is not None and content.tag:
        return f'"{view.instance.uuid[:16]}-{content.tag}"'
    return f'"{view.instance.uuid[:16]}-{view.version}-{view.state()[0]}-{view.graph.history}"'


def is_known(tag: str, header: str | None) -> bool:
    """Whether an If-None-Match header names this tag; a packed answer's tag is the weak form of it."""
    if header is None:
        return False
    return header == tag or tag in [given.strip().removeprefix("W/") for given in header.split(",")]


def caching(view: ReadView, spec: str) -> str:
    """Long only for a whole UUID of a committed version and a versioned instance."""
    return LONG_CACHE if view.frozen and spec == view.node.uuid else NO_CACHE


def byte_range(content: Content, header: str | None) -> tuple[int, int] | None:
    """Start and stop of the one range that a Range header asks for; None to send the whole (malformed, several).

    Raises:
        RangeError: the range begins behind the end.
    """
    if header is None or content.window is None or content.size is None:
        return None
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.group(0) == "bytes=-":
        return None
    size, (first, last) = content.size, match.groups()
    if not first:
        count = int(last)
        start, stop = max(0, size - count), size
        bad = count == 0
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
        bad = start >= size
    if bad:
        raise RangeError(f"range {header} is outside the value with {size} bytes", size)
    return start, stop


def success(content: Content, extra: list[tuple[str, str]], span: tuple[int, int] | None = None) -> Reply:
    """A 200 (or the content's own status), or a 206 for a part of it."""
    headers = [("Content-Type", content.type)] if content.type else []
    headers += content.headers.items()
    headers += extra
    if span is None or content.window is None:
        return Reply(content.status, headers, content)
    start, stop = span
    headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{content.size}"))
    part = replace(content, body=content.window(start, stop), size=stop - start, window=None)
    return Reply(206, headers, part)


def cors(options: HttpOptions, origin: str | None) -> list[tuple[str, str]]:
    """Headers that let a page of an allowed origin read the answer."""
    out = [("Timing-Allow-Origin", "*")] if options.allow_timing else []
    if "*" in options.cors:
        out.append(("Access-Control-Allow-Origin", "*"))
    elif origin is not None and options.allows_origin(origin):
        out += [("Access-Control-Allow-Origin", origin), ("Vary", "Origin")]
    return out


PREFLIGHT = [
    ("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS"),
    ("Access-Control-Allow-Headers", "Content-Type, Authorization, Range, If-None-Match"),
    ("Access-Control-Max-Age", "3600"),
]
