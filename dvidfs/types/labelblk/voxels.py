"""Voxels of a labelblk over HTTP and through files: those of a labelmap without scales and supervoxels, told to who follows it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from numpy.typing import NDArray

from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest
from dvidfs.types.base import Content
from dvidfs.types.geometry import Box, Point
from dvidfs.types.labelblk import followers
from dvidfs.types.labelmap import blocks as stored
from dvidfs.types.labelmap import files, intake
from dvidfs.types.labelmap.blocks import Incoming

COMPRESSIONS = ("", "lz4", "uncompressed")


def get_blocks(view: ReadView, size: str, offset: str, compression: str) -> Content:
    """The voxels of stored blocks, as a stream of records."""
    if compression not in COMPRESSIONS:
        raise BadRequest(f'don\'t understand compression "{compression}": want lz4 (default) or uncompressed')
    return stored.get_blocks(view, size, offset, compression or "lz4", 0, False)


def post_raw(view: WriteView, blocks: Incoming, box: Box, mutate: bool) -> None:
    """Stores the blocks of a volume."""
    stored.post_raw(view, blocks, box, mutate)
    followers.tell(view, blocks.coords)


take = partial(intake.take, post=post_raw)
"""Volumes that come in from elsewhere."""


def change(view: WriteView, coords: Sequence[Point], voxels: NDArray) -> None:
    """Stores whole blocks (n, z, y, x)."""
    files.write_supervoxels(view, coords, voxels)
    followers.tell(view, coords)
