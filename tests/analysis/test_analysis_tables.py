"""Rows, claims, text and files, on made-up tables whose answers are known in closed form."""

import csv
import io
import sys

import numpy as np
import pytest
import study_table as st

from dlnjax import analysis
from dlnjax.analysis import claims, tables, text


@pytest.fixture(scope="module")
def rows():
    return tables.measure(st.table(st.study()))


@pytest.fixture(scope="module")
def data_rows():
    return tables.measure(st.table(st.data_study()), output_dim=10)


def verdicts(rows):
    return {claim.claim: claim.verdict for claim in claims.check(rows)[0]}


def measured(*cells):
    return tables.measure(st.table(list(cells)))


def test_rows_are_measured_and_sorted(rows):
    assert [r["step_rule"] for r in rows] == sorted(
        (r["step_rule"] for r in rows), key=["fixed", "optimal", "middle", "edge"].index
    )
    fixed = [row for row in rows if row["step_rule"] == "fixed"]
    assert all(abs(row["measured_factor"] - 0.9984) < 1.6e-7 for row in fixed)
    assert all(row["predicted_iterations"] == 11504 for row in fixed)  # ceil(log 1e-8 / log .9984)
    diverged = [row for row in rows if row["step"] > 1]
    assert len(diverged) == 12
    assert all(row["measured_factor"] is None and row["predicted_iterations"] is None for row in diverged)


def test_every_claim_of_the_reference_study_holds(rows):
    found = verdicts(rows)
    assert set(found.values()) == {"holds"}
    assert list(found) == [
        "cells converge",
        "measured factor = predicted factor, converged cells",
        "the guaranteed factor is kept",
        "`fixed`: the factor is flat in depth, N = 2..128",
        "`middle`: the factor is flat in depth, N = 2..128",
        "`optimal, layers`: log-log slope of 1 - factor, N = 32..128",
        "`optimal, reduced`: log-log slope of 1 - factor, N = 32..128",
        "reduced engine = layer by layer, recorded errors of the first 300 steps",
        "`edge`: 0.995 of the edge converges, N = 2..32",
        "`edge`: 1.005 of the edge does not converge, N = 2..32",
    ]


def test_slope_is_that_of_the_closed_form(rows):
    """1 - factor = 2 (.95) lambda_min / (lambda_min + lambda_max), lambda_max linear in N."""
    depths = np.array([32, 64, 128])
    exact = np.polyfit(np.log(depths), -np.log(0.16 + 1 + (depths - 1) * 0.82), 1)[0]
    optimal = [r for r in rows if r["step_rule"] == "optimal" and r["depth"] >= 32]
    assert claims.loglog_slope(optimal) == pytest.approx(exact, abs=1e-5)
    assert claims.loglog_slope(optimal[:1]) is None


def test_slope_still_on_its_way():
    """Where the prediction at these depths is not yet -1, the measured slope is held to the prediction."""
    cells = [st.reference("optimal", 0.95, depth) for depth in (32, 64)]
    for cell, factor in zip(cells, (0.96, 0.98 - 0.0006), strict=True):
        cell["predicted_factor"] = factor
        steps, distance = st.modes_curve([factor], [1e-3], 1500)
        cell["curve_step"], cell["curve_distance"] = steps, distance
    found = claims.check(measured(*cells))[0][-1]
    assert (found.kind, found.expected, found.measured) == ("slope", "-0.9574 +- 0.001", "-0.9574")
    assert found.verdict == "holds"


def test_a_wrong_prediction_is_found():
    """Off by 2e-4 (1 - factor): inside 1e-6, outside the relative tolerance; listed with its coordinates."""
    good, bad = (st.reference("fixed", 0.01, depth) for depth in (2, 4))
    bad["predicted_factor"] -= 3.2e-7
    found, outside = claims.check(measured(good, bad))
    assert found[1].verdict == "fails"
    assert "1 of 2" in found[1].measured
    assert [(o.row["depth"], o.why[:9]) for o in outside] == [(4, "measured ")]
    assert "fixed, layers, N = 4, seed 0: measured - predicted: 3.2e-07" in text.outside_list(
        outside, measured(good, bad)
    )


def test_a_converged_cell_without_a_rate_is_not_dropped():
    cell = st.reference("fixed", 0.01, 2)
    cell["curve_distance"] = 1 / (1 + cell["curve_step"])
    found, outside = claims.check(measured(cell))
    assert found[1].verdict == "fails"
    assert found[1].measured.startswith("0 of 1 cells; none measured")
    assert outside[0].why.startswith("converged, but no asymptotic regime")


def test_claims_that_fail():
    tilted = [st.reference("fixed", 0.01, 2), st.reference("fixed", 0.0101, 4, step=0.01)]
    assert verdicts(measured(*tilted))["`fixed`: the factor is flat in depth, N = 2..4"] == "fails"
    right = st.reference("optimal", 0.95, 64)["predicted_factor"]
    steep = [
        st.reference("optimal", 0.95, 32),
        st.reference("optimal", 0.85, 64, step=0.95, predicted_factor=right),
    ]
    assert verdicts(measured(*steep))["`optimal`: log-log slope of 1 - factor, N = 32..64"] == "fails"
    beyond = st.reference("edge", 0.995, 2, step=1.005)
    found, outside = claims.check(measured(beyond))
    assert [claim.verdict for claim in found] == ["fails"]
    assert [o.why for o in outside] == ["converged at 1.005 of the edge"]
    bound = st.reference("fixed", 0.01, 2, guaranteed_factor=0.9)
    assert verdicts(measured(bound))["the guaranteed factor is kept"] == "fails"
    apart = st.reference("fixed", 0.01, 2, engine="reduced")
    apart["curve_distance"] = apart["curve_distance"] + 1e-9
    name = "reduced engine = layer by layer, recorded errors of the first 300 steps"
    assert verdicts(measured(st.reference("fixed", 0.01, 2), apart))[name] == "fails"


