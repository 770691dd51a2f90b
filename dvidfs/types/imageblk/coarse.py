"""The scales of an image volume above 0: each voxel is the mean of those below it that lie within the extents.

Decides how a block of a scale comes from its eight children: their voxels, only those within the extents, halved as
the voxel type says, encoded like those of scale 0. When blocks are made, and which stored ones count, is decided by
:mod:`dvidfs.types.pyramids`, which is given :data:`PYRAMID`. Invariant: a block is made of its children alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.errors import BadRequest
from dvidfs.kernels import means
from dvidfs.types.formats import blockform
from dvidfs.types.formats.blockform import Bytes
from dvidfs.types.geometry import Box, block_box, covering_blocks
from dvidfs.types.imageblk import extents
from dvidfs.types.imageblk.kinds import KINDS
from dvidfs.types.imageblk.volume import Volume, is_proxied
from dvidfs.types.pyramids import scales
from dvidfs.types.pyramids.blocks import Blocks
from dvidfs.types.pyramids.level import Level
from dvidfs.types.pyramids.pyramid import Children, Pyramid, block_size


@dataclass(frozen=True)
class Coarse(Volume):
    """An image instance at a scale above 0."""

    @classmethod
    def of(cls, view: ReadView, scale: int = 1) -> Coarse:
        """Raises BadRequest if this version does not have the scale."""
        most = scales.ready(PYRAMID, view)
        if not 0 < scale <= most:
            raise BadRequest(
                f'"{view.instance.name}" has no scale {scale} at this version, only 0 to {most}: '
                "make more with `dvidfs pyramid`"
            )
        return cls.at(view, scale)

    @classmethod
    def at(cls, view: ReadView, scale: int) -> Coarse:
        """A scale that may not be complete yet."""
        instance = view.instance
        form, background = blockform.block_form(instance.compression), instance.settings["Background"]
        return cls(view, KINDS[instance.type], block_size(view), form, background, scale)

    @cached_property
    def level(self) -> Blocks:
        return Level(self.view, self.scale, PYRAMID)


@dataclass(frozen=True)
class Means:
    """Makes the blocks of a volume from those of the one below it; ``box``: the extents, of scale 0."""

    volume: Coarse
    below: Volume
    box: Box | None

    @classmethod
    def of(cls, view: ReadView, scale: int, box: Box | None) -> Means:
        below = Coarse.at(view, scale - 1) if scale > 1 else Volume.of(view)
        return cls(Coarse.at(view, scale), below, box)

    def make(self, children: Children) -> bytes:
        """The payload of a block: its voxels halved, those outside the extents left out."""
        volume = self.volume
        a, b, c = volume.block
        region = block_box(children.coord, (2 * a, 2 * b, 2 * c))
        voxels = self.below.assemble(region, children.coords, children.payloads)
        if self.box is not None:
            inside = region.intersect(scales.extents_at(self.box, self.below.scale))
            if inside is None:
                voxels[...] = 0
            elif inside != region:
                low = np.subtract(inside.origin, region.origin)
                means.trim(voxels, tuple(low.tolist()), tuple((low + inside.shape).tolist()))
        halved = volume.kind.halve(volume.kind.split(voxels))
        return volume.form.encode(halved.view(volume.kind.item).reshape(volume.block_shape))

    def decode(self, payload: Buffer) -> Bytes:
        """The voxels of a payload, as bytes."""
        return self.volume.decode(payload)


def _grid(view: ReadView) -> Box | None:
    """The blocks of a volume whose voxels live elsewhere: all that touch its extents."""
    box = extents.covered(view) if is_proxied(view.instance.settings) else None
    return None if box is None else covering_blocks(box, block_size(view))


PYRAMID = Pyramid(
    job="scales",
    maker=Means.of,
    voxel_bytes=lambda view: KINDS[view.instance.type].bytes,
    covered=extents.covered,
    base=Volume.of,
    grid=_grid,
)
"""The scales of image volumes, as :mod:`dvidfs.types.pyramids` wants to know them."""
