"""The numbers of the committed studies: those that the reports rest on, read from ``claims.csv``.

A study that is computed again may move them within rounding; beyond that the reports are to be written anew.
"""

import re
from pathlib import Path

import pytest

from dlnjax.analysis import tables

RESULTS = Path(__file__).parents[1] / "results"
#: study, words of the claim, where in `measured` its number stands, and that number.
NUMBERS = [
    ("depth_rate", "cells converge", r"^(\d+) of", 129),
    ("depth_rate", "`optimal, reduced`: log-log slope", r"^(\S+)$", -0.9958),
    ("reduction", "measured factor", r"^(\d+) of", 150),
    ("reduction", "`optimal`: log-log", r"^(\S+)$", -0.9984),
    ("momentum", "log-log slope of 1 - factor (measured)", r"^(\S+)$", -0.4977),
    ("momentum", "log-log slope of 1 - factor (measured)", r"^(\S+)$", -0.4977),
    ("widths", "measured factor", r"^(\d+) of", 279),
    ("digits_rate", "measured factor", r"^(\d+) of", 171),
    ("mnist_rate", "measured factor", r"^(\d+) of", 114),
    ("algorithms", "RGD and GD from", r"N = 16: (\d+) and", 1093),
    ("algorithms", "nesterov, tuned", r"^(\d+)", 283),
    ("algorithms", "heavy_ball, tuned", r"^(\d+)", 348),
    ("algorithms", "polyak: fewest", r"N = 16: (\d+)", 366),
    ("algorithms", "adam: fewest", r"N = 16: (\d+)", 384),
    ("algorithms", "armijo: fewest", r"N = 16: (\d+)", 685),
    ("algorithms", "gd: fewest", r"N = 16: (\d+)", 1100),
    ("activations", "tanh: the smallest eigenvalue", r"(\S+)$", 2.8e-06),
    ("activations", "leaky_relu: the smallest eigenvalue", r"^(\S+),", 1.7e-02),
    ("activations", "relu: one draw", r"(\S+)$", 1.7e+06),
    ("losses", "weighted: 1 - factor", r"^(\S+) to", 0.3539),
    ("losses", "measured factor", r"^(\d+) of", 22),
    ("noise", "floor in step", r"^(\S+) ", 0.523),
    ("noise", "floor in batch_size", r"^(\S+) ", -0.499),
    ("real_data", "converged: the test accuracy", r"^(\d+) of", 270),
    ("real_data", "optimal, step 0.9, whitened, width 5`: exponent", r"^(\S+) ", 0.98),
    ("real_data", "optimal, step 0.9, whitened, width 10`: exponent", r"^(\S+) ", 0.84),
    ("real_data", "optimal, step 0.9, whitened, width 32`: exponent", r"^(\S+) ", 1.05),
    ("real_data", "raw, width 5: runs", r"median (\S+)$", 0.635),
]  # fmt: skip
#: The same for numbers of rounding's size: a bound, not more than ten times too large.
BOUNDED = [
    ("depth_rate", "`fixed`: the factor is flat", r"spread (\S+) at", 5e-9),
    ("depth_rate", "`middle`: the factor is flat", r"spread (\S+) at", 5e-10),
    ("depth_rate", "measured factor", r"at most (\S+) and", 5e-9),
    ("reduction", "`middle`: the factor is flat", r"spread (\S+) at", 3e-11),
    ("reduction", "measured factor", r"at most (\S+) and", 3e-10),
    ("reduction", "reduced engine = layer", r"within (\S+)$", 5e-15),
    ("widths", "`fixed`: one factor", r"spread (\S+) at", 5e-10),
    ("widths", "measured factor", r"at most (\S+) and", 3e-7),
    ("digits_rate", "measured factor", r"at most (\S+) and", 2e-8),
    ("mnist_rate", "measured factor", r"at most (\S+) and", 2e-10),
    ("free_layer", "measured factor", r"and (\S+) \(1", 1e-8),
    ("real_data", "measured factor", r"at most (\S+) and", 2e-7),
]  # fmt: skip


def measured(study, words, pattern):
    """The number in the one claim that has these words."""
    (row,) = [
        row for row in tables.read_csv(RESULTS / study / "claims.csv") if _has(str(row["claim"]), words)
    ]
    match = re.search(pattern, str(row["measured"]))
    assert match, row["measured"]
    return float(match[1].rstrip(",;"))


def _has(claim, words):
    """Whether a claim has the words, as a beginning where they name a method."""
    return claim.startswith(words) or (
        words in claim and not re.match(r"\w+: (fewest|the smallest|one draw)", words)
    )


@pytest.mark.parametrize(("study", "words", "pattern", "number"), NUMBERS)
def test_numbers_are_as_reported(study, words, pattern, number):
    assert measured(study, words, pattern) == pytest.approx(number, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize(("study", "words", "pattern", "bound"), BOUNDED)
def test_bounds_hold_and_are_not_idle(study, words, pattern, bound):
    assert bound / 10 < measured(study, words, pattern) <= bound * (1 + 1e-9)


STUDIES = sorted(folder.parent.name for folder in RESULTS.glob("*/claims.csv"))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_its_place(name):
    """A row of the index, a section with its answer, a page of details, and an expectation written in the config."""
    index = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert f"| [`{name}`]({name}) |" in index
    assert f"({name}/README.md)" in index
    page = (RESULTS / name / "README.md").read_text(encoding="utf-8")
    assert page.startswith("# ")
    assert any(words in page for words in ("**Range", "**Where it fails", "**Counterexample", "**Width 32"))
    config = (RESULTS.parent / "configs" / f"{name}.toml").read_text(encoding="utf-8")
    assert "expected" in config.lower()


@pytest.mark.parametrize("page", ["README.md", *(f"{name}/README.md" for name in STUDIES)])
def test_links_and_figures_are_there(page):
    text = (RESULTS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or ((RESULTS / page).parent / target).exists(), target
