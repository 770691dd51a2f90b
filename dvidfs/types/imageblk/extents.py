"""The extents of an image volume: the box around what was written through ``raw``, or what a client said they are.

Decides which extents a version has. They are versioned, kept as one private key, and grow in the transaction that writes
voxels. Below a merge of versions that both changed them, files cover the union, and the next write stores it.
The JSON of ``info`` does there, and in versions before the first write, what the original does: it shows the
extents that were written last anywhere. Invariant: stored extents are a box of at least one voxel.
"""

from __future__ import annotations

import functools
from typing import Any

import orjson

from dvidfs.engine import keys
from dvidfs.engine.graph import Instance
from dvidfs.engine.keys import Family, Kind, Table
from dvidfs.engine.values import Entry, Prepared, load
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.types.geometry import Box
from dvidfs.types.imageblk.settings import corner_box, extents_json

KEY = keys.encode_text(b"extents")


def covered(view: ReadView) -> Box | None:
    """The box that the files of this version show: what it or any ancestor wrote, else what the settings say."""
    stored = _stored(view)
    return functools.reduce(Box.union, stored) if stored else _set(view.instance)


def shown(view: ReadView) -> Box | None:
    """The box that ``info`` shows at this version."""
    stored = set(_stored(view))
    if len(stored) == 1:
        return stored.pop()
    return _latest(view) or _set(view.instance)


def grow(view: WriteView, box: Box) -> None:
    """Extends the extents of an open version to cover ``box``."""
    stored = _stored(view)
    wanted = functools.reduce(Box.union, stored, box)
    if stored != [wanted]:
        replace(view, wanted)


def replace(view: WriteView, box: Box) -> None:
    """Sets the extents of an open version."""
    text = orjson.dumps(extents_json(box))
    view.put(Family.PRIVATE, KEY, Prepared(text, len(text)))


def _stored(view: ReadView) -> list[Box]:
    """One box, none if nothing was written, several below a merge that nobody has written to."""
    live = [e for e in view.newest(Family.PRIVATE, KEY) if e.kind != Kind.TOMBSTONE]
    return [_parse(view, entry) for entry in live]


def _latest(view: ReadView) -> Box | None:
    """What was written last at any version."""
    prefix = keys.head(view.instance.id, Family.PRIVATE) + KEY
    rows = view.txn.scan(Table.INDEX, prefix, keys.after(prefix))
    entries = [Entry.parse(raw, keys.suffix_version(key[-keys.SUFFIX :])) for key, raw in rows]
    live = [e for e in entries if e.kind != Kind.TOMBSTONE]
    return _parse(view, max(live, key=lambda e: (e.mtime, e.version))) if live else None


def _parse(view: ReadView, entry: Entry) -> Box:
    found: dict[str, Any] = orjson.loads(load(view.txn, view.instance.id, entry))
    return corner_box(found["MinPoint"], found["MaxPoint"])


def _set(instance: Instance) -> Box | None:
    first, last = instance.settings["MinPoint"], instance.settings["MaxPoint"]
    return None if first is None else corner_box(first, last)
