#!/usr/bin/env python3
"""Speed of the mount, beside a pyfuse3 file system that does nothing, in the same run.

bench_mount.py [--keys 1000000] [--listed 100000] [--volume-mb 256] [--repeats 3] [--json FILE]

Prints a table; each figure is the best of the repeats. Needs /dev/fuse; everything lies in a temporary folder and is
taken away at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SMALL = 2000
"""Keys that are read one by one."""
VALUE = b"a small value, as many are: " * 8


# -- what is measured --------------------------------------------------------------------------------------------


def make_store(store: Path, keys: int, listed: int, volume_mb: int) -> dict[str, str]:
    """A store with many keys (committed), a folder to list, and a volume; its versions."""
    import numpy as np

    from dvidfs.engine import Store, WriteTxn, WriteView, open_engine, repos
    from dvidfs.engine.values import Prepared

    Store.create(store)
    with open_engine(store, durability="periodic") as engine:
        root = engine.write(lambda t: repos.create_repo(t, alias="bench")).uuid
        for name, count in (("many", keys), ("listed", listed), ("small", SMALL)):
            engine.write(lambda t, name=name: repos.create_instance(t, t.graph.version(root), "keyvalue", name))

            def put(txn: WriteTxn, low: int, high: int, name: str) -> None:
                node = txn.graph.version(root)
                view = WriteView(txn, node, txn.graph.instance(node, name))
                for n in range(low, high):
                    view.put_text(b"key%08d" % n, Prepared(VALUE, len(VALUE)))

            for low in range(0, count, 50_000):
                engine.write(lambda t, a=low, c=count, n=name: put(t, a, min(a + 50_000, c), n))
    side = 1024
    rng = np.random.default_rng(1)
    np.save(store.parent / "volume.npy", rng.integers(0, 256, (volume_mb, side, side), np.uint8))
    words = ["import", store, store.parent / "volume.npy", "--repo", "bench", "--instance", "grayscale"]
    subprocess.run([sys.executable, "-m", "dvidfs", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    with open_engine(store, durability="periodic") as engine:
        engine.write(lambda t: repos.commit(t, t.graph.version(root)))
        leaf = engine.write(lambda t: repos.new_version(t, t.graph.version(root))).uuid
    return {"root": root, "leaf": leaf}


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def read_each(folder: Path, names: list[str]) -> None:
    fd = os.open(folder, os.O_RDONLY)
    for name in names:
        file = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.read(file, 4096)
        os.close(file)
    os.close(fd)


def read_through(path: Path) -> float:
    """Bytes a second of a sequential read."""
    buffer = bytearray(1 << 20)
    size = 0
    began = time.perf_counter()
    with path.open("rb", buffering=0) as f:
        while count := f.readinto(buffer):
            size += count
    return size / (time.perf_counter() - began)


def drop_pages(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def random_reads(path: Path, count: int = 2000) -> float:
    """Seconds of a read of 4 KiB at random."""
    import random

    rng, fd = random.Random(1), os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    size = os.fstat(fd).st_size
    places = [rng.randrange(0, size - 4096) & ~4095 for _ in range(count)]
    took = timed(lambda: [os.pread(fd, 4096, place) for place in places])
    os.close(fd)
    return took / count


def repeated_stat(path: Path, count: int = 20_000) -> float:
    folder = os.open(path.parent, os.O_RDONLY)
    os.stat(path.name, dir_fd=folder)
    took = timed(lambda: [os.stat(path.name, dir_fd=folder) for _ in range(count)])
    os.close(folder)
    return took / count


def names_of(count: int) -> list[str]:
    return [f"key{n:08d}" for n in range(count)]


def tree_figures(committed: Path, opened: Path, listed: Path, volume: Path) -> Iterator[tuple[str, float, str]]:
    """(name, figure, unit) of one mount."""
    names = names_of(SMALL)
    yield "small reads, committed, first", SMALL / timed(lambda: read_each(committed, names)), "1/s"
    yield "small reads, committed, warm", SMALL / timed(lambda: read_each(committed, names)), "1/s"
    yield "small reads, open, first", SMALL / timed(lambda: read_each(opened, names)), "1/s"
    yield "small reads, open, again", SMALL / timed(lambda: read_each(opened, names)), "1/s"
    yield "repeated stat, committed", repeated_stat(committed / names[0]) * 1e6, "us"
    yield "ls -f, first", timed(lambda: ls("-f", listed)), "s"
    yield "ls -f, again", timed(lambda: ls("-f", listed)), "s"
    yield "ls -l, warm", timed(lambda: ls("-l", listed)), "s"
    yield "sequential read, first", read_through(volume) / 1e6, "MB/s"
    drop_pages(volume)
    yield "sequential read, pages dropped", read_through(volume) / 1e6, "MB/s"
    yield "sequential read, warm", read_through(volume) / 1e6, "MB/s"
    drop_pages(volume)
    yield "random 4 KiB", random_reads(volume) * 1e6, "us"


def ls(how: str, folder: Path) -> None:
    subprocess.run(["ls", how, folder], stdout=subprocess.DEVNULL, check=True, env={**os.environ, "LC_ALL": "C"})


# -- mounts ------------------------------------------------------------------------------------------------------


@contextmanager
def mounted(*words: object) -> Iterator[tuple[Path, float, float, int]]:
    """A mount by this script in a process of its own: where, seconds until it was ready with and without Python's
    start, pid."""
    point = Path(tempfile.mkdtemp(prefix=f"dvidfs-test-{os.getpid()}-"))
    began = time.perf_counter()
    command = ["setpriv", "--pdeathsig", "TERM", sys.executable, __file__, *map(str, words), str(point)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        select.select([process.stdout], [], [], 60)
        inside = float(process.stdout.readline())
        yield point, time.perf_counter() - began, inside, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        subprocess.run(["fusermount3", "-uz", point], capture_output=True, check=False)
        point.rmdir()


async def serve_store(store: Path, point: Path) -> None:
    import trio

    began = time.perf_counter()
    from dvidfs.engine import open_engine
    from dvidfs.fuse.mount import serve_mount
    from dvidfs.types.builtin import registry

    with open_engine(store, durability="periodic") as engine:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_mount, engine, registry(), point)
            print(time.perf_counter() - began, flush=True)
            await until_asked(nursery)


async def until_asked(nursery: Any) -> None:
    import trio

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            nursery.cancel_scope.cancel()


async def serve_nothing(listed: int, volume: int, point: Path) -> None:
    """A file system whose handlers know the answer: what pyfuse3 itself costs."""
    import pyfuse3
    import trio
    from pyfuse3 import EntryAttributes, FileInfo, FUSEError

    forever, soon = 1e9, 1.0
    page = memoryview(bytes(8 << 20))
    folders = {b"committed": 2, b"open": 3, b"listed": 4}
    dirs = {1, 2, 3, 4}
    volume_ino, step = 5, 1 << 32

    class Nothing(pyfuse3.Operations):
        def attributes(self, ino: int) -> EntryAttributes:
            out = EntryAttributes()
            out.st_ino = ino
            out.st_mode = 0o40755 if ino in dirs else 0o100644
            out.st_size = 0 if ino in dirs else volume if ino == volume_ino else len(VALUE)
            out.entry_timeout = out.attr_timeout = soon if ino // step == 3 else forever
            return out

        async def lookup(self, parent: int, name: bytes, ctx: Any) -> EntryAttributes:
            if parent == 1:
                return self.attributes(folders.get(name, volume_ino))
            return self.attributes(parent * step + int(name[3:]))

        async def getattr(self, ino: int, ctx: Any) -> EntryAttributes:
            return self.attributes(ino)

        async def opendir(self, ino: int, ctx: Any) -> int:
            return ino

        async def readdir(self, fh: int, start: int, token: Any) -> None:
            for n in range(start, listed):
                entry = self.attributes(fh * step + n)
                if not pyfuse3.readdir_reply(token, b"key%08d" % n, entry, n + 1):
                    return

        async def releasedir(self, fh: int) -> None:
            return

        async def open(self, ino: int, flags: int, ctx: Any) -> FileInfo:
            return FileInfo(fh=ino, keep_cache=ino // step != 3)

        async def read(self, fh: int, offset: int, length: int) -> Any:
            if fh == volume_ino:
                return page[: max(0, min(length, volume - offset))]
            return VALUE[offset : offset + length]

        async def flush(self, fh: int) -> None:
            return

        async def release(self, fh: int) -> None:
            return

        async def getxattr(self, ino: int, name: bytes, ctx: Any) -> bytes:
            raise FUSEError(38)

    began = time.perf_counter()
    pyfuse3.init(Nothing(), str(point), {"fsname=nothing"})
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main)
            await trio.to_thread.run_sync(tune, point)
            print(time.perf_counter() - began, flush=True)
            await until_asked(nursery)
    finally:
        pyfuse3.close()


def tune(point: Path) -> None:
    """The same kernel settings as the mount's own."""
    device = point.stat().st_dev
    if os.geteuid() == 0:
        bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}")
        (bdi / "read_ahead_kb").write_text("4096")


