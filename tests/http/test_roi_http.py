"""roi over HTTP: verbs, statuses, caching, committed versions, bodies of every kind."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from serving import Served, fresh, one_line

from dvidfs.engine.check import check_store
from dvidfs.types.builtin import registry

SPANS = [[-1, 0, 0, 0], [0, 0, 0, 3], [0, 1, 1, 1], [0, 1, 5, 6], [1, 0, 2, 2], [3, -2, -4, -1]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with fresh(tmp_path_factory.mktemp("roi") / "store", admin_token="secret") as running:
        yield running
        report = check_store(running.engine, deep=True, verifier=lambda name: registry()[name].verify)
        assert report.problems == []


@pytest.fixture
def uuid(server: Served) -> str:
    return server.post("/api/repos?admintoken=secret", {}).ok().json()["root"]


@pytest.fixture
def roi(server: Served, uuid: str) -> str:
    """The path of a new instance in a new repo."""
    server.post(f"/api/repo/{uuid}/instance", {"typename": "roi", "dataname": "r"}).ok()
    return f"/api/node/{uuid}/r"


def test_spans_are_posted_answered_and_deleted(server: Served, roi: str):
    assert server.get(f"{roi}/roi").ok().json() == []
    reply = server.post(f"{roi}/roi", list(reversed(SPANS))).ok()
    assert (reply.body, reply.headers.get("Content-Type")) == (b"", None)
    reply = server.get(f"{roi}/roi").ok()
    assert (reply.json(), reply.headers["Content-Type"]) == (SPANS, "application/json")
    assert int(reply.headers["Content-Length"]) == len(reply.body)
    info = server.get(f"{roi}/info").ok().json()
    assert info["Base"]["TypeName"] == "roi"
    assert info["Extended"] == {"BlockSize": [32, 32, 32], "MinZ": -1, "MaxZ": 3}
    assert server.delete(f"{roi}/roi").ok().body == b""
    assert server.get(f"{roi}/roi").ok().json() == []


def test_an_answer_that_is_known_is_not_sent_again(server: Served, roi: str):
    server.post(f"{roi}/roi", SPANS).ok()
    tag = server.get(f"{roi}/roi").ok().headers["ETag"]
    assert server.get(f"{roi}/roi", headers={"If-None-Match": tag}).status == 304
    server.post(f"{roi}/roi", []).ok()
    assert server.get(f"{roi}/roi", headers={"If-None-Match": tag}).ok().json() == []


def test_masks_and_points_agree(server: Served, roi: str):
    server.post(f"{roi}/roi", SPANS).ok()
    reply = server.get(f"{roi}/mask/0_1_2/70_40_50/-20_-8_-40").ok()
    assert reply.headers["Content-Type"] == "application/octet-stream"
    mask = np.frombuffer(reply.body, np.uint8).reshape(50, 40, 70)
    points = [[x - 20, y - 8, z - 40] for z in range(50) for y in range(40) for x in range(70)]
    told = server.post(f"{roi}/ptquery", points).ok()
    assert told.headers["Content-Type"] == "application/json"
    assert np.array(told.json()).reshape(mask.shape).tolist() == mask.astype(bool).tolist()
    assert 0 < mask.mean() < 1


def test_a_long_mask_is_sent_in_pieces(server: Served, roi: str):
    server.post(f"{roi}/roi", [[0, 0, 0, 3], [9, 9, 9, 9]]).ok()
    reply = server.get(f"{roi}/mask/0_1_2/512_300_300/0_0_0").ok()
    mask = np.frombuffer(reply.body, np.uint8).reshape(300, 300, 512)
    assert mask.sum() == 4 * 32**3 + 12 * 12 * 32
    assert mask[:32, :32, :128].all()
    assert mask[288:, 288:, 288:320].all()


def test_committed_versions_answer_points_and_take_no_spans(server: Served, uuid: str, roi: str):
    server.post(f"{roi}/roi", SPANS).ok()
    server.commit(uuid)
    assert server.post(f"{roi}/ptquery", [[0, 0, 0], [500, 0, 0]]).ok().json() == [True, False]
    assert server.post(f"{roi}/ptquery/", [[0, 0, 0]]).ok().json() == [True]
    for reply in (server.post(f"{roi}/roi", []), server.delete(f"{roi}/roi"), server.request("PUT", f"{roi}/roi")):
        assert reply.status == 400
        assert "locked" in one_line(reply)
    assert server.get(f"{roi}/roi").ok().json() == SPANS


def test_verbs_as_the_original_takes_them(server: Served, roi: str):
    server.post(f"{roi}/roi", SPANS).ok()
    for verb in ("HEAD", "PUT", "PATCH"):
        assert server.request(verb, f"{roi}/roi").ok().body == b""
    for verb in ("HEAD", "PUT", "DELETE"):
        assert server.request(verb, f"{roi}/ptquery").ok().body == b""
    for verb in ("POST", "DELETE", "PUT"):
        assert server.request(verb, f"{roi}/mask/0_1_2/3_3_3/0_0_0").status == 400
        assert server.request(verb, f"{roi}/partition?batchsize=4").status == 400
    for path in ("ptquery", "tags", "sync", "ROI", "mask", "mask/0_1_2", "mask/0_1_2/3_3_3", "partition"):
        assert server.get(f"{roi}/{path}").status == 400, path
    assert server.get(f"{roi}/help").ok().headers["Content-Type"] == "text/plain"
    assert server.get(f"{roi}/roi").ok().json() == SPANS


@pytest.mark.parametrize("path", ["roi", "ptquery"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"{}", b"[5]", b'[["a",0,0,0]]', b"[[1.5,0,0,0]]", b"[[2147483648,0,0,0]]"]
)
def test_bodies_that_are_no_list_of_rows(server: Served, roi: str, path: str, body: bytes):
    server.post(f"{roi}/roi", SPANS).ok()
    before = server.counts()
    reply = server.post(f"{roi}/{path}", body)
    assert reply.status == 400
    assert "want" in one_line(reply) or "JSON" in one_line(reply)
    assert server.counts() == before


def test_partitions(server: Served, roi: str):
    server.post(f"{roi}/roi", SPANS).ok()
    simple = server.get(f"{roi}/partition?batchsize=2").ok().json()
    assert simple["NumActiveBlocks"] == 13
    assert simple["NumSubvolumes"] == len(simple["Subvolumes"])
    close = server.get(f"{roi}/partition?batchsize=2&optimized=on").ok().json()
    assert close["NumActiveBlocks"] == 13
    for bad in ("", "?batchsize=", "?batchsize=x", "?batchsize=0", "?batchsize=-2", "?batchsize=2147483648"):
        assert "batchsize" in one_line(server.get(f"{roi}/partition{bad}"))


def test_many_spans(server: Served, roi: str):
    spans = [[z, y, 2 + (y * 7 + z) % 5, 60 - (y + z) % 9] for z in range(128) for y in range(128)]
    server.post(f"{roi}/roi", json.dumps(spans).encode()).ok()
    assert server.get(f"{roi}/roi").ok().json() == spans
    blocks = np.random.default_rng(0).integers(-1, 130, (10_000, 3)).tolist()
    inside = [0 <= y < 128 and 0 <= z < 128 and 2 + (y * 7 + z) % 5 <= x <= 60 - (y + z) % 9 for x, y, z in blocks]
    points = [[32 * x + 31, 32 * y, 32 * z + 7] for x, y, z in blocks]
    assert server.post(f"{roi}/ptquery", points).ok().json() == inside
