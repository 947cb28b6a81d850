"""Which leaves are constrained: labels, their default for a network, and links applied to those leaves alone."""

from __future__ import annotations

from typing import Any

import jax
import optax

from dlnjax.optim._drift import DriftControl
from dlnjax.optim._retract import Last

#: A bool pytree in the params' structure, a function of the params that returns one, or None for a network.
Labels = Any


def labels(constrained: Labels, params: Any) -> Any:
    """Bools in the structure of ``params``.

    The default, every layer but the first, holds for a tuple of matrices (or runs of them); any other tree must say
    which of its leaves are constrained.

    Raises:
      TypeError: no labels for a tree that is no tuple of layers, or labels that are no bools.
      ValueError: labels in another structure.
    """
    if constrained is None:
        return _all_but_first(params)
    structure = jax.tree.structure(params)
    fits = jax.tree.structure(constrained) == structure  # a model of bools may itself be callable
    tree = constrained if fits or not callable(constrained) else constrained(params)
    if jax.tree.structure(tree) != structure:
        raise ValueError(
            f"constrained has structure {jax.tree.structure(tree)} but params have {structure}; "
            "give one bool a leaf, for instance jax.tree.map(is_constrained, params)"
        )
    wrong = [x for x in jax.tree.leaves(tree) if not isinstance(x, bool)]
    if wrong:
        raise TypeError(f"constrained has the leaf {wrong[0]!r}; every label is True or False")
    return tree


def _all_but_first(params: Any) -> Any:
    is_network = type(params) is tuple and all(getattr(w, "ndim", 0) >= 2 for w in params)
    if not is_network or not params:
        raise TypeError(
            f"params is a {type(params).__name__}, not a tuple of layers; say which leaves are orthonormal: "
            "constrained=jax.tree.map(is_constrained, params)"
        )
    return tuple(i > 0 for i in range(len(params)))


def on(constrained: Labels, link: optax.GradientTransformation) -> optax.GradientTransformation:
    """``link`` on the constrained leaves; all other updates pass bitwise untouched."""
    masked = optax.masked(link, lambda tree: labels(constrained, tree))
    return Last(masked.init, masked.update) if isinstance(link, Last) else masked


def off(constrained: Labels, link: optax.GradientTransformation) -> optax.GradientTransformation:
    """``link`` on the leaves that are not constrained."""
    return optax.masked(link, lambda tree: jax.tree.map(lambda c: not c, labels(constrained, tree)))


def chain(*links: optax.GradientTransformation) -> optax.GradientTransformation:
    """``optax.chain`` that refuses a link after :func:`retract` (drift control excepted).

    Raises:
      ValueError: a retraction that is not last.
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
