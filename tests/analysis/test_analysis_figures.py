"""Figures contain what they claim to contain, in the same bytes each time."""

import re

import matplotlib as mpl
import numpy as np
import pytest
import study_table as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from dlnjax.analysis import figures, style, tables


@pytest.fixture(scope="module")
def rows():
    return tables.measure(st.table(st.study(seeds=(0,))))


def texts(figure):
    return [t.get_text() for axes in figure.axes for t in axes.texts + axes.get_xticklabels()]


def test_error_curves_have_the_predicted_slope(rows):
    """Each dashed line falls by the closed form's factor: its slope is read off the figure."""
    figure = figures.error_curves(rows)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["fixed step 0.01", "0.95 of the optimal step", "middle scaling, step 0.4"]
    dashed = [
        line for line in figure.axes[0].get_lines() if line.get_linestyle() == "--" and len(line.get_xdata())
    ]
    assert len(dashed) == 5
    for line in dashed:
        x, y = line.get_data()
        assert (np.log(y[-1]) - np.log(y[0])) / (x[-1] - x[0]) == pytest.approx(np.log(0.9984), rel=1e-9)
    assert "$N$ = 128" in texts(figure)


def test_rate_against_depth_shows_measured_and_predicted(rows):
    figure = figures.rate_against_depth(rows)
    solid = [
        line for line in figure.axes[0].get_lines() if line.get_linestyle() == "-" and len(line.get_xdata())
    ]
    fixed, optimal, middle = (np.array(line.get_ydata(), float) for line in solid[:3])
    assert np.allclose(fixed, 0.0016)
    assert np.allclose(middle, 0.064)
    assert np.allclose(optimal, 0.95 * 2 * 0.16 / (0.16 + 1 + (np.array([2, 8, 32, 64, 128]) - 1) * 0.82))
    assert any("slope \u22120.99" in text for text in texts(figure))
    assert len(figure.axes) == 2


def test_edge_marks_match_status(rows):
    figure = figures.stability_edge(rows)
    marks = [line for line in figure.axes[0].get_lines() if line.get_marker() in ("o", "X")]
    assert len(marks) == 12
    for mark in marks:
        assert (mark.get_marker() == "o") == (mark.get_xdata()[0] < 2)


def test_seeds_that_disagree_are_counted():
    cells = [st.reference("edge", 0.98, 2), st.reference("edge", 1.02, 2, seed=1, step=0.98)]
    assert "1/2" in texts(figures.stability_edge(st.table(cells)))


def test_data_studies_get_a_panel_a_width_and_whitening():
    rows = tables.measure(st.table(st.data_study()))
    for figure in (figures.error_curves(rows), figures.rate_against_depth(rows)):
        titles = [axes.get_title(loc="left") for axes in figure.axes]
        assert titles == [f"{data}, width {width}" for data in ("raw", "whitened") for width in (5, 10, 32)]
    assert texts(figure).count("no rate fitted") == 3
    assert figures.stability_edge(rows) is None


def test_nothing_to_draw():
    diverged = st.reference(
        "fixed", 0.01, 2, status="diverged", curve_distance=np.full(129, np.nan), predicted_factor=None
    )
    for name, draw in figures.STUDY.items():
        assert draw([]) is None
        if name in figures.GENERAL:  # others show a diverged cell's mark or its spectrum
            assert draw(st.table([diverged])) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", figures.GENERAL)
def test_bytes_are_reproducible_and_text_is_text(tmp_path, rows, name):
    """Two drawings under different user settings give the same files; SVG keeps words as words, no date."""
    first = figures.save(figures.STUDY[name](rows), tmp_path / "a")
    with mpl.rc_context({"font.size": 20, "svg.hashsalt": "x", "axes.grid": False}):
        second = figures.save(figures.STUDY[name](rows), tmp_path / "b")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    svg = first[1].read_text()
    assert re.search(r"<text[^>]*>[^<]*(depth|step|edge)", svg)
    assert "<dc:date>" not in svg
    assert first[0].read_bytes()[:4] == b"\x89PNG"


def test_labels_are_kept_apart():
    figure = Figure()
    axes = figure.subplots()
    axes.set_ylim(0, 1)
    style.label_ends(axes, [(0.5, "a", "k"), (0.5, "b", "k"), (0.51, "c", "k"), (0.99, "d", "k")], gap=0.1)
    places = sorted(label.xyann[1] for label in axes.texts)
    assert np.diff(places).min() >= 0.1 - 1e-12
    assert places[-1] <= 1


def test_names_of_lines_that_coincide_keep_their_order():
    figure = Figure()
    axes = figure.subplots()
    axes.set_ylim(0, 1)
    style.label_ends(
        axes, [(0.9, "z", "k"), (0.5, "a", "k"), (0.49, "b", "k"), (0.5, "c", "k"), (0.1, "y", "k")]
    )
    upward = sorted(axes.texts, key=lambda label: label.xyann[1])
    assert [label.get_text() for label in upward] == ["y", "a", "b", "c", "z"]


def test_curves_that_end_early_are_named_below_all_curves(rows):
    """The names touch neither each other nor a line, at the sizes at which the figure is printed."""
    figure = figures.error_curves(rows)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = figure.axes[1]
    below = [label for label in axes.texts if label.get_ha() == "center"]
    for label in below:
        label.update_positions(canvas.get_renderer())
    names = [Text.get_window_extent(label) for label in below]  # without the line that leads to it
    assert len(names) == 2
    assert not names[0].overlaps(names[1])
    for line in axes.get_lines():
        points = axes.transData.transform(np.column_stack(line.get_data()))
        inside = (points > axes.bbox.min).all(1) & (points < axes.bbox.max).all(1)
        assert not any(box.contains(*point) for box in names for point in points[inside])


def test_user_settings_are_left_alone(rows):
    before = dict(mpl.rcParams)
    figures.stability_edge(rows)
    assert dict(mpl.rcParams) == before
