"""Deep linear networks with orthonormal layers: optimizers, rates and sweeps in JAX.

Modules load on first use, so that ``import dlnjax`` pulls in neither JAX nor any optional extra.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what a type checker and an editor see
    from . import (
        analysis,
        initial,
        layerwise,
        losses,
        network,
        optim,
        problem,
        reduced,
        scales,
        sparse,
        stiefel,
        sweep,
        theory,
        train,
    )

__all__ = [
    "analysis",
    "initial",
    "layerwise",
    "losses",
    "network",
    "optim",
    "problem",
    "reduced",
    "scales",
    "sparse",
    "stiefel",
    "sweep",
    "theory",
    "train",
]

try:
    __version__ = version("dlnjax")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"dlnjax.{name}")
    raise AttributeError(f"module 'dlnjax' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
