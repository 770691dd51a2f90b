"""Entry of the command: reads the words, runs what they name, and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

INTERRUPTED = 130
PIPE_CLOSED = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code (``errors.EXIT_CODES``, 130 for ctrl-C)."""
    # numpy would start a thread for each core, which costs as much as importing it; no linear algebra is done here
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from dvidfs.cli.output import report
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


if __name__ == "__main__":
    sys.exit(main())
