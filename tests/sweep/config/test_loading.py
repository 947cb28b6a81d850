"""Configurations: what a sweep spans, and how its cells are named."""

import itertools
import pickle
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_cases import FLAT, GOOD, lines, write

from dlnjax.sweep.config import loading, overrides, toml


@pytest.fixture
def config(tmp_path):
    """Write a config into the test's folder; gives its path."""
    return partial(write, tmp_path)


# --- what a sweep spans -----------------------------------------------------------------------------


def test_values_and_defaults(config):
    sweep = loading.load(config())
    assert (sweep.study, sweep.question, sweep.precision) == ("demo", "why?", "float64")
    assert sweep.problem == loading.Problem("teacher", 8, 6, (2.0, 1.0, 0.5))
    assert all(type(value) is float for value in sweep.problem.singular_values)
    assert sweep.start == loading.Start(distance=0.05, first_scale=0.5)
    assert sweep.record == loading.Record(records=128, tolerance=1e-8, depth_of_fit=1e-13, max_steps=100_000)
    first = sweep.grids[0]
    assert first == loading.Grid(
        step_rule=("fixed",),
        step=(0.1,),
        engine=("layers",),
        start=("near",),
        retraction=("polar",),
        optimizer=("rgd",),
        data=("whitened",),
        width=(4,),
        depth=(2, 4),
        seed=(0, 1, 2),
    )


def test_cells_are_the_product_in_grid_order(config):
    cells = loading.load(config()).cells()
    expected = [("fixed", 0.1, "layers", depth, seed) for depth in (2, 4) for seed in range(3)]
    expected += [("optimal", step, "reduced", 8, seed) for step in (0.5, 0.9) for seed in range(3)]
    assert [(c.step_rule, c.step, c.engine, c.depth, c.seed) for c in cells] == expected


@settings(derandomize=True, database=None, deadline=None, max_examples=40)
@given(
    st.lists(st.integers(2, 50), min_size=1, max_size=4),
    st.lists(st.integers(0, 9), min_size=1, max_size=4),
    st.lists(st.sampled_from(["polar", "qr", "cayley"]), min_size=1, max_size=3),
    st.lists(st.sampled_from(["rgd", "gd"]), min_size=1, max_size=2),
)
def test_each_distinct_cell_once(depths, seeds, retractions, optimizers):
    sweep = loading.grid(
        **FLAT | {"depth": depths, "seed": seeds, "retraction": retractions, "optimizer": optimizers}
    )
    runs = {
        (depth, seed, optimizer, retraction if optimizer == "rgd" else "none")
        for depth, seed, retraction, optimizer in itertools.product(depths, seeds, retractions, optimizers)
    }
    cells = sweep.cells()
    assert len(cells) == len({cell.key() for cell in cells}) == len(runs)
    assert {(c.depth, c.seed, c.optimizer, c.retraction) for c in cells} == runs


@pytest.mark.parametrize(
    ("optimizer", "retraction", "engine"),
    [("rgd", "polar", "reduced"), ("rgd", "qr", "layers"), ("gd", "polar", "layers")],
)
def test_auto_is_the_reduction_where_it_is_exact(optimizer, retraction, engine):
    sweep = loading.grid(**FLAT | {"engine": "auto", "optimizer": optimizer, "retraction": retraction})
    assert {cell.engine for cell in sweep.cells()} == {engine}


def test_a_list_names_a_value_once():
    (grid,) = loading.grid(**FLAT | {"step": [1, 0.5, 1.0], "depth": [4, 2, 4]}).grids
    assert (grid.step, grid.depth) == ((1.0, 0.5), (4, 2))


def test_overlapping_grids_name_a_cell_once():
    grids = [{"depth": [2, 4]}, {"depth": [4, 8]}]
    shared = {key: value for key, value in FLAT.items() if key != "depth"}
    assert [c.depth for c in loading.grid(grids=grids, **shared).cells()] == [2, 2, 4, 4, 8, 8]


# --- names ------------------------------------------------------------------------------------------


def test_key_is_what_it_was():
    """A change here makes every stored result unknown: it needs a new schema version."""
    cell = loading.grid(**FLAT).cells()[0]
    assert cell.key() == "5bed0caf19361f9794271e7170234d6de70826669af81eac6bf3a258d701ee43"


