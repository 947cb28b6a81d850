"""The report is one whole, accessible file that says what the claims say, the same bytes each time."""

import re
from html.parser import HTMLParser
from importlib.metadata import version

import pytest
import study_table as st

from dlnjax.analysis import figures, report
from dlnjax.analysis.report import page as layout

CONFIG = st.config(study="depth_rate", question="Is 1 < 2 & <b>so</b> on?")


class Page(HTMLParser):
    """Collects tags with their attributes and text, and insists that every tag is closed in order."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.text, self._open = [], [], []
        self.feed(content)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.text.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "depth_rate"
    cells = [*st.study(depths=(2, 32), seeds=(0,)), st.reference("fixed", 0.01, 64, status="out_of_steps")]
    st.write(out, cells)
    st.settle(out, cells, CONFIG)
    report.write(out, interactive=False)
    return out


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text())


def test_page_says_what_was_found(page):
    said = " ".join(" ".join(page.text).split())
    assert "Is 1 < 2 & <b>so</b> on?" in said
    assert "at every depth" in said
    assert "Outside: 1 of 21 cells." in said
    assert "out_of_steps" in said
    assert version("jax") in said
    assert "dlnjax run config.toml --out depth_rate" in said
    assert (
        st.study(depths=(2, 32), seeds=(0,))[0]["cell"][:16] not in said
    )  # of the manifest, of no use to a reader
    verdicts = [attrs["class"] for attrs in page.all("td") if "class" in attrs]
    assert verdicts == ["fails", *["holds"] * 7]  # 12 of 13 cells converge: below 95%


def test_every_figure_of_a_study_has_a_caption():
    assert set(report.CAPTIONS) == set(figures.STUDY)


def test_page_is_self_contained(folder, page):
    """No request leaves the file: every link is an anchor in it, but the empty icon."""
    links = [attrs[name] for _, attrs in page.tags for name in ("href", "src", "xlink:href") if name in attrs]
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert page.all("script") == []
    content = (folder / "report.html").read_text()
    assert not re.search(r"@import|url\((?!#)", content)
    assert str(folder) not in content


def test_page_is_accessible(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = [
        attrs[n].lstrip("#")
        for _, attrs in page.tags
        for n in ("href", "xlink:href")
        if attrs.get(n, "")[:1] == "#"
    ]
    used += [attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs]
    assert set(used) <= set(ids)
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert all(attrs.get("scope") == "col" for attrs in page.all("th"))
    figures = page.all("svg")
    assert len(figures) == 3
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in figures)
    assert all(attrs.get("tabindex") == "0" for attrs in page.all("div") if attrs.get("class") == "scroll")


def test_markdown_and_bytes(folder):
    html = (folder / "report.html").read_bytes()
    path = report.write(folder, "md")
    content = path.read_text()
    assert content.startswith(
        r"# Is 1 \< 2 & \<b\>so\</b\> on?" + "\n\n**"
    )  # no markup of the question's own
    assert "| holds | `fixed`: the factor is flat in depth, N = 2..64 |" in content
    for name in re.findall(r"\]\((figures/\w+\.svg)\)", content):
        assert (folder / name).exists()
    assert report.write(folder, interactive=False).read_bytes() == html


def test_bare_folder(tmp_path):
    """Without config and manifest, and with nothing converged, there is still a page."""
    cell = st.reference("edge", 1.1, 2, reason="bounded oscillation")
    st.write(tmp_path, [cell])
    page = Page(report.write(tmp_path, interactive=False).read_text())
    assert "synthetic" in " ".join(page.text)


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="'pdf'; choose html or md"):
        report.write(tmp_path, "pdf")
    with pytest.raises(FileNotFoundError, match="no results"):
        report.write(tmp_path)


@pytest.mark.parametrize(
    ("installed", "format", "wanted"), [(True, "html", True), (False, "html", False), (True, "md", False)]
)
def test_curves_are_interactive_where_plotly_is(installed, format, wanted, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        report, "find_spec", lambda name: object() if installed and name == "plotly" else None
    )
    monkeypatch.setattr(report, "gather", lambda out, *, interactive: asked.append(interactive))
    monkeypatch.setattr(layout, "html", lambda found: "")
    monkeypatch.setattr(layout, "markdown", lambda found: "")
    report.write(tmp_path, format)
    assert asked == [wanted]


def test_signs_and_lists_are_set_as_one_writes_them():
    assert layout._words("-1 +- 0.02, N = 2..8") == "\u22121 \u00b1 0.02, N\u00a0=\u00a02..8"
    assert (
        layout._words("1 - factor; a-1; --out; 2e-09; -") == "1\u00a0\u2212\u00a0factor; a-1; --out; 2e-09; -"
    )
    assert report._short(["2 x cpu", "1 x gpu"]) == "2 x cpu, 1 x gpu"
    assert report._short([1, 2]) == "[1, 2]"
