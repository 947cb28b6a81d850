"""Attention whose query heads stay orthonormal: a kernel (features, heads, width), one matrix a head, by axes."""

import jax
import jax.numpy as jnp
import optax

from dlnjax import optim, stiefel

FEATURES, HEADS, WIDTH, LENGTH = 16, 4, 8, 12
HEAD = optim.MatrixAxes(rows=0, columns=2)  # axis 1, the heads, is batch


def attend(params, x):
    query, key = (jnp.einsum("lf,fhw->hlw", x, params[name]) for name in ("query", "key"))
    weights = jax.nn.softmax(jnp.einsum("hlw,hmw->hlm", query, key))
    return jnp.einsum("hlm,mf,fhw->lw", weights, x, params["value"])


def main(steps: int = 200) -> tuple[float, float, float]:
    """Learn a teacher's attention; returns the loss before, the loss after, and the orthonormality error."""

    def draw(seed):
        keys = jax.random.split(jax.random.key(seed), 3)
        heads = jnp.swapaxes(stiefel.random(keys[0], (HEADS, FEATURES, WIDTH)), 0, 1)
        free = [0.3 * jax.random.normal(key, heads.shape, heads.dtype) for key in keys[1:]]
        return {"query": heads, "key": free[0], "value": free[1]}

    x = jax.random.normal(jax.random.key(2), (32, LENGTH, FEATURES))
    goal, params = jax.vmap(attend, (None, 0))(draw(0), x), draw(1)
    labels = {"query": True, "key": False, "value": False}
    optimizer = optim.adam(0.02, constrained=labels, axes={"query": HEAD, "key": None, "value": None})

    def loss(params):
        return jnp.mean((jax.vmap(attend, (None, 0))(params, x) - goal) ** 2)

    start, state = loss(params), optimizer.init(params)
    update = jax.jit(lambda p, s: optimizer.update(jax.grad(loss)(p), s, p))
    for _ in range(steps):
        updates, state = update(params, state)
        params = optax.apply_updates(params, updates)
    error = jnp.max(stiefel.orthonormality_error(jnp.swapaxes(params["query"], 0, 1)))
    return float(start), float(loss(params)), float(error)
