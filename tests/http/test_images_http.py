"""Image volumes over HTTP: every voxel type against an array, masks, caching, bad requests that change nothing."""

from __future__ import annotations

import io
import itertools
import json
import struct
from collections.abc import Iterator

import numpy as np
import pytest
import tifffile
from PIL import Image
from serving import Served, fresh, one_line

from dvidfs.engine.check import check_store
from dvidfs.types.builtin import registry
from dvidfs.types.formats.rasters import as_picture
from dvidfs.types.imageblk.kinds import KINDS

B = 8
SHAPE = (16, 24, 16)
"""(z, y, x) of what is stored, from (-8, 0, 8) on."""
OFFSET = "-8_0_8"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with fresh(tmp_path_factory.mktemp("images") / "store") as running:
        yield running
        report = check_store(running.engine, deep=True, verifier=lambda name: registry()[name].verify)
        assert report.problems == []


def voxels_of(typename, seed=1):
    kind = KINDS[typename]
    if kind.dtype.kind == "f":
        voxels = np.random.default_rng(seed).normal(0, 1e3, SHAPE).astype(kind.dtype)
        voxels[0, 0, :3] = np.nan, np.inf, -np.inf
        return voxels
    return np.random.default_rng(seed).integers(0, 256, (*SHAPE, kind.bytes), np.uint8).view(kind.item)[..., 0]


@pytest.fixture(params=list(KINDS))
def stored(request, server):
    """(path, voxels, kind) of a new volume of each type; its background is 9."""
    uuid = server.new_repo()
    server.new_instance(uuid, "v", request.param, BlockSize=f"{B},{B},{B}", Background="9")
    voxels, path = voxels_of(request.param), f"/api/node/{uuid}/v"
    assert server.post(f"{path}/raw/0_1_2/16_24_16/{OFFSET}", voxels.tobytes()).ok().body == b""
    return path, voxels, KINDS[request.param]


def test_windows_partly_outside(server, stored):
    path, voxels, kind = stored
    full = np.zeros((30, 40, 30), kind.item)
    full[3:19, 5:29, 7:23] = voxels  # the window begins 7, 5, 3 voxels before the volume
    reply = server.get(f"{path}/raw/0_1_2/30_40_30/-15_-5_5").ok()
    assert reply.headers["Content-Type"] == "application/octet-stream"
    assert reply.body == full.tobytes()
    assert server.get(f"{path}/isotropic/vol/30_40_30/-15_-5_5").ok().body == full.tobytes()
    assert server.get(f"{path}/raw/0_1_2/3_4_5/1000_-9_0").ok().body == bytes(60 * kind.bytes)


@pytest.mark.parametrize(
    ("plane", "size", "axes"), [("xy", "16_24", (1, 2)), ("0_2", "16_16", (0, 2)), ("1_2", "24_16", (0, 1))]
)
def test_slices_in_every_format(server, stored, plane, size, axes):
    path, voxels, kind = stored
    at = [2, 3, 4]
    across = ({0, 1, 2} - set(axes)).pop()
    offset = [8, 0, -8]
    offset[across] += at[across]
    where = "_".join(map(str, offset[::-1]))
    index: list = [slice(None)] * 3
    index[across] = at[across]
    want = as_picture(kind.split(np.ascontiguousarray(voxels[tuple(index)])))
    tiff = server.get(f"{path}/raw/{plane}/{size}/{where}/tif").ok()
    assert tiff.headers["Content-Type"] == "image/tiff"
    assert np.array_equal(tifffile.imread(io.BytesIO(tiff.body)), want)
    for form, mime in (("", "png"), ("/png", "png"), ("/jpg:90", "jpeg"), ("/bmp", "bmp")):
        reply = server.get(f"{path}/raw/{plane}/{size}/{where}{form}").ok()
        assert reply.headers["Content-Type"] == f"image/{mime}"
        with Image.open(io.BytesIO(reply.body)) as image:
            assert image.size == tuple(map(int, size.split("_")))
            if mime == "png" and want.dtype == np.uint8:
                assert np.array_equal(np.asarray(image), want)


def test_oblique_slices_of_every_type(server, stored):
    path, voxels, kind = stored
    reply = server.get(f"{path}/arb/-64_64_88/64_64_88/-64_128_88/8/tif").ok()  # 8 nm a voxel: a row per voxel
    found = tifffile.imread(io.BytesIO(reply.body))
    want = np.full((9, 17), 9, kind.dtype) if kind.dtype == np.uint8 and not kind.channels else None
    picture = as_picture(kind.split(np.ascontiguousarray(voxels[3, 8:17, :])))
    assert found.shape[:2] == (9, 17)
    assert np.array_equal(found[:, :16], picture)
    if want is not None:
        assert np.array_equal(found[:, 16], want[:, 16])


