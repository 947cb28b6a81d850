"""The registry of words that options take: what each optimizer, start, activation, loss and shape needs and goes with.

Tables of one row per word; a user's own function counts as one more (``user_functions``). Nothing here
imports JAX: a configuration is checked by these rows alone, and a row's function gets the modules that it builds with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax import Array
    from optax import GradientTransformation

    Elementwise = Callable[[Array], Array]


#: What a row of :data:`OPTIMIZERS` builds with: ``size``, ``scales``, ``constrained``, ``retraction`` and ``momentum``,
#: traced where they are numbers.
Given = SimpleNamespace


@dataclass(frozen=True)
class Optimizer:
    """One row of :data:`OPTIMIZERS`.

    Attributes:
      make: ``(optim, optax, s) -> transformation``: two modules, and :data:`Given`.
      constrained: keeps layers orthonormal; else every layer is free and there is no retraction.
      exact: constrained layers are orthonormal at every step, by a retraction; else only in the end.
      momentum: reads the option ``momentum``.
      padded: leaves identity layers without a gradient exactly as they are, so that one program serves all depths.
      reduced: the exact two-layer reduction has its steps, with the polar retraction (``dlnjax.reduced``).
      note: what else the documentation says of it.
    """

    make: Callable[[ModuleType, ModuleType, Given], GradientTransformation]
    constrained: bool = True
    exact: bool = True
    momentum: bool = False
    padded: bool = False
    reduced: bool = False
    note: str = ""


def _named(s: Given) -> dict[str, object]:
    """What the Riemannian recipes take by name."""
    return {"scales": s.scales, "retraction": s.retraction, "constrained": s.constrained}


def _searching(s: Given) -> dict[str, object]:
    """What the recipes that find their own step take by name."""
    return {"retraction": s.retraction, "constrained": s.constrained}


def _near(s: Given) -> dict[str, object]:
    """What the recipes without a retraction take by name."""
    return {"scales": s.scales, "constrained": s.constrained}


_NO_STEP = "`step` plays no part"


#: A further recipe of ``dlnjax.optim`` is a further line.
OPTIMIZERS: Mapping[str, Optimizer] = {
    "rgd": Optimizer(lambda optim, optax, s: optim.rgd(s.size, **_named(s)), padded=True, reduced=True),
    "heavy_ball": Optimizer(
        lambda optim, optax, s: optim.heavy_ball(s.size, s.momentum, **_named(s)),
        momentum=True, padded=True, reduced=True,
    ),
    "nesterov": Optimizer(
        lambda optim, optax, s: optim.nesterov(s.size, s.momentum, **_named(s)), momentum=True, padded=True
    ),
    "adam": Optimizer(
        lambda optim, optax, s: optim.adam(s.size, **_named(s)), padded=True,
        note="one second moment per matrix",
    ),
    "adam_elementwise": Optimizer(
        lambda optim, optax, s: optim.adam(s.size, second="elementwise", **_named(s)), padded=True
    ),
    "polyak": Optimizer(
        lambda optim, optax, s: optim.polyak(max_step_size=s.size, **_searching(s)), padded=True,
        note="`step` is the largest it takes",
    ),
    "armijo": Optimizer(
        lambda optim, optax, s: optim.armijo(s.size, **_searching(s)), padded=True,
        note="`step` is the first that a search tries",
    ),
    "conjugate_gradient": Optimizer(
        lambda optim, optax, s: optim.conjugate_gradient(**_searching(s)), note=_NO_STEP
    ),
    "lbfgs": Optimizer(lambda optim, optax, s: optim.lbfgs(**_searching(s)), note=_NO_STEP),
    "trust_region": Optimizer(lambda optim, optax, s: optim.trust_region(**_searching(s)), note=_NO_STEP),
    "landing": Optimizer(lambda optim, optax, s: optim.landing(s.size, **_near(s)), exact=False),
    "pogo": Optimizer(lambda optim, optax, s: optim.pogo(s.size, **_near(s)), exact=False),
    "muon": Optimizer(
        lambda optim, optax, s: optim.muon(s.size, s.momentum, length="dual", **_named(s)), momentum=True,
        note="steps of the gradient's dual length",
    ),
    "gd": Optimizer(lambda optim, optax, s: optim.gd(s.size, scales=s.scales), constrained=False, padded=True),
    "gd_momentum": Optimizer(
        lambda optim, optax, s: optax.chain(optax.trace(s.momentum), optim.gd(s.size, scales=s.scales)),
        constrained=False, momentum=True, padded=True,
    ),
    "adam_free": Optimizer(
        lambda optim, optax, s: optax.chain(optax.scale_by_adam(), optim.gd(s.size, scales=s.scales)),
        constrained=False, padded=True,
    ),
}  # fmt: skip

#: start -> whether its layers are orthonormal (the first, or the free one, up to a factor)
STARTS: Mapping[str, bool] = {
    "near": True,
    "haar": True,
    "identity": True,
    "gaussian": False,
    "balanced": False,
}
#: activation -> ``(jax) -> elementwise function``; None leaves the network linear
ACTIVATIONS: Mapping[str, Callable[[ModuleType], Elementwise | None]] = {
    "linear": lambda jax: None,
    "tanh": lambda jax: jax.numpy.tanh,
    "relu": lambda jax: jax.nn.relu,
    "leaky_relu": lambda jax: _leaky_relu,
}
LOSSES = ("square", "weighted", "logistic", "sensing")
#: Which layers are left free; the others are orthonormal.
FREE = ("first", "last", "middle", "none", "all")
#: Hidden widths from ``width``: all equal; rising evenly from it to d_N; falling evenly from d_0 to it.
PROFILES = ("equal", "growing", "shrinking")


def _leaky_relu(z: Array) -> Array:
    """Slope 0.5 below zero."""
    import jax

    return jax.nn.leaky_relu(z, 0.5)


def optimizer(name: str) -> Optimizer:
    """The row of an optimizer; a user's own may do anything, so it counts as keeping what it is given."""
    return OPTIMIZERS.get(name, _USERS)


