"""Image instances that the configuration asks for: one for each scale of a volume that lives elsewhere.

Decides their names, types and where they are made; what such an instance is, is the datatype's. What is there already is left
alone, so a service may be started any number of times. Invariant: a volume that cannot be reached keeps no service
from starting. Source: reference note "inventory" 5.2, BA-09.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from dvidfs.config import GridStore
from dvidfs.engine import Engine, ReadTxn, WriteTxn, repos
from dvidfs.engine.graph import Node
from dvidfs.errors import BadRequest, DvidfsError
from dvidfs.types.base import DataType, Registry
from dvidfs.types.proxy.describe import Remote, describe
from dvidfs.types.proxy.places import resolve


def make_auto_instances(
    engine: Engine, types: Registry, stores: Mapping[str, GridStore], tell: Callable[[str], None]
) -> None:
    """Make those that are missing; ``tell`` gets a line for each store of which none can be made."""
    for alias, store in stores.items():
        if store.instance:
            try:
                _make(engine, types, alias, store)
            except DvidfsError as error:
                tell(f'no instances "{store.instance}" of store {alias}: {error}')


def _make(engine: Engine, types: Registry, alias: str, store: GridStore) -> None:
    with engine.read() as txn:
        node = _node(txn, store)
        known = set(txn.graph.repos[node.repo].instances)
    if store.instance in known:
        return
    for scale, remote in enumerate(_scales(alias)):
        name = f"{store.instance}_{scale}" if scale else store.instance
        if name in known:
            continue
        kind = _kind(types, remote)
        settings = kind.configure({"gridstore": alias, "scalelevel": str(scale)})

        def add(txn: WriteTxn, kind: DataType = kind, name: str = name, settings: dict = settings) -> None:
            compression = kind.implied_compression(settings) or kind.compression
            node = _node(txn, store)
            repos.create_instance(
                txn, node, kind.name, name, compression=compression, settings=settings, privileged=True
            )

        engine.write(add)


def _node(txn: ReadTxn, store: GridStore) -> Node:
    """The version in which instances are made.

    Raises:
        BadRequest: it is not said which repo is meant.
    """
    if store.uuid:
        return txn.graph.version(store.uuid)
    found = list(txn.graph.repos.values())
    if len(found) != 1:
        raise BadRequest(f"there are {len(found)} repos: give uuid = one of its versions")
    return found[0].nodes[found[0].root]


def _scales(alias: str) -> Iterator[Remote]:
    place, scale = resolve(alias), 0
    while True:
        try:
            remote = describe(place, scale)
        except BadRequest:
            if not scale:
                raise
            return
        yield remote
        scale += 1


def _kind(types: Registry, remote: Remote) -> DataType:
    """The datatype of such voxels."""
    name = "rgba8blk" if (remote.dtype, remote.channels) == ("uint8", 4) else f"{remote.dtype}blk"
    return types[name]
