"""The page docs/http.md: the server's endpoints and every datatype's, written from the tables that serve them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dvidfs.http.options import HttpOptions
from dvidfs.http.repo_api import NODE_ROWS, REPO_ROWS, RepoApi
from dvidfs.http.server_api import ServerApi
from dvidfs.types import reference
from dvidfs.types.builtin import registry

HEAD = """\
# HTTP reference

Written by `script/reference` from the tables that serve the requests; the same rows answer `/api/help`, `/api/help/<datatype>` and `/api/openapi.json`.

* A version (`{uuid}`) is a UUID, a unique beginning of one, `:branch` (one repo in the store), `UUID:branch` or `UUID:branch~n`; the trunk is called `master`.
* Errors are one line of text: what, where, what would be right. Nearly all have status 400, as in the original; 404 is a missing key, blob or page, 403 a foreign page or host, 416 a range, 502 a volume elsewhere that cannot be reached, 503 throttled or stopping, 507 a full disk.
* `u=` and `app=` on any request name the user and program for the mutation log; `admintoken=` makes an administrator; `throttle=true` is refused (503) where a row says so and too many such calls run.
* Writes to a committed version are refused (400), but for an administrator with the token or a server in full-write mode.
"""


def page() -> str:
    """The whole page."""
    kinds = registry()
    service: Any = SimpleNamespace(options=HttpOptions(), registry=kinds)
    lines = [HEAD, "## The server", "", *reference.rows(ServerApi(service).rows(), ""), ""]
    lines += ["## Repos", "", *reference.rows((*RepoApi(service).rows(), *REPO_ROWS), ""), ""]
    lines += ["## Versions", "", *reference.rows(NODE_ROWS, ""), ""]
    lines += ["# Datatypes", "", "Paths below `/api/node/{uuid}/{instance}/`.", ""]
    for kind in kinds:
        lines += reference.datatype(kind)
    return "\n".join(lines).rstrip() + "\n"


def main(path: str) -> int:
    """Write the page."""
    Path(path).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1] if len(sys.argv) > 1 else "docs/http.md"))
