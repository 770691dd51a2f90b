"""The four protobuf messages of key-values (reference: DVID inventory 2.1), read and written directly.

``KeyValue{string key=1; bytes value=2}``, ``KeyValues{repeated KeyValue kvs=1}``,
``Keys{repeated string keys=1; repeated KeyRange key_ranges=2}``,
``KeyRange{string key=1; uint64 byte_start=2; uint64 byte_end=3}`` (encoding: https://protobuf.dev/programming-guides/encoding).
Unknown fields are passed over; keys come out as bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from dvidfs.engine.store import Buffer
from dvidfs.errors import BadRequest

MALFORMED = "proto: cannot parse invalid wire-format data"


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Bytes ``start`` to ``end`` (inclusive) of one key's value."""

    key: bytes
    start: int
    end: int


def _varint(data: Buffer, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise BadRequest(MALFORMED)


def _fields(data: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, start, end) of each field; for a number (wire type 0) start is its value."""
    at = start
    try:
        while at < end:
            tag = data[at]
            at += 1
            if tag >= 0x80:
                tag, at = _varint(data, at - 1)
            number, wire = tag >> 3, tag & 7
            if wire == 2:
                size = data[at]
                at += 1
                if size >= 0x80:
                    size, at = _varint(data, at - 1)
                if at + size > end or not number:
                    raise BadRequest(MALFORMED)
                yield number, wire, at, at + size
                at += size
            elif wire == 0:
                value, at = _varint(data, at)
                yield number, wire, value, at
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
                yield number, wire, at, at
            else:
                raise BadRequest(MALFORMED)
            if at > end or not number:
                raise BadRequest(MALFORMED)
    except IndexError:
        raise BadRequest(MALFORMED) from None


def _text(data: Buffer, start: int, end: int) -> bytes:
    raw = bytes(data[start:end])
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise BadRequest("string field contains invalid UTF-8") from None
    return raw


def read_keyvalues(data: Buffer) -> list[tuple[bytes, Buffer]]:
    """(key, value) pairs of a KeyValues message; values are slices of ``data``.

    Raises:
        BadRequest: no such message; nothing of it is used.
    """
    out: list[tuple[bytes, Buffer]] = []
    plain = _plain_pairs(data, out)
    for number, wire, start, end in _fields(data, plain, len(data)):
        if number != 1 or wire != 2:
            continue
        key, value = b"", data[0:0]
        for inner, kind, low, high in _fields(data, start, end):
            if kind == 2 and inner == 1:
                key = _text(data, low, high)
            elif kind == 2 and inner == 2:
                value = data[low:high]
        out.append((key, value))
    return out


def _plain_pairs(data: Buffer, out: list[tuple[bytes, Buffer]]) -> int:
    """Take pairs in the form that every writer uses (key then value, ASCII keys below 128 bytes); where that ends."""
    at, size = 0, len(data)
    while at + 4 < size and data[at] == 0x0A:
        length, body = data[at + 1], at + 2
        if length >= 0x80:
            high = data[body]
            if high >= 0x80:
                break
            length += (high << 7) - 0x80
            body += 1
        end, key_end = body + length, body + 2 + data[body + 1]
        if end > size or key_end + 1 >= end or data[body] != 0x0A or data[key_end] != 0x12:
            break
        value_size, value = data[key_end + 1], key_end + 2
        if value_size >= 0x80:
            if value >= end or data[value] >= 0x80:
                break
            value_size += (data[value] << 7) - 0x80
            value += 1
        key = bytes(data[body + 2 : key_end])
        if value + value_size != end or not key.isascii():
            break
        out.append((key, data[value:end]))
        at = end
    return at


def _plain_keys(data: Buffer, out: list[bytes | KeyRange]) -> int:
    """Take ASCII keys below 128 bytes; where that ends."""
    at, size = 0, len(data)
    while at + 1 < size and data[at] == 0x0A and data[at + 1] < 0x80:
        end = at + 2 + data[at + 1]
        key = bytes(data[at + 2 : end])
        if end > size or not key.isascii():
            break
        out.append(key)
        at = end
    return at


def read_keys(data: Buffer) -> list[bytes | KeyRange]:
    """Keys of a Keys message in their order, then its ranges."""
    keys: list[bytes | KeyRange] = []
    ranges: list[bytes | KeyRange] = []
    plain = _plain_keys(data, keys)
    for number, wire, start, end in _fields(data, plain, len(data)):
        if wire == 2 and number == 1:
            keys.append(_text(data, start, end))
        elif wire == 2 and number == 2:
            key, low, high = b"", 0, 0
            for inner, kind, a, b in _fields(data, start, end):
                if kind == 2 and inner == 1:
                    key = _text(data, a, b)
                elif kind == 0 and inner == 2:
                    low = a
                elif kind == 0 and inner == 3:
                    high = a
            ranges.append(KeyRange(key, low, high))
    return keys + ranges


def _length(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@lru_cache(maxsize=4096)
def keyvalue_frame(key_size: int, size: int) -> tuple[bytes, bytes]:
    """What stands before the key, and between key and value, in a KeyValues message."""
    before = b"\x0a" + _length(key_size)
    between = b"\x12" + _length(size) if size else b""
    return b"\x0a" + _length(len(before) + key_size + len(between) + size) + before, between
