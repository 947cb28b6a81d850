"""Claims and figures of the studies of parts and methods, on made-up cells whose answers are known."""

import numpy as np
import pytest
import study_table as st

from dlnjax.analysis import claims, figures, tables


def cell(depth=2, step=0.1, factor=0.984, rule="fixed", **changes):
    """A cell that falls with one factor; its name from what it is."""
    steps, distance = st.modes_curve([factor], [1e-2], 2000)
    plain = {"free": "first", "loss": "square", "activation": "linear", "batch_size": 0, "label_noise": 0.0}
    found = plain | {"curve_step": steps, "curve_distance": distance, "predicted_factor": factor} | changes
    made = st.reference(rule, step, depth, **found)
    return made | {
        "cell": f"{abs(hash(repr(sorted(changes.items(), key=str)) + f'{depth}{step}{factor}')):064x}"[-64:]
    }


def verdicts(name, *cells):
    rows = tables.measure(st.table(list(cells)))
    return {c.claim: (c.verdict, c.measured) for c in claims.check(rows, [name])[0]}


def test_free_layer():
    ends = [cell(free=free, eigenvalue_min=0.016) for free in ("first", "last")]
    stuck = cell(free="none", final_loss=0.28, status="out_of_steps")
    found = verdicts("free_layer", *ends, stuck)
    assert [verdict for verdict, _ in found.values()] == ["holds"] * 4
    below = verdicts(
        "free_layer", cell(free="none", final_loss=0.27), ends[0], cell(free="last", eigenvalue_min=0.02)
    )
    assert [verdict for verdict, _ in below.values()] == ["holds", "holds", "fails", "fails"]
    assert verdicts("free_layer", cell(free="middle", status="out_of_steps"))[
        "free layer middle: every cell converges"
    ] == ("fails", "0 of 1; 1 - factor 0.01600 to 0.01600")


def test_losses_are_held_between_their_curvatures():
    square, good, slow, fast = cell(), *(cell(loss="weighted", factor=f) for f in (0.992, 0.999, 0.98))
    name = "weighted: 1 - factor as a share of the square loss's"
    assert verdicts("losses", square, good)[name][0] == "holds"
    assert verdicts("losses", square, slow)[name][0] == "fails"
    assert verdicts("losses", square, fast)[name][0] == "fails"
    assert verdicts("losses", good) == {}


def bent(name, depth, share, seed=0, **more):
    return cell(depth, activation=name, eigenvalue_min=0.1 * share, seed=seed, **more)


def test_activations():
    straight = [bent("linear", depth, 0.25) for depth in (2, 3)]
    falling = [bent("tanh", depth, share, seed) for depth, share in ((2, 1e-2), (3, 1e-4)) for seed in (0, 1)]
    falling[1]["eigenvalue_min"] /= 100
    found = verdicts("activations", *straight, *falling)
    assert [verdict for verdict, _ in found.values()] == ["holds"] * 5
    assert (
        found["tanh: the smallest eigenvalue over mu (median) falls with depth, N = 2..3"][1]
        == "5.0e-03, 1.0e-04"
    )
    rising = [bent("tanh", 2, 1e-4), bent("tanh", 3, 1e-2)]
    assert [verdict for verdict, _ in verdicts("activations", *rising).values()] == [
        "fails",
        "fails",
        "holds",
    ]
    wrong = bent("tanh", 2, 1e-2, predicted_factor=0.98)
    assert (
        "fails" in verdicts("activations", wrong)["tanh: measured = predicted where a rate could be fitted"]
    )


def run(depth, step, count, name="rgd", seed=0, **more):
    status = "converged" if count else "diverged"
    return cell(depth, step, optimizer=name, iterations=count, status=status, seed=seed, start="haar", **more)


