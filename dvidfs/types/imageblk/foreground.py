"""The region of the blocks in which anything is shown: a roi instance made from the voxels of a volume.

Decides which blocks count: those that are stored and hold a voxel whose value is none of the background's. The region's blocks are
the volume's. Only volumes of bytes have such a region, as in the original. Invariant: what is in memory is a portion of the blocks, and
the spans; the region is written in one transaction, when all has been looked at.
Source: reference DVID inventory 2.6 (RPC ``roi``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from dvidfs.engine import Engine, WriteTxn, journal, keys, repos
from dvidfs.engine.keys import Family
from dvidfs.engine.versions import NOBODY, Caller, ReadView, WriteView
from dvidfs.errors import BadRequest, Conflict, Locked, UnknownInstance
from dvidfs.types.formats.blockform import Bytes
from dvidfs.types.imageblk.kinds import KINDS
from dvidfs.types.imageblk.volume import Volume, is_proxied
from dvidfs.types.roi import ROI, store
from dvidfs.types.roi.region import Spans

PORTION = 256
"""Blocks that are looked at together."""
Tell = Callable[[int], None]


def make(
    engine: Engine,
    version: str,
    name: str,
    region: str,
    background: Collection[int] = (0,),
    tell: Tell = lambda done: None,
    caller: Caller = NOBODY,
) -> Spans:
    """Set the instance ``region`` of type roi, made if need be, to the foreground of volume ``name``; its spans.

    ``tell`` is told how many blocks have been looked at; ``caller`` is who is written into the mutation log.

    Raises:
        BadRequest: the volume is not of bytes or lives elsewhere; the region is of another type or block size.
        Conflict: parents of a merge disagree about a block.
        Locked: the version is committed.
    """
    with engine.read() as txn:
        node = txn.graph.version(version)
        view = ReadView(txn, node, txn.graph.instance(node, name))
        if view.frozen:
            raise Locked(f"cannot write to committed version {node.uuid}: write to an open child")
        _existing(view, region)
        spans = find(view, background, tell)
    size = view.instance.settings["BlockSize"]
    engine.write(lambda txn: _target(txn, version, name, region, size))
    with engine.read() as txn:
        node = txn.graph.version(version)
        values = store.prepared(ReadView(txn, node, txn.graph.instance(node, region)), spans)

    def put(txn: WriteTxn) -> None:
        node = txn.graph.version(version)
        view = WriteView(txn, node, txn.graph.instance(node, region), caller)
        store.replace(view, *values)
        journal.record(view, "post-roi", Spans=len(spans), Foreground=name)

    engine.write(put)
    return spans


def find(view: ReadView, background: Collection[int] = (0,), tell: Tell = lambda done: None) -> Spans:
    """The spans (z, y, x0, x1), in order, of the stored blocks that hold a voxel which is none of ``background``."""
    check(view)
    volume = Volume.of(view)
    shown = np.ones(256, bool)
    shown[_values(background)] = False
    found, done = [np.empty((0, 4), np.int32)], 0
    for coords, blocks in _portions(volume):
        flags = [_is_shown(voxels, shown) for voxels in blocks]
        found.append(_runs(coords[flags]))
        done += len(blocks)
        tell(done)
    return _joined(np.concatenate(found))


def check(view: ReadView) -> None:
    """Refuses an instance that has no foreground."""
    instance = view.instance
    kind = KINDS.get(instance.type)
    if kind is None or kind.bytes != 1:
        raise BadRequest(f'"{instance.name}" is of type {instance.type}: a foreground is found in a uint8blk')
    if is_proxied(instance.settings):
        raise BadRequest(f'the voxels of "{instance.name}" live elsewhere: a foreground is found in stored ones only')


def _values(background: Collection[int]) -> list[int]:
    wrong = [b for b in background if not 0 <= b <= 255]
    if wrong:
        raise BadRequest(f"background {wrong[0]} is no byte: want 0 to 255")
    return list(background)


def _portions(volume: Volume) -> Iterator[tuple[NDArray[np.int32], list[Bytes]]]:
    """Coordinates (n, 3), (z, y, x), and voxels of the stored blocks, z slowest; views that live until the next portion."""
    prefix = bytes([0])
    rows = volume.view.scan(Family.BLOCK, prefix, keys.after(prefix), _refuse)
    while part := list(islice(rows, PORTION)):
        coords = [keys.decode_block(row.enc)[:0:-1] for row in part]
        payloads = volume.view.load_many([row.entry for row in part])
        yield np.array(coords, np.int32), [volume.decode(payload) for payload in payloads]


def _refuse(conflict: Conflict) -> None:
    raise conflict


def _is_shown(voxels: Bytes, shown: NDArray[np.bool_]) -> bool:
    """Whether any voxel has a value that is shown. Most blocks are told by their first row."""
    return bool(shown[voxels[:32]].any()) or bool(shown[voxels].any())


def _runs(coords: NDArray[np.int32]) -> Spans:
    """Spans of blocks (n, 3), (z, y, x), in order."""
    return _joined(np.column_stack([coords, coords[:, 2]]))


def _joined(spans: Spans) -> Spans:
    """The same with those made one that follow each other in a row; in order, none overlaps."""
    if not len(spans):
        return spans
    follows = (spans[1:, :2] == spans[:-1, :2]).all(1) & (spans[1:, 2] == spans[:-1, 3] + 1)
    heads = np.flatnonzero(np.concatenate(([True], ~follows)))
    ends = np.append(heads[1:], len(spans)) - 1
    return np.column_stack([spans[heads, :3], spans[ends, 3]])


def _existing(view: ReadView, region: str) -> None:
    """Refuses a region that is there and cannot take the foreground."""
    try:
        found = view.other(region).instance
    except UnknownInstance:
        return
    size = view.instance.settings["BlockSize"]
    if found.type != ROI.name:
        raise BadRequest(f'"{region}" is of type {found.type}: name a roi, or one that is to be made')
    if list(found.settings["BlockSize"]) != list(size):
        raise BadRequest(f'the blocks of "{region}" are {found.settings["BlockSize"]}, those of the volume {size}')


def _target(txn: WriteTxn, version: str, name: str, region: str, size: list[int]) -> None:
    """Makes the instance of the region, if it is not there."""
    node = txn.graph.version(version)
    view = ReadView(txn, node, txn.graph.instance(node, name))
    try:
        view.other(region)
    except UnknownInstance:
        settings = ROI.configure({"blocksize": ",".join(map(str, size))})
        repos.create_instance(txn, node, ROI.name, region, compression=ROI.compression, settings=settings)
