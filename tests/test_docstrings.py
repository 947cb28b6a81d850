"""Every public function of the library's core has an example in its docstring, and every example runs."""

import doctest
import importlib
import inspect
import pkgutil

import jax
import pytest

import dlnjax

#: ``optim`` has a test of its own, in single precision.
CORE = ("stiefel", "network", "train", "theory")


def modules():
    """The core's public modules, of ``theory`` (which has no functions of its own) those inside."""
    for name in CORE:
        module = importlib.import_module(f"dlnjax.{name}")
        if name != "theory":
            yield module
            continue
        for info in pkgutil.iter_modules(module.__path__):
            if not info.name.startswith("_"):
                yield importlib.import_module(f"dlnjax.theory.{info.name}")


def public_functions():
    """``(name, function)`` of all public functions of the core."""
    for module in modules():
        names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
        for name in names:
            value = inspect.unwrap(getattr(module, name)) if callable(getattr(module, name)) else None
            if inspect.isfunction(value) and value.__module__.startswith(module.__name__):
                yield f"{module.__name__}.{name}", getattr(module, name)


FUNCTIONS = dict(public_functions())


def test_the_list_is_whole():
    assert len(FUNCTIONS) > 60
    assert callable(dlnjax.stiefel.retract_polar)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_examples_run(name):
    documented = FUNCTIONS[name].__doc__ or ""
    assert ">>> " in documented, f"{name} has no example in its docstring"
    example = doctest.DocTestParser().get_doctest(documented, {}, name, None, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        messages: list[str] = []
        runner.run(example, out=messages.append)
    assert runner.failures == 0, "".join(messages)
