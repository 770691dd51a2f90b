"""The endpoints of repos and versions (reference: DVID inventory 1.1): operations over a transaction and their rows.

Each takes the transaction, the :class:`~dvidfs.http.calls.Call` and the parts of its path. Which version a UUID names is
found in the transaction itself, so a write sees the graph that it changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from dvidfs.engine import repos
from dvidfs.engine.graph import MASTER
from dvidfs.engine.store import ReadTxn, WriteTxn
from dvidfs.errors import BadRequest, Exists, Locked, Unsupported
from dvidfs.http.calls import Call, need_admin
from dvidfs.http.service import Service
from dvidfs.types import common
from dvidfs.types.base import JSON, Body, Content, Endpoint
from dvidfs.types.common import parse_bool, parse_compression, parse_tags, string, string_settings


def _object(body: Any) -> Mapping[str, Any]:
    """The JSON object of a body.

    Raises:
        BadRequest: it is missing or something else.
    """
    if not isinstance(body, Mapping):
        raise BadRequest(
            "Malformed JSON request in body: "
            + ("unexpected end of JSON input" if body is None else "a JSON object is needed")
        )
    return body


def _texts(value: Any, name: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise BadRequest(f"Malformed JSON request in body: '{name}' must be a list of strings")
    return value


def _text(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"Malformed JSON request in body: '{name}' must be a string")
    return value


# -- repos -------------------------------------------------------------------------------------------------------


class RepoApi:
    """Operations that need to know the server's datatypes and options."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.registry = service.registry

    def create_repo(self, txn: WriteTxn, call: Call, body: Any) -> dict[str, str]:
        need = "Creating a repo requires admin privileges (admintoken or DSG admin) on a server that is not read-only"
        if self.service.options.read_only:
            raise Unsupported(need)
        need_admin(call, "Creating a repo")
        try:
            given = string_settings({} if body is None else body)
            texts = {name: string(given, name) or "" for name in ("alias", "description", "root", "passcode")}
        except BadRequest as e:
            raise BadRequest(f"POST on repos endpoint: {e}") from None
        return {"root": repos.create_repo(txn, **texts).uuid}

    def repos_info(self, txn: ReadTxn, call: Call) -> Content:
        rows = [orjson.dumps(r.uuid) + b":" + self._repo_bytes(txn, r) for r in txn.graph.repos.values()]
        return Content(b"{" + b",".join(rows) + b"}", JSON)

    def _repo_bytes(self, txn: ReadTxn, repo: Any) -> bytes:
        # What may change besides the graph: mutation ids, and what instances say of their data at the trunk's leaf.
        leaf = repo.branches.get("")
        states = tuple(txn.state(i.id, i.store_version(leaf.id)) for i in repo.instances.values()) if leaf else ()
        stamp = txn.graph.now, txn.mutation_id(repo.id), states
        memo = repo.memo.get("bytes")
        if memo is None or memo[0] != stamp:
            memo = repo.memo["bytes"] = stamp, orjson.dumps(common.repo_json(txn, self.registry, repo))
        return memo[1]

    def head_repo(self, txn: ReadTxn, call: Call, uuid: str) -> Content:
        txn.graph.version(uuid)
        return Content(b"", "text/plain")

    def repo_info(self, txn: ReadTxn, call: Call, uuid: str) -> Content:
        return Content(self._repo_bytes(txn, txn.graph.repo_of(txn.graph.version(uuid))), JSON)

    def prepare_instance(self, txn: ReadTxn, call: Call, uuid: str, body: Any) -> dict[str, Any]:
        """What an instance is made of; may look at a volume that lives elsewhere, so not in the write lane."""
        node = txn.graph.version(uuid)
        given = string_settings(_object(body))
        typename, name = (self._required(given, key) for key in ("typename", "dataname"))
        kind = self.registry[typename]
        sync = [s for s in (string(given, "sync") or "").split(",") if s]
        common.sync_ids(txn, node, kind, sync)
        checksum = (string(given, "checksum") or "none").lower()
        if checksum not in common.CHECKSUMS:
            raise BadRequest(f"Illegal checksum specified: {checksum}; give none or crc32")
        texts = {k: v for k, v in given.items() if isinstance(v, str)}
        for setting in kind.settings:
            if setting.guarded(string(given, setting.name.lower()) or ""):
                need_admin(call, f"A place in the setting {setting.name}")
        options = {
            "versioned": parse_bool(given.get("versioned", True)),
            "compression": parse_compression(
                string(given, "compression") or kind.compression, kind.refused_compressions
            ),
            "checksum": checksum,
            "tags": parse_tags(string(given, "tags") or "") or None,
            "settings": kind.configure(texts),
            "privileged": call.caller.privileged,
        }
        options["compression"] = kind.implied_compression(options["settings"]) or options["compression"]
        return {"uuid": uuid, "typename": typename, "name": name, "sync": sync, "options": options}

    def create_instance(
        self, txn: WriteTxn, call: Call, uuid: str, typename: str, name: str, sync: list[str], options: dict[str, Any]
    ) -> dict[str, str]:
        node = txn.graph.version(uuid)
        syncs = common.sync_ids(txn, node, self.registry[typename], sync)
        instance = repos.create_instance(txn, node, typename, name, syncs=syncs, **options)
        repos.add_log(txn, txn.graph.repos[node.repo], [f"created {instance.name} [{typename}] at {node.uuid}"])
        return {"result": f"Added {instance.name} [{typename}] to node {node.uuid}"}

    @staticmethod
    def _required(given: Mapping[str, Any], key: str) -> str:
        value = given.get(key)
        if not isinstance(value, str):
            raise BadRequest(f"POST on repo endpoint requires specification of valid '{key}'")
        return value

    def rows(self) -> tuple[Endpoint, ...]:
        """The rows of repos that need the server."""
        return (
            Endpoint(
                "POST",
                "/api/repos",
                self.create_repo,
                "A new repo; its root is an open version.",
                body=Body.JSON,
                detail='The body may give {"alias", "description", "root", "passcode"}. Needs an administrator.',
            ),
            Endpoint("GET", "/api/repos/info", self.repos_info, "All repos, by the UUID of their root.", inline=True),
            Endpoint("HEAD", "/api/repo/{uuid}", self.head_repo, "Whether there is such a repo.", inline=True),
            Endpoint(
                "GET", "/api/repo/{uuid}/info", self.repo_info, "A repo, its instances and versions.", inline=True
            ),
            Endpoint(
                "POST",
                "/api/repo/{uuid}/instance",
                self.create_instance,
                "A new data instance.",
                body=Body.JSON,
                prepare=self.prepare_instance,
                detail='The body is a JSON object of strings: {"typename", "dataname"} and the type\'s settings.',
            ),
        )


