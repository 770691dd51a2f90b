"""Look at a segmentation with neuroglancer: bodies in their colours, one picked with the mouse, and their meshes.

Decides which bodies are looked at and what counts as shown: the two colours of a slice, and the outline of the meshes seen along z,
must be where the voxels are. Invariant: what is compared is the browser's picture, never what it was sent.
"""

# ruff: noqa: T201 (what a program prints is its work)

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import live
import neuroglancer
import nibabel
import numpy as np
from numpy.typing import NDArray
from pages import likeness, opened, requests_in, served
from PIL import Image

DATA = Path(__file__).resolve().parent.parent / "mount-examples" / "data" / "segmentation"
NAME = "segmentation"
SLICE, SIDE = 32, 192
RED, GREEN = 84, 164
"""The bodies that are looked at, each in its colour."""
ALIKE = 0.95
PANEL = 430
"""Height of what neuroglancer leaves of the page for voxels, in pixels."""
SOURCES = {
    "dvid": "dvid://http://{at}/{uuid}/" + NAME,
    "precomputed": "precomputed://http://{at}/api/node/{uuid}/" + NAME + "/precomputed",
}
SHOWN_IN_DOCS = "dvid"
MESHES = {
    "dvid": [f"{NAME}_meshes/key/{body}.ngmesh" for body in (RED, GREEN)],
    "precomputed": [f"precomputed/mesh/{body}:0" for body in (RED, GREEN)],
}
"""What each source asks for to show meshes."""


def make_segmentation(store: Path) -> None:
    """The excerpt's bodies beside the micrographs, with the meshes that ``dvid://`` looks for."""
    words = ("--repo", "medulla", "--instance", NAME, "--type", "labelmap", "--offset", "0,0,0", "--quiet")
    live.dvidfs("import", store, DATA / "supervoxels.nii.gz", *words)
    live.dvidfs("mappings", store, "medulla:master", NAME, DATA / "bodies.csv", "--quiet")
    live.dvidfs("mesh", store, "medulla:master", NAME, RED, GREEN, "--quiet")


def bodies() -> NDArray[np.int64]:
    """The body of each voxel (z, y, x), as the publishers have it."""
    voxels = np.asarray(nibabel.load(DATA / "supervoxels.nii.gz").dataobj).T.astype(np.int64)
    table = np.loadtxt(DATA / "bodies.csv", np.int64, delimiter=",", skiprows=1)
    body_of = np.zeros(int(voxels.max()) + 1, np.int64)
    body_of[table[:, 0]] = table[:, 1]
    return body_of[voxels]


def open_viewer(source: str, *, layout: str, chosen: tuple[int, ...] = (RED, GREEN)) -> neuroglancer.Viewer:
    """A viewer of the bodies in the middle of the excerpt, a pixel a voxel; it is served as long as somebody holds it."""
    viewer = neuroglancer.Viewer(allow_credentials=True)
    with viewer.txn() as state:
        state.dimensions = neuroglancer.CoordinateSpace(names=["x", "y", "z"], units="nm", scales=[10, 10, 10])
        state.position = [SIDE / 2 + 0.25, SIDE / 2 + 0.25, SLICE + 0.25]
        state.layers[NAME] = neuroglancer.SegmentationLayer(
            source=source,
            segments=list(chosen),
            segment_colors={RED: "#ff0000", GREEN: "#00ff00"},
            selected_alpha=1,
            not_selected_alpha=0,
            saturation=1,
        )
        state.layout = neuroglancer.DataPanelLayout(type=layout, orthographic_projection=True)
        state.cross_section_scale = 1
        state.projection_scale = PANEL
        state.show_slices = False
        state.show_axis_lines = False
        state.show_default_annotations = False
    return viewer


def redness(page: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How much more red than green there is: 1 where the first body is, -1 where the second."""
    return (page[..., 0].astype(float) - page[..., 1]) / 255


async def show_segments(folder: Path, store: Path, uuid: str, pictures: Path | None) -> list[bool]:
    """Each source in each way: is it shown as it should be?"""
    neuroglancer.set_server_bind_address("127.0.0.1")
    found = bodies()
    agree = []
    for name, source in SOURCES.items():
        kept = pictures if name == SHOWN_IN_DOCS else None
        with served(store, folder) as (at, log):
            told = source.format(at=at, uuid=uuid)
            agree.append(await _slice(name, told, found, log, kept))
            agree.append(await _picked(name, told, found, log))
            agree.append(await _meshes(name, told, found, log, kept))
    return agree


def _tell(good: bool, name: str, what: str, log: Path, said: str) -> bool:
    print(
        f"{'ok' if good else 'FAIL':5}neuroglancer, segmentation, {name}: {what}; {requests_in(log)}; {said or 'no error'}"
    )
    log.write_text("")
    return good


def _asked_for(log: Path, parts: list[str]) -> bool:
    text = log.read_text()
    return all(part in text for part in parts)


async def _slice(name: str, source: str, found: NDArray, log: Path, pictures: Path | None) -> bool:
    """Two bodies of a slice, each in its colour."""
    viewer = open_viewer(source, layout="xy")
    async with opened(str(viewer)) as shown:
        page = await shown.picture()
    wanted = (found[SLICE] == RED).astype(float) - (found[SLICE] == GREEN)
    alike = likeness(redness(page), wanted)
    if pictures and alike > ALIKE:
        Image.fromarray(page).quantize(64).save(pictures / f"segmentation-{name}.png", optimize=True)
    return _tell(
        alike > ALIKE and not shown.said, name, f"colours of a slice, correlation {alike:.3f}", log, shown.said
    )


async def _picked(name: str, source: str, found: NDArray, log: Path) -> bool:
    """A double click on a voxel chooses its body."""
    viewer = open_viewer(source, layout="xy", chosen=(RED,))
    body = int(found[SLICE, SIDE // 2, SIDE // 2])
    async with opened(str(viewer)) as shown:
        x, y = await shown.browser.evaluate(
            "(r => [r.x + r.width / 2, r.y + r.height / 2])(document.querySelector('.neuroglancer-rendered-data-panel')"
            ".getBoundingClientRect())"
        )
        await shown.browser.double_click(x, y)
        chosen: set[int] = set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(20):
                while body not in chosen:
                    await asyncio.sleep(0.2)
                    chosen = set(viewer.state.layers[NAME].segments)
    return _tell(chosen == {RED, body}, name, f"a double click chooses body {body}", log, shown.said)


async def _meshes(name: str, source: str, found: NDArray, log: Path, pictures: Path | None) -> bool:
    """The outline of both bodies, seen along z."""
    viewer = open_viewer(source, layout="3d")
    async with opened(str(viewer)) as shown:
        page = await shown.picture()
    coloured = (page[..., :2].max(axis=2) > page[..., 2] + 40).astype(float)
    alike = likeness(coloured, np.isin(found, (RED, GREEN)).any(axis=0).astype(float))
    asked = _asked_for(log, MESHES[name])
    if pictures and alike > ALIKE:
        Image.fromarray(page).quantize(64).save(pictures / f"meshes-{name}.png", optimize=True)
    what = f"outline of meshes, correlation {alike:.3f}"
    return _tell(alike > ALIKE and asked and not shown.said, name, what, log, shown.said)