@pytest.mark.parametrize(
    "change",
    [
        {"study": "other"},
        {"input_dim": 9},
        {"singular_values": [2.0, 1.1]},
        {"distance": 0.04},
        {"first_scale": 0.4},
        {"records": 200},
        {"tolerance": 1e-7},
        {"depth_of_fit": 1e-12},
        {"max_steps": 10},
        {"precision": "float32"},
        {"step_rule": "edge"},
        {"step": 0.2},
        {"engine": "reduced"},
        {"start": "haar"},
        {"retraction": "qr"},
        {"optimizer": "gd"},
        {"width": 5},
        {"depth": 3},
        {"seed": 7},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_numbers_changes_the_key(change):
    old, new = loading.grid(**FLAT), loading.grid(**FLAT | change)
    assert not {c.key() for c in old.cells()} & {c.key() for c in new.cells()}
    assert old.hash() != new.hash()
    assert loading.differences(old, new)
    assert not loading.extends(old, new)


def test_what_changes_no_number_keeps_the_key(config):
    old = loading.load(config())
    new = loading.load(config(GOOD.replace("why?", "how?").replace("step = 0.1", "step = [0.1, 0.1]")))
    assert old.hash() == new.hash()
    assert loading.differences(old, new) == []


def test_extension():
    old, new = loading.grid(**FLAT), loading.grid(**FLAT | {"depth": [2, 4, 8, 16]})
    assert loading.extends(old, new)
    assert not loading.extends(new, old)
    assert loading.differences(old, new) == ["cells added: 4 (depth 8, 16)"]
    assert loading.differences(new, old) == ["cells removed: 4 (depth 8, 16)"]


def test_coordinates_are_all_fields_but_the_content():
    cell = loading.grid(**FLAT).cells()[0]
    assert replace(cell, **cell.coordinates()) == cell
    assert "content" not in cell.coordinates()


def test_pickles():
    sweep = loading.grid(**FLAT)
    sweep.cells()[0].key()
    again = pickle.loads(pickle.dumps(sweep))
    assert again == sweep
    assert again.cells()[0].key() == sweep.cells()[0].key()


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(
    question=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    values=st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=4),
    step=st.lists(st.floats(0, 1e9, exclude_min=True), min_size=1, max_size=3),
)
def test_toml_round_trip(tmp_path_factory, question, values, step):
    spectrum = sorted(values, reverse=True)
    sweep = loading.grid(**FLAT | {"question": question, "singular_values": spectrum, "step": step})
    path = tmp_path_factory.getbasetemp() / "round.toml"
    path.write_text(sweep.to_toml(), encoding="utf-8", newline="")
    assert loading.load(path) == sweep


# --- Python -----------------------------------------------------------------------------------------


def test_python_values(tmp_path):
    sweep = loading.grid(**FLAT | {"depth": np.array([2, 4]), "step": np.float64(0.1), "width": (4,)})
    assert sweep == loading.grid(**FLAT)
    assert loading.grid(**FLAT | {"precision": "float32"}).precision == "float32"


def test_python_mistakes_name_the_keyword():
    values = FLAT | {"depth": [2, True], "recods": 3, "width": 1}
    assert lines(loading.grid, **values) == [
        "sweep.grid: recods: is not a key; did you mean records, in [record]?",
        "sweep.grid: depth: true is not a whole number; give integers from 2 to 1000000",
        "sweep.grid: width: 1 is below the rank 2 of problem.singular_values; give widths from 2",
    ]


def test_python_needs_what_a_config_needs():
    (line,) = lines(loading.grid, **{key: value for key, value in FLAT.items() if key != "depth"})
    assert line.startswith("sweep.grid: depth: is missing; give integers from 2 to 1000000")


# --- smaller parts ----------------------------------------------------------------------------------


def test_reading_a_config_imports_no_jax(config):
    code = (
        "import sys; from dlnjax.sweep.config import loading; loading.load(sys.argv[1]);"
        "print('jax' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, config()], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@given(st.text(max_size=200))
@settings(derandomize=True, database=None, deadline=None, max_examples=100)
def test_whatever_is_shown_is_one_short_line(text):
    for shown in (toml.show(text), toml.key(text), toml.show([text] * 3)):
        assert shown.isprintable()
        assert len(shown) <= 60


@given(
    st.text(max_size=40),
    st.dictionaries(st.text(max_size=5), st.integers() | st.lists(st.integers()), max_size=3),
)
@settings(derandomize=True, database=None, deadline=None, max_examples=200)
def test_overrides_never_raise(text, raw):
    overrides.apply({"grid": [{}], **raw}, [text, f"depth={text}", f"{text}=1"])