def post_repo_info(txn: WriteTxn, call: Call, uuid: str, body: Any) -> None:
    repo = txn.graph.repo_of(txn.graph.version(uuid))
    given = string_settings({} if body is None else body)
    repos.set_repo_info(txn, repo, alias=string(given, "alias"), description=string(given, "description"))


def get_repo_log(txn: ReadTxn, call: Call, uuid: str) -> dict[str, Any]:
    return {"log": common.log_lines(txn, txn.graph.repo_of(txn.graph.version(uuid)))}


def post_repo_log(txn: WriteTxn, call: Call, uuid: str, body: Any) -> None:
    repos.add_log(txn, txn.graph.repo_of(txn.graph.version(uuid)), _log(body))


def _log(body: Any) -> Sequence[str]:
    data = _object(body)
    if data.get("log") is None:
        raise BadRequest("Could not find 'log' value in POSTed JSON.")
    return _texts(data["log"], "log")


def branch_versions(txn: ReadTxn, call: Call, uuid: str, branch: str) -> Content:
    repo = txn.graph.repo_of(txn.graph.version(uuid))
    name = "" if branch == MASTER else branch
    if name not in repo.branches:
        return Content(b"[]", JSON)
    known = repo.memo.setdefault("lines", {})
    if name not in known:
        known[name] = orjson.dumps([n.uuid for n in repo.branch_versions(name)])
    return Content(known[name], JSON)


def merge(txn: WriteTxn, call: Call, uuid: str, body: Any) -> dict[str, Any]:
    txn.graph.version(uuid)
    data = _object(body)
    if data.get("mergeType") != "conflict-free":
        raise BadRequest("'mergeType' must be 'conflict-free' at this time")
    strict = data.get("strict", False)
    if not isinstance(strict, bool):
        raise BadRequest("'strict' must be true or false")
    parents = repos.find_parents(txn, _texts(data.get("parents") or [], "parents"))
    return _merged(repos.merge(txn, parents, note=_text(data, "note"), strict=strict))


def _merged(merged: repos.Merged) -> dict[str, Any]:
    out: dict[str, Any] = {"child": merged.child.uuid}
    out["conflicts"] = {name: d.json() for name, d in merged.conflicts.items()}
    if merged.warnings:
        out["warnings"] = {name: d.json() for name, d in merged.warnings.items()}
    return out


def resolve(txn: WriteTxn, call: Call, uuid: str, body: Any) -> dict[str, Any]:
    txn.graph.version(uuid)
    data = _object(body)
    names = _texts(data.get("data") or [], "data")
    if not names:
        raise BadRequest("Must specify at least one data instance using 'data' field")
    parents = repos.find_parents(txn, _texts(data.get("parents") or [], "parents"))
    return _merged(repos.resolve(txn, parents, names, note=_text(data, "note")))


# -- versions ----------------------------------------------------------------------------------------------------


def get_note(txn: ReadTxn, call: Call, uuid: str) -> dict[str, str]:
    return {"note": txn.graph.version(uuid).note}


def post_note(txn: WriteTxn, call: Call, uuid: str, body: Any) -> None:
    node = txn.graph.version(uuid)
    data = _object(body)
    if "note" not in data:
        raise BadRequest("Could not find 'note' value in POSTed JSON.")
    if any(not isinstance(value, str | None) for value in data.values()):
        raise BadRequest("Malformed JSON request in body: all values must be strings")
    repos.set_note(txn, node, data["note"] or "")


