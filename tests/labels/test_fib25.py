"""A real segmentation proofread over two branches and put together again, voxel by voxel as the model says."""

from __future__ import annotations

import csv
import gzip
import random
from pathlib import Path

import numpy as np
import wire
from agreement import agree
from client import Connection, Labels
from model import Frame, Model, State
from wire import LabelIndex, Voxels

DATA = Path(__file__).resolve().parents[2] / "mount-examples" / "data" / "segmentation"
FRAME = Frame((32, 32, 32), (6, 6, 2))


def supervoxels() -> Voxels:
    data = gzip.decompress((DATA / "supervoxels.nii.gz").read_bytes())
    assert np.frombuffer(data, "<i2", 4, 40).tolist() == [3, *reversed(FRAME.shape)]
    return np.frombuffer(data, "<u2", offset=352).reshape(FRAME.shape).astype(np.uint64)


def bodies() -> dict[int, int]:
    """The body of each supervoxel."""
    with (DATA / "bodies.csv").open() as file:
        return {int(row["supervoxel"]): int(row["body"]) for row in csv.DictReader(file)}


def test_the_excerpt_is_whole_and_credited():
    voxels, table = supervoxels(), bodies()
    assert np.unique(voxels).tolist() == list(table)
    assert len(table) == 792
    assert all(table[body] == body <= supervoxel for supervoxel, body in table.items())
    assert "CREATIVE COMMONS" in (DATA.parent / "LICENSE.txt").read_text()
    assert all(word in (DATA / "README.md").read_text() for word in ("Janelia", "Attribution", "neuroproof_examples"))


class Proofreader:
    """One person at work on one version; the model goes along."""

    def __init__(self, labels: Labels, state: State) -> None:
        self.labels, self.state = labels, state

    def merge(self, target: int, *others: int) -> None:
        self.labels.merge(target, others)
        self.state.merge(target, others)

    def cleave(self, body: int, part: list[int]) -> int:
        label, _ = self.labels.cleave(body, part)
        self.state.cleave(part, label)
        return label

    def halves(self, mine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first half of some voxels, as mask and as runs."""
        mask = mine & (np.cumsum(mine).reshape(mine.shape) <= mine.sum() // 2)
        return mask, wire.runs_of_points(wire.points_of_mask(mask, FRAME.start))

    def split_supervoxel(self, supervoxel: int) -> None:
        mask, runs = self.halves(self.state.voxels == supervoxel)
        split, remain, _ = self.labels.split_supervoxel(supervoxel, runs)
        self.state.split_supervoxel(supervoxel, mask, split, remain)

    def split(self, body: int) -> None:
        members = np.array(sorted(self.state.supervoxels(body)), np.uint64)
        mask, runs = self.halves(np.isin(self.state.voxels, members))
        label, mutation = self.labels.split(body, runs)
        splits = dict(self.labels.supervoxel_splits())[self.labels.uuid]
        self.state.split(mask, label, {old: (split, remain) for at, old, remain, split in splits if at == mutation})
        if self.labels.mappings().get(label) == 0:
            self.state.post_mappings({0: [label]})


def imported(labels: Labels) -> State:
    """Supervoxels first, then to whom they belong."""
    state, voxels = State.empty(FRAME), supervoxels()
    blocks = {place: voxels[FRAME.window(place)] for place in FRAME.places()}
    labels.post_blocks(blocks, downres=True)
    state.write(blocks)
    agree(labels, state, random.Random(1), bodies=1)
    pairs: dict[int, list[int]] = {}
    for supervoxel, body in bodies().items():
        if supervoxel != body:
            pairs.setdefault(body, []).append(supervoxel)
    indices: list[LabelIndex] = []
    for body, others in pairs.items():
        whole = state.index(body)
        for other in others:
            for place, counts in state.index(other).blocks.items():
                whole.blocks.setdefault(place, {}).update(counts)
        indices += [whole, *map(LabelIndex, others)]
    for post, keep, value in (
        (labels.post_mappings, state.post_mappings, pairs),
        (labels.post_indices, state.post_indices, indices),
    ):
        post(value)
        keep(value)
    assert state.in_step()
    agree(labels, state, random.Random(2), bodies=1)
    return state


def test_proofread_over_two_branches(connection: Connection):
    root = connection.new_repo()
    connection.new_instance(root, "segmentation", BlockSize="32,32,32", MaxDownresLevel="2")
    labels = Labels(connection, root, "segmentation")
    model = Model({root: imported(labels)})
    connection.commit(root)
    model.versions[root].committed = True
    people = []
    for name in ("ann", "bob"):
        uuid = connection.child(root, name)
        model.versions[uuid] = model.versions[root].child(root)
        people.append(Proofreader(labels.at(uuid), model.versions[uuid]))
    ann, bob = people

    ann.merge(337, 350)
    part = ann.cleave(7, sorted(ann.state.supervoxels(7))[1:40])
    ann.merge(84, part)
    ann.split_supervoxel(max(ann.state.supervoxels(59), key=ann.state.sizes().__getitem__))
    ann.split(461)

    bob.merge(164, 9991, 5111)
    bob.merge(59, 350)
    bob.cleave(164, [164])
    apart = [s for s in bob.state.sizes() if not ann.state.wrote_blocks & set(bob.state.counts[s])]
    bob.split_supervoxel(max(apart, key=bob.state.sizes().__getitem__))

    parents = [person.labels.uuid for person in people]
    contested = model.versions[root].supervoxels(350)
    for uuid in parents:
        connection.commit(uuid)
    child, conflicts = connection.merge_versions(parents)
    merged = model.merged(parents)
    assert merged is not None
    model.versions[child], torn = merged
    assert torn == contested & set(merged[0].counts)
    assert conflicts["segmentation"]["count"] == len(torn) > 0

    both = Proofreader(labels.at(child), model.versions[child])
    both.merge(59, 337)
    for uuid, state in model.versions.items():
        assert state.in_step()
        agree(labels.at(uuid), state, random.Random(3), bodies=2)
