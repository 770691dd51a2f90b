"""Ranges of bytes of a volume's voxels in C order: read through bricks that are kept, written block by block.

Decides what is decoded for a range and what a written range changes: a lone window costs that window, whoever goes on reading gets whole bricks; where the voxels are stored is for the source.
Invariant: a kept brick stands under the stamp of its view, so it is never wrong; a written range leaves every other voxel as it was.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.kernels import blocks as kernel
from dvidfs.types.base import Windows
from dvidfs.types.geometry import Box, Point, covering_blocks, span
from dvidfs.types.volumes import bricks as sizes
from dvidfs.types.volumes.bricks import Bricks, Run, cache_of
from dvidfs.types.volumes.source import Source, Volume, as_bytes, join_buffers

WORTH_KEEPING = 4
"""A range of that part of a brick has the whole brick made at once; a smaller one only when the brick is asked for again."""


def read_range(view: ReadView, source: Source, scale: int, bricks: Bricks, start: int, stop: int) -> Buffer:
    """Bytes [start, stop) of the voxels of ``bricks`` in C order."""
    volume, keeps = source.open(view, scale), bricks.layer_bytes <= sizes.CACHE_BYTES
    cache, key, parts = cache_of(view.txn.store), (source.key(view, scale), bricks.box), list[Buffer]()
    runs = list(bricks.runs(start, stop))
    again = {number for number in {run.number for run in runs} if cache.touch((key, number))} if keeps else set()
    at = told = start  # what lies between is read straight from the blocks
    for run in runs:
        name = (key, run.number)
        worth = run.number in again or run.count * WORTH_KEEPING >= bricks.bytes(run.number)
        if keeps and (cache.has(name) or (worth and not cache.thrashes(name))):
            whole = cache.get(name, lambda n=run.number: as_bytes(volume.read(bricks.brick(n))))
            parts += [*_straight(volume, bricks, told, at), whole[run.offset : run.offset + run.count]]
            told = at + run.count
        at += run.count
    return join_buffers([*parts, *_straight(volume, bricks, told, at)])


def _straight(volume: Volume, bricks: Bricks, start: int, stop: int) -> Iterator[memoryview]:
    """That range without bricks: planes of one layer of blocks at once, so that no block is decoded twice for them."""
    (x, y, z), (sx, sy, _) = bricks.box.offset, bricks.box.size
    while start < stop:
        plane, inside = divmod(start, bricks.plane)
        whole = 0 if inside else (stop - start) // bricks.plane
        if whole:
            count = min(whole, bricks.block[2] - (z + plane) % bricks.block[2])
            end, skip, box = start + count * bricks.plane, 0, Box((x, y, z + plane), (sx, sy, count))
        else:
            end = min(stop, start - inside + bricks.plane)
            if bricks.row > sizes.BRICK_BYTES:  # never a row besides what is asked for
                end = min(end, start - start % bricks.row + bricks.row)
            box, skip = _part(bricks, Box((x, y, z + plane), (sx, sy, 1)), Run((0, 0), inside, end - start))
        yield as_bytes(volume.read(box))[skip : skip + end - start]
        start = end


def is_ready(view: ReadView, source: Source, scale: int, bricks: Bricks, start: int, stop: int) -> bool:
    """Whether that range is in memory."""
    cache, key = cache_of(view.txn.store), (source.key(view, scale), bricks.box)
    return all(cache.has((key, run.number)) for run in bricks.runs(start, stop))


def _part(bricks: Bricks, brick: Box, run: Run) -> tuple[Box, int]:
    """The smallest box that holds a run of a brick, and how many of its bytes stand before it.

    Voxels of one row, else rows of one plane, else whole planes.
    """
    (x, y, z), (sx, sy, _) = brick.offset, brick.size
    row, item, end = bricks.row, bricks.item, run.offset + run.count - 1
    first, last = run.offset // row, end // row
    if first == last:
        start, stop = run.offset % row // item, end % row // item + 1
        return Box((x + start, y + first % sy, z + first // sy), (stop - start, 1, 1)), run.offset % item
    if first // sy == last // sy:
        return Box((x, y + first % sy, z + first // sy), (sx, last - first + 1, 1)), run.offset % row
    return Box((x, y, z + first // sy), (sx, sy, last // sy - first // sy + 1)), run.offset % (sy * row)


# ---------------------------------------------------------------- writing


def write_ranges(view: WriteView, source: Source, bricks: Bricks, windows: Windows) -> None:
    """Changes bytes of the voxels of scale 0: the blocks that they touch are read, changed and stored again, each once."""
    pending: dict[tuple[int, int], list[tuple[Run, Buffer]]] = {}
    for start, data in windows:
        at, given = 0, memoryview(data).cast("B")
        for run in bricks.runs(start, start + len(given)):
            pending.setdefault(run.number, []).append((run, given[at : at + run.count]))
            at += run.count
    for number, runs in pending.items():
        _change(source, view, bricks, bricks.brick(number), runs)


def _change(source: Source, view: WriteView, bricks: Bricks, brick: Box, runs: list[tuple[Run, Buffer]]) -> None:
    """Stores those blocks of a brick again that the runs touch and change, or that were not stored."""
    volume, block = source.open(view, 0), bricks.block
    grid = covering_blocks(brick, block)
    whole = span(_times(grid.offset, block), _times(grid.stop, block))
    before = volume.read(whole)
    after = _overlaid(before, whole.window(brick), runs)
    x, y, z = block
    old, new = (kernel.scatter(voxels, (z, y, x)) for voxels in (before, after))
    changed = (old != new).any((1, 2, 3))
    coords = np.column_stack(np.unravel_index(np.arange(len(new)), grid.shape)) + grid.origin
    chosen, points = [], []
    for i in np.flatnonzero(_touched(bricks, grid, brick, runs).reshape(-1)).tolist():
        point = (int(coords[i, 2]), int(coords[i, 1]), int(coords[i, 0]))
        if changed[i] or not volume.has(Box(point, (1, 1, 1))):
            chosen.append(i)
            points.append(point)
    if points:
        source.change(view, points, new[chosen])


def _overlaid(before: NDArray, window: tuple[slice, slice, slice], runs: list[tuple[Run, Buffer]]) -> NDArray:
    """A copy of the voxels with the runs laid over the brick that ``window`` cuts out."""
    after = before.copy()
    voxels = np.ascontiguousarray(after[window])
    flat = voxels.reshape(-1).view(np.uint8)
    for run, data in runs:
        flat[run.offset : run.offset + run.count] = np.frombuffer(data, np.uint8)
    after[window] = voxels
    return after


def _touched(bricks: Bricks, grid: Box, brick: Box, runs: list[tuple[Run, Buffer]]) -> NDArray[np.bool_]:
    """Which blocks of the grid, (z, y, x), hold voxels of the runs."""
    touched = np.zeros(grid.shape, bool)
    for run, _ in runs:
        part, _ = _part(bricks, brick, run)
        touched[grid.window(covering_blocks(part, bricks.block))] = True
    return touched


def _times(coord: Point, block: Point) -> Point:
    return coord[0] * block[0], coord[1] * block[1], coord[2] * block[2]
