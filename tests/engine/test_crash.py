"""Kill -9 during a stream of acknowledged writes: after reopening, all that was acknowledged is there, and no damage.

Each round is a server process of its own, killed at a random moment while several clients write to it over HTTP. What
a client was told is remembered here; what it was not told may be there or not, but whole.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import threading
import time
from pathlib import Path

import live
import pytest

from dvidfs.engine import ReadView, Store, WriteTxn, open_engine, repos
from dvidfs.engine.check import check_store
from dvidfs.types.builtin import registry

ROUNDS = 10
SIZES = [0, 1, 60, 70, 500, 5000, 70_000]


def value(name: str, size: int) -> bytes:
    """A value that tells whether it is whole, and whose it is."""
    return (name.encode() + b";") * (size // (len(name) + 1) + 1)


class Client(threading.Thread):
    """Writes keys one after the other until the server is gone; ``told`` and ``tried`` by key."""

    def __init__(self, port: int, uuid: str, name: str) -> None:
        super().__init__(daemon=True)
        self.port, self.uuid, self.name_of_keys = port, uuid, name
        self.told: dict[str, bytes | None] = {}
        self.tried: dict[str, list[bytes | None]] = {}
        self.failed: list[int] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.suppress(OSError, http.client.HTTPException):
            for number in range(1_000_000):
                self.write(connection, number)
        connection.close()

    def write(self, connection: http.client.HTTPConnection, number: int) -> None:
        key = f"{self.name_of_keys}-{number % 40}"
        method = "DELETE" if number % 11 == 10 else "POST"
        size = SIZES[number % len(SIZES)] if number % 50 != 49 else 2_500_000
        body = None if method == "DELETE" else value(f"{key}/{number}", size)
        self.tried.setdefault(key, []).append(body)
        connection.request(method, f"/api/node/{self.uuid}/kv/key/{key}", body=body)
        reply = connection.getresponse()
        reply.read()
        if reply.status == 200:
            self.told[key] = body
            self.tried[key] = []
        else:
            self.failed.append(reply.status)


@pytest.mark.parametrize("durability", ["durable", "periodic"])
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, durability: str):
    path, seed = tmp_path / "store", int.from_bytes(os.urandom(4), "little")
    chance = random.Random(seed)
    print("seed", seed)
    Store.create(path)

    def make(txn: WriteTxn) -> str:
        repo = repos.create_repo(txn)
        repos.create_instance(txn, repo.nodes[repo.root], "keyvalue", "kv")
        return repo.uuid

    with open_engine(path) as engine:
        uuid = engine.write(make)
    wanted: dict[str, list[bytes | None]] = {}
    acknowledged = 0
    for number in range(ROUNDS):
        with live.Server(path, "--durability", durability, log=tmp_path / f"log{number}") as server:
            clients = [Client(server.port, uuid, f"c{n}") for n in range(4)]
            for client in clients:
                client.start()
            time.sleep(chance.uniform(0.01, 0.6))  # the random moment, not a wait for anything
            server.kill()
        for client in clients:
            client.join(30)
            assert not client.is_alive()
            assert client.failed == []
            acknowledged += len(client.told)
            for key, body in client.told.items():
                wanted[key] = [body]
            for key, bodies in client.tried.items():
                wanted.setdefault(key, [None]).extend(bodies)
        with open_engine(path) as engine:
            with engine.read() as txn:
                node = txn.graph.version(uuid)
                view = ReadView(txn, node, txn.graph.instance(node, "kv"))
                for key, allowed in wanted.items():
                    entry = view.text_entry(key.encode())
                    found = None if entry is None else bytes(view.load(entry))
                    assert found in allowed, f"{key} is lost or torn (seed {seed}, round {number})"
                    wanted[key] = [found]
                assert [k.decode() for k in view.text_keys()] == sorted(k for k, [v] in wanted.items() if v is not None)
            report = check_store(engine, deep=True, verifier=lambda name: registry()[name].verify)
            assert report.problems == [], f"seed {seed}, round {number}"
    assert acknowledged > 10 * ROUNDS
