"""The examples and the demo do what they say, on a real mount with real data."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import live
import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "mount-examples").glob("[0-9]-*"))

pytestmark = pytest.mark.skipif(bool(live.why_no_mounts()), reason=live.why_no_mounts())


def run(*words: object) -> str:
    """What a script prints; it must succeed."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Stage:
    """The store of the examples, mounted and served."""

    mount: live.Mount
    making: str


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("examples")
    making = run(ROOT / "mount-examples" / "make-store.sh", folder / "store")
    with live.Mount(folder / "store", log=folder / "mount.log") as mount:
        yield Stage(mount, making)


def said(stage: Stage, number: int) -> str:
    (script,) = (path for path in EXAMPLES if path.name.startswith(f"{number}-"))
    return run(script, stage.mount.path, stage.mount.url)


def test_the_store_is_made_with_progress(stage: Stage):
    assert "$ dvidfs import" in stage.making


def test_look(stage: Stage):
    told = said(stage, 1)
    assert all(name in told for name in ("medulla", "master", "proofread", "raw", "notes", "grayscale", "volume.npy"))


def test_keys(stage: Stage):
    told = said(stage, 2)
    assert "traced by hand, 3 gaps left" in told
    assert "traced by hand, complete" in told


def test_diff(stage: Stage):
    lines = said(stage, 3).splitlines()
    assert "< traced by hand, 3 gaps left" in lines
    assert "> traced by hand, complete" in lines
    assert any(line.startswith("Only in") and line.endswith("L1-new") for line in lines)


def test_window(stage: Stage):
    assert "(64, 250, 250) of uint8" in said(stage, 4)


def test_slice(stage: Stage):
    told = said(stage, 5)
    assert told.count("the same pixels as iso.") == 4
    assert "NOT" not in told
    assert "250 x 64" in told


def test_http(stage: Stage):
    told = said(stage, 6)
    assert "same bytes" in told
    assert '"Mi1-home"' in told
    assert "uint8blk" in told


def test_write(stage: Stage):
    told = said(stage, 7)
    assert "second look needed\nby whom?\n" in told
    assert told.rstrip().endswith("refused, as it should be")
    assert stage.mount.get("/api/repos/info").status == 200


def test_archive(stage: Stage):
    sums = [line for line in said(stage, 8).splitlines() if line.endswith(" -")]
    assert len(sums) == 2
    assert sums[0] == sums[1]


def test_every_example_is_tested():
    assert [path.name[0] for path in EXAMPLES] == list("12345678")


def test_the_demo_runs_and_leaves_nothing(tmp_path: Path):
    before = set(live.mount_points())
    done = subprocess.run(
        [ROOT / "script" / "demo"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout
    assert all(
        f"$ {word}" in done.stdout for word in ("dvidfs import", "ls -l", "cat", "diff -r", "curl", "dvidfs umount")
    )
    assert set(live.mount_points()) <= before
    assert list(tmp_path.iterdir()) == []
