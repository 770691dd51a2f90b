"""keyvalue over HTTP: single values and byte ranges, lists, batches in their three forms, long values, tombstones."""

from __future__ import annotations

import http.client
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import live
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Served, fresh, key_list, keyvalues, one_line, read_keyvalues

from dvidfs.engine.check import check_store
from dvidfs.types.builtin import registry

MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with fresh(tmp_path_factory.mktemp("keyvalue") / "store", admin_token="secret") as running:
        yield running
        report = check_store(running.engine, deep=True, verifier=lambda name: registry()[name].verify)
        assert report.problems == []


@pytest.fixture
def kv(server: Served) -> str:
    """The path of a new instance in a new repo."""
    uuid = server.post("/api/repos?admintoken=secret", {}).ok().json()["root"]
    server.new_instance(uuid)
    return f"/api/node/{uuid}/kv"


def spell(key: str) -> str:
    return quote(key, safe="")


# -- single values -----------------------------------------------------------------------------------------------


def test_a_value_is_stored_read_replaced_and_deleted(server: Served, kv: str):
    path = f"{kv}/key/a"
    assert server.get(path).status == server.head(path).status == 404
    assert one_line(server.get(path)) == 'Key "a" not found'
    assert server.post(path, b"one").ok().body == b""
    reply = server.get(path).ok()
    assert (reply.body, reply.headers["Content-Type"]) == (b"one", "application/octet-stream")
    assert server.head(path).ok().headers["Content-Length"] == "3"
    server.post(path, b"other").ok()
    assert server.get(path).body == b"other"
    server.delete(path).ok()
    assert server.get(path).status == server.head(path).status == 404
    server.delete(path).ok()


def test_a_committed_version_does_not_change(server: Served, kv: str):
    uuid = kv.split("/")[3]
    server.post(f"{kv}/key/a", b"one").ok()
    server.commit(uuid)
    for method, path, body in [
        ("POST", "key/a", b"two"),
        ("POST", "key/b", b"two"),
        ("DELETE", "key/a", None),
        ("POST", "keyvalues", keyvalues({b"a": b"two"})),
        ("POST", "tags", b"{}"),
    ]:
        refused = server.request(method, f"{kv}/{path}", body)
        assert refused.status == 400
        assert "locked node" in one_line(refused)
    assert server.get(f"{kv}/key/a").body == b"one"
    assert server.get(f"{kv}/keys").json() == ["a"]


def test_children_see_their_ancestors_and_hide_what_they_delete(server: Served, kv: str):
    root = kv.split("/")[3]
    for key in "abc":
        server.post(f"{kv}/key/{key}", b"root").ok()
    server.commit(root)
    one, two = server.child(root), server.child(root, "side")
    server.delete(f"/api/node/{one}/kv/key/a").ok()
    server.post(f"/api/node/{one}/kv/key/b", b"one").ok()
    server.post(f"/api/node/{two}/kv/key/d", b"two").ok()
    assert server.get(f"/api/node/{one}/kv/keys").json() == ["b", "c"]
    assert server.get(f"/api/node/{two}/kv/keys").json() == ["a", "b", "c", "d"]
    assert server.get(f"/api/node/{one}/kv/key/a").status == 404
    assert [server.get(f"/api/node/{u}/kv/key/b").body for u in (root, one, two)] == [b"root", b"one", b"root"]


def test_an_administrator_may_rewrite_history(server: Served, kv: str):
    server.post(f"{kv}/key/a", b"one").ok()
    server.commit(kv.split("/")[3])
    before = server.get(f"{kv}/key/a").headers["ETag"]
    assert server.post(f"{kv}/key/a?admintoken=wrong", b"two").status == 400
    server.post(f"{kv}/key/a?admintoken=secret", b"two").ok()
    after = server.get(f"{kv}/key/a", headers={"If-None-Match": before})
    assert (after.status, after.body) == (200, b"two")


