"""What the mount shows of a labelvol: a folder for each label of the labelblk that it shows; nothing if it follows none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from dvidfs.engine.versions import ReadView
from dvidfs.types.base import Directory, Each, File, Made
from dvidfs.types.labelarray.files import BODIES
from dvidfs.types.labelvol import source


def _there(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of the labelblk, for a view of the labelvol."""
    return lambda view, *given: function(source.need(view), *given)


def _shown(entry: Any) -> Any:
    """An entry of the labelblk, for views of the labelvol."""
    told = {field.name: getattr(entry, field.name) for field in fields(entry)}
    changed: dict[str, Any] = {
        name: _there(value) for name, value in told.items() if callable(value) and name != "parse"
    }
    if isinstance(entry, Directory):
        changed["entries"] = {name: _shown(inner) for name, inner in entry.entries.items()}
        changed["each"] = tuple(_shown(inner) for inner in entry.each)
    if isinstance(entry, Each):
        changed["entry"] = _shown(entry.entry)
    if isinstance(entry, Made) and entry.tag is None:
        changed["tag"] = _stamp
    if isinstance(entry, File):
        changed["write"] = None
    return replace(entry, **changed)


def _stamp(view: ReadView, *_: Any) -> Any:
    return source.need(view).stamp()


def _is_shown(view: ReadView) -> bool:
    return source.find(view) is not None


TREE = Directory({"bodies": replace(_shown(BODIES), shown=_is_shown)})
