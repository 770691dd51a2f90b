"""Long bodies and long answers: both lanes alike, at any pace of the client, with nothing left behind."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from live import wait_until
from serving import Served, fresh, one_line, serving

from dvidfs.engine import WriteView, keys
from dvidfs.engine.keys import Family
from dvidfs.engine.values import Prepared
from dvidfs.http import service

SIDE = 256
"""A volume of 16 MiB: more than sockets hold, in several pieces."""


def voxels() -> np.ndarray:
    """Half noise, which is stored as it is, and half zeros."""
    found = np.zeros((SIDE, SIDE, SIDE), np.uint8)
    found[: SIDE // 2] = np.random.default_rng(5).integers(0, 256, (SIDE // 2, SIDE, SIDE), np.uint8)
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with fresh(tmp_path_factory.mktemp("bulk") / "store") as running:
        yield running


@pytest.fixture(scope="module")
def gray(server: Served) -> str:
    """The path of an instance with a volume."""
    root = server.new_repo()
    server.new_instance(root, "gray", "uint8blk")
    path = f"/api/node/{root}/gray"
    server.post(f"{path}/raw/0_1_2/{SIDE}_{SIDE}_{SIDE}/0_0_0", voxels().tobytes()).ok()
    return path


@pytest.fixture(scope="module")
def plain(server: Served, gray: str) -> Iterator[Served]:
    """The same store behind aiohttp alone."""
    with serving(server.engine, fast_lane=False) as running:
        yield running


def readers(server: Served) -> int:
    """Snapshots that are held."""
    rows = server.engine.store._env.readers().splitlines()[1:]
    return sum(not row.endswith("-") for row in map(str.strip, rows) if row)


def ask(server: Served, path: str, extra: str = "") -> socket.socket:
    """A client that asks and then reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    sock.settimeout(30)
    sock.connect((server.host, server.port))
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n".encode())
    return sock


ANSWERS = [
    "raw/0_1_2/64_64_64/0_0_0",
    "raw/0_1_2/65_30_20/11_12_100",
    "raw/0_1_2/64_64_64/-20_-20_-20",
    f"raw/0_1_2/{SIDE}_{SIDE}_{SIDE}/0_0_0",
    f"raw/0_1_2/{SIDE}_{SIDE}_200/3_5_7",
    "raw/xy/200_200/0_0_10/png",
    "raw/xz/2_2/0_0",
    "raw/0_1_2/64_64/0_0_0",
    "raw/0_1_2/a_b_c/0_0_0",
    "raw/0_1_2/64_64_64",
    "blocks/0_0_0/8",
    "subvolblocks/256_256_256/0_0_0",
    "subvolblocks/256_256_256/0_0_0?compression=uncompressed",
    "subvolblocks/64_64_64/1024_0_0",
    "subvolblocks/64_64_64/1_0_0",
    "specificblocks?blocks=0,0,0,7,7,7,90,0,0",
    "specificblocks?blocks=0,0,0,1",
    "specificblocks?blocks=" + ",".join(f"{i % 8},{i // 8},1" for i in range(64)),
    "raw/0_1_2/64_64_64/0_0_0?roi=none",
]


@pytest.mark.parametrize("path", ANSWERS)
@pytest.mark.parametrize("extra", [{}, {"Range": "bytes=10-1000"}, {"If-None-Match": '"none"'}], ids=str)
def test_both_lanes_answer_alike(server: Served, plain: Served, gray: str, path: str, extra: dict[str, str]):
    fast, slow = (each.get(f"{gray}/{path}", headers=extra) for each in (server, plain))
    assert "Server" not in fast.headers, "aiohttp has answered"
    assert (fast.status, fast.body) == (slow.status, slow.body)
    assert {k: v for k, v in fast.headers.items() if k not in ("Date", "Server")} == {
        k: v for k, v in slow.headers.items() if k not in ("Date", "Server")
    }


