"""`dvidfs import` and `export`: what goes in comes out, what is wrong is refused, what was killed goes on."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import live
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dvidfs.cli.sources import natural


def volume(shape: tuple[int, int, int], dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 200, shape, dtype)


def write_slices(folder: Path, voxels: np.ndarray, name: str = "z{}.png") -> Path:
    folder.mkdir()
    for number, picture in enumerate(voxels):
        Image.fromarray(picture).save(folder / name.format(number))
    return folder


def bring(store: Path, source: object, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """`dvidfs import` into instance `i` of repo `r`."""
    return live.dvidfs("import", store, source, "--repo", "r", "--instance", "i", *words, check=check)


def exported(store: Path, folder: Path, version: str = "r") -> np.ndarray:
    """The volume `i` as an array."""
    path = folder / f"out{len(list(folder.iterdir()))}.npy"
    live.dvidfs("export", store, version, "i", path)
    return np.load(path)


# -- volumes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["z{}.png", "slice {}.tif", "{}.tiff"], ids=["png", "tif", "tiff"])
def test_slices_go_in_by_their_numbers(store_path: Path, tmp_path: Path, name: str):
    voxels = volume((12, 30, 50))  # z10 comes behind z9
    folder = write_slices(tmp_path / "slices", voxels, name)
    (folder / "README.md").write_text("no slice")
    done = bring(store_path, folder, "--voxel-size", "8,8,40")
    assert done.stdout.startswith("imported 12 slices of 50 x 30 (18.0 KB) into i of r, a new repo")
    assert (exported(store_path, tmp_path) == voxels).all()


def test_numpy_and_hdf5_go_in(store_path: Path, tmp_path: Path):
    h5py = pytest.importorskip("h5py")
    voxels = volume((70, 65, 64))
    np.save(tmp_path / "v.npy", voxels)
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["group/raw"] = voxels
        file["other"] = voxels[0]
    bring(store_path, tmp_path / "v.npy")
    assert (exported(store_path, tmp_path) == voxels).all()
    for source in ("v.h5:/group/raw", "v.h5"):
        live.dvidfs("import", store_path, tmp_path / source, "--repo", "r", "--instance", "h", "--quiet")
        live.dvidfs("export", store_path, "r", "h", tmp_path / f"{len(source)}.npy")
        assert (np.load(tmp_path / f"{len(source)}.npy") == voxels).all()


def test_what_is_there_beside_a_second_import_stays(store_path: Path, tmp_path: Path):
    first, second = volume((20, 40, 40)), volume((10, 20, 20)) + 50
    np.save(tmp_path / "a.npy", first)
    np.save(tmp_path / "b.npy", second)
    bring(store_path, tmp_path / "a.npy", "--block-size", "32,32,32")
    bring(store_path, tmp_path / "b.npy", "--offset", "0,32,0")
    expected = np.zeros((20, 52, 40), np.uint8)
    expected[:, :40] = first
    expected[:10, 32:52, :20] = second
    assert (exported(store_path, tmp_path) == expected).all()


def test_slices_raw_and_npy_come_out_alike(store_path: Path, tmp_path: Path):
    voxels = volume((5, 30, 20))
    np.save(tmp_path / "v.npy", voxels)
    bring(store_path, tmp_path / "v.npy", "--offset", "64,0,128")
    live.dvidfs("export", store_path, "r:master", "i", tmp_path / "slices")
    live.dvidfs("export", store_path, "r:master", "i", tmp_path / "v.raw")
    names = sorted(path.name for path in (tmp_path / "slices").iterdir())
    assert names == [f"{z:06d}.png" for z in range(128, 133)]
    pictures = np.stack([np.asarray(Image.open(tmp_path / "slices" / name)) for name in names])
    assert (pictures == voxels).all()
    assert (tmp_path / "v.raw").read_bytes() == voxels.tobytes()


def test_an_import_into_a_named_version(store_path: Path, tmp_path: Path):
    np.save(tmp_path / "a.npy", volume((4, 8, 8)))
    np.save(tmp_path / "b.npy", volume((4, 8, 8)) + 1)
    bring(store_path, tmp_path / "a.npy")
    live.dvidfs("commit", store_path, "r")
    live.dvidfs("branch", store_path, "r", "side")
    bring(store_path, tmp_path / "b.npy", "--version", "r:side")
    assert (exported(store_path, tmp_path) == volume((4, 8, 8))).all()
    assert (exported(store_path, tmp_path, "r:side") == volume((4, 8, 8)) + 1).all()
    refused = bring(store_path, tmp_path / "b.npy", check=False)
    assert "is committed and changes no more: see `dvidfs newversion`" in refused.stderr


@pytest.fixture
def wrong(tmp_path: Path) -> dict[str, object]:
    """Sources that are no volumes of bytes."""
    (tmp_path / "empty").mkdir()
    uneven = write_slices(tmp_path / "uneven", volume((3, 8, 8)))
    Image.fromarray(volume((1, 9, 8))[0]).save(uneven / "z1.png")
    colour = tmp_path / "colour"
    colour.mkdir()
    Image.fromarray(np.zeros((4, 4, 4), np.uint8), "CMYK").save(colour / "a.jpg")
    broken = write_slices(tmp_path / "broken", volume((2, 8, 8)))
    (broken / "z1.png").write_bytes(b"\x89PNG no")
    np.save(tmp_path / "flat.npy", volume((1, 8, 8))[0])
    np.save(tmp_path / "signed.npy", volume((2, 8, 8), np.int16))
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "v.csv").write_text("1,2")
    return {path.name: path for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("empty", "holds no PNG, TIFF or JPEG slices"),
        ("uneven", "z1.png is 8 x 9 of uint8, but z0.png is 8 x 8 of uint8: all slices must be alike"),
        ("colour", "a.jpg is not a picture that can be read: its pixels are CMYK: want gray, RGB or RGBA"),
        ("broken", "z1.png is not a picture that can be read"),
        ("flat.npy", "has the shape (8, 8): a volume of three axes"),
        ("signed.npy", "holds int16, which no datatype has: convert it to uint16 (uint16blk) first"),
        ("text.npy", "is not a numpy file of voxels: it does not begin as one"),
        ("v.csv", "is no volume: give a folder"),
        ("nothing", "there is no"),
    ],
)
def test_what_is_no_volume_is_refused_in_one_line(store_path: Path, wrong: dict, name: str, says: str):
    done = bring(store_path, wrong.get(name, "/nothing"), "--quiet", check=False)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("dvidfs: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    if name not in ("uneven", "broken"):  # what the first slice does not tell comes out later
        assert live.dvidfs("repos", store_path).stdout == "no repos\n"


def test_an_instance_that_is_there_is_not_made_otherwise(store_path: Path, tmp_path: Path):
    np.save(tmp_path / "v.npy", volume((4, 8, 8)))
    bring(store_path, tmp_path / "v.npy", "--block-size", "32,32,32", "--voxel-size", "8,8,8")
    for words, says in (
        (("--block-size", "64,64,64"), "its BlockSize is [32, 32, 32]"),
        (("--voxel-size", "1,1,1"), "its VoxelSize is [8.0, 8.0, 8.0]"),
        (("--type", "keyvalue"), "is there already, of type uint8blk"),
        (("--offset", "2147483645,0,0"), "would end beyond 2147483647"),
        (("--offset", "x"), "--offset"),
    ):
        done = bring(store_path, tmp_path / "v.npy", *words, check=False)
        assert says in done.stderr
        assert done.stderr.count("\n") == 1


def test_nothing_is_written_over(store_path: Path, tmp_path: Path):
    np.save(tmp_path / "v.npy", volume((4, 8, 8)))
    bring(store_path, tmp_path / "v.npy")
    done = live.dvidfs("export", store_path, "r", "i", tmp_path / "v.npy", check=False)
    assert "is there already: choose another place" in done.stderr
    done = live.dvidfs("export", store_path, "r", "i", tmp_path / "v.zip", check=False)
    assert "v.zip: give a folder, a file .npy .raw" in done.stderr


# -- going on ----------------------------------------------------------------------------------------------------

DYING = """
import os, signal, sys
from dvidfs.cli import ingest, ingest_voxels
ingest_voxels.STEP_BYTES, ingest.BATCH_BYTES, left = 1 << 14, 1 << 12, int(sys.argv[1])
def step(*given, whole=ingest._step):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*given)
ingest._step = step
from dvidfs.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


