"""Campaigns from a config: strict reading, the folder kept, claims and figures, exit codes."""

import csv
import json
import tomllib
from pathlib import Path

import pytest
from cli_cases import call

from dlnjax.campaigns import claims as analysis
from dlnjax.campaigns import config
from dlnjax.campaigns.checks import CAMPAIGNS, PARTS, Finding
from dlnjax.sweep.compute import devices
from dlnjax.sweep.config import loading
from dlnjax.sweep.store import manifest

ROOT = Path(__file__).parents[2]
GAUGE = 'study = "g"\ncampaign = "gauge"\ninstances = 5\nrestarts = 2\nstep_instances = 3\nsteps = 2\n'


@pytest.fixture(autouse=True)
def _prepared(monkeypatch):
    """This process has started JAX already; a command's own would do it now."""
    monkeypatch.setattr(devices, "prepare", lambda *_, **__: None)


def written(folder, text, name="c.toml"):
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*.toml")), ids=lambda p: p.stem)
def test_every_config_loads_and_names_its_command(path):
    text = path.read_text()
    head = text.split("\nstudy")[0]
    assert f"dlnjax run configs/{path.name} --out results/{path.stem}" in head
    assert "Expected:" in head
    assert all(line.startswith("#") for line in head.splitlines())
    assert tomllib.loads(text)["study"] == path.stem
    if loading.parse(path).is_campaign:
        assert config.load(path).study == path.stem
    else:
        assert loading.load(path).cells()


def test_keys_are_the_arguments_of_the_parts():
    assert set(config.CAMPAIGNS) == set(CAMPAIGNS)
    for name, parts in CAMPAIGNS.items():
        named = {key for names in parts.values() for key in names.values()}
        assert named | {"seed"} == set(config.CAMPAIGNS[name])
        for part, names in parts.items():
            arguments = PARTS[part].__code__.co_varnames[: PARTS[part].__code__.co_argcount]
            assert {*names, "seed"} <= set(arguments)


def test_a_config_is_its_own_toml(tmp_path):
    made = config.load(written(tmp_path, GAUGE), ["seed=7"])
    assert dict(made.settings) == {"seed": 7, "instances": 5, "restarts": 2, "step_instances": 3, "steps": 2}
    again = config.load(written(tmp_path, made.to_toml(), "again.toml"))
    assert again == made
    assert again.hash() == made.hash()
    assert config.load(written(tmp_path, GAUGE)).hash() != made.hash()
    renamed = config.load(written(tmp_path, 'question = "why"\n' + GAUGE), ["seed=7"])
    assert renamed.hash() == made.hash()


MISTAKES = [
    ('study = "g"\ncampaign = "gouge"\n', 'campaign: "gouge" is not known; did you mean "gauge"?'),
    ('campaign = "gauge"\n', "study: is missing"),
    (GAUGE + "restart = 3\n", "restart: is not a key of this campaign; did you mean restarts?"),
    (GAUGE + "depth = 3\n", "depth: is not a key of this campaign"),
    (GAUGE.replace("= 5", "= 1.5"), "instances: 1.5 is not a whole number; give integers from 1 to 100000"),
    (GAUGE.replace("= 5", "= 0"), "instances: 0 is below 1"),
    (GAUGE + 'precision = "float32"\n', 'precision: "float32" is not known'),
    ('study = "m"\ncampaign = "modes"\ntolerance = 2\n', "tolerance: 2 is not below 1"),
    ('study = "m"\ncampaign = 3\n', "campaign: 3 is not a string"),
]


