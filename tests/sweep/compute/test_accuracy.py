"""Held-out samples: which they are, that no step sees them, and accuracies against numpy's closed form."""

import numpy as np
import pytest
import study_table as st
from spec_cases import lines

from dlnjax import sweep as sweeps
from dlnjax.analysis import claims, figures, tables
from dlnjax.sweep.config import datasets, loading

COUNT, CLASSES = 60, 4


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Labelled samples of overlapping classes: ``(path, x, labels)``."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, COUNT)
    x = rng.standard_normal((CLASSES, 6))[labels] + rng.standard_normal((COUNT, 6))
    path = tmp_path_factory.mktemp("data") / "d.npz"
    np.savez(path, x=x, y=labels, targets=x[:, :2])
    return path, x, labels


VALUES = {
    "study": "held", "kind": "file", "held_out": 0.25, "step_rule": "optimal", "step": 0.9, "engine": "reduced",
    "start": "haar",
    "width": 2, "depth": [2, 5], "seed": [0, 1], "records": 128, "tolerance": 1e-6, "depth_of_fit": 1e-7,
}  # fmt: skip


def grid(path, **changes):
    return loading.grid(**{**VALUES, "path": path, **changes})


def split(x, labels):
    """The held-out samples as the library has them: a quarter, chosen by numpy's legacy generator with seed 0."""
    held = np.zeros(COUNT, bool)
    held[np.random.RandomState(0).permutation(COUNT)[: COUNT // 4]] = True
    return (x[~held], labels[~held]), (x[held], labels[held])


def best_product(x, labels, rank):
    """``(d_N, d_0)``: the best product of the rank, by least squares and a truncated singular value decomposition."""
    left, values, right = np.linalg.svd(x.T, full_matrices=False)
    y = np.eye(CLASSES)[labels].T
    u, s, v = np.linalg.svd(y @ right.T, full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank] @ (left / values).T


def share(product, x, labels):
    return np.mean(np.argmax(product @ x.T, axis=0) == labels)


def test_the_split_is_fixed_and_disjoint(samples):
    path, x, labels = samples
    (kept, _), (held, y) = datasets.parts(grid(path).problem)
    (mine, _), (others, told) = split(x, labels)
    np.testing.assert_array_equal(kept.T, mine)
    np.testing.assert_array_equal(held.T, others)
    np.testing.assert_array_equal(y.argmax(axis=0), told)
    (every, _), none = datasets.parts(grid(path, held_out=0.0).problem)
    assert every.shape == (6, COUNT)
    assert none is None
    (few, _), (one, _) = datasets.parts(grid(path, held_out=1e-6).problem)
    assert (few.shape[1], one.shape[1]) == (COUNT - 1, 1)


SLOW = {
    "engines": {"engine": "both"},
    "wide": {"width": 5},
    "general": {
        "engine": "layers",
        "optimizer": "heavy_ball",
        "momentum": 0.5,
        "step_rule": "fixed",
        "step": 0.1,
    },
    "raw": {"data": "raw", "max_steps": 2000},
}


@pytest.mark.parametrize(
    "more", [{}, *(pytest.param(more, id=name, marks=pytest.mark.slow) for name, more in SLOW.items())]
)
def test_accuracies_are_those_of_the_closed_form(samples, tmp_path, more):
    path, x, labels = samples
    asked = grid(path, **more)
    sweeps.run(asked, tmp_path / "out")
    table = sweeps.read(tmp_path / "out")
    seen, other = split(x, labels)
    best = best_product(*seen, min(more.get("width", 2), CLASSES))
    if "data" not in more:  # raw data run out of steps; their best product is the same matrix
        assert set(table["status"].to_pylist()) == {"converged"}
        np.testing.assert_allclose(table["train_accuracy"], share(best, *seen), rtol=1e-12)
        np.testing.assert_allclose(table["test_accuracy"], share(best, *other), rtol=1e-12)
    np.testing.assert_allclose(table["optimum_accuracy"], share(best, *other), rtol=1e-12)
    rows = tables.measure(table)
    assert all(row["curve_test_accuracy"][-1] == row["test_accuracy"] for row in rows)
    assert all(len(set(row["curve_train_accuracy"])) > 1 for row in rows)
    for a, b in tables.engine_pairs(rows):
        np.testing.assert_array_equal(a["curve_test_accuracy"][:20], b["curve_test_accuracy"][:20])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"held_out": 1.0}, "held_out: 1.0 is not below 1"),
        ({"held_out": -0.1}, "held_out: -0.1 is negative"),
        ({"activation": "tanh", "engine": "layers", "step_rule": "fixed"}, 'activation: "tanh" does not go with'),
        ({"batch_size": 3, "engine": "layers"}, "batch_size: 3 does not go with problem.held_out"),
    ],
    ids=["one", "negative", "activation", "batch"],
)  # fmt: skip
def test_mistakes(samples, more, told):
    with pytest.raises(loading.SpecError, match=told.replace(".", r"\.")):
        grid(samples[0], **more)