@pytest.mark.parametrize(
    "key",
    ["a", " ", "a b", "..", ".", "...", ".hidden", "ü", "😀", "a\0b", "\0", "\x01", "\x7f", "a?b#c", "%2F", "a+b", '"', "\\", "é" * 512,
     "k" * 1024, "\n", "key", "keys", "a\tb"],
)  # fmt: skip
def test_any_key_without_a_slash_can_be_spelled(server: Served, kv: str, key: str):
    path = f"{kv}/key/{spell(key).replace('.', '%2E')}"
    server.post(path, key.encode()).ok()
    assert server.get(path).ok().body == key.encode()
    assert server.get(f"{kv}/keys").json() == [key]
    assert server.get(f"{kv}/keyrangevalues/{spell(key).replace('.', '%2E')}/%F4%8F?json=true&check=false").status in (
        200,
        400,
    )
    ends = f"{spell(key).replace('.', '%2E')}/{spell(key).replace('.', '%2E')}"
    assert read_keyvalues(server.get(f"{kv}/keyrangevalues/{ends}").body) == {key.encode(): key.encode()}
    assert server.get(f"{kv}/keyrange/{ends}").json() == [key]
    server.delete(path).ok()
    assert server.get(f"{kv}/keys").json() == []


def test_keys_with_slashes_work_in_batches(server: Served, kv: str):
    server.post(f"{kv}/keyvalues", keyvalues({b"a/b": b"1", b"/": b"2"})).ok()
    assert server.get(f"{kv}/keys").json() == ["/", "a/b"]
    assert server.request("GET", f"{kv}/keyvalues?json=true", ["a/b"]).json() == {"a/b": 1}


def test_keys_beyond_the_limits_are_refused(server: Served, kv: str):
    before = server.counts()
    assert server.post(f"{kv}/key/{'k' * 1025}", b"v").status == 400
    assert server.post(f"{kv}/key/{spell('é' * 513)}", b"v").status == 400
    assert server.post(f"{kv}/key/", b"v").status == 400
    assert server.post(f"{kv}/keyvalues", keyvalues({b"good": b"v", b"k" * 1025: b"v"})).status == 400
    assert server.post(f"{kv}/keyvalues", keyvalues({b"good": b"v", b"": b"v"})).status == 400
    assert server.counts() == before


@pytest.mark.parametrize(
    "size", [0, 1, 63, 64, 65, 127, 128, 4096, 65_535, 65_536, 65_537, MIB - 1, MIB, MIB + 1, 2 * MIB + 1]
)
@pytest.mark.parametrize("noise", [True, False])
def test_values_of_every_size_come_back(server: Served, kv: str, size: int, noise: bool):
    value = os.urandom(size) if noise else b"z" * size
    server.post(f"{kv}/key/v", value).ok()
    reply = server.get(f"{kv}/key/v").ok()
    assert reply.body == value
    assert reply.headers["Content-Length"] == str(size)
    assert server.head(f"{kv}/key/v").headers["Content-Length"] == str(size)
    if size:
        assert read_keyvalues(server.get(f"{kv}/keyrangevalues/a/z").body) == {b"v": value}


# -- byte ranges -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long(server: Served) -> tuple[str, bytes]:
    """A value in four pieces."""
    uuid = server.post("/api/repos?admintoken=secret", {}).ok().json()["root"]
    server.new_instance(uuid)
    value = os.urandom(3 * MIB + 1000)
    server.post(f"/api/node/{uuid}/kv/key/long", value).ok()
    return f"/api/node/{uuid}/kv/key/long", value


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_window_of_a_long_value(server: Served, long: tuple[str, bytes], data: st.DataObject):
    path, value = long
    points = st.one_of(
        st.integers(0, len(value) - 1),
        st.sampled_from([n * MIB + d for n in (0, 1, 2, 3) for d in (-1, 0, 1) if 0 <= n * MIB + d < len(value)]),
    )
    start, end = sorted([data.draw(points), data.draw(points)])
    reply = server.get(path, headers={"Range": f"bytes={start}-{end}"})
    assert (reply.status, reply.body) == (206, value[start : end + 1])
    assert reply.headers["Content-Range"] == f"bytes {start}-{end}/{len(value)}"
    assert reply.headers["Content-Length"] == str(end + 1 - start)
    asked = server.get(f"{path}?byte_start={start}&byte_end={end}")
    assert (asked.status, asked.body) == (200, value[start : end + 1])
    assert server.get(path, headers={"Range": f"bytes={start}-"}).body == value[start:]
    if start:
        assert server.get(path, headers={"Range": f"bytes=-{start}"}).body == value[-start:]


