"""Proxied image volumes in the mount: the same files, read-only; a remote that goes away is EIO, and comes back."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import live
import numpy as np
import pytest
import remotes
from PIL import Image

SHAPE = (50, 70, 90)


def made(mounted: live.Mount, place: str) -> Path:
    """The folder of a new proxied instance."""
    uuid = mounted.post("/api/repos", {"alias": "fly"}).ok().json()["root"]
    told = {"typename": "uint8blk", "dataname": "em", "GridStore": place}
    mounted.post(f"/api/repo/{uuid}/instance", told).ok()
    return mounted.path / "fly" / uuid / "em"


def test_the_same_files(mounted: live.Mount, tmp_path: Path):
    voxels = remotes.smooth(SHAPE)
    em = made(mounted, remotes.precomputed(tmp_path / "em", voxels, offset=(32, 0, -32)))
    assert np.array_equal(np.load(em / "volume.npy", mmap_mode="r"), voxels)
    assert (em / "volume.raw").read_bytes() == voxels.tobytes()
    with Image.open(em / "slices" / "xy" / "-00022.png") as picture:
        assert np.array_equal(np.asarray(picture), voxels[10])
    assert len(os.listdir(em / "blocks")) == 3 * 3 * 2
    block = np.frombuffer((em / "blocks" / "1_0_-1").read_bytes(), np.uint8).reshape(32, 32, 32)
    assert np.array_equal(block, voxels[:32, :32, :32])


def test_nothing_can_be_written(mounted: live.Mount, tmp_path: Path):
    em = made(mounted, remotes.precomputed(tmp_path / "em", remotes.smooth(SHAPE)))
    for name in ("volume.raw", "volume.npy", "blocks/0_0_0"):
        assert not (em / name).stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
            (em / name).open("r+b")
        assert caught.value.errno == errno.EROFS


def test_a_remote_that_goes_away_and_comes_back(mounted: live.Mount, tmp_path: Path):
    (tmp_path / "files").mkdir()
    voxels = remotes.smooth(SHAPE)
    with remotes.file_server(tmp_path / "files") as files:
        remotes.precomputed(files.folder / "em", voxels)
        em = made(mounted, f"precomputed://{files.url}/em")
        files.stop()
        for name in ("volume.raw", "blocks/1_1_1"):
            with pytest.raises(OSError) as caught:  # noqa: PT011
                (em / name).read_bytes()
            assert caught.value.errno == errno.EIO
        assert f"{files.url} cannot be reached" in (mounted.path / ".dvidfs" / "errors.log").read_text()
        assert (em / "volume.raw").stat().st_size == voxels.size, "the mount lives on"

        files.start()

        def read() -> bytes:
            try:
                return (em / "volume.raw").read_bytes()
            except OSError as error:
                assert error.errno == errno.EIO
                return b""

        assert live.wait_until(read, 20, "the volume behind the server") == voxels.tobytes()
