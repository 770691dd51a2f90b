"""What a labelmap can be told at creation and later, and how it shows itself in JSON.

Decides which settings there are beside those of image volumes. Settings hold for all versions. Source: reference note "labelmap" 4.2 and
DVID inventory 2.7.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dvidfs.engine.graph import Instance
from dvidfs.engine.versions import ReadView
from dvidfs.errors import BadRequest
from dvidfs.types.base import Setting
from dvidfs.types.common import parse_bool
from dvidfs.types.geometry import parse_int, parse_ints
from dvidfs.types.imageblk import extents
from dvidfs.types.imageblk import settings as images
from dvidfs.types.labelmap import counters
from dvidfs.types.volumes.voxels import VoxelKind

SIDE = 64
MOST_SCALES = 255


def block_size(text: str) -> list[int]:
    """Voxels of a block; a list that is too short is completed with its last number."""
    given = parse_ints(text, "BlockSize", min(text.count(",") + 1, 3), ",")
    block = [*given, *[given[-1]] * (3 - len(given))]
    if any(n < 16 or n % 8 or n > 1024 for n in block) or math.prod(block) > images.MAX_BLOCK_VOXELS:
        raise BadRequest(f'BlockSize "{text}" cannot be: want sides of 16 to 1024 voxels, multiples of 8, as 64,64,64')
    return block


_ROWS = {setting.name: setting for setting in images.SETTINGS}
SETTINGS = (
    replace(_ROWS["BlockSize"], parse=block_size, default=[SIDE] * 3),
    *(row for name, row in _ROWS.items() if name not in ("BlockSize", "GridStore")),
    replace(_ROWS["GridStore"], parse=str, help="taken and shown, without effect", guarded=lambda text: False),
    Setting("IndexedLabels", parse_bool, True, "false: no label index is kept"),
    Setting(
        "MaxDownresLevel",
        lambda text: parse_int(text, "MaxDownresLevel", 0, MOST_SCALES),
        0,
        "scales above 0, each with half the voxels along each axis",
    ),
)


def extended_json(kind: VoxelKind, instance: Instance, view: ReadView | None) -> Mapping[str, Any]:
    """The ``Extended`` part of ``info``."""
    told = instance.settings
    first, last = told["MinPoint"], told["MaxPoint"]
    alone = images.corner_box(first, last) if first is not None else None
    box = extents.shown(view) if view is not None else alone
    shown = images.extended_json(kind, told, box)
    if view is not None:
        shown |= {
            "MaxLabel": counters.by_version(view),
            "MaxRepoLabel": counters.largest_anywhere(view.txn, instance),
            "NextLabel": counters.next_label(view.txn, instance),
        }
    return shown | {
        "Interpolable": False,
        "IndexedLabels": told["IndexedLabels"],
        "MaxDownresLevel": told["MaxDownresLevel"],
    }


def need_index(view: ReadView, endpoint: str) -> None:
    """Raises BadRequest if the instance keeps no index."""
    if not view.instance.settings["IndexedLabels"]:
        name = view.instance.name
        raise BadRequest(
            f'data "{name}" is not label indexed (IndexedLabels=false): "{endpoint}" endpoint is not supported'
        )
