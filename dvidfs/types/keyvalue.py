"""``keyvalue``: opaque values under text keys, versioned key by key; in the mount one file per key.

Behaviour and byte formats: reference DVID inventory 2.1. Keys are bytes (1 to 1,024 of them), ordered bytewise; what a
URL or JSON cannot spell as UTF-8 is written with surrogate escapes inside Python. A batch is one transaction.
"""

from __future__ import annotations

import re
import tarfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import orjson

from dvidfs.engine import journal, keys
from dvidfs.engine.keys import Kind
from dvidfs.engine.store import Buffer
from dvidfs.engine.values import Entry, Prepared, Upload, Uploaded, prepare
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, Conflict, NotFound
from dvidfs.types.base import JSON, OCTETS, TAR, TEXT, Body, Content, DataType, Endpoint, Keys, Param, flag
from dvidfs.types.common import TAG_ENDPOINTS
from dvidfs.types.formats import protobuf
from dvidfs.types.formats.protobuf import KeyRange

RANGES = {"Accept-Ranges": "bytes"}
PIECES = int(Kind.PIECES)
BATCH = 1024
"""Keys whose values are read and sent at a time."""
Batch = list[tuple[bytes, Buffer]]
_PLAIN = re.compile(rb'[^\x20-\x7e]|["\\]')


def key_bytes(text: str) -> bytes:
    """A key from a URL; undecodable bytes are kept."""
    return keys.check_key(text.encode(errors="surrogateescape"))


def _name(key: bytes) -> str:
    return key.decode(errors="replace")


def json_string(key: bytes) -> bytes:
    return b'"' + key + b'"' if not _PLAIN.search(key) else orjson.dumps(_name(key))


def json_list(found: Sequence[bytes]) -> bytes:
    """A JSON array of keys."""
    joined = b'","'.join(found)
    if found and not _PLAIN.search(joined.replace(b'","', b"")) and joined.count(b'","') == len(found) - 1:
        return b'["' + joined + b'"]'
    return b"[" + b",".join(map(json_string, found)) + b"]"


# -- one key -----------------------------------------------------------------------------------------------------


def _entry(view: ReadView, key: bytes) -> Entry:
    entry = view.text_entry(key)
    if entry is None:
        raise NotFound(f'Key "{_name(key)}" not found')
    return entry


def get_key(view: ReadView, key: str, byte_start: str | None = None, byte_end: str | None = None) -> Content:
    """The value of a key, or the bytes ``byte_start`` to ``byte_end`` (inclusive) of it."""
    entry = _entry(view, key_bytes(key))
    if byte_start is not None or byte_end is not None:
        start, stop = byte_span(key, entry.size, byte_start, byte_end)
        return Content(view.stream(entry, start, stop), OCTETS, stop - start, headers=RANGES, tag=_tag(entry))
    body = view.load(entry) if entry.kind != PIECES else view.stream(entry)
    return Content(body, OCTETS, entry.size, partial(view.stream, entry), 200, RANGES, _tag(entry))


def _tag(entry: Entry) -> str:
    return f"{entry.version}-{entry.mtime}-{entry.ref}"


def byte_span(key: str, size: int, byte_start: str | None, byte_end: str | None) -> tuple[int, int]:
    """Start and stop of a strict byte range.

    Raises:
        BadRequest: one end is missing, no number, or outside the value.
    """
    if byte_start is None or byte_end is None:
        raise BadRequest(f'range read for key "{key}" requires both byte_start and byte_end')
    ends = []
    for name, text in (("byte_start", byte_start), ("byte_end", byte_end)):
        if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) >= 1 << 64:
            raise BadRequest(f'{name} must be an unsigned integer, got "{text}"')
        ends.append(int(text))
    return check_span(key, size, *ends)


def check_span(key: str, size: int, start: int, end: int) -> tuple[int, int]:
    if start > end:
        raise BadRequest(f'byte_start {start} must be <= byte_end {end} for key "{key}"')
    for name, at in (("byte_start", start), ("byte_end", end)):
        if at >= size:
            raise BadRequest(f'{name} {at} is outside value for key "{key}" with {size} bytes')
    return start, end + 1


def head_key(view: ReadView, key: str) -> Content:
    entry = _entry(view, key_bytes(key))
    return Content(b"", "", entry.size, headers=RANGES, tag=_tag(entry))


def post_key(view: WriteView, key: str, body: Prepared | Uploaded) -> None:
    put_file(view, key_bytes(key), body)


def put_file(view: WriteView, key: bytes, value: Prepared | Uploaded) -> None:
    view.put_text(key, value)
    journal.record(view, "postkv", Key=_name(key), Bytes=value.size)


def delete_key(view: WriteView, key: str) -> None:
    delete_file(view, key_bytes(key))


