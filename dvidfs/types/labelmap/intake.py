"""Volumes of labels that come in from elsewhere: any whole numbers, any box.

Decides what numbers are taken and what becomes of blocks that a volume only touches: they keep what they held around it. Encoding and
counting happen outside the write lane. Invariant: the extents grow by the box and no more, so what was imported comes
out with the size that it had.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest
from dvidfs.types.geometry import Box, Point, block_box, covering_blocks
from dvidfs.types.labelmap import blocks
from dvidfs.types.labelmap.blocks import Incoming
from dvidfs.types.labelmap.volume import LabelVolume

Post = Callable[[WriteView, Incoming, Box, bool], None]


def take(view: ReadView, box: Box, voxels: NDArray, *, post: Post = blocks.post_raw) -> Callable[[WriteView], None]:
    """Encodes supervoxels (z, y, x) of a box; what it returns stores them with ``post``.

    Raises:
        BadRequest: numbers that no label can have.
    """
    labels = as_labels(voxels)
    volume = LabelVolume.of(view, supervoxels=True)
    whole = _covering(box, volume.block)
    if whole != box:
        padded = volume.read(whole)
        padded[whole.window(box)] = labels
        labels = padded
    made = blocks.cut(volume, whole, labels)
    return lambda write: post(write, made, box, False)


def as_labels(voxels: NDArray) -> NDArray[np.uint64]:
    """Whole numbers of any size as labels, in C order."""
    if voxels.dtype.kind == "i" and voxels.size and int(voxels.min()) < 0:
        raise BadRequest(f"the volume holds label {voxels.min()}: labels are whole numbers from 0 on")
    return np.ascontiguousarray(voxels, np.uint64)


def _covering(box: Box, block: Point) -> Box:
    """The smallest box of whole blocks around a box."""
    grid = covering_blocks(box, block)
    return block_box(grid.offset, block).union(block_box(grid.last, block))
