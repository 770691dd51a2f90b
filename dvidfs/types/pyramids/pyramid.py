"""What a datatype tells of its scales, so that they can be kept: :class:`Pyramid`, given once by each datatype that has them.

Decides nothing. What is done with it: :mod:`~dvidfs.types.pyramids.scales` (which stored blocks count),
:mod:`~dvidfs.types.pyramids.marks` (what writers do), :mod:`~dvidfs.types.pyramids.level` (reading and making),
:mod:`~dvidfs.types.pyramids.work` (the background). Invariant: nothing in this package knows a datatype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.types.geometry import Box, Point
from dvidfs.types.pyramids.blocks import Blocks


class Children(NamedTuple):
    """What a block is made of. ``coord``: the block itself, (x, y, z); ``coords`` (n, 3), (z, y, x): those of the eight blocks
    below it that are there, at least one, z slowest; ``payloads``: theirs, perhaps views of the store's map."""

    coord: Point
    coords: NDArray[np.int64]
    payloads: Sequence[Buffer]

    @property
    def octants(self) -> list[int]:
        """Which eighth of the block each child is: 4 z + 2 y + x of its place, 0 or 1 along each axis."""
        return ((self.coords & 1) @ (4, 2, 1)).tolist()


class Maker(Protocol):
    """How the blocks of one scale are made. Several threads use one at a time: it touches no transaction."""

    def make(self, children: Children) -> bytes | None:
        """The payload of a block; None if nothing need be stored, so that it reads as one that is not there."""
        ...

    def decode(self, payload: Buffer) -> Any:
        """The voxels of a payload of this scale, for ``dvidfs check``; raises a DvidfsError if it is damaged."""
        ...


class Base(Protocol):
    """The blocks of scale 0."""

    def stored(self, blocks: Box) -> tuple[NDArray[np.int64], list[Buffer]]:
        """As :meth:`~dvidfs.types.pyramids.blocks.Blocks.stored`."""
        ...


@dataclass(frozen=True)
class Pyramid:
    """How the scales of a datatype come about. Its instances have a setting ``BlockSize``, (x, y, z).

    ``job``: the kind of its background jobs, which no other pyramid uses. ``maker(view, scale, box)``: makes the blocks of a
    scale; ``box`` is what ``covered`` said. ``voxel_bytes(view)``: memory that a voxel takes while scales are made.
    ``setting``: the setting that says how many scales an instance has; they can be read at once, and are what was stored or marked.
    Without it each version keeps its own number: scales are built, and from then on whoever writes marks.
    ``covered(view)``: the box of voxels that coarser ones are made of (None: nothing yet); absent: all that is stored.
    ``base(view)``: the blocks of scale 0, where they are not simply stored; ``grid(view)`` is then the box of blocks that they fill.

    A datatype plugs in so (types that share a pyramid share its job)::

        class Sums:
            def make(self, children: Children) -> bytes: ...
            def decode(self, payload: Buffer) -> NDArray: ...

        PYRAMID = Pyramid("sums", lambda view, scale, box: Sums(), lambda view: 8, setting="MaxDownresLevel")

        DataType(..., endpoints=(..., *endpoints(PYRAMID)), jobs={PYRAMID.job: work.stepper(PYRAMID)})

        marks.mark(PYRAMID, view, blocks.put(view, 0, changed))       # a write that scales follow
        blocks.put(view, 0, changed)                                  # one that they do not follow
        scales.seal(PYRAMID, view, 2, [(coord, payload)])             # before the write lane: a client's own blocks of scale 2,
        blocks.put(view, 2, sealed)                                   # in it
        level.at_scale(PYRAMID, view, 2).load_spans(box)              # payloads as they were made or given
    """

    job: str
    maker: Callable[[ReadView, int, Box | None], Maker]
    voxel_bytes: Callable[[ReadView], int]
    setting: str = ""
    covered: Callable[[ReadView], Box | None] | None = None
    base: Callable[[ReadView], Base] = lambda view: Blocks(view, 0)
    grid: Callable[[ReadView], Box | None] = lambda view: None

    def box(self, view: ReadView) -> Box | None:
        """The voxels of scale 0 that count, as ``covered`` says."""
        return None if self.covered is None else self.covered(view)

    def block_bytes(self, view: ReadView) -> int:
        """Memory that a block takes while scales are made."""
        x, y, z = block_size(view)
        return x * y * z * self.voxel_bytes(view)


def block_size(view: ReadView) -> Point:
    """The size of a block in voxels of its scale, (x, y, z)."""
    x, y, z = view.instance.settings["BlockSize"]
    return x, y, z
