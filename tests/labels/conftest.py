"""A server for labels, and a labels instance of its own for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("agreement", "client", "proofreaders", "wire")  # so that they tell what differs

from client import Connection, Labels  # noqa: E402
from labelserver import LabelServer  # noqa: E402


@pytest.fixture(scope="session")
def label_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelServer]:
    with LabelServer(tmp_path_factory.mktemp("labels"), "--durability", "periodic") as server:
        yield server


@pytest.fixture
def connection(label_server: LabelServer) -> Iterator[Connection]:
    kept = Connection(label_server.port)
    yield kept
    kept.close()


_NAMES = map("segmentation-{}".format, itertools.count())


@pytest.fixture
def labels(connection: Connection) -> Labels:
    """A fresh labelmap of blocks of 16, with two scales above, in a repo of its own."""
    uuid, name = connection.new_repo(), next(_NAMES)
    connection.new_instance(uuid, name, BlockSize="16,16,16", MaxDownresLevel="2")
    return Labels(connection, uuid, name)
