"""Entry of the command: reads the words, runs what they name, and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from dvidfs.errors import EXIT_CODES, DvidfsError

INTERRUPTED = 130
PIPE_CLOSED = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code (``errors.EXIT_CODES``, 130 for ctrl-C)."""
    from dvidfs.cli.parser import build

    args = build().parse_args(argv)
    try:
        code = args.run(args) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read us has seen enough; Python would complain once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - the last one who can say anything
        return report(error)
    return code


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


if __name__ == "__main__":
    sys.exit(main())
