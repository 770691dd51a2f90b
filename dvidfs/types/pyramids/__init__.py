"""Scales of a volume, whatever its datatype: kept right under writes, versions and merges, made in the background, read at any moment.
A datatype gives a :class:`~dvidfs.types.pyramids.pyramid.Pyramid`, and marks what it writes (:mod:`~dvidfs.types.pyramids.marks`).
"""
