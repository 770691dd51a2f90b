"""Volumes of voxels that come in from elsewhere, at any box.

Decides what becomes of blocks that a volume only touches: they keep what they held around it. Encoding happens outside the
write lane. Invariant: a voxel outside the box stays as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.types import workers
from dvidfs.types.geometry import Box, Point, covering_blocks, each_block
from dvidfs.types.imageblk import requests
from dvidfs.types.imageblk.volume import Volume, check_writable


def take(view: ReadView, box: Box, voxels: NDArray) -> Callable[[WriteView], None]:
    """Encodes voxels (z, y, x), one item each, of a box; what it returns stores them.

    Raises:
        Locked: the voxels of the instance live elsewhere.
    """
    check_writable(view)
    volume = Volume.of(view)
    payloads = _payloads(volume, _padded(volume, box, voxels))
    made = list(zip(each_block(covering_blocks(box, volume.block)), payloads, strict=True))
    return lambda write: requests.post_raw(write, box, made, False)


def _padded(volume: Volume, box: Box, voxels: NDArray) -> NDArray:
    """Whole blocks: at the edges of the volume filled up with what is there already."""
    grid, block = covering_blocks(box, volume.block), volume.block
    (x, y, z), (i, j, k) = grid.offset, grid.size
    whole = Box((x * block[0], y * block[1], z * block[2]), (i * block[0], j * block[1], k * block[2]))
    if whole == box:
        return voxels
    padded = volume.read(whole, volume.background)
    padded[whole.window(box)] = voxels
    return padded


def _payloads(volume: Volume, voxels: NDArray) -> list[bytes]:
    """The payloads of the blocks that the voxels are made of, z slowest. Each is copied by the thread that packs it, while it is in
    the cache: a third of the time of cutting all first."""
    (z, y, x), (depth, height, width) = volume.block_shape, voxels.shape

    def packed(at: Point) -> bytes:
        k, j, i = at
        return volume.form.encode(np.ascontiguousarray(voxels[k : k + z, j : j + y, i : i + x]))

    corners = itertools.product(range(0, depth, z), range(0, height, y), range(0, width, x))
    return workers.each(packed, list(corners))
