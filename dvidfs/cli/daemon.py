"""A service in the background: the command returns when the service is ready, or has failed.

Decides how the two processes speak (one line through a pipe) and where the service's words go: to the caller's own
streams until it is ready, to its log from then on. Invariant: the process is forked before any thread or heavy module
is there; a service that could not start ends the command with its own message and exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from dvidfs.cli.output import report

Say = Callable[[str], None]


def detach(run: Callable[[Say], None], log: Path) -> int:
    """Run ``run(ready)`` in a process and session of its own; 0 when it is ready, else its exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setsid()
        if os.fork():
            os._exit(0)
        _serve(run, writer, log)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        code, _, text = pipe.read().partition(" ")
    if not code:
        sys.stderr.write("dvidfs: the service was killed before it was ready\n")
        return 1
    if text:
        sys.stdout.write(f"{text}\n")
    return int(code)


def _serve(run: Callable[[Say], None], writer: int, log: Path) -> None:
    """The service's process; never returns."""
    told = False

    def tell(text: str) -> None:
        nonlocal told
        if not told:
            told = True
            os.write(writer, text.encode())
            os.close(writer)

    def ready(text: str) -> None:
        _redirect(log)
        tell(f"0 {text}")

    code = 0
    try:
        os.chdir("/")
        run(ready)
    except BaseException as error:  # noqa: BLE001 - the last one who can say anything
        code = report(error)
        tell(str(code))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _redirect(log: Path) -> None:
    """From now on nothing comes from or goes to the terminal."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    kept = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    for source, target in ((nothing, 0), (kept, 1), (kept, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(kept)
