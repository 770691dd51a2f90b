"""Surfaces of bodies and supervoxels: how coarse they are, and out of which blocks they are made.

A surface is made of a mask of at most :data:`MOST_VOXELS`, whose voxels are cubes of 2^s voxels along each side; one is set where any voxel
of the body lies in it, so that what is thin stays whole. The voxels are read at the finest scale that is there, is not
coarser than the mask, and at which the body lies in at most :data:`MOST_BLOCKS`. The last surfaces are kept, since
one is often asked for in two formats. Invariant: positions are nanometres in the frame of the volume, whatever the scale.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine.versions import ReadView
from dvidfs.kernels import runs as kernel
from dvidfs.kernels.runs import Runs
from dvidfs.types.formats.meshes import Mesh
from dvidfs.types.geometry import Box, span
from dvidfs.types.labelmap import shapes
from dvidfs.types.labelmap.held import Held
from dvidfs.types.labelmap.scales import PYRAMID
from dvidfs.types.labelmap.shapes import Shape, Sought
from dvidfs.types.mesher import mesher
from dvidfs.types.pyramids.scales import extents_at, ready

MOST_VOXELS = 1 << 24
MOST_BLOCKS = 4096
HELD = Held(32 << 20)


def box_of(view: ReadView, shape: Shape) -> Box:
    """The blocks of a body or supervoxel, as the smallest box of voxels that holds them all."""
    side = np.array(view.instance.settings["BlockSize"])
    (x, y, z), (a, b, c) = (
        (corner * side).tolist() for corner in (shape.coords.min(axis=0), shape.coords.max(axis=0) + 1)
    )
    return span((x, y, z), (a, b, c))


def surface(view: ReadView, shape: Shape, nanometers: tuple[float, float, float]) -> Mesh:
    """The surface of a body or supervoxel; takes up to seconds. ``nanometers``: sides of a voxel of scale 0.

    Raises:
        Busy: the process that makes meshes was ended.
    """
    key = ("surface", view.stamp(), nanometers, shape.supervoxels.tobytes())

    def make() -> tuple[NDArray, NDArray]:
        made = _make(view, shape, nanometers)
        return made.vertices, made.triangles

    return Mesh(*HELD.get(view, key, make))


def _make(view: ReadView, shape: Shape, nanometers: tuple[float, float, float]) -> Mesh:
    whole = box_of(view, shape)
    coarse = next(s for s in range(64) if extents_at(whole, s).volume <= MOST_VOXELS)
    scale, coords = _read_at(view, shape, coarse)
    box = extents_at(whole, coarse)
    mask = np.zeros(box.shape, np.bool_)
    for runs in Sought(view, shape.supervoxels, coords, scale).runs():
        kernel.fill_mask(mask, box.offset, _shrunk(runs, coarse - scale))
    mask, box = _cropped(mask, box)
    x, y, z = nanometers
    return mesher().mesh(mask, (x * 2**coarse, y * 2**coarse, z * 2**coarse), box.offset)


def _read_at(view: ReadView, shape: Shape, coarse: int) -> tuple[int, NDArray[np.int32]]:
    """The scale whose voxels are read, and the blocks there."""
    last = min(coarse, ready(PYRAMID, view))
    for scale in range(last):
        coords = shapes.blocks(view, shape, scale)
        if len(coords) <= MOST_BLOCKS:
            return scale, coords
    return last, shapes.blocks(view, shape, last)


def _shrunk(runs: Runs, steps: int) -> Runs:
    """Runs (n, 4) in voxels that are 2^steps as long: all that they touch."""
    if not steps:
        return runs
    out = runs >> steps
    last = (runs[:, 0].astype(np.int64) + runs[:, 3] - 1) >> steps
    out[:, 3] = last - out[:, 0] + 1
    return out


def _cropped(mask: NDArray[np.bool_], box: Box) -> tuple[NDArray[np.bool_], Box]:
    """The part of a mask that holds all that is set, and where it lies."""
    window, low, high = [], [], []
    for axis, start in enumerate(box.origin):
        others = tuple(n for n in range(3) if n != axis)
        found = np.flatnonzero(mask.any(axis=others))
        if not len(found):  # nothing is left of it at this scale
            return mask[:1, :1, :1], Box(box.offset, (1, 1, 1))
        first, stop = int(found[0]), int(found[-1]) + 1
        window.append(slice(first, stop))
        low.append(start + first)
        high.append(start + stop)
    return mask[tuple(window)], span((low[2], low[1], low[0]), (high[2], high[1], high[0]))
