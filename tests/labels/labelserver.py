"""A server process that allows everything labels can do.

Decides its settings; starting and ending it is :mod:`live`'s.
"""

from __future__ import annotations

from pathlib import Path

import live

CONFIG = """\
[server]
httpAddress = "127.0.0.1:0"
allowLabelmapSplit = true

[store.main]
engine = "lmdb"
path = "{store}"

[backend.default]
store = "main"
"""


class LabelServer(live.Server):
    """`dvidfs serve` of a store in a folder, made if there is none, that allows body splits over HTTP."""

    def __init__(self, folder: Path, *words: object) -> None:
        config = folder / "config.toml"
        config.write_text(CONFIG.format(store=folder / "store"))
        super().__init__(config, *words, log=folder / "server.log")
