"""The voxels of a volume that lives elsewhere: windows decoded by tensorstore, and stored JPEG chunks as they are.

Decides what is kept in memory (within the cache of :mod:`~dvidfs.types.proxy.reach`) and how chunks are named; the remote is taken as
immutable, so nothing is asked for twice while it is kept. Arrays are (z, y, x), with a last axis of channels where there
are several. Invariant: a voxel has one value, whichever way it is asked for. Source: neuroglancer precomputed, its
sharded format, and reference note "imageblk" 5.7 for clipped chunks.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dvidfs.errors import Corrupt, NotFound, Unreachable
from dvidfs.types.formats.blockform import JPEG_QUALITY
from dvidfs.types.geometry import Box, Point
from dvidfs.types.proxy.describe import Remote, open_array
from dvidfs.types.proxy.reach import JPEG_PART, answers, cache_bytes, context, library

_ROW = 200
"""Bytes that a kept chunk takes besides its own."""


class Bordered(bytes):
    """A chunk from the border of the volume, made larger and encoded again; ``voxels`` are those of the chunk itself."""

    voxels: NDArray[np.uint8]


Chunk = bytes
"""A chunk as JPEG of a whole block."""


class Chunks:
    """Chunks kept until ``limit`` bytes are exceeded, the least recently used go first; for many threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()
        self._held: OrderedDict[tuple[Any, Point], Chunk | None] = OrderedDict()

    def find(self, volume: Any, coords: Sequence[Point]) -> tuple[dict[Point, Chunk | None], list[Point]]:
        """Those that are kept (None: known not to be there), and the rest."""
        found, missing = {}, []
        with self._lock:
            for coord in coords:
                key = volume, coord
                if key in self._held:
                    self._held.move_to_end(key)
                    found[coord] = self._held[key]
                else:
                    missing.append(coord)
        return found, missing

    def keep(self, volume: Any, chunks: dict[Point, Chunk | None]) -> None:
        with self._lock:
            for coord, chunk in chunks.items():
                if (volume, coord) not in self._held:
                    self._held[volume, coord] = chunk
                    self._used += _weight(chunk)
            while self._used > self._limit and self._held:
                self._used -= _weight(self._held.popitem(last=False)[1])

    def coord_of(self, volume: Any, chunk: Chunk) -> Point | None:
        """Where that very chunk lies, if it is still kept; looks through all of them."""
        with self._lock:
            return next((coord for (of, coord), held in self._held.items() if held is chunk and of == volume), None)


def _weight(chunk: Chunk | None) -> int:
    return _ROW + len(chunk or b"") + (chunk.voxels.nbytes if isinstance(chunk, Bordered) else 0)


