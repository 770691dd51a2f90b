"""Image volumes in the mount: every view shows what any other way wrote, voxels never land elsewhere, fsync keeps its word."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import live
import numpy as np
import pytest

SHAPE = (32, 48, 64)
"""Of the volume (z, y, x), which begins at FIRST (x, y, z)."""
FIRST = (-32, -16, 48)
BLOCK = "16,16,16"


class Volume:
    """A volume in an open version, and the voxels that it should have."""

    def __init__(self, mounted: live.Mount) -> None:
        self.mounted = mounted
        self.uuid = mounted.post("/api/repos", {"alias": "fly"}).ok().json()["root"]
        told = {"typename": "uint8blk", "dataname": "em", "BlockSize": BLOCK}
        mounted.post(f"/api/repo/{self.uuid}/instance", told).ok()
        self.want = np.random.default_rng(5).integers(0, 256, SHAPE, np.uint8)
        self.post(self.want, FIRST)
        self.folder = mounted.path / "fly" / self.uuid / "em"

    def post(self, voxels: np.ndarray, offset: tuple[int, int, int]) -> None:
        size, at = ("_".join(map(str, numbers)) for numbers in (voxels.shape[::-1], offset))
        self.mounted.post(f"/api/node/{self.uuid}/em/raw/0_1_2/{size}/{at}", voxels.tobytes()).ok()

    def get(self) -> bytes:
        size, at = ("_".join(map(str, numbers)) for numbers in (SHAPE[::-1], FIRST))
        return self.mounted.get(f"/api/node/{self.uuid}/em/raw/0_1_2/{size}/{at}").ok().body


@pytest.fixture
def volume(mounted: live.Mount) -> Volume:
    return Volume(mounted)


def test_every_view_follows_every_way_of_writing(volume: Volume):
    folder, want = volume.folder, volume.want
    raw, mapped = (folder / "volume.raw").open("rb", buffering=0), np.load(folder / "volume.npy", mmap_mode="r")
    tif = (folder / "volume.tif").open("rb", buffering=0)
    tif_head = os.fstat(tif.fileno()).st_size - want.size

    def agree(what: str) -> None:
        assert volume.get() == want.tobytes(), what

        def same() -> bool:
            return (
                os.pread(raw.fileno(), want.size, 0) == want.tobytes()
                and os.pread(tif.fileno(), want.size, tif_head) == want.tobytes()
                and np.array_equal(mapped, want)
            )

        live.wait_until(same, 3, f"the same voxels everywhere after writing through {what}")

    agree("HTTP")
    want[16:32, :16, 16:32] = 7
    volume.post(want[16:32, :16, 16:32].copy(), (-16, -16, 64))
    agree("HTTP")
    written = np.load(folder / "volume.npy", mmap_mode="r+")
    want[3:20, 5:40, 10:50] += 1
    written[3:20, 5:40, 10:50] = want[3:20, 5:40, 10:50]
    written.flush()
    agree("volume.npy")
    want[:16, 16:32, :16] = 9
    with (folder / "blocks" / "-2_0_3").open("r+b") as block:
        block.write(bytes([9]) * 4096)
    agree("blocks/")
    want[4, :, :] = 77
    fd = os.open(folder / "volume.raw", os.O_WRONLY)
    os.pwrite(fd, bytes([77]) * (48 * 64), 4 * 48 * 64)
    os.close(fd)
    agree("volume.raw")
    raw.close()
    tif.close()


@pytest.mark.parametrize("name", ["volume.raw", "volume.npy"])
def test_voxels_never_land_where_nobody_meant_them_to(volume: Volume, name: str):
    """Extents that grow while a file is open to be written give every voxel another place in it."""
    path, want = volume.folder / name, volume.want
    fd, head = os.open(path, os.O_RDWR), os.stat(path).st_size - want.size
    os.pwrite(fd, b"x" * 10, head + 64)
    os.fsync(fd)
    want.reshape(-1)[64:74] = ord("x")
    volume.post(np.full((16, 16, 16), 3, np.uint8), (FIRST[0] + 64, FIRST[1], FIRST[2]))
    os.pwrite(fd, b"y" * 10, head + 64 * 40)
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        os.fsync(fd)
    assert volume.get() == want.tobytes()
    assert "open it anew" in (volume.mounted.path / ".dvidfs" / "errors.log").read_text()
    os.close(fd)
    with path.open("r+b") as again:
        again.seek(head + 80)
        again.write(b"z")
    want[0, 1, 0] = ord("z")
    assert volume.get() == want.tobytes()


def test_a_resolution_set_later_is_told_by_committed_versions_too(volume: Volume):
    http, nii = volume.mounted, volume.folder / "volume.nii"
    http.post(f"/api/node/{volume.uuid}/commit", {"note": "done"}).ok()
    before = nii.read_bytes()
    child = http.post(f"/api/node/{volume.uuid}/newversion", {}).ok().json()["child"]
    http.post(f"/api/node/{child}/em/resolution", [5, 6, 70]).ok()
    live.wait_until(lambda: nii.read_bytes()[:352] != before[:352], 3, "the new voxel size")
    assert nii.read_bytes()[352:] == before[352:]
    key = volume.mounted.path / "fly" / volume.uuid / "em" / "precomputed" / "5_6_70"
    live.wait_until(key.is_dir, 3, "the folder of the new voxel size")


def test_a_file_goes_when_its_format_cannot_hold_the_volume_any_more(volume: Volume):
    nii = volume.folder / "volume.nii"
    assert nii.stat().st_size == 352 + volume.want.size
    told = {"MinPoint": [0, 0, 0], "MaxPoint": [40000, 1, 1]}
    volume.mounted.post(f"/api/node/{volume.uuid}/em/extents", told).ok()
    live.wait_until(lambda: not nii.exists(), 2, "its end, and no other error")
    live.wait_until(lambda: "volume.nii" not in os.listdir(volume.folder), 2, "the new listing")
    assert "Traceback" not in volume.mounted.output()
    assert (volume.folder / "volume.raw").stat().st_size == 40001 * 4


def test_what_fsync_acknowledged_outlives_a_kill(store_path: Path, tmp_path: Path):
    live.need_mounts()
    with live.Mount(store_path, log=tmp_path / "mount.log") as running:
        volume = Volume(running)
        fd = os.open(volume.folder / "volume.raw", os.O_RDWR)
        for n in range(5):
            os.pwrite(fd, bytes([n]) * 3000, n * 5000)
            os.fsync(fd)
            volume.want.reshape(-1)[n * 5000 : n * 5000 + 3000] = n
        os.pwrite(fd, b"lost" * 1000, 40000)
        running.kill()
        with pytest.raises(OSError):  # noqa: PT011
            os.close(fd)
    live.dvidfs("check", "--deep", store_path)
    with live.Mount(store_path, log=tmp_path / "again.log") as running:
        volume.mounted = running
        assert volume.get() == volume.want.tobytes()
