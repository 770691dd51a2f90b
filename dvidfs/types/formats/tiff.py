"""TIFF that is not compressed: whole volumes (one directory per z slice, all before the voxels) and single slices.

Decides the bytes before the voxels. A slice is one strip, strips follow each other, so the file's end is the volume in C order.
The first directory's ImageDescription is what ImageJ writes: the number of slices, ``unit=um``, ``spacing`` (z), and the
origin in voxels (``xorigin`` is -x offset); XResolution and YResolution are pixels per micrometer. Up to 4 GiB the file is
a classic TIFF, above it a BigTIFF, which ImageJ opens through Bio-Formats only. RGBA is interleaved, alpha unassociated.
ImageJ turns uint32 into float32 and refuses uint64; for other readers both are plain TIFF. Invariant: the header's length is a
multiple of 64. Volumes of more than 199,000 slices, whose header would be above 64 MiB, are not held.
Source: TIFF 6.0 sections 2, 8, 18 and 19; BigTIFF file format (AWare Systems); files of ImageJ 1.53t.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from dvidfs.types.formats.frame import Container, Frame
from dvidfs.types.geometry import Box

_ALIGN = 64
_MAX_PAGES = 199_000
"""Slices whose directories stay below 64 MiB."""
_UINT32 = (1 << 32) - 1

_ASCII, _SHORT, _LONG, _RATIONAL, _LONG8 = 2, 3, 4, 5, 16
_DESCRIPTION, _STRIP_OFFSETS = 270, 273
_MIN_IS_BLACK, _RGB = 1, 2
_SAMPLE_FORMAT = {"u": 1, "i": 2, "f": 3}

Tag = tuple[int, int, int, bytes]
"""Number, type, count, values."""
Entry = tuple[int, int, int, int]
"""The same; the last number is the values themselves, or where they stand."""


@dataclass(frozen=True)
class _Variant:
    """What classic TIFF and BigTIFF do differently: the file's first bytes, and how wide numbers are."""

    head: bytes
    count: np.dtype
    word: np.dtype
    place: int

    def directory(self, tags: int) -> np.dtype:
        """The type of a directory of so many tags."""
        entry = [("number", "<u2"), ("type", "<u2"), ("count", self.word), ("value", self.word)]
        return np.dtype([("tags", self.count), ("entries", entry, (tags,)), ("next", self.word)])


_CLASSIC = _Variant(struct.pack("<2sHI", b"II", 42, 8), np.dtype("<u2"), np.dtype("<u4"), _LONG)
_BIG = _Variant(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16), np.dtype("<u8"), np.dtype("<u8"), _LONG8)


