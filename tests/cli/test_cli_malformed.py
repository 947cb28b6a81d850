"""Malformed configurations by the hundred: exit code 2, lines naming key and value, nothing written."""

import copy

import pytest
from cli_cases import PLACES, RAW, at, calm, refused, written
from hypothesis import assume, given
from hypothesis import strategies as st

from dlnjax.sweep.config import loading, options, toml, validators


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("wrong")


# --- malformed configurations -----------------------------------------------------------------------


def test_the_config_that_is_broken_below_is_fine(folder):
    (folder / "good.toml").write_text(written(RAW))
    assert len(loading.load(folder / "good.toml").cells()) == 2


WRONG = {
    validators.Whole: st.one_of(
        st.booleans(),
        st.floats(),
        st.text(max_size=8),
        st.integers(max_value=0).filter(lambda n: n < 0),
        st.integers(min_value=2**32),
        st.just([]),
    ),
    validators.Flag: st.one_of(st.integers(), st.floats(), st.text(max_size=8), st.just([])),
    validators.Real: st.one_of(
        st.booleans(),
        st.floats(max_value=0),
        st.just(float("nan")),
        st.just(float("inf")),
        st.text(max_size=8),
        st.integers(max_value=0),
        st.just([]),
    ),
    validators.Word: st.one_of(st.text(max_size=8), st.booleans(), st.integers(), st.floats(), st.just([])),
    validators.Text: st.one_of(st.text("ABC/. \n\0ä", min_size=1, max_size=8), st.booleans(), st.integers()),
    validators.Spectrum: st.one_of(
        st.booleans(),
        st.floats(),
        st.just([]),
        st.just([1.0, 2.0]),
        st.just([0.0]),
        st.lists(st.text(), min_size=1),
    ),
}


def checks():
    """(place, key, check) of every key in RAW."""
    found = [((), name, options.TOP[name].check) for name in ("study", "precision")]
    tables = {**options.PROBLEMS["teacher"], "kind": options.KIND, **options.START, **options.RECORD}
    for place in PLACES:
        table = options.GRID if place[0] in ("base", "grid") else tables
        found += [(place, name, table[name].check) for name in at(RAW, place)]
    return found


@calm(250)
@given(st.data())
def test_wrong_values(folder, data):
    place, name, check = data.draw(st.sampled_from(checks()))
    value = data.draw(WRONG[type(check)])
    assume(value not in getattr(check, "choices", ()))  # drawn text may be one of the right words
    raw = copy.deepcopy(RAW)
    listed = place and place[0] in ("base", "grid") and value != [] and data.draw(st.booleans())
    at(raw, place)[name] = [value] if listed else value
    lines = refused(folder, written(raw))
    where = ".".join(map(str, (*place, name)))
    shown = toml.show(
        value[0] if isinstance(check, validators.Spectrum) and isinstance(value, list) and value else value
    )
    assert any(f": {where}: " in line and (shown in line or toml.show(value) in line) for line in lines), (
        lines
    )
    assert all("; " in line or "?" in line for line in lines)


@calm(100)
@given(st.data())
def test_misspelt_keys(folder, data):
    place, name, _ = data.draw(st.sampled_from([entry for entry in checks() if entry[0]]))
    index = data.draw(st.integers(0, len(name) - 1))
    letter = data.draw(st.sampled_from("qxz_é-"))
    typo = data.draw(
        st.sampled_from(
            [name[:index] + name[index + 1 :], name[:index] + letter + name[index:], name.upper(), f"{name}s"]
        )
    )
    if typo in {*options.names(), ""}:
        return
    raw = copy.deepcopy(RAW)
    table = at(raw, place)
    table[typo] = table.pop(name)
    lines = refused(folder, written(raw))
    where = ".".join([*map(str, place), toml.key(typo)])
    assert any(line.split(": ", 1)[1].startswith(f"{where}: ") for line in lines)
    if len(typo) > 3 and index:
        assert any("did you mean " in line for line in lines)


@calm(60)
@given(st.data())
def test_missing_keys_and_several_mistakes(folder, data):
    required = [
        ("study",),
        ("problem", "kind"),
        ("problem", "input_dim"),
        ("grid", 0, "depth"),
        ("base", "width"),
    ]
    required += [("grid", 0, "step"), ("base", "seed"), ("problem", "singular_values"), ("base", "start")]
    gone = data.draw(st.lists(st.sampled_from(required), unique=True, min_size=1, max_size=5))
    raw = copy.deepcopy(RAW)
    for *place, name in gone:
        del at(raw, place)[name]
    raw["record"]["records"] = data.draw(st.integers(-5, 127))
    lines = refused(folder, written(raw))
    assert any("record.records" in line for line in lines)
    if ("problem", "kind") not in gone:  # without a kind nobody knows what else is missing
        assert len(lines) == len(gone) + 1
    for *_, name in gone:
        if name in ("study", "kind", "depth", "width", "step", "seed", "start"):
            assert sum(f"{name}: is missing; give " in line for line in lines) == 1


@calm(100)
@given(
    st.one_of(
        st.text(max_size=60), st.binary(max_size=60), st.sampled_from(["[[", "a=", "grid", "=", "study='x"])
    )
)
def test_any_text_is_refused_in_lines(folder, content):
    assert all(line.isprintable() for line in refused(folder, content))


@calm(100)
@given(st.data())
def test_wrong_overrides(folder, data):
    name = data.draw(
        st.sampled_from(["depth", "width", "grid.0.seed", "base.width", "record.records", "input_dim"])
    )
    value = data.draw(
        st.one_of(
            st.booleans(), st.floats(), st.text("abc. ,'\"[]{}#", min_size=1), st.integers(max_value=-1)
        )
    )
    text = toml.value(value) if not isinstance(value, str) else value
    if not text.strip():
        return
    lines = refused(folder, written(RAW), "--set", f"{name}={text}")
    assert len(lines) == 1
    assert f" with --set {name}=" in lines[0]
    assert name in lines[0].split(" with --set ", 1)[1]


def test_json_types_nowhere_expected(folder):
    """Any value of a config replaced by a table, a list of tables or a date is a mistake told in place."""
    for place, name, _ in checks():
        for text in ("{a = 1}", "[{a = 1}]", "2024-01-01T00:00:00", "[[[1]]]"):
            raw = copy.deepcopy(RAW)
            at(raw, place)[name] = "@"
            lines = refused(folder, written(raw).replace('"@"', text))
            assert any(f": {'.'.join(map(str, (*place, name)))}: " in line for line in lines)
