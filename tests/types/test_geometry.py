"""Coordinates: texts are read or refused with a clear line, blocks tile space without gaps, on both sides of zero."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvidfs.errors import BadRequest
from dvidfs.types import geometry
from dvidfs.types.geometry import Box

coords = st.tuples(*[st.integers(-90, 90)] * 3)
sizes = st.tuples(*[st.integers(1, 40)] * 3)
boxes = st.builds(Box, coords, sizes)


def voxels(box):
    return set(itertools.product(*(range(a, b) for a, b in zip(box.offset, box.stop, strict=True))))


small = st.builds(Box, st.tuples(*[st.integers(-5, 5)] * 3), st.tuples(*[st.integers(1, 4)] * 3))


@given(small, small)
def test_intersection_is_what_both_boxes_hold(a, b):
    both = a.intersect(b)
    assert (voxels(both) if both else set()) == voxels(a) & voxels(b)
    assert a.contains(b) == (voxels(b) <= voxels(a))


@given(small, st.tuples(*[st.integers(-7, 10)] * 3))
def test_from_here_is_the_next_coordinate_of_the_box(box, at):
    def order(point):
        return point[::-1]

    assert box.from_here(at) == min((p for p in voxels(box) if order(p) >= order(at)), key=order, default=None)


@given(boxes, boxes)
def test_union_is_the_smallest_box_that_contains_both(a, b):
    both = a.union(b)
    assert both.contains(a)
    assert both.contains(b)
    for axis in range(3):
        assert both.offset[axis] in (a.offset[axis], b.offset[axis])
        assert both.stop[axis] in (a.stop[axis], b.stop[axis])


@given(small, st.tuples(*[st.integers(1, 5)] * 3))
def test_covering_blocks_tile_the_box(box, block):
    blocks = geometry.covering_blocks(box, block)
    pieces = [geometry.block_box(c, block).intersect(box) for c in geometry.each_block(blocks)]
    assert all(pieces), "each covering block shares voxels with the box"
    assert sum(p.volume for p in pieces) == box.volume == np.prod(box.shape)


@given(coords, sizes)
def test_a_voxel_lies_in_its_block(point, block):
    assert geometry.block_box(geometry.block_of(point, block), block).contains(Box(point, (1, 1, 1)))


@given(boxes, sizes)
def test_aligned_means_whole_blocks(box, block):
    first, last = (geometry.block_box(geometry.block_of(p, block), block) for p in (box.offset, box.last))
    assert geometry.is_aligned(box, block) == (first.union(last) == box)


def test_blocks_are_listed_x_fastest():
    assert list(geometry.each_block(Box((0, 0, -1), (2, 1, 2)))) == [(0, 0, -1), (1, 0, -1), (0, 0, 0), (1, 0, 0)]


@given(boxes)
def test_window_finds_a_part_in_an_array_of_the_whole(box):
    whole = Box((-200, -200, -200), (400, 400, 400))
    z, y, x = whole.window(box)
    assert (x.start - 200, y.start - 200, z.start - 200) == box.offset
    assert (z.stop - z.start, y.stop - y.start, x.stop - x.start) == box.shape


@given(coords)
def test_point_text_round_trips(point):
    assert geometry.parse_point(geometry.join(point), "offset") == point


@pytest.mark.parametrize("text", ["xy", "0_1", "0,1", "XY"])
def test_plane_names_mean_the_same(text):
    assert geometry.parse_plane(text) is geometry.XY


def test_a_slice_takes_the_axes_of_its_plane():
    assert geometry.parse_box(geometry.XZ, "40_24", "1_2_3") == Box((1, 2, 3), (40, 1, 24))
    assert geometry.parse_box(geometry.YZ, "40_24", "1_2_3") == Box((1, 2, 3), (1, 40, 24))
    assert geometry.parse_box(geometry.VOLUME, "4_5_6", "-1_2_3") == Box((-1, 2, 3), (4, 5, 6))


@pytest.mark.parametrize(
    "text",
    ["", "1", "1_2", "1_2_3_4", "a_2_3", "1._2_3", "1__3", "1_2_", "٣_2_3", "1_2_2147483648", "0x1_2_3", "1 0_2_3"],
)
def test_a_malformed_point_is_refused_in_one_line(text):
    with pytest.raises(BadRequest) as error:
        geometry.parse_point(text, "offset")
    assert "offset" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["0_1_1", "1_-1_1", "1_1_0"])
def test_a_side_below_one_is_refused(text):
    with pytest.raises(BadRequest, match="positive"):
        geometry.parse_size(text)
    with pytest.raises(BadRequest, match="Illegal geometry"):
        geometry.parse_box(geometry.VOLUME, text, "0_0_0")


def test_a_box_that_ends_beyond_the_last_coordinate_is_refused():
    assert geometry.parse_box(geometry.VOLUME, "1_1_1", "2147483647_0_0").last[0] == 2**31 - 1
    with pytest.raises(BadRequest, match="beyond 2147483647"):
        geometry.parse_box(geometry.VOLUME, "2_1_1", "2147483647_0_0")


def test_more_than_three_gib_is_refused():
    box = geometry.parse_box(geometry.VOLUME, "2048_2048_768", "0_0_0")
    assert geometry.check_volume(box, 1) == 3 << 30
    with pytest.raises(BadRequest, match="exceeds"):
        geometry.check_volume(box, 2)


@pytest.mark.parametrize("text", ["xx", "0", "2_1", "1_0_2", "xyz"])
def test_an_unknown_shape_is_refused(text):
    with pytest.raises(BadRequest, match="unknown shape"):
        geometry.parse_plane(text)


def test_settings_take_commas_and_blanks():
    assert geometry.parse_floats("13.1, 14.2, 15.3", "VoxelSize") == (13.1, 14.2, 15.3)
    assert geometry.parse_size("64, 43, 28", "BlockSize", ",") == (64, 43, 28)


@pytest.mark.parametrize("text", ["1", "1,2", "x,1,1", "1,2,3,4", "nan,1,1", "inf,1,1", "1e999,1,1", "1,,2", "1_0,2,3"])
def test_malformed_numbers_are_refused(text):
    with pytest.raises(BadRequest, match="VoxelSize"):
        geometry.parse_floats(text, "VoxelSize")
