"""Reading and writing one data instance at one version.

A :class:`ReadView` resolves each key through the version's ancestors, a :class:`WriteView` writes entries and
tombstones of that version only. Rule for a key with several entries: an entry whose version is an ancestor of another
entry's does not count; if a value remains, tombstones do not count; one left, or equal bytes, is the answer; else the
versions conflict. Lists leave conflicted keys out, point reads raise :class:`~dvidfs.errors.Conflict`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, islice
from operator import ne
from typing import Any

from dvidfs.engine import keys, values
from dvidfs.engine.graph import Graph, Instance, Lineage, Node
from dvidfs.engine.keys import SUFFIX, TOMB, VALUE, Codec, Family, Kind, Table
from dvidfs.engine.store import Buffer, ReadTxn, WriteTxn
from dvidfs.engine.values import Entry, Prepared, Staged, Uploaded
from dvidfs.errors import Conflict, Locked

_INDEX, _TEXT = Table.INDEX, Family.TEXT  # a member of an Enum is slow to look up
BATCH = 8192
HEAD = keys.HEAD.size
_WALKED = 4096
"""Values up to this size are copied rather than searched one by one."""


@dataclass(frozen=True, slots=True)
class Found:
    """One step of a scan: the encoded key and its entry."""

    enc: bytes
    entry: Entry

    @property
    def key(self) -> bytes:
        """The text key."""
        return self.entry.key or keys.decode_text(self.enc)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who writes, for the mutation log. ``privileged``: may write to committed versions."""

    user: str = ""
    app: str = ""
    privileged: bool = False


NOBODY = Caller()


