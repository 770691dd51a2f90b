"""Kill -9 amid a stream of mutations: what was acknowledged is there, the one under way is there whole or not at all.

Each round is a server process of its own over the same store, killed at a random moment while one client edits. After
each the store is opened again and compared with the model: voxels, scales, mapping, indices, sparse volumes.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import os
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
from model import Frame, State
from proofreaders import texture

from dvidfs.engine import open_engine
from dvidfs.engine.check import check_store
from dvidfs.types.builtin import registry

FRAME = Frame((16, 16, 16), (2, 2, 2))
ROUNDS = 4

Edit = tuple[Callable[[Labels], object], Callable[[State, object], None]]
"""What a client asks, and what it does to the model, given the answer."""


def edits(state: State, chance: random.Random) -> Edit:
    """One random edit of a version that is known."""
    bodies, fresh = state.bodies(), max(state.labels_in_use()) + chance.randint(1, 3)
    body = chance.choice(bodies)
    supervoxels = sorted(state.supervoxels(body))
    kind = chance.choice(["merge", "cleave", "renumber", "split", "paint"])
    if kind == "merge" and len(bodies) > 4:
        others = [b for b in chance.sample(bodies, 3) if b != body]
        return lambda labels: labels.merge(body, others), lambda state, _: state.merge(body, others)
    if kind == "cleave" and len(supervoxels) > 1:
        part = supervoxels[: len(supervoxels) // 2]
        return lambda labels: labels.cleave(body, part)[0], lambda state, label: state.cleave(part, label)
    if kind == "renumber":
        return lambda labels: labels.renumber([fresh, body]), lambda state, _: state.renumber(fresh, body)
    mine = state.voxels == supervoxels[0]
    if kind == "split" and mine.sum() > 1:
        mask = mine & (np.cumsum(mine).reshape(mine.shape) <= mine.sum() // 2)
        runs = wire.runs_of_points(wire.points_of_mask(mask, FRAME.start))
        return (
            lambda labels: labels.split_supervoxel(supervoxels[0], runs, split=fresh, remain=fresh + 1),
            lambda state, _: state.split_supervoxel(supervoxels[0], mask, fresh, fresh + 1),
        )
    known = [s for s in state.counts if state.body_of(s)]
    voxels = texture(chance, [0, fresh, fresh + 1, fresh + 2, *chance.sample(known, min(3, len(known)))], (16, 32, 32))
    z = chance.randrange(2)
    blocks = {(x, y, z): voxels[:, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16] for x in range(2) for y in range(2)}
    return lambda labels: labels.post_raw((0, 0, 16 * z), voxels, mutate=True), lambda state, _: state.write(blocks)


class Client(threading.Thread):
    """Edits until the server is gone. ``state``: as acknowledged; ``trying``: the edit that was under way."""

    def __init__(self, port: int, labels: tuple[str, str], state: State, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self.connection = Connection(port)
        self.labels = Labels(self.connection, *labels)
        self.state, self.chance = state, chance
        self.trying: Edit | None = None
        self.done = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while True:
                self.trying = edits(self.state, self.chance)
                answer = self.trying[0](self.labels)
                self.trying[1](self.state, answer)
                self.done += 1
        except (OSError, http.client.HTTPException):
            self.connection.close()
        except Exception as e:
            self.error = e


def may_be(client: Client, found: Labels) -> Iterator[State]:
    """What the store may hold now: what was acknowledged, and that with the edit that was under way."""
    yield client.state
    if client.trying is None:
        return
    state = copy.deepcopy(client.state)
    new = sorted(set(found.existing_labels()) - set(state.bodies()))
    client.trying[1](state, new[0] if new else 0)  # a cleave's label was not told: it is the one that is new
    yield state


@pytest.mark.parametrize("durability", ["durable", "periodic"])
def test_mutations_survive_kill_9_whole(tmp_path: Path, durability: str):
    seed = int.from_bytes(os.urandom(4), "little")
    chance = random.Random(seed)
    state, done = State.empty(FRAME), 0
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(LabelServer(tmp_path, "--durability", durability))
        at = begin(Connection(server.port), state, chance)
        for number in range(ROUNDS):
            print("seed", seed, "round", number)
            client = Client(server.port, at, state, chance)
            client.start()
            time.sleep(chance.uniform(0.05, 0.5))  # the random moment, not a wait for anything
            server.kill()
            client.join(30)
            assert not client.is_alive()
            assert client.error is None
            done += client.done
            with open_engine(tmp_path / "store") as engine:
                report = check_store(engine, deep=True, verifier=lambda name: registry()[name].verify)
                assert report.problems == []
            server = stack.enter_context(LabelServer(tmp_path, "--durability", durability))
            state = found_again(Connection(server.port), client, at)
    assert done > ROUNDS


def begin(connection: Connection, state: State, chance: random.Random) -> tuple[str, str]:
    uuid = connection.new_repo()
    connection.new_instance(uuid, "labels", BlockSize="16,16,16", MaxDownresLevel="2")
    blocks = {place: texture(chance, list(range(1, 12)), FRAME.block_shape) for place in FRAME.places()}
    Labels(connection, uuid, "labels").post_blocks(blocks, downres=True)
    state.write(blocks)
    connection.close()
    return uuid, "labels"


def found_again(connection: Connection, client: Client, at: tuple[str, str]) -> State:
    """The one of the states that may be which the server agrees with; AssertionError if there is none."""
    labels, errors = Labels(connection, *at), list[Exception]()
    with contextlib.closing(connection):
        for state in may_be(client, labels):
            try:
                agree(labels, state, random.Random(0), bodies=6)
            except (AssertionError, Refused) as e:
                errors.append(e)
            else:
                return state
    raise AssertionError(f"neither without nor with the edit under way: {errors}")
