"""How a report is set: as one HTML file (light and dark, phone and print), or as Markdown."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

from dlnjax.analysis.text import Table

if TYPE_CHECKING:
    from dlnjax.analysis.report import Report

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #54595f; --page: #ffffff; --card: #f5f6f7;
  --line: #d9dcdf; --good: #0b6b3a; --bad: #a8321b; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #aeb4bb; --page: #16181b;
  --card: #202327; --line: #3a3f45; --good: #6fd49a; --bad: #ff9d85; --link: #8ec2ff; }
  figure svg, .live { filter: invert(0.93) hue-rotate(180deg) brightness(1.25); } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 58rem; background: var(--page);
  color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.2rem 0 0.6rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 0.6rem; border-bottom: 1px solid var(--line);
  padding-bottom: 0.2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 0.4rem; }
.study { color: var(--soft); margin: 0; font-size: 0.9rem; }
.answer { background: var(--card); border-left: 4px solid var(--link); padding: 0.8rem 1rem; margin: 1rem 0; }
.answer::first-letter { text-transform: uppercase; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; margin: 0; padding: 0; }
a { color: var(--link); }
a:focus-visible, [tabindex]:focus-visible, summary:focus-visible { outline: 3px solid var(--link);
  outline-offset: 2px; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: 0.86rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.28rem 0.7rem 0.28rem 0; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; vertical-align: top; }
.words th, .words td { text-align: left; white-space: normal; }
th { color: var(--soft); font-weight: 600; }
.holds { color: var(--good); font-weight: 600; }
.fails { color: var(--bad); font-weight: 600; }
figure { margin: 1.2rem 0 2rem; }
figure svg { display: block; width: 100%; min-width: 40rem; height: auto; }
figcaption { color: var(--soft); font-size: 0.9rem; margin-top: 0.4rem; }
pre { background: var(--card); padding: 0.8rem 1rem; overflow-x: auto; font-size: 0.82rem;
  line-height: 1.45; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.15rem 1.2rem; font-size: 0.88rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 34rem) {
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 0.4rem; }
  .words tr { display: block; border-bottom: 1px solid var(--line); padding: 0.5rem 0; }
  .words thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  .words td { display: block; border: 0; padding: 0.05rem 0; }
  .words td[data-name]::before { content: attr(data-name) ": "; color: var(--soft); }
}
.live { background: white; }
@media print {
  .live, #interactive-curves, #interactive-curves + p { display: none; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; overflow: visible; }
  body { max-width: none; padding: 0; font-size: 10pt; } nav { display: none; }
  figure, tr { break-inside: avoid; } figure svg { min-width: 0; } .scroll { overflow: visible; }
  table { font-size: 7.5pt; } h2 { break-after: avoid; }
}
"""


def html(report: Report) -> str:
    """The report as one self-contained HTML file, figures inline."""
    parts = [
        ("Claims", _html_table(report.claims)),
        ("Figures", "\n".join(_figure(*figure) for figure in report.figures)),
        ("Interactive curves", _live(report.live)),
        ("Numbers", "\n".join(f"<h3>{escape(t.title)}</h3>\n{_html_table(t)}" for t in report.tables)),
        ("Cells outside", _outside(report.outside)),
        ("Configuration", _code(report.config, "The configuration")),
        ("Versions", "<dl>" + "".join(map(_fact, report.facts)) + "</dl>"),
        ("Do it again", "<p>Save the configuration above as <code>config.toml</code>, then:</p>"
         + _code("\n".join(report.commands), "The commands")),
    ]  # fmt: skip
    parts = [(title, body) for title, body in parts if body]
    links = "".join(f'<li><a href="#{_anchor(title)}">{title}</a></li>' for title, _ in parts)
    body = "\n".join(_section(title, content) for title, content in parts)
    heading = escape(report.question or report.title)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{heading}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<header>
<p class="study">Study: {escape(report.title)}</p>
<h1>{heading}</h1>
<p class="answer">{_words(report.answer)}</p>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{body}
</main>
</body>
</html>
"""


def markdown(report: Report) -> str:
    """The report as Markdown; figures by their file names."""
    figures = [
        f"![{_plain(title)}](figures/{name}.svg)\n\n{caption}" for name, title, caption, _ in report.figures
    ]
    numbers = [f"### {_plain(table.title)}\n\n{_markdown_table(table)}" for table in report.tables]
    parts = [
        ("Claims", _markdown_table(report.claims)),
        ("Figures", "\n\n".join(figures)),
        ("Numbers", "\n\n".join(numbers)),
        (
            "Cells outside",
            "\n".join(
                [_plain(report.outside[0]), "", *(f"- {_plain(x.strip())}" for x in report.outside[1:])]
            ),
        ),
        ("Configuration", _fenced(report.config.strip(), "toml") if report.config else ""),
        ("Versions", "\n".join(f"- {_plain(name)}: {_plain(value)}" for name, value in report.facts)),
        ("Do it again", _fenced("\n".join(report.commands))),
    ]
    sections = [f"## {title}\n\n{body.strip()}" for title, body in parts if body]
    answer = report.answer[:1].upper() + report.answer[1:]
    return (
        "\n\n".join([f"# {_plain(report.question or report.title)}", f"**{_plain(answer)}**", *sections])
        + "\n"
    )


def _markdown_table(table: Table) -> str:
    if not table.lines:
        return ""
    rule = ["---" if table.words else "---:"] * len(table.head)
    lines = [list(table.head), rule, *table.lines]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _plain(text: str) -> str:
    """Words on one line that no reader of Markdown takes for markup; `code` stays code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if i % 2 else _escaped(part) for i, part in enumerate(parts))


