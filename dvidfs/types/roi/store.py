"""Where a region is kept: its spans and the box around them, two values at each version that set them.

Decides how spans are stored, united below a merge and remembered. The spans lie in the store as the JSON that ``GET roi`` answers, so
that an answer and a file are the stored bytes. Below a merge whose sides both set the region, it is what
either side has: the original keeps each span under a key of its own, so that a span stays unless a side dropped it. Invariant: both values are
written together, and the box is exactly the one around the spans.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import orjson

from dvidfs.engine import keys
from dvidfs.engine.graph import Instance
from dvidfs.engine.keys import PIECE, Family, Kind
from dvidfs.engine.store import Buffer, Store
from dvidfs.engine.values import Entry, Prepared, Upload, Uploaded
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, Corrupt, DvidfsError
from dvidfs.types.geometry import Box, Point, join, span
from dvidfs.types.roi import text
from dvidfs.types.roi.region import DENSE, Region, Spans, ordered, unite

SPANS = keys.encode_text(b"spans")
BOX = keys.encode_text(b"box")
KEPT_BYTES = 64 << 20
T = TypeVar("T")


def block_size(instance: Instance) -> Point:
    """Voxels of a block along x, y, z.

    Raises:
        BadRequest: the instance was made with one that cannot be; its spans can be read and written all the same.
    """
    x, y, z = instance.settings["BlockSize"]
    if min(x, y, z) < 1:
        raise BadRequest(f'the BlockSize of "{instance.name}" is {join((x, y, z))}: no voxel lies in such a block')
    return x, y, z


# ---------------------------------------------------------------- reading


def entries(view: ReadView, key: bytes = SPANS) -> list[Entry]:
    """The values that count: one, none, or several below a merge."""
    return [e for e in view.newest(Family.UNITED, key) if e.kind != Kind.TOMBSTONE]


def box(view: ReadView) -> Box | None:
    """The box of blocks around the region, without reading it; None if it is empty."""
    out: Box | None = None
    for entry in entries(view, BOX):
        found = parse_box(view.load(entry))
        out = found if out is None or found is None else out.union(found)
    return out


def json(view: ReadView) -> bytes:
    """The spans as JSON."""
    found = entries(view)
    return bytes(view.load(found[0])) if len(found) == 1 else text.dump(region(view).spans)


def check(view: ReadView) -> Iterator[str]:
    """What is wrong with the values that count, a line each."""
    around = {entry.version: entry for entry in entries(view, BOX)}
    for entry in entries(view):
        try:
            spans = _spans(view, entry)
            told = parse_box(view.load(around[entry.version]))
        except (DvidfsError, KeyError, ValueError, TypeError, IndexError) as error:
            yield f"spans of version {entry.version}: {error}"
            continue
        if ordered(spans) is not spans:
            yield f"spans of version {entry.version} are not in order"
        if Region(spans).box != told:
            yield f"spans of version {entry.version} lie in {Region(spans).box}, their entry says {told}"


def region(view: ReadView) -> Region:
    """The region at this version, from memory where it has been read before."""
    if isinstance(view, WriteView):  # what it sees may never be committed
        return _read(view)
    return _kept(view.txn.store).get((view.stamp(), "region"), lambda: _read(view), _cost)


def known(view: ReadView) -> bool:
    """Whether the region is in memory."""
    return _kept(view.txn.store).has((view.stamp(), "region"))


def derived(view: ReadView, name: str, make: Callable[[], bytes]) -> bytes:
    """Bytes made of the region, kept as long as it is."""
    return _kept(view.txn.store).get((view.stamp(), name), make, len)


def _read(view: ReadView) -> Region:
    return Region(unite([_spans(view, entry) for entry in entries(view)]))


def _spans(view: ReadView, entry: Entry) -> Spans:
    try:
        return text.parse_spans(view.load(entry))
    except BadRequest as error:
        raise Corrupt(f'the spans of "{view.instance.name}" are damaged in the store ({error})') from None


def parse_box(data: Buffer) -> Box | None:
    """The box of a stored value; corners lie inside."""
    corners = orjson.loads(data)
    if corners is None:
        return None
    first, last = corners
    return span(tuple(first), (last[0] + 1, last[1] + 1, last[2] + 1))


class _Kept:
    """Values lately used, the least recently used go first; for many threads. Keys begin with the stamp of a view."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._used = 0

    def has(self, key: Hashable) -> bool:
        return key in self._held

    def get(self, key: Hashable, make: Callable[[], T], cost: Callable[[T], int]) -> T:
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
                return found[0]
        made = make()
        with self._lock:
            if key not in self._held:
                self._held[key] = made, cost(made)
                self._used += self._held[key][1]
            while self._used > KEPT_BYTES and len(self._held) > 1:
                self._used -= self._held.popitem(last=False)[1][1]
        return made


def _cost(region: Region) -> int:
    """Bytes of a region and of all that follows from it."""
    grid = region.box.volume if region.box is not None and region.box.volume <= DENSE else 0
    return 7 * region.spans.nbytes + grid + 512


_stores: WeakKeyDictionary[Store, _Kept] = WeakKeyDictionary()


def _kept(store: Store) -> _Kept:
    found = _stores.get(store)
    return _stores.setdefault(store, _Kept()) if found is None else found


# ---------------------------------------------------------------- writing


def prepared(view: ReadView, spans: Spans) -> tuple[Prepared | Uploaded, Prepared]:
    """Both values of a region, ready for :func:`replace`; a long one is written in pieces already."""
    upload, data = Upload(view.txn.store, view.instance.id), memoryview(text.dump(spans))
    for at in range(0, len(data), PIECE):
        upload.feed(data[at : at + PIECE])
    around = Region(spans).box
    corners = orjson.dumps([around.offset, around.last] if around is not None else None)
    return upload.finish(), Prepared(corners, len(corners))


def replace(view: WriteView, spans: Prepared | Uploaded, around: Prepared) -> None:
    """Sets the region at this version."""
    view.put(Family.UNITED, SPANS, spans)
    view.put(Family.UNITED, BOX, around)


def clear(view: WriteView) -> None:
    """Empties the region from this version on."""
    view.delete(Family.UNITED, SPANS)
    view.delete(Family.UNITED, BOX)
