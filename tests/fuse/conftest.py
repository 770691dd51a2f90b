"""Mounts of stores with known versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import live
import mounting
import pytest
from worlds import MakeStage, Stage, make_world

from dvidfs.engine import open_engine


@pytest.fixture
def make_stage(tmp_path: Path) -> Iterator[MakeStage]:
    live.need_mounts()
    ends: list[Callable[[], object]] = []

    def make(**options: object) -> Stage:
        world = make_world(tmp_path / "store")
        engine = open_engine(world.store, durability="periodic")
        opened = engine.__enter__()
        ends.append(lambda: engine.__exit__(None, None, None))
        mount = mounting.Mounted(world.store, **options)
        ends.append(mount.kill)
        return Stage(world, mount, opened)

    try:
        yield make
    finally:
        for end in reversed(ends):
            end()


@pytest.fixture
def stage(make_stage: MakeStage) -> Stage:
    return make_stage()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One mount for all tests of a module that leave it as it was, or use names of their own."""
    live.need_mounts()
    world = make_world(tmp_path_factory.mktemp("shared") / "store")
    with open_engine(world.store, durability="periodic") as engine, mounting.Mounted(world.store) as mount:
        yield Stage(world, mount, engine)
