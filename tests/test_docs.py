"""The pages build without a warning, their notebooks run, and what is generated is what the code says."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dlnjax.campaigns.config import CAMPAIGNS
from dlnjax.sweep.config import options
from dlnjax.sweep.store import schema

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted(path.stem for path in (DOCS / "notebooks").glob("*.md"))

for _package in ("sphinx", "furo", "myst_nb"):
    pytest.importorskip(_package, reason="needs the extra docs")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The built pages: name -> HTML. Programs compiled by an earlier build are used again, outputs are not."""
    out = tmp_path_factory.mktemp("docs")
    cache = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "xla")}
    found = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(out)],
        capture_output=True, text=True, timeout=280, cwd=out,
        env={**os.environ, **cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"},
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    return {str(path.relative_to(out).with_suffix("")): path.read_text() for path in out.rglob("*.html")}


def test_pages_need_no_network(pages):
    """Formulas are MathML in the page; scripts, styles and pictures are files of the documentation."""
    for name, page in pages.items():
        loaded = re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="(https?:[^"]+)"', page)
        assert loaded == [], name
    theory = pages["theory"]
    assert theory.count("<math") > 50
    assert "$" not in words(theory)


def words(page):
    """The text of a page, tags taken out."""
    return html.unescape(re.sub(r"<[^>]+>", "", page))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_show_what_they_computed(pages, name):
    cells = (DOCS / "notebooks" / f"{name}.md").read_text().count("print(")
    outputs = pages[f"notebooks/{name}"].count('class="output')
    assert outputs >= min(cells, 1)
    assert "Traceback" not in pages[f"notebooks/{name}"]


def test_notebooks_say_what_the_theory_says(pages):
    first = words(pages["notebooks/first_study"])
    rows = re.findall(r"^ *(\d+) +(0\.\d+) +(0\.\d+) +(\d+)$", first, re.M)
    assert [int(row[0]) for row in rows] == [2, 8, 32]
    assert all(abs(float(measured) - float(predicted)) < 1e-6 for _, measured, predicted, _ in rows)
    assert "did you mean depth" in first
    assert "1 of 2 shards, then 1 more: all there" in words(pages["notebooks/cluster"])
    assert words(pages["notebooks/own_optimizer"]).count("70.0000") == 3
    assert "exceeds 3 beta/(4N)" in words(pages["notebooks/predict_rate"])


def test_every_option_is_described(pages):
    page = words(pages["reference/config"])
    for name in [*options.names(), *(name for table in CAMPAIGNS.values() for name in table)]:
        assert re.search(rf"\b{name}\b", page), name
    assert "integers from 2 to 1000000" in page
    assert "<!-- generated" not in "".join(pages.values())


def test_columns_commands_and_public_names_are_listed(pages):
    assert all(name in words(pages["reference/store"]) for name in schema.arrow_schema(128).names)
    assert "--dry-run" in words(pages["reference/command"])
    for page, name in {
        "training": "dlnjax.optim.rgd", "networks": "dlnjax.network.end_to_end",
        "theory": "dlnjax.theory.rates.predict",
        "sweeps": "dlnjax.sweep.run",
    }.items():  # fmt: skip
        assert f'id="{name}"' in pages[f"reference/{page}"]


def test_pages_are_reached_from_the_index(pages):
    """No page is an orphan, every link inside the documentation has a target."""
    sources = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")}
    assert sources <= set(pages)
    linked = set(re.findall(r'href="([^":#]+)\.html', pages["index"]))
    assert {"choosing", "faq", "theory", "reference/config", "how-to/index"} <= linked
