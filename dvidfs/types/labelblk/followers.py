"""Instances that follow a labelblk: labelblks with half its resolution, and labelvols that show its labels as volumes.

A labelblk that follows another gets, of eight voxels that are written there, the label that most have (as scales of a labelmap),
in the same transaction; so do those that follow it in turn. What was written before it followed it does not get. One whose blocks
have another size is passed over. Invariant: nobody is written to twice for one change, whoever follows whom.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from dvidfs.engine.graph import Instance
from dvidfs.engine.versions import Caller, ReadView, WriteView
from dvidfs.kernels import labels as kernel
from dvidfs.types import workers
from dvidfs.types.geometry import Box, Point
from dvidfs.types.labelmap import blocks, index, ingest, stored
from dvidfs.types.labelmap.blocks import Incoming
from dvidfs.types.labelmap.scales import Votes
from dvidfs.types.pyramids.blocks import Blocks
from dvidfs.types.pyramids.marks import above
from dvidfs.types.pyramids.pyramid import Children

NAME = "labelblk"
VOLUMES = "labelvol"


def at(view: WriteView, instance: Instance) -> WriteView:
    """Another instance at the same version, written by the same caller."""
    return WriteView(view.txn, view.node, instance, Caller(view.user, view.app, privileged=view.frozen))


def tell(view: WriteView, coords: Collection[Point], told: frozenset[int] = frozenset()) -> None:
    """Blocks (x, y, z) of a labelblk were written: those that follow it change too."""
    told |= {view.instance.id}
    for instance in _following(view):
        if instance.type == VOLUMES:
            view.txn.touch_whole(instance, instance.store_version(view.node.id))
        elif instance.type == NAME and instance.id not in told and _size(instance) == _size(view.instance):
            _halve(view, at(view, instance), coords, told)


def _following(view: ReadView) -> Iterator[Instance]:
    instances = view.graph.repos[view.node.repo].instances.values()
    return (instance for instance in instances if view.instance.id in instance.syncs)


def _size(instance: Instance) -> list[int]:
    return list(instance.settings["BlockSize"])


def _halve(view: ReadView, half: WriteView, coords: Collection[Point], told: frozenset[int]) -> None:
    parents = sorted(above(coords), key=lambda coord: coord[::-1])
    source, target = Blocks(view, 0), Blocks(half, 0)
    groups = [Children((x, y, z), *source.stored(Box((2 * x, 2 * y, 2 * z), (2, 2, 2)))) for x, y, z in parents]
    there = [payload is not None for payload in target.payloads(parents)]
    made = workers.each(Votes().make, groups)
    x, y, z = _size(half.instance)
    empty = stored.pack(kernel.encode(np.zeros((z, y, x), np.uint64)))
    found = [
        (coord, payload or empty) for coord, payload, held in zip(parents, made, there, strict=True) if payload or held
    ]
    if not found:
        return
    blocks.write(half, _incoming([coord for coord, _ in found], [payload for _, payload in found]), "downres")
    tell(half, [coord for coord, _ in found], told)


def _incoming(coords: list[Point], payloads: list[bytes]) -> Incoming:
    """Blocks that were made here, in the order of keys, counted."""
    opened = [stored.opened(payload) for payload in payloads]
    rows = [
        (index.code_of(coord), block.labels, kernel.tally(block)) for coord, block in zip(coords, opened, strict=True)
    ]
    top = max(int(block.labels.max()) for block in opened)
    return Incoming(0, coords, list(payloads), ingest.counted(rows), top)
