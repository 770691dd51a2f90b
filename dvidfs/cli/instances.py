"""Commands about data instances: instance new, list, rename, delete."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from dvidfs.cli.names import find_instance, find_repo, find_version, opened, registry
from dvidfs.cli.output import confirm, say, show, table, when, yes_argument
from dvidfs.cli.parser import Commands, store_argument, version_argument
from dvidfs.errors import BadRequest

if TYPE_CHECKING:
    from dvidfs.engine import Instance, Node, WriteTxn


def add(commands: Commands) -> None:
    group = commands.group("instance", "Make, list, rename and delete data instances.",
                           "instance new store medulla:master keyvalue notes")  # fmt: skip
    parser = group.add("new", new, "Make a data instance in an open version.",
                       "instance new store medulla:master uint8blk grayscale --set BlockSize=64,64,64\n"
                       "instance new store medulla:master uint8blk em --set GridStore=zarr://https://host/em.zarr",
                       json=True)  # fmt: skip
    store_argument(parser)
    version_argument(parser)
    parser.add_argument("type", metavar="TYPE", help="Datatype, such as keyvalue or uint8blk.")
    parser.add_argument("name", metavar="NAME", help="Name of the instance.")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help="A setting of the datatype; may be repeated.")  # fmt: skip
    parser.add_argument("--compression", default="", metavar="NAME",
                        help="How values are kept: none, lz4, snappy, gzip, gzip:1 to gzip:9, jpeg; default: the type's.")  # fmt: skip
    parser.add_argument("--unversioned", action="store_true", help="All versions share its data.")
    parser.add_argument("--tags", default="", metavar="KEY=VALUE,…", help="Tags.")

    parser = group.add("list", listed, "List the instances of a repo.", "instance list store medulla", json=True)
    store_argument(parser)
    parser.add_argument("repo", metavar="REPO", help="Its alias, or the UUID of any of its versions.")
    parser = group.add("rename", rename, "Give an instance another name in all versions.",
                       "instance rename store medulla notes remarks")  # fmt: skip
    _named(parser)
    parser.add_argument("new", metavar="NEW", help="The new name.")
    parser.add_argument("--passcode", default="", help="Passcode of the repo, if it has one.")
    parser = group.add("delete", delete, "Delete an instance with its data in all versions.",
                       "instance delete store medulla notes --yes")  # fmt: skip
    _named(parser)
    yes_argument(parser)


def _named(parser: argparse.ArgumentParser) -> None:
    store_argument(parser)
    parser.add_argument("repo", metavar="REPO", help="Its alias, or the UUID of any of its versions.")
    parser.add_argument("name", metavar="NAME", help="Name of the instance.")


def new(args: argparse.Namespace) -> None:
    with opened(args) as engine:
        configured = configure(args.type, _pairs(args.settings))  # before the lane: it may ask a distant server
        instance = engine.write(
            lambda txn: make(
                txn,
                find_version(txn.graph, args.version),
                args.type,
                args.name,
                configured,
                versioned=not args.unversioned,
                tags=args.tags,
                compression=args.compression,
            )
        )
    show(args, _brief(instance), [instance.uuid])


def create(
    txn: WriteTxn,
    node: Node,
    typename: str,
    name: str,
    settings: dict[str, str],
    *,
    versioned: bool = True,
    tags: str = "",
) -> Instance:
    """A new instance with settings as text; one that the type does not know is refused."""
    return make(txn, node, typename, name, configure(typename, settings), versioned=versioned, tags=tags)


def configure(typename: str, settings: dict[str, str]) -> dict[str, Any]:
    """The settings of a datatype, from text."""
    kind = registry()[typename]
    known = {s.name.lower() for s in kind.settings}
    for key in settings:
        if key.lower() not in known:
            names = ", ".join(s.name for s in kind.settings) or "none"
            raise BadRequest(f"{typename} has no setting {key}: it has {names}")
    return kind.configure({key.lower(): value for key, value in settings.items()})


def make(
    txn: WriteTxn,
    node: Node,
    typename: str,
    name: str,
    configured: dict[str, Any],
    *,
    versioned: bool = True,
    tags: str = "",
    compression: str = "",
) -> Instance:
    """A new instance with settings as they are kept; of values that live elsewhere the compression is theirs."""
    from dvidfs.engine import repos
    from dvidfs.types.common import parse_compression, parse_tags

    kind = registry()[typename]
    wanted = parse_compression(compression or kind.compression, kind.refused_compressions)
    return repos.create_instance(
        txn,
        node,
        typename,
        name,
        versioned=versioned,
        compression=kind.implied_compression(configured) or wanted,
        tags=parse_tags(tags),
        settings=configured,
    )


def _pairs(words: list[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise BadRequest(f'--set {word}: give KEY=VALUE, such as "BlockSize=64,64,64"')
        pairs[key.strip()] = value.strip()
    return pairs


def _brief(instance: Instance) -> dict[str, Any]:
    return {
        "name": instance.name,
        "type": instance.type,
        "uuid": instance.uuid,
        "versioned": instance.versioned,
        "tags": instance.tags or {},
    }


def listed(args: argparse.Namespace) -> None:
    with opened(args) as engine, engine.read() as txn:
        found = sorted(find_repo(txn.graph, args.repo).instances.values(), key=lambda i: i.name)
    head = ("NAME", "TYPE", "DATA UUID", "MADE")
    rows = [(i.name, i.type + ("" if i.versioned else ", unversioned"), i.uuid, when(i.created)) for i in found]
    show(args, [_brief(i) for i in found], table([head, *rows]) if found else ["no instances"])


def rename(args: argparse.Namespace) -> None:
    from dvidfs.engine import repos

    def change(txn: WriteTxn) -> None:
        repos.rename_instance(txn, _find(txn, args), args.new, args.passcode)

    with opened(args) as engine:
        engine.write(change)


def delete(args: argparse.Namespace) -> None:
    with opened(args) as engine:
        with engine.read() as txn:
            instance = _find(txn, args)
        confirm(args, f'instance "{instance.name}" with its data in all versions')
        engine.write(lambda txn: engine.delete_instance(txn, _find(txn, args), args.passcode))
    say(f"deleted; its space is freed by a running server, or now by `dvidfs jobs {args.store} run`")


def _find(txn: Any, args: argparse.Namespace) -> Instance:
    repo = find_repo(txn.graph, args.repo)
    return find_instance(txn.graph, repo.nodes[repo.root], args.name)
