"""Imports step by step: each step is one write, which also moves the import's job row on, so that a killed import goes on.

Decides how an import is found again, claimed, told and cancelled; what a step writes is a :class:`Steps`: voxels or keys. While a step is being
written, a thread prepares the next :data:`AHEAD`. The row keeps a seal of what the finished steps were read from: an import whose source has changed
there begins anew, one whose bad file was repaired goes on. Invariant: the row says a step is done if and only if its data are in
the store.
"""

from __future__ import annotations

import os
import tarfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from dvidfs.cli.key import take
from dvidfs.cli.names import registry, user
from dvidfs.cli.progress import Progress
from dvidfs.cli.sources.base import fingerprint
from dvidfs.engine import Engine, Instance, Node, WriteTxn, WriteView, jobs
from dvidfs.engine.keys import MAX_KEY, PIECE
from dvidfs.engine.values import Prepared, Uploaded, prepare
from dvidfs.engine.versions import Caller
from dvidfs.errors import BadRequest, Busy, DvidfsError, Locked, NotFound
from dvidfs.fuse.names import decode
from dvidfs.types import workers
from dvidfs.types.base import Keys

KIND = "import"
AHEAD = 2
"""Steps that wait for the write lane."""
BATCH_BYTES = 8 << 20
BATCH_FILES = 1000


@dataclass(frozen=True)
class Target:
    """Where an import goes: an instance at a version, taken anew in each transaction."""

    engine: Engine
    version: str
    instance: str

    def read(self) -> tuple[Node, Instance]:
        with self.engine.read() as txn:
            node = txn.graph.version(self.version)
            return node, txn.graph.instance(node, self.instance)

    def view(self, txn: WriteTxn) -> WriteView:
        node = txn.graph.version(self.version)
        refusal = f"version {node.uuid} has been committed: import into a child, see `dvidfs newversion`"
        return WriteView(txn, node, txn.graph.instance(node, self.instance), Caller(user(), "dvidfs"), refusal=refusal)


Write = Callable[[WriteView], None]


class Steps(Protocol):
    """Work cut into writes. ``plan`` names it: an import with another plan is another import."""

    target: Target
    plan: dict[str, Any]
    sizes: Sequence[int]
    title: str

    def prepare(self, number: int) -> Write:
        """Read and encode what a step writes; the write itself, for the lane."""
        ...

    def seal(self, done: int) -> str:
        """A text that changes when what the first ``done`` steps are read from does."""
        ...

    @property
    def summary(self) -> dict[str, Any]:
        """What was imported, for scripts."""
        ...

    def close(self) -> None: ...


def run(target: Target, steps: Steps, *, quiet: bool) -> Progress:
    """Do all steps that an earlier run has not done.

    Raises:
        Busy: the same import runs in another process, or was cancelled by ``dvidfs jobs``.
    """
    job = target.engine.write(lambda txn: _claim(txn, target, steps))
    done = sum(steps.sizes[: job.done])
    progress = Progress(f"importing {steps.title}", sum(steps.sizes), already=done, quiet=quiet)
    try:
        for number, write in _prepared_steps(steps, job.done):
            target.engine.write(
                lambda txn, n=number, w=write: _step(txn, target, steps, job.id, n, w), steps.sizes[number]
            )
            done += steps.sizes[number]
            progress.at(done)
    except Busy:
        raise
    except Exception as e:
        text = str(e)
        with suppress(DvidfsError):  # a full disk cannot even take this
            target.engine.write(lambda txn: jobs.save(txn, replace(jobs.get(txn, job.id), state="failed", error=text)))
        raise
    finally:
        progress.end()
    target.engine.write(lambda txn: jobs.save(txn, replace(jobs.get(txn, job.id), state="done", updated=txn.now)))
    return progress


def _prepared_steps(steps: Steps, first: int) -> Iterator[tuple[int, Write]]:
    """The writes of steps in their order; the next ones are prepared while one is used."""
    waiting: deque[Future[Write]] = deque()
    thread = ThreadPoolExecutor(1, "import")
    try:
        for number in range(first, len(steps.sizes)):
            waiting.extend(thread.submit(steps.prepare, n) for n in _fresh(number, len(waiting), len(steps.sizes)))
            yield number, waiting.popleft().result()
    finally:
        thread.shutdown(wait=True, cancel_futures=True)


def _fresh(number: int, waiting: int, count: int) -> range:
    """The steps to be prepared from now on."""
    return range(number + waiting, min(number + 1 + AHEAD, count))


def _claim(txn: WriteTxn, target: Target, steps: Steps) -> jobs.Job:
    """The row of this very import: that of an earlier run that did not end, or a new one."""
    node = txn.graph.version(target.version)
    instance = txn.graph.instance(node, target.instance)
    if node.locked and instance.versioned:
        raise Locked(f"version {node.uuid} is committed and changes no more: see `dvidfs newversion`")
    args = {"instance": instance.id, "version": node.id, **steps.plan}
    for job in jobs.all_jobs(txn):
        if job.kind != KIND or {**job.args, "seal": ""} != {**args, "seal": ""} or job.state == "done":
            continue
        if job.state == "running" and jobs.alive(job.owner) and job.owner != jobs.me():
            raise Busy(f'process {job.owner.split()[1]} runs this import already: see "dvidfs jobs"')
        done = job.done if job.args.get("seal") == steps.seal(job.done) else 0
        found = replace(job, state="running", error="", owner=jobs.me(), done=done, updated=txn.now)
        jobs.save(txn, found)
        return found
    args["seal"] = steps.seal(0)
    number = jobs.add(txn, KIND, args, title=f'import {steps.title} into "{instance.name}"', total=len(steps.sizes))
    found = replace(jobs.get(txn, number), state="running", owner=jobs.me())
    jobs.save(txn, found)
    return found


