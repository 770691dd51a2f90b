"""What a labelmap keeps in the ledger beside its blocks: the books, and the two columns among them.

Decides the numbers on disk. ``SUPERVOXEL``: :mod:`~dvidfs.types.labelmap.index`; ``BODY``: :mod:`~dvidfs.types.labelmap.bodies`;
``MAPPING``: the body of each supervoxel that has been given one (0: the id is not in use any more); ``TOTALS``: the voxels of
each body, 0 once it is gone; ``COUNTERS``: :mod:`~dvidfs.types.labelmap.counters`; ``TOUCHED``: the bodies that a mutation wrote rows of. Mapping and membership (``BODY``) are two stored facts:
clients may set each alone.
"""

from __future__ import annotations

from enum import IntEnum

from dvidfs.engine.versions import ReadView
from dvidfs.types.labelmap import columns
from dvidfs.types.labelmap.columns import Column


class Book(IntEnum):
    """Books of the ledger; the number is the byte on disk."""

    SUPERVOXEL = 1
    BODY = 2
    MAPPING = 3
    TOTALS = 4
    COUNTERS = 5
    TOUCHED = 6


def mapping(view: ReadView) -> Column:
    """Supervoxel -> body, where one was given; a supervoxel without an entry is its own body."""
    return columns.read(view, Book.MAPPING)


def totals(view: ReadView) -> Column:
    """Body -> its voxels, as its index counts them."""
    return columns.read(view, Book.TOTALS)
