"""``dvidfs check``: every invariant of a store as a named function that yields what contradicts it.

This module decides what is checked and in which order, and holds the checks of versions, counters and logs; those of
entries and values are :mod:`dvidfs.engine.check_entries`. All run in one snapshot, so a store in use can be checked.
Invariant: rows are streamed; what is kept is one number (8 bytes) for each stored value of one instance at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from dvidfs.engine import keys
from dvidfs.engine.engine import Engine
from dvidfs.engine.keys import Table
from dvidfs.engine.store import CHANGES_KEPT, ReadTxn
from dvidfs.engine.versions import ReadView

KEPT = 1000
"""Problems that a report holds by name; the rest is counted."""
STEP = 1 << 16
"""Rows between two calls of the progress function."""

Progress = Callable[[str, int, int], None]
"""What is done; how many rows or other things of it are done, and of how many (0: nobody knows)."""
Wrong = tuple[str, str]
"""Where, and what is wrong there."""


class Difference(str):
    """Two things that are stored and contradict each other, as clients may have said them: no damage."""

    __slots__ = ()


class Step(NamedTuple):
    """How far a check of a datatype is: what it looks at, and how many of these it has seen."""

    what: str
    done: int


Told = str | Step
"""What the check of a datatype yields: damage, a :class:`Difference`, or how far it is."""
Verify = Callable[[ReadView], Iterator[Told]]


@dataclass(frozen=True)
class Problem:
    """A broken invariant: the check that found it, where, and what is wrong."""

    check: str
    where: str
    text: str


@dataclass
class Report:
    """``checks`` that ran, ``rows`` that were looked at, ``count`` of problems, the first of them by name; differences as well."""

    checks: list[str] = field(default_factory=list)
    rows: int = 0
    count: int = 0
    problems: list[Problem] = field(default_factory=list)
    difference_count: int = 0
    differences: list[Problem] = field(default_factory=list)

    def add(self, found: Problem) -> None:
        if isinstance(found.text, Difference):
            self.difference_count += 1
            kept = self.differences
        else:
            self.count += 1
            kept = self.problems
        if len(kept) < KEPT:
            kept.append(found)


class Survey:
    """What the checks share: the snapshot, the records of the graph as they lie there, progress.

    ``instances``, ``nodes`` and ``repos`` are records by id; ``freed`` the ids of deleted instances whose rows a job is
    still to free. ``verifier(typename)`` gives a datatype's own check, ``name_blob(bytes)`` the name of a blob.
    """

    def __init__(
        self,
        engine: Engine,
        txn: ReadTxn,
        report: Report,
        *,
        verifier: Callable[[str], Verify | None] | None = None,
        name_blob: Callable[[bytes], bytes] | None = None,
        progress: Progress | None = None,
        deep: bool = False,
    ) -> None:
        self.txn = txn
        self.report = report
        self.verifier = verifier
        self.name_blob = name_blob
        self.deep = deep
        self.check = ""
        self._progress = progress
        self._totals: dict[str, int] = engine.store.statistics()["rows"]
        self._seen = 0
        self.repos: dict[int, dict[str, Any]] = {}
        self.nodes: dict[int, dict[str, Any]] = {}
        self.instances: dict[int, dict[str, Any]] = {}
        self._read_graph()
        self.freed = self._being_freed()

    def _read_graph(self) -> None:
        kinds = {b"r": self.repos, b"n": self.nodes, b"i": self.instances}
        for key, row in self.txn.scan(Table.GRAPH, b"", b"\xff" * 9):
            key = bytes(key)
            kinds[key[:1]][keys.U32.unpack(key[1:])[0]] = orjson.loads(row)

    def _being_freed(self) -> set[int]:
        found = set()
        for _, row in self.txn.scan(Table.JOBS, b"", b"\xff" * 9):
            job = _json(row)
            if job.get("kind") == "free-instance" and job.get("state") in ("queued", "running"):
                found.add(job["args"]["instance"])
        return found

    def scan(self, table: Table, start: bytes = b"", stop: bytes = b"\xff" * 512) -> Iterator[tuple[bytes, bytes]]:
        """Rows of a table, counted."""
        for key, row in self.txn.scan(table, start, stop):
            self._seen += 1
            if self._seen % STEP == 0:
                self.tell(table)
            yield bytes(key), row

    def begin(self, check: str) -> None:
        self.finish()
        self.check = check
        self.report.checks.append(check)
        self.tell(None)

    def finish(self) -> None:
        self.report.rows += self._seen
        self._seen = 0

    def tell(self, table: Table | None) -> None:
        if self._progress is not None:
            total = self._totals[table] if table is not None else 0
            self._progress(self.check, self._seen, max(total, self._seen))

    def tell_step(self, where: str, step: Step) -> None:
        if self._progress is not None:
            self._progress(f"{where}: {step.what}", step.done, 0)

    def owners(self, table: Table) -> Iterator[tuple[int, bytes]]:
        """Ids of the instances that have rows in a table, with the first key of each."""
        start = b""
        while (first := next(self.txn.scan(table, start, b"\xff" * 512), None)) is not None:
            owner = keys.U32.unpack_from(first[0])[0]
            yield owner, bytes(first[0])
            if owner == 0xFFFFFFFF:
                return
            start = keys.U32.pack(owner + 1)

    def versions_of(self, instance: int) -> set[int]:
        repo = self.instances[instance]["repo"]
        return {v for v, node in self.nodes.items() if node["repo"] == repo}


def check_store(
    engine: Engine,
    *,
    deep: bool = False,
    verifier: Callable[[str], Verify | None] | None = None,
    name_blob: Callable[[bytes], bytes] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Run all checks in one snapshot. ``deep`` reads every value too, and runs the datatypes' own checks."""
    from dvidfs.engine import check_entries

    report = Report()
    with engine.read() as txn:
        survey = Survey(engine, txn, report, verifier=verifier, name_blob=name_blob, progress=progress, deep=deep)
        checks = [*CHECKS, *check_entries.CHECKS, *((check_entries.DEEP) if deep else ())]
        for check in checks:
            name = check.__name__.replace("_", "-")
            survey.begin(name)
            try:
                for where, text in check(survey):
                    report.add(Problem(name, where, text))
            except Exception as e:  # noqa: BLE001 - what is damaged may break any reading of it
                report.add(Problem(name, "the check", f"could not be finished: {type(e).__name__}: {e}"))
        survey.finish()
    return report


