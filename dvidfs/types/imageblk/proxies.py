"""Image instances whose voxels live elsewhere (``GridStore``): read block by block, never written.

Decides what the settings of such an instance become, and how its volume is read; what is behind it is :mod:`dvidfs.types.proxy`.
Blocks are the remote's chunks where their grids agree: stored JPEGs then go out as they are, others as voxels (``Compression``
says which: jpeg or none). What was found at creation is kept with the instance under ``Remote``, so that it can be read without the
configuration. Invariant: all versions show the same voxels. Source: reference note "imageblk" 5.7.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.errors import BadRequest
from dvidfs.types.formats import blockform
from dvidfs.types.formats.blockform import Bytes
from dvidfs.types.geometry import Box, Point, block_box, covering_blocks, each_block
from dvidfs.types.imageblk.kinds import KINDS, VoxelKind
from dvidfs.types.imageblk.places import Located
from dvidfs.types.imageblk.settings import MAX_BLOCK_VOXELS
from dvidfs.types.imageblk.volume import REMOTE, Volume, as_bytes, is_proxied
from dvidfs.types.proxy.describe import Remote, describe
from dvidfs.types.proxy.places import resolve
from dvidfs.types.proxy.remote import RemoteVolume, opened

_MAX_SIDE = 256
_LISTED = 1_000_000
"""A volume of more blocks can be named into, but they are not listed."""


def completed(kind: VoxelKind, settings: dict[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """The settings of an instance, with what the remote volume says where nothing else was ``given``.

    Raises:
        BadRequest: there is no such volume, or its voxels are of another kind.
        Unreachable: nobody answers.
    """
    if not settings["GridStore"]:
        return settings
    remote = describe(resolve(settings["GridStore"]), settings["ScaleLevel"])
    if (remote.dtype, remote.channels) != (kind.dtype.name, len(kind.values)):
        holds = f"{remote.dtype} voxels" + (f" of {remote.channels} channels" if remote.channels > 1 else "")
        fits = [k.name for k in KINDS.values() if (remote.dtype, remote.channels) == (k.dtype.name, len(k.values))]
        advice = f"make an instance of type {fits[0]}" if fits else f"no datatype shows these, {', '.join(KINDS)}"
        raise BadRequest(f"{remote.place} holds {holds}, which {kind.name} cannot show: {advice}")
    found: dict[str, Any] = {"BlockSize": _block_size(remote.chunk), "MinPoint": list(remote.offset)}
    found["MaxPoint"] = list(remote.box.last)
    if remote.voxel_size is not None:
        found |= {"VoxelSize": list(remote.voxel_size), "VoxelUnits": [remote.units] * 3}
    return settings | {k: v for k, v in found.items() if k.lower() not in given} | {REMOTE: remote.to_json()}


def _block_size(chunk: Point) -> list[int]:
    x, y, z = chunk
    return list(chunk) if x * y * z <= MAX_BLOCK_VOXELS else [min(side, _MAX_SIDE) for side in chunk]


def compression(settings: Mapping[str, Any]) -> str | None:
    """How the blocks of an instance with these settings come; None if they are its own."""
    if not is_proxied(settings):
        return None
    return "jpeg" if _passes_chunks(opened(settings[REMOTE]).remote, tuple(settings["BlockSize"])) else "none"


def _passes_chunks(remote: Remote, block: Point) -> bool:
    """Whether the stored chunks are JPEG and lie where the blocks lie."""
    return remote.jpeg and remote.chunk == block and not any(o % b for o, b in zip(remote.offset, block, strict=True))


@dataclass(frozen=True)
class ProxyVolume(Volume):
    """A volume whose blocks are found in a remote one. Every block that touches it counts as stored, unless its chunk is missing."""

    @classmethod
    def of(cls, view: ReadView, scale: int = 0) -> ProxyVolume:
        settings = view.instance.settings
        form = blockform.block_form(compression(settings) or "none")
        block: Point = tuple(settings["BlockSize"])
        return cls(view, KINDS[view.instance.type], block, form, settings["Background"], scale)

    @property
    def remote(self) -> RemoteVolume:
        return opened(self.view.instance.settings[REMOTE])

    @property
    def grid(self) -> Box:
        """The blocks that hold any of its voxels."""
        return covering_blocks(self.remote.box, self.block)

    # -- blocks ----------------------------------------------------------------------------------------------

    def locate(self, blocks: Box) -> Located:
        inside = blocks.intersect(self.grid)
        coords = list(each_block(inside)) if inside is not None else []
        found = [(c, payload) for c, payload in zip(coords, self.payloads(coords), strict=True) if payload is not None]
        table = np.array([(z, y, x) for (x, y, z), _ in found], np.int64).reshape(-1, 3)
        return Located(table, [payload for _, payload in found])

    def payloads(self, coords: Sequence[Point]) -> list[Buffer | None]:
        grid = self.grid
        inside = [coord for coord in coords if grid.intersect(Box(coord, (1, 1, 1))) is not None]
        if not inside:
            return [None] * len(coords)
        if self.form.name == "jpeg":
            first = grid.offset
            cells = [(x - first[0], y - first[1], z - first[2]) for x, y, z in inside]
            found = dict(zip(inside, self.remote.chunks(cells), strict=True))
        else:
            boxes = [block_box(coord, self.block) for coord in inside]
            found = {c: as_bytes(voxels) for c, voxels in zip(inside, self._windows(boxes, 0), strict=True)}
        return [found.get(coord) for coord in coords]

    def payload(self, coord: Point) -> Buffer | None:
        return self.payloads([coord])[0]

    def decode(self, payload: Buffer) -> Bytes:
        if self.form.name == "jpeg" and isinstance(payload, bytes):
            return self.remote.decode(payload, self.block_bytes)
        return super().decode(payload)

    def has(self, blocks: Box) -> bool:
        return blocks.intersect(self.grid) is not None

    def coords(self) -> Iterator[Point]:
        grid = self.grid
        return each_block(grid) if grid.volume <= _LISTED else iter(())

    def mtime(self, _coord: Point) -> int:
        return self.view.instance.created

    # -- voxels ----------------------------------------------------------------------------------------------

    def read(self, box: Box, fill: int = 0) -> NDArray:
        return self._windows([box], fill)[0]

    def stream(self, box: Box) -> Iterator[memoryview]:
        for piece in self.pieces(box):
            yield as_bytes(self.read(piece))

    def _windows(self, boxes: Sequence[Box], fill: int) -> list[NDArray]:
        """The voxels of boxes, (z, y, x); every byte of what lies outside the remote volume is ``fill``."""
        inside = [box.intersect(self.remote.box) for box in boxes]
        read = iter(self.remote.read([part for part in inside if part is not None]) if any(inside) else ())
        return [
            self._placed(box, part, None if part is None else next(read), fill)
            for box, part in zip(boxes, inside, strict=True)
        ]

    def _placed(self, box: Box, part: Box | None, voxels: NDArray | None, fill: int) -> NDArray:
        """The voxels of a box out of those of its part that there is."""
        if part is not None and voxels is not None:
            voxels = np.ascontiguousarray(voxels).view(self.kind.item).reshape(part.shape)
            if part == box:
                return voxels
        out = np.empty(box.shape, self.kind.item)
        out.view(np.uint8)[...] = fill
        if part is not None:
            out[box.window(part)] = voxels
        return out
