"""Asking a remote volume: through tensorstore, with retries, a deadline, a cache of stated size, and errors of ours.

Decides how often and how long is asked (:data:`TRIES` times with back-off by tensorstore, :data:`DEADLINE` in all) and what a
failure means. Invariant: whatever goes wrong is one of ours, in one line: Unreachable if asking again may help, Corrupt
with the name of the chunk if it cannot, NotFound where nothing is there.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from dvidfs.errors import Corrupt, DvidfsError, NotFound, Unreachable, Unsupported
from dvidfs.types.proxy.gate import gate_of

TRIES = 3
DEADLINE = 10.0
"""Seconds until a request is given up; a long one gets more, see :data:`SLOWEST`."""
SLOWEST = 4 << 20
"""Voxel bytes per second below which a remote counts as out of reach."""
CACHE_MB = 256
JPEG_PART = 4
"""Stored JPEGs are kept in one part of the cache of so many, decoded chunks and indexes in the rest."""

NEEDED = "volumes that live elsewhere need tensorstore: pip install 'dvidfs[proxy]'"
_GONE = {"NOT_FOUND"}
_WRONG = {"FAILED_PRECONDITION", "INVALID_ARGUMENT", "DATA_LOSS", "OUT_OF_RANGE", "UNIMPLEMENTED"}
_CODE = re.compile(r"([A-Z_]+): (.*)", re.DOTALL)
_DETAILS = re.compile(r" \[(tensorstore_spec|curl_code|source locations|http_response).*", re.DOTALL)

_lock = threading.Lock()
_settled: dict[str, Any] = {}


def library() -> Any:
    """The module ``tensorstore``.

    Raises:
        Unsupported: it is not installed.
    """
    try:
        import tensorstore
    except ImportError:
        raise Unsupported(NEEDED) from None
    return tensorstore


def configure_cache(megabytes: int) -> None:
    """How much of remote volumes this process keeps in memory; what is kept now is dropped."""
    with _lock:
        _settled.clear()
        _settled["bytes"] = megabytes << 20


def cache_bytes() -> int:
    return _settled.get("bytes", CACHE_MB << 20)


def context() -> Any:
    """What all opened volumes share: the cache and how failures are retried."""
    with _lock:
        if "context" not in _settled:
            size = cache_bytes()
            retries = {"max_retries": TRIES - 1, "initial_delay": "300ms", "max_delay": "2s"}
            told: dict[str, Any] = {f"{name}_request_retries": retries for name in ("http", "gcs", "s3")}
            told["cache_pool"] = {"total_bytes_limit": size - size // JPEG_PART}
            _settled["context"] = library().Context(told)
        return _settled["context"]


def answers(server: str, ask: Callable[[], Sequence[Any]], size: int = 0) -> list[Any]:
    """The results of the futures that ``ask`` starts, in order; ``size``: bytes of voxels that are awaited.

    Raises:
        Unreachable: no answer in time, a refusal, or the server failed a moment ago.
        NotFound: there is nothing of that name.
        Corrupt: what is there is not what it should be; names the chunk.
    """
    with gate_of(server).through():
        until = monotonic() + DEADLINE + size / SLOWEST
        futures: Sequence[Any] = ()
        try:
            futures = ask()
            return [future.result(timeout=max(0.0, until - monotonic())) for future in futures]
        except (ValueError, RuntimeError, OSError) as error:  # TimeoutError is an OSError
            for future in futures:
                future.cancel()
            raise _meaning(server, error) from None


def _meaning(server: str, error: Exception) -> DvidfsError:
    if isinstance(error, TimeoutError):
        return Unreachable(f"{server} cannot be reached: no answer within {DEADLINE:g} s")
    text = _DETAILS.sub("", str(error)).strip()
    match = _CODE.match(text)
    code, said = (match[1], match[2]) if match else ("", text)
    said = " ".join(said.split())
    if code in _GONE:
        return NotFound(said)
    if code in _WRONG or not code:
        return Corrupt(f"a remote volume cannot be read: {said}")
    return Unreachable(f"{server} cannot be reached: {said}")
