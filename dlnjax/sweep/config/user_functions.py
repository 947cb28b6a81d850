"""A user's own functions: the name each keeps, where it can run, and the error when one fails.

A function stands in a grid as ``module:qualname@version``. That name, not the function, enters names of cells, the
config and the manifest; so a folder can be looked at without the function, and a new version is another cell. Nothing
here imports JAX.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeGuard

#: How a function's name looks in a config.
PATTERN = re.compile(r"[\w.]+:[\w.<>]+@[\w.+-]{1,40}")


class PartError(ValueError):
    """A function of the user failed, or gave what cannot be used: its name, what was got, what to give."""


@dataclass(frozen=True, eq=False)
class UserFunction:
    """A function (or an object) of the user under the name it keeps; make one with :func:`own`.

    Attributes:
      value: what was given. name: ``module:qualname@version``.
    """

    value: Any
    name: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UserFunction) and other.name == self.name and other.value is self.value

    def __hash__(self) -> int:
        return hash(self.name)


def own(value: Any, version: str | int = "1") -> UserFunction:
    """Names a function of yours for a sweep; a bare function in ``sweep.grid`` is one of version 1.

    Args:
      value: a function: of an optimizer ``(step_size, scales) -> optax transformation``, of a start
        ``(key, dims) -> N matrices``, of a problem ``key -> problem``, of a loss ``(product, target) -> number``, an
        activation ``array -> array``, or a metric ``params -> dict of numbers``. A problem may also be an object with
        ``loss`` and ``gradients``.
      version: change it when the function changes: its cells are then others, and run anew.

    Raises:
      TypeError: not a function with a name. ValueError: a version with characters that a name cannot have.

    Example:
      >>> sweep = grid(..., optimizer=[own(my_optimizer, version="2"), "rgd"])     # doctest: +SKIP
    """
    if isinstance(value, UserFunction):
        value = value.value
    named = value if hasattr(value, "__qualname__") else type(value)
    if not callable(value) and not is_problem(value):
        raise TypeError(f"{value!r} is not a function; give one made with def")
    if callable(value) and named is not value and not is_problem(value):
        raise TypeError(f"{value!r} is a {named.__name__} without a name of its own; wrap it in a def")
    name = f"{_module(named)}:{named.__qualname__}@{version}"
    if not PATTERN.fullmatch(name):
        raise ValueError(
            f"version {version!r} of {named.__qualname__}; give letters, digits, dots: '2', '1.1'"
        )
    return UserFunction(value, name)


def is_problem(value: object) -> bool:
    """Whether an object meets the training protocol."""
    return not isinstance(value, type) and hasattr(value, "loss") and hasattr(value, "gradients")


def is_name(word: object) -> TypeGuard[str]:
    """Whether a word of a config names a user's function."""
    return isinstance(word, str) and PATTERN.fullmatch(word) is not None


def _module(named: Callable) -> str:
    """The module's name; of a script the name it would be imported by."""
    if named.__module__ != "__main__":
        return named.__module__
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return re.sub(r"\W", "_", Path(file).stem) if file else "__main__"


def travels(part: UserFunction) -> bool:
    """Whether another process can import the function: one of a module, not of a script, no lambda, no closure."""
    named = part.value if hasattr(part.value, "__qualname__") else type(part.value)
    return named.__module__ != "__main__" and "<" not in named.__qualname__


class WithFunctions(Protocol):
    """What :func:`check` asks of a sweep: its functions by name, and the names that its cells use."""

    @property
    def functions(self) -> Mapping[str, UserFunction]: ...

    def wanted(self) -> list[str]: ...


def check(sweep: WithFunctions, elsewhere: bool) -> None:
    """Refuses to run a sweep whose functions are not here, or cannot follow it.

    Args:
      sweep: a sweep; one without functions passes.
      elsewhere: it is to run in other processes.

    Raises:
      PartError: with all such functions.
    """
    functions: Mapping[str, UserFunction] = getattr(sweep, "functions", {})
    wanted: Iterable[str] = sweep.wanted() if hasattr(sweep, "wanted") else ()
    absent = [name for name in wanted if name not in functions]
    if absent:
        raise PartError(
            f"the sweep is made of functions that are not in its config: {', '.join(absent)}; "
            "run the script that made it again (sweep.run resumes the folder)"
        )
    bound = [name for name in wanted if not travels(functions[name])] if elsewhere else []
    if bound:
        raise PartError(
            f"other processes cannot import {', '.join(bound)}: lambdas, closures and functions of the script "
            "itself run in this process only; put them into a module beside the script, or leave out workers and "
            "executor"
        )


def call(role: str, part: UserFunction, wanted: str, *arguments: object) -> Any:
    """What the function gives, or one line on what it raised.

    Args:
      role: the option it stands for. wanted: what to give, for the message.
    """
    try:
        return part.value(*arguments)
    except Exception as error:
        message = (str(error).splitlines() or [""])[0][:200]
        raise PartError(
            f"{role} {part.name}: raised {type(error).__name__}: {message}; give {wanted}"
        ) from error


def refuse(role: str, part: UserFunction, got: str, wanted: str) -> PartError:
    """The error for a result that cannot be used."""
    return PartError(f"{role} {part.name}: gave {got}; give {wanted}")


def named(function: Callable, version: str | int = "1") -> str:
    """The name of a function, as it stands in a config."""
    return own(function, version).name
