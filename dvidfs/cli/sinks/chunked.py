"""Exports to chunks with all scales: OME-Zarr (Zarr 3 or 2), N5, neuroglancer precomputed, in shards or not, on disk or at a URL.

Decides the order of work: scale after scale, each a row of parts that are written once, so that one that was stopped goes on with the part it was at.
A coarser scale is the stored one if the volume has it, else made of what was written of the finer one, as the voxel type says. How a format
describes its arrays is :mod:`~dvidfs.cli.sinks.layouts`. Invariant: parts of which nothing is stored are not written, readers take
them as 0.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvidfs.cli.sinks.base import NOTES, Notes, Selection, Tell
from dvidfs.cli.sinks.layouts import Layout
from dvidfs.errors import BadRequest, Corrupt, DvidfsError, NotFound, Unreachable
from dvidfs.kernels import means
from dvidfs.types.geometry import Box, Point
from dvidfs.types.proxy.places import Place
from dvidfs.types.proxy.reach import library
from dvidfs.types.pyramids.scales import extents_at
from dvidfs.types.volumes.source import Shape

PART = 32 << 20
"""Chunks that are not in shards are written in parts of about so many bytes of voxels."""
WAITING = 2
"""Parts that are being packed and sent."""


class Bucket:
    """Where notes and metadata lie: the folder of a volume, on disk or remote."""

    def __init__(self, place: Place) -> None:
        self._store = asked(place, lambda: library().KvStore.open(place.url))

    def load(self, name: str) -> bytes | None:
        found = asked(self._store.url, lambda: self._store.read(name))
        return bytes(found.value) if found.state == "value" else None

    def save(self, name: str, data: bytes) -> None:
        asked(self._store.url, lambda: self._store.write(name, data))

    def drop(self, name: str) -> None:
        asked(self._store.url, lambda: self._store.delete_range(library().KvStore.KeyRange(name, name + "\0")))

    def is_taken(self) -> bool:
        with suppress(NotFound):
            return bool(asked(self._store.url, lambda: self._store.list()))
        return False


def asked(where: object, ask: Callable[[], Any]) -> Any:
    """What tensorstore answers; its errors in one line."""
    try:
        return ask().result()
    except (ValueError, RuntimeError, OSError) as error:
        text = " ".join(str(error).split())
        raise _kind(text)(f"{where}: {text.partition(' [')[0]}") from None


def _kind(text: str) -> type[DvidfsError]:
    if text.startswith(("NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED")):
        return NotFound
    return Unreachable if text.startswith(("UNAVAILABLE", "DEADLINE", "ABORTED", "INTERNAL", "UNKNOWN")) else Corrupt


@dataclass
class ChunkSink:
    """A selection and its coarser scales as a volume in chunks; ``scales``: how many in all, None: until one chunk holds it."""

    selection: Selection
    place: Place
    layout: Layout
    scales: int | None = None

    def __post_init__(self) -> None:
        library()
        self.shapes = list(_shapes(self.selection.shape, self.scales, self.layout.chunk))
        self.layout.check(self.selection.frame)
        self._arrays: list[Any] = []

    @property
    def total(self) -> int:
        return sum(shape.frame.size for shape in self.shapes)

    def begin(self) -> int:
        self._bucket = Bucket(self.place)
        plan = self.selection.plan(form=self.layout.plan(), scales=len(self.shapes), part=PART)
        self._notes = Notes(self._bucket, NOTES, plan, self.place)
        self._done = tuple(self._notes.begin(self._bucket.is_taken) or (0, 0))
        for name, data in self.layout.documents(self.selection.view.instance.name, self.shapes).items():
            self._bucket.save(name, data)
        self._arrays = [self._open(n, shape) for n, shape in enumerate(self.shapes)]
        return sum(b.volume for n, i, b in self._parts() if (n, i) < self._done) * self.selection.kind.bytes

    def _open(self, number: int, shape: Shape) -> Any:
        """An array as (z, y, x) or (z, y, x, channel), each voxel where it is in the volume."""
        ts = library()
        spec = self.layout.array(self.place, number, shape)
        array = asked(self.place, lambda: ts.open(spec, open=True, create=True))
        order = self.layout.order(bool(shape.kind.channels))
        array = array[ts.d[[order.index(axis) for axis in "zyxc" if axis in order]].transpose[:]]
        if "c" in order and not shape.kind.channels:
            array = array[..., 0]
        return array[ts.d[0, 1, 2].translate_to[list(shape.extents.origin)]]

    # -- parts -----------------------------------------------------------------------------------------------

    def _parts(self) -> Iterator[tuple[int, int, Box]]:
        """(scale, number, voxels) of all parts."""
        for n, (shape, array) in enumerate(zip(self.shapes, self._arrays, strict=True)):
            for i, box in enumerate(_grid(shape.extents, self._part(shape, array))):
                yield n, i, box

    def _part(self, shape: Shape, array: Any) -> Point:
        """Sides of a part (x, y, z): what is written as one file, or several chunks along x and y."""
        z, y, x = array.chunk_layout.write_chunk.shape[:3]
        if self.layout.sharded:
            return x, y, z
        room = max(1, PART // (x * y * z * shape.kind.bytes))
        columns = min(room, -(-shape.extents.size[0] // x))
        return x * columns, y * max(1, room // columns), z

    def run(self, tell: Tell) -> None:
        done = 0
        waiting: deque[tuple[int, int, Box, Any]] = deque()

        def settle() -> int:
            number, part, box, sent = waiting.popleft()
            if sent is not None:
                asked(self.place, lambda: sent)
            self._notes.save((number, part + 1))
            return box.volume * self.selection.kind.bytes

        for number, part, box in self._parts():
            if (number, part) < self._done:
                done += box.volume * self.selection.kind.bytes
                continue
            while waiting and (len(waiting) >= WAITING or waiting[0][0] != number):  # the scale below must be whole
                done += settle()
                tell(done)
            waiting.append((number, part, box, self._send(number, box)))
        while waiting:
            done += settle()
            tell(done)
        self._notes.end()

    def _send(self, number: int, box: Box) -> Any:
        voxels = self._voxels(number, box)
        if voxels is None:
            return None
        window = tuple(slice(o, o + n) for o, n in zip(box.origin, box.shape, strict=True))
        return self._arrays[number][window].write(voxels)

    # -- voxels ----------------------------------------------------------------------------------------------

    def _voxels(self, number: int, box: Box) -> NDArray | None:
        """Samples of a scale, None if all are 0."""
        stored = self._stored(number)
        if stored is not None:
            return None if stored.is_empty(box) else stored.samples(box)
        return self._halved(number, box)

    def _stored(self, number: int) -> Selection | None:
        """The scale as the volume itself has it; None where it has not, or more lies around the selection."""
        if not number:
            return self.selection
        source, view, scale = self.selection.source, self.selection.view, self.selection.shape.scale + number
        if scale > source.scales(view) or source.extents(view, scale) != self.shapes[number].extents:
            return None
        return Selection(view, source, self.shapes[number], source.open(view, scale))

    def _halved(self, number: int, box: Box) -> NDArray | None:
        """What was written of the finer scale, halved; voxels around the selection do not count."""
        finer = self.shapes[number - 1].extents
        whole = Box(_twice(box.offset), _twice(box.size))
        inside = whole.intersect(finer)
        assert inside is not None
        base = self._stored(number - 1)
        if base is not None and base.is_empty(inside):
            return None
        window = tuple(slice(o, o + n) for o, n in zip(inside.origin, inside.shape, strict=True))
        read = asked(self.place, lambda: self._arrays[number - 1][window].read(order="C"))
        if not read.any():
            return None
        room = whole.window(inside)
        if inside != whole:
            padded = np.zeros((*whole.shape, *read.shape[3:]), read.dtype)
            padded[room] = read
            read = padded
        low, high = [part.start for part in room], [part.stop for part in room]
        means.trim(read, (low[0], low[1], low[2]), (high[0], high[1], high[2]))
        return self.selection.kind.halve(np.ascontiguousarray(read))


def _twice(point: Point) -> Point:
    return point[0] * 2, point[1] * 2, point[2] * 2


def _shapes(shape: Shape, wanted: int | None, chunk: Point) -> Iterator[Shape]:
    """The shapes of all scales, the finest first."""
    x, y, z = shape.voxel_size
    if wanted is not None and not 1 <= wanted <= 24:
        raise BadRequest(f"--scales {wanted}: want 1 to 24")
    for n in itertools.count():
        box = extents_at(shape.extents, n)
        yield replace(shape, scale=shape.scale + n, box=box, voxel_size=(x * 2**n, y * 2**n, z * 2**n))
        is_small = all(side <= c for side, c in zip(box.size, chunk, strict=True))
        if n + 1 == wanted or (wanted is None and is_small):
            return


def _grid(box: Box, part: Sequence[int]) -> Iterator[Box]:
    """A box in parts, z slowest; the last ones end with it."""
    counts = [math.ceil(n / p) for n, p in zip(box.size, part, strict=True)]
    for k, j, i in itertools.product(*(range(n) for n in reversed(counts))):
        low = [o + n * p for o, n, p in zip(box.offset, (i, j, k), part, strict=True)]
        size = [min(p, stop - at) for p, stop, at in zip(part, box.stop, low, strict=True)]
        yield Box((low[0], low[1], low[2]), (size[0], size[1], size[2]))
