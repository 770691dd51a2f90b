"""The engine: an LMDB store of versioned keys, the version graph, the write lane, background jobs.

It knows no HTTP, no FUSE and no datatype by name; what the rest of dvidfs may use is imported here.
"""

from dvidfs.engine.engine import Engine, open_engine
from dvidfs.engine.graph import Graph, Instance, Node, Repo
from dvidfs.engine.store import ReadTxn, Store, WriteTxn
from dvidfs.engine.versions import ReadView, WriteView

__all__ = [
    "Engine",
    "Graph",
    "Instance",
    "Node",
    "ReadTxn",
    "ReadView",
    "Repo",
    "Store",
    "WriteTxn",
    "WriteView",
    "open_engine",
]
