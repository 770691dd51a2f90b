"""Indices, sizes and lists of labels over HTTP, and what clients say of index and mapping themselves.

Decides the wire; the facts are in :mod:`~dvidfs.types.labelmap.bodies` and :mod:`~dvidfs.types.labelmap.books`. Labels are listed in ascending order.
Source: reference notes "labelmap" 4.1, 4.3, 4.8 and "sparsevol" 3.6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson

from dvidfs.engine import ledger
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, NotFound
from dvidfs.kernels import digits
from dvidfs.types.base import JSON, OCTETS, PLAIN, Content
from dvidfs.types.common import rfc3339
from dvidfs.types.formats import labelindex
from dvidfs.types.formats.labelindex import LabelIndex
from dvidfs.types.labelmap import bodies, columns, index, mutate
from dvidfs.types.labelmap.books import Book, mapping, totals
from dvidfs.types.labelmap.columns import U64s, held_bytes
from dvidfs.types.labelmap.edits import parse_label
from dvidfs.types.labelmap.index import Counts
from dvidfs.types.labelmap.points import check_hash, numbers, parse_labels

MOST_INDICES = 50_000
MOST_LISTED = 10_000_000
PIECE = 1 << 17
"""Labels or entries that a list sends at a time."""
LIGHT = 1 << 20
"""Voxels of a supervoxel whose index is put together faster than it is handed to a thread."""
MANY = 1000
"""Rows of an index from which on its message is kept until the body changes."""


def _text(data: bytes, kind: str = JSON) -> Content:
    return Content(data, kind, len(data))


# ---------------------------------------------------------------- one body


def message(view: ReadView, body: int) -> LabelIndex | None:
    """The index of a body as clients know it; None if there is none."""
    rows = bodies.of_body(view, body)
    if not len(rows):
        return None
    last = bodies.last_change(view, body)
    when = rfc3339(last.time) if last.time else ""
    return LabelIndex(
        body,
        rows.codes,
        rows.supervoxels,
        rows.counts,
        _surface(bodies.members(view, body), rows),
        last.mutation,
        when,
        last.user,
        last.app,
    )


def _surface(held: bodies.Members, rows: Counts) -> U64s | int:
    """For each block the last mutation that brought a supervoxel of it to the body."""
    if not held.since.any():
        return 0
    since = held.since[np.searchsorted(held.supervoxels, rows.supervoxels)]
    starts = np.flatnonzero(np.concatenate(([True], rows.codes[1:] != rows.codes[:-1])))
    return np.maximum.reduceat(since, starts)


def get_index(view: ReadView, label: str, metadata: bool, mutid: str | None) -> Content:
    number = parse_label(label)
    mutate.protected(number, "index query parameter")
    if mutid is not None:
        return _former(view, number, parse_label(mutid, "mutid"), metadata=metadata)
    rows = bodies.need(view, number)
    if metadata:
        return _metadata(bodies.size(view, number), bodies.last_change(view, number))
    if len(rows) < MANY:
        return _text(_encoded(view, number), OCTETS)
    key = ("message", view.instance.id, view.version, number, ledger.stamp(view, Book.BODY, number), view.stamp())
    return _text(bodies.HELD.get(view, key, lambda: _encoded(view, number)), OCTETS)


def is_light(view: ReadView, label: str, mutid: str | None, **_: Any) -> bool:
    """Whether the body is one supervoxel that was never changed, and not a large one."""
    try:
        number = parse_label(label)
    except BadRequest:
        return False
    return mutid is None and bodies.size(view, number) < LIGHT and ledger.stamp(view, Book.BODY, number) is None


def _metadata(size: int, last: bodies.LastChange) -> Content:
    told = {
        "num_voxels": size,
        "last_mutid": last.mutation,
        "last_mod_time": rfc3339(last.time) if last.time else "",
        "last_mod_user": last.user,
        "last_mod_app": last.app,
    }
    return _text(orjson.dumps(told))


def _former(view: ReadView, body: int, mutation: int, *, metadata: bool) -> Content:
    """The index of a body before the latest of its mutations up to this one: the ledger still has it."""
    found = bodies.former(view, body, mutation)
    if found is None or not len(found[0]):
        raise NotFound("")
    rows, last = found
    if metadata:
        return _metadata(int(rows.counts.sum(dtype=np.uint64)), last)
    when = rfc3339(last.time) if last.time else ""
    told = LabelIndex(
        body, rows.codes, rows.supervoxels, rows.counts, last.mutation, last.mutation, when, last.user, last.app
    )
    return _text(labelindex.encode_index(told), OCTETS)


def _encoded(view: ReadView, body: int) -> bytes:
    found = message(view, body)
    assert found is not None
    return labelindex.encode_index(found)


def post_index(view: WriteView, label: str, body: Buffer) -> None:
    number = parse_label(label)
    mutate.protected(number, "index")
    if not len(body):
        raise BadRequest(
            f"an empty body is no index of label {number}: want a protobuf LabelIndex that names the label"
        )
    given = labelindex.decode_index(body)
    if given.label != number and (given.label or len(given.blocks)):
        raise BadRequest(f"serialized Index was for label {given.label} yet was POSTed to label {number}")
    mutate.set_index(view, [(number, _rows(given))])


def _rows(given: LabelIndex) -> Counts:
    rows = Counts(given.supervoxels, given.blocks, given.counts)
    if (rows.supervoxels == 0).any():
        raise BadRequest(f"the index of {given.label} counts supervoxel 0: the background is not indexed")
    return rows.take(rows.counts > 0)


def messages(view: ReadView, labels: U64s) -> Iterator[bytes | None]:
    """The indices of many bodies, encoded, in that order; those of bodies that are one supervoxel are made all at once."""
    each = np.unique(labels)
    single = each[bodies.without_rows(view, each) & (bodies.sizes(view, each) > 0)]
    rows = index.counts_of(view, single)
    cuts = np.searchsorted(rows.supervoxels, np.append(single, np.uint64(columns.ABSENT)))
    made = labelindex.encode_singles(single, np.diff(cuts), (rows.codes, rows.supervoxels, rows.counts))
    known = dict(zip(single.tolist(), made, strict=True))
    for label in labels.tolist():
        found = known.get(label)
        if found is None and (told := message(view, label)) is not None:
            found = labelindex.encode_index(told)
        yield found


def get_indices(view: ReadView, body: Buffer) -> Content:
    wanted = _few(body)
    found = zip(wanted.tolist(), messages(view, wanted), strict=True)
    told = (labelindex.encode_index(LabelIndex(label)) if one is None else one for label, one in found)
    return _text(labelindex.encode_list(told), OCTETS)


def get_indices_compressed(view: ReadView, body: Buffer) -> Content:
    wanted = _few(body)
    found = zip(wanted.tolist(), messages(view, wanted), strict=True)
    parts = [labelindex.encode_record(label, one) for label, one in found]
    return _text(b"".join(parts), OCTETS)


def _few(body: Buffer) -> U64s:
    wanted = parse_labels(body)
    if len(wanted) > MOST_INDICES:
        raise BadRequest(f"only {MOST_INDICES:,} label indices can be returned at a time, {len(wanted)} given")
    return wanted


def post_indices(view: WriteView, body: Buffer) -> None:
    given = labelindex.decode_indices(body)
    if given:
        mutate.set_index(view, [(one.label, _rows(one)) for one in given])


def get_index_version(view: ReadView, label: str) -> Content:
    """The version at which the index of a body was written."""
    number = parse_label(label)
    found = ledger.stamp(view, Book.BODY, number) or ledger.stamp(view, Book.SUPERVOXEL, number)
    if found is None:
        raise BadRequest(f"no label index was found for label {number}")
    return _text(view.graph.repos[view.node.repo].nodes[found[0]].uuid.encode(), PLAIN)


def get_lastmod(view: ReadView, label: str) -> Content:
    number = parse_label(label)
    mutate.protected(number, "lastmod query parameter")
    bodies.need(view, number)
    last = bodies.last_change(view, number)
    told = (
        f'{{"mutation id": {last.mutation}, "last mod user": {_quoted(last.user)}, '
        f'"last mod app": {_quoted(last.app)}, "last mod time": "{rfc3339(last.time) if last.time else ""}" }}'
    )
    return _text(told.encode())


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode()


def get_supervoxels(view: ReadView, label: str) -> Content:
    number = parse_label(label)
    mutate.protected(number, "supervoxels query parameter")
    return numbers(_with_voxels(view, number))


def _with_voxels(view: ReadView, body: int) -> U64s:
    """The supervoxels of a body; those of a version that lost all of their voxels left it then. Raises NotFound."""
    held = bodies.members(view, body).supervoxels if bodies.size(view, body) else ()
    if not len(held):
        raise NotFound("")
    return held  # type: ignore[return-value] # the empty tuple was refused


def get_supervoxel_sizes(view: ReadView, label: str) -> Content:
    number = parse_label(label)
    mutate.protected(number, "supervoxels query parameter")
    rows = bodies.need(view, number)
    held = np.unique(rows.supervoxels)
    sizes = index.sizes_of(rows, held)
    text = b'{\n  "supervoxels": ' + digits.json_numbers(held) + b',\n  "sizes": ' + digits.json_numbers(sizes) + b"\n}"
    return _text(text)


# ---------------------------------------------------------------- sizes


def get_size(view: ReadView, label: str, supervoxels: bool) -> Content:
    number = parse_label(label)
    mutate.protected(number, "size query parameter")
    found = _size(view, number, supervoxels=supervoxels)
    if not found:
        raise NotFound("")
    return _text(b'{"voxels": %d}' % found)


def _size(view: ReadView, label: int, *, supervoxels: bool) -> int:
    if not supervoxels:
        return bodies.size(view, label)
    bodies.need_supervoxel(view, label)
    return int(index.blocks_of(view, label)[1].sum(dtype=np.uint64))


def get_sizes(view: ReadView, body: Buffer, supervoxels: bool, hash: str) -> Content:
    check_hash(body, hash)
    wanted = parse_labels(body)
    if not supervoxels:
        return numbers(bodies.sizes(view, wanted))
    each = np.unique(wanted)
    sizes = index.sizes_of(index.counts_of(view, each), each)
    return numbers(sizes[np.searchsorted(each, wanted)])


# ---------------------------------------------------------------- all labels


def listed(view: ReadView) -> columns.Pairs:
    """All bodies and their sizes, ascending."""
    key = ("listed", view.stamp())

    def look() -> columns.Pairs:
        found = totals(view).items()
        there = found.values > 0
        return columns.Pairs(found.keys[there], found.values[there])

    return bodies.HELD.get(view, key, look)


def get_existing_labels(view: ReadView) -> Content:
    return numbers(listed(view).keys)


def get_listlabels(view: ReadView, start: int, number: int, sizes: bool) -> Content:
    """Labels from ``start`` on as uint64, or pairs of label and size."""
    if number > MOST_LISTED:
        raise BadRequest(f"only {MOST_LISTED:,} labels can be listed at a time, {number} asked for")
    found = listed(view)
    first = int(np.searchsorted(found.keys, np.uint64(start)))
    stop = min(len(found), first + (number or MOST_LISTED))
    each = 16 if sizes else 8

    def pieces() -> Iterator[Buffer]:
        for at in range(first, stop, PIECE):
            to = min(stop, at + PIECE)
            if not sizes:
                yield found.keys[at:to].astype("<u8", copy=False).data.cast("B")
            else:
                yield np.stack((found.keys[at:to], found.values[at:to]), axis=1).astype("<u8").tobytes()

    return Content(pieces(), OCTETS, each * max(0, stop - first))


# ---------------------------------------------------------------- mappings


def get_mappings(view: ReadView, binary: bool) -> Content:
    """All supervoxels that are mapped to another number: lines of text, or pairs of uint64."""
    found = mapping(view).items()
    other = found.keys != found.values
    keys, values = found.keys[other], found.values[other]

    def pieces() -> Iterator[Buffer]:
        for at in range(0, len(keys), PIECE):
            part = keys[at : at + PIECE], values[at : at + PIECE]
            yield np.stack(part, axis=1).astype("<u8").tobytes() if binary else digits.mapping_lines(*part)

    return Content(pieces(), OCTETS if binary else PLAIN)


def prepare_mappings(view: ReadView, body: Buffer) -> Mapping[str, Any]:
    supervoxels, targets, _ = labelindex.decode_mappings(body)
    return {"supervoxels": supervoxels, "targets": targets}


def post_mappings(view: WriteView, supervoxels: U64s, targets: U64s) -> None:
    mutate.set_mappings(view, supervoxels, targets)


def get_map_stats(view: ReadView) -> dict[str, Any]:
    """Of every labelmap of the repo at this version: how many entries its mapping has, and the memory that it takes."""
    out = {}
    for name, instance in sorted(view.graph.repos[view.node.repo].instances.items()):
        if instance.type == view.instance.type:
            column = mapping(ReadView(view.txn, view.node, instance))
            nodes = [n for n in view.graph.repos[view.node.repo].nodes if view.lineage.sees(n)]
            out[name] = {
                "MapEntries": len(column),
                "MapSize": f"{column.nbytes} bytes",
                "NumVersions": len(nodes),
                "MaxVersion": max(nodes),
                "HeldBytes": held_bytes(view.txn.store),
            }
    return out