class RemoteVolume:
    """Reads one :class:`Remote`; opened at first use, for many threads."""

    def __init__(self, given: Any, chunks: Chunks) -> None:
        self.given = given
        self.remote = remote = Remote.from_json(given)
        self.box = remote.box
        self._home = remote.home
        self._server = self._home.server
        self._chunks = chunks
        self._item = np.dtype(remote.dtype).itemsize * remote.channels
        self._store: Any = None
        self._kvstore: Any = None

    # -- voxels ----------------------------------------------------------------------------------------------

    def _voxels(self) -> Any:
        """The array, its axes z, y, x and channels, at its place in space."""
        if self._store is None:
            self._store = self._open()
        return self._store

    def _open(self) -> Any:
        ts, remote = library(), self.remote
        try:
            store = open_array(self._home, remote.array)
        except NotFound as error:
            raise Unreachable(f"the volume at {remote.place} is not there any more: {error}") from None
        wanted = [*reversed(remote.axes), *([] if remote.channel is None else [remote.channel])]
        if store.dtype.name != remote.dtype or [store.shape[a] for a in wanted[:3]] != list(self.box.shape):
            raise Corrupt(f"the volume at {remote.place} is not the one that the instance was made for: make a new one")
        kept = [axis for axis in range(store.rank) if axis in wanted]
        store = store[tuple(slice(None) if a in kept else store.domain[a].inclusive_min for a in range(store.rank))]
        store = store[ts.d[[kept.index(axis) for axis in wanted]].transpose[:]]
        return store[ts.d[0, 1, 2].translate_to[list(self.box.origin)]]

    def read(self, boxes: Sequence[Box]) -> list[NDArray]:
        """The voxels of boxes that lie within the volume; all are asked for at once."""
        voxels = self._voxels()

        def ask() -> list[Any]:
            slices = [tuple(slice(o, o + n) for o, n in zip(box.origin, box.shape, strict=True)) for box in boxes]
            return [voxels[part].read(order="C") for part in slices]

        return answers(self._server, ask, sum(box.volume for box in boxes) * self._item)

    # -- stored chunks ---------------------------------------------------------------------------------------

    def _folder(self) -> Any:
        """The key-value store that holds the chunks of this scale."""
        if self._kvstore is None:
            self._kvstore = self._open_folder()
        return self._kvstore

    def _open_folder(self) -> Any:
        remote, ts = self.remote, library()
        url = self._home.below(remote.key)
        spec: Any = url
        if remote.sharding is not None:
            spec = {"driver": "neuroglancer_uint64_sharded", "metadata": dict(remote.sharding), "base": url}
        return answers(self._server, lambda: [ts.KvStore.open(spec, context=context())])[0]

    def chunks(self, coords: Sequence[Point]) -> list[Chunk | None]:
        """Chunks by their coordinates (x, y, z) in the grid of the volume, as JPEG of whole blocks; None for one that is not there."""
        found, missing = self._chunks.find(self._key, coords)
        if missing:
            folder, size = self._folder(), len(missing) * math.prod(self.remote.chunk)
            names = [self._name(coord) for coord in missing]
            read = answers(self._server, lambda: [folder.read(name) for name in names], size)
            made = {coord: self._made(coord, result) for coord, result in zip(missing, read, strict=True)}
            self._chunks.keep(self._key, made)
            found |= made
        return [found[coord] for coord in coords]

    def decode(self, chunk: Chunk, size: int) -> NDArray[np.uint8]:
        """The ``size`` voxels of a chunk that :meth:`chunks` gave, in one dimension.

        Raises:
            Corrupt: that is not what is there; names the chunk.
        """
        return chunk.voxels if isinstance(chunk, Bordered) else self._decode(chunk, size, None)

    def _decode(self, chunk: Chunk, size: int, coord: Point | None) -> NDArray[np.uint8]:
        try:
            voxels = simplejpeg.decode_jpeg(chunk, "GRAY").reshape(-1)
            if voxels.size == size:
                return voxels
            problem = f"it holds {voxels.size} voxels instead of {size}"
        except ValueError as error:
            problem = str(error)
        coord = coord or self._chunks.coord_of(self._key, chunk)
        where = f"chunk {self._file_name(coord)}" if coord else "a chunk"
        raise Corrupt(f"{where} of the volume at {self.remote.place} cannot be read as jpeg: {problem}")

    @property
    def _key(self) -> tuple[str, int]:
        return self.remote.place, self.remote.scale

    def _inside(self, coord: Point) -> Box:
        """The voxels that a chunk holds."""
        remote = self.remote
        x, y, z = (o + c * n for o, c, n in zip(remote.offset, coord, remote.chunk, strict=True))
        inside = Box((x, y, z), remote.chunk).intersect(self.box)
        assert inside is not None, "chunks outside the volume are not asked for"
        return inside

    def _name(self, coord: Point) -> str | bytes:
        """What a chunk is called where it is stored."""
        return self._file_name(coord) if self.remote.sharding is None else morton(coord, self.grid).to_bytes(8, "big")

    def _file_name(self, coord: Point) -> str:
        box = self._inside(coord)
        return "_".join(f"{first}-{stop}" for first, stop in zip(box.offset, box.stop, strict=True))

    @property
    def grid(self) -> Point:
        """How many chunks there are along x, y and z."""
        x, y, z = (-(-n // c) for n, c in zip(self.remote.size, self.remote.chunk, strict=True))
        return x, y, z

    def _made(self, coord: Point, result: Any) -> Chunk | None:
        if result.state != "value":
            return None
        chunk, box = result.value, self._inside(coord)
        return chunk if box.size == self.remote.chunk else self._enlarged(chunk, coord, box)

    def _enlarged(self, chunk: Chunk, coord: Point, box: Box) -> Bordered:
        """A chunk of the border as one of full size; what is not there is 0."""
        x, y, z = self.remote.chunk
        whole = np.zeros((z, y, x), np.uint8)
        whole[: box.size[2], : box.size[1], : box.size[0]] = self._decode(chunk, box.volume, coord).reshape(box.shape)
        made = Bordered(simplejpeg.encode_jpeg(whole.reshape(z * y, x, 1), JPEG_QUALITY, "GRAY", "Gray"))
        made.voxels = whole.reshape(-1)
        return made


def morton(coord: Point, grid: Point) -> int:
    """The number of a chunk in shards: bits of x, y and z in turn, as many of each as the grid needs."""
    bits = [(n - 1).bit_length() for n in grid]
    code = place = 0
    for bit in range(max(bits)):
        for axis in range(3):
            if bit < bits[axis]:
                code |= (coord[axis] >> bit & 1) << place
                place += 1
    return code


# -- the volumes of this process ---------------------------------------------------------------------------------

_lock = threading.Lock()
_opened: dict[tuple[str, int], RemoteVolume] = {}
_kept: list[Chunks] = []


def opened(given: Any) -> RemoteVolume:
    """The volume that a setting describes (:meth:`Remote.to_json`); asks nobody yet."""
    key = given["place"], given["scale"]
    with _lock:
        found = _opened.get(key)
        if found is None or (found.given is not given and found.given != given):
            if not _kept:
                _kept.append(Chunks(cache_bytes() // JPEG_PART))
            found = _opened[key] = RemoteVolume(given, _kept[0])
        return found


def forget() -> None:
    """Close all volumes and drop what is kept of them."""
    with _lock:
        _opened.clear()
        _kept.clear()