def test_ranges_that_lie_outside(server: Served, long: tuple[str, bytes]):
    path, value = long
    for asked in (f"bytes={len(value)}-", f"bytes={len(value)}-{len(value) + 5}", "bytes=-0"):
        reply = server.get(path, headers={"Range": asked})
        assert (reply.status, reply.headers["Content-Range"]) == (416, f"bytes */{len(value)}")
        one_line(reply)
    assert server.get(path, headers={"Range": f"bytes=5-{10 * len(value)}"}).body == value[5:]
    assert server.get(path, headers={"Range": f"bytes=-{10 * len(value)}"}).body == value
    for start, end in ((0, len(value)), (len(value), len(value)), (5, 4), (-1, 4), ("", 4), (0, "x"), (0, 1 << 64)):
        reply = server.get(f"{path}?byte_start={start}&byte_end={end}")
        assert reply.status == 400
        one_line(reply)
    both = server.get(f"{path}?byte_start=0&byte_end=1", headers={"Range": "bytes=0-1"})
    assert both.status == 400


# -- lists -------------------------------------------------------------------------------------------------------

LISTED = [
    b"A",
    b"a",
    b"aa",
    b"ab",
    b"b",
    b"b\0",
    b"b\0c",
    b"p" * 500,
    b"p" * 500 + b"a",
    b"p" * 400,
    b"\xc3\xbc",
    b"\xff\xfe",
]


@pytest.fixture(scope="module")
def listed(server: Served) -> str:
    uuid = server.post("/api/repos?admintoken=secret", {}).ok().json()["root"]
    server.new_instance(uuid)
    for key in LISTED:
        server.post(f"/api/node/{uuid}/kv/key/{quote(key, safe='')}", b"<" + key + b">").ok()
    return f"/api/node/{uuid}/kv"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.sampled_from(LISTED), last=st.sampled_from(LISTED))
def test_ranges_of_keys_hold_both_ends(server: Served, listed: str, first: bytes, last: bytes):
    inside = sorted(k for k in LISTED if first <= k <= last)
    ends = f"{quote(first, safe='')}/{quote(last, safe='')}"
    assert server.get(f"{listed}/keyrange/{ends}").ok().json() == [k.decode(errors="replace") for k in inside]
    found = read_keyvalues(server.get(f"{listed}/keyrangevalues/{ends}").ok().body)
    assert list(found.items()) == [(k, b"<" + k + b">") for k in inside]
    with tarfile.open(fileobj=io.BytesIO(server.get(f"{listed}/keyrangevalues/{ends}?tar=true").ok().body)) as tar:
        members = [(m.name, (tar.extractfile(m) or io.BytesIO()).read()) for m in tar]
    assert [value for _, value in members] == [b"<" + key + b">" for key in inside]
    for key, (name, _) in zip(inside, members, strict=True):
        assert name == key.partition(b"\0")[0].decode(errors="surrogateescape"), "a tar name ends at NUL"


