"""``.dvidfs``: what the program tells of itself as files, and the log that ``errors.log`` shows."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from dvidfs import __version__
from dvidfs.engine import ReadTxn

if TYPE_CHECKING:
    from dvidfs.fuse.nodes import Context

STARTED = time.time_ns()
LINES = 1000

README = """\
This folder is a dvidfs store, mounted. It holds repos; a repo holds versions; a version holds data instances.

  <repo>/<uuid>/<instance>/    what an instance holds at a version
  <repo>/branches/<name>       the newest version of a branch
  <repo>/tags/<name>           a tagged version
  <repo>/:<branch>~2           two versions above the newest one of a branch
  <repo>/.dvid/dag.txt         all versions, drawn
  <repo>/<uuid>/.dvid/         note, log, status, parents and children of a version

A committed version never changes. In an open one keys are written as files are, `mkdir` makes a keyvalue instance,
and a line written to .dvid/log is logged. What went wrong stands in .dvidfs/errors.log.
"""


class ErrorLog(logging.Handler):
    """The last warnings and errors of this process."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: deque[str] = deque(maxlen=LINES)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def text(self) -> bytes:
        return "".join(line + "\n" for line in list(self.lines)).encode(errors="replace")


ERRORS = ErrorLog()


def now(txn: ReadTxn) -> int:
    """When this program was started, as a file's time."""
    return STARTED


def files(context: Context) -> dict[bytes, Callable[[], bytes]]:
    return {
        b"version": lambda: f"{__version__}\n".encode(),
        b"config.json": lambda: _json(
            {
                "store": str(context.engine.store.path),
                "durability": context.engine.store.durability,
                "mountpoint": str(context.mountpoint),
                "options": asdict(context.options),
            }
        ),
        b"stats.json": lambda: _json(statistics(context)),
        b"errors.log": ERRORS.text,
        b"README.txt": README.encode,
    }


def _json(data: object) -> bytes:
    return orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def statistics(context: Context) -> dict[str, object]:
    """Sizes of what the mount keeps, with their limits."""
    budget = context.opens.budget
    return {
        **context.engine.statistics(),
        "mount": {
            "known_inodes": len(context.inodes),
            "open_files": len(context.opens),
            "listed_keys_held": context.rows.count(),
            "made_files": context.made.statistics(),
            "buffers": {"bytes": budget.used, "limit": budget.limit},
            "resident_bytes": _resident(),
        },
    }


def _resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
