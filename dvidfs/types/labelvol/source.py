"""Which labelblk a labelvol shows: the first that it follows and whose blocks have the same size.

Decides that both are one thing: the labelblk holds voxels, index and label numbers, in all versions; a labelvol has nothing of
its own, reads there and changes there, if that follows it too. Invariant: a change of either shows in both at once.
"""

from __future__ import annotations

from dvidfs.engine.graph import Instance
from dvidfs.engine.versions import ReadView, WriteView
from dvidfs.errors import BadRequest, NotFound
from dvidfs.types.labelblk import followers


def find(view: ReadView) -> ReadView | None:
    """The labelblk that a labelvol shows at its version, or None."""
    for number in view.instance.syncs:
        found = view.graph.instance_by_id(number)
        if found is not None and found.type == followers.NAME and _size(found) == _size(view.instance):
            return ReadView(view.txn, view.node, found)
    return None


def need(view: ReadView) -> ReadView:
    """The same. Raises BadRequest if there is none."""
    found = find(view)
    if found is None:
        raise BadRequest(f"no labelblk data is syncing with {view.instance.name}")
    return found


def labels(view: ReadView) -> ReadView:
    """The same, for who looks for a label. Raises NotFound (with an empty text, as clients expect) if there is none."""
    found = find(view)
    if found is None:
        raise NotFound("")
    return found


def need_mutual(view: ReadView) -> ReadView:
    """The labelblk whose voxels a labelvol may change. Raises BadRequest if it does not follow the labelvol."""
    found = need(view)
    if view.instance.id not in found.instance.syncs:
        name = found.instance.name
        raise BadRequest(
            f'labelblk "{name}" does not follow {view.instance.name}, so its voxels cannot change: POST {name}/sync first'
        )
    return found


def written(view: WriteView) -> WriteView:
    """The labelblk that a labelvol shows, to be changed."""
    return followers.at(view, need(view).instance)


def _size(instance: Instance) -> list[int]:
    return list(instance.settings["BlockSize"])
