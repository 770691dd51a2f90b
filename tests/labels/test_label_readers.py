"""Many write and read at once: whoever looks sees a whole state.

One process serves, this one reads the same store beside it: each of its snapshots must be sound in itself (voxels, index, totals,
membership and mapping say the same), and so must each single answer over HTTP.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import wire
from agreement import agree
from client import Connection, Labels, Refused
from labelserver import LabelServer
from model import State
from test_bodies import FRAME, state_of

from dvidfs.engine import Engine, ReadView, open_engine

TOTAL = int(np.prod(FRAME.shape))
STATES = 20
"""So many different ones are looked at while others write."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[LabelServer, Engine, Labels]]:
    """Four blocks without background."""
    with LabelServer(tmp_path, "--durability", "periodic") as server, open_engine(tmp_path / "store") as engine:
        connection = Connection(server.port)
        uuid = connection.new_repo()
        connection.new_instance(uuid, "data", BlockSize="16,16,16", MaxDownresLevel="2")
        labels = Labels(connection, uuid, "data")
        dice = np.random.default_rng(1)
        labels.post_blocks({place: boulders(dice, range(1, 20)) for place in FRAME.places()}, downres=True)
        yield server, engine, labels
        connection.close()


def boulders(dice: np.random.Generator, labels: range) -> wire.Voxels:
    return np.kron(dice.choice(labels, (4, 4, 4)), np.ones((4, 4, 4), int)).astype(np.uint64)


class People:
    """Threads that go on until they are told to stop; what they may be refused is what others were faster with."""

    def __init__(self, port: int, labels: Labels) -> None:
        self.port, self.at = port, (labels.uuid, labels.name)
        self.stop = threading.Event()
        self.errors: list[BaseException] = []
        self.done: dict[str, int] = {}
        self.refused: set[str] = set()
        self.threads: list[threading.Thread] = []

    def begin(self, work: Callable[[Labels, random.Random], None], seed: int) -> None:
        self.threads.append(threading.Thread(target=self._run, args=(work, seed), daemon=True))
        self.threads[-1].start()

    def _run(self, work: Callable[[Labels, random.Random], None], seed: int) -> None:
        connection, chance = Connection(self.port), random.Random(seed)
        try:
            while not self.stop.is_set():
                try:
                    work(Labels(connection, *self.at), chance)
                    self.done[work.__name__] = self.done.get(work.__name__, 0) + 1
                except Refused as error:
                    assert error.status in (400, 404), error
                    self.refused.add(error.text)
        except BaseException as error:
            self.errors.append(error)
        finally:
            connection.close()

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()
        for error in self.errors:
            raise error


def paint(labels: Labels, chance: random.Random) -> None:
    """New supervoxels in one block or in all."""
    first, last = labels.reserve(5)
    dice, places = np.random.default_rng(first), FRAME.places()
    made = {place: boulders(dice, range(first, last + 1)) for place in chance.sample(places, chance.choice([1, 4]))}
    labels.post_blocks(made, downres=chance.random() < 0.8)


def merge(labels: Labels, chance: random.Random) -> None:
    known = labels.listlabels()
    labels.merge(*(lambda target, *others: (target, others))(*chance.sample(known, min(4, len(known)))))


def cleave(labels: Labels, chance: random.Random) -> None:
    body = chance.choice(labels.listlabels())
    held = sorted(labels.supervoxels(body))
    if len(held) > 1:
        labels.cleave(body, chance.sample(held, len(held) // 2))


def split(labels: Labels, chance: random.Random) -> None:
    body = chance.choice(labels.listlabels())
    supervoxel = chance.choice(sorted(labels.supervoxels(body)))
    points = labels.sparsevol(supervoxel, supervoxels=True)
    labels.split_supervoxel(supervoxel, wire.runs_of_points(points[: len(points) // 2]))


def renumber(labels: Labels, chance: random.Random) -> None:
    new, _ = labels.reserve(1)
    labels.renumber([new, chance.choice(labels.listlabels())])


def look(labels: Labels, chance: random.Random) -> None:
    """Single answers, each of one state."""
    sizes = labels.listlabels_sizes()
    assert sum(sizes.values()) == TOTAL
    indices = labels.indices(list(sizes))
    held = [s for index in indices for s in {s for counts in index.blocks.values() for s in counts}]
    assert len(held) == len(set(held)), "a supervoxel is in two bodies"
    voxels = labels.raw(FRAME.start, FRAME.shape)
    assert (voxels > 0).all()
    scaled = labels.raw(*FRAME.scaled(1), scale=1)
    assert (scaled > 0).all()
    for index in indices[:3]:
        if index.blocks:
            assert len(labels.sparsevol(index.label)) > 0


def snapshot(engine: Engine, labels: Labels) -> tuple[State, tuple[int, int]]:
    """A version as it is stored now, which must be sound, and what tells it from others."""
    with engine.read() as txn:
        node = txn.graph.version(labels.uuid)
        view = ReadView(txn, node, txn.graph.instance(node, "data"))
        return state_of(view), view.state()


def test_every_reader_sees_whole_states(served: tuple[LabelServer, Engine, Labels]):
    server, engine, labels = served
    people, works = People(server.port, labels), (paint, merge, merge, cleave, split, renumber, look, look)
    for seed, work in enumerate(works):
        people.begin(work, seed)
    seen, deadline = set[tuple[int, int]](), time.monotonic() + 60
    try:
        while not people.errors and (len(seen) < STATES or len(people.done) < len(set(works))):
            assert time.monotonic() < deadline, (people.done, people.refused)
            state, at = snapshot(engine, labels)
            assert state.in_step()
            assert sum(state.size(body) for body in state.bodies()) == TOTAL
            seen.add(at)
    finally:
        people.end()
    state, _ = snapshot(engine, labels)
    agree_but_for_scales(labels, state, random.Random(1))


def agree_but_for_scales(labels: Labels, state: State, chance: random.Random) -> None:
    """Blocks that were posted without ``downres`` left the scales as they were: those are posted again first."""
    blocks = state.blocks(FRAME.places())
    labels.post_blocks(blocks, downres=True)
    agree(labels, state, chance, bodies=4)
