"""The command export: an instance at a version as ordinary files, read from one snapshot.

Decides names and containers; bytes come from the datatype. Invariant: a file under its final name is whole, and nothing
that was there before is written over.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from dvidfs.cli.names import opened, read_view, registry
from dvidfs.cli.output import say, size, warn
from dvidfs.cli.parser import Commands, store_argument, version_argument
from dvidfs.cli.progress import Progress
from dvidfs.errors import BadRequest, Conflict, Exists, NotFound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dvidfs.engine import ReadView
    from dvidfs.engine.versions import Found
    from dvidfs.types.geometry import Box
    from dvidfs.types.imageblk.volume import Volume

NAME_BYTES = 255


def add(commands: Commands) -> None:
    parser = commands.add(
        "export",
        run,
        "Export an instance as files.",
        "export store medulla:master grayscale slices/\nexport store medulla:master grayscale volume.npy\n"
        "export store medulla:master notes notes.tar",
        detail="DEST of a volume: a new folder for PNG slices, or a .npy or .raw file; of keys: a new folder with a file\n"
        "for each, named as in a mount, or a .tar file.",
    )
    store_argument(parser)
    version_argument(parser)
    parser.add_argument("instance", metavar="INSTANCE", help="Name of the instance.")
    parser.add_argument("dest", metavar="DEST", type=Path, help="Folder or file to be made.")
    parser.add_argument("--quiet", action="store_true", help="Show no progress.")


def run(args: argparse.Namespace) -> int:
    from dvidfs.types.base import Keys

    with opened(args) as engine, engine.read() as txn:
        view = read_view(txn, args.version, args.instance)
        if isinstance(registry()[view.instance.type].tree, Keys):
            export: Callable[[ReadView, Path, bool], tuple[str, Progress, int]] = _export_keys
        elif _is_volume(view):
            export = _export_volume
        else:
            raise BadRequest(f'"{args.instance}" is of type {view.instance.type}, which cannot be exported yet')
        if args.dest.exists() and not (args.dest.is_dir() and not any(args.dest.iterdir())):
            raise Exists(f"{args.dest} is there already: choose another place, or an empty folder")
        what, progress, left_out = export(view, args.dest, args.quiet)
    say(f"exported {what} ({size(progress.total)}) to {args.dest} in {progress.seconds:.1f} s")
    return 1 if left_out else 0


def _is_volume(view: ReadView) -> bool:
    from dvidfs.types.imageblk.kinds import KINDS

    return view.instance.type in KINDS


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


# -- keys --------------------------------------------------------------------------------------------------------


def _export_keys(view: ReadView, dest: Path, quiet: bool) -> tuple[str, Progress, int]:
    from dvidfs.engine.keys import Family

    conflicts: list[Conflict] = []
    found = list(view.scan(Family.TEXT, on_conflict=conflicts.append))
    progress = Progress(f"exporting {len(found)} keys", sum(f.entry.size for f in found), quiet=quiet)
    long = _to_tar(view, dest, found, progress) if dest.suffix == ".tar" else _to_folder(view, dest, found, progress)
    progress.end()
    if conflicts:
        warn(f"{len(conflicts)} keys in conflict were left out: {conflicts[0]}")
    if long:
        warn(f"{long} keys whose names are too long for a file were left out: export to a .tar file has them")
    return f"{len(found) - long} keys", progress, len(conflicts) + long


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


# -- volumes -----------------------------------------------------------------------------------------------------


def _export_volume(view: ReadView, dest: Path, quiet: bool) -> tuple[str, Progress, int]:
    from dvidfs.types.formats.npy import npy_header
    from dvidfs.types.imageblk import extents
    from dvidfs.types.imageblk.volume import Volume

    box = extents.covered(view)
    if box is None:
        raise NotFound(f'nothing has been written to "{view.instance.name}" at this version')
    volume = Volume.of(view)
    progress = Progress("exporting", box.volume * volume.kind.bytes, quiet=quiet)
    if dest.suffix in (".npy", ".raw"):
        with _new_file(dest) as file:
            if dest.suffix == ".npy":
                file.write(npy_header(volume.kind.dtype, (*box.shape, *volume.kind.channels)))
            done = 0
            for piece in volume.stream(box):
                done += file.write(piece)
                progress.at(done)
    elif dest.suffix:
        raise BadRequest(f"{dest}: give a folder, a .npy or a .raw file")
    else:
        _to_slices(volume, box, dest, progress)
    progress.end()
    return f"{box.size[0]} x {box.size[1]} x {box.size[2]} voxels", progress, 0


def _to_slices(volume: Volume, box: Box, dest: Path, progress: Progress) -> None:
    """A PNG for each z, named by it; layer of blocks by layer, encoded on all cores."""
    from dvidfs.types import workers
    from dvidfs.types.formats.png import encode_png
    from dvidfs.types.formats.rasters import as_picture
    from dvidfs.types.geometry import Box

    dest.mkdir(parents=True, exist_ok=True)
    (x, y, z), (width, height, _) = box.offset, box.size
    depth, done = volume.block[2], 0
    while z < box.stop[2]:
        stop = min(z - z % depth + depth, box.stop[2])
        voxels = volume.kind.split(volume.read(Box((x, y, z), (width, height, stop - z)), volume.background))

        def write(item: tuple[int, NDArray]) -> None:
            number, picture = item
            with _new_file(dest / f"{number:06d}.png") as file:
                file.write(encode_png(as_picture(picture)))

        list(workers.pool().map(write, enumerate(voxels, z)))
        done += voxels.nbytes
        progress.at(done)
        z = stop
