"""The command mesh: makes the surfaces of bodies and keeps them where viewers look for them.

Viewers that speak DVID's protocol ask the keyvalue instance ``NAME_meshes`` beside the labels ``NAME`` for ``<label>.ngmesh``. Which
bodies are meshed and what is skipped is decided here; what a mesh is, is the datatype's: it is the file ``bodies/<label>/mesh.ngmesh`` of the
mount. A mesh that is newer than the last change of its body is not made again, so work that was stopped goes on. Invariant: no mesh is
stored of a body that has changed since it was read.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from dvidfs.cli.names import find_instance, opened, read_view, registry, text_keys, write_view
from dvidfs.cli.output import show, size
from dvidfs.cli.parser import Commands, store_argument, version_argument
from dvidfs.cli.progress import Progress
from dvidfs.errors import BadRequest, NotFound, UnknownInstance, Unsupported

if TYPE_CHECKING:
    from dvidfs.engine import Engine, Instance, ReadTxn, ReadView, WriteTxn
    from dvidfs.types.base import Each, Made

FOLDER, FILE, SUFFIX = "bodies", "mesh.ngmesh", ".ngmesh"
BATCH_BYTES = 16 << 20
"""So much is stored at a time."""
BATCH = 64


def add(commands: Commands) -> None:
    parser = commands.add(
        "mesh",
        run,
        "Make meshes of bodies, for neuroglancer.",
        "mesh store medulla:master segmentation\nmesh store medulla:master segmentation 59 1371",
        json=True,
        detail="They are stored in the keyvalue instance INSTANCE_meshes as LABEL.ngmesh, which is where viewers look for\n"
        "them at dvid:// addresses. Meshes that are newer than the last change of their body are left as they are.",
    )
    store_argument(parser)
    version_argument(parser)
    parser.add_argument("instance", metavar="INSTANCE", help="Name of the labels.")
    parser.add_argument("labels", metavar="LABEL", nargs="*", help="Bodies; none given: all.")
    parser.add_argument("--into", metavar="NAME", help="The keyvalue instance; default: INSTANCE_meshes.")
    parser.add_argument("--again", action="store_true", help="Make all of them anew.")
    parser.add_argument("--quiet", action="store_true", help="Show no progress.")


def run(args: argparse.Namespace) -> None:
    name = args.into or f"{args.instance}_meshes"
    with opened(args) as engine:
        with engine.read() as txn:
            source = Source.of(read_view(txn, args.version, args.instance))
            labels = source.labels(read_view(txn, args.version, args.instance), args.labels)
        sink = Sink(engine, source, engine.write(lambda txn: _target(txn, args.version, name)), args)
        progress = Progress(f'meshes of "{args.instance}"', len(labels), quiet=args.quiet, told=_count)
        kept = 0
        try:
            for done, label in enumerate(labels):
                progress.at(done)
                with engine.read() as txn:
                    view = read_view(txn, args.version, args.instance)
                    changed = source.changed(view, label)
                    if not args.again and sink.has(txn, label, changed):
                        kept += 1
                        continue
                    mesh = source.mesh(view, label)
                sink.put(label, changed, mesh)
            sink.flush()
        finally:
            progress.end()
    told = {"instance": name, "written": sink.written, "kept": kept, "bytes": sink.bytes}
    show(args, told, [f'{sink.written} meshes written into "{name}", {size(sink.bytes)}; {kept} were up to date'])


def _count(number: float) -> str:
    return f"{number:,.1f}" if number < 10 else f"{number:,.0f}"


@dataclass(frozen=True)
class Source:
    """Where meshes come from: the folders of bodies in the tree of a datatype, and the file of the mesh in each."""

    each: Each
    made: Made

    @classmethod
    def of(cls, view: ReadView) -> Source:
        """Raises: BadRequest if the instance has no bodies; Unsupported if no meshes can be made."""
        from dvidfs.types.base import Directory
        from dvidfs.types.formats.meshes import NEEDED

        instance = view.instance
        tree = registry()[instance.type].tree
        folder: Any = tree.entries.get(FOLDER) if isinstance(tree, Directory) else None
        if folder is None:
            raise BadRequest(f'"{instance.name}" is of type {instance.type}, which has no bodies: name a labelmap')
        (each,) = folder.each
        made = each.entry.entries.get(FILE)
        if made is None:
            raise Unsupported(NEEDED)
        return cls(each, made)

    def labels(self, view: ReadView, wanted: list[str]) -> list[int]:
        """The bodies to be meshed. Raises: BadRequest, NotFound."""
        names = wanted or self.each.names(view)
        return [self._label(view, text) for text in names] if wanted else list(map(int, names))

    def _label(self, view: ReadView, text: str) -> int:
        label = self.each.parse(text)
        if label is None:
            raise BadRequest(f'"{text}" is no label: give whole numbers above 0')
        if not self.each.has(view, label):
            raise NotFound(f'there is no body {label} in "{view.instance.name}" at version {view.node.uuid}')
        return label

    def changed(self, view: ReadView, label: int) -> int:
        """When the body last changed, in ns."""
        return self.made.mtime(view, label) if self.made.mtime is not None else view.modified()

    def mesh(self, view: ReadView, label: int) -> bytes:
        return b"".join(self.made.pieces(view, (label,)))


def _target(txn: WriteTxn, version: str, name: str) -> Instance:
    """The keyvalue instance, made if there is none. Raises: Locked, BadRequest."""
    from dvidfs.cli.instances import create
    from dvidfs.cli.names import find_version

    node = find_version(txn.graph, version)
    try:
        found = find_instance(txn.graph, node, name)
    except UnknownInstance:
        create(txn, node, "keyvalue", name, {})
        found = find_instance(txn.graph, node, name)
    text_keys(found)
    return write_view(txn, version, name).instance


class Sink:
    """The instance that meshes go into, some at a time. ``written``, ``bytes``: what has been stored."""

    def __init__(self, engine: Engine, source: Source, instance: Instance, args: argparse.Namespace) -> None:
        self.engine = engine
        self.source = source
        self.instance = instance
        self.args = args
        self.written = self.bytes = 0
        self._waiting: list[tuple[int, int, Any]] = []

    def has(self, txn: ReadTxn, label: int, since: int) -> bool:
        """Whether there is a mesh that is no older than that."""
        entry = read_view(txn, self.args.version, self.instance.name).text_entry(_key(label))
        return entry is not None and entry.mtime >= since

    def put(self, label: int, changed: int, mesh: bytes) -> None:
        """The mesh of a body that had last changed then."""
        from dvidfs.cli.key import take

        self._waiting.append((label, changed, take(self.engine, self.instance.id, BytesIO(mesh))))
        if len(self._waiting) >= BATCH or sum(value.size for *_, value in self._waiting) >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Store what waits; not what has changed meanwhile, which another run makes anew."""
        put, args = text_keys(self.instance).put, self.args

        def write(txn: WriteTxn) -> list[int]:
            view, labels = (
                write_view(txn, args.version, self.instance.name),
                read_view(txn, args.version, args.instance),
            )
            good = [(label, value) for label, at, value in self._waiting if self.source.changed(labels, label) == at]
            for label, value in good:
                put(view, _key(label), value)
            return [value.size for _, value in good]

        stored = self.engine.write(write) if self._waiting else []
        self.written += len(stored)
        self.bytes += sum(stored)
        self._waiting = []


def _key(label: int) -> bytes:
    return f"{label}{SUFFIX}".encode()
