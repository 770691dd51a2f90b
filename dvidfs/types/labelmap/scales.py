"""The scales of a labelmap above 0: of eight voxels the label that most have, the smaller number of two that as many have; 0
does not vote. They are made of supervoxels, so no mutation of bodies touches them.

Which blocks count and when they are made: :mod:`dvidfs.types.pyramids`. Source: reference note "labelmap" 4.9.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine.store import Buffer
from dvidfs.engine.versions import ReadView
from dvidfs.kernels import labels as kernel
from dvidfs.kernels import votes
from dvidfs.types.geometry import Box
from dvidfs.types.labelmap import stored
from dvidfs.types.pyramids.pyramid import Children, Pyramid


class Votes:
    """Makes the payload of a block out of its children's. Touches no transaction."""

    def make(self, children: Children) -> bytes | None:
        parent: NDArray[np.uint64] | None = None
        for octant, payload in zip(children.octants, children.payloads, strict=True):
            block = stored.opened(payload)
            if block.is_solid and not int(block.labels[0]):
                continue
            half = self._halved(block)
            if parent is None:
                parent = np.zeros(tuple(2 * n for n in half.shape), np.uint64)
            z, y, x = (((int(octant) >> bit) & 1) * n for bit, n in zip((2, 1, 0), half.shape, strict=True))
            parent[z : z + half.shape[0], y : y + half.shape[1], x : x + half.shape[2]] = half
        if parent is None:
            return None
        return stored.pack(kernel.encode(parent))

    @staticmethod
    def _halved(block: kernel.Block) -> NDArray[np.uint64]:
        if block.is_solid:
            z, y, x = block.shape
            return np.full((z // 2, y // 2, x // 2), block.labels[0], np.uint64)
        return votes.halve(kernel.voxels(block))

    def decode(self, payload: Buffer) -> NDArray[np.uint64]:
        return kernel.voxels(stored.opened(payload))


def _maker(view: ReadView, scale: int, box: Box | None) -> Votes:
    return Votes()


PYRAMID = Pyramid("label scales", _maker, lambda view: 2, setting="MaxDownresLevel")
