"""Flax NNX: a classifier whose wide hidden kernel keeps orthonormal rows."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from dlnjax import optim, stiefel


class Model(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.inner = nnx.Linear(8, 16, kernel_init=stiefel.random, rngs=rngs)
        self.outer = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.outer(nnx.relu(self.inner(x)))


def main(steps: int = 200) -> tuple[float, float, float]:
    """Separate three Gaussian clouds: the loss before, the loss after, the orthonormality error."""
    model = Model(nnx.Rngs(0))
    labels = jnp.arange(90) % 3
    x = jax.random.normal(jax.random.key(1), (90, 8)) + 2 * jax.nn.one_hot(labels, 8)
    graph, params = nnx.split(model)
    wide = lambda path, _: "inner" in str(path) and "kernel" in str(path)  # noqa: E731
    optimizer = optim.heavy_ball(0.02, constrained=jax.tree_util.tree_map_with_path(wide, params))

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(nnx.merge(graph, params)(x), labels).mean()

    start, state = loss(params), optimizer.init(params)
    update = jax.jit(lambda p, s: optimizer.update(jax.grad(loss)(p), s, p))
    for _ in range(steps):
        updates, state = update(params, state)
        params = optax.apply_updates(params, updates)
    error = stiefel.orthonormality_error(params["inner"]["kernel"][...])
    return float(start), float(loss(params)), float(error)
