"""Replay recorded conversations with the original server against a fresh dvidfs, and count what this version claims.

Decides which cases are claimed (``conformance-groups.txt``) and how the server is set up; the comparing is done by the
``replay.py`` that lies with the recordings. Invariant: each run has a server and a store of its own, gone at the end.

Exit status: 0 all claimed cases agree, or there are no recordings; 1 a claimed case differs; 2 the folder is wrong.
"""

# ruff: noqa: T201 (what a program prints is its work)

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import live  # noqa: E402  (lies with the tests, which start servers in the same way)

GROUPS = ROOT / "script" / "conformance-groups.txt"
HOW = "give one: script/conformance FOLDER, or DVIDFS_CONFORMANCE=FOLDER"

CONFIG = """\
[server]
httpAddress = "127.0.0.1:{port}"
allowLabelmapSplit = true

[mutations]
jsonstore = "{scratch}/mutations"

[mutcache.mutcached]
path = "{scratch}/mutcached"

[store.main]
engine = "lmdb"
path = "{store}"

[backend.default]
store = "main"
"""


@dataclass(frozen=True)
class Case:
    """One conversation: `name` is "group/case", `folder` the set that holds it and its blobs."""

    folder: Path
    name: str


@dataclass(frozen=True)
class Claims:
    """What counts: globs over case names, and globs with a reason for those that wait."""

    claimed: tuple[str, ...]
    waiting: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, path: Path) -> Claims:
        claimed: list[str] = []
        waiting: list[tuple[str, str]] = []
        for line in path.read_text().splitlines():
            rule, _, why = line.partition("#")
            if rule.startswith("-"):
                waiting.append((rule[1:].strip(), why.strip()))
            elif rule.strip():
                claimed.append(rule.strip())
        return cls(tuple(claimed), tuple(waiting))

    def why_waiting(self, name: str) -> str | None:
        """The reason why a case does not count yet, None if it does."""
        return next((why for glob, why in self.waiting if fnmatch.fnmatch(name, glob)), None)

    def covers(self, name: str) -> bool:
        return any(fnmatch.fnmatch(name, glob) for glob in self.claimed)


def find_sets(folder: Path) -> list[Path]:
    """The sets of recordings in a folder: those folders that hold group/case.jsonl, the folder itself included."""
    base = folder / "transcripts" if (folder / "transcripts").is_dir() else folder
    return [f for f in (base, *sorted(base.iterdir())) if f.is_dir() and any(f.glob("*/*.jsonl"))]


def find_replay(folder: Path) -> Path | None:
    """The replay program that belongs to a folder of recordings: there, or one or two folders above."""
    return next((f / "replay.py" for f in (folder, *folder.parents[:2]) if (f / "replay.py").is_file()), None)


def lay_out(cases: list[Case], target: Path) -> list[Path]:
    """Folders like the sets of `cases` that link to just these cases: `replay.py` takes whole folders."""
    sets: dict[Path, Path] = {}
    for case in cases:
        if case.folder not in sets:
            sets[case.folder] = target / str(len(sets))
            sets[case.folder].mkdir(parents=True)
            (sets[case.folder] / "blobs").symlink_to(case.folder / "blobs")
        link = sets[case.folder] / f"{case.name}.jsonl"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(case.folder / f"{case.name}.jsonl")
    return list(sets.values())


def replay(program: Path, cases: list[Case], url: str, scratch: Path, verbose: bool, quiet: bool = False) -> dict:
    """Run `cases`; what `replay.py` reports for each. Its own printing is kept back if `quiet`."""
    report = scratch / "report.json"
    folders = lay_out(cases, scratch / "sets")
    words = [sys.executable, program, "--url", url, "--json", report, *(["-v"] if verbose else []), *folders]
    done = subprocess.run(words, stdout=subprocess.PIPE if quiet else None, check=False)
    if done.returncode not in (0, 1) or not report.exists():
        sys.exit(f"conformance: {program} ended with {done.returncode}")
    return json.loads(report.read_text())


def show_waiting(report: dict, claims: Claims) -> None:
    """Say how the cases stand that do not count."""
    print("waiting for later types (not counted):")
    for name, result in report.items():
        state = f"differs in {len(result['fails'])} of {result['steps']} steps" if result["fails"] else "AGREES"
        hint = "" if result["fails"] else f"; take it off {GROUPS.name}"
        print(f"     {name}: {state}{hint}  ({claims.why_waiting(name)})")
    print()


def run(program: Path, counted: list[Case], waiting: list[Case], claims: Claims, verbose: bool) -> bool:
    """Replay on a fresh server; do all `counted` cases agree?"""
    with tempfile.TemporaryDirectory(prefix="dvidfs-conformance-") as name:
        scratch = Path(name)
        port = live.free_port()
        config = scratch / "config.toml"
        config.write_text(CONFIG.format(port=port, scratch=scratch, store=scratch / "store"))
        live.dvidfs("init", scratch / "store")
        admin = {"DVID_ADMIN_TOKEN": "my-secret-token"}
        url = f"http://127.0.0.1:{port}"
        with live.Running("serve", config, log=scratch / "server.log", env=admin) as server:
            if waiting:
                (scratch / "waiting").mkdir()
                show_waiting(replay(program, waiting, url, scratch / "waiting", verbose, quiet=True), claims)
            sys.stdout.flush()
            report = replay(program, counted, url, scratch, verbose)
            if "Traceback" in server.output():
                print(f"\nthe server logged a bug of its own:\n{server.output()[-4000:]}", file=sys.stderr)
        return bool(report) and not any(result["fails"] for result in report.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="script/conformance", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, help="recordings (default: $DVIDFS_CONFORMANCE)")
    parser.add_argument("--all", action="store_true", help=f"count every case, not only those of {GROUPS.name}")
    parser.add_argument("--only", default="*", metavar="GLOB", help="only these cases, e.g. 'keyvalue/*'")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every difference")
    words = parser.parse_args()

    folder = words.folder or Path(os.environ.get("DVIDFS_CONFORMANCE", ""))
    if folder == Path() or (words.folder is None and not folder.is_dir()):
        where = "no folder of recordings is given" if folder == Path() else f"there is no folder {folder}"
        print(f"conformance: skipped, {where}; {HOW}")
        return 0
    folder = folder.resolve()
    program = find_replay(folder)
    if not folder.is_dir() or program is None:
        print(f"conformance: {folder} holds no recordings with their replay.py; {HOW}", file=sys.stderr)
        return 2

    claims = Claims(("*",), ()) if words.all else Claims.read(GROUPS)
    cases = [
        Case(folder, str(path.relative_to(folder).with_suffix("")))
        for folder in find_sets(folder)
        for path in sorted(folder.glob("*/*.jsonl"))
    ]
    cases = [case for case in cases if fnmatch.fnmatch(case.name, words.only) and claims.covers(case.name)]
    counted = [case for case in cases if claims.why_waiting(case.name) is None]
    if not counted:
        print(f"conformance: no case in {folder} fits {words.only!r}", file=sys.stderr)
        return 2
    waiting = [case for case in cases if case not in counted]
    return 0 if run(program, counted, waiting, claims, words.verbose) else 1


if __name__ == "__main__":
    sys.exit(main())