def get_log(txn: ReadTxn, call: Call, uuid: str) -> dict[str, Any]:
    return {"log": common.log_lines(txn, txn.graph.version(uuid))}


def post_log(txn: WriteTxn, call: Call, uuid: str, body: Any) -> None:
    repos.add_log(txn, txn.graph.version(uuid), _log(body))


def get_status(txn: ReadTxn, call: Call, uuid: str) -> Content:
    return Content(b'{"Locked":true}' if txn.graph.version(uuid).locked else b'{"Locked":false}', JSON)


def post_commit(txn: WriteTxn, call: Call, uuid: str, body: Any) -> dict[str, str]:
    node = txn.graph.version(uuid)
    if node.locked:
        raise Locked(f"Cannot do post on locked node {node.uuid}")
    data = _object(body)
    repos.commit(txn, node, note=_text(data, "note"), log=_texts(data.get("log") or [], "log"))
    return {"committed": node.uuid}


def post_branch(txn: WriteTxn, call: Call, uuid: str, body: Any) -> dict[str, str]:
    node, data = txn.graph.version(uuid), _object(body)
    child = repos.branch(txn, node, _text(data, "branch"), note=_text(data, "note"), uuid=_text(data, "uuid"))
    return {"child": child.uuid}


def post_newversion(txn: WriteTxn, call: Call, uuid: str, body: Any) -> dict[str, str]:
    node, data = txn.graph.version(uuid), _object({} if body is None else body)
    return {"child": repos.new_version(txn, node, note=_text(data, "note"), uuid=_text(data, "uuid")).uuid}


def post_tag(txn: WriteTxn, call: Call, uuid: str, body: Any) -> dict[str, str]:
    node, data = txn.graph.version(uuid), _object(body)
    try:
        return {"child": repos.tag(txn, node, _text(data, "tag")).uuid}
    except Exists as e:
        raise Exists(f"tag cannot be made: {e}") from None


REPO_ROWS = (
    Endpoint("POST", "/api/repo/{uuid}/info", post_repo_info, "Set alias and description.", body=Body.JSON),
    Endpoint("GET", "/api/repo/{uuid}/log", get_repo_log, "The repo's log.", inline=True),
    Endpoint(
        "POST",
        "/api/repo/{uuid}/log",
        post_repo_log,
        "Append to the repo's log.",
        body=Body.JSON,
        detail='The body is {"log": ["line", ...]}.',
    ),
    Endpoint(
        "GET",
        "/api/repo/{uuid}/branch-versions/{branch}",
        branch_versions,
        "UUIDs of a branch from its leaf up to the root; the trunk is called master.",
        inline=True,
    ),
    Endpoint(
        "POST",
        "/api/repo/{uuid}/merge",
        merge,
        "A child of several committed versions.",
        body=Body.JSON,
        detail='The body is {"mergeType": "conflict-free", "parents": [...], "note", "strict"}. The answer lists '
        "conflicts by instance; with strict true they refuse the merge.",
    ),
    Endpoint(
        "POST",
        "/api/repo/{uuid}/resolve",
        resolve,
        "A merge in which the first parent that has a value settles each conflict.",
        body=Body.JSON,
        detail='The body is {"data": [instances], "parents": [by priority], "note"}.',
    ),
)

NODE_ROWS = (
    Endpoint("GET", "/api/node/{uuid}/note", get_note, "The version's note.", inline=True),
    Endpoint("POST", "/api/node/{uuid}/note", post_note, "Set the note of an open version.", body=Body.JSON),
    Endpoint("GET", "/api/node/{uuid}/log", get_log, "The version's log.", inline=True),
    Endpoint("POST", "/api/node/{uuid}/log", post_log, "Append to the log of an open version.", body=Body.JSON),
    Endpoint("GET", "/api/node/{uuid}/status", get_status, "Whether the version is committed.", inline=True),
    Endpoint("GET", "/api/node/{uuid}/commit", get_status, "The same as status.", inline=True),
    Endpoint(
        "POST",
        "/api/node/{uuid}/commit",
        post_commit,
        "Lock the version for good.",
        body=Body.JSON,
        detail='The body is {"note", "log": [...]}, at least {}.',
    ),
    Endpoint(
        "POST",
        "/api/node/{uuid}/branch",
        post_branch,
        "A child on a new branch.",
        body=Body.JSON,
        detail='The body is {"branch", "note", "uuid"}.',
    ),
    Endpoint(
        "POST",
        "/api/node/{uuid}/newversion",
        post_newversion,
        "The child that continues the branch.",
        body=Body.JSON,
        detail='The body may give {"note", "uuid"}.',
    ),
    Endpoint(
        "POST",
        "/api/node/{uuid}/tag",
        post_tag,
        "A committed child named by the tag.",
        body=Body.JSON,
        detail='The body is {"tag"}.',
    ),
)
