"""Sphinx settings, and the parts of the pages that are generated from the code so that they cannot go stale.

A line ``<!-- generated: NAME -->`` in a page is replaced, when the page is read, by what ``GENERATED[NAME]`` returns.
Formulas become MathML while the pages are built: they need no script and no network, and a screen reader says them.
An option of the configuration that is declared without a meaning is an error.
"""

import argparse
import math
import os
import re
from collections.abc import Mapping
from importlib.resources import files

from docutils import nodes
from latex2mathml import converter

import dlnjax
from dlnjax.campaigns import config as campaigns
from dlnjax.cli import parser
from dlnjax.sweep import store
from dlnjax.sweep.config import options, registry
from dlnjax.sweep.config.declaration import REQUIRED, Option
from dlnjax.sweep.store import schema

project = "dlnjax"
author = "the dlnjax authors"
version = release = dlnjax.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
smartquotes = False  # quotes in tables are to be copied
html_theme = "furo"
html_title = f"dlnjax {version}"
#: The formulas' font comes from the package that brings it, so that it looks alike for every reader.
html_static_path = ["_static", str(files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf")]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_copyright = False
html_math_renderer = "mathml"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
#: Off: the pages build without a network. ``DLNJAX_INTERSPHINX=1`` links to the other projects' pages.
intersphinx_mapping = (
    {
        "jax": ("https://docs.jax.dev/en/latest", None),
        "optax": ("https://optax.readthedocs.io/en/latest", None),
    }
    if os.environ.get("DLNJAX_INTERSPHINX") == "1"
    else {}
)

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False

# "cache" keeps outputs in one SQLite file, which two readers of a parallel build create at once and one fails.
nb_execution_mode = "force"
nb_execution_timeout = 60
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _default(value: object) -> str:
    if value is REQUIRED:
        return "*required*"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{value}`".lower()
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, tuple):
        return ", ".join(map(_default, value)) or "none"
    return f"`{value:g}`" if isinstance(value, float) and math.isfinite(value) else f"`{value}`"


def _options(section: Mapping[str, Option]) -> str:
    silent = [name for name, one in section.items() if not one.meaning]
    if silent:
        raise ValueError(f"dlnjax/sweep/config/options.py: options without a meaning: {silent}")
    lines = [
        [
            f"`{name}`",
            one.check.type_name,
            _cell(one.check.expected),
            _default(one.default),
            _cell(one.meaning),
        ]
        for name, one in section.items()
    ]
    return _table(["option", "type", "values", "default", "meaning"], lines)


def _config() -> str:
    parts = ["## Top level", _options(options.TOP)]
    parts += ["## `[problem]`", _options({"kind": options.KIND})]
    for kind, section in options.PROBLEMS.items():
        if section:
            parts += [f'### Further options of `kind = "{kind}"`', _options(section)]
    parts += ["## `[start]`", _options(options.START)]
    parts += ["## `[record]`", _options(options.RECORD)]
    note = (
        "Each takes a list or a single value. The cells of a grid are the product of all its lists; options in "
        "`[base]` hold for every grid."
    )
    parts += ["## `[base]` and `[[grid]]`", note, _options(options.GRID)]
    return "\n\n".join(parts)


def _campaigns() -> str:
    parts = []
    for name, section in campaigns.CAMPAIGNS.items():
        lines = [[f"`{n}`", _cell(one.check.expected), _default(one.default)] for n, one in section.items()]
        parts += [f'### `campaign = "{name}"`', _table(["option", "values", "default"], lines)]
    return "\n\n".join(parts)


def _commands() -> str:
    main = parser.build()
    main.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(
        prog, max_help_position=30, width=96
    )
    actions = next(a for a in main._actions if isinstance(a, argparse._SubParsersAction))
    parts = [f"```text\n{main.format_help().strip()}\n```"]
    for name, command in actions.choices.items():
        command.formatter_class = main.formatter_class
        if name != "bench":
            parts += [f"## `dlnjax {name}`", f"```text\n{command.format_help().strip()}\n```"]
    return "\n\n".join(parts)


def _columns() -> str:
    fields = schema.arrow_schema(128)
    lines = [
        [
            f"`{field.name}`",
            str(field.type).replace("fixed_size_list<element: double>[129]", "list of double, records + 1"),
            (field.metadata or {}).get(b"unit", b"").decode(),
            "yes" if field.nullable else "no",
        ]
        for field in fields
    ]
    return _table(["column", "type", "unit or meaning", "may be empty"], lines)


GENERATED = {"config": _config, "campaigns": _campaigns, "commands": _commands, "columns": _columns}


def _fill(app, docname: str, source: list[str]) -> None:
    source[0] = re.sub(r"<!-- generated: (\w+) -->", lambda found: GENERATED[found[1]](), source[0])
    if docname.startswith("reference/"):  # read again whenever the code has changed
        for module in (options, registry, campaigns, parser, schema, store):
            app.env.note_dependency(module.__file__)


#: What the converter writes -> what looks right: fences do not stretch, no room around a slash, a true similar sign.
_FENCE = '<mo stretchy="false" lspace="0" rspace="0">'
_LOOKS = {
    "<mo>&#x02016;</mo>": f"{_FENCE}&#x02016;</mo>",
    '<mo stretchy="false">&#x0007C;</mo>': f"{_FENCE}&#x0007C;</mo>",
    "<mo>&#x0002F;</mo>": '<mo lspace="0" rspace="0">&#x0002F;</mo>',
    "<mi>&#x0007E;</mi>": "<mo>&#x0223C;</mo>",
    "<mi>&#x02032;</mi>": "<mo>&#x02032;</mo>",
}


def _mathml(tex: str, display: str) -> str:
    found = converter.convert(tex, display=display)
    for plain, better in _LOOKS.items():
        found = found.replace(plain, better)
    return found


def _inline_formula(translator, node: nodes.Element) -> None:
    translator.body.append(_mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _formula(translator, node: nodes.Element) -> None:
    translator.body.append(f'<div class="math" tabindex="0">{_mathml(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (_inline_formula, None), (_formula, None))
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
