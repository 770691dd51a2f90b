"""Marks: what whoever writes voxels leaves at the scales above them, and the jobs that wait to fill them.

Decides which blocks are marked and what a job has to look through; how it works is :mod:`~dvidfs.types.pyramids.work`, and
what a mark means :mod:`~dvidfs.types.pyramids.scales`. A datatype marks in the transaction that writes. Invariant: an open version
that has marks has a job that waits or runs, unless somebody cancelled it; of each kind of work at most one waits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from dvidfs.engine import jobs, keys
from dvidfs.engine.keys import SUFFIX, VALUE, Family, Table
from dvidfs.engine.values import Prepared
from dvidfs.engine.versions import Caller, ReadView, WriteView
from dvidfs.errors import NotFound
from dvidfs.types.geometry import Point, covering_blocks
from dvidfs.types.pyramids.pyramid import Pyramid, block_size
from dvidfs.types.pyramids.scales import all_levels, levels, once

MARK = Prepared(b"", 0)
START: Mapping[str, Any] = {"scale": 1, "row": None}
"""Where a job begins; see :func:`dvidfs.types.pyramids.work.step`."""
_ANYBODY = Caller(privileged=True)


def above(coords: Collection[Point]) -> set[Point]:
    """The blocks one scale up that are made from those."""
    return {(x >> 1, y >> 1, z >> 1) for x, y, z in coords}


def mark(pyramid: Pyramid, view: WriteView, coords: Collection[Point]) -> None:
    """Note that blocks (x, y, z) of scale 0 are being written in this transaction; nothing to do where there are no scales."""
    if not coords:
        return
    told = all_levels(pyramid, view) if view.frozen else [levels(pyramid, view)]
    top = max((at.marked for at in told), default=0)
    if not top:
        return
    level: Collection[Point] = coords
    for scale in range(1, top + 1):
        level = above(level)
        for enc in sorted(keys.encode_block(scale, *coord) for coord in level):
            _mark(view, enc)
            if view.frozen:
                _mark_after(view, enc)
    if not view.frozen:
        queue(pyramid, view, coords)


def recheck(pyramid: Pyramid, view: WriteView) -> None:
    """The box of all voxels has been changed: blocks that lay at its edges may not count any more, others may."""
    if levels(pyramid, view).marked and not view.frozen:
        queue(pyramid, view)


def _mark(view: WriteView, enc: bytes) -> None:
    own = view.own(Family.BLOCK, enc)
    if own is None or own.size:
        view.put(Family.BLOCK, enc, MARK)
    else:  # who is making this block must see that the mark is another
        view.fill(Family.BLOCK, enc, MARK)


def _mark_after(view: WriteView, enc: bytes) -> None:
    """An administrator changes a committed version: what was made in versions after it does not count either."""
    prefix = view.heads[Family.BLOCK] + enc
    nodes = view.graph.repos[view.node.repo].nodes
    rows = [key for key, _ in view.txn.scan(Table.INDEX, prefix, keys.after(prefix)) if key[-1:] == VALUE]
    for version in map(keys.suffix_version, (key[-SUFFIX:] for key in rows)):
        if version != view.version and view.graph.lineages.of(nodes, version).sees(view.version):
            _mark(WriteView(view.txn, nodes[version], view.instance, _ANYBODY), enc)


# ---------------------------------------------------------------- the jobs that fill them


def queue(pyramid: Pyramid, view: WriteView, coords: Collection[Point] = (), build: int = 0) -> None:
    """Have marks filled in the background: those above these blocks of scale 0, or all; or the scales up to ``build`` built.

    A job that waits already does this too; it begins anew. One that runs may be past it, so another is made to wait.
    """
    args = job_args(view, build, None if build else _bounds(pyramid, view, coords))
    found = [job for job in jobs_of(pyramid, view) if bool(job.args["build"]) == bool(build)]
    waiting = next((job for job in found if job.state == "queued"), None)
    ended = next((job for job in found if job.state not in ("queued", "running")), None)
    if waiting is not None:
        joined = _joined(waiting.args, args)
        if joined != waiting.args:
            jobs.save(view.txn, replace(waiting, args=joined))
    elif ended is not None:  # used again, else a row would be left for every write
        whole = args if ended.state == "done" else _joined(ended.args, args)
        again = replace(ended, args=whole, state="queued", owner="", error="", done=0, updated=view.txn.now)
        jobs.save(view.txn, again)
    else:
        add_job(pyramid, view, args)


def add_job(pyramid: Pyramid, view: WriteView, args: Mapping[str, Any]) -> jobs.Job:
    """A new job that waits."""
    number = jobs.add(view.txn, pyramid.job, args, title=f'scales of "{view.instance.name}"')
    _numbers(pyramid, view).add(number)
    return jobs.get(view.txn, number)


def job_args(view: ReadView, build: int, blocks: list[int] | None = None) -> dict[str, Any]:
    """``blocks``: first and last block, (x, y, z), of scale 0 above which the job looks; None: everywhere."""
    return {"instance": view.instance.id, "version": view.node.id, "blocks": blocks, "build": build, **START}


def _joined(held: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What a job that waits has to do for both."""
    a, b = held["blocks"], new["blocks"]
    blocks = [*map(min, a[:3], b[:3]), *map(max, a[3:], b[3:])] if a is not None and b is not None else None
    return {**new, "blocks": blocks, "build": max(held["build"], new["build"])}


def _bounds(pyramid: Pyramid, view: WriteView, coords: Collection[Point]) -> list[int] | None:
    """First and last of some blocks; None if they may move the edges of the box of all voxels, which other blocks depend on."""
    if not coords:
        return None
    low, high = [[choose(c[i] for c in coords) for i in range(3)] for choose in (min, max)]
    if pyramid.covered is None:
        return [*low, *high]
    box = pyramid.covered(view)
    if box is None:
        return None
    grid = covering_blocks(box, block_size(view))
    starts_inside = all(a < n for a, n in zip(grid.offset, low, strict=True))
    ends_inside = all(n < b for n, b in zip(high, grid.last, strict=True))
    return [*low, *high] if starts_inside and ends_inside else None


def jobs_of(pyramid: Pyramid, view: WriteView) -> list[jobs.Job]:
    """The jobs of this instance and version."""
    found = []
    for number in sorted(_numbers(pyramid, view)):
        with suppress(NotFound):  # done long ago, or of a transaction that came to nothing
            found.append(jobs.get(view.txn, number))
    return [job for job in found if _is_of(pyramid, job, view)]


def _numbers(pyramid: Pyramid, view: WriteView) -> set[int]:
    """Ids that may be of jobs of this instance and version; all jobs are looked through only once."""
    at = "jobs", view.instance.id, view.node.id
    return once(view.txn.store, at, lambda: {job.id for job in jobs.all_jobs(view.txn) if _is_of(pyramid, job, view)})


def _is_of(pyramid: Pyramid, job: jobs.Job, view: ReadView) -> bool:
    return job.kind == pyramid.job and (job.args["instance"], job.args["version"]) == (view.instance.id, view.node.id)
