"""The benchmark of whole sweeps: real sweeps in processes of their own, and what it is held to."""

import json
import math

import pytest

from dlnjax.bench import cells
from dlnjax.sweep.config import loading

TOLD = {
    "cells": 144 * cells.SEEDS,
    "training_programs": 3,
    "outside": 0.08,
    "microseconds_a_cell": 170.0,
    "peak_gb": 1.3,
}


def found(**changes):
    names = [
        "reduced, warm cache",
        "layers, warm cache",
        "tiny, 1 cells, cold cache",
        "tiny, 1 cells",
        "tiny, 2 cells",
    ]
    told = {name: dict(TOLD) for name in names}
    told["tiny, 1 cells, cold cache"]["microseconds_a_cell"] = 1e9
    for name, change in changes.items():
        told[name.replace("_", ", ", 1).replace("_", " ")] |= change
    return told


def missed(**changes):
    return [target["name"] for target in cells.targets(found(**changes)) if not target["met"]]


def test_targets():
    assert len(cells.targets(found())) == 6
    assert missed() == []
    assert missed(reduced_warm_cache={"training_programs": 4}) == ["training programs, reduced"]
    assert missed(layers_warm_cache={"outside": 0.11}) == ["share of the time outside the devices, layers"]
    assert missed(layers_warm_cache={"outside": 0.3, "cells": 576}) == []
    assert len(missed(tiny_2_cells={"microseconds_a_cell": 171.0})) == 1
    assert len(missed(tiny_2_cells={"peak_gb": 4.1})) == 1
    assert len(cells.targets(found(tiny_2_cells={"peak_gb": None}))) == 5


@pytest.mark.slow
def test_sweeps_run_in_processes_of_their_own_and_share_a_cache(tmp_path):
    keys = cells.grid("reduced", 1) | {
        "width": [8, 16],
        "depth": [2, 3],
        "step": [0.1, 0.2],
        "max_steps": 256,
    }
    cold, warm = (cells.apart(keys, str(tmp_path)) for _ in range(2))
    for told in (cold, warm):
        assert (told["cells"], told["training_programs"]) == (8, 2)
        assert 0 < told["device_seconds"] < told["seconds"]
        assert told["outside"] == pytest.approx(1 - told["device_seconds"] / told["seconds"])
        assert told["microseconds_a_cell"] == pytest.approx(1e6 * told["seconds"] / 8)
        assert 0.1 < told["peak_gb"] < 8
    assert warm["compile_seconds"] < cold["compile_seconds"] / 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["dlnjax"]


@pytest.mark.parametrize(("slow", "code"), [(1.0, 0), (1.1, 1)])
def test_the_command_keeps_all_figures_and_tells_by_its_code(tmp_path, monkeypatch, capsys, slow, code):
    asked = []

    def apart(keys, cache):
        asked.append((keys, cache))
        count = math.prod(
            len(v) for v in keys.values() if isinstance(v, list) and isinstance(v[0], float | int)
        )
        count //= len(keys["singular_values"])
        return TOLD | {
            "cells": count, "seconds": 2.0, "programs": 9, "compile_waited": 1.0,
            "microseconds_a_cell": 100.0 * (slow if count == 1_000_000 else 1),
        }  # fmt: skip

    monkeypatch.setattr(cells, "apart", apart)
    file = tmp_path / "there" / "cells.json"
    assert cells.main(["--json", str(file)]) == code
    told = json.loads(file.read_text())
    assert [entry["cells"] for entry in told["sweeps"].values()] == [9216] * 4 + [10_000] * 2 + [1_000_000]
    assert [keys["engine"] for keys, _ in asked] == ["reduced"] * 2 + ["layers"] * 2 + ["reduced"] * 3
    assert len({cache for _, cache in asked}) == 3
    assert all(target["met"] for target in told["targets"]) == (code == 0)
    assert ("MISSED" in capsys.readouterr().out) == (code == 1)


def test_numbers_that_cannot_be_compared_are_refused_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setattr(cells, "measure", None)
    for pair in (["5", "5"], ["6", "5"], ["0", "5"]):
        with pytest.raises(SystemExit) as ended:
            cells.main(["--many", *pair])
        assert ended.value.code == 2
        assert "the smaller one first" in capsys.readouterr().err


def test_the_grids_are_the_ones_they_are_said_to_be():
    grid, many = (loading.grid(**keys).cells() for keys in (cells.grid("layers", 2), cells.many(2)))
    assert (len(grid), len(many)) == (288, 200)
    assert len({(cell.width, cell.depth, cell.step) for cell in grid}) == 3 * 6 * 8
