"""On a user's regression data every interval fitted holds the predicted rate, whatever solution a run reached."""

import numpy as np
import pytest

from dlnjax import sweep
from dlnjax.analysis import tables


@pytest.mark.parametrize("outputs", [1, 3])
def test_intervals_hold_the_prediction(tmp_path, outputs):
    """With wide last layers every start heads for another solution; some runs here are stopped by their budget."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 4)) @ np.diag(np.linspace(1, 0.5, 4))
    y = x @ rng.normal(size=(4, outputs)) + 0.3 * rng.normal(size=(300, outputs))
    np.savez(tmp_path / "data.npz", x=x, y=y)
    study = sweep.grid(
        study="own", problem={"kind": "file", "path": str(tmp_path / "data.npz")}, data="raw", start="haar",
        engine="reduced", width=[2, 4], depth=[2, 4], seed=[0, 1], records=256, depth_of_fit=1e-8,
        max_steps=20000, step_rule="fixed", step=0.03,
    )  # fmt: skip
    sweep.run(study, tmp_path / "out")
    rows = tables.to_pandas(tables.measure(sweep.read(tmp_path / "out"))).to_dict("records")
    fitted = [row for row in rows if row["measured_factor"] > 0 and row["predicted_factor"] > 0]
    assert len(fitted) >= 4
    if outputs == 1:
        assert any(row["status"] == "out_of_steps" for row in fitted)
    for row in fitted:
        assert row["measured_low"] <= row["predicted_factor"] <= row["measured_high"]
        assert row["measured_high"] - row["measured_low"] < 1e-3


def test_a_run_that_ended_at_no_solution_has_no_predicted_factor(tmp_path):
    """Stopped after a few steps: what it heads for is not known, and its number is left out."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 4))
    np.savez(tmp_path / "data.npz", x=x, y=x @ rng.normal(size=(4, 1)))
    study = sweep.grid(
        study="own", problem={"kind": "file", "path": str(tmp_path / "data.npz")}, data="raw", start="haar",
        engine="reduced", width=3, depth=4, seed=[0, 1], max_steps=20, step_rule="fixed", step=0.03,
    )  # fmt: skip
    sweep.run(study, tmp_path / "out")
    for row in sweep.read(tmp_path / "out").to_pylist():
        assert row["status"] == "out_of_steps"
        assert row["predicted_factor"] is None or np.isnan(row["predicted_factor"])
