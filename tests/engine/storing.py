"""What tests of the engine share: repos with one instance, short reads and writes, a process of its own over a store."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from dvidfs.engine import Engine, ReadView, WriteTxn, WriteView, repos, values
from dvidfs.engine.check import check_store
from dvidfs.engine.keys import Table

ROOT = Path(__file__).resolve().parents[2]


def made(engine: Engine, name: str = "kv") -> str:
    """The UUID of a new repo with one instance."""

    def make(txn: WriteTxn) -> str:
        repo = repos.create_repo(txn)
        repos.create_instance(txn, repo.nodes[repo.root], "keyvalue", name)
        return repo.uuid

    return engine.write(make)


def view(txn: Any, uuid: str, name: str = "kv") -> Any:
    node = txn.graph.version(uuid)
    return (WriteView if isinstance(txn, WriteTxn) else ReadView)(txn, node, txn.graph.instance(node, name))


def putter(uuid: str, key: bytes, value: bytes, name: str = "kv") -> Any:
    return lambda txn: view(txn, uuid, name).put_text(key, values.prepare(value))


def get(engine: Engine, uuid: str, key: bytes, name: str = "kv") -> bytes | None:
    with engine.read() as txn:
        there = view(txn, uuid, name)
        entry = there.text_entry(key)
        return None if entry is None else bytes(there.load(entry))


def rows(engine: Engine, table: Table) -> int:
    return engine.store.statistics()["rows"][table]


def problems(engine: Engine) -> list[Any]:
    return check_store(engine, deep=True).problems


def another(path: Path, code: str) -> subprocess.Popen[str]:
    """A process of its own that runs ``code`` with the store at ``path`` open as ``engine``."""
    program = (
        "import os, sys, time\nfrom pathlib import Path\n"
        "from dvidfs.engine import *\nfrom dvidfs.engine import jobs, repos, values\n"
        "def put(uuid, key, value):\n"
        "    def run(txn):\n"
        "        node = txn.graph.version(uuid)\n"
        "        WriteView(txn, node, txn.graph.instance(node, 'kv')).put_text(key, values.prepare(value))\n"
        "    return run\n"
        f"with open_engine({str(path)!r}) as engine:\n" + textwrap.indent(textwrap.dedent(code), "    ")
    )
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def told_by(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ended(process: subprocess.Popen[str]) -> None:
    with process:
        assert process.stdout is not None
        rest = process.stdout.read()
        assert process.wait(60) == 0, rest