_USERS = Optimizer(lambda optim, optax, s: optax.identity())  # its function is called elsewhere


def listed(kind: Callable[[Optimizer], bool], quote: str = "`") -> str:
    """The names of the optimizers of a kind, in words: ``a, b and c``."""
    *most, last = [f"{quote}{name}{quote}" for name, row in OPTIMIZERS.items() if kind(row)]
    return f"{', '.join(most)} and {last}" if most else last


def optimizers_in_words() -> str:
    """Which optimizers keep which layers orthonormal, and what is special of each, for the documentation."""
    kept = listed(lambda row: row.constrained and row.exact)
    approached = listed(lambda row: row.constrained and not row.exact)
    free = listed(lambda row: not row.constrained)
    notes = "; ".join(f"`{name}`: {row.note}" for name, row in OPTIMIZERS.items() if row.note)
    return (
        f"{kept} keep the layers orthonormal that are not `free`, {approached} bring them there; {free} leave all "
        f"free. {notes}."
    )


def widths(profile: str, width: int, depth: int, input_dim: int, output_dim: int) -> tuple[int, ...]:
    """``(d_0, ..., d_N)`` of a cell.

    Args:
      profile: a word of :data:`PROFILES`, or the hidden widths written ``4-6-8``.
      width: the narrowest hidden width; of ``growing`` the first, of ``shrinking`` the last.
    """
    if profile == "growing":
        hidden = [_between(width, output_dim, i, depth - 1) for i in range(depth - 1)]
    elif profile == "shrinking":
        hidden = [_between(width, input_dim, i, depth - 1) for i in reversed(range(depth - 1))]
    elif profile == "equal":
        hidden = [width] * (depth - 1)
    else:
        hidden = [int(part) for part in profile.split("-")]
    return (input_dim, *hidden, output_dim)


def _between(near: int, far: int, i: int, count: int) -> int:
    """``near`` at 0, ``far`` at count, evenly between, never below ``near``."""
    return max(near, near + (far - near) * i // count)


def pace(free: str, depth: int) -> tuple[int, ...]:
    """Which step scale a layer takes: 0 of a free layer, 1 of one between, 2 of an orthonormal end."""
    place = {"last": depth - 1, "middle": depth // 2}.get(free, 0)
    kinds = [2, *([1] * (depth - 2)), 2]
    if free != "none":
        kinds[place] = 0
    return tuple(kinds)


def held(optimizer_name: str, free: str, depth: int) -> tuple[bool, ...]:
    """Which layers stay orthonormal."""
    if not optimizer(optimizer_name).constrained or free == "all":
        return (False,) * depth
    return tuple(kind != 0 for kind in pace(free, depth))
