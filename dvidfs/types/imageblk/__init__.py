"""``uint8blk`` and its relatives: volumes of voxels stored in blocks, versioned block by block.

Here stand the tables that HTTP, the mount, help and docs are read from; another voxel type is another row of
:mod:`~dvidfs.types.imageblk.kinds` and a line in the list of datatypes. Behaviour and byte formats: reference DVID inventory 2.6 and the
reference note "imageblk".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from dvidfs import kernels
from dvidfs.engine import keys
from dvidfs.engine.graph import Instance
from dvidfs.engine.keys import Family
from dvidfs.engine.versions import ReadView
from dvidfs.errors import Conflict, DvidfsError
from dvidfs.types.base import OCTETS, Body, DataType, Endpoint, Param, flag, whole
from dvidfs.types.imageblk import extents, files, intake, light, proxies, pyramid, requests, settings
from dvidfs.types.imageblk.kinds import KINDS, VoxelKind
from dvidfs.types.imageblk.volume import Volume
from dvidfs.types.volumes.tree import file_endpoints

THROTTLE = Param("throttle", flag, False, "true: refuse (503) if too many such calls run")
MASK = (
    Param("roi", default="", help="name of a roi instance: voxels outside are left out"),
    Param("attenuation", default="", help="1 to 7; checked, without effect"),
)
MUTATE = Param("mutate", lambda text: text == "true", False, "true: what is there is being replaced")
SCALE = Param("scale", whole, 0, "each has half the voxels of the one below along each axis: see pyramid")
COMPRESSION = Param("compression", default="", help="uncompressed or jpeg; without it blocks go out as they are stored")
DIMS = "dims: xy, xz, yz, or 0_1_2 for a volume; size: w_h or x_y_z; offset: x_y_z. "

ENDPOINTS = (
    Endpoint(
        "GET",
        "raw/{dims}/{size}/{offset}/{format?}",
        requests.get_raw,
        "A slice as a picture, or a volume as its voxels.",
        query=(*MASK, SCALE, THROTTLE),
        type=OCTETS,
        throttled=True,
        uncached=("roi",),
        light=light.raw,
        detail=DIMS
        + "format of a slice: png, jpg, jpg:<quality>, tif, bmp; of a volume: none, or jpg for one tall picture.",
        example="raw/0_1_2/64_64_64/0_0_0",
    ),
    Endpoint(
        "GET",
        "isotropic/{dims}/{size}/{offset}/{format?}",
        requests.get_isotropic,
        "The same with square pixels, by the voxel size.",
        query=(*MASK, SCALE, THROTTLE),
        type="image/png",
        throttled=True,
        cached=False,
        detail=DIMS + "Voxels that are not square are averaged to the size asked for.",
        example="isotropic/xz/200_200/0_0_0",
    ),
    Endpoint(
        "POST",
        "raw/{dims}/{size}/{offset}",
        requests.post_raw,
        "Store a volume of whole blocks.",
        body=Body.BYTES,
        query=(*MASK, MUTATE, THROTTLE),
        prepare=requests.prepare_raw,
        throttled=True,
        type="",
        detail="The body is the voxels, x fastest, little-endian. Size and offset are multiples of the block size.",
        example="raw/0_1_2/64_64_64/0_0_0",
    ),
    Endpoint(
        "*",
        "arb/{top_left}/{top_right}/{bottom_left}/{spacing}/{format?}",
        requests.get_arb,
        "An oblique slice.",
        query=(THROTTLE,),
        type="image/png",
        throttled=True,
        cached=False,
        detail="Corners are points x_y_z in units of the voxel size, spacing is the size of a pixel in that unit.",
        example="arb/0_0_0/800_400_0/0_400_800/8",
    ),
    Endpoint(
        "GET",
        "blocks/{coord}/{span}",
        requests.get_blocks,
        "The voxels of blocks along x, block after block.",
        query=(SCALE,),
        type=OCTETS,
        detail="coord: x_y_z of the first block, counted in blocks. Blocks that are not stored are background.",
        example="blocks/0_0_0/4",
    ),
    Endpoint(
        "POST",
        "blocks/{coord}/{span}",
        requests.post_blocks,
        "Store blocks along x.",
        body=Body.BYTES,
        query=(MUTATE,),
        prepare=requests.prepare_blocks,
        type="",
        detail="The body is the voxels of the blocks, block after block. The extents stay as they are.",
        example="blocks/0_0_0/4",
    ),
    Endpoint(
        "GET",
        "subvolblocks/{size}/{offset}",
        requests.get_subvolblocks,
        "The stored blocks of a volume, as a stream of records.",
        query=(COMPRESSION, SCALE, THROTTLE),
        type=OCTETS,
        throttled=True,
        detail="Size and offset, in voxels, are multiples of the block size. A record: int32 x, y, z, n, then n bytes.",
        example="subvolblocks/64_64_64/0_0_0?compression=uncompressed",
    ),
    Endpoint(
        "GET",
        "specificblocks",
        requests.get_specificblocks,
        "The stored ones of named blocks, as a stream of records.",
        query=(
            Param("blocks", default="", help="x,y,z,x,y,z,... in block coordinates"),
            COMPRESSION,
            Param("prefetch", default="", help="on: answer nothing"),
            SCALE,
        ),
        type=OCTETS,
        light=light.specificblocks,
        example="specificblocks?blocks=0,0,0,1,0,0",
    ),
    Endpoint(
        "*",
        "metadata",
        requests.get_metadata,
        "Axes and properties as dvid-nd-data.",
        query=(SCALE,),
        type="application/vnd.dvid-nd-data+json",
        cached=False,
        example="metadata",
    ),
    Endpoint(
        "POST",
        "extents",
        requests.post_extents,
        "Set the extents of this version.",
        body=Body.BYTES,
        type="",
        detail='The body: {"MinPoint": [0,0,0], "MaxPoint": [511,511,511]}, both corners inside.',
        example="extents",
    ),
    Endpoint(
        "POST",
        "resolution",
        requests.post_resolution,
        "Set the voxel size of the instance, at all versions.",
        body=Body.BYTES,
        type="",
        detail="The body: [8.0, 8.0, 8.0], in the units of the voxels.",
        example="resolution",
    ),
    Endpoint(
        "*",
        "rawkey/{rest?}",
        requests.get_rawkey,
        "Nothing: kept for old clients.",
        type="",
        example="rawkey?x=0&y=0&z=0",
    ),
)


def _extended(instance: Instance, view: ReadView | None) -> Mapping[str, Any]:
    first, last = instance.settings["MinPoint"], instance.settings["MaxPoint"]
    alone = settings.corner_box(first, last) if first is not None else None
    return settings.extended_json(KINDS[instance.type], instance.settings, extents.shown(view) if view else alone)


def _extents(view: ReadView) -> Mapping[str, Any]:
    return settings.extents_json(extents.shown(view))


def check_blocks(view: ReadView) -> Iterator[str]:
    """Blocks of this version that cannot be read, for ``dvidfs check``."""
    volume = Volume.of(view)

    def skip(_conflict: Conflict) -> None:
        return None

    for found in view.scan(Family.BLOCK, stop=bytes([1]), on_conflict=skip):
        _, x, y, z = keys.decode_block(found.enc)
        try:
            volume.decode(view.load(found.entry))
        except DvidfsError as error:
            yield f"block {x}_{y}_{z}: {error}"
    yield from pyramid.check(view)


def _warm() -> None:
    for name in ("blocks_numba", "oblique_numba"):
        kernels.load(name)


def image_type(kind: VoxelKind) -> DataType:
    """The datatype of a voxel type."""
    return DataType(
        name=kind.name,
        url=kind.url,
        version="0.2",
        summary=kind.summary,
        endpoints=(*ENDPOINTS, *pyramid.ENDPOINTS, *file_endpoints(files.SOURCE)),
        tree=files.TREE,
        settings=settings.SETTINGS,
        extended=_extended,
        extents=_extents,
        info_method="GET",
        check=settings.check,
        complete=partial(proxies.completed, kind),
        refused_compressions=frozenset() if kind.dtype == np.uint8 and not kind.channels else frozenset({"jpeg"}),
        implied_compression=proxies.compression,
        verify=check_blocks,
        warm=_warm,
        jobs={pyramid.JOB: pyramid.step},
        volumes=(files.SOURCE,),
        intake=intake.take,
        pyramid=pyramid.PYRAMID,
    )


IMAGE_TYPES = tuple(map(image_type, KINDS.values()))
"""The datatypes of all voxel types."""
