"""Words of a user stay words in the Markdown report."""

import pytest

from dlnjax.analysis.report import page


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<script>x</script>", "\\<script\\>x\\</script\\>"),
        ("![a](http://b)", "!\\[a\\](http://b)"),
        ("*loud* and __loud__", "\\*loud\\* and \\_\\_loud\\_\\_"),
        ("two\n# lines", "two # lines"),
        ("# head", "\\# head"),
        ("step_rule of `code_*`", "step_rule of `code_*`"),
    ],
)
def test_markup_is_escaped(text, wanted):
    assert page._plain(text) == wanted


def test_a_fence_within_the_code():
    fenced = page._fenced("a\n````\n<b>", "toml")
    assert fenced.splitlines()[0] == "`````toml"
    assert fenced.splitlines()[-1] == "`````"


def test_a_bar_within_a_table():
    assert page._cell("a|b") == "a\\|b"
    assert page._cell("---:") == "---:"
