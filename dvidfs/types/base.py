"""How a datatype is described: plain functions over a view, and tables of how the world reaches them.

``Endpoint`` rows say which HTTP request runs an operation, tree entries which file shows it. An ordinary case is a row;
a rare one is a function that returns a :class:`Content`. Whether an operation reads or writes is told by the type
of its first parameter (``ReadView`` or ``WriteView``), so it cannot be declared wrongly. Adapters read these tables;
nothing here runs anything.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from dvidfs.engine.engine import Engine
from dvidfs.engine.graph import Instance
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, NotFound

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dvidfs.engine.check import Told
    from dvidfs.types.geometry import Box
    from dvidfs.types.pyramids.pyramid import Pyramid
    from dvidfs.types.volumes.source import Source

OCTETS = "application/octet-stream"
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
PLAIN = "text/plain"
TAR = "application/tar"


# -- answers -----------------------------------------------------------------------------------------------------


class _NoHeaders(dict[str, str]):
    def __hash__(self) -> int:  # type: ignore[override] # a default value of a dataclass must look immutable
        return id(self)


NO_HEADERS: Mapping[str, str] = _NoHeaders()


@dataclass(slots=True)  # not frozen: that would treble the cost of making one
class Content:
    """An answer's body. ``body`` is whole, or pieces pulled one by one from the snapshot that made them.

    ``size``: bytes of the body where known before it is made. ``window(start, stop)``: pieces of a part of it; with
    it the answer serves byte ranges. ``tag``: what changes exactly when this answer does, if that is known better
    than by the instance's counter of changes.
    """

    body: Buffer | Iterable[Buffer] = b""
    type: str = OCTETS
    size: int | None = None
    window: Callable[[int, int], Iterator[Buffer]] | None = None
    status: int = 200
    headers: Mapping[str, str] = NO_HEADERS
    tag: str = ""


class Body(Enum):
    """What an operation takes of a request's body, as its parameter ``body``."""

    NONE = "none"
    BYTES = "bytes"
    """The whole body as one buffer; long ones lie in a temporary file, not in memory."""
    JSON = "json"
    """Parsed JSON; what is no JSON is refused before the operation runs. An empty body is ``None``."""
    VALUE = "value"
    """A value ready to be stored (``Prepared`` or ``Uploaded``): compressed, long ones in pieces already."""


# -- requests ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Param:
    """A query option: how it is read, what it means. ``default`` is passed when it is absent."""

    name: str
    parse: Callable[[str], Any] = str
    default: Any = None
    help: str = ""
    alias: str = ""


def flag(text: str) -> bool:
    """A switch in a query: on, true or 1."""
    return text.lower() in ("true", "on", "1")


def whole(text: str) -> int:
    """A whole number in a query."""
    try:
        return int(text)
    except ValueError:
        raise BadRequest(f'"{text[:40]}" is not a whole number') from None


