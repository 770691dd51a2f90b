"""What others write is seen in time and whole; what dies is healed. Promises of docs/mount.md, section 3."""

from __future__ import annotations

import errno
import itertools
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import live
import pytest
from fakes import ALL, KEY
from mounting import Mounted, errno_of
from worlds import MakeStage, Stage, write

from dvidfs.engine import WriteTxn, WriteView, repos
from dvidfs.engine.keys import Family
from dvidfs.engine.values import Upload, prepare
from dvidfs.engine.versions import Caller

SOON = 1.0
SLACK = 1.0
"""Seconds that a busy machine may add."""


def seen_within(seconds: float, what: str, check) -> None:
    began = time.monotonic()
    live.wait_until(check, 10, what)
    assert time.monotonic() - began < seconds


# -- an open version shows what others write within a second


def test_a_write_elsewhere_is_seen(stage: Stage):
    path, leaf = stage.kv / "a", stage.world.leaf
    for n in range(5):
        assert path.exists()  # the kernel holds name, attributes and pages
        path.read_bytes()
        value = b"value %d " % n * (n + 1)
        write(stage.engine, leaf, "kv", {b"a": value})
        seen_within(SOON + SLACK, "the new value", lambda value=value: path.read_bytes() == value)
        assert path.stat().st_size == len(value)


def test_keys_that_come_and_go_elsewhere(stage: Stage):
    path, leaf = stage.kv / "new", stage.world.leaf
    for _ in range(3):
        assert not path.exists()
        write(stage.engine, leaf, "kv", {b"new": b"x"})
        seen_within(SOON + SLACK, "the new key", path.exists)
        write(stage.engine, leaf, "kv", {b"new": None})
        seen_within(SOON + SLACK, "that it is gone", lambda: not path.exists())


def test_many_keys_at_once(stage: Stage):
    list(stage.kv.iterdir())
    write(stage.engine, stage.world.leaf, "kv", {b"k%d" % n: b"1" for n in range(500)} | {b"a": b"again"})
    seen_within(SOON + SLACK, "all of them", lambda: len(os.listdir(stage.kv)) == 503)
    seen_within(SOON + SLACK, "the changed one", lambda: (stage.kv / "a").read_bytes() == b"again")


