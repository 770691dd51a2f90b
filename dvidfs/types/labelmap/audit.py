"""What the blocks, the index and the bodies of a labelmap say, each read once and held so that they can be compared.

Decides how index and voxels are compared: for each block a sum of 64 bits is made of its supervoxels and their counts, once as
the voxels say and once as the index says, in whatever order its rows come. Only blocks whose sums differ are looked at
closely. Everything is streamed; what is held is 28 bytes for each block, 16 for each supervoxel and 17 for each member of a
body; with what comparing them takes, and the columns, some 250 bytes for each supervoxel. Functions are generators that yield how far they are, and blocks
that cannot be read, and return what they found. Invariant: nothing is changed, and nothing here leans on one of the facts to
read another.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import keys, ledger
from dvidfs.engine.check import Step, Told
from dvidfs.engine.keys import Family
from dvidfs.engine.store import Buffer
from dvidfs.engine.values import Entry
from dvidfs.engine.versions import ReadView
from dvidfs.errors import Conflict, DvidfsError
from dvidfs.kernels import labels as kernel
from dvidfs.types import workers
from dvidfs.types.formats.labelindex import FURTHEST, points_of_codes
from dvidfs.types.geometry import Point
from dvidfs.types.labelmap import index, ingest, stored
from dvidfs.types.labelmap.bodies import distinct, is_in, named_in
from dvidfs.types.labelmap.books import Book, totals
from dvidfs.types.labelmap.columns import Pairs, U64s
from dvidfs.types.labelmap.index import Counts

T = TypeVar("T")
Telling = Generator[Told, None, T]

BLOCKS = 256
"""Blocks that are read at a time."""
_NONE = np.zeros(0, np.uint64)


@dataclass(eq=False)
class Sums:
    """Of each block (``codes``, ascending) what its voxels and what the index say, as sums, and how many rows the index has."""

    codes: U64s
    voxels: U64s
    index: U64s
    rows: NDArray[np.uint32]
    unknown: U64s
    """Codes of blocks that cannot be read, or that parents of a merge disagree about: nothing is said of them."""

    @property
    def differing(self) -> U64s:
        """The blocks of which the index has rows, but not those that it should have."""
        return self.codes[(self.voxels != self.index) & (self.rows > 0)]

    @property
    def uncounted(self) -> U64s:
        """The blocks that hold labels, and that the index knows nothing of."""
        return self.codes[(self.voxels != self.index) & (self.rows == 0)]


class Members(NamedTuple):
    """Which supervoxels the bodies hold, row by row; ``said``: that it does was once written, it is not so by its number alone.

    ``written``: the bodies that have rows, ascending.
    """

    supervoxels: U64s
    bodies: U64s
    said: NDArray[np.bool_]
    written: U64s

    def take(self, which: NDArray) -> Members:
        return Members(self.supervoxels[which], self.bodies[which], self.said[which], self.written)


# ---------------------------------------------------------------- voxels


def voxels(view: ReadView) -> Telling[Sums]:
    """What the voxels of each stored block say; a line for each block that cannot be read."""
    size: Point = tuple(view.instance.settings["BlockSize"])
    unknown: list[int] = []
    codes, sums = [_NONE], [_NONE]

    def skip(conflict: Conflict) -> None:
        unknown.extend(_codes([keys.decode_block(conflict.key)[1:]]).tolist())

    every, done = view.scan(Family.BLOCK, stop=bytes([1]), on_conflict=skip), 0
    while part := list(islice(every, BLOCKS)):
        coords = [keys.decode_block(found.enc)[1:] for found in part]
        parts = []
        for coord, found in zip(coords, _tallied(view, coords, [f.entry for f in part], size), strict=True):
            if isinstance(found, str):
                yield found
                unknown.extend(_codes([coord]).tolist())
            elif len(code := _codes([coord])):
                parts.append((int(code[0]), *found))
        here = np.array([code for code, *_ in parts], np.uint64)
        codes.append(here)
        sums.append(_added(here, ingest.counted(parts)))
        done += len(part)
        yield Step("blocks", done)
    every_code = np.concatenate(codes)
    blank = np.zeros(len(every_code), np.uint64)
    return Sums(
        every_code,
        np.concatenate(sums),
        blank,
        blank.astype(np.uint32),
        distinct(np.array(unknown, np.uint64)),
    )


def _codes(coords: Iterable[Point]) -> U64s:
    """The codes of those blocks that the index can name."""
    near = [coord for coord in coords if all(-FURTHEST <= n <= FURTHEST for n in coord)]
    return np.array([index.code_of(coord) for coord in near], np.uint64)


Tally = tuple[U64s, U64s]
"""The table of labels of a block, and the voxels of each."""


def _tallied(view: ReadView, coords: list[Point], entries: list[Entry], size: Point) -> list[Tally | str]:
    """What the blocks hold, or why that cannot be told."""
    try:
        payloads: list[Buffer | DvidfsError] = list(view.load_many(entries))
    except DvidfsError:
        payloads = [_loaded(view, entry) for entry in entries]

    def look(at: tuple[Point, Buffer | DvidfsError]) -> Tally | str:
        coord, payload = at
        if isinstance(payload, DvidfsError):
            return f"block {'_'.join(map(str, coord))}: {payload}"
        try:
            block = stored.checked(payload, coord, size)
        except DvidfsError as error:
            return str(error)
        return block.labels.copy(), kernel.tally(block)

    return workers.each(look, list(zip(coords, payloads, strict=True)))


def _loaded(view: ReadView, entry: Entry) -> Buffer | DvidfsError:
    try:
        return view.load(entry)
    except DvidfsError as error:
        return error


def _added(codes: U64s, rows: Counts) -> U64s:
    """The sum of each block; every row is one of its blocks'."""
    out = np.zeros(len(codes), np.uint64)
    np.add.at(out, np.searchsorted(codes, rows.codes), _mixed(rows))
    return out


