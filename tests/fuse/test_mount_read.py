"""What a person sees under the mount point. Each test names the promise of docs/mount.md that it proves."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import zipfile
from pathlib import Path

import live
import numpy as np
import pytest
from fakes import ALL, HINT, PLANE, SIDE
from mounting import errno_of, run
from worlds import MakeStage, Stage, write

from dvidfs import __version__
from dvidfs.engine import repos


def names(path: Path) -> set[str]:
    return set(os.listdir(path))


# -- section 1: names


def test_the_tree(shared: Stage):
    w = shared.world
    assert names(shared.mount.path) == {"fly"}
    assert names(shared.fly) == {w.root, w.side, w.leaf, "v1", "branches", "tags", ".dvid"}
    assert names(shared.root) == {"kv", "other", "loose", "grid", ".dvid"}
    assert names(shared.root / "kv") == {"a", "b", "deep%2Fer", "empty"}
    assert names(shared.kv) >= {"a", "deep%2Fer", "empty"}


def test_values_of_each_version(shared: Stage):
    assert (shared.root / "kv" / "a").read_bytes() == b"first\n"
    assert (shared.kv / "a").read_bytes() == b"changed\n"
    assert (shared.kv / "deep%2Fer").read_bytes() == b"slash\n"
    assert (shared.root / "kv" / "empty").read_bytes() == b""
    assert errno_of((shared.kv / "b").read_bytes) == errno.ENOENT


def test_branches_and_tags_are_links(shared: Stage):
    w = shared.world
    assert names(shared.fly / "branches") == {"master", "side"}
    assert os.readlink(shared.fly / "branches" / "master") == f"../{w.leaf}"
    assert names(shared.fly / "tags") == {"v1"}
    assert (shared.fly / "tags" / "v1" / "kv" / "a").read_bytes() == b"first\n"
    assert (shared.fly / "branches" / "side" / "kv" / "b").read_bytes() == b"second\n"


def test_the_originals_own_version_syntax_resolves(shared: Stage):
    w = shared.world
    assert os.readlink(shared.fly / ":master") == w.leaf
    assert os.readlink(shared.fly / ":master~1") == w.root
    assert os.readlink(shared.fly / ":side") == w.side
    for wrong in (":nobranch", ":master~9", ":master~x", ":a:b"):
        assert errno_of((shared.fly / wrong).lstat) == errno.ENOENT


def test_unique_prefixes_resolve(shared: Stage):
    w = shared.world
    length = 1
    while len({v[:length] for v in (*w.versions(), "v1")}) < 4:
        length += 1
    for version in w.versions():
        assert os.readlink(shared.fly / version[:length]) == version
        assert os.readlink(shared.mount.path / version[:length]) == "fly"
    assert errno_of((shared.fly / "zz").lstat) == errno.ENOENT
    assert errno_of((shared.mount.path / "zz").lstat) == errno.ENOENT


def test_an_ambiguous_prefix_is_absent_and_told(stage: Stage):
    for last in "ab":
        stage.engine.write(lambda t, last=last: repos.create_repo(t, root="dddd" * 7 + "ddd" + last))
    assert errno_of((stage.mount.path / "dddd").lstat) == errno.ENOENT
    assert "ambiguous" in (stage.mount.path / ".dvidfs" / "errors.log").read_text()
    assert names(stage.mount.path) == {"fly", "dddd" * 7 + "ddda", "dddd" * 7 + "dddb"}


def test_repo_folders_follow_aliases(stage: Stage):
    twin = stage.engine.write(lambda t: repos.create_repo(t, alias="fly"))
    odd = stage.engine.write(lambda t: repos.create_repo(t, alias="a/b"))
    assert names(stage.mount.path) == {stage.world.root, twin.uuid, "a%2Fb"}
    assert names(stage.mount.path / "a%2Fb") >= {odd.uuid}


def test_dvid_folder_of_a_version(shared: Stage):
    w, dot = shared.world, shared.root / ".dvid"
    assert names(dot) == {"info.json", "note", "log", "status", "parents", "children", "instances"}
    info = json.loads((dot / "info.json").read_text())
    assert (info["UUID"], info["Locked"], info["Note"]) == (w.root, True, "the beginning")
    assert (dot / "note").read_text() == "the beginning\n"
    assert (dot / "status").read_text() == "committed\n"
    assert (shared.leaf / ".dvid" / "status").read_text() == "open\n"
    assert names(dot / "children") == {w.side, w.leaf, "v1"}
    assert os.path.realpath(dot / "children" / w.side) == str(shared.fly / w.side)
    assert names(shared.leaf / ".dvid" / "parents") == {w.root}
    assert names(dot / "instances") == {"kv.json", "other.json", "loose.json", "grid.json"}
    assert json.loads((dot / "instances" / "kv.json").read_text())["Base"]["TypeName"] == "keyvalue"


def test_dvid_folder_of_a_repo(shared: Stage):
    dot = shared.fly / ".dvid"
    assert names(dot) == {"info.json", "log", "dag.json", "dag.txt"}
    info = json.loads((dot / "info.json").read_text())
    assert (info["Root"], info["Alias"]) == (shared.world.root, "fly")
    assert set(json.loads((dot / "dag.json").read_text())["Nodes"]) == {*shared.world.versions(), "v1"}
    drawn = (dot / "dag.txt").read_text()
    assert all(version in drawn for version in shared.world.versions())
    assert drawn.splitlines()[-1].startswith("*  " + shared.world.root)


def test_texts_have_exact_sizes(shared: Stage):
    for text in (shared.fly / ".dvid" / "info.json", shared.root / ".dvid" / "note", shared.root / ".dvid" / "log"):
        assert text.stat().st_size == len(text.read_bytes())


def test_control_folder_resolves_and_is_hidden(shared: Stage):
    control = shared.mount.path / ".dvidfs"
    assert names(control) == {"version", "config.json", "stats.json", "errors.log", "README.txt"}
    assert (control / "version").read_text() == f"{__version__}\n"
    assert json.loads((control / "config.json").read_text())["store"] == str(shared.world.store)
    stats = json.loads((control / "stats.json").read_text())["mount"]
    assert stats["known_inodes"] > 1
    assert stats["resident_bytes"] > 1 << 20


def test_control_folder_is_listed_if_asked_for(make_stage: MakeStage):
    stage = make_stage(show_control=True)
    assert names(stage.mount.path) == {"fly", ".dvidfs"}


def test_an_instance_is_listed_where_it_was_made_and_below(stage: Stage):
    (stage.leaf / "fresh").mkdir()
    assert "fresh" in names(stage.leaf)
    assert "fresh" not in names(stage.root)
    assert names(stage.root / "fresh") == set()  # it resolves


def test_chosen_uuids_do_not_hide_what_stands_beside_them(stage: Stage):
    for tag in ("branches", ".dvid", ".x", "100%25"):
        stage.engine.write(lambda t, tag=tag: repos.tag(t, t.graph.version(stage.world.root), tag))
    listed = names(stage.fly)
    assert {"%62ranches", "%2Edvid", "%2Ex", "100%2525", "branches", ".dvid"} <= listed
    for name in ("%62ranches", "%2Edvid", "%2Ex", "100%2525"):
        assert (stage.fly / name / "kv" / "a").read_bytes() == b"first\n"
    assert names(stage.fly / "tags") == {"v1", "branches", "%2Edvid", ".x", "100%2525"}
    for link in (stage.fly / "tags").iterdir():
        assert (link / "kv" / "a").read_bytes() == b"first\n"


def test_malformed_names_are_absent(shared: Stage):
    for name in ("%2fx", "deep%2fer", "%41", "%61", ".dvidx"):
        assert errno_of((shared.root / "kv" / name).lstat) == errno.ENOENT


@pytest.mark.parametrize("name", [".Trash", ".Trash-1000", ".DS_Store", "._a", "autorun.inf", ".git"])
def test_desktop_noise_is_absent_above_instances(shared: Stage, name: str):
    for folder in (shared.mount.path, shared.fly):
        assert errno_of((folder / name).lstat) == errno.ENOENT
    assert errno_of((shared.leaf / name).mkdir) == errno.EINVAL
    (shared.leaf / "other" / name).write_bytes(b"a key like any other")
    assert (shared.leaf / "other" / name).read_bytes() == b"a key like any other"
    (shared.leaf / "other" / name).unlink()


def test_long_keys_are_counted_where_they_cannot_be_shown(stage: Stage):
    write(stage.engine, stage.world.leaf, "other", {b"k" * n: b"v" for n in (1, 255, 256, 600, 1024)})
    write(stage.engine, stage.world.leaf, "other", {b"/" * 85: b"v", b"/" * 86: b"v"})
    other = stage.leaf / "other"
    assert names(other) == {"k", "k" * 255, "%2F" * 85}
    info = json.loads((stage.leaf / ".dvid" / "instances" / "other.json").read_text())
    assert info["KeysWithoutFile"] == 4
    assert errno_of((other / ("k" * 256)).lstat) == errno.ENAMETOOLONG


# -- section 3: attributes, inodes, times


def test_modes_owner_and_links(shared: Stage):
    committed, opened = (shared.root / "kv" / "a").stat(), (shared.kv / "a").stat()
    assert (stat.S_IMODE(committed.st_mode), stat.S_IMODE(opened.st_mode)) == (0o444, 0o644)
    assert stat.S_IMODE((shared.root / "kv").stat().st_mode) == 0o555
    assert stat.S_IMODE(shared.kv.stat().st_mode) == 0o755
    assert (committed.st_uid, committed.st_nlink, committed.st_size) == (os.getuid(), 1, 6)


def inodes(top: Path) -> dict[str, int]:
    return {str(p.relative_to(top)): p.lstat().st_ino for p in top.rglob("*")}


def test_inode_numbers_survive_a_remount(stage: Stage):
    before = inodes(stage.fly)
    assert len(set(before.values())) == len(before)
    stage.mount.stop()
    stage.mount.path.mkdir(exist_ok=True)
    stage.mount.start()
    assert inodes(stage.fly) == before


def test_a_renamed_instance_keeps_its_inodes_and_a_new_one_does_not(stage: Stage):
    before = (stage.kv / "a").stat().st_ino

    def change(txn, name, new=None):
        instance = txn.graph.instance(txn.graph.version(stage.world.leaf), name)
        if new:
            repos.rename_instance(txn, instance, new)
        else:
            repos.delete_instance(txn, instance)

    stage.engine.write(lambda t: change(t, "kv", "renamed"))
    assert (stage.leaf / "renamed" / "a").stat().st_ino == before
    stage.engine.write(lambda t: change(t, "renamed"))
    stage.engine.write(lambda t: repos.create_instance(t, t.graph.version(stage.world.leaf), "keyvalue", "renamed"))
    write(stage.engine, stage.world.leaf, "renamed", {b"a": b"anew"})
    live.wait_until(lambda: (stage.leaf / "renamed" / "a").stat().st_ino != before, 5, "another inode")


def test_df_is_never_zero(shared: Stage):
    disk = os.statvfs(shared.mount.path)
    assert disk.f_blocks > 0
    assert disk.f_bsize == disk.f_frsize
    assert (disk.f_namemax, disk.f_files > 0) == (255, True)


def test_access_tells_the_truth(shared: Stage):
    assert os.access(shared.kv / "a", os.W_OK)
    assert not os.access(shared.root / "kv" / "a", os.W_OK)
    assert not os.access(shared.root / ".dvid" / "info.json", os.W_OK)
    assert os.access(shared.root / "kv", os.R_OK | os.X_OK)
    assert not os.access(shared.kv / "a", os.X_OK)


def test_extended_attributes_are_off_for_good(shared: Stage):
    assert errno_of(lambda: os.getxattr(shared.kv / "a", "user.x")) == errno.ENOTSUP
    assert errno_of(lambda: os.setxattr(shared.kv / "a", "user.x", b"")) == errno.ENOTSUP


# -- programs


def test_tar_twice_gives_the_same_bytes(shared: Stage, tmp_path: Path):
    def packed() -> str:
        run("tar", "-C", shared.root, "-cf", tmp_path / "t.tar", "--exclude=broken.raw", ".")
        return hashlib.sha256((tmp_path / "t.tar").read_bytes()).hexdigest()

    assert packed() == packed()


def test_ls_find_and_grep(shared: Stage):
    listed = run("ls", "-l", shared.root / "kv")
    assert " 6 " in next(line for line in listed.splitlines() if line.endswith(" a"))
    found = run("find", shared.root / "kv", "-type", "f").splitlines()
    assert {Path(f).name for f in found} == {"a", "b", "deep%2Fer", "empty"}
    assert run("grep", "-r", "second", shared.root / "kv").strip() == f"{shared.root}/kv/b:second"
    assert run("find", shared.fly, "-name", "dag.txt").strip() == f"{shared.fly}/.dvid/dag.txt"


def test_copies(shared: Stage, tmp_path: Path):
    run("cp", "-r", shared.root / "kv", tmp_path / "copy")
    assert (tmp_path / "copy" / "b").read_bytes() == b"second\n"
    run("rsync", "-a", f"{shared.root}/kv/", tmp_path / "synced/")
    again = run("rsync", "-a", "--stats", f"{shared.root}/kv/", tmp_path / "synced/")
    assert "Number of regular files transferred: 0" in again
    assert (tmp_path / "synced" / "a").stat().st_mtime_ns == (shared.root / "kv" / "a").stat().st_mtime_ns


def test_diff_between_versions(shared: Stage):
    done = subprocess.run(
        ["diff", "-r", shared.root / "kv", shared.fly / "branches" / "side" / "kv"], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"")


def test_zip_files_are_read_in_place(shared: Stage):
    path = shared.leaf / "other" / "z.zip"
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("inside.txt", "x" * 10_000)
    assert "inside.txt" in run("python3", "-m", "zipfile", "-l", path)
    assert zipfile.ZipFile(path).read("inside.txt") == b"x" * 10_000
    path.unlink()


# -- datatypes with a tree of their own


def test_folders_of_a_datatype(shared: Stage):
    grid = shared.root / "grid"
    assert names(grid) == {"volume.raw", "planes", "rows", "at", "read-only.txt", "broken.raw"}
    assert names(grid / "planes") == {f"{z}.raw" for z in range(SIDE)}
    assert names(grid / "rows" / "3") == {f"{y}.raw" for y in range(SIDE)}
    assert names(grid / "at") == set()
    assert (grid / "at" / "3").stat().st_size == PLANE
    assert (grid / "planes" / "5.raw").stat().st_size == PLANE
    for wrong in ("planes/x.raw", "planes/32.raw", "planes/05.raw", "at/99", "hidden.raw", "nothing"):
        assert errno_of((grid / wrong).lstat) == errno.ENOENT


def test_any_window_of_a_computed_file(stage: Stage):
    rng = np.random.default_rng(1)
    data = rng.integers(0, 256, ALL, np.uint8).tobytes()
    path = stage.leaf / "grid" / "volume.raw"
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, data)
    os.close(fd)
    assert path.read_bytes() == data
    fd = os.open(path, os.O_RDONLY)
    for offset, length in ((0, 1), (5000, 7000), (ALL - 5, 100), (ALL, 1), (4095, 2)):
        assert os.pread(fd, length, offset) == data[offset : offset + length]
    os.close(fd)
    assert np.memmap(path, np.uint8, "r", shape=(SIDE, SIDE, SIDE))[3, 4, 5] == data[3 * PLANE + 4 * SIDE + 5]
    assert (stage.leaf / "grid" / "rows" / "2" / "7.raw").read_bytes() == data[2 * PLANE + 7 * SIDE :][:SIDE]


def test_a_synthesised_file_of_a_datatype(shared: Stage):
    path = shared.leaf / "grid" / "read-only.txt"
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (HINT, 5)
    assert errno_of(lambda: path.open("r+b")) == errno.EACCES
    assert errno_of(path.unlink) == errno.EPERM


def test_one_damaged_range_is_eio_there_and_the_mount_lives(shared: Stage):
    fd = os.open(shared.root / "grid" / "broken.raw", os.O_RDONLY)
    assert os.pread(fd, 100, 0) == bytes(100)
    assert errno_of(lambda: os.pread(fd, 100, ALL - 200)) == errno.EIO
    assert os.pread(fd, 100, 4096) == bytes(100)
    os.close(fd)
    assert "the second half is damaged" in (shared.mount.path / ".dvidfs" / "errors.log").read_text()
    assert shared.mount.alive()
