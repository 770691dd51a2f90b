"""The folder of a body, or of a supervoxel: what is known of it, its voxels in every form, its surface.

Decides names, contents and times. Files are made of the index and the blocks of one snapshot; the mask can be read window by
window however large it is. Folder and files carry the time of the last mutation that changed the index of the body, so of two
versions those that differ tell which bodies changed. Invariant: nothing in a file tells the version or the hour, so a body that is the
same in two versions has the same files. Source: mount design, section 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import numpy as np
import orjson
from numpy.typing import NDArray

from dvidfs.engine import journal, ledger
from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.errors import BadRequest
from dvidfs.kernels import digits
from dvidfs.kernels import runs as kernel
from dvidfs.types.base import Directory, Each, File, Made
from dvidfs.types.common import rfc3339
from dvidfs.types.formats import meshes
from dvidfs.types.formats.nifti import NIFTI
from dvidfs.types.formats.sparsevol import Bounds
from dvidfs.types.geometry import Box, Point
from dvidfs.types.labelmap import bodies, index, meshing, shapes, sparse
from dvidfs.types.labelmap.bodies import Change, LastChange
from dvidfs.types.labelmap.books import Book, mapping
from dvidfs.types.labelmap.columns import ABSENT
from dvidfs.types.labelmap.shapes import Shape, Sought
from dvidfs.types.mesher import available
from dvidfs.types.volumes.files import read_window, window_ready
from dvidfs.types.volumes.names import nothing
from dvidfs.types.volumes.source import Shape as VolumeShape
from dvidfs.types.volumes.source import Source
from dvidfs.types.volumes.voxels import VoxelKind

CHEAP = 1 << 21
"""The runs of a body of so many voxels are made as soon as somebody asks for their size."""
HIGHEST = 2**64 - 1
_MASK = VoxelKind("mask", np.dtype("|u1"), (("uint8", "mask"),), "", "1 where a body is, 0 elsewhere.")


def parse_number(name: str) -> int | None:
    """The label that a name stands for, or None: digits without a leading zero."""
    number = int(name) if len(name) <= 20 and name.isascii() and name.isdecimal() and name[0] != "0" else 0
    return number if 0 < number <= HIGHEST else None


# ---------------------------------------------------------------- when it changed


def last_written(view: ReadView, label: int, *, supervoxel: bool = False) -> LastChange:
    """The last mutation that changed which voxels a body or supervoxel has, of whatever kind."""
    row = None if supervoxel else ledger.newest(view, Book.BODY, label)
    if row is not None:
        said = Change.parse(row.data)
        return LastChange(row.mutation, said.time, said.user, said.app)
    at = ledger.stamp(view, Book.SUPERVOXEL, label)
    if at is None:
        return LastChange(time=view.instance.created)
    return bodies.HELD.get(view, ("written", view.instance.id, *at), lambda: _recorded(view, *at))


def _recorded(view: ReadView, version: int, mutation: int) -> LastChange:
    told = journal.find(view, version, mutation)
    if told is None:
        return LastChange(mutation, view.instance.created)
    return LastChange(mutation, told["Timestamp"], told.get("User", ""), told.get("App", ""))


# ---------------------------------------------------------------- its voxels


@dataclass(frozen=True)
class MaskVolume:
    """The voxels of a body or supervoxel as a volume of 0 and 1."""

    view: ReadView
    shape: Shape
    kind: VoxelKind = _MASK

    @property
    def block(self) -> Point:
        x, y, z = self.view.instance.settings["BlockSize"]
        return x, y, z

    def read(self, box: Box, fill: int = 0) -> NDArray:
        """The voxels of a box, (z, y, x) of uint8."""
        bounds, out = Bounds(box.offset, box.last), np.zeros(box.shape, np.bool_)
        coords = shapes.blocks(self.view, self.shape, 0, bounds)
        for runs in Sought(self.view, self.shape.supervoxels, coords, 0, bounds).runs():
            kernel.fill_mask(out, box.offset, runs)
        return out.view(np.uint8)

    def has(self, blocks: Box) -> bool:
        return bool(len(self._within(blocks)))

    def coords(self) -> Iterator[Point]:
        return map(_point, self.shape.coords.tolist())

    def mtime(self, coord: Point) -> int:
        return self.view.modified()

    def _within(self, blocks: Box) -> NDArray[np.int32]:
        coords = self.shape.coords
        return coords[((coords >= blocks.offset) & (coords < blocks.stop)).all(axis=1)]


def _point(coord: list[int]) -> Point:
    return coord[0], coord[1], coord[2]


def _never(*_: Any, **__: Any) -> NoReturn:
    raise BadRequest("a mask is made of labels: it cannot be written")


# ---------------------------------------------------------------- the files


@dataclass(frozen=True)
class LabelFiles:
    """The files of bodies, or of supervoxels; the last part is the label."""

    supervoxel: bool = False

    @property
    def word(self) -> str:
        return "supervoxel" if self.supervoxel else "body"

    def has(self, view: ReadView, label: int) -> bool:
        if self.supervoxel:
            return shapes.of_supervoxel(view, label) is not None
        return bodies.size(view, label) > 0

    def mtime(self, view: ReadView, label: int) -> int:
        return last_written(view, label, supervoxel=self.supervoxel).time

    def shape(self, view: ReadView, label: int) -> Shape:
        return sparse.need(view, label, supervoxels=self.supervoxel)

    # -- what is known -----------------------------------------------------------------------------------------

    def info(self, view: ReadView, label: int) -> bytes:
        """``info.json``: voxels, blocks, the box of these blocks in voxels and nm, the last mutation."""
        shape, mask = self.shape(view, label), self._mask(view, label)[1]
        box, side = mask.extents, mask.frame.nanometers
        last = last_written(view, label, supervoxel=self.supervoxel)
        belongs = {"body": _body_of(view, label)} if self.supervoxel else {"supervoxels": len(shape.supervoxels)}
        told = {
            self.word: label,
            **belongs,
            "voxels": shape.voxels,
            "blocks": len(shape.coords),
            "box": {"offset": box.offset, "size": box.size},
            "box_nm": {
                "offset": [n * nm for n, nm in zip(box.offset, side, strict=True)],
                "size": [n * nm for n, nm in zip(box.size, side, strict=True)],
            },
            "last_mutation": {
                "id": last.mutation,
                "time": rfc3339(last.time),
                "user": last.user,
                "app": last.app,
            },
        }
        return orjson.dumps(told, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    def info_mtime(self, view: ReadView, label: int) -> int:
        """Of a supervoxel also when its body changed, since the file names it."""
        own = self.mtime(view, label)
        return max(own, last_written(view, _body_of(view, label)).time) if self.supervoxel else own

    def supervoxels(self, view: ReadView, label: int) -> bytes:
        """``supervoxels.csv``: the supervoxels of a body and their voxels."""
        rows, held = bodies.of_body(view, label), self.shape(view, label).supervoxels
        return csv(b"supervoxel,voxels\n", held, index.sizes_of(rows, held))

    def rles(self, view: ReadView, label: int) -> Iterator[bytes]:
        return sparse.rles(view, label, supervoxels=self.supervoxel)

    def is_large(self, view: ReadView, label: int) -> bool:
        if self.supervoxel:
            return int(index.blocks_of(view, label)[1].sum(dtype=np.uint64)) > CHEAP
        return bodies.size(view, label) > CHEAP

    def coarse(self, view: ReadView, label: int) -> bytes:
        return sparse.coarse(view, label, supervoxels=self.supervoxel)

    # -- mask.nii ----------------------------------------------------------------------------------------------

    def _mask(self, view: ReadView, label: int) -> tuple[Source, VolumeShape]:
        shape = self.shape(view, label)
        source = Source(
            lambda at, scale: MaskVolume(at, shape),
            lambda at, scale: meshing.box_of(at, shape),
            lambda at: 0,
            _never,
            _never,
            name=f"{self.word} {label}",
        )
        return source, source.shape(view)

    def mask_size(self, view: ReadView, label: int) -> int:
        _, shape = self._mask(view, label)
        return len(shape.header(NIFTI)) + shape.bricks.size

    def read_mask(self, view: ReadView, label: int, offset: int, length: int) -> Buffer:
        source, shape = self._mask(view, label)
        return read_window(view, source, shape, shape.header(NIFTI), shape.bricks, offset, length)

    def mask_ready(self, view: ReadView, label: int, offset: int, length: int) -> bool:
        source, shape = self._mask(view, label)
        return window_ready(view, source, shape, len(shape.header(NIFTI)), shape.bricks, offset, length)

    def has_mask(self, view: ReadView, label: int) -> bool:
        return self.has(view, label) and self._mask(view, label)[1].holds(NIFTI)

    # -- the surface -------------------------------------------------------------------------------------------

    def surface(self, view: ReadView, label: int) -> meshes.Mesh:
        return meshing.surface(view, self.shape(view, label), self._mask(view, label)[1].frame.nanometers)

    def ply(self, view: ReadView, label: int) -> bytes:
        return meshes.ply(self.surface(view, label))

    def ngmesh(self, view: ReadView, label: int) -> bytes:
        return meshes.ngmesh(self.surface(view, label))


def _body_of(view: ReadView, supervoxel: int) -> int:
    found = mapping(view).one(supervoxel)
    return supervoxel if found == ABSENT else found


def csv(head: bytes, keys: NDArray[np.uint64], values: NDArray[np.uint64]) -> bytes:
    """Two columns of numbers below their head."""
    return head + digits.mapping_lines(keys, values).replace(b" ", b",")


def _always(*_: Any) -> bool:
    return True


def label_folder(files: LabelFiles) -> Directory:
    """The folder of one body or supervoxel."""
    entries: dict[str, File | Made | Directory] = {
        "info.json": Made(files.info, mtime=files.info_mtime),
        "sparsevol.rles": Made(files.rles, costly=files.is_large, mtime=files.mtime),
        "coarse.rles": Made(files.coarse, mtime=files.mtime),
        "mask.nii": File(
            files.mask_size, files.read_mask, mtime=files.mtime, shown=files.has_mask, ready=files.mask_ready
        ),
    }
    if not files.supervoxel:
        entries["supervoxels.csv"] = Made(files.supervoxels, mtime=files.mtime)
    if available():
        entries["mesh.ply"] = Made(files.ply, costly=_always, mtime=files.mtime)
        entries["mesh.ngmesh"] = Made(files.ngmesh, costly=_always, mtime=files.mtime)
    return Directory(entries, mtime=files.mtime)


# ---------------------------------------------------------------- surfaces for neuroglancer


def mesh_folder(files: LabelFiles) -> Directory | None:
    """``precomputed/mesh``: of each label a list of fragments, which has one; they can be named, and are not listed.

    Source: the neuroglancer legacy single-resolution mesh format.
    """
    if not available():
        return None
    about = orjson.dumps({"@type": "neuroglancer_legacy_mesh"}) + b"\n"

    def manifest(view: ReadView, label: int) -> bytes:
        return orjson.dumps({"fragments": [f"{label}.ngmesh"]}) + b"\n"

    listed = Each(partial(_parse_named, ":0"), nothing, files.has, Made(manifest, mtime=files.mtime), listed=False)
    fragment = Made(files.ngmesh, costly=_always, mtime=files.mtime)
    found = Each(partial(_parse_named, ".ngmesh"), nothing, files.has, fragment, listed=False)
    return Directory({"info": Made(lambda view: about)}, each=(listed, found))


def _parse_named(suffix: str, name: str) -> int | None:
    return parse_number(name.removesuffix(suffix)) if name.endswith(suffix) else None
