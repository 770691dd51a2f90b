"""What the structure of labels costs: a mapping of ten million supervoxels, and merges of large bodies beside readers.

    python benchmarks/bench_labels.py [--entries 10000000] [--blocks 50000] [--readers 16]

Prints seconds to load the mapping and bytes an entry; then, of merges of two bodies of so many blocks each, the
times of the answers, and how many points a second the readers get meanwhile beside what they get alone.
"""

from __future__ import annotations

import argparse
import http.client
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from dvidfs.engine import repos
from dvidfs.engine.engine import Engine, open_engine
from dvidfs.engine.store import ReadTxn, Store, WriteTxn
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.types import builtin
from dvidfs.types.formats.labelindex import codes_of_points
from dvidfs.types.labelmap import blocks, columns, mutate
from dvidfs.types.labelmap.books import Book
from dvidfs.types.labelmap.columns import pairs
from dvidfs.types.labelmap.index import Counts

NAME = "seg"
BODIES = 40
ROWS = 200_000
"""Entries of one request."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--blocks", type=int, default=50_000)
    parser.add_argument("--readers", type=int, default=16)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench_mapping(Path(folder) / "mapping", given.entries)
        bench_merges(Path(folder) / "merges", given.blocks, given.readers)
    return 0


def make(engine: Engine) -> str:
    """A repo with a labelmap; the UUID of its root."""
    kind = builtin.registry()["labelmap"]

    def write(txn: WriteTxn) -> str:
        repo = repos.create_repo(txn, alias="bench")
        node = txn.graph.version(repo.uuid)
        repos.create_instance(txn, node, kind.name, NAME, settings=kind.configure({}), compression="gzip")
        return node.uuid

    return engine.write(write)


def at(txn: ReadTxn, uuid: str, view: Any = ReadView) -> Any:
    node = txn.graph.version(uuid)
    return view(txn, node, txn.graph.instance(node, NAME))


# ---------------------------------------------------------------- a large mapping


def bench_mapping(path: Path, entries: int) -> None:
    Store.create(path)
    with open_engine(path, durability="periodic") as engine:
        uuid = make(engine)
        chance = np.random.default_rng(1)
        ids = np.unique(chance.integers(1, 1 << 40, entries, dtype=np.uint64))

        def write(txn: WriteTxn, part: Any) -> None:
            view = at(txn, uuid, WriteView)
            columns.append(view, Book.MAPPING, mutate.begin(view), pairs(part, part // 10 + 1))

        for first in range(0, len(ids), ROWS):
            engine.write(lambda txn, part=ids[first : first + ROWS]: write(txn, part))
    script = (
        "import sys, time; sys.path.insert(0, {root!r}); from benchmarks.bench_labels import at, open_engine, Path\n"
        "from dvidfs.types.labelmap.books import mapping\n"
        "with open_engine(Path({path!r})) as engine, engine.read() as txn:\n"
        "    view, before = at(txn, {uuid!r}), time.perf_counter()\n"
        "    column = mapping(view)\n"
        "    print(len(column), time.perf_counter() - before, column.nbytes)\n"
    )
    root = str(Path(__file__).resolve().parent.parent)
    code = script.format(root=root, path=str(path), uuid=uuid)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    count, seconds, size = int(out[0]), float(out[1]), int(out[2])
    print(f"mapping of {count:,} supervoxels: loaded in {seconds:.2f} s, {size / count:.1f} bytes an entry")


# ---------------------------------------------------------------- merges beside readers


def bench_merges(path: Path, count: int, readers: int) -> None:
    Store.create(path)
    with open_engine(path, durability="durable") as engine:
        uuid = make(engine)
        engine.write(lambda txn: fill(at(txn, uuid, WriteView), count))
    server = subprocess.Popen(
        [sys.executable, "-m", "dvidfs", "serve", str(path), "--http", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline().rsplit(":", 1)[1].strip().rstrip("/"))
        alone, _ = run(port, uuid, readers, merging=False)
        beside, times = run(port, uuid, readers, merging=True)
        times.sort()
        print(
            f"bodies of {count:,} blocks: {len(times)} merges of two, p50 {1e3 * times[len(times) // 2]:.1f} ms, "
            f"most {1e3 * times[-1]:.1f} ms, beside {readers} readers\n"
            f"points a second: {alone:,.0f} alone, {beside:,.0f} beside merges ({100 * beside / alone:.0f} %)"
        )
    finally:
        server.terminate()
        server.wait()


def fill(view: WriteView, count: int) -> None:
    """Bodies from 1 on, of so many blocks each and a tenth as many supervoxels; and blocks to read points in."""
    chance = np.random.default_rng(2)
    for x in range(8):
        labels = np.repeat(chance.integers(10, 400, (8, 8, 8), dtype=np.uint64), 8, 0).repeat(8, 1).repeat(8, 2)
        blocks.write_blocks(view, [(x, 1000, 0)], labels[None], "ingest")
    given = []
    for body in range(1, BODIES + 1):
        places = np.arange(count)
        coords = np.stack((places % 100, places // 100 % 100, places // 10_000 + 100 * body), axis=1)
        ids = body * 10_000_000 + places // 10
        given.append((body, Counts(ids.astype(np.uint64), codes_of_points(coords), np.full(count, 500, np.uint32))))
    mutate.set_index(view, given)


def run(port: int, uuid: str, readers: int, *, merging: bool, seconds: float = 6.0) -> tuple[float, list[float]]:
    """Points a second that the readers got, and the seconds that each mutation took."""
    url = f"/api/node/{uuid}/{NAME}"
    reader = (
        "import asyncio, random, time\n"
        "async def read():\n"
        "    r, w = await asyncio.open_connection('127.0.0.1', {port})\n"
        "    n = 0\n"
        "    while time.monotonic() < stop:\n"
        "        x, y, z = random.randrange(512), 64000 + random.randrange(64), random.randrange(64)\n"
        "        w.write(b'GET {url}/label/%d_%d_%d HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\n\\r\\n' % (x, y, z))\n"
        "        head = await r.readuntil(b'\\r\\n\\r\\n')\n"
        "        await r.readexactly(int(head.lower().split(b'content-length:')[1].split(b'\\r')[0]))\n"
        "        n += 1\n"
        "    return n\n"
        "async def all(): return sum(await asyncio.gather(*(read() for _ in range({readers}))))\n"
        "stop = time.monotonic() + {left}\n"
        "print(asyncio.run(all()))"
    )
    times: list[float] = []

    def mutations() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)

        def post(what: str, body: list[int]) -> Any:
            started = time.perf_counter()
            connection.request("POST", f"{url}/{what}", body=json.dumps(body).encode())
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200, text
            times.append(time.perf_counter() - started)
            return json.loads(text)

        for body in range(1, BODIES, 2):
            post("merge", [body, body + 1])
            time.sleep(seconds / BODIES)

    code = reader.format(port=port, left=seconds, url=url, readers=readers)
    writer = threading.Thread(target=mutations) if merging else None
    if writer is not None:
        writer.start()
    total = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    if writer is not None:
        writer.join()
    return total / seconds, times


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    sys.exit(main())
