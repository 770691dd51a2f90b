"""Endpoints that every datatype has (help, info, tags, sync, blobs), and the JSON that describes repos and instances.

The JSON shapes are the original's (reference: DVID versioning 1.7): HTTP serves them, the mount shows them as files.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from dvidfs.engine import blobs, repos
from dvidfs.engine.graph import Instance, Node, Repo
from dvidfs.engine.keys import PIECE
from dvidfs.engine.store import Buffer, ReadTxn
from dvidfs.engine.values import Prepared, Upload, Uploaded
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, NotFound, UnknownInstance, Unsupported
from dvidfs.kernels import fnv
from dvidfs.types import helptext
from dvidfs.types.base import OCTETS, PLAIN, Body, Content, DataType, Endpoint, Param, Registry, flag

COMPRESSIONS = {
    "none": "No compression, level -1",
    "snappy": "Go Snappy compression, level -1",
    "lz4": "LZ4 compression, level -1",
    "gzip": "gzip compression, level -1",
    "jpeg": "jpeg compression, level 80",
}
CHECKSUMS = {"none": "No checksum", "crc32": "CRC32 checksum"}
STRIDE = 100
"""The original saves its counter of mutation ids every so often; the number is shown in repo JSON."""


def rfc3339(ns: int) -> str:
    """A time with nanoseconds, as in repo JSON."""
    seconds, rest = divmod(ns, 10**9)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{stamp}.{rest:09d}".rstrip("0").rstrip(".") + "Z"


def log_line(ns: int, text: str) -> str:
    return f"{datetime.fromtimestamp(ns // 10**9, UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}  {text}"


def log_lines(txn: ReadTxn, scope: Node | Repo) -> list[str]:
    return [log_line(ns, text) for ns, text in txn.lines(b"n" if isinstance(scope, Node) else b"r", scope.id)]


# -- creation ----------------------------------------------------------------------------------------------------


def parse_compression(text: str, refused: Collection[str] = ()) -> str:
    """How an instance compresses, from its setting; ``refused``: what its datatype cannot be kept in."""
    name, colon, level = text.lower().partition(":")
    if name not in COMPRESSIONS or (colon and (name != "gzip" or level not in "123456789" or not level)):
        raise BadRequest(
            f"Illegal compression specified: {text}; give none, snappy, lz4, gzip, gzip:1 to gzip:9 or jpeg"
        )
    if name in refused:
        raise BadRequest(f"Illegal compression specified: {text}: it would damage values of this datatype")
    return f"gzip:{level}" if colon else name


def parse_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise BadRequest(f"Cannot parse '{value}' as a boolean.  Use 'true', 'false', '0', or '1'.")


def parse_tags(text: str) -> dict[str, str]:
    tags = {}
    for pair in filter(None, text.split(",")):
        name, equals, value = pair.partition("=")
        if equals:  # as the original, which passes over the rest
            tags[name.strip()] = value.strip()
    return tags


def string_settings(data: Any) -> dict[str, Any]:
    """A JSON object of settings, keys in lower case; ``versioned`` may be a boolean, all others must be strings."""
    if not isinstance(data, Mapping):
        raise BadRequest("Malformed JSON request in body: an object of strings is needed")
    return {str(k).lower(): v for k, v in data.items()}


def string(settings: Mapping[str, Any], name: str) -> str | None:
    value = settings.get(name)
    if name in settings and not isinstance(value, str):
        raise BadRequest(f"Setting for '{name}' was not a string: {json.dumps(value)}")
    return value


# -- JSON --------------------------------------------------------------------------------------------------------


def base_json(txn: ReadTxn, kind: DataType, instance: Instance) -> dict[str, Any]:
    """The ``Base`` part of an instance's info."""
    name, _, level = instance.compression.partition(":")
    followed = [txn.graph.instance_by_id(i) for i in instance.syncs]
    return {
        "TypeName": instance.type,
        "TypeURL": kind.url,
        "TypeVersion": kind.version,
        "DataUUID": instance.uuid,
        "Name": instance.name,
        "RepoUUID": txn.graph.repos[instance.repo].nodes[instance.version].uuid,
        "Compression": f"gzip compression, level {level}" if level else COMPRESSIONS[name],
        "Checksum": CHECKSUMS[instance.checksum],
        "Syncs": [i.name if i else "undefined" for i in followed],
        "Versioned": instance.versioned,
        "KVStore": "lmdb",
        "LogStore": "lmdb",
        "Tags": instance.tags,
    }