def test_only_what_is_there_is_claimed(data_rows):
    found = verdicts(data_rows)
    assert not any("edge" in name or "slope" in name or "engine" in name for name in found)
    assert found["cells converge"] == "fails"  # depth 64 diverges at this step
    assert found["whitened, width at least the outputs: smallest eigenvalue = step"] == "holds"
    assert sum("flat" in name for name in found) == 3  # a width each, whitened; none for raw
    assert claims.check([]) == ([], [])


def test_spectrum_where_no_rate_is_fitted(data_rows):
    raw = [row for row in data_rows if row["data"] == "raw"]
    assert all(row["measured_factor"] is None for row in raw)
    assert all("no asymptotic regime: the slowest mode falls by 0.0001" in row["reason"] for row in raw)
    shown = text.render(text.no_rate_table(data_rows))
    assert "1.000e-09" in shown
    assert shown.count("out_of_steps") == 9


def test_csv_has_a_row_a_cell_and_empty_fields(rows):
    plain, edge = tables.split(rows)
    read = list(csv.DictReader(io.StringIO(tables.to_csv(plain))))
    assert len(read) == len(plain) == 60
    assert len(edge) == 24
    assert tuple(read[0]) == (*tables.COLUMNS, "engine_gap")  # both engines ran every cell
    assert [float(r["measured_factor"]) for r in read] == [row["measured_factor"] for row in plain]
    deep = next(r for r in read if r["depth"] == "64" and r["step_rule"] == "fixed")
    assert deep["guaranteed_factor"] == ""
    assert {"nan", "None"}.isdisjoint(value for r in read for value in r.values())


@pytest.mark.slow
def test_write(tmp_path, rows):
    first = analysis.write(st.write(tmp_path, st.study(depths=(2, 32, 64), seeds=(0,))))
    names = [path.relative_to(tmp_path).as_posix() for path in first.paths]
    figures = ["error_curves", "rate_against_depth", "stability_edge"]
    assert names == ["summary.csv", "edge.csv", "claims.csv"] + [
        f"figures/{name}.{kind}" for name in figures for kind in ("png", "svg")
    ]
    assert "Outside: none of 30 cells." in first.text
    assert str(first.paths[0]) in first.text
    before = [path.read_bytes() for path in first.paths]
    again = analysis.write(tmp_path)
    assert again.text == first.text
    assert [path.read_bytes() for path in again.paths] == before


@pytest.mark.parametrize("case", ["one cell", "all diverged", "no curves"])
def test_little_to_say(tmp_path, case):
    cells = {
        "one cell": [st.reference("fixed", 0.01, 2)],
        "all diverged": [
            st.reference("fixed", 0.01, depth, status="diverged", curve_distance=np.full(129, np.nan))
            for depth in (2, 4)
        ],
        "no curves": [
            st.reference(
                "edge", 0.9, 2, status="failed", reason="out of memory", curve_step=None, curve_distance=None
            )
        ],
    }[case]
    written = analysis.write(st.write(tmp_path, cells))
    assert "Claims" in written.text
    assert ("Outside: none" in written.text) == (case == "one cell")
    assert ("figures/error_curves.svg" in written.text) == (case == "one cell")


def test_a_file_with_nothing_to_show_is_removed(tmp_path):
    (tmp_path / "edge.csv").write_text("old")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "stability_edge.png").write_text("old")
    analysis.write(st.write(tmp_path, [st.reference("fixed", 0.01, 2)]))
    assert not (tmp_path / "edge.csv").exists()
    assert not (tmp_path / "figures" / "stability_edge.png").exists()


def test_no_results(tmp_path):
    with pytest.raises(FileNotFoundError, match="no results"):
        analysis.write(tmp_path)
    assert text.compose([], [], []) == "No cells."


def test_tolerance_of_the_config(tmp_path):
    st.write(tmp_path, [st.reference("fixed", 0.01, 2)])
    (tmp_path / "config.toml").write_text(st.config(tolerance=1e-4, depth_of_fit=1e-4))
    assert analysis.measured(tmp_path)[0]["predicted_iterations"] == 5752


def test_pandas_and_xarray(rows):
    table = st.table(st.study(depths=(2, 8), seeds=(0, 1)))
    frame = tables.to_pandas(table)
    assert len(frame) == table.num_rows
    assert frame.attrs["units"]["iterations"] == "steps to the tolerance"
    assert frame.xs("fixed", level="step_rule").xs(8, level="depth")["step_size"].eq(0.01).all()
    data = tables.to_xarray(tables.measure(table))
    assert data.sizes == {"cell": table.num_rows, "record": st.RECORDS + 1}
    one = data.where((data.depth == 8) & (data.step_rule == "middle"), drop=True)
    assert np.allclose(one.measured_factor, 0.936, atol=1e-6)
    assert data.measured_factor.attrs["units"] == "error factor per step"
    assert tables.to_xarray(table).curve_distance.attrs["units"] == "Frobenius norm"


@pytest.mark.parametrize("name", ["pandas", "xarray"])
def test_missing_extra_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'{name} is not installed; pip install "dlnjax\[analysis\]"'):
        getattr(tables, f"to_{name}")([])
