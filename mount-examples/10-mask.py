#!/usr/bin/env python3
"""A body's mask laid over the micrographs: two files of the mount, numpy, and a picture that becomes a key.

10-mask.py MOUNT
"""

# ruff: noqa: T201

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

mount = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["MOUNT"])
master = mount / "medulla" / "branches" / "master"
body = master / "segmentation" / "bodies" / "84"

info = json.loads((body / "info.json").read_text())
(x, y, z), (width, height, depth) = info["box"]["offset"], info["box"]["size"]
print(f"body 84: {info['voxels']:,} voxels of {info['supervoxels']} supervoxels, in {info['blocks']} blocks")

mask = np.asarray(nibabel.load(body / "mask.nii").dataobj).T.astype(bool)  # axes z, y, x
volume = np.load(master / "grayscale" / "volume.npy", mmap_mode="r")
micrographs = volume[z : z + depth, y : y + height, x : x + width]
assert mask.sum() == info["voxels"]
print(
    f"mask.nii is {mask.shape}; mean gray inside {micrographs[mask].mean():.1f}, outside {micrographs[~mask].mean():.1f}"
)

widest = int(mask.sum(axis=(1, 2)).argmax())
picture = np.repeat(micrographs[widest][..., None], 3, axis=2)
picture[mask[widest], 0] = np.minimum(picture[mask[widest], 0].astype(int) + 90, 255)
note = master / "notes" / "body-84.png"
with note.open("wb") as file:
    Image.fromarray(picture).save(file, "PNG")
print(f"slice {z + widest}, the body in red, is the key {note.name}: {note.stat().st_size:,} bytes")
