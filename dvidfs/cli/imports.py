"""The command import: makes what is missing (repo, instance) and brings voxels or files into it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dvidfs.cli.names import find_repo, find_version, opened, registry
from dvidfs.cli.output import say, size, warn
from dvidfs.cli.parser import Commands, store_argument
from dvidfs.errors import BadRequest, UnknownVersion

if TYPE_CHECKING:
    from dvidfs.cli.ingest import KeySteps, Target
    from dvidfs.cli.ingest_voxels import VoxelSteps
    from dvidfs.cli.progress import Progress
    from dvidfs.cli.sources import What
    from dvidfs.engine import Engine, Instance, Node, Repo, WriteTxn
    from dvidfs.types.geometry import Point

BLOCK_SIZE = "64,64,64"
EXAMPLES = (
    "import store slices/ --repo medulla --instance grayscale --voxel-size 8,8,8",
    "import store stack.tif --repo medulla --instance tif",
    "import store volume.npy --repo medulla --instance npy --offset 100,0,-20",
    "import store voxels.raw --repo medulla --instance raw --shape 40,30,20 --dtype uint16",
    "import store volume.nii.gz --repo medulla --instance nii",
    "import store volume.mhd --repo medulla --instance mhd",
    "import store volume.nrrd --repo medulla --instance nrrd",
    "import store volume.h5:/raw --repo medulla --instance h5",
    "import store em.zarr --repo medulla --instance zarr --pyramid",
    "import store em.n5 --repo medulla --instance n5",
    "import store em.precomputed --repo medulla --instance ng",
    "import store precomputed://https://host/em --repo medulla --instance remote --source-scale 2",
    "import store zarr://s3://bucket/em.zarr --repo medulla --instance s3",
    "import store supervoxels.nii.gz --repo medulla --instance segmentation --type labelmap",
    "import store notes/ --repo medulla --instance notes --type keyvalue",
)


def add(commands: Commands) -> None:
    parser = commands.add(
        "import",
        run,
        "Import a volume, or files as keys.",
        "\n".join(EXAMPLES),
        json=True,
        detail="SOURCE is a folder of PNG, TIFF or JPEG slices (sorted by the numbers in their names), a file .tif .npy .raw\n"
        ".nii .nii.gz .mhd .mha .nrrd .nhdr, FILE.h5:/dataset, or a volume in chunks: a folder of Zarr (OME-Zarr too), N5 or\n"
        "neuroglancer precomputed, or FORMAT://URL of one at http(s), s3 or gs; with --type keyvalue a folder of files or\n"
        "a tar archive. With --type labelmap whole numbers of any size are labels (supervoxels, which `dvidfs mappings` puts\n"
        "together to bodies), with as many coarser scales as the volume needs, or as --pyramid says. Repo and instance are made if they are missing. An import that was stopped goes on where it was\n"
        "when the same command is run again.",
    )
    store_argument(parser)
    parser.add_argument("source", metavar="SOURCE", help="What is imported.")
    parser.add_argument("--repo", required=True, help="Alias of the repo, or the UUID of any of its versions.")
    parser.add_argument("--instance", required=True, metavar="NAME", help="Name of the instance.")
    parser.add_argument("--version", metavar="VERSION", help="Open version to write to; default: the leaf of master.")
    parser.add_argument("--type", help="Datatype of the instance, if it is made; default: that of the voxels.")
    parser.add_argument(
        "--voxel-size", metavar="X,Y,Z", help="Size of a voxel in nanometers; default: what SOURCE says, else 8,8,8."
    )
    parser.add_argument("--block-size", metavar="X,Y,Z", help=f"Voxels of a block; default: {BLOCK_SIZE}.")
    parser.add_argument(
        "--offset", metavar="X,Y,Z", help="Where the first voxel goes; default: where SOURCE says, else 0,0,0."
    )
    parser.add_argument("--shape", metavar="X,Y,Z", help="Voxels of a file without header; a fourth number: channels.")
    parser.add_argument("--dtype", metavar="TYPE", help="Voxels of a file without header: uint8, uint16, >u2, float32.")
    parser.add_argument(
        "--source-scale", metavar="N", type=int, default=0, help="Scale of a volume in chunks; default: 0, the finest."
    )
    parser.add_argument(
        "--pyramid",
        nargs="?",
        const=0,
        type=int,
        metavar="N",
        help="Make N coarser scales afterwards; without N: enough.",
    )
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
        typename = place.instance.type if place.instance is not None else args.type
        is_keys = typename is not None and isinstance(registry()[typename].tree, Keys)
        steps = _files(engine, args, place) if is_keys else _voxels(engine, args, place, typename)
        try:
            progress = ingest.run(steps.target, steps, quiet=args.quiet)
            scales = None if args.pyramid is None or is_keys else _pyramid(engine, steps.target, args)
        except KeyboardInterrupt:
            warn("stopped: run the same command again to continue")
            raise
        finally:
            steps.close()
    _tell(args, place, steps, progress, scales)


def _tell(
    args: argparse.Namespace, place: Place, steps: KeySteps | VoxelSteps, progress: Progress, scales: int | None
) -> None:
    if args.json:
        done: dict[str, Any] = {
            "version": steps.target.version,
            "instance": args.instance,
            **steps.summary,
            "bytes": progress.total,
            "already": progress.already,
            "seconds": round(progress.seconds, 3),
        }
        say(json.dumps(done | ({} if scales is None else {"scales": scales})))
        return
    new = "" if place.repo is not None else ", a new repo"
    more = f", {scales} scales above it" if scales is not None else ""
    say(
        f"imported {steps.title} ({size(progress.total)}) into {args.instance} of {args.repo}{new}{more} "
        f"in {progress.seconds:.1f} s{progress.rate}"
    )


def _pyramid(engine: Engine, target: Target, args: argparse.Namespace) -> int:
    from dvidfs.cli.progress import Progress
    from dvidfs.types.pyramids import work

    pyramid = registry()[target.read()[1].type].pyramid
    assert pyramid is not None
    progress = Progress("making scales", 0, quiet=args.quiet)

    def tell(done: int, of: int) -> None:
        progress.total = of
        progress.at(done)

    try:
        return work.build(pyramid, engine, target.version, target.instance, args.pyramid or None, tell)
    finally:
        progress.end()


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


def _files(engine: Engine, args: argparse.Namespace, place: Place) -> KeySteps:
    from dvidfs.cli.ingest import KeySteps, list_files

    typename: str = place.instance.type if place.instance is not None else args.type
    for name in ("voxel_size", "block_size", "offset", "shape", "dtype", "pyramid"):
        if getattr(args, name) is not None:
            raise BadRequest(f"--{name.replace('_', '-')} means nothing for {typename}")
    path = Path(args.source)
    files = list_files(path)
    return KeySteps(_complete(engine, args, place, typename, {}), path, files)


def _voxels(engine: Engine, args: argparse.Namespace, place: Place, typename: str | None) -> VoxelSteps:
    from dvidfs.cli.ingest_voxels import VoxelSteps, check_fits, type_of
    from dvidfs.cli.sources import open_source
    from dvidfs.types.geometry import parse_point

    given = {k: v for k, v in (("BlockSize", args.block_size), ("VoxelSize", args.voxel_size)) if v}
    if place.instance is not None:
        _agrees(place.instance, given, args.type)
    offset = parse_point(args.offset, "--offset", ",") if args.offset else None
    source = open_source(args.source, Path(args.store), shape=args.shape, dtype=args.dtype, scale=args.source_scale)
    try:
        typename = typename or type_of(source.what)
        where: Point = offset or source.what.offset or (0, 0, 0)
        check_fits(source.what, typename, where)
        _check_scales(args.pyramid, typename, place.instance)
        if place.instance is None:
            given = _settings(source.what) | _scales(args.pyramid, typename, source.what, where) | given
            registry()[typename].configure({k.lower(): v for k, v in given.items()})
        return VoxelSteps(_complete(engine, args, place, typename, given), source, where)
    except BaseException:
        source.close()
        raise


def _settings(what: What) -> dict[str, str]:
    """Settings of a new instance, as far as the source tells them."""
    told = {"BlockSize": BLOCK_SIZE}
    if what.voxel_size is not None:
        told["VoxelSize"] = ",".join(f"{side:.12g}" for side in what.voxel_size)
        if what.units != "nanometers":
            told["VoxelUnits"] = ",".join([what.units] * 3)
    return told


def _scales(wanted: int | None, typename: str, what: What, where: Point) -> dict[str, str]:
    """The setting that says how many scales a new instance has, if its type has one: at least one, since viewers want that."""
    from dvidfs.types.geometry import Box
    from dvidfs.types.pyramids.work import default_scales

    pyramid = registry()[typename].pyramid
    if pyramid is None or not pyramid.setting:
        return {}
    z, y, x = what.shape
    return {pyramid.setting: str(wanted or max(1, default_scales(Box(where, (x, y, z)))))}


def _check_scales(wanted: int | None, typename: str, instance: Instance | None) -> None:
    """Refuse scales that there will not be, before the work begins."""
    pyramid = registry()[typename].pyramid
    if wanted is None:
        return
    if pyramid is None:
        raise BadRequest(f"--pyramid means nothing for {typename}, which has no scales")
    if pyramid.setting and instance is not None:
        most = instance.settings[pyramid.setting]
        if not most or wanted not in (0, most):
            raise BadRequest(
                f'"{instance.name}" has {most} scales, as its {pyramid.setting} says: leave out --pyramid {wanted}'
            )


def _agrees(instance: Instance, given: Mapping[str, str], wanted: str | None) -> None:
    """What was asked for is what the instance is."""
    if wanted and wanted != instance.type:
        raise BadRequest(f'"{instance.name}" is there already, of type {instance.type}: choose another name')
    configured = registry()[instance.type].configure({k.lower(): v for k, v in given.items()})
    for name in given:
        if configured.get(name) != instance.settings.get(name):
            raise BadRequest(f'"{instance.name}" is there already, its {name} is {instance.settings.get(name)}')
