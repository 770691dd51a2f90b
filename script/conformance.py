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
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import live  # noqa: E402  (lies with the tests, which start servers in the same way)

GROUPS = ROOT / "script" / "conformance-groups.txt"
HOW = "give one: script/conformance FOLDER, or DVIDFS_CONFORMANCE=FOLDER"

CONFIG = """\
[server]
httpAddress = "127.0.0.1:0"
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
    """What counts: globs over case names; globs with a reason for those that wait; steps that differ on purpose."""

    claimed: tuple[str, ...] = ("*",)
    waiting: tuple[tuple[str, str], ...] = ()
    on_purpose: frozenset[tuple[str, int]] = frozenset()

    @classmethod
    def read(cls, path: Path) -> Claims:
        claimed: list[str] = []
        waiting: list[tuple[str, str]] = []
        on_purpose: set[tuple[str, int]] = set()
        for line in path.read_text().splitlines():
            rule, _, why = line.partition("#")
            match rule.split():
                case ["-", glob]:
                    waiting.append((glob, why.strip()))
                case ["=", name, *steps]:
                    on_purpose |= {(name, int(step)) for step in steps}
                case [glob]:
                    claimed.append(glob)
        return cls(tuple(claimed), tuple(waiting), frozenset(on_purpose))

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


def replay(program: Path, cases: list[Case], url: str, scratch: Path) -> dict[str, dict[str, Any]]:
    """Run `cases` in their order; what `replay.py` reports for each."""
    report = scratch / "report.json"
    words = [sys.executable, program, "--url", url, "--json", report, *lay_out(cases, scratch / "sets")]
    done = subprocess.run(words, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 1) or not report.exists():
        sys.exit(f"conformance: {program} ended with {done.returncode}")
    return json.loads(report.read_text())


def show_case(name: str, result: dict[str, Any], claims: Claims, most: int) -> bool:
    """Print how a case went, with up to `most` differences; does it agree where it should?"""
    purposes = [fail for fail in result["fails"] if (name, fail[0]) in claims.on_purpose]
    fails = [fail for fail in result["fails"] if fail not in purposes]
    notes = [f"{len(purposes)} differ on purpose"] * bool(purposes)
    stale = sorted(step for case, step in claims.on_purpose if case == name and step not in {f[0] for f in purposes})
    notes += [f"listed as different on purpose, but agree: {stale}"] * bool(stale)
    notes += [f"{len(result['quirks'])} quirks answered otherwise"] * bool(result["quirks"])
    if (why := claims.why_waiting(name)) is not None:
        notes.append(f"waits: {why}" if fails else f"agrees now: take it off the waiting cases of {GROUPS.name}")
    mark = "ok" if not fails else "FAIL" if why is None else "wait"
    aside = f"  ({', '.join(notes)})" if notes else ""
    print(f"{mark:5}{name}  {result['steps'] - len(fails)}/{result['steps']}{aside}")
    for step, method, url, verdict, what in fails[:most] if why is None else []:
        print(f"       line {step} {method} {url[:110]}: {verdict}: {what}")
    return not fails


def run(program: Path, cases: list[Case], claims: Claims, most: int) -> bool:
    """Replay on a fresh server; do all cases agree that count?"""
    with tempfile.TemporaryDirectory(prefix="dvidfs-conformance-") as name:
        scratch = Path(name)
        config = scratch / "config.toml"
        config.write_text(CONFIG.format(scratch=scratch, store=scratch / "store"))
        live.dvidfs("init", scratch / "store")
        admin = {"DVID_ADMIN_TOKEN": "my-secret-token"}
        with live.Running("serve", config, log=scratch / "server.log", env=admin) as server:
            report = replay(program, cases, f"http://127.0.0.1:{server.port_it_says()}", scratch)
            if "Traceback" in server.output():
                print(f"the server logged a bug of its own:\n{server.output()[-4000:]}\n", file=sys.stderr)
    agree = {name: show_case(name, result, claims, most) for name, result in report.items()}
    counted = [name for name in agree if claims.why_waiting(name) is None]
    passed = sum(agree[name] for name in counted)
    print(f"\n{len(agree) - len(counted)} cases wait for later types and are not counted")
    print(f"{passed} passed, {len(counted) - passed} failed")
    return bool(counted) and passed == len(counted)


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

    claims = Claims() if words.all else Claims.read(GROUPS)
    cases = [
        Case(folder, str(path.relative_to(folder).with_suffix("")))
        for folder in find_sets(folder)
        for path in sorted(folder.glob("*/*.jsonl"))
    ]
    cases = [case for case in cases if fnmatch.fnmatch(case.name, words.only) and claims.covers(case.name)]
    if not cases:
        print(f"conformance: no case in {folder} fits {words.only!r}", file=sys.stderr)
        return 2
    try:
        return 0 if run(program, cases, claims, most=1000 if words.verbose else 3) else 1
    except AssertionError as error:  # how live.py says that a command or the server failed
        sys.exit(f"conformance: {error}")


if __name__ == "__main__":
    sys.exit(main())
