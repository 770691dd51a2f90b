"""Where imported volumes come from, one module for each family of formats; all as layers of one array.

Decides which module reads what a word of the command names. What a source is, is said in :mod:`~dvidfs.cli.sources.base`; what becomes of the voxels
is for others. Libraries that read a format are imported when such a file is opened, and named where they are missing.
"""

from __future__ import annotations

from pathlib import Path

from dvidfs.cli.sources import arrays, medical, slices
from dvidfs.cli.sources.base import Source, What, existing, fingerprint, natural
from dvidfs.cli.sources.chunked import Chunked, place_of
from dvidfs.errors import BadRequest

__all__ = ["Source", "What", "fingerprint", "natural", "open_source"]

_HDF5 = (".h5", ".hdf5", ".hdf", ".he5", ".ilp")
_BY_SUFFIX = {
    ".npy": arrays.open_npy,
    ".nii": medical.open_nifti,
    ".mhd": medical.open_meta,
    ".mha": medical.open_meta,
    ".nrrd": medical.open_nrrd,
    ".nhdr": medical.open_nrrd,
    ".tif": slices.open_tiff,
    ".tiff": slices.open_tiff,
    ".btf": slices.open_tiff,
}
_WANT = (
    "give a folder of PNG, TIFF or JPEG slices, a file .tif .npy .raw .nii .nii.gz .mhd .mha .nrrd .nhdr, FILE.h5:/dataset, "
    "or a volume zarr, n5 or precomputed (a folder, or as precomputed://https://host/em)"
)


def open_source(
    text: str, scratch: Path, *, shape: str | None = None, dtype: str | None = None, scale: int = 0
) -> Source:
    """The volume that a word of the command names; ``scratch`` is a folder with room for a slab of layers.

    ``shape`` (x,y,z) and ``dtype`` describe a file without header, ``scale`` chooses one of a volume in chunks.

    Raises:
        NotFound: nothing there.
        BadRequest: it is no volume that can be read.
        Unsupported: a library is missing; the text says which.
    """
    found = _open(text, scratch, shape, dtype, scale)
    if scale and not isinstance(found, Chunked):
        raise BadRequest(f"{text} has one scale: --source-scale is for volumes zarr, n5 and precomputed")
    return found


def _open(text: str, scratch: Path, shape: str | None, dtype: str | None, scale: int) -> Source:
    file, colon, dataset = text.rpartition(":")
    if colon and file.endswith(_HDF5):
        return arrays.open_hdf5(existing(Path(file)), dataset, scratch)
    place = place_of(text)
    if place is not None:
        return Chunked(place, scratch, scale)
    path = existing(Path(text))
    if path.is_dir():
        return slices.Slices(path, scratch)
    suffix = path.suffix.lower()
    if shape or dtype or suffix in (".raw", ".bin"):
        return arrays.open_raw(path, scratch, shape, dtype)
    if path.name.lower().endswith(".nii.gz"):
        return medical.open_nifti(path, scratch)
    if suffix in _HDF5:
        return arrays.open_hdf5(path, "", scratch)
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix](path, scratch)
    raise BadRequest(f"{path} is no volume: {_WANT}")
