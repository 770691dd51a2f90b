"""Random steps of people at work on labels: each is asked over HTTP and done to the model.

Decides what a step is and what its own answer must say; who takes which step when, and the comparison of everything
else, is for the tests. Invariant: after each step mapping, membership, counts and voxels of the version are in step,
and a step that was refused has changed nothing in the model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import numpy as np
import wire
from agreement import agree, refused
from client import Connection, Labels
from model import Frame, Model, State
from wire import LabelIndex, Voxels, Xyz

FRAME = Frame((16, 16, 16), (2, 2, 2), (-1, 0, 1))

Step = Callable[[random.Random], None]


def texture(chance: random.Random, ids: list[int], shape: tuple[int, int, int]) -> Voxels:
    """Boulders of the ids, with single voxels of others strewn in."""
    dice = np.random.default_rng(chance.getrandbits(32))
    table, cell = np.array(ids, np.uint64), chance.choice([4, 8, 16])
    boulders = dice.integers(0, len(ids), tuple(-(-side // cell) for side in shape))
    for axis, side in enumerate(shape):
        boulders = boulders.repeat(cell, axis).take(range(side), axis)
    strewn = dice.random(shape) < chance.choice([0, 0.02])
    return table[np.where(strewn, dice.integers(0, len(ids), shape), boulders)]


class Proofreaders:
    """A repo with one labelmap, and the model of it. ``here``: the version that is worked on."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.connection, self.name = connection, name
        self.here = connection.new_repo()
        connection.new_instance(self.here, name, BlockSize="16,16,16", MaxDownresLevel="2")
        self.model = Model({self.here: State.empty(FRAME)})
        self.mutation = 0

    def edits(self) -> list[Step]:
        """What may be done to the voxels or bodies of this version, what matters most more than once."""
        if len(self.state.bodies()) < 2:
            return [self.post_blocks, self.paint]
        often = [self.merge, self.cleave, self.split_supervoxel, self.split, self.paint]
        rarely = [self.renumber, self.post_blocks, self.load_in_bulk, self.move_by_hand, self.reserve]
        return [*often, *often, *rarely, self.drop_an_index_and_give_it_back]

    def refusals(self) -> list[Step]:
        """What must not work here."""
        if self.state.committed or len(self.state.bodies()) < 2:
            return [self.refuse_changes_of_the_past]
        return [self.refuse_mutations, self.refuse_splits, self.refuse_voxels_and_indices]

    # -- what steps lean on --------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self.model.versions[self.here]

    @property
    def labels(self) -> Labels:
        return Labels(self.connection, self.here, self.name)

    def fresh(self, chance: random.Random) -> int:
        return max(self.model.labels_in_use(), default=0) + chance.randint(1, 3)

    def paints(self, chance: random.Random) -> list[int]:
        """Ids that may be painted: nothing, new ones, and what is not done away with."""
        known = [s for s in {*self.state.mapping, *self.state.counts} if self.state.mapping.get(s, s)]
        new = self.fresh(chance)
        return [0, new, new + 1, *chance.sample(sorted(known), min(len(known), 4))]

    def some_voxels(self, chance: random.Random, mine: np.ndarray) -> np.ndarray:
        """A part of a mask that is neither nothing nor all."""
        where = np.argwhere(mine)
        if chance.random() < 0.7:
            axis = chance.randrange(3)
            where = where[np.argsort(where[:, axis], kind="stable")]
            part = where[: chance.randint(1, len(where) - 1)]
        else:
            part = where[sorted(chance.sample(range(len(where)), chance.randint(1, len(where) - 1)))]
        out = np.zeros_like(mine)
        out[tuple(part.T)] = True
        return out

    def runs(self, mask: np.ndarray) -> np.ndarray:
        return wire.runs_of_points(wire.points_of_mask(mask, FRAME.start))

    def acknowledged(self, mutation: int) -> None:
        assert mutation > self.mutation
        self.mutation = mutation

    def new_label(self, label: int) -> int:
        assert label not in self.model.labels_in_use()
        return label

    # -- voxels --------------------------------------------------------------------------------------------------------

    def fill(self, chance: random.Random, places: list[Xyz]) -> None:
        blocks = {place: texture(chance, self.paints(chance), FRAME.block_shape) for place in places}
        self.labels.post_blocks(blocks, downres=True)
        self.state.write(blocks)

    def post_blocks(self, chance: random.Random) -> None:
        empty = [place for place in FRAME.places() if not self.state.voxels[FRAME.window(place)].any()]
        if empty:
            self.fill(chance, chance.sample(empty, chance.randint(1, len(empty))))

    def paint(self, chance: random.Random) -> None:
        ends = [sorted(chance.randint(0, n) for _ in range(2)) for n in FRAME.blocks]
        if any(low == high for low, high in ends):
            ends = [[0, 1], [0, 2], [1, 2]]
        low = [first + low for first, (low, _) in zip(FRAME.corner, ends, strict=True)]
        shape = [(high - low) * 16 for low, high in reversed(ends)]
        voxels = texture(chance, self.paints(chance), tuple(shape))
        start = tuple(16 * n for n in low)
        self.labels.post_raw(start, voxels, chance.choice([None, "lz4", "gzip"]), mutate=True)
        inner = Frame(FRAME.block, tuple(side // 16 for side in reversed(shape)), tuple(low))
        self.state.write({place: voxels[inner.window(place)] for place in inner.places()})

    def load_in_bulk(self, chance: random.Random) -> None:
        """As pipelines do: voxels of every scale without an index, then mappings and indices, in either order."""
        state, labels = self.state, self.labels
        places = chance.sample(FRAME.places(), 2)
        blocks = {place: texture(chance, self.paints(chance), FRAME.block_shape) for place in places}
        if any(set(state.counts[s]) <= set(places) for s in state.counts):
            return  # a supervoxel might be painted over and over
        state.write(blocks, indexed=False)
        for scale in range(3):
            above = {tuple(n >> scale for n in place) for place in places}
            labels.ingest(state.blocks(above, scale), scale=scale)
        counts = state.counted()
        new = sorted(counts.keys() - state.members.keys() - state.mapping.keys())
        body = chance.choice([*new, *state.bodies()]) if new or state.bodies() else 0
        pairs = {body: chance.sample(new, chance.randint(0, len(new)))} if body else {}
        wanted = {s: body if s in pairs.get(body, ()) else state.body_of(s) for s in counts}
        indices = []
        for label in sorted({*wanted.values(), *state.members.values()}):
            indices.append(LabelIndex(label))
            for supervoxel in (s for s in wanted if wanted[s] == label):
                for place, count in counts[supervoxel].items():
                    indices[-1].blocks.setdefault(place, {})[supervoxel] = count
        steps = [(labels.post_mappings, state.post_mappings, pairs), (labels.post_indices, state.post_indices, indices)]
        for over_http, in_model, value in reversed(steps) if chance.random() < 0.5 else steps:
            over_http(value)
            in_model(value)
        assert state.in_step()

    # -- one side alone ------------------------------------------------------------------------------------------------

    def move_by_hand(self, chance: random.Random) -> None:
        """A supervoxel goes to another body by POST mappings and POST indices; between them, each alone is seen."""
        state, labels = self.state, self.labels
        supervoxel = chance.choice(sorted(state.counts))
        old = state.members[supervoxel]
        new = chance.choice([*(b for b in state.bodies() if b != old), self.fresh(chance)])
        indices = [state.index(old), state.index(new)]
        for place, count in state.counts[supervoxel].items():
            del indices[0].blocks[place][supervoxel]
            indices[1].blocks.setdefault(place, {})[supervoxel] = count
        indices[0].blocks = {place: counts for place, counts in indices[0].blocks.items() if counts}
        steps = [
            (labels.post_mappings, state.post_mappings, {new: [supervoxel]}),
            (labels.post_indices, state.post_indices, indices),
        ]
        for number, (over_http, in_model, value) in enumerate(reversed(steps) if chance.random() < 0.5 else steps):
            over_http(value)
            in_model(value)
            if not number:
                agree(labels, state, chance)

    def drop_an_index_and_give_it_back(self, chance: random.Random) -> None:
        kept = self.labels.index(chance.choice(self.state.bodies()))
        for index in (LabelIndex(kept.label), kept):
            self.labels.post_index(index)
            self.state.post_indices([index])
            agree(self.labels, self.state, chance)

    # -- mutations -----------------------------------------------------------------------------------------------------

    def merge(self, chance: random.Random) -> None:
        bodies = self.state.bodies()
        target, *others = chance.sample(bodies, chance.randint(2, min(4, len(bodies))))
        self.acknowledged(self.labels.merge(target, others, u="ann", app="test"))
        self.state.merge(target, others)
        modified = self.labels.lastmod(target)
        assert (modified["mutation id"], modified["last mod user"], modified["last mod app"]) == (
            self.mutation,
            "ann",
            "test",
        )

    def cleave(self, chance: random.Random) -> None:
        large = [body for body in self.state.bodies() if len(self.state.supervoxels(body)) > 1]
        if not large:
            return
        body = chance.choice(large)
        supervoxels = sorted(self.state.supervoxels(body))
        part = chance.sample(supervoxels, chance.randint(1, len(supervoxels) - 1))
        label, mutation = self.labels.cleave(body, part, u="bob")
        self.acknowledged(mutation)
        self.state.cleave(part, self.new_label(label))
        for changed in (body, label):
            assert self.labels.lastmod(changed)["mutation id"] == mutation
            assert self.labels.lastmod(changed)["last mod user"] == "bob"

    def renumber(self, chance: random.Random) -> None:
        """To a number never seen, or to that of a supervoxel which lies in the body itself."""
        old = chance.choice(self.state.bodies())
        own = sorted(self.state.supervoxels(old) - set(self.state.bodies()))
        new = chance.choice([self.fresh(chance), *own])
        self.labels.renumber([new, old])
        self.state.renumber(new, old)
        self.acknowledged(self.labels.lastmod(new)["mutation id"])

    def split_supervoxel(self, chance: random.Random) -> None:
        large = sorted(s for s, size in self.state.sizes().items() if size > 1)
        supervoxel = chance.choice(large)
        mask = self.some_voxels(chance, self.state.voxels == supervoxel)
        new, named = self.fresh(chance), chance.random() < 0.5
        query = {"split": new, "remain": new + 1} if named else {}
        split, remain, mutation = self.labels.split_supervoxel(supervoxel, self.runs(mask), **query)
        self.acknowledged(mutation)
        assert not named or (split, remain) == (new, new + 1)
        self.state.split_supervoxel(supervoxel, mask, self.new_label(split), self.new_label(remain))

    def split(self, chance: random.Random) -> None:
        body = chance.choice([b for b in self.state.bodies() if self.state.size(b) > 1] or [0])
        if not body:
            return
        supervoxels = self.state.supervoxels(body)
        mask = self.some_voxels(chance, np.isin(self.state.voxels, np.array(sorted(supervoxels), np.uint64)))
        label, mutation = self.labels.split(body, self.runs(mask))
        self.acknowledged(mutation)
        found = next(splits for uuid, splits in self.labels.supervoxel_splits() if uuid == self.here)
        pairs = {old: (split, remain) for at, old, remain, split in found if at == mutation}
        touched = set(np.unique(self.state.voxels[mask]).tolist())
        assert set(pairs) == touched
        new = [self.new_label(n) for pair in pairs.values() for n in pair]
        assert len({*new, self.new_label(label)}) == len(new) + 1
        self.state.split(mask, label, pairs)
        if self.labels.mappings().get(label) == 0:
            self.state.post_mappings({0: [label]})

    def reserve(self, chance: random.Random) -> None:
        count = chance.randint(1, 50)
        first, last = self.labels.reserve(count)
        assert last - first + 1 == count
        assert first > max(self.model.labels_in_use(), default=0)
        assert self.labels.next_label() == last + 1

    # -- versions ------------------------------------------------------------------------------------------------------

    def commit(self, uuid: str) -> None:
        if not self.model.versions[uuid].committed:
            self.connection.commit(uuid)
            self.model.versions[uuid].committed = True

    def branch(self) -> None:
        self.commit(self.here)
        child = self.connection.child(self.here, f"branch-{len(self.model.versions)}")
        self.model.versions[child] = self.state.child(self.here)
        self.here = child

    def apart(self) -> list[tuple[str, str]]:
        """Pairs of versions of which neither comes after the other."""
        lines = {uuid: self.model.lineage(uuid) for uuid in self.model.versions}
        return [(a, b) for a in lines for b in lines if a not in lines[b] and b not in lines[a]]

    def merge_versions(self, parents: tuple[str, str]) -> None:
        """Nothing happens if blocks are contested."""
        merged = self.model.merged(parents)
        if merged is None:
            return
        for uuid in parents:
            self.commit(uuid)
        self.here, conflicts = self.connection.merge_versions(parents)
        self.model.versions[self.here], torn = merged
        listed = conflicts.get(self.name, {"count": 0, "keys": []})
        assert listed["count"] == len(torn), conflicts
        assert {int(n) for key in listed["keys"] for n in re.findall(r"\d+", key)} >= torn

    # -- what must not work --------------------------------------------------------------------------------------------

    def refuse_mutations(self, chance: random.Random) -> None:
        labels, state = self.labels, self.state
        a, b = chance.sample(state.bodies(), 2)
        nobody = max(self.model.labels_in_use()) + 100
        own, other = sorted(state.supervoxels(a)), min(state.supervoxels(b))
        for merge in ([a], [a, a], [a, b, a], [a, 0], [0, a], [a, nobody], [nobody, a], [-1, a], ["1", a], {}):
            refused(labels.ask, "POST", "merge", merge)
        for cleave in (own, [other], [own[0], other], [nobody], [0], {}):
            refused(labels.ask, "POST", f"cleave/{a}", cleave)
        refused(labels.cleave, 0, own)
        refused(labels.cleave, nobody, own)
        for renumber in ([a], [b, a], [nobody, nobody + 1], [0, a], [a, a], [nobody, a, b]):
            refused(labels.renumber, renumber)

    def refuse_splits(self, chance: random.Random) -> None:
        labels, state = self.labels, self.state
        a, b = chance.sample(state.bodies(), 2)
        supervoxel = min(state.supervoxels(a))
        mine, others = state.voxels == supervoxel, state.voxels == min(state.supervoxels(b))
        all_of_a = np.isin(state.voxels, np.array(sorted(state.supervoxels(a)), np.uint64))
        one = self.runs(mine)[:1]
        for runs in (one[:0], self.runs(mine), self.runs(mine | others), one * np.array([1, 1, 1, 0])):
            refused(labels.split_supervoxel, supervoxel, runs)
        for runs in (one[:0], self.runs(all_of_a), self.runs(others)):
            refused(labels.split, a, runs)
        gone = [s for s, body in state.mapping.items() if body == 0]
        for no_supervoxel in (0, max(self.model.labels_in_use()) + 100, *gone[:1]):
            refused(labels.split_supervoxel, no_supervoxel, one)
        payload = wire.encode_rles(one)
        for damaged in (b"", payload[:7], payload[:-1], payload[:12], b"\x01" + payload[1:]):
            refused(labels.ask, "POST", f"split-supervoxel/{supervoxel}", damaged)

    def refuse_voxels_and_indices(self, chance: random.Random) -> None:
        labels, body = self.labels, chance.choice(self.state.bodies())
        place, block = chance.choice(FRAME.places()), np.full(FRAME.block_shape, self.fresh(chance), np.uint64)
        whole = wire.encode_blocks({place: block})
        half = wire.encode_block(texture(chance, [1, 2, 3], FRAME.block_shape))[:-1]
        for stream in (whole[:-1], whole + whole[:9], whole + whole, whole + wire.write_stream({(9, 9, 9): b""})):
            refused(labels.ask, "POST", "blocks", stream)
        for payload in (half, half[:12], half[:16] + b"\0" * 9, wire.encode_block(block[:8, :8, :8])):
            refused(labels.ask, "POST", "blocks", wire.write_stream({place: wire.gzip.compress(payload)}))
        refused(labels.ask, "POST", "blocks", whole, compression="lz4")
        refused(labels.post_raw, (3, 0, 0), block, mutate=True)
        refused(labels.post_raw, FRAME.start, block[:8], mutate=True)
        refused(labels.ask, "POST", "raw/0_1_2/16_16_16/0_0_0", bytes(8 * 16**3 - 8), mutate=True)
        index = wire.encode_index(self.state.index(body))
        refused(labels.ask, "POST", f"index/{body + 1}", index)
        refused(labels.ask, "POST", f"index/{body}", index[:-1] + b"\x80")
        refused(labels.post_index, LabelIndex(0, {place: {1: 1}}))
        refused(labels.ask, "POST", "mappings", b"\x0a\x05\x01")

    def refuse_changes_of_the_past(self, chance: random.Random) -> None:
        past = [uuid for uuid, state in self.model.versions.items() if state.committed and state.bodies()]
        if not past:
            return
        uuid, ones = chance.choice(past), np.ones(FRAME.block_shape, np.uint64)
        labels, state = self.labels.at(uuid), self.model.versions[uuid]
        body = state.bodies()[0]
        refused(labels.renumber, [body + 1000, body])
        refused(labels.post_raw, FRAME.start, ones, mutate=True)
        refused(labels.post_mappings, {body + 1: [body]})
        refused(labels.post_index, LabelIndex(body))
        refused(labels.post_blocks, {FRAME.corner: ones})
        agree(labels, state, chance)
