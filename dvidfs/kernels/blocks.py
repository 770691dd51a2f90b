"""Moves voxels between a volume and its blocks: gather (blocks to a window) and scatter (volume to blocks).

Decides only how the bytes are copied. Which blocks there are, and what fills the gaps, is decided by who calls. All
shapes and coordinates are (z, y, x) in voxels, volumes are C-contiguous with one item per voxel (a voxel of four channels
is viewed as one item of four bytes). Invariant: nothing outside the window or the blocks is read or written.

The compiled form copies all boxes of one call with the GIL released once. One numpy assignment per block releases it
each time, and two threads then run slower than one: 512x512x32 of 8-bit voxels from 32³ blocks, in MB/s with one
and two threads: numpy 2,450 and 1,740, compiled 3,200 and 4,900 (two cores).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from dvidfs import kernels

Shape = tuple[int, int, int]

_PAYS_OFF = 4
"""From so many blocks on the compiled form is faster; below it the call's own cost wins."""
_INFLATED = 1 << 20
"""Blocks that must be decoded are decoded and copied in portions of about so many bytes: one fits a core's cache."""

Buffer = bytes | memoryview


@dataclass(frozen=True)
class Form:
    """How blocks of ``size`` bytes lie in payloads.

    Where a payload is ``head`` and then as many bytes, these are the voxels (``head`` None: never so); all others are
    given to ``decode``. Finding the first kind costs less than calling a decoder.
    """

    size: int
    head: bytes | None
    decode: Callable[[Buffer], NDArray[np.uint8]]

    def locate(self, compiled: ModuleType, payloads: Sequence[Buffer]) -> tuple[NDArray[np.int64], list[NDArray]]:
        """Addresses of the voxels, 0 where they must be decoded, and the arrays that keep them valid."""
        if self.head is None:
            return np.zeros(len(payloads), np.int64), []
        held = [np.frombuffer(p, np.uint8) for p in payloads]
        address = compiled.address
        found = np.array([address(a) for a in held], np.int64)
        lengths = np.array([len(p) for p in payloads], np.int64)
        compiled.literal(found, lengths, np.frombuffer(self.head + b"\0", np.uint8), self.size)
        return found, held


def gather(
    out: NDArray, origin: Shape, starts: Sequence[Shape] | NDArray, blocks: Sequence[NDArray[np.uint8]], shape: Shape
) -> None:
    """Copies into ``out`` what it shares with each block; the rest of ``out`` stays as it is.

    ``out`` is (z, y, x), its first voxel lies at ``origin``; block i, of ``shape``, starts at voxel ``starts[i]`` and its
    voxels are the bytes ``blocks[i]``. Both ``origin`` and ``starts`` may be negative.
    """
    size = shape[0] * shape[1] * shape[2] * out.itemsize
    if not out.flags.c_contiguous or any(b.nbytes != size for b in blocks):
        raise ValueError(f"gather wants a C-contiguous window and blocks of {size} bytes")
    if not blocks:
        return
    compiled = kernels.ready("blocks_numba") if len(blocks) >= _PAYS_OFF else None
    if compiled is None:
        gather_plain(out, origin, starts, blocks, shape)
        return
    at = np.ascontiguousarray(starts, np.int64)
    addresses = np.array([compiled.address(b) for b in blocks], np.int64)
    compiled.gather(out.ctypes.data, origin, out.shape, at, addresses, shape, out.itemsize)


def gather_stored(
    out: NDArray,
    origin: Shape,
    starts: NDArray,
    payloads: Sequence[Buffer],
    shape: Shape,
    form: Form,
    known: NDArray[np.int64] | None = None,
) -> None:
    """:func:`gather` of blocks as they are stored; what must be decoded is not held all at once.

    ``known``: what :func:`locate` says of these payloads, if it was asked.
    """
    compiled = kernels.ready("blocks_numba") if len(payloads) >= _PAYS_OFF else None
    if compiled is None:
        gather_plain(out, origin, starts, [form.decode(p) for p in payloads], shape)
        return
    if not out.flags.c_contiguous or form.size != shape[0] * shape[1] * shape[2] * out.itemsize:
        raise ValueError(f"gather wants a C-contiguous window and blocks of {form.size} bytes")
    at = np.ascontiguousarray(starts, np.int64)
    found, held = (known, None) if known is not None else form.locate(compiled, payloads)
    compiled.gather(out.ctypes.data, origin, out.shape, at, found, shape, out.itemsize)
    del held
    if found.all():
        return
    rest = np.flatnonzero(found == 0)
    step = max(_PAYS_OFF, _INFLATED // form.size)
    for first in range(0, len(rest), step):
        part = rest[first : first + step]
        gather(out, origin, at[part], [form.decode(payloads[i]) for i in part], shape)


def locate(payloads: Sequence[Buffer], form: Form) -> NDArray[np.int64] | None:
    """Addresses of the voxels of payloads, 0 where they must be decoded; valid as long as the payloads are.

    None where nothing is compiled that could use them.
    """
    compiled = kernels.ready("blocks_numba")
    return None if compiled is None else form.locate(compiled, payloads)[0]


def gather_plain(
    out: NDArray, origin: Shape, starts: Sequence[Shape] | NDArray, blocks: Sequence[NDArray[np.uint8]], shape: Shape
) -> None:
    """The numpy twin of :func:`gather`."""
    lows, highs, at = _overlaps(out, origin, starts, shape)
    for block, lo, hi, start in zip(blocks, lows, highs, at, strict=True):
        voxels = block.view(out.dtype).reshape(shape)
        out[_slices(lo - origin, hi - origin)] = voxels[_slices(lo - start, hi - start)]


def scatter(volume: NDArray, shape: Shape) -> NDArray:
    """The blocks of a volume made of whole blocks: an array (n, z, y, x), z slowest, x fastest."""
    if not volume.flags.c_contiguous or any(n % b for n, b in zip(volume.shape, shape, strict=True)):
        raise ValueError(f"scatter wants a C-contiguous volume of whole blocks of {shape}, not {volume.shape}")
    compiled = kernels.ready("blocks_numba") if volume.size >= _PAYS_OFF * shape[0] * shape[1] * shape[2] else None
    if compiled is None:
        return scatter_plain(volume, shape)
    out = np.empty((volume.size // (shape[0] * shape[1] * shape[2]), *shape), volume.dtype)
    compiled.scatter(volume.ctypes.data, out.ctypes.data, volume.shape, shape, volume.itemsize)
    return out


def scatter_plain(volume: NDArray, shape: Shape) -> NDArray:
    """The numpy twin of :func:`scatter`."""
    (bz, by, bx), (nz, ny, nx) = shape, volume.shape
    tiles = volume.reshape(nz // bz, bz, ny // by, by, nx // bx, bx).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(tiles).reshape(-1, bz, by, bx)


def _overlaps(
    out: NDArray, origin: Shape, starts: Sequence[Shape] | NDArray, shape: Shape
) -> tuple[NDArray, NDArray, NDArray]:
    """For each block the first voxel and the one after the last that it shares with ``out``, and its start: (n, 3) each."""
    at = np.array(starts, np.int64).reshape(-1, 3)
    lo = np.maximum(at, origin)
    hi = np.minimum(at + shape, np.add(origin, out.shape))
    return lo, np.maximum(lo, hi), at


def _slices(lo: NDArray, hi: NDArray) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(lo, hi, strict=True))
