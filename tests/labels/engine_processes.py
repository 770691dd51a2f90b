"""A second process over a store that this one has open."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def other_process(path: Path, code: str) -> Iterator[subprocess.Popen[str]]:
    """Runs ``code`` with the store open as ``engine``; it is gone when this ends."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom dvidfs.engine import *\n"
        f"with open_engine(Path({str(path)!r})) as engine:\n" + textwrap.indent(textwrap.dedent(code), "    ")
    )
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", sys.executable, "-c", program],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        with process:
            process.kill()


def told_by(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ended(process: subprocess.Popen[str]) -> None:
    """Closes its input; it must end well."""
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0
