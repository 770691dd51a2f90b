"""A plain model of one labels instance over versions: every voxel, and nothing clever.

Decides what the answer of a correct server is; slow is fine. A version is a :class:`State` of its own with all voxels
of a small box as supervoxels, the mapping, the membership and the counted voxels, as three separate facts: mutations
and indexed writes keep them in step, `POST mappings` and `POST index` change one alone, and voxels that came without
an index are not counted. Invariant: nothing here knows how the server stores anything.
Arrays are (z, y, x), points and blocks (x, y, z). Source: reference note "labelmap mutations".
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray
from wire import Counts, LabelIndex, Points, Voxels, Xyz, points_of_mask


def vote(voxels: Voxels) -> Voxels:
    """Half as many voxels along each side: the most frequent label of eight, zeros aside; of equals the smallest."""
    z, y, x = (side // 2 for side in voxels.shape)
    eight = voxels.reshape(z, 2, y, 2, x, 2).transpose(1, 3, 5, 0, 2, 4).reshape(8, z, y, x)
    best, most = np.zeros((z, y, x), np.uint64), np.zeros((z, y, x), np.int64)
    for label in eight:
        votes = (eight == label).sum(axis=0)
        better = (label != 0) & ((votes > most) | ((votes == most) & (label < best)))
        best, most = np.where(better, label, best), np.where(better, votes, most)
    return best


def among(places: Points, known: Points) -> NDArray[np.bool_]:
    """Which of the places are known ones."""
    weights = np.array([1, 1 << 21, 1 << 42])
    return np.isin(places @ weights, known @ weights)


@dataclass(frozen=True)
class Frame:
    """The box that is modelled: ``blocks`` of ``block`` voxels each along x, y, z, the first one at ``corner``."""

    block: Xyz
    blocks: Xyz
    corner: Xyz = (0, 0, 0)

    @property
    def shape(self) -> tuple[int, int, int]:
        x, y, z = (n * side for n, side in zip(self.blocks, self.block, strict=True))
        return z, y, x

    @property
    def block_shape(self) -> tuple[int, int, int]:
        x, y, z = self.block
        return z, y, x

    @property
    def start(self) -> Xyz:
        x, y, z = (n * side for n, side in zip(self.corner, self.block, strict=True))
        return x, y, z

    def scaled(self, scale: int) -> tuple[Xyz, tuple[int, int, int]]:
        """First voxel and shape of the box at a scale."""
        x, y, z = (n >> scale for n in self.start)
        nz, ny, nx = (n >> scale for n in self.shape)
        return (x, y, z), (nz, ny, nx)

    def places(self) -> list[Xyz]:
        """All blocks, by z, y, x."""
        sides = (range(first, first + n) for first, n in zip(self.corner, self.blocks, strict=True))
        return [(x, y, z) for z, y, x in itertools.product(*reversed(list(sides)))]

    def window(self, place: Xyz) -> tuple[slice, slice, slice]:
        """Where a block lies in the array of the box."""
        x, y, z = (
            slice((n - first) * side, (n - first + 1) * side)
            for n, first, side in zip(place, self.corner, self.block, strict=True)
        )
        return z, y, x

    def places_of(self, points: Points) -> Points:
        """The block of each point."""
        return points // np.array(self.block)


@dataclass
class State:
    """One version. ``mapping`` holds what was ever said of a supervoxel, 0 for one that is no more; ``members`` the
    body of each counted supervoxel; ``counts`` its voxels by block; ``wrote_*`` what this version itself wrote."""

    frame: Frame
    voxels: Voxels
    mapping: dict[int, int] = field(default_factory=dict)
    members: dict[int, int] = field(default_factory=dict)
    counts: dict[int, dict[Xyz, int]] = field(default_factory=dict)
    splits: list[tuple[int, int, int]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    parents: tuple[str, ...] = ()
    committed: bool = False
    wrote_blocks: set[Xyz] = field(default_factory=set)
    wrote_mapping: set[int] = field(default_factory=set)
    _scales: dict[int, Voxels] = field(default_factory=dict)

    @classmethod
    def empty(cls, frame: Frame) -> Self:
        return cls(frame, np.zeros(frame.shape, np.uint64))

    def child(self, *parents: str) -> State:
        """What a new version below begins with."""
        out = copy.deepcopy(self)
        out.splits, out.log, out.parents, out.committed = [], [], parents, False
        out.wrote_blocks, out.wrote_mapping = set(), set()
        return out

    # -- what can be asked -------------------------------------------------------------------------------------------

    def body_of(self, supervoxel: int) -> int:
        return self.mapping.get(supervoxel, supervoxel)

    def looked_up(self, supervoxel: int) -> int:
        """What GET `mapping` says: without a word in the mapping, itself only if its own index counts it."""
        if supervoxel in self.mapping:
            return self.mapping[supervoxel]
        return supervoxel if self.members.get(supervoxel) == supervoxel else 0

    def bodies(self) -> list[int]:
        return sorted({self.members[s] for s in self.counts})

    def supervoxels(self, body: int) -> set[int]:
        return {s for s in self.counts if self.members[s] == body}

    def sizes(self) -> dict[int, int]:
        """Voxels of each counted supervoxel."""
        return {s: sum(blocks.values()) for s, blocks in self.counts.items()}

    def size(self, body: int) -> int:
        return sum(sum(self.counts[s].values()) for s in self.supervoxels(body))

    def index(self, body: int) -> LabelIndex:
        blocks: Counts = {}
        for supervoxel in sorted(self.supervoxels(body)):
            for place, count in self.counts[supervoxel].items():
                blocks.setdefault(place, {})[supervoxel] = count
        return LabelIndex(body, blocks)

    def scale(self, scale: int) -> Voxels:
        """Supervoxels at a scale."""
        if not scale:
            return self.voxels
        if scale not in self._scales:
            self._scales[scale] = vote(self.scale(scale - 1))
        return self._scales[scale]

    def mapped(self, voxels: Voxels) -> Voxels:
        ids, where = np.unique(voxels, return_inverse=True)
        return np.array([self.body_of(i) for i in ids.tolist()], np.uint64)[where].reshape(voxels.shape)

    def coarse(self, supervoxels: Iterable[int], scale: int = 0) -> Points:
        """The blocks that hold voxels of them."""
        found = {tuple(n >> scale for n in place) for s in supervoxels for place in self.counts.get(s, ())}
        return np.array(sorted(found, key=lambda p: p[::-1]), np.int64).reshape(-1, 3)

    def points(self, supervoxels: Iterable[int], scale: int = 0) -> Points:
        """The voxels of supervoxels at a scale, as far as they are counted."""
        supervoxels = list(supervoxels)
        start, _ = self.frame.scaled(scale)
        found = points_of_mask(np.isin(self.scale(scale), np.array(supervoxels, np.uint64)), start)
        return found[among(self.frame.places_of(found), self.coarse(supervoxels, scale))]

    def labels_in_use(self) -> set[int]:
        """Every number that means something here."""
        return {*np.unique(self.voxels).tolist(), *self.mapping, *self.mapping.values(), *self.members.values()} - {0}

    def in_step(self) -> bool:
        """Whether mapping, membership, counts and voxels say the same."""
        return self.counts == self.counted() and all(self.body_of(s) == body for s, body in self.members.items())

    def counted(self) -> dict[int, dict[Xyz, int]]:
        """What an index of all voxels would hold."""
        out: dict[int, dict[Xyz, int]] = {}
        for place in self.frame.places():
            ids, counts = np.unique(self.voxels[self.frame.window(place)], return_counts=True)
            for supervoxel, count in zip(ids.tolist(), counts.tolist(), strict=True):
                if supervoxel:
                    out.setdefault(supervoxel, {})[place] = count
        return out

    # -- writes of voxels --------------------------------------------------------------------------------------------

    def blocks(self, places: Iterable[Xyz], scale: int = 0) -> dict[Xyz, Voxels]:
        """Blocks as they would be posted; at a scale, whole blocks with zeros around the box."""
        if not scale:
            return {place: self.voxels[self.frame.window(place)] for place in places}
        voxels, (start, _) = self.scale(scale), self.frame.scaled(scale)
        out = {place: np.zeros(self.frame.block_shape, np.uint64) for place in places}
        for place, block in out.items():
            inside, outside = [], []
            for first, side, at, length in zip(
                reversed(start), reversed(self.frame.block), reversed(place), voxels.shape, strict=True
            ):
                low, high = max(at * side, first), min((at + 1) * side, first + length)
                inside.append(slice(low - at * side, high - at * side))
                outside.append(slice(low - first, high - first))
            block[tuple(inside)] = voxels[tuple(outside)]
        return out

    def write(self, blocks: Mapping[Xyz, Voxels], *, indexed: bool = True) -> None:
        """Voxels as `raw?mutate=true` or `blocks` store them; ``indexed=False``: as `ingest-supervoxels` does."""
        self._scales.clear()
        for place, voxels in blocks.items():
            self.voxels[self.frame.window(place)] = voxels
            self.wrote_blocks.add(place)
            if indexed:
                self._count(place)

    def _count(self, place: Xyz) -> None:
        for supervoxel in list(self.counts):
            self.counts[supervoxel].pop(place, None)
        for supervoxel, count in Counter(self.voxels[self.frame.window(place)].ravel().tolist()).items():
            if supervoxel:
                self.counts.setdefault(supervoxel, {})[place] = count
                self.members.setdefault(supervoxel, self.body_of(supervoxel))
        self._forget_empty()

    def _forget_empty(self) -> None:
        for supervoxel in [s for s, blocks in self.counts.items() if not blocks]:
            del self.counts[supervoxel], self.members[supervoxel]

    # -- one side alone ----------------------------------------------------------------------------------------------

    def post_mappings(self, pairs: Mapping[int, Iterable[int]]) -> None:
        for body, supervoxels in pairs.items():
            for supervoxel in supervoxels:
                self._map(supervoxel, body)

    def _map(self, supervoxel: int, body: int) -> None:
        self.mapping[supervoxel] = body
        self.wrote_mapping.add(supervoxel)

    def post_indices(self, indices: Iterable[LabelIndex]) -> None:
        for index in indices:
            for supervoxel in self.supervoxels(index.label):
                del self.counts[supervoxel], self.members[supervoxel]
            for place, counts in index.blocks.items():
                for supervoxel, count in counts.items():
                    if self.members.get(supervoxel) != index.label:
                        self.members[supervoxel], self.counts[supervoxel] = index.label, {}
                    self.counts[supervoxel][place] = count

    # -- mutations -----------------------------------------------------------------------------------------------------

    def _move(self, supervoxel: int, body: int) -> None:
        self._map(supervoxel, body)
        self.members[supervoxel] = body

    def merge(self, target: int, others: Iterable[int]) -> None:
        for supervoxel in {s for body in others for s in self.supervoxels(body)}:
            self._move(supervoxel, target)
        self.log.append("merge-complete")

    def cleave(self, supervoxels: Iterable[int], body: int) -> None:
        for supervoxel in supervoxels:
            self._move(supervoxel, body)
        self._map(body, 0)
        self.log.append("cleave-complete")

    def renumber(self, new: int, old: int) -> None:
        if new not in self.mapping and new not in self.members:
            self._map(new, 0)
        for supervoxel in self.supervoxels(old):
            self._move(supervoxel, new)
        self.log.append("renumber-complete")

    def split_supervoxel(self, supervoxel: int, mask: NDArray[np.bool_], split: int, remain: int) -> None:
        """``mask``: over the whole box; only voxels of the supervoxel count."""
        self._divide(supervoxel, mask, split, remain)
        self._map(split, self.members[remain])
        self._recount({split, remain})
        self.log.append("split-supervoxel-complete")

    def split(self, mask: NDArray[np.bool_], body: int, pairs: Mapping[int, tuple[int, int]]) -> None:
        """Voxels of the mask become ``body``; ``pairs``: (split, remain) of each supervoxel that was touched."""
        for supervoxel, (split, remain) in pairs.items():
            self._divide(supervoxel, mask, split, remain)
            self._map(split, body)
            self.members[split] = body
            self._recount({split, remain})
        self.log.append("split-complete")

    def _divide(self, supervoxel: int, mask: NDArray[np.bool_], split: int, remain: int) -> None:
        self._scales.clear()
        mine = self.voxels == supervoxel
        self.wrote_blocks |= set(self.counts[supervoxel])
        self.voxels[mine & mask], self.voxels[mine & ~mask] = split, remain
        old = self.members.pop(supervoxel)
        del self.counts[supervoxel]
        self._map(supervoxel, 0)
        self._map(remain, old)
        self.members[remain] = self.members[split] = old
        self.splits.append((supervoxel, remain, split))

    def _recount(self, supervoxels: set[int]) -> None:
        counted = self.counted()
        for supervoxel in supervoxels:
            self.counts[supervoxel] = counted.get(supervoxel, {})
        self._forget_empty()


@dataclass
class Model:
    """A repo: its versions by uuid."""

    versions: dict[str, State]

    def lineage(self, uuid: str) -> set[str]:
        """A version and all before it."""
        return {uuid}.union(*(self.lineage(parent) for parent in self.versions[uuid].parents))

    def open(self) -> list[str]:
        return [uuid for uuid, state in self.versions.items() if not state.committed]

    def labels_in_use(self) -> set[int]:
        return set().union(*(state.labels_in_use() for state in self.versions.values()))

    def merged(self, parents: Sequence[str]) -> tuple[State, set[int]] | None:
        """What a merge of two versions holds, and the supervoxels of which they say different things: the first parent
        has its way. None if the two changed the same blocks, or one does away with a supervoxel that the other paints."""
        first, second = (self.versions[uuid] for uuid in parents)
        lines = [self.lineage(uuid) for uuid in parents]
        wrote = [[self.versions[uuid] for uuid in line - (lines[0] & lines[1])] for line in lines]
        blocks = [set().union(*(state.wrote_blocks for state in side)) for side in wrote]
        said = [set().union(*(state.wrote_mapping for state in side)) for side in wrote]
        if blocks[0] & blocks[1]:
            return None
        out = first.child(*parents)
        out._scales.clear()
        for place in blocks[1]:
            out.voxels[out.frame.window(place)] = second.voxels[out.frame.window(place)]
        for supervoxel in said[1] - said[0]:
            out.mapping[supervoxel] = second.mapping[supervoxel]
        out.counts = out.counted()
        out.members = {supervoxel: out.body_of(supervoxel) for supervoxel in out.counts}
        if 0 in out.members.values():
            return None
        both = said[0] & said[1]
        out.wrote_mapping = {s for s in both if first.mapping[s] != second.mapping[s]}
        return out, set(out.wrote_mapping)
