"""What the mount shows of labels that are mapped to nothing: volumes, and a folder for each label, as those of a labelmap."""

from __future__ import annotations

from dataclasses import replace

from dvidfs.engine.versions import ReadView
from dvidfs.types.base import Directory, Each, Numbered
from dvidfs.types.labelarray.requests import can_store
from dvidfs.types.labelmap import files, lists
from dvidfs.types.labelmap.bodyfiles import label_folder, parse_number
from dvidfs.types.volumes.tree import volume_tree

SOURCE = replace(files.SOURCE, change=files.write_supervoxels, writable=can_store)


def _labels(view: ReadView) -> Numbered:
    return Numbered(lists.listed(view).keys)


def _bodies() -> Directory:
    folder = label_folder(files.OF_BODIES)
    entries = {name: entry for name, entry in folder.entries.items() if name != "supervoxels.csv"}
    return Directory(each=(Each(parse_number, _labels, files.OF_BODIES.has, replace(folder, entries=entries)),))


def _tree() -> Directory:
    volume = volume_tree(SOURCE)
    return replace(volume, entries={**volume.entries, "bodies": BODIES})


BODIES = _bodies()
TREE = _tree()
