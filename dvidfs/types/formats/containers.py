"""The file formats of whole volumes, by suffix; the mount, cutouts and ``dvidfs export`` all read this table."""

from __future__ import annotations

from dvidfs.types.formats.hdf5 import HDF5
from dvidfs.types.formats.metaimage import METAIMAGE
from dvidfs.types.formats.nifti import NIFTI
from dvidfs.types.formats.npy import NPY, RAW
from dvidfs.types.formats.tiff import TIFF

CONTAINERS = {c.suffix: c for c in (NPY, RAW, NIFTI, METAIMAGE, HDF5, TIFF)}
