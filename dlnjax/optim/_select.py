"""Which leaves are constrained: labels, their default for a network, and links applied to those leaves alone."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax

from dlnjax._types import PyTree
from dlnjax.optim._drift import DriftControl
from dlnjax.optim._paths import is_function, matched, named_leaves
from dlnjax.optim._retract import Last

#: True for all leaves, a pytree of bools matched by path (or a prefix: one bool for all below), a function of the
#: params that returns either, or None for a network.
Labels = Any


def labels(constrained: Labels, params: PyTree) -> PyTree:
    """Bools in the structure of ``params``.

    The default, every layer but the first, holds for a tuple of matrices (or runs of them); any other tree must say
    which of its leaves are constrained. Labels are matched to leaves by their paths, so that those of
    ``nnx.state(model)`` serve for the plain arrays that ``nnx.Optimizer`` hands on, and a dict for any mapping.

    Args:
      constrained: True for all leaves, bools in the params' structure or a prefix of it, a function of the params, or
        None.
      params: any pytree; None and masked places need no label.

    Raises:
      TypeError: no labels for a tree that is no tuple of layers, or labels that are no bools.
      ValueError: a leaf without a label, a label without a leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> optim.labels({"cell": True, "head": False}, {"cell": [jnp.eye(2), jnp.eye(3)], "head": jnp.ones(3)})
      {'cell': [True, True], 'head': False}
    """
    if constrained is None:
        return _all_but_first(params)
    flags = matched("constrained", constrained(params) if is_function(constrained) else constrained, params)
    for (name, _), flag in zip(named_leaves(params), flags, strict=True):
        if not isinstance(flag, (bool, np.bool_)):
            raise TypeError(f"constrained is {flag!r} at the leaf {name}; every label is True or False")
    return jax.tree.unflatten(jax.tree.structure(params), [bool(flag) for flag in flags])


def _all_but_first(params: PyTree) -> PyTree:
    is_network = type(params) is tuple and all(getattr(w, "ndim", 0) >= 2 for w in params)
    if not is_network or not params:
        raise TypeError(
            f"params is a {type(params).__name__}, not a tuple of layers; say which leaves are orthonormal: "
            "constrained=True for all of them, or bools in the params' structure"
        )
    return tuple(i > 0 for i in range(len(params)))


def on(constrained: Labels, link: optax.GradientTransformation) -> optax.GradientTransformation:
    """``link`` on the constrained leaves; all other updates pass bitwise untouched.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> params = {"cell": jnp.eye(2), "bias": jnp.zeros(2)}
      >>> link = optim.on({"cell": True, "bias": False}, optim.project_to_tangent())
      >>> updates, _ = link.update({"cell": jnp.eye(2), "bias": jnp.ones(2)}, link.init(params), params)
      >>> print(updates["cell"].sum(), updates["bias"])  # the identity has no tangent part at the identity
      0.0 [1. 1.]
    """
    masked = optax.masked(link, lambda tree: labels(constrained, tree))
    return Last(masked.init, masked.update) if isinstance(link, Last) else masked


def off(constrained: Labels, link: optax.GradientTransformation) -> optax.GradientTransformation:
    """``link`` on the leaves that are not constrained.

    Example:
      >>> import optax
      >>> from dlnjax import optim
      >>> labels = {"cell": True, "bias": False}
      >>> decayed = optim.chain(optim.off(labels, optax.add_decayed_weights(1e-2)), optim.rgd(0.1, constrained=labels))
    """
    return optax.masked(link, lambda tree: jax.tree.map(lambda c: not c, labels(constrained, tree)))


def chain(*links: optax.GradientTransformation) -> optax.GradientTransformation:
    """``optax.chain`` that refuses a link after :func:`retract` (drift control excepted).

    Raises:
      ValueError: a retraction that is not last.

    Example:
      >>> import optax
      >>> from dlnjax import optim
      >>> optim.chain(optim.retract(), optax.scale(0.1))
      Traceback (most recent call last):
      ValueError: link 0 of 2 is a retraction, which returns new - old and must be last; move what follows before it
    """
    for position, link in enumerate(links[:-1]):
        if isinstance(link, Last) and not isinstance(links[position + 1], DriftControl):
            raise ValueError(
                f"link {position} of {len(links)} is a retraction, which returns new - old and must be last; "
                "move what follows before it"
            )
    chained = optax.chain(*links)
    is_last = bool(links) and isinstance(links[-1], Last)
    return Last(chained.init, optax.with_extra_args_support(chained).update) if is_last else chained