def dying(steps: int, *words: object) -> int:
    """Run a command with small steps, killed when it has done so many; its exit code."""
    return subprocess.run([sys.executable, "-c", DYING, str(steps), *map(str, words)], check=False).returncode


def jobs_of(store: Path) -> list[dict]:
    return json.loads(live.dvidfs("jobs", store, "--json").stdout)


def test_a_killed_import_of_voxels_goes_on(store_path: Path, tmp_path: Path):
    voxels = volume((40, 40, 64))
    source = write_slices(tmp_path / "s", voxels)
    words = ("import", store_path, source, "--repo", "r", "--instance", "i", "--block-size", "16,16,16")
    assert dying(3, *words) == -9
    (job,) = jobs_of(store_path)
    assert (job["state"], job["done"], job["total"]) == ("running", 3, 9)
    assert dying(5, *words) == -9
    assert jobs_of(store_path)[0]["done"] == 8
    assert dying(1, *words) == 0
    (job,) = jobs_of(store_path)
    assert (job["state"], job["done"]) == ("done", 9)
    assert (exported(store_path, tmp_path) == voxels).all()
    live.dvidfs("check", store_path, "--deep")


def test_a_killed_import_of_files_goes_on(store_path: Path, tmp_path: Path):
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(50):
        (folder / f"f{number:02d}").write_bytes(b"%d" % number * 500)
    words = ("import", store_path, folder, "--repo", "r", "--instance", "i", "--type", "keyvalue")
    assert dying(4, *words) == -9
    assert dying(99, *words) == 0
    live.dvidfs("export", store_path, "r", "i", tmp_path / "out")
    same = subprocess.run(["diff", "-r", folder, tmp_path / "out"], check=False)
    assert same.returncode == 0