def test_blocks_and_streams_are_the_stored_voxels(server, stored):
    path, voxels, kind = stored

    def block(x, y, z):
        return voxels[z * B : (z + 1) * B, y * B : (y + 1) * B, x * B : (x + 1) * B].tobytes()

    row = server.get(f"{path}/blocks/-2_0_1/4").ok().body
    edge = bytes([9]) * (B**3 * kind.bytes)
    assert row == edge + block(0, 0, 0) + block(1, 0, 0) + edge
    assert server.post(f"{path}/blocks/40_-1_0/2", row[len(edge) : 3 * len(edge)] + b"more").ok().body == b""
    assert server.get(f"{path}/blocks/40_-1_0/2").ok().body == row[len(edge) : 3 * len(edge)]
    stream = server.get(f"{path}/subvolblocks/32_24_16/-16_0_8?compression=uncompressed").ok().body
    want = b"".join(
        struct.pack("<4i", x - 1, y, z + 1, len(edge)) + block(x, y, z)
        for z, y, x in itertools.product(range(2), range(3), range(2))
    )
    assert stream == want
    some = server.get(f"{path}/specificblocks?blocks=0,2,2,50,0,0,-1,0,1&compression=uncompressed").ok().body
    assert some == b"".join(
        struct.pack("<4i", x - 1, y, z + 1, len(edge)) + block(x, y, z) for x, y, z in ((1, 2, 1), (0, 0, 0))
    )


def test_a_block_that_is_replaced_shows_in_its_version_only(server, stored):
    path, voxels, _ = stored
    uuid = path.split("/")[3]
    server.commit(uuid)
    child = path.replace(uuid, server.child(uuid))
    new = voxels[:B, :B, :B][::-1].copy()
    server.post(f"{child}/raw/0_1_2/8_8_8/{OFFSET}?mutate=true", new.tobytes()).ok()
    assert server.get(f"{child}/raw/0_1_2/8_8_8/{OFFSET}").ok().body == new.tobytes()
    assert server.get(f"{path}/raw/0_1_2/8_8_8/{OFFSET}").ok().body == voxels[:B, :B, :B].tobytes()
    assert server.post(f"{path}/raw/0_1_2/8_8_8/{OFFSET}", new.tobytes()).status == 400


# ---------------------------------------------------------------- masks


@pytest.fixture
def masked(server):
    """(path, voxels) of a volume of bytes with background 9 and a region of one of its blocks, `r`."""
    uuid = server.new_repo()
    server.new_instance(uuid, "v", "uint8blk", BlockSize=f"{B},{B},{B}", Background="9")
    server.new_instance(uuid, "r", "roi", BlockSize=f"{B},{B},{B}")
    voxels, path = voxels_of("uint8blk"), f"/api/node/{uuid}/v"
    server.post(f"{path}/raw/0_1_2/16_24_16/{OFFSET}", voxels.tobytes()).ok()
    server.post(f"/api/node/{uuid}/r/roi", [[1, 0, -1, -1]]).ok()
    return path, voxels


def test_masked_reads_follow_the_region_and_are_not_kept(server, masked):
    path, voxels = masked
    url = f"{path}/raw/0_1_2/16_8_8/{OFFSET}"
    want = voxels[:B, :B].copy()
    assert server.get(url).ok().body == want.tobytes()
    want[:, :, B:] = 9
    reply = server.get(f"{url}?roi=r").ok()
    assert reply.body == want.tobytes()
    assert "ETag" not in reply.headers
    assert "ETag" in server.get(url).headers
    server.post(f"{path[:-1]}r/roi", [[1, 0, 0, 0]]).ok()
    want = voxels[:B, :B].copy()
    want[:, :, :B] = 9
    assert server.get(f"{url}?roi=r&attenuation=3").ok().body == want.tobytes()


def test_masked_writes_leave_the_rest(server, masked):
    path, voxels = masked
    server.post(f"{path}/raw/0_1_2/16_24_16/{OFFSET}?roi=r&mutate=true", bytes(voxels.size)).ok()
    want = voxels.copy()
    want[:B, :B, :B] = 0
    assert server.get(f"{path}/raw/0_1_2/16_24_16/{OFFSET}").ok().body == want.tobytes()


# ---------------------------------------------------------------- what is refused

BIG = "2147483648"


