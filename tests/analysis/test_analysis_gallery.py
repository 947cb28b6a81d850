"""The gallery: its figures show the numbers given, and every figure looks as it was when last looked at.

``DLNJAX_BASELINE=write pytest tests/analysis/test_analysis_gallery.py`` draws the baselines anew: look at each.
"""

import io
import os
from pathlib import Path

import gallery_cases as cases
import numpy as np
import pytest
import study_table as st
from PIL import Image

from dlnjax.analysis import figures, tables

BASELINE = Path(__file__).parents[1] / "baseline"
#: Root mean square over pixels and channels, of 255. Another rounding of a glyph gives below 1, a moved line above 4.
TOLERANCE = 2.0


@pytest.fixture(scope="module")
def drawn():
    study = tables.measure(st.table(st.study(seeds=(0,))))
    return cases.drawn() | {name: figures.STUDY[name](study) for name in figures.GENERAL}


def pixels(figure):
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=70)
    return Image.open(stream).convert("RGB")


def deviation(a, b):
    return float(np.sqrt(np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2)))


NAMES = [
    "phase_diagram",
    "spectra",
    "singular_values",
    "balancedness",
    "orthonormality_drift",
    "cost_against_depth",
]


@pytest.mark.parametrize("name", [*NAMES, *figures.GENERAL])
def test_figures_look_as_before(drawn, name):
    found, path = pixels(drawn[name]), BASELINE / f"{name}.png"
    if os.environ.get("DLNJAX_BASELINE") == "write":
        BASELINE.mkdir(exist_ok=True)
        found.save(path, optimize=True)
    kept = Image.open(path).convert("RGB")
    assert found.size == kept.size
    assert deviation(found, kept) < TOLERANCE


def test_a_changed_number_changes_the_picture(drawn):
    times, exact, _, _ = cases.curves()
    moved = figures.singular_values(times, exact * (1 + 1e-3), exact * 0.97)
    kept = Image.open(BASELINE / "singular_values.png").convert("RGB")
    assert deviation(pixels(moved), kept) > TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_bytes_are_reproducible(tmp_path, name):
    first = figures.save(cases.drawn()[name], tmp_path / "a")
    second = figures.save(cases.drawn()[name], tmp_path / "b")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_phase_diagram_marks_what_converges():
    rows = cases.phase_rows()
    axes = figures.phase_diagram(rows).axes[0]
    good = [row for row in rows if row["status"] == "converged"]
    assert axes.collections[0].get_array().size == len(good)
    crosses, edge = axes.get_lines()
    assert len(crosses.get_xdata()) == len(rows) - len(good)
    np.testing.assert_allclose(edge.get_xdata(), [2 / (1 + (n - 1) * 0.82) for n in cases.DEPTHS])
    assert figures.phase_diagram([]) is None


def test_middle_scaling_has_a_phase_diagram_of_its_own():
    rows = cases.phase_rows()
    middle = [{**row, "step_rule": "middle", "step_max": 10 * row["step_max"]} for row in rows]
    left, right, _ = figures.phase_diagram([*rows, *middle]).axes
    titles = [axes.get_title(loc="left") for axes in (left, right)]
    assert titles == ["Which steps converge", "The same with middle scaling"]
    assert len(left.collections[0].get_offsets()) == len(right.collections[0].get_offsets()) > 0
    edges = [next(line for line in axes.lines if line.get_linestyle() == "--") for axes in (left, right)]
    assert edges[1].get_xdata() == pytest.approx(10 * np.array(edges[0].get_xdata()))


def test_spectra_leave_out_what_counts_as_zero():
    line = figures.spectra({8: cases.spectrum(8)}).axes[0].get_lines()[0]
    assert len(line.get_ydata()) == 48
    assert line.get_ydata()[0] == pytest.approx(0.1 * (1 + 7 * 0.82))
    assert line.get_ydata()[-1] == pytest.approx(0.1 * 0.16)


def test_cost_names_its_exponent():
    axes = figures.cost_against_depth(
        {"layers": {2: 2.0, 8: 8.0, 32: 32.0}, "reduced": {2: 1.0, 32: 1.0}}
    ).axes[0]
    assert [text.get_text() for text in axes.texts] == ["reduced\n$N^{0.00}$", "layers\n$N^{1.00}$"]


def test_bounds_and_units_are_drawn():
    t = np.arange(1, 5)
    lines = figures.balancedness(t, {"a": t * 1e-3}, bound=0.5).axes[0].get_lines()
    assert [0.5, 0.5] in [list(line.get_ydata()) for line in lines]
    lines = figures.orthonormality_drift(t, {"a": t * 0.0}, precision="float32").axes[0].get_lines()
    assert [np.finfo("float32").eps] * 2 in [list(line.get_ydata()) for line in lines]


def test_singular_values_must_fit():
    with pytest.raises(ValueError, match=r"exact has shape \(3, 1\); give \(times, modes\) for 3 times"):
        figures.singular_values([0, 1, 2], np.ones((3, 2)), np.ones((3, 1)))
