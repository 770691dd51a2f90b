"""Writing through the mount: each test names the promise of docs/mount.md, section 3, that it proves."""

from __future__ import annotations

import errno
import json
import mmap
import os
import subprocess
from pathlib import Path

import live
import pytest
from fakes import ALL, KEY, PLANE
from mounting import errno_of, run
from worlds import MakeStage, Stage, write

from dvidfs.engine import ReadTxn, ReadView, repos
from dvidfs.engine.keys import PAIR, Family, Table


def listed(stage: Stage, name: str = "kv") -> set[str]:
    return set(os.listdir(stage.leaf / name))


# -- write to a key


def test_create_append_replace(stage: Stage):
    path = stage.kv / "new"
    path.write_bytes(b"one\n")
    assert stage.value(b"new") == b"one\n"
    with path.open("ab") as f:
        f.write(b"two\n")
    assert stage.value(b"new") == b"one\ntwo\n"
    path.write_bytes(b"3")
    assert stage.value(b"new") == path.read_bytes() == b"3"
    assert path.stat().st_size == 1


def test_nothing_is_stored_before_flush(stage: Stage):
    """O_TRUNC alone changes nothing for others; this mount sees bytes as they are written."""
    path = stage.kv / "a"
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    assert stage.value(b"a") == b"changed\n"
    os.write(fd, b"half")
    assert path.read_bytes() == b"half"
    assert path.stat().st_size == 4
    assert stage.value(b"a") == b"changed\n"
    os.fsync(fd)
    assert stage.value(b"a") == b"half"
    os.write(fd, b" and whole")
    assert stage.value(b"a") == b"half"
    os.close(fd)
    assert stage.value(b"a") == b"half and whole"


