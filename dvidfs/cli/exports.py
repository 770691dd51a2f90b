"""The command export: an instance at a version as ordinary files, read from one snapshot.

Decides what is exported, and how keys become files; volumes are written by :mod:`~dvidfs.cli.sinks`. Invariant: a file under its final name is
whole, and nothing that was there before is written over.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dvidfs.cli.names import opened, read_view, registry
from dvidfs.cli.output import say, size, warn
from dvidfs.cli.parser import Commands, store_argument, version_argument
from dvidfs.cli.progress import Progress
from dvidfs.errors import BadRequest, Conflict, Exists, NotFound

if TYPE_CHECKING:
    from dvidfs.cli.sinks import Selection
    from dvidfs.engine import ReadView
    from dvidfs.engine.versions import Found
    from dvidfs.types.geometry import Box
    from dvidfs.types.volumes.source import Source

NAME_BYTES = 255
EXAMPLES = (
    "export store medulla:master grayscale slices/",
    "export store medulla grayscale tifs/ --format tif --box 0,0,0+200,200,10",
    "export store medulla grayscale jpegs/ --format jpg:90",
    "export store medulla grayscale stack.tif",
    "export store medulla grayscale volume.npy",
    "export store medulla grayscale voxels.raw",
    "export store medulla grayscale volume.nii.gz",
    "export store medulla grayscale volume.mhd",
    "export store medulla grayscale volume.nrrd",
    "export store medulla grayscale volume.h5",
    "export store medulla grayscale em.zarr --sharded",
    "export store medulla grayscale em2.zarr --zarr-format 2 --scales 1",
    "export store medulla grayscale em.n5 --encoding raw",
    "export store medulla grayscale em.precomputed --sharded --encoding jpeg:85",
    "export store medulla grayscale precomputed://gs://bucket/em",
    "export store medulla segmentation bodies.nii.gz",
    "export store medulla segmentation supervoxels.h5 --supervoxels",
    "export store medulla notes notes.tar",
)


def add(commands: Commands) -> None:
    parser = commands.add(
        "export",
        run,
        "Export an instance as files.",
        "\n".join(EXAMPLES),
        json=True,
        detail="DEST of a volume: a new folder for slices; a file .tif .npy .raw .nii .nii.gz .mhd .nrrd .h5; or, with all its\n"
        "scales, a new folder .zarr (OME-Zarr), .n5 or .precomputed, or FORMAT://URL of one at http(s), s3 or gs. DEST of keys:\n"
        "a new folder with a file for each, named as in a mount, or a .tar file. An export of a volume that was stopped goes on\n"
        "where it was when the same command is run again. Labels are exported as bodies, or with --supervoxels as they are\n"
        "stored; `dvidfs mappings` prints which supervoxel belongs to which body.",
    )
    store_argument(parser)
    version_argument(parser)
    parser.add_argument("instance", metavar="INSTANCE", help="Name of the instance.")
    parser.add_argument("dest", metavar="DEST", help="Folder or file to be made.")
    parser.add_argument(
        "--box",
        metavar="X,Y,Z+SX,SY,SZ",
        help="First voxel and size of what is exported; default: all that was written.",
    )
    parser.add_argument("--supervoxels", action="store_true", help="Of labels: supervoxels in place of bodies.")
    parser.add_argument(
        "--scale", type=int, default=0, metavar="N", help="Export this scale as the finest; default: 0."
    )
    parser.add_argument(
        "--format", help="Slices: png (default), tif, jpg or jpg:QUALITY; a folder: zarr, n5, precomputed."
    )
    parser.add_argument(
        "--encoding",
        help="Of chunks; zarr, n5: zstd, gzip, raw; precomputed: raw, jpeg:QUALITY, png, compressed_segmentation (labels).",
    )
    parser.add_argument("--chunk", metavar="X,Y,Z", help="Voxels of a chunk; default: 64,64,64.")
    parser.add_argument("--sharded", action="store_true", help="Many chunks in each file (precomputed, Zarr 3).")
    parser.add_argument(
        "--scales",
        type=int,
        metavar="N",
        help="Scales of a volume in chunks; default: until a chunk holds the coarsest.",
    )
    parser.add_argument("--zarr-format", type=int, choices=(2, 3), help="Version of Zarr; default: 3.")
    parser.add_argument("--quiet", action="store_true", help="Show no progress.")


def run(args: argparse.Namespace) -> int:
    from dvidfs.types.base import Keys

    with opened(args) as engine, engine.read() as txn:
        view = read_view(txn, args.version, args.instance)
        if isinstance(registry()[view.instance.type].tree, Keys):
            return _export_keys(view, args)
        return _export_volume(view, args)


def _tell(args: argparse.Namespace, what: str, progress: Progress, done: dict[str, Any]) -> None:
    if args.json:
        seconds = round(progress.seconds, 3)
        told = {"dest": args.dest, **done, "bytes": progress.total, "already": progress.already, "seconds": seconds}
        say(json.dumps(told))
    else:
        say(f"exported {what} ({size(progress.total)}) to {args.dest} in {progress.seconds:.1f} s{progress.rate}")


# -- volumes -----------------------------------------------------------------------------------------------------


def _export_volume(view: ReadView, args: argparse.Namespace) -> int:
    from dvidfs import kernels
    from dvidfs.cli.sinks import Choices, open_sink
    from dvidfs.types.geometry import parse_size

    chunk = parse_size(args.chunk, "--chunk", ",") if args.chunk else None
    choices = Choices(args.format, args.encoding, chunk, args.sharded, args.scales, args.zarr_format)
    selection = _select(view, args)
    sink = open_sink(selection, args.dest, choices)
    kernels.load("labels_numba" if selection.source.labels else "blocks_numba")
    already = sink.begin()
    progress = Progress("exporting", sink.total, already=already, quiet=args.quiet)
    try:
        sink.run(progress.at)
    except KeyboardInterrupt:
        warn("stopped: run the same command again to continue")
        raise
    finally:
        progress.end()
    box = selection.box
    what = f"{box.size[0]} x {box.size[1]} x {box.size[2]} voxels"
    _tell(args, what, progress, {"offset": list(box.offset), "size": list(box.size)})
    return 0


def _select(view: ReadView, args: argparse.Namespace) -> Selection:
    """The part of the volume that the command names."""
    from dvidfs.cli.sinks import Selection

    source = _source(view, args)
    most = source.scales(view)
    if not 0 <= args.scale <= most:
        raise BadRequest(f'--scale {args.scale}: "{args.instance}" has the scales 0 to {most}, see `dvidfs pyramid`')
    shape = source.shape(view, args.scale)
    if args.box:
        shape = replace(shape, box=_box(args.box))
    elif shape.box is None:
        raise NotFound(f'nothing has been written to "{view.instance.name}" at this version')
    return Selection(view, source, shape, source.open(view, args.scale))


def _source(view: ReadView, args: argparse.Namespace) -> Source:
    """The voxels of the instance that the command names."""
    volumes = registry()[view.instance.type].volumes
    if not volumes:
        raise BadRequest(f'"{args.instance}" is of type {view.instance.type}, which has no voxels to export')
    wanted = "supervoxels" if args.supervoxels else ""
    found = next((volume for volume in volumes if volume.name == wanted), None)
    if found is None:
        raise BadRequest(f"--supervoxels means nothing for {view.instance.type}")
    return found


def _box(text: str) -> Box:
    from dvidfs.types.geometry import checked_box, parse_point, parse_size

    # the sign before a size is the last one that follows a digit
    offset, plus, extent = text.rpartition("+")
    if not plus or not offset:
        raise BadRequest(f'--box "{text}": want the first voxel and the size, as 0,0,0+512,512,64')
    return checked_box(parse_size(extent, "--box", ","), parse_point(offset, "--box", ","))


# -- keys --------------------------------------------------------------------------------------------------------


def _export_keys(view: ReadView, args: argparse.Namespace) -> int:
    from dvidfs.engine.keys import Family

    dest = Path(args.dest)
    for name in ("box", "format", "encoding", "chunk", "sharded", "scales", "zarr_format", "scale", "supervoxels"):
        if getattr(args, name):
            raise BadRequest(f"--{name.replace('_', '-')} means nothing for {view.instance.type}")
    if dest.exists() and not (dest.is_dir() and not any(dest.iterdir())):
        raise Exists(f"{dest} is there already: choose another place, or an empty folder")
    conflicts: list[Conflict] = []
    found = list(view.scan(Family.TEXT, on_conflict=conflicts.append))
    progress = Progress(f"exporting {len(found)} keys", sum(f.entry.size for f in found), quiet=args.quiet)
    long = _to_tar(view, dest, found, progress) if dest.suffix == ".tar" else _to_folder(view, dest, found, progress)
    progress.end()
    if conflicts:
        warn(f"{len(conflicts)} keys in conflict were left out: {conflicts[0]}")
    if long:
        warn(f"{long} keys whose names are too long for a file were left out: export to a .tar file has them")
    kept = len(found) - long
    _tell(args, f"{kept} keys", progress, {"keys": kept, "left_out": len(conflicts) + long})
    return 1 if conflicts or long else 0


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that has its name only when it is whole."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


def _to_folder(view: ReadView, dest: Path, found: list[Found], progress: Progress) -> int:
    """One file for each key; how many have names that no file can have."""
    from dvidfs.fuse.names import encode

    dest.mkdir(parents=True, exist_ok=True)
    long = done = 0
    for item in found:
        name = encode(item.key)
        if len(name) > NAME_BYTES:
            long += 1
            continue
        path = dest / os.fsdecode(name)
        with path.open("wb") as file:
            for piece in view.stream(item.entry):
                file.write(piece)
        os.utime(path, ns=(item.entry.mtime, item.entry.mtime))
        done += item.entry.size
        progress.at(done)
    return long


def _to_tar(view: ReadView, dest: Path, found: list[Found], progress: Progress) -> int:
    import tarfile

    done = 0
    with _new_file(dest) as file:
        for item in found:
            info = tarfile.TarInfo(item.key.decode(errors="surrogateescape"))
            info.size, info.mtime = item.entry.size, item.entry.mtime // 10**9
            file.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
            for piece in view.stream(item.entry):
                file.write(piece)
            file.write(bytes(-item.entry.size % tarfile.BLOCKSIZE))
            done += item.entry.size
            progress.at(done)
        file.write(bytes(2 * tarfile.BLOCKSIZE))
    return 0
