"""What the mount shows of a volume, whatever its datatype, and the parts of it that HTTP serves as files too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.types.base import JSON, OCTETS, Content, Directory, Each, Endpoint, File, find_file
from dvidfs.types.volumes.blocks import block_files
from dvidfs.types.volumes.cutouts import cutouts
from dvidfs.types.volumes.files import volume_files
from dvidfs.types.volumes.names import parse_index
from dvidfs.types.volumes.pictures import slice_folders
from dvidfs.types.volumes.precomputed import precomputed_folder
from dvidfs.types.volumes.source import Pick, Source, at_root, at_scale
from dvidfs.types.volumes.zarr import zarr2_folder, zarr_folder


def volume_tree(source: Source) -> Directory:
    """The folder of an instance: the files of scale 0, all scales under ``scales/``, and the multiscale formats."""
    root = at_root(source)
    entries = {
        **_of_scale(source, root, writable=True),
        "scales": Directory(each=(_scales(source),)),
        "zarr": zarr_folder(source, both=True),
        "zarr2": zarr2_folder(source),
        "precomputed": precomputed_folder(source),
    }
    named = block_files(source, root, writable=True, listed=False)
    return Directory(entries, each=(named,))


def _of_scale(source: Source, pick: Pick, *, writable: bool) -> dict[str, File | Directory]:
    return {
        "blocks": Directory(each=(block_files(source, pick, writable=writable),)),
        "slices": slice_folders(source, pick),
        **volume_files(source, pick, writable=writable),
        "cutout": cutouts(source, pick),
    }


def _scales(source: Source) -> Each:
    pick = at_scale(source)

    def names(view: ReadView) -> Any:
        return map(str, range(source.scales(view) + 1))

    def has(view: ReadView, scale: int) -> bool:
        return scale <= source.scales(view)

    return Each(parse_index, names, has, Directory(_of_scale(source, pick, writable=False)))


# ---------------------------------------------------------------- over HTTP


def file_endpoints(source: Source) -> tuple[Endpoint, ...]:
    """Requests for the files of the multiscale formats, with byte ranges; an absent chunk is 404, as their readers expect.

    Each speaks one format: viewers that look for several in one place would not know which to take.
    """
    return (
        *_rows("zarr", zarr_folder(source, both=False), "A file of the volume as OME-Zarr 0.5.", "zarr/zarr.json"),
        *_rows("zarr2", zarr2_folder(source), "A file of the volume as Zarr 2.", "zarr2/.zattrs"),
        *_rows(
            "precomputed",
            precomputed_folder(source),
            "A file of the volume as neuroglancer precomputed.",
            "precomputed/info",
        ),
    )


def _rows(name: str, folder: Directory, summary: str, example: str) -> tuple[Endpoint, ...]:
    def get(view: ReadView, path: tuple[str, ...]) -> Content:
        file, parts = find_file(folder, view, path)
        size = file.size(view, *parts)

        def window(start: int, stop: int) -> Iterator[Buffer]:
            return iter([file.read(view, *parts, start, stop - start)])

        is_text = path[-1].endswith(".json") or path[-1] == "info" or path[-1].startswith(".z")
        return Content(file.read(view, *parts, 0, size), JSON if is_text else OCTETS, size, window)

    detail = "Byte ranges are served. What is not stored is 404: readers take it as 0."
    path = f"{name}/{{path*}}"
    return tuple(
        Endpoint(method, path, get, summary, type=OCTETS, detail=detail, example=example) for method in ("GET", "HEAD")
    )