def test_the_voxels_come_back(server: Served, gray: str):
    whole = voxels()
    assert server.get(f"{gray}/raw/0_1_2/{SIDE}_{SIDE}_{SIDE}/0_0_0").ok().body == whole.tobytes()
    assert server.get(f"{gray}/raw/0_1_2/64_64_64/33_1_90").ok().body == whole[90:154, 1:65, 33:97].tobytes()


@pytest.mark.parametrize("size", ["64_64_64", "256_256_256"])
def test_a_page_that_may_read_is_answered_by_the_lane(server: Served, gray: str, size: str):
    reply = server.get(f"{gray}/raw/0_1_2/{size}/0_0_0", headers={"Origin": "http://localhost:9"}).ok()
    assert "Server" not in reply.headers, "aiohttp has answered"
    assert reply.headers["Access-Control-Allow-Origin"] == "http://localhost:9"
    assert reply.headers["Vary"] == "Origin"
    foreign = server.get(f"{gray}/raw/0_1_2/{size}/0_0_0", headers={"Origin": "http://elsewhere.example"})
    assert "Access-Control-Allow-Origin" not in foreign.headers


def test_an_answer_that_is_known_is_not_made_again(server: Served, gray: str):
    for size in ("64_64_64", "256_256_256"):
        path = f"{gray}/raw/0_1_2/{size}/0_0_0"
        tag = server.get(path).headers["ETag"]
        again = server.get(path, headers={"If-None-Match": tag})
        assert (again.status, again.body) == (304, b"")


def test_a_connection_goes_on_after_a_long_answer(server: Served, gray: str):
    long, short = f"{gray}/raw/0_1_2/256_256_128/0_0_0", f"{gray}/raw/0_1_2/32_32_32/0_0_0"
    with contextlib.closing(server.connect()) as client:
        for _ in range(3):
            for path, size in ((long, 256 * 256 * 128), (short, 32**3)):
                client.request("GET", path)
                assert len(client.getresponse().read()) == size


def test_requests_behind_a_long_answer_are_answered_in_order(server: Served, gray: str):
    paths = [f"{gray}/raw/0_1_2/256_256_64/0_0_{z}" for z in (0, 64)] + ["/api/heartbeat"]
    line = "GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection((server.host, server.port), timeout=30) as sock, sock.makefile("rb") as file:
        sock.sendall("".join(line.format(path) for path in paths).encode())
        for size in (256 * 256 * 64, 256 * 256 * 64, None):
            assert file.readline().startswith(b"HTTP/1.1 200")
            length = 0
            while (header := file.readline()) != b"\r\n":
                if header.lower().startswith(b"content-length:"):
                    length = int(header.split(b":")[1])
            assert size in (length, None)
            assert len(file.read(length)) == length


@pytest.mark.parametrize("extra", ["", "Cookie: a=b\r\n"], ids=["fast lane", "aiohttp"])
def test_many_slow_readers_keep_nobody_waiting(server: Served, gray: str, extra: str):
    """More of them than there are threads, each in the middle of an answer."""
    before = readers(server)
    path = f"{gray}/raw/0_1_2/{SIDE}_{SIDE}_{SIDE}/0_0_0"
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(ask(server, path, extra)) for _ in range(service.WORKERS + 4)]
        begun = [sock.recv(1000) for sock in slow]
        assert all(start.startswith(b"HTTP/1.1 200") for start in begun)
        wait_until(lambda: readers(server) >= before + len(slow), what="their snapshots")
        assert len(server.get(path).ok().body) == SIDE**3
        whole = begun[0].partition(b"\r\n\r\n")[2]  # and a slow one gets every byte in the end
        while len(whole) < SIDE**3:
            whole += slow[0].recv(1 << 20)
        assert whole.endswith(bytes(1000))
    wait_until(lambda: readers(server) <= before, what="the release of all snapshots")


