"""What the words of a command name: repos, versions, instances, keys; and how a command opens its store.

Decides how an alias stands for a repo; everything else about naming versions is :meth:`Graph.version`. Invariant: a
whole UUID wins over an alias, an alias over the beginning of a UUID.
"""

from __future__ import annotations

import argparse
import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dvidfs.errors import BadRequest, UnknownInstance, UnknownVersion

if TYPE_CHECKING:
    from dvidfs.engine import Engine, Graph, Instance, Node, ReadTxn, ReadView, Repo, WriteTxn, WriteView
    from dvidfs.types.base import Keys, Registry


@contextmanager
def opened(args: argparse.Namespace) -> Iterator[Engine]:
    """The engine of the store that the command names: its folder, or a TOML file that says where it is."""
    from dvidfs.engine import open_engine

    path = Path(args.store)
    if path.is_file():
        from dvidfs.config import read_toml
        from dvidfs.service import know_grid_stores

        config = read_toml(path)
        know_grid_stores(config)
        path = config.store
    with open_engine(path) as engine:
        yield engine


def registry() -> Registry:
    from dvidfs.types.builtin import registry

    return registry()


def find_repo(graph: Graph, text: str) -> Repo:
    """The repo of that alias, or the one that a version of that name lies in.

    Raises:
        UnknownVersion: none, or several.
    """
    repo = _aliased(graph, text)
    return repo if repo is not None else graph.repo_of(find_version(graph, text))


def find_version(graph: Graph, text: str) -> Node:
    """The version that a word names: as :meth:`Graph.version` has it, or with an alias in place of the UUID.

    An alias alone is the leaf of the repo's trunk; behind ``ALIAS:`` stands a branch or a tag.

    Raises:
        UnknownVersion: none, or several.
    """
    prefix, colon, branch = text.partition(":")
    repo = _aliased(graph, prefix) if text not in graph.versions else None
    try:
        if repo is None:
            return graph.version(text)
        name, tilde, steps = (branch if colon else "").partition("~")
        if f"tag-{name}" in repo.branches and name not in repo.branches:
            name = f"tag-{name}"
        return graph.version(f"{repo.uuid}:{name or 'master'}{tilde}{steps}")
    except UnknownVersion as e:
        raise UnknownVersion(f"{e}: `dvidfs repos` and `dvidfs log` show what there is") from None


def _aliased(graph: Graph, alias: str) -> Repo | None:
    if not alias or alias in graph.versions:
        return None
    found = [r for r in graph.repos.values() if r.alias == alias]
    if len(found) > 1:
        roots = ", ".join(r.uuid[:12] for r in found[:4])
        raise UnknownVersion(f'{len(found)} repos have the alias "{alias}": name one by its root: {roots}')
    return found[0] if found else None


def find_instance(graph: Graph, node: Node, name: str) -> Instance:
    repo = graph.repo_of(node)
    found = repo.instances.get(name)
    if found is None:
        known = ", ".join(sorted(repo.instances)) or "none yet"
        raise UnknownInstance(f'no instance "{name}" in repo {repo.alias or repo.uuid}, which has: {known}')
    return found


def read_view(txn: ReadTxn, version: str, instance: str) -> ReadView:
    from dvidfs.engine import ReadView

    node = find_version(txn.graph, version)
    return ReadView(txn, node, find_instance(txn.graph, node, instance))


def write_view(txn: WriteTxn, version: str, instance: str) -> WriteView:
    """Raises: Locked, if the version is committed."""
    from dvidfs.engine import WriteView
    from dvidfs.engine.versions import Caller

    node = find_version(txn.graph, version)
    refusal = f"version {node.uuid} is committed and changes no more: write to a child, see `dvidfs newversion`"
    caller = Caller(user=user(), app="dvidfs")
    return WriteView(txn, node, find_instance(txn.graph, node, instance), caller, refusal=refusal)


def text_keys(instance: Instance) -> Keys:
    """How the keys of an instance are written.

    Raises:
        BadRequest: it has no text keys.
    """
    from dvidfs.types.base import Keys

    tree = registry()[instance.type].tree
    if not isinstance(tree, Keys):
        raise BadRequest(f'"{instance.name}" is of type {instance.type}, which has no keys: see `dvidfs export --help`')
    return tree


def user() -> str:
    """Who runs the command, for the mutation log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user in a bare container
        return str(os.getuid())