def test_an_empty_instance_lists_nothing(server: Served, kv: str):
    assert server.get(f"{kv}/keys").json() == []
    assert server.get(f"{kv}/keyrange/a/z").json() == []
    assert server.get(f"{kv}/keyrangevalues/a/z").body == b""
    assert server.get(f"{kv}/keyrangevalues/a/z?json=true").json() == {}
    with tarfile.open(fileobj=io.BytesIO(server.get(f"{kv}/keyrangevalues/a/z?tar=true").body)) as tar:
        assert tar.getnames() == []
    assert server.get(f"{kv}/mutations").json() == []


# -- batches -----------------------------------------------------------------------------------------------------


def test_json_form(server: Served, kv: str):
    pairs = {b"one": b"1", b"list": b"[1, 2]", b"text": '"ü"'.encode(), b'quo"te': b"{}", b"empty": b""}
    server.post(f"{kv}/keyvalues", keyvalues(pairs)).ok()
    assert server.get(f"{kv}/keyrangevalues/a/z?json=true").json() == {
        k.decode(): json.loads(v) for k, v in pairs.items() if v
    }
    asked = ["one", "missing", "empty", "text"]
    assert server.request("GET", f"{kv}/keyvalues?json=true", asked).json() == {
        "one": 1, "missing": {}, "empty": {}, "text": "ü"
    }  # fmt: skip
    part = [{"key": "list", "byte_start": 1, "byte_end": 1}, "one"]
    assert server.request("GET", f"{kv}/keyvalues?json=true", part).json() == {"list": 1, "one": 1}
    server.post(f"{kv}/key/not-json", b"not json").ok()
    assert server.get(f"{kv}/keyrangevalues/a/z?json=true").body.count(b"not json") == 1
    assert server.request("GET", f"{kv}/keyvalues?json=true&check=true", ["not-json"]).status == 400
    for body in ([{"key": "list", "byte_start": 0, "byte_end": 2}], [{"key": "list", "byte_start": 0, "byte_end": 99}]):
        assert server.request("GET", f"{kv}/keyvalues?json=true", body).status == 400


def test_tar_form(server: Served, kv: str):
    pairs = {b"a": b"1", b"long" * 100: b"2" * 513, "ü".encode(): os.urandom(70_000), b"z": b"4" * 512}
    server.post(f"{kv}/keyvalues", keyvalues(pairs)).ok()
    asked = [k.decode() for k in pairs]
    for form in ("tar", "jsontar"):
        reply = server.request("GET", f"{kv}/keyvalues?{form}=true", [*asked, "missing"]).ok()
        assert reply.headers["Content-Type"] == "application/tar"
        with tarfile.open(fileobj=io.BytesIO(reply.body)) as tar:
            found = {m.name: (tar.extractfile(m) or io.BytesIO()).read() for m in tar}
        assert found == {**{k.decode(): v for k, v in pairs.items()}, "missing": b""}
    assert server.get(f"{kv}/keyrangevalues/a/z?json=true&tar=true").status == 400


def test_protobuf_form(server: Served, kv: str):
    pairs = {b"k%03d" % i: os.urandom(i * 7) for i in range(1, 300)}
    server.post(f"{kv}/keyvalues", keyvalues(pairs)).ok()
    asked = [*list(pairs)[::-1], b"missing"]
    found = read_keyvalues(server.request("GET", f"{kv}/keyvalues", key_list(asked)).ok().body)
    assert list(found) == asked
    assert found == {**pairs, b"missing": b""}


def test_a_batch_is_stored_whole_or_not_at_all(server: Served, kv: str):
    server.post(f"{kv}/key/a", b"before").ok()
    good = keyvalues({b"a": b"new", b"b": b"new"})
    before = server.counts()
    for bad in (
        keyvalues({b"\xff": b"v"}),
        good[:-1],
        good + b"\x0a",
        good + b"\x0a\x7f",
        good + b"\xff" * 20,
        good + keyvalues({b"x" * 1025: b"v"}),
        good + keyvalues({b"": b"v"}),
        b"not a message",
    ):
        reply = server.post(f"{kv}/keyvalues", bad)
        assert reply.status == 400, bad
        one_line(reply)
    assert server.counts() == before
    assert server.get(f"{kv}/key/a").body == b"before"
    server.post(f"{kv}/keyvalues", good).ok()
    assert server.get(f"{kv}/keys").json() == ["a", "b"]


