"""Windows of labels over HTTP: volumes as voxels or in neuroglancer's form, slices as pictures.

Decides what the options mean (reference note "labels" 2.6); voxels come from :mod:`~dvidfs.types.labelmap.volume`. Invariant: a long
answer is streamed, and what is asked of one block is made from that block alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import lz4.block
from isal import igzip

from dvidfs.engine.keys import Family
from dvidfs.engine.versions import ReadView
from dvidfs.errors import BadRequest
from dvidfs.kernels import colors, segmentation
from dvidfs.types.base import OCTETS, Content
from dvidfs.types.formats.rasters import PictureFormat, parse_format
from dvidfs.types.geometry import Box, check_volume, covering_blocks, is_aligned, parse_box, parse_plane
from dvidfs.types.imageblk import pictures
from dvidfs.types.imageblk.masked import MaskedVolume
from dvidfs.types.imageblk.requests import squared_content
from dvidfs.types.labelmap import stored
from dvidfs.types.labelmap.volume import LabelVolume
from dvidfs.types.roi.mask import Mask
from dvidfs.types.volumes.source import as_bytes

WHOLE_BYTES = 1 << 20
"""A longer volume is sent while the rest of it is put together."""
SUB = 8


def get_raw(
    view: ReadView,
    dims: str,
    size: str,
    offset: str,
    format: str | None,
    roi: str,
    scale: int,
    supervoxels: bool,
    compression: str,
) -> Content:
    """A slice as a picture, or a volume as its labels; what is not stored is 0."""
    volume, plane = _seen(view, roi, scale, supervoxels), parse_plane(dims)
    box = parse_box(plane, size, offset)
    n = check_volume(box, 8)
    if not plane.is_volume:
        return pictures.slice_content(volume, plane, box, parse_format(format or ""))
    if compression in ("google", "googlegzip"):
        return _google(volume, box, zipped=compression == "googlegzip")
    if compression == "lz4":
        data = lz4.block.compress(volume.read(box), store_size=False)
        return Content(data, OCTETS, len(data))
    if compression == "gzip":
        return Content(_gzipped(volume, box), OCTETS)
    if compression:
        raise BadRequest(f'unknown compression type "{compression}": want lz4, gzip, google or googlegzip')
    if n <= WHOLE_BYTES:
        return Content(as_bytes(volume.read(box)), OCTETS, n)
    return Content(volume.stream(box), OCTETS, n)


def _seen(view: ReadView, roi: str, scale: int, supervoxels: bool) -> LabelVolume | MaskedVolume:
    if roi and scale:
        raise BadRequest("DVID does not currently support ROI masks on lower-scale GETs: leave out roi, or scale")
    volume = LabelVolume.of(view, scale, supervoxels=supervoxels)
    return MaskedVolume(volume, Mask.named(view, roi)) if roi else volume


def _gzipped(volume: LabelVolume | MaskedVolume, box: Box) -> Iterator[bytes]:
    for piece in volume.stream(box):
        yield igzip.compress(
            piece, compresslevel=stored.LEVEL, mtime=0
        )  # members one behind the other are one gzip file


def _google(volume: LabelVolume | MaskedVolume, box: Box, *, zipped: bool) -> Content:
    if any(side % SUB for side in box.size):
        raise BadRequest(
            f"volume must be a multiple of the block size: want sides that are multiples of {SUB}, not {box}"
        )
    data = _of_block(volume, box) if isinstance(volume, LabelVolume) else None
    if data is None:
        data = segmentation.encode(volume.read(box))
    if zipped:
        data = igzip.compress(data, compresslevel=stored.LEVEL, mtime=0)
        return Content(data, OCTETS, len(data), headers={"Content-Encoding": "gzip"})
    return Content(data, OCTETS, len(data))


def _of_block(volume: LabelVolume, box: Box) -> bytes | None:
    """A box that is one block, transcoded without unpacking its voxels."""
    if box.size != volume.block or not is_aligned(box, volume.block):
        return None
    coord = covering_blocks(box, volume.block).offset
    if volume.scale:
        payload = volume.payload(coord)
        block = None if payload is None else stored.opened(payload)
    else:
        entry = volume.view.find(Family.BLOCK, volume.level.key(coord))
        block = None if entry is None else stored.kept(volume.view, entry)
    if block is None:
        return None
    return segmentation.encode_block(block, volume.table(block))


def get_isotropic(
    view: ReadView,
    dims: str,
    size: str,
    offset: str,
    format: str | None,
    roi: str,
    scale: int,
    supervoxels: bool,
    compression: str,
) -> Content:
    """The same with square pixels, by the voxel size."""
    plane = parse_plane(dims)
    if plane.is_volume:
        return get_raw(view, dims, size, offset, format, roi, scale, supervoxels, compression)
    volume = _seen(view, roi, scale, supervoxels)
    return squared_content(view, volume, dims, parse_box(plane, size, offset), offset, parse_format(format or ""))


def get_pseudocolor(
    view: ReadView, dims: str, size: str, offset: str, format: str | None, roi: str, scale: int, supervoxels: bool
) -> Content:
    """A slice in colours that stay the same for a label."""
    volume, plane = _seen(view, roi, scale, supervoxels), parse_plane(dims)
    if plane.is_volume:
        raise BadRequest("pseudocolor is of slices: want dims as xy, xz or yz")
    box = parse_box(plane, size, offset)
    check_volume(box, 8)
    width, height = (box.size[axis] for axis in plane.axes)
    pictures.check_whole(width, height)
    shown = colors.pseudocolor(volume.read(box).reshape(height, width))
    return pictures.picture_content(shown, parse_format(format or "") if format else PictureFormat("png"))
