"""The checks of deep sparse coding: they hold on a few instances, and see what is broken on purpose."""

import numpy as np
import pytest

from dlnjax import sparse
from dlnjax.campaigns import sparse_claims
from dlnjax.campaigns.checks import sparse_bounds, sparse_learning, sparse_rates


def test_bounds_hold_and_counterexamples_are_found():
    found = sparse_bounds.uniqueness(instances=45)
    assert found.violations == 0
    assert found.checks > 20
    sharp = [r for r in found.rows if r["depth"] == 1 and abs(r["sparsity"] - r["bound"]) < 1e-6]
    assert sharp
    assert all(r["others"] > 0 for r in sharp)
    stable = sparse_bounds.stability(instances=14)
    assert stable.violations == 0
    assert 0.3 < stable.tightest <= 1


def test_bounds_that_promise_too_much_are_seen(monkeypatch):
    monkeypatch.setattr(sparse_bounds.sparse, "is_unique", lambda *_: True)
    assert sparse_bounds.uniqueness(instances=27).violations > 0
    honest = sparse.stability
    tight = lambda *a: honest(*a)._replace(errors=tuple(0.3 * e for e in honest(*a).errors))  # noqa: E731
    monkeypatch.setattr(sparse_bounds.sparse, "stability", tight)
    assert sparse_bounds.stability(instances=3).violations > 0


def test_factors_are_the_predicted_ones():
    found = sparse_rates.factors(instances=8)
    assert found.violations == 0
    assert sum(r["difference"] is not None for r in found.rows) >= 5
    assert {r["network"] for r in found.rows} == {name for name, _ in sparse_rates._KINDS}


def test_a_wrong_prediction_is_seen(monkeypatch):
    honest = sparse.predict
    monkeypatch.setattr(sparse_rates.sparse, "predict", lambda *a: honest(*a) * (1 + 1e-5))
    monkeypatch.setattr(
        sparse_rates, "_KINDS", [kind for kind in sparse_rates._KINDS if kind[0] == "analytic weights"]
    )
    assert sparse_rates.factors(instances=2).violations > 0


def test_an_orthonormal_chain_has_its_closed_form(monkeypatch):
    monkeypatch.setattr(sparse_rates, "DEPTHS", (2,))
    found = sparse_rates.depth(instances=1)
    plain = next(r for r in found.rows if r["dictionary"] == "orthonormal")
    assert plain["layered_factor"] < 1e-12
    assert plain["predicted_factor"] == pytest.approx(1 - (3 - 5**0.5) / (3 + 5**0.5), abs=1e-12)
    assert plain["difference"] < 1e-6
    assert found.violations == 0


def test_the_fit_reads_two_modes():
    """``e_k = 0.9^k u + 0.5^k v``: the larger of the two roots, to rounding."""
    powers = np.arange(12.0)[:, None]
    errors = 0.9**powers * [1.0, 0.3] + 0.5**powers * [0.2, -1.0]
    assert sparse_rates._fit(errors) == pytest.approx(0.9, abs=1e-12)


def test_an_orthonormal_dictionary_is_recovered(monkeypatch):
    monkeypatch.setattr(sparse_learning, "_SHAPES", [("orthonormal", 10, 8, 1, 1)])
    monkeypatch.setattr(sparse_learning, "_LONG", 300)
    found = sparse_learning.recovery(instances=1)
    assert [r["recovered"] for r in found.rows] == [1, 1]
    monkeypatch.setattr(sparse_learning, "_LONG", 2)
    assert sparse_learning.recovery(instances=1).violations > 0


def test_claims_fail_where_the_rows_do():
    row = {"part": "uniqueness", "depth": 1, "sparsity": 3, "bound": 3.0, "inside": 0, "others": 0}
    assert [c.verdict for c in sparse_claims.uniqueness([row])] == ["fails", "fails", "fails"]
    inside = [row | {"inside": 1, "sparsity": 1}] * 1000
    assert [c.verdict for c in sparse_claims.uniqueness([*inside, row | {"others": 1}])] == ["holds"] * 3
