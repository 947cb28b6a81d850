"""The report in a real browser: axe finds nothing serious, the console is silent, a phone need not scroll sideways."""

import html
import json
import os
import re
import shutil
import subprocess
from importlib import util
from pathlib import Path

import pytest
import study_table as st

from dlnjax import analysis
from dlnjax.analysis import interactive, report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_AXE = util.find_spec("axe_core_python")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)"),
    pytest.mark.skipif(_AXE is None, reason="needs axe-core-python (group dev)"),
]
DARK = "--blink-settings=preferredColorScheme=0"
PHONE = 390
_PROBE = """<script>%s</script><script>axe.run().then(found => {
  const shown = document.createElement("pre"); shown.id = "FOUND";
  shown.textContent = JSON.stringify({
    violations: found.violations.map(v => [v.id, v.impact, v.nodes.map(n => n.html.slice(0, 200))]),
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
    curves: document.querySelectorAll(".live .scatterlayer .trace").length,
  });
  document.body.appendChild(shown); })</script></body>"""
_FRAME = """<!DOCTYPE html><iframe id="phone" style="width:%dpx;height:800px;border:0" srcdoc="%s"></iframe>
<script>document.getElementById("phone").onload = event => {
  const page = event.target.contentDocument, shown = document.createElement("pre"); shown.id = "FOUND";
  const wide = [...page.querySelectorAll("body *")].filter(e => !e.closest(".scroll, pre, .live, thead"));
  shown.textContent = JSON.stringify({ width: page.documentElement.scrollWidth, inner: event.target.clientWidth,
    wide: wide.filter(e => e.getBoundingClientRect().right > %d + 1).map(e => e.outerHTML.slice(0, 120)) });
  document.body.appendChild(shown); }</script>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "depth_rate"
    cells = [*st.study(depths=(2, 32), seeds=(0,)), st.reference("fixed", 0.01, 64, status="out_of_steps")]
    st.write(out, cells)
    (out / "config.toml").write_text(st.config(study="depth_rate", question="Does depth matter?"))
    return out


@pytest.fixture(scope="module")
def page(folder):
    return report.write(folder, interactive=False).read_text()


def browse(page, tmp_path, *flags):
    """``(what the page's probe found, what the console said)``; the page is loaded from disk, without a network."""
    path = tmp_path / "page.html"
    path.write_text(page)
    fixed = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
    run = subprocess.run(
        [str(CHROMIUM), *fixed, *offline, "--virtual-time-budget=30000", *flags, path.as_uri()],
        capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    found = re.search(r'<pre id="FOUND">(.*?)</pre>', run.stdout, re.S)
    assert found, run.stderr[-2000:]
    return json.loads(html.unescape(found[1])), [
        line for line in run.stderr.splitlines() if "CONSOLE" in line
    ]


def with_axe(page):
    assert _AXE is not None
    assert _AXE.origin
    script = (Path(_AXE.origin).parent / "axe.min.js").read_text()
    return page.replace("</body>", _PROBE % script)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_and_the_console_is_silent(page, tmp_path, scheme):
    found, said = browse(with_axe(page), tmp_path, *([DARK] if scheme == "dark" else []))
    assert found["dark"] == (scheme == "dark")
    assert found["violations"] == []
    assert said == []


def test_the_probe_sees_a_fault(page, tmp_path):
    page = page.replace('<html lang="en">', "<html>")
    page = page.replace("<main>", '<main><script>console.error("heard")</script>')
    found, said = browse(with_axe(page), tmp_path)
    assert [violation[0] for violation in found["violations"]] == ["html-has-lang"]
    assert "heard" in said[0]


def test_a_phone_does_not_scroll_sideways(page, tmp_path):
    found, said = browse(_FRAME % (PHONE, html.escape(page, quote=True), PHONE), tmp_path)
    assert found["inner"] == PHONE
    assert found["width"] <= PHONE
    assert found["wide"] == []
    assert said == []


def test_interactive_curves_are_drawn_without_a_network(folder, tmp_path):
    pytest.importorskip("plotly")
    rows = analysis.measured(folder)
    curves = interactive.error_curves(rows)
    assert curves == interactive.error_curves(rows)
    live = report.write(folder).read_text()  # as it comes where plotly is installed
    assert curves in live
    found, said = browse(with_axe(live), tmp_path)
    assert found["curves"] == len(st.study(depths=(2, 32), seeds=(0,))) + 1
    assert found["violations"] == []
    assert said == []
    found, said = browse(_FRAME % (PHONE, html.escape(live, quote=True), PHONE), tmp_path)
    assert found["width"] <= PHONE
    assert found["wide"] == []
    assert said == []


def test_markdown_is_not_interactive(folder):
    with pytest.raises(ValueError, match="cannot be interactive; choose html"):
        report.write(folder, "md", interactive=True)
