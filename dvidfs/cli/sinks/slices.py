"""Exports to a folder with a picture for each z, named by it: PNG, TIFF, JPEG.

Decides which voxels a picture can hold, and how much is in memory: a layer of blocks, one that is larger lies in an unnamed file
until its pictures are packed, all cores at once. Layers that are not stored are written from one picture that was packed once. Invariant: a picture
under its final name is whole; those that are there are not made again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dvidfs.cli.sinks.base import NOTES, Folder, Notes, Selection, Tell
from dvidfs.errors import BadRequest
from dvidfs.types import workers
from dvidfs.types.formats.containers import CONTAINERS
from dvidfs.types.formats.png import png_strips
from dvidfs.types.formats.rasters import PictureFormat, encode_picture, parse_format
from dvidfs.types.geometry import Box
from dvidfs.types.volumes.source import as_bytes

IN_MEMORY = 24 << 20
STRIP = 4 << 20
DEPTH = 128
"""At most so many pictures are made from one reading of blocks."""
_SUFFIXES = {"png": "png", "jpeg": "jpg", "tiff": "tif"}
Strips = Callable[[int], Iterator[NDArray]]
"""Rows of the picture with this number, from the top, each (y, x) or (y, x, channels)."""


@dataclass
class SliceSink:
    """Pictures of all z of a selection."""

    selection: Selection
    dest: Path
    format: str = "png"

    def __post_init__(self) -> None:
        self.form: PictureFormat = parse_format(self.format)
        self.suffix = _SUFFIXES.get(self.form.name, "")
        if not self.suffix:
            raise BadRequest(f"--format {self.format}: slices are png, tif, jpg or jpg:QUALITY")
        kind = self.selection.kind
        is_small = bool(kind.channels) or (kind.dtype.kind == "u" and kind.dtype.itemsize <= 2)
        if self.suffix != "tif" and not is_small:
            raise BadRequest(f"no {self.suffix} picture holds voxels of {kind.dtype}: give --format tif")
        x, y, _ = self.selection.box.size
        if self.suffix == "tif" and not CONTAINERS["tif"].holds(self._frame(0)):
            raise BadRequest(f"no TIFF picture holds {x} x {y} voxels of {kind.dtype}: export to another format")
        plan = self.selection.plan(form=[self.form.name, self.form.quality])
        self.notes = Notes(Folder(self.dest), NOTES, plan, self.dest)
        self.layer = x * y * kind.bytes

    @property
    def total(self) -> int:
        return self.selection.frame.size

    def path(self, z: int) -> Path:
        return self.dest / f"{z:06d}.{self.suffix}"

    def begin(self) -> int:
        self.notes.begin(lambda: self.dest.exists() and (not self.dest.is_dir() or any(self.dest.iterdir())))
        self.missing = [
            z for z in range(self.selection.box.offset[2], self.selection.box.stop[2]) if not self.path(z).exists()
        ]
        return self.total - len(self.missing) * self.layer

    def run(self, tell: Tell) -> None:
        done = self.total - len(self.missing) * self.layer
        last: list[Future[None]] = []
        for layer in self._layers():
            strips = self._strips(layer)
            coming = [workers.pool().submit(self._write, z, strips) for z in layer]
            for picture in last:
                picture.result()
            done += len(last) * self.layer
            tell(done)
            last = coming
        for picture in last:
            picture.result()
        self.notes.end()

    def _layers(self) -> Iterator[list[int]]:
        """Missing slices that are made from the same blocks."""
        depth = min(self.selection.shape.block[2], DEPTH)
        group: list[int] = []
        for z in self.missing:
            if group and z // depth != group[0] // depth:
                yield group
                group = []
            group.append(z)
        if group:
            yield group

    # -- voxels ----------------------------------------------------------------------------------------------

    def _box(self, layer: list[int]) -> Box:
        (x, y, _), (width, height, _) = self.selection.box.offset, self.selection.box.size
        return Box((x, y, layer[0]), (width, height, layer[-1] + 1 - layer[0]))

    def _strips(self, layer: list[int]) -> Strips | None:
        """The rows of the pictures of a layer; None where nothing is stored."""
        box = self._box(layer)
        if self.selection.is_empty(box):
            return None
        if box.volume * self.selection.kind.bytes <= IN_MEMORY:
            voxels = self.selection.samples(box)
            return lambda z: iter([voxels[z - layer[0]]])
        return self._spooled(box)

    def _spooled(self, box: Box) -> Strips:
        """A layer that is read in bands of rows and laid into an unnamed file, picture by picture."""
        (x, y, z), (width, height, depth) = box.offset, box.size
        row, file = width * self.selection.kind.bytes, tempfile.TemporaryFile(dir=self.dest)  # noqa: SIM115 - closed with the strips
        rows = max(1, IN_MEMORY // (row * depth))
        for first in range(0, height, rows):
            band = Box((x, y + first, z), (width, min(rows, height - first), depth))
            if not self.selection.is_empty(band):
                for number, picture in enumerate(self.selection.read(band)):
                    os.pwrite(file.fileno(), as_bytes(picture), (number * height + first) * row)
        os.truncate(file.fileno(), depth * height * row)

        def strips(number: int) -> Iterator[NDArray]:
            step = max(1, STRIP // row)
            for first in range(0, height, step):
                count = min(step, height - first)
                data = os.pread(file.fileno(), count * row, ((number - z) * height + first) * row)
                yield self.selection.kind.split(np.frombuffer(data, self.selection.kind.item).reshape(count, width))  # type: ignore[attr-defined]

        return strips

    # -- pictures --------------------------------------------------------------------------------------------

    def _write(self, z: int, strips: Strips | None) -> None:
        path = self.path(z)
        part = path.with_name(f".{path.name}.part")
        with part.open("wb") as file:
            if strips is None and self.suffix == "tif":
                file.truncate(file.write(CONTAINERS["tif"].header(self._frame(z))) + self.layer)
            else:
                for data in self._empty() if strips is None else self._packed(z, strips(z)):
                    file.write(data)
        part.replace(path)

    def _packed(self, z: int, strips: Iterator[NDArray]) -> Iterable[bytes | memoryview]:
        width, height, _ = self.selection.box.size
        if self.suffix == "png":
            return png_strips(width, height, strips)
        if self.suffix == "tif":
            return self._tiff(z, strips)
        parts = list(strips)
        return [encode_picture(parts[0] if len(parts) == 1 else np.concatenate(parts), self.form)]

    def _frame(self, z: int):  # noqa: ANN202 - a Frame
        (x, y, _), (width, height, _) = self.selection.box.offset, self.selection.box.size
        return self.selection.shape.frame_of(Box((x, y, z), (width, height, 1)))

    def _tiff(self, z: int, strips: Iterator[NDArray]) -> Iterator[bytes | memoryview]:
        yield CONTAINERS["tif"].header(self._frame(z))
        for strip in strips:
            yield as_bytes(np.ascontiguousarray(strip))

    def _empty(self) -> list[bytes]:
        """The picture of a slice of which nothing is stored."""
        if not hasattr(self, "_nothing"):
            width, height, _ = self.selection.box.size
            row = width * self.selection.kind.bytes
            step = max(1, STRIP // row)
            zeros = self.selection.kind.split(np.zeros((min(step, height), width), self.selection.kind.item))
            strips = (zeros[: min(step, height - first)] for first in range(0, height, step))
            self._nothing = [bytes(data) for data in self._packed(self.selection.box.offset[2], strips)]
        return self._nothing
