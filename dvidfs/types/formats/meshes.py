"""Surfaces of bodies and supervoxels, and the two files they are written as: PLY and neuroglancer's ngmesh.

Decides where a surface runs: between the centres of voxels inside and outside, closed where the mask ends, its triangles
counter-clockwise when seen from outside. Voxel (x, y, z) covers [x, x+1) and so on, times the voxel size. Which scale is
meshed is left to the caller, who keeps the mask within :data:`MOST_VOXELS`; everything is in memory at once (the mask, a
copy of it, and some 160 bytes for each vertex). Invariant: positions are nanometres in the frame of the volume.

The work is done by zmesh (extra ``mesh``; LGPL-3.0), which is imported at first use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvidfs.errors import BadRequest, Unsupported

MOST_VOXELS = 1 << 27
"""Of the box that is meshed; a larger body is meshed at a coarser scale."""
LONGEST = 1 << 20
"""Voxels of a side of that box."""
NEEDED = "meshes need zmesh: pip install 'dvidfs[mesh]'"

_PLY = """ply
format binary_little_endian 1.0
element vertex {vertices}
property float x
property float y
property float z
element face {triangles}
property list uchar uint vertex_indices
end_header
"""
_FACE = np.dtype([("corners", "u1"), ("vertices", "<u4", 3)])


@dataclass(frozen=True, eq=False)
class Mesh:
    """``vertices`` (n, 3): x, y, z in nm, float32; ``triangles`` (m, 3): numbers of vertices, uint32."""

    vertices: NDArray[np.float32]
    triangles: NDArray[np.uint32]


def mesh_of(mask: NDArray[np.bool_], voxel_size: tuple[float, float, float], offset: tuple[int, int, int]) -> Mesh:
    """The surface of the voxels that are set in a mask (z, y, x).

    ``voxel_size``: nm along x, y, z of a voxel of the mask; ``offset``: voxel (x, y, z), in voxels of that size, at which it begins.

    Raises:
        BadRequest: the mask is larger than :data:`MOST_VOXELS` or a side than :data:`LONGEST`.
        Unsupported: zmesh is not installed.
    """
    if mask.size > MOST_VOXELS or max(mask.shape) > LONGEST:
        shape = "x".join(str(n) for n in mask.shape[::-1])
        raise BadRequest(f"a box of {shape} voxels is too large to mesh: at most {MOST_VOXELS}, {LONGEST} along a side")
    mesher = _library().Mesher((1, 1, 1))
    # Turned to (x, y, z), or triangles would be inside out.
    mesher.mesh(np.ascontiguousarray(mask, np.bool_).view(np.uint8).T, close=True)
    if not mesher.ids():
        return Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint32))
    found = mesher.get(1)
    # A closed mesh comes half a voxel too far out: it lies around the middles of voxels.
    vertices = (found.vertices.astype(np.float64) - 0.5 + offset) * voxel_size
    return Mesh(vertices.astype(np.float32), np.ascontiguousarray(found.faces, np.uint32))


def _library() -> Any:
    try:
        import zmesh
    except ImportError:
        raise Unsupported(NEEDED) from None
    return zmesh


def ply(mesh: Mesh) -> bytes:
    """The mesh as a binary little-endian PLY file."""
    faces = np.empty(len(mesh.triangles), _FACE)
    faces["corners"] = 3
    faces["vertices"] = mesh.triangles
    header = _PLY.format(vertices=len(mesh.vertices), triangles=len(mesh.triangles)).encode()
    return header + mesh.vertices.astype("<f4").tobytes() + faces.tobytes()


def ngmesh(mesh: Mesh) -> bytes:
    """The mesh as neuroglancer reads it: uint32 number of vertices, float32 x, y, z each, uint32 triangles, little-endian."""
    count = np.uint32(len(mesh.vertices)).astype("<u4").tobytes()
    return count + mesh.vertices.astype("<f4").tobytes() + mesh.triangles.astype("<u4").tobytes()
