"""Claims that a config chooses: the words, what they say of made-up cells, and that they change no result."""

import pytest
import study_table as st

from dlnjax import analysis
from dlnjax.analysis import claims, figures, tables
from dlnjax.sweep.config import loading, options

RAW = {
    "kind": "teacher", "input_dim": 8, "output_dim": 8, "singular_values": [1.0, 0.5], "study": "demo",
    "step_rule": "fixed", "step": 0.1, "engine": "auto", "start": "near", "depth": 2, "width": 4, "seed": 0,
}  # fmt: skip


def of(name, *cells):
    return {c.claim: c.verdict for c in claims.check(tables.measure(st.table(list(cells))), [name])[0]}


def test_words_of_a_config_are_those_of_the_tables():
    assert set(options.CLAIMS) == set(claims.CLAIMS)
    assert claims.GENERAL == options.GENERAL_CLAIMS
    assert set(options.FIGURES) == set(figures.STUDY)
    assert figures.GENERAL == options.GENERAL_FIGURES


def test_what_is_claimed_and_drawn_changes_no_result(tmp_path):
    plain = loading.grid(**RAW)
    chosen = loading.grid(**RAW, claims=["edge", "predicted"], figures=[])
    assert chosen.hash() == plain.hash()
    assert [chosen.key(c) for c in chosen.cells()] == [plain.key(c) for c in plain.cells()]
    assert (chosen.claims, chosen.figures) == (("edge", "predicted"), ())
    path = tmp_path / "c.toml"
    path.write_text(chosen.to_toml())
    assert loading.load(path) == chosen
    assert "claims" not in plain.to_toml()


def test_mistakes_in_words_are_told():
    with pytest.raises(loading.SpecError) as caught:
        loading.grid(**RAW, claims=["edges"], figures=3)
    assert 'claims: "edges" is not known; did you mean "edge"?' in str(caught.value)
    assert "figures: 3 is not a list; give a list of some of error_curves" in str(caught.value)
    with pytest.raises(ValueError, match="claim 'none' is not known; there are: converged"):
        claims.check([], ["none"])


def test_a_folder_is_held_against_its_own_claims(tmp_path):
    out = st.write(tmp_path, st.study(depths=(2, 8), seeds=(0,)))
    (out / "config.toml").write_text(st.config(claims=["flat"], figures=["error_curves"]))
    names = [path.name for path in analysis.write(out).paths]
    assert names == ["summary.csv", "edge.csv", "claims.csv", "error_curves.png", "error_curves.svg"]
    assert len((out / "claims.csv").read_text().splitlines()) == 3


def test_a_cell_is_outside_of_what_is_claimed_only():
    cells = [st.reference("fixed", 0.01, 2, status="diverged"), st.reference("edge", 0.9, 2, step=1.1)]
    rows = tables.measure(st.table(cells))
    assert [len(claims.check(rows, names)[1]) for names in (["flat"], ["converged"], ["switch"])] == [0, 1, 1]


def test_the_switch_takes_every_fraction():
    steps = (0.9, 0.98, 1.02, 1.1)
    good = [st.reference("edge", step, depth) for step in steps for depth in (2, 8)]
    assert of("switch", *good) == {
        "`edge`: 0.9..0.98 of the edge converges, N = 2..8": "holds",
        "`edge`: 1.02..1.1 of the edge does not converge, N = 2..8": "holds",
    }
    late = [*good[:-1], st.reference("edge", 0.9, 8, step=1.1)]
    assert list(of("switch", *late).values()) == ["holds", "fails"]
    assert list(of("edge", *late).values()) == ["holds", "holds"]


def test_retractions_need_the_same_steps():
    def cell(retraction, more=0, depth=2):
        made = st.reference("fixed", 0.01, depth, retraction=retraction)
        return made | {"iterations": made["iterations"] + more, "cell": retraction + made["cell"][10:]}

    same = [cell("polar"), cell("qr", 1), cell("cayley")]
    assert list(of("retractions", *same).values()) == ["holds", "holds"]
    apart = [*same, cell("polar", 0, 4), cell("qr", 2, 4)]
    assert of("retractions", *apart) == {
        "cayley needs the steps that polar needs, cells in which both converge": "holds",
        "qr needs the steps that polar needs, cells in which both converge": "fails",
    }
    assert of("retractions", cell("qr")) == {}


def widths(jump=True):
    """Cells of three widths, d_N = 8: one factor below it, 1 - mu from there on."""
    cells = []
    for width in (4, 6, 8):
        factor = 0.9 if width == 8 and jump else 0.984
        steps, distance = st.modes_curve([factor], [1e-2], 300 if factor == 0.9 else 2000)
        known = {"curve_step": steps, "curve_distance": distance, "predicted_factor": factor, "width": width}
        cells.append(st.reference("fixed", 0.1, 2, **known, cell=f"{width}" * 64))
    return tables.measure(st.table(cells), output_dim=8)


def test_width_matters_by_its_order_with_the_outputs():
    found = {c.claim: c.verdict for c in claims.check(widths(), ["widths"])[0]}
    assert found == {
        "`fixed`: one factor at all widths 4..6 below d_N = 8": "holds",
        "`fixed`: factor 1 - mu at all widths 8 from d_N = 8 on": "holds",
    }
    assert [c.verdict for c in claims.check(widths(jump=False), ["widths"])[0]] == ["holds", "fails"]


def test_rate_against_width_shows_every_width():
    figure = figures.STUDY["rate_against_width"](widths())
    axes = figure.axes[0]
    drawn = [line for line in axes.get_lines() if len(line.get_xdata()) == 3]
    assert [list(line.get_xdata()) for line in drawn] == [[4, 6, 8]] * 2
    assert drawn[0].get_ydata() == pytest.approx([0.016, 0.016, 0.1])
    assert figures.STUDY["rate_against_width"](widths()[:1]) is None
