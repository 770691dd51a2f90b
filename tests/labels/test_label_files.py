"""A real segmentation as files: volumes of bodies and supervoxels, a folder for each, meshes; read, written and compared through mounts."""

from __future__ import annotations

import csv
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import live
import numpy as np
import pytest
import tensorstore
import wire
from client import Connection, Labels, Refused
from numpy.typing import NDArray
from test_fib25 import FRAME, bodies, supervoxels
from wire import Voxels

from dvidfs.engine import ReadView, Store, open_engine
from dvidfs.types.base import find_file
from dvidfs.types.formats import meshes
from dvidfs.types.labelmap import bodyfiles, files, meshing, sparse

NM = (8.0, 10.0, 40.0)
LAST = (180, 171, 60)
"""The last voxel of the extents: not at a block's border, nor at that of a sub-block."""
BIG = 7
PARTS = [204, 3959]
"""Supervoxels of the largest body; with others of it, and some of body 59, in :data:`WINDOW`."""
WINDOW = (slice(20, 23), slice(80, 85), slice(60, 70))
FILES = {
    "info.json",
    "sparsevol.rles",
    "coarse.rles",
    "mask.nii",
    "supervoxels.csv",
    "mesh.ply",
    "mesh.ngmesh",
}
TABLE = bodies()
INSIDE = tuple(slice(0, n + 1) for n in reversed(LAST))


@dataclass(frozen=True)
class Scene:
    """The excerpt in the committed version ``root``, and in its open child; mounted and served."""

    mount: live.Mount
    store: Path
    root: str
    child: str
    connection: Connection

    def folder(self, uuid: str) -> Path:
        return self.mount.path / self.root / uuid / "segmentation"

    @property
    def committed(self) -> Path:
        return self.folder(self.root)

    @property
    def open(self) -> Path:
        return self.folder(self.child)

    @property
    def labels(self) -> Labels:
        """Over HTTP, in the open version."""
        return Labels(self.connection, self.child, "segmentation")

    def path(self, rest: str, uuid: str = "") -> str:
        return f"/api/node/{uuid or self.root}/segmentation/{rest}"

    def new_child(self, branch: str) -> Path:
        """The folder of another open child of the committed version."""
        return self.folder(self.connection.child(self.root, branch))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    live.need_mounts()
    folder = tmp_path_factory.mktemp("label-files")
    Store.create(folder / "store")
    with live.Mount(folder / "store", log=folder / "mount.log") as mount:
        connection = Connection(mount.port)
        root = connection.new_repo()
        size = ",".join(map(str, NM))
        connection.new_instance(root, "segmentation", BlockSize="32,32,32", MaxDownresLevel="2", VoxelSize=size)
        labels = Labels(connection, root, "segmentation")
        labels.post_raw((0, 0, 0), supervoxels())
        labels.ask("POST", "extents", {"MinPoint": (0, 0, 0), "MaxPoint": LAST})
        pairs: dict[int, list[int]] = {}
        for supervoxel, body in TABLE.items():
            pairs.setdefault(body, []).append(supervoxel)
        for body, held in pairs.items():
            if len(held) > 1:
                labels.merge(body, [s for s in held if s != body], u="ann", app="tests")
        connection.commit(root)
        child = connection.child(root, "work")
        yield Scene(mount, folder / "store", root, child, connection)
        connection.close()


@pytest.fixture
def view(scene: Scene) -> Iterator[ReadView]:
    """The committed version, seen by another process."""
    with open_engine(scene.store) as engine, engine.read() as txn:
        node = txn.graph.version(scene.root)
        yield ReadView(txn, node, txn.graph.instance(node, "segmentation"))


def mapped(voxels: Voxels) -> Voxels:
    ids, where = np.unique(voxels, return_inverse=True)
    return np.array([TABLE.get(i, i) for i in ids.tolist()], np.uint64)[where].reshape(voxels.shape)


def numbers(folder: Path) -> list[int]:
    return sorted(int(name) for name in os.listdir(folder) if name.isdecimal())


