"""Commands about versions: log, node info and note, commit, newversion, branch, merge, tag, resolve."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dvidfs.cli.names import find_instance, find_repo, find_version, opened
from dvidfs.cli.output import say, show, table, when
from dvidfs.cli.parser import Commands, store_argument, version_argument

if TYPE_CHECKING:
    from dvidfs.engine import Graph, Node, ReadTxn, WriteTxn
    from dvidfs.engine.repos import Merged

NAMED = 10
"""Conflicting keys that are printed for one instance."""


def add(commands: Commands) -> None:
    _add_log(commands)
    parser = commands.add("commit", commit, "Lock a version for good.",
                          'commit store medulla:master --note "aligned"', json=True)  # fmt: skip
    store_argument(parser)
    version_argument(parser)
    parser.add_argument("--note", default="", help="What this version is; replaces the note that it had.")
    parser.add_argument("--log", action="append", default=[], metavar="LINE", help="Add a line to its log.")
    _add_child(commands, "newversion", new_version, "Continue a branch with a new open version; prints its UUID.",
               "newversion store medulla:master")  # fmt: skip
    parser = _add_child(commands, "branch", branch, "Start a branch at a committed version; prints the new UUID.",
                        "branch store medulla:master proofread")  # fmt: skip
    parser.add_argument("name", metavar="NAME", help="Name of the new branch.")
    parser = commands.add("tag", tag, "Give a committed version a name for good.", "tag store medulla:master v1",
                          json=True)  # fmt: skip
    store_argument(parser)
    version_argument(parser)
    parser.add_argument("name", metavar="NAME", help="Text of the tag.")
    _add_merges(commands)


def _add_log(commands: Commands) -> None:
    parser = commands.add(
        "log",
        log,
        "Show versions with their notes and logs, newest first.",
        "log store medulla:proofread\nlog store --repo medulla",
        json=True,
    )
    store_argument(parser)
    parser.add_argument("version", metavar="VERSION", nargs="?", help="Show this version and its ancestors.")
    parser.add_argument("--repo", help="Show all versions of this repo.")
    parser.add_argument("--add", action="append", metavar="LINE", help="Add a line to the log of VERSION or --repo.")
    group = commands.group("node", "Show a version, and read or set its note.", "node info store medulla:master")
    parser = group.add("info", node_info, "Show a version.", "node info store medulla:master", json=True)
    store_argument(parser)
    version_argument(parser)
    parser = group.add("note", node_note, "Print the note of a version, or set it.",
                       'node note store medulla:master "first alignment"')  # fmt: skip
    store_argument(parser)
    version_argument(parser)
    parser.add_argument("text", metavar="TEXT", nargs="?", help="The new note.")


def _add_child(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], None], summary: str, example: str
) -> argparse.ArgumentParser:
    parser = commands.add(name, run, summary, example, json=True)
    store_argument(parser)
    version_argument(parser)
    parser.add_argument("--note", default="", help="What the new version is for.")
    parser.add_argument("--uuid", default="", help="UUID of the new version, 32 hexadecimal digits.")
    return parser


def _add_merges(commands: Commands) -> None:
    parser = commands.add(
        "merge",
        merge,
        "Join committed versions of one repo in a new open one; prints its UUID.",
        "merge store medulla:master medulla:proofread",
        json=True,
        detail="Keys that were changed on several sides in different ways are conflicts: nothing is merged then.",
    )
    _parents(parser)
    parser.add_argument(
        "--allow-conflicts",
        action="store_true",
        help="Merge nevertheless: such keys cannot be read until they are written.",
    )
    parser = commands.add(
        "resolve",
        resolve,
        "Join versions; where they conflict the one named first wins. Prints the new UUID.",
        "resolve store medulla:proofread medulla:master --instance notes",
        json=True,
    )
    _parents(parser)
    parser.add_argument(
        "--instance",
        action="append",
        required=True,
        metavar="NAME",
        help="Instance whose conflicts are settled; may be repeated.",
    )


def _parents(parser: argparse.ArgumentParser) -> None:
    store_argument(parser)
    parser.add_argument("versions", metavar="VERSION", nargs="+", help="Two or more committed versions.")
    parser.add_argument("--note", default="", help="What the new version is.")


# -- looking -----------------------------------------------------------------------------------------------------


def log(args: argparse.Namespace) -> None:
    from dvidfs.types.common import node_json

    with opened(args) as engine:
        if args.add:
            engine.write(lambda txn: _add_lines(txn, args))
            return
        with engine.read() as txn:
            found = _shown(txn.graph, args)
            lines = [line for node in found for line in _log_lines(txn, node)]
            data = [node_json(txn, node) for node in found]
    show(args, data, lines)


def _add_lines(txn: WriteTxn, args: argparse.Namespace) -> None:
    from dvidfs.engine import repos

    scope = find_repo(txn.graph, args.repo) if args.repo else find_version(txn.graph, args.version or ":master")
    repos.add_log(txn, scope, args.add)


def _shown(graph: Graph, args: argparse.Namespace) -> list[Node]:
    """The versions that are asked for, newest first."""
    if args.version:
        node = find_version(graph, args.version)
        line = graph.lineage(node)
        found = [n for n in graph.repo_of(node).nodes.values() if line.sees(n.id)]
    elif args.repo:
        found = list(find_repo(graph, args.repo).nodes.values())
    else:
        found = list(graph.nodes())
    return sorted(found, key=lambda n: n.id, reverse=True)


def _log_lines(txn: ReadTxn, node: Node) -> Iterator[str]:
    nodes = txn.graph.repos[node.repo].nodes
    state = "committed" if node.locked else "open"
    yield f"{node.uuid}  {node.branch or 'master'}  {state}  {when(node.created)}"
    if len(node.parents) > 1:
        yield "    joins " + ", ".join(nodes[p].uuid for p in node.parents)
    if node.note:
        yield f"    {node.note}"
    for ns, text in txn.lines(b"n", node.id):
        yield f"    {when(ns)}  {text}"


def node_info(args: argparse.Namespace) -> None:
    from dvidfs.types.common import node_json

    with opened(args) as engine, engine.read() as txn:
        node = find_version(txn.graph, args.version)
        repo = txn.graph.repo_of(node)
        data = node_json(txn, node)
    family = [("parent", p) for p in node.parents] + [("child", c) for c in node.children]
    rows = [
        ("uuid", node.uuid),
        ("repo", f"{repo.alias or '-'} ({repo.uuid})"),
        ("branch", node.branch or "master"),
        ("state", "committed" if node.locked else "open"),
        ("note", node.note or "-"),
        ("made", when(node.created)),
        *((kind, repo.nodes[v].uuid) for kind, v in family),
    ]
    show(args, data, table(rows))


def node_note(args: argparse.Namespace) -> None:
    from dvidfs.engine import repos

    with opened(args) as engine:
        if args.text is not None:
            engine.write(lambda txn: repos.set_note(txn, find_version(txn.graph, args.version), args.text))
            return
        with engine.read() as txn:
            say(find_version(txn.graph, args.version).note)


# -- making ------------------------------------------------------------------------------------------------------


def _make(args: argparse.Namespace, make: Callable[[WriteTxn, Node], Node]) -> None:
    """Run a write that gives a version, and print the version."""
    with opened(args) as engine:
        node = engine.write(lambda txn: make(txn, find_version(txn.graph, args.version)))
    show(args, {"uuid": node.uuid, "branch": node.branch, "locked": node.locked}, [node.uuid])


def commit(args: argparse.Namespace) -> None:
    from dvidfs.engine import repos
    from dvidfs.errors import Locked

    def lock(txn: WriteTxn, node: Node) -> Node:
        if node.locked:
            raise Locked(f"version {node.uuid} is committed already: continue with `dvidfs newversion`")
        repos.commit(txn, node, note=args.note, log=args.log)
        return txn.graph.repos[node.repo].nodes[node.id]

    _make(args, lock)


def new_version(args: argparse.Namespace) -> None:
    from dvidfs.engine import repos

    _make(args, lambda txn, node: repos.new_version(txn, node, note=args.note, uuid=args.uuid))


def branch(args: argparse.Namespace) -> None:
    from dvidfs.engine import repos

    _make(args, lambda txn, node: repos.branch(txn, node, args.name, note=args.note, uuid=args.uuid))


def tag(args: argparse.Namespace) -> None:
    from dvidfs.engine import repos

    _make(args, lambda txn, node: repos.tag(txn, node, args.name))


def merge(args: argparse.Namespace) -> None:
    from dvidfs.engine import repos

    def join(txn: WriteTxn) -> Merged:
        parents = [find_version(txn.graph, v) for v in _several(args)]
        return repos.merge(txn, parents, note=args.note, strict=not args.allow_conflicts)

    with opened(args) as engine:
        _show_merged(args, engine.write(join))


def resolve(args: argparse.Namespace) -> None:
    from dvidfs.engine import repos

    def join(txn: WriteTxn) -> Merged:
        parents = [find_version(txn.graph, v) for v in _several(args)]
        for name in args.instance:
            find_instance(txn.graph, parents[0], name)
        return repos.resolve(txn, parents, args.instance, note=args.note)

    with opened(args) as engine:
        _show_merged(args, engine.write(join))


def _several(args: argparse.Namespace) -> list[str]:
    from dvidfs.errors import BadRequest

    if len(args.versions) < 2:
        raise BadRequest("a merge needs at least two versions: name them one after the other")
    return args.versions


def _show_merged(args: argparse.Namespace, merged: Merged) -> None:
    data = {
        "uuid": merged.child.uuid,
        "conflicts": {name: d.json() for name, d in merged.conflicts.items()},
        "warnings": {name: d.json() for name, d in merged.warnings.items()},
    }
    lines = [merged.child.uuid]
    for what, found in (
        ("in conflict", merged.conflicts),
        ("deleted on one side, changed on another", merged.warnings),
    ):
        for name, differences in found.items():
            some = ", ".join(differences.keys[:NAMED]) + (", …" if differences.count > NAMED else "")
            lines.append(f"{name}: {differences.count} {what}: {some}")
    show(args, data, lines)
