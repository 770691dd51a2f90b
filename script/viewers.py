"""Look at a volume with neuroglancer and ImageJ, and compare what they show with the voxels.

Decides what is looked at (micrographs of mount-examples, volumes of each type that ImageJ knows) and what counts as shown; segmentation is
``segments.py``. How the browser and ImageJ are driven stands in ``pages.py``, ``chromium.py`` and ``imagej.py``. Invariant: servers, mounts and browsers are gone at the end.

Exit status: 0 all is shown as it is; 1 something differs.
"""

# ruff: noqa: T201 (what a program prints is its work)

from __future__ import annotations

import argparse
import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import live
import neuroglancer
import numpy as np
from imagej import look_at
from pages import FOREIGN, likeness, opened, requests_in, served
from PIL import Image
from segments import make_segmentation, show_segments

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "mount-examples" / "data" / "grayscale"
PICTURES = ROOT / "docs" / "pictures"
SLICE = 32
VISIBLE = 200
"""So many voxels along each side of the middle of a slice must be on the page, one pixel each."""
ALIKE = 0.95
"""Correlation between page and voxels: JPEG and the shader's rounding leave more than this."""
SHOWN_IN_DOCS = ("dvid", "precomputed")


@dataclass(frozen=True)
class Show:
    """A source of neuroglancer. ``page``: the host that its page comes from; ``expected``: whether it may be shown."""

    name: str
    source: str
    page: str = "127.0.0.1"
    expected: bool = True


API = "http://{at}/api/node/{uuid}/grayscale"
SHOWS = (
    Show("dvid", "dvid://http://{at}/{uuid}/grayscale"),
    Show("dvid, JPEG blocks", "dvid://http://{at}/{uuid}/em"),
    Show("precomputed", f"precomputed://{API}/precomputed"),
    Show("zarr3", f"zarr://{API}/zarr"),
    Show("zarr2", f"zarr://{API}/zarr2"),
    Show("foreign page, allowed", "dvid://http://{at}/{uuid}/grayscale", page=FOREIGN),
    Show("foreign page, not allowed", "dvid://http://{at}/{uuid}/grayscale", page=FOREIGN, expected=False),
)


# ---------------------------------------------------------------- neuroglancer


def open_viewer(source: str) -> neuroglancer.Viewer:
    """A viewer of one source, in the middle of slice :data:`SLICE`, a pixel a voxel.

    Voxel n reaches from n to n + 1; in Zarr, where neuroglancer takes coordinates as those of centres, from n - 1/2 to n + 1/2.
    """
    viewer = neuroglancer.Viewer(allow_credentials=True)
    with viewer.txn() as state:
        state.dimensions = neuroglancer.CoordinateSpace(names=["x", "y", "z"], units="nm", scales=[10, 10, 10])
        state.position = [125.25, 125.25, SLICE + 0.25]
        state.layers["grayscale"] = neuroglancer.ImageLayer(source=source)
        state.layout = "xy"
        state.cross_section_scale = 1
        state.show_axis_lines = False
    return viewer


async def show_all(folder: Path, store: Path, uuid: str, pictures: Path | None) -> list[bool]:
    """Every row of :data:`SHOWS`: is it shown as it should be?"""
    neuroglancer.set_server_bind_address("127.0.0.1")
    middle = slice((250 - VISIBLE) // 2, (250 + VISIBLE) // 2)
    with Image.open(sorted(DATA.glob("*.png"))[SLICE]) as image:
        wanted = np.asarray(image)[middle, middle]
    port = urlsplit(str(neuroglancer.Viewer())).port
    agree = []
    for show in SHOWS:
        cors = ["--cors", f"http://{FOREIGN}:{port}"] if show.page == FOREIGN and show.expected else []
        with served(store, folder, *cors) as (at, log):
            viewer = open_viewer(show.source.format(at=at, uuid=uuid))
            async with opened(str(viewer).replace("127.0.0.1", show.page)) as shown:
                page, said = await shown.picture(), shown.said
        found = likeness(page.mean(axis=2), wanted)
        is_shown = found > ALIKE and not said
        agree.append(is_shown == show.expected)
        mark = "ok" if agree[-1] else "FAIL"
        print(f"{mark:5}neuroglancer, {show.name}: correlation {found:.3f}; {requests_in(log)}; {said or 'no error'}")
        if pictures and is_shown and show.name in SHOWN_IN_DOCS:
            Image.fromarray(page).quantize(64).save(pictures / f"neuroglancer-{show.name}.png", optimize=True)
    return agree


# ---------------------------------------------------------------- the run


def make_store(folder: Path) -> tuple[Path, str]:
    """A store with the micrographs of mount-examples, twice: as usual, and in blocks of JPEG; their segmentation; and its version."""
    store = folder / "store"
    live.dvidfs("init", store)
    with live.Server(store, log=folder / "server.log") as server:
        uuid = server.post("/api/repos", {"alias": "medulla", "description": ""}).ok().json()["root"]
        kind = {"typename": "uint8blk", "dataname": "em", "Compression": "jpeg"}
        size = {"BlockSize": "64,64,64", "VoxelSize": "10,10,10"}
        server.post(f"/api/repo/{uuid}/instance", kind | size).ok()
    for name in ("grayscale", "em"):
        words = ("--repo", "medulla", "--instance", name, "--voxel-size", "10,10,10", "--quiet")
        live.dvidfs("import", store, DATA, *words)
    make_segmentation(store)
    return store, uuid


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", action="store_true", help=f"write {PICTURES.relative_to(ROOT)}/ anew")
    parser.add_argument("--only", choices=("neuroglancer", "imagej"), help="only this program")
    args = parser.parse_args()
    live.clean_dead_mounts()
    pictures = PICTURES if args.pictures else None
    if pictures:
        pictures.mkdir(exist_ok=True)
    agree: list[bool] = []
    with tempfile.TemporaryDirectory(prefix="dvidfs-viewers-") as name:
        store, uuid = make_store(Path(name))
        if args.only != "imagej":
            agree += asyncio.run(show_all(Path(name), store, uuid, pictures))
            agree += asyncio.run(show_segments(Path(name), store, uuid, pictures))
        if args.only != "neuroglancer":
            agree += look_at(Path(name))
    print(f"\n{sum(agree)} passed, {len(agree) - sum(agree)} failed")
    return 0 if agree and all(agree) else 1


if __name__ == "__main__":
    raise SystemExit(main())
