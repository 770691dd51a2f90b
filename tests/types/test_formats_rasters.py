"""Pictures of slices: samples survive png and tif, come close in jpg, and pictures by other tools are read."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from dvidfs.errors import BadRequest, Unsupported
from dvidfs.types.formats.rasters import PictureFormat, as_picture, decode_picture, encode_picture, parse_format


def gradient(dtype=np.uint8):
    return (np.add.outer(np.arange(24), 2 * np.arange(40)) * 1.5).astype(dtype)


@pytest.mark.parametrize(("text", "name", "quality"), [
    ("", "png", 80), ("png", "png", 80), ("jpg", "jpeg", 80), ("jpeg:95", "jpeg", 95), ("jpg:0", "jpeg", 1),
    ("jpg:101", "jpeg", 100), ("tif", "tiff", 80), ("tiff", "tiff", 80), ("bmp", "bmp", 80),
])  # fmt: skip
def test_format_names(text, name, quality):
    assert parse_format(text) == PictureFormat(name, quality)


@pytest.mark.parametrize("text", ["gif", "PNG", "jpg:x", "jpg:", "jpg:80:1", "raw"])
def test_unknown_formats_are_refused(text):
    with pytest.raises(BadRequest):
        parse_format(text)


@pytest.mark.parametrize("name", ["png", "tif", "bmp"])
def test_lossless_formats_keep_eight_bit_voxels(name):
    voxels = gradient()
    form = parse_format(name)
    data = encode_picture(voxels, form)
    assert np.array_equal(decode_picture(data), voxels)
    assert Image.open(io.BytesIO(data)).get_format_mimetype() == form.content_type


@pytest.mark.parametrize("name", ["png", "tif"])
def test_sixteen_bit_voxels_keep_both_bytes(name):
    voxels = gradient(np.uint16) * 257
    assert np.array_equal(decode_picture(encode_picture(voxels, parse_format(name))), voxels)


def test_sixteen_bit_png_samples_are_big_endian():
    assert as_picture(np.array([[1, 258]], np.uint16)).astype(">u2").tobytes() == bytes.fromhex("00010102")


@pytest.mark.parametrize("dtype", ["<u4", "<f4"])
def test_four_byte_voxels_show_their_bytes(dtype):
    voxels = gradient(dtype)
    picture = decode_picture(encode_picture(voxels, parse_format("png")))
    assert np.array_equal(picture.view(dtype)[..., 0], voxels)


@pytest.mark.parametrize(("dtype", "channels"), [("u1", 4), ("<u4", 0), ("<f4", 0), ("<u8", 0)])
def test_tiff_readers_see_all_samples(dtype, channels):
    voxels = gradient(dtype) * np.dtype(dtype).type(0x0123456789ABCD) if dtype == "<u8" else gradient(dtype)
    voxels = np.repeat(voxels[..., None], 4, 2) if channels else voxels
    with tifffile.TiffFile(io.BytesIO(encode_picture(voxels, parse_format("tif")))) as tiff:
        assert tiff.pages[0].tags["ExtraSamples"].value == (2,)  # alpha, not multiplied in
        assert np.array_equal(tiff.asarray(), as_picture(voxels))


def test_eight_byte_voxels_show_their_bytes_as_four_samples():
    voxels = gradient("<u8") * 0x0123456789ABCD
    picture = as_picture(voxels)
    assert picture.shape == (24, 40, 4)
    assert picture.astype(">u2").tobytes() == voxels.tobytes()


@pytest.mark.parametrize("voxels", [gradient(), np.repeat(gradient()[..., None], 4, 2) | np.uint8([0, 0, 0, 255])])
def test_jpeg_is_near_and_better_with_quality(voxels):
    def error(quality):
        picture = decode_picture(encode_picture(voxels, PictureFormat("jpeg", quality))).astype(int)
        return np.abs(picture - (voxels if voxels.ndim == 2 else voxels[..., :3])).mean()

    assert error(95) < 2
    assert error(95) < error(10)


def test_a_picture_too_large_for_jpeg_is_refused():
    with pytest.raises(Unsupported, match="65500"):
        encode_picture(np.zeros((70_000, 2), np.uint8), parse_format("jpg"))


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB", "RGBA", "I;16"])
def test_pictures_of_other_tools(mode):
    gray = Image.fromarray(gradient().astype(np.uint16) if mode == "I;16" else gradient())
    image = gray if mode in ("L", "I;16") else gray.convert(mode)
    out = io.BytesIO()
    image.save(out, "PNG")
    picture = decode_picture(out.getvalue())
    want = {"P": np.asarray(image.convert("L")), "1": np.asarray(image.convert("L"))}.get(mode, np.asarray(image))
    assert np.array_equal(picture, want)


@pytest.mark.parametrize("data", [b"", b"not a picture", encode_picture(gradient(), parse_format("png"))[:60]])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(BadRequest, match="picture"):
        decode_picture(data)
