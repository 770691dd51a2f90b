"""Commands about repos: repos, and repo new, info, rename, delete."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from dvidfs.cli.names import find_repo, opened, registry
from dvidfs.cli.output import confirm, say, show, table, when, yes_argument
from dvidfs.cli.parser import Commands, store_argument

if TYPE_CHECKING:
    from dvidfs.engine import Repo


def add(commands: Commands) -> None:
    store_argument(commands.add("repos", repos, "List the repos of a store.", "repos store", json=True))
    group = commands.group("repo", "Make, show, rename and delete repos.", "repo new store --alias medulla")
    parser = group.add("new", new, "Make a repo with one open version; prints its UUID.",
                       'repo new store --alias medulla --description "FIB-25"', json=True)  # fmt: skip
    store_argument(parser)
    parser.add_argument("--alias", default="", help="Name of the repo.")
    parser.add_argument("--description", default="", help="What it is, in a sentence.")
    parser.add_argument("--root", default="", metavar="UUID", help="UUID of its first version, 32 hexadecimal digits.")
    parser.add_argument("--passcode", default="", help="Asked for before anything of it is deleted or renamed.")

    parser = group.add("info", info, "Show a repo, its versions and instances.", "repo info store medulla", json=True)
    _repo_arguments(parser)
    parser = group.add("rename", rename, "Give a repo another alias.", "repo rename store medulla optic-lobe")
    _repo_arguments(parser)
    parser.add_argument("alias", metavar="ALIAS", help="The new alias.")
    parser.add_argument("--description", help="A new description too.")
    parser = group.add("delete", delete, "Delete a repo with all its versions and data.",
                       "repo delete store medulla --yes")  # fmt: skip
    _repo_arguments(parser)
    yes_argument(parser)


def _repo_arguments(parser: argparse.ArgumentParser) -> None:
    store_argument(parser)
    parser.add_argument("repo", metavar="REPO", help="Its alias, or the UUID of any of its versions.")


def repos(args: argparse.Namespace) -> None:
    with opened(args) as engine, engine.read() as txn:
        found = sorted(txn.graph.repos.values(), key=lambda r: (r.alias, r.id))
    head = ("REPO", "ALIAS", "VERSIONS", "INSTANCES", "DESCRIPTION")
    rows = [(r.uuid, r.alias or "-", len(r.nodes), len(r.instances), r.description) for r in found]
    show(args, [_brief(r) for r in found], table([head, *rows]) if found else ["no repos"])


def _brief(repo: Repo) -> dict[str, Any]:
    return {
        "root": repo.uuid,
        "alias": repo.alias,
        "description": repo.description,
        "versions": len(repo.nodes),
        "branches": {name or "master": node.uuid for name, node in sorted(repo.branches.items())},
        "instances": {name: i.type for name, i in sorted(repo.instances.items())},
    }


def new(args: argparse.Namespace) -> None:
    from dvidfs.engine import repos
    from dvidfs.errors import Exists

    def make(txn: Any) -> Repo:
        if args.alias and any(r.alias == args.alias for r in txn.graph.repos.values()):
            raise Exists(f'a repo has the alias "{args.alias}" already: choose another')
        root = repos.check_uuid(args.root) if args.root else ""
        return repos.create_repo(txn, alias=args.alias, description=args.description, root=root, passcode=args.passcode)

    with opened(args) as engine:
        repo = engine.write(make)
    show(args, {"root": repo.uuid, "alias": repo.alias}, [repo.uuid])


def info(args: argparse.Namespace) -> None:
    from dvidfs.types.common import repo_json

    with opened(args) as engine, engine.read() as txn:
        repo = find_repo(txn.graph, args.repo)
        data = repo_json(txn, registry(), repo) if args.json else {}
    branches = [("branch", f"{name or 'master'}  {node.uuid}") for name, node in sorted(repo.branches.items())]
    instances = [("instance", f"{name} ({i.type})") for name, i in sorted(repo.instances.items())]
    about = [
        ("root", repo.uuid),
        ("alias", repo.alias or "-"),
        ("description", repo.description or "-"),
        ("made", when(repo.created)),
        ("versions", len(repo.nodes)),
    ]
    show(args, data, table([*about, *branches, *instances]))


def rename(args: argparse.Namespace) -> None:
    from dvidfs.engine import repos
    from dvidfs.errors import Exists

    def change(txn: Any) -> None:
        repo = find_repo(txn.graph, args.repo)
        if any(r.alias == args.alias and r.id != repo.id for r in txn.graph.repos.values()):
            raise Exists(f'a repo has the alias "{args.alias}" already: choose another')
        repos.set_repo_info(txn, repo, alias=args.alias, description=args.description)

    with opened(args) as engine:
        engine.write(change)


def delete(args: argparse.Namespace) -> None:
    with opened(args) as engine:
        with engine.read() as txn:
            repo = find_repo(txn.graph, args.repo)
        confirm(args, f"repo {repo.alias or repo.uuid} with {len(repo.nodes)} versions and all their data")
        engine.write(lambda txn: engine.delete_repo(txn, find_repo(txn.graph, repo.uuid), args.passcode))
    say(f"deleted; its space is freed by a running server, or now by `dvidfs jobs {args.store} run`")
