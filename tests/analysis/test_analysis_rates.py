"""The fitted factor against curves whose truth is known, and the refusal where there is none to find."""

from pathlib import Path

import numpy as np
import pytest
from study_table import modes_curve

from dlnjax.analysis import coverage, rates


def within(fit, truth):
    """The study's own demand on a measured factor."""
    return abs(fit.factor - truth) <= min(1e-6, 1e-4 * (1 - truth))


@pytest.mark.parametrize("gap", [7e-4, 1.6e-3, 0.02, 0.064, 0.15])
@pytest.mark.parametrize("start", [1e0, 1e-2, 1e-4])
def test_modes_of_the_reference_case(gap, start):
    """Slowest mode against 2.25 times its eigenvalue, 6.25 times, and a fast mode of negative sign."""
    factors = [1 - gap, 1 - 2.25 * gap, 1 - 6.25 * gap, -0.9 + gap]
    steps = np.log(1e-13) / np.log(1 - gap)
    curve = modes_curve(factors, start * np.array([1, 2, 0.5, 3]), steps, floor=2e-14 * start, records=256)
    fit = rates.fit(*curve)
    assert within(fit, 1 - gap)
    assert fit.low <= 1 - gap <= fit.high
    assert fit.high - fit.low < 2e-3 * gap


def test_nonlinear_transient():
    """``f^t (1 + c f^t)``: the second order of a nonlinear start, on a stalled floor."""
    steps = 20.0 * np.arange(257)
    main = 1e-2 * 0.995**steps
    fit = rates.fit(steps, main * (1 + 200 * main) + 1e-14 * np.random.default_rng(0).random(257))
    assert within(fit, 0.995)
    assert fit.low <= 0.995 <= fit.high


def test_intervals_cover():
    """Random spectra, starts, floors and stopping times: intervals cover the truth, most of them narrow."""
    rng = np.random.default_rng(1)
    covered, widths = [], []
    for seed in range(60):
        gap = 10 ** rng.uniform(-3.5, -1)
        factors = [1 - gap, 1 - gap * rng.uniform(1.5, 3), 1 - 6 * gap, -(1 - gap * rng.uniform(1.5, 4))]
        amplitudes = 10 ** rng.uniform(-3, -1) * np.array([1, *10 ** rng.uniform(-1, 1, 3)])
        num_steps = np.log(rng.choice([1e-13, 1e-13, 1e-8])) / np.log(1 - gap)
        fit = rates.fit(
            *modes_curve(factors, amplitudes, num_steps, floor=10 ** rng.uniform(-16, -13), seed=seed)
        )
        if fit.factor is not None:
            covered.append(fit.low <= 1 - gap <= fit.high)
            widths.append((fit.high - fit.low) / gap)
    assert len(covered) >= 54
    assert np.mean(covered) >= 0.95
    assert np.median(widths) < 1e-3


def test_floor_is_not_fitted():
    """Two thirds of the records lie on the floor; the window ends well above it."""
    steps, curve = modes_curve([0.9], [1e-2], 900, floor=1e-12, records=256)
    fit = rates.fit(steps, curve)
    assert within(fit, 0.9)
    assert curve[np.searchsorted(steps, fit.last)] > 3e-12


@pytest.mark.parametrize("records", [40, 128, 512])
def test_uneven_records(records):
    """Steps need not be equally far apart."""
    steps = np.unique(np.linspace(0, 45, records) ** 2).round()
    steps = np.unique(steps)
    fit = rates.fit(steps, 0.5 * 0.99**steps)
    assert fit.factor == pytest.approx(0.99, abs=1e-10)


TABLE = Path(__file__).resolve().parents[2] / "results" / "methods" / "intervals.csv"


def test_the_table_of_coverage_is_complete_and_honest():
    """Every kind of curve is there, and no row's intervals hold the truth in fewer than 95 of 100 answers."""
    rows = coverage.read(TABLE)
    assert [row.kind for row in rows] == coverage.kinds()
    assert {row.draws for row in rows} == {coverage.DRAWS}
    assert min(row.covered / row.answered for row in rows if row.answered) >= 0.95
    alone = [row for row in rows if row.kind == coverage.Kind(0.0, 1)]
    assert alone[0].answered == alone[0].draws  # a single clean mode always has its rate
    assert alone[0].width < 1e-5


