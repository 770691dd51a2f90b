"""Compiled loops of :mod:`dvidfs.kernels.blocks`, which checks every bound before it calls them.

They work on addresses, since one call must take hundreds of buffers that lie anywhere (LMDB's map, decoded bytes).
"""

from __future__ import annotations

from typing import Any

import llvmlite.ir as ir
import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def _memcpy(_typing: Any, _target: Any, _source: Any, _size: Any) -> Any:
    def emit(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        target, source = (builder.inttoptr(a, pointer) for a in args[:2])
        cgutils.raw_memcpy(builder, target, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


_BYTES = types.Array(types.uint8, 1, "C", readonly=True)


@njit(types.int64(_BYTES), cache=True)
def address(buffer):  # noqa: ANN001, ANN201 - numba reads the signature above
    """Where the bytes of ``buffer`` lie; they stay valid as long as the caller holds the buffer."""
    return np.int64(buffer.ctypes.data)


@njit(types.void(types.int64[:, ::1], types.int64, types.int64, types.int64, types.int64), nogil=True, cache=True)
def copy_boxes(boxes, target_z, target_y, source_z, source_y):  # noqa: ANN001, ANN201
    """Copies boxes of rows; a row of ``boxes`` is target address, source address, planes, rows, bytes per row.

    The other arguments are the distances in bytes from one plane and one row to the next, on both sides.
    """
    for i in range(boxes.shape[0]):
        target, source, planes, rows, size = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3], boxes[i, 4]
        for z in range(planes):
            for y in range(rows):
                _memcpy(target + z * target_z + y * target_y, source + z * source_z + y * source_y, size)  # type: ignore[call-arg]
