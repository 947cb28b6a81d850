"""Configurations with mistakes: each is told in one line with its file, key, value and remedy."""

from functools import partial

import pytest
from spec_cases import GOOD, lines, write

from dlnjax.sweep.config import loading, options


@pytest.fixture
def config(tmp_path):
    """Write a config into the test's folder; gives its path."""
    return partial(write, tmp_path)


# --- overrides --------------------------------------------------------------------------------------


def test_bare_key_sets_every_grid(config):
    sweep = loading.load(config(), ["depth=[3]", "engine=reduced"])
    assert [(grid.depth, grid.engine) for grid in sweep.grids] == [((3,), ("reduced",))] * 2


def test_dotted_key_sets_one_place(config):
    sweep = loading.load(config(), ["grid.1.depth=3", "base.seed=[5]", "record.records=300", "output_dim=9"])
    assert [grid.depth for grid in sweep.grids] == [(2, 4), (3,)]
    assert [grid.seed for grid in sweep.grids] == [(5,), (5,)]
    assert (sweep.record.records, sweep.problem.output_dim) == (300, 9)


def test_later_override_wins_and_strings_need_no_quotes(config):
    sweep = loading.load(
        config(), ["study=one", "study=two", "precision='float32'", "question=how so, then?"]
    )
    assert (sweep.study, sweep.precision, sweep.question) == ("two", "float32", "how so, then?")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("depth", "is not key=value"),
        ("=3", "is not key=value"),
        ("depth=", "is not key=value"),
        ("dpeth=3", "did you mean depth?"),
        ("record=3", "record is a section"),
        ("grid.depth=3", "write for example grid.0.depth"),
        ("grid.2.depth=3", "grid.2 does not exist; the config has 2"),
        ("grid.-1.depth=3", "not a key"),
        ("grid.٣.depth=3", "not a key"),
        ("grid.0.depth.x=3", "not a key"),
        ("recrd.records=3", "did you mean record?"),
        ("study.x=3", "not a key"),
        ("record.recods=3", "did you mean records?"),
        ("depth=1.5", "base.depth: 1.5 is not a whole number"),
        ("depth=4\nwidth=9", "is not a whole number"),
        ("depth=[2", '"[2" is not a whole number'),
        ("depth=" + "[" * 9000, "is not a whole number"),
        ("grid.0.step=nan", "grid.0.step: nan is not finite"),
        ("problem.path=x.npz", "only belongs to kind"),
    ],
)
def test_wrong_override(config, override, told):
    path = config()
    found = lines(loading.load, path, [override])
    assert len(found) == 1
    assert found[0].startswith(f"{path} with --set ")
    assert told in found[0]


def test_override_into_a_section_that_is_no_table(config):
    path = config(
        GOOD.replace("[record]\nrecords = 128", "").replace('study = "demo"', 'study = "demo"\nrecord = 3')
    )
    found = lines(loading.load, path, ["record.records=300"])
    assert found == [
        f"{path} with --set record.records=300: record is not a table in the config; write [record] there",
        f"{path}: record: 3 is not a table; write [record] with its keys below",
    ]


# --- mistakes: wording ------------------------------------------------------------------------------


def swap(old, new):
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


