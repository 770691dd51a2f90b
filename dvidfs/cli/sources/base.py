"""What every source of voxels is: a description, and layers that are read ahead by other threads.

Decides how far is read ahead (one slab of layers) and where slabs lie (in memory, large ones in an unnamed file); how voxels are found in a
file is for the modules beside this one. Invariant: a source has one shape and dtype, known before the first voxel is read;
whatever is wrong with a file is one line that names it.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvidfs.errors import BadRequest, NotFound, Unsupported
from dvidfs.types import workers
from dvidfs.types.geometry import Point

IN_MEMORY = 256 << 20
"""A slab above this lies in an unnamed temporary file."""
PART = 16 << 20
"""Files are read in parts of about so many bytes."""

Shape = tuple[int, int, int]
Sizes = tuple[float, float, float]
COLOURS = (3, 4)


@dataclass(frozen=True)
class What:
    """A volume as its source describes it.

    ``shape`` is (z, y, x); ``dtype`` that of a sample, as it lies in the source; ``channels`` the length of a last axis, 0 if there is none.
    ``voxel_size`` is (x, y, z) in ``units``, ``offset`` the first voxel (x, y, z); None where the source does not tell.
    ``title`` is for people. ``labels``: the source says that it is a segmentation.
    """

    title: str
    shape: Shape
    dtype: np.dtype
    channels: int = 0
    voxel_size: Sizes | None = None
    units: str = "nanometers"
    offset: Point | None = None
    labels: bool = False

    @property
    def layer(self) -> int:
        """Bytes of one z."""
        return self.shape[1] * self.row

    @property
    def row(self) -> int:
        """Bytes of one row of voxels."""
        return self.shape[2] * self.dtype.itemsize * max(1, self.channels)

    def array_shape(self, depth: int, height: int) -> tuple[int, ...]:
        """Shape of an array of some layers and rows: (z, y, x), and the channels if there are any."""
        return (depth, height, self.shape[2], *([self.channels] if self.channels else []))


@dataclass
class _Slab:
    """Layers that are read or being read."""

    z: range
    voxels: NDArray
    coming: list[Future[None]]


class Source:
    """A volume to be read, in layers of ascending z. ``paths``: the files whose change makes it another volume."""

    def __init__(self, what: What, scratch: Path, paths: Sequence[Path] = ()) -> None:
        self.what = what
        self.paths = paths
        self._scratch = scratch
        self._slabs: list[_Slab] = []

    def tasks(self, z: range, out: NDArray) -> Iterable[Callable[[], None]]:
        """What has to be run, in any order and thread of :meth:`threads`, so that ``out`` holds these layers."""
        raise TypeError(f"{type(self).__name__} has no way to read")

    def threads(self) -> Executor:
        """Where tasks run."""
        return workers.pool()

    def seal(self, layers: int) -> str:
        """A text that changes when what the first ``layers`` layers are read from does."""
        return fingerprint(self.paths)

    def expect(self, z: range) -> None:
        """These layers are wanted next: begin to read them."""
        if not any(slab.z == z for slab in self._slabs):
            out = self._used_again(len(z))
            if out is None:
                out = self._room(self.what.array_shape(len(z), self.what.shape[1]))
            coming = [self.threads().submit(task) for task in self.tasks(z, out)]
            self._slabs = [*self._slabs[-1:], _Slab(z, out, coming)]

    def read(self, z: range, y: range) -> NDArray:
        """The voxels of some layers and rows, (z, y, x) or (z, y, x, channels); good until the next but one slab is expected."""
        self.expect(z)
        slab = next(slab for slab in self._slabs if slab.z == z)
        for part in slab.coming:
            part.result()
        return slab.voxels[:, y.start : y.stop]

    def close(self) -> None:
        """Forget what is being read."""
        for slab in self._slabs:
            for part in slab.coming:
                part.cancel()
        self._slabs = []

    def _used_again(self, depth: int) -> NDArray | None:
        """The memory of the slab before the last: fresh memory costs a fifth of decoding."""
        old = self._slabs[0].voxels if len(self._slabs) == 2 else None
        return old if old is not None and len(old) == depth else None

    def _room(self, shape: tuple[int, ...]) -> NDArray:
        dtype = self.what.dtype
        if np.prod(shape, dtype=np.int64) * dtype.itemsize <= IN_MEMORY:
            return np.empty(shape, dtype)
        with tempfile.TemporaryFile(dir=self._scratch) as file:
            return np.memmap(file, dtype, "w+", shape=shape)


class PlainFile(Source):
    """Voxels that lie in one piece in a file, in C order behind ``start`` bytes; read past the page tables, so that memory stays free."""

    def __init__(self, what: What, scratch: Path, path: Path, start: int, *beside: Path) -> None:
        super().__init__(what, scratch, [path, *beside])
        self._path = path
        self._start = start
        missing = start + what.layer * what.shape[0] - path.stat().st_size
        if missing > 0:
            raise BadRequest(
                f"{path} is {missing} bytes too short for {_sides(what.shape)} voxels of {what.dtype} behind a header of "
                f"{start} bytes"
            )

    def tasks(self, z: range, out: NDArray) -> Iterable[Callable[[], None]]:
        flat, first = out.reshape(-1).view(np.uint8), self._start + z.start * self.what.layer
        for at in range(0, flat.size, PART):
            yield lambda at=at: self._fill(flat[at : at + PART], first + at)

    def _fill(self, out: NDArray[np.uint8], at: int) -> None:
        with self._path.open("rb") as file:
            done = 0
            while done < out.size:
                count = os.preadv(file.fileno(), [out[done:].data], at + done)
                if not count:
                    raise BadRequest(f"{self._path} ends too early: it was cut while it was being read")
                done += count


class Rows(Source):
    """Anything that gives layers and rows as an array; one reader at a time, many bytes at once."""

    def __init__(
        self, what: What, scratch: Path, paths: Sequence[Path], rows: Callable[[slice, slice], NDArray]
    ) -> None:
        from concurrent.futures import ThreadPoolExecutor

        super().__init__(what, scratch, paths)
        self._rows = rows
        self._one = ThreadPoolExecutor(1, "source")

    def threads(self) -> Executor:
        return self._one

    def tasks(self, z: range, out: NDArray) -> Iterable[Callable[[], None]]:
        step = max(1, PART // (self.what.row * len(z)))
        for y in range(0, self.what.shape[1], step):
            yield lambda y=y: self._fill(out, z, y, min(y + step, self.what.shape[1]))

    def _fill(self, out: NDArray, z: range, first: int, stop: int) -> None:
        out[:, first:stop] = self._rows(slice(z.start, z.stop), slice(first, stop))

    def close(self) -> None:
        super().close()
        self._one.shutdown(wait=False, cancel_futures=True)


# -- for all of them ---------------------------------------------------------------------------------------------


def _sides(shape: Shape) -> str:
    return f"{shape[2]} x {shape[1]} x {shape[0]}"


def volume_of(where: object, shape: Sequence[int]) -> tuple[Shape, int]:
    """(z, y, x) and the number of channels of an array with this shape: three axes, or four and the last one is colours.

    Raises:
        BadRequest: it is no volume.
    """
    if len(shape) in (3, 4) and all(shape) and (len(shape) == 3 or shape[3] in COLOURS):
        return (int(shape[0]), int(shape[1]), int(shape[2])), int(shape[3]) if len(shape) == 4 else 0
    raise BadRequest(
        f"{where} has the shape {tuple(shape)}: a volume of three axes (z, y, x) is needed, or of four with 3 or 4 colours last"
    )


def existing(path: Path) -> Path:
    if not path.exists():
        raise NotFound(f"there is no {path} to import")
    return path


def library(name: str, what: object, extra: str) -> Any:
    """A module that not everybody has.

    Raises:
        Unsupported: it is not installed; the text says what to do.
    """
    try:
        return import_module(name)
    except ImportError:
        raise Unsupported(f"{what} needs {name}: pip install 'dvidfs[{extra}]'") from None


def fingerprint(paths: Iterable[Path]) -> str:
    """A text that is another one when a file was added, removed or written."""
    digest = hashlib.sha256()
    for path in paths:
        found = path.stat()
        digest.update(f"{path.name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def natural(name: str) -> list[Any]:
    """Sorts z2 before z10, and a name that is a number below 0, as -00064.png, before those above."""
    is_below = re.match(r"-\d", name, re.ASCII) is not None
    parts = re.split(r"(\d+)", name[is_below:])
    numbers = [int(part) if part.isdecimal() else part for part in parts]
    return [numbers[0], -int(numbers[1]), *numbers[2:]] if is_below else numbers


def nearest(position: Sequence[float], voxel: Sequence[float]) -> Point | None:
    """The voxel (x, y, z) that a position lies at, both in one unit; None if it cannot be told."""
    try:
        x, y, z = (round(p / v) for p, v in zip(position, voxel, strict=True))
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return x, y, z
