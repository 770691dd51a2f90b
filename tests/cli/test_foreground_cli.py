"""The command foreground: a region out of a volume, in one line each way."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import live
import numpy as np
import pytest

from dvidfs.cli.names import find_version
from dvidfs.engine import ReadView, WriteView, open_engine
from dvidfs.types.imageblk import requests


def run(line: str, store: Path) -> subprocess.CompletedProcess[str]:
    words = [str(store) if word == "STORE" else word for word in line.split()]
    return subprocess.run([*live.DVIDFS, *words], capture_output=True, text=True, check=False)


def done(line: str, store: Path) -> str:
    found = run(line, store)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose repo `a` has `gray`, two blocks along x: one of 255, one of noise; and `wide`."""
    path = tmp_path_factory.mktemp("foreground") / "store"
    done("init STORE", path)
    done("repo new STORE --alias a", path)
    done("instance new STORE a uint8blk gray --set BlockSize=8,8,8", path)
    done("instance new STORE a uint16blk wide", path)
    voxels = np.full((8, 8, 16), 255, np.uint8)
    voxels[:, :, 8:] = np.random.default_rng(1).integers(1, 255, (8, 8, 8))
    with open_engine(path, durability="periodic") as engine:
        with engine.read() as txn:
            node = find_version(txn.graph, "a")
            view = ReadView(txn, node, txn.graph.instance(node, "gray"))
            values = requests.prepare_raw(view, "0_1_2", "16_8_8", "0_0_0", voxels.tobytes(), "", "", False)
        engine.write(
            lambda txn: requests.post_raw(
                WriteView(txn, txn.graph.version(node.uuid), txn.graph.instance(node, "gray")), **values
            )
        )
    return path


def test_a_region_is_made_and_replaced(store: Path):
    assert done("foreground STORE a gray tissue", store) == '"tissue" has 2 of the blocks of "gray"\n'
    found = json.loads(done("foreground STORE a gray tissue --background 0,255 --json", store))
    assert found == {"roi": "tissue", "spans": 1, "blocks": 1}
    assert "tissue" in done("instance list STORE a", store)


@pytest.mark.parametrize(("line", "code", "says"), [
    ("foreground STORE a gray t --background 0,256", 2, '"256" is no byte'),
    ("foreground STORE a gray t --background x", 2, '"x" is no byte'),
    ("foreground STORE a wide t", 2, "of type uint16blk: a foreground is found in a uint8blk"),
    ("foreground STORE a none t", 1, 'no instance "none"'),
    ("foreground STORE a gray wide", 2, '"wide" is of type uint16blk'),
])  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(store: Path, line: str, code: int, says: str):
    found = run(line, store)
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (code, "", 1), found
    assert says in found.stderr
