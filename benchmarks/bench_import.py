"""Import of a stack of PNG slices against decoding alone: same decoder, same threads, no store.

    python benchmarks/bench_import.py [--gb 2] [--side 2048] [--rounds 3]

The slices are electron micrographs of the examples, mirrored to size, with a little noise so that they pack like fresh ones; Pillow
writes them, as most programs would. Decoding and importing take turns, each in a process of its own; shown are the best wall
and CPU seconds of both and their ratio.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "mount-examples" / "data" / "grayscale"
DISTINCT = 16
DECODE = """
import sys
from concurrent.futures import wait
from pathlib import Path
from dvidfs import kernels
from dvidfs.cli.sources.slices import read_slice
from dvidfs.types import workers
kernels.load("unfilter_numba")
files = sorted(Path(sys.argv[1]).iterdir())
for future in wait([workers.pool().submit(lambda f: read_slice(f).nbytes, f) for f in files]).done:
    future.result()
"""


def mirrored(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """A picture of ``side`` x ``side`` pixels without seams."""
    twice = np.hstack([picture, picture[:, ::-1]])
    tile = np.vstack([twice, twice[::-1]])
    count = -(-side // tile.shape[0])
    return np.tile(tile, (count, count))[:side, :side]


def make(folder: Path, side: int, count: int) -> None:
    """``count`` slices, of which some are copies of others."""
    random = np.random.default_rng(0)
    for number, path in enumerate(sorted(EXAMPLES.glob("*.png"))[:DISTINCT]):
        picture = mirrored(np.asarray(Image.open(path)), side).astype(np.int16)
        noisy = np.clip(picture + random.integers(-3, 4, picture.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:05d}.png")
    for number in range(DISTINCT, count):
        shutil.copyfile(folder / f"{number % DISTINCT:05d}.png", folder / f"{number:05d}.png")


def timed(*words: object) -> tuple[float, float]:
    """Wall and CPU seconds of a process."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    count = max(DISTINCT, int(args.gb * 1e9 / args.side**2))
    voxels = count * args.side**2
    with tempfile.TemporaryDirectory() as scratch:
        slices = Path(scratch, "slices")
        slices.mkdir()
        make(slices, args.side, count)
        packed = sum(f.stat().st_size for f in slices.iterdir())
        print(
            f"{count} slices of {args.side} x {args.side}: {voxels / 1e9:.2f} GB, {packed / 1e9:.2f} GB as PNG, {os.cpu_count()} cores"
        )
        runs: dict[str, list[tuple[float, float]]] = {"decode": [], "import": []}
        for number in range(args.rounds):
            store = Path(scratch, f"store{number}")
            timed("-m", "dvidfs", "init", store)
            runs["decode"].append(timed("-c", DECODE, slices))
            words = ("import", store, slices, "--repo", "r", "--instance", "g", "--quiet")
            runs["import"].append(timed("-m", "dvidfs", *words))
            shutil.rmtree(store)
        best = {name: tuple(map(min, zip(*times, strict=True))) for name, times in runs.items()}
        for name, (wall, cpu) in best.items():
            print(f"{name}: {wall:.2f} s, {voxels / wall / 1e6:.0f} MB/s, {cpu:.2f} s of CPU")
        print(
            "ratio: wall {:.2f}, CPU {:.2f}".format(
                *(a / b for a, b in zip(best["import"], best["decode"], strict=True))
            )
        )


if __name__ == "__main__":
    main()