def test_of_equal_keys_the_last_counts(server: Served, kv: str):
    body = keyvalues({b"a": b"1", b"b": b"2"}) + keyvalues({b"a": b"3"})
    server.post(f"{kv}/keyvalues", body).ok()
    assert read_keyvalues(server.get(f"{kv}/keyrangevalues/a/z").body) == {b"a": b"3", b"b": b"2"}


def test_a_batch_replaces_and_revives(server: Served, kv: str):
    pairs = {b"a": b"1", b"b": b"2" * 200, b"p" * 600: b"3", b"c": b"4" * 5000}
    server.post(f"{kv}/keyvalues", keyvalues(pairs)).ok()
    server.delete(f"{kv}/key/a").ok()
    again = {k: v + b"!" for k, v in pairs.items()}
    server.post(f"{kv}/keyvalues", keyvalues(again)).ok()
    assert read_keyvalues(server.get(f"{kv}/keyrangevalues/a/z").body) == again


def test_long_values_in_a_batch(server: Served, kv: str):
    pairs = {b"a": os.urandom(3 * MIB + 5), b"b": b"small", b"c": b"z" * (2 * MIB)}
    server.post(f"{kv}/keyvalues", keyvalues(pairs)).ok()
    for key, value in pairs.items():
        assert server.get(f"{kv}/key/{key.decode()}").body == value
    assert read_keyvalues(server.get(f"{kv}/keyrangevalues/a/z").body) == pairs


def test_an_empty_batch_is_no_error(server: Served, kv: str):
    server.post(f"{kv}/keyvalues", b"").ok()
    assert server.get(f"{kv}/keys").json() == []
    assert server.request("GET", f"{kv}/keyvalues", b"").ok().body == b""
    assert server.request("GET", f"{kv}/keyvalues?json=true", []).json() == {}


@pytest.mark.parametrize("body", [b"{", b"5", b'"a"', b"[1]", b"[[]]", b'[{"key": 1}]', b'[{"key": "a", "byte_start": -1, "byte_end": 2}]',
                                  b'[{"key": "a", "byte_start": 1}]', b'[{"key": "a", "byte_start": 1.5, "byte_end": 2}]', b"[null]",
                                  b'[{"key": "", "byte_start": 0, "byte_end": 2}]'])  # fmt: skip
@pytest.mark.parametrize("form", ["json", "tar", "jsontar"])
def test_malformed_lists_of_keys_are_refused(server: Served, kv: str, body: bytes, form: str):
    reply = server.request("GET", f"{kv}/keyvalues?{form}=true", body)
    assert reply.status == 400
    one_line(reply)


# -- conflicts ---------------------------------------------------------------------------------------------------


def test_a_conflicted_key_is_refused_and_left_out_of_lists(server: Served, kv: str):
    root = kv.split("/")[3]
    server.commit(root)
    sides = [server.child(root, name) for name in ("x", "y")]
    for side in sides:
        server.post(f"/api/node/{side}/kv/key/both", side.encode()).ok()
        server.post(f"/api/node/{side}/kv/key/{side}", b"1").ok()
        server.commit(side)
    merge = {"mergeType": "conflict-free", "parents": sides}
    reply = server.post(f"/api/repo/{root}/merge", merge).ok().json()
    assert reply["conflicts"] == {"kv": {"count": 1, "keys": ["both"]}}
    here = f"/api/node/{reply['child']}/kv"
    refused = server.get(f"{here}/key/both")
    assert refused.status == 400
    assert all(side in one_line(refused) for side in sides)
    assert server.head(f"{here}/key/both").status == 400
    assert server.get(f"{here}/keys").json() == sorted(sides)
    assert server.get(f"{here}/keyrange/0/z").json() == sorted(sides)
    assert read_keyvalues(server.get(f"{here}/keyrangevalues/0/z").ok().body) == {s.encode(): b"1" for s in sides}
    assert server.request("GET", f"{here}/keyvalues?json=true", ["both"]).status == 400
    server.post(f"{here}/key/both", b"settled").ok()
    assert server.get(f"{here}/key/both").body == b"settled"


