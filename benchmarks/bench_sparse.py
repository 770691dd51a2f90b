#!/usr/bin/env python3
"""A volume of 20 GB with little in it: browsed, stat'ed, looked into and exported with bounded memory.

bench_sparse.py [--size 2800,2800,2600] [--clusters 12] [--windows 60] [--export-slices 0] [--json FILE]

Writes a few clusters of blocks, sets the extents, mounts the version and works through it. Prints what each step took, and the
memory of the mount after it; the last line tells whether it stayed below the limit. 0 export slices are all.
Needs /dev/fuse; everything lies in a temporary folder and is taken away at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import live  # noqa: E402  (lies with the tests, which start mounts in the same way)

LIMIT_MB = 400
SIDE = 128
"""Voxels along each side of what is written at once."""
Point = tuple[int, int, int]


def memory_mb(pid: int) -> tuple[float, float]:
    """Memory of a process now: all of it, and without pages of files (the store's map, which the kernel takes back)."""
    words = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    total, files = (int(words[name].split()[0]) / 1024 for name in ("VmRSS", "RssFile"))
    return total, total - files


class Report:
    """Steps, what they took, and the mount's memory after each."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float | str]] = []

    def step(self, name: str, action: Callable[[], object], pid: int) -> None:
        began = time.perf_counter()
        said = action()
        took = time.perf_counter() - began
        total, own = memory_mb(pid)
        self.rows.append({"step": name, "s": took, "resident MB": total, "own MB": own, "said": str(said or "")})
        print(f"{name:44}{took:9.2f} s{total:8.0f} MB resident{own:8.0f} MB without files  {said or ''}", flush=True)

    @property
    def most(self) -> float:
        return max(float(row["resident MB"]) for row in self.rows)


def make_volume(mount: live.Mount, size: Point, clusters: int) -> tuple[str, list[Point]]:
    """A committed version with clusters of voxels at random places, and extents around all; where they are."""
    uuid = mount.post("/api/repos", {"alias": "sparse", "description": ""}).ok().json()["root"]
    settings = {"typename": "uint8blk", "dataname": "em", "BlockSize": "64,64,64", "VoxelSize": "8,8,8"}
    mount.post(f"/api/repo/{uuid}/instance", settings).ok()
    rng = np.random.default_rng(5)
    node, corners = f"/api/node/{uuid}/em", []
    for _ in range(clusters):
        x, y, z = (int(rng.integers(0, (n - SIDE) // 64)) * 64 for n in size)
        corners.append((x, y, z))
        voxels = rng.integers(1, 256, (SIDE, SIDE, SIDE), np.uint8)
        mount.post(f"{node}/raw/0_1_2/{SIDE}_{SIDE}_{SIDE}/{x}_{y}_{z}", voxels.tobytes()).ok()
    last = [n - 1 for n in size]
    mount.post(f"{node}/extents", {"MinPoint": [0, 0, 0], "MaxPoint": last}).ok()
    mount.post(f"/api/node/{uuid}/commit", {"note": "written"}).ok()
    return uuid, corners


def listed(folder: Path) -> str:
    done = subprocess.run(["ls", "-lR", folder], capture_output=True, check=True, env={**os.environ, "LC_ALL": "C"})
    return f"{done.stdout.count(bytes([10]))} lines"


def stated(folder: Path) -> str:
    sizes = [entry.stat().st_size for plane in ("xy", "xz", "yz") for entry in os.scandir(folder / "slices" / plane)]
    return f"{len(sizes)} slices, {sum(sizes) / 1e9:.1f} GB"


def windows(folder: Path, corners: list[Point], count: int) -> str:
    """Windows of 64x64x64 voxels, every second one where something is stored."""
    volume = np.load(folder / "volume.npy", mmap_mode="r")
    rng, filled = np.random.default_rng(9), 0
    for n in range(count):
        corner = corners[n % len(corners)] if n % 2 else [int(rng.integers(0, k - 64)) for k in volume.shape[::-1]]
        x, y, z = (slice(c, c + 64) for c in corner)
        filled += bool(np.array(volume[z, y, x]).any())
    assert filled >= count // 2
    return f"{count} windows"


def pictures(folder: Path, size: Point, each: int) -> str:
    """Whole slices of each plane, decoded."""
    for plane, depth in (("xy", size[2]), ("xz", size[1]), ("yz", size[0])):
        for n in np.linspace(0, depth - 1, each).astype(int):
            Image.open(folder / "slices" / plane / f"{n:06d}.png").load()
    return f"{3 * each} slices"


def resident_peak(pid: int) -> int:
    """KiB that a process has had resident at most; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def exported(store: Path, uuid: str, size: Point, slices: int, target: Path) -> str:
    x, y, z = size
    words = ["--box", f"0,0,0+{x},{y},{slices or z}", "--quiet"]
    command = [sys.executable, "-m", "dvidfs", "export", str(store), uuid, "em", str(target), *words]
    most = 0  # what wait4 tells counts this process too, from which it was forked
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        while running.poll() is None:
            most = max(most, resident_peak(running.pid))
            time.sleep(0.02)
    assert running.returncode == 0
    return f"{sum(1 for _ in target.iterdir())} slices, {most // 1024} MB resident at most in the exporting process"


def run(args: argparse.Namespace, folder: Path) -> Report:
    size: Point = tuple(map(int, args.size.split(",")))  # type: ignore[assignment]
    store, report = folder / "store", Report()
    live.dvidfs("init", store)
    with live.Mount(store, log=folder / "writing.log") as mount:
        uuid, corners = make_volume(mount, size, args.clusters)
    with live.Mount(store, log=folder / "mount.log") as mount:
        files, pid = mount.path / "sparse" / uuid / "em", mount.pid
        report.step("ready", lambda: f"{np.prod(size, dtype=float) / 1e9:.1f} GB", pid)
        report.step("ls -lR of the whole instance", lambda: listed(files), pid)
        report.step("ls -lR again", lambda: listed(files), pid)
        report.step("stat of all slices", lambda: stated(files), pid)
        report.step("windows of volume.npy through numpy", lambda: windows(files, corners, args.windows), pid)
        report.step("PNG slices through Pillow", lambda: pictures(files, size, 10), pid)
        report.step(
            "dvidfs export as slices", lambda: exported(store, uuid, size, args.export_slices, folder / "out"), pid
        )
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="2800,2800,2600")
    parser.add_argument("--clusters", type=int, default=12)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--export-slices", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    live.clean_dead_mounts()
    with tempfile.TemporaryDirectory(prefix="dvidfs-bench-") as name:
        report = run(args, Path(name))
    print(f"at most {report.most:.0f} MB resident: {'within' if report.most < LIMIT_MB else 'ABOVE'} {LIMIT_MB} MB")
    if args.json is not None:
        args.json.write_text(json.dumps(report.rows, indent=2) + "\n")
    return 0 if report.most < LIMIT_MB else 1


if __name__ == "__main__":
    raise SystemExit(main())
