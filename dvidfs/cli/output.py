"""How commands print: text for people, JSON on request, bytes as they are; and how they ask before they destroy."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

from dvidfs.errors import EXIT_CODES, BadRequest, DvidfsError


def say(text: str = "") -> None:
    """One line on stdout. Bytes that are no UTF-8 (in keys) go out as they are."""
    sys.stdout.buffer.write(text.encode(errors="surrogateescape") + b"\n")


def warn(text: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"dvidfs: {text}\n")


def show(args: argparse.Namespace, data: Any, lines: Iterable[str]) -> None:
    """``data`` as JSON if it was asked for, else ``lines``."""
    if args.json:
        say(json.dumps(data, indent=2, default=list))
        return
    for line in lines:
        say(line)


def table(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Rows as lines, columns aligned to the left."""
    if not rows:
        return []
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in texts]


def when(ns: int) -> str:
    """A time in ns for people, in their time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ns // 10**9))


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def confirm(args: argparse.Namespace, what: str) -> None:
    """Ask before something is destroyed; ``--yes`` has answered.

    Raises:
        BadRequest: the answer is no, or there is nobody to ask.
    """
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise BadRequest(f"this will delete {what}: say so with --yes")
    sys.stderr.write(f"Delete {what}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise BadRequest("nothing was deleted")


def yes_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="Do not ask.")
    parser.add_argument("--passcode", default="", help="Passcode of the repo, if it has one.")


def report(error: BaseException) -> int:
    """Say on stderr what went wrong, and give its exit code. Only our own bugs have a traceback."""
    if isinstance(error, DvidfsError):
        sys.stderr.write(f"dvidfs: {one_line(str(error))}\n")
        return EXIT_CODES[error.kind]
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        sys.stderr.write(f"dvidfs: {where}{error.strerror}\n")
        return 1
    traceback.print_exception(error)
    sys.stderr.write("dvidfs: this is a bug of dvidfs, please report it with the lines above\n")
    return 1


def one_line(text: str) -> str:
    return " ".join(text.split())
