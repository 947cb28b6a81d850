"""The table of options: what derives from a declaration, shown with an option that the package does not have."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_cases import call
from spec_cases import FLAT, GOOD, write

from dlnjax.analysis import tables
from dlnjax.sweep.config import compatibility, declaration, loading, options, registry
from dlnjax.sweep.config.cell import COORDINATES, PLAIN, Cell
from dlnjax.sweep.store import schema

ROOT = Path(__file__).parents[3]
EVERY = {
    **options.TOP,
    **declaration.options_of(options.Problem),
    **options.START,
    **options.RECORD,
    **options.GRID,
}

# --- an option that is not there --------------------------------------------------------------------

ENTRY = """
    dropout: float = option(
        Real(below=1, zero=True), 0.0, samples=True,
        note="part of the inputs left out of a step",
        meaning="The part of the inputs that no step sees, $p$.",
        unit="of the inputs", words="dropout {:g}",
    )  # fmt: skip
"""
SCRIPT = """
import json, sys
from pathlib import Path
from dlnjax.analysis import tables
from dlnjax.cli import complete, parser, template
from dlnjax.sweep.config import loading, toml
from dlnjax.sweep.store import schema

flat = json.loads(sys.argv[1])
refused = {}
for name, keys in {"range": {"dropout": 2}, "reduced": {"dropout": 0.3, "engine": "reduced"}}.items():
    try:
        loading.grid(**flat | keys)
    except loading.SpecError as error:
        refused[name] = error.lines
