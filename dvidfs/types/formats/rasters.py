"""Pictures of voxel slices: png, jpg, tif, bmp out; png, jpg, tif in.

Decides what a pixel is: a voxel of 8 or 16 bits is a gray sample; four 8-bit channels are RGBA; a voxel of 32 (64) bits,
integer or float, shows its bytes as four samples of 8 (16) bits, as the original does, so that nothing is lost. Which
slice is shown is for others. Invariant: for png and tif the samples read back are the voxels. A slice is an
array (y, x): second axis of the plane downward, first axis to the right. Source: reference note "imageblk" 5.1 and 5.2.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
import simplejpeg
from isal import isal_zlib
from numpy.typing import NDArray
from PIL import Image

from dvidfs.errors import BadRequest, Unsupported
from dvidfs.types.formats.png import encode_png
from dvidfs.types.geometry import MAX_REQUEST_BYTES, parse_int

DEFAULT_QUALITY = 80
_JPEG_SIDE = 65500
Image.MAX_IMAGE_PIXELS = MAX_REQUEST_BYTES  # whole slices of a stack are larger than Pillow thinks wise
_NAMES = {"": "png", "png": "png", "jpg": "jpeg", "jpeg": "jpeg", "tif": "tiff", "tiff": "tiff", "bmp": "bmp"}


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """A picture's file format, and the quality (1 to 100) where it is lossy."""

    name: str
    quality: int = DEFAULT_QUALITY

    @property
    def content_type(self) -> str:
        return f"image/{self.name}"


def parse_format(text: str) -> PictureFormat:
    """``png`` (also for ""), ``jpg``, ``jpeg:95``, ``tif``, ``tiff``, ``bmp``; a quality outside 1 to 100 counts as the nearer end."""
    word, colon, quality = text.partition(":")
    name = _NAMES.get(word)
    if name is None:
        raise BadRequest(f"Illegal image format requested: {word}: want png, jpg, jpg:<quality>, tif or bmp")
    if not colon:
        return PictureFormat(name)
    return PictureFormat(name, min(max(parse_int(quality, "quality"), 1), 100))


def as_picture(voxels: NDArray) -> NDArray:
    """Voxels (y, x), or (y, x, 4) for four channels, as samples: (y, x) or (y, x, 4) of uint8 or uint16."""
    if voxels.ndim == 3 or (voxels.dtype.kind == "u" and voxels.dtype.itemsize <= 2):
        return voxels
    sample = np.dtype(np.uint8) if voxels.dtype.itemsize == 4 else np.dtype(">u2")
    return np.ascontiguousarray(voxels).view(sample).reshape(*voxels.shape, 4)


def encode_picture(voxels: NDArray, form: PictureFormat) -> bytes:
    """The picture file of a slice of voxels."""
    picture = as_picture(voxels)
    if form.name == "png":
        return encode_png(picture)
    if form.name == "jpeg":
        return _encode_jpeg(picture, form.quality)
    return _encode_tiff(picture) if form.name == "tiff" else _encode_bmp(picture)


def decode_picture(data: bytes) -> NDArray:
    """The samples of a png, jpg, tif or bmp: (y, x) or (y, x, channels); raises BadRequest when it is none of them."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF", "BMP")) as image:
            if image.mode == "1":
                return np.asarray(image.convert("L"))
            return _without_palette(image) if image.mode == "P" else np.asarray(image)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise BadRequest(f"this is not a picture that can be read: {error}: want png, jpg, tif or bmp") from None


def _without_palette(image: Image.Image) -> NDArray[np.uint8]:
    """Colours for palette entries; one channel where they are all gray, as many tools write gray slices."""
    colours = np.asarray(image.convert("RGBA" if "transparency" in image.info else "RGB"))
    is_gray = colours.shape[2] == 3 and bool((colours == colours[:, :, :1]).all())
    return colours[:, :, 0] if is_gray else colours


def _eight_bits(picture: NDArray) -> NDArray[np.uint8]:
    """The more significant byte of 16-bit samples."""
    return (picture >> 8).astype(np.uint8) if picture.dtype.itemsize == 2 else picture


def _encode_jpeg(picture: NDArray, quality: int) -> bytes:
    if max(picture.shape[:2]) > _JPEG_SIDE:
        raise Unsupported(f"no JPEG is wider or higher than {_JPEG_SIDE} pixels: ask for png, or for a smaller part")
    samples = np.ascontiguousarray(_eight_bits(picture))
    if samples.ndim == 2:
        return simplejpeg.encode_jpeg(samples[:, :, None], quality, "GRAY", "Gray")
    # JPEG has no alpha: what is transparent goes to black, as in the original.
    opaque = samples.shape[2] == 3
    colours = samples if opaque else samples[:, :, :3].astype(np.uint16) * samples[:, :, 3:] // 255
    return simplejpeg.encode_jpeg(np.ascontiguousarray(colours, np.uint8), quality, "RGB", "420")


def _encode_bmp(picture: NDArray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(_eight_bits(picture))).save(out, "BMP")
    return out.getvalue()


_SHORT, _LONG, _RATIONAL = 3, 4, 5
_DEFLATE, _PREDICT = 8, 2
_BLACK_IS_ZERO, _RGB, _UNASSOCIATED_ALPHA = 1, 2, 2


def _encode_tiff(picture: NDArray) -> bytes:
    """One little-endian strip, deflated, each sample less the one to its left (TIFF 6.0 sections 2, 14 and 18; Adobe's deflate)."""
    height, width = picture.shape[:2]
    samples = np.array(picture, picture.dtype.newbyteorder("<"), order="C").reshape(height, width, -1)
    samples[:, 1:] -= samples[:, :-1].copy()
    strip = isal_zlib.compress(samples, 1)
    channels, bits = samples.shape[2], 8 * samples.itemsize
    colour = [(338, _SHORT, [_UNASSOCIATED_ALPHA])] if channels == 4 else []
    after = 8 + len(strip) + len(strip) % 2
    tags = [
        (256, _LONG, [width]), (257, _LONG, [height]), (258, _SHORT, [bits] * channels), (259, _SHORT, [_DEFLATE]),
        (262, _SHORT, [_RGB if colour else _BLACK_IS_ZERO]), (273, _LONG, [8]), (277, _SHORT, [channels]),
        (278, _LONG, [height]), (279, _LONG, [len(strip)]), (282, _RATIONAL, [1, 1]), (283, _RATIONAL, [1, 1]),
        (284, _SHORT, [1]), (296, _SHORT, [1]), (317, _SHORT, [_PREDICT]), *colour,
    ]  # fmt: skip
    at, entries, far = after + 2 + 12 * len(tags) + 4, b"", b""
    for tag, kind, values in tags:
        data = struct.pack(f"<{len(values)}{'H' if kind == _SHORT else 'I'}", *values)
        count = len(values) // 2 if kind == _RATIONAL else len(values)
        place = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", at + len(far))
        far += data if len(data) > 4 else b""
        entries += struct.pack("<HHI", tag, kind, count) + place
    return b"".join((
        struct.pack("<2sHI", b"II", 42, after), strip, bytes(len(strip) % 2),
        struct.pack("<H", len(tags)), entries, bytes(4), far,
    ))  # fmt: skip
