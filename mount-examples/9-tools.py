#!/usr/bin/env python3
"""The same voxels in the tools that people have: NIfTI, HDF5, TIFF, OME-Zarr and neuroglancer's format, nothing converted.

9-tools.py MOUNT
"""

# ruff: noqa: T201

from __future__ import annotations

import os
import sys
from pathlib import Path

import h5py
import nibabel
import numpy as np
import tensorstore
import tifffile

mount = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["MOUNT"])
volume = mount / "medulla" / "tags" / "raw" / "grayscale"
voxels = np.load(volume / "volume.npy", mmap_mode="r")  # (z, y, x)


def opened(driver: str, path: Path) -> tensorstore.TensorStore:
    return tensorstore.open({"driver": driver, "kvstore": f"file://{path}/"}).result()


with h5py.File(volume / "volume.h5") as file:
    seen = {
        "nibabel: volume.nii": np.asarray(nibabel.load(volume / "volume.nii").dataobj).T,
        "h5py: volume.h5": file["volume"][()],
        "tifffile: volume.tif": tifffile.imread(volume / "volume.tif"),
        "tensorstore: zarr/0": opened("zarr3", volume / "zarr" / "0")[...].read().result(),
        "tensorstore: precomputed": opened("neuroglancer_precomputed", volume / "precomputed")[..., 0]
        .read()
        .result()
        .T,
    }
for reader, found in seen.items():
    print(f"{reader:26}{found.shape} {'the same voxels' if np.array_equal(found, voxels) else 'OTHER VOXELS'}")

small = np.load(volume / "scales" / "2" / "volume.npy", mmap_mode="r")
print(
    f"scales/2 is {small.shape}, made by `dvidfs pyramid`; its mean is {small.mean():.1f}, the volume's {voxels.mean():.1f}"
)
box = nibabel.load(volume / "cutout" / "32_32_16" / "100_100_20.nii")
print(
    f"cutout/32_32_16/100_100_20.nii is {box.shape}, its first voxel at {box.affine[:3, 3]} {box.header.get_xyzt_units()[0]}"
)