def test_a_source_that_changed_begins_anew(store_path: Path, tmp_path: Path):
    voxels = volume((40, 40, 64))
    source = write_slices(tmp_path / "s", voxels)
    words = ("import", store_path, source, "--repo", "r", "--instance", "i", "--block-size", "16,16,16")
    assert dying(3, *words) == -9
    voxels[0] += 1
    Image.fromarray(voxels[0]).save(source / "z0.png")
    assert dying(99, *words) == 0
    assert (exported(store_path, tmp_path) == voxels).all()


def test_a_cancelled_import_stops_and_goes_on_when_run_again(store_path: Path, tmp_path: Path):
    source = write_slices(tmp_path / "s", volume((40, 40, 64)))
    words = ("import", store_path, source, "--repo", "r", "--instance", "i", "--block-size", "16,16,16")
    dying(3, *words)
    (job,) = jobs_of(store_path)
    live.dvidfs("jobs", store_path, "cancel", job["id"])
    assert jobs_of(store_path)[0]["state"] == "cancelled"
    assert dying(99, *words) == 0
    assert jobs_of(store_path)[0]["done"] == 9


def test_an_import_that_stopped_is_not_taken_by_a_server(store_path: Path, tmp_path: Path):
    source = write_slices(tmp_path / "s", volume((40, 40, 64)))
    dying(3, "import", store_path, source, "--repo", "r", "--instance", "i", "--block-size", "16,16,16")
    assert json.loads(live.dvidfs("jobs", store_path, "run", "--json").stdout)[0]["state"] == "running"


def test_progress_is_silent_on_request_and_renewed_on_a_terminal(store_path: Path, tmp_path: Path):
    np.save(tmp_path / "v.npy", volume((300, 256, 256)))
    assert bring(store_path, tmp_path / "v.npy", "--quiet").stderr == ""
    code = (
        "import dvidfs.cli.progress as p; p.TTY_SECONDS = 0; import sys; from dvidfs.__main__ import main; "
        "sys.stderr.isatty = lambda: True; sys.exit(main(sys.argv[1:]))"
    )
    words = ["import", store_path, tmp_path / "v.npy", "--repo", "r", "--instance", "j"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, check=True)
    lines = done.stderr.split(b"\r\033[K")
    assert re.fullmatch(rb"importing v\.npy: \d+ % of 19\.7 MB, [\d.]+ .?B/s, \d+:\d\d left", lines[1])
    assert lines[-1] == b""


# -- files -------------------------------------------------------------------------------------------------------

NAMES = [b"plain", b"with space", "é".encode(), b"\xff\xfe", b"sub/deep/er", b"100%", b"a%2Fb", b".hidden", b"e"]


def write_files(folder: Path) -> dict[bytes, bytes]:
    """Files below a folder, one of them long, one empty; their values by name."""
    values = {name: name * (3 + i * 50) for i, name in enumerate(NAMES)}
    values |= {b"long": os.urandom(3_000_001), b"e": b""}
    for name, value in values.items():
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value)
    return values


def keys_of(store: Path) -> list[bytes]:
    done = subprocess.run([*live.DVIDFS, "key", "list", store, "r", "i", "-0"], capture_output=True, check=True)
    return done.stdout.split(b"\0")[:-1]


