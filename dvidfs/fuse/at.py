"""One data instance at one version, by ids: what the nodes of its folders and files share."""

from __future__ import annotations

from dvidfs.engine import Instance, ReadTxn, ReadView, WriteTxn, WriteView
from dvidfs.engine.graph import Node as Version
from dvidfs.errors import Locked, UnknownInstance
from dvidfs.fuse import inodes
from dvidfs.fuse.nodes import (
    FOREVER,
    SOON,
    Context,
    version_of,
)


class At:
    """One instance at one version, by ids: what its folders and files share."""

    __slots__ = ("_found", "context", "instance", "kind", "prefix", "repo", "version")

    def __init__(self, context: Context, version: Version, instance: Instance) -> None:
        self.context = context
        self.repo = version.repo
        self.version = version.id
        self.instance = instance.id
        self.kind = context.registry[instance.type]
        self.prefix = inodes.identity(version.uuid, instance.uuid)
        self._found = b"", version, instance

    def both(self, txn: ReadTxn) -> tuple[Version, Instance]:
        """Version and instance as they are in this snapshot.

        Raises:
            NotFound: one of them has been deleted.
        """
        now = txn.graph.now
        seen, version, instance = self._found
        if seen == now and not isinstance(txn, WriteTxn):
            return version, instance
        found = txn.graph.instance_by_id(self.instance)
        if found is None:
            raise UnknownInstance(f"instance {self.instance} has been deleted")
        version = version_of(txn, self.repo, self.version)
        self._found = now, version, found
        return version, found

    def ttl(self, txn: ReadTxn) -> float:
        """How long the kernel may keep what is told of it."""
        version, instance = self.both(txn)
        return FOREVER if version.locked and instance.versioned else SOON

    def view(self, txn: ReadTxn) -> ReadView:
        """Raises: NotFound if the instance or the version has been deleted."""
        return ReadView(txn, *self.both(txn))

    def write_view(self, txn: WriteTxn) -> WriteView:
        """Raises: Locked if the version is committed."""
        return WriteView(txn, *self.both(txn))


def refuse_committed(version: Version, versioned: bool) -> None:
    """Raises: Locked if what lies here cannot be changed."""
    if version.locked and versioned:
        raise Locked(f"version {version.uuid} is committed: write to an open child")
