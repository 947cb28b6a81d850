r"""Complex leaves: JAX's gradient of a real loss is the conjugate of the direction in which the loss rises.

For L real and ``z = x + i y`` it returns ``dL/dx - i dL/dy``, where the gradient in R^2 is ``dL/dx + i dL/dy``.
Recipes conjugate what they are given, once, before anything else. All products are those of R^2,
``<a, b> = Re tr(a^H b)``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from dlnjax._types import PyTree


def conjugated(tree: PyTree) -> PyTree:
    """Complex leaves conjugated, all others as they are."""
    return jax.tree.map(lambda x: jnp.conj(x) if jnp.iscomplexobj(x) else x, tree)


def real_part_of(dtype: DTypeLike) -> PyTree:
    """The dtype of a modulus."""
    return jnp.finfo(dtype).dtype


def square(x: jax.Array) -> jax.Array:
    """``|x|^2``, real."""
    return jnp.square(x.real) + jnp.square(x.imag) if jnp.iscomplexobj(x) else jnp.square(x)


def times(a: jax.Array, b: jax.Array) -> jax.Array:
    """``Re(conj(a) b)`` entry by entry, whose sum is the product of R^2."""
    return a.real * b.real + a.imag * b.imag if jnp.iscomplexobj(a) else a * b


def from_jax_gradient() -> optax.GradientTransformation:
    """Conjugate complex gradients: the first link of a chain of your own for complex params. Recipes have it inside.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from dlnjax import optim
      >>> link, z = optim.from_jax_gradient(), jnp.array(3.0 + 4.0j)
      >>> gradient = jax.grad(lambda z: jnp.abs(z) ** 2)(z)
      >>> print(gradient, link.update(gradient, link.init(z), z)[0])  # |z|^2 rises along 2 z
      (6-8j) (6+8j)
    """
    return optax.stateless(lambda updates, _: conjugated(updates))


def takes_jax_gradients(optimizer: optax.GradientTransformation) -> Any:
    """The optimizer behind :func:`from_jax_gradient`."""

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any) -> tuple[PyTree, PyTree]:
        return optimizer.update(conjugated(updates), state, params, **extra)

    return optimizer._replace(update=update)
