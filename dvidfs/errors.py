"""The errors of dvidfs, grouped by what whoever asked would do about them.

::

    DvidfsError                      anything that is not our own bug; its text is one line for a person
    ├── BadRequest                   the request makes no sense: change it
    │   ├── NameTooLong              a key or name beyond its limit
    │   └── RangeError               a byte range that lies outside the value
    ├── NotFound                     no such key, block, blob
    │   ├── UnknownVersion           no version, branch or repo of that name, or more than one
    │   └── UnknownInstance          no data instance of that name
    ├── Exists                       the name or uuid is taken
    ├── NotEmpty                     only an empty instance can be removed that way
    ├── Locked                       the version is committed: write to an open one
    ├── Conflict                     two parents of a merge disagree: write the key to settle it
    ├── Forbidden                    an administrator may
    ├── Refused                      a foreign web page, an unknown host, a blocked user: not at all
    ├── Unsupported                  understood, but this type or format cannot
    ├── Busy                         throttled or shutting down: ask again later
    ├── Timeout                      something behind us was too slow
    ├── Unreachable                  a volume that lives elsewhere cannot be reached: ask again later
    ├── Stale                        what was open has been replaced and freed
    ├── DiskFull                     the store's file system is full
    ├── Corrupt                      stored bytes are damaged
    └── StoreError                   the store itself cannot be opened

Each adapter keeps one total table from :class:`ErrorKind` to its own outside meaning
(``http/errors.py`` status, ``fuse/errors.py`` errno, ``EXIT_CODES`` below); tests prove that they are total.
Anything that is not a :class:`DvidfsError` is our bug: traceback in the log, 500 or EIO outside.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorKind(StrEnum):
    """Every kind of error; append only, the values are printed in logs and JSON."""

    BAD_REQUEST = "bad-request"
    NAME_TOO_LONG = "name-too-long"
    RANGE = "range"
    NOT_FOUND = "not-found"
    UNKNOWN_VERSION = "unknown-version"
    UNKNOWN_INSTANCE = "unknown-instance"
    EXISTS = "exists"
    NOT_EMPTY = "not-empty"
    LOCKED = "locked"
    CONFLICT = "conflict"
    FORBIDDEN = "forbidden"
    REFUSED = "refused"
    UNSUPPORTED = "unsupported"
    BUSY = "busy"
    TIMEOUT = "timeout"
    STALE = "stale"
    DISK_FULL = "disk-full"
    CORRUPT = "corrupt"
    STORE = "store"
    UNREACHABLE = "unreachable"


class DvidfsError(Exception):
    """Base of all expected errors. ``str(error)`` is one line: what, where, what would be right."""

    kind = ErrorKind.BAD_REQUEST


class BadRequest(DvidfsError):
    """The request is malformed; nothing was written."""


class NameTooLong(BadRequest):
    kind = ErrorKind.NAME_TOO_LONG


class RangeError(BadRequest):
    """A byte range outside the value. ``size`` is the value's size in bytes."""

    kind = ErrorKind.RANGE

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size


class NotFound(DvidfsError):
    kind = ErrorKind.NOT_FOUND


class UnknownVersion(NotFound):
    kind = ErrorKind.UNKNOWN_VERSION


class UnknownInstance(NotFound):
    kind = ErrorKind.UNKNOWN_INSTANCE


class Exists(DvidfsError):
    kind = ErrorKind.EXISTS


class NotEmpty(DvidfsError):
    kind = ErrorKind.NOT_EMPTY


class Locked(DvidfsError):
    kind = ErrorKind.LOCKED


class Conflict(DvidfsError):
    """``key``: the encoded key that versions disagree about, where it is one."""

    kind = ErrorKind.CONFLICT
    key: bytes = b""


class Forbidden(DvidfsError):
    kind = ErrorKind.FORBIDDEN


class Refused(DvidfsError):
    kind = ErrorKind.REFUSED


class Unsupported(DvidfsError):
    kind = ErrorKind.UNSUPPORTED


class Busy(DvidfsError):
    kind = ErrorKind.BUSY


class Timeout(DvidfsError):
    kind = ErrorKind.TIMEOUT


class Unreachable(DvidfsError):
    kind = ErrorKind.UNREACHABLE


class Stale(DvidfsError):
    kind = ErrorKind.STALE


class DiskFull(DvidfsError):
    kind = ErrorKind.DISK_FULL


class Corrupt(DvidfsError):
    kind = ErrorKind.CORRUPT


class StoreError(DvidfsError):
    kind = ErrorKind.STORE


EXIT_CODES: dict[ErrorKind, int] = dict.fromkeys(ErrorKind, 1) | {
    ErrorKind.BAD_REQUEST: 2,
    ErrorKind.NAME_TOO_LONG: 2,
    ErrorKind.RANGE: 2,
    ErrorKind.STORE: 3,
    ErrorKind.DISK_FULL: 4,
    ErrorKind.CORRUPT: 5,
    ErrorKind.BUSY: 6,
}
"""Exit code of the command for each kind: 2 wrong words, 3 wrong store, 4 disk full, 5 damage, 6 busy, 1 the rest."""
