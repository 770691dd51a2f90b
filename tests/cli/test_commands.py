"""The command as people and scripts use it: what it prints, what it says when something is wrong, how it ends."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import live
import pytest

from dvidfs.cli.parser import build

UUID = re.compile(r"[0-9a-f]{32}")


class Shell:
    """Runs commands on one store, as lines of words: STORE stands for it."""

    def __init__(self, store: Path) -> None:
        self.store = store

    def words(self, line: str) -> list[str]:
        return [str(self.store) if word == "STORE" else word for word in line.split()]

    def run(self, line: str, *, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*live.DVIDFS, *self.words(line)], input=stdin, capture_output=True, check=False)

    def __call__(self, line: str, *, stdin: bytes = b"") -> str:
        """What a command prints; it must succeed and be silent on stderr."""
        done = self.run(line, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, b""), f"{line}: {done.returncode} {done.stderr}"
        return done.stdout.decode().rstrip("\n")

    def json(self, line: str):
        return json.loads(self(f"{line} --json"))

    def error(self, line: str, *, stdin: bytes = b"") -> tuple[int, str]:
        """Exit code and the one line of a command that fails and prints nothing."""
        done = self.run(line, stdin=stdin)
        said = done.stderr.decode()
        assert (done.stdout, said.count("\n"), said[:8]) == (b"", 1, "dvidfs: "), (done.stdout, said)
        return done.returncode, said.removeprefix("dvidfs: ").rstrip("\n")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A store with repo `a`: its root committed and tagged v1, then the trunk and branch `side`, both open."""
    shell = Shell(tmp_path_factory.mktemp("shell") / "store")
    shell("init STORE")
    shell("repo new STORE --alias a --description things")
    shell("instance new STORE a:master keyvalue kv")
    shell("key put STORE a kv k", stdin=b"first")
    shell("commit STORE a --note root --log begun")
    shell("tag STORE a v1")
    shell("newversion STORE a")
    shell("branch STORE a:v1 side")
    return shell


# -- help --------------------------------------------------------------------------------------------------------