def test_files_become_keys_and_files_again(store_path: Path, tmp_path: Path):
    values = write_files(tmp_path / "in")
    bring(store_path, tmp_path / "in", "--type", "keyvalue")
    # as in a mount: %2F in a file's name is a slash in the key
    assert keys_of(store_path) == sorted(b"a/b" if name == b"a%2Fb" else name for name in values)
    live.dvidfs("export", store_path, "r", "i", tmp_path / "out")
    bring_back = live.dvidfs(
        "import", store_path, tmp_path / "out", "--repo", "r", "--instance", "again", "--type", "keyvalue"
    )
    assert bring_back.stdout.startswith(f"imported {len(values)} files")
    live.dvidfs("export", store_path, "r", "again", tmp_path / "out2")
    assert subprocess.run(["diff", "-r", tmp_path / "out", tmp_path / "out2"], check=False).returncode == 0
    assert (tmp_path / "out" / "long").read_bytes() == values[b"long"]
    assert (tmp_path / "out" / "sub%2Fdeep%2Fer").read_bytes() == values[b"sub/deep/er"]


def test_an_archive_holds_every_key(store_path: Path, tmp_path: Path):
    values = write_files(tmp_path / "in")
    long = "k" * 1000
    bring(store_path, tmp_path / "in", "--type", "keyvalue")
    live.dvidfs("key", "put", store_path, "r", "i", long, input="a long name")
    partly = live.dvidfs("export", store_path, "r", "i", tmp_path / "out", check=False)
    assert partly.returncode == 1
    assert "1 keys whose names are too long for a file were left out" in partly.stderr
    live.dvidfs("export", store_path, "r", "i", tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar", errors="surrogateescape", encoding="utf-8") as archive:
        names = [name.encode(errors="surrogateescape") for name in archive.getnames()]
        assert sorted(names) == sorted(keys_of(store_path))
        member = archive.extractfile("long")
        assert member is not None
        assert member.read() == values[b"long"]
    live.dvidfs("import", store_path, tmp_path / "out.tar", "--repo", "r", "--instance", "t", "--type", "keyvalue")
    assert live.dvidfs("key", "get", store_path, "r", "t", long).stdout == "a long name"


def test_conflicts_are_left_out_aloud(store_path: Path, tmp_path: Path):
    live.dvidfs("repo", "new", store_path, "--alias", "r")
    live.dvidfs("instance", "new", store_path, "r", "keyvalue", "i")
    live.dvidfs("key", "put", store_path, "r", "i", "calm", input="0")
    live.dvidfs("commit", store_path, "r")
    live.dvidfs("newversion", store_path, "r")
    live.dvidfs("branch", store_path, "r:master~1", "side")
    for branch in ("master", "side"):
        live.dvidfs("key", "put", store_path, f"r:{branch}", "i", "k", input=branch)
        live.dvidfs("commit", store_path, f"r:{branch}")
    live.dvidfs("merge", store_path, "r:master", "r:side", "--allow-conflicts")
    done = live.dvidfs("export", store_path, "r", "i", tmp_path / "out", check=False)
    assert done.returncode == 1
    assert "1 keys in conflict were left out" in done.stderr
    assert os.listdir(tmp_path / "out") == ["calm"]


def test_names_that_no_key_has_are_refused(store_path: Path, tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a%41").write_text("x")
    done = bring(store_path, tmp_path / "in", "--type", "keyvalue", check=False)
    assert "no key has this name" in done.stderr


# -- names -------------------------------------------------------------------------------------------------------


def test_numbers_in_names_count_as_numbers():
    assert sorted(["z10", "z9", "z010", "a", "z"], key=natural) == ["a", "z", "z9", "z10", "z010"]


@given(st.lists(st.text(max_size=6), max_size=6))
def test_any_names_can_be_sorted(names: list[str]):
    ordered = sorted(names, key=natural)
    assert sorted(ordered) == sorted(names)
    assert all(natural(a) <= natural(b) for a, b in itertools.pairwise(ordered))


def test_files_that_are_not_there_make_nothing(store_path: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for source, says in ((tmp_path / "none", "there is no"), (tmp_path / "empty", "holds no files")):
        done = bring(store_path, source, "--type", "keyvalue", check=False)
        assert says in done.stderr
        assert done.stderr.count("\n") == 1
    assert live.dvidfs("repos", store_path).stdout == "no repos\n"
