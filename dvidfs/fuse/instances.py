"""Which folder an instance has, and its info."""

from __future__ import annotations

from typing import Any

from dvidfs.engine import Instance, ReadTxn, ReadView
from dvidfs.engine.graph import Node as Version
from dvidfs.fuse import names
from dvidfs.fuse.at import At
from dvidfs.fuse.keyfiles import KeysDir
from dvidfs.fuse.nodes import (
    Context,
    Dir,
)
from dvidfs.fuse.typefiles import TypeDir
from dvidfs.types import common
from dvidfs.types.base import Keys


def folder(context: Context, version: Version, instance: Instance) -> Dir | None:
    """The folder of an instance; None if this program does not know its datatype."""
    if context.registry.get(instance.type) is None:
        return None
    at = At(context, version, instance)
    tree = at.kind.tree
    return KeysDir(at) if isinstance(tree, Keys) else TypeDir(at, tree, (), at.prefix)


def info(context: Context, txn: ReadTxn, version: Version, name: str) -> dict[str, Any]:
    """The instance's info as HTTP gives it; with the number of keys that no file name can hold, if there are any."""
    instance = txn.graph.instance(version, name)
    kind = context.registry[instance.type]
    out = common.instance_json(txn, kind, instance, version)
    if isinstance(kind.tree, Keys):
        keys = context.engine.listings.of(ReadView(txn, version, instance)).keys
        hidden = sum(len(names.encode(k)) > names.MAX_NAME for k in keys if len(k) * 3 > names.MAX_NAME)
        if hidden:
            out["KeysWithoutFile"] = hidden
    return out