@pytest.mark.parametrize(("text", "told"), MISTAKES)
def test_mistakes_are_told_in_a_line_and_nothing_is_written(tmp_path, text, told):
    path = written(tmp_path, text)
    code, out, err = call("run", path, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert [line for line in err.splitlines() if told in line], err
    assert all(line.startswith(f"{path}: ") for line in err.splitlines())
    assert not (tmp_path / "out").exists()


def test_all_mistakes_come_at_once(tmp_path):
    with pytest.raises(loading.SpecError) as caught:
        config.load(written(tmp_path, GAUGE.replace("= 5", "= 0")), ["steps=x", "restarts", "seed=-1"])
    lines = caught.value.lines
    assert len(lines) == 4
    assert any("with --set steps=x: steps: " in line for line in lines)
    assert any("--set restarts: is not key=value" in line for line in lines)


def test_a_sweep_is_not_a_campaign(tmp_path):
    with pytest.raises(loading.SpecError, match="is a campaign's, not a sweep's"):
        loading.load(written(tmp_path, GAUGE))
    for option in (["--workers", "2"], ["--extend"], ["--json-events", tmp_path / "e"]):
        code, _, err = call("run", written(tmp_path, GAUGE), "--out", tmp_path / "out", *option)
        assert code == 2
        assert f"{option[0]} is for sweeps" in err


def test_a_run_keeps_its_rows_claims_and_figure(tmp_path):
    out = tmp_path / "out"
    code, printed, err = call("run", written(tmp_path, GAUGE), "--out", out)
    assert code == 0, err
    assert "0 violations" in printed
    assert "tightest ratio" in printed
    names = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    figures = {"figures/gauge.png", "figures/gauge.svg"}
    assert names == {"config.toml", "manifest.json", "summary.csv", "claims.csv", *figures}
    with (out / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["part"] for row in rows] == ["search"] * 5 + ["commutes"] * 3
    facts = json.loads((out / "manifest.json").read_text())
    assert facts["campaign"] == "gauge"
    assert facts["parts"]["search"]["instances"] == 5
    assert {"jax", "numpy", "python"} <= facts["versions"].keys()
    assert facts["config_hash"] == config.load(out / "config.toml").hash()
    with (out / "claims.csv").open() as file:
        assert {row["verdict"] for row in csv.DictReader(file)} == {"holds"}
    first = (out / "summary.csv").read_bytes()
    assert call("run", written(tmp_path, GAUGE), "--out", out, "--quiet")[:2] == (0, "")
    assert (out / "summary.csv").read_bytes() == first
    code, _, err = call("run", written(tmp_path, GAUGE), "--out", out, "--set", "steps=3")
    assert code == 2
    assert "steps: 2 -> 3" in err
    assert (out / "summary.csv").read_bytes() == first
    with pytest.raises(ValueError, match="holds the campaign 'gauge'"):
        manifest.load(out)


def test_a_violation_is_exit_code_one(tmp_path, monkeypatch):
    bad = {"part": "search", "instance": 0, "dims": "2-2", "depth": 1, "noise": 0.01, "best": 1.0}
    bad |= {"chain_excess": 0.5, "identity_excess": 0.1, "checks": 1, "violations": 1, "ratio": 1.5}
    monkeypatch.setitem(PARTS, "search", lambda **_: Finding("search", "it is found", [bad], {}))
    code, printed, _ = call("run", written(tmp_path, GAUGE), "--out", tmp_path / "out")
    assert code == 1
    assert "1 violations, tightest ratio 1.5" in printed
    assert "fails    it is found" in printed


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "manifest.json").write_text('{"manifest_version": 1}')
    code, _, err = call("run", written(tmp_path, GAUGE), "--out", tmp_path)
    assert code == 2
    assert "holds a sweep" in err


def test_dry_run_writes_nothing(tmp_path):
    code, printed, _ = call("run", written(tmp_path, GAUGE), "--out", tmp_path / "out", "--dry-run")
    assert code == 0
    assert "campaign gauge, seed = 0, instances = 5" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(CAMPAIGNS))
def test_committed_results_are_what_the_config_says(name):
    out = ROOT / "results" / name
    rows, facts = analysis.read(out)
    assert facts["config_hash"] == config.load(ROOT / "configs" / f"{name}.toml").hash()
    assert all(claim.verdict == "holds" for claim in analysis.check(rows, facts))
    for part, counts in facts["parts"].items():
        here = [row for row in rows if row["part"] == part]
        assert len(here) == counts["instances"]
        assert sum(row["violations"] for row in here) == counts["violations"] == 0
