"""The house around the code: what a newcomer reads and runs is true, and what is packed is complete."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import live
import pytest
from PIL import Image

import dvidfs

ROOT = Path(__file__).resolve().parent.parent
BUILT = {"__pycache__", "build", "dist", "node_modules", "demo-store"}
TEXT = {".py", ".md", ".toml", ".sh", ".txt", ".cfg", ".yml", ".json", ".html", ""}

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def own_files(folder: Path = ROOT) -> Iterator[Path]:
    """The text files of the project, without what was built or belongs to tools (dot folders other than .ci)."""
    for path in sorted(folder.iterdir()):
        if path.name in BUILT or (path.name.startswith(".") and path.name not in (".ci", ".gitignore")):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from own_files(path)
        elif path.suffix in TEXT and path.is_file():
            yield path


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


FILES = {relative(path): path for path in own_files()}
PAGES = {name: path for name, path in FILES.items() if name.endswith(".md")}
SCRIPTS = {
    name: path for name, path in FILES.items() if path.read_bytes()[:2] == b"#!" and not name.startswith("tests/")
}

# Written in pieces, so that this file does not find itself.
MACHINE = ("/wo" + "rk/", "/tmp/ba" + "sh", ".libr" + "ary", "sub" + "agent")
REGISTRIES = ("py" + "pi.org", "registry.np" + "mjs", "proxy.gol" + "ang", "crates" + ".io", "deb.deb" + "ian")
UNFINISHED = ("TO" + "DO", "FIX" + "ME", "X" * 3, "NotImpl" + "ementedError", "xf" + "ail(")


@pytest.mark.parametrize("name", FILES)
def test_no_words_that_belong_elsewhere(name: str):
    text = FILES[name].read_text()
    words = (*MACHINE, *REGISTRIES, *(UNFINISHED if name.endswith(".py") else ()))
    assert [word for word in words if word in text] == []


def test_the_project_stands_on_its_own():
    """Only `.ci/run` may know a place beside the repository, and it says so when nothing is there."""
    outside = "../sha" + "red"
    assert [name for name, path in FILES.items() if outside in path.read_text() and name != ".ci/run"] == []


# What the pages say


def commands_in(page: Path) -> Iterator[list[str]]:
    """The words of every `dvidfs` command in the code blocks of a page, continued lines joined."""
    for block in re.findall(
        r"^```(?:console|sh|bash|shell|text)?\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
    ):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            if match := re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?dvidfs(\s.*|$)", line):
                yield re.split(r"\s[#|>&]", match[1])[0].split()


@functools.cache
def help_of(*words: str) -> str:
    return live.dvidfs(*words, "--help").stdout


@pytest.mark.parametrize("name", PAGES)
def test_commands_in_pages_exist(name: str):
    for words in commands_in(PAGES[name]):
        verbs = [word for word in words[:2] if re.fullmatch(r"[a-z]+", word)]
        if len(verbs) == 2 and not re.search(rf"^\s+{verbs[1]}\b", help_of(verbs[0]), re.MULTILINE):
            verbs = verbs[:1]
        said = help_of(*verbs)
        for option in (word.split("=")[0] for word in words if word.startswith("--")):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", said), f"{' '.join(words)}: no option {option}"


def test_the_readme_shows_the_way_in():
    verbs = {words[0] for words in commands_in(ROOT / "README.md") if words}
    assert verbs >= {"init", "import", "mount"}


@pytest.mark.parametrize("name", PAGES)
def test_links_in_pages_lead_somewhere(name: str):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", PAGES[name].read_text())
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (PAGES[name].parent / link).exists()] == []


@pytest.mark.parametrize("name", PAGES)
def test_scripts_named_in_pages_exist(name: str):
    named = re.findall(r"(?<![\w/.])((?:script|mount-examples|benchmarks|docs)/[\w./-]*\w)", PAGES[name].read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_changelog_names_this_version():
    assert f"## {dvidfs.__version__}" in (ROOT / "CHANGELOG.md").read_text()


# What people run


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_can_be_run(name: str):
    path = SCRIPTS[name]
    assert os.access(path, os.X_OK), "not executable"
    interpreter = path.read_text().splitlines()[0].split("/")[-1].split()[-1]
    assert interpreter in {"sh", "bash", "python3"}
    if interpreter != "python3":
        done = subprocess.run([interpreter, "-n", path], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_ci_runs_the_suite_and_the_recordings():
    steps = (ROOT / ".ci" / "run").read_text()
    assert steps.index("script/test") < steps.index("script/conformance")


def test_conformance_without_recordings_is_skipped_aloud(tmp_path: Path):
    env = {**os.environ, "DVIDFS_CONFORMANCE": str(tmp_path / "absent")}
    words = [sys.executable, str(ROOT / "script" / "conformance.py")]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert "skipped" in done.stdout
    assert str(tmp_path / "absent") in done.stdout


# What is packed


def test_every_setup_extra_exists():
    wanted = re.search(r"-e '\.\[([\w,]+)\]'", (ROOT / "script" / "setup").read_text())
    assert wanted is not None
    assert set(wanted[1].split(",")) == set(PYPROJECT["project"]["optional-dependencies"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the tree as it lies here."""
    target = tmp_path_factory.mktemp("wheel")
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(target), str(ROOT)]
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(target.glob("*.whl"))


def test_the_wheel_is_pure(wheel: Path):
    assert wheel.name == f"dvidfs-{dvidfs.__version__}-py3-none-any.whl"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {relative(p) for p in (ROOT / "dvidfs").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert names == package
    assert "dvidfs/py.typed" in names


def test_the_wheel_says_what_it_needs(wheel: Path):
    with zipfile.ZipFile(wheel) as packed:
        info = f"dvidfs-{dvidfs.__version__}.dist-info"
        metadata = packed.read(f"{info}/METADATA").decode()
        assert "dvidfs = dvidfs.__main__:main" in packed.read(f"{info}/entry_points.txt").decode()
        assert packed.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    needed = re.findall(r"^Requires-Dist: ([\w-]+)(.*)$", metadata, re.MULTILINE)
    assert {name for name, rest in needed if "extra ==" not in rest} >= {"lmdb", "numba", "numpy", "aiohttp"}
    assert [rest for name, rest in needed if name == "pyfuse3" and "mount" not in rest] == []
    assert "pyfuse3" in dict(needed)


# The data it carries


def test_the_excerpt_is_whole_and_credited():
    folder = ROOT / "mount-examples" / "data"
    slices = sorted((folder / "grayscale").glob("*.png"))
    assert [path.name for path in slices] == [f"iso.{z}.png" for z in range(2600, 2664)]
    for path in slices:
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((250, 250), "L")
            assert sum(count > 0 for count in image.histogram()) > 50, "no micrograph"
    assert "CREATIVE COMMONS" in (folder / "LICENSE.txt").read_text()
    assert all(word in (folder / "CREDIT.md").read_text() for word in ("Janelia", "Attribution", "neuroproof_examples"))