said = loading.grid(**flat | {"dropout": [0.0, 0.3], "engine": "auto"})
field = schema.arrow_schema(128).field("dropout")
old = schema.arrow_schema(128).empty_table().drop_columns(["dropout"])
print(json.dumps({
    "template": template.text("teacher", "x", "x.toml"),
    "help": parser.commands(parser.build())["run"].format_help(),
    "completion": complete.answers(["run", "--set", "drop"]),
    "names": [loading.grid(**flat).hash(), loading.grid(**flat | {"dropout": 0}).hash()],
    "another": loading.grid(**flat | {"dropout": 0.3}).hash(),
    "cells": [[cell.dropout, cell.engine] for cell in said.cells()],
    "toml": said.to_toml(),
    "column": [str(field.type), field.metadata[b"unit"].decode(), field.nullable],
    "added": "dropout" in schema.upgrade(old, Path("x")).column_names,
    "place": tables.COORDINATES.index("dropout") - tables.COORDINATES.index("label_noise"),
    "words": tables.describe({"dropout": 0.3, "depth": 4}, ["dropout", "depth"]),
    "refused": refused,
}))
"""
REFERENCE = "import conf; print(conf._config()); print(conf._columns()); print(conf._commands())"


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """A copy of the package with one entry more, and no other change."""
    folder = tmp_path_factory.mktemp("changed")
    shutil.copytree(ROOT / "dlnjax", folder / "dlnjax", ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / "dlnjax/sweep/config/options.py"
    text = file.read_text()
    assert text.count("\n    data: str = option(") == 1
    file.write_text(text.replace("\n    data: str = option(", f"{ENTRY}    data: str = option("))
    return folder


def run(folder, code, *arguments, path=""):
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, timeout=100, cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{path}"},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]
    return found.stdout


def test_an_option_is_one_entry(changed):
    flat = FLAT | {"seed": [0, 1], "depth": 3}
    got = json.loads(run(changed, SCRIPT, json.dumps(flat)))
    assert "\ndropout = 0.0 " in got["template"]
    assert "part of the inputs left out of a step" in got["template"]
    assert "    dropout           part of the inputs left out of a step\n" in got["help"]
    assert got["completion"] == ["dropout="]
    assert got["names"] == [loading.grid(**flat).hash()] * 2  # without it all cells keep their names
    assert got["another"] not in got["names"]
    assert got["cells"] == [[0.0, "reduced"], [0.0, "reduced"], [0.3, "layers"], [0.3, "layers"]]
    assert "\ndropout = [0.0, 0.3]\n" in got["toml"]
    assert got["column"] == ["double", "of the inputs", False]
    assert got["added"]
    assert got["place"] == 1
    assert got["words"] == "dropout 0.3, N = 4"
    assert got["refused"] == {
        "range": ["sweep.grid: dropout: 2 is not below 1; give 0 or a number between 0 and 1"],
        "reduced": [
            'sweep.grid: engine: "reduced" is exact for dropout 0.0 only, not for 0.3; give engine "layers" or "auto"'
        ],
    }


def test_the_reference_has_it(changed):
    pytest.importorskip("latex2mathml", reason="needs the extra docs")
    pages = run(changed, REFERENCE, path=ROOT / "docs").splitlines()
    meaning = "The part of the inputs that no step sees, $p$."
    assert f"| `dropout` | number | 0 or a number between 0 and 1 | `0` | {meaning} |" in pages
    assert "| `dropout` | double | of the inputs | no |" in pages
    assert "    dropout           part of the inputs left out of a step" in pages


# --- the table --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_every_option_says_what_it_is(name):
    one = EVERY[name]
    assert one.note
    assert one.note == one.note.strip().rstrip(".")
    assert "\n" not in one.note
    assert one.meaning.endswith((".", ")"))
    assert one.check.expected


def test_every_default_passes_its_own_check():
    for name, one in EVERY.items():
        if one.default is not options.REQUIRED and one.default is not None:
            raw = list(one.default) if isinstance(one.default, tuple) else one.default
            assert one.check(raw) == one.default, name


def test_columns_of_a_cell_stand_where_they_stood():
    """Files of all versions are read together, so the order is part of the format."""
    first = "study data depth width seed step_rule step engine start retraction optimizer precision"
    later = "momentum activation free loss profile batch_size label_noise"
    names = schema.arrow_schema(128).names
    assert names[: names.index("cell")] == f"{first} {later}".split() == list(COORDINATES)
    assert list(loading.grid(**FLAT).cells()[0].coordinates()) == list(COORDINATES)


def test_tables_sort_as_they_sorted():
    assert " ".join(tables.COORDINATES) == (
        "study step_rule step data start optimizer momentum retraction activation free loss batch_size label_noise "
        "precision profile width engine depth seed"
    )
    assert [tables.caption(name) for name in ("depth", "step_rule", "width", "measured")] == [
        "N", "rule", "width", "measured"
    ]  # fmt: skip


def test_what_a_plain_network_is():
    assert PLAIN == {
        "activation": "linear", "free": "first", "loss": "square", "profile": "equal", "batch_size": 0,
        "label_noise": 0.0,
    }  # fmt: skip
    assert tables.PARTS == {"momentum": 0.0, **PLAIN}


def test_a_cell_has_every_option_of_a_grid():
    cell = loading.grid(**FLAT).cells()[0]
    assert isinstance(cell, Cell)
    assert all(type(getattr(cell, name)) in (str, int, float) for name in options.GRID)


def test_meanings_follow_the_registry():
    optimizer, momentum, engine = (options.GRID[name] for name in ("optimizer", "momentum", "engine"))
    assert all(f"`{name}`" in optimizer.meaning for name in registry.OPTIMIZERS)
    for name, row in registry.OPTIMIZERS.items():
        assert (f"`{name}`" in momentum.meaning) == row.momentum
        assert (name in momentum.note.replace(",", " ").split()) == row.momentum
        assert (f"`{name}`" in engine.meaning) == (name in compatibility._REDUCED["optimizer"])
    words = {
        "start": registry.STARTS, "activation": registry.ACTIVATIONS, "loss": registry.LOSSES,
        "free": registry.FREE, "profile": registry.PROFILES, "optimizer": registry.OPTIMIZERS,
    }  # fmt: skip
    assert {name: options.GRID[name].choices for name in words} == {
        n: tuple(rows) for n, rows in words.items()
    }


CONFIGS = [path for path in sorted(ROOT.glob("results/*/config.toml")) if not loading.parse(path).is_campaign]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parent.name)
def test_committed_configs_are_written_as_they_were(path):
    sweep = loading.load(path, check_data=False)
    assert sweep.to_toml() == path.read_text(encoding="utf-8")
    assert sweep.hash() == json.loads((path.parent / "manifest.json").read_text())["config_hash"]


# --- one parse --------------------------------------------------------------------------------------


@pytest.fixture
def parsed(monkeypatch):
    """The texts that were parsed as TOML."""
    texts, loads = [], loading.tomllib.loads
    monkeypatch.setattr(loading.tomllib, "loads", lambda text: texts.append(text) or loads(text))
    return texts


def test_the_command_parses_a_config_once(tmp_path, parsed):
    wrong = write(tmp_path, GOOD.replace("records = 128", "records = 1"))
    code, _, err = call("run", wrong)
    assert (code, err) == (2, f"{wrong}: record.records: 1 is below 128; give integers from 128 to 65536\n")
    assert len(parsed) == 1


def test_the_command_parses_a_campaign_once(tmp_path, parsed):
    path = write(tmp_path, 'study = "x"\ncampaign = "gauge"\n')
    assert call("run", path, "--dry-run")[0] == 0
    assert len(parsed) == 1


def test_a_document_is_not_changed_by_overrides(tmp_path):
    document = loading.parse(write(tmp_path))
    assert [grid.depth for grid in loading.load(document, ["depth=3"]).grids] == [(3,), (3,)]
    assert [grid.depth for grid in loading.load(document).grids] == [(2, 4), (8,)]