def _mixed(rows: Counts) -> U64s:
    """A number for each row in which every bit of supervoxel and count has a part."""
    return _scattered(_scattered(rows.supervoxels) + rows.counts)


def _scattered(numbers: U64s) -> U64s:
    """The mixing function of splitmix64, which maps no two numbers to one."""
    out = numbers + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        out = (out ^ out >> np.uint64(shift)) * np.uint64(factor)
    return out ^ out >> np.uint64(31)


# ---------------------------------------------------------------- the index


def sizes(view: ReadView, sums: Sums | None = None) -> Telling[tuple[Pairs, Counts]]:
    """The voxels of each supervoxel that has some, as the index counts them, and the rows that name blocks which are not stored.

    ``sums`` gets what the index says of its blocks.
    """
    names, counts, strays, done = [_NONE], [_NONE], list[Counts](), 0
    for part in ledger.sweep(view, Book.SUPERVOXEL):
        rows = index.counts_in(*part)
        found = distinct(rows.supervoxels)
        names.append(found)
        counts.append(index.sizes_of(rows, found))
        if sums is not None:
            strays.append(_enter(sums, rows))
        done += len(part[0])
        yield Step("supervoxels", done)
    return Pairs(np.concatenate(names), np.concatenate(counts)), index.joined(strays)


def _enter(sums: Sums, rows: Counts) -> Counts:
    """Adds rows of the index to the sums; those of blocks that are not stored."""
    here = is_in(rows.codes, sums.codes)
    known = rows.take(here)
    at = np.searchsorted(sums.codes, known.codes)
    np.add.at(sums.index, at, _mixed(known))
    np.add.at(sums.rows, at, np.uint32(1))
    rest = rows.take(~here)
    return rest.take(~is_in(rest.codes, sums.unknown))


def closely(view: ReadView, codes: U64s) -> Telling[tuple[Counts, Counts]]:
    """What the index and what the voxels say of some blocks (codes, ascending), row by row: 20 bytes each."""
    before, after, done = list[Counts](), list[Counts](), 0
    size: Point = tuple(view.instance.settings["BlockSize"])
    for part in ledger.sweep(view, Book.SUPERVOXEL):
        rows = index.counts_in(*part)
        before.append(rows.take(is_in(rows.codes, codes)))
        done += len(part[0])
        yield Step("supervoxels of blocks that differ", done)
    for at in range(0, len(codes), BLOCKS):
        part = codes[at : at + BLOCKS]
        coords: list[Point] = [(x, y, z) for x, y, z in points_of_codes(part).tolist()]
        entries = [view.find(Family.BLOCK, keys.encode_block(0, *coord)) for coord in coords]
        there = [i for i, entry in enumerate(entries) if entry is not None]
        found = _tallied(view, [coords[i] for i in there], [entry for entry in entries if entry is not None], size)
        tallies = zip((int(part[i]) for i in there), found, strict=True)
        after.append(ingest.counted([(code, *tally) for code, tally in tallies if not isinstance(tally, str)]))
        yield Step("blocks that differ", at + len(part))
    return index.joined(before), index.joined(after)


# ---------------------------------------------------------------- bodies


def members(view: ReadView) -> Telling[Members]:
    """Which supervoxels each body holds: as its rows say, or by its number if it has voxels and no rows."""
    supervoxels, bodies, said, written, done = [_NONE], [_NONE], [np.zeros(0, bool)], [_NONE], 0
    for part in ledger.sweep(view, Book.BODY):
        found = members_in(*part)
        supervoxels.append(found.supervoxels)
        bodies.append(found.bodies)
        said.append(found.said)
        written.append(found.written)
        done += len(found.written)
        yield Step("bodies", done)
    every = np.concatenate(written)
    counted = totals(view).items()
    alone = counted.keys[(counted.values > 0) & ~is_in(counted.keys, every)]
    return Members(
        np.concatenate([*supervoxels, alone]),
        np.concatenate([*bodies, alone]),
        np.concatenate([*said, np.zeros(len(alone), bool)]),
        every,
    )


def members_in(ids: U64s, of: NDArray[np.int64], rows: list[bytes]) -> Members:
    """The supervoxels of bodies out of their rows."""
    moved, lengths = named_in(rows)
    names = np.concatenate((moved, ids))
    holders = np.concatenate((np.repeat(ids[of], lengths.sum(axis=1)), ids))
    told = np.arange(len(names)) < len(names) - len(ids)
    there = np.append(np.repeat(np.tile([True, False], len(rows)), lengths.reshape(-1)), np.ones(len(ids), bool))
    order = np.lexsort(
        (np.arange(len(names)), names, holders)
    )  # the first word on a supervoxel counts, its number's the last
    first = np.ones(len(order), bool)
    first[1:] = (names[order][1:] != names[order][:-1]) | (holders[order][1:] != holders[order][:-1])
    kept = order[first]
    kept = kept[there[kept]]
    return Members(names[kept], holders[kept], told[kept], ids)
