"""What depth of history costs: a read and a scan at the root of 1,000 commits, and below all of them.

    .venv/bin/python benchmarks/bench_depth.py [--depth 1000] [--keys 100000] [--json]

Prints microseconds and the ratios; both places are measured in turns in one process, so ratios hold on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dvidfs.engine import Engine, ReadView, WriteTxn, WriteView, open_engine, repos
from dvidfs.engine.store import Store
from dvidfs.engine.values import Prepared
from dvidfs.types import keyvalue


def build(engine: Engine, depth: int, keys: int) -> tuple[str, str]:
    """A repo whose root holds ``keys`` keys, with ``depth`` commits below that each change one key; root and leaf."""

    def start(txn: WriteTxn) -> str:
        repo = repos.create_repo(txn, alias="deep")
        node = txn.graph.version(repo.uuid)
        view = WriteView(txn, node, repos.create_instance(txn, node, "keyvalue", "kv"))
        keyvalue.post_keyvalues(view, [(b"key%06d" % i, Prepared(b"v" * 100, 100)) for i in range(keys)])
        repos.commit(txn, node)
        return repo.uuid

    root = uuid = engine.write(start)
    for i in range(depth):

        def step(txn: WriteTxn, uuid: str = uuid, i: int = i) -> str:
            child = repos.new_version(txn, txn.graph.version(uuid))
            node = txn.graph.version(child.uuid)
            WriteView(txn, node, txn.graph.instance(node, "kv")).put_text(b"changed%03d" % (i % 100), Prepared(b"x", 1))
            repos.commit(txn, node)
            return child.uuid

        uuid = engine.write(step)
    return root, uuid


def view_at(engine: Engine, uuid: str, use: Callable[[ReadView], object]) -> float:
    """Seconds of one use of a fresh view of that version."""
    started = time.perf_counter()
    with engine.read() as txn:
        node = txn.graph.version(uuid)
        use(ReadView(txn, node, txn.graph.instance(node, "kv")))
    return time.perf_counter() - started


def compare(engine: Engine, root: str, leaf: str, use: Callable[[ReadView], object], times: int) -> dict[str, float]:
    pairs = [(view_at(engine, root, use), view_at(engine, leaf, use)) for _ in range(times)]
    top, deep = (statistics.median(p) * 1e6 for p in zip(*pairs, strict=True))
    return {"root_us": round(top, 2), "deep_us": round(deep, 2), "ratio": round(deep / top, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        Store.create(Path(folder) / "store")
        with open_engine(Path(folder) / "store", durability="periodic") as engine:
            root, leaf = build(engine, args.depth, args.keys)
            result = {
                "depth": args.depth,
                "keys": args.keys,
                "read": compare(engine, root, leaf, lambda v: keyvalue.get_key(v, "key050000"), 3000),
                "scan": compare(engine, root, leaf, lambda v: v.text_keys(), 9),
            }
    print(json.dumps(result) if args.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
