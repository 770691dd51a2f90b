"""Random proofreading over branches, asked over HTTP, against the model: every answer after every step.

Decides which steps there are; :mod:`agreement` compares. Invariant: after each rule mapping, membership, counts and
voxels of the version are in step, and nothing that was refused has changed anything.
"""

from __future__ import annotations

import random
import re
import sys

import numpy as np
import pytest
import wire
from agreement import agree, refused, splits_agree
from client import Connection, Labels
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from labelserver import LabelServer
from model import Frame, Model, State
from wire import LabelIndex, Voxels, Xyz

FRAME = Frame((16, 16, 16), (2, 2, 2), (-1, 0, 1))
CHANCE = st.integers(0, 1 << 32).map(random.Random)
MOST_VERSIONS = 6


def texture(chance: random.Random, ids: list[int], shape: tuple[int, int, int]) -> Voxels:
    """Boulders of the ids, with single voxels of others strewn in."""
    dice = np.random.default_rng(chance.getrandbits(32))
    table, cell = np.array(ids, np.uint64), chance.choice([4, 8, 16])
    boulders = dice.integers(0, len(ids), tuple(-(-side // cell) for side in shape))
    for axis, side in enumerate(shape):
        boulders = boulders.repeat(cell, axis).take(range(side), axis)
    strewn = dice.random(shape) < chance.choice([0, 0.02])
    return table[np.where(strewn, dice.integers(0, len(ids), shape), boulders)]


class Proofreading(RuleBasedStateMachine):
    """``here``: the version that is worked on."""

    connection: Connection
    numbers = 0

    @initialize(chance=CHANCE)
    def begin(self, chance: random.Random) -> None:
        Proofreading.numbers += 1
        self.here = self.connection.new_repo()
        self.root = self.here
        self.name = f"machine-{Proofreading.numbers}"
        self.connection.new_instance(self.here, self.name, BlockSize="16,16,16", MaxDownresLevel="2")
        self.model = Model({self.here: State.empty(FRAME)})
        self.mutation = self.step = 0
        first = chance.sample(FRAME.places(), chance.randint(4, 8))
        self._post_blocks(chance, first)

    # -- what rules lean on --------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self.model.versions[self.here]

    @property
    def labels(self) -> Labels:
        return Labels(self.connection, self.here, self.name)

    def ready(self) -> bool:
        return not self.state.committed and len(self.state.bodies()) > 1

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

    def _post_blocks(self, chance: random.Random, places: list[Xyz]) -> None:
        blocks = {place: texture(chance, self.paints(chance), FRAME.block_shape) for place in places}
        self.labels.post_blocks(blocks, downres=True)
        self.state.write(blocks)

    @precondition(lambda self: not self.state.committed)
    @rule(chance=CHANCE)
    def post_blocks(self, chance: random.Random) -> None:
        empty = [place for place in FRAME.places() if not self.state.voxels[FRAME.window(place)].any()]
        if empty:
            self._post_blocks(chance, chance.sample(empty, chance.randint(1, len(empty))))

    @precondition(lambda self: not self.state.committed)
    @rule(chance=CHANCE, compression=st.sampled_from([None, "lz4", "gzip"]))
    def paint(self, chance: random.Random, compression: str | None) -> None:
        ends = [sorted(chance.randint(0, n) for _ in range(2)) for n in FRAME.blocks]
        if any(low == high for low, high in ends):
            ends = [[0, 1], [0, 2], [1, 2]]
        low = [first + low for first, (low, _) in zip(FRAME.corner, ends, strict=True)]
        shape = [(high - low) * 16 for low, high in reversed(ends)]
        voxels = texture(chance, self.paints(chance), tuple(shape))
        self.labels.post_raw(tuple(16 * n for n in low), voxels, compression, mutate=True)
        inner = Frame(FRAME.block, tuple(side // 16 for side in reversed(shape)), tuple(low))
        self.state.write({place: voxels[inner.window(place)] for place in inner.places()})

    @precondition(lambda self: not self.state.committed)
    @rule(chance=CHANCE, indices_first=st.booleans())
    def load_in_bulk(self, chance: random.Random, indices_first: bool) -> None:
        """As pipelines do: voxels of every scale without an index, then mappings and indices, in either order."""
        state, labels = self.state, self.labels
        places = chance.sample(FRAME.places(), 2)
        state.write({place: texture(chance, self.paints(chance), FRAME.block_shape) for place in places}, indexed=False)
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
        for over_http, in_model, value in reversed(steps) if indices_first else steps:
            over_http(value)
            in_model(value)
        assert state.in_step()

    # -- one side alone ------------------------------------------------------------------------------------------------

    @precondition(ready)
    @rule(chance=CHANCE, indices_first=st.booleans())
    def move_by_hand(self, chance: random.Random, indices_first: bool) -> None:
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
        for number, (over_http, in_model, value) in enumerate(reversed(steps) if indices_first else steps):
            over_http(value)
            in_model(value)
            if not number:
                agree(labels, state, chance)

    @precondition(ready)
    @rule(chance=CHANCE)
    def drop_an_index_and_give_it_back(self, chance: random.Random) -> None:
        kept = self.labels.index(chance.choice(self.state.bodies()))
        for index in (LabelIndex(kept.label), kept):
            self.labels.post_index(index)
            self.state.post_indices([index])
            agree(self.labels, self.state, chance)

    # -- mutations -----------------------------------------------------------------------------------------------------

    @precondition(ready)
    @rule(chance=CHANCE)
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

    @precondition(lambda self: not self.state.committed)
    @rule(chance=CHANCE)
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

    @precondition(ready)
    @rule(chance=CHANCE)
    def renumber(self, chance: random.Random) -> None:
        """To a number never seen, or to that of a supervoxel which lies in the body itself."""
        old = chance.choice(self.state.bodies())
        own = sorted(self.state.supervoxels(old) - set(self.state.bodies()))
        new = chance.choice([self.fresh(chance), *own])
        self.labels.renumber([new, old])
        self.state.renumber(new, old)
        self.acknowledged(self.labels.lastmod(new)["mutation id"])

    @precondition(ready)
    @rule(chance=CHANCE, named=st.booleans())
    def split_supervoxel(self, chance: random.Random, named: bool) -> None:
        large = sorted(s for s, size in self.state.sizes().items() if size > 1)
        supervoxel = chance.choice(large)
        mask = self.some_voxels(chance, self.state.voxels == supervoxel)
        new = self.fresh(chance)
        query = {"split": new, "remain": new + 1} if named else {}
        split, remain, mutation = self.labels.split_supervoxel(supervoxel, self.runs(mask), **query)
        self.acknowledged(mutation)
        assert not named or (split, remain) == (new, new + 1)
        self.state.split_supervoxel(supervoxel, mask, self.new_label(split), self.new_label(remain))

    @precondition(ready)
    @rule(chance=CHANCE)
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

    @precondition(lambda self: not self.state.committed)
    @rule(count=st.integers(1, 50))
    def reserve(self, count: int) -> None:
        first, last = self.labels.reserve(count)
        assert last - first + 1 == count
        assert first > max(self.model.labels_in_use(), default=0)
        assert self.labels.next_label() == last + 1

    # -- versions ------------------------------------------------------------------------------------------------------

    def commit(self, uuid: str) -> None:
        if not self.model.versions[uuid].committed:
            self.connection.commit(uuid)
            self.model.versions[uuid].committed = True

    def room(self) -> bool:
        return len(self.model.versions) < MOST_VERSIONS

    @precondition(room)
    @rule()
    def branch(self) -> None:
        self.commit(self.here)
        child = self.connection.child(self.here, f"branch-{len(self.model.versions)}")
        self.model.versions[child] = self.state.child(self.here)
        self.here = child

    @precondition(room)
    @rule(chance=CHANCE)
    def branch_from_before(self, chance: random.Random) -> None:
        """A sibling: two people go on from one version."""
        self.here = chance.choice(
            [uuid for uuid in self.model.versions if self.model.versions[uuid].committed] or [self.here]
        )
        self.branch()

    @rule(chance=CHANCE)
    def go_elsewhere(self, chance: random.Random) -> None:
        self.here = chance.choice(self.model.open() or list(self.model.versions))

    @precondition(room)
    @rule(chance=CHANCE)
    def merge_versions(self, chance: random.Random) -> None:
        lines = {uuid: self.model.lineage(uuid) for uuid in self.model.versions}
        pairs = [(a, b) for a in lines for b in lines if a not in lines[b] and b not in lines[a]]
        if not pairs:
            return
        parents = chance.choice(pairs)
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

    @precondition(ready)
    @rule(chance=CHANCE)
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

    @precondition(ready)
    @rule(chance=CHANCE)
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

    @precondition(ready)
    @rule(chance=CHANCE)
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

    @rule(chance=CHANCE)
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

    # -- what must hold ------------------------------------------------------------------------------------------------

    @invariant()
    def agrees(self) -> None:
        self.step += 1
        assert self.state.in_step()
        agree(self.labels, self.state, random.Random(self.step), bodies=1)
        assert [done["Action"] for done in self.labels.mutations()] == self.state.log
        line, at = [], self.here
        while at:
            line.append((at, self.model.versions[at].splits))
            at = next(iter(self.model.versions[at].parents), "")
        splits_agree(self.labels, line)

    def teardown(self) -> None:
        if sys.exc_info()[0] is not None:
            return  # a rule has failed, and that is what shall be shown
        for uuid, state in self.model.versions.items():
            agree(self.labels.at(uuid), state, random.Random(0), bodies=3)


@pytest.mark.timeout(300)
def test_labels_are_what_the_model_says(label_server: LabelServer, connection: Connection):
    Proofreading.connection = connection
    run_state_machine_as_test(
        Proofreading,
        settings=settings(
            max_examples=12,
            stateful_step_count=16,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
