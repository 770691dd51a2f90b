"""keyvalue without HTTP: JSON lists of any keys, byte spans, renames with their log; what is asked over HTTP stands there."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvidfs.engine import Engine, Instance, Node, ReadView, WriteTxn, WriteView, journal, repos
from dvidfs.engine.values import prepare
from dvidfs.errors import BadRequest, NameTooLong
from dvidfs.types import keyvalue

keys = st.lists(
    st.one_of(st.binary(min_size=1, max_size=12), st.sampled_from([b'"', b'","', b'a","b', b"\\", b"\x7f", b"\0", "ü😀".encode(), b"\xff"])),
    max_size=8,
)  # fmt: skip


@given(keys)
def test_a_json_list_of_any_keys_is_json(found: list[bytes]):
    assert orjson.loads(keyvalue.json_list(found)) == [k.decode(errors="replace") for k in found]


@given(st.binary(min_size=1, max_size=20))
def test_a_json_string_of_any_key_is_json(key: bytes):
    assert orjson.loads(keyvalue.json_string(key)) == key.decode(errors="replace")


@given(st.integers(0, 20), st.integers(-2, 25), st.integers(-2, 25))
def test_a_span_is_inside_the_value_or_refused(size: int, start: int, end: int):
    if 0 <= start <= end < size:
        assert keyvalue.byte_span("k", size, str(start), str(end)) == (start, end + 1)
    else:
        with pytest.raises(BadRequest):
            keyvalue.byte_span("k", size, str(start), str(end))


@pytest.mark.parametrize("text", ["", " 1", "1 ", "+1", "0x1", "1_0", "٣", "1.0", "1e3", "9" * 5000])
def test_a_span_takes_plain_digits_only(text: str):
    with pytest.raises(BadRequest):
        keyvalue.byte_span("k", 100, text, "50")


@pytest.mark.parametrize(
    ("key", "error"), [("", BadRequest), ("k" * 1025, NameTooLong), ("\udcff" * 1025, NameTooLong)]
)
def test_keys_of_urls_are_checked(key: str, error: type[Exception]):
    with pytest.raises(error):
        keyvalue.key_bytes(key)
    assert keyvalue.key_bytes("\udcff\udcfe") == b"\xff\xfe"


@pytest.fixture
def place(engine: Engine) -> tuple[Node, Instance]:
    def make(txn: WriteTxn) -> tuple[Node, Instance]:
        repo = repos.create_repo(txn)
        return repo.nodes[repo.root], repos.create_instance(txn, repo.nodes[repo.root], "keyvalue", "kv")

    return engine.write(make)


def test_files_are_keys(engine: Engine, place: tuple[Node, Instance]):
    """What the mount does to files is what HTTP does to keys, and is logged alike."""

    def write(fn: Any, *args: Any) -> None:
        engine.write(lambda txn: fn(WriteView(txn, *place), *args))

    tree = keyvalue.KEYVALUE.tree
    write(tree.put, b"a", prepare(b"1"))
    write(tree.rename, b"a", b"b" * 600)
    write(tree.put, b"a", prepare(b"2"))
    write(tree.rename, b"a", b"b" * 600)
    write(tree.put, b"c", prepare(b"3"))
    write(tree.delete, b"c")
    with engine.read() as txn:
        view = ReadView(txn, *place)
        assert view.text_keys() == [b"b" * 600]
        assert bytes(view.load(view.text_entry(b"b" * 600))) == b"2"
        log = list(journal.records(view))
    assert [r["Action"] for r in log] == ["postkv", "renamekv", "postkv", "renamekv", "postkv", "delete"]
    assert (log[1]["Key"], log[1]["NewKey"]) == ("a", "b" * 600)
    assert [r["MutationID"] for r in log] == list(range(log[0]["MutationID"], log[0]["MutationID"] + 6))