def _json(row: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(row)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


# -- versions and instances --------------------------------------------------------------------------------------


def graph_records(survey: Survey) -> Iterator[Wrong]:
    """Every record stands under its own id; repos have their root; UUIDs are unique. (All can be read: it was opened.)"""
    for kind, records in (("repo", survey.repos), ("version", survey.nodes), ("instance", survey.instances)):
        for number, record in records.items():
            if record.get("id") != number:
                yield f"{kind} {number}", f"its record says that it is {record.get('id')}"
    for number, repo in survey.repos.items():
        root = survey.nodes.get(repo["root"])
        if root is None or root["repo"] != number or root["parents"]:
            yield f"repo {repo['uuid']}", f"its root, version {repo['root']}, is not the root of its versions"
    seen: dict[str, int] = {}
    for number, node in survey.nodes.items():
        if node["uuid"] in seen:
            yield f"version {number}", f"has the UUID {node['uuid']} of version {seen[node['uuid']]}"
        seen[node["uuid"]] = number


def parents(survey: Survey) -> Iterator[Wrong]:
    """Parents exist in the same repo, are older (so there is no cycle) and committed; only a root has none."""
    for number, node in survey.nodes.items():
        where = f"version {node['uuid']}"
        repo = survey.repos.get(node["repo"])
        if repo is None:
            yield where, f"belongs to repo {node['repo']}, which does not exist"
        elif not node["parents"] and repo["root"] != number:
            yield where, "has no parent and is not the root of its repo"
        for parent in node["parents"]:
            above = survey.nodes.get(parent)
            if above is None:
                yield where, f"its parent, version {parent}, does not exist"
                continue
            if above["repo"] != node["repo"]:
                yield where, f"its parent {above['uuid']} lies in another repo"
            if parent >= number:
                yield where, f"its id {number} is not above that of its parent, {parent}"
            if not above["locked"]:
                yield where, f"its parent {above['uuid']} is not committed"


def branches(survey: Survey) -> Iterator[Wrong]:
    """A branch is one line and begins once; only a merge adds a further child to the trunk."""
    continued: set[tuple[int, str]] = set()
    begun: dict[tuple[int, str], str] = {}
    for node in survey.nodes.values():
        branch, where = node["branch"], f"version {node['uuid']}"
        ups = [p for p in node["parents"] if p in survey.nodes and survey.nodes[p]["branch"] == branch]
        for parent in ups if len(node["parents"]) == 1 else ():
            if (parent, branch) in continued:
                yield where, f'is a second child of {survey.nodes[parent]["uuid"]} on branch "{branch or "master"}"'
            continued.add((parent, branch))
        if not ups and branch:
            first = begun.setdefault((node["repo"], branch), node["uuid"])
            if first != node["uuid"]:
                yield where, f'begins branch "{branch}", which {first} has begun'


def instances(survey: Survey) -> Iterator[Wrong]:
    """Instances belong to a repo and a version of it, names are unique in a repo, data UUIDs everywhere."""
    names: dict[tuple[int, str], int] = {}
    uuids: dict[str, int] = {}
    for number, record in survey.instances.items():
        where = f'instance "{record["name"]}" ({number})'
        repo = survey.repos.get(record["repo"])
        if repo is None:
            yield where, f"belongs to repo {record['repo']}, which does not exist"
            continue
        node = survey.nodes.get(record["version"])
        if node is None or node["repo"] != record["repo"]:
            yield where, f"was made in version {record['version']}, which is none of its repo"
        if record["root"] != repo["root"]:
            yield where, f"says that its repo's root is {record['root']}, but it is {repo['root']}"
        if names.setdefault((record["repo"], record["name"]), number) != number:
            yield where, f"has the name of instance {names[record['repo'], record['name']]}"
        if uuids.setdefault(record["uuid"], number) != number:
            yield where, f"has the data UUID of instance {uuids[record['uuid']]}"


# -- counters and logs -------------------------------------------------------------------------------------------


def counters(survey: Survey) -> Iterator[Wrong]:
    """The next ids are above all that are used; the graph's counter is that of its last change."""
    row = survey.txn.get(Table.META, b"ids")
    ids = keys.IDS.unpack(row) if row else (1, 1, 1, 1, 1)
    used = {
        "repo": max(survey.repos, default=0),
        "version": max(survey.nodes, default=0),
        "instance": max((*survey.instances, *survey.freed), default=0),
        "value": _last_value(survey),
        "job": _last_number(survey.txn, Table.JOBS),
    }
    for (kind, highest), following in zip(used.items(), ids, strict=True):
        if highest >= following:
            yield "counter of ids", f"the next {kind} would be {following}, but {highest} is used"
    last = _last_number(survey.txn, Table.GRAPHLOG)
    if last != survey.txn.graph.gen:
        yield "counter of the graph", f"says {survey.txn.graph.gen}, its last change is {last}"


def _last_value(survey: Survey) -> int:
    highest = 0
    cursor = survey.txn.new_cursor(Table.VALUES)
    for owner, _ in survey.owners(Table.VALUES):
        behind = cursor.set_range(keys.U32.pack(owner) + b"\xff" * 13)
        if cursor.prev() if behind else cursor.last():
            highest = max(highest, keys.VALUE_KEY.unpack(cursor.key())[1])
    return highest


def _last_number(txn: ReadTxn, table: Table) -> int:
    with txn.new_cursor(table) as cursor:
        return keys.U64.unpack(cursor.key())[0] if cursor.last() else 0


def change_log(survey: Survey) -> Iterator[Wrong]:
    """The rows of ``changes`` are the newest ones, without a gap, and can be read."""
    following = survey.txn.counter(b"seq")
    expected: int | None = None
    for key, row in survey.scan(Table.CHANGES):
        number = keys.U64.unpack(key)[0]
        if expected is not None and number != expected:
            yield f"change {expected}", "is missing"
        expected = number + 1
        at = 0
        while at + keys.CHANGE.size <= len(row):
            at += keys.CHANGE.size + keys.CHANGE.unpack_from(row, at)[3]
        if at != len(row):
            yield f"change {number}", "cannot be read"
        if following - number > CHANGES_KEPT + 1:
            yield f"change {number}", "should have been forgotten"
    if (expected or following) != following:
        yield "counter of changes", f"says that the next one is {following}, but {expected} is"


def log_lines(survey: Survey) -> Iterator[Wrong]:
    """Lines of logs belong to a repo or version that exists, and are text."""
    for key, row in survey.scan(Table.LINES):
        scope, owner, number = keys.LINE_KEY.unpack(key)
        where = f"line {number} of {'repo' if scope == ord('r') else 'version'} {owner}"
        if owner not in (survey.repos if scope == ord("r") else survey.nodes):
            yield where, "belongs to nothing that exists"
        try:
            bytes(row[8:]).decode()
        except UnicodeDecodeError:
            yield where, "is not UTF-8"


def mutation_log(survey: Survey) -> Iterator[Wrong]:
    """Mutations belong to an instance and version, can be read, and their ids are below the repo's next one."""
    for key, row in survey.scan(Table.MUTATIONS):
        instance, version, number = keys.MUTATION_KEY.unpack(key)
        if instance in survey.freed:
            continue
        where = f"mutation {number} of instance {instance} at version {version}"
        record = survey.instances.get(instance)
        if record is None or survey.nodes.get(version, {}).get("repo") != record["repo"]:
            yield where, "belongs to no instance and version that exist"
            continue
        following = survey.txn.mutation_id(record["repo"])
        if number >= following:
            yield where, f"is not below the next mutation id of its repo, {following}"
        if _json(row).get("MutationID") != number:
            yield where, "cannot be read, or has another id"


def job_records(survey: Survey) -> Iterator[Wrong]:
    """Records of background jobs can be read and stand under their own id."""
    for key, row in survey.scan(Table.JOBS):
        number = keys.U64.unpack(key)[0]
        if _json(row).get("id") != number:
            yield f"job {number}", "cannot be read, or has another id"


CHECKS: tuple[Callable[[Survey], Iterator[Wrong]], ...] = (
    graph_records,
    parents,
    branches,
    instances,
    counters,
    change_log,
    log_lines,
    mutation_log,
    job_records,
)
