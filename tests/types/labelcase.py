"""What tests of label blocks share: blocks of every kind, and a slow reader and writer of the format that is plainly right."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import strategies as st

from dvidfs import kernels


def in_both_forms(run: Callable[[], Any]) -> Any:
    """What the compiled form gives, after a look that the plain one gives (or says) the same."""
    with mock.patch.object(kernels, "ready", return_value=None):
        plain = outcome(run)
    compiled = outcome(run)
    assert type(compiled) is type(plain)
    if isinstance(plain, ValueError):
        assert str(compiled) == str(plain)
        raise compiled
    np.testing.assert_array_equal(compiled, plain)
    return compiled


def outcome(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except ValueError as error:
        return error


def bits_of(count: int) -> int:
    return max(count - 1, 0).bit_length()


@dataclass(frozen=True)
class Parts:
    """What a block is made of: its grid (x, y, z), its table, and of each sub-block the list and the 512 values."""

    grid: tuple[int, int, int]
    table: list[int]
    lists: list[list[int]]
    values: list[list[int]]

    def write(self) -> bytes:
        out = struct.pack(f"<4I{len(self.table)}Q", *self.grid, len(self.table), *self.table)
        if len(self.table) == 1:
            return out
        out += b"".join(struct.pack("<H", len(own)) for own in self.lists)
        out += b"".join(struct.pack(f"<{len(own)}I", *own) for own in self.lists)
        for own, values in zip(self.lists, self.values, strict=True):
            if bits := bits_of(len(own)):
                text = "".join(f"{value:0{bits}b}" for value in values)
                out += int(text, 2).to_bytes(64 * bits, "big")
        return out

    def entries(self) -> np.ndarray:
        """The entry of each voxel (z, y, x), -1 for none."""
        gx, gy, gz = self.grid
        out = np.full((8 * gz, 8 * gy, 8 * gx), -1)
        if len(self.table) == 1:
            out[:] = 0
            return out
        for sub, (own, values) in enumerate(zip(self.lists, self.values, strict=True)):
            x, y, z = 8 * (sub % gx), 8 * (sub // gx % gy), 8 * (sub // gx // gy)
            found = [own[value] if value < len(own) else -1 for value in values]
            out[z : z + 8, y : y + 8, x : x + 8] = np.reshape(found, (8, 8, 8))
        return out

    def voxels(self) -> np.ndarray:
        entries = self.entries()
        return np.where(entries < 0, np.uint64(0), np.array(self.table, np.uint64)[entries])


def read(data: bytes) -> Parts:
    """The parts of a block that is whole."""
    gx, gy, gz, n = struct.unpack_from("<4I", data)
    table = list(struct.unpack_from(f"<{n}Q", data, 16))
    if n == 1:
        return Parts((gx, gy, gz), table, [], [])
    subs, at = gx * gy * gz, 16 + 8 * n
    counts = struct.unpack_from(f"<{subs}H", data, at)
    at += 2 * subs
    lists, values = [], []
    for count in counts:
        lists.append(list(struct.unpack_from(f"<{count}I", data, at)))
        at += 4 * count
    for count in counts:
        bits = bits_of(count)
        text = "".join(f"{byte:08b}" for byte in data[at : at + 64 * bits])
        values.append([int(text[i : i + bits], 2) for i in range(0, len(text), bits)] if bits else [0] * 512)
        at += 64 * bits
    return Parts((gx, gy, gz), table, lists, values)


GRIDS = st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2))
SEEDS = st.integers(0, 2**32 - 1)
LONGEST = st.sampled_from([1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 64, 65, 129, 256, 257, 400, 512])


@st.composite
def volumes(draw: st.DrawFn) -> np.ndarray:
    """Volumes (z, y, x) whose sub-blocks have from one label to 512, in runs or scattered."""
    gx, gy, gz = draw(GRIDS)
    random = np.random.default_rng(draw(SEEDS))
    pool = random.integers(0, 2**64, draw(st.integers(1, 700)), np.uint64, endpoint=False)
    pool[random.integers(len(pool))] = draw(st.sampled_from([0, 1, 2**64 - 1]))
    out = np.empty((8 * gz, 8 * gy, 8 * gx), np.uint64)
    for z in range(0, 8 * gz, 8):
        for y in range(0, 8 * gy, 8):
            for x in range(0, 8 * gx, 8):
                own = random.choice(pool, draw(LONGEST))
                labels = np.repeat(random.choice(own, 512), random.integers(1, draw(st.integers(2, 40)), 512))
                out[z : z + 8, y : y + 8, x : x + 8] = labels[:512].reshape(8, 8, 8)
    return out


@st.composite
def foreign(draw: st.DrawFn, damaged: bool = False) -> Parts:
    """Blocks as others may write them: labels twice or never used, lists in any order, empty, or with an entry twice.

    Damaged ones have values beyond their lists.
    """
    grid = draw(GRIDS)
    random = np.random.default_rng(draw(SEEDS))
    table = random.integers(0, draw(st.sampled_from([3, 1000, 2**63])), draw(st.integers(1, 600))).tolist()
    lists, values = [], []
    for _ in range(grid[0] * grid[1] * grid[2]):
        count = draw(st.just(0) | LONGEST)
        highest = (1 << bits_of(count)) if damaged else max(count, 1)
        lists.append(random.integers(0, len(table), count).tolist())
        runs = np.repeat(random.integers(0, highest, 512), random.integers(1, draw(st.integers(2, 40)), 512))
        values.append(runs[:512].tolist())
    return Parts(grid, table, lists, values)
