"""`dvidfs import`, `mappings`, `export` and `pyramid` of labels: every format in and out, as bodies and as supervoxels."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import live
import numpy as np
import pytest

from dvidfs.__main__ import main
from dvidfs.engine import ReadView, open_engine
from dvidfs.types.builtin import registry
from dvidfs.types.geometry import Box
from dvidfs.types.labelmap import bodies, index
from dvidfs.types.labelmap.volume import LabelVolume

DATA = Path(__file__).resolve().parents[2] / "mount-examples" / "data" / "segmentation"
OFFSET, VOXEL = (10, -20, 30), (8.0, 8.0, 40.0)


def labels_of(shape: tuple[int, int, int] = (35, 41, 29), most: int = 2**63 - 1) -> np.ndarray:
    """Boxes of one label each, among them 0 and some that are large."""
    random = np.random.default_rng(3)
    known = np.append(random.integers(1, most, 40, np.uint64), np.uint64(0))
    cells = random.choice(known, [-(-n // 5) for n in shape])
    return cells.repeat(5, 0).repeat(5, 1).repeat(5, 2)[tuple(slice(n) for n in shape)].copy()


def run(*words: object, code: int = 0) -> None:
    assert main([str(word) for word in words]) == code


def bring(store: Path, source: object, name: str, *words: object, code: int = 0) -> None:
    words = ("--type", "labelmap", *words) if "--type" not in words else words
    run("import", store, source, "--repo", "r", "--instance", name, "--quiet", *words, code=code)


def exported(store: Path, name: str, folder: Path, *words: object) -> np.ndarray:
    path = folder / f"back{len(list(folder.iterdir()))}.npy"
    run("export", store, "r", name, path, "--quiet", *words)
    return np.load(path)


def settings_of(store: Path, name: str, capfd: pytest.CaptureFixture[str]) -> dict:
    capfd.readouterr()
    run("repo", "info", store, "r", "--json")
    return json.loads(capfd.readouterr().out)["DataInstances"][name]["Extended"]


def check_sound(store: Path) -> None:
    """The store is whole; in particular the index says what the voxels say."""
    done = live.dvidfs("check", store, "--deep", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


WAYS = {
    "npy": ("v.npy",),
    "raw": ("v.raw",),
    "nii.gz": ("v.nii.gz",),
    "mhd": ("m.mhd",),
    "nrrd": ("v.nrrd",),
    "hdf5": ("v.h5",),
    "tiff": ("v.tif",),
    "tif slices": ("tif", "--format", "tif"),
    "zarr": ("v.zarr",),
    "zarr 2": ("w.zarr", "--zarr-format", "2"),
    "n5": ("v.n5",),
    "precomputed": ("v.precomputed",),
    "precomputed raw": ("r.precomputed", "--encoding", "raw"),
    "shards": ("s.precomputed", "--sharded", "--chunk", "16,32,8"),
}


def test_every_format_gives_back_what_it_was_given(store_path: Path, tmp_path: Path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    voxels = labels_of()
    np.save("in.npy", voxels)
    place = ",".join(map(str, OFFSET))
    bring(store_path, "in.npy", "v", f"--offset={place}", "--voxel-size", "8,8,40", "--block-size", "16,32,16")
    back = tmp_path / "back"
    back.mkdir()
    for number, (name, (dest, *words)) in enumerate(WAYS.items()):
        run("export", store_path, "r", "v", dest, "--quiet", *words)
        shape = ("--shape", "29,41,35", "--dtype", "uint64") if name == "raw" else ()
        bring(store_path, dest, f"i{number}", *shape)
        assert np.array_equal(exported(store_path, f"i{number}", back), voxels), name
    found = settings_of(store_path, "v", capfd)
    assert (tuple(found["MinPoint"]), tuple(found["VoxelSize"])) == (OFFSET, VOXEL)
    check_sound(store_path)


@pytest.mark.parametrize("dtype", ["uint8", ">u2", "int32", "int64", ">u8"])
def test_whole_numbers_of_any_size_are_labels(store_path: Path, tmp_path: Path, dtype: str):
    voxels = labels_of(most=100)
    np.save(tmp_path / "v.npy", voxels.astype(dtype))
    bring(store_path, tmp_path / "v.npy", "v", "--block-size", "16,16,16")
    found = exported(store_path, "v", tmp_path)
    assert found.dtype == np.uint64
    assert np.array_equal(found, voxels)


@pytest.mark.parametrize(
    ("voxels", "says"),
    [
        (np.full((4, 5, 6), -3, np.int16), "the volume holds label -3: labels are whole numbers from 0 on"),
        (np.zeros((4, 5, 6), np.float32), "v.npy holds float32, labelmap holds whole numbers: convert it first"),
        (np.zeros((4, 5, 6, 3), np.uint8), "v.npy holds 3 channels of uint8, labelmap holds whole numbers"),
        (np.full((4, 5, 6), 2**64 - 1, np.uint64), f"the volume holds label {2**64 - 1}: labels above"),
    ],
    ids=["negative", "float", "colours", "too large"],
)
def test_voxels_that_are_no_labels_are_refused(store_path: Path, tmp_path: Path, voxels, says: str, capfd):
    np.save(tmp_path / "v.npy", voxels)
    bring(store_path, tmp_path / "v.npy", "v", code=2)
    said = capfd.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_a_volume_that_says_so_is_a_segmentation(store_path: Path, tmp_path: Path, capfd):
    np.save(tmp_path / "v.npy", labels_of())
    bring(store_path, tmp_path / "v.npy", "v")
    run("export", store_path, "r", "v", tmp_path / "v.precomputed", "--quiet")
    info = json.loads((tmp_path / "v.precomputed" / "info").read_text())
    assert (info["type"], info["scales"][0]["encoding"]) == ("segmentation", "compressed_segmentation")
    run("import", store_path, tmp_path / "v.precomputed", "--repo", "r", "--instance", "again", "--quiet")
    capfd.readouterr()
    run("instance", "list", store_path, "r", "--json")
    assert {i["name"]: i["type"] for i in json.loads(capfd.readouterr().out)}["again"] == "labelmap"


def test_what_is_there_beside_a_second_import_stays_and_is_counted_once(store_path: Path, tmp_path: Path):
    first, second = labels_of((20, 40, 40), 50), labels_of((10, 20, 20), 50)
    np.save(tmp_path / "a.npy", first)
    np.save(tmp_path / "b.npy", second)
    bring(store_path, tmp_path / "a.npy", "v", "--block-size", "16,16,16")
    bring(store_path, tmp_path / "b.npy", "v", "--offset", "0,32,0")
    expected = np.zeros((20, 52, 40), np.uint64)
    expected[:, :40] = first
    expected[:10, 32:52, :20] = second
    assert (exported(store_path, "v", tmp_path) == expected).all()
    check_sound(store_path)


@pytest.mark.parametrize("kind", ["labelarray", "labelblk"])
def test_the_older_types_take_labels_too(store_path: Path, tmp_path: Path, kind: str):
    voxels = labels_of()
    np.save(tmp_path / "v.npy", voxels)
    bring(store_path, tmp_path / "v.npy", "v", "--type", kind, "--block-size", "32,32,32")
    assert np.array_equal(exported(store_path, "v", tmp_path), voxels)
    check_sound(store_path)


# -- what was killed goes on -------------------------------------------------------------------------------------

DYING = """
import os, signal, sys
from dvidfs.cli import ingest, ingest_voxels
ingest_voxels.STEP_BYTES, left = 1 << 17, int(sys.argv[1])
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


