"""Volumes that live elsewhere: neuroglancer precomputed, Zarr and N5, on disk or behind HTTP(S), S3 and GCS.

Knows nothing of a datatype. :mod:`~dvidfs.types.proxy.places` says which texts name such a volume, :mod:`~dvidfs.types.proxy.describe`
what is found there, :mod:`~dvidfs.types.proxy.remote` reads its voxels and stored chunks, :mod:`~dvidfs.types.proxy.gate` decides
when a server counts as out of reach. The work below is done by tensorstore (extra ``proxy``), which is imported at first use.
"""
