"""Equinox: an MLP whose hidden weight stays orthogonal, everything else free."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from dlnjax import optim, stiefel


def main(steps: int = 200) -> tuple[float, float, float]:
    """Fit a sine; returns the loss before, the loss after, and the orthonormality error."""
    model = eqx.nn.MLP(1, 1, 16, depth=2, activation=jnp.tanh, key=jax.random.key(0))
    where = lambda m: m.layers[1].weight  # noqa: E731
    model = eqx.tree_at(where, model, stiefel.random(jax.random.key(1), (16, 16), where(model).dtype))
    x = jnp.linspace(-3, 3, 64)[:, None]

    params, static = eqx.partition(model, eqx.is_inexact_array)
    labels = eqx.tree_at(where, jax.tree.map(lambda _: False, params), True)
    optimizer = optim.adam(0.01, constrained=labels)

    def loss(params):
        return jnp.mean((jax.vmap(eqx.combine(params, static))(x) - jnp.sin(x)) ** 2)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    start, state = loss(params), optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return float(start), float(loss(params)), float(stiefel.orthonormality_error(where(params)))
