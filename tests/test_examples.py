"""The demo, which runs every example, does what it says: on a real mount, with real data, leaving nothing behind."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import live
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "script" / "demo"
EXAMPLES = {path.name.split("-")[0]: path for path in (ROOT / "mount-examples").glob("[0-9]*-*")}

pytestmark = pytest.mark.skipif(bool(live.why_no_mounts()), reason=live.why_no_mounts())


@dataclass(frozen=True)
class Told:
    """What `script/demo --keep` printed, and the folder that it left."""

    text: str
    folder: Path

    def of(self, number: str) -> str:
        """What one example printed: all under its heading, which is its own first line."""
        heading = re.split(r'# |"""', EXAMPLES[number].read_text().splitlines()[1])[1]
        sections = re.split(r"\n\n(.+)\n-+\n", self.text)
        return sections[sections.index(heading) + 1]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    scratch = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [DEMO, "--keep"],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = scratch.iterdir()
    return Told(done.stdout, folder)


def test_the_demo_makes_a_store_with_versions(told: Told):
    assert "$ dvidfs import" in told.text
    assert live.dvidfs("log", told.folder / "store", "--repo", "medulla").stdout.count("committed") == 4


def test_the_demo_ends_cleanly(told: Told):
    assert "$ dvidfs umount" in told.text
    assert not [point for point in live.mount_points() if point.startswith(str(told.folder))]
    live.dvidfs("check", told.folder / "store")


def test_the_demo_prints_plain_text_into_a_file(told: Told):
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", told.text)


def test_an_interrupted_demo_leaves_nothing(tmp_path: Path):
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [DEMO], env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=log, stderr=log, start_new_session=True
        ) as demo,
    ):
        live.wait_until(lambda: b"$ dvidfs repo" in (tmp_path / "log").read_bytes(), timeout=60, what="the first repo")
        os.killpg(demo.pid, signal.SIGTERM)
    assert demo.returncode != 0
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_look(told: Told):
    shown = told.of("1")
    assert all(name in shown for name in ("medulla", "master", "proofread", "raw", "notes", "grayscale", "volume.npy"))


def test_keys(told: Told):
    assert "traced by hand, 3 gaps left" in told.of("2")
    assert "traced by hand, complete" in told.of("2")


def test_diff(told: Told):
    lines = told.of("3").splitlines()
    assert "< traced by hand, 3 gaps left" in lines
    assert "> traced by hand, complete" in lines
    assert any(line.startswith("Only in") and line.endswith("L1-new") for line in lines)


def test_window(told: Told):
    assert "(64, 250, 250) of uint8, 4,000,128 bytes" in told.of("4")


def test_slice(told: Told):
    assert told.of("5").count("the same pixels as iso.") == 4
    assert "NOT" not in told.of("5")
    assert "250 x 64" in told.of("5")


def test_http(told: Told):
    assert "same bytes" in told.of("6")
    assert '["Mi1-home","Tm3-home"]' in told.of("6")
    assert '"TypeName":"uint8blk"' in told.of("6")


def test_write(told: Told):
    assert "second look needed\nby whom?\n" in told.of("7")
    assert told.of("7").rstrip().endswith("refused, as it should be")


def test_archive(told: Told):
    sums = [line for line in told.of("8").splitlines() if line.endswith(" -")]
    assert len(sums) == 2
    assert sums[0] == sums[1]


def test_every_example_is_tested():
    assert sorted(map(int, EXAMPLES)) == list(range(1, 12))


def test_tools(told: Told):
    shown = told.of("9")
    assert shown.count("the same voxels") == 5
    assert "OTHER VOXELS" not in shown
    assert "scales/2 is (16, 63, 63)" in shown
    assert "first voxel at" in shown


def test_the_segmentation_is_imported_and_put_together(told: Told):
    assert "imported supervoxels.nii.gz" in told.text
    assert "792 supervoxels are in the bodies of" in told.text
    done = live.dvidfs("mappings", told.folder / "store", "medulla:raw", "segmentation")
    assert len(done.stdout.splitlines()) == 1 + 752


def test_mask(told: Told):
    assert "body 84: 273,213 voxels of 64 supervoxels, in 8 blocks" in told.of("10")
    done = subprocess.run(
        [sys.executable, "-m", "dvidfs", "key", "get", told.folder / "store", "medulla:master", "notes", "body-84.png"],
        capture_output=True,
        check=True,
    )
    with Image.open(io.BytesIO(done.stdout)) as picture:
        colours = np.asarray(picture).astype(int)
    red = colours[..., 0] > colours[..., 1]
    assert np.ptp(colours[~red], axis=1).max() == 0
    assert 0.02 < red.mean() < 0.5


def test_proofread(told: Told):
    shown = told.of("11")
    assert re.search(r"^40\n(.*\n)*39\n", shown, re.MULTILINE)
    assert f'"voxels": {273213 + 180187},' in shown
    assert "Only in tags/raw/segmentation/bodies: 164" in shown
    differing = re.findall(r"^Files tags/raw/segmentation/bodies/(\d+)/(\S+) and .* differ$", shown, re.MULTILINE)
    assert {body for body, _ in differing} == {"84"}
    assert {"info.json", "mask.nii", "sparsevol.rles", "supervoxels.csv"} <= {name for _, name in differing}
    assert shown.rstrip().endswith("84 changed")