def _step(txn: WriteTxn, target: Target, steps: Steps, number: int, step: int, write: Write) -> None:
    job = jobs.get(txn, number)
    if job.state != "running" or job.owner != jobs.me():
        raise Busy(f"the import was {job.state}: run the same command again to continue it")
    write(target.view(txn))
    jobs.save(txn, replace(job, args={**job.args, "seal": steps.seal(step + 1)}, done=step + 1, updated=txn.now))


# -- keys --------------------------------------------------------------------------------------------------------


class KeySteps:
    """Files as values, in order of their names: of a folder with all below it, or of a tar archive."""

    def __init__(self, target: Target, path: Path, files: Sequence[_File]) -> None:
        _, instance = target.read()
        tree = registry()[instance.type].tree
        assert isinstance(tree, Keys)
        self.put = tree.put
        self.target = target
        self.instance = instance.id
        self.files = files
        self.title = f"{len(self.files)} files"
        self.batches = list(_batches(self.files))
        self.sizes: Sequence[int] = [sum(self.files[i].size for i in batch) for batch in self.batches]
        self.plan = {"source": _fingerprint(path, self.files), "batches": len(self.batches)}

    def seal(self, done: int) -> str:
        return str(self.plan["source"])

    @property
    def summary(self) -> dict[str, Any]:
        return {"files": len(self.files)}

    def close(self) -> None:
        """No file is kept open."""

    def prepare(self, number: int) -> Write:
        files = [self.files[i] for i in self.batches[number]]
        small = [file for file in files if file.size <= PIECE]
        values: dict[bytes, Prepared | Uploaded] = dict(workers.each(_prepared, small))
        for file in files:
            if file.size > PIECE:
                with file.open() as opened:
                    values[file.key] = take(self.target.engine, self.instance, opened)

        def write(view: WriteView) -> None:
            for key in sorted(values):
                self.put(view, key, values[key])

        return write


@dataclass(frozen=True)
class _File:
    """A file to be imported; ``offset`` is where it lies in ``path``, an archive, else 0 and the whole of it."""

    key: bytes
    path: Path
    offset: int
    size: int

    def open(self) -> Any:
        opened = self.path.open("rb")
        opened.seek(self.offset)
        return _Window(opened, self.size)


class _Window:
    """The next ``size`` bytes of an open file."""

    def __init__(self, file: Any, size: int) -> None:
        self.file = file
        self.left = size

    def read(self, count: int = -1) -> bytes:
        data = self.file.read(min(count, self.left) if count >= 0 else self.left)
        self.left -= len(data)
        return data

    def __enter__(self) -> _Window:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _prepared(file: _File) -> tuple[bytes, Prepared]:
    with file.open() as opened:
        return file.key, prepare(opened.read())


def list_files(path: Path) -> list[_File]:
    """The files to be imported from a folder or an archive.

    Raises:
        NotFound: nothing there.
        BadRequest: no files, or names that are no keys.
    """
    if not path.exists():
        raise NotFound(f"there is no {path} to import")
    files = list(_tar_files(path) if path.is_file() else _folder_files(path))
    if not files:
        raise BadRequest(f"{path} holds no files")
    return files


def _folder_files(folder: Path) -> Iterator[_File]:
    """Files below a folder; the key is the path from there, its parts decoded as in a mount."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if path.is_file():
                parts = [decode(os.fsencode(part)) for part in path.relative_to(folder).parts]
                if None in parts:
                    raise BadRequest(f"{path}: no key has this name: a %XX in it is not one that a mount would write")
                yield _File(_key(b"/".join(p for p in parts if p is not None), path), path, 0, path.stat().st_size)


def _tar_files(path: Path) -> Iterator[_File]:
    """Members of an archive that is not compressed; the key is the name, as it is."""
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as archive:
            for member in archive:
                if member.isfile():
                    key = _key(member.name.encode(errors="surrogateescape"), path)
                    yield _File(key, path, member.offset_data, member.size)
    except tarfile.TarError as e:
        raise BadRequest(f"{path} is neither a folder nor a tar archive without compression: {e}") from None


def _key(key: bytes, path: Path) -> bytes:
    if len(key) > MAX_KEY:
        raise BadRequest(f"{path}: the key would have {len(key)} bytes, at most {MAX_KEY} are allowed")
    return key


def _batches(files: Sequence[_File]) -> Iterator[range]:
    start, size = 0, 0
    for i, file in enumerate(files):
        if i > start and (size + file.size > BATCH_BYTES or i - start >= BATCH_FILES):
            yield range(start, i)
            start, size = i, 0
        size += file.size
    yield range(start, len(files))


def _fingerprint(path: Path, files: Sequence[_File]) -> str:
    return fingerprint([path] if path.is_file() else (f.path for f in files))
