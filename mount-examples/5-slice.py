#!/usr/bin/env python3
"""A slice across the stack as a PNG file, and a slice along it: the very pixels that were imported.

5-slice.py MOUNT
"""

# ruff: noqa: T201

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

mount = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["MOUNT"])
slices = mount / "medulla" / "tags" / "raw" / "grayscale" / "slices"
originals = sorted((Path(__file__).parent / "data" / "grayscale").glob("*.png"))

names = sorted(path.name for path in (slices / "xy").iterdir())
print(f"slices/xy holds {names[0]} to {names[-1]}")
for name, original in list(zip(names, originals, strict=True))[::21]:
    mounted, imported = (np.asarray(Image.open(path)) for path in (slices / "xy" / name, original))
    same = "the same pixels as" if np.array_equal(mounted, imported) else "NOT the pixels of"
    print(f"slices/xy/{name} has {same} {original.name}")
side = next(path for path in sorted((slices / "xz").iterdir()) if path.stem.endswith("125"))
print(f"slices/xz/{side.name}, which no microscope took, is {Image.open(side).size[0]} x {Image.open(side).size[1]}")
