"""HDF5: a file with one contiguous dataset, ``/volume``, whose voxels are the end of the file.

Decides the 8192 bytes before the voxels: superblock, root group, the dataset's object header, and a global heap for the texts
among its attributes. The dataset is (z, y, x), or (z, y, x, 4) for RGBA. Attributes, all in the order z, y, x: ``element_size_um``
(Fiji's HDF5 plugin, ilastik), ``resolution`` (nm per voxel) and ``offset`` (nm) as CREMI has them, ``voxel_offset``
(voxels), ``units`` ("nm"), ``axistags`` (ilastik, vigra). Invariant: every HDF5 library since 1.8 reads it; nothing in it depends
on time. Source: HDF5 File Format Specification 3.0: II.A (superblock 2), III.E (global heap), IV.A.1.b (object header 2), IV.A.2.
"""

from __future__ import annotations

import json
import struct

import numpy as np
from numpy.typing import NDArray

from dvidfs.types.formats.frame import Container, Frame

DATASET = "volume"
_HEADER, _HEAP_AT = 8192, 4096
_UNDEFINED = (1 << 64) - 1
_SUPERBLOCK = 48
_MASK = 0xFFFFFFFF

_DATASPACE, _LINK_INFO, _DATATYPE, _FILL, _LINK, _LAYOUT, _GROUP_INFO, _ATTRIBUTE = 1, 2, 3, 5, 6, 8, 10, 12
_FLOATS = {4: (31, 0, 32, 23, 8, 0, 23, 127), 8: (63, 0, 64, 52, 11, 0, 52, 1023)}
"""By size: place of the sign, first bit, bits, exponent's place and bits, mantissa's place and bits, bias."""


def hdf5_header(frame: Frame) -> bytes:
    """All bytes before the voxels."""
    heap = _Heap()
    dataset_at = _SUPERBLOCK + len(_root_group(0))
    file = b"".join((
        _superblock(_HEADER + frame.size),
        _root_group(dataset_at),
        _dataset(frame, heap),
    )).ljust(_HEAP_AT, b"\0")  # fmt: skip
    return file + heap.bytes()


def _superblock(end: int) -> bytes:
    """Version 2: offsets and lengths of 8 bytes; the root group follows."""
    return _summed(struct.pack("<8s4B4Q", b"\x89HDF\r\n\x1a\n", 2, 8, 8, 0, 0, _UNDEFINED, end, _SUPERBLOCK))


def _root_group(dataset_at: int) -> bytes:
    name = DATASET.encode("ascii")
    return _object_header(
        (_LINK_INFO, struct.pack("<BBQQ", 0, 0, _UNDEFINED, _UNDEFINED)),
        (_GROUP_INFO, bytes(2)),
        (_LINK, struct.pack(f"<BBB{len(name)}sQ", 1, 0, len(name), name, dataset_at)),
    )


def _dataset(frame: Frame, heap: _Heap) -> bytes:
    x, y, z = frame.nanometers
    size, origin = np.array([z, y, x]), np.array(frame.box.origin)
    return _object_header(
        (_DATASPACE, _dataspace(frame.shape)),
        (_DATATYPE, _datatype(frame.dtype)),
        (_FILL, b"\x03\x0a"),  # space is allocated late, the fill value (zero) is the default
        (_LAYOUT, struct.pack("<BBQQ", 3, 1, _HEADER, frame.size)),
        (_ATTRIBUTE, _numbers("element_size_um", size / 1e3)),
        (_ATTRIBUTE, _numbers("resolution", size)),
        (_ATTRIBUTE, _numbers("offset", origin * size)),
        (_ATTRIBUTE, _numbers("voxel_offset", origin.astype("<i8"))),
        (_ATTRIBUTE, heap.attribute("units", "nm")),
        (_ATTRIBUTE, heap.attribute("axistags", _axistags(frame))),
    )


def _axistags(frame: Frame) -> str:
    """The axes as vigra writes them; 1 is a channel, 2 an axis of space."""
    keys = "zyxc"[: len(frame.shape)]
    axes = [{"key": k, "typeFlags": 1 if k == "c" else 2, "resolution": 0, "description": ""} for k in keys]
    return json.dumps({"axes": axes})


