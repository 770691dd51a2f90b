"""How a value's bytes are kept: compressed or not, inline, in one row, or in pieces; and how they are read again.

A value is prepared (compressed) before it enters the write lane. Values above :data:`~dvidfs.engine.keys.PIECE`
are written piece by piece as they arrive (:class:`Upload`); pieces that no entry points to are freed by
:func:`sweep` an hour later, so a reader that opened the old value can finish.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import zstandard

from dvidfs.engine.keys import ENTRY, INLINE, PIECE, TRASH, U64, VALUE_KEY, Codec, Kind, Table
from dvidfs.errors import Corrupt, Stale

if TYPE_CHECKING:
    from dvidfs.engine.store import Buffer, ReadTxn, Store, WriteTxn

MIN_COMPRESS = 128
"""Shorter values are kept as they are: the frame would eat the gain."""
WORTH = 0.7
"""Compressed only if no more than this remains: base64 and the like shrink by a quarter, which does not pay for
inflating them on each read."""
_ROW, _INLINE, _VALUES = int(Kind.ROW), int(Kind.INLINE), Table.VALUES  # a member of an Enum is slow to look up
KEEP_NS = 3600 * 10**9
"""How long replaced pieces stay readable."""

_local = threading.local()


def _compressor() -> zstandard.ZstdCompressor:
    found = getattr(_local, "compressor", None)
    if found is None:
        found = _local.compressor = zstandard.ZstdCompressor(level=1, write_content_size=True)
    return found


def _decompressor() -> zstandard.ZstdDecompressor:
    found = getattr(_local, "decompressor", None)
    if found is None:
        found = _local.decompressor = zstandard.ZstdDecompressor()
    return found


def inflate(codec: int, data: Buffer, where: str) -> Buffer:
    """Stored bytes as the user gave them.

    Raises:
        Corrupt: the frame is damaged; ``where`` names the value.
    """
    if codec == Codec.RAW:
        return data
    try:
        return _decompressor().decompress(data)
    except zstandard.ZstdError as e:
        raise Corrupt(f"{where} is damaged in the store ({e}): run `dvidfs check`") from None


class Entry(NamedTuple):
    """What the index says of one value: ``size`` in bytes as the user sees it, ``mtime`` in ns, where it lies.

    ``version`` is the version that wrote it; ``key`` the whole key of a long text key, else empty.
    """

    kind: int
    codec: int
    size: int
    mtime: int
    ref: int
    version: int
    inline: bytes = b""
    key: bytes = b""

    def header(self) -> bytes:
        """The fixed part of the row that it was read from."""
        return ENTRY.pack(self.kind, self.codec, len(self.key), 0, self.size, self.mtime, self.ref)

    @classmethod
    def parse(cls, raw: Buffer, version: int) -> Entry:
        kind, codec, key_length, _, size, mtime, ref = ENTRY.unpack_from(raw)
        if len(raw) == ENTRY.size:
            return cls(kind, codec, size, mtime, ref, version)
        tail = bytes(raw[ENTRY.size :])
        return cls(kind, codec, size, mtime, ref, version, tail[key_length:], tail[:key_length])


@dataclass(frozen=True, slots=True)
class Prepared:
    """A value ready for the lane: stored bytes, their codec, the size that the user sees."""

    data: Buffer
    size: int
    codec: int = Codec.RAW


def prepare(data: Buffer, *, compress: bool = True) -> Prepared:
    """Compress a value of at most PIECE bytes if that makes it smaller."""
    if compress and len(data) >= MIN_COMPRESS:
        packed = _compressor().compress(data)
        if len(packed) <= WORTH * len(data):
            return Prepared(packed, len(data), Codec.ZSTD)
    return Prepared(data, len(data))


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A value that lies in pieces already; an entry may now point to it."""

    instance: int
    ref: int
    size: int
    codec: int


