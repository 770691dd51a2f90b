"""Every byte that dvidfs puts into a store: tables, keys, fixed value layouts. Pure functions, no I/O.

All integers are big-endian in keys (byte order is number order) and little-endian in values. Times are int64
nanoseconds since 1970. ``FORMAT`` is raised whenever anything on this page changes its meaning.

==========  ==============================================  ====================================================
table       key                                             value
==========  ==============================================  ====================================================
meta        ``format``                                      ASCII decimal :data:`FORMAT`
meta        ``now``                                         :data:`NOW`: gen, one more for each change of ``graph``;
                                                            history, one more for each change to committed data
meta        ``ids``                                         :data:`IDS`: next repo, version, instance, value, job
meta        ``seq``                                         u64, next row of ``changes``
meta        ``mutid`` + repo u32                            u64, the repo's next mutation id
graph       ``r`` + repo u32                                JSON of a repo
graph       ``n`` + version u32                             JSON of a node
graph       ``i`` + instance u32                            JSON of a data instance
graphlog    gen u64                                         the key in ``graph`` that this change wrote
index       instance u32, family u8, key, ~version u32,     :data:`ENTRY`, then the whole key of a long text key,
            mark u8                                         then the bytes of an inline value
values      instance u32, value id u64, piece u32           bytes, compressed as the entry's codec says
state       instance u32, version u32                       :data:`STATE`: changes so far, time of the last
written     instance u32, version u32, family u8, key       empty; the keys that have an entry of that version
changes     seq u64                                         concatenated :data:`CHANGE` + index key part
lines       scope u8 (``r`` repo, ``n`` node), id u32,      time i64, UTF-8 text of a log line
            number u32
mutations   instance u32, version u32, mutation id u64      record of one mutation, in the datatype's JSON
ledger      instance u32, book u8, id u64, ~version u32,    bytes of the datatype's own; rows of version 0 are
            ~mutation id u64                                counters of the instance, and are replaced
blobs       16 bytes FNV-1 128 of the content               :data:`ENTRY` (+ inline value)
trash       value id u64                                    :data:`TRASH`: instance, pieces, since when (0:
                                                            some are freed)
jobs        job id u64                                      JSON of a background job
==========  ==============================================  ====================================================

**Versioned keys.** ``~version`` is the complement of the version id. Ids grow from parent to child, so of the
entries of one key the newest come first, and one seek to ``~v`` stands on the nearest candidate at or above
version v. ``mark`` is 0 for a value and 1 for a tombstone; a version has at most one of both.

**Families** keep the kinds of keys of one instance apart and say how they are written:
``TEXT`` keys (1 to 1,024 bytes) escape NUL as ``00 ff`` and end in ``00 00``; what would not fit an LMDB key keeps
its first :data:`PREFIX` escaped bytes, then ``00 01``, the first 16 bytes of its SHA-256, ``01``, and the whole key
follows the entry. ``BLOCK`` keys are scale u8, z, y, x each u32 of value + 2^31; blocks of scales above 0 are made
from those below. ``NUMBER`` keys are u64. ``PRIVATE`` and ``UNITED`` keys are encoded as those of ``TEXT``.

**Values** of at most :data:`INLINE` stored bytes follow the entry (kind INLINE); up to :data:`PIECE` bytes they are
one row of ``values`` (kind ROW); longer ones lie in rows of PIECE bytes each (kind PIECES), written before the entry
that points to them. ``ref`` is the value id. A value id is never used twice. Blobs are values of instance 0.
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum, StrEnum

from dvidfs.errors import BadRequest, NameTooLong

FORMAT = 1

MAX_KEY = 1024
"""Longest datatype key in bytes."""
LMDB_KEY = 511
PREFIX = 400
INLINE = 64
PIECE = 1 << 20


class Table(StrEnum):
    META = "meta"
    GRAPH = "graph"
    GRAPHLOG = "graphlog"
    INDEX = "index"
    VALUES = "values"
    STATE = "state"
    WRITTEN = "written"
    CHANGES = "changes"
    LINES = "lines"
    MUTATIONS = "mutations"
    LEDGER = "ledger"
    BLOBS = "blobs"
    TRASH = "trash"
    JOBS = "jobs"


class Family(IntEnum):
    """Kinds of datatype keys; the number is the byte on disk."""

    TEXT = 0x10
    BLOCK = 0x20
    NUMBER = 0x30
    PRIVATE = 0x40
    """Text keys of the datatype's own (extents, schemas), never shown as the user's."""
    UNITED = 0x50
    """Text keys of values that are sets: the datatype unites them below a merge, so they are never in conflict."""


class Kind(IntEnum):
    """Where the value of an index entry is."""

    TOMBSTONE = 0
    INLINE = 1
    ROW = 2
    PIECES = 3


class Codec(IntEnum):
    """How stored bytes are compressed."""

    RAW = 0
    ZSTD = 1


ENTRY = struct.Struct("<BBHIQqQ")
"""kind, codec, length of the whole key behind the entry (long text keys, else 0), 0, size in bytes as the user
sees it, mtime ns, value id."""
NOW = struct.Struct("<QQ")
IDS = struct.Struct("<IIIQQ")
STATE = struct.Struct("<Qq")
TRASH = struct.Struct("<IIq")
CHANGE = struct.Struct("<BIIH")
"""what (:class:`Change`), instance, version, length of the index key part that follows."""
U32 = struct.Struct(">I")
U64 = struct.Struct(">Q")
U64LE = struct.Struct("<Q")
I64LE = struct.Struct("<q")
PAIR = struct.Struct(">II")
VALUE_KEY = struct.Struct(">IQI")
LINE_KEY = struct.Struct(">BII")
MUTATION_KEY = struct.Struct(">IIQ")
LEDGER_KEY = struct.Struct(">IBQIQ")
HEAD = struct.Struct(">IB")
BLOCK = struct.Struct(">BIII")

SUFFIX = 5
"""Bytes behind the datatype key in an index key: ~version, mark."""
VALUE = b"\x00"
TOMB = b"\x01"
BIAS = 1 << 31


class Change(IntEnum):
    """What a row of ``changes`` tells a process that keeps caches."""

    GRAPH = 0
    KEY = 1
    INSTANCE = 2
    """Many keys of this instance at this version."""
    HISTORY = 3


def head(instance: int, family: Family) -> bytes:
    """First bytes of every index key of that instance and family."""
    return HEAD.pack(instance, family)


def check_key(key: bytes) -> bytes:
    if not key:
        raise BadRequest("a key must have at least 1 byte")
    if len(key) > MAX_KEY:
        raise NameTooLong(f"key {key[:40]!r}… has {len(key)} bytes: at most {MAX_KEY} are allowed")
    return key


def encode_text(key: bytes) -> bytes:
    """A text key as it lies in an index key; ``check_key`` has passed."""
    enc = key.replace(b"\0", b"\0\xff") if b"\0" in key else key
    if len(enc) <= LMDB_KEY - HEAD.size - SUFFIX - 2:
        return enc + b"\0\0"
    return long_prefix(enc) + b"\0\x01" + hashlib.sha256(key).digest()[:16] + b"\x01"


def long_prefix(enc: bytes) -> bytes:
    """The escaped bytes that a long key keeps; never ends between NUL and its escape."""
    cut = PREFIX
    tail = enc[:cut]
    nuls = len(tail) - len(tail.rstrip(b"\0"))
    return enc[: cut - 1] if nuls else tail


def is_long(enc: bytes) -> bool:
    return enc[-1] == 1


def decode_text(enc: bytes) -> bytes:
    """The key of a short encoded text key (of a long one it stands behind the entry)."""
    text = enc[:-2]
    return text.replace(b"\0\xff", b"\0") if b"\0" in text else text


def text_span_start(key: bytes) -> bytes:
    """Encoded bytes at or before every key >= ``key``."""
    enc = key.replace(b"\0", b"\0\xff")
    return enc if len(enc) < PREFIX else long_prefix(enc)


def text_span_end(key: bytes) -> bytes:
    """Encoded bytes after every key <= ``key``; a run of long keys may hold others, to be cut by name."""
    enc = key.replace(b"\0", b"\0\xff")
    return enc + b"\0\x01" if len(enc) < PREFIX else long_prefix(enc) + b"\xff" * (LMDB_KEY - PREFIX)


def encode_block(scale: int, x: int, y: int, z: int) -> bytes:
    """Key of a block; coordinates are block coordinates in [-2^31, 2^31)."""
    try:
        return BLOCK.pack(scale, z + BIAS, y + BIAS, x + BIAS)
    except struct.error:
        raise BadRequest(f"block {x}_{y}_{z} at scale {scale} is out of range: each must fit 32 bits") from None


def decode_block(enc: bytes) -> tuple[int, int, int, int]:
    """scale, x, y, z of a block key."""
    scale, z, y, x = BLOCK.unpack(enc)
    return scale, x - BIAS, y - BIAS, z - BIAS


def is_derived(key: bytes) -> bool:
    """Whether a family and encoded key name a block of a scale above 0, which is made from others and never in conflict."""
    return key[0] == Family.BLOCK and key[1] > 0


def is_united(key: bytes) -> bool:
    """Whether the datatype itself says what the value of a family and encoded key is below a merge."""
    return key[0] in (Family.PRIVATE, Family.UNITED)


def version_suffix(version: int) -> bytes:
    """``~version``: seeking to it stands on this version's entry or the nearest older one."""
    return U32.pack(0xFFFFFFFF - version)


def suffix_version(suffix: bytes) -> int:
    return 0xFFFFFFFF - U32.unpack_from(suffix)[0]


def after(prefix: bytes) -> bytes:
    """The least byte string greater than every string with this prefix."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b"\xff" * LMDB_KEY
