"""Compiled loops of :mod:`dvidfs.kernels.blocks`, which checks the size of every buffer before it calls them.

They work on addresses, since one call must take hundreds of buffers that lie anywhere (LMDB's map, decoded bytes). All
positions are clipped here, so no address outside a buffer is computed.
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def _copy(_typing: Any, _target: Any, _source: Any, _size: Any) -> Any:
    """``size`` bytes from one address to another; a size known while compiling becomes a load and a store."""

    def emit(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        target, source = (builder.inttoptr(a, pointer) for a in args[:2])
        cgutils.raw_memcpy(builder, target, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


@intrinsic
def load(_typing: Any, _address: Any, like: Any) -> Any:
    """The item at an address, of the type of the items of the array ``like``."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_data_type(signature.return_type)
        return builder.load(builder.inttoptr(args[0], kind.as_pointer()), align=1)

    return like.dtype(types.int64, like), emit


_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_INT, _ZYX = types.int64, types.UniTuple(types.int64, 3)


@njit(_INT(_BYTES), cache=True)
def address(buffer):  # noqa: ANN001, ANN201 - numba reads the signature above
    """Where the bytes of ``buffer`` lie; they stay valid as long as the caller holds the buffer."""
    return np.int64(buffer.ctypes.data)


@njit(types.void(_INT[::1], _INT[::1], _BYTES, _INT), nogil=True, cache=True)
def literal(addresses, lengths, head, size):  # noqa: ANN001, ANN201
    """Moves each address from a payload to its voxels where it is ``head`` (a byte more is not looked at) and ``size`` bytes, else to 0."""
    n = len(head) - 1
    for i in range(len(addresses)):
        is_literal = lengths[i] == n + size
        for k in range(n):
            if not is_literal:
                break
            is_literal = load(addresses[i] + k, head) == head[k]  # type: ignore[call-arg]
        addresses[i] = addresses[i] + n if is_literal else 0


@njit(types.void(_INT, _INT, _ZYX, _INT, _INT, _INT, _INT, _INT), nogil=True, cache=True)
def _copy_box(target, source, extent, target_z, target_y, source_z, source_y, item):  # noqa: ANN001, ANN202
    """Copies ``extent`` voxels (z, y, x) row by row; the rest are the distances in bytes of planes and rows."""
    planes, rows, columns = extent
    for z in range(planes):
        to, at = target + z * target_z, source + z * source_z
        for y in range(rows):
            if columns > 1:
                _copy(to + y * target_y, at + y * source_y, columns * item)  # type: ignore[call-arg]
            elif item == 1:  # a slice across x takes one voxel of each row
                _copy(to + y * target_y, at + y * source_y, 1)  # type: ignore[call-arg]
            else:
                _copy(to + y * target_y, at + y * source_y, item)  # type: ignore[call-arg]


@njit(types.void(_INT, _ZYX, _ZYX, _INT[:, ::1], _INT[::1], _ZYX, _INT), nogil=True, cache=True)
def gather(out, origin, extent, starts, blocks, shape, item):  # noqa: ANN001, ANN201
    """Copies into the volume at address ``out`` what it shares with the blocks at the addresses ``blocks`` (0: none)."""
    row, block_row = extent[2] * item, shape[2] * item
    for i in range(len(blocks)):
        if blocks[i] == 0:
            continue
        z, y, x = starts[i, 0], starts[i, 1], starts[i, 2]
        z0, y0, x0 = max(z, origin[0]), max(y, origin[1]), max(x, origin[2])
        nz = min(z + shape[0], origin[0] + extent[0]) - z0
        ny = min(y + shape[1], origin[1] + extent[1]) - y0
        nx = min(x + shape[2], origin[2] + extent[2]) - x0
        if nz > 0 and ny > 0 and nx > 0:
            target = out + ((z0 - origin[0]) * extent[1] + y0 - origin[1]) * row + (x0 - origin[2]) * item
            source = blocks[i] + ((z0 - z) * shape[1] + y0 - y) * block_row + (x0 - x) * item
            _copy_box(target, source, (nz, ny, nx), extent[1] * row, row, shape[1] * block_row, block_row, item)


@njit(types.void(_INT, _INT, _ZYX, _ZYX, _INT), nogil=True, cache=True)
def scatter(volume, out, extent, shape, item):  # noqa: ANN001, ANN201
    """Copies the blocks of the volume at address ``volume`` one behind the other to ``out``."""
    row, block_row = extent[2] * item, shape[2] * item
    for z in range(0, extent[0], shape[0]):
        for y in range(0, extent[1], shape[1]):
            for x in range(0, extent[2], shape[2]):
                source = volume + (z * extent[1] + y) * row + x * item
                _copy_box(out, source, shape, shape[1] * block_row, block_row, extent[1] * row, row, item)
                out += shape[0] * shape[1] * block_row
