"""The command pyramid: makes the scales of a volume in this process, or has a service make them."""

from __future__ import annotations

import argparse

from dvidfs.cli.names import opened, read_view, registry, write_view
from dvidfs.cli.output import show
from dvidfs.cli.parser import Commands, store_argument, version_argument
from dvidfs.cli.progress import Progress
from dvidfs.errors import BadRequest


def add(commands: Commands) -> None:
    parser = commands.add(
        "pyramid",
        run,
        "Make coarser scales of a volume.",
        "pyramid store medulla:master grayscale\npyramid store medulla:master grayscale --scales 4 --background",
        json=True,
        detail="Each scale has half the voxels of the one below along each axis. From then on they follow whatever is\n"
        "written, at this version and those after it. Work that was stopped goes on when the same command is run again.",
    )
    store_argument(parser)
    version_argument(parser)
    parser.add_argument("instance", metavar="INSTANCE", help="Name of the instance.")
    parser.add_argument(
        "--scales",
        type=int,
        metavar="N",
        help="How many; default: until no side is longer than 256 voxels. Labels have as many as MaxDownresLevel says.",
    )
    parser.add_argument("--background", action="store_true", help="Leave it to the service that runs on this store.")
    parser.add_argument("--quiet", action="store_true", help="Show no progress.")


def run(args: argparse.Namespace) -> None:
    from dvidfs.types.pyramids import requests, work

    with opened(args) as engine:
        with engine.read() as txn:
            view = read_view(txn, args.version, args.instance)
            version, instance = view.node.uuid, view.instance
        pyramid = registry()[instance.type].pyramid
        if pyramid is None:
            raise BadRequest(f'"{instance.name}" is of type {instance.type}, which has no scales: name a volume')
        if args.background:
            body = {"scales": args.scales}
            made = engine.write(
                lambda txn: requests.post_pyramid(pyramid, write_view(txn, version, instance.name), body)
            )
            line = f'scales 1 to {made["building"]} of "{instance.name}" will be made by `dvidfs serve`, or `dvidfs jobs run`'
            show(args, made, [line])
            return
        progress = Progress(f'scales of "{instance.name}"', 0, quiet=args.quiet)

        def tell(done: int, total: int) -> None:
            progress.total = total
            progress.at(done)

        try:
            count = work.build(pyramid, engine, version, instance.name, args.scales, tell)
        finally:
            progress.end()
        show(args, {"scales": count}, [f'"{instance.name}" has scales 0 to {count}{progress.rate}'])