#: (config, key, what is told); the value stands in what is told
MISTAKES = {
    "misspelt key": (swap("depth = 8", "dpeth = 8"), "grid.1.dpeth", "is not a key; did you mean depth?"),
    "capital key": (swap("depth = 8", "Depth = 8"), "grid.1.Depth", "is not a key; did you mean depth?"),
    "unknown key": (swap("step = 0.1", "step = 0.1\nxyzzy = 1"), "grid.0.xyzzy", "known here: step_rule"),
    "misspelt section": (swap("[record]", "[recrod]"), "recrod", "did you mean record?"),
    "misspelt grid": (
        swap('[[grid]]\nstep_rule = "fixed"\nstep = 0.1\ndepth = [2, 4]\n', "").replace(
            "[[grid]]", "[[grids]]"
        ),
        "grids",
        "did you mean grid?",
    ),
    "misplaced key": (swap("records = 128", "seed = 1"), "record.seed", "move it to [base] or a [[grid]]"),
    "top key in a section": (
        swap('study = "demo"\n', "").replace("records = 128", 'study = "demo"'),
        "record.study",
        "move it to the top of the file",
    ),
    "section key at top": (
        swap('study = "demo"', 'study = "demo"\nrecords = 200'),
        "records",
        "move it to [record]",
    ),
    "key of another kind": (
        swap("input_dim = 8", 'input_dim = 8\npath = "x"'),
        "problem.path",
        'kind "file"',
    ),
    "float depth": (swap("depth = 8", "depth = 1.5"), "grid.1.depth", "1.5 is not a whole number"),
    "integral float": (swap("depth = 8", "depth = 8.0"), "grid.1.depth", "8.0 is not a whole number"),
    "boolean depth": (swap("depth = 8", "depth = true"), "grid.1.depth", "true is not a whole number"),
    "quoted depth": (swap("depth = 8", 'depth = "8"'), "grid.1.depth", '"8" is not a whole number'),
    "date for depth": (
        swap("depth = 8", "depth = 2024-01-01"),
        "grid.1.depth",
        "2024-01-01 is not a whole number",
    ),
    "table for depth": (
        swap("depth = 8", "depth = {a = 1}"),
        "grid.1.depth",
        "a table is not a whole number",
    ),
    "nested depth": (swap("depth = 8", "depth = [[8]]"), "grid.1.depth", "[8] is not a whole number"),
    "shallow": (swap("depth = 8", "depth = [8, 1]"), "grid.1.depth", "1 is below 2; give integers from 2"),
    "too deep": (swap("depth = 8", "depth = 1000001"), "grid.1.depth", "1000001 is above 1000000"),
    "gigantic": (
        swap("depth = 8", f"depth = 0x{'f' * 9000}"),
        "grid.1.depth",
        "thousands of digits is above",
    ),
    "empty list": (swap("depth = 8", "depth = []"), "grid.1.depth", "[] is empty; give integers"),
    "no width": (swap("width = [4]", "width = [0]"), "base.width", "0 is below 1"),
    "negative width": (swap("width = [4]", "width = -3"), "base.width", "-3 is below 1"),
    "widths of another depth": (
        swap("depth = [2, 4]", "depth = [2, 4]\nwidth = [[4, 5]]"),
        "grid.0.width",
        "[4, 5] are the hidden widths of 3 layers, not of 2; give depth 3",
    ),
    "nested widths": (
        swap("width = [4]", "width = [[4, [5]]]"),
        "base.width",
        "[5] is not a whole number",
    ),
    "narrow": (swap("width = [4]", "width = [4, 2]"), "base.width", "2 is below the rank 3"),
    "string step": (swap("step = 0.1", 'step = "0.1"'), "grid.0.step", '"0.1" is not a number'),
    "boolean step": (swap("step = 0.1", "step = false"), "grid.0.step", "false is not a number"),
    "nan step": (swap("step = 0.1", "step = nan"), "grid.0.step", "nan is not finite"),
    "infinite step": (swap("step = 0.1", "step = -inf"), "grid.0.step", "-inf is not finite"),
    "zero step": (swap("step = 0.1", "step = 0"), "grid.0.step", "0 is not positive"),
    "negative step": (swap("step = 0.1", "step = -0.1"), "grid.0.step", "-0.1 is not positive"),
    "vanishing step": (swap("step = 0.1", "step = 1e-400"), "grid.0.step", "0.0 is not positive"),
    "gigantic step": (swap("step = 0.1", f"step = 1{'0' * 400}"), "grid.0.step", "is not finite"),
    "unknown word": (
        swap('"fixed"', '"fixd"'),
        "grid.0.step_rule",
        '"fixd" is not known; did you mean "fixed"?',
    ),
    "number for a word": (swap('"fixed"', "1"), "grid.0.step_rule", "1 is not a string"),
    "negative seed": (swap("seed = [0, 1, 2]", "seed = -1"), "base.seed", "-1 is below 0"),
    "wide seed": (
        swap("seed = [0, 1, 2]", "seed = 4294967296"),
        "base.seed",
        "4294967296 is above 4294967295",
    ),
    "reduced with qr": (
        swap('engine = "layers"', 'engine = "reduced"\nretraction = "qr"'),
        "base.engine",
        '"reduced" is exact for retraction "polar" only, not for "qr"',
    ),
    "reduced with gd": (
        swap('engine = "layers"', 'engine = "reduced"\noptimizer = ["rgd", "gd"]'),
        "base.engine",
        '"reduced" is exact for optimizer "rgd" and "heavy_ball" only, not for "gd"',
    ),
    "raw teacher": (swap("width = [4]", 'width = 4\ndata = "raw"'), "base.data", '"raw" needs data'),
    "few records": (swap("records = 128", "records = 127"), "record.records", "127 is below 128"),
    "tolerance 1": (swap("records = 128", "tolerance = 1"), "record.tolerance", "1 is not below 1"),
    "fit above tolerance": (
        swap("records = 128", "tolerance = 1e-14"),
        "record.depth_of_fit",
        "1e-13 is above",
    ),
    "no steps": (swap("records = 128", "max_steps = 0"), "record.max_steps", "0 is below 1"),
    "rank too large": (swap("output_dim = 6", "output_dim = 2"), "problem.singular_values", "at most 2"),
    "zero dimension": (swap("output_dim = 6", "output_dim = 0"), "problem.output_dim", "0 is below 1"),
    "increasing spectrum": (swap("[2, 1.0, 0.5]", "[1, 2]"), "problem.singular_values", "[1, 2] increases"),
    "zero in spectrum": (swap("[2, 1.0, 0.5]", "[1, 0]"), "problem.singular_values", "0 is not positive"),
    "boolean spectrum": (swap("[2, 1.0, 0.5]", "[true]"), "problem.singular_values", "true is not a number"),
    "empty spectrum": (swap("[2, 1.0, 0.5]", "[]"), "problem.singular_values", "[] is empty"),
    "scalar spectrum": (swap("[2, 1.0, 0.5]", "2"), "problem.singular_values", "2 is not a list"),
    "unknown kind": (swap('"teacher"', '"teach"'), "problem.kind", 'did you mean "teacher"?'),
    "no kind": (swap('kind = "teacher"\n', ""), "problem.kind", 'is missing; give "teacher" | "digits"'),
    "misspelt kind": (swap("kind =", "knd ="), "problem.knd", "did you mean kind?"),
    "no dimension": (swap("input_dim = 8\n", ""), "problem.input_dim", "is missing; give integers from 1"),
    "no study": (swap('study = "demo"\n', ""), "study", "is missing; give a name of a-z"),
    "study with a path": (swap('"demo"', '"../demo"'), "study", '"../demo" has characters'),
    "study with a newline": (swap('"demo"', '"demo\\n"'), "study", '"demo\\n" has characters'),
    "empty study": (swap('"demo"', '""'), "study", '"" is empty'),
    "study a number": (swap('"demo"', "5"), "study", "5 is not a string"),
    "question a list": (swap('"why?"', "[1]"), "question", "[1] is not a string"),
    "precision": (swap('"why?"', '"why?"\nprecision = "double"'), "precision", '"double" is not known'),
    "problem a number": (
        swap("[problem]", "[record]")
        .replace(
            'kind = "teacher"\ninput_dim = 8\noutput_dim = 6\nsingular_values = [2, 1.0, 0.5]\n[record]\n', ""
        )
        .replace('"demo"', '"demo"\nproblem = 3'),
        "problem",
        "3 is not a table; write [problem]",
    ),
    "grid a table": (
        GOOD.split("[[grid]]")[0] + "[grid]\ndepth = 2",
        "grid",
        "a table is not a list of tables; write [[grid]]",
    ),
    "grid a list": (
        GOOD.split("[[grid]]")[0].replace('"demo"', '"demo"\ngrid = [1]'),
        "grid",
        "[1] is not a list of tables",
    ),
    "no grid": (GOOD.split("[[grid]]")[0], "grid", "is missing or empty; write at least one [[grid]]"),
    "empty grid": (
        GOOD.split("[[grid]]")[0].replace('"demo"', '"demo"\ngrid = []'),
        "grid",
        "missing or empty",
    ),
    "grid without depth": (
        swap("depth = 8\n", ""),
        "grid.1.depth",
        "is missing; give integers from 2 to 1000000, here",
    ),
    "too many cells": (
        swap("seed = [0, 1, 2]", f"seed = {list(range(1000))}").replace(
            "depth = 8", f"depth = {list(range(2, 700))}"
        ),
        "grid",
        "cells are more than 1000000; split the lists",
    ),
    "key with a newline": (
        swap("depth = 8", '"de\\npth" = 8\ndepth = 8'),
        'grid.1."de\\npth"',
        "is not a key",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_one_mistake_one_line(config, name):
    text, key, told = MISTAKES[name]
    path = config(text)
    (line,) = lines(loading.load, path)
    assert line.startswith(f"{path}: {key}: ")
    assert told in line
    assert len(line) < len(path) + 260


#: (content, what is told); no key can be named
UNREADABLE = {
    "empty": (b"", "the config is empty; print a commented one with: dlnjax new"),
    "comments only": (b"# nothing\n\n", "the config is empty"),
    "binary": (b"\xff\xfe\x00", "is not UTF-8 text (byte 0 is 0xff)"),
    "no value": (b"study =\n", "is not TOML, Invalid value (at line 1, column 8): study ="),
    "no quotes": (b"study = demo\n", "is not TOML"),
    "twice": (b"study = 'a'\nstudy = 'b'\n", "Cannot overwrite a value"),
    "nested": (b"a = " + b"[" * 20000, "nested too deeply"),
    "digits": (b"a = " + b"9" * 5000, "is not TOML"),
    "impossible date": (b"a = 2024-13-01", "is not TOML"),
    "escape": (b"\x1b[31m = 3", "is not TOML"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_config(tmp_path, name):
    content, told = UNREADABLE[name]
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    (line,) = lines(loading.load, path)
    assert line.startswith(f"{path}: ")
    assert told in line
    assert line.isprintable()


def test_no_config(tmp_path):
    (line,) = lines(loading.load, tmp_path / "none.toml")
    assert line == f"{tmp_path / 'none.toml'}: no such file; make one with: dlnjax new FILE"
    (line,) = lines(loading.load, tmp_path)
    assert line == f"{tmp_path}: cannot be read (Is a directory); give a readable TOML file"
    (line,) = lines(loading.load, "a\0b")
    assert line.startswith("a\\x00b: cannot be read")


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert len(loading.load(path).cells()) == 12


def test_all_mistakes_at_once(config):
    text = GOOD.replace("depth = [2, 4]", "depth = [1, 2.5, 4]").replace("step = 0.1", 'step = "a"')
    text = text.replace("records = 128", "recods = 128\ntolerance = 2").replace('"demo"', '"De mo"')
    path = config(text)
    found = lines(loading.load, path, ["seed=true"])
    places = [line.removeprefix(path).split(": ")[1] for line in found]
    assert sorted(places) == sorted(
        [
            "study",
            "record.recods",
            "record.tolerance",
            "base.seed",
            "grid.0.step",
            "grid.0.depth",
            "grid.0.depth",
        ]
    )


def test_a_long_wrong_list_does_not_bury_the_rest(config):
    found = lines(
        loading.load, config(swap("depth = 8", f"depth = {[1] * 500}").replace("step = 0.1", "step = 0"))
    )
    assert len(found) <= 6
    assert any("grid.0.step" in line for line in found)


def test_every_key_has_one_home():
    assert len(options.names()) == len(set(options.names()))
    for name in options.names():
        assert (options.home(name) is None) == (name in options.TOP)
