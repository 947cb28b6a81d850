"""Numbers quoted in results/README.md are those of the committed tables, to the digits or within the bound given."""

import re
from pathlib import Path

import pytest

from dlnjax.analysis import tables

RESULTS = Path(__file__).parents[1] / "results"
README = " ".join((RESULTS / "README.md").read_text(encoding="utf-8").split())
#: study, words of the claim, what to read in `measured`, and the README's words with its number as {}.
QUOTED = [
    ("depth_rate", "cells converge", r"^(\d+) of", "All {} cells of `summary.csv` converged"),
    ("depth_rate", "`optimal, reduced`: log-log slope", r"^(\S+)$", "log-log slope {} for N = 32 to 512"),
    ("reduction", "measured factor", r"^(\d+) of", "as predicted in all {} runs (10 seeds)"),
    ("reduction", "`optimal`: log-log", r"^(\S+)$", "log-log slope {} at the best step"),
    ("momentum", "log-log slope of 1 - factor (measured)", r"^(\S+)$", "falls like N^{} (N = 256 to 4096)"),
    ("momentum", "log-log slope of 1 - factor (measured)", r"^(\S+)$", "exponent {}, N = 256 to 4096"),
    ("widths", "measured factor", r"^(\d+) of", "{} of 280 fitted factors are within"),
    ("digits_rate", "measured factor", r"^(\d+) of", "found in all {} cells of the digits"),
    ("mnist_rate", "measured factor", r"^(\d+) of", "and in all {} cells of MNIST"),
    ("algorithms", "RGD and GD from", r"N = 16: (\d+) and", "need the same steps ({} and"),
    ("algorithms", "nesterov, tuned", r"^(\d+)", "at N = 16: Nesterov {},"),
    ("algorithms", "heavy_ball, tuned", r"^(\d+)", "heavy ball {},"),
    ("algorithms", "polyak: fewest", r"N = 16: (\d+)", "Polyak {},"),
    ("algorithms", "adam: fewest", r"N = 16: (\d+)", "Adam {},"),
    ("algorithms", "armijo: fewest", r"N = 16: (\d+)", "Armijo {},"),
    ("algorithms", "gd: fewest", r"N = 16: (\d+)", "plain descent {}."),
    ("activations", "tanh: the smallest eigenvalue", r"(\S+)$", "1.0e-4, {} (tanh)"),
    ("activations", "leaky_relu: the smallest eigenvalue", r"^(\S+),", "{}, 4.3e-3, 5.1e-4, 5.0e-5 (leaky ReLU)"),
    ("activations", "relu: one draw", r"(\S+)$", "ReLU draws differ by {}"),
    ("losses", "weighted: 1 - factor", r"^(\S+) to", "square loss's: {} to"),
    ("losses", "logistic: 1 - factor", r"to (\S+)$", "to {} (logistic)"),
    ("noise", "floor in step", r"^(\S+) ", "goes with step^{}"),
    ("noise", "floor in batch_size", r"^(\S+) ", "batch^{}"),
    ("real_data", "converged: the test accuracy", r"^(\d+) of", "in {} of 270 runs"),
    ("real_data", "optimal, step 0.9, whitened, width 5`: exponent", r"^(\S+) ", "grow like N^{} (width 5)"),
    ("real_data", "optimal, step 0.9, whitened, width 10`: exponent", r"^(\S+) ", "N^{} (10)"),
    ("real_data", "optimal, step 0.9, whitened, width 32`: exponent", r"^(\S+) ", "N^{} (32)"),
    ("real_data", "raw, width 5: runs", r"median (\S+)$", "is {}, .911 and .914 at widths 5, 10 and 32"),
]  # fmt: skip
#: The same for numbers of rounding's size, of which the README gives a bound; the bound is no idle one.
BOUNDED = [
    ("depth_rate", "`fixed`: the factor is flat", r"spread (\S+) at", "2 to 128, spread below 5e-9"),
    ("depth_rate", "`middle`: the factor is flat", r"spread (\S+) at", "the same within 5e-10"),
    ("depth_rate", "measured factor", r"at most (\S+) and", "measured equals predicted within 5e-9"),
    ("reduction", "`middle`: the factor is flat", r"spread (\S+) at", "flat from N = 2 to 4096 within 1e-8"),
    ("reduction", "measured factor", r"at most (\S+) and", "runs (10 seeds) within 5e-9"),
    ("reduction", "reduced engine = layer", r"within (\S+)$", "one curve within 5e-15"),
    ("widths", "`fixed`: one factor", r"spread (\S+) at", "same at every width (spread below 3e-8"),
    ("widths", "measured factor", r"at most (\S+) and", "the others up to 5e-6 off"),
    ("digits_rate", "measured factor", r"at most (\S+) and", "cells of the digits within 6e-7"),
    ("mnist_rate", "measured factor", r"at most (\S+) and", "(rank 653) within 2e-9"),
    ("free_layer", "measured factor", r"and (\S+) \(1", "predicted within 1e-8 of 1 - factor"),
    ("real_data", "measured factor", r"at most (\S+) and", "miss 1e-6 (they are up to 1e-5"),
]


def measured(study, words, pattern):
    """The number in the one claim that has these words."""
    (row,) = [
        row for row in tables.read_csv(RESULTS / study / "claims.csv") if _has(str(row["claim"]), words)
    ]
    found = re.search(pattern, str(row["measured"]))
    assert found, row["measured"]
    return found[1].rstrip(",;")


def _has(claim, words):
    """Whether a claim has the words, as a beginning where they name a method."""
    return claim.startswith(words) or (
        words in claim and not re.match(r"\w+: (fewest|the smallest|one draw)", words)
    )


def short(number, like):
    """A number as the README writes it: no leading zero, a short exponent, as many decimals as asked for."""
    if "e" in number:
        return re.sub(r"e([+-])0?", lambda m: "e-" if m[1] == "-" else "e", number).removesuffix(".0")
    if "." not in number:
        return number
    return re.sub(r"^(-?)0\.", r"\1.", f"{float(number):.{like}f}")


@pytest.mark.parametrize(("study", "words", "pattern", "told"), QUOTED)
def test_quoted_numbers_are_the_tables(study, words, pattern, told):
    number = measured(study, words, pattern)
    assert any(told.format(short(number, like)) in README for like in (2, 3)), short(number, 3)


@pytest.mark.parametrize(("study", "words", "pattern", "told"), BOUNDED)
def test_quoted_bounds_hold_and_are_not_idle(study, words, pattern, told):
    number, bound = float(measured(study, words, pattern)), float(re.findall(r"[\d.]+e-\d+", told)[-1])
    assert told in README
    assert bound / 10 < number <= bound * (1 + 1e-9)


def test_every_study_is_in_the_index():
    for folder in RESULTS.glob("*/claims.csv"):
        name = folder.parent.name
        assert f"| [`{name}`]({name}) |" in README
        assert (
            "expected" in (folder.parents[2] / "configs" / f"{name}.toml").read_text(encoding="utf-8").lower()
        )
