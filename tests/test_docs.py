"""Docs that are written from tables are as the tables are, and what they name exists."""

from __future__ import annotations

import re
from pathlib import Path

from dvidfs.cli import reference as commands
from dvidfs.http import reference

ROOT = Path(__file__).parent.parent


def test_http_reference_is_as_the_tables_are():
    assert (ROOT / "docs/http.md").read_text(encoding="utf-8") == reference.page()


def test_command_reference_is_as_the_parsers_are():
    # the interpreter's own words of --help changed between Python versions; compared where the page was written
    assert commands.page().splitlines()[0] == "# The command"
    shown = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    for parser in commands.parsers(commands.build()):
        assert f"\n## {parser.prog}\n" in shown, f"{parser.prog} is not described: run script/reference"
        for action in parser._actions:
            for option in action.option_strings:
                assert option in shown


def test_every_module_named_in_design_exists():
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(dvidfs/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name


def test_every_table_of_the_store_is_described():
    from dvidfs.engine import keys

    head = keys.__doc__ or ""
    for table in keys.Table:
        assert re.search(rf"^{table} ", head, re.MULTILINE), table
