"""What is exported, and how an export that was stopped is found again.

Decides what a selection of a volume is and reads it; where voxels go is for the modules beside this one. Notes of an unfinished export lie in its
destination. Invariant: only an export of the same voxels in the same form goes on; anything else that is there already
is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson
from numpy.typing import NDArray

from dvidfs.engine import ReadView
from dvidfs.errors import Exists
from dvidfs.types.formats.frame import Frame
from dvidfs.types.geometry import Box, covering_blocks
from dvidfs.types.volumes.source import Shape, Source, Volume
from dvidfs.types.volumes.voxels import VoxelKind

NOTES = ".dvidfs-export.json"
Tell = Callable[[int], None]
"""Is told how many bytes of voxels are done."""


@dataclass(frozen=True)
class Selection:
    """The box of ``shape`` of a volume at a version and scale."""

    view: ReadView
    source: Source
    shape: Shape
    volume: Volume

    @property
    def box(self) -> Box:
        return self.shape.extents

    @property
    def kind(self) -> VoxelKind:
        return self.shape.kind

    @property
    def frame(self) -> Frame:
        return self.shape.frame

    def read(self, box: Box) -> NDArray:
        """Voxels (z, y, x), one item each; what is not stored is 0."""
        return self.volume.read(box)

    def samples(self, box: Box) -> NDArray:
        """The same with a last axis of channels where there are several."""
        return self.kind.split(self.read(box))

    def is_empty(self, box: Box) -> bool:
        """Whether nothing is stored there, so that all voxels are 0."""
        return not self.volume.has(covering_blocks(box, self.shape.block))

    def plan(self, **form: Any) -> dict[str, Any]:
        """What makes this export another one than others to the same place."""
        return {
            "data": self.view.instance.uuid,
            "volume": self.source.name,
            "version": self.view.node.uuid,
            "state": list(self.view.stamp()),
            "scale": self.shape.scale,
            "box": [*self.box.offset, *self.box.size],
            **form,
        }


class Shelf(Protocol):
    """Where notes lie: a folder, or a bucket."""

    def load(self, name: str) -> bytes | None: ...
    def save(self, name: str, data: bytes) -> None: ...
    def drop(self, name: str) -> None: ...


@dataclass(frozen=True)
class Folder:
    """A local folder, made at the first note."""

    path: Path

    def load(self, name: str) -> bytes | None:
        with suppress(FileNotFoundError, NotADirectoryError):
            return (self.path / name).read_bytes()
        return None

    def save(self, name: str, data: bytes) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        part = self.path / f"{name}.new"
        part.write_bytes(data)
        part.replace(self.path / name)

    def drop(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


class Notes:
    """How far an export is, kept where it goes to; ``done`` is the sink's own."""

    def __init__(self, shelf: Shelf, name: str, plan: Mapping[str, Any], where: object) -> None:
        self._shelf = shelf
        self._name = name
        self._plan: dict[str, Any] = orjson.loads(orjson.dumps(plan))
        self.where = where

    def begin(self, taken: Callable[[], bool]) -> Any:
        """What :meth:`save` kept of an earlier run of the same export, or None; ``taken`` says whether anything is there.

        Raises:
            Exists: something else is there.
        """
        text = self._shelf.load(self._name)
        told: Any = None
        with suppress(orjson.JSONDecodeError):
            told = orjson.loads(text) if text is not None else None
        if told is not None and told.get("plan") != self._plan:
            raise Exists(f"{self.where} is there already, begun by another export: remove it, or choose another place")
        if told is None and taken():
            raise Exists(f"{self.where} is there already: choose another place, or an empty folder")
        if told is None:
            self.save(None)
        return told["done"] if told else None

    def save(self, done: Any) -> None:
        self._shelf.save(self._name, orjson.dumps({"plan": self._plan, "done": done}))

    def end(self) -> None:
        self._shelf.drop(self._name)


class Sink(Protocol):
    """A place and form of exports."""

    @property
    def total(self) -> int:
        """Bytes of voxels to be written."""
        ...

    def begin(self) -> int:
        """Find or make the place; bytes that an earlier run has done.

        Raises:
            Exists: something else is there.
        """
        ...

    def run(self, tell: Tell) -> None:
        """Write what is missing."""
        ...
