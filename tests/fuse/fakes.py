"""A datatype of the tests' own, for what the mount must do with any: folders, patterns, hidden names, windows.

``grid``: a volume of SIDE^3 bytes in one block. ``volume.raw`` is all of it and can be written in place, ``planes/<z>.raw``
its planes, ``rows/<z>/<y>.raw`` nested patterns, ``at/<z>`` resolves without being listed, ``read-only.txt`` is
synthesised, ``broken.raw`` cannot be read beyond its middle.
"""

from __future__ import annotations

from dvidfs.engine import ReadView, WriteView
from dvidfs.engine.keys import Family, encode_block
from dvidfs.engine.values import prepare
from dvidfs.errors import Corrupt
from dvidfs.types.base import DataType, Directory, Each, File, Windows

SIDE = 32
PLANE = SIDE * SIDE
ALL = SIDE * PLANE
KEY = encode_block(0, 0, 0, 0)


def volume(view: ReadView) -> bytes:
    return bytes(view.get(Family.BLOCK, KEY) or bytes(ALL))


def window(start: int, stop: int, view: ReadView, offset: int, length: int) -> bytes:
    return volume(view)[start:stop][offset : offset + length]


def put(view: WriteView, windows: Windows) -> None:
    whole = bytearray(volume(view))
    for start, data in windows:
        whole[start : start + len(data)] = data
    view.put(Family.BLOCK, KEY, prepare(bytes(whole)))


def parse(text: str) -> int | None:
    return int(text) if text.isdecimal() and str(int(text)) == text and int(text) < SIDE else None


def parse_raw(text: str) -> int | None:
    return parse(text.removesuffix(".raw")) if text.endswith(".raw") else None


def broken(view: ReadView, offset: int, length: int) -> bytes:
    if offset + length > ALL // 2:
        raise Corrupt("the second half is damaged")
    return bytes(length)


def names(suffix: str) -> list[str]:
    return [f"{z}{suffix}" for z in range(SIDE)]


PLANE_FILE = File(
    lambda view, z: PLANE,
    lambda view, z, offset, length: window(z * PLANE, (z + 1) * PLANE, view, offset, length),
    lambda view, z, windows: put(view, [(z * PLANE + offset, data) for offset, data in windows]),
)
ROW_FILE = File(
    lambda view, z, y: SIDE,
    lambda view, z, y, offset, length: window(z * PLANE + y * SIDE, z * PLANE + (y + 1) * SIDE, view, offset, length),
)
HINT = b"nobody writes this\n"

GRID = DataType(
    name="grid",
    url="tests/grid",
    version="1",
    summary="A volume for the tests of the mount.",
    endpoints=(),
    tree=Directory(
        {
            "volume.raw": File(
                lambda view: ALL,
                lambda view, offset, length: window(0, ALL, view, offset, length),
                put,
            ),
            "planes": Directory(each=(Each(parse_raw, lambda view: names(".raw"), lambda view, z: True, PLANE_FILE),)),
            "rows": Directory(
                each=(
                    Each(
                        parse,
                        lambda view: names(""),
                        lambda view, z: True,
                        Directory(
                            each=(Each(parse_raw, lambda view, z: names(".raw"), lambda view, z, y: True, ROW_FILE),)
                        ),
                    ),
                )
            ),
            "at": Directory(
                each=(Each(parse, lambda view: names(""), lambda view, z: True, PLANE_FILE, listed=False),)
            ),
            "read-only.txt": File(
                lambda view: len(HINT), lambda view, offset, length: HINT[offset : offset + length], mtime=lambda v: 5
            ),
            "broken.raw": File(lambda view: ALL, broken),
            "hidden.raw": File(lambda view: 0, lambda view, offset, length: b"", shown=lambda view: False),
        }
    ),
)
