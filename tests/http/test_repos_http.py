"""Repos and versions over HTTP: their life, merges and conflicts, logs and tags, and who may do what in which mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Served, fresh, one_line, serving

from dvidfs.engine import Store, open_engine
from dvidfs.engine.check import check_store


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with fresh(tmp_path_factory.mktemp("repos") / "store") as running:
        yield running
        assert check_store(running.engine, deep=True).problems == []


@pytest.fixture
def root(server: Served) -> str:
    """The open root of a new repo with one instance."""
    uuid = server.new_repo(alias="r")
    server.new_instance(uuid)
    return uuid


def refused(reply: Any, *words: str, status: int = 400) -> None:
    assert reply.status == status, reply.body
    text = one_line(reply)
    assert all(word in text for word in words), text


def put(server: Served, uuid: str, key: str, value: bytes) -> None:
    server.post(f"/api/node/{uuid}/kv/key/{key}", value).ok()


def sides(server: Served, root: str, values: dict[str, dict[str, bytes | None]]) -> list[str]:
    """Committed branches of a root, which it commits; each with these values (None: deleted)."""
    server.commit(root)
    out = []
    for branch, pairs in values.items():
        uuid = server.child(root, branch)
        for key, value in pairs.items():
            if value is None:
                server.delete(f"/api/node/{uuid}/kv/key/{key}").ok()
            else:
                put(server, uuid, key, value)
        server.commit(uuid)
        out.append(uuid)
    return out


def merge(server: Served, root: str, parents: list[str], **more: Any) -> Any:
    return server.post(f"/api/repo/{root}/merge", {"mergeType": "conflict-free", "parents": parents, **more})


# -- life --------------------------------------------------------------------------------------------------------


def test_a_repo_from_birth_to_branches(server: Served):
    root = server.new_repo(alias="first", description="about it")
    info = server.get(f"/api/repo/{root}/info").ok().json()
    assert (info["Root"], info["Alias"], info["Description"], info["DataInstances"]) == (root, "first", "about it", {})
    assert set(info["DAG"]["Nodes"]) == {root}
    assert server.get("/api/repos/info").json()[root] == info
    assert server.head(f"/api/repo/{root}").status == 200
    assert server.head("/api/repo/0000").status == 400
    server.post(f"/api/repo/{root}/info", {"alias": "other"}).ok()
    after = server.get(f"/api/repo/{root}/info").json()
    assert (after["Alias"], after["Description"]) == ("other", "about it")

    server.new_instance(root)
    put(server, root, "a", b"1")
    assert server.get(f"/api/node/{root}/status").json() == {"Locked": False}
    server.post(f"/api/node/{root}/commit", {"note": "done", "log": ["one", "two"]}).ok()
    assert server.get(f"/api/node/{root}/commit").json() == {"Locked": True}
    assert server.get(f"/api/node/{root}/note").json() == {"note": "done"}
    assert [line.split("  ")[1] for line in server.get(f"/api/node/{root}/log").json()["log"]] == ["one", "two"]
    refused(server.post(f"/api/node/{root}/commit", {}), "locked")

    trunk = server.post(f"/api/node/{root}/newversion", {"note": "next", "uuid": "f" * 32}).ok().json()["child"]
    assert trunk == "f" * 32
    side = server.child(root, "side")
    nodes = server.get(f"/api/repo/{root}/info").json()["DAG"]["Nodes"]
    assert {u: (n["Branch"], n["Locked"], n["Note"]) for u, n in nodes.items()} == {
        root: ("", True, "done"),
        trunk: ("", False, "next"),
        side: ("side", False, ""),
    }
    assert sorted(nodes[root]["Children"]) == sorted([nodes[trunk]["VersionID"], nodes[side]["VersionID"]])
    assert nodes[side]["Parents"] == [nodes[root]["VersionID"]]
    assert server.get(f"/api/repo/{root}/branch-versions/master").json() == [trunk, root]
    assert server.get(f"/api/repo/{root}/branch-versions/side").json() == [side, root]
    assert server.get(f"/api/repo/{root}/branch-versions/none").json() == []
    for spec, uuid in [
        (f"{root[:8]}:master", trunk),
        (f"{root[:8]}:master~1", root),
        (f"{root}:side", side),
        (f"{side[:12]}:side~1", root),
        ("f" * 10, trunk),
    ]:
        assert server.get(f"/api/node/{spec}/kv/key/a").ok().body == b"1"
        put_to = server.post(f"/api/node/{spec}/kv/key/b", b"2").status
        assert put_to == (400 if uuid == root else 200)


def test_children_only_of_committed_versions_and_one_for_each_branch(server: Served, root: str):
    for path, body in (("newversion", {}), ("branch", {"branch": "b"}), ("tag", {"tag": "t"})):
        refused(server.post(f"/api/node/{root}/{path}", body), "can't branch an unlocked node")
    server.commit(root)
    child = server.child(root)
    refused(server.post(f"/api/node/{root}/newversion", {}), "branch already exists")
    server.child(root, "b")
    refused(server.post(f"/api/node/{root}/branch", {"branch": "b"}), "branch already exists")
    for name in ("", "master"):
        refused(server.post(f"/api/node/{root}/branch", {"branch": name}), "master")
    refused(server.post(f"/api/node/{root}/branch", {}), "branch")
    refused(server.post(f"/api/node/{root}/branch", {"branch": "c", "uuid": child}), "already exists")
    for uuid in ("zz", "a" * 31, "g" * 32, "a" * 33):
        refused(server.post(f"/api/node/{root}/branch", {"branch": "c", "uuid": uuid}), "32")
    assert len(server.get(f"/api/repo/{root}/info").json()["DAG"]["Nodes"]) == 3


def test_notes_and_logs_belong_to_open_versions(server: Served, root: str):
    for line in ("first", "ü\t2", "third\nwith a break"):
        server.post(f"/api/node/{root}/log", {"log": [line]}).ok()
        server.post(f"/api/repo/{root}/log", {"log": [line, "more"]}).ok()
    assert len(server.get(f"/api/node/{root}/log").json()["log"]) == 3
    repo_log = server.get(f"/api/repo/{root}/log").json()["log"]
    assert sum(line.endswith("more") for line in repo_log) == 3
    server.post(f"/api/node/{root}/note", {"note": "ü"}).ok()
    server.commit(root)
    assert server.get(f"/api/node/{root}/note").json() == {"note": "ü"}
    refused(server.post(f"/api/node/{root}/note", {"note": "late"}), "locked node")
    refused(server.post(f"/api/node/{root}/log", {"log": ["late"]}), "locked node")
    server.post(f"/api/repo/{root}/log", {"log": ["a repo is never locked"]}).ok()


def test_tags_are_committed_children(server: Served, root: str):
    server.commit(root)
    name = f"v1.0-{root[:6]}"
    assert server.post(f"/api/node/{root}/tag", {"tag": name}).ok().json() == {"child": name}
    node = server.get(f"/api/repo/{root}/info").json()["DAG"]["Nodes"][name]
    assert (node["Branch"], node["Locked"]) == (f"tag-{name}", True)
    assert server.get(f"/api/node/{name}/kv/keys").json() == []
    refused(server.post(f"/api/node/{root}/tag", {"tag": name}), "already exists")
    server.child(root, "tag-taken")
    refused(server.post(f"/api/node/{root}/tag", {"tag": "taken"}), "already exists")
    for tag in ("", "a/b", "a:b", "x" * 300, "a\0", "\n"):
        reply = server.post(f"/api/node/{root}/tag", {"tag": tag})
        assert reply.status == 400, tag


def test_instances_are_seen_from_every_version(server: Served, root: str):
    server.commit(root)
    child = server.child(root)
    refused(server.post(f"/api/repo/{root}/instance", {"typename": "keyvalue", "dataname": "late"}), "locked node")
    server.new_instance(child, "late", Tags="kind=draft", Compression="none", Versioned="0")
    for uuid in (root, child):
        base = server.get(f"/api/node/{uuid}/late/info").json()["Base"]
        assert (base["Name"], base["Versioned"], base["Tags"]) == ("late", False, {"kind": "draft"})
        assert base["RepoUUID"] == child
    refused(server.post(f"/api/repo/{child}/instance", {"typename": "keyvalue", "dataname": "late"}), "already exists")


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({}, "typename"),
        ({"typename": "keyvalue"}, "dataname"),
        ({"dataname": "x"}, "typename"),
        ({"typename": "nothing", "dataname": "x"}, "nothing"),
        ({"typename": "keyvalue", "dataname": ""}, "name"),
        ({"typename": "keyvalue", "dataname": "commit"}, "reserved"),
        ({"typename": "keyvalue", "dataname": "a\0b"}, "NUL"),
        ({"typename": "keyvalue", "dataname": "x" * 256}, "255"),
        ({"typename": "keyvalue", "dataname": 5}, "dataname"),
        ({"typename": "keyvalue", "dataname": "x", "versioned": "maybe"}, "maybe"),
        ({"typename": "keyvalue", "dataname": "x", "Compression": "zip"}, "zip"),
        ({"typename": "keyvalue", "dataname": "x", "Compression": "gzip:0"}, "gzip"),
        ({"typename": "keyvalue", "dataname": "x", "Checksum": "md5"}, "md5"),
        ({"typename": "keyvalue", "dataname": "x", "tags": 5}, "tags"),
        ([], "JSON"),
        ("text", "JSON"),
    ],
)
def test_malformed_instances_are_refused(server: Served, root: str, given: Any, word: str):
    before = server.counts()
    body = given if isinstance(given, dict | list) else b'"text"'
    refused(server.post(f"/api/repo/{root}/instance", body), word)
    assert server.counts() == before


# -- merges ------------------------------------------------------------------------------------------------------


def test_a_merge_lists_conflicts_and_warnings(server: Served, root: str):
    for key in ("same", "differs", "gone", "quiet"):
        put(server, root, key, b"0")
    parents = sides(
        server,
        root,
        {
            "x": {"same": b"1", "differs": b"x", "gone": None, "new": b"x", "x": b"x"},
            "y": {"same": b"1", "differs": b"y", "gone": b"changed", "new": b"y"},
        },
    )
    refused(merge(server, root, parents, strict=True), "kv", "2", "differs", "new")
    assert len(server.get(f"/api/repo/{root}/info").json()["DAG"]["Nodes"]) == 3
    told = merge(server, root, parents, note="united").ok().json()
    assert told["conflicts"] == {"kv": {"count": 2, "keys": ["differs", "new"]}}
    assert told["warnings"] == {"kv": {"count": 1, "keys": ["gone"]}}
    child = told["child"]
    assert server.get(f"/api/node/{child}/note").json() == {"note": "united"}
    assert server.get(f"/api/node/{child}/kv/keys").json() == ["gone", "quiet", "same", "x"]
    assert server.get(f"/api/node/{child}/kv/key/gone").body == b"changed"
    refused(server.get(f"/api/node/{child}/kv/key/differs"), *parents)
    server.delete(f"/api/node/{child}/kv/key/differs").ok()
    assert server.get(f"/api/node/{child}/kv/key/differs").status == 404


def test_a_merge_without_conflicts_passes_strict(server: Served, root: str):
    parents = sides(server, root, {"x": {"a": b"1"}, "y": {"b": b"2"}, "z": {"c": b"3"}})
    told = merge(server, root, parents, strict=True).ok().json()
    assert told["conflicts"] == {}
    assert "warnings" not in told
    assert server.get(f"/api/node/{told['child']}/kv/keys").json() == ["a", "b", "c"]


def test_resolve_takes_the_first_parent_that_has_a_value(server: Served, root: str):
    put(server, root, "gone", b"0")
    x, y = sides(server, root, {"x": {"k": b"x", "gone": None}, "y": {"k": b"y", "gone": b"y"}})
    for order, value in (((x, y), b"x"), ((y, x), b"y")):
        body = {"data": ["kv"], "parents": list(order), "note": "n"}
        told = server.post(f"/api/repo/{root}/resolve", body).ok().json()
        assert told["conflicts"] == {}
        assert server.get(f"/api/node/{told['child']}/kv/key/k").body == value
        assert server.get(f"/api/node/{x}/kv/key/k").body == b"x"
    for body, word in (
        ({"data": [], "parents": [x, y]}, "data"),
        ({"data": ["none"], "parents": [x, y]}, "name"),
        ({"data": ["kv"], "parents": [x]}, "two"),
        ({"parents": [x, y]}, "data"),
        ({"data": ["kv"]}, "two"),
        ({"data": "kv", "parents": [x, y]}, "data"),
    ):
        refused(server.post(f"/api/repo/{root}/resolve", body), word)


def test_malformed_merges_are_refused(server: Served, root: str):
    x, y = sides(server, root, {"x": {}, "y": {}})
    opened = server.child(x)
    other = server.new_repo()
    server.commit(other)
    before = server.counts()
    for body, word in (
        ({"parents": [x, y]}, "mergeType"),
        ({"mergeType": "other", "parents": [x, y]}, "conflict-free"),
        ({"mergeType": "conflict-free"}, "two"),
        ({"mergeType": "conflict-free", "parents": [x]}, "two"),
        ({"mergeType": "conflict-free", "parents": [x, x]}, "itself"),
        ({"mergeType": "conflict-free", "parents": [x, "nope"]}, "nope"),
        ({"mergeType": "conflict-free", "parents": [x, 5]}, "strings"),
        ({"mergeType": "conflict-free", "parents": x}, "strings"),
        ({"mergeType": "conflict-free", "parents": [x, opened]}, "unlocked"),
        ({"mergeType": "conflict-free", "parents": [x, other]}, "repo"),
        ({"mergeType": "conflict-free", "parents": [x, y], "strict": "yes"}, "strict"),
        ({"mergeType": "conflict-free", "parents": [x, y], "note": 5}, "note"),
    ):
        refused(server.post(f"/api/repo/{root}/merge", body), word)
    assert server.counts() == before


# -- modes and administrators ------------------------------------------------------------------------------------


@pytest.fixture
def prepared(tmp_path: Path) -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """A committed root and its open child, and how to serve their store with some options."""
    Store.create(tmp_path / "store")
    with open_engine(tmp_path / "store", durability="periodic") as engine:
        with serving(engine) as server:
            root = server.new_repo()
            server.new_instance(root)
            put(server, root, "a", b"1")
            server.commit(root)
            child = server.child(root)
        yield root, child, lambda **options: serving(engine, **options)


def test_a_read_only_server_changes_nothing(prepared: tuple[str, str, Callable[..., Any]]):
    _, child, serve = prepared
    with serve(read_only=True, admin_token="t") as server:
        before = server.counts()
        for method, path, body in (
            ("POST", f"/api/node/{child}/kv/key/a", b"2"),
            ("DELETE", f"/api/node/{child}/kv/key/a", None),
            ("POST", f"/api/node/{child}/kv/keyvalues", b""),
            ("POST", f"/api/node/{child}/note", {"note": "n"}),
            ("POST", f"/api/node/{child}/commit", {}),
            ("POST", f"/api/repo/{child}/instance", {"typename": "keyvalue", "dataname": "x"}),
            ("POST", "/api/repos", {}),
            ("POST", "/api/repos?admintoken=t", {}),
        ):
            refused(server.request(method, path, body))
        assert server.counts() == before
        assert server.get(f"/api/node/{child}/kv/key/a").body == b"1"
        assert server.get("/api/server/info").json()["Mode"] == "read only"


def test_a_full_write_server_changes_committed_versions(prepared: tuple[str, str, Callable[..., Any]]):
    root, _, serve = prepared
    with serve() as server:
        tag = server.get(f"/api/node/{root}/kv/key/a").headers["ETag"]
        refused(server.post(f"/api/node/{root}/kv/key/a", b"2"), "locked node")
    with serve(full_write=True) as server:
        server.post(f"/api/node/{root}/kv/key/a", b"2").ok()
        server.post(f"/api/node/{root}/note", {"note": "late"}).ok()
        reply = server.get(f"/api/node/{root}/kv/key/a", headers={"If-None-Match": tag})
        assert (reply.status, reply.body) == (200, b"2")
        assert "committed" in server.get("/api/server/info").json()["Mode"]


ADMIN_ONLY = [
    ("POST", "/api/repos"),
    ("GET", "/api/server/config"),
    ("GET", "/api/storage"),
    ("POST", "/api/server/settings"),
    ("POST", "/api/server/reload-auth"),
    ("POST", "/api/server/reload-blocklist"),
]


@pytest.mark.parametrize(("method", "path"), ADMIN_ONLY)
def test_who_is_an_administrator(prepared: tuple[str, str, Callable[..., Any]], method: str, path: str):
    _, _, serve = prepared
    body = {} if method == "POST" else None

    def asked(server: Served, query: str = "", **headers: str) -> int:
        return server.request(method, path + query, body, headers=headers).status

    with serve() as server:  # loopback without a token: whoever can reach it
        assert asked(server) == 200
        assert asked(server, "?admintoken=anything") == 200
        assert asked(server, Origin="http://localhost:8000") == 200
        assert asked(server, Origin="http://elsewhere.example") in (400, 403)
        assert asked(server, Origin="null") in (400, 403)
    for cors in (("*",), ("http://elsewhere.example",)):  # a page that may ask is no administrator by that
        with serve(cors=cors) as server:
            assert asked(server, Origin="http://elsewhere.example") == 400
            assert asked(server, "?u=me", Origin="http://elsewhere.example") == 400
            assert asked(server, "?admintoken=", Origin="http://elsewhere.example") == 400
    with serve(admin_token="secret", cors=("*",)) as server:
        assert asked(server) == asked(server, "?admintoken=wrong") == asked(server, "?admintoken=") == 400
        assert asked(server, "?admintoken=secret") == 200
        assert asked(server, "?admintoken=secret", Origin="http://elsewhere.example") == 200
    with serve(host="0.0.0.0") as server:  # reachable from elsewhere, no token: nobody is
        assert asked(server) == asked(server, "?admintoken=") == asked(server, "?admintoken=None") == 400
        assert asked(server, Origin="http://localhost") == 400
    with serve(host="0.0.0.0", admin_token="secret") as server:
        assert asked(server) == 400
        assert asked(server, "?admintoken=secret") == 200


def test_an_implied_administrator_does_not_rewrite_history(prepared: tuple[str, str, Callable[..., Any]]):
    root, _, serve = prepared
    with serve() as server:
        for query in ("", "?u=me", "?admintoken=", "?admintoken=x"):
            refused(server.post(f"/api/node/{root}/kv/key/a{query}", b"2"), "locked node")


def test_settings(server: Served):
    assert server.post("/api/server/settings", {"throttle": "3", "gc": "500"}).ok().body.count(b"set to") == 2
    for value in ("x", "-1", "1.5", "", 3, "9" * 5000, "٣"):
        refused(server.post("/api/server/settings", {"throttle": value}), "throttle")
    refused(server.post("/api/server/settings", []), "JSON")


def test_passcodes_and_roots(server: Served):
    assert server.new_repo(root="my-root") == "my-root"
    refused(server.post("/api/repos", {"root": "my-root"}), "already exists")
    for root in ("a/b", "a:b", "a\0", "x" * 256, "\t"):
        refused(server.post("/api/repos", {"root": root}))
    refused(server.post("/api/repos", {"alias": 5}), "alias")
    refused(server.post("/api/repos", [1]), "JSON")