@dataclass(frozen=True)
class Endpoint:
    """One HTTP request and the operation that it runs.

    ``path``: the keyword, then positional parts in braces, which are passed by name as text; further parts of a URL
    are ignored, missing ones are an error; a last part ``{path*}`` takes all that is left, as a tuple. ``run(view, **parts, **query, body=...)`` returns JSON-able data, a ``Content``, or None for an
    empty answer. ``prepare(view, ...)`` takes the same and returns what ``run`` gets instead; it runs before the write
    lane, for work that needs no transaction. ``inline``: so short that it runs on the event loop, and in the fast
    lane. ``light(view, **parts, **query)``: whether a request of a row that is not inline is as short as that.
    ``lockable`` False: allowed on committed versions though it is a POST. ``admin``: for administrators only. ``option``: the
    option of the server without which it is refused. ``cached`` False: the answer
    depends on more than this instance, so it gets no ETag; so does one to which a query option of ``uncached`` is given. ``args``: parsers of path parts.
    """

    method: str
    path: str
    run: Callable[..., Any]
    summary: str
    body: Body = Body.NONE
    query: tuple[Param, ...] = ()
    args: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    type: str = JSON
    prepare: Callable[..., Mapping[str, Any]] | None = None
    inline: bool = False
    light: Callable[..., bool] | None = None
    lockable: bool = True
    throttled: bool = False
    admin: bool = False
    option: str = ""
    cached: bool = True
    uncached: tuple[str, ...] = ()
    example: str = ""
    detail: str = ""

    @cached_property
    def keyword(self) -> str:
        return self.path.split("/")[0]

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Names of the positional parts; a trailing ``?`` marks one that may be missing, ``*`` one that takes the rest."""
        return tuple(p[1:-1] for p in self.path.split("/")[1:] if p.startswith("{"))

    @cached_property
    def writes(self) -> bool:
        """Whether the operation needs a write transaction."""
        first = next(iter(inspect.signature(self.run).parameters.values()))
        return str(first.annotation).startswith("Write")

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """Query options when none is given."""
        return {p.name: p.default for p in self.query if p.name != "throttle"}


# -- files -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """A file made on request: its exact size, and any window of it. ``parts`` are those of the ``Each`` above it.

    ``read(view, *parts, offset, length)`` gives exactly that window (short only at the end of the file).
    ``write(view, *parts, windows)`` changes windows (offset, data) in place as one mutation, later ones lie over earlier ones; absent
    where the file is read-only, as it also is in instances that are not ``writable(view)``. ``layout(view, *parts)``: what
    tells where in the file a thing stands; windows that were written under another one than there is now are refused.
    ``mtime(view, *parts)`` in ns; absent: the instance's last change. ``shown(view, *parts)``: whether it is there; the
    parts are those of the patterns above. ``listed`` False: can be named, is not listed. ``ready(view, *parts, offset, length)``: the
    window is in memory, so that ``read`` does not keep anybody waiting; absent: it always is.
    """

    size: Callable[..., int]
    read: Callable[..., Buffer]
    write: Callable[..., None] | None = None
    mtime: Callable[..., int] | None = None
    shown: Callable[..., bool] | None = None
    ready: Callable[..., bool] | None = None
    listed: bool = True
    writable: Callable[[ReadView], bool] = lambda view: True
    layout: Callable[..., Hashable] | None = None


Windows = Sequence[tuple[int, Buffer]]
"""What is written into a file: where, and the bytes."""


@dataclass(frozen=True)
class Made:
    """A file whose size is not known before all of it is made. ``parts`` are those of the ``Each`` above it.

    ``make(view, *parts)`` gives it whole or in pieces; it may take long and runs in a thread. ``tag(view, *parts)``: what changes exactly when
    the file does, found quickly; what was made is kept until then. Absent: ``view.stamp()``, which every change of the instance moves.
    ``costly(view, *parts)``: it is made only when it is opened, and its size is told as 0 until then; absent: it is made as
    soon as its size is asked for, as by a listing with sizes. ``mtime``, ``shown``, ``listed`` as of a file.
    """

    make: Callable[..., Buffer | Iterable[Buffer]]
    tag: Callable[..., Hashable] | None = None
    costly: Callable[..., bool] | None = None
    mtime: Callable[..., int] | None = None
    shown: Callable[..., bool] | None = None
    listed: bool = True

    def pieces(self, view: ReadView, parts: tuple[Any, ...]) -> Iterable[Buffer]:
        """All of it, made now."""
        made: Any = self.make(view, *parts)
        return (made,) if isinstance(made, Buffer) else made


@dataclass(frozen=True)
class Keys:
    """One file per text key, byte for byte its value; sizes and times come from the index.

    ``put(view, key, value)``, ``delete(view, key)``, ``rename(view, old, new)`` over a ``WriteView`` with keys as bytes.
    """

    put: Callable[..., None]
    delete: Callable[..., None]
    rename: Callable[..., None]


@dataclass(frozen=True)
class Each:
    """Entries that share a pattern. ``parse(name)`` gives the part that a name stands for, or None if it is none.

    ``names(view)`` lists them in order, without one of another entry here; where there may be very many, as a sequence that makes each name when it is asked for
    (:class:`Numbered`). ``has(view, *parts)`` tells without listing, also of what ``names`` leaves out. ``listed`` False: can be
    named, is not listed.
    """

    parse: Callable[[str], Any]
    names: Callable[..., Iterable[str]]
    has: Callable[..., bool]
    entry: File | Made | Directory
    listed: bool = True


class Numbered(Sequence[str]):
    """Names that are numbers with a suffix, each made when it is asked for. ``numbers``: (n), integers, in order."""

    __slots__ = ("_numbers", "_suffix")

    def __init__(self, numbers: NDArray[np.integer], suffix: str = "") -> None:
        self._numbers = numbers
        self._suffix = suffix

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        found, suffix = self._numbers[at].tolist(), self._suffix
        return [f"{n}{suffix}" for n in found] if isinstance(at, slice) else f"{found}{suffix}"

    def __iter__(self) -> Iterator[str]:
        for low in range(0, len(self), 4096):
            yield from self[low : low + 4096]


@dataclass(frozen=True)
class Directory:
    """Fixed entries by name, then patterns. ``mtime`` (found quickly), ``shown``, ``listed`` as of a file."""

    entries: Mapping[str, File | Made | Directory] = field(default_factory=dict)
    each: tuple[Each, ...] = ()
    mtime: Callable[..., int] | None = None
    shown: Callable[..., bool] | None = None
    listed: bool = True


def is_shown(entry: File | Made | Directory, view: ReadView, parts: tuple[Any, ...]) -> bool:
    """Whether an entry is there at this version; ``parts`` are those of the patterns above it."""
    return entry.shown is None or entry.shown(view, *parts)


def find_entry(
    folder: Directory, view: ReadView, parts: tuple[Any, ...], name: str
) -> tuple[File | Made | Directory, tuple[Any, ...]] | None:
    """The entry of that name and its parts, or None."""
    entry = folder.entries.get(name)
    if entry is not None:
        return (entry, parts) if is_shown(entry, view, parts) else None
    for each in folder.each:
        part = each.parse(name)
        if part is not None and is_shown(each.entry, view, parts) and each.has(view, *parts, part):
            return each.entry, (*parts, part)
    return None


def find_file(folder: Directory, view: ReadView, path: Sequence[str]) -> tuple[File, tuple[Any, ...]]:
    """The file at a path below a folder, and its parts. One whose size is not known before is made here.

    Raises:
        NotFound: there is none, or it is a folder.
    """
    entry: File | Made | Directory = folder
    parts: tuple[Any, ...] = ()
    for name in path:
        found = find_entry(entry, view, parts, name) if isinstance(entry, Directory) else None
        if found is None:
            raise NotFound(f"there is no file {'/'.join(path)} here")
        entry, parts = found
    if isinstance(entry, Directory):
        raise NotFound(f"{'/'.join(path) or 'this'} is a folder: name a file in it")
    return (_finished(b"".join(entry.pieces(view, parts))) if isinstance(entry, Made) else entry), parts


def _finished(data: bytes) -> File:
    """A file that holds just this."""

    def read(_view: ReadView, *given: Any) -> Buffer:
        *_, offset, length = given
        return data[offset : offset + length]

    return File(lambda _view, *_parts: len(data), read)


# -- datatypes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One option at creation of an instance, a string on the wire whatever it means.

    ``guarded(text)``: a text that only an administrator may give over HTTP.
    """

    name: str
    parse: Callable[[str], Any]
    default: Any
    help: str
    guarded: Callable[[str], bool] = lambda text: False


