"""Every public function of the package has an example, and the examples say what is true."""

import doctest
import inspect

import jax
import pytest

from dlnjax import optim

FUNCTIONS = sorted(name for name in optim.__all__ if inspect.isfunction(getattr(optim, name)))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore")
def test_example(name):
    examples = doctest.DocTestFinder(recurse=False).find(getattr(optim, name), name, globs={})
    assert sum(len(test.examples) for test in examples) > 0, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for test in examples:
            said = []
            assert runner.run(test, out=said.append).failed == 0, "".join(said)
