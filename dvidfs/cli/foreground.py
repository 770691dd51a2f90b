"""The command foreground: a region of interest out of what a volume shows."""

from __future__ import annotations

import argparse

from dvidfs.cli.names import opened, read_view, user
from dvidfs.cli.output import show
from dvidfs.cli.parser import Commands, store_argument, version_argument
from dvidfs.cli.progress import Progress
from dvidfs.errors import BadRequest


def add(commands: Commands) -> None:
    parser = commands.add(
        "foreground",
        run,
        "Make a region of interest of the blocks of a volume that hold more than background.",
        "foreground store medulla:master grayscale tissue\n"
        "foreground store medulla:master grayscale tissue --background 0,255",
        json=True,
        detail="The volume is of type uint8blk. NEW_ROI is made if it is not there; if it is, this version's region is replaced.",
    )
    store_argument(parser)
    version_argument(parser)
    parser.add_argument("instance", metavar="INSTANCE", help="Name of the volume.")
    parser.add_argument("roi", metavar="NEW_ROI", help="Name of the instance of type roi.")
    parser.add_argument("--background", default="0", metavar="N,N", help="Values that count as background (default 0).")
    parser.add_argument("--quiet", action="store_true", help="Show no progress.")


def run(args: argparse.Namespace) -> None:
    from dvidfs.engine.versions import Caller
    from dvidfs.types.imageblk import extents, foreground
    from dvidfs.types.imageblk.volume import Volume
    from dvidfs.types.roi.region import Region

    background = [_byte(word) for word in args.background.split(",")]
    with opened(args) as engine:
        with engine.read() as txn:
            view = read_view(txn, args.version, args.instance)
            version, name = view.node.uuid, view.instance.name
            foreground.check(view)
            block_bytes, box = Volume.of(view).block_bytes, extents.covered(view)
        progress = Progress(f'foreground of "{name}"', box.volume if box else 0, quiet=args.quiet)
        caller = Caller(user=user(), app="dvidfs")
        try:
            spans = foreground.make(
                engine, version, name, args.roi, background, lambda done: progress.at(done * block_bytes), caller
            )
        finally:
            progress.end()
    found = {"roi": args.roi, "spans": len(spans), "blocks": Region(spans).count}
    show(args, found, [f'"{args.roi}" has {found["blocks"]} of the blocks of "{name}"'])


def _byte(word: str) -> int:
    if not word.strip().isdecimal() or int(word) > 255:
        raise BadRequest(f'--background: "{word}" is no byte: give numbers of 0 to 255, as 0,255')
    return int(word)
