"""A datatype of the tests' own whose files have no size before they are made.

Its one value is a text. ``text.txt`` shows it, ``long.bin`` repeats it 100,000 times in pieces, ``costly.bin`` is the same but made only when it
is opened, ``first.txt`` shows its first letter and hangs on nothing else, ``slow.txt`` takes a while, ``gone.txt`` is never
there when it is made, ``bad.bin`` breaks off in the middle. ``bodies/<n>/text.txt``: a million folders; the value's
length, times 1000, are listed. Each making is logged as "made <name>".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import numpy as np

from dvidfs.engine import Engine, ReadView, WriteTxn, WriteView, repos
from dvidfs.engine.keys import Family, encode_block
from dvidfs.engine.values import prepare
from dvidfs.engine.versions import NOBODY, Caller
from dvidfs.errors import Corrupt, NotFound
from dvidfs.types.base import DataType, Directory, Each, Made, Numbered

KEY = encode_block(0, 0, 0, 0)
REPEATS = 100_000
SLOW = 1.0
BODIES = 1_000_000


def text(view: ReadView) -> bytes:
    return bytes(view.get(Family.BLOCK, KEY) or b"")


def long(view: ReadView) -> Iterator[bytes]:
    yield from [text(view)] * REPEATS


def slow(view: ReadView) -> bytes:
    time.sleep(SLOW)
    return text(view)


def gone(view: ReadView) -> bytes:
    raise NotFound("it went away")


def bad(view: ReadView) -> Iterator[bytes]:
    yield b"well"
    raise Corrupt("the rest is damaged")


def told(name: str, make: Callable[..., bytes | Iterator[bytes]]) -> Callable[..., bytes | Iterator[bytes]]:
    def logged(*given: object) -> bytes | Iterator[bytes]:
        logging.getLogger("shelf").info("made %s", name)
        return make(*given)

    return logged


def parse(name: str) -> int | None:
    return int(name) if name.isdecimal() and str(int(name)) == name else None


SHELF = DataType(
    name="shelf",
    url="tests/shelf",
    version="1",
    summary="Made files for the tests of the mount.",
    endpoints=(),
    tree=Directory(
        {
            "text.txt": Made(told("text", text)),
            "long.bin": Made(told("long", long)),
            "costly.bin": Made(told("costly", long), costly=lambda view: True, mtime=lambda view: 7_000_000_000),
            "first.txt": Made(told("first", lambda view: text(view)[:1]), tag=lambda view: text(view)[:1]),
            "slow.txt": Made(told("slow", slow)),
            "gone.txt": Made(gone, costly=lambda view: True),
            "bad.bin": Made(told("bad", bad), costly=lambda view: True),
            "filled.txt": Made(text, shown=lambda view: text(view) != b""),
            "bodies": Directory(
                each=(
                    Each(
                        parse,
                        lambda view: Numbered(np.arange(len(text(view)) * 1000)),
                        lambda view, n: n < BODIES,
                        Directory({"text.txt": Made(lambda view, n: b"%d %b" % (n, text(view)))}),
                    ),
                )
            ),
        }
    ),
)


def make_shelf(engine: Engine, version: str, first: bytes) -> None:
    """An instance ``shelf`` at that version."""
    engine.write(lambda txn: repos.create_instance(txn, txn.graph.version(version), "shelf", "shelf"))
    put(engine, version, first)


def put(engine: Engine, version: str, value: bytes, caller: Caller = NOBODY) -> None:
    def write(txn: WriteTxn) -> None:
        node = txn.graph.version(version)
        WriteView(txn, node, txn.graph.instance(node, "shelf"), caller).put(Family.BLOCK, KEY, prepare(value))

    engine.write(write)
