"""The files of a region of interest in the mount: its spans, a mask with one voxel a block, a partition.

Decides names and sizes. The sizes of ``roi.json`` and ``mask.nii`` are known without reading the region. Windows
of the mask cost themselves, however large the box around the region is. ``partition.json`` is what ``partition?batchsize=8`` answers; it is
made whole, so it is shown where it has at most :data:`MAX_PARTS` boxes. Invariant: a file
shows what HTTP answers at that version. Source: mount design, section 2.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.errors import BadRequest
from dvidfs.types.base import Directory, File, Made
from dvidfs.types.formats.frame import Frame
from dvidfs.types.formats.nifti import NIFTI
from dvidfs.types.geometry import Box, covering_blocks
from dvidfs.types.roi import store
from dvidfs.types.roi.partition import dump, partition

BATCH = 8
MAX_PARTS = 1 << 14
VOXEL_NM = 8.0
"""Size of a voxel: regions have none of their own, so it is the default of the volumes that they belong to."""
_SHORTEST = len("[0,0,0,0]")


# ---------------------------------------------------------------- roi.json


def json_size(view: ReadView) -> int:
    found = store.entries(view)
    return found[0].size if len(found) == 1 else len(_united(view))


def read_json(view: ReadView, offset: int, length: int) -> Buffer:
    found = store.entries(view)
    if len(found) == 1:
        return b"".join(view.stream(found[0], offset, offset + length))
    return _united(view)[offset : offset + length]


def _united(view: ReadView) -> bytes:
    return store.derived(view, "json", lambda: store.json(view))


# ---------------------------------------------------------------- mask.nii


def frame_of(view: ReadView) -> Frame | None:
    """The box around the region with one voxel for each block; None if there is none."""
    around = store.box(view)
    block = _block(view)
    if around is None or block is None:
        return None
    x, y, z = (side * VOXEL_NM for side in block)
    return Frame(around, np.dtype(np.uint8), (), (x, y, z))


def _block(view: ReadView) -> tuple[int, int, int] | None:
    try:
        return store.block_size(view.instance)
    except BadRequest:
        return None


def has_mask(view: ReadView) -> bool:
    frame = frame_of(view)
    return frame is not None and NIFTI.holds(frame)


def mask_size(view: ReadView) -> int:
    frame = frame_of(view)
    return 0 if frame is None else NIFTI.size(frame)


def read_mask(view: ReadView, offset: int, length: int) -> Buffer:
    frame = frame_of(view)
    if frame is None:
        return b""
    head = NIFTI.header(frame)
    end = min(offset + length, len(head) + frame.size)
    start = max(offset, len(head))
    voxels = store.region(view).window(start - len(head), end - len(head)).tobytes() if end > start else b""
    return head[offset:end] + voxels


def is_known(view: ReadView, _offset: int, _length: int) -> bool:
    return store.known(view)


# ---------------------------------------------------------------- partition.json


def has_partition(view: ReadView) -> bool:
    """Whether its boxes are few, as far as can be told without reading the region."""
    if _block(view) is None:
        return False
    around = store.box(view)
    if around is None:
        return True
    places = covering_blocks(Box((0, 0, 0), around.size), (BATCH, BATCH, BATCH))
    x, y, z = (side + 1 for side in places.size)
    spans = sum(entry.size for entry in store.entries(view)) // _SHORTEST
    return min(spans, y * z) * x <= MAX_PARTS


def make_partition(view: ReadView) -> Iterable[bytes]:
    return dump(partition(store.region(view), BATCH, optimized=False), store.block_size(view.instance))


TREE = Directory(
    {
        "roi.json": File(json_size, read_json),
        "mask.nii": File(mask_size, read_mask, shown=has_mask, ready=is_known),
        "partition.json": Made(make_partition, shown=has_partition),
    }
)
"""What the mount shows of a region."""
