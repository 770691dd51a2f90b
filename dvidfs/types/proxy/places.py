"""Where a proxied volume lives: the texts of ``GridStore`` and the stores of the configuration.

Decides which texts name a place; opens nothing. A text is the alias of a configured store or says it all:
``precomputed://file:///data/em``, ``zarr://https://host/em.zarr``, ``n5://s3://bucket/em.n5``. Invariant: a :class:`Place` written
as text names the same place again, in any process and without the configuration.
Source of the keys ``engine`` and ``ref``: reference note "inventory" 5.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from dvidfs.errors import BadRequest

FORMATS = ("precomputed", "zarr", "zarr2", "zarr3", "n5")
"""``zarr`` is either version, whichever is there."""
SCHEMES = ("file", "http", "https", "s3", "gs")
ENGINES = {"ngprecomputed": "precomputed", "zarr": "zarr", "zarr2": "zarr2", "zarr3": "zarr3", "n5": "n5"}
"""Engines of ``[store.NAME]`` that are such volumes, and their formats."""

_PLACE = re.compile(rf"({'|'.join(FORMATS)})://(.+)", re.IGNORECASE)
_EXAMPLES = "precomputed://file:///data/em, zarr://https://host/em.zarr or n5://s3://bucket/em.n5"


@dataclass(frozen=True)
class Place:
    """A format and the URL of the folder that holds the volume, with a slash at its end."""

    format: str
    url: str

    def __str__(self) -> str:
        return f"{self.format}://{self.url}"

    @property
    def server(self) -> str:
        """Who answers for it: the host or bucket, for local files the folder itself."""
        found = urlsplit(self.url)
        return self.url if found.scheme == "file" else f"{found.scheme}://{found.netloc}"

    def below(self, key: str) -> str:
        """The URL of a folder within this one; ``..`` leads out of it."""
        head, _, path = self.url.partition("://")
        parts: list[str] = []
        for part in f"{path}{key}".split("/"):
            if part == "..":
                parts = parts[:-1] or parts
            elif part not in (".", "") or not parts:
                parts.append(part)
        return f"{head}://{'/'.join(parts)}/"


def names_a_place(text: str) -> bool:
    """Whether the text says where, and is not the alias of a configured store."""
    return "://" in text


def parse_place(text: str) -> Place:
    """The place that a text names in full.

    Raises:
        BadRequest: no such format or scheme, or a password in it.
    """
    match = _PLACE.fullmatch(text.strip())
    if match is None:
        raise BadRequest(f'GridStore "{text}" names no volume: give the alias of a configured store, {_EXAMPLES}')
    return Place(match[1].lower(), _folder(match[2], text))


def configured_place(engine: str, ref: str, path: Path | None) -> Place:
    """The place of a ``[store.NAME]``: ``path`` if it is given, else ``ref``; a bare one is a bucket of Google's."""
    form = ENGINES[engine]
    if path is not None:
        return Place(form, _folder(path.absolute().as_uri(), str(path)))
    if _PLACE.fullmatch(ref):
        return parse_place(ref)
    return Place(form, _folder(ref if "://" in ref or ref.startswith("/") else f"gs://{ref}", ref))


def _folder(url: str, text: str) -> str:
    if url.startswith("/"):
        url = Path(url).as_uri()
    found = urlsplit(url)
    is_known = found.scheme in SCHEMES and (found.netloc or found.scheme == "file") and (found.path or found.netloc)
    if not is_known or found.query or found.fragment or set("|\n\r\t ") & set(url):
        raise BadRequest(f'"{text}" is no place of a volume: want a URL of {", ".join(SCHEMES)}, as in {_EXAMPLES}')
    if "@" in found.netloc:
        raise BadRequest(
            f"the place of a volume is shown to everybody: leave the password out and let the environment give it "
            f"({found.scheme}://{found.netloc.rpartition('@')[2]}{found.path})"
        )
    return url.rstrip("/") + "/"


# -- the configuration of this process ---------------------------------------------------------------------------

_stores: dict[str, Place] = {}


def configure_stores(stores: Mapping[str, Place]) -> None:
    """Makes these the aliases that :func:`resolve` knows; case does not matter."""
    _stores.clear()
    _stores.update({alias.lower(): place for alias, place in stores.items()})


def resolve(text: str) -> Place:
    """The place that a text names, by alias or in full.

    Raises:
        BadRequest: it does neither; for an unknown alias in the words of the original.
    """
    if names_a_place(text):
        return parse_place(text)
    place = _stores.get(text.lower())
    if place is None:
        raise BadRequest(
            f'bad store ({text}) designated for GridStore: could not find store with alias "{text}" in TOML config file'
        )
    return place
