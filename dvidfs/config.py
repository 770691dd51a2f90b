"""What a service is told: defaults, then the original's TOML file, then the environment, then the command's flags.

Decides which keys are understood and what their texts mean; opens nothing and starts nothing. Invariant: a
:class:`Config` is complete and valid, so that whoever gets one need not ask again. Source of the TOML keys: reference
note "inventory" 4; keys are matched without regard to case, as there.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dvidfs.errors import BadRequest, StoreError

Mode = Literal["", "readonly", "fullwrite"]

DEFAULT_PORT = 8000
LOOPBACK = "127.0.0.1"
DURABILITIES = ("durable", "periodic")
GRID_ENGINES = ("ngprecomputed", "zarr", "zarr2", "zarr3", "n5")
"""Engines of stores that are volumes elsewhere."""
MAX_CACHE_MB = 1 << 20


@dataclass(frozen=True)
class Address:
    """Where a server listens; an IPv6 host without brackets, an empty host for all interfaces."""

    host: str = LOOPBACK
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """``HOST:PORT``, ``HOST``, ``PORT``; ``:PORT`` means all interfaces, as in the original.

    Raises:
        BadRequest: no such address.
    """
    host, colon, port = text.strip().rpartition(":")
    if text.endswith("]") or not colon:
        host, port = ("", text) if text.isdecimal() else (text, str(DEFAULT_PORT))
        host = host or LOOPBACK
    elif not host:
        host = "0.0.0.0"
    if not text.strip() or not port.isdecimal() or int(port) > 65535 or any(c.isspace() for c in host):
        raise BadRequest(f'"{text}" is no address: give HOST:PORT, such as 127.0.0.1:{DEFAULT_PORT}')
    return Address(host.strip("[]"), int(port))


@dataclass(frozen=True)
class GridStore:
    """A ``[store.NAME]`` that is a volume elsewhere: ``ref`` is a bucket or URL, ``path`` a folder of this machine instead.

    ``instance``: make an instance of that name for it, and ``instance_1`` … for further scales, in the repo that has the
    version ``uuid``, or in the only one.
    """

    engine: str
    ref: str = ""
    path: Path | None = None
    instance: str = ""
    uuid: str = ""


@dataclass(frozen=True)
class Config:
    """``http`` and ``mount`` are None where nothing is to be served so. Paths are absolute or relative to here."""

    store: Path
    create: bool = False
    """Make the store if it is not there, as the original does."""
    http: Address | None = None
    mount: Path | None = None
    allow_other: bool = False
    durability: Literal["durable", "periodic"] = "durable"
    cors: tuple[str, ...] = ()
    mode: Mode = ""
    admin_token: str = field(default="", repr=False)
    note: str = ""
    host: str = ""
    allow_timing: bool = False
    allow_split: bool = False
    min_mutation_id: int = 1_000_000_000
    pid_file: Path | None = None
    logfile: Path | None = None
    request_log: Path | None = None
    json_log: Path | None = None
    mutcaches: Mapping[str, Path] = field(default_factory=dict)
    grid_stores: Mapping[str, GridStore] = field(default_factory=dict)
    """Volumes that live elsewhere, by alias."""
    cache_mb: int = 256
    """How much of them is kept in memory."""
    file: Path | None = None
    text: str = ""
    warnings: tuple[str, ...] = ()


# -- the TOML file -----------------------------------------------------------------------------------------------

SERVER_KEYS = {
    "httpaddress": "http",
    "corsdomains": "cors",
    "allowlabelmapsplit": "allow_split",
    "allowtiming": "allow_timing",
    "note": "note",
    "rwmode": "mode",
    "host": "host",
    "min_mutation_id_start": "min_mutation_id",
    "pidfile": "pid_file",
    "cachemb": "cache_mb",
}
"""Keys of ``[server]`` and the fields that they set."""

WITHOUT_EFFECT = {
    "server": {
        "rpcaddress", "webclient", "webredirectpath", "webdefaultfile", "blocklistfile", "startwebhook",
        "startjaneliaconfig", "instance_id_gen", "instance_id_start", "interactiveopsbeforeblock", "shutdowndelay",
    },
    "logging": {"max_log_size", "max_log_age"},
    "mutations": {"httpstore", "blobstore"},
    "backend": {"metadata"},
    "auth": None, "email": None, "kafka": None, "cache": None, "groupcache": None, "mirror": None,
}  # fmt: skip
"""What the original knows and this program does not use; None: the whole table."""


def read_toml(path: Path) -> Config:
    """The configuration in one of the original's files; relative paths in it count from its folder.

    Raises:
        StoreError: no such file, or it names no store that can be used.
        BadRequest: it is not TOML, or a value is of the wrong kind.
    """
    try:
        text = path.read_text()
        tables = _lower(tomllib.loads(text))
    except OSError as e:
        raise StoreError(f"cannot read {path}: {e.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise BadRequest(f"{path} is not TOML: {e}") from None
    reader = _Reader(path, tables)
    config = reader.config()
    return replace(config, file=path, text=text, warnings=tuple(reader.warnings()))


def _lower(value: Any, kept: bool = False) -> Any:
    """Tables with their keys in lower case, except names of instances."""
    if isinstance(value, Mapping):
        return {k if kept else k.lower(): _lower(v, k.lower() == "mutcache") for k, v in value.items()}
    return value


class _Reader:
    """Reads one file and keeps which keys were not used."""

    def __init__(self, path: Path, tables: Mapping[str, Any]) -> None:
        self.path = path
        self.tables = tables
        self.known: set[tuple[str, ...]] = set()

    def config(self) -> Config:
        server: dict[str, Any] = {}
        for key, field_name in SERVER_KEYS.items():
            value = self._take("server", key)
            if value is not None:
                server[field_name] = self._convert(f"server.{key}", field_name, value)
        store, durability = self._store()
        server.setdefault("http", Address("localhost"))
        logfile, json_log = self._take("logging", "logfile"), self._take("mutations", "jsonstore")
        return Config(
            store,
            create=True,
            durability=durability,
            logfile=self._path("logging.logfile", logfile),
            json_log=self._path("mutations.jsonstore", json_log),
            mutcaches=self._mutcaches(),
            grid_stores=dict(self._grid_stores()),
            **server,
        )

    def _take(self, table: str, *keys: str) -> Any:
        found: Any = self.tables.get(table)
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        if found is not None:
            self.known.add((table, *keys))
        return found

    def _convert(self, where: str, field_name: str, value: Any) -> Any:
        if field_name == "http":
            return parse_address(self._is(where, value, str))
        if field_name == "cors":
            return tuple(self._is(where, item, str) for item in self._is(where, value, list))
        if field_name == "mode":
            return self._choice(where, value, ("", "readonly", "fullwrite"))
        if field_name == "pid_file":
            return self._path(where, value)
        if field_name == "cache_mb" and not 1 <= self._is(where, value, int) <= MAX_CACHE_MB:
            raise BadRequest(f"{self.path}: {where} = {value}: give 1 to {MAX_CACHE_MB} megabytes")
        kind = type(getattr(Config, field_name))
        return self._is(where, value, kind)

    def _is(self, where: str, value: Any, kind: Any) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            names = {str: "a string", list: "a list", bool: "true or false"}
            raise BadRequest(f"{self.path}: {where} must be {names.get(kind, 'a number')}")
        return value

    def _choice(self, where: str, value: Any, choices: tuple[str, ...]) -> Any:
        if str(value).lower() not in choices:
            raise BadRequest(f'{self.path}: {where} = "{value}": give {" or ".join(filter(None, choices))}')
        return str(value).lower()

    def _path(self, where: str, value: Any) -> Path | None:
        """A path from the file; a leading ``~`` is the home folder."""
        if not value:
            return None
        return self.path.parent / Path(self._is(where, value, str)).expanduser()

    def _store(self) -> tuple[Path, Any]:
        """Where the store of ``[backend.default]`` lies; without that table, the only one there is."""
        stores = self._is("store", self.tables.get("store", {}), Mapping)
        others = ("filelog", *GRID_ENGINES)
        stores = {name: s for name, s in stores.items() if isinstance(s, Mapping) and s.get("engine") not in others}
        chosen = self._take("backend", "default", "store")
        self._take("backend", "default", "log")
        if chosen is None and len(stores) == 1:
            chosen = next(iter(stores))
        name = str(chosen or "").lower()
        if name not in stores:
            what = f'[backend.default] names the store "{chosen}"' if chosen else "no store is chosen"
            raise StoreError(
                f"{self.path}: {what}: give [store.main] with engine and path, and [backend.default] store"
            )
        engine = self._take("store", name, "engine")
        if engine != "lmdb":
            raise StoreError(f'{self.path}: store.{name}.engine is "{engine}": dvidfs has only "lmdb"')
        path = self._path(f"store.{name}.path", self._take("store", name, "path"))
        if path is None:
            raise StoreError(f"{self.path}: store.{name}.path is missing: give the folder of the store")
        durability = self._take("store", name, "durability")
        return path, self._choice(f"store.{name}.durability", durability or "durable", DURABILITIES)

    def _grid_stores(self) -> Iterator[tuple[str, GridStore]]:
        for name, given in (self.tables.get("store") or {}).items():
            engine = given.get("engine") if isinstance(given, Mapping) else None
            if engine not in GRID_ENGINES:
                continue
            self._take("store", name, "engine")
            said = {key: self._take("store", name, key) for key in ("ref", "url", "path")}
            texts = {key: self._is(f"store.{name}.{key}", v, str) for key, v in said.items() if v}
            if len(texts) != 1:
                raise BadRequest(
                    f'{self.path}: store.{name}: give one of ref = "gs://bucket/em", url = "https://host/em" and '
                    f'path = "folder"'
                )
            path = self._path(f"store.{name}.path", texts.get("path"))
            asked = {key: self._take("store", name, key) or "" for key in ("instance", "uuid")}
            for key, value in asked.items():
                self._is(f"store.{name}.{key}", value, str)
            yield name, GridStore(engine, texts.get("ref") or texts.get("url") or "", path, **asked)

    def _mutcaches(self) -> dict[str, Path]:
        found = {}
        for name, given in (self.tables.get("mutcache") or {}).items():
            path = self._path(f"mutcache.{name}.path", self._take("mutcache", name, "path"))
            if path is not None and isinstance(given, Mapping):
                found[name] = path
        return found

    def warnings(self) -> Iterator[str]:
        """One line for each unknown key, and one for all that are known but not used."""
        idle = []
        for keys in sorted(_leaves(self.tables)):
            if keys in self.known:
                continue
            table, rest = keys[0], keys[1:]
            quiet = WITHOUT_EFFECT.get(table, set())
            filelog = table == "store" and self.tables[table].get(keys[1], {}).get("engine") == "filelog"
            if quiet is None or (rest and rest[0] in quiet) or filelog:
                idle.append(".".join(keys))
            else:
                yield f"{self.path}: unknown key {'.'.join(keys)} is ignored"
        if idle:
            yield f"{self.path}: without effect here: {', '.join(idle)}"


def _leaves(value: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, below in value.items():
        if isinstance(below, Mapping):
            yield from _leaves(below, (*above, key))
        else:
            yield (*above, key)


# -- the environment, and all of it ------------------------------------------------------------------------------


def apply_environment(config: Config, environment: Mapping[str, str] | None = None) -> Config:
    """What the environment says over a configuration.

    ``DVID_ADMIN_TOKEN``, ``DVIDFS_DURABILITY``, ``DVIDFS_CORS`` (origins with commas between), ``DVIDFS_LOG``.
    """
    env = os.environ if environment is None else environment
    changes: dict[str, Any] = {}
    if token := env.get("DVID_ADMIN_TOKEN"):
        changes["admin_token"] = token
    if durability := env.get("DVIDFS_DURABILITY"):
        if durability not in DURABILITIES:
            raise BadRequest(f'DVIDFS_DURABILITY is "{durability}": give {" or ".join(DURABILITIES)}')
        changes["durability"] = durability
    if cors := env.get("DVIDFS_CORS"):
        changes["cors"] = tuple(filter(None, (origin.strip() for origin in cors.split(","))))
    if log := env.get("DVIDFS_LOG"):
        changes["logfile"] = Path(log)
    return replace(config, **changes)
