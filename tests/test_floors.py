"""The house rules, read from the sources: floors, lazy imports, file lengths, no rooms for everything."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dlnjax"
#: A module imports only from strictly lower floors; a package's own files are one room.
FLOORS = {
    **dict.fromkeys(["_types", "_linalg"], 0),
    **dict.fromkeys(["stiefel", "_monitor"], 1),
    **dict.fromkeys(["network", "optim"], 2),
    **dict.fromkeys(["problem", "initial", "scales"], 3),
    **dict.fromkeys(["losses", "train"], 4),
    "reduced": 5,
    "layerwise": 6,
    "sparse": 6,
    "theory": 6,
    "sweep": 7,
    "analysis": 8,
    "bench": 9,
    "campaigns": 9,
    "cli": 10,
    "__main__": 11,
}
#: The rooms of ``sweep``: each imports only from those before it, and from its own files.
SWEEP_ROOMS = ("config", "plan", "store", "compute", "driver")
FILES = sorted(PACKAGE.rglob("*.py"))
#: Lines a file may have, less one.
LENGTH = 400


def room(file: Path) -> str:
    """The part of the package a file belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(source: str, package: str) -> set[str]:
    """Rooms of dlnjax that a source imports, also in functions, for types, or by ``import_module``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {part for name in node.names for part in _rooms(name.name)}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: -node.level + 1 or None], *base.split(".")]).strip(".")
            if base == "dlnjax":
                found |= {name.name for name in node.names if name.name in FLOORS}
            found |= _rooms(base)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_module":
            found |= {p for a in node.args if isinstance(a, ast.Constant) for p in _rooms(str(a.value))}
    return found


def types_only(source: str) -> str:
    """The block under ``if TYPE_CHECKING``, which no interpreter runs."""
    blocks = [
        n
        for n in ast.parse(source).body
        if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"
    ]
    (text,) = [ast.get_source_segment(source, block) for block in blocks]
    return text


def _rooms(name: str) -> set[str]:
    parts = name.split(".")
    return {parts[1]} if parts[0] == "dlnjax" and len(parts) > 1 else set()


def upward(file: Path, source: str) -> list[str]:
    """The imports of a file that do not go down."""
    here = room(file)
    package = ".".join(["dlnjax", *file.relative_to(PACKAGE).parts[:-1]])
    others = imported(source, package) - {here}
    return sorted(other for other in others if FLOORS[other] >= FLOORS[here])


def sweep_rooms(source: str) -> set[str]:
    """The rooms of ``dlnjax.sweep`` that a source imports, wherever in it."""
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
    parts = (module.split(".") for module in modules if module.startswith("dlnjax.sweep."))
    return {part[2] for part in parts} & set(SWEEP_ROOMS)


def against_the_order(room: str, source: str) -> set[str]:
    """The rooms of ``sweep`` that a file of ``room`` imports though they come after it."""
    return {other for other in sweep_rooms(source) if SWEEP_ROOMS.index(other) > SWEEP_ROOMS.index(room)}


@pytest.mark.parametrize(
    "file",
    [
        file
        for file in FILES
        if file.is_relative_to(PACKAGE / "sweep") and file.parent.name + file.name != "sweep__init__.py"
    ],
    ids=lambda f: str(f.relative_to(PACKAGE)),
)
def test_rooms_of_a_sweep_import_in_one_direction(file):
    room = file.relative_to(PACKAGE / "sweep").parts[0].removesuffix(".py")
    assert room in SWEEP_ROOMS
    assert against_the_order(room, file.read_text()) == set()


def test_the_order_of_rooms_is_checked():
    assert against_the_order("store", "from dlnjax.sweep.driver import run") == {"driver"}
    assert against_the_order("config", "def f():\n    from dlnjax.sweep import plan") == {"plan"}
    assert against_the_order("driver", "from dlnjax.sweep import store") == set()


def test_every_room_has_a_floor():
    rooms = {room(file) for file in FILES} - {"__init__"}
    assert rooms <= FLOORS.keys(), (
        f"give {sorted(rooms - FLOORS.keys())} a floor, here and in the documentation"
    )


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_go_down(file):
    if room(file) == "__init__":
        at_run_time = file.read_text().replace(types_only(file.read_text()), "")
        assert imported(at_run_time, "dlnjax") == set(), "the top level loads its parts on first use"
    else:
        assert upward(file, file.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import dlnjax.sweep.plan",
        "from dlnjax import train",
        "from dlnjax.analysis import rates",
        "def f():\n    from dlnjax.reduced import x",
        "from importlib import import_module\nimport_module('dlnjax.cli.parser')",
        "from ..train import train",
        "from .. import train",
    ],
)
def test_the_reader_sees_every_kind_of_import(source):
    assert upward(PACKAGE / "optim" / "new.py", source)


def test_down_and_sideways_are_allowed():
    source = "from dlnjax import stiefel\nfrom dlnjax.optim import rgd\nfrom ._tangent import x\nimport jax"
    assert upward(PACKAGE / "optim" / "new.py", source) == []


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_files_are_short(file):
    assert len(file.read_text().splitlines()) < LENGTH


def test_no_room_for_everything():
    names = {
        part.removesuffix(".py").strip("_") for file in FILES for part in file.relative_to(PACKAGE).parts
    }
    assert names.isdisjoint({"utils", "util", "helpers", "helper", "misc", "tools", "hub"})


def test_no_code_from_text():
    """No eval, exec, pickle or path tricks anywhere in the package."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                assert getattr(node.func, "id", "") not in {"eval", "exec"}, file
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {n.name for n in node.names} | {getattr(node, "module", None)}
                assert names.isdisjoint({"pickle", "cloudpickle", "dill", "marshal", "shelve"}), file
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), file
                assert node.value.value is False, file


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("dlnjax", "jax pyarrow matplotlib pandas diffrax"),
        ("dlnjax.sweep", "jax pyarrow matplotlib pandas diffrax"),
        ("dlnjax.sweep.driver.run", "jax matplotlib pandas diffrax"),
        ("dlnjax.analysis", "jax diffrax"),
        ("dlnjax.cli", "jax pyarrow matplotlib pandas diffrax"),
        ("dlnjax.train", "pyarrow matplotlib pandas diffrax"),
    ],
)
def test_importing_pulls_in_little(module, absent):
    code = f"import sys, {module}; print(*(set({absent.split()!r}) & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


@pytest.mark.parametrize("file", [PACKAGE / "__init__.py", PACKAGE / "theory" / "__init__.py"])
def test_checkers_see_what_loads_on_first_use(file):
    named = ast.parse(file.read_text().partition("__all__ = ")[2].partition("]")[0] + "]", mode="eval")
    (told,) = [n for n in ast.walk(ast.parse(types_only(file.read_text()))) if isinstance(n, ast.ImportFrom)]
    assert [name.name for name in told.names] == ast.literal_eval(named)


def test_top_level_names_are_modules():
    import dlnjax

    for name in dlnjax.__all__:
        assert type(getattr(dlnjax, name)).__name__ == "module"
