"""What labels are sent that is wrong: the answer is a 4xx of one line that says why, and nothing is written.

"Nothing" is exact: the last transaction of the store, which this process has open beside the server, is as before. After each
refusal a request that is right is answered.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import wire
from agreement import agree
from client import Connection, Labels, Refused
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from labelserver import LabelServer
from live import wait_until
from model import Frame, State
from proofreaders import texture
from wire import LabelIndex

from dvidfs.engine import Engine, jobs, open_engine

FRAME = Frame((16, 16, 16), (2, 2, 2), (-1, 0, 1))
PLACE = (5, 5, 5)
"""A block that is not stored."""
FAR = 2**31 - 1
MANY = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Bench:
    """A server, its store, and a labelmap that shall stay as it is."""

    server: LabelServer
    engine: Engine
    labels: Labels
    state: State

    def last(self) -> int:
        return self.engine.store.last_txn()

    def at_rest(self) -> bool:
        with self.engine.read() as txn:
            return not any(job.state in ("queued", "running") for job in jobs.all_jobs(txn))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bad")
    chance = random.Random(3)
    with LabelServer(folder, "--durability", "periodic") as server:
        connection = Connection(server.port)
        uuid = connection.new_repo()
        connection.new_instance(uuid, "labels", BlockSize="16,16,16", MaxDownresLevel="2")
        labels, state = Labels(connection, uuid), State.empty(FRAME)
        blocks = {place: texture(chance, list(range(9)), FRAME.block_shape) for place in FRAME.places()}
        labels.post_blocks(blocks, downres=True)
        state.write(blocks)
        labels.merge(2, [3, 7])
        state.merge(2, [3, 7])
        with open_engine(folder / "store") as engine:
            found = Bench(server, engine, labels, state)
            wait_until(found.at_rest)
            yield found
            agree(labels, state, chance, bodies=8)
        connection.close()


def refuses(
    bench: Bench, method: str, rest: str, body: Any = None, says: str = "", labels: Labels | None = None, **query: Any
) -> str:
    """What a request is refused with, after a look that it changed nothing. ``says``: what the line must hold."""
    labels, before = labels or bench.labels, bench.last()
    with pytest.raises(Refused) as told:
        labels.ask(method, rest, body, **query)
    error = told.value
    assert 400 <= error.status < 500, error
    assert error.text, error
    assert "\n" not in error.text, error
    assert len(error.text) < 600, error
    assert not re.search(r"Traceback|<class|object at|numpy|Error\(", error.text), error
    assert re.search(says, error.text), error
    assert bench.last() == before, "something was written"
    assert bench.labels.size(1) == bench.state.size(1)
    return error.text


# ---------------------------------------------------------------- mutations of bodies

TOO_LARGE = 2**63 + 1
MUTATIONS: list[tuple[str, Any, str]] = [
    ("merge", [], r"need at least target"),
    ("merge", [1], r"need at least target"),
    ("merge", [1, 0], r"background label 0"),
    ("merge", [0, 1], r"background label 0"),
    ("merge", [1, 1], r"1 into itself"),
    ("merge", [1, 2, 1], r"1 into itself"),
    ("merge", [1, 99], r"non-existent label 99"),
    ("merge", [99, 1], r"non-existent label 99"),
    ("merge", [1, 3], r"non-existent label 3"),
    ("merge", [1, TOO_LARGE], rf"non-existent label {TOO_LARGE}"),
    ("merge", [1, 2**64 - 1], r"non-existent label"),
    ("merge", [1, 2**64], r"list of numbers"),
    ("merge", [1, -2], r"list of numbers"),
    ("merge", [1, 2.0], r"list of numbers"),
    ("merge", [1, True], r"list of numbers"),
    ("merge", [1, "2"], r"list of numbers"),
    ("merge", [1, [2]], r"list of numbers"),
    ("merge", {"1": 2}, r"list of numbers"),
    ("merge", b"null", r"."),
    ("merge", b"", r"."),
    ("merge", b"[1, 2", r"."),
    ("merge", b"[1, 2]]", r"."),
    ("merge", b"\xff\xfe", r"."),
    ("merge", b"[" * 5000, r"."),
    ("merge", b"[1, 1e400]", r"."),
    ("merge", b"[1, " + b"9" * 5000 + b"]", r"."),
    ("cleave/2", [2, 3, 7], r"cannot cleave all supervoxels from the label 2"),
    ("cleave/2", [7, 3, 2, 3], r"cannot cleave all"),
    ("cleave/1", [1], r"cannot cleave all"),
    ("cleave/2", [1], r"supervoxel 1, which does not exist in label 2"),
    ("cleave/2", [3, 1], r"supervoxel 1, which does not exist in label 2"),
    ("cleave/2", [0], r"supervoxel 0, which does not exist in label 2"),
    ("cleave/2", [99], r"supervoxel 99"),
    ("cleave/2", [2**64 - 1], r"supervoxel 18446744073709551615"),
    ("cleave/2", [], r"no cleave supervoxels"),
    ("cleave/2", b"null", r"no cleave supervoxels"),
    ("cleave/2", b"", r"."),
    ("cleave/2", [2**64], r"list of numbers"),
    ("cleave/0", [1], r"Label 0 is protected"),
    ("cleave/99", [99], r"non-existent label 99"),
    ("cleave/3", [3], r"non-existent label 3"),
    ("cleave/-1", [1], r"label"),
    ("cleave/x", [1], r"label"),
    (f"cleave/{2**64}", [1], r"label"),
    ("renumber", [50], r"even list"),
    ("renumber", [1, 2], r"existing label 1"),
    ("renumber", [1, 1], r"existing label 1"),
    ("renumber", [0, 1], r"new number 0 cannot be"),
    ("renumber", [TOO_LARGE, 1], rf"new number {TOO_LARGE} cannot be"),
    ("renumber", [50, 99], r"non-existent body with label 99"),
    ("renumber", [50, 0], r"non-existent body with label 0"),
    ("renumber", [50, 1, 51, 1], r"non-existent body with label 1"),
    ("renumber", [50, 1, 50, 2], r"existing label 50"),
    ("renumber", [50, 1, 4, 2], r"existing label 4"),
    ("renumber", [50, -1], r"list of numbers"),
    ("renumber", b"[50, 1", r"renumber"),
    ("renumber", b"{}", r"list of numbers"),
    ("nextlabel/0", None, r"1 or more"),
    (f"nextlabel/{2**63}", None, r"overflow"),
    (f"nextlabel/{2**64}", None, r"count"),
    ("nextlabel/-1", None, r"count"),
    ("nextlabel/x", None, r"count"),
    ("maxlabel/0", None, r"maxlabel 0 cannot be"),
    (f"maxlabel/{2**62}", None, r"cannot be"),
    ("set-nextlabel/0", None, r"next label 0 cannot be"),
    (f"set-nextlabel/{TOO_LARGE}", None, rf"next label {TOO_LARGE} cannot be"),
    ("set-nextlabel/100?ceiling=99", None, r"100 lies above the ceiling 99"),
]


@pytest.mark.parametrize(("rest", "body", "says"), MUTATIONS, ids=[f"{m[0]}-{i}" for i, m in enumerate(MUTATIONS)])
def test_mutations_that_cannot_be(bench: Bench, rest: str, body: Any, says: str):
    path, _, query = rest.partition("?")
    refuses(bench, "POST", path, body, says, **dict(part.split("=") for part in query.split("&") if part))


def test_splits_that_cannot_be(bench: Bench):
    mine = bench.state.voxels == 3
    runs = wire.runs_of_points(wire.points_of_mask(mine, FRAME.start))
    other = wire.runs_of_points(wire.points_of_mask(bench.state.voxels == 1, FRAME.start))[:1]
    far = np.array([[FAR, FAR, FAR, 1]], np.int32)
    bad: list[tuple[np.ndarray | bytes, str]] = [
        (runs, "given split volume"),
        (runs[:0], "zero voxels"),
        (other, r"voxels of 1\b|reach into|want none but its own"),
        (np.vstack([runs[:1], runs[:1]]), "overlap"),
        (np.vstack([runs[:1], other]), r"want none but its own|reach into"),
        (np.vstack([runs[:1], far]), r"."),
        (runs[:1] * np.array([1, 1, 1, -1]), "want 1 or more"),
        (np.array([[FAR, 0, 0, 2]]), "beyond"),
        (np.array([[-(2**31), -(2**31), -(2**31), FAR]]), r"."),
        (b"", r"."),
        (wire.encode_rles(runs[:2])[:-1], "says 2 spans"),
        (wire.encode_rles(runs[:2]) + b"\0", "says 2 spans"),
        (b"\1" + wire.encode_rles(runs[:2])[1:], "not binary"),
        (wire.encode_rles(runs[:1])[:11], "header"),
    ]
    for body, says in bad:
        data = body if isinstance(body, bytes) else wire.encode_rles(body.astype(np.int32))
        refuses(bench, "POST", "split-supervoxel/3", data, says)
    for rest in ("split-supervoxel/0", "split-supervoxel/99", f"split-supervoxel/{2**64}", "split/0", "split/99"):
        refuses(bench, "POST", rest, wire.encode_rles(runs[:1]))
    refuses(bench, "POST", "split/1", wire.encode_rles(runs[:1]), r"not part of body|reach into")


# ---------------------------------------------------------------- streams of blocks


def cubes(*labels: int, side: int = 16) -> wire.Voxels:
    return np.resize(np.array(labels, np.uint64), (side, side, side))


def stream(*records: tuple[tuple[int, int, int], bytes]) -> bytes:
    return b"".join(struct.pack("<4i", *place, len(data)) + data for place, data in records)


GOOD = gzip.compress(wire.encode_block(cubes(61, 62)), 1)
BOMB = gzip.compress(wire.encode_block(cubes(61, 62)) + bytes(1 << 28), 1)
STREAMS: list[tuple[str, bytes, str]] = [
    ("cut in a head", stream((PLACE, GOOD)) + b"\0" * 7, r"ends in a head at byte \d+: want 16 bytes, got 7"),
    ("cut in a payload", stream((PLACE, GOOD))[:-1], r"block 5,5,5 at byte 16 says \d+ bytes, but \d+ follow"),
    ("a good one, and one cut", stream((PLACE, GOOD), ((6, 5, 5), GOOD))[:-1], r"block 6,5,5"),
    ("negative length", struct.pack("<4i", *PLACE, -1) + GOOD, r"says -1 bytes"),
    ("huge length", struct.pack("<4i", *PLACE, FAR) + GOOD, r"says 2147483647 bytes"),
    ("twice", stream((PLACE, GOOD), (PLACE, GOOD)), r"5_5_5 is given twice"),
    ("empty payload", stream((PLACE, b"")), r"5_5_5.*zero length|zero length.*5_5_5"),
    ("no gzip", stream((PLACE, b"not gzip at all")), r"5_5_5 cannot be read"),
    ("native, not gzip", stream((PLACE, wire.encode_block(cubes(61)))), r"5_5_5 cannot be read"),
    ("gzip cut", stream((PLACE, GOOD[:-9])), r"5_5_5 cannot be read"),
    ("gzip with a wrong sum", stream((PLACE, GOOD[:-8] + b"\0" * 8)), r"5_5_5 cannot be read"),
    ("gzip of nothing", stream((PLACE, gzip.compress(b""))), r"5_5_5 cannot be read"),
    ("gzip of 256 MiB", stream((PLACE, BOMB)), r"5_5_5 cannot be read"),
    ("blocks of 8", stream((PLACE, gzip.compress(wire.encode_block(cubes(61, side=8))))), r"8x8x8.*16x16x16"),
    ("blocks of 64", stream((PLACE, gzip.compress(wire.encode_block(cubes(61, side=64))))), r"64x64x64.*16x16x16"),
    ("flat", stream((PLACE, gzip.compress(wire.encode_block(cubes(61)[:8])))), r"16x16x8.*16x16x16"),
    ("too far out", stream(((2**20, 0, 0), GOOD)), r"1048576_0_0"),
    ("as far as can be", stream(((FAR, -FAR - 1, FAR), GOOD)), r"2147483647"),
    (
        "no such label",
        stream((PLACE, gzip.compress(wire.encode_block(cubes(2**64 - 1))))),
        r"label 18446744073709551615",
    ),
    (
        "a good one, and no such label",
        stream(((6, 5, 5), GOOD), (PLACE, gzip.compress(wire.encode_block(cubes(2**64 - 1))))),
        "5_5_5",
    ),
]


@pytest.mark.parametrize("rest", ["blocks", "ingest-supervoxels"])
@pytest.mark.parametrize(("name", "data", "says"), STREAMS, ids=[s[0] for s in STREAMS])
def test_streams_that_cannot_be(bench: Bench, rest: str, name: str, data: bytes, says: str):
    if rest == "ingest-supervoxels" and name == "too far out":
        return  # what is not indexed may lie anywhere
    if rest == "ingest-supervoxels" and name == "as far as can be":
        return
    refuses(bench, "POST", rest, data, says)


def test_options_that_cannot_be(bench: Bench):
    good = stream((PLACE, GOOD))
    for rest in ("blocks", "ingest-supervoxels"):
        for scale in ("-1", "256", "x", "1.0", "9" * 30):
            refuses(bench, "POST", rest, good, "scale", scale=scale)
    refuses(bench, "POST", "blocks", good, "scale", scale=1, downres=True)
    refuses(bench, "POST", "blocks", good, "compression", compression="lz4")


def parts_of(data: bytes) -> dict[str, tuple[int, int]]:
    """Where the fields of a native block lie."""
    gx, gy, gz, n = struct.unpack_from("<4I", data)
    head = {"grid": (0, 12), "number of labels": (12, 16), "labels": (16, 16 + 8 * n)}
    if n == 1:
        return head
    counts = np.frombuffer(data, "<u2", gx * gy * gz, 16 + 8 * n)
    table, lists = 16 + 8 * n, 16 + 8 * n + 2 * len(counts)
    values = lists + 4 * int(counts.sum())
    whole = head | {"counts": (table, lists), "lists": (lists, values), "values": (values, len(data))}
    return {name: (start, stop) for name, (start, stop) in whole.items() if start < stop}


@MANY
@given(data=st.data())
def test_every_field_of_a_block_may_be_wrong(bench: Bench, data: st.DataObject):
    """A damaged block is refused as above, or it is another block, which reads as the plain decoder says."""
    native = bytearray(
        wire.encode_block(texture(random.Random(data.draw(st.integers(0, 9))), [0, 61, 62, 63, 64, 65], (16, 16, 16)))
    )
    name, (start, stop) = data.draw(st.sampled_from(sorted(parts_of(bytes(native)).items())))
    at = data.draw(st.integers(start, stop - 1))
    how = data.draw(st.sampled_from(["byte", "word", "cut", "insert"]))
    if how == "byte":
        native[at] = data.draw(st.integers(0, 255))
    elif how == "word":
        native[at : at + 4] = data.draw(st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\1\0\0\0", b"\0\0\0\x80"]))
    elif how == "cut":
        del native[at:]
    else:
        native[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    note(f"{how} at byte {at}, of the {name}")
    sent = stream((PLACE, gzip.compress(bytes(native), 1)))
    before = bench.last()
    try:
        bench.labels.ask("POST", "ingest-supervoxels", sent)
    except Refused as error:
        assert error.status == 400, error
        assert re.search("5_5_5", error.text), error
        assert "\n" not in error.text
        assert bench.last() == before
        return
    found = bench.labels.specific_blocks([PLACE], (16, 16, 16), "blocks", supervoxels=True)[PLACE]
    np.testing.assert_array_equal(found, wire.decode_block(bytes(native)))
    start_at = tuple(16 * n for n in PLACE)
    np.testing.assert_array_equal(bench.labels.raw(start_at, (16, 16, 16), supervoxels=True), found)


# ---------------------------------------------------------------- volumes


def volume(*labels: int, shape: tuple[int, int, int] = (16, 16, 16)) -> bytes:
    return np.resize(np.array(labels, np.uint64), shape).tobytes()


RAW: list[tuple[str, bytes, Mapping[str, str], str]] = [
    ("0_1_2/16_16_16/1_0_0", volume(61), {}, r"non-block aligned.*multiples of 16_16_16"),
    ("0_1_2/16_16_8/0_0_0", volume(61, shape=(8, 16, 16)), {}, r"non-block aligned"),
    ("0_1_2/16_16_16/0_0_0", volume(61)[:-1], {}, r"expected 32768 bytes.* only received 32767"),
    ("0_1_2/16_16_16/0_0_0", volume(61) + b"\0", {}, r"expected 32768 bytes"),
    ("0_1_2/16_16_16/0_0_0", b"", {}, r"expected 32768 bytes|no data|empty"),
    ("0_1_2/16_16_16/0_0_0", volume(2**64 - 1), {}, r"label 18446744073709551615"),
    ("0_1_2/16_16_16/0_0_0", volume(61), {"compression": "gzip"}, r"cannot be read as gzip"),
    ("0_1_2/16_16_16/0_0_0", volume(61), {"compression": "lz4"}, r"cannot be read as lz4"),
    ("0_1_2/16_16_16/0_0_0", volume(61), {"compression": "zip"}, r'unknown compression type "zip"'),
    ("0_1_2/16_16_16/0_0_0", gzip.compress(bytes(1 << 28), 1), {"compression": "gzip"}, r"32768"),
    ("0_1_2/16_16_16/0_0_0", gzip.compress(volume(61)[:-8]), {"compression": "gzip"}, r"expected 32768 bytes"),
    ("0_1_2/16_16_16/0_0_0", volume(61), {"roi": "nowhere"}, r"instance"),
    ("xy/16_16/0_0_0", volume(61, shape=(1, 16, 16)), {}, r"2d mutations"),
    ("0_1_2/0_16_16/0_0_0", b"", {}, r"."),
    ("0_1_2/-16_16_16/0_0_0", b"", {}, r"."),
    ("0_1_2/16_16/0_0_0", volume(61), {}, r"."),
    ("0_1_2/16_16_16/0_0", volume(61), {}, r"."),
    ("0_1_2/16_16_16/x_0_0", volume(61), {}, r"."),
    ("0_1_2/1048576_1048576_1048576/0_0_0", b"", {}, r"."),
    (f"0_1_2/16_16_16/{FAR}_0_0", volume(61), {}, r"."),
    (f"0_1_2/16_16_16/{-(2**31)}_0_0", volume(61), {}, r"."),
    (f"0_1_2/16_16_16/{2**31 - 16}_0_0", volume(61), {}, r"."),
]


@pytest.mark.parametrize(("rest", "data", "query", "says"), RAW, ids=[f"{r[0]}-{i}" for i, r in enumerate(RAW)])
def test_volumes_that_cannot_be(bench: Bench, rest: str, data: bytes, query: Mapping[str, str], says: str):
    for more in ({}, {"mutate": True}):
        refuses(bench, "POST", f"raw/{rest}", data, says, **query, **more)


# ---------------------------------------------------------------- messages


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return wire.varint(number << 3 | 2) + wire.varint(len(value)) + value
    return wire.varint(number << 3) + wire.varint(value)


INDEX = LabelIndex(1, {(0, 0, 1): {1: 3, 9: 4}, (-1, 0, 1): {1: 7}}, 5, "2020-01-01T00:00:00Z", "ann", "tests")


def test_indices_that_cannot_be(bench: Bench):
    good = wire.encode_index(INDEX)
    refuses(bench, "POST", "index/4", good, "label 1 yet was POSTed to label 4")
    refuses(bench, "POST", "index/0", wire.encode_index(LabelIndex(0, INDEX.blocks)), "Label 0")
    refuses(bench, "POST", "indices", wire.encode_indices([INDEX, LabelIndex(0, INDEX.blocks)]), "label 0")
    refuses(bench, "POST", "index/1", wire.encode_index(LabelIndex(1, {(0, 0, 1): {0: 3}})), "supervoxel 0")
    refuses(bench, "POST", "indices", wire.encode_indices([LabelIndex(1, {(0, 0, 1): {0: 3}})]), "supervoxel 0")
    both = [LabelIndex(1, {(0, 0, 1): {9: 3}}), LabelIndex(4, {(0, 0, 1): {9: 3}})]
    refuses(bench, "POST", "indices", wire.encode_indices(both), "supervoxel 9 is in two")
    far = field(1, field(1, 1 << 63) + field(2, field(1, field(1, 1) + field(2, 3)))) + field(2, 1)
    refuses(bench, "POST", "index/1", far, "63 bits")
    much = field(1, field(1, 5) + field(2, field(1, field(1, 1) + field(2, 2**32)))) + field(2, 1)
    refuses(bench, "POST", "index/1", much)
    most = field(1, field(1, 5) + field(2, field(1, field(1, 2**64 - 1) + field(2, 3)))) + field(2, 1)
    refuses(bench, "POST", "index/1", most, "18446744073709551615")
    last = wire.encode_indices([LabelIndex(2**64 - 1, {(0, 0, 1): {9: 3}})])
    refuses(bench, "POST", "indices", last, "18446744073709551615")
    for text in ("x", "-1", str(2**64)):
        refuses(bench, "POST", f"index/{text}", good, "label")
    for rest in ("indices", "indices-compressed"):
        refuses(bench, "GET", rest, b"[1, ", "list of labels")
        refuses(bench, "GET", rest, json.dumps(list(range(50_001))).encode(), "50,000")


@MANY
@given(cut=st.integers(0, 200), kind=st.sampled_from(["index/1", "indices", "mappings"]))
def test_a_message_that_is_cut(bench: Bench, cut: int, kind: str):
    whole = {
        "index/1": wire.encode_index(INDEX),
        "indices": wire.encode_indices([INDEX]),
        "mappings": wire.encode_mappings({40: [41, 2**40]}),
    }[kind]
    ends = {0}
    if kind == "index/1":  # where it ends between two fields it is a message, with another meaning
        at = 0
        for number, value in wire.fields(whole):
            at += len(field(number, value))
            ends.add(at)
    cut %= len(whole)
    if cut not in ends:
        refuses(bench, "POST", kind, whole[:cut], r"byte \d+|message")
    elif kind == "index/1" and cut and cut < len(whole) and not wire.decode_index(whole[:cut]).label:
        refuses(bench, "POST", kind, whole[:cut], "label")


def test_mappings_that_cannot_be(bench: Bench):
    for body, supervoxels, says in (
        (2**64 - 1, [40], "18446744073709551615"),
        (TOO_LARGE, [40], str(TOO_LARGE)),
        (40, [2**64 - 1], "18446744073709551615"),
    ):
        refuses(bench, "POST", "mappings", wire.encode_mappings({body: supervoxels}), says)
    for junk in (b"\x0a", b"\x0a\x05\x01", b"\x08", b"\xff" * 11, b"\x0b", b"\x0a\x02\x1a\x05"):
        refuses(bench, "POST", "mappings", junk, "MappingOps")


# ---------------------------------------------------------------- questions

LISTS: list[tuple[str, bytes, str]] = [
    ("labels", b"", r"list of points"),
    ("labels", b"[[1, 2]]", r"list of points"),
    ("labels", b"[[1, 2, 3, 4]]", r"list of points"),
    ("labels", b"[1, 2, 3]", r"list of points"),
    ("labels", b'[["1", 2, 3]]', r"list of points"),
    ("labels", b"[[1.5, 2, 3]]", r"list of points"),
    ("labels", b"[[9223372036854775808, 2, 3]]", r"list of points"),
    ("labels", b"[[1, 2, 3]", r"list of points"),
    ("labels", b"{}", r"list of points"),
    ("mapping", b"", r"list of labels"),
    ("mapping", b"[-1]", r"list of labels"),
    ("mapping", b"[18446744073709551616]", r"list of labels"),
    ("mapping", b"[1.0]", r"list of labels"),
    ("mapping", b"[1,]", r"list of labels"),
    ("mapping", b"[[1]]", r"list of labels"),
    ("sizes", b"[1 2]", r"list of labels"),
]


@pytest.mark.parametrize(("rest", "body", "says"), LISTS, ids=[f"{q[0]}-{i}" for i, q in enumerate(LISTS)])
def test_lists_that_cannot_be(bench: Bench, rest: str, body: bytes, says: str):
    refuses(bench, "GET", rest, body, says)
    good = b"[[1, 2, 3]]" if rest == "labels" else b"[1]"
    refuses(bench, "GET", rest, good, "content hash incorrect", hash="0" * 32)


QUESTIONS = [
    "label/1_2",
    "label/1_2_x",
    f"label/{2**31}_0_0",
    f"label/0_0_{2**64}",
    "index/0",
    "size/0",
    "supervoxels/0",
    "sparsevol/0",
    "sparsevol-coarse/0",
    "lastmod/0",
    "size/99",
    "sparsevol/99",
    "index/x",
    "size/-1",
    f"size/{2**64}",
    "sparsevols-coarse/x/9",
    "listlabels?number=10000001",
    "blocks/16_16_16/1_0_0",
    "blocks/16_16_8/0_0_0",
    "raw/0_1_2/16_16_16/0_0_0?compression=zip",
    "raw/0_1_2/16_16_16/0_0_0?scale=-1",
    "raw/0_1_2/99999_99999_99999/0_0_0",
    "specificblocks?blocks=1,2",
    "specificblocks?blocks=1,2,x",
    "specificblocks?blocks=0,0,0&compression=zip",
    "sparsevol/1?compression=zip",
    "sparsevol/1?minx=x",
    f"sparsevol/1?maxx={2**64}",
    "sparsevol-by-point/1_2",
    "history/0/a/b",
    "no-such-endpoint",
]


@pytest.mark.parametrize("rest", QUESTIONS)
def test_questions_that_cannot_be(bench: Bench, rest: str):
    path, _, query = rest.partition("?")
    pairs = dict(part.split("=") for part in query.split("&") if part)
    before = bench.last()
    with pytest.raises(Refused) as told:
        bench.labels.ask("GET", path, None, **pairs)
    assert 400 <= told.value.status < 500, told.value
    assert "\n" not in told.value.text
    assert "Traceback" not in told.value.text
    assert bench.last() == before


# ---------------------------------------------------------------- where it may not be


def test_what_is_committed_stays(bench: Bench):
    connection = bench.labels.connection
    uuid = connection.new_repo()
    connection.new_instance(uuid, "labels", BlockSize="16,16,16")
    past = Labels(connection, uuid)
    past.post_blocks({(0, 0, 0): cubes(1, 2, 3)})
    connection.commit(uuid)
    split = wire.encode_rles(np.array([[0, 0, 0, 1]], np.int32))
    for rest, body in (
        ("blocks", stream((PLACE, GOOD))),
        ("ingest-supervoxels", stream((PLACE, GOOD))),
        ("raw/0_1_2/16_16_16/0_0_0", volume(9)),
        ("merge", [1, 2]),
        ("cleave/1", [1]),
        ("renumber", [9, 1]),
        ("split-supervoxel/1", split),
        ("split/1", split),
        ("index/1", wire.encode_index(LabelIndex(1))),
        ("indices", wire.encode_indices([LabelIndex(1)])),
        ("mappings", wire.encode_mappings({1: [2]})),
        ("nextlabel/5", None),
    ):
        refuses(bench, "POST", rest, body, "committed|locked", past)


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ({"BlockSize": "7,7,7"}, "BlockSize"),
        ({"BlockSize": "16,16,20"}, "BlockSize"),
        ({"BlockSize": "0,16,16"}, "BlockSize"),
        ({"BlockSize": "-16,16,16"}, "BlockSize"),
        ({"BlockSize": "2048,2048,2048"}, "BlockSize"),
        ({"BlockSize": "x"}, "BlockSize"),
        ({"MaxDownresLevel": "-1"}, "MaxDownresLevel"),
        ({"MaxDownresLevel": "256"}, "MaxDownresLevel"),
        ({"IndexedLabels": "perhaps"}, "IndexedLabels|perhaps"),
    ],
)
def test_settings_that_cannot_be(bench: Bench, settings_: dict[str, str], says: str):
    before = bench.last()
    with pytest.raises(Refused, match=says) as told:
        bench.labels.connection.new_instance(bench.labels.uuid, "other", **settings_)
    assert told.value.status == 400
    assert bench.last() == before


# ---------------------------------------------------------------- unusual, and right


@pytest.fixture
def made(bench: Bench) -> Callable[..., Labels]:
    def make(**settings_: str) -> Labels:
        connection = bench.labels.connection
        uuid = connection.new_repo()
        connection.new_instance(uuid, "labels", **settings_)
        return Labels(connection, uuid)

    return make


@pytest.mark.parametrize("block", [(16, 16, 16), (32, 64, 16), (64, 64, 64)])
def test_blocks_of_any_shape_far_from_the_origin(made: Callable[..., Labels], block: tuple[int, int, int]):
    labels = made(BlockSize=",".join(map(str, block)), MaxDownresLevel="2")
    for corner in ((-3, 2, -1), (2**20 - 3, 0, -(2**20) + 1)):
        frame = Frame(block, (2, 1, 2), corner)
        state = State.empty(frame)
        chance = random.Random(sum(corner))
        blocks = {place: texture(chance, [0, 1, 2, 2**40, 2**63], frame.block_shape) for place in frame.places()}
        labels.post_blocks(blocks)
        np.testing.assert_array_equal(
            labels.raw(frame.start, frame.shape, supervoxels=True), assembled(state, blocks).voxels
        )
        for label in (1, 2**63):
            wanted = assembled(state, blocks).points([label])
            found = labels.sparsevol(label)
            np.testing.assert_array_equal(found[wire_within(found, frame)], wanted)
    assert labels.next_label() == 2**63 + 1


def assembled(state: State, blocks: Mapping[Any, Any]) -> State:
    state.write(dict(blocks))
    return state


def wire_within(points: wire.Points, frame: Frame) -> np.ndarray:
    start = np.array(frame.start)
    return ((points >= start) & (points < start + np.array(frame.shape[::-1]))).all(axis=1)


def test_a_labelmap_without_index(bench: Bench, made: Callable[..., Labels]):
    labels = made(BlockSize="16,16,16", IndexedLabels="false")
    labels.post_blocks({(0, 0, 0): cubes(1, 2, 3)})
    np.testing.assert_array_equal(labels.raw((0, 0, 0), (16, 16, 16)), cubes(1, 2, 3))
    assert labels.label((0, 0, 0)) == 1
    for rest, body in (("merge", [1, 2]), ("cleave/1", [1]), ("nextlabel/1", None)):
        refuses(bench, "POST", rest, body, "not label indexed", labels)
    labels.post_mappings({1: [2]})
    assert labels.mapping([1, 2, 3], nolookup=True) == [1, 1, 3]
    assert labels.label((1, 0, 0)) == 1


def test_a_labelmap_without_versions(made: Callable[..., Labels]):
    labels = made(BlockSize="16,16,16", Versioned="false")
    labels.post_blocks({(0, 0, 0): cubes(1, 2, 3)})
    labels.merge(1, [2])
    labels.connection.commit(labels.uuid)
    later = labels.at(labels.connection.child(labels.uuid, "more"))
    assert later.listlabels() == [1, 3]
    cleaved, _ = later.cleave(1, [2])
    for at in (labels, later):
        assert at.listlabels() == [1, 3, cleaved]
        assert at.supervoxels(cleaved) == {2}
        assert at.label((1, 0, 0)) == cleaved
        np.testing.assert_array_equal(at.sparsevol(cleaved)[0], [1, 0, 0])


def test_the_largest_labels_there_are(bench: Bench, made: Callable[..., Labels]):
    labels = made(BlockSize="16,16,16")
    top = 2**64 - 2
    labels.post_blocks({(0, 0, 0): cubes(1, top, 2**63, 0)})
    assert labels.listlabels() == [1, 2**63, top]
    assert labels.label((1, 0, 0)) == top
    assert labels.sizes([top, 2**63]) == [1024, 1024]
    labels.merge(top, [1])
    assert labels.supervoxels(top) == {1, top}
    refuses(bench, "POST", f"cleave/{top}", [1], "overflow", labels)
    refuses(bench, "POST", "nextlabel/1", None, "overflow", labels)
    np.testing.assert_array_equal(labels.sparsevol(top)[:2], [[0, 0, 0], [1, 0, 0]])