@dataclass(frozen=True, slots=True)
class Staged:
    """A value that lies in a row already (:func:`stage`); an entry may now point to it."""

    instance: int
    ref: int
    size: int
    codec: int


def stage(store: Store, instance: int, prepared: Sequence[Prepared]) -> list[Staged]:
    """Write rows ahead of the write that points entries to them, so that no one transaction has to hold them all.

    Until then they are in the trash, so those of a write that never comes are freed. Blocks on the write lane.
    """

    def put(txn: WriteTxn) -> int:
        first = txn.new_ids("value", len(prepared))
        waiting = TRASH.pack(instance, 1, txn.now)
        txn.put_many(Table.VALUES, [(VALUE_KEY.pack(instance, first + i, 0), p.data) for i, p in enumerate(prepared)])
        txn.put_many(Table.TRASH, [(U64.pack(first + i), waiting) for i in range(len(prepared))])
        return first

    first = store.write(put, size=sum(len(p.data) for p in prepared))
    return [Staged(instance, first + i, p.size, p.codec) for i, p in enumerate(prepared)]


class Upload:
    """Writes a long value piece by piece while it arrives. Feed it from one thread; it blocks on the write lane.

    The rows are in the trash from the first on, so that an upload that dies is freed; :meth:`finish` hands them to
    the write that points an entry at them, which takes them out.
    """

    def __init__(self, store: Store, instance: int) -> None:
        self._store = store
        self._instance = instance
        self._rest = bytearray()
        self._ref = 0
        self._count = 0
        self._codec: int | None = None
        self.size = 0

    def feed(self, data: Buffer) -> None:
        self.size += len(data)
        self._rest += data
        while len(self._rest) >= PIECE:
            piece = bytes(memoryview(self._rest)[:PIECE])
            del self._rest[:PIECE]
            self._write(piece)

    def finish(self) -> Uploaded | Prepared:
        """The value: small ones are merely prepared and nothing has been written yet."""
        if not self._count:
            return prepare(bytes(self._rest))
        if self._rest:
            self._write(bytes(self._rest))
        return Uploaded(self._instance, self._ref, self.size, self._codec or 0)

    def _write(self, piece: bytes) -> None:
        if self._codec is None:  # the first piece shows whether the rest will shrink
            self._codec = prepare(piece).codec
        data = _compressor().compress(piece) if self._codec == Codec.ZSTD else piece
        number, count = self._count, self._count + 1

        def put(txn: WriteTxn) -> int:
            ref = self._ref or txn.new_id("value")
            if self._ref:
                _reclaim(txn, ref)
            txn.put(Table.VALUES, VALUE_KEY.pack(self._instance, ref, number), data)
            txn.put(Table.TRASH, U64.pack(ref), TRASH.pack(self._instance, count, txn.now))
            return ref

        self._ref = self._store.write(put, size=len(data))
        self._count = count


def adopt(txn: WriteTxn, value: Uploaded | Staged) -> None:
    """Take what lies in the store already out of the trash, for an entry that will point to it.

    Raises:
        Stale: the upload took so long that it was swept; repeat it.
    """
    _reclaim(txn, value.ref)


def _reclaim(txn: WriteTxn, ref: int) -> None:
    row = txn.get(Table.TRASH, U64.pack(ref))
    if row is None or not TRASH.unpack(row)[2]:
        raise Stale("the upload took longer than an hour between its pieces and was dropped: repeat it")
    txn.delete(Table.TRASH, U64.pack(ref))


def release(txn: WriteTxn, instance: int, entry: Entry) -> None:
    """Free what a replaced or deleted entry pointed to: a row at once, pieces an hour later."""
    if entry.kind == Kind.ROW:
        txn.delete(Table.VALUES, VALUE_KEY.pack(instance, entry.ref, 0))
    elif entry.kind == Kind.PIECES:
        txn.put(Table.TRASH, U64.pack(entry.ref), TRASH.pack(instance, pieces(entry.size), txn.now))