# -- the run -----------------------------------------------------------------------------------------------------


def resident_mb(pid: int) -> float:
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def best(figures: dict[str, tuple[float, str]], name: str, value: float, unit: str) -> None:
    known = figures.get(name)
    higher = unit in ("1/s", "MB/s")
    if known is None or (value > known[0] if higher else value < known[0]):
        figures[name] = value, unit


def measure(args: argparse.Namespace, folder: Path) -> dict[str, dict[str, tuple[float, str]]]:
    store = folder / "store"
    versions = make_store(store, args.keys, args.listed, args.volume_mb)
    ours: dict[str, tuple[float, str]] = {}
    nothing: dict[str, tuple[float, str]] = {}
    size = (folder / "volume.npy").stat().st_size
    for _ in range(args.repeats):
        with mounted("--serve", store) as (point, process, inside, pid):
            best(ours, "ready, with Python's start", process, "s")
            best(ours, "ready", inside, "s")
            root, leaf = (point / "bench" / versions[v] for v in ("root", "leaf"))
            for found in tree_figures(
                root / "small", leaf / "small", root / "listed", root / "grayscale" / "volume.npy"
            ):
                best(ours, *found)
            best(ours, "resident after all that", resident_mb(pid), "MB")
            best(ours, f"ls -f of {args.keys:,} keys", timed(lambda: ls("-f", root / "many")), "s")  # noqa: B023
            best(ours, "resident after it", resident_mb(pid), "MB")
        with mounted("--nothing", args.listed, size) as (point, process, inside, pid):
            best(nothing, "ready, with Python's start", process, "s")
            for found in tree_figures(point / "committed", point / "open", point / "listed", point / "volume.npy"):
                best(nothing, *found)
            best(nothing, "resident after all that", resident_mb(pid), "MB")
    return {"dvidfs": ours, "nothing": nothing}


def show(figures: dict[str, dict[str, tuple[float, str]]]) -> None:
    print(f"{'':34} {'dvidfs':>10} {'nothing':>10} {'ratio':>6}")
    for name, (value, unit) in figures["dvidfs"].items():
        other = figures["nothing"].get(name)
        beside = f"{other[0]:10.2f} {value / other[0]:6.2f}" if other else f"{'':17}"
        print(f"{name:34} {value:10.2f} {beside} {unit}")


def main() -> None:
    import trio

    if sys.argv[1:2] == ["--serve"]:
        trio.run(serve_store, Path(sys.argv[2]), Path(sys.argv[3]))
        return
    if sys.argv[1:2] == ["--nothing"]:
        trio.run(serve_nothing, int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--listed", type=int, default=100_000)
    parser.add_argument("--volume-mb", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dvidfs-bench-"))
    try:
        figures = measure(args, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(figures)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
