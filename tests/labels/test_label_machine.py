"""Random proofreading over branches, asked over HTTP, against the model: every answer after every step.

Decides which steps follow on each other; :mod:`proofreaders` takes them, :mod:`agreement` compares.
"""

from __future__ import annotations

import itertools
import random
import sys

import pytest
from agreement import agree, splits_agree
from client import Connection
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from proofreaders import FRAME, Proofreaders, Step

SEEDS = st.integers(0, 1 << 32)
MOST_VERSIONS = 7


class Proofreading(RuleBasedStateMachine):
    connection: Connection
    numbers = itertools.count()

    @initialize(seed=SEEDS)
    def begin(self, seed: int) -> None:
        self.step = 0
        chance = self.chance(seed)
        self.people = Proofreaders(self.connection, f"machine-{next(Proofreading.numbers)}")
        self.people.fill(chance, chance.sample(FRAME.places(), chance.randint(4, 8)))

    def chance(self, seed: int) -> random.Random:
        """Another one at each step, though seeds be the same."""
        self.step += 1
        return random.Random(f"{seed} {self.step}")

    def open(self) -> bool:
        return not self.people.state.committed

    def room(self) -> bool:
        return len(self.people.model.versions) + 3 <= MOST_VERSIONS

    def take(self, chance: random.Random, steps: list[Step]) -> None:
        step = chance.choice(steps)
        note(f"{step.__name__} at {self.people.here}")
        step(chance)

    def work(self, chance: random.Random) -> None:
        for _ in range(chance.randint(1, 4)):
            self.take(chance, self.people.edits())

    @precondition(open)
    @rule(seed=SEEDS)
    def edit(self, seed: int) -> None:
        self.work(self.chance(seed))

    @rule(seed=SEEDS)
    def refuse(self, seed: int) -> None:
        self.take(self.chance(seed), self.people.refusals())

    @precondition(room)
    @rule(seed=SEEDS)
    def next_version(self, seed: int) -> None:
        self.people.branch()
        self.work(self.chance(seed))

    @precondition(room)
    @rule(seed=SEEDS)
    def two_go_on_and_meet(self, seed: int) -> None:
        """Each works on a branch of their own; then their versions are merged, in either order."""
        before, both = self.people.here, []
        for _ in range(2):
            self.people.here = before
            self.people.branch()
            both.append(self.people.here)
            self.work(self.chance(seed))
            self.agrees()
        self.people.merge_versions(tuple(self.chance(seed).sample(both, 2)))

    @precondition(lambda self: len(self.people.model.versions) < MOST_VERSIONS)
    @rule(seed=SEEDS)
    def merge_any(self, seed: int) -> None:
        if pairs := self.people.apart():
            self.people.merge_versions(self.chance(seed).choice(pairs))

    @rule(seed=SEEDS)
    def go_elsewhere(self, seed: int) -> None:
        self.people.here = self.chance(seed).choice(list(self.people.model.versions))

    @invariant()
    def agrees(self) -> None:
        people = self.people
        assert people.state.in_step()
        agree(people.labels, people.state, self.chance(0), bodies=1)
        assert [done["Action"] for done in people.labels.mutations()] == people.state.log
        line, at = [], people.here
        while at:
            line.append((at, people.model.versions[at].splits))
            at = next(iter(people.model.versions[at].parents), "")
        splits_agree(people.labels, line)

    def teardown(self) -> None:
        if sys.exc_info()[0] is not None:
            return  # a rule has failed, and that is what shall be shown
        for uuid, state in self.people.model.versions.items():
            agree(self.people.labels.at(uuid), state, random.Random(0), bodies=1)


@pytest.mark.timeout(300)
def test_labels_are_what_the_model_says(connection: Connection):
    Proofreading.connection = connection
    run_state_machine_as_test(
        Proofreading,
        settings=settings(
            max_examples=10,
            stateful_step_count=8,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
