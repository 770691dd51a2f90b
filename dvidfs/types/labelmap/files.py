"""What the mount shows of a labelmap: volumes of its bodies and of its supervoxels, and a folder for each of both.

Decides what stands where, and what writing into a volume means. In the volumes of supervoxels a written number is a
supervoxel. In those of bodies a voxel that is given the number of a body joins a supervoxel of that body (the one of the same number, if it
has it, else its smallest), and voxels that stay as they are keep their supervoxel. Invariant: what was written is what is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import ledger
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, Conflict
from dvidfs.types.base import Directory, Each, Made, Numbered
from dvidfs.types.geometry import Box, Point, block_box
from dvidfs.types.imageblk import extents
from dvidfs.types.labelmap import blocks, bodies, counters, index, lists
from dvidfs.types.labelmap.bodyfiles import LabelFiles, csv, label_folder, mesh_folder, parse_number
from dvidfs.types.labelmap.books import Book, mapping
from dvidfs.types.labelmap.columns import ABSENT, U64s
from dvidfs.types.labelmap.scales import PYRAMID
from dvidfs.types.labelmap.volume import LabelVolume
from dvidfs.types.pyramids.scales import extents_at, ready
from dvidfs.types.volumes.names import MAX_NAMES
from dvidfs.types.volumes.source import Source
from dvidfs.types.volumes.tree import volume_tree

PIECE = 1 << 17
"""Lines of a table that are made at a time."""


# ---------------------------------------------------------------- volumes


def _extents(view: ReadView, scale: int) -> Box | None:
    box = extents.covered(view)
    if box is None:
        return None
    return extents_at(box, scale)


def _scales(view: ReadView) -> int:
    return ready(PYRAMID, view)


def _record(view: WriteView, **what: Any) -> None:
    """Blocks that are stored have told of themselves."""


def write_supervoxels(view: WriteView, coords: Sequence[Point], voxels: NDArray) -> None:
    """Whole blocks (n, z, y, x) of supervoxels."""
    top = int(voxels.max())
    if top > counters.MOST:
        raise BadRequest(f"label {top} cannot be stored: labels go up to {counters.MOST}")
    blocks.write_blocks(view, coords, voxels, "mutate")


def write_bodies(view: WriteView, coords: Sequence[Point], voxels: NDArray) -> None:
    """Whole blocks (n, z, y, x) of bodies: voxels that are of another body than before join a supervoxel of it."""
    inner, outer = LabelVolume.of(view, supervoxels=True), LabelVolume.of(view)
    made = np.empty(voxels.shape, np.uint64)
    for i, coord in enumerate(coords):
        box = block_box(coord, inner.block)
        try:
            old, shown = inner.read(box), outer.read(box)
        except Conflict:  # what is written settles it
            old = shown = np.zeros(box.shape, np.uint64)
        changed = voxels[i] != shown
        wanted, of = np.unique(voxels[i][changed], return_inverse=True)
        made[i] = old
        made[i][changed] = np.array([supervoxel_for(view, body) for body in wanted.tolist()], np.uint64)[of]
    write_supervoxels(view, coords, made)


def supervoxel_for(view: ReadView, body: int) -> int:
    """The supervoxel that a voxel of a body is given. Raises BadRequest if no supervoxel would be read as that body."""
    column = mapping(view)
    own = column.one(body)
    if own in (ABSENT, body) or not body:
        return body
    held = bodies.members(view, body).supervoxels if bodies.size(view, body) else np.zeros(0, np.uint64)
    found = held[column.get(held, held) == np.uint64(body)]
    if len(found):
        return int(found[0])
    where = f"it is a supervoxel of body {own}" if own else "its number is not in use any more"
    raise BadRequest(f"label {body} is no body: {where}; write supervoxels into supervoxels/volume.npy")


OF_BODIES = LabelFiles()
OF_SUPERVOXELS = LabelFiles(supervoxel=True)
SOURCE = Source(
    LabelVolume.of, _extents, _scales, write_bodies, _record, labels=True, meshes=mesh_folder(OF_BODIES)
)  # fmt: skip
SUPERVOXELS = Source(
    partial(LabelVolume.of, supervoxels=True),
    _extents,
    _scales,
    write_supervoxels,
    _record,
    name="supervoxels",
    labels=True,
    meshes=mesh_folder(OF_SUPERVOXELS),
)


# ---------------------------------------------------------------- lists


def every_supervoxel(view: ReadView) -> U64s:
    """All supervoxels that have voxels, ascending; none if the index has more than a folder lists."""
    key = ("supervoxels", view.stamp())
    return bodies.HELD.get(view, key, lambda: _every_supervoxel(view))


def _every_supervoxel(view: ReadView) -> U64s:
    found, last = list[int](), -1
    for number, row in ledger.scan(view, Book.SUPERVOXEL):
        if number != last:
            last = number
            if row.data[8:12] != bytes(4) or len(index.blocks_of(view, number)[0]):  # a block it has, else all rows
                found.append(number)
                if len(found) > MAX_NAMES:
                    return np.zeros(0, np.uint64)
    numbers = np.array(found, np.uint64)
    return numbers[mapping(view).get(numbers, numbers) != 0]


def mappings(view: ReadView) -> Iterator[bytes]:
    """``mappings.csv``: the supervoxels that are mapped to another number, and their bodies; 0: not in use any more."""
    found = mapping(view).items()
    other = found.keys != found.values
    keys, values = found.keys[other], found.values[other]
    yield csv(b"supervoxel,body\n", keys[:0], values[:0])
    for at in range(0, len(keys), PIECE):
        yield csv(b"", keys[at : at + PIECE], values[at : at + PIECE])


# ---------------------------------------------------------------- the tree


def _tree() -> Directory:
    """Volumes of bodies beside their folders; below ``supervoxels/`` the same of supervoxels, whose volumes have names that are no numbers."""
    outer, inner = volume_tree(SOURCE), volume_tree(SUPERVOXELS)
    each_body = Each(parse_number, _bodies, OF_BODIES.has, label_folder(OF_BODIES))
    each_supervoxel = Each(parse_number, _supervoxels, OF_SUPERVOXELS.has, label_folder(OF_SUPERVOXELS))
    entries = {
        **outer.entries,
        "bodies": Directory(each=(each_body,)),
        "supervoxels": Directory(inner.entries, each=(*inner.each, each_supervoxel)),
        "mappings.csv": Made(mappings),
    }
    return Directory(entries, each=outer.each)


def _bodies(view: ReadView) -> Numbered:
    return Numbered(lists.listed(view).keys)


def _supervoxels(view: ReadView) -> Numbered:
    return Numbered(every_supervoxel(view))


TREE = _tree()