class _Head:
    """The bytes before the voxels: first directory, values that fit no entry, directories of the other slices."""

    def __init__(self, frame: Frame, variant: _Variant) -> None:
        self._variant, self._pages = variant, frame.box.size[2]
        self._page_bytes = frame.size // self._pages
        tags = _tags(frame, self._page_bytes, variant.place)
        text = _description(frame)
        self._first, self._other = variant.directory(len(tags) + 1), variant.directory(len(tags))
        self._at = len(variant.head) + self._first.itemsize
        self._values = b""
        self._entries = [self._entry(tag) for tag in tags]
        self._described = sorted([*self._entries, self._entry((_DESCRIPTION, _ASCII, len(text), text))])
        self.size = -(-(self._at + (self._pages - 1) * self._other.itemsize) // _ALIGN) * _ALIGN

    def _entry(self, tag: Tag) -> Entry:
        """A tag's entry; values that do not fit it are put aside."""
        number, kind, count, data = tag
        if len(data) <= self._variant.word.itemsize:
            return number, kind, count, int.from_bytes(data, "little")
        place, room = self._at, -(-len(data) // 8) * 8
        self._at += room
        self._values += data.ljust(room, b"\0")
        return number, kind, count, place

    def bytes(self) -> bytes:
        """All of it."""
        page = np.arange(self._pages, dtype=np.uint64)
        behind = self._at + self._other.itemsize * page
        behind[-1] = 0  # there is none behind the last
        strips = self.size + self._page_bytes * page
        first = _directories(self._first, self._described, behind[:1], strips[:1])
        others = _directories(self._other, self._entries, behind[1:], strips[1:])
        rest = self.size - self._at - others.nbytes
        return b"".join((self._variant.head, first, self._values, others, bytes(rest)))


def _directories(layout: np.dtype, entries: list[Entry], behind: NDArray, strips: NDArray) -> memoryview:
    """The same entries for each, but for where its strip lies; and where the directory behind it is."""
    one = np.zeros(1, layout)
    one["tags"] = len(entries)
    one["entries"][0] = entries
    all_of_them = np.frombuffer(bytearray(one.tobytes()) * len(strips), layout)
    column = [number for number, *_ in entries].index(_STRIP_OFFSETS)
    all_of_them["entries"]["value"][:, column] = strips
    all_of_them["next"] = behind
    return all_of_them.data


# ---------------------------------------------------------------- tags


def _tags(frame: Frame, page_bytes: int, place: int) -> list[Tag]:
    """Tags of every page by number, without the strip's place."""
    (width, height, _), (x, y, _) = frame.box.size, frame.nanometers
    samples = frame.channels[0] if frame.channels else 1
    tags = [
        _tag(256, _LONG, width),
        _tag(257, _LONG, height),
        _tag(258, _SHORT, *[8 * frame.dtype.itemsize] * samples),
        _tag(259, _SHORT, 1),  # no compression
        _tag(262, _SHORT, _RGB if samples > 1 else _MIN_IS_BLACK),
        _tag(_STRIP_OFFSETS, place, 0),
        _tag(277, _SHORT, samples),
        _tag(278, _LONG, height),  # rows per strip
        _tag(279, place, page_bytes),
        _tag(282, _RATIONAL, *_ratio(1000 / Fraction(str(x)))),
        _tag(283, _RATIONAL, *_ratio(1000 / Fraction(str(y)))),
        _tag(284, _SHORT, 1),  # interleaved
        _tag(296, _SHORT, 1),  # the unit is none of TIFF's: see the description
    ]
    if samples > 1:
        tags.append(_tag(338, _SHORT, 2))  # alpha, not multiplied into the colours
    return [*tags, _tag(339, _SHORT, *[_SAMPLE_FORMAT[frame.dtype.kind]] * samples)]


_LETTERS = {_SHORT: "H", _LONG: "I", _RATIONAL: "I", _LONG8: "Q"}


def _tag(number: int, kind: int, *values: int) -> Tag:
    count = len(values) // 2 if kind == _RATIONAL else len(values)
    return number, kind, count, struct.pack(f"<{len(values)}{_LETTERS[kind]}", *values)


def _ratio(value: Fraction) -> tuple[int, int]:
    """The nearest ratio of two 32-bit numbers."""
    near = value.limit_denominator(_UINT32 // max(1, -(-value.numerator // value.denominator)))
    return near.numerator, near.denominator


def _description(frame: Frame) -> bytes:
    pages = frame.box.size[2]
    counts = [f"images={pages}", f"slices={pages}"] if pages > 1 else []
    origin = [f"{axis}origin={-at}" for axis, at in zip("xyz", frame.box.offset, strict=True) if at]
    spacing = [f"spacing={frame.nanometers[2] / 1e3!r}"]
    return "\n".join(["ImageJ=1.53t", *counts, "unit=um", *spacing, *origin, "\0"]).encode("ascii")


# ---------------------------------------------------------------- what others use


def tiff_header(frame: Frame) -> bytes:
    """All bytes before the voxels of a volume."""
    return _head(frame).bytes()


def slice_header(
    width: int,
    height: int,
    dtype: np.dtype,
    channels: tuple[int, ...] = (),
    nanometers: tuple[float, float] = (1.0, 1.0),
) -> bytes:
    """All bytes before the pixels of one slice (y, x) or (y, x, 4), in C order, little-endian; ``nanometers`` per pixel (x, y)."""
    return tiff_header(Frame(Box((0, 0, 0), (width, height, 1)), dtype, channels, (*nanometers, 1.0)))


def _head(frame: Frame) -> _Head:
    """That of a classic TIFF where the file is not too large for it."""
    if frame.size <= _UINT32:
        head = _Head(frame, _CLASSIC)
        if head.size + frame.size <= _UINT32:
            return head
    return _Head(frame, _BIG)


def _holds(frame: Frame) -> bool:
    is_known = frame.dtype.kind in _SAMPLE_FORMAT and frame.channels in ((), (4,))
    return is_known and frame.box.size[2] <= _MAX_PAGES


TIFF = Container("tif", "TIFF", tiff_header, _holds)
