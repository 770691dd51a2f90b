"""A label block as it lies in the store, which is what goes over the wire: one gzip stream of a native block.

Decides how payloads are packed and opened; what a native block says is :mod:`dvidfs.kernels.labels`. Blocks that are looked at
again and again (points, small bodies) are kept opened under the id of their value, which is never used twice. Invariant: what
is stored was checked when it came, so it is opened without looking at every voxel again.
"""

from __future__ import annotations

import math
from typing import Any

from isal import igzip, isal_zlib

from dvidfs.engine.store import Buffer
from dvidfs.engine.values import Entry
from dvidfs.engine.versions import ReadView
from dvidfs.errors import BadRequest, Corrupt
from dvidfs.kernels import labels
from dvidfs.kernels.labels import Block
from dvidfs.types.formats.blockform import gunzip
from dvidfs.types.geometry import Point
from dvidfs.types.labelmap.held import Held

LEVEL = 1
HELD = Held(96 << 20)
"""Opened blocks."""
_FATTEST, _MORE = 32, 1 << 20
"""Bytes of a native block that is taken from outside: so many a voxel, and some more. Every voxel a label of its own takes 13."""
_DAMAGE: Any = (ValueError, OSError, EOFError, isal_zlib.IsalError)


def pack(native: Buffer) -> bytes:
    """A native block as a payload."""
    return igzip.compress(native, compresslevel=LEVEL, mtime=0)


def unpack(payload: Buffer) -> bytes:
    """The native block in a stored payload."""
    try:
        return igzip.decompress(payload)
    except _DAMAGE as error:
        raise Corrupt(f"a stored label block cannot be read as gzip ({error}): run `dvidfs check`") from None


def opened(payload: Buffer) -> Block:
    """A stored payload, ready to be read."""
    try:
        return labels.parse_trusted(unpack(payload))
    except ValueError as error:
        raise Corrupt(f"a stored label block is damaged ({error}): run `dvidfs check`") from None


def kept(view: ReadView, entry: Entry) -> Block:
    """The block of an entry, opened once for all who ask for it."""
    if not entry.ref:
        return opened(view.load(entry))
    key = entry.ref
    found = HELD.peek(view.txn.store, key)
    if found is None:
        found = opened(view.load(entry))
        HELD.keep(view.txn.store, key, found)
    return found


def is_kept(view: ReadView, entry: Entry) -> bool:
    return bool(entry.ref) and HELD.peek(view.txn.store, entry.ref) is not None


def checked(payload: Buffer, coord: Point, block: Point) -> Block:
    """A payload from outside. Raises BadRequest, naming the block, unless it is the gzip stream of a native block of that size."""
    where = "block {}_{}_{}".format(*coord)
    if not len(payload):
        raise BadRequest(f"illegal zero length block at {where}: want the gzip stream of a label block")
    try:
        found = labels.parse(gunzip(payload, _FATTEST * math.prod(block) + _MORE))
    except _DAMAGE as error:
        raise BadRequest(f"{where} cannot be read: {error}") from None
    if found.shape[::-1] != block:
        sizes = ["x".join(map(str, size)) for size in (found.shape[::-1], block)]
        raise BadRequest(f"{where} has {sizes[0]} voxels, the blocks of this instance have {sizes[1]}")
    return found
