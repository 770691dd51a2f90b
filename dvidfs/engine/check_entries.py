"""The checks of entries and values: every entry is well-formed and has its value, every value its one entry.

Each function is one invariant of :mod:`dvidfs.engine.keys`; :mod:`dvidfs.engine.check` runs them. Values are matched
with entries by looking up one in the other and by counting, so that no set of all keys is ever held.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import zstandard

from dvidfs.engine import blobs, keys, values
from dvidfs.engine.check import Step, Survey, Wrong
from dvidfs.engine.keys import ENTRY, PIECE, SUFFIX, TOMB, Codec, Family, Kind, Table
from dvidfs.engine.values import Entry
from dvidfs.engine.versions import ReadView, describe
from dvidfs.errors import DvidfsError

HEAD = keys.HEAD.size
FAMILIES = frozenset(map(int, Family))
CODECS = frozenset(map(int, Codec))


def _known(survey: Survey, table: Table) -> Iterator[int]:
    """Instances that exist and have rows in a table."""
    for instance, _ in survey.owners(table):
        if instance in survey.instances and instance not in survey.freed:
            yield instance


def _span(instance: int) -> tuple[bytes, bytes]:
    low = keys.U32.pack(instance)
    return low, keys.after(low)


def _name(survey: Survey, instance: int) -> str:
    return f'"{survey.instances[instance]["name"]}"' if instance in survey.instances else f"instance {instance}"


def _where(survey: Survey, key: bytes, raw: bytes) -> str:
    instance = keys.U32.unpack_from(key)[0]
    version = keys.suffix_version(key[-SUFFIX:])
    try:
        what = describe(key[:-SUFFIX], Entry.parse(raw, version))
    except (keys.struct.error, ValueError):
        what = f"key {key[HEAD:-SUFFIX].hex()}"
    return f"{what} of {_name(survey, instance)} at version {version}"


# -- entries -----------------------------------------------------------------------------------------------------


def owners(survey: Survey) -> Iterator[Wrong]:
    """Rows belong to instances that exist, or that a job is to free."""
    for table in (Table.INDEX, Table.STATE, Table.WRITTEN, Table.LEDGER):
        for instance, _ in survey.owners(table):
            if instance not in survey.instances and instance not in survey.freed:
                yield f"instance {instance}", f"does not exist, but has rows in {table}, and no job is to free them"


def entries(survey: Survey) -> Iterator[Wrong]:
    """Entries are well-formed: family, key, version, codec and kind are such as can be written."""
    for instance in _known(survey, Table.INDEX):
        versions = survey.versions_of(instance)
        root = None if survey.instances[instance]["versioned"] else survey.instances[instance]["root"]
        for key, raw in survey.scan(Table.INDEX, *_span(instance)):
            text = _entry_fault(key, raw)
            if text is None:
                version = keys.suffix_version(key[-SUFFIX:])
                if version not in versions:
                    text = f"its version {version} is none of the repo"
                elif root is not None and (version != root or key[-1:] == TOMB):
                    text = "an unversioned instance has only values, and only at the root"
            if text is not None:
                yield _where(survey, key, raw), text


def _entry_fault(key: bytes, raw: bytes) -> str | None:
    """What is wrong with one row of the index by itself."""
    if len(key) <= HEAD + SUFFIX or key[-1] > 1 or len(raw) < ENTRY.size:
        return "the row is cut short or has a wrong mark"
    kind, codec, key_length, _, size, _, ref = ENTRY.unpack_from(raw)
    if key[4] not in FAMILIES or codec not in CODECS or kind > Kind.PIECES:
        return f"family {key[4]:#x}, kind {kind} or codec {codec} is unknown"
    if (kind == Kind.TOMBSTONE) != (key[-1:] == TOMB):
        return "a tombstone is marked as a value, or a value as a tombstone"
    if (kind in (Kind.ROW, Kind.PIECES)) != (ref > 0):
        return f"value id {ref} does not fit the kind {kind}"
    enc, whole = key[HEAD:-SUFFIX], bytes(raw[ENTRY.size : ENTRY.size + key_length])
    if not _key_fits(key[4], enc, whole):
        return "the key is not as it is written"
    inline = raw[ENTRY.size + key_length :]
    if kind == Kind.INLINE:
        return _size_fault(codec, inline, size)
    if len(inline) or (kind == Kind.TOMBSTONE and size):
        return "bytes follow the entry that do not belong there, or a tombstone has a size"
    return None


def _key_fits(family: int, enc: bytes, whole: bytes) -> bool:
    if family == Family.BLOCK:
        return len(enc) == keys.BLOCK.size and not whole
    if family == Family.NUMBER:
        return len(enc) == keys.U64.size and not whole
    if keys.is_long(enc):
        return keys.encode_text(whole) == enc
    return not whole and enc.endswith(b"\0\0") and len(enc) > 2 and keys.encode_text(keys.decode_text(enc)) == enc


def _size_fault(codec: int, data: bytes, size: int) -> str | None:
    """Whether stored bytes can be ``size`` bytes for the user; a frame says so in its head."""
    if codec == Codec.RAW:
        found = len(data)
    else:
        try:
            found = zstandard.frame_content_size(data)
        except zstandard.ZstdError as e:
            return f"the frame is damaged: {e}"
    return None if found == size else f"holds {found} bytes, should hold {size}"


def tombstones(survey: Survey) -> Iterator[Wrong]:
    """A version has a value or a tombstone of a key, never both."""
    for instance in _known(survey, Table.INDEX):
        last = b""
        for key, raw in survey.scan(Table.INDEX, *_span(instance)):
            if key[:-1] == last[:-1]:
                yield _where(survey, key, raw), "has a value and a tombstone"
            last = key


# -- values ------------------------------------------------------------------------------------------------------


def sizes(survey: Survey) -> Iterator[Wrong]:
    """The value of every entry is there, whole, and of the size that the entry says."""
    for instance in _known(survey, Table.INDEX):
        for key, raw in survey.scan(Table.INDEX, *_span(instance)):
            if len(raw) >= ENTRY.size and raw[0] in (Kind.ROW, Kind.PIECES):
                text = _value_fault(survey, instance, Entry.parse(raw, 0))
                if text is not None:
                    yield _where(survey, key, raw), text
    for name, raw in survey.scan(Table.BLOBS):
        text = _value_fault(survey, blobs.OWNER, Entry.parse(raw, 0))
        if text is not None:
            yield f"blob {name.hex()}", text


def _value_fault(survey: Survey, instance: int, entry: Entry) -> str | None:
    if entry.kind == Kind.INLINE:
        return _size_fault(entry.codec, entry.inline, entry.size)
    count = values.pieces(entry.size) if entry.kind == Kind.PIECES else 1
    rest = entry.size
    for number in range(count):
        data = survey.txn.get(Table.VALUES, keys.VALUE_KEY.pack(instance, entry.ref, number))
        if data is None:
            return f"its value {entry.ref} is missing" + (f", piece {number} of {count}" if count > 1 else "")
        expected = min(rest, PIECE) if entry.kind == Kind.PIECES else entry.size
        fault = _size_fault(entry.codec, data, expected)
        if fault:
            return f"its value {entry.ref} {fault}"
        rest -= expected
    return None


def references(survey: Survey) -> Iterator[Wrong]:
    """Every stored value belongs to exactly one entry, or waits in the trash to be freed."""
    trash = _trash(survey)
    for instance, _ in survey.owners(Table.VALUES):
        if instance in survey.freed:
            continue
        refs, count = _references(survey, instance)
        for again in np.unique(refs[1:][refs[1:] == refs[:-1]]).tolist():
            yield f"value {again} of {_name(survey, instance)}", "belongs to several entries"
        for ref in refs[np.isin(refs, _sorted(trash))].tolist():
            yield f"value {ref} of {_name(survey, instance)}", "is in the trash and has an entry"
        yield from _orphans(survey, instance, refs, count, trash)


def _trash(survey: Survey) -> set[int]:
    return {keys.U64.unpack(key)[0] for key, _ in survey.scan(Table.TRASH)}


def _sorted(numbers: set[int]) -> np.ndarray:
    return np.fromiter(sorted(numbers), np.uint64, len(numbers))


def _references(survey: Survey, instance: int) -> tuple[np.ndarray, np.ndarray]:
    """Value ids (uint64, sorted) that entries of an instance name, and how many rows each should have (uint32)."""
    refs, counts = array("Q"), array("I")
    if instance == blobs.OWNER:
        rows = survey.scan(Table.BLOBS)
    else:
        rows = survey.scan(Table.INDEX, *_span(instance))
    for _, raw in rows:
        if len(raw) >= ENTRY.size and raw[0] in (Kind.ROW, Kind.PIECES):
            kind, _, _, _, size, _, ref = ENTRY.unpack_from(raw)
            refs.append(ref)
            counts.append(values.pieces(size) if kind == Kind.PIECES else 1)
    found = np.frombuffer(refs, np.uint64) if refs else np.zeros(0, np.uint64)
    order = np.argsort(found, kind="stable")
    return found[order], np.frombuffer(counts, np.uint32)[order] if counts else np.zeros(0, np.uint32)


def _orphans(survey: Survey, instance: int, refs: np.ndarray, counts: np.ndarray, trash: set[int]) -> Iterator[Wrong]:
    """Rows of values that no entry names: both are sorted, so one walk tells."""
    at, total, told = 0, len(refs), -1
    for key, _ in survey.scan(Table.VALUES, *_span(instance)):
        _, ref, number = keys.VALUE_KEY.unpack(key)
        while at < total and refs[at] < ref:
            at += 1
        known = at < total and refs[at] == ref
        if (not known or number >= counts[at]) and ref not in trash and ref != told:
            told = ref
            yield (
                f"value {ref} of {_name(survey, instance)}",
                (
                    f"has more pieces than its entry says: {number + 1}"
                    if known
                    else "has no entry and is not in the trash"
                ),
            )


# -- notes of what was written -----------------------------------------------------------------------------------


def state(survey: Survey) -> Iterator[Wrong]:
    """Each version of an instance that has entries has a count of changes, not below the number of entries."""
    for instance in _known(survey, Table.INDEX):
        found: Counter[bytes] = Counter()
        for key, _ in survey.scan(Table.INDEX, *_span(instance)):
            found[key[-SUFFIX:-1]] += 1
        for suffix, number in found.items():
            version = keys.suffix_version(suffix)
            changes = survey.txn.state(instance, version)[0]
            if changes < number:
                where = f"{_name(survey, instance)} at version {version}"
                yield where, f"has {number} entries, but only {changes} changes were counted"
    for instance in _known(survey, Table.STATE):
        versions = survey.versions_of(instance)
        for key, _ in survey.scan(Table.STATE, *_span(instance)):
            version = keys.PAIR.unpack(key)[1]
            if version not in versions:
                yield f"{_name(survey, instance)} at version {version}", "was changed at a version that is not there"


def written(survey: Survey) -> Iterator[Wrong]:
    """For versioned instances ``written`` lists just the keys that have an entry of a version: merges rely on it."""
    for instance in {*_known(survey, Table.INDEX), *_known(survey, Table.WRITTEN)}:
        if not survey.instances[instance]["versioned"]:
            continue
        listed, dangling = 0, 0
        for key, _ in survey.scan(Table.WRITTEN, *_span(instance)):
            listed += 1
            version = keys.PAIR.unpack_from(key)[1]
            at = key[:4] + key[8:] + keys.version_suffix(version)
            cursor = survey.txn.cursor(Table.INDEX)
            if not (cursor.set_range(at) and bytes(cursor.key())[:-1] == at):
                dangling += 1
                yield (
                    f"key {key[9:].hex()} of {_name(survey, instance)} at version {version}",
                    ("is listed as written, but has no entry"),
                )
        there = sum(1 for _ in survey.scan(Table.INDEX, *_span(instance)))
        if there != listed - dangling:
            yield from _unlisted(survey, instance)


def _unlisted(survey: Survey, instance: int) -> Iterator[Wrong]:
    for key, raw in survey.scan(Table.INDEX, *_span(instance)):
        version = keys.suffix_version(key[-SUFFIX:])
        if survey.txn.get(Table.WRITTEN, keys.PAIR.pack(instance, version) + key[4:-SUFFIX]) is None:
            yield _where(survey, key, raw), "has an entry that is not listed as written"


# -- the ledger --------------------------------------------------------------------------------------------------


def ledger(survey: Survey) -> Iterator[Wrong]:
    """Rows of the ledger are of a version that sees the instance and of a mutation that was begun; counters are numbers."""
    for instance in _known(survey, Table.LEDGER):
        record = survey.instances[instance]
        versions = survey.versions_of(instance) if record["versioned"] else {record["root"]}
        following = survey.txn.mutation_id(record["repo"])
        for key, row in survey.scan(Table.LEDGER, *_span(instance)):
            text = _ledger_fault(key, row, versions, following)
            if text is not None:
                yield f"row {key.hex()} of {_name(survey, instance)}", text


def _ledger_fault(key: bytes, row: bytes, versions: set[int], following: int) -> str | None:
    """What is wrong with one row of the ledger; ``following``: the next mutation."""
    if len(key) != keys.LEDGER_KEY.size:
        return f"its key has {len(key)} bytes, should have {keys.LEDGER_KEY.size}"
    version, mutation = 0xFFFFFFFF - int.from_bytes(key[-12:-8], "big"), ~int.from_bytes(key[-8:], "big") & (2**64 - 1)
    if not version:
        return None if not mutation and len(row) == 8 else "is a counter, but of a mutation or not a number of 8 bytes"
    if version not in versions:
        return f"its version {version} is none that the instance is written at"
    return None if 0 < mutation < following else f"its mutation {mutation} was never begun: the next one is {following}"


# -- deep --------------------------------------------------------------------------------------------------------


def frames(survey: Survey) -> Iterator[Wrong]:
    """Every compressed value can be decompressed."""
    for instance in _known(survey, Table.INDEX):
        for key, raw in survey.scan(Table.INDEX, *_span(instance)):
            if len(raw) >= ENTRY.size and raw[1] == Codec.ZSTD:
                text = _frame_fault(survey, instance, Entry.parse(raw, 0))
                if text is not None:
                    yield _where(survey, key, raw), text


def _frame_fault(survey: Survey, instance: int, entry: Entry) -> str | None:
    try:
        for _ in values.stream(survey.txn, instance, entry):
            pass
    except DvidfsError as e:
        return str(e)
    return None


def blob_names(survey: Survey) -> Iterator[Wrong]:
    """Every blob's name is the hash of its content."""
    for name, raw in survey.scan(Table.BLOBS):
        entry = Entry.parse(raw, 0)
        fault = _frame_fault(survey, blobs.OWNER, entry)
        if fault is not None:
            yield f"blob {name.hex()}", fault
        elif survey.name_blob is not None:
            content = b"".join(values.stream(survey.txn, blobs.OWNER, entry))
            if survey.name_blob(content) != name:
                yield f"blob {name.hex()}", f"its content has the name {survey.name_blob(content).hex()}"


def datatypes(survey: Survey) -> Iterator[Wrong]:
    """What each datatype says of its own instances, at the leaves of the version graph."""
    for repo in survey.txn.graph.repos.values():
        leaves = [node for node in repo.nodes.values() if not node.children]
        for name, instance in sorted(repo.instances.items()):
            verify = survey.verifier(instance.type) if survey.verifier is not None else None
            if verify is None:
                continue
            for node in leaves if instance.versioned else leaves[:1]:
                where = f'"{name}" at version {node.uuid}'
                try:
                    for told in verify(ReadView(survey.txn, node, instance)):
                        if isinstance(told, Step):
                            survey.tell_step(where, told)
                        else:
                            yield where, told
                except Exception as e:  # noqa: BLE001 - what is damaged may break any reading of it
                    yield where, f"could not be finished: {type(e).__name__}: {e}"


CHECKS: tuple[Callable[[Survey], Iterator[Wrong]], ...] = (
    owners,
    entries,
    tombstones,
    sizes,
    references,
    state,
    written,
    ledger,
)
DEEP: tuple[Callable[[Survey], Iterator[Wrong]], ...] = (frames, blob_names, datatypes)