@pytest.mark.parametrize(("verb", "rest", "body"), [
    ("POST", f"raw/0_1_2/{BIG}_8_8/0_0_0", b""), ("POST", "raw/0_1_2/2147483640_8_8/0_0_0", b""), ("POST", f"raw/0_1_2/8_8_8/{BIG}_0_0", b""),
    ("POST", "raw/0_1_2/8_8_8/2147483640_0_0", b"\0" * 511), ("POST", "raw/0_1_2/-8_8_8/0_0_0", b""), ("POST", "raw/0_1_2/-8_-8_8/0_0_0", b"\0" * 512),
    ("POST", "raw/0_1_2/0_8_8/0_0_0", b""), ("POST", "raw/0_1_2/8_8_8/1_0_0", b"\0" * 512), ("POST", "raw/0_1_2/9_8_8/0_0_0", b"\0" * 576),
    ("POST", "raw/0_1_2/8_8_8/0_0_0", b"\0" * 513), ("POST", "raw/0_1_2/8_8_8/0_0_0", b""), ("POST", "raw/xy/8_8/0_0_0", b"\0" * 64),
    ("POST", "raw/0_1_2/8_8/0_0_0", b"\0" * 64), ("POST", "raw/0_1_2/8_8_8", b"\0" * 512), ("POST", "raw/0_1_2/8_8_8/0_0_0?roi=none", b"\0" * 512),
    ("POST", "raw/0_1_2/8_8_8/0_0_0?roi=v", b"\0" * 512), ("POST", "isotropic/0_1_2/8_8_8/0_0_0", b"\0" * 512),
    ("POST", f"blocks/{BIG}_0_0/1", b"\0" * 512), ("POST", "blocks/0_0_0/-1", b""), ("POST", "blocks/0_0_0/2", b"\0" * 1023),
    ("POST", "blocks/2147483647_0_0/2", b"\0" * 1024), ("POST", "extents", b"{"), ("POST", "extents", b'{"MinPoint":[2147483648,0,0],"MaxPoint":[1,1,1]}'),
    ("POST", "resolution", b"[0,1,1]"), ("GET", f"raw/0_1_2/{BIG}_1_1/0_0_0", None), ("GET", "raw/xy/8_8/0_0_0/gif", None),
    ("GET", "raw/xy/8_8/0_0_0/jpg:best", None), ("GET", "raw/vol/2147483647_2147483647_2147483647/0_0_0", None), ("GET", "raw/zz/8_8/0_0_0", None),
    ("GET", f"subvolblocks/8_8_8/{BIG}_0_0", None), ("GET", "subvolblocks/8_8_9/0_0_0", None), ("GET", "subvolblocks/8_8_8/0_0_0?compression=zip", None),
    ("GET", f"specificblocks?blocks=0,0,{BIG}", None), ("GET", "specificblocks?blocks=0,0", None), ("GET", "blocks/0_0_0/99999999999", None),
    ("GET", "arb/0_0_0/1e300_0_0/0_1e300_0/1", None), ("GET", "arb/0_0_0/8_0_0/0_8_0/0", None), ("GET", "arb/0_0/8_0_0/0_8_0/1", None),
    ("GET", "raw/0_1_2/8_8_8/0_0_0?roi=r&attenuation=8", None), ("DELETE", "raw/0_1_2/8_8_8/0_0_0", None),
])  # fmt: skip
def test_bad_requests_are_one_line_and_change_nothing(server, masked, verb, rest, body):
    path, voxels = masked
    before = server.counts()
    reply = server.request(verb, f"{path}/{rest}", body)
    assert reply.status == 400, reply
    one_line(reply)
    assert server.counts() == before
    assert server.get(f"{path}/raw/0_1_2/16_24_16/{OFFSET}").ok().body == voxels.tobytes()


@pytest.mark.parametrize("typename", [name for name in KINDS if name != "uint8blk"])
def test_jpeg_storage_is_for_bytes_only(server, typename):
    uuid = server.new_repo()
    asked = {"typename": typename, "dataname": "v", "Compression": "jpeg"}
    assert "damage" in one_line(server.post(f"/api/repo/{uuid}/instance", asked))
    assert server.get(f"/api/node/{uuid}/v/info").status != 200


def test_info_names_the_type(server, stored):
    path, _, kind = stored
    found = json.loads(server.get(f"{path}/info").ok().body)
    assert found["Base"]["TypeName"] == kind.name
    assert [(v["DataType"], v["Label"]) for v in found["Extended"]["Values"]] == list(kind.values)
    assert found["Extents"] == {"MinPoint": [-8, 0, 8], "MaxPoint": [7, 23, 23]}
