"""Commands that keep running: mount, serve; and umount, which ends one."""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dvidfs.cli.output import say, warn
from dvidfs.cli.parser import Commands
from dvidfs.errors import BadRequest, Busy

if TYPE_CHECKING:
    from dvidfs.config import Config

DEFAULT_HTTP = "127.0.0.1:8000"
STORE_HELP = 'Folder of the store, or one of DVID\'s TOML files with engine = "lmdb".'


def add(commands: Commands) -> None:
    parser = commands.add("mount", mount, "Mount a store as a file system.", "mount store ~/mnt --http --daemon",
                          detail="Runs until ctrl-C, SIGTERM or `dvidfs umount DIR`.")  # fmt: skip
    parser.add_argument("store", metavar="STORE", help=STORE_HELP)
    parser.add_argument("dir", metavar="DIR", type=Path, help="Folder to mount on.")
    parser.add_argument("--http", nargs="?", const=DEFAULT_HTTP, metavar="HOST:PORT",
                        help=f"Serve HTTP too, from the same process; alone it means {DEFAULT_HTTP}.")  # fmt: skip
    _service_arguments(parser)
    parser.set_defaults(until_unmounted=True)

    parser = commands.add("serve", mount, "Serve a store over HTTP.", "serve store --http 127.0.0.1:8000\n"
                          "serve config.toml", detail="Runs until ctrl-C or SIGTERM.")  # fmt: skip
    parser.add_argument("store", metavar="STORE", help=STORE_HELP)
    parser.add_argument("--http", nargs="?", const=DEFAULT_HTTP, metavar="HOST:PORT",
                        help=f"Where to listen; {DEFAULT_HTTP} if neither this nor the TOML file says.")  # fmt: skip
    parser.add_argument("--mount", metavar="DIR", type=Path, dest="dir", help="Mount it on a folder too.")
    _service_arguments(parser)
    parser.set_defaults(until_unmounted=False)

    parser = commands.add("umount", umount, "Take a mount away; names who keeps it busy.", "umount ~/mnt")
    parser.add_argument("dir", metavar="DIR", type=Path, help="Where it is mounted.")
    parser.add_argument("--lazy", action="store_true", help="Also when it is busy: it goes when the last user does.")


def _service_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--daemon", action="store_true", help="Return when it is ready, and go on in the background.")
    parser.add_argument("--cors", action="append", metavar="ORIGIN",
                        help="Let pages of this origin read over HTTP; * for all; may be repeated.")  # fmt: skip
    parser.add_argument("--durability", choices=("durable", "periodic"),
                        help="durable (default): on disk before it is acknowledged; periodic: every second.")  # fmt: skip
    parser.add_argument("--read-only", action="store_true", help="Refuse every write over HTTP.")
    parser.add_argument("--full-write", action="store_true", help="Allow writes to committed versions over HTTP.")
    parser.add_argument("--allow-other", action="store_true", help="Let other users see the mount.")
    parser.add_argument("--log", type=Path, metavar="FILE", help="Write the log to this file.")
    parser.add_argument(
        "--request-log", type=Path, metavar="FILE", help="Write a line for each HTTP request to this file."
    )
    parser.add_argument("--verbose", action="store_true", help="Log more than warnings.")


def add_original_flags(parser: argparse.ArgumentParser) -> None:
    """Words that DVID's own command takes before ``serve``."""
    for flag in ("verbose", "readonly", "fullwrite"):
        parser.add_argument(f"-{flag}", action="store_true", dest=f"original_{flag}", help=argparse.SUPPRESS)


def mount(args: argparse.Namespace) -> int:
    """Run a service, in the foreground or as a daemon."""
    config = configure(args)
    verbose = args.verbose or args.original_verbose
    if args.daemon:
        from dvidfs.cli.daemon import detach

        log = config.logfile or config.store / "dvidfs.log"
        return detach(lambda ready: _run(config, args, ready, verbose), log)
    _run(config, args, _say_now, verbose)
    return 0


