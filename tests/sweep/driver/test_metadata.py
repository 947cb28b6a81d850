"""What the manifest says of the whole sweep once its cells have run."""

import pytest

from dlnjax.sweep.config import loading
from dlnjax.sweep.driver import metadata, run
from dlnjax.sweep.store import manifest


def test_manifest_states_scales_and_rank(tmp_path):
    sweep = loading.grid(
        study="facts", kind="teacher", input_dim=5, output_dim=5, singular_values=[2.0, 1.0], width=2,
        records=128, start="near", step_rule=["middle", "optimal"], step=0.2, engine="reduced", depth=[2, 4],
        seed=[0, 1],
    )  # fmt: skip
    run.run(sweep, tmp_path)
    told = manifest.load(tmp_path)
    assert told["rank"] == {"whitened": 2}
    assert len(told["scales"]) == 4
    middle = next(s for s in told["scales"] if s["step_rule"] == "middle" and s["depth"] == 4)
    assert middle["scale_last"] == pytest.approx(0.25, rel=1e-9)
    assert middle["scale_middle"] == pytest.approx(0.125, rel=1e-9)


def test_seeds_share_an_entry_and_missing_scales_are_left_out():
    row = {"step_rule": "fixed", "data": "raw", "width": 3, "depth": 2, "rank": 7}
    rows = [row | {"scale_middle": s, "scale_last": s} for s in (0.5, 0.5 * (1 + 1e-15), None)]
    assert [s["scale_last"] for s in metadata.scales(rows)] == [0.5]
    assert metadata.ranks(rows) == {"raw": 7}
