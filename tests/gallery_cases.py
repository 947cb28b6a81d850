"""Made-up data for the gallery's plots, from formulas: name -> figure."""

import numpy as np
import study_table as st

from dlnjax.analysis import figures, tables
from dlnjax.theory import modes

DEPTHS = (2, 4, 8, 16, 32)


def phase_rows():
    rows = []
    for depth in DEPTHS:
        for mu in np.geomspace(0.01, 1.5, 10):
            edge = 2 / (1 + (depth - 1) * 0.82)
            rows.append(st.reference("edge", float(mu / edge), depth, step_size=float(mu)))
    return tables.measure(st.table(rows))


def spectrum(depth):
    """The closed form's eigenvalues of the reference case at mu = 0.1."""
    s2 = np.array([1.0, 0.64, 0.36, 0.16])
    a, b = np.triu_indices(4, 1)
    pairs = 0.1 + 0.1 * (depth - 1) * (s2[a] + s2[b]) / 2
    return np.concatenate([np.full(26, 0.1), pairs, np.repeat(0.1 * s2, 4), np.zeros(16)])


def curves():
    times = np.linspace(0, 12, 80)
    exact = np.stack([modes.trajectory(times, 0.01, s, 2) for s in (1.0, 0.7, 0.4)], axis=1)
    steps = np.unique(np.geomspace(1, 1e5, 40).astype(int))
    drift = {
        name: 1e-15 * (1 + i) * (1 + 0.1 * np.sin(np.log(steps) * 3))
        for i, name in enumerate(("polar", "qr", "cayley"))
    }
    return times, exact, steps, drift


def drawn():
    times, exact, steps, drift = curves()
    t = np.arange(0, 2001, 20)
    return {
        "phase_diagram": figures.phase_diagram(phase_rows()),
        "spectra": figures.spectra({depth: spectrum(depth) for depth in (2, 8, 32)}),
        "singular_values": figures.singular_values(times, exact * (1 + 1e-3), exact),
        "balancedness": figures.balancedness(
            t, {"descent": 0.01 * (1 - np.exp(-t / 300)) + 1e-5, "flow": np.full(t.size, 1e-5)}, bound=0.03
        ),
        "orthonormality_drift": figures.orthonormality_drift(steps, drift),
        "cost_against_depth": figures.cost_against_depth(
            {
                "layers": {d: 2e-6 * d for d in (2, 8, 32, 128, 512)},
                "reduced": {d: 2e-5 * d**0.1 for d in (2, 8, 32, 128, 512)},
            }
        ),
    }
