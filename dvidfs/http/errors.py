"""Domain errors as HTTP answers: one total table, and the texts that clients search for (reference: DVID errors)."""

from __future__ import annotations

from dvidfs.errors import DvidfsError, ErrorKind, RangeError

STATUS: dict[ErrorKind, int] = {
    ErrorKind.BAD_REQUEST: 400,
    ErrorKind.NAME_TOO_LONG: 400,
    ErrorKind.RANGE: 416,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.UNKNOWN_VERSION: 400,
    ErrorKind.UNKNOWN_INSTANCE: 400,
    ErrorKind.EXISTS: 400,
    ErrorKind.NOT_EMPTY: 400,
    ErrorKind.LOCKED: 400,
    ErrorKind.CONFLICT: 400,
    ErrorKind.FORBIDDEN: 400,
    ErrorKind.REFUSED: 403,
    ErrorKind.UNSUPPORTED: 400,
    ErrorKind.BUSY: 503,
    ErrorKind.TIMEOUT: 504,
    ErrorKind.STALE: 503,
    ErrorKind.DISK_FULL: 507,
    ErrorKind.CORRUPT: 500,
    ErrorKind.STORE: 503,
    ErrorKind.UNREACHABLE: 502,
}
"""The original answers nearly everything with 400, and its clients test for that: 404 only where it does."""

TEXT = "text/plain; charset=utf-8"
_CONTROLS = {number: f"\\x{number:02x}" for number in (*range(32), 127)}
INTERNAL = "internal error: the server's log has the traceback"


def status_of(error: DvidfsError) -> int:
    return STATUS[error.kind]


def text_of(error: DvidfsError, path: str) -> str:
    """The line that a client reads; 400s name the path as the client wrote it."""
    status = STATUS[error.kind]
    return one_line(f"{error} ({path})." if status == 400 else str(error))


def one_line(text: str) -> str:
    """A text in one line, whatever a client put into a name."""
    return f"{text.translate(_CONTROLS)}\n"


def headers_of(error: DvidfsError) -> list[tuple[str, str]]:
    extra = [("Content-Range", f"bytes */{error.size}")] if isinstance(error, RangeError) else []
    return [("Content-Type", TEXT), ("X-Content-Type-Options", "nosniff"), *extra]
