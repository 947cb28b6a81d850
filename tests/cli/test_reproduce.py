"""Committed results held against new ones: what counts as moved, and the command that makes them anew."""

import json
import shutil
import subprocess

import pytest
import study_table as st
from cli_cases import call

from dlnjax import analysis
from dlnjax.analysis import compare, tables
from dlnjax.cli import reproduce

CELLS = [st.reference("fixed", 0.01, depth) for depth in (2, 8)] + [st.reference("edge", 0.9, 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = st.write(tmp_path_factory.mktemp("results") / "demo", CELLS)
    (out / "config.toml").write_text(st.config(study="demo", figures=[]))
    analysis.write(out)
    (out / "manifest.json").write_text(json.dumps({"config_hash": "a"}))
    shutil.rmtree(out / "shards", ignore_errors=True)
    return out


def changed(folder, out, file, column, value, place=0):
    """A copy of a folder with one field of one row changed."""
    shutil.copytree(folder, out)
    rows = tables.read_csv(out / file)
    rows[place][column] = value(rows[place][column]) if callable(value) else value
    (out / file).write_text(tables.to_csv(rows, list(rows[0])))
    return out


@pytest.mark.parametrize(
    ("file", "column", "little", "much"),
    [
        ("summary.csv", "measured_factor", lambda x: x, None),
        ("summary.csv", "predicted_factor", lambda x: x + 1e-9, lambda x: x + 1e-7),
        ("summary.csv", "eigenvalue_max", lambda x: x * (1 + 1e-7), lambda x: x * (1 + 1e-5)),
        ("summary.csv", "iterations", lambda n: n + 1, lambda n: int(n * 1.02)),
        ("summary.csv", "final_distance", lambda x: 5 * x + 5e-10, 1e-3),
        ("summary.csv", "guaranteed_factor", lambda x: x - 1e-10, None),
        ("summary.csv", "reason", "in other words", None),
        ("edge.csv", "status", "converged", "diverged"),
        ("edge.csv", "rank", 4, 5),
        ("edge.csv", "measured_factor", 0.1, 0.1),
        ("claims.csv", "verdict", "holds", "fails"),
        ("claims.csv", "measured", "in other words", None),
    ],
)
def test_a_column_has_a_tolerance_of_its_own(folder, tmp_path, file, column, little, much):
    assert compare.compare(folder, changed(folder, tmp_path / "little", file, column, little)) == []
    moved = compare.compare(folder, changed(folder, tmp_path / "much", file, column, much))
    free = column in compare.PASSED_OVER or (file, column) == ("edge.csv", "measured_factor")
    assert [(one.file, one.column) for one in moved] == ([] if free else [(file, column)])


def test_measured_factors_are_one_where_their_intervals_meet():
    row = {"measured_factor": 0.5, "measured_low": 0.4, "measured_high": 0.6}
    near = {"measured_factor": 0.65, "measured_low": 0.6, "measured_high": 0.7}
    far = {"measured_factor": 0.65, "measured_low": 0.61, "measured_high": 0.7}
    assert compare._fits_agree(row, near)
    assert not compare._fits_agree(row, far)
    assert not compare._fits_agree(row, dict.fromkeys(row))
    assert compare._fits_agree(
        {"measured_factor": 0.5}, {"measured_factor": 0.5}
    )  # a campaign's, without intervals


def test_a_column_that_is_new_has_not_moved(folder, tmp_path):
    out = shutil.copytree(folder, tmp_path / "more")
    rows = [{**row, "more": 1.0} for row in tables.read_csv(out / "summary.csv")]
    (out / "summary.csv").write_text(tables.to_csv(rows, list(rows[0])))
    assert compare.compare(folder, out) == compare.compare(out, folder) == []


def test_rows_and_files_that_come_or_go_are_told(folder, tmp_path):
    fewer = shutil.copytree(folder, tmp_path / "fewer")
    rows = tables.read_csv(fewer / "summary.csv")
    (fewer / "summary.csv").write_text(tables.to_csv(rows[:1], list(rows[0])))
    (fewer / "edge.csv").unlink()
    lines = [str(one) for one in compare.compare(folder, fewer)]
    assert len(lines) == 2
    assert "summary.csv" in lines[0]
    assert "depth 8, seed 0: the row: there -> nothing" in lines[0]
    assert lines[1] == "edge.csv: the file: all: there -> nothing"
    assert compare.compare(folder, fewer, subset=True) == []
    assert [one.after for one in compare.compare(fewer, folder)] == ["there", "there"]
    assert compare.count(folder) == 3


@pytest.fixture
def places(folder, tmp_path, monkeypatch):
    """Results and configs of one study, and a run that makes the same again."""
    shutil.copytree(folder, tmp_path / "results" / "demo")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.toml").write_text("")
    told = []

    def run(command, **_):
        told.append(command)
        shutil.copytree(folder, command[command.index("--out") + 1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(reproduce.subprocess, "run", run)
    words = ["--results", tmp_path / "results", "--configs", tmp_path / "configs", "--out", tmp_path / "new"]
    return tmp_path, words, told


def test_the_same_again_is_exit_code_zero(places):
    _, words, told = places
    code, out, err = call("reproduce", *words)
    assert (code, err) == (0, "")
    assert "demo: 3 rows in 0 s, nothing moved" in out
    assert "1 studies in 0 s; nothing moved beyond its tolerance" in out
    assert call("reproduce", "demo", *words)[0] == 0  # over what the first left
    assert told[0] == told[1]
    assert "--set" not in told[0]


def test_times_are_kept_with_what_was_compiled(places):
    root, words, _ = places
    before = ",".join(reproduce.Told._fields) + "\nother,7,1.0,0,0.0,0.0,0\n"
    told = [{"programs": 3, "seconds": 1.25, "waited": 0.5}, {"programs": 1, "seconds": 1.0, "waited": 0.0}]
    (root / "results" / "times.csv").write_text(before)

    def compiled():
        (root / "made").mkdir(exist_ok=True)
        (root / "made" / "manifest.json").write_text(json.dumps({"compilations": told}))
        return reproduce._compiled(root / "made")

    assert compiled() == (4, 2.25, 0.5)
    assert "study  seconds  programs" in call("reproduce", *words)[1]
    (row,) = tables.read_csv(root / "new" / "times.csv")
    assert (row["study"], row["rows"], row["programs"], row["moved"]) == ("demo", 3, 0, 0)
    assert (root / "results" / "times.csv").read_text() == before
    call("reproduce", "--update", "--jobs", "2", *words)
    assert [row["study"] for row in tables.read_csv(root / "results" / "times.csv")] == ["demo", "other"]


def test_what_moved_is_told_and_kept_only_on_request(places, folder):
    root, words, _ = places
    shutil.rmtree(root / "results" / "demo")
    old = changed(folder, root / "results" / "demo", "summary.csv", "iterations", 1)
    (old / "manifest.json").write_text(json.dumps({"config_hash": "b"}))
    code, out, _ = call("reproduce", *words)
    assert code == 1
    assert "the config is not the one of the committed result" in out
    assert "iterations: 1 -> 11505" in out or "iterations: 1 -> " in out
    assert "moved: demo" in out
    assert tables.read_csv(old / "summary.csv")[0]["iterations"] == 1
    assert call("reproduce", "--update", *words)[0] == 1
    assert tables.read_csv(old / "summary.csv")[0]["iterations"] > 1
    assert call("reproduce", *words)[0] == 0


def test_a_few_cells_are_held_against_their_rows_alone(places, folder, monkeypatch):
    root, words, told = places
    monkeypatch.setattr(reproduce, "FAST", {"demo": ("seed=[0]", "depth=[2]")})
    changed(folder, root / "x", "claims.csv", "verdict", "fails")
    shutil.copy(root / "x" / "claims.csv", root / "results" / "demo" / "claims.csv")
    assert call("reproduce", "--fast", *words)[0] == 0
    assert told[0][-3:] == ["--set", "seed=[0]", "depth=[2]"]


def test_a_failed_run_is_told(places, monkeypatch):
    _, words, _ = places
    failed = subprocess.CompletedProcess([], 2, "", "dlnjax: no space")
    monkeypatch.setattr(reproduce.subprocess, "run", lambda *_, **__: failed)
    code, out, _ = call("reproduce", *words)
    assert code == 1
    assert "demo: the run failed after 0 s\n  dlnjax: no space" in out


def test_unknown_studies_are_a_mistake(places):
    _, words, told = places
    code, _, err = call("reproduce", "demos", *words)
    assert code == 2
    assert "demos: is no study with a result in" in err
    assert "there are: demo" in err
    assert call("reproduce", "--fast", *words)[0] == 2
    assert told == []


def test_the_fast_studies_are_committed():
    assert set(reproduce.FAST) <= {
        p.parent.name for p in (reproduce.Path(__file__).parents[2]).glob("results/*/claims.csv")
    }