def test_a_killed_import_goes_on_and_nothing_is_counted_twice(store_path: Path, tmp_path: Path):
    voxels = labels_of((40, 40, 64))
    np.save(tmp_path / "v.npy", voxels)
    words = ("import", store_path, tmp_path / "v.npy", "--repo", "r", "--instance", "v", "--type", "labelmap")
    words = (*words, "--block-size", "16,16,16", "--quiet")
    assert dying(3, *words) == -9
    assert dying(2, *words) == -9
    assert dying(99, *words) == 0
    assert np.array_equal(exported(store_path, "v", tmp_path), voxels)
    (job,) = [job for job in json.loads(live.dvidfs("jobs", store_path, "--json").stdout) if job["kind"] == "import"]
    assert (job["state"], job["done"]) == ("done", job["total"])
    check_sound(store_path)


# -- scales ------------------------------------------------------------------------------------------------------


def halved(voxels: np.ndarray) -> np.ndarray:
    """Of each 2x2x2 voxels the most frequent label that is not 0, the smallest of several, by the definition."""
    z, y, x = voxels.shape
    padded = np.zeros((z + z % 2, y + y % 2, x + x % 2), np.uint64)
    padded[:z, :y, :x] = voxels
    out = np.zeros([n // 2 for n in padded.shape], np.uint64)
    for at in np.ndindex(*out.shape):
        cell = padded[tuple(slice(2 * n, 2 * n + 2) for n in at)]
        found, counts = np.unique(cell[cell != 0], return_counts=True)
        out[at] = found[np.argmax(counts)] if len(found) else 0
    return out


def test_scales_are_made_by_votes(store_path: Path, tmp_path: Path, capfd):
    voxels = np.random.default_rng(1).integers(0, 4, (20, 33, 30)).astype(np.uint64)
    np.save(tmp_path / "v.npy", voxels)
    bring(store_path, tmp_path / "v.npy", "v", "--pyramid", "2", "--block-size", "16,16,16")
    assert settings_of(store_path, "v", capfd)["MaxDownresLevel"] == 2
    one = halved(voxels)
    assert np.array_equal(exported(store_path, "v", tmp_path, "--scale", "1"), one)
    assert np.array_equal(exported(store_path, "v", tmp_path, "--scale", "2"), halved(one))
    run("pyramid", store_path, "r", "v", "--quiet")
    assert '"v" has scales 0 to 2' in capfd.readouterr().out
    run("export", store_path, "r", "v", tmp_path / "v.zarr", "--scales", "4", "--chunk", "16,16,16", "--quiet")
    bring(store_path, tmp_path / "v.zarr", "coarse", "--source-scale", "3")  # which the volume itself does not have
    assert np.array_equal(exported(store_path, "coarse", tmp_path), halved(halved(one)))


def test_a_new_labelmap_has_the_scales_that_viewers_want(store_path: Path, tmp_path: Path, capfd):
    np.save(tmp_path / "small.npy", np.ones((4, 5, 6), np.uint8))
    np.save(tmp_path / "long.npy", np.ones((4, 5, 600), np.uint8))
    bring(store_path, tmp_path / "small.npy", "small")
    bring(store_path, tmp_path / "long.npy", "long")
    assert settings_of(store_path, "small", capfd)["MaxDownresLevel"] == 1
    assert settings_of(store_path, "long", capfd)["MaxDownresLevel"] == 2
    bring(store_path, tmp_path / "small.npy", "long", "--pyramid", "5", code=2)
    assert '"long" has 2 scales, as its MaxDownresLevel says' in capfd.readouterr().err
    bring(store_path, tmp_path / "small.npy", "old", "--type", "labelblk", "--pyramid", code=2)
    assert "--pyramid means nothing for labelblk" in capfd.readouterr().err


# -- bodies ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def medulla(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the excerpt's supervoxels, put together to bodies."""
    store = tmp_path_factory.mktemp("medulla") / "store"
    live.dvidfs("init", store)
    words = ("--repo", "r", "--instance", "seg", "--type", "labelmap", "--offset", "0,0,0", "--quiet")
    live.dvidfs("import", store, DATA / "supervoxels.nii.gz", *words)
    said = live.dvidfs("mappings", store, "r", "seg", DATA / "bodies.csv", "--json").stdout
    assert json.loads(said) == {"supervoxels": 792, "changed": 752}
    return store


def truth() -> tuple[np.ndarray, np.ndarray]:
    """Supervoxels of the excerpt (z, y, x), and the body of each voxel."""
    import nibabel

    supervoxels = np.asarray(nibabel.load(DATA / "supervoxels.nii.gz").dataobj).T.astype(np.uint64)
    rows = np.loadtxt(DATA / "bodies.csv", np.uint64, delimiter=",", skiprows=1)
    body = np.arange(int(supervoxels.max()) + 1, dtype=np.uint64)
    body[rows[:, 0]] = rows[:, 1]
    return supervoxels, body[supervoxels]


def test_an_excerpt_is_there_as_supervoxels_and_as_bodies(medulla: Path, tmp_path: Path):
    supervoxels, body = truth()
    assert np.array_equal(exported(medulla, "seg", tmp_path), body)
    assert np.array_equal(exported(medulla, "seg", tmp_path, "--supervoxels"), supervoxels)
    with open_engine(medulla) as engine, engine.read() as txn:
        (node,) = txn.graph.nodes()
        view = ReadView(txn, node, txn.graph.instance(node, "seg"))
        for label in np.unique(body).tolist()[::7]:
            held = bodies.members(view, label).supervoxels
            assert held.tolist() == np.unique(supervoxels[body == label]).tolist()
            rows = bodies.of_body(view, label)
            assert index.sizes_of(rows, held).tolist() == [int((supervoxels == n).sum()) for n in held.tolist()]
        window = Box((30, 40, 10), (50, 20, 30))
        assert np.array_equal(LabelVolume.of(view).read(window), body[10:40, 40:60, 30:80])
    check_sound(medulla)


def test_what_is_mapped_is_printed(medulla: Path):
    rows = np.loadtxt(DATA / "bodies.csv", np.uint64, delimiter=",", skiprows=1)
    other = rows[rows[:, 0] != rows[:, 1]].tolist()
    wanted = "supervoxel,body\n" + "".join(f"{a},{b}\n" for a, b in other)
    assert live.dvidfs("mappings", medulla, "r", "seg").stdout == wanted


@pytest.fixture
def three(store_path: Path, tmp_path: Path) -> Path:
    """A store with a volume `seg` of supervoxels 1 to 3."""
    np.save(tmp_path / "three.npy", np.arange(1, 4, dtype=np.uint8).repeat(64).reshape(3, 8, 8))
    bring(store_path, tmp_path / "three.npy", "seg", "--block-size", "16,16,16")
    return store_path


@pytest.mark.parametrize(
    "text",
    ["supervoxel,body\n1,7\n3,7\n", "1,7\n3,7", "1\t7\r\n3\t7\r\n", "sv;b\n1 ; 7\n3;7\n\n", "1 7\n3 7\n"],
    ids=["head", "none", "tabs", "semicolons", "blanks"],
)
def test_tables_are_written_as_people_write_them(three: Path, tmp_path: Path, text: str, capfd):
    (tmp_path / "t.csv").write_text(text)
    run("mappings", three, "r", "seg", tmp_path / "t.csv", "--json")
    assert json.loads(capfd.readouterr().out) == {"supervoxels": 2, "changed": 2}
    assert np.unique(exported(three, "seg", tmp_path)).tolist() == [2, 7]


def test_numpy_tables(three: Path, tmp_path: Path):
    np.save(tmp_path / "t.npy", np.array([[1, 7], [3, 7]], np.int32))
    run("mappings", three, "r", "seg", tmp_path / "t.npy")
    assert np.unique(exported(three, "seg", tmp_path)).tolist() == [2, 7]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("t.csv", b"1,7\n2;x\n", 'line 2 is "2;x": want a supervoxel and its body, as 4512,37'),
        ("t.csv", b"sv,body\n1,7,9\n", 'line 2 is "1,7,9"'),
        ("t.csv", b"1,-7\n", 'line 1 is "1,-7"'),
        ("t.csv", b"1,7\n1,8\n", "supervoxel 1 is put into two bodies, 7 and 8"),
        ("t.csv", b"1,99999999999999999999\n", "body 18446744073709551615 cannot be"),
        ("t.csv", b"1,0\n", "supervoxel 1 has voxels and cannot be put into body 0"),
        ("t.npy", b"nothing", "is not a numpy file"),
        ("none.csv", None, "No such file"),
    ],
)
def test_tables_that_cannot_be_are_refused_in_one_line(three: Path, tmp_path: Path, name, data, says, capfd):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    assert main(["mappings", str(three), "r", "seg", str(tmp_path / name)]) != 0
    said = capfd.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert np.unique(exported(three, "seg", tmp_path)).tolist() == [1, 2, 3]


