"""Rows of labelmap for datatypes that have fewer options: those that they lack are given a value and left out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from dvidfs.types.base import Endpoint
from dvidfs.types.labelmap import tables

_KNOWN = {(row.method, row.path): row for row in tables.ENDPOINTS}


def row(method: str, path: str, **fixed: Any) -> Endpoint:
    """The row of labelmap, its options in ``fixed`` having these values."""
    found = _KNOWN[method, path]
    named = {name: _bound(getattr(found, name), fixed) for name in ("run", "prepare", "light")}
    if found.prepare is not None:
        named["run"] = found.run  # it gets what was prepared
    return replace(found, **named, query=tuple(p for p in found.query if p.name not in fixed))


def rows(paths: Iterable[tuple[str, str]], **fixed: Any) -> tuple[Endpoint, ...]:
    """Several of them."""
    return tuple(row(method, path, **fixed) for method, path in paths)


def _bound(function: Callable[..., Any] | None, fixed: dict[str, Any]) -> Callable[..., Any] | None:
    """The function with what it takes of ``fixed``."""
    if function is None:
        return None
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    given = {name: value for name, value in fixed.items() if takes_all or name in parameters}
    return partial(function, **given) if given else function
