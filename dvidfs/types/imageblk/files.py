"""What the mount shows of an image instance: its voxels as a :class:`~dvidfs.types.volumes.source.Source` of volume files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from dvidfs.engine import journal
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.types.geometry import Box, Point
from dvidfs.types.imageblk import extents, pyramid
from dvidfs.types.imageblk.volume import Volume, is_proxied, put_blocks
from dvidfs.types.pyramids.scales import extents_at
from dvidfs.types.volumes.source import Source
from dvidfs.types.volumes.tree import volume_tree


def _extents(view: ReadView, scale: int) -> Box | None:
    box = extents.covered(view)
    return None if box is None else extents_at(box, scale)


def _change(view: WriteView, coords: Sequence[Point], blocks: NDArray) -> None:
    put_blocks(view, zip(coords, Volume.of(view).encode(blocks), strict=True))


def _record(view: WriteView, **what: Any) -> None:
    journal.record(view, "mutate", **what)


def _writable(view: ReadView) -> bool:
    return not is_proxied(view.instance.settings)


SOURCE = Source(Volume.of, _extents, pyramid.ready, _change, _record, _writable)
TREE = volume_tree(SOURCE)
