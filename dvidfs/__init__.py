"""dvidfs: versioned volumes, labels and key-values as files and over DVID's HTTP API.

The package root holds only the version, so that ``dvidfs --help`` and ``import dvidfs`` cost nothing:
``dvidfs.engine`` is the store and the version graph, ``dvidfs.types`` the datatypes,
``dvidfs.http`` and ``dvidfs.fuse`` the two faces.
"""

__version__ = "0.1.0"