def delete_file(view: WriteView, key: bytes) -> None:
    view.delete_text(key)
    journal.record(view, "delete", Key=_name(key))


def rename_file(view: WriteView, old: bytes, new: bytes) -> None:
    view.rename_text(old, new)
    journal.record(view, "renamekv", Key=_name(old), NewKey=_name(new))


# -- keys --------------------------------------------------------------------------------------------------------


def get_keys(view: ReadView) -> Content:
    listing = view.txn.store.listings.of(view)
    return Content(listing.derive("json", lambda: json_list(listing.keys)), JSON)


def _ends(first: str, last: str) -> tuple[bytes, bytes]:
    return first.encode(errors="surrogateescape"), last.encode(errors="surrogateescape")


def get_keyrange(view: ReadView, first: str, last: str) -> Content:
    low, high = _ends(first, last)
    listing = view.txn.store.listings.known(view)
    if low > high:
        found: Sequence[bytes] = []
    elif listing is not None:
        found = listing.keys[bisect_left(listing.keys, low) : bisect_right(listing.keys, high)]
    else:
        found = view.text_keys(low, high)
    return Content(json_list(found), JSON)


# -- values of many keys -----------------------------------------------------------------------------------------


def get_keyrangevalues(
    view: ReadView, first: str, last: str, as_json: bool, tar: bool, jsontar: bool, check: bool
) -> Content:
    """Keys with their values, first <= key <= last; keys with an empty value are left out."""
    low, high = _ends(first, last)
    names = view.text_keys(low, high) if low <= high else []
    return _answer(_range_values(view, names), as_json, tar or jsontar, check)


def _range_values(view: ReadView, names: Sequence[bytes]) -> Iterator[Batch]:
    """All keys of a range with their values, some at a time; those with an empty value are left out."""
    for at in range(0, len(names), BATCH):
        some = names[at : at + BATCH]
        # no key is kept by a hash, so that the index has them in this order; none is in conflict
        if not view.lineage.merges and max(map(len, some)) < keys.PREFIX // 2:
            span = keys.encode_text(some[0]), keys.encode_text(some[-1]) + b"\xff" * (keys.SUFFIX + 1)
            found = [value for _, value in view.load_spans(keys.Family.TEXT, [span])]
        else:
            found = view.load_keys(keys.Family.TEXT, [keys.encode_text(key) for key in some])
        yield [(key, value) for key, value in zip(some, found, strict=True) if value]


def _values(view: ReadView, names: Sequence[bytes]) -> Iterator[Batch]:
    """Keys with their values, some at a time; a key without a value has an empty one."""
    for at in range(0, len(names), BATCH):
        some = names[at : at + BATCH]
        found = view.load_keys(keys.Family.TEXT, [keys.encode_text(key) for key in some])
        yield [(key, value or b"") for key, value in zip(some, found, strict=True)]


def _answer(batches: Iterable[Batch], as_json: bool, tar: bool, check: bool) -> Content:
    if as_json and tar:
        raise BadRequest("can only specify tar or json output, not both")
    if as_json:
        return Content(_json_pieces(batches, check), JSON)
    if tar:
        return Content(_tar_pieces(batches), TAR)
    return Content(map(_protobuf_piece, batches), OCTETS)


def _json_pieces(batches: Iterable[Batch], check: bool) -> Iterator[Buffer]:
    """A JSON object with the values as they are stored; with ``check`` only those that are JSON."""
    opening = b"{"
    for batch in batches:
        parts: list[Buffer] = []
        for key, value in batch:
            if check and value and not is_json(value):
                raise BadRequest(f'value of key "{_name(key)}" is not JSON: ask without json=true')
            parts += (opening, json_string(key), b":", value or b"{}")
            opening = b","
        yield b"".join(parts)
    yield b"{}" if opening == b"{" else b"}"


def is_json(value: Buffer) -> bool:
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return True