# ---------------------------------------------------------------- messages


def _object_header(*messages: tuple[int, bytes]) -> bytes:
    """Version 2, with a size of two bytes; no times."""
    body = b"".join(struct.pack("<BHB", kind, len(data), 0) + data for kind, data in messages)
    return _summed(struct.pack("<4sBBH", b"OHDR", 2, 1, len(body)) + body)


def _dataspace(shape: tuple[int, ...]) -> bytes:
    kind = 1 if shape else 0  # simple, or a single value
    return struct.pack(f"<4B{len(shape)}Q", 2, len(shape), 0, kind, *shape)


def _datatype(dtype: np.dtype) -> bytes:
    size = dtype.itemsize
    if dtype.kind == "f":
        sign, *rest = _FLOATS[size]
        return struct.pack("<4BIHHBBBBI", 0x11, 0x20, sign, 0, size, *rest)
    return struct.pack("<4BIHH", 0x10, 8 if dtype.kind == "i" else 0, 0, 0, size, 0, 8 * size)


def _numbers(name: str, values: NDArray) -> bytes:
    return _attribute(name, _datatype(values.dtype), _dataspace(values.shape), values.tobytes())


def _attribute(name: str, datatype: bytes, dataspace: bytes, data: bytes) -> bytes:
    key = name.encode("ascii") + b"\0"
    return struct.pack("<BBHHHB", 3, 0, len(key), len(datatype), len(dataspace), 0) + key + datatype + dataspace + data


class _Heap:
    """The global heap: texts of any length, which is what h5py gives as ``str``."""

    _TEXT = struct.pack("<4BI", 0x19, 1, 1, 0, 16) + _datatype(np.dtype("u1"))

    def __init__(self) -> None:
        self._texts: list[bytes] = []

    def attribute(self, name: str, text: str) -> bytes:
        data = text.encode("utf-8")
        self._texts.append(data)
        return _attribute(name, self._TEXT, _dataspace(()), struct.pack("<IQI", len(data), _HEAP_AT, len(self._texts)))

    def bytes(self) -> bytes:
        """The collection fills the header's second half; its last object is what is free."""
        out = struct.pack("<4sB3xQ", b"GCOL", 1, _HEADER - _HEAP_AT)
        for number, data in enumerate(self._texts, 1):
            out += struct.pack("<HH4xQ", number, 0, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")
        free = _HEADER - _HEAP_AT - len(out)
        return (out + struct.pack("<HH4xQ", 0, 0, free)).ljust(_HEADER - _HEAP_AT, b"\0")


# ---------------------------------------------------------------- checksums


def _summed(data: bytes) -> bytes:
    return data + struct.pack("<I", lookup3(data))


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hash "lookup3" of some bytes, from 0: the checksum of HDF5's metadata."""
    a = b = c = 0xDEADBEEF + len(data) & _MASK
    padded = data + bytes(-len(data) % 12)
    words = struct.unpack(f"<{len(padded) // 4}I", padded)
    for i in range(0, len(words), 3):
        a, b, c = a + words[i] & _MASK, b + words[i + 1] & _MASK, c + words[i + 2] & _MASK
        if i + 3 == len(words):
            break
        for bits in (4, 6, 8, 16, 19, 4):  # the three change places each time
            a, c = (a - c ^ (c << bits | c >> 32 - bits)) & _MASK, c + b & _MASK
            a, b, c = b, c, a
    for bits in (14, 11, 25, 16, 4, 14, 24) if data else ():
        c = (c ^ b) - (b << bits & _MASK | b >> 32 - bits) & _MASK
        a, b, c = b, c, a
    return b


def _holds(frame: Frame) -> bool:
    return frame.dtype.kind in "ui" or (frame.dtype.kind == "f" and frame.dtype.itemsize in _FLOATS)


HDF5 = Container("h5", "HDF5", hdf5_header, _holds)
