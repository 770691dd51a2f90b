"""Rows of labelmap for datatypes that have fewer options: those that they lack are given a value and left out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from dvidfs.engine.versions import ReadView
from dvidfs.types.base import Endpoint
from dvidfs.types.labelmap import tables

_KNOWN = {(row.method, row.path): row for row in tables.ENDPOINTS}


def fixed(found: Endpoint, **values: Any) -> Endpoint:
    """A row whose options in ``values`` have these values."""
    bound = {name: _bound(getattr(found, name), values) for name in ("run", "prepare", "light")}
    if found.prepare is not None:
        bound["run"] = found.run  # it gets what was prepared
    return replace(found, **bound, query=tuple(p for p in found.query if p.name not in values))


def row(method: str, path: str, **values: Any) -> Endpoint:
    """The row of labelmap, so."""
    return fixed(_KNOWN[method, path], **values)


def rows(paths: Iterable[tuple[str, str]], **values: Any) -> tuple[Endpoint, ...]:
    """Several of them."""
    return tuple(row(method, path, **values) for method, path in paths)


def _bound(function: Callable[..., Any] | None, values: dict[str, Any]) -> Callable[..., Any] | None:
    """The function with what it takes of ``values``; its signature does not name them any more."""
    if function is None:
        return None
    signature = inspect.signature(function)
    every = signature.parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in every)
    given = {name: value for name, value in values.items() if takes_all or name in signature.parameters}

    def bound(view: ReadView, **more: Any) -> Any:
        return function(view, **more, **given)

    bound.__signature__ = signature.replace(parameters=[p for p in every if p.name not in given])  # type: ignore[attr-defined]
    return bound
