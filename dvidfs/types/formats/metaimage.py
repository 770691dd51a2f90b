"""MetaImage and NRRD: text headers that ITK's tools read. MetaImage's voxels lie in a file beside it, NRRD's behind the header.

Decides the text. Lengths are millimeters, as ITK takes them; ``Offset`` (``space origin``) is offset times voxel size and
the axes are those of the slices (x to the right, y downward: ITK's left, back, up). So SimpleITK gives the same origin, spacing and
direction for ``.mhd``, ``.nrrd`` and ``.nii``. The comment tells the offset in voxels. Invariant: NRRD's header is a
multiple of 64 bytes. Source: MetaIO's documentation of MetaImage; "Definition of NRRD File Format" 5.
"""

from __future__ import annotations

from collections.abc import Iterable

from dvidfs.types.formats.frame import Container, Frame
from dvidfs.types.geometry import join

_ALIGN = 64
_META_TYPES = {
    "u1": "MET_UCHAR", "u2": "MET_USHORT", "u4": "MET_UINT", "u8": "MET_ULONG_LONG", "i1": "MET_CHAR", "i2": "MET_SHORT",
    "i4": "MET_INT", "i8": "MET_LONG_LONG", "f4": "MET_FLOAT", "f8": "MET_DOUBLE",
}  # fmt: skip
_NRRD_TYPES = {
    "u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64",
    "f4": "float", "f8": "double",
}  # fmt: skip


def metaimage_header(frame: Frame) -> bytes:
    """The whole ``.mhd`` file; the voxels are in ``frame.companion`` in the same folder."""
    spacing, origin = _millimeters(frame)
    lines = (
        "ObjectType = Image",
        "NDims = 3",
        f"Comment = {_comment(frame)}",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = False",
        "TransformMatrix = 1 0 0 0 1 0 0 0 1",
        f"Offset = {_words(origin)}",
        "CenterOfRotation = 0 0 0",
        "AnatomicalOrientation = RAI",
        f"ElementSpacing = {_words(spacing)}",
        f"DimSize = {_words(frame.box.size)}",
        *(f"ElementNumberOfChannels = {n}" for n in frame.channels),
        f"ElementType = {_META_TYPES[frame.dtype.str[1:]]}",
        f"ElementDataFile = {frame.companion}",
    )
    return "".join(f"{line}\n" for line in lines).encode("utf-8")


def nrrd_header(frame: Frame) -> bytes:
    """All bytes before the voxels of a ``.nrrd`` file."""
    spacing, origin = _millimeters(frame)
    x, y, z = map(repr, spacing)
    lines = (
        "NRRD0004",
        f"# {_comment(frame)}",
        f"type: {_NRRD_TYPES[frame.dtype.str[1:]]}",
        f"dimension: {3 + len(frame.channels)}",
        "space: left-posterior-superior",
        f"sizes: {_words((*frame.channels, *frame.box.size))}",
        f"space directions: {'none ' * len(frame.channels)}({x},0,0) (0,{y},0) (0,0,{z})",
        f"kinds: {'RGBA-color ' * len(frame.channels)}domain domain domain",
        "endian: little",
        "encoding: raw",
        f"space origin: ({_words(origin, ',')})",
    )
    text = "".join(f"{line}\n" for line in lines)
    rest = -(len(text) + len("#\n\n")) % _ALIGN
    return f"{text}#{' ' * rest}\n\n".encode("ascii")


def _millimeters(frame: Frame) -> tuple[list[float], list[float]]:
    """Size of a voxel and place of the first one (x, y, z)."""
    spacing = [size / 1e6 for size in frame.nanometers]
    return spacing, [at * size for at, size in zip(frame.box.offset, spacing, strict=True)]


def _comment(frame: Frame) -> str:
    return f"offset {join(frame.box.offset)} voxels (x_y_z), lengths in mm"


def _words(numbers: Iterable[float], between: str = " ") -> str:
    return between.join(map(repr, numbers))


def _has_type(frame: Frame) -> bool:
    return frame.dtype.str[1:] in _META_TYPES and frame.channels in ((), (4,))


METAIMAGE = Container("mhd", "MetaImage", metaimage_header, _has_type, voxels=False)
NRRD = Container("nrrd", "NRRD", nrrd_header, _has_type)
