"""Whole volumes and slices of the mount, opened by the programs that people have: every voxel, and where the header tells it, place and spacing.

A new format is a row of :data:`READERS`; a new voxel type a row of ``SAMPLES``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3
import numpy as np
import pytest
from PIL import Image
from readable import SAMPLES, SCALES, Library, Reader, Sample, Seen, check_same



def load_mapped(path: Path, sample: Sample) -> Seen:
    return Seen(np.load(path, mmap_mode="r"))


def raw_shape(sample: Sample, path: Path) -> tuple[int, ...]:
    return sample.voxels(scale_of(path)).shape


def scale_of(path: Path) -> int:
    parts = path.parts
    return int(parts[parts.index("scales") + 1]) if "scales" in parts else 0


READERS = (
    Reader("numpy.load", "volume.npy", lambda path, sample: Seen(np.load(path))),
    Reader("numpy.load mapped", "volume.npy", load_mapped),
    Reader(
        "numpy.fromfile",
        "volume.raw",
        lambda path, sample: Seen(np.fromfile(path, sample.dtype).reshape(raw_shape(sample, path))),
    ),
    Reader(
        "numpy.memmap",
        "volume.raw",
        lambda path, sample: Seen(np.memmap(path, sample.dtype, "r", shape=raw_shape(sample, path))),
    ),
)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("reader", READERS, ids=str)
@pytest.mark.parametrize("name", SAMPLES)
def test_a_volume_file_opens(library: Library, name: str, reader: Reader, scale: int):
    sample = SAMPLES[name]
    if name in reader.fails:
        return
    seen = reader.read(library.folder(sample, scale) / reader.view, sample)
    check_same(seen.voxels, sample.voxels(scale))