SOME = [
    coverage.Kind(0.0, 1),
    coverage.Kind(0.07, 2),
    coverage.Kind(0.01, 2),
    coverage.Kind(0.5, 4),
    coverage.Kind(0.0, 1, floor=-8, precision="float32"),
]


@pytest.mark.parametrize("kind", SOME)
def test_the_table_of_coverage_is_what_is_computed(kind):
    """A few rows again with fewer curves: none missed, and about as many answered."""
    row = next(row for row in coverage.read(TABLE) if row.kind == kind)
    again = coverage.measured(kind, 12)
    assert again.covered >= again.answered - 1
    share = row.answered / row.draws
    assert abs(again.answered - 12 * share) <= 1 + 4 * np.sqrt(12 * share * (1 - share))


@pytest.mark.parametrize("gap", [0.01, 0.03])
def test_the_curve_of_the_simulation_is_its_formula(gap):
    """Without noise to speak of: the norm of the modes, and the slowest of them at the end."""
    kind = coverage.Kind(gap, 2, floor=-300)
    steps, errors, truth = coverage.curve(kind, 3)
    late = np.log(errors[-1] / errors[-2]) / (steps[-1] - steps[-2])
    slow, fast = np.log(truth), np.log(1 - (1 - truth) * (1 + gap))
    assert fast <= late <= slow
    assert slow - fast == pytest.approx(-slow * gap, rel=0.2)


def test_close_modes_are_separated_or_refused():
    """Two modes 5 per cent apart: an interval that excludes the truth is worse than none."""
    fits = [
        rates.fit(*modes_curve([0.99, 1 - 0.01 * 1.05], [1, 3], 1500, floor=1e-14, seed=s)) for s in range(20)
    ]
    assert all(fit.factor is None or fit.low <= 0.99 <= fit.high for fit in fits)


@pytest.mark.parametrize(("slow", "fast"), [(0.999, 0.98), (0.998, 0.98), (0.995, 0.95)])
def test_a_slow_mode_that_surfaces_late(slow, fast):
    """The first decades are a clean line of the fast mode; what comes later must spoil that fit."""
    steps = 6 / (1 - slow)
    fit = rates.fit(*modes_curve([slow, fast], [1e-6, 1], steps, floor=1e-16, records=256))
    assert fit.factor is None or fit.low <= slow <= fit.high


REFUSED = {
    "power law": lambda t: 1 / (1 + t),
    "wide spectrum": lambda t: np.sqrt(np.exp(-2 * np.outer(np.geomspace(1e-8, 1e-1, 60), t)).sum(axis=0)),
    "flat": lambda t: np.full_like(t, 0.3),
    "growing": lambda t: 1e-3 * 1.01**t,
    "bounded orbit": lambda t: np.minimum(1e-3 * 1.05**t, 0.2 + 0.01 * np.cos(3 * t)),
    "turning complex pair": lambda t: 0.99**t * np.abs(np.cos(0.013 * t)) + 1e-18,
    "falls by half": lambda t: 0.9995**t,
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    steps = 5.0 * np.arange(257)
    fit = rates.fit(steps, REFUSED[name](steps))
    assert fit[:5] == (None,) * 5
    assert fit.reason.startswith("no asymptotic regime: ")


def test_bad_records_end_the_curve():
    steps = 5.0 * np.arange(257)
    curve = 0.97**steps
    whole = rates.fit(steps[:150], curve[:150])
    curve[150] = np.nan
    curve[160:] = np.inf
    assert rates.fit(steps, curve) == whole
    assert "usable records" in rates.fit(steps, np.full(257, np.nan)).reason
    assert "0 usable records" in rates.fit(steps, np.zeros(257)).reason
    assert "0 usable records" in rates.fit([], []).reason


def test_bad_arguments():
    with pytest.raises(ValueError, match="one length"):
        rates.fit(np.arange(5), np.ones(4))
    with pytest.raises(ValueError, match="must increase"):
        rates.fit(np.zeros(20), np.ones(20))


def test_floor_of_a_stalled_and_of_a_falling_curve():
    _, stalled = modes_curve([0.9], [1.0], 600, floor=1e-10)
    assert 5e-11 < rates.rounding_floor(stalled) < 1e-9
    _, falling = modes_curve([0.9], [1.0], 100, floor=1e-10)
    assert rates.rounding_floor(falling) < 1e-7 < falling[-1] * 1e3
