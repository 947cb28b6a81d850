"""Optimizers that compose: optax links for orthonormal matrices, and recipes made of them.

Links act on every leaf given, in any pytree: select leaves with ``optax.masked`` or ``optax.partition``, or let a
recipe do it. Updates follow optax's sign; :func:`retract` returns new - old and is always last.
"""

from dlnjax.optim._adam import AdamState, scale_by_tangent_adam
from dlnjax.optim._complex import from_jax_gradient
from dlnjax.optim._conjugate import ConjugateState, conjugate, conjugate_gradient
from dlnjax.optim._describe import Description, LeafDescription, describe
from dlnjax.optim._drift import DriftState, control_drift
from dlnjax.optim._landing import land, landing, stay_near
from dlnjax.optim._lay_out import lay_out
from dlnjax.optim._lbfgs import lbfgs, transported_lbfgs
from dlnjax.optim._leaves import MatrixAxes
from dlnjax.optim._line_search import ArmijoState, PolyakState, armijo_search, scale_by_polyak
from dlnjax.optim._momentum import MomentumState, transport_momentum
from dlnjax.optim._muon import muon, spectral_direction, to_spectral
from dlnjax.optim._pogo import leap, pogo
from dlnjax.optim._precision import MasterState, master_copy
from dlnjax.optim._product import Product, hessian_vector
from dlnjax.optim._recipes import adam, armijo, gd, heavy_ball, nesterov, polyak, rgd
from dlnjax.optim._retract import retract
from dlnjax.optim._select import chain, labels, off, on
from dlnjax.optim._start import StartState
from dlnjax.optim._step import StepState, scale_by_step
from dlnjax.optim._tangent import project_to_tangent
from dlnjax.optim._trust_region import TrustRegionState, trust_region
from dlnjax.optim._wolfe import WolfeState, wolfe_search

__all__ = [
    "AdamState",
    "ArmijoState",
    "ConjugateState",
    "Description",
    "DriftState",
    "LeafDescription",
    "MasterState",
    "MatrixAxes",
    "MomentumState",
    "PolyakState",
    "Product",
    "StartState",
    "StepState",
    "TrustRegionState",
    "WolfeState",
    "adam",
    "armijo",
    "armijo_search",
    "chain",
    "conjugate",
    "conjugate_gradient",
    "control_drift",
    "describe",
    "from_jax_gradient",
    "gd",
    "heavy_ball",
    "hessian_vector",
    "labels",
    "land",
    "landing",
    "lay_out",
    "lbfgs",
    "leap",
    "master_copy",
    "muon",
    "nesterov",
    "off",
    "on",
    "pogo",
    "polyak",
    "project_to_tangent",
    "retract",
    "rgd",
    "scale_by_polyak",
    "scale_by_step",
    "scale_by_tangent_adam",
    "spectral_direction",
    "stay_near",
    "to_spectral",
    "transport_momentum",
    "transported_lbfgs",
    "trust_region",
    "wolfe_search",
]
