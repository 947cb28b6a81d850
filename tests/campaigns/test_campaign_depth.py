"""Campaigns on what depth and shape cost, on few instances, against formulas written out here."""

import numpy as np
import pytest

from dlnjax.campaigns.checks import accelerated
from dlnjax.campaigns.checks.accelerated import momentum_depth


@pytest.mark.parametrize("depth", [2, 64])
def test_heavy_ball_is_read_as_its_definition_says(depth):
    """The factor from the roots of z^2 - (1 + beta - lambda) z + beta, computed here."""
    found = momentum_depth(instances=2, depths=(depth,))
    low, high = 0.16, 1 + (depth - 1) * 0.82
    beta = ((high**0.5 - low**0.5) / (high**0.5 + low**0.5)) ** 2
    mu = 0.5 * 4 / (high**0.5 + low**0.5) ** 2
    slowest = max(abs(np.roots([1, -(1 + beta - mu * low), beta])))
    assert found.violations == 0
    for row in found.rows:
        assert row["momentum"] == pytest.approx(beta, rel=1e-12)
        assert row["measured_factor"] == pytest.approx(slowest, abs=1e-6)
        assert row["measured_low"] <= slowest <= row["measured_high"]


def test_a_wrong_prediction_of_heavy_ball_is_a_violation(monkeypatch):
    monkeypatch.setattr(accelerated.momentum, "mode_factor", lambda eigenvalue, beta: np.array([0.83]))
    found = momentum_depth(instances=1, depths=(2,))
    assert found.violations == 1
    assert found.rows[0]["ratio"] > 1e3
