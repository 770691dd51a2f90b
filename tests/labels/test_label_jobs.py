"""Scales of labels are right at every moment, however far the job that stores them has come, and whatever becomes of its process."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from client import Connection, Labels
from labelserver import LabelServer
from live import wait_until
from model import Frame, State
from proofreaders import texture

from dvidfs.engine import ReadView, open_engine
from dvidfs.engine.check import check_store
from dvidfs.engine.keys import Family, after
from dvidfs.types.builtin import registry

FRAME = Frame((16, 16, 16), (4, 4, 3), (-3, 0, 0))
SCALES = (1, 2, 3)


class Served:
    """A server that can be killed and begun again, and the labels that it serves."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.begin()
        connection = Connection(self.server.port)
        self.uuid = connection.new_repo()
        connection.new_instance(self.uuid, "labels", BlockSize="16,16,16", MaxDownresLevel=str(SCALES[-1]))
        connection.close()
        self.state = State.empty(FRAME)

    def begin(self) -> None:
        self.server = self.stack.enter_context(LabelServer(self.folder))
        self.connection = self.stack.enter_context(contextlib.closing(Connection(self.server.port)))

    @property
    def labels(self) -> Labels:
        return Labels(self.connection, self.uuid)

    def write(self, chance: random.Random, count: int) -> None:
        places = chance.sample(FRAME.places(), count)
        top = max(self.state.labels_in_use(), default=0)
        blocks = {p: texture(chance, [0, *range(top + 1, top + 6)], FRAME.block_shape) for p in places}
        self.labels.post_blocks(blocks, downres=True)
        self.state.write(blocks)

    def same(self) -> None:
        for scale in SCALES:
            start, shape = padded(scale)
            wanted = np.zeros(shape, np.uint64)
            inner, (z, y, x) = FRAME.scaled(scale)
            low = [n - first for n, first in zip(inner, start, strict=True)]
            wanted[low[2] : low[2] + z, low[1] : low[1] + y, low[0] : low[0] + x] = self.state.scale(scale)
            np.testing.assert_array_equal(self.labels.raw(start, shape, supervoxels=True, scale=scale), wanted)

    def pending(self) -> bool:
        return bool(self.labels.json("pyramid")["pending"])

    def stored(self) -> set[bytes]:
        """The keys of all blocks above scale 0 that are stored, not only marked; this server must not run."""
        with open_engine(self.folder / "store") as engine, engine.read() as txn:
            node = txn.graph.version(self.uuid)
            view = ReadView(txn, node, txn.graph.instance(node, "labels"))
            found = view.scan(Family.BLOCK, b"\1", after(bytes([SCALES[-1]])))
            return {step.enc for step in found if len(view.load(step.entry))}


def padded(scale: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """First voxel and shape of a box at a scale that has a margin around what is modelled."""
    (x, y, z), (nz, ny, nx) = FRAME.scaled(scale)
    return (x - 4, y - 4, z - 4), (nz + 8, ny + 8, nx + 8)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with contextlib.ExitStack() as stack:
        yield Served(tmp_path, stack)


def test_scales_while_they_are_made_and_after_a_kill(served: Served):
    chance = random.Random(5)
    for number in range(2):
        served.write(chance, 30)
        served.same()
        served.write(chance, chance.choice([1, 20]))
        time.sleep(chance.choice([0, 0.01, 0.05, 0.2]))  # the random moment, not a wait for anything
        served.server.kill()
        served.begin()
        if number:
            served.write(chance, 10)
        served.same()
    wait_until(lambda: not served.pending(), 60, "the end of the job")
    served.same()
    served.server.stop()
    with open_engine(served.folder / "store") as engine:
        report = check_store(engine, deep=True, verifier=lambda name: registry()[name].verify)
        assert report.problems == []


def filled(state: State) -> list[tuple[tuple[int, int, int], np.ndarray]]:
    blocks = {place: state.voxels[FRAME.window(place)] for place in FRAME.places()}
    return [(place, block) for place, block in blocks.items() if block.any()]


def test_a_job_that_was_killed_is_taken_up_again_without_a_write(served: Served):
    served.write(random.Random(1), len(FRAME.places()))
    served.server.kill()
    before = served.stored()
    served.begin()
    wait_until(lambda: not served.pending(), 60, "the end of the job")
    served.same()
    served.server.stop()
    after_it = served.stored()
    wanted = {(scale, *(n >> scale for n in place)) for place, _ in filled(served.state) for scale in SCALES}
    assert len(after_it) == len(wanted)
    assert before <= after_it


def test_scales_of_a_child_and_its_parent_at_once(served: Served):
    chance = random.Random(9)
    served.write(chance, 30)
    root, before = served.uuid, served.state
    served.connection.commit(root)
    served.uuid, served.state = served.connection.child(root, "on"), served.state.child(root)
    served.write(chance, 20)
    served.same()
    child, now = served.uuid, served.state
    served.uuid, served.state = root, before
    served.same()
    served.server.kill()
    served.begin()
    served.same()
    served.uuid, served.state = child, now
    served.same()
    wait_until(lambda: not served.pending(), 60, "the end of the job")
    served.same()
