"""Which image requests are so short that handing them to a thread would cost more than answering them.

Decides by what a request says, without looking at a block; how it is answered is :mod:`~dvidfs.types.imageblk.requests`.
Invariant: nothing is raised; what is malformed is not light, and is refused where it is answered.
"""

from __future__ import annotations

from typing import Any

from dvidfs.engine.versions import ReadView
from dvidfs.errors import DvidfsError
from dvidfs.types.geometry import covering_blocks, parse_box, parse_plane
from dvidfs.types.imageblk.volume import Volume, is_proxied

MAX_BYTES = 1 << 20
"""Of the voxels of all blocks that a window touches, some 0.2 ms of work when they are in memory."""
MAX_BLOCKS = 64
QUICK = ("none", "lz4", "snappy")
"""Forms of which a block is decoded in microseconds."""


def raw(view: ReadView, dims: str, size: str, offset: str, format: str | None, roi: str, scale: int, **_: Any) -> bool:
    """A small volume out of few blocks, all of it; of further scales much may have to be made first."""
    if format or roi or scale:
        return False
    try:
        plane = parse_plane(dims)
        if not plane.is_volume or is_proxied(view.instance.settings):
            return False
        volume = Volume.of(view)
        blocks = covering_blocks(parse_box(plane, size, offset), volume.block).volume
    except DvidfsError:
        return False
    return blocks <= MAX_BLOCKS and blocks * volume.block_bytes <= MAX_BYTES and volume.form.name in QUICK


def specificblocks(view: ReadView, blocks: str, compression: str, scale: int, **_: Any) -> bool:
    """A handful of blocks."""
    settings = view.instance.settings
    if is_proxied(settings) or compression or scale:
        return False
    x, y, z = settings["BlockSize"]
    return (blocks.count(",") // 3 + 1) * x * y * z * 8 <= MAX_BYTES