def test_algorithms_are_tuned_over_one_grid():
    grid = [run(16, step, count) for step, count in ((0.1, 1000), (0.3, None))]
    grid += [run(16, step, count, "heavy_ball") for step, count in ((0.1, 700), (0.3, 400))]
    grid += [run(16, 0.1, 1050, "landing"), run(16, 0.1, 1200, "pogo")]
    grid += [run(16, 0.1, 1100, "gd"), run(16, 0.1, 1100, "gd", 1), run(16, 0.9, 300, rule="optimal")]
    found = verdicts("algorithms", *grid, run(16, 0.1, None, "gd", 5) | {"start": "gaussian"})
    assert found["RGD and GD from one orthonormal start need about the same steps at mu = 0.1"] == (
        "holds",
        "N = 16: 1000 and 1100",
    )
    name = "RGD and {} need the same steps at mu = 0.1"
    assert found[name.format("landing")] == ("holds", "N = 16: 1000 and 1050")
    assert found[name.format("pogo")] == ("fails", "N = 16: 1000 and 1200")
    assert found["heavy_ball, tuned, needs fewer steps than RGD at N = 16"] == ("holds", "400 against 1000")
    assert found["rgd: fewest steps (median), and the step size"][1] == "N = 16: 1000 at 0.1"
    assert found["gd, gaussian: fewest steps (median), and the step size"][1] == "N = 16: none"
    assert found["GD from Gaussian layers fails at N = 16 at every step"][0] == "holds"
    assert found["rgd at 0.9 of RGD's best step converges"][0] == "holds"
    worse = verdicts(
        "algorithms", run(16, 0.1, 1000), run(16, 0.1, 2000, "gd"), run(16, 0.1, 1200, "heavy_ball")
    )
    assert [verdict for verdict, _ in worse.values()][:2] == ["fails", "fails"]
    assert isinstance(figures.STUDY["step_grid"](tables.measure(st.table(grid))), figures.Figure)


def test_initialisation_counts_pairs_of_width_and_depth():
    cells = [
        run(16, step, count, "gd", width=4) | {"start": "gaussian"}
        for step, count in ((0.1, None), (0.3, None))
    ]
    cells += [run(16, 0.1, 50, "gd", width=width) for width in (4, 8)]
    found = verdicts("initialisation", *cells)
    assert found["haar: converges at every depth and width at its best step"] == ("holds", "2 of 2 pairs")
    assert found["gaussian: width 4 fails at N = 16 at every step"] == (
        "holds",
        "0 of 1 pairs; not (width, depth) (4, 16)",
    )
    figure = figures.STUDY["steps_to_tolerance"](tables.measure(st.table(cells)))
    assert [axes.get_title(loc="left") for axes in figure.axes[:-1]] == ["width 4", "width 8"]


def noisy(step, batch, size, floor, seed=0):
    status = "out_of_steps" if batch and size else "converged"
    made = cell(4, step, batch_size=batch, label_noise=size, seed=seed, status=status)
    return made | {"curve_distance": np.maximum(made["curve_distance"], floor)}


@pytest.mark.parametrize(("power", "verdict"), [(0.5, "holds"), (1.0, "fails")])
def test_noise_floor_has_exponents(power, verdict):
    cells = [
        noisy(s, b, 0.1, 1e-4 * s**power * b**-0.5, seed)
        for s in (0.01, 0.04)
        for b in (10, 40)
        for seed in (0, 1)
    ]
    cells += [noisy(0.01, 0, 0.1, 0), noisy(0.01, 10, 0.0, 0)]
    found = verdicts("noise", *cells)
    assert found["clean labels: mini-batches converge"] == ("holds", "1 of 1")
    assert found["noisy labels, all samples: converge to their best product"] == ("holds", "1 of 1")
    assert found["noisy labels, mini-batches: exponent of the floor in step"] == (
        verdict,
        f"{power:.3f} +- 0.000",
    )
    assert found["noisy labels, mini-batches: exponent of the floor in batch_size"][0] == "holds"
    figure = figures.STUDY["noise_floor"](tables.measure(st.table(cells)))
    assert len(figure.axes[0].containers) == 2


def test_gauge_directions_are_drawn_a_line_an_activation():
    cells = [bent("linear", depth, 0.25) for depth in (2, 3)] + [
        bent("tanh", depth, 10.0**-depth) for depth in (2, 3)
    ]
    figure = figures.STUDY["gauge_directions"](tables.measure(st.table(cells)))
    lines = [line.get_ydata() for line in figure.axes[0].get_lines() if line.get_linestyle() == "-"]
    assert [list(np.round(y, 6)) for y in lines] == [[0.25, 0.25], [0.01, 0.001]]