def test_only_a_labelmap_of_an_open_version_is_mapped(three: Path, tmp_path: Path, capfd):
    (tmp_path / "t.csv").write_text("1,7\n")
    bring(three, tmp_path / "three.npy", "plain", "--type", "labelarray")
    run("mappings", three, "r", "plain", tmp_path / "t.csv", code=2)
    assert "which maps nothing: name a labelmap" in capfd.readouterr().err
    run("commit", three, "r")
    assert main(["mappings", str(three), "r", "seg", str(tmp_path / "t.csv")]) != 0
    assert "dvidfs newversion" in capfd.readouterr().err


def test_supervoxels_are_of_labels_only(store_path: Path, tmp_path: Path, capfd):
    np.save(tmp_path / "v.npy", np.zeros((4, 5, 6), np.uint8))
    bring(store_path, tmp_path / "v.npy", "gray", "--type", "uint8blk")
    run("export", store_path, "r", "gray", tmp_path / "o.npy", "--supervoxels", code=2)
    assert "--supervoxels means nothing for uint8blk" in capfd.readouterr().err
    run("instance", "new", store_path, "r", "roi", "part")
    run("export", store_path, "r", "part", tmp_path / "o.npy", code=2)
    assert "is of type roi, which has no voxels to export" in capfd.readouterr().err


def test_every_type_with_voxels_can_be_imported_and_exported():
    for kind in registry():
        assert (kind.intake is None) == (not kind.volumes), kind.name
        assert kind.pyramid is None or kind.pyramid.job in kind.jobs, kind.name