def test_accuracy_needs_labels(samples, tmp_path):
    np.savez(tmp_path / "t.npz", x=samples[1], y=samples[1][:, :2])
    (line,) = lines(lambda: grid(tmp_path / "t.npz"))
    assert "held_out: 0.25 needs labels, of two samples at least; y has targets" in line
    assert grid(tmp_path / "t.npz", held_out=0.0).problem.held_out == 0


def test_a_key_that_is_not_given_changes_no_name(samples):
    values = {name: value for name, value in VALUES.items() if name != "held_out"}
    plain = loading.grid(path=samples[0], **values)
    assert plain.hash() == grid(samples[0], held_out=0.0).hash() != grid(samples[0]).hash()


# --- claims and figure, on made-up cells ------------------------------------------------------------


def cell(depth, seed=0, rule="optimal", test=0.9, arrives=10, **changes):
    """A cell whose test accuracy is .5 until the record ``arrives``."""
    row = st.reference(rule, 0.5, depth, seed)
    curve = np.full(st.RECORDS + 1, test)
    curve[:arrives] = 0.5
    steps = 1.0 * np.arange(st.RECORDS + 1)
    told = {"train_accuracy": 0.95, "test_accuracy": test, "optimum_accuracy": 0.9, "curve_step": steps}
    return {**PLAIN, **row, **told, "curve_test_accuracy": curve, **changes}


PLAIN = {**tables.PARTS, "output_dim": 4}


def measured(*cells):
    return [tables._measured(row, 1e-8) for row in cells]


def verdicts(*cells):
    return {c.claim: (c.verdict, c.measured) for c in claims.check(measured(*cells), ["accuracy"])[0]}


OPTIMUM = "converged: the test accuracy is that of the best product of the rank"


def test_claims_of_accuracy():
    found = verdicts(*(cell(depth, seed, arrives=5 * depth) for depth in (2, 4, 8) for seed in (0, 1)))
    assert [verdict for verdict, _ in found.values()] == ["holds"] * 3
    assert found[OPTIMUM] == ("holds", "6 of 6")
    assert any(said.startswith("1.00 +- 0.00 (medians 10, 20, 40)") for _, said in found.values())
    flat = verdicts(*(cell(depth, arrives=5) for depth in (2, 4, 8)))
    assert [verdict for verdict, _ in flat.values()] == ["holds", "holds", "fails"]
    assert [v for v, _ in verdicts(*(cell(d, rule="middle", arrives=5) for d in (2, 4))).values()] == [
        "holds"
    ] * 3
    worse = verdicts(cell(2), cell(4, test=0.87))
    assert [verdict for verdict, _ in worse.values()][:2] == ["fails", "fails"]
    raw = verdicts(
        *(cell(2, seed, test=test, data="raw", status="out_of_steps") for seed, test in ((0, 0.91), (1, 0.9)))
    )
    assert [verdict for verdict, _ in raw.values()] == ["holds"]
    assert [v for v, _ in verdicts(cell(2, test=0.8, data="raw", status="out_of_steps")).values()] == [
        "fails"
    ]


def test_steps_are_those_behind_the_last_excursion():
    row = cell(2, arrives=7)
    row["curve_test_accuracy"][30] = 0.8
    assert tables._accuracy_steps(row) == 31
    assert tables._accuracy_steps({**row, "status": "diverged"}) is None
    assert "accuracy_steps" in tables.to_csv(measured(row)).splitlines()[0]


def test_figure_of_accuracy():
    rows = measured(
        *(cell(d, s, rule, arrives=5 * d) for d in (2, 8) for s in (0, 1) for rule in ("optimal", "middle"))
    )
    figure = figures.accuracy(rows)
    above, below = figure.axes
    assert [len(axes.containers) for axes in (above, below)] == [2, 2]
    np.testing.assert_allclose(above.containers[0].lines[0].get_ydata(), [10, 40])
    assert figures.accuracy([]) is None
