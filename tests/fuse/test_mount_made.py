"""Files that have no size before they are made: what is announced is what is read, and a listing makes nothing costly."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import threading
import time
from pathlib import Path

import live
import numpy as np
import pytest
import shelf
from mounting import errno_of, run
from shelf import REPEATS, SLOW, make_shelf, put
from worlds import MakeStage, Stage

from dvidfs.engine import repos
from dvidfs.engine.versions import Caller

TEXT = b"the quick brown fox\n"
LONG = TEXT * REPEATS


@pytest.fixture
def shelved(stage: Stage) -> Stage:
    make_shelf(stage.engine, stage.world.leaf, TEXT)
    return stage


@pytest.fixture(scope="module")
def shared_shelf(shared: Stage) -> Stage:
    make_shelf(shared.engine, shared.world.leaf, TEXT)
    return shared


@pytest.fixture
def folder(shelved: Stage) -> Path:
    return shelved.leaf / "shelf"


def made(stage: Stage, name: str) -> int:
    """How often a file has been made."""
    return stage.mount.log.count(f"made {name}\n")


def test_a_size_is_exact_whenever_it_is_told(shelved: Stage, folder: Path):
    assert (folder / "text.txt").stat().st_size == len(TEXT)
    assert (folder / "text.txt").read_bytes() == TEXT
    assert (folder / "long.bin").stat().st_size == len(LONG)
    assert (folder / "long.bin").read_bytes() == LONG
    assert (folder / "bodies" / "999999" / "text.txt").read_bytes() == b"999999 " + TEXT
    assert [made(shelved, name) for name in ("text", "long")] == [1, 1]


def test_a_listing_makes_nothing_costly(shelved: Stage, folder: Path):
    assert b"costly.bin" in os.listdir(os.fsencode(folder))
    assert [made(shelved, name) for name in ("text", "long", "costly")] == [0, 0, 0], "names cost nothing"
    sizes = {line.split()[-1]: int(line.split()[4]) for line in run("ls", "-l", folder).splitlines()[1:]}
    assert (sizes["text.txt"], sizes["long.bin"], sizes["costly.bin"]) == (len(TEXT), len(LONG), 0)
    assert made(shelved, "costly") == 0
    with (folder / "costly.bin").open("rb") as file:
        assert os.fstat(file.fileno()).st_size == len(LONG)
    assert (folder / "costly.bin").stat().st_size == len(LONG), "once it is made"
    assert f" {len(LONG)} " in run("ls", "-l", folder / "costly.bin")
    assert made(shelved, "costly") == 1
    assert (folder / "costly.bin").stat().st_mtime_ns == 7_000_000_000


def written(path: Path, *words: object) -> bytes:
    """What a program writes to a file."""
    run(*words)
    return path.read_bytes()


READERS = {
    "read": lambda path, out: path.read_bytes(),
    "cat": lambda path, out: run("cat", path).encode(),
    "cp": lambda path, out: written(out, "cp", path, out),
    "cp -a": lambda path, out: written(out, "cp", "-a", path, out),
    "copyfile": lambda path, out: shutil.copyfile(path, out).read_bytes(),
    "rsync": lambda path, out: written(out, "rsync", "--inplace", path, out),
    "tar": lambda path, out: run("tar", "-xOf", tarred(path, out)).encode(),
    "dd": lambda path, out: written(out, "dd", f"if={path}", f"of={out}", "bs=7777", "status=none"),
    "mmap": lambda path, out: mapped(path),
    "memmap": lambda path, out: np.memmap(path, mode="r").tobytes(),
    "fromfile": lambda path, out: np.fromfile(path, np.uint8).tobytes(),
}


def tarred(path: Path, out: Path) -> Path:
    run("tar", "-C", path.parent, "-cf", out, path.name)
    return out


def mapped(path: Path) -> bytes:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return whole[:]


@pytest.mark.parametrize("name", READERS)
def test_every_reader_gets_all_of_what_was_never_made_before(shared_shelf: Stage, name: str, tmp_path: Path):
    """The kernel was told of a size of 0 just before, and has pages of another content of the same size and time."""
    stage, path = shared_shelf, shared_shelf.leaf / "shelf" / "costly.bin"
    text = f"{name:19}\n".encode()
    put(stage.engine, stage.world.leaf, text)
    live.wait_until(lambda: path.stat().st_size == 0, 3, "the end of what was made before")
    before = made(stage, "costly")
    assert READERS[name](path, tmp_path / "out") == text * REPEATS
    assert made(stage, "costly") == before + 1


def test_the_end_of_a_file_can_be_read_before_all_else(shelved: Stage, folder: Path):
    path = folder / "costly.bin"
    with path.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 100, len(LONG) - 7) == LONG[-7:]
        assert file.seek(0, os.SEEK_END) == len(LONG)
        assert os.pread(file.fileno(), 100, len(LONG)) == b""
    assert run("tail", "-c", "100", path).encode() == LONG[-100:]


def test_an_open_file_keeps_what_it_showed(shelved: Stage, folder: Path):
    path = folder / "long.bin"
    with path.open("rb", buffering=0) as old:
        view = mmap.mmap(old.fileno(), 0, access=mmap.ACCESS_READ)
        assert view[: len(TEXT)] == TEXT
        put(shelved.engine, shelved.world.leaf, b"short")
        live.wait_until(lambda: path.stat().st_size == 5 * REPEATS, 3, "the new size")
        assert path.read_bytes() == b"short" * REPEATS
        assert os.fstat(old.fileno()).st_size == len(LONG)
        assert os.listdir(folder)
        assert view[:] == LONG
        assert old.read() == LONG
        assert path.read_bytes() == b"short" * REPEATS
        view.close()
    assert path.read_bytes() == b"short" * REPEATS
    assert made(shelved, "long") == 2


def test_what_hangs_on_nothing_that_changed_is_not_made_anew(shelved: Stage, folder: Path):
    assert (folder / "first.txt").read_bytes() == b"t"
    put(shelved.engine, shelved.world.leaf, b"tea")
    live.wait_until(lambda: (folder / "text.txt").read_bytes() == b"tea", 3, "the new text")
    assert (folder / "first.txt").read_bytes() == b"t"
    assert made(shelved, "first") == 1
    put(shelved.engine, shelved.world.leaf, b"coffee")
    live.wait_until(lambda: (folder / "first.txt").read_bytes() == b"c", 3, "the new letter")
    assert made(shelved, "first") == 2


def test_others_are_served_while_a_file_is_made(shelved: Stage, folder: Path):
    """One making for all who ask; nobody else waits for it."""
    assert (shelved.kv / "a").read_bytes() == b"changed\n"
    found: list[bytes] = []
    askers = [threading.Thread(target=lambda: found.append((folder / "slow.txt").read_bytes())) for _ in range(20)]
    start = time.monotonic()
    for thread in askers:
        thread.start()
    live.wait_until(lambda: made(shelved, "slow"), 5, "the making")
    served = 0
    while len(found) < len(askers):
        assert os.listdir(folder)
        assert (folder / "text.txt").read_bytes() == TEXT
        os.statvfs(folder)
        served += 1
        assert time.monotonic() - start < 20 * SLOW
    for thread in askers:
        thread.join()
    assert found == [TEXT] * len(askers)
    assert served > 1
    assert made(shelved, "slow") == 1


def test_committed_files_are_kept_in_the_kernel(make_stage: MakeStage):
    """Seen by breaking the handlers: what the kernel holds needs none of them."""
    stage = make_stage(inject=True)
    make_shelf(stage.engine, stage.world.leaf, TEXT)
    stage.engine.write(lambda t: repos.commit(t, t.graph.version(stage.world.leaf), note="done"))
    fd = os.open(stage.leaf / "shelf", os.O_RDONLY)
    for path in map((stage.leaf / "shelf").joinpath, ("long.bin", "costly.bin")):
        assert path.read_bytes() == LONG
        assert path.stat().st_size == len(LONG)
    stage.mount.faults.write_text('{"lookup": "KeyError", "getattr": "KeyError", "read": "KeyError"}')
    time.sleep(1.5)  # longer than anything else is kept
    for name in ("long.bin", "costly.bin"):
        assert os.stat(name, dir_fd=fd).st_size == len(LONG)
        with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=fd), "rb") as file:
            assert file.read(100_000) == LONG[:100_000]
        assert made(stage, name.removesuffix(".bin")) == 1
    os.close(fd)


def test_what_an_administrator_changes_in_a_committed_version_is_made_anew(shelved: Stage, folder: Path):
    shelved.engine.write(lambda t: repos.commit(t, t.graph.version(shelved.world.leaf), note="done"))
    path = folder / "long.bin"
    assert path.read_bytes() == LONG
    with path.open("rb", buffering=0) as old:
        put(shelved.engine, shelved.world.leaf, b"rewritten", Caller(privileged=True))
        live.wait_until(lambda: path.read_bytes() == b"rewritten" * REPEATS, 5, "the changed history")
        assert old.read(len(LONG) + 1) == LONG


def test_what_goes_wrong_is_an_errno(shelved: Stage, folder: Path):
    assert errno_of((folder / "gone.txt").read_bytes) == errno.ENOENT
    assert errno_of((folder / "bad.bin").read_bytes) == errno.EIO
    assert "the rest is damaged" in (shelved.mount.path / ".dvidfs" / "errors.log").read_text()
    assert {"gone.txt", "bad.bin"} <= set(os.listdir(folder))
    run("ls", "-l", folder)
    assert (folder / "text.txt").read_bytes() == TEXT
    assert errno_of(lambda: (folder / "text.txt").write_bytes(b"x")) == errno.EACCES
    assert errno_of(lambda: os.truncate(folder / "text.txt", 0)) == errno.EACCES
    assert errno_of(lambda: os.utime(folder / "text.txt")) == errno.EACCES
    assert "Traceback" not in shelved.mount.log


def test_a_file_that_is_shown_no_more_goes(shelved: Stage, folder: Path):
    assert (folder / "filled.txt").read_bytes() == TEXT
    with (folder / "filled.txt").open("rb", buffering=0) as still:
        put(shelved.engine, shelved.world.leaf, b"")
        live.wait_until(lambda: not (folder / "filled.txt").exists(), 3, "its end")
        assert still.read() == TEXT
    assert (folder / "text.txt").stat().st_size == 0
    assert (folder / "text.txt").read_bytes() == b""


def test_many_names_are_listed_once_each(shelved: Stage, folder: Path):
    put(shelved.engine, shelved.world.leaf, b"x" * 7)
    live.wait_until(lambda: len(os.listdir(folder / "bodies")) == 7000, 3, "the folders")
    with os.scandir(folder / "bodies") as entries:
        found = [(e.name, e.is_dir(), e.inode()) for e in entries]
    assert [name for name, _, _ in found] == [str(n) for n in range(7000)]
    assert all(is_dir for _, is_dir, _ in found)
    assert len({inode for _, _, inode in found}) == 7000
    assert (folder / "bodies" / "6999").stat().st_ino == found[-1][2]
    assert (folder / "bodies" / str(shelf.BODIES - 1)).is_dir(), "not listed, but there"
    assert not (folder / "bodies" / str(shelf.BODIES)).exists()
