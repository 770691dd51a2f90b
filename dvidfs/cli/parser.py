"""The words of the command line: every group's parsers under one head, each with help that ends in an example."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from dvidfs import __version__

Run = Callable[[argparse.Namespace], "int | None"]

DESCRIPTION = "Versioned volumes, labels and key-values as files, and over DVID's HTTP API."
EPILOG = """\
A version is named by its UUID, a unique beginning of it, :branch, UUID:branch or UUID:branch~2 (two before its leaf);
in place of a UUID the alias of a repo may stand: medulla:master. `master` is the trunk.

example:
  dvidfs init store && dvidfs repo new store --alias medulla && dvidfs mount store ~/mnt --http
"""


class Parser(argparse.ArgumentParser):
    """Wrong words are one line on stderr and exit code 2."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"dvidfs: {message}: see `{self.prog} --help`\n")
        raise SystemExit(2)


class Commands:
    """A set of subcommands to be filled by ``add`` functions of the groups."""

    def __init__(self, parser: argparse.ArgumentParser, what: str = "command") -> None:
        self._parsers: Any = parser.add_subparsers(
            title=f"{what}s", dest=what, metavar=what.upper(), required=True, parser_class=Parser
        )

    def add(self, name: str, run: Run, summary: str, example: str, *, json: bool = False, detail: str = "") -> Parser:
        """A command: ``summary`` is a full sentence, ``example`` the words behind ``dvidfs`` of one that works."""
        parser = self._make(name, summary, example, detail)
        if json:
            parser.add_argument("--json", action="store_true", help="Print JSON.")
        parser.set_defaults(run=run)
        return parser

    def group(self, name: str, summary: str, example: str) -> Commands:
        """A command that has commands of its own."""
        return Commands(self._make(name, summary, example, ""))

    def _make(self, name: str, summary: str, example: str, detail: str) -> Parser:
        return self._parsers.add_parser(
            name,
            help=summary,
            description="\n\n".join(filter(None, (summary, detail))),
            epilog="example:\n" + "\n".join(f"  dvidfs {line}" for line in example.splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )


def build() -> Parser:
    """The parser of all commands."""
    from dvidfs.cli import (
        exports,
        foreground,
        imports,
        instances,
        key,
        mappings,
        mesh,
        pyramid,
        repo,
        service,
        store,
        versions,
    )

    parser = Parser(
        prog="dvidfs",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"dvidfs {__version__}")
    service.add_original_flags(parser)
    commands = Commands(parser)
    for group in (
        store,
        service,
        imports,
        exports,
        mappings,
        pyramid,
        mesh,
        foreground,
        repo,
        versions,
        instances,
        key,
    ):
        group.add(commands)
    return parser


def store_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="Folder of the store, or a TOML file that names it.")


def version_argument(parser: argparse.ArgumentParser, name: str = "version", help: str = "") -> None:
    parser.add_argument(name, metavar=name.upper(), help=help or "Version: UUID, ALIAS:branch, :branch, UUID:branch~1.")
