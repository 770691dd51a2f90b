"""What the mount shows of a labelmap: its bodies as volume files, each body as a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from dvidfs.engine import journal
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.types.geometry import Box, Point
from dvidfs.types.imageblk import extents
from dvidfs.types.labelmap import blocks
from dvidfs.types.labelmap.scales import PYRAMID
from dvidfs.types.labelmap.volume import LabelVolume
from dvidfs.types.pyramids.scales import extents_at, ready
from dvidfs.types.volumes.source import Source
from dvidfs.types.volumes.tree import volume_tree


def _extents(view: ReadView, scale: int) -> Box | None:
    box = extents.covered(view)
    if box is None:
        return None
    return extents_at(box, scale)


def _scales(view: ReadView) -> int:
    return ready(PYRAMID, view)


def _change(view: WriteView, coords: Sequence[Point], voxels: NDArray) -> None:
    blocks.write_blocks(view, coords, voxels, "mutate")


def _record(view: WriteView, **what: Any) -> None:
    journal.record(view, "mutate", **what)


SOURCE = Source(LabelVolume.of, _extents, _scales, _change, _record)
TREE = volume_tree(SOURCE)
