"""The command import: makes what is missing (repo, instance) and brings voxels or files into it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvidfs.cli.names import find_repo, find_version, opened, registry
from dvidfs.cli.output import say, size, warn
from dvidfs.cli.parser import Commands, store_argument
from dvidfs.errors import BadRequest, UnknownVersion

if TYPE_CHECKING:
    from dvidfs.cli.ingest import Target
    from dvidfs.engine import Instance, Node, WriteTxn

BLOCK_SIZE = "64,64,64"


def add(commands: Commands) -> None:
    parser = commands.add(
        "import",
        run,
        "Import a volume, or files as keys.",
        "import store slices/ --repo medulla --instance grayscale --voxel-size 8,8,8\n"
        "import store volume.h5:/raw --repo medulla --instance grayscale\n"
        "import store notes/ --repo medulla --instance notes --type keyvalue",
        detail="SOURCE is a folder of PNG or TIFF slices (sorted by the numbers in their names), a .npy file, or\n"
        "FILE.h5:/dataset; with --type keyvalue a folder of files or a tar archive. Repo and instance are made\n"
        "if they are missing. An import that was stopped goes on where it was when the same command is run again.",
    )
    store_argument(parser)
    parser.add_argument("source", metavar="SOURCE", help="What is imported.")
    parser.add_argument("--repo", required=True, help="Alias of the repo, or the UUID of any of its versions.")
    parser.add_argument("--instance", required=True, metavar="NAME", help="Name of the instance.")
    parser.add_argument("--version", metavar="VERSION", help="Open version to write to; default: the leaf of master.")
    parser.add_argument("--type", help="Datatype of the instance, if it is made; default: uint8blk.")
    parser.add_argument("--voxel-size", metavar="X,Y,Z", help="Size of a voxel in nanometers; default: 8,8,8.")
    parser.add_argument("--block-size", metavar="X,Y,Z", help=f"Voxels of a block; default: {BLOCK_SIZE}.")
    parser.add_argument("--offset", metavar="X,Y,Z", default="0,0,0", help="Where the first voxel goes; whole blocks.")
    parser.add_argument("--quiet", action="store_true", help="Show no progress.")


def run(args: argparse.Namespace) -> None:
    from dvidfs.cli import ingest
    from dvidfs.types.base import Keys

    with opened(args) as engine:
        node, instance, existed = _destination(engine, args)
        target = ingest.Target(engine, node.uuid, args.instance)
        typename = instance.type if instance is not None else args.type or "uint8blk"
        if isinstance(registry()[typename].tree, Keys):
            steps = _files(engine, args, node, instance, target, typename)
        else:
            steps = _voxels(engine, args, node, instance, target, typename)
        try:
            progress = ingest.run(target, steps, quiet=args.quiet)
        except KeyboardInterrupt:
            warn("stopped: run the same command again to continue")
            raise
    what = "" if existed else ", a new repo"
    say(f"imported {steps.title} ({size(progress.total)}) into {args.instance} of {args.repo}{what}"
        f" in {progress.seconds:.1f} s")  # fmt: skip


def _destination(engine: Any, args: argparse.Namespace) -> tuple[Node, Instance | None, bool]:
    """The version to write to, the instance if there is one, and whether the repo was there."""
    from dvidfs.engine import repos

    with engine.read() as txn:
        try:
            repo = find_repo(txn.graph, args.repo)
        except UnknownVersion:
            repo = None
            if any(r.alias == args.repo for r in txn.graph.repos.values()) or ":" in args.repo or args.version:
                raise
    existed = repo is not None
    if repo is None:
        repo = engine.write(lambda txn: repos.create_repo(txn, alias=args.repo))
    with engine.read() as txn:
        node = find_version(txn.graph, args.version or f"{repo.uuid}:master")
        if node.repo != repo.id:
            raise BadRequest(f"version {args.version} is none of repo {args.repo}")
        return node, txn.graph.repos[repo.id].instances.get(args.instance), existed


def _create(engine: Any, node: Node, typename: str, name: str, settings: dict[str, str]) -> None:
    from dvidfs.cli.instances import create

    def make(txn: WriteTxn) -> None:
        create(txn, txn.graph.version(node.uuid), typename, name, settings)

    engine.write(make)


def _files(
    engine: Any, args: argparse.Namespace, node: Node, instance: Instance | None, target: Target, typename: str
) -> Any:
    from dvidfs.cli.ingest import KeySteps
    from dvidfs.errors import NotFound

    path = Path(args.source)
    if not path.exists():
        raise NotFound(f"there is no {path} to import")
    if args.voxel_size or args.block_size:
        raise BadRequest(f"--voxel-size and --block-size mean nothing for {typename}")
    if instance is None:
        _create(engine, node, typename, args.instance, {})
    return KeySteps(target, path)


def _voxels(
    engine: Any, args: argparse.Namespace, node: Node, instance: Instance | None, target: Target, typename: str
) -> Any:
    from dvidfs.cli.ingest import VoxelSteps
    from dvidfs.cli.sources import open_source
    from dvidfs.types.geometry import parse_point

    offset = parse_point(args.offset, "--offset", ",")
    source = open_source(args.source, Path(args.store))
    given = {"BlockSize": args.block_size, "VoxelSize": args.voxel_size}
    if instance is None:
        given["BlockSize"] = given["BlockSize"] or BLOCK_SIZE
        _create(engine, node, typename, args.instance, {k: v for k, v in given.items() if v})
    else:
        _agrees(instance, typename, {k: v for k, v in given.items() if v}, args.type)
    return VoxelSteps(target, source, offset)


def _agrees(instance: Instance, typename: str, given: dict[str, str], wanted: str | None) -> None:
    """What was asked for is what the instance is."""
    if wanted and wanted != instance.type:
        raise BadRequest(f'"{instance.name}" is there already, of type {instance.type}: choose another name')
    configured = registry()[typename].configure({k.lower(): v for k, v in given.items()})
    for name in given:
        if configured[name] != instance.settings[name]:
            raise BadRequest(f'"{instance.name}" is there already, its {name} is {instance.settings[name]}')
