"""The files of a volume of voxels, whatever its datatype: blocks, slices, whole volumes in many formats, cutouts, Zarr and
precomputed. A datatype gives a :class:`~dvidfs.types.volumes.source.Source`; :mod:`~dvidfs.types.volumes.tree` makes the rest.
"""