def _escaped(text: str) -> str:
    """Marks that open links, images, HTML, code or emphasis; an underscore within a word opens nothing."""
    outer = r"([\\`*\[\]<>]|(?<![A-Za-z0-9])_+|_+(?![A-Za-z0-9]))"
    marks = re.sub(outer, lambda match: "".join("\\" + mark for mark in match[0]), text)
    return re.sub(r"^(#|\+ |- |\d+\. )", r"\\\1", marks)


def _cell(text: str) -> str:
    rule = text in ("---", "---:")
    return text if rule else _plain(text).replace("|", "\\|")


def _fenced(text: str, language: str = "") -> str:
    """A block of code behind a fence longer than any within it."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _section(title: str, body: str) -> str:
    anchor = _anchor(title)
    return f'<section aria-labelledby="{anchor}">\n<h2 id="{anchor}">{title}</h2>\n{body}\n</section>'


def _html_table(table: Table) -> str:
    """A table that scrolls sideways by itself; on a phone a table of words becomes a list."""
    if not table.lines:
        return ""
    head = "".join(f'<th scope="col">{_words(name)}</th>' for name in table.head)
    lines = "\n".join(_html_line(table, line) for line in table.lines)
    look = ' class="words"' if table.words else ""
    label = escape(f"Table: {table.title}", quote=True)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">\n<table{look}>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>\n</div>"
    )


def _html_line(table: Table, line: list[str]) -> str:
    cells = []
    for name, value in zip(table.head, line, strict=True):
        look = f' class="{value}"' if name == "verdict" else ""
        look += f' data-name="{name}"' if name in ("expected", "measured") and table.words else ""
        cells.append(f"<td{look}>{_words(value)}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _words(value: str) -> str:
    """Text with `code` marked up and proper signs."""
    marked = re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(value))
    marked = re.sub(r"\bN\^([0-9.]*[0-9])", r"N<sup>\1</sup>", marked)
    marked = re.sub(r"\bN\^-([0-9.]*[0-9])", "N<sup>\u2212\\1</sup>", marked)
    marked = re.sub(r"(?<![\w<-])-(?=[0-9])", "\u2212", marked)
    marked = marked.replace("1 - factor", "1\u00a0\u2212\u00a0factor").replace("N = ", "N\u00a0=\u00a0")
    return marked.replace("+-", "\u00b1").replace("&lt;=", "\u2264")


def _figure(name: str, title: str, caption: str, svg: str) -> str:
    label = escape(title, quote=True)
    return (
        f'<figure>\n<div class="scroll" role="region" tabindex="0" aria-label="{label}">\n'
        f"{_inline(svg, name, title)}\n</div>\n"
        f"<figcaption><strong>{escape(title)}.</strong> {escape(caption)}</figcaption>\n</figure>"
    )


def _inline(svg: str, name: str, title: str) -> str:
    """An SVG file's element for use inside a page: named, sized by its box, its ids its own."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.S)
    opening, rest = element.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    rest = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', rest)
    rest = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", rest)
    label = escape(title, quote=True)
    return f'{opening} role="img" aria-label="{label}">{rest.strip()}'


def _outside(lines: list[str]) -> str:
    items = "".join(f"<li>{_words(line.strip())}</li>" for line in lines[1:])
    return f"<p>{escape(lines[0])}</p>" + (f"<ul>{items}</ul>" if items else "")


def _live(fragment: str) -> str:
    """Interactive curves; what they show is in the figures too, so that print and no-script lose nothing."""
    if not fragment:
        return ""
    words = (
        "Point at a curve to read its cell and step; drag to zoom, double-click to go back. One line a cell."
    )
    return f'<p>{words}</p>\n<div class="live" role="group" aria-label="Interactive error curves">\n{fragment}\n</div>'


def _code(content: str, label: str) -> str:
    if not content:
        return ""
    return (
        f'<pre tabindex="0" role="region" aria-label="{label}"><code>{escape(content.strip())}</code></pre>'
    )


def _fact(fact: tuple[str, str]) -> str:
    return f"<dt>{escape(fact[0])}</dt><dd>{escape(fact[1])}</dd>"
