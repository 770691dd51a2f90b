#!/usr/bin/env python3
"""Makes the two files of this folder from the publishers' own: `make.py FOLDER` (see README.md).

Needs h5py. FOLDER holds `oversegmented_stack_labels.h5` and `groundtruth.h5`, both plain or gzipped.
"""

from __future__ import annotations

import gzip
import io
import struct
import sys
from pathlib import Path

import h5py
import numpy as np

HERE = Path(__file__).parent
BOX = (64, 192, 192)
"""Voxels kept, z y x, from the corner where the grayscale beside this folder begins too."""


def read(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The voxels (z, y, x) of one of the publishers' files, and its table (n, 2) from voxel values to bodies."""
    plain = folder / f"{name}.h5"
    data = plain.read_bytes() if plain.exists() else gzip.decompress((folder / f"{name}.h5.gz").read_bytes())
    with h5py.File(io.BytesIO(data)) as file:
        return np.asarray(file["stack"]), np.asarray(file["transforms"]).astype(np.int64)


def bodies_of(supervoxels: np.ndarray, truth: np.ndarray) -> dict[int, int]:
    """Each supervoxel's body: those whose voxels mostly lie in one true body are together, under the smallest id."""
    pairs, counts = np.unique(np.stack([supervoxels.ravel(), truth.ravel()]), axis=1, return_counts=True)
    best: dict[int, tuple[int, int]] = {}
    for (supervoxel, body), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
        best[supervoxel] = max(best.get(supervoxel, (0, 0)), (count, -body))
    smallest: dict[int, int] = {}
    for supervoxel in sorted(best):
        smallest.setdefault(best[supervoxel][1], supervoxel)
    return {supervoxel: smallest[best[supervoxel][1]] for supervoxel in sorted(best)}


def nifti(voxels: np.ndarray, size: float) -> bytes:
    """A NIfTI-1 file of uint16 voxels (z, y, x), each ``size`` micrometres wide, with x fastest as they lie."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *reversed(voxels.shape), 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, 512, 16)
    struct.pack_into("<8f", header, 76, 1, size, size, size, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, 352)
    struct.pack_into("<b", header, 123, 3)
    struct.pack_into("<4s", header, 344, b"n+1\0")
    return bytes(header) + voxels.astype("<u2").tobytes()


def main(folder: Path) -> None:
    z, y, x = BOX
    whole, _ = read(folder, "oversegmented_stack_labels")
    stack, table = read(folder, "groundtruth")
    true_body = np.zeros(int(stack.max()) + 1, np.int64)
    true_body[table[:, 0]] = table[:, 1]
    supervoxels = whole[:z, :y, :x]
    bodies = bodies_of(supervoxels, true_body[stack[:z, :y, :x]])
    packed = gzip.compress(nifti(supervoxels, 0.01), compresslevel=9, mtime=0)
    (HERE / "supervoxels.nii.gz").write_bytes(packed)
    lines = "".join(f"{supervoxel},{body}\n" for supervoxel, body in bodies.items())
    (HERE / "bodies.csv").write_text("supervoxel,body\n" + lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make.py FOLDER (with oversegmented_stack_labels.h5 and groundtruth.h5)")
    main(Path(sys.argv[1]))