# -- long values, bounded memory ---------------------------------------------------------------------------------


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that is its own; what it maps of the store's file does not count."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def test_long_values_stream_both_ways_in_bounded_memory(store_path: Path, tmp_path: Path):
    with live.Server(store_path, "--durability", "periodic", log=tmp_path / "log") as server:
        root = server.post("/api/repos", {}).ok().json()["root"]
        server.post(f"/api/repo/{root}/instance", {"typename": "keyvalue", "dataname": "kv"}).ok()
        chunk = os.urandom(MIB)
        seen = [anonymous_bytes(server.pid)]

        def body() -> Iterator[bytes]:
            for _ in range(160):
                seen.append(anonymous_bytes(server.pid))
                yield chunk

        path = f"/api/node/{root}/kv/key/long"
        server.post(path, body()).ok()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("GET", path)
        reply = connection.getresponse()
        assert reply.headers["Content-Length"] == str(160 * MIB)
        while part := reply.read(MIB):
            assert part == chunk
            seen.append(anonymous_bytes(server.pid))
        connection.close()
        assert len(seen) > 320
        assert max(seen) - seen[0] < 64 * MIB


@pytest.mark.parametrize("cuts", [[1], [65_536, 65_536, 1], [MIB, 1], [1, MIB, MIB], [3 * MIB]])
def test_chunked_uploads(server: Served, kv: str, cuts: list[int]):
    value = os.urandom(sum(cuts))

    def body() -> Iterator[bytes]:
        at = 0
        for cut in cuts:
            yield value[at : at + cut]
            at += cut

    server.post(f"{kv}/key/v", body()).ok()
    assert server.get(f"{kv}/key/v").body == value


def test_a_replaced_long_value_can_be_read_to_its_end(server: Served, kv: str):
    old, new = os.urandom(12 * MIB), b"new"
    server.post(f"{kv}/key/v", old).ok()
    connection = server.connect()
    connection.request("GET", f"{kv}/key/v")
    reply = connection.getresponse()
    first = reply.read(1000)
    server.post(f"{kv}/key/v", new).ok()
    assert first + reply.read() == old
    connection.close()
    assert server.get(f"{kv}/key/v").body == new


# -- the log of changes ------------------------------------------------------------------------------------------


def test_mutations_are_logged_with_rising_ids(server: Served, kv: str):
    server.post(f"{kv}/key/a?u=ann&app=x", b"123").ok()
    server.post(f"{kv}/keyvalues", keyvalues({b"b": b"1", b"c": b"22"})).ok()
    server.delete(f"{kv}/key/a").ok()
    log = server.get(f"{kv}/mutations").ok().json()
    assert [(r["Action"], r["Key"]) for r in log] == [
        ("postkv", "a"),
        ("postkv", "b"),
        ("postkv", "c"),
        ("delete", "a"),
    ]
    ids = [r["MutationID"] for r in log]
    assert ids == sorted(ids)
    assert not any("User" in r for r in log)
    who: list[dict[str, Any]] = server.get(f"{kv}/mutations?who=true").json()
    assert (who[0]["User"], who[0]["App"]) == ("ann", "x")
    uuid = kv.split("/")[3]
    assert server.get(f"{kv}/mutations-range/{uuid}/{uuid}").json() == log
    assert server.get(f"{kv}/mutations-range/{uuid}/{uuid}?rangefmt=nonsense").status == 400
    assert server.get(f"{kv}/mutations-range/{uuid}/nonsense").status == 400