def pieces(size: int) -> int:
    return -(-size // PIECE)


def store_value(txn: WriteTxn, instance: int, value: Prepared | Uploaded | Staged, key: bytes, mtime: int) -> bytes:
    """Write a value's bytes; the index entry that points to them. ``key``: the whole key if it is a long one."""
    if not isinstance(value, Prepared):
        adopt(txn, value)
        kind = Kind.PIECES if isinstance(value, Uploaded) else Kind.ROW
        return ENTRY.pack(kind, value.codec, len(key), 0, value.size, mtime, value.ref) + key
    if len(value.data) <= INLINE and not key:
        return ENTRY.pack(Kind.INLINE, value.codec, 0, 0, value.size, mtime, 0) + bytes(value.data)
    ref = txn.new_id("value")
    txn.put(Table.VALUES, VALUE_KEY.pack(instance, ref, 0), value.data)
    return ENTRY.pack(Kind.ROW, value.codec, len(key), 0, value.size, mtime, ref) + key


def load(txn: ReadTxn, instance: int, entry: Entry) -> Buffer:
    """A whole value. Prefer :func:`stream` for those in pieces."""
    kind, codec = entry.kind, entry.codec
    if kind == _ROW:
        data = txn.get(_VALUES, VALUE_KEY.pack(instance, entry.ref, 0))
        if data is None:
            raise Corrupt(f"value {entry.ref} is missing in the store: run `dvidfs check`")
        return data if not codec else inflate(codec, data, f"value {entry.ref}")
    if kind == _INLINE:
        return inflate(codec, entry.inline, "an inline value")
    return b"".join(stream(txn, instance, entry))


def stream(txn: ReadTxn, instance: int, entry: Entry, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
    """Bytes start to stop of a value, piece by piece.

    Raises:
        Stale: the value was replaced more than an hour ago and its pieces are gone.
    """
    stop = entry.size if stop is None else min(stop, entry.size)
    if entry.kind != Kind.PIECES:
        if start < stop:
            yield memoryview(load(txn, instance, entry))[start:stop]
        return
    for number in range(start // PIECE, -(-stop // PIECE)):
        data = txn.get(Table.VALUES, VALUE_KEY.pack(instance, entry.ref, number))
        if data is None:
            raise Stale("this value was replaced more than an hour ago: open it anew")
        piece = memoryview(inflate(entry.codec, data, f"piece {number} of value {entry.ref}"))
        low = number * PIECE
        yield piece[max(start - low, 0) : stop - low]


def same_bytes(txn: ReadTxn, instance: int, a: Entry, b: Entry) -> bool:
    """Whether two entries hold equal bytes."""
    if a.size != b.size:
        return False
    if a.ref and a.ref == b.ref:
        return True
    return _equal(stream(txn, instance, a), stream(txn, instance, b))


def _equal(left: Iterable[Buffer], right: Iterable[Buffer]) -> bool:
    # both are cut at multiples of PIECE, so the pieces match one to one
    return all(memoryview(x) == memoryview(y) for x, y in zip(left, right, strict=True))


def sweep(txn: WriteTxn, limit: int = 256, keep_ns: int = KEEP_NS) -> bool:
    """Free up to ``limit`` pieces whose time is over; True if more are waiting."""
    for key, row in list(txn.scan(Table.TRASH, b"", b"\xff" * 9)):
        instance, count, since = TRASH.unpack(row)
        if txn.now - since < keep_ns:
            continue
        low, high = VALUE_KEY.pack(instance, U64.unpack(key)[0], 0), VALUE_KEY.pack(instance, U64.unpack(key)[0], count)
        limit -= txn.delete_range(Table.VALUES, low, high, limit)
        if limit <= 0:  # since 0: some are gone, so no upload may have the rest back
            txn.put(Table.TRASH, key, TRASH.pack(instance, count, 0))
            return True
        txn.delete(Table.TRASH, key)
    return False
