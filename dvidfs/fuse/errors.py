"""Which errno each kind of error becomes. Total: a kind without a row is a failing test. Needs no pyfuse3."""

from __future__ import annotations

import errno

from dvidfs.errors import DvidfsError, ErrorKind

ERRNO: dict[ErrorKind, int] = {
    ErrorKind.BAD_REQUEST: errno.EINVAL,
    ErrorKind.NAME_TOO_LONG: errno.ENAMETOOLONG,
    ErrorKind.RANGE: errno.EINVAL,
    ErrorKind.NOT_FOUND: errno.ENOENT,
    ErrorKind.UNKNOWN_VERSION: errno.ENOENT,
    ErrorKind.UNKNOWN_INSTANCE: errno.ENOENT,
    ErrorKind.EXISTS: errno.EEXIST,
    ErrorKind.NOT_EMPTY: errno.ENOTEMPTY,
    ErrorKind.LOCKED: errno.EROFS,
    ErrorKind.CONFLICT: errno.EIO,
    ErrorKind.FORBIDDEN: errno.EACCES,
    ErrorKind.REFUSED: errno.EPERM,
    ErrorKind.UNSUPPORTED: errno.ENOTSUP,
    ErrorKind.BUSY: errno.EAGAIN,
    ErrorKind.TIMEOUT: errno.ETIMEDOUT,
    ErrorKind.STALE: errno.ESTALE,
    ErrorKind.DISK_FULL: errno.ENOSPC,
    ErrorKind.CORRUPT: errno.EIO,
    ErrorKind.STORE: errno.EIO,
    ErrorKind.UNREACHABLE: errno.EIO,
}

LOGGED = frozenset(
    {
        ErrorKind.CONFLICT,
        ErrorKind.CORRUPT,
        ErrorKind.DISK_FULL,
        ErrorKind.STORE,
        ErrorKind.STALE,
        ErrorKind.UNREACHABLE,
    }
)
"""Kinds whose text goes to the log: an errno alone would not tell a person what happened."""

PASSED_ON = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of the operating system (of a write buffer's temporary file) that mean to the caller what they say."""


class Errno(Exception):
    """An errno that is meant, for what no kind of error tells."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.errno = number


def errno_of(error: Exception) -> int:
    """The errno of any exception; what is not expected is EIO."""
    if isinstance(error, DvidfsError):
        return ERRNO[error.kind]
    if isinstance(error, Errno):
        return error.errno
    if isinstance(error, OSError) and error.errno in PASSED_ON:
        return error.errno
    return errno.EIO