@dataclass(frozen=True)
class Repair:
    """How an instance whose facts contradict each other is brought into agreement again, by ``dvidfs check --repair``.

    ``sides``: which fact can be taken as right, and what then follows from it. ``prepare(view, side)`` works out what has to
    change, in a snapshot, and tells how far it is until it returns that; ``run(view, prepared)`` changes it, and gives what was
    changed: counts by name, all 0 if there was nothing to change.
    """

    sides: Mapping[str, str]
    prepare: Callable[[ReadView, str], Generator[Told, None, Any]]
    run: Callable[[WriteView, Any], Mapping[str, int]]


@dataclass(frozen=True)
class DataType:
    """A datatype: its name on the wire, what it can be told at creation, its operations and its files.

    ``extended(instance, view)`` is the ``Extended`` part of ``info``, ``extents(view)`` the ``Extents`` part where the
    type has one; ``view`` is at the version asked for, None where there is none. ``complete(settings, given)``: settings with
    what must be looked up elsewhere, perhaps over a network. ``implied_compression(settings)``: the one that these settings
    leave no choice of. ``refused_compressions``: those that would damage its values. ``accepts_sync(typename)``: which
    instances it may follow. ``warm()`` loads what the first request would have to wait for (compiled kernels).
    ``verify(view)``: what is wrong at a version, ``repair`` what can be done about it.
    ``jobs``: the steps of its background jobs, by kind (:mod:`dvidfs.engine.jobs`). ``merged(child, parents, keys)``: settles below a
    merge of versions what the type keeps in the ledger, ``keys`` being those whose values were settled; the conflicts by name.
    ``volumes``: its voxels, the volume itself first, further views of it by their name. ``intake(view, box, voxels)``: checks and
    encodes voxels (z, y, x) that come in outside the write lane; what it returns stores them. ``pyramid``: how its scales come about.
    """

    name: str
    url: str
    version: str
    summary: str
    endpoints: tuple[Endpoint, ...]
    tree: Keys | Directory
    settings: tuple[Setting, ...] = ()
    compression: str = "lz4"
    extended: Callable[[Instance, ReadView | None], Mapping[str, Any]] = lambda instance, view: {}
    extents: Callable[[ReadView], Mapping[str, Any]] | None = None
    accepts_sync: Callable[[str], bool] | None = None
    info_method: str = "*"
    check: Callable[[Mapping[str, Any]], None] | None = None
    complete: Callable[[dict[str, Any], Mapping[str, str]], dict[str, Any]] | None = None
    refused_compressions: frozenset[str] = frozenset()
    implied_compression: Callable[[Mapping[str, Any]], str | None] = lambda settings: None
    verify: Callable[[ReadView], Iterator[Told]] | None = None
    repair: Repair | None = None
    warm: Callable[[], object] | None = None
    jobs: Mapping[str, Callable[[Engine, dict[str, Any]], dict[str, Any] | None]] = field(default_factory=dict)
    merged: Callable[[WriteView, Sequence[ReadView], Sequence[bytes]], Iterable[str]] | None = None
    volumes: tuple[Source, ...] = ()
    intake: Callable[[ReadView, Box, NDArray], Callable[[WriteView], None]] | None = None
    pyramid: Pyramid | None = None

    @cached_property
    def table(self) -> dict[tuple[str, str], Endpoint]:
        """(method, keyword) -> row."""
        return {(e.method, e.keyword): e for e in self.endpoints}

    @cached_property
    def keywords(self) -> frozenset[str]:
        return frozenset(e.keyword for e in self.endpoints)

    def configure(self, given: Mapping[str, str]) -> dict[str, Any]:
        """The type's settings from what a client gave (keys in lower case); unknown ones are left alone.

        May have to ask a distant server: never call it in the write lane.
        """
        out = {}
        for setting in self.settings:
            text = given.get(setting.name.lower())
            out[setting.name] = setting.default if text is None else setting.parse(text)
        if self.check is not None:
            self.check(out)
        return out if self.complete is None else self.complete(out, given)


class Registry:
    """The datatypes that a server knows, by name."""

    def __init__(self, types: Iterable[DataType]) -> None:
        self._types = {t.name: t for t in types}

    def __iter__(self) -> Iterator[DataType]:
        return iter(self._types.values())

    def get(self, name: str) -> DataType | None:
        return self._types.get(name)

    def __getitem__(self, name: str) -> DataType:
        """Raises: BadRequest for a type that this server does not know."""
        found = self._types.get(name)
        if found is None:
            raise BadRequest(f'unknown datatype "{name}": this server has {", ".join(sorted(self._types))}')
        return found
