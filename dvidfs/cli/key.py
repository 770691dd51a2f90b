"""Commands about the keys of an instance: key get, put, list, delete. Keys are bytes, as the shell gives them."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

from dvidfs.cli.names import opened, read_view, text_keys, write_view
from dvidfs.cli.output import say, show, when
from dvidfs.cli.parser import Commands, store_argument, version_argument
from dvidfs.errors import NotFound

if TYPE_CHECKING:
    from dvidfs.engine import Engine, WriteTxn
    from dvidfs.engine.values import Prepared, Uploaded

CHUNK = 1 << 20


def add(commands: Commands) -> None:
    group = commands.group("key", "Read and write the keys of an instance.", "key get store medulla:master notes Mi1")
    parser = group.add("get", get, "Print the value of a key.", "key get store medulla:master notes Mi1 > Mi1.txt")
    _key_arguments(parser)
    parser = group.add("put", put, "Store a value, from a file or standard input.",
                       "key put store medulla:master notes Mi1 Mi1.txt")  # fmt: skip
    _key_arguments(parser)
    parser.add_argument("file", metavar="FILE", nargs="?", help="File with the value; - or nothing: standard input.")
    parser = group.add("list", listed, "List keys in byte order.", "key list store medulla:master notes", json=True)
    _instance_arguments(parser)
    parser.add_argument("--from", dest="first", metavar="KEY", help="Begin at this key.")
    parser.add_argument("--to", dest="last", metavar="KEY", help="End with this key.")
    parser.add_argument("-l", "--long", action="store_true", help="Show sizes in bytes and times too.")
    parser.add_argument("-0", "--null", action="store_true", help="End each key with NUL instead of a new line.")
    parser = group.add("delete", delete, "Delete a key from this version on.",
                       "key delete store medulla:master notes Mi1")  # fmt: skip
    _key_arguments(parser)


def _instance_arguments(parser: argparse.ArgumentParser) -> None:
    store_argument(parser)
    version_argument(parser)
    parser.add_argument("instance", metavar="INSTANCE", help="Name of the instance.")


def _key_arguments(parser: argparse.ArgumentParser) -> None:
    _instance_arguments(parser)
    parser.add_argument("key", metavar="KEY", help="The key.")


def _missing(args: argparse.Namespace) -> NotFound:
    return NotFound(f'no key "{args.key}" in "{args.instance}" at version {args.version}')


def get(args: argparse.Namespace) -> None:
    with opened(args) as engine, engine.read() as txn:
        view = read_view(txn, args.version, args.instance)
        text_keys(view.instance)
        entry = view.text_entry(os.fsencode(args.key))
        if entry is None:
            raise _missing(args)
        for piece in view.stream(entry):
            sys.stdout.buffer.write(piece)


def put(args: argparse.Namespace) -> None:
    key = os.fsencode(args.key)
    with opened(args) as engine:
        with engine.read() as txn:
            instance = read_view(txn, args.version, args.instance).instance
        write = text_keys(instance).put
        if args.file in (None, "-"):
            value = take(engine, instance.id, sys.stdin.buffer)
        else:
            with Path(args.file).open("rb") as source:
                value = take(engine, instance.id, source)

        def store(txn: WriteTxn) -> None:
            write(write_view(txn, args.version, args.instance), key, value)

        engine.write(store)


def take(engine: Engine, instance: int, source: IO[bytes]) -> Prepared | Uploaded:
    """The rest of a file as a value for an instance: compressed, a long one written in pieces already."""
    from dvidfs.engine.values import Upload

    upload = Upload(engine.store, instance)
    while data := source.read(CHUNK):
        upload.feed(data)
    return upload.finish()


def listed(args: argparse.Namespace) -> None:
    first, last = (os.fsencode(k) if k is not None else None for k in (args.first, args.last))
    with opened(args) as engine, engine.read() as txn:
        view = read_view(txn, args.version, args.instance)
        text_keys(view.instance)
        if args.long:
            entries = [(k.decode(errors="surrogateescape"), e) for k, e in view.text_entries(first, last)]
            data = [{"key": k, "bytes": e.size, "mtime": e.mtime} for k, e in entries]
            show(args, data, [f"{e.size:>12}  {when(e.mtime)}  {k}" for k, e in entries])
            return
        found = [k.decode(errors="surrogateescape") for k in view.text_keys(first, last)]
    if args.null and not args.json:
        for key in found:
            sys.stdout.buffer.write(os.fsencode(key) + b"\0")
        return
    show(args, found, found)


def delete(args: argparse.Namespace) -> None:
    key = os.fsencode(args.key)

    def remove(txn: WriteTxn) -> None:
        view = write_view(txn, args.version, args.instance)
        keys = text_keys(view.instance)
        if view.text_entry(key) is None:
            raise _missing(args)
        keys.delete(view, key)

    with opened(args) as engine:
        engine.write(remove)
    say(f"deleted {args.key}")