def instance_json(txn: ReadTxn, kind: DataType, instance: Instance, node: Node | None) -> dict[str, Any]:
    """An instance as ``info`` shows it; ``node``: the version whose extents are meant, if there is one."""
    view = ReadView(txn, node, instance) if node is not None else None
    out = {"Base": base_json(txn, kind, instance), "Extended": kind.extended(instance, view)}
    if kind.extents is not None and view is not None:
        out["Extents"] = kind.extents(view)
    return out


def node_json(txn: ReadTxn, node: Node) -> dict[str, Any]:
    return {
        "Branch": node.branch,
        "Note": node.note,
        "Log": log_lines(txn, node),
        "UUID": node.uuid,
        "VersionID": node.id,
        "Locked": node.locked,
        "Parents": node.parents,
        "Children": node.children,
        "Created": rfc3339(node.created),
        "Updated": rfc3339(node.updated),
    }


def repo_json(txn: ReadTxn, registry: Registry, repo: Repo) -> dict[str, Any]:
    """A repo with its instances (at the leaf of the trunk) and its graph."""
    next_id = txn.mutation_id(repo.id)
    leaf = repo.branches.get("")
    return {
        "Root": repo.uuid,
        "Alias": repo.alias,
        "Description": repo.description,
        "Log": log_lines(txn, repo),
        "Properties": repo.properties,
        "DataInstances": {
            name: instance_json(txn, kind, i, leaf)
            for name, i in repo.instances.items()
            if (kind := registry.get(i.type)) is not None
        },
        "DAG": {"Root": repo.uuid, "Nodes": _nodes_json(txn, repo)},
        "MutationID": next_id,
        "SavedMutationID": next_id - (next_id - txn.store.first_mutation_id) % STRIDE + STRIDE,
        "Created": rfc3339(repo.created),
        "Updated": rfc3339(repo.updated),
    }


def _nodes_json(txn: ReadTxn, repo: Repo) -> dict[str, Any]:
    # A log line raises the node's ``updated``, so the JSON of a repo's nodes is right for this value of the repo.
    memo = repo.memo
    if "nodes" not in memo:
        memo["nodes"] = {n.uuid: node_json(txn, n) for n in repo.nodes.values()}
    return memo["nodes"]


# -- endpoints of every datatype ---------------------------------------------------------------------------------


def get_tags(view: ReadView) -> dict[str, Any]:
    return {"Tags": view.instance.tags}


def post_tags(view: WriteView, body: Any, replace: bool) -> None:
    if not isinstance(body, Mapping) or not all(isinstance(v, str) for v in body.values()):
        raise BadRequest('tags must be a JSON object of strings, such as {"kind": "draft"}')
    tags = dict(body) if replace else {**(view.instance.tags or {}), **body}
    repos.change_instance(view.txn, view.instance, tags=tags)


def post_sync(view: WriteView, body: Any, replace: bool, kind: DataType) -> None:
    """Follow other instances of the repo; an empty string with ``replace`` follows none."""
    text = body.get("sync") if isinstance(body, Mapping) else None
    if not isinstance(text, str):
        raise BadRequest("Could not find 'sync' value in POSTed JSON to sync request.")
    names = [n.strip() for n in text.split(",") if n.strip()]
    if not names and not replace:
        return
    ids = sync_ids(view.txn, view.node, kind, names)
    kept = () if replace else view.instance.syncs
    syncs = (*kept, *(i for i in ids if i not in kept))
    repos.change_instance(view.txn, view.instance, syncs=syncs)


