"""The command mappings: puts supervoxels together to bodies as a table says, or prints how they are mapped.

Decides how tables are written: two columns of whole numbers, supervoxel and body, as CSV with or without a head, or as an array (n, 2)
of numpy. What a table does is the datatype's. Invariant: a table is read and checked as a whole before anything changes.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dvidfs.cli.names import opened, read_view, write_view
from dvidfs.cli.output import show
from dvidfs.cli.parser import Commands, store_argument, version_argument
from dvidfs.cli.progress import Progress
from dvidfs.errors import BadRequest

if TYPE_CHECKING:
    from dvidfs.engine import Engine, ReadView
    from dvidfs.types.labelmap.columns import Pairs, U64s

TYPE = "labelmap"
_LINE = rb"[ \t]*\d{1,20}[ \t]*[,;\t ][ \t]*\d{1,20}[ \t]*\r?"
_TABLE = re.compile(rb"(?:" + _LINE + rb"(?:\n|\Z))*\s*")


def add(commands: Commands) -> None:
    parser = commands.add(
        "mappings",
        run,
        "Put supervoxels together to bodies, or print how they are.",
        "mappings store medulla:master segmentation bodies.csv\nmappings store medulla:master segmentation > mappings.csv",
        json=True,
        detail="FILE has lines `supervoxel,body`, with or without a head, or is a numpy array (n, 2). Each supervoxel leaves the body\n"
        "that it is in for the one that it is put into; those that FILE does not name stay where they are. Index, sizes and\n"
        "meshes to be made follow. Without FILE the supervoxels that are mapped to another number are printed.",
    )
    store_argument(parser)
    version_argument(parser)
    parser.add_argument("instance", metavar="INSTANCE", help="Name of the labelmap.")
    parser.add_argument("file", metavar="FILE", nargs="?", help="Table .csv or .npy.")
    parser.add_argument("--quiet", action="store_true", help="Show no progress.")


def run(args: argparse.Namespace) -> None:
    from dvidfs.types.labelmap import agglomerate, files

    with opened(args) as engine:
        with engine.read() as txn:
            view = read_view(txn, args.version, args.instance)
            _need_mapping(view)
            if args.file is None:
                sys.stdout.buffer.writelines(files.mappings(view))
                return
        table = agglomerate.checked(*read_table(Path(args.file)))
        changed = _put(engine, args, table)
    told = {"supervoxels": len(table), "changed": changed}
    show(args, told, [f"{len(table):,} supervoxels are in the bodies of {args.file}; {changed:,} were not before"])


def _need_mapping(view: ReadView) -> None:
    if view.instance.type != TYPE:
        raise BadRequest(f'"{view.instance.name}" is of type {view.instance.type}, which maps nothing: name a {TYPE}')


def _put(engine: Engine, args: argparse.Namespace, table: Pairs) -> int:
    from dvidfs.types.labelmap import agglomerate

    progress = Progress(f'mapping "{args.instance}"', len(table), quiet=args.quiet, told=lambda n: f"{n:,.0f}")
    changed = done = 0
    try:
        for part in agglomerate.parts(table):
            with engine.read() as txn:
                plan = agglomerate.prepare(read_view(txn, args.version, args.instance), part)
            changed += engine.write(
                lambda txn, plan=plan: agglomerate.run(write_view(txn, args.version, args.instance), plan)
            )
            done += len(part)
            progress.at(done)
    finally:
        progress.end()
    return changed


# -- tables ------------------------------------------------------------------------------------------------------


def read_table(path: Path) -> tuple[U64s, U64s]:
    """Supervoxels and their bodies, as a file has them.

    Raises:
        BadRequest: it is no such table; names the line.
    """
    import numpy as np

    if path.suffix.lower() != ".npy":
        both = _parse(path.read_bytes(), path)
    else:
        try:
            both = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise BadRequest(f"{path} is not a numpy file: {error}") from None
        if both.ndim != 2 or both.shape[1] != 2 or both.dtype.kind not in "ui":
            shown = f"{both.dtype} {both.shape}"
            raise BadRequest(f"{path} holds {shown}: want whole numbers (n, 2), supervoxel and body")
        if both.size and both.min() < 0:
            raise BadRequest(f"{path} holds {both.min()}: labels are whole numbers from 0 on")
        both = both.astype(np.uint64)
    return np.ascontiguousarray(both[:, 0]), np.ascontiguousarray(both[:, 1])


def _parse(text: bytes, path: Path) -> U64s:
    """The rows (n, 2) of a CSV file."""
    import numpy as np

    head, _, rest = text.partition(b"\n")
    has_head = bool(head.strip()) and re.fullmatch(_LINE, head) is None and re.match(rb"\s*[-+.\d]", head) is None
    body = rest if has_head else text
    found = _TABLE.match(body)
    if found is None or found.end() < len(body):
        at = found.end() if found is not None else 0
        line = body[at:].split(b"\n", 1)[0].decode(errors="replace")[:40]
        number = body[:at].count(b"\n") + 1 + has_head
        raise BadRequest(f'{path}, line {number} is "{line}": want a supervoxel and its body, as 4512,37')
    numbers = np.fromstring(body.translate(bytes.maketrans(b",;", b"  ")), np.uint64, sep=" ")
    return numbers.reshape(-1, 2)
