"""Exports to one file: the containers that the mount shows too, byte for byte; and ``.nrrd``, ``.nii.gz``.

Decides how such a file grows: as ``NAME.part`` of its final size, bands of rows through a layer of blocks after each other, with notes beside it.
Bands that are not stored are holes. A packed file is packed when it is whole, as a row of gzip members, by all cores. Invariant:
a file under its final name is whole.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from isal import igzip
from numpy.typing import NDArray

from dvidfs.cli.sinks.base import Folder, Notes, Selection, Tell
from dvidfs.errors import BadRequest, Exists
from dvidfs.types import workers
from dvidfs.types.formats.containers import CONTAINERS
from dvidfs.types.formats.frame import Container
from dvidfs.types.formats.metaimage import NRRD
from dvidfs.types.geometry import Box, Point
from dvidfs.types.volumes.source import MAX_FILE, as_bytes

PIECE = 32 << 20
WAITING = 4
"""Pieces that are being packed."""
_GZIP_LEVEL = 1
FORMATS = CONTAINERS | {NRRD.suffix: NRRD}


def names_a_file(name: str) -> bool:
    """Whether a name's suffix is that of a file of voxels."""
    return _suffix(name)[0] in FORMATS


def _suffix(name: str) -> tuple[str, bool]:
    """The suffix, and whether the file is packed."""
    lower = name.lower()
    packed = lower.endswith(".nii.gz")
    suffix = lower.removesuffix(".gz" if packed else "").rpartition(".")[2]
    return {"tiff": "tif", "hdf5": "h5"}.get(suffix, suffix), packed


def bands(box: Box, voxel: int, block: Point) -> Iterator[Box]:
    """Boxes of about :data:`PIECE` bytes that make up ``box``: rows through all layers of one block, so that blocks are read once."""
    width, z = box.size[0], box.offset[2]
    while z < box.stop[2]:
        depth = min(block[2] - z % block[2], box.stop[2] - z)
        rows = max(1, PIECE // (width * voxel * depth))
        rows = rows - rows % block[1] or rows
        y = box.offset[1]
        while y < box.stop[1]:
            stop = min(y - y % rows + rows, box.stop[1])
            yield Box((box.offset[0], y, z), (width, stop - y, depth))
            y = stop
        z += depth


@dataclass
class FileSink:
    """A volume as one file, or a header with a file of voxels beside it."""

    selection: Selection
    dest: Path

    def __post_init__(self) -> None:
        suffix, self.packed = _suffix(self.dest.name)
        self.container: Container = FORMATS[suffix]
        frame = self.selection.frame
        if not self.container.voxels:
            frame = replace(frame, companion=self.dest.stem + ".raw")
        if not self.container.holds(frame):
            raise BadRequest(
                f"{self.container.title} cannot hold {frame.box} voxels of {frame.dtype}"
                f"{f' in {frame.channels[0]} channels' if frame.channels else ''}: choose another format"
            )
        if frame.size >= MAX_FILE:
            raise BadRequest(f"{frame.box} are {frame.size} bytes, more than a file can hold: want a smaller --box")
        self.frame = frame
        self.voxels = self.dest if self.container.voxels else self.dest.with_name(frame.companion)
        self.part = self.voxels.with_name(self.voxels.name + ".part")
        plan = self.selection.plan(form=self.dest.name)
        self.notes = Notes(Folder(self.dest.parent), f".{self.part.name}.json", plan, self.part)

    @property
    def total(self) -> int:
        return self.frame.size

    def begin(self) -> int:
        if not self.part.exists() and not self.voxels.exists():
            self.notes.end()  # of an export whose file was removed
        found = self.notes.begin(self._is_taken)
        self.done = found if found is not None and self.part.exists() else 0
        return min(self.done, self.total)

    def _is_taken(self) -> bool:
        for path in (self.dest, self.voxels):
            if path.exists():
                raise Exists(f"{path} is there already: choose another place")
        return False

    def run(self, tell: Tell) -> None:
        header = self.container.header(self.frame) if self.container.voxels else b""
        with self.part.open("r+b" if self.done else "wb") as file:
            file.truncate(len(header) + self.total)
            os.pwrite(file.fileno(), header, 0)
            self._copy(file.fileno(), len(header), tell)
        if self.packed:
            self._pack()
        elif not self.container.voxels:
            self.part.replace(self.voxels)
            self.dest.write_bytes(self.container.header(self.frame))
        else:
            self.part.replace(self.dest)
        self.notes.end()

    def _copy(self, file: int, start: int, tell: Tell) -> None:
        """Write what is not done yet; a band is being written while the next one is read."""
        passed = 0
        last: tuple[int, Future[None]] | None = None
        for box in bands(self.selection.box, self.frame.voxel_bytes, self.selection.shape.block):
            passed += box.volume * self.frame.voxel_bytes
            if passed <= self.done:
                continue
            coming = None
            if not self.selection.is_empty(box):
                coming = workers.pool().submit(self._write, file, start, box, self.selection.read(box))
            if last is not None:
                self._settle(*last, tell)
            last = (passed, coming) if coming is not None else None
            if last is None:
                self._settle(passed, None, tell)
        if last is not None:
            self._settle(*last, tell)

    def _settle(self, done: int, written: Future[None] | None, tell: Tell) -> None:
        if written is not None:
            written.result()
        if written is not None or done == self.total:
            self.notes.save(done)
        self.done = done
        tell(done)

    def _write(self, file: int, start: int, box: Box, voxels: NDArray) -> None:
        (width, height, _), voxel = self.selection.box.size, self.frame.voxel_bytes
        _, y, z = (a - b for a, b in zip(box.offset, self.selection.box.offset, strict=True))
        layers = [voxels] if box.size[1] == height else list(voxels)
        for number, layer in enumerate(layers, z):
            _write_all(file, as_bytes(layer), start + (number * height + y) * width * voxel)

    def _pack(self) -> None:
        waiting: deque[Future[bytes]] = deque()
        packed = self.dest.with_name(self.dest.name + ".packed")
        with self.part.open("rb") as file, packed.open("wb") as out:
            while data := file.read(PIECE):
                waiting.append(workers.pool().submit(igzip.compress, data, _GZIP_LEVEL))
                if len(waiting) >= WAITING:
                    out.write(waiting.popleft().result())
            while waiting:
                out.write(waiting.popleft().result())
        packed.replace(self.dest)
        self.part.unlink()


def _write_all(file: int, data: memoryview, at: int) -> None:
    while data:
        count = os.pwrite(file, data, at)
        data, at = data[count:], at + count
