"""What the papers and this project's own derivations predict, as functions of a network and a problem.

``rates`` (operators, closed forms, the reduction), ``guarantee`` (what is proved), ``momentum`` and
``scaling`` (what other steps would give), ``hessian`` (any problem, by differentiation), ``gauge`` (the
symmetry and its distance), ``descent`` (without constraints), ``flow`` and ``modes`` (gradient flow), and
``campaign`` (a statement checked on many random instances). Docstrings say which statements are a paper's
[paper] and which were derived here [derived]: checked numerically, not peer reviewed.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import (
        campaign,
        closed,
        descent,
        flow,
        gauge,
        guarantee,
        hessian,
        modes,
        momentum,
        orthogonal,
        rates,
        scaling,
        spectrum,
    )

__all__ = [
    "campaign",
    "closed",
    "descent",
    "flow",
    "gauge",
    "guarantee",
    "hessian",
    "modes",
    "momentum",
    "orthogonal",
    "rates",
    "scaling",
    "spectrum",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return import_module(f"dlnjax.theory.{name}")
    raise AttributeError(f"module 'dlnjax.theory' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