class ReadView:
    """One instance at one version, in one snapshot."""

    __slots__ = ("heads", "instance", "lineage", "node", "txn", "version")

    def __init__(self, txn: ReadTxn, node: Node, instance: Instance) -> None:
        self.txn = txn
        self.node = node
        self.instance = instance
        self.version = instance.store_version(node.id)
        self.heads = index_heads(instance.id)
        nodes = txn.graph.repos[node.repo].nodes
        self.lineage: Lineage = txn.graph.lineages.of(nodes, self.version)

    @property
    def graph(self) -> Graph:
        return self.txn.graph

    @property
    def frozen(self) -> bool:
        """Nobody but an administrator can change what this view shows."""
        return self.node.locked and self.instance.versioned

    def state(self) -> tuple[int, int]:
        """Changes of the instance at this very version, and the time (ns) of the last."""
        return self.txn.state(self.instance.id, self.version)

    def modified(self) -> int:
        """When (ns) what this view shows was last changed: at this version or the nearest ancestor that changed it."""
        latest, version = self.instance.created, self.version
        while version > 0:
            count, when = self.txn.state(self.instance.id, version)
            if count:
                latest = max(latest, when)
                if not self.lineage.merges:
                    break
            version = self.lineage.next_older(version)
        return latest

    def stamp(self) -> tuple[int, int, int, int]:
        """What a cache of anything derived from this view is keyed by."""
        return self.instance.id, self.version, self.state()[0], self.graph.history

    def other(self, name: str) -> ReadView:
        """Another instance of the repo at the same version."""
        return ReadView(self.txn, self.node, self.graph.instance(self.node, name))

    # -- one key ---------------------------------------------------------------------------------------------

    def find(self, family: Family, enc: bytes) -> Entry | None:
        """The entry that counts for a key, or None.

        Raises:
            Conflict: parents of a merge disagree about it.
        """
        prefix = self.heads[family] + enc
        lineage = self.lineage
        cursor: Any = self.txn.cursor(_INDEX)
        alive = cursor.set_range(prefix + lineage.suffix)
        while alive:
            key, raw = cursor.item()
            if not key.startswith(prefix):
                return None
            suffix = key[-SUFFIX:]
            mark = lineage.marks.get(suffix)
            if mark is None:
                mark = lineage.mark(suffix)
            if mark:
                if lineage.merges:
                    return self._settle(prefix, cursor)
                return Entry.parse(raw, keys.suffix_version(suffix)) if mark == 1 else None
            older = lineage.next_older(keys.suffix_version(suffix))
            alive = older > 0 and cursor.set_range(prefix + keys.version_suffix(older))
        return None

    def get(self, family: Family, enc: bytes) -> Buffer | None:
        """The value of a key, or None."""
        entry = self.find(family, enc)
        return None if entry is None else values.load(self.txn, self.instance.id, entry)

    def own(self, family: Family, enc: bytes) -> Entry | None:
        """The value's entry of a key that this very version has written, if it has."""
        raw = self.txn.get(Table.INDEX, self.heads[family] + enc + self.lineage.suffix + VALUE)
        return None if raw is None else Entry.parse(raw, self.version)

    def load(self, entry: Entry) -> Buffer:
        return values.load(self.txn, self.instance.id, entry)

    def stream(self, entry: Entry, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        return values.stream(self.txn, self.instance.id, entry, start, stop)

    def _settle(self, prefix: bytes, cursor: Any) -> Entry | None:
        """Resolve below a merge; the cursor stands on the newest entry that counts."""
        rows = []
        for key, value in cursor.iternext(keys=True, values=True):
            if key[: len(prefix)] != prefix:
                break
            if self.lineage.mark(key[-SUFFIX:]):
                rows.append((key[-SUFFIX:], value))
        return self._decide(rows, prefix)

    def newest(self, family: Family, enc: bytes) -> list[Entry]:
        """All entries of a key that no newer one hides, tombstones included: more than one only below a merge."""
        prefix = self.heads[family] + enc
        rows = [
            (k[-SUFFIX:], v)
            for k, v in self.txn.scan(Table.INDEX, prefix + self.lineage.suffix, prefix + b"\xff" * (SUFFIX + 1))
        ]
        return self._unhidden([row for row in rows if self.lineage.mark(row[0])])

    def _unhidden(self, rows: list[tuple[bytes, bytes]]) -> list[Entry]:
        """Entries of (suffix, entry) rows, newest first, that no newer one of them hides."""
        nodes = self.graph.repos[self.node.repo].nodes
        found: list[Entry] = []
        for suffix, raw in rows:
            version = keys.suffix_version(suffix)
            if not any(self.graph.lineages.of(nodes, e.version).sees(version) for e in found):
                found.append(Entry.parse(raw, version))
        return found

    def _decide(self, rows: list[tuple[bytes, bytes]], prefix: bytes) -> Entry | None:
        """The entry that counts of visible (suffix, entry) rows, newest first; ``prefix``: the index key without suffix."""
        nodes = self.graph.repos[self.node.repo].nodes
        live = [e for e in self._unhidden(rows) if e.kind != Kind.TOMBSTONE]
        if len(live) < 2:
            return live[0] if live else None
        first = live[0]
        if all(values.same_bytes(self.txn, self.instance.id, first, e) for e in live[1:]):
            return first
        where = " and ".join(nodes[e.version].uuid for e in live)
        conflict = Conflict(
            f'{describe(prefix, first)} of "{self.instance.name}" was changed in versions {where}, which '
            f"were merged: write or delete it in {self.node.uuid} to settle it"
        )
        conflict.key = prefix[HEAD:]
        raise conflict

    # -- many keys -------------------------------------------------------------------------------------------

    def names(self, family: Family, start: bytes = b"", stop: bytes | None = None) -> list[bytes]:
        """Encoded keys with a value, start <= encoded < stop, in order; a key-only walk."""
        lineage = self.lineage
        marks, mark_of, out, last = lineage.marks, lineage.mark, [], b""
        append = out.append
        if lineage.merges:
            return [f.enc for f in self.scan(family, start, stop)]
        for batch in self._batches(family, start, stop):
            for key in batch:
                mark = marks.get(key[-SUFFIX:])
                if mark is None:
                    mark = mark_of(key[-SUFFIX:])
                if mark:
                    name = key[HEAD:-SUFFIX]
                    if name != last:
                        last = name
                        if mark == 1:
                            append(name)
        return out

    def headers(self, family: Family) -> bytes:
        """The fixed parts (:data:`keys.ENTRY`) of the entries that :meth:`names` names, one after the other."""
        if self.lineage.merges:
            return b"".join(f.entry.header() for f in self.scan(family))
        head = self.heads[family]
        marks, mark_of, out, last, size = self.lineage.marks, self.lineage.mark, [], b"", keys.ENTRY.size
        append = out.append
        for key, raw in self.txn.scan(Table.INDEX, head, keys.after(head)):
            mark = marks.get(key[-SUFFIX:])
            if mark is None:
                mark = mark_of(key[-SUFFIX:])
            if mark:
                name = key[:-SUFFIX]
                if name != last:
                    last = name
                    if mark == 1:
                        append(raw[:size])
        return b"".join(out)

    def _batches(self, family: Family, start: bytes, stop: bytes | None) -> Iterator[list[bytes]]:
        head = self.heads[family]
        end = head + stop if stop is not None else keys.after(head)
        with self.txn.new_cursor(Table.INDEX) as cursor:
            if not cursor.set_range(head + start):
                return
            steps: Any = cursor.iternext(keys=True, values=False)
            while batch := list(islice(steps, BATCH)):
                if batch[-1] >= end:
                    yield batch[: bisect_left(batch, end)]
                    return
                yield batch

    def scan(
        self,
        family: Family,
        start: bytes = b"",
        stop: bytes | None = None,
        on_conflict: Callable[[Conflict], None] | None = None,
    ) -> Iterator[Found]:
        """Entries with a value, start <= encoded key < stop, in encoded order; conflicted keys are left out."""
        head = self.heads[family]
        end = head + stop if stop is not None else keys.after(head)
        rows = self.txn.scan(Table.INDEX, head + start, end)
        mark_of = self.lineage.mark
        if self.lineage.merges:
            yield from self._scan_merged(rows, on_conflict)
            return
        last = b""
        for key, raw in rows:
            mark = mark_of(key[-SUFFIX:])
            if mark:
                enc = key[HEAD:-SUFFIX]
                if enc != last:
                    last = enc
                    if mark == 1:
                        yield Found(enc, Entry.parse(raw, keys.suffix_version(key[-SUFFIX:])))

    def _scan_merged(
        self, rows: Iterator[tuple[bytes, bytes]], on_conflict: Callable[[Conflict], None] | None
    ) -> Iterator[Found]:
        for prefix, group in groupby(rows, key=lambda row: row[0][:-SUFFIX]):
            seen = [(k[-SUFFIX:], v) for k, v in group if self.lineage.mark(k[-SUFFIX:])]
            try:
                entry = self._decide(seen, prefix)
            except Conflict as e:
                if on_conflict is not None:
                    on_conflict(e)
                continue
            if entry is not None:
                yield Found(prefix[HEAD:], entry)

    def load_spans(self, family: Family, spans: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, Buffer]]:
        """Encoded keys and values of all keys with start <= encoded key < stop, span after span; made for thousands.

        Values are views of the store's map where they lie there as they are: dead when the transaction ends.

        Raises:
            Conflict: parents of a merge disagree about one of them.
        """
        if self.lineage.merges:
            found = [f for start, stop in spans for f in self.scan(family, start, stop, _refuse)]
            return list(zip([f.enc for f in found], self.load_many([f.entry for f in found]), strict=True))
        rows = self._nearest(family, spans)
        return list(zip([enc for enc, _ in rows], self._load_rows([raw for _, raw in rows]), strict=True))

    def _load_rows(self, rows: Sequence[bytes]) -> list[Buffer]:
        """The values that index entries point to."""
        heads = [keys.ENTRY.unpack_from(raw) for raw in rows]
        if rows and all(h[0] == Kind.ROW and h[1] == Codec.RAW for h in heads):
            refs = [h[6] for h in heads]
            # The walk copies values, the search gives views of the map: large ones are worth a search.
            walked = self._row_after_row(refs) if heads[0][4] <= _WALKED else []
            found = walked or self._rows(refs)
            if len(found) == len(rows):  # else the single load below names the row that is missing
                return found
        return [self.load(Entry.parse(raw, self.version)) for raw in rows]

    def _rows(self, refs: Sequence[int]) -> list[Buffer]:
        return self.txn.get_many(Table.VALUES, [keys.VALUE_KEY.pack(self.instance.id, ref, 0) for ref in refs])

    def _row_after_row(self, refs: Sequence[int]) -> list[Buffer]:
        """Values that lie one behind the other, as a batch was written: one walk instead of a search for each."""
        if refs[-1] - refs[0] != len(refs) - 1 or any(map(ne, refs, range(refs[0], refs[-1] + 1))):
            return []
        cursor: Any = self.txn.cursor(Table.VALUES)
        if not cursor.set_range(keys.VALUE_KEY.pack(self.instance.id, refs[0], 0)):
            return []
        found = list(islice(cursor.iternext(keys=False, values=True), len(refs)))
        return found if cursor.key() == keys.VALUE_KEY.pack(self.instance.id, refs[-1], 0) else []

    def load_keys(self, family: Family, encoded: Sequence[bytes]) -> list[Buffer | None]:
        """The values of those keys, None for one that has none; made for thousands, as :meth:`load_spans`."""
        found: list[bytes | None] = []
        if self.lineage.merges:
            entries = [self.find(family, enc) for enc in encoded]
            return [None if e is None else self.load(e) for e in entries]
        head, suffix, marks = self.heads[family], self.lineage.suffix, self.lineage.marks
        cursor: Any = self.txn.cursor(Table.INDEX)
        seek, item = cursor.set_range, cursor.item
        for enc in encoded:
            prefix = head + enc
            row = None
            if seek(prefix + suffix):
                key, raw = item()
                if key.startswith(prefix):
                    mark = marks.get(key[-SUFFIX:])
                    if mark == 1:
                        row = raw
                    elif not mark and self.find(family, enc) is not None:
                        row = cursor.value()  # not seen before, or of another branch: find has moved the cursor on
            found.append(row)
        values_found = iter(self._load_rows([row for row in found if row is not None]))
        return [None if row is None else next(values_found) for row in found]

    def _nearest(self, family: Family, spans: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Encoded keys and entries with a value, where no merge makes a choice; as fast as Python walks rows."""
        head, marks, mark_of = self.heads[family], self.lineage.marks, self.lineage.mark
        out, last = [], b""
        with self.txn.new_cursor(Table.INDEX) as cursor:
            for start, stop in spans:
                if not cursor.set_range(head + start):
                    continue
                end = head + stop
                steps: Any = cursor.iternext(keys=True, values=True)
                for key, raw in steps:
                    if key >= end:
                        break
                    suffix = key[-SUFFIX:]
                    mark = marks.get(suffix)
                    if mark is None:
                        mark = mark_of(suffix)
                    if mark and (enc := key[HEAD:-SUFFIX]) != last:
                        last = enc
                        if mark == 1:
                            out.append((enc, raw))
        return out

    def load_many(self, entries: Sequence[Entry]) -> list[Buffer]:
        """The values of many entries, as :meth:`load_spans` gives them."""
        plain = [e for e in entries if e.kind == Kind.ROW and e.codec == Codec.RAW]
        rows = [keys.VALUE_KEY.pack(self.instance.id, e.ref, 0) for e in plain]
        views = self.txn.get_many(Table.VALUES, rows)
        if len(plain) < len(entries) or len(views) < len(plain):  # the single load names the row that is missing
            return [self.load(e) for e in entries]
        return views

    # -- text keys -------------------------------------------------------------------------------------------

    def text_entry(self, key: bytes) -> Entry | None:
        return self.find(_TEXT, keys.encode_text(keys.check_key(key)))

    def text_keys(self, first: bytes | None = None, last: bytes | None = None) -> list[bytes]:
        """Text keys with a value, first <= key <= last, in byte order."""
        start, stop = _text_span(first, last)
        encoded = self.names(Family.TEXT, start, stop)
        if not encoded:
            return []
        if max(map(len, encoded)) < keys.PREFIX - 1:
            out = [k[:-2] for k in encoded]
            if any(b"\0" in k for k in out):
                out = [k.replace(b"\0\xff", b"\0") for k in out]
            return out
        whole = [self._whole(enc) if keys.is_long(enc) else keys.decode_text(enc) for enc in encoded]
        ordered = sorted(whole) if any(map(keys.is_long, encoded)) else whole
        return [k for k in ordered if (first is None or k >= first) and (last is None or k <= last)]

    def _whole(self, enc: bytes) -> bytes:
        entry = self.find(Family.TEXT, enc)
        return entry.key if entry is not None else b""

    def text_entries(self, first: bytes | None = None, last: bytes | None = None) -> Iterator[tuple[bytes, Entry]]:
        """(text key, entry) with first <= key <= last, in byte order."""
        start, stop = _text_span(first, last)
        run: list[tuple[bytes, Entry]] = []
        shared = b""
        for found in self.scan(Family.TEXT, start, stop):
            if run and not found.enc.startswith(shared):
                yield from _in_span(sorted(run, key=lambda r: r[0]), first, last)
                run = []
            if run or keys.is_long(found.enc):
                if not run:
                    shared = _shared(found.enc)
                run.append((found.key, found.entry))
            else:
                yield from _in_span([(found.key, found.entry)], first, last)
        yield from _in_span(sorted(run, key=lambda r: r[0]), first, last)


class WriteView(ReadView):
    """A :class:`ReadView` in a write transaction. Its version is open, or the caller may write history."""

    __slots__ = ("_suffix", "app", "user")

    txn: WriteTxn

    def __init__(
        self, txn: WriteTxn, node: Node, instance: Instance, caller: Caller | None = None, *, refusal: str = ""
    ) -> None:
        """``refusal`` is the text of the error on a committed version.

        Raises:
            Locked: the version is committed and the caller is not privileged.
        """
        super().__init__(txn, node, instance)
        caller = caller or NOBODY
        self.user, self.app = caller.user, caller.app
        if self.frozen:
            if not caller.privileged:
                raise Locked(refusal or f"cannot write to committed version {node.uuid}: write to an open child")
            txn.rewrite_history()
        self._suffix = keys.version_suffix(self.version)

    def put(self, family: Family, enc: bytes, value: Prepared | Uploaded | Staged, key: bytes = b"") -> Entry | None:
        """Set the value of a key at this version; the entry of this very version that it replaces, if any.

        ``key``: the whole text key if ``enc`` is the short form of a long one.
        """
        txn, prefix = self.txn, self.heads[family] + enc
        replaced = self.own(family, enc)
        if replaced is not None:
            values.release(txn, self.instance.id, replaced)
        else:
            txn.delete(Table.INDEX, prefix + self._suffix + TOMB)
        self._set(prefix, value, key)
        txn.touch(self.instance, self.version, prefix)
        return replaced

    def fill(self, family: Family, enc: bytes, value: Prepared) -> None:
        """:meth:`put` of what reads the same as what is there: where this version has an entry, no change is noted."""
        replaced = self.own(family, enc)
        if replaced is None:
            self.put(family, enc, value)
        else:
            values.release(self.txn, self.instance.id, replaced)
            self._set(self.heads[family] + enc, value, b"")

    def _set(self, prefix: bytes, value: Prepared | Uploaded | Staged, key: bytes) -> None:
        row = values.store_value(self.txn, self.instance.id, value, key, self.txn.now)
        self.txn.put(Table.INDEX, prefix + self._suffix + VALUE, row)

    def put_many(self, family: Family, items: Sequence[tuple[bytes, Prepared | Staged, bytes]]) -> None:
        """:meth:`put` for many keys at once: (encoded key, value, whole key if long) in encoded order, each once."""
        txn, instance = self.txn, self.instance.id
        head, suffix = self.heads[family], self._suffix
        cursor: Any = txn.cursor(Table.INDEX)
        ref = txn.new_ids("value", len(items))
        index, rows, touched = [], [], []
        pack_entry, pack_key, now = keys.ENTRY.pack, keys.VALUE_KEY.pack, txn.now
        for enc, value, whole in items:
            prefix = head + enc
            at = prefix + suffix
            if cursor.set_range(at) and (old := cursor.key()).startswith(at):  # something of this very version
                if old != at + VALUE:
                    txn.delete(Table.INDEX, old)
                else:
                    values.release(txn, instance, Entry.parse(cursor.value(), self.version))
            if isinstance(value, Staged):
                index.append((at + VALUE, values.store_value(txn, instance, value, whole, now)))
                touched.append(prefix)
                continue
            data = value.data
            if len(data) <= keys.INLINE and not whole:
                index.append((at + VALUE, pack_entry(Kind.INLINE, value.codec, 0, 0, value.size, now, 0) + bytes(data)))
            else:
                entry = pack_entry(Kind.ROW, value.codec, len(whole), 0, value.size, now, ref)
                index.append((at + VALUE, entry + whole))
                rows.append((pack_key(instance, ref, 0), data))
                ref += 1
            touched.append(prefix)
        txn.put_many(Table.INDEX, index)
        txn.put_many(Table.VALUES, rows)
        txn.touch_many(self.instance, self.version, touched)

    def put_text(self, key: bytes, value: Prepared | Uploaded) -> None:
        enc = keys.encode_text(keys.check_key(key))
        self.put(Family.TEXT, enc, value, key if keys.is_long(enc) else b"")

    def delete(self, family: Family, enc: bytes, key: bytes = b"") -> None:
        """Hide a key from this version on: a tombstone here, ancestors keep it. Legal where nothing exists.

        ``key``: the whole text key if ``enc`` is the short form of a long one.
        """
        txn, instance = self.txn, self.instance.id
        prefix = self.heads[family] + enc
        at = prefix + self._suffix
        old = txn.get(Table.INDEX, at + VALUE)
        if old is not None:
            values.release(txn, instance, Entry.parse(old, self.version))
            txn.delete(Table.INDEX, at + VALUE)
        if self.instance.versioned:
            txn.put(Table.INDEX, at + TOMB, keys.ENTRY.pack(Kind.TOMBSTONE, 0, len(key), 0, 0, txn.now, 0) + key)
        txn.touch(self.instance, self.version, prefix)

    def delete_text(self, key: bytes) -> None:
        enc = keys.encode_text(keys.check_key(key))
        self.delete(Family.TEXT, enc, key if keys.is_long(enc) else b"")

    def rename_text(self, old: bytes, new: bytes) -> None:
        """Give a value another key, replacing what was there; the bytes are not rewritten if they are this version's."""
        old_enc = keys.encode_text(keys.check_key(old))
        new_enc = keys.encode_text(keys.check_key(new))
        entry = self.find(Family.TEXT, old_enc)
        if entry is None or old == new:
            return
        if entry.version == self.version and entry.kind in (Kind.ROW, Kind.PIECES):
            self._move(old, new, entry)
        else:
            self.put(Family.TEXT, new_enc, self.copy(entry), new if keys.is_long(new_enc) else b"")
            self.set_time(new, entry.mtime)
            self.delete_text(old)

    def set_time(self, key: bytes, mtime: int) -> None:
        """Store another time (ns) with a text key. Its bytes stay; a value of an ancestor is copied to this version."""
        enc = keys.encode_text(keys.check_key(key))
        whole = key if keys.is_long(enc) else b""
        entry = self.find(Family.TEXT, enc)
        if entry is None or entry.mtime == mtime:
            return
        if entry.version != self.version:
            self.put(Family.TEXT, enc, self.copy(entry), whole)
        at = keys.HEAD.pack(self.instance.id, Family.TEXT) + enc
        raw = self.txn.get(Table.INDEX, at + self._suffix + VALUE)
        assert raw is not None
        kind, codec, length, zero, size, _, ref = keys.ENTRY.unpack_from(raw)
        tail = bytes(raw[keys.ENTRY.size :])
        row = keys.ENTRY.pack(kind, codec, length, zero, size, mtime, ref) + tail
        self.txn.put(Table.INDEX, at + self._suffix + VALUE, row)
        self.txn.touch(self.instance, self.version, at)

    def _move(self, old: bytes, new: bytes, entry: Entry) -> None:
        txn, instance = self.txn, self.instance.id
        head, new_enc = self.heads[Family.TEXT], keys.encode_text(new)
        txn.delete(Table.INDEX, head + keys.encode_text(old) + self._suffix + VALUE)
        self.delete_text(old)
        target = head + new_enc + self._suffix
        replaced = txn.get(Table.INDEX, target + VALUE)
        if replaced is not None:
            values.release(txn, instance, Entry.parse(replaced, self.version))
        txn.delete(Table.INDEX, target + TOMB)
        whole = new if keys.is_long(new_enc) else b""
        txn.put(
            Table.INDEX,
            target + VALUE,
            keys.ENTRY.pack(entry.kind, entry.codec, len(whole), 0, entry.size, entry.mtime, entry.ref) + whole,
        )
        txn.touch(self.instance, self.version, head + new_enc)

    def copy(self, entry: Entry) -> Prepared | Uploaded:
        """The value of an entry of any version, ready to be put here."""
        if entry.kind != Kind.PIECES:
            return values.prepare(bytes(self.load(entry)))
        ref = self.txn.new_id("value")
        for number in range(values.pieces(entry.size)):
            row = self.txn.get(Table.VALUES, keys.VALUE_KEY.pack(self.instance.id, entry.ref, number))
            self.txn.put(Table.VALUES, keys.VALUE_KEY.pack(self.instance.id, ref, number), row or b"")
        self.txn.put(Table.TRASH, keys.U64.pack(ref), keys.TRASH.pack(self.instance.id, 0, self.txn.now))
        return Uploaded(self.instance.id, ref, entry.size, entry.codec)


@contextmanager
def committed(view: ReadView) -> Iterator[ReadView | None]:
    """What has been committed of an instance and version, to a write that sees more; None if it is all new.

    What is learned from it may be kept for all readers, which is not so of what a write sees.
    """
    with view.txn.store.read() as txn:
        instance = txn.graph.instance_by_id(view.instance.id)
        repo = txn.graph.repos.get(view.node.repo)
        node = repo.nodes.get(view.node.id) if repo is not None else None
        yield ReadView(txn, node, instance) if node is not None and instance is not None else None


def _refuse(conflict: Conflict) -> None:
    raise conflict


@lru_cache(maxsize=1024)
def index_heads(instance: int) -> dict[Family, bytes]:
    """What index keys of an instance begin with, by family."""
    return {family: keys.head(instance, family) for family in Family}


def describe(prefix: bytes, entry: Entry) -> str:
    """A key in an error message; ``prefix``: its index key, without the suffix."""
    family, enc = prefix[HEAD - 1], prefix[HEAD:]
    if family == Family.BLOCK:
        scale, x, y, z = keys.decode_block(enc)
        return f"block {x}_{y}_{z}" if not scale else f"block {x}_{y}_{z} at scale {scale}"
    if family == Family.NUMBER:
        return f"key {int.from_bytes(enc, 'big')}"
    text = (entry.key or keys.decode_text(enc)).decode(errors="replace")
    return f'key "{text[:60]}"'


def _text_span(first: bytes | None, last: bytes | None) -> tuple[bytes, bytes | None]:
    return (keys.text_span_start(first) if first else b""), (keys.text_span_end(last) if last is not None else None)


def _shared(enc: bytes) -> bytes:
    """What a long key shares with the keys that may have to be sorted among it."""
    return enc[: -(2 + 16 + 1)]


def _in_span(run: list[tuple[bytes, Entry]], first: bytes | None, last: bytes | None) -> Iterator[tuple[bytes, Entry]]:
    for key, entry in run:
        if (first is None or key >= first) and (last is None or key <= last):
            yield key, entry