def test_a_memory_map_of_an_open_version_is_right_when_it_is_opened_anew(stage: Stage):
    import mmap

    path = stage.kv / "a"
    for n in range(5):
        value = os.urandom(3000 + n * 2000)
        write(stage.engine, stage.world.leaf, "kv", {b"a": value})
        with path.open("rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
            seen = bytes(m)
        assert len(seen) in (len(value), 3000 + max(0, n - 1) * 2000, 8)
        seen_within(SOON + SLACK, "the new value", lambda value=value: path.read_bytes() == value)


def test_new_versions_and_instances(stage: Stage):
    leaf = stage.world.leaf
    link = stage.fly / "branches" / "master"
    assert os.readlink(link).endswith(leaf)
    stage.engine.write(lambda t: repos.commit(t, t.graph.version(leaf)))
    child = stage.engine.write(lambda t: repos.new_version(t, t.graph.version(leaf))).uuid
    seen_within(SOON + SLACK, "the new leaf", lambda: os.readlink(link).endswith(child))
    assert (link / "kv" / "a").read_bytes() == b"changed\n"
    seen_within(
        SOON + SLACK, "that it is committed", lambda: errno_of(lambda: (stage.kv / "a").open("ab")) == errno.EROFS
    )
    assert errno_of((link / "made").stat) == errno.ENOENT
    stage.engine.write(lambda t: repos.create_instance(t, t.graph.version(child), "keyvalue", "made"))
    seen_within(SOON + SLACK, "the new instance", (link / "made").is_dir)


def test_unversioned_instances_are_followed_in_every_version(stage: Stage):
    paths = [stage.root / "loose" / "l", stage.leaf / "loose" / "l"]
    assert [p.read_bytes() for p in paths] == [b"loose\n"] * 2
    write(stage.engine, stage.world.leaf, "loose", {b"l": b"tighter\n"})
    for path in paths:
        seen_within(SOON + SLACK, "the new value", lambda path=path: path.read_bytes() == b"tighter\n")


def test_two_mounts_of_one_store(stage: Stage):
    with Mounted(stage.world.store) as second:
        other = second.path / "fly" / stage.world.leaf / "kv"
        for n in range(3):
            (other / "shared").write_bytes(b"%d" % n)
            seen_within(
                SOON + SLACK,
                "it",
                lambda n=n: (
                    errno_of((stage.kv / "shared").stat) == 0 and (stage.kv / "shared").read_bytes() == b"%d" % n
                ),
            )


def test_a_computed_file_is_a_live_view(stage: Stage):
    path = stage.leaf / "grid" / "volume.raw"
    assert path.read_bytes() == bytes(ALL)
    with path.open("rb", buffering=0) as f:

        def change(txn: WriteTxn) -> None:
            node = txn.graph.version(stage.world.leaf)
            WriteView(txn, node, txn.graph.instance(node, "grid")).put(Family.BLOCK, KEY, prepare(b"v" * ALL))

        stage.engine.write(change)
        seen_within(SOON + SLACK, "the new state", lambda: os.pread(f.fileno(), 9, 100) == b"v" * 9)
    assert path.read_bytes() == b"v" * ALL


# -- committed versions are kept without end, and dropped when history is changed


def test_what_an_administrator_changes_is_dropped(stage: Stage):
    path, absent = stage.root / "kv" / "a", stage.root / "kv" / "z"
    assert path.read_bytes() == b"first\n"
    assert not absent.exists()

    def change(txn: WriteTxn) -> None:
        node = txn.graph.version(stage.world.root)
        view = WriteView(txn, node, txn.graph.instance(node, "kv"), Caller(privileged=True))
        view.put_text(b"a", prepare(b"rewritten\n"))
        view.put_text(b"z", prepare(b"added\n"))

    stage.engine.write(change)
    live.wait_until(lambda: path.read_bytes() == b"rewritten\n" and absent.exists(), 5, "the changed history")
    live.wait_until(lambda: (stage.fly / "branches" / "side" / "kv" / "a").read_bytes() == b"rewritten\n", 5)


def test_committed_data_is_kept_in_the_kernel(make_stage: MakeStage):
    """Seen by breaking the handlers: what the kernel holds needs none of them."""
    stage = make_stage(inject=True)
    path = stage.root / "kv" / "a"
    fd = os.open(stage.root / "kv", os.O_RDONLY)
    assert path.read_bytes() == b"first\n"
    assert path.stat().st_size == 6  # a read makes the kernel ask for the time of access once more
    assert errno_of(lambda: os.stat("absent", dir_fd=fd)) == errno.ENOENT
    stage.mount.faults.write_text('{"lookup": "KeyError", "getattr": "KeyError", "read": "KeyError"}')
    time.sleep(1.5)  # longer than anything else is kept
    assert os.stat("a", dir_fd=fd).st_size == 6
    assert errno_of(lambda: os.stat("absent", dir_fd=fd)) == errno.ENOENT
    again = os.open("a", os.O_RDONLY, dir_fd=fd)
    assert os.pread(again, 10, 0) == b"first\n"
    assert errno_of(lambda: os.stat(path)) == errno.EIO  # above instances names expire
    os.close(again)
    os.close(fd)


# -- one read never mixes two states


@pytest.mark.parametrize("size", [100, 70_000, 900_000, 3_000_000])
def test_readers_never_see_a_mixture(stage: Stage, size: int):
    path, leaf = stage.kv / "a", stage.world.leaf
    states = [bytes([65 + n]) * (size + 37 * n) for n in range(4)]
    write(stage.engine, leaf, "kv", {b"a": states[0]})
    stop, wrong, seen = threading.Event(), [], set()

    def rewrite() -> None:
        for n in itertools.count():
            if stop.is_set():
                return
            if n % 3:
                put_long(stage, states[n % 4])
            else:
                path.with_name("tmp").write_bytes(states[n % 4])
                path.with_name("tmp").rename(path)

    def read() -> None:
        while not stop.is_set():
            data = path.read_bytes()
            if data not in states:
                wrong.append((len(data), sorted(set(data))))
            seen.add(data[:1])

    threads = [threading.Thread(target=rewrite), *(threading.Thread(target=read) for _ in range(3))]
    for thread in threads:
        thread.start()
    time.sleep(3)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(seen) > 1


def put_long(stage: Stage, value: bytes) -> None:
    with stage.engine.read() as txn:
        instance = txn.graph.instance(txn.graph.version(stage.world.leaf), "kv").id
    upload = Upload(stage.engine.store, instance)
    upload.feed(value)
    done = upload.finish()

    def fn(txn: WriteTxn) -> None:
        node = txn.graph.version(stage.world.leaf)
        WriteView(txn, node, txn.graph.instance(node, "kv")).put_text(b"a", done)

    stage.engine.write(fn)


# -- unclean ends


def test_kill_and_remount_heals(stage: Stage):
    for n in range(5):
        (stage.kv / "k").write_bytes(b"acknowledged %d" % n)
        stage.mount.die()
        assert errno_of(stage.mount.path.stat) == errno.ENOTCONN
        stage.mount.start()
        assert (stage.kv / "k").read_bytes() == b"acknowledged %d" % n


def test_kill_at_any_moment_loses_nothing_acknowledged(stage: Stage):
    rng = random.Random(1)
    for round_ in range(4):
        done: list[int] = []

        def write_on(round_: int = round_, done: list[int] = done) -> None:
            for n in range(10_000):
                if errno_of(lambda n=n: (stage.kv / f"{round_}-{n}").write_bytes(b"%d" % n * 50)):
                    return
                done.append(n)

        writer = threading.Thread(target=write_on)
        writer.start()
        live.wait_until(lambda done=done: len(done) > 3, 10)
        time.sleep(rng.random() * 0.2)
        stage.mount.die()
        writer.join()
        for n in done:
            assert stage.value(b"%d-%d" % (round_, n)) == b"%d" % n * 50
        stage.mount.start()
        assert len([name for name in os.listdir(stage.kv) if name.startswith(f"{round_}-")]) >= len(done)


def test_a_mount_ends_cleanly_with_open_files(stage: Stage):
    fd = os.open(stage.kv / "open", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"in the buffer")
    assert stage.mount.stop() == 0
    assert not os.path.ismount(stage.mount.path)
    assert stage.value(b"open") == b"in the buffer"
    assert errno_of(lambda: os.close(fd)) in (errno.ENOTCONN, errno.ECONNABORTED)


def test_a_mount_taken_away_by_others_ends(stage: Stage):
    subprocess.run(["fusermount3", "-u", str(stage.mount.path)], check=True)
    assert stage.mount.process.wait(10) == 0


# -- what is refused before anything is mounted


@pytest.fixture
def refusal(stage: Stage, tmp_path: Path):
    """What is said when this path is to be mounted on."""

    def ask(path: Path) -> str:
        code = f"""
import sys, trio
from pathlib import Path
from dvidfs.engine import open_engine
from dvidfs.errors import DvidfsError
from dvidfs.fuse.mount import serve_mount
from dvidfs.types.builtin import registry
with open_engine({str(stage.world.store)!r}) as engine:
    try:
        trio.run(serve_mount, engine, registry(), Path({str(path)!r}))
    except DvidfsError as e:
        print(e)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return ask


def test_mount_points_that_cannot_be_used(stage: Stage, refusal, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert "mkdir -p" in refusal(tmp_path / "absent")
    assert "not a folder" in refusal(tmp_path / "file")
    assert "not empty" in refusal(tmp_path / "full")
    said = refusal(stage.mount.path)
    assert "dvidfs umount" in said
    assert len(said.splitlines()) == 1
    assert stage.mount.alive()