def _tar_pieces(batches: Iterable[Batch]) -> Iterator[Buffer]:
    for batch in batches:
        parts: list[Buffer] = []
        for key, value in batch:
            info = tarfile.TarInfo(key.decode(errors="surrogateescape"))
            info.size, info.mode = len(value), 0o755
            parts += (info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"), value, bytes(-len(value) % 512))
        yield b"".join(parts)
    yield bytes(1024)


def _protobuf_piece(batch: Batch) -> bytes:
    parts: list[Buffer] = []
    frame = protobuf.keyvalue_frame
    for key, value in batch:
        before, between = frame(len(key), len(value))
        parts += (before, key, between, value)
    return b"".join(parts)


def get_keyvalues(view: ReadView, body: Buffer, as_json: bool, tar: bool, jsontar: bool, check: bool) -> Content:
    """The values of the keys that the body names, in its order; a missing key has an empty value."""
    if as_json and (tar or jsontar):
        raise BadRequest("can only specify tar or json output, not both")
    wanted = _wanted_json(body) if as_json or tar or jsontar else protobuf.read_keys(body)
    if any(isinstance(want, KeyRange) or not 0 < len(want) <= keys.MAX_KEY for want in wanted):
        batches: Iterable[Batch] = [[_wanted(view, want, as_json) for want in wanted]]
    else:
        batches = _values(view, [want for want in wanted if isinstance(want, bytes)])
    return _answer(batches, as_json, tar or jsontar, check)


def _wanted_json(body: Buffer) -> list[bytes | KeyRange]:
    try:
        wanted = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise BadRequest(f"the list of keys is not JSON: {e}") from None
    if wanted is None:
        return []
    if not isinstance(wanted, list):
        raise BadRequest('the body must be a JSON list of keys, such as ["a", "b"]')
    return [_wanted_item(item) for item in wanted]


def _wanted_item(item: Any) -> bytes | KeyRange:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, Mapping):
        key, start, end = item.get("key"), item.get("byte_start"), item.get("byte_end")
        if isinstance(key, str) and start is None and end is None:
            return key.encode()
        if isinstance(key, str) and isinstance(start, int) and isinstance(end, int) and start >= 0 and end >= 0:
            return KeyRange(key.encode(), start, end)
    raise BadRequest(f'{orjson.dumps(item).decode()[:80]} is neither a key nor {{"key", "byte_start", "byte_end"}}')


def _wanted(view: ReadView, want: bytes | KeyRange, as_json: bool) -> tuple[bytes, Buffer]:
    if isinstance(want, bytes):
        entry = view.text_entry(want) if 0 < len(want) <= keys.MAX_KEY else None
        return want, b"" if entry is None else view.load(entry)
    entry = view.text_entry(keys.check_key(want.key))
    if entry is None:
        return want.key, b""
    start, stop = check_span(_name(want.key), entry.size, want.start, want.end)
    value = b"".join(view.stream(entry, start, stop))
    if as_json and not is_json(value):
        raise BadRequest(f'bad JSON for key "{_name(want.key)}" after byte range')
    return want.key, value


def prepare_keyvalues(view: ReadView, body: Buffer) -> dict[str, Any]:
    """Parse and compress a batch before it enters the write lane."""
    pairs = protobuf.read_keyvalues(body)
    shrinks = _worth_compressing(pairs)
    for key, _ in pairs:
        keys.check_key(key)
    return {"pairs": [(key, _prepared(view, value, shrinks)) for key, value in pairs]}


def _prepared(view: ReadView, value: Buffer, shrinks: bool) -> Prepared | Uploaded:
    if len(value) > keys.PIECE:
        upload = Upload(view.txn.store, view.instance.id)
        for at in range(0, len(value), keys.PIECE):
            upload.feed(value[at : at + keys.PIECE])
        return upload.finish()
    return prepare(value) if shrinks else Prepared(value, len(value))


