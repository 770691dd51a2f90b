"""What a service is told: the original's TOML keys, addresses, the environment, and which of them wins."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from dvidfs.cli.parser import build
from dvidfs.cli.service import configure
from dvidfs.config import Address, Config, apply_environment, parse_address, read_toml
from dvidfs.errors import BadRequest, StoreError

MINIMAL = """
[store.main]
engine = "lmdb"
path = "db"
[backend.default]
store = "main"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000),
        ("localhost:80", "localhost", 80),
        (":8000", "0.0.0.0", 8000),
        ("9000", "127.0.0.1", 9000),
        ("127.0.0.1", "127.0.0.1", 8000),
        ("[::1]:7000", "::1", 7000),
        ("[::1]", "::1", 8000),
    ],
)
def test_addresses(text: str, host: str, port: int):
    assert parse_address(text) == Address(host, port)


@pytest.mark.parametrize("text", ["", "here:", "a:b", "1.2.3.4:99999", "two words:80", ":-1"])
def test_what_is_no_address(text: str):
    with pytest.raises(BadRequest, match="is no address"):
        parse_address(text)


@pytest.mark.parametrize("address", [Address("127.0.0.1", 80), Address("::1", 8000)])
def test_an_address_is_read_as_it_is_written(address: Address):
    assert parse_address(str(address)) == address


def test_a_small_file_is_enough(tmp_path: Path):
    config = read_toml(written(tmp_path, MINIMAL))
    assert (config.store, config.create, config.durability) == (tmp_path / "db", True, "durable")
    assert config.warnings == ()


def test_the_keys_of_the_original(tmp_path: Path):
    config = read_toml(
        written(
            tmp_path,
            MINIMAL.replace('path = "db"', 'path = "/abs/db"\ndurability = "periodic"')
            + """
            [server]
            HTTPAddress = ":8123"
            corsDomains = ["https://a.org", "*"]
            allowLabelmapSplit = true
            allowTiming = true
            note = "ours"
            rwMode = "fullwrite"
            host = "me.org"
            min_mutation_id_start = 77
            pidFile = "run/pid"
            [mutations]
            jsonstore = "muts"
            [mutcache.Seg]
            path = "cache"
            [logging]
            logfile = "log.txt"
            """,
        )
    )
    assert config == Config(
        Path("/abs/db"),
        create=True,
        http=Address("0.0.0.0", 8123),
        durability="periodic",
        cors=("https://a.org", "*"),
        mode="fullwrite",
        note="ours",
        host="me.org",
        allow_timing=True,
        allow_split=True,
        min_mutation_id=77,
        pid_file=tmp_path / "run/pid",
        logfile=tmp_path / "log.txt",
        json_log=tmp_path / "muts",
        mutcaches={"Seg": tmp_path / "cache"},
        file=config.file,
        text=config.text,
    )


def test_unknown_keys_are_told_one_by_one(tmp_path: Path):
    path = written(tmp_path, MINIMAL + '[server]\nhttpAdress = "x"\n[nonsense]\na = 1\n')
    assert read_toml(path).warnings == (
        f"{path}: unknown key nonsense.a is ignored",
        f"{path}: unknown key server.httpadress is ignored",
    )


def test_keys_without_effect_are_told_together(tmp_path: Path):
    text = MINIMAL + '[server]\nrpcAddress = "x"\n[email]\nserver = "s"\n[store.log]\nengine = "filelog"\npath = "l"\n'
    path = written(tmp_path, text)
    assert read_toml(path).warnings == (
        f"{path}: without effect here: email.server, server.rpcaddress, store.log.engine, store.log.path",
    )


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("[server", BadRequest, "is not TOML"),
        ("", StoreError, "no store is chosen"),
        (MINIMAL.replace("lmdb", "badger"), StoreError, 'dvidfs has only "lmdb"'),
        (MINIMAL.replace('store = "main"', 'store = "other"'), StoreError, 'names the store "other"'),
        (MINIMAL.replace('path = "db"', ""), StoreError, "path is missing"),
        (MINIMAL + '[server]\nrwMode = "maybe"', BadRequest, "give readonly or fullwrite"),
        (MINIMAL + "[server]\nnote = 3", BadRequest, "server.note must be a string"),
        (MINIMAL + "[server]\nallowTiming = 1", BadRequest, "must be true or false"),
        (MINIMAL + '[server]\ncorsDomains = "x"', BadRequest, "must be a list"),
        (MINIMAL.replace('path = "db"', 'path = "db"\ndurability = "fast"'), BadRequest, "give durable or periodic"),
    ],
    ids=["syntax", "no store", "engine", "other store", "no path", "mode", "note", "timing", "cors", "durability"],
)
def test_wrong_files_are_refused_with_what_would_be_right(tmp_path: Path, text: str, error, says: str):
    with pytest.raises(error, match=says):
        read_toml(written(tmp_path, text))


def test_the_environment_counts_above_the_file():
    config = Config(Path("s"), durability="durable", cors=("a",))
    env = {"DVID_ADMIN_TOKEN": "t", "DVIDFS_DURABILITY": "periodic", "DVIDFS_CORS": "b, c", "DVIDFS_LOG": "/l"}
    changed = apply_environment(config, env)
    assert (changed.admin_token, changed.durability, changed.cors, changed.logfile) == (
        "t", "periodic", ("b", "c"), Path("/l"),
    )  # fmt: skip
    assert apply_environment(config, {}) == config
    with pytest.raises(BadRequest, match="DVIDFS_DURABILITY"):
        apply_environment(config, {"DVIDFS_DURABILITY": "never"})


def test_the_token_is_not_shown():
    assert "secret" not in repr(Config(Path("s"), admin_token="secret"))


def parsed(*words: object) -> argparse.Namespace:
    return build().parse_args([str(w) for w in words])


def test_flags_count_above_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DVIDFS_DURABILITY", "durable")
    text = MINIMAL + '[server]\nhttpAddress = "1.2.3.4:5"\nrwMode = "fullwrite"\ncorsDomains = ["x"]\n'
    path = written(tmp_path, text)
    words = ("--http", "127.0.0.1:9", "--durability", "periodic", "--read-only", "--cors", "y", "--cors", "z")
    config = configure(parsed("serve", path, *words))
    assert (config.http, config.durability, config.mode, config.cors) == (
        Address("127.0.0.1", 9), "periodic", "readonly", ("y", "z"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "http"),
    [
        (("serve", "s"), Address()),
        (("serve", "s", "--http"), Address()),
        (("serve", "s", "--http", "8001"), Address("127.0.0.1", 8001)),
        (("mount", "s", "d"), None),
        (("mount", "s", "d", "--http"), Address()),
    ],
    ids=["serve", "serve --http", "serve --http 8001", "mount", "mount --http"],
)
def test_where_http_is_served(words: tuple[str, ...], http: Address | None):
    assert configure(parsed(*words)).http == http


def test_the_words_of_the_original_command():
    config = configure(parsed("-verbose", "-fullwrite", "serve", "s"))
    assert config.mode == "fullwrite"
    with pytest.raises(BadRequest, match="exclude each other"):
        configure(parsed("-readonly", "serve", "s", "--full-write"))
