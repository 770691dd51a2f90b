"""The help pages and the OpenAPI document are read from the tables, and leave nothing out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from serving import Served, fresh

from dvidfs.http.calls import Route
from dvidfs.http.handlers import Handlers
from dvidfs.http.options import HttpOptions
from dvidfs.http.service import Service
from dvidfs.types.base import DataType, Endpoint
from dvidfs.types.builtin import registry

KINDS = list(registry())
ROWS = [(kind, row) for kind in KINDS for row in kind.endpoints]


def server_rows() -> list[Route]:
    class NoStore:
        store = None

    return Handlers(Service(NoStore(), registry(), HttpOptions())).routes.all  # type: ignore[arg-type]


SERVER_ROWS = [route.endpoint for route in server_rows()]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with fresh(tmp_path_factory.mktemp("help") / "store") as running:
        yield running


def names(values: object) -> str:
    return f"{values.name}-{values.path}" if isinstance(values, DataType) else getattr(values, "path", "")


@pytest.mark.parametrize("row", SERVER_ROWS, ids=lambda r: f"{r.method}-{r.path}")
def test_rows_of_the_server_say_what_they_do(row: Endpoint):
    assert row.summary.endswith(".")
    assert row.path.startswith("/api/")


@pytest.mark.parametrize(("kind", "row"), ROWS, ids=[f"{k.name}-{r.method}-{r.path}" for k, r in ROWS])
def test_rows_of_datatypes_say_what_they_do_and_show_it(kind: DataType, row: Endpoint):
    assert row.summary.endswith(".")
    assert row.example.split("?")[0].split("/")[0] == row.keyword
    needed = sum(not name.endswith("?") for name in row.parts)
    assert len(row.example.split("?")[0].split("/")) > needed, "the example names every part"
    asked = re.findall(r"[?&](\w+)=", row.example)
    if row.query:
        assert set(asked) <= {p.alias or p.name for p in row.query}
    assert all(p.help for p in row.query)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
def test_the_page_of_a_datatype_lists_every_row_option_and_setting(server: Served, kind: DataType):
    reply = server.get(f"/api/help/{kind.name}").ok()
    assert reply.headers["Content-Type"].startswith("text/plain")
    page = reply.text
    for row in kind.endpoints:
        assert f"/api/node/<uuid>/<instance>/{row.path}" in page
        assert row.summary.split()[0] in page
        for param in row.query:
            assert f"{param.alias or param.name}=" in page
    for setting in kind.settings:
        assert setting.name in page


def test_a_datatype_that_is_not_there_has_no_page(server: Served):
    assert server.get("/api/help/nothing").status == 400


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.found += [value for name, value in attrs if name == "href" and value]

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass


@pytest.mark.parametrize("path", ["/api/help", "/api/help/", "/"])
def test_the_main_page_lists_every_row_and_links_that_work(server: Served, path: str):
    reply = server.get(path).ok()
    assert reply.headers["Content-Type"].startswith("text/html")
    for row in SERVER_ROWS:
        assert row.path in reply.text
    links = Links()
    links.feed(reply.text)
    assert links.open == []
    assert {f"/api/help/{kind.name}" for kind in KINDS} <= set(links.found)
    for link in links.found:
        server.get(link).ok()


def test_an_instance_tells_its_help(server: Served):
    uuid = server.new_repo()
    server.new_instance(uuid)
    assert "key/{key}" in server.get(f"/api/node/{uuid}/kv/help").ok().text


def test_the_openapi_document_names_every_row(server: Served):
    document = server.get("/api/openapi.json").ok().json()
    assert document["openapi"].startswith("3.1")
    assert {"title", "version"} <= document["info"].keys()
    every = [(row.path, row) for row in SERVER_ROWS if not row.path.endswith("/")]
    every += [(f"/api/node/{{uuid}}/{{{kind.name}}}/{row.path}", row) for kind, row in ROWS]
    for path, row in every:
        method = "get" if row.method == "*" else row.method.lower()
        told = document["paths"][path.replace("?}", "}").replace("*}", "}")][method]
        assert told["summary"] == row.summary
        inside = {p["name"] for p in told["parameters"] if p["in"] == "path"}
        assert inside == set(re.findall(r"\{(\w+)\}", path.replace("?}", "}").replace("*}", "}")))
        assert {p["name"] for p in told["parameters"] if p["in"] == "query"} == {p.alias or p.name for p in row.query}
        assert ("requestBody" in told) == (row.body.value != "none")
    ids = [told["operationId"] for methods in document["paths"].values() for told in methods.values()]
    assert len(ids) == len(set(ids))


def test_routes_do_not_hide_each_other():
    """No two rows of the server answer the same request."""
    shapes = [(row.method, re.sub(r"\{\w+\}", "{}", row.path)) for row in SERVER_ROWS]
    assert len(shapes) == len(set(shapes))
    for kind in KINDS:
        keys = [(row.method, row.keyword) for row in kind.endpoints]
        assert len(keys) == len(set(keys)), kind.name
