"""Imports step by step: each step is one write, which also moves the import's job row on, so that a killed import goes on.

Decides how an import is found again, claimed, told and cancelled; what a step writes is a :class:`Steps`: voxels or keys.
Invariant: the row says a step is done if and only if its data are in the store.
"""

from __future__ import annotations

import itertools
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dvidfs.cli.key import take
from dvidfs.cli.names import registry, user
from dvidfs.cli.progress import Progress
from dvidfs.cli.sources import Source, fingerprint
from dvidfs.engine import Engine, Instance, Node, ReadView, WriteTxn, WriteView, jobs
from dvidfs.engine.keys import MAX_KEY, PIECE
from dvidfs.engine.values import Prepared, Uploaded, prepare
from dvidfs.engine.versions import Caller
from dvidfs.errors import BadRequest, Busy, DvidfsError, Locked, NotFound
from dvidfs.fuse.names import decode
from dvidfs.types import workers
from dvidfs.types.base import Keys
from dvidfs.types.geometry import Box, Point, covering_blocks, join

KIND = "import"
STEP_BYTES = 64 << 20
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


def run(target: Target, steps: Steps, *, quiet: bool) -> Progress:
    """Do all steps that an earlier run has not done.

    Raises:
        Busy: the same import runs in another process, or was cancelled by ``dvidfs jobs``.
    """
    job = target.engine.write(lambda txn: _claim(txn, target, steps))
    done = sum(steps.sizes[: job.done])
    progress = Progress(f"importing {steps.title}", sum(steps.sizes), already=done, quiet=quiet)
    try:
        for number in range(job.done, len(steps.sizes)):
            write = steps.prepare(number)
            target.engine.write(lambda txn, n=number, w=write: _step(txn, target, job.id, n, w), steps.sizes[number])
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


def _claim(txn: WriteTxn, target: Target, steps: Steps) -> jobs.Job:
    """The row of this very import: that of an earlier run that did not end, or a new one."""
    node = txn.graph.version(target.version)
    instance = txn.graph.instance(node, target.instance)
    if node.locked and instance.versioned:
        raise Locked(f"version {node.uuid} is committed and changes no more: see `dvidfs newversion`")
    args = {"instance": instance.id, "version": node.id, **steps.plan}
    for job in jobs.all_jobs(txn):
        if job.kind != KIND or dict(job.args) != args or job.state == "done":
            continue
        if job.state == "running" and jobs.alive(job.owner) and job.owner != jobs.me():
            raise Busy(f'process {job.owner.split()[1]} runs this import already: see "dvidfs jobs"')
        found = replace(job, state="running", error="", owner=jobs.me(), updated=txn.now)
        jobs.save(txn, found)
        return found
    number = jobs.add(txn, KIND, args, title=f'import {steps.title} into "{instance.name}"', total=len(steps.sizes))
    found = replace(jobs.get(txn, number), state="running", owner=jobs.me())
    jobs.save(txn, found)
    return found


def _step(txn: WriteTxn, target: Target, number: int, step: int, write: Write) -> None:
    job = jobs.get(txn, number)
    if job.state != "running" or job.owner != jobs.me():
        raise Busy(f"the import was {job.state}: run the same command again to continue it")
    write(target.view(txn))
    jobs.save(txn, replace(job, done=step + 1, updated=txn.now))


# -- voxels ------------------------------------------------------------------------------------------------------


def check_fits(source: Source, typename: str, block: Point, offset: Point) -> None:
    """Refuse a volume that an instance of this type and block size (x, y, z) cannot take.

    Raises:
        BadRequest: it has other voxels, or does not begin at a block.
    """
    from dvidfs.types.imageblk.kinds import KINDS

    kind = KINDS.get(typename)
    if kind is None:
        raise BadRequest(f"type {typename} takes no voxels: import a volume into one such as uint8blk")
    if source.dtype != kind.item:
        raise BadRequest(f"{source.title} holds {source.dtype}, {typename} holds {kind.item}: convert it first")
    if any(o % b for o, b in zip(offset, block, strict=True)):
        raise BadRequest(f"offset {join(offset)} must be a multiple of the block size {join(block)}")


class VoxelSteps:
    """A volume in slabs of blocks: layers one block high, cut along y where they are large."""

    def __init__(self, target: Target, source: Source, offset: Point) -> None:
        self.block: Point = tuple(target.read()[1].settings["BlockSize"])
        self.target = target
        self.source = source
        self.offset = offset
        self.title = source.title
        depth, height, width = source.shape
        rows = max(1, STEP_BYTES // (width * self.block[2] * source.dtype.itemsize * self.block[1])) * self.block[1]
        layers, bands = _ranges(depth, self.block[2]), _ranges(height, rows)
        self.parts = list(itertools.product(layers, bands))
        self.sizes: Sequence[int] = [len(z) * len(y) * width * source.dtype.itemsize for z, y in self.parts]
        self.plan = {"source": source.fingerprint, "offset": list(offset), "rows": rows}

    def prepare(self, number: int) -> Write:
        from dvidfs.types.imageblk import requests

        z, y = self.parts[number]
        voxels = self.source.read(z, y)
        following = next((part[0] for part in self.parts[number + 1 :] if part[0] != z), None)
        if following is not None:
            self.source.expect(following)
        box = Box(
            (self.offset[0], self.offset[1] + y.start, self.offset[2] + z.start), (voxels.shape[2], len(y), len(z))
        )
        node, instance = self.target.read()
        with self.target.engine.read() as txn:
            view = ReadView(txn, node, instance)
            whole, padded = self._padded(view, box, voxels)
            names = {"dims": "0_1_2", "size": join(whole.size), "offset": join(whole.offset)}
            given = requests.prepare_raw(
                view, **names, body=padded.reshape(-1).view(np.uint8).data, roi="", attenuation="", mutate=False
            )
        return lambda write: requests.post_raw(write, **{**given, "box": box})

    def _padded(self, view: ReadView, box: Box, voxels: NDArray) -> tuple[Box, NDArray]:
        """Whole blocks: at the edges of the volume filled up with what is there already."""
        from dvidfs.types.imageblk.volume import Volume

        grid = covering_blocks(box, self.block)
        (x, y, z), (i, j, k) = grid.offset, grid.size
        a, b, c = self.block
        whole = Box((x * a, y * b, z * c), (i * a, j * b, k * c))
        if whole == box:
            return whole, np.ascontiguousarray(voxels)
        volume = Volume.of(view)
        padded = volume.read(whole, volume.background)
        padded[whole.window(box)] = voxels
        return whole, padded


def _ranges(stop: int, step: int) -> list[range]:
    return [range(at, min(at + step, stop)) for at in range(0, stop, step)]


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
