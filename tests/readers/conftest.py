"""One mount with volumes of every voxel type, for all readers."""

from __future__ import annotations

from collections.abc import Iterator

import live
import pytest
from readable import SAMPLES, SCALES, Library

from dvidfs.engine import Store


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """The samples in a committed version, mounted and served by one process."""
    live.need_mounts()
    folder = tmp_path_factory.mktemp("library")
    Store.create(folder / "store")
    with live.Mount(folder / "store", log=folder / "mount.log") as mount:
        uuid = mount.post("/api/repos", {"alias": "readers", "description": ""}).ok().json()["root"]
        for sample in SAMPLES.values():
            sample.store(mount, uuid)
            live.dvidfs("pyramid", folder / "store", uuid, sample.name, "--scales", max(SCALES), "--quiet")
        mount.post(f"/api/node/{uuid}/commit", {"note": "written"}).ok()
        child = mount.post(f"/api/node/{uuid}/newversion", {"note": ""}).ok().json()["child"]
        yield Library(mount, uuid, child, folder / "store")
