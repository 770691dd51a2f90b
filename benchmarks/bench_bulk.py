#!/usr/bin/env python3
"""Speed of bulk image requests over HTTP, beside a bare socket that sends as many bytes, in the same run.

bench_bulk.py [--side 512] [--seconds 1.0] [--only WORDS] [--durability durable] [--json FILE]

Prints for each request: milliseconds (median) and bytes a second with its connections, the same of the bare socket, how
much of that is reached, and the server's CPU time for one request. Everything lies in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

TICKS = os.sysconf("SC_CLK_TCK")
BARE = """
import os, socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
data = os.urandom(64 << 20)
def serve(client):
    held = b""
    while (got := client.recv(65536)):
        held += got
        while b"\\n" in held:
            line, _, held = held.partition(b"\\n")
            size = int(line)
            while size > 0:
                client.sendall(memoryview(data)[:size])
                size -= len(data)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
"""Sends as many bytes as it is asked for, one thread for each connection."""


def used_by(pid: int) -> tuple[float, int]:
    """CPU seconds of a process, and pages that it was given."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS, int(fields[7])


class Client:
    """One connection that reads answers and throws them away."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.buffer = bytearray(1 << 20)

    def take(self, size: int) -> None:
        while size > 0:
            got = self.socket.recv_into(self.buffer, min(size, len(self.buffer)))
            if not got:
                raise ConnectionError("the server has closed the connection")
            size -= got

    def ask(self, method: str, path: str, body: bytes = b"") -> int:
        """Bytes of the answer's body."""
        length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
        self.socket.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n".encode())
        if body:
            self.socket.sendall(body)
        got = self.socket.recv_into(self.buffer)
        head, _, start = bytes(self.buffer[:got]).partition(b"\r\n\r\n")
        if b" 200 " not in head[:20]:
            raise ConnectionError(bytes(self.buffer[:got]).decode(errors="replace"))
        sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        size = int(sizes[0].split(b":")[1])
        self.take(size - len(start))
        return size

    def ask_bare(self, size: int) -> int:
        self.socket.sendall(b"%d\n" % size)
        self.take(size)
        return size


def run(make: Callable[[], Client], ask: Callable[[Client], int], connections: int, seconds: float) -> dict[str, float]:
    """Median milliseconds, and bytes a second over all connections."""
    times, sizes, until = [], [], time.perf_counter() + seconds

    def work() -> None:
        client = make()
        while time.perf_counter() < until or not times:
            begun = time.perf_counter()
            sizes.append(ask(client))
            times.append(time.perf_counter() - begun)
        client.socket.close()

    begun = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passed = time.perf_counter() - begun
    return {"ms": 1e3 * statistics.median(times), "MB/s": sum(sizes) / passed / 1e6, "count": len(times)}


