"""Sparse volumes on the wire: runs with a header (rles) or without (srles), coarse ones, streams of binary blocks, and the box that was asked for.

Decides the bytes and what the options mean; the voxels themselves come from :mod:`dvidfs.kernels.runs`. All integers are
little-endian:

======  ============================================================================================================
span    int32 x, y, z, length: a run along x
rles    u8 0 (spans carry nothing), u8 3 (dimensions), u8 0 (runs along x), u8 0, u32 0, u32 number of spans; the spans
srles   spans only
coarse  rles whose numbers count blocks; of many labels: u64 label, int32 number of spans, the spans, and so on
blocks  u32 x 3 sub-blocks of a block, u64 label; then int32 x, y, z (first voxel) and the masks of each block
======  ============================================================================================================

The number of spans stands before the first of them, so an rles answer is made whole before it is sent (16 bytes a run);
srles and blocks can follow the blocks as they are read. Invariant: ``read_rles(rles(runs))`` gives the runs. Source:
reference note "sparsevol" 3.1 to 3.7.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import lz4.block
import numpy as np
from isal import igzip
from numpy.typing import NDArray

from dvidfs.errors import BadRequest
from dvidfs.kernels.runs import END, Box, Runs
from dvidfs.types.geometry import COORD_MAX, COORD_MIN, Point, parse_int

Buffer = bytes | bytearray | memoryview

RLES, SRLES, BLOCKS = "rles", "srles", "blocks"
FORMS = (RLES, SRLES, BLOCKS)
COMPRESSIONS = ("", "lz4", "gzip")
AXES = ("x", "y", "z")

_HEAD = struct.Struct("<4B2I")
_SPAN = 16
_COARSE = struct.Struct("<Qi")
_STREAM = struct.Struct("<3IQ")
_BLOCK = struct.Struct("<3i")
_GZIP_LEVEL = 1
_LZ4_MOST = 0x7E000000
"""What one LZ4 block can hold."""


# ---------------------------------------------------------------- runs


def rles_head(count: int) -> bytes:
    """The 12 bytes before ``count`` spans."""
    return _HEAD.pack(0, 3, 0, 0, 0, count)


def spans(runs: Runs) -> bytes:
    """Runs (n, 4) without a header: srles, or what follows :func:`rles_head`."""
    return np.ascontiguousarray(runs, "<i4").tobytes()


def rles(runs: Runs) -> bytes:
    """A whole sparse volume of runs (n, 4); coarse if they count blocks."""
    return rles_head(len(runs)) + spans(runs)


def read_rles(body: Buffer) -> Runs:
    """The runs (n, 4) of a sparse volume that was sent, in any order; some may overlap, or select nothing.

    Raises:
        BadRequest: it is not one, it is cut off or too long, or a run goes on beyond the last coordinate.
    """
    size = len(body)
    if size and body[0] != 0:
        raise BadRequest(f"sparse vol is not binary: {body[0]} at byte 0, where 0 is wanted")
    if size < _HEAD.size:
        raise BadRequest(f"sparse volume ends in its header: want {_HEAD.size} bytes, got {size}")
    count = _HEAD.unpack_from(body)[-1]
    if size != _HEAD.size + _SPAN * count:
        raise BadRequest(
            f"sparse volume says {count} spans at byte 8: want {_HEAD.size + _SPAN * count} bytes, got {size}"
        )
    runs = np.frombuffer(body, "<i4", offset=_HEAD.size).reshape(-1, 4).astype(np.int32)
    wrong = runs[:, 0].astype(np.int64) + runs[:, 3] > END
    if wrong.any():
        first = int(np.argmax(wrong))
        x, y, z, length = runs[first].tolist()
        where = f"span {first} at byte {_HEAD.size + _SPAN * first}: {length} voxels at {x},{y},{z}"
        raise BadRequest(f"{where} end beyond {COORD_MAX}, the last coordinate")
    return runs


def coarse_record(label: int, runs: Runs) -> bytes:
    """One label of an answer with many coarse volumes; its runs count blocks."""
    return _COARSE.pack(label, len(runs)) + spans(runs)


# ---------------------------------------------------------------- binary blocks


def stream_head(grid: Point, label: int) -> bytes:
    """The 20 bytes before the first block; ``grid``: sub-blocks of a block (x, y, z). Where there is no block it is left out."""
    return _STREAM.pack(*grid, label)


def block_head(start: Point) -> bytes:
    """The 12 bytes before the masks of a block whose first voxel is ``start`` (x, y, z)."""
    return _BLOCK.pack(*start)


# ---------------------------------------------------------------- options


def parse_form(text: str) -> str:
    """The form that a request names; every other name means rles, as in the original."""
    return text if text in FORMS else RLES


def parse_compression(text: str) -> str:
    """The compression of an rles answer: none (empty), ``lz4`` (one block, its size is not told) or ``gzip``."""
    if text not in COMPRESSIONS:
        raise BadRequest(f'unknown compression type "{text}": want lz4, gzip, or none')
    return text


def compress(payload: Buffer, compression: str) -> Buffer:
    """A whole payload, compressed as :func:`parse_compression` says."""
    if compression == "gzip":
        return igzip.compress(payload, compresslevel=_GZIP_LEVEL, mtime=0)
    if compression == "lz4":
        if len(payload) > _LZ4_MOST:
            raise BadRequest(
                f"{len(payload)} bytes do not fit in one LZ4 block: want compression gzip, or format srles"
            )
        return lz4.block.compress(payload, store_size=False)
    return payload


@dataclass(frozen=True, slots=True)
class Bounds:
    """The box of a request, in voxels of its scale: ``low`` to ``high`` (x, y, z), both inclusive; open ends are the last coordinates.

    ``exact`` False: whole blocks that the box touches, nothing is cut. A box whose low is above its high selects nothing.
    """

    low: Point = (COORD_MIN, COORD_MIN, COORD_MIN)
    high: Point = (COORD_MAX, COORD_MAX, COORD_MAX)
    exact: bool = True

    @staticmethod
    def parse(query: Mapping[str, str]) -> Bounds:
        """From the options ``minx`` to ``maxz`` (missing or empty: open) and ``exact`` (only ``false`` is)."""
        lows = [_coordinate(query, f"min{axis}", COORD_MIN) for axis in AXES]
        highs = [_coordinate(query, f"max{axis}", COORD_MAX) for axis in AXES]
        return Bounds((lows[0], lows[1], lows[2]), (highs[0], highs[1], highs[2]), query.get("exact") != "false")

    @property
    def is_open(self) -> bool:
        """Whether nothing is cut away."""
        return self.low == EVERYWHERE.low and self.high == EVERYWHERE.high

    @property
    def voxels(self) -> Box | None:
        """The half-open box that runs are cut to; None where they are not."""
        if self.is_open or not self.exact:
            return None
        (x, y, z), (x1, y1, z1) = self.low, self.high
        return x, y, z, x1 + 1, y1 + 1, z1 + 1

    def keep(self, coords: NDArray[np.integer], block: Point) -> NDArray[np.bool_]:
        """Which blocks (n, 3) x, y, z of ``block`` voxels the box touches; -1 is the block of voxel -1."""
        low = np.array(self.low, np.int64) // block
        high = np.array(self.high, np.int64) // block
        if any(a > b for a, b in zip(self.low, self.high, strict=True)):
            return np.zeros(len(coords), np.bool_)
        return np.all((coords >= low) & (coords <= high), axis=1)


EVERYWHERE = Bounds()


def _coordinate(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, "")
    return parse_int(text, name) if text else default
