"""Meshes: closed surfaces that lie where the voxels do, in nanometres, and files that others can read."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dvidfs.errors import BadRequest, Unsupported
from dvidfs.types.formats import meshes

MASKS = hnp.arrays(bool, st.tuples(*[st.integers(1, 5)] * 3))


def volume_of(mesh: meshes.Mesh) -> float:
    """What a closed mesh holds, positive if its triangles are counter-clockwise seen from outside."""
    a, b, c = mesh.vertices.astype(np.float64)[mesh.triangles.astype(np.int64)].transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


def edges_of(mesh: meshes.Mesh) -> list[tuple[int, int]]:
    return [(int(t[i]), int(t[(i + 1) % 3])) for t in mesh.triangles for i in range(3)]


def test_a_cuboid_lies_where_its_voxels_do():
    mask = np.zeros((9, 10, 11), bool)
    mask[1:4, 2:7, 3:9] = True
    mesh = meshes.mesh_of(mask, (4.0, 8.0, 20.0), (100, -50, 7))
    assert mesh.vertices.min(axis=0).tolist() == [103 * 4, -48 * 8, 8 * 20]
    assert mesh.vertices.max(axis=0).tolist() == [109 * 4, -43 * 8, 11 * 20]
    voxels = 3 * 5 * 6 * 4 * 8 * 20
    assert 0.85 * voxels < volume_of(mesh) < voxels, "corners are cut, nothing else"


@settings(deadline=None)
@given(MASKS)
def test_surfaces_are_closed_and_hold_the_voxels(mask: np.ndarray):
    mesh = meshes.mesh_of(mask, (1, 1, 1), (0, 0, 0))
    assert bool(len(mesh.triangles)) == mask.any()
    edges = edges_of(mesh)
    assert sorted(edges) == sorted((b, a) for a, b in edges), "each edge as often in either direction"
    if mask.any():
        assert volume_of(mesh) > 0
        z, y, x = np.nonzero(mask)
        assert mesh.vertices.min(axis=0).tolist() == [x.min(), y.min(), z.min()]
        assert mesh.vertices.max(axis=0).tolist() == [x.max() + 1, y.max() + 1, z.max() + 1]
        assert mesh.triangles.max() < len(mesh.vertices)


def test_ngmesh_is_a_count_then_vertices_then_triangles():
    mesh = meshes.mesh_of(np.ones((1, 1, 1), bool), (8, 8, 8), (0, 0, 0))
    data = meshes.ngmesh(mesh)
    (count,) = struct.unpack_from("<I", data)
    assert count == 6
    vertices = np.frombuffer(data, "<f4", 3 * count, 4).reshape(-1, 3)
    triangles = np.frombuffer(data, "<u4", offset=4 + 12 * count).reshape(-1, 3)
    assert sorted(vertices.tolist()) == sorted([[0, 4, 4], [8, 4, 4], [4, 0, 4], [4, 8, 4], [4, 4, 0], [4, 4, 8]])
    assert triangles.tolist() == mesh.triangles.tolist()
    assert len(triangles) == 8


def test_ply_is_a_header_then_vertices_then_faces():
    mesh = meshes.mesh_of(np.ones((1, 2, 1), bool), (8, 8, 8), (0, 0, 0))
    header, _, body = meshes.ply(mesh).partition(b"end_header\n")
    lines = header.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    counts = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("element")}
    assert counts == {"vertex": len(mesh.vertices), "face": len(mesh.triangles)}
    vertices = np.frombuffer(body, "<f4", 3 * counts["vertex"]).reshape(-1, 3)
    assert vertices.tolist() == mesh.vertices.tolist()
    faces = [struct.unpack_from("<B3I", body, vertices.nbytes + 13 * i) for i in range(counts["face"])]
    assert faces == [(3, *triangle) for triangle in mesh.triangles.tolist()]
    assert len(body) == vertices.nbytes + 13 * counts["face"]


def test_nothing_has_an_empty_mesh():
    mesh = meshes.mesh_of(np.zeros((2, 3, 4), bool), (8, 8, 8), (1, 2, 3))
    assert meshes.ngmesh(mesh) == bytes(4)
    assert b"element vertex 0\n" in meshes.ply(mesh)


def test_boxes_that_are_too_large_are_refused():
    vast = np.broadcast_to(np.False_, (1 << 9, 1 << 9, (1 << 9) + 1))
    with pytest.raises(BadRequest, match="a box of 513x512x512 voxels is too large"):
        meshes.mesh_of(vast, (8, 8, 8), (0, 0, 0))
    with pytest.raises(BadRequest, match="1048576 along a side"):
        meshes.mesh_of(np.broadcast_to(np.False_, (1, 1, (1 << 20) + 1)), (8, 8, 8), (0, 0, 0))


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "zmesh", None)
    with pytest.raises(Unsupported, match=r"pip install 'dvidfs\[mesh\]'"):
        meshes.mesh_of(np.ones((1, 1, 1), bool), (8, 8, 8), (0, 0, 0))
