"""What an HTTP server can be told, and who counts as whom under it."""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True)
class HttpOptions:
    """``cors``: origins that may read (``*``: any); loopback origins always may. ``admin_token``: whoever gives it is
    an administrator; without it and without auth, everybody on a loopback bind is."""

    host: str = "127.0.0.1"
    port: int = 8000
    cors: tuple[str, ...] = ()
    admin_token: str = ""
    read_only: bool = False
    full_write: bool = False
    allow_timing: bool = False
    allow_split: bool = False
    note: str = ""
    config_path: str = ""
    config_text: str = ""
    public_host: str = ""
    request_log: Path | None = None
    max_throttled: int = 1
    fast_lane: bool = True

    @cached_property
    def loopback(self) -> bool:
        return is_loopback(self.host)

    def is_admin(self, token: str | None) -> bool:
        if self.admin_token:
            return token is not None and hmac.compare_digest(token.encode(), self.admin_token.encode())
        return self.loopback

    def allows_origin(self, origin: str) -> bool:
        """Whether a page of that origin may read our answers."""
        return (
            "*" in self.cors
            or origin in self.cors
            or is_loopback(host_of(origin))
            or origin.partition("://")[2] in self.cors
        )


def host_of(url: str) -> str:
    """The host that a URL names; empty where it is malformed."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    host = host.strip("[]").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