def _run(config: Config, args: argparse.Namespace, ready: Callable[[str], None], verbose: bool) -> None:
    gc.disable()  # nothing of what is imported now will ever be garbage: service.run collects from then on
    from dvidfs import service

    service.set_up_logging(config, verbose=verbose)
    service.run(config, ready=ready, tell=warn, until_unmounted=args.until_unmounted)


def _say_now(text: str) -> None:
    say(text)
    sys.stdout.flush()


def configure(args: argparse.Namespace) -> Config:
    """Defaults, TOML file, environment and flags together."""
    from dataclasses import replace

    from dvidfs.config import Config, apply_environment, parse_address, read_toml

    target = Path(args.store).absolute()
    config = apply_environment(read_toml(target) if target.is_file() else Config(target))
    if args.http is not None:
        config = replace(config, http=parse_address(args.http))
    elif config.http is None and not args.until_unmounted:
        config = replace(config, http=parse_address(DEFAULT_HTTP))
    if args.dir is not None:
        config = replace(config, mount=args.dir.absolute(), allow_other=args.allow_other)
    if args.cors:
        config = replace(config, cors=tuple(args.cors))
    if args.durability:
        config = replace(config, durability=args.durability)
    if args.log is not None:
        config = replace(config, logfile=args.log)
    if config.logfile is not None:
        config = replace(config, logfile=config.logfile.absolute())
    if args.request_log is not None:
        config = replace(config, request_log=args.request_log.absolute())
    read_only = args.read_only or args.original_readonly
    full_write = args.full_write or args.original_fullwrite
    if read_only and full_write:
        raise BadRequest("read-only and full-write exclude each other: give one of them")
    if read_only or full_write:
        config = replace(config, mode="readonly" if read_only else "fullwrite")
    return config


# -- umount ------------------------------------------------------------------------------------------------------


def umount(args: argparse.Namespace) -> None:
    import subprocess

    path = Path(os.path.realpath(args.dir))
    kind = mounted_kind(path)
    if kind is None:
        raise BadRequest(f"nothing is mounted at {path}")
    if not kind.startswith("fuse"):
        raise BadRequest(f"{path} is a mount of type {kind}, not one of dvidfs: it is left alone")
    tool = shutil.which("fusermount3") or shutil.which("fusermount")
    words = [tool, "-u", *(["-z"] if args.lazy else [])] if tool else ["umount", *(["-l"] if args.lazy else [])]
    done = subprocess.run([*words, str(path)], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    if "busy" in done.stderr.lower():
        who = ", ".join(f"{name} (pid {pid})" for pid, name in holders(path)) or "programs of another user"
        raise Busy(f"{path} is busy, in use by {who}: end them or leave the folder, or detach it now with --lazy")
    raise BadRequest(f"cannot unmount {path}: {done.stderr.strip() or f'{words[0]} failed'}")


def mounted_kind(path: Path) -> str | None:
    """Type of the file system that is mounted at a path; None if none is. Asks only the kernel's table."""
    found = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape").encode("latin-1").decode(errors="surrogateescape")
        if point == str(path):
            found = right.split()[0]
    return found


def holders(path: Path) -> Iterator[tuple[int, str]]:
    """Programs that work in a folder or hold one of its files open: (pid, name), as far as we may see them."""
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda p: int(p.name)):
        with suppress(OSError):
            links = [process / "cwd", process / "root", process / "exe", *(process / "fd").iterdir()]
            if any(_lies_in(link, path) for link in links) or f" {path}/" in (process / "maps").read_text():
                yield int(process.name), (process / "comm").read_text().strip()


def _lies_in(link: Path, folder: Path) -> bool:
    with suppress(OSError):
        target = os.readlink(link)  # noqa: PTH115 - the text is wanted, and nothing must be looked up
        return target == str(folder) or target.startswith(f"{folder}/")
    return False
