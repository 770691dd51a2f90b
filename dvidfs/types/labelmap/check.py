"""What ``dvidfs check`` says of a labelmap at one version: where voxels, index, bodies, totals and mapping do not agree.

Decides what is damage and what a client may have said. Damage: a block that cannot be read, counts of a block that are not those of
its voxels, a total that is not that of the index, a supervoxel with voxels that lies in two bodies, or in none although it is
mapped to one. A *difference*: blocks that came without being counted (``ingest-supervoxels``, ``noindexing``), a supervoxel that
is mapped to another body than the one that holds it, one in a body although it has no voxels. What is read, and the memory it
takes: :mod:`~dvidfs.types.labelmap.audit`; what can be done about it: :mod:`~dvidfs.types.labelmap.repair`. Blocks that parents of a merge disagree
about are left out: they have no voxels yet. Invariant: nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dvidfs.engine.check import Difference, Told
from dvidfs.engine.versions import ReadView
from dvidfs.types.formats.labelindex import points_of_codes
from dvidfs.types.labelmap import audit
from dvidfs.types.labelmap.audit import Members, Sums, Telling
from dvidfs.types.labelmap.bodies import is_in
from dvidfs.types.labelmap.books import mapping, totals
from dvidfs.types.labelmap.columns import Pairs, U64s, pairs
from dvidfs.types.labelmap.index import Counts, change
from dvidfs.types.labelmap.scales import PYRAMID
from dvidfs.types.pyramids import requests as pyramids

CLOSELY = 1000
"""Blocks whose differing counts are told one by one."""
EXAMPLES = 3


def verify(view: ReadView, *, left_out: bool = False) -> Iterator[Told]:
    """All that does not agree at this version, a line each; and how far the check is.

    ``left_out``: clients may have a label left out of the index of a block, so that is no damage.
    """
    sums = yield from audit.voxels(view)
    if view.instance.settings["IndexedLabels"]:
        sizes, strays = yield from audit.sizes(view, sums)
        yield from _blocks(view, sums, strays, left_out=left_out)
        held = yield from audit.members(view)
        yield from _bodies(view, sizes, held)
    yield from pyramids.check(PYRAMID, view)


# ---------------------------------------------------------------- blocks


def _blocks(view: ReadView, sums: Sums, strays: Counts, *, left_out: bool) -> Telling[None]:
    """Where voxels and index differ."""
    uncounted, differing = sums.uncounted, sums.differing
    if len(uncounted):
        named = ", ".join(_blocks_of(uncounted[:EXAMPLES]))
        more = ", ..." if len(uncounted) > EXAMPLES else ""
        yield Difference(
            f"{len(uncounted)} blocks hold labels that were never counted, as after ingest-supervoxels or "
            f"noindexing=true: {named}{more}"
        )
    for supervoxel, block, count in _rows(strays):
        yield f"{block} is not stored, but the index counts {count} voxels of supervoxel {supervoxel} there"
    if len(differing):
        before, after = yield from audit.closely(view, differing[:CLOSELY])
        yield from _counts(before, after, left_out=left_out)
    if len(differing) > CLOSELY:
        yield f"{len(differing) - CLOSELY} further blocks hold other voxels than the index counts"


def _counts(before: Counts, after: Counts, *, left_out: bool) -> Iterator[str]:
    said = {(supervoxel, block): count for supervoxel, block, count in _rows(before)}
    for supervoxel, block, count in _rows(change(before, after)):
        told = said.get((supervoxel, block), 0)
        text = f"{block} holds {count} voxels of supervoxel {supervoxel}, but the index counts {told}"
        yield Difference(text) if left_out and not told else text


def _rows(rows: Counts) -> Iterator[tuple[int, str, int]]:
    """Supervoxel, block and count of each row, block by block."""
    ordered = rows.take(np.lexsort((rows.supervoxels, rows.codes)))
    return zip(ordered.supervoxels.tolist(), _blocks_of(ordered.codes), ordered.counts.tolist(), strict=True)


def _blocks_of(codes: U64s) -> Iterator[str]:
    return (f"block {x}_{y}_{z}" for x, y, z in points_of_codes(codes).tolist())


# ---------------------------------------------------------------- bodies


def _bodies(view: ReadView, sizes: Pairs, held: Members) -> Iterator[Told]:
    """Where members, totals and mapping differ."""
    alive = is_in(held.supervoxels, sizes.keys)
    for supervoxel, body in _each(held.take(held.said & ~alive)):
        yield Difference(f"supervoxel {supervoxel}: in the index of {body}, but without voxels")
    held = held.take(alive)
    yield from _totals(view, sizes, held)
    yield from _places(view, sizes, held)


def _totals(view: ReadView, sizes: Pairs, held: Members) -> Iterator[str]:
    counted, told = summed(sizes, held), totals(view)
    said = told.items()
    bodies = np.union1d(counted.keys, said.keys[said.values > 0])
    wanted, known = _looked_up(counted, bodies), told.get(bodies, 0)
    for i in np.flatnonzero(wanted != known).tolist():
        yield f"body {bodies[i]} has {wanted[i]} voxels by its index, but {known[i]} by its total"


def summed(sizes: Pairs, held: Members) -> Pairs:
    """The voxels of each body; ``held``: of supervoxels that have some."""
    bodies, of = np.unique(held.bodies, return_inverse=True)
    out = np.zeros(len(bodies), np.uint64)
    np.add.at(out, of, sizes.values[np.searchsorted(sizes.keys, held.supervoxels)])
    return Pairs(bodies, out)


def _looked_up(found: Pairs, keys: U64s) -> U64s:
    """Values of keys, 0 where there is none."""
    out = np.zeros(len(keys), np.uint64)
    out[np.searchsorted(keys, found.keys)] = found.values
    return out


def _places(view: ReadView, sizes: Pairs, held: Members) -> Iterator[Told]:
    """Supervoxels that do not lie in just the body that they are mapped to."""
    targets = mapping(view).get(sizes.keys, sizes.keys)
    at = np.searchsorted(sizes.keys, held.supervoxels)
    holders = np.bincount(at, minlength=len(sizes))
    for i in np.flatnonzero((holders == 0) & (targets != 0)).tolist():
        number, size = sizes.keys[i], sizes.values[i]
        yield f"supervoxel {number} lies in no body, but has {size} voxels and is mapped to {targets[i]}"
    several = held.take(np.lexsort((held.bodies, held.supervoxels)))
    several = several.take(is_in(several.supervoxels, sizes.keys[holders > 1]))
    for number, bodies in _grouped(several):
        target = targets[np.searchsorted(sizes.keys, np.uint64(number))]
        yield f"supervoxel {number} lies in the bodies {' and '.join(bodies)}, and is mapped to {target}"
    one = held.take(holders[at] == 1)
    for supervoxel, body, target in _otherwise(one, pairs(sizes.keys, targets)):
        yield Difference(f"supervoxel {supervoxel}: mapped to {target}, but in the index of {body}")


def _each(held: Members) -> Iterator[tuple[int, int]]:
    ordered = held.take(np.lexsort((held.bodies, held.supervoxels)))
    return zip(ordered.supervoxels.tolist(), ordered.bodies.tolist(), strict=True)


def _grouped(held: Members) -> Iterator[tuple[int, list[str]]]:
    """Supervoxels in order, with the bodies of each."""
    cuts = np.flatnonzero(np.diff(held.supervoxels)) + 1
    for part in np.split(np.arange(len(held.supervoxels)), cuts) if len(held.supervoxels) else ():
        yield int(held.supervoxels[part[0]]), [str(body) for body in held.bodies[part].tolist()]


def _otherwise(held: Members, targets: Pairs) -> Iterator[tuple[int, int, int]]:
    """Supervoxels, the bodies that hold them and those that they are mapped to, where these differ."""
    where = targets.values[np.searchsorted(targets.keys, held.supervoxels)]
    wrong = np.flatnonzero(where != held.bodies)
    order = wrong[np.argsort(held.supervoxels[wrong])]
    columns = (held.supervoxels[order], held.bodies[order], where[order])
    return zip(*(column.tolist() for column in columns), strict=True)
