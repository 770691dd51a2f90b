"""Where exported volumes go, one module for each family of formats.

Decides which module writes what a destination's name asks for. What a sink is, is said in :mod:`~dvidfs.cli.sinks.base`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dvidfs.cli.sinks.base import Selection, Sink
from dvidfs.cli.sinks.files import FileSink, names_a_file
from dvidfs.cli.sinks.slices import SliceSink
from dvidfs.cli.sources.chunked import place_of
from dvidfs.errors import BadRequest
from dvidfs.types.geometry import Point
from dvidfs.types.proxy.places import FORMATS, Place, parse_place

__all__ = ["Choices", "Selection", "Sink", "open_sink"]

CHUNK = (64, 64, 64)


@dataclass(frozen=True)
class Choices:
    """What an export may be told beside its destination; None: the format's default."""

    format: str | None = None
    encoding: str | None = None
    chunk: Point | None = None
    sharded: bool = False
    scales: int | None = None
    zarr_format: int | None = None


def open_sink(selection: Selection, dest: str, choices: Choices) -> Sink:
    """The sink that a word of the command names; writes nothing yet.

    Raises:
        BadRequest: no such format, a choice that it has not, or voxels that it cannot hold.
        Unsupported: a library is missing.
    """
    place = _place(dest, choices)
    if place is not None:
        from dvidfs.cli.sinks.chunked import ChunkSink
        from dvidfs.cli.sinks.layouts import Layout

        labels = selection.source.labels
        layout = Layout.of(place.format, choices.chunk or CHUNK, choices.encoding, choices.sharded, labels=labels)
        return ChunkSink(selection, place, layout, choices.scales)
    for name in ("encoding", "chunk", "sharded", "scales", "zarr_format"):
        if getattr(choices, name):
            raise BadRequest(f"--{name.replace('_', '-')} is for zarr, n5 and precomputed: {dest} is none of them")
    path = Path(dest)
    if names_a_file(path.name) and choices.format is None:
        return FileSink(selection, path)
    if path.suffix and choices.format is None and not path.is_dir() and not dest.endswith("/"):
        raise BadRequest(
            f"{dest}: give a folder, a file .npy .raw .tif .nii .nii.gz .mhd .nrrd .h5, a folder .zarr .n5 .precomputed, "
            "or FORMAT://URL"
        )
    return SliceSink(selection, path, choices.format or "png")


def _place(dest: str, choices: Choices) -> Place | None:
    """The volume in chunks that is to be made."""
    if choices.format in FORMATS:
        place = parse_place(f"{choices.format}://{dest if '://' in dest else Path(dest).absolute()}")
    else:
        place = place_of(dest, anew=True)
    if place is None:
        return None
    if choices.zarr_format is not None and place.format not in ("zarr", f"zarr{choices.zarr_format}"):
        raise BadRequest(f"--zarr-format {choices.zarr_format}: {place} is {place.format}")
    version = choices.zarr_format or (2 if place.format == "zarr2" else 3)
    return Place("zarr2" if version == 2 else "zarr", place.url) if place.format.startswith("zarr") else place
