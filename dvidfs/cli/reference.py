"""The page docs/commands.md: the help of every command, and the configuration file."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from dvidfs.cli.parser import build

HEAD = """\
# The command

Written by `script/reference` from the command's own help. Errors are one line on stderr; exit codes: 1 it cannot be done, 2 wrong words, 3 wrong store, 4 disk full, 5 damage, 6 busy.

"""
CONFIG = """
## The configuration file

`dvidfs serve CONFIG.toml` and `dvidfs mount CONFIG.toml DIR` read the original's TOML file, with `engine = "lmdb"`. Relative paths start at the file's folder; a store that does not exist is made; a key
that has no effect is one warning line. The command line wins over the environment (`DVID_ADMIN_TOKEN`), that over the file.

```toml
[server]
httpAddress = "127.0.0.1:8000"
corsDomains = ["https://neuroglancer-demo.appspot.com"]
note = "medulla, working copy"
rwMode = "fullwrite"            # or "readonly"; leave it out for the usual rules
allowLabelmapSplit = true
min_mutation_id_start = 1000000000
cacheMB = 256                   # memory for voxels of volumes elsewhere

[store.main]
engine = "lmdb"
path = "store"
durability = "durable"          # or "periodic": synced every second

[store.fly]                     # a volume elsewhere, for GridStore=fly: see proxies.md
engine = "ngprecomputed"        # or "zarr", "n5"
ref = "gs://bucket/em"          # or url = "https://host/em", path = "folder"

[backend.default]
store = "main"

[logging]
logfile = "dvidfs.log"
```

The mutation log is always kept in the store; `[mutations] jsonstore` and `[mutcache.NAME] path` are taken as they stand in the original's files.
"""


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Every parser that runs something, below this one, in the order of the help."""
    nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not nested:
        yield parser
    for action in nested:
        for child in action.choices.values():
            yield from parsers(child)


def page() -> str:
    """The whole page, with help 100 columns wide."""
    os.environ["COLUMNS"] = "100"
    top = build()
    parts = [HEAD, "```\n", top.format_help(), "```\n"]
    for parser in parsers(top):
        parts += [f"\n## {parser.prog}\n\n```\n", parser.format_help(), "```\n"]
    return "".join(parts) + CONFIG


def main(path: str) -> int:
    Path(path).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1] if len(sys.argv) > 1 else "docs/commands.md"))
