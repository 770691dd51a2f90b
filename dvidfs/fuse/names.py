"""File names of keys, instances, versions, branches and repos: what is written as %XX, and how it is read back.

A key may hold any byte, a file name may not. Encoded are ``/``, NUL, the dot of a leading ``.dvid`` (ours), the dots
of the names ``.`` and ``..``, and a ``%`` that stands before two hex digits; all else is itself. Invariant: a name is
used only if encoding what it decodes to gives the same name, so that no key has two files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

MAX_NAME = 255
"""Longest file name in bytes."""

_SPECIAL = re.compile(rb"[/\0]|%(?=[0-9A-Fa-f]{2})|^\.(?=dvid)|^\.\.?\Z", re.DOTALL)
_CODE = re.compile(rb"%([0-9A-Fa-f]{2})")
_HEX = re.compile(r"[0-9a-f]{32}")

_NOISE = frozenset(
    b".DS_Store .git .hg .svn .hidden .directory .xdg-volume-info .localized .nomedia .noindex .trackerignore "
    b".metadata_never_index .Spotlight-V100 .fseventsd .envrc .editorconfig autorun.inf desktop.ini Thumbs.db "
    b"folder.jpg BDMV VIDEO_TS".split()
)
_NOISE_STARTS = (b".Trash", b"._", b".apdisk", b".fuse_hidden", b".com.apple")


def _code(match: re.Match[bytes]) -> bytes:
    return b"".join(b"%%%02X" % byte for byte in match[0])


def encode(key: bytes) -> bytes:
    """The file name of a key; may be longer than a name can be. The key is not empty."""
    return _SPECIAL.sub(_code, key) if _SPECIAL.search(key) else key


def decode(name: bytes) -> bytes | None:
    """The key that a file name stands for, or None: no key has this name."""
    if b"%" not in name:
        return name if not _SPECIAL.search(name) else None
    key = _CODE.sub(lambda m: bytes([int(m[1], 16)]), name)
    return key if encode(key) == name else None


def encode_all(keys: Sequence[bytes]) -> Sequence[bytes]:
    """The file names of many keys, most of which are their own names."""
    joined = b"\n" + b"\n".join(keys)
    if not any(suspect in joined for suspect in (b"/", b"\0", b"%", b"\n.")):
        return keys
    return [encode(key) for key in keys]


def encode_str(text: str) -> bytes:
    """The file name of an instance, a branch or an alias."""
    return encode(os.fsencode(text))


def decode_str(name: bytes) -> str | None:
    key = decode(name)
    return None if key is None else os.fsdecode(key)


def encode_version(uuid: str) -> bytes:
    """The folder of a version. Texts chosen by people (tags, assigned roots) must not hide what stands beside them."""
    if _HEX.fullmatch(uuid):
        return uuid.encode()
    name = encode_str(uuid)
    if name in (b"branches", b"tags") or name[:1] in (b".", b":"):
        return b"%%%02X" % name[0] + name[1:]
    return name


def is_noise(name: bytes) -> bool:
    """A name that desktops and shells ask for in every folder."""
    return name in _NOISE or name.startswith(_NOISE_STARTS)