def table(path: Path, *head: str) -> list[tuple[int, int]]:
    """The rows of a table of two columns."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return [(int(row[head[0]]), int(row[head[1]])) for row in rows]


def refused(action: Callable[[], object]) -> int:
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return 0


# ---------------------------------------------------------------- volumes


def test_volumes_show_bodies_and_supervoxels(scene: Scene):
    inner = supervoxels()[INSIDE]
    for folder, wanted in ((scene.committed, mapped(inner)), (scene.committed / "supervoxels", inner)):
        for _ in range(2):  # made, then kept
            assert np.array_equal(np.load(folder / "volume.npy"), wanted)
        assert np.array_equal(np.load(folder / "volume.npy", mmap_mode="r")[5:9, 3, 70:80], wanted[5:9, 3, 70:80])
        assert np.array_equal(np.fromfile(folder / "volume.raw", "<u8"), wanted.ravel())
        block = np.fromfile(folder / "blocks" / "1_2_0", "<u8").reshape(32, 32, 32)
        assert np.array_equal(block, wanted[:32, 64:96, 32:64])
        assert {"volume.nii", "volume.h5", "volume.tif", "volume.mhd", "zarr", "slices"} <= set(os.listdir(folder))
        labels = Labels(scene.connection, scene.root, "segmentation")
        coarse = np.load(folder / "scales" / "1" / "volume.npy")
        query = {"scale": 1, "supervoxels": folder.name == "supervoxels"}
        assert np.array_equal(coarse, labels.raw((0, 0, 0), coarse.shape, **query))


def opened(kvstore: dict[str, str], scale: int) -> NDArray:
    spec = {"driver": "neuroglancer_precomputed", "kvstore": kvstore, "scale_index": scale}
    volume: Any = tensorstore.open(spec).result()
    return volume.read().result()[..., 0].T


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_precomputed_is_compressed_segmentation(scene: Scene, scale: int):
    about = json.loads((scene.committed / "precomputed" / "info").read_text())
    assert (about["type"], about["data_type"], about["mesh"]) == ("segmentation", "uint64", "mesh")
    assert about["scales"][scale]["encoding"] == "compressed_segmentation"
    url = scene.mount.url + scene.path("precomputed/")
    for folder in (scene.committed, scene.committed / "supervoxels"):
        wanted = np.load((folder / "scales" / str(scale) if scale else folder) / "volume.npy")
        found = opened({"driver": "file", "path": f"{folder}/precomputed/"}, scale)
        assert np.array_equal(found, wanted)
        if folder == scene.committed:
            assert np.array_equal(opened({"driver": "http", "base_url": url}, scale), wanted)


def test_written_voxels_join_a_supervoxel_of_the_body(scene: Scene):
    folder, labels = scene.open, scene.labels
    part, _ = labels.cleave(BIG, PARTS)
    live.wait_until(lambda: part in np.load(folder / "volume.npy"), 5, "the cleaved body")
    before, shown = np.load(folder / "supervoxels" / "volume.npy"), np.load(folder / "volume.npy")
    assert part not in before, "a body that has no supervoxel of its number"
    assert len(np.unique(before[WINDOW][shown[WINDOW] == BIG])) > 1
    assert set(np.unique(shown[WINDOW])) == {BIG, 59, part}
    fresh = 10**12
    writable = np.load(folder / "volume.npy", mmap_mode="r+")
    writable[WINDOW] = BIG
    writable[10, 0, :4], writable[11, 0, :4], writable[12, 0, :4] = part, 0, fresh
    writable.flush()
    del writable
    wanted = before.copy()
    wanted[WINDOW][shown[WINDOW] != BIG] = BIG
    wanted[10, 0, :4], wanted[11, 0, :4], wanted[12, 0, :4] = min(PARTS), 0, fresh
    stored = labels.raw((0, 0, 0), FRAME.shape, supervoxels=True)
    assert np.array_equal(stored[INSIDE], wanted)
    assert np.array_equal(stored[LAST[2] + 1 :], supervoxels()[LAST[2] + 1 :]), "what lies outside the extents stays"
    for supervoxel in (BIG, *PARTS, fresh, int(before[10, 0, 0])):
        assert labels.size(supervoxel, supervoxels=True) == (stored == supervoxel).sum()
    assert labels.size(part) == np.isin(stored, PARTS).sum()
    live.wait_until(lambda: (folder / "bodies" / str(fresh)).is_dir(), 5, "the new body")
    assert json.loads((folder / "bodies" / str(fresh) / "info.json").read_text())["voxels"] == 4


def test_a_number_that_would_not_be_read_back_is_refused(scene: Scene):
    folder = scene.new_child("refusals")
    before = np.load(folder / "volume.npy")
    lost = next(s for s, body in TABLE.items() if s != body)

    def write(label: int) -> None:
        with (folder / "volume.raw").open("r+b") as file:
            file.write(struct.pack("<Q", label))

    for label in (lost, 2**64 - 1):
        assert refused(lambda label=label: write(label)) == 22, label
    with (folder / "supervoxels" / "volume.raw").open("r+b") as file:
        file.write(struct.pack("<Q", lost))
    live.wait_until(lambda: np.load(folder / "volume.npy")[0, 0, 0] == TABLE[lost], 5, "the supervoxel")
    assert np.array_equal(np.load(folder / "volume.npy").ravel()[1:], before.ravel()[1:])
    assert refused(lambda: (scene.committed / "volume.raw").open("r+b")) == 30


# ---------------------------------------------------------------- folders of bodies


def test_every_body_and_supervoxel_has_a_folder(scene: Scene):
    known = np.unique(supervoxels())
    assert numbers(scene.committed / "bodies") == sorted(set(TABLE.values()))
    assert numbers(scene.committed / "supervoxels") == known.tolist()
    assert set(os.listdir(scene.committed / "bodies" / str(BIG))) == FILES
    assert set(os.listdir(scene.committed / "supervoxels" / "8")) == FILES - {"supervoxels.csv"}
    for name in ("bodies/0", "bodies/8", "bodies/007", "bodies/-7", "bodies/7x", "bodies/18446744073709551616"):
        assert not (scene.committed / name).exists(), name
    assert not (scene.committed / "supervoxels" / "424242").exists()
    assert refused(lambda: os.mkdir(scene.open / "bodies" / "77")) in (1, 13)


@pytest.mark.parametrize("name", ["bodies/7", "bodies/337", "supervoxels/7", "supervoxels/204"])
def test_a_folder_tells_what_the_voxels_are(scene: Scene, name: str):
    folder, label = scene.committed / name, int(name.split("/")[1])
    alone, voxels = name.startswith("supervoxels"), supervoxels()
    mask = (voxels if alone else mapped(voxels)) == label
    told = json.loads((folder / "info.json").read_text())
    assert told["voxels"] == mask.sum()
    assert (told["supervoxel"] if alone else told["body"]) == label
    if alone:
        assert told["body"] == TABLE[label]
    else:
        held, counts = np.unique(voxels[mask], return_counts=True)
        assert told["supervoxels"] == len(held)
        rows = table(folder / "supervoxels.csv", "supervoxel", "voxels")
        assert rows == list(zip(held.tolist(), counts.tolist(), strict=True))
    box, size = told["box"]["offset"], told["box"]["size"]
    blocks = wire.points_of_mask(mask, (0, 0, 0)) // 32
    assert told["blocks"] == len(np.unique(blocks, axis=0))
    assert box == (blocks.min(axis=0) * 32).tolist()
    assert size == ((blocks.max(axis=0) - blocks.min(axis=0) + 1) * 32).tolist()
    assert told["box_nm"]["size"] == [n * nm for n, nm in zip(size, NM, strict=True)]
    for file, endpoint in (("sparsevol.rles", "sparsevol"), ("coarse.rles", "sparsevol-coarse")):
        query = "?supervoxels=true" if alone else ""
        assert (folder / file).read_bytes() == scene.mount.get(scene.path(f"{endpoint}/{label}{query}")).ok().body
    data = (folder / "mask.nii").read_bytes()
    assert struct.unpack_from("<8h", data, 40)[1:4] == tuple(size)
    found = np.frombuffer(data, np.uint8, offset=352).reshape(size[::-1])
    window = tuple(slice(a, a + n) for a, n in zip(reversed(box), reversed(size), strict=True))
    assert np.array_equal(found, mask[window])
    with (folder / "mask.nii").open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 500, 352 + 12345) == data[352 + 12345 :][:500]


def test_meshes_lie_where_the_voxels_do(scene: Scene):
    folder = scene.committed / "bodies" / "337"
    assert folder.joinpath("mesh.ngmesh").read_bytes() == (folder / "mesh.ngmesh").read_bytes()
    data, text = (folder / "mesh.ngmesh").read_bytes(), (folder / "mesh.ply").read_bytes()
    (count,) = struct.unpack_from("<I", data)
    vertices = np.frombuffer(data, "<f4", 3 * count, 4).reshape(-1, 3)
    points = wire.points_of_mask(mapped(supervoxels()) == 337, (0, 0, 0))
    assert np.allclose(vertices.min(axis=0), points.min(axis=0) * NM)
    assert np.allclose(vertices.max(axis=0), (points.max(axis=0) + 1) * NM)
    assert f"element vertex {count}\n".encode() in text[:200]
    assert text.split(b"end_header\n", 1)[1][: 12 * count] == vertices.tobytes()
    for file in ("mesh.ngmesh", "mesh.ply"):
        assert (folder / file).stat().st_size == len((folder / file).read_bytes())
    (fragment,) = json.loads((scene.committed / "precomputed" / "mesh" / "337:0").read_text())["fragments"]
    assert (scene.committed / "precomputed" / "mesh" / fragment).read_bytes() == data
    assert scene.mount.get(scene.path(f"precomputed/mesh/{fragment}")).ok().body == data
    assert scene.mount.get(scene.path("precomputed/mesh/337:0")).ok().json() == {"fragments": [fragment]}
    assert scene.mount.get(scene.path("precomputed/mesh/424242:0")).status == 404


def test_a_coarse_mesh_keeps_what_is_thin(view: ReadView, monkeypatch: pytest.MonkeyPatch):
    """The mask is made coarser until it is small enough; where the scales end, of the voxels of the last one."""
    shape = sparse.need(view, BIG)
    fine = meshing.surface(view, shape, NM)
    for most_voxels, most_blocks, scale in ((1 << 16, 4096, 2), (1 << 16, 3, 2), (1 << 10, 4096, 4)):
        monkeypatch.setattr(meshing, "MOST_VOXELS", most_voxels)
        monkeypatch.setattr(meshing, "MOST_BLOCKS", most_blocks)
        monkeypatch.setattr(meshing, "HELD", meshing.Held(0))
        coarse = meshing.surface(view, shape, NM)
        assert 0 < len(coarse.triangles) < len(fine.triangles)
        side = np.array(NM) * 2**scale
        apart = np.abs(
            np.stack((coarse.vertices.min(0) - fine.vertices.min(0), fine.vertices.max(0) - coarse.vertices.max(0)))
        )
        assert (apart <= side).all()
        assert np.allclose(coarse.vertices * 2 % side, 0), "between the middles of its voxels"
        assert not np.allclose(coarse.vertices % side, 0)


def test_mappings_are_a_table(scene: Scene):
    rows = table(scene.committed / "mappings.csv", "supervoxel", "body")
    assert dict(rows) == Labels(scene.connection, scene.root, "segmentation").mappings()
    assert len(rows) == sum(s != body for s, body in TABLE.items())


def test_a_listing_makes_no_mesh(scene: Scene):
    folder = scene.new_child("listing") / "bodies" / "350"
    live.wait_until(folder.is_dir, 5, "the folder")
    done = subprocess.run(["ls", "-l", folder], capture_output=True, text=True, check=True).stdout
    sizes = {line.split()[-1]: int(line.split()[4]) for line in done.splitlines()[1:]}
    assert set(sizes) == FILES
    assert [name for name, size in sizes.items() if not size] == ["mesh.ngmesh", "mesh.ply"]
    for name, size in sizes.items():
        assert not size or len((folder / name).read_bytes()) == size


# ---------------------------------------------------------------- which bodies changed


def changed(scene: Scene, folder: Path, kind: str) -> set[int]:
    """What `find -newer` finds: the folders that are newer than the commit."""
    words = ["find", folder / kind, "-mindepth", "1", "-maxdepth", "1", "-type", "d", "-newer", scene.committed.parent]
    found = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True).stdout.split()
    return {int(Path(line).name) for line in found if Path(line).name.isdecimal()}


def test_times_tell_which_bodies_changed(scene: Scene):
    folder = scene.new_child("changes")
    uuid = folder.parent.name
    labels = Labels(scene.connection, uuid, "segmentation")
    assert changed(scene, folder, "bodies") == set()
    labels.merge(337, [350], u="bob", app="tests")
    part, _ = labels.cleave(59, [59])
    voxels = supervoxels()
    spot = next((z, y, x) for z, y, x in np.argwhere(voxels == 461).tolist() if x < 180)
    block = tuple(n // 32 for n in reversed(spot))
    painted = voxels[FRAME.window(block)].copy()  # type: ignore[arg-type]
    painted[tuple(n % 32 for n in spot)] = 164
    start = tuple(n * 32 for n in block)
    labels.post_raw(start, painted, mutate=True)  # type: ignore[arg-type]
    wanted = {337, 59, part, 461, 164}
    live.wait_until(lambda: changed(scene, folder, "bodies") == wanted, 5, f"{wanted}")
    assert changed(scene, folder, "supervoxels") == {461, 164}
    differ = [
        name for name in numbers(folder / "bodies") if not same(scene.committed / "bodies", folder / "bodies", name)
    ]
    assert set(differ) == wanted
    assert not (folder / "bodies" / "350").exists()
    told = json.loads((folder / "bodies" / "337" / "info.json").read_text())["last_mutation"]
    assert (told["user"], told["app"]) == ("bob", "tests")
    assert labels.index_metadata(337)["last_mutid"] == told["id"]
    before = {name: (scene.committed / "bodies" / str(name)).stat().st_mtime_ns for name in wanted - {part}}
    scene.connection.commit(uuid)
    after = {name: (folder / "bodies" / str(name)).stat().st_mtime_ns for name in wanted - {part}}
    assert all(after[name] > before[name] for name in before)


def same(one: Path, other: Path, label: int) -> bool:
    """Whether `diff` finds the same in two folders of a body, but for its meshes."""
    words = ["diff", "-rq", "-x", "mesh.*", one / str(label), other / str(label)]
    return subprocess.run(list(map(str, words)), capture_output=True, check=False).returncode == 0


def test_voxels_that_only_move_change_the_index_too(connection: Connection):
    uuid = connection.new_repo()
    connection.new_instance(uuid, "moving", BlockSize="16,16,16")
    labels = Labels(connection, uuid, "moving")
    voxels = np.zeros((16, 16, 32), np.uint64)
    voxels[0, 0, :16], voxels[1, 0, :16], voxels[2] = 5, 6, 9
    labels.post_raw((0, 0, 0), voxels)
    labels.merge(5, [6])
    assert labels.index(5).blocks == {(0, 0, 0): {5: 16, 6: 16}}
    voxels[0, 0, :16], voxels[0, 0, 16:] = 0, 5
    labels.post_raw((0, 0, 0), voxels, mutate=True)
    assert labels.index(5).blocks == {(0, 0, 0): {6: 16}, (1, 0, 0): {5: 16}}
    assert labels.index(9).blocks == {(0, 0, 0): {9: 256}, (1, 0, 0): {9: 256}}


# ---------------------------------------------------------------- the command


def test_the_command_keeps_meshes_where_viewers_look(scene: Scene, tmp_path: Path):
    folder = scene.new_child("meshes")
    uuid = folder.parent.name
    wanted = ["mesh", scene.store, uuid, "segmentation", 337, 350, 59, "--json", "--quiet"]
    told = json.loads(live.dvidfs(*wanted).stdout)
    assert (told["instance"], told["written"], told["kept"]) == ("segmentation_meshes", 3, 0)
    found = scene.mount.get(f"/api/node/{uuid}/segmentation_meshes/key/337.ngmesh").ok().body
    assert found == (folder / "bodies" / "337" / "mesh.ngmesh").read_bytes()
    assert scene.mount.get(f"/api/node/{uuid}/segmentation_meshes/keys").ok().json() == [
        f"{n}.ngmesh" for n in (337, 350, 59)
    ]
    labels = Labels(scene.connection, uuid, "segmentation")
    labels.cleave(59, [59])
    told = json.loads(live.dvidfs(*wanted).stdout)
    assert (told["written"], told["kept"]) == (1, 2)
    assert json.loads(live.dvidfs(*wanted, "--again", "--into", "more").stdout)["written"] == 3
    for words, text in (
        (("segmentation", "424242"), "there is no body 424242"),
        (("segmentation", "x1"), "is no label"),
        (("segmentation_meshes",), "has no bodies: name a labelmap"),
    ):
        done = live.dvidfs("mesh", scene.store, uuid, *words, check=False)
        assert done.returncode
        assert text in done.stderr
        assert done.stderr.count("\n") == 1
    done = live.dvidfs("mesh", scene.store, scene.root, "segmentation", check=False)
    assert "is committed" in done.stderr
    assert done.returncode


# ---------------------------------------------------------------- over a view


def test_the_tree_can_be_asked_without_a_mount(view: ReadView):
    entry, parts = find_file(files.TREE, view, ("bodies", "7", "mesh.ngmesh"))
    size = entry.size(view, *parts)
    data = bytes(entry.read(view, *parts, 0, size))
    assert data == meshes.ngmesh(bodyfiles.LabelFiles().surface(view, 7))
    assert len(data) == size
    assert files.supervoxel_for(view, 7) == 7
    assert files.supervoxel_for(view, 10**15) == 10**15
    assert len(files.every_supervoxel(view)) == len(TABLE)
    assert bodyfiles.parse_number("18446744073709551615") == 2**64 - 1
    for name in ("18446744073709551616", "", "٣", "1_0", "+1", "9" * 5000):
        assert bodyfiles.parse_number(name) is None


def test_a_copy_is_whole(scene: Scene, tmp_path: Path):
    shutil.copytree(scene.committed / "bodies" / "350", tmp_path / "copy")
    for path in (tmp_path / "copy").iterdir():
        assert path.read_bytes() == (scene.committed / "bodies" / "350" / path.name).read_bytes()
        assert path.stat().st_size or path.name == "x"


def test_what_is_no_label_is_no_folder(scene: Scene):
    with pytest.raises(Refused):
        scene.labels.index(424242)
    assert refused(lambda: (scene.committed / "bodies" / "424242" / "info.json").read_text()) == 2
