"""Fixtures that many tests share: a store, an engine in this process, a server, a mount.

Decides which processes a test gets; how they are started and ended stands in ``live.py``.
Invariant: every test has a store of its own, and nothing that a test started is there when it has ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import live
import pytest

from dvidfs.engine import Engine, Store, open_engine


@pytest.fixture(scope="session", autouse=True)
def _no_dead_mounts() -> Iterator[None]:
    """Mounts that killed runs left behind hang whatever looks at them: take them away before and after."""
    live.clean_dead_mounts()
    yield
    live.clean_dead_mounts()


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """Where a fresh, empty store has just been made; nobody has it open."""
    path = tmp_path / "store"
    Store.create(path)
    return path


@pytest.fixture
def engine(store_path: Path) -> Iterator[Engine]:
    """A fresh store, open in this process."""
    with open_engine(store_path) as opened:
        yield opened


@pytest.fixture
def server(store_path: Path, tmp_path: Path) -> Iterator[live.Server]:
    """A `dvidfs serve` process of its own over a fresh store, ready; `get`, `post`, `delete` speak to it."""
    with live.Server(store_path, log=tmp_path / "server.log") as running:
        yield running


@pytest.fixture
def mounted(store_path: Path, tmp_path: Path) -> Iterator[live.Mount]:
    """A fresh store mounted at `path`, served over HTTP by the same process."""
    live.need_mounts()
    with live.Mount(store_path, log=tmp_path / "mount.log") as running:
        yield running
