"""Docs that are written from tables are as the tables are, and what they name exists."""

from __future__ import annotations

import re
from pathlib import Path

from dvidfs.http import reference

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").glob("*.md")))]


def test_http_reference_is_as_the_tables_are():
    assert (ROOT / "docs/http.md").read_text(encoding="utf-8") == reference.page()


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if not target.startswith("http"):
                assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"


def test_every_module_named_in_design_exists():
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(dvidfs/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name


def test_every_table_of_the_store_is_described():
    from dvidfs.engine import keys

    head = keys.__doc__ or ""
    for table in keys.Table:
        assert re.search(rf"^{table} ", head, re.MULTILINE), table
