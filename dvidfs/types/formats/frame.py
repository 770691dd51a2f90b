"""What file formats say about a box of voxels, and what a format of voxels is.

Decides nothing of any format: each is a module beside this one that makes a :class:`Container`. Invariant: in every container
the voxels lie in one piece behind the header, in C order (z slowest, channels last), little-endian; so that any range of bytes
is a range of voxels, whatever the header says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dvidfs.types.geometry import Box

NANOMETERS = {
    "nanometers": 1.0,
    "nm": 1.0,
    "micrometers": 1e3,
    "microns": 1e3,
    "um": 1e3,
    "millimeters": 1e6,
    "mm": 1e6,
}
_SIZES = (1e-2, 1e12)
"""Sizes of voxels in nm that every format can state (a kilometer at most)."""


@dataclass(frozen=True)
class Frame:
    """A box of voxels as a file describes it.

    ``box``: where it lies, in voxels of its own scale (x, y, z). ``dtype``: of one sample, little-endian. ``channels``:
    the axes behind (z, y, x), none or the number of channels. ``voxel_size``: (x, y, z) in ``units``; all 1 where it is
    not known. ``companion``: name of the file that holds the voxels of a container that has none itself.
    """

    box: Box
    dtype: np.dtype
    channels: tuple[int, ...] = ()
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    units: tuple[str, str, str] = ("nanometers", "nanometers", "nanometers")
    companion: str = "volume.raw"

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x), and the number of channels where there are several."""
        return (*self.box.shape, *self.channels)

    @cached_property
    def voxel_bytes(self) -> int:
        """Bytes of one voxel, all channels."""
        return self.dtype.itemsize * (self.channels[0] if self.channels else 1)

    @cached_property
    def size(self) -> int:
        """Bytes of all voxels."""
        return self.box.volume * self.voxel_bytes

    @cached_property
    def nanometers(self) -> tuple[float, float, float]:
        """Size of a voxel (x, y, z) in nm; units that are not known count as nm, sizes that cannot be as 1 nm."""
        x, y, z = (s * NANOMETERS.get(u.lower(), 1.0) for s, u in zip(self.voxel_size, self.units, strict=True))
        low, high = _SIZES
        return x if low <= x <= high else 1.0, y if low <= y <= high else 1.0, z if low <= z <= high else 1.0


@dataclass(frozen=True)
class Container:
    """A file format that holds a whole volume.

    ``header(frame)``: all bytes before the voxels; it must be cheap to make again, and is kept by who calls. ``holds(frame)``: whether the
    format can hold these voxels; a file that it cannot hold is not shown. ``voxels``: False for a header whose voxels
    lie in the file ``companion``. ``writable``: voxels may be changed in place behind an unchanged header.
    """

    suffix: str
    title: str
    header: Callable[[Frame], bytes]
    holds: Callable[[Frame], bool] = lambda frame: True
    voxels: bool = True
    writable: bool = False

    def size(self, frame: Frame) -> int:
        """Bytes of the file."""
        return len(self.header(frame)) + (frame.size if self.voxels else 0)
