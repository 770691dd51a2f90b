"""The command import: makes what is missing (repo, instance) and brings voxels or files into it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dvidfs.cli.names import find_repo, find_version, opened, registry
from dvidfs.cli.output import say, size, warn
from dvidfs.cli.parser import Commands, store_argument
from dvidfs.errors import BadRequest, UnknownVersion

if TYPE_CHECKING:
    from dvidfs.cli.ingest import KeySteps, Target, VoxelSteps
    from dvidfs.engine import Engine, Instance, Node, Repo, WriteTxn

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


class Place(NamedTuple):
    """What is there of the place where an import goes; the rest is made once the source has been found good."""

    repo: Repo | None
    node: Node | None
    instance: Instance | None


def run(args: argparse.Namespace) -> None:
    from dvidfs.cli import ingest
    from dvidfs.types.base import Keys

    with opened(args) as engine:
        place = _find(engine, args)
        typename = place.instance.type if place.instance is not None else args.type or "uint8blk"
        is_keys = isinstance(registry()[typename].tree, Keys)
        steps = (_files if is_keys else _voxels)(engine, args, place, typename)
        try:
            progress = ingest.run(steps.target, steps, quiet=args.quiet)
        except KeyboardInterrupt:
            warn("stopped: run the same command again to continue")
            raise
    new = "" if place.repo is not None else ", a new repo"
    say(
        f"imported {steps.title} ({size(progress.total)}) into {args.instance} of {args.repo}{new} "
        f"in {progress.seconds:.1f} s"
    )


def _find(engine: Engine, args: argparse.Namespace) -> Place:
    with engine.read() as txn:
        try:
            repo = find_repo(txn.graph, args.repo)
        except UnknownVersion:
            if any(r.alias == args.repo for r in txn.graph.repos.values()) or ":" in args.repo or args.version:
                raise
            return Place(None, None, None)
        node = find_version(txn.graph, args.version or f"{repo.uuid}:master")
        if node.repo != repo.id:
            raise BadRequest(f"version {args.version} is none of repo {args.repo}")
        return Place(repo, node, repo.instances.get(args.instance))


def _complete(
    engine: Engine, args: argparse.Namespace, place: Place, typename: str, settings: dict[str, str]
) -> Target:
    """Make the repo and the instance if they are missing, in one write."""
    from dvidfs.cli.ingest import Target
    from dvidfs.cli.instances import create
    from dvidfs.engine import repos

    def make(txn: WriteTxn) -> str:
        uuid = place.node.uuid if place.node else repos.create_repo(txn, alias=args.repo).uuid
        if place.instance is None:
            create(txn, txn.graph.version(uuid), typename, args.instance, settings)
        return uuid

    return Target(engine, engine.write(make), args.instance)


def _files(engine: Engine, args: argparse.Namespace, place: Place, typename: str) -> KeySteps:
    from dvidfs.cli.ingest import KeySteps, list_files

    if args.voxel_size or args.block_size:
        raise BadRequest(f"--voxel-size and --block-size mean nothing for {typename}")
    path = Path(args.source)
    files = list_files(path)
    return KeySteps(_complete(engine, args, place, typename, {}), path, files)


def _voxels(engine: Engine, args: argparse.Namespace, place: Place, typename: str) -> VoxelSteps:
    from dvidfs.cli.ingest import VoxelSteps, check_fits
    from dvidfs.cli.sources import open_source
    from dvidfs.types.geometry import parse_point

    given = {k: v for k, v in (("BlockSize", args.block_size), ("VoxelSize", args.voxel_size)) if v}
    if place.instance is not None:
        _agrees(place.instance, given, args.type)
        settings = place.instance.settings
    else:
        given.setdefault("BlockSize", BLOCK_SIZE)
        settings = registry()[typename].configure({k.lower(): v for k, v in given.items()})
    offset = parse_point(args.offset, "--offset", ",")
    source = open_source(args.source, Path(args.store))
    check_fits(source, typename, tuple(settings.get("BlockSize", ())), offset)
    return VoxelSteps(_complete(engine, args, place, typename, given), source, offset)


def _agrees(instance: Instance, given: dict[str, str], wanted: str | None) -> None:
    """What was asked for is what the instance is."""
    if wanted and wanted != instance.type:
        raise BadRequest(f'"{instance.name}" is there already, of type {instance.type}: choose another name')
    configured = registry()[instance.type].configure({k.lower(): v for k, v in given.items()})
    for name in given:
        if configured.get(name) != instance.settings.get(name):
            raise BadRequest(f'"{instance.name}" is there already, its {name} is {instance.settings.get(name)}')
