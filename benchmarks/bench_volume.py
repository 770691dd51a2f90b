#!/usr/bin/env python3
"""Speed of volume files in the mount, beside the same file on the local disk.

bench_volume.py [--side 1024] [--depth 1024] [--repeats 3] [--compressions lz4,gzip] [--json FILE]

The volume is made of the micrographs of mount-examples, mirrored until it is large enough. Prints a table; each figure is the best of
the repeats. *Cold*: a new mount, no page of the store or of the mount's file in memory. Needs /dev/fuse; everything
lies in a temporary folder and is taken away at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import live  # noqa: E402  (lies with the tests, which start mounts in the same way)

WINDOW = 64
READERS = 8
PIECE = 1 << 20
READ_PART = """
import os, sys
path, start, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
fd = os.open(path, os.O_RDONLY)
sys.stdin.readline()
while start < stop:
    start += len(os.pread(fd, min(1 << 20, stop - start), start))
"""
"""A reader of its own process: reads a range of a file when it is told to."""

Figures = dict[str, tuple[float, str]]


# -- the volume --------------------------------------------------------------------------------------------------


def micrographs(side: int, depth: int) -> NDArray[np.uint8]:
    """Voxels (depth, side, side): mirrored, so that nothing is seen at the seams."""
    files = sorted((ROOT / "mount-examples" / "data" / "grayscale").glob("*.png"))
    stack = np.stack([np.asarray(Image.open(path)) for path in files])
    forth_and_back = [np.r_[np.arange(n), np.arange(n)[::-1]] for n in stack.shape]
    z, y, x = (np.resize(axis, size) for axis, size in zip(forth_and_back, (depth, side, side), strict=True))
    return stack[:, :, x][:, y][z]


def make_store(folder: Path, npy: Path, compression: str) -> tuple[Path, str]:
    """A store with the volume, committed; its version."""
    store = folder / f"store-{compression}"
    live.dvidfs("init", store)
    with live.Server(store, log=folder / "server.log") as server:
        uuid = server.post("/api/repos", {"alias": "em", "description": ""}).ok().json()["root"]
        settings = {
            "typename": "uint8blk",
            "dataname": "grayscale",
            "Compression": compression,
            "BlockSize": "64,64,64",
        }
        server.post(f"/api/repo/{uuid}/instance", settings).ok()
    words = ("--repo", "em", "--instance", "grayscale", "--quiet")
    live.dvidfs("import", store, npy, *words, timeout=900)
    live.dvidfs("commit", store, uuid, "--note", "imported")
    return store, uuid


# -- reading -----------------------------------------------------------------------------------------------------


def drop_pages(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def read_through(path: Path) -> float:
    """MB/s of a sequential read."""
    buffer, size, began = bytearray(PIECE), 0, time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            size += count
    return size / (time.perf_counter() - began) / 1e6


def read_at_once(path: Path, readers: int, *, same: bool = False) -> float:
    """MB/s of several processes that each read a part of a file, or all of them the ``same`` first part, piece after piece."""
    size = path.stat().st_size
    cuts = [(size * n // readers, size * (n + 1) // readers) for n in range(readers)]
    parts = [cuts[0]] * readers if same else cuts
    words = [[sys.executable, "-c", READ_PART, path, str(start), str(stop)] for start, stop in parts]
    running = [subprocess.Popen(command, stdin=subprocess.PIPE) for command in words]
    time.sleep(1)  # until all have opened it

    def together() -> None:
        for process in running:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        for process in running:
            process.wait()

    took = timed(together)
    for process in running:
        assert process.stdin is not None
        process.stdin.close()
        assert process.returncode == 0
    return size / took / 1e6


def windows_of(path: Path, count: int) -> float:
    """MB/s of windows of 64x64x64 voxels at random places, through numpy.memmap."""
    volume = np.load(path, mmap_mode="r")
    rng = np.random.default_rng(3)
    corners = [[int(rng.integers(0, n - WINDOW)) for n in volume.shape] for _ in range(count)]

    def read() -> None:
        for corner in corners:
            np.array(volume[tuple(slice(c, c + WINDOW) for c in corner)])

    return count * WINDOW**3 / timed(read) / 1e6


def written_by(pid: int) -> int:
    """Bytes that a process has given away: by a mount, to the kernel."""
    return int(next(x for x in Path(f"/proc/{pid}/io").read_text().splitlines() if x.startswith("wchar")).split()[1])


def one_window(mount: live.Mount, path: Path, plane: str) -> tuple[float, float]:
    """Milliseconds of a first window of 64x64 voxels, and MB that the mount made for it; by `pread`, row by row."""
    volume = np.load(path, mmap_mode="r")
    depth, height, width = volume.shape
    start = volume.offset
    z, y, x = depth // 2 + 7, height // 2 + 11, width // 2 + 5
    rows = [(z, y + n) for n in range(WINDOW)] if plane == "xy" else [(z + n, y) for n in range(WINDOW)]
    del volume
    drop_pages(path)
    before, began = written_by(mount.pid), time.perf_counter()
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for down, row in rows:
            os.pread(file.fileno(), WINDOW, start + (down * height + row) * width + x)
    took = time.perf_counter() - began
    return took * 1e3, (written_by(mount.pid) - before) / 1e6


def mapped_window(mount: live.Mount, path: Path, plane: str) -> tuple[float, float]:
    """The same through numpy.memmap, whose pages the kernel reads around on its own."""
    volume = np.load(path, mmap_mode="r")
    z, y, x = (n // 2 - 77 for n in volume.shape)
    drop_pages(path)
    before, began = written_by(mount.pid), time.perf_counter()
    if plane == "xy":
        np.array(volume[z, y : y + WINDOW, x : x + WINDOW])
    else:
        np.array(volume[z : z + WINDOW, y, x : x + WINDOW])
    return (time.perf_counter() - began) * 1e3, (written_by(mount.pid) - before) / 1e6


# -- the run -----------------------------------------------------------------------------------------------------


def figures_of(store: Path, uuid: str, npy: Path, folder: Path, count: int) -> Iterator[tuple[str, float, str]]:
    """(name, figure, unit) of one new mount."""
    drop_pages(store / "data.mdb")
    with live.Mount(store, log=folder / "mount.log") as mount:
        path = mount.path / "em" / uuid / "grayscale" / "volume.npy"
        live.wait_until(lambda: path.exists(), what="the volume")
        time.sleep(2)  # until kernels are loaded, which goes on behind the readiness line
        with path.open("rb", buffering=0) as file:  # the code is warm, the place is not
            file.read(WINDOW)
        for plane in ("xy", "xz"):
            took, made = one_window(mount, path, plane)
            yield f"first 64x64 window, {plane}", took, "ms"
            yield f"first 64x64 window, {plane}: made", made, "MB"
        for plane in ("xy", "xz"):
            took, made = mapped_window(mount, path, plane)
            yield f"first 64x64 window, {plane}, mapped", took, "ms"
            yield f"first 64x64 window, {plane}, mapped: made", made, "MB"
    drop_pages(store / "data.mdb")
    with live.Mount(store, log=folder / "mount.log") as mount:
        path = mount.path / "em" / uuid / "grayscale" / "volume.npy"
        live.wait_until(lambda: path.exists(), what="the volume")
        time.sleep(2)
        yield "sequential, cold", read_through(path), "MB/s"
        drop_pages(path)
        yield "sequential, pages dropped", read_through(path), "MB/s"
        yield "sequential, warm", read_through(path), "MB/s"
        yield "random 64^3 windows, warm", windows_of(path, count), "MB/s"
        drop_pages(path)
        yield "random 64^3 windows, pages dropped", windows_of(path, count), "MB/s"
        drop_pages(path)
        yield "1 reader, pages dropped", read_at_once(path, 1), "MB/s"
        drop_pages(path)
        yield f"{READERS} readers of {READERS} parts, pages dropped", read_at_once(path, READERS), "MB/s"
        drop_pages(path)
        yield f"{READERS} readers of one part, pages dropped", read_at_once(path, READERS, same=True), "MB/s"
        yield "1 reader, warm", read_at_once(path, 1), "MB/s"
        yield f"{READERS} readers, warm", read_at_once(path, READERS), "MB/s"
        yield "resident", memory_mb(mount.pid, "VmRSS"), "MB"
        yield "resident, pages of the store", memory_mb(mount.pid, "RssFile"), "MB"


def local_figures(npy: Path, count: int) -> Iterator[tuple[str, float, str]]:
    """The same of the file on the disk, in the page cache."""
    read_through(npy)
    yield "sequential, warm", read_through(npy), "MB/s"
    yield "random 64^3 windows, warm", windows_of(npy, count), "MB/s"
    yield "1 reader, warm", read_at_once(npy, 1), "MB/s"
    yield f"{READERS} readers, warm", read_at_once(npy, READERS), "MB/s"


def memory_mb(pid: int, what: str) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith(f"{what}:"))
    return int(line.split()[1]) / 1024


def keep_best(figures: Figures, found: Iterator[tuple[str, float, str]]) -> None:
    for name, value, unit in found:
        known = figures.get(name)
        if known is None or (value > known[0] if unit == "MB/s" else value < known[0]):
            figures[name] = value, unit


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Figures]:
    npy = folder / "volume.npy"
    np.save(npy, micrographs(args.side, args.depth))
    out: dict[str, Figures] = {"local": {}}
    for compression in args.compressions.split(","):
        store, uuid = make_store(folder, npy, compression)
        figures: Figures = out.setdefault(compression, {})
        size = (store / "data.mdb").stat().st_blocks * 512
        figures["store / voxels"] = size / npy.stat().st_size, ""
        for _ in range(args.repeats):
            keep_best(figures, figures_of(store, uuid, npy, folder, args.windows))
    for _ in range(args.repeats):
        keep_best(out["local"], local_figures(npy, args.windows))
    return out


def show(figures: dict[str, Figures]) -> None:
    names = list(dict.fromkeys(name for column in figures.values() for name in column))
    print(f"{'':44}" + "".join(f"{title:>10}" for title in figures))
    for name in names:
        cells = [column.get(name) for column in figures.values()]
        unit = next(cell[1] for cell in cells if cell)
        print(f"{name:44}" + "".join(f"{cell[0]:10.2f}" if cell else f"{'':10}" for cell in cells) + f" {unit}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=400, help="random windows that are read")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compressions", default="lz4,gzip")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    live.clean_dead_mounts()
    with tempfile.TemporaryDirectory(prefix="dvidfs-bench-") as name:
        figures = measure(args, Path(name))
    show(figures)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
