"""Who may import whom, and what must stay absent: the walls of the house, read from the source itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

import dvidfs
from dvidfs.errors import EXIT_CODES, DvidfsError, ErrorKind

PACKAGE = Path(dvidfs.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = sorted(path for top in ("dvidfs", "tests", "script", "mount-examples", "benchmarks", "docs")
                 for path in (ROOT / top).rglob("*.py"))  # fmt: skip

WEB = ("aiohttp", "uvloop", "yarl", "multidict")
FUSE = ("pyfuse3",)
LOOPS = ("trio", "asyncio")

FORBIDDEN = {
    "engine": (*WEB, *FUSE, "numba", "dvidfs.types", "dvidfs.http", "dvidfs.fuse", "dvidfs.kernels", "dvidfs.cli"),
    "types": (*WEB, *FUSE, *LOOPS, "numba", "lmdb", "dvidfs.http", "dvidfs.fuse", "dvidfs.cli"),
    "http": (*FUSE, "numba", "lmdb", "dvidfs.fuse", "dvidfs.cli"),
    "fuse": (*WEB, "numba", "lmdb", "dvidfs.http", "dvidfs.cli"),
    "kernels": (*WEB, *FUSE, *LOOPS, "lmdb", "dvidfs.engine", "dvidfs.types", "dvidfs.http", "dvidfs.fuse"),
}
"""What the modules of each layer never import, at the top or inside a function."""

ALLOWED = {("engine/store.py", "lmdb")}
"""The one module that may, each."""

SHARED_TYPES = {"base", "common"}
"""What `types/builtin.py`, the list of all datatypes, imports besides the datatypes."""


@dataclass(frozen=True)
class Import:
    """One name that a module imports; `lazy` if it happens inside a function."""

    module: str
    name: str
    lazy: bool
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.name}"


def name_of(path: Path) -> str:
    """`engine/store.py` for the module of that name, as the tables above call it."""
    return path.relative_to(PACKAGE).as_posix()


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a module; `from a import b` counts as a and as a.b, relative ones with their full name."""
    package = ".".join(("dvidfs", *path.relative_to(PACKAGE).parent.parts))

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                above = package.rsplit(".", child.level - 1)[0] if child.level else ""
                base = ".".join(filter(None, (above, child.module or "")))
                names = [base, *(f"{base}.{alias.name}" for alias in child.names)]
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            for name in names:
                yield Import(name_of(path), name, lazy, child.lineno)  # type: ignore[attr-defined]
            yield from walk(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from walk(ast.parse(path.read_text()), lazy=False)


def is_below(name: str, top: str) -> bool:
    return name == top or name.startswith(f"{top}.")


IMPORTS = [found for path in MODULES for found in imports_of(path)]


def run_python(code: str) -> str:
    """What a fresh interpreter prints for `code`."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_layer_is_there():
    assert {layer_of(path) for path in MODULES} >= set(FORBIDDEN)


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_imports_point_downwards(layer: str):
    wrong = [
        str(found)
        for found in IMPORTS
        if found.module.split("/")[0] == layer
        for top in FORBIDDEN[layer]
        if is_below(found.name, top) and (found.module, top) not in ALLOWED
    ]
    assert not wrong


def test_only_the_store_knows_lmdb():
    assert {found.module for found in IMPORTS if is_below(found.name, "lmdb")} == {"engine/store.py"}


def test_numba_stays_in_the_compiled_kernels():
    found = [i for i in IMPORTS if is_below(i.name, "numba") or is_below(i.name, "llvmlite")]
    compiled = re.compile(r"kernels/\w+_numba\.py")
    assert not [str(i) for i in found if not (i.lazy or compiled.fullmatch(i.module))]
    assert not [str(i) for i in found if not i.module.startswith("kernels/")]
    named = [i for i in IMPORTS if i.name.endswith("_numba") and not compiled.fullmatch(i.module)]
    assert not [str(i) for i in named if not i.lazy]


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("kernels/*_numba.py")), ids=name_of)
def test_every_compiled_kernel_has_its_twin(path: Path):
    assert path.with_name(path.name.replace("_numba", "")).exists()


def test_no_module_loads_numba_by_being_imported():
    names = [".".join(("dvidfs", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in MODULES]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith(("_numba", "__main__"))]
    code = f"import importlib, sys; [importlib.import_module(n) for n in {names}]; print('numba' in sys.modules)"
    assert run_python(code) == "False\n"


@pytest.mark.parametrize("layer", ["http", "fuse"])
def test_adapters_name_no_datatype(layer: str):
    builtin = [found.name.split(".") for found in IMPORTS if found.module == "types/builtin.py"]
    datatypes = {name[2] for name in builtin if name[:2] == ["dvidfs", "types"] and len(name) > 2} - SHARED_TYPES
    assert "keyvalue" in datatypes
    wrong = [
        str(found)
        for found in IMPORTS
        if found.module.startswith(f"{layer}/") and any(is_below(found.name, f"dvidfs.types.{t}") for t in datatypes)
    ]
    assert not wrong


def test_engine_imports_without_web_and_fuse():
    blocked = (*WEB, *FUSE, "numba", "PIL")
    assert (
        run_python(f"import sys; sys.modules.update(dict.fromkeys({blocked})); import dvidfs.engine; print(1)") == "1\n"
    )


def test_types_import_without_web_and_fuse():
    blocked = (*WEB, *FUSE)
    assert (
        run_python(f"import sys; sys.modules.update(dict.fromkeys({blocked})); import dvidfs.types; print(1)") == "1\n"
    )


HEAVY = ("numpy", "numba", "aiohttp", "lmdb", "PIL", "trio", "pyfuse3")


def test_importing_the_package_costs_nothing():
    assert run_python(f"import dvidfs, sys; print([m for m in {HEAVY} if m in sys.modules])") == "[]\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["mount", "--help"]], ids=" ".join)
def test_help_loads_nothing_heavy(words: list[str]):
    said = run_python(
        f"""
import sys
from dvidfs.__main__ import main
sys.argv = ["dvidfs", *{words}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print([m for m in {HEAVY} if m in sys.modules])
"""
    )
    assert said.endswith("[]\n")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is_for(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text())), "no module docstring"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_is_over_800_lines(path: Path):
    assert len(path.read_text().splitlines()) <= 800


def all_errors(base: type[DvidfsError] = DvidfsError) -> Iterator[type[DvidfsError]]:
    for error in base.__subclasses__():
        yield error
        yield from all_errors(error)


def test_every_kind_of_error_has_an_exit_code_and_a_class():
    assert set(EXIT_CODES) == set(ErrorKind)
    assert all(0 < code < 128 for code in EXIT_CODES.values())
    assert {error.kind for error in all_errors()} | {DvidfsError.kind} == set(ErrorKind)


@pytest.mark.parametrize(
    ("module", "table", "least", "most"),
    [("dvidfs.http.errors", "STATUS", 400, 599), ("dvidfs.fuse.errors", "ERRNO", 1, 133)],
    ids=["http", "fuse"],
)
def test_every_kind_of_error_has_a_meaning_outside(module: str, table: str, least: int, most: int):
    meaning = getattr(import_module(module), table)
    assert set(meaning) == set(ErrorKind)
    assert all(least <= value <= most for value in meaning.values())
