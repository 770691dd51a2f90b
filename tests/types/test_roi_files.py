"""The files of a region: exact sizes, any window, a mask that readers of NIfTI open."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from roicase import SPANS, RoiCase, blocks_of, regions

from dvidfs.engine import Store, open_engine
from dvidfs.types.roi import files, store


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "s"
    Store.create(path)
    with open_engine(path, durability="periodic") as engine:
        yield engine


def test_an_empty_region_has_no_mask(engine):
    case = RoiCase.new(engine)
    assert case.listed() == ["roi.json", "partition.json"]
    assert case.file_bytes("roi.json") == b"[]"
    assert json.loads(case.file_bytes("partition.json"))["NumSubvolumes"] == 0


@settings(max_examples=30, deadline=None)
@given(spans=regions(), data=st.data())
def test_windows_are_parts_of_the_file(engine, spans, data):
    case = RoiCase.new(engine)
    case.post(spans)
    assert case.listed() == [*(["roi.json", "mask.nii"] if spans else ["roi.json"]), "partition.json"]
    for name in case.listed():
        whole = case.file_bytes(name)
        start = data.draw(st.integers(0, len(whole) + 5))
        length = data.draw(st.integers(0, len(whole)))
        assert case.file_bytes(name, start, length) == whole[start : start + length]
    assert json.loads(case.file_bytes("roi.json")) == case.spans()
    assert json.loads(case.file_bytes("partition.json")) == case.partition(8)


def test_nibabel_opens_the_mask(engine, tmp_path):
    case = RoiCase.new(engine, BlockSize="32,16,8")
    case.post(SPANS)
    path = tmp_path / "mask.nii"
    path.write_bytes(case.file_bytes("mask.nii"))
    image = nibabel.load(path)
    voxels = np.asarray(image.dataobj)
    assert voxels.dtype == np.uint8
    box = case.read(store.box)
    found = {tuple(int(n + o) for n, o in zip(at, box.offset, strict=True)) for at in np.argwhere(voxels)}
    assert found == blocks_of(SPANS)
    assert np.allclose(image.header.get_zooms(), (0.256, 0.128, 0.064))
    assert image.header.get_xyzt_units()[0] == "micron"


def test_files_of_a_vast_region_cost_little(engine):
    case = RoiCase.new(engine)
    case.post([[0, 0, 0, 0], [0, 9, 9, 9], [9, 0, 9, 9], [30_000, 0, 9, 9], [30_000, 30_000, 30_000, 30_000]])
    assert case.listed() == ["roi.json", "mask.nii"], "too many boxes to partition unasked"
    size = case.read(files.mask_size)
    assert size == 352 + 30_001**3
    assert case.file_bytes("mask.nii", 352, 4) == b"\1\0\0\0"
    assert case.file_bytes("mask.nii", size - 4, 100) == b"\0\0\0\1"
    case.post([[0, 0, 0, 40_000]])
    assert "mask.nii" not in case.listed(), "longer than an axis of NIfTI-1"
