"""ImageJ opens files of a mounted version and tells the statistics of every slice; they are compared with numpy's.

Decides which files of which voxel types ImageJ opens, and how: its own macro language, run by the unchanged program on a virtual screen.
ImageJ knows pixels of 8 and 16 bits, of 32-bit floating-point numbers, and RGB without alpha; 64-bit numbers not at all.
"""

# ruff: noqa: T201 (what a program prints is its work)

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import live
import numpy as np
from numpy.typing import NDArray
from readable import FIRST, LAST, SAMPLES, VOXEL_SIZE, Sample

COMMAND = ("xvfb-run", "-a", "java", "-cp", "/usr/share/java/ij.jar", "ij.ImageJ", "-batch")
MICROMETERS = [*(f"{size / 1000:g}" for size in VOXEL_SIZE), "µm"]
PATIENCE = 30
REPORT = """
getVoxelSize(w, h, d, unit);
print("image " + getWidth() + " " + getHeight() + " " + nSlices + " " + bitDepth() + " " + w + " " + h + " " + d + " " + unit);
for (n = 1; n <= nSlices; n++) {
    setSlice(n);
    getStatistics(area, mean, low, high);
    print("slice " + d2s(mean, 9) + " " + d2s(low, 9) + " " + d2s(high, 9));
}
close();
"""
RAW = 'run("Raw...", "open={path} image=[{pixel}] width={x} height={y} offset=0 number={z} gap=0 little-endian");'
PIXELS = {"uint8": "8-bit", "uint16": "16-bit Unsigned", "uint32": "32-bit Unsigned", "float32": "32-bit Real"}
SEQUENCE = 'run("Image Sequence...", "open=[{path}] file=.{suffix} sort");'


@dataclass(frozen=True)
class Job:
    """How a view of volumes is opened. ``sized``: the file tells the size of voxels. ``pages``: the axis across the slices."""

    view: str
    macro: str
    types: tuple[str, ...]
    sized: bool = False
    pages: int = 0


JOBS = (
    Job("volume.tif", 'open("{path}");', ("uint8", "uint16", "float32"), sized=True),
    Job("volume.raw", RAW, ("uint8", "uint16", "uint32", "float32")),
    *(
        Job(f"slices/{plane}/*.{suffix}", SEQUENCE.replace("{suffix}", suffix), types, pages=axis)
        for axis, plane in enumerate(("xy", "xz", "yz"))
        for suffix, types in (("png", ("uint8", "uint16")), ("tif", ("float32",)))
    ),
)


def commands(job: Job, sample: Sample, folder: Path) -> str:
    """The macro that opens one view of a volume and reports on it."""
    x, y, z = (b - a + 1 for a, b in zip(FIRST, LAST, strict=True))
    path = folder / (job.view.rpartition("/")[0] + "/" if "*" in job.view else job.view)
    pixel = PIXELS.get(sample.name, "")
    return job.macro.format(path=f"{path}/" if path.is_dir() else path, x=x, y=y, z=z, pixel=pixel) + REPORT


def problems(said: list[list[str]], job: Job, voxels: NDArray) -> list[str]:
    """What ImageJ reports of an image that is not so. ``said``: its lines in words."""
    stack = np.moveaxis(voxels, job.pages, 0).astype(np.float64)
    if "*" in job.view:  # ImageJ sorts names as texts: -00001 comes before -00002
        first = FIRST[2 - job.pages]
        stack = stack[np.argsort([f"{first + n:06d}" for n in range(len(stack))])]
    if not said:
        return ["it was not opened"]
    width, height, pages = map(int, said[0][1:4])
    if (pages, height, width) != stack.shape:
        return [f"it is {pages} x {height} x {width} and should be {stack.shape}"]
    found = np.array([[float(word) for word in line[1:]] for line in said[1:]])
    wanted = np.array([[page.mean(), page.min(), page.max()] for page in stack])
    out = []
    if not np.allclose(found, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max()):
        out.append(f"statistics differ in {int((~np.isclose(found, wanted, rtol=1e-6)).any(axis=1).sum())} slices")
    if job.sized and said[0][5:] != MICROMETERS:
        out.append(f"the voxel size is {said[0][5:]}")
    return out


def run(macro: Path) -> str | None:
    """What a macro prints; None if ImageJ does not end: it shows a message and waits, or (seldom) hangs when it should exit."""
    # A session of its own, so that ImageJ is ended with its screen.
    process = subprocess.Popen(
        [*COMMAND, macro], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        return process.communicate(timeout=PATIENCE)[0]
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def open_it(job: Job, sample: Sample, folder: Path, macro: Path) -> list[str]:
    """Let ImageJ open one view of a volume, twice if need be; what is wrong with it."""
    macro.write_text(commands(job, sample, folder))
    text = next((said for said in (run(macro) for _ in range(2)) if said is not None), None)
    if text is None:
        return [f"no end after {PATIENCE} s, twice: it shows a message"]
    lines = [line.split() for line in text.splitlines()]
    return problems([words for words in lines if words and words[0] in ("image", "slice")], job, sample.voxels())


def look_at(folder: Path) -> list[bool]:
    """Every view of every voxel type that ImageJ knows: does it show what is there?"""
    live.dvidfs("init", folder / "samples")
    agree = []
    with live.Mount(folder / "samples", log=folder / "mount.log") as mount:
        uuid = mount.post("/api/repos", {"alias": "samples", "description": ""}).ok().json()["root"]
        for sample in SAMPLES.values():
            sample.store(mount, uuid)
        for job in JOBS:
            for sample in map(SAMPLES.__getitem__, job.types):
                wrong = open_it(job, sample, mount.path / "samples" / uuid / sample.name, folder / "look.ijm")
                agree.append(not wrong)
                print(
                    f"{'FAIL' if wrong else 'ok':5}ImageJ, {job.view} of {sample.name}: {'; '.join(wrong) or 'agrees'}"
                )
    return agree
