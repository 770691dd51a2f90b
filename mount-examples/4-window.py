#!/usr/bin/env python3
"""A window of a volume through numpy's own memory map: only the blocks it touches are read.

4-window.py MOUNT
"""

# ruff: noqa: T201

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

mount = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ["MOUNT"])
file = mount / "medulla" / "tags" / "raw" / "grayscale" / "volume.npy"

volume = np.load(file, mmap_mode="r")  # axes z, y, x
print(f"volume.npy is {volume.shape} of {volume.dtype}, {file.stat().st_size:,} bytes as a file")
window = volume[30:34, 100:106, 100:106]
print(f"its window [30:34, 100:106, 100:106], mean {window.mean():.2f}, first plane:")
print(window[0])