@contextmanager
def server(words: list[Any]) -> Iterator[tuple[int, int]]:
    """Process id and port of a process that prints its port or address."""
    process = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.pid, int(process.stdout.readline().split()[0].rsplit(":", 1)[-1].strip("/"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextmanager
def free_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    yield port


@contextmanager
def dvidfs(store: Path, durability: str) -> Iterator[tuple[int, int]]:
    """Process id and port of a server of a new store."""
    subprocess.run([sys.executable, "-m", "dvidfs", "init", str(store)], check=True, stdout=subprocess.DEVNULL)
    with free_port() as port:
        words = ["serve", store, "--http", f"127.0.0.1:{port}", "--durability", durability]
        process = subprocess.Popen([sys.executable, "-m", "dvidfs", *map(str, words)], stdout=subprocess.DEVNULL)
        try:
            for _ in range(200):
                try:
                    urlopen(f"http://127.0.0.1:{port}/api/heartbeat").close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield process.pid, port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def requests(prefix: str, side: int) -> dict[str, tuple[int, Callable[[], str]]]:
    """Name of a row -> connections, and a path of that kind."""
    rng = random.Random(7)
    half = side // 2

    def raw(size: int, aligned: bool) -> Callable[[], str]:
        def path() -> str:
            at = [rng.randrange((side - size) // 32 + 1) * 32 for _ in range(3)]
            at = at if aligned else [min(a + rng.randrange(1, 31), side - size) for a in at]
            return f"{prefix}/raw/0_1_2/{size}_{size}_{size}/{'_'.join(map(str, at))}"

        return path

    def slice_(plane: str, form: str) -> Callable[[], str]:
        def path() -> str:
            at = dict.fromkeys("xyz", 0)
            at[next(a for a in "xyz" if a not in plane)] = rng.randrange(side)
            return f"{prefix}/raw/{plane}/{side}_{side}/{at['x']}_{at['y']}_{at['z']}/{form}"

        return path

    def specific() -> str:
        return f"{prefix}/specificblocks?blocks=" + ",".join(str(rng.randrange(side // 32)) for _ in range(300))

    blocks = f"{prefix}/subvolblocks/{half}_{half}_{half}/0_0_0"
    return {
        "raw_64_aligned_c16": (16, raw(64, True)),
        "raw_64_unaligned_c16": (16, raw(64, False)),
        "raw_64_c1": (1, raw(64, False)),
        "raw_256_aligned_c2": (2, raw(half, True)),
        "raw_256_unaligned_c2": (2, raw(half, False)),
        "raw_512_c1": (1, raw(side, True)),
        "png_xy_c4": (4, slice_("xy", "png")),
        "png_xz_c4": (4, slice_("xz", "png")),
        "png_yz_c4": (4, slice_("yz", "png")),
        "jpg_xy_c4": (4, slice_("xy", "jpg:80")),
        "subvolblocks_c2": (2, lambda: blocks),
        "subvolblocks_uncompressed_c2": (2, lambda: f"{blocks}?compression=uncompressed"),
        "specificblocks_100_c2": (2, specific),
    }


def volume(side: int) -> Any:
    """Voxels that do not shrink, as electron micrographs do not."""
    import numpy as np

    return np.random.default_rng(3).integers(0, 256, (side, side, side), np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--durability", default="durable")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found: dict[str, Any] = {}
    used: list[tuple[float, int]] = []
    print(
        f"{'request':30} {'ms':>9} {'MB/s':>8} {'bare ms':>9} {'bare MB/s':>9} {'reached':>8} {'CPU ms':>8} {'faults':>8}"
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        dvidfs(Path(folder) / "store", args.durability) as (pid, port),
        server(["-c", BARE]) as (_, bare),
    ):
        ask = Client(port)
        ask.socket.sendall(b"POST /api/repos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        root = json.loads(ask.socket.recv(65536).partition(b"\r\n\r\n")[2])["root"]
        ask.ask("POST", f"/api/repo/{root}/instance", b'{"typename":"uint8blk","dataname":"gray"}')
        prefix, data, side = f"/api/node/{root}/gray", volume(args.side), args.side
        slabs = [
            (f"{prefix}/raw/0_1_2/{side}_{side}_64/0_0_{z}", data[z : z + 64].tobytes()) for z in range(0, side, 64)
        ]

        def show(name: str, ours: dict[str, float], floor: dict[str, float], before: tuple[float, int]) -> None:
            cpu, faults = ((now - old) / ours["count"] for now, old in zip(used[-1], before, strict=True))
            reached = ours["MB/s"] / floor["MB/s"]
            found[name] = {"ours": ours, "bare": floor, "reached": reached, "cpu_ms": 1e3 * cpu, "faults": faults}
            figures = f"{ours['ms']:9.2f} {ours['MB/s']:8.0f} {floor['ms']:9.2f} {floor['MB/s']:9.0f}"
            print(f"{name:30} {figures} {reached:8.2f} {1e3 * cpu:8.2f} {faults:8.0f}", flush=True)

        def post(client: Client) -> int:
            path, body = random.choice(slabs)
            client.ask("POST", path, body)
            return len(body)

        for path, body in slabs:
            ask.ask("POST", path, body)
        if args.only in "post_raw_c2":
            before = used_by(pid)
            ours = run(lambda: Client(port), post, 2, args.seconds)
            used.append(used_by(pid))
            floor = run(lambda: Client(bare), lambda c: c.ask_bare(len(slabs[0][1])), 2, args.seconds)
            show("post_raw_c2", ours, floor, before)
        for name, (connections, path_of) in requests(prefix, side).items():
            if args.only not in name:
                continue
            size = ask.ask("GET", path_of())
            run(lambda: Client(port), lambda c, p=path_of: c.ask("GET", p()), connections, args.seconds / 4)
            before = used_by(pid)
            ours = run(lambda: Client(port), lambda c, p=path_of: c.ask("GET", p()), connections, args.seconds)
            used.append(used_by(pid))
            floor = run(lambda: Client(bare), lambda c, s=size: c.ask_bare(s), connections, args.seconds)
            show(name, ours, floor, before)
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