def commands(parser=None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command."""
    parser = parser or build()
    groups = [a for a in parser._actions if hasattr(a, "choices") and isinstance(a.choices, dict)]
    for group in groups:
        for name, below in group.choices.items():
            yield (*words, name)
            yield from commands(below, (*words, name))


def parser_of(words: tuple[str, ...]):
    parser = build()
    for word in words:
        parser = next(a.choices for a in parser._actions if isinstance(a.choices, dict))[word]
    return parser


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_has_an_example_that_parses(words: tuple[str, ...]):
    text = parser_of(words).format_help()
    examples = re.findall(r"^  dvidfs (.*)$", text[text.index("example:") :], re.MULTILINE)
    assert examples
    for example in examples:
        line = re.sub(r'"[^"]*"', "text", example.split(" > ")[0])
        assert build().parse_args(line.split()).run
        assert tuple(line.split()[: len(words)]) == words


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_is_described_in_a_sentence(words: tuple[str, ...]):
    summary = parser_of(words).description.split("\n")[0]
    assert summary[0].isupper()
    assert summary.endswith(".")


def test_help_goes_to_stdout_and_ends_well():
    done = live.dvidfs("--help")
    assert "init" in done.stdout
    assert "example:" in done.stdout


# -- wrong words -------------------------------------------------------------------------------------------------

WRONG = [
    ("frobnicate", 2, "invalid choice"),
    ("commit STORE", 2, "required"),
    ("log STORE --no-such-flag", 2, "--no-such-flag"),
    ("status /nowhere/at/all", 3, "is not a dvidfs store: make one with `dvidfs init"),
    ("init STORE", 3, "already holds a dvidfs store"),
    ("node info STORE 0123", 1, "could not find UUID with partial match to 0123"),
    ("node info STORE a:nobranch", 1, 'branch "nobranch" not found'),
    ("node info STORE a:master~9", 1, "out of range"),
    ("repo info STORE nothing", 1, "could not find UUID"),
    ("repo new STORE --alias a", 1, 'a repo has the alias "a" already'),
    ("repo new STORE --root xyz", 2, "32 character hexadecimal"),
    ("instance new STORE a nosuchtype x", 2, 'unknown datatype "nosuchtype"'),
    ("instance new STORE a keyvalue kv", 1, 'Data named "kv" already exists'),
    ("instance new STORE a keyvalue log", 2, 'reserved name "log"'),
    ("instance new STORE a uint8blk g --set Blocksize", 2, "give KEY=VALUE"),
    ("instance new STORE a uint8blk g --set Bloksize=3", 2, "has no setting Bloksize: it has BlockSize"),
    ("instance delete STORE a kv", 2, "say so with --yes"),
    ("instance rename STORE a nope new", 1, 'no instance "nope" in repo a, which has: kv'),
    ("key get STORE a kv none", 1, 'no key "none" in "kv"'),
    ("key delete STORE a kv none", 1, 'no key "none" in "kv"'),
    ("key put STORE a:v1 kv k", 1, "is committed and changes no more"),
    ("key put STORE a kv " + "k" * 1025, 2, "at most 1024 are allowed"),
    ("key put STORE a kv k /no/file", 1, "/no/file: No such file or directory"),
    ("commit STORE a:v1", 1, "is committed already: continue with `dvidfs newversion`"),
    ("newversion STORE a", 2, "can't branch an unlocked node"),
    ("branch STORE a:v1 side", 1, 'branch already exists with given name "side"'),
    ("branch STORE a:v1 master", 2, "Cannot create a master branch"),
    ("merge STORE a:v1", 2, "at least two versions"),
    ("merge STORE a a:side", 2, "can't branch an unlocked node"),
    ("jobs STORE cancel 99", 1, "there is no job 99"),
    ("repo delete STORE a", 2, "this will delete repo a with 4 versions and all their data"),
    ("umount /", 2, "is a mount of type"),
    ("umount STORE", 2, "nothing is mounted at"),
    ("serve /nowhere/at/all", 3, "is not a dvidfs store"),
    ("serve STORE --http nonsense:x", 2, "is no address: give HOST:PORT"),
    ("serve STORE --read-only --full-write", 2, "exclude each other"),
]


@pytest.mark.parametrize(("line", "code", "says"), WRONG, ids=[line[:60] for line, _, _ in WRONG])
def test_what_is_wrong_is_said_in_one_line(shell: Shell, line: str, code: int, says: str):
    found, said = shell.error(line)
    assert says in said
    assert found == code


def test_a_store_of_another_format_says_what_to_do(tmp_path: Path):
    import lmdb

    shell = Shell(tmp_path / "store")
    shell("init STORE")
    with lmdb.open(str(shell.store), max_dbs=20) as env, env.begin(write=True, db=env.open_db(b"meta")) as txn:
        txn.put(b"format", b"99")
    code, said = shell.error("status STORE")
    assert code == 3
    assert "has store format 99" in said
    assert "install a newer dvidfs" in said


def test_a_reader_that_leaves_early_is_no_error(shell: Shell):
    words = " ".join([*live.DVIDFS, "log", str(shell.store), "--json"])
    done = subprocess.run(["bash", "-c", f"{words} | true"], capture_output=True, check=False)
    assert done.stderr == b""


# -- what is printed ---------------------------------------------------------------------------------------------


def test_naming_a_version(shell: Shell):
    root = shell.json("repo info STORE a")["Root"]
    for name in (root, root[:9], "a:v1~1", "v1", "a:v1", ":side~1", f"{root[:8]}:master~1"):
        assert shell.json(f"node info STORE {name}")["UUID"] in (root, "v1")
    leaf = shell.json("node info STORE a")["UUID"]
    assert {shell.json(f"node info STORE {n}")["UUID"] for n in ("a:", "a:master", ":master", root + ":master")} == {
        leaf
    }


def test_repos_as_text_and_json(shell: Shell):
    (repo,) = shell.json("repos STORE")
    assert set(repo) == {"root", "alias", "description", "versions", "branches", "instances"}
    assert (repo["alias"], repo["description"], repo["versions"]) == ("a", "things", 4)
    assert set(repo["branches"]) == {"master", "side", "tag-v1"}
    assert repo["instances"] == {"kv": "keyvalue"}
    assert repo["root"] in shell("repos STORE")


def test_status_as_text_and_json(shell: Shell):
    found = shell.json("status STORE")
    assert {"path", "format", "bytes", "free_bytes", "repos", "versions", "instances", "rows", "jobs"} <= set(found)
    assert (found["versions"], found["open_versions"]) == (4, 2)
    assert re.search(r"^versions +4, 2 of them open$", shell("status STORE"), re.MULTILINE)


def test_log_shows_what_is_asked_for(shell: Shell):
    everything = shell.json("log STORE --repo a")
    assert [node["VersionID"] for node in everything] == [4, 3, 2, 1]
    assert [node["VersionID"] for node in shell.json("log STORE a:side")] == [4, 2, 1]
    text = shell("log STORE a:v1~1")
    assert "root" in text
    assert "begun" in text


def test_notes_and_log_lines(shell: Shell):
    shell("node note STORE a:side remember")
    assert shell("node note STORE a:side") == "remember"
    shell("log STORE a:side --add one --add two")
    assert [line.split("  ")[1] for line in shell.json("node info STORE a:side")["Log"]] == ["one", "two"]
    shell("log STORE --repo a --add whole")
    assert shell.json("repo info STORE a")["Log"][-1].endswith("whole")


def test_instances_as_text_and_json(shell: Shell):
    made = shell.json("instance new STORE a uint8blk gray --set BlockSize=64,64,64 --tags kind=em")
    assert (made["name"], made["type"], made["tags"]) == ("gray", "uint8blk", {"kind": "em"})
    shell("instance rename STORE a gray grey")
    assert [i["name"] for i in shell.json("instance list STORE a")] == ["grey", "kv"]
    assert "jobs" in shell("instance delete STORE a grey --yes")
    assert "free the space" in shell("jobs STORE run")
    assert shell.json("jobs STORE")[0]["state"] == "done"


def test_values_go_in_and_out_as_they_are(shell: Shell, tmp_path: Path):
    value = bytes(range(256)) * 5000  # more than a piece
    shell("key put STORE a kv big", stdin=value)
    assert shell.run("key get STORE a kv big").stdout == value
    file = tmp_path / "value"
    file.write_bytes(b"from a file")
    shell(f"key put STORE a kv f {file}")
    assert shell("key get STORE a kv f") == "from a file"
    shell("key put STORE a kv empty", stdin=b"")
    assert shell("key get STORE a kv empty") == ""


def test_keys_are_listed_in_order(shell: Shell):
    for key in ("list-b", "list-a", "list-é"):
        shell(f"key put STORE a:side kv {key}", stdin=b"v")
    assert shell("key list STORE a:side kv --from list --to lisu") == "list-a\nlist-b\nlist-é"
    assert shell.json("key list STORE a:side kv --from list") == ["list-a", "list-b", "list-é"]
    assert shell.run("key list STORE a:side kv --from list-b -0").stdout == "list-b\0list-é\0".encode()
    (entry,) = shell.json("key list STORE a:side kv --from list-b --to list-b -l")
    assert (entry["key"], entry["bytes"]) == ("list-b", 1)
    shell("key delete STORE a:side kv list-b")
    assert shell("key list STORE a:side kv --from list") == "list-a\nlist-é"


def test_a_key_of_any_bytes(shell: Shell):
    done = subprocess.run([*live.DVIDFS, "key", "put", str(shell.store), "a", "kv", b"\xff z"], input=b"1", check=True)
    assert done.returncode == 0
    assert b"\xff z\n" in shell.run("key list STORE a kv").stdout


def test_versions_part_and_meet(tmp_path: Path):
    shell = Shell(tmp_path / "store")
    shell("init STORE")
    root = shell("repo new STORE --alias m")
    assert UUID.fullmatch(root)
    shell("instance new STORE m keyvalue kv")
    shell("key put STORE m kv both", stdin=b"0")
    assert shell(f"commit STORE {root}") == root
    given = "0123456789abcdef" * 2
    assert shell(f"newversion STORE m --uuid {given}") == given
    assert shell.json("branch STORE m:master~1 side") == {
        "uuid": shell.json("node info STORE m:side")["UUID"], "branch": "side", "locked": False,
    }  # fmt: skip
    for branch in ("master", "side"):
        shell(f"key put STORE m:{branch} kv both", stdin=branch.encode())
        shell(f"commit STORE m:{branch}")

    code, said = shell.error("merge STORE m:master m:side")
    assert code == 1
    assert "conflict in kv (1: both): nothing was merged" in said
    merged = shell.json("merge STORE m:master m:side --allow-conflicts")
    assert merged["conflicts"] == {"kv": {"count": 1, "keys": ["both"]}}
    code, said = shell.error(f"key get STORE {merged['uuid']} kv both")
    assert "were merged" in said


def test_conflicts_are_settled_in_favour_of_the_first(tmp_path: Path):
    shell = Shell(tmp_path / "store")
    shell("init STORE")
    shell("repo new STORE --alias m")
    shell("instance new STORE m keyvalue kv")
    shell("commit STORE m")
    shell("newversion STORE m")
    shell("branch STORE m:master~1 side")
    for branch in ("master", "side"):
        shell(f"key put STORE m:{branch} kv both", stdin=branch.encode())
        shell(f"commit STORE m:{branch}")
    uuid = shell("resolve STORE m:side m:master --instance kv")
    assert shell(f"key get STORE {uuid} kv both") == "side"


def test_a_repo_is_renamed_and_deleted(tmp_path: Path):
    shell = Shell(tmp_path / "store")
    shell("init STORE")
    shell("repo new STORE --alias old --passcode p")
    shell("instance new STORE old keyvalue kv")
    shell("repo rename STORE old new --description better")
    (repo,) = shell.json("repos STORE")
    assert (repo["alias"], repo["description"]) == ("new", "better")
    assert shell.error("repo delete STORE new --yes")[0] == 1
    shell("repo delete STORE new --yes --passcode p")
    assert shell("repos STORE") == "no repos"
    assert shell.json("jobs STORE run")[0]["state"] == "done"
    assert "is sound" in shell("check STORE --deep")


def test_check_tells_damage_by_its_exit_code(tmp_path: Path):
    import lmdb

    shell = Shell(tmp_path / "store")
    shell("init STORE")
    shell("repo new STORE --alias c")
    assert shell.json("check STORE")["ok"] is True
    with lmdb.open(str(shell.store), max_dbs=20) as env, env.begin(write=True, db=env.open_db(b"values")) as txn:
        txn.put(bytes(3) + b"\x09" + bytes(12), b"nobody's")
    done = shell.run("check STORE --json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["problem_count"]) == (5, False, 1)
    assert found["problems"][0]["check"] == "references"
    assert b"is damaged: 1 problems" in shell.run("check STORE").stdout


def test_a_graph_that_cannot_be_read_is_damage(tmp_path: Path):
    import lmdb

    shell = Shell(tmp_path / "store")
    shell("init STORE")
    shell("repo new STORE --alias c")
    with lmdb.open(str(shell.store), max_dbs=20) as env, env.begin(write=True, db=env.open_db(b"graph")) as txn:
        txn.put(b"r\0\0\0\1", b'{"id": 1')
    code, said = shell.error("check STORE")
    assert code == 5
    assert "of the version graph is damaged" in said


def test_commands_work_while_a_server_runs(tmp_path: Path):
    shell = Shell(tmp_path / "store")
    shell("init STORE")
    with live.Server(shell.store, log=tmp_path / "log") as server:
        root = shell("repo new STORE --alias r")
        shell("instance new STORE r keyvalue kv")
        shell("key put STORE r kv k", stdin=b"by command")
        assert server.get(f"/api/node/{root}/kv/key/k").text == "by command"
        server.post(f"/api/node/{root}/kv/key/k", b"by http").ok()
        assert shell("key get STORE r kv k") == "by http"
        shell("commit STORE r")
        assert server.post(f"/api/node/{root}/kv/key/k", b"x").status >= 400
        assert "is sound" in shell("check STORE --deep")


def test_an_instance_is_told_how_to_compress(shell: Shell, tmp_path: Path):
    uuid = shell("repo new STORE --alias em").split()[0]
    shell(f"instance new STORE {uuid} uint8blk gray --compression gzip:3")
    with live.Server(shell.store, log=tmp_path / "log") as server:
        info = server.get(f"/api/node/{uuid}/gray/info").ok().json()
    assert info["Base"]["Compression"] == "gzip compression, level 3"
    for typename, name in (("uint8blk", "zip"), ("uint16blk", "jpeg")):
        code, said = shell.error(f"instance new STORE {uuid} {typename} other --compression {name}")
        assert code == 2
        assert f"Illegal compression specified: {name}" in said