def _worth_compressing(pairs: Sequence[tuple[bytes, Buffer]]) -> bool:
    """Whether a few of the values get smaller: values of a batch are mostly alike."""
    sample = pairs[:: max(1, len(pairs) // 4)][:4]
    return len(pairs) < 8 or any(prepare(value).codec for _, value in sample)


def post_keyvalues(view: WriteView, pairs: Sequence[tuple[bytes, Prepared | Uploaded]]) -> None:
    """Store all pairs, or none; of equal keys the last one counts."""
    last = dict(pairs)
    items = sorted((keys.encode_text(key), value, key) for key, value in last.items() if isinstance(value, Prepared))
    for key, value in last.items():
        if isinstance(value, Uploaded):
            view.put_text(key, value)
    view.put_many(keys.Family.TEXT, [(enc, value, key if keys.is_long(enc) else b"") for enc, value, key in items])
    journal.record(view, "postkv", Pairs=[(_name(key), value.size) for key, value in last.items()])


# -- the log -----------------------------------------------------------------------------------------------------


def _mutations(view: ReadView, who: bool) -> Iterator[dict[str, Any]]:
    for record in journal.records(view):
        if not who:
            record.pop("User", None)
            record.pop("App", None)
        pairs = record.pop("Pairs", None)
        if pairs is None:
            yield record
        for key, size in pairs or ():
            yield {"Action": record["Action"], "Key": key, "Bytes": size, **record}


def get_mutations(view: ReadView, who: bool) -> Content:
    return Content(orjson.dumps(list(_mutations(view, who))), TEXT)


def get_mutations_range(view: ReadView, begin: str, end: str, who: bool, rangefmt: str) -> Content:
    """Mutations of the versions from ``end`` up to ``begin``, the newest version first."""
    if rangefmt.lower() not in ("uuid", "uuids"):
        raise BadRequest(f'option rangefmt: "{rangefmt}" is not known, give uuid')
    first, last = view.graph.version(begin), view.graph.version(end)
    out: list[dict[str, Any]] = []
    for node in journal.line(view.txn, first, last):
        out.extend(_mutations(ReadView(view.txn, node, view.instance), who))
    return Content(orjson.dumps(out), TEXT)


# -- the description ---------------------------------------------------------------------------------------------

FORMATS = (
    Param("as_json", lambda t: t == "true", False, "true: a JSON object", alias="json"),
    Param("tar", lambda t: t == "true", False, "true: a tar archive"),
    Param("jsontar", lambda t: t == "true", False, "the same as tar"),
    Param("check", lambda t: t == "true", False, "true: refuse values that are no JSON"),
)
WHO = Param("who", flag, False, "true: also the user and program of each change")
THROTTLE = Param("throttle", flag, False, "true: refuse (503) if too many such calls run")


def check_values(view: ReadView) -> Iterator[str]:
    """Values of this version that cannot be read, for ``dvidfs check``."""

    def told(conflict: Conflict) -> None:
        return None

    for found in view.scan(keys.Family.TEXT, on_conflict=told):
        try:
            size = sum(len(piece) for piece in view.stream(found.entry))
        except Exception as e:  # noqa: BLE001 - any failure to read is what is looked for
            yield f'key "{_name(found.key)}": {e}'
            continue
        if size != found.entry.size:
            yield f'key "{_name(found.key)}" has {size} bytes, its entry says {found.entry.size}'


KEYVALUE = DataType(
    name="keyvalue",
    url="github.com/janelia-flyem/dvid/datatype/keyvalue",
    version="0.2",
    summary="Opaque values under text keys, versioned key by key.",
    endpoints=(
        Endpoint("HEAD", "key/{key}", head_key, "Whether a key has a value.", type="", inline=True, example="key/a"),
        Endpoint(
            "GET",
            "key/{key}",
            get_key,
            "The value of a key, or a range of its bytes.",
            type=OCTETS,
            query=(
                Param("byte_start", help="first byte wanted; needs byte_end"),
                Param("byte_end", help="last byte wanted, inclusive"),
            ),
            inline=True,
            detail="Also answers a Range header with one range: bytes=a-b, a-, -n.",
            example="key/a",
        ),
        Endpoint("POST", "key/{key}", post_key, "Store a value.", body=Body.VALUE, inline=True, example="key/a"),
        Endpoint("DELETE", "key/{key}", delete_key, "Delete a key from this version on.", inline=True, example="key/a"),
        Endpoint("*", "keys", get_keys, "All keys of this version, in byte order.", example="keys"),
        Endpoint(
            "*", "keyrange/{first}/{last}", get_keyrange, "Keys between two, both included.", example="keyrange/a/b"
        ),
        Endpoint(
            "*",
            "keyrangevalues/{first}/{last}",
            get_keyrangevalues,
            "Keys between two (both included) with their values, as protobuf, JSON or tar.",
            query=FORMATS,
            type=OCTETS,
            example="keyrangevalues/a/b?json=true",
        ),
        Endpoint(
            "GET",
            "keyvalues",
            get_keyvalues,
            "The values of the keys in the body, as protobuf, JSON or tar.",
            body=Body.BYTES,
            query=FORMATS,
            type=OCTETS,
            detail="The body is a protobuf Keys message, or for json and tar a JSON list of keys or of "
            '{"key", "byte_start", "byte_end"}.',
            example="keyvalues?json=true",
        ),
        Endpoint(
            "POST",
            "keyvalues",
            post_keyvalues,
            "Store many values in one transaction.",
            body=Body.BYTES,
            prepare=prepare_keyvalues,
            detail="The body is a protobuf KeyValues message.",
            example="keyvalues",
        ),
        Endpoint(
            "GET",
            "mutations",
            get_mutations,
            "The log of changes at this version.",
            query=(THROTTLE, WHO),
            type=TEXT,
            throttled=True,
            example="mutations",
        ),
        Endpoint(
            "GET",
            "mutations-range/{begin}/{end}",
            get_mutations_range,
            "The logs of the versions from end up to begin, the newest version first.",
            query=(THROTTLE, WHO, Param("rangefmt", default="uuid", help="only uuid is understood")),
            type=TEXT,
            throttled=True,
            example="mutations-range/abc/def",
        ),
        *TAG_ENDPOINTS,
    ),
    tree=Keys(put_file, delete_file, rename_file),
    verify=check_values,
)
