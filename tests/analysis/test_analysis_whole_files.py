"""What the analysis writes is whole or as it was before; an edited config changes no report silently."""

import errno
import os

import pytest
import study_table as st

from dlnjax import analysis, cli
from dlnjax.analysis import report, tables

CONFIG = st.config(study="synthetic", question="?", figures=["error_curves"])
CELLS = st.study(depths=(2, 8), seeds=(0,))


@pytest.fixture
def folder(tmp_path):
    st.write(tmp_path, CELLS)
    st.settle(tmp_path, CELLS, CONFIG)
    return tmp_path


def test_an_edited_tolerance_is_refused(folder):
    report.write(folder, "md")
    (folder / "config.toml").write_text(CONFIG.replace("tolerance = 1e-08", "tolerance = 1e-03"))
    assert (folder / "config.toml").read_text() != CONFIG
    for look in (report.write, analysis.study, analysis.write):
        with pytest.raises(ValueError, match=r"config\.toml: not the config of"):
            look(folder)


def test_a_full_disk_leaves_every_table_figure_and_page_as_it_was(folder, monkeypatch):
    report.write(folder, interactive=False)
    before = {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    assert {"summary.csv", "claims.csv", "report.html", "error_curves.png"} <= {p.name for p in before}

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    figure = analysis.figures.STUDY["error_curves"](analysis.study(folder).rows)
    writers = [
        lambda: report.write(folder, interactive=False),
        lambda: analysis.write(folder),
        lambda: analysis.figures.save(figure, folder / "figures" / "error_curves"),
    ]
    for write in writers:
        with pytest.raises(OSError, match="No space left"):
            write()
    assert cli.main(["export", str(folder), "--to", "csv"]) == 1
    assert {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()} == before
    monkeypatch.undo()
    assert cli.main(["export", str(folder), "--to", "csv"]) == 0


def test_text_that_a_spreadsheet_would_run_is_quoted_in_exports():
    row = {**CELLS[0], "reason": "=HYPERLINK(1)", "final_loss": -1.5}
    assert (
        tables.to_csv([row], ["reason", "final_loss"], for_spreadsheets=True)
        .splitlines()[1]
        .startswith("'=HYPERLINK(1),-1.5")
    )
    assert tables.to_csv([row], ["reason"]).splitlines()[1].startswith("=HYPERLINK(1)")