def test_a_body_in_any_pieces_is_received(server: Served):
    root = server.new_repo()
    server.new_instance(root, "gray", "uint8blk")
    data = voxels()[:64, :64, :64].tobytes()
    head = f"POST /api/node/{root}/gray/raw/0_1_2/64_64_64/0_0_0 HTTP/1.1\r\nHost: localhost\r\n"
    whole = (head + f"Content-Length: {len(data)}\r\n\r\n").encode() + data
    follows = (
        f"GET /api/node/{root}/gray/raw/0_1_2/64_64_64/0_0_0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    for cuts in ([], [50], [len(whole) - len(data)], [300, 70_000, 70_001, 200_000]):
        with socket.create_connection((server.host, server.port), timeout=30) as sock, sock.makefile("rb") as file:
            for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True):
                sock.sendall(whole[start:stop])
            assert file.readline() == b"HTTP/1.1 200 OK\r\n", cuts
            sock.sendall(follows.encode())
            assert file.read().endswith(data)


def test_a_long_body_that_is_refused(server: Served, gray: str):
    """The text is the same as of aiohttp; the connection goes on."""
    with contextlib.closing(server.connect()) as client:
        client.request("POST", f"{gray}/raw/0_1_2/64_64_64/0_0_0", bytes(200_000))
        reply = client.getresponse()
        assert (reply.status, b"expected 262144 bytes" in reply.read()) == (400, True)
        client.request("GET", "/api/heartbeat")
        assert client.getresponse().status == 200


def test_an_upload_that_vanishes_leaves_nothing(server: Served, gray: str):
    before = server.counts()
    for size in (1000, 5_000_000):
        with socket.create_connection((server.host, server.port), timeout=30) as sock:
            head = f"POST {gray}/raw/0_1_2/256_256_256/0_0_0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {SIDE**3}"
            sock.sendall(f"{head}\r\n\r\n".encode() + bytes(size))
    assert server.get("/api/heartbeat").status == 200
    assert server.counts() == before


def test_damage_is_told_or_cuts_the_answer(server: Served, caplog: pytest.LogCaptureFixture):
    """Where the first piece fails there is a status; after it only a cut connection says that this is not all."""
    root = server.new_repo()
    server.new_instance(root, "gray", "uint8blk")
    path = f"/api/node/{root}/gray"
    server.post(f"{path}/raw/0_1_2/{SIDE}_{SIDE}_{SIDE}/0_0_0", voxels().tobytes()).ok()

    def damage(z: int) -> None:
        def write(txn):
            node = txn.graph.version(root)
            view = WriteView(txn, node, txn.graph.instance(node, "gray"))
            view.put(Family.BLOCK, keys.encode_block(0, 0, 0, z), Prepared(b"no block", 8))

        server.engine.write(write)

    damage(SIDE // 32 - 1)
    received = b""
    with ask(server, f"{path}/raw/0_1_2/{SIDE}_{SIDE}_{SIDE}/0_0_0") as sock, contextlib.suppress(ConnectionError):
        while part := sock.recv(1 << 20):
            received += part
    assert received.startswith(b"HTTP/1.1 200")
    assert len(received) < SIDE**3
    wait_until(lambda: "in mid-answer failed" in caplog.text, what="the line in the log")
    damage(0)
    reply = server.get(f"{path}/raw/0_1_2/{SIDE}_{SIDE}_{SIDE}/0_0_0")
    assert reply.status == 500
    assert "cannot be read" in one_line(reply)


def test_requests_in_flight_are_finished_at_the_end(tmp_path: Path):
    with fresh(tmp_path / "store") as own:
        root = own.new_repo()
        own.new_instance(root, "gray", "uint8blk")
        path = f"/api/node/{root}/gray/raw/0_1_2/{SIDE}_{SIDE}_{SIDE}/0_0_0"
        own.post(path, voxels().tobytes()).ok()
        with ask(own, path) as sock, sock.makefile("rb") as file:
            assert file.readline().startswith(b"HTTP/1.1 200")
            own.stop()
            assert len(file.read()) >= SIDE**3