def test_a_new_key_is_seen_here_at_once_and_elsewhere_when_it_is_closed(stage: Stage):
    fd = os.open(stage.kv / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert "new" in listed(stage)
    assert (stage.kv / "new").stat().st_size == 0
    assert errno_of(lambda: os.open(stage.kv / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY)) == errno.EEXIST
    assert stage.value(b"new") is None
    os.close(fd)
    assert stage.value(b"new") == b""


def test_two_writers_share_one_buffer(stage: Stage):
    first, second = os.open(stage.kv / "x", os.O_CREAT | os.O_RDWR), os.open(stage.kv / "x", os.O_RDWR)
    os.pwrite(first, b"aaaa", 0)
    os.pwrite(second, b"bb", 4)
    assert os.pread(first, 10, 0) == b"aaaabb"
    os.close(first)
    os.pwrite(second, b"c", 0)
    os.close(second)
    assert stage.value(b"x") == b"caaabb"


def test_windows_truncate_and_holes(stage: Stage):
    path = stage.kv / "x"
    with path.open("w+b") as f:
        f.seek(10)
        f.write(b"end")
        f.flush()
        assert os.pread(f.fileno(), 100, 0) == bytes(10) + b"end"
        f.truncate(5)
        f.seek(2)
        f.write(b"zz")
    assert stage.value(b"x") == b"\0\0zz\0"
    os.truncate(path, 3)
    assert stage.value(b"x") == b"\0\0z"
    os.truncate(path, 6)
    assert stage.value(b"x") == path.read_bytes() == b"\0\0z\0\0\0"
    os.truncate(path, 0)
    assert stage.value(b"x") == b""


def test_appending_goes_to_the_end_as_it_is_in_the_store(stage: Stage):
    path = stage.kv / "log"
    path.write_bytes(b"1\n")
    write(stage.engine, stage.world.leaf, "kv", {b"log": b"1\n2\n"})
    with path.open("ab") as f:
        f.write(b"3\n")
    assert stage.value(b"log") == b"1\n2\n3\n"


def test_writing_through_a_memory_map(stage: Stage):
    path = stage.kv / "map"
    path.write_bytes(b"." * 10_000)
    with path.open("r+b") as f, mmap.mmap(f.fileno(), 10_000) as m:
        m[5000:5005] = b"hello"
        m.flush()
    expected = b"." * 5000 + b"hello" + b"." * 4995
    assert path.read_bytes() == expected
    with path.open("r+b") as f:
        m = mmap.mmap(f.fileno(), 10_000)
    m[0:2] = b"no"  # the file is closed already: committed when the last reference goes
    m.close()
    live.wait_until(lambda: stage.value(b"map") == b"no" + expected[2:], 10, "the commit at release")


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 1, 9_000_001])
def test_long_values(stage: Stage, size: int):
    data = os.urandom(65_536) * (size // 65_536 + 1)
    data = data[:size]
    path = stage.kv / "long"
    path.write_bytes(data)
    assert stage.value(b"long") == data
    assert path.stat().st_size == size
    assert path.read_bytes() == data
    with path.open("r+b") as f:
        f.seek(size // 2)
        f.write(b"in the middle")
        f.seek(0, os.SEEK_END)
        f.write(b"tail")
    changed = data[: size // 2] + b"in the middle" + data[size // 2 + 13 :] + b"tail"
    assert stage.value(b"long") == changed
    assert path.read_bytes() == changed
    stats = json.loads((stage.mount.path / ".dvidfs" / "stats.json").read_text())["mount"]
    assert stats["buffers"]["bytes"] <= stats["buffers"]["limit"]


def test_a_commit_that_fails_tells_and_drops_the_buffer(stage: Stage):
    path = stage.kv / "a"
    fd = os.open(path, os.O_RDWR)
    os.write(fd, b"too late")
    new = os.open(stage.kv / "never", os.O_CREAT | os.O_WRONLY)
    stage.engine.write(lambda t: repos.commit(t, t.graph.version(stage.world.leaf)))
    assert errno_of(lambda: os.fsync(fd)) == errno.EROFS
    assert os.pread(fd, 100, 0) == b"changed\n"
    os.close(fd)
    assert path.read_bytes() == b"changed\n"
    assert errno_of(lambda: os.close(new)) == errno.EROFS
    assert "never" not in listed(stage)


# -- rename, unlink


def test_rename_replaces_and_keeps_time_and_inode(stage: Stage):
    path = stage.kv / "from"
    path.write_bytes(b"moved")
    os.utime(path, ns=(10**18, 10**18))
    ino = path.stat().st_ino
    path.rename(stage.kv / "a")
    assert stage.value(b"a") == b"moved"
    assert stage.value(b"from") is None
    found = (stage.kv / "a").stat()
    assert (found.st_mtime_ns, found.st_ino) == (10**18, ino)
    assert "from" not in listed(stage)
    path.write_bytes(b"another")
    assert path.stat().st_ino != ino
    assert (stage.kv / "a").read_bytes() == b"moved"


def test_rename_of_an_inherited_key(stage: Stage):
    (stage.kv / "deep%2Fer").rename(stage.kv / "plain")
    assert stage.value(b"plain") == b"slash\n"
    assert stage.value(b"deep/er") is None
    assert stage.value(b"deep/er", stage.world.root) == b"slash\n"


def test_rename_with_open_files(stage: Stage):
    fd = os.open(stage.kv / "tmp", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"new content")
    old = os.open(stage.kv / "a", os.O_RDONLY)
    os.rename(stage.kv / "tmp", stage.kv / "a")
    assert stage.value(b"a") == b"new content"
    assert os.pread(old, 100, 0) == b"changed\n"
    os.write(fd, b", more")
    os.close(fd)
    os.close(old)
    assert stage.value(b"a") == b"new content, more"
    assert stage.value(b"tmp") is None


def test_where_rename_is_refused(stage: Stage):
    kv, other = stage.kv, stage.leaf / "other"
    assert errno_of(lambda: os.rename(kv / "a", other / "a")) == errno.EXDEV
    assert errno_of(lambda: os.rename(kv / "none", kv / "b")) == errno.ENOENT
    assert errno_of(lambda: os.rename(kv, stage.leaf / "kv2")) == errno.EPERM
    assert errno_of(lambda: os.rename(kv / "a", stage.leaf / "a")) == errno.EPERM
    assert errno_of(lambda: os.rename(kv / "a", kv / "%41")) == errno.EINVAL
    assert errno_of(lambda: os.rename(stage.root / "kv" / "a", stage.root / "kv" / "z")) == errno.EROFS
    run("mv", kv / "a", other / "a")  # across instances mv copies
    assert (stage.value(b"a"), stage.value(b"a", name="other")) == (None, b"changed\n")
    done = subprocess.run(["mv", "-n", kv / "deep%2Fer", kv / "empty"], check=False)
    assert done.returncode in (0, 1)
    assert stage.value(b"empty") == b""


def test_unlink_hides_a_key_from_this_version_on(stage: Stage):
    (stage.kv / "a").unlink()
    assert not (stage.kv / "a").exists()
    assert "a" not in listed(stage)
    assert stage.value(b"a", stage.world.root) == (stage.root / "kv" / "a").read_bytes() == b"first\n"
    assert errno_of((stage.kv / "a").unlink) == errno.ENOENT


def test_an_open_handle_keeps_reading_what_it_opened(stage: Stage):
    fd = os.open(stage.kv / "a", os.O_RDWR)
    (stage.kv / "a").unlink()
    assert os.pread(fd, 100, 0) == b"changed\n"
    os.pwrite(fd, b"lost", 0)
    (stage.kv / "a").write_bytes(b"again")
    assert os.pread(fd, 100, 0) == b"lostged\n"
    os.close(fd)
    assert stage.value(b"a") == b"again"


# -- committed versions, synthesised files


def test_committed_versions_are_read_only(shared: Stage):
    kv = shared.root / "kv"
    refused = [
        lambda: (kv / "a").open("wb"),
        lambda: (kv / "a").open("ab"),
        lambda: (kv / "new").open("xb"),
        (kv / "a").unlink,
        (kv / "sub").mkdir,
        lambda: os.truncate(kv / "a", 0),
        lambda: os.utime(kv / "a"),
        lambda: os.chmod(kv / "a", 0o600),
        lambda: os.rename(kv / "a", kv / "c"),
        (shared.root / "made").mkdir,
        kv.rmdir,
        lambda: (shared.root / ".dvid" / "note").write_text("x"),
        lambda: (shared.root / "grid" / "volume.raw").open("r+b"),
    ]
    assert [errno_of(action) for action in refused] == [errno.EROFS] * len(refused)
    assert (kv / "a").read_bytes() == b"first\n"


def test_synthesised_files_are_refused(shared: Stage):
    for path in (
        shared.leaf / ".dvid" / "info.json",
        shared.leaf / ".dvid" / "status",
        shared.fly / ".dvid" / "log",
        shared.mount.path / ".dvidfs" / "version",
    ):
        assert errno_of(lambda path=path: path.open("r+b")) == errno.EACCES
        assert errno_of(path.unlink) == errno.EPERM


def test_what_cannot_be_made_is_eperm(shared: Stage):
    kv = shared.kv
    refused = [
        lambda: os.link(kv / "a", kv / "hard"),
        lambda: os.symlink("a", kv / "soft"),
        lambda: os.mkfifo(kv / "fifo"),
        (kv / "folder").mkdir,
        (shared.leaf / "grid" / "folder").mkdir,
        lambda: (shared.leaf / "grid" / "file").open("xb"),
        lambda: (shared.leaf / "file").open("xb"),
        (shared.mount.path / "repo").mkdir,
        (shared.fly / "branches" / "new").mkdir,
        (shared.leaf / ".dvid" / "x").mkdir,
        (shared.leaf / "grid" / "planes").rmdir,
    ]
    assert [errno_of(action) for action in refused] == [errno.EPERM] * len(refused)


def test_names_that_cannot_be(shared: Stage):
    assert errno_of(lambda: (shared.kv / "%41").open("xb")) == errno.EINVAL
    assert errno_of(lambda: (shared.kv / ".dvid").open("xb")) == errno.EINVAL
    assert errno_of(lambda: (shared.kv / ("n" * 256)).open("xb")) == errno.ENAMETOOLONG


def test_unversioned_instances_stay_open(stage: Stage):
    (stage.root / "loose" / "l").write_bytes(b"from the root")
    assert (stage.leaf / "loose" / "l").read_bytes() == b"from the root"


# -- folders


def test_mkdir_and_rmdir(stage: Stage):
    made = stage.leaf / "made"
    made.mkdir()
    (made / "k").write_bytes(b"v")
    assert stage.value(b"k", name="made") == b"v"
    assert errno_of(made.mkdir) == errno.EEXIST
    assert errno_of(made.rmdir) == errno.ENOTEMPTY
    (made / "k").unlink()
    fd = os.open(made / "pending", os.O_CREAT | os.O_WRONLY)
    assert errno_of(made.rmdir) == errno.ENOTEMPTY
    (made / "pending").unlink()
    os.close(fd)
    made.rmdir()
    assert not made.exists()
    assert errno_of((stage.leaf / "other").rmdir) == errno.ENOTEMPTY  # made in another version
    assert errno_of((stage.leaf / "log").mkdir) == errno.EINVAL  # a reserved word
    made.mkdir()


# -- note, log, times


def test_note_and_log(stage: Stage):
    dot = stage.leaf / ".dvid"
    (dot / "note").write_text("for you\n")
    assert (dot / "note").read_text() == "for you\n"
    with (dot / "log").open("a") as f:
        f.write("one\ntwo\n")
    run("sh", "-c", f"echo three > {dot}/log")
    assert [line.partition("  ")[2] for line in (dot / "log").read_text().splitlines()] == ["one", "two", "three"]
    with stage.engine.read() as txn:
        assert txn.graph.version(stage.world.leaf).note == "for you"


def mutations(txn: ReadTxn, stage: Stage) -> int:
    return txn.mutation_id(txn.graph.version(stage.world.leaf).repo)


def test_utimes_is_stored_and_is_no_mutation(stage: Stage):
    with stage.engine.read() as txn:
        before = mutations(txn, stage)
    for name in ("a", "deep%2Fer"):  # the second is inherited
        os.utime(stage.kv / name, ns=(5, 1_000_000_007))
        assert (stage.kv / name).stat().st_mtime_ns == 1_000_000_007
    with stage.engine.read() as txn:
        assert mutations(txn, stage) == before
    assert (stage.kv / "deep%2Fer").read_bytes() == b"slash\n"
    (stage.kv / "a").chmod(0o600)
    os.chown(stage.kv / "a", 1, 1)
    assert (stage.kv / "a").stat().st_mode & 0o777 == 0o644
    stage.mount.stop()
    stage.mount.path.mkdir(exist_ok=True)
    stage.mount.start()
    assert (stage.kv / "a").stat().st_mtime_ns == 1_000_000_007


def test_a_directory_changes_its_time_with_its_last_mutation(stage: Stage):
    before = stage.kv.stat().st_mtime_ns
    (stage.kv / "new").write_bytes(b"x")
    live.wait_until(lambda: stage.kv.stat().st_mtime_ns > before, 3, "a later time")


# -- programs


def test_programs_that_replace_files(stage: Stage, tmp_path: Path):
    path = stage.kv / "text"
    path.write_text("alpha beta\n")
    run("sed", "-i", "s/beta/gamma/", path)
    assert stage.value(b"text") == b"alpha gamma\n"
    run("sh", "-c", f"echo delta > {path}.tmp && mv {path}.tmp {path}")
    assert stage.value(b"text") == b"delta\n"
    run("vim", "-es", "-u", "NONE", "-c", "s/^/with vim /", "-c", "wq", path)
    assert stage.value(b"text") == b"with vim delta\n"
    assert listed(stage) == {"a", "deep%2Fer", "empty", "text"}


def test_copying_in(stage: Stage, tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    for n in range(30):
        (source / f"file {n}").write_bytes(os.urandom(n * 1000))
    run("cp", "-r", f"{source}/.", stage.leaf / "other")
    run("diff", "-r", source, stage.leaf / "other")
    (stage.leaf / "synced").mkdir()
    run("rsync", "-a", f"{source}/", f"{stage.leaf}/synced/")
    run("diff", "-r", source, stage.leaf / "synced")
    again = run("rsync", "-a", "--stats", f"{source}/", f"{stage.leaf}/synced/")
    assert "Number of regular files transferred: 0" in again
    run("tar", "-C", source, "-cf", tmp_path / "t.tar", ".")
    (stage.leaf / "untarred").mkdir()
    run("tar", "-C", stage.leaf / "untarred", "--no-same-owner", "-xf", tmp_path / "t.tar")
    run("diff", "-r", source, stage.leaf / "untarred")


# -- computed files


def block(stage: Stage) -> bytes:
    with stage.engine.read() as txn:
        node = txn.graph.version(stage.world.leaf)
        view = ReadView(txn, node, txn.graph.instance(node, "grid"))
        return bytes(view.get(Family.BLOCK, KEY) or bytes(ALL))


def test_windows_are_written_in_place(stage: Stage):
    """Buffered, committed by fsync and close as one mutation; the sibling views follow."""
    grid = stage.leaf / "grid"
    plane = (grid / "planes" / "2.raw").open("rb", buffering=0)
    assert plane.read() == bytes(PLANE)
    fd = os.open(grid / "volume.raw", os.O_RDWR)
    os.pwrite(fd, b"x" * 10, 2 * PLANE + 5)
    os.pwrite(fd, b"y" * 10, 2 * PLANE + 10)
    expected = bytes(5) + b"x" * 5 + b"y" * 10 + bytes(PLANE - 20)
    assert os.pread(fd, PLANE, 2 * PLANE) == expected
    assert block(stage) == bytes(ALL)
    os.fsync(fd)
    assert block(stage)[2 * PLANE : 3 * PLANE] == expected
    live.wait_until(lambda: os.pread(plane.fileno(), PLANE, 0) == expected, 3, "the sibling view")
    os.close(fd)
    plane.close()
    (grid / "at" / "2").write_bytes(b"z" * PLANE)  # cutting it off first changes nothing
    assert block(stage)[2 * PLANE : 3 * PLANE] == b"z" * PLANE
    live.wait_until(lambda: (grid / "volume.raw").read_bytes() == block(stage), 3, "the sibling view")


def test_the_size_of_a_computed_file_is_fixed(stage: Stage):
    path = stage.leaf / "grid" / "volume.raw"
    assert errno_of(lambda: os.truncate(path, 10)) == errno.EPERM
    os.truncate(path, ALL)
    fd = os.open(path, os.O_RDWR)
    assert errno_of(lambda: os.pwrite(fd, b"x", ALL)) == errno.EPERM
    os.close(fd)
    assert path.stat().st_size == ALL


# -- errors


@pytest.mark.parametrize("kind", ["OSError", "KeyError", "MemoryError", "Group"])
def test_no_exception_ends_a_mount(make_stage: MakeStage, kind: str):
    stage = make_stage(inject=True)
    kv = stage.kv
    reader, writer = os.open(kv / "a", os.O_RDONLY), os.open(kv / "w", os.O_CREAT | os.O_RDWR)

    def opened_and_closed() -> None:
        os.close(os.open(kv / "deep%2Fer", os.O_RDONLY))

    actions = {
        "lookup": lambda: os.stat(kv / f"{kind}-not-asked-before"),
        "getattr": lambda: os.utime(kv / "a"),
        "readlink": lambda: os.readlink(stage.fly / "branches" / "master"),
        "access": lambda: os.chdir(stage.mount.path),
        "statfs": lambda: os.statvfs(stage.mount.path),
        "opendir": lambda: os.listdir(stage.mount.path),
        "readdir": lambda: os.listdir(kv),
        "open": opened_and_closed,
        "create": lambda: os.open(kv / "c", os.O_CREAT | os.O_WRONLY),
        "read": lambda: os.pread(reader, 10, 0),
        "write": lambda: os.write(writer, b"x"),
        "flush": lambda: os.close(os.dup(writer)),
        "fsync": lambda: os.fsync(writer),
        "setattr": lambda: os.utime(kv / "a"),
        "mknod": lambda: os.mknod(kv / "m", 0o100644),
        "mkdir": lambda: os.mkdir(stage.leaf / "m"),
        "rmdir": lambda: os.rmdir(stage.leaf / "other"),
        "unlink": lambda: os.unlink(kv / "empty"),
        "rename": lambda: os.rename(kv / "a", kv / "z"),
        "link": lambda: os.link(kv / "a", kv / "z"),
        "symlink": lambda: os.symlink("a", kv / "z"),
    }
    list(kv.iterdir())
    for handler, action in actions.items():
        stage.mount.faults.write_text(json.dumps({handler: kind}))
        assert errno_of(action) == errno.EIO, handler
        stage.mount.faults.unlink()
        assert (kv / "a").stat().st_size, f"after a fault in {handler}"
    for handler in ("release", "releasedir", "fsyncdir"):  # nobody waits for their answers
        stage.mount.faults.write_text(json.dumps({handler: kind}))
        os.listdir(kv)
        opened_and_closed()
        stage.mount.faults.unlink()
    os.close(reader)
    os.close(writer)
    assert stage.mount.alive()
    assert "injected" in stage.mount.log or "several" in stage.mount.log
    assert (kv / "a").read_bytes() == b"changed\n"


def test_a_damaged_value_is_eio_on_that_file(stage: Stage):
    (stage.kv / "big").write_bytes(b"".join(b"line %d\n" % n for n in range(5000)))

    def damage(txn) -> None:
        instance = txn.graph.instance(txn.graph.version(stage.world.leaf), "kv").id
        rows = [(k, v) for k, v in txn.scan(Table.VALUES, PAIR.pack(instance, 0), PAIR.pack(instance + 1, 0))]
        key, row = max(rows, key=lambda r: len(r[1]))
        txn.put(Table.VALUES, key, b"\0" * len(row))

    stage.engine.write(damage)
    stage.mount.stop()
    stage.mount.path.mkdir(exist_ok=True)
    stage.mount.start()
    assert errno_of((stage.kv / "big").read_bytes) == errno.EIO
    assert "damaged" in (stage.mount.path / ".dvidfs" / "errors.log").read_text()
    assert (stage.kv / "a").read_bytes() == b"changed\n"
    (stage.kv / "big").write_bytes(b"healed")
    assert (stage.kv / "big").read_bytes() == b"healed"


def test_a_merge_conflict_is_eio_until_it_is_settled(stage: Stage):
    w = stage.world
    write(stage.engine, w.side, "kv", {b"a": b"otherwise\n"})
    for version in (w.side, w.leaf):
        stage.engine.write(lambda t, v=version: repos.commit(t, t.graph.version(v)))
    child = stage.engine.write(lambda t: repos.merge(t, repos.find_parents(t, [w.side, w.leaf]))).child.uuid
    kv = stage.fly / child / "kv"
    assert "a" not in os.listdir(kv)
    assert errno_of((kv / "a").read_bytes) == errno.EIO
    log = (stage.mount.path / ".dvidfs" / "errors.log").read_text()
    assert w.side in log
    assert w.leaf in log
    (kv / "a").write_bytes(b"settled")
    assert (kv / "a").read_bytes() == stage.value(b"a", child) == b"settled"