def sync_ids(txn: ReadTxn, node: Node, kind: DataType, names: list[str]) -> list[int]:
    """Ids of instances that one of this type may follow.

    Raises:
        Unsupported: the type does not follow that one. One that follows none passes over the names.
    """
    ids = []
    for name in names if kind.accepts_sync is not None else ():
        try:
            source = txn.graph.instance(node, name)
        except UnknownInstance as e:
            raise UnknownInstance(f'issue with requested sync name "{name}": {e}') from None
        if kind.accepts_sync is None or not kind.accepts_sync(source.type):
            raise Unsupported(f'"{name}" [{source.type}] cannot be followed by data of type "{kind.name}"')
        ids.append(source.id)
    return ids


REPLACE = Param("replace", flag, default=False, help="true: replace what is there instead of adding to it")

TAG_ENDPOINTS = (
    Endpoint("GET", "tags", get_tags, "The instance's tags.", example="tags"),
    Endpoint(
        "POST",
        "tags",
        post_tags,
        "Add tags, or replace them all.",
        body=Body.JSON,
        query=(REPLACE,),
        detail='The body is a JSON object of strings: {"kind": "draft"}.',
        example="tags?replace=true",
    ),
)


def common_endpoints(kind: DataType) -> tuple[Endpoint, ...]:
    """The rows that every datatype has besides its own."""

    def get_help(view: ReadView) -> Content:
        return Content(helptext.type_help(kind).encode() + b"\n", PLAIN)

    def get_info(view: ReadView) -> dict[str, Any]:
        return instance_json(view.txn, kind, view.instance, view.node)

    def sync(view: WriteView, body: Any, replace: bool) -> None:
        post_sync(view, body, replace, kind)

    rows = (
        Endpoint("*", "help", get_help, "This text.", type=PLAIN, example="help"),
        Endpoint(
            kind.info_method, "info", get_info, "The instance's properties as JSON.", example="info", cached=False
        ),
        Endpoint(
            "GET",
            "blobstore/{ref}/{more?}",
            get_blob,
            "A blob by its reference.",
            type=OCTETS,
            example="blobstore/8UtYSGSD2U9wgDh5jClpfw==",
        ),
        Endpoint(
            "POST",
            "blobstore",
            post_blob,
            "Keep the body as a blob; the answer names its reference.",
            body=Body.BYTES,
            prepare=prepare_blob,
            lockable=False,
            detail="Blobs belong to the store, not to a version.",
            example="blobstore",
        ),
    )
    if kind.accepts_sync is None:
        return rows
    follow = Endpoint(
        "POST",
        "sync",
        sync,
        "Follow other instances of the repo.",
        body=Body.JSON,
        query=(REPLACE,),
        detail='The body is {"sync": "name,name"}; an empty text with replace=true follows none.',
        example="sync?replace=true",
    )
    return (*rows, follow)


# -- blobs -------------------------------------------------------------------------------------------------------


def blob_ref(text: str) -> bytes:
    """The bytes behind a blob's reference: URL-safe base64 with padding.

    Raises:
        BadRequest: no such text.
    """
    try:
        return base64.b64decode(text, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f'bad blob reference "{text[:60]}": 24 characters of URL-safe base64 are needed') from None


def get_blob(view: ReadView, ref: str, more: str | None) -> Content:
    if more is not None:
        raise BadRequest("GET /blobstore requires reference, and nothing behind it")
    name = blob_ref(ref)
    entry = blobs.get(view.txn, name) if name else None
    if entry is None:
        raise NotFound(f'Reference "{ref}" not found')
    return Content(blobs.stream(view.txn, entry), OCTETS, entry.size)


def prepare_blob(view: ReadView, body: Buffer) -> dict[str, Any]:
    """Name the blob and write its pieces before it enters the write lane."""
    ref = fnv.fnv128(body)
    if blobs.get(view.txn, ref) is not None:
        return {"ref": ref, "value": None}
    upload = Upload(view.txn.store, 0)
    for at in range(0, len(body), PIECE):
        upload.feed(body[at : at + PIECE])
    return {"ref": ref, "value": upload.finish()}


def post_blob(view: WriteView, ref: bytes, value: Prepared | Uploaded | None) -> dict[str, str]:
    if value is not None:
        blobs.put(view.txn, ref, value)
    return {"reference": base64.urlsafe_b64encode(ref).decode()}
