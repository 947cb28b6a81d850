"""LoRA with orthonormal factors: a frozen weight plus ``U diag(s) V``, U and V on their Stiefel manifolds, s free."""

import jax
import jax.numpy as jnp
import optax

from dlnjax import optim, stiefel

WIDTH, RANK = 32, 4


def adapted(frozen, adapter):
    return frozen + adapter["left"] * adapter["sizes"] @ adapter["right"]


def main(steps: int = 200) -> tuple[float, float, float]:
    """Adapt to a change of rank 4; returns the loss before, the loss after, and the orthonormality error."""
    keys = jax.random.split(jax.random.key(0), 4)
    frozen, x = (jax.random.normal(key, (WIDTH, WIDTH)) for key in keys[:2])

    def draw(key, sizes):
        left, right = jax.random.split(key)
        shapes = {"left": (left, (WIDTH, RANK)), "right": (right, (RANK, WIDTH))}
        return {name: stiefel.random(*args) for name, args in shapes.items()} | {"sizes": jnp.array(sizes)}

    goal = x @ adapted(frozen, draw(keys[2], [3.0, 2.0, 2.0, 1.0])).T
    adapter = draw(keys[3], [0.0] * RANK)  # starts as the frozen model
    groups = {"left": "orthonormal", "right": "orthonormal", "sizes": "free"}
    parts = {"orthonormal": optim.adam(0.02, constrained=True), "free": optax.adam(0.05)}
    optimizer = optax.multi_transform(parts, groups)

    def loss(adapter):
        return jnp.mean((x @ adapted(frozen, adapter).T - goal) ** 2)

    start, state = loss(adapter), optimizer.init(adapter)
    update = jax.jit(lambda a, s: optimizer.update(jax.grad(loss)(a), s, a))
    for _ in range(steps):
        updates, state = update(adapter, state)
        adapter = optax.apply_updates(adapter, updates)
    errors = [stiefel.orthonormality_error(adapter[name]) for name in ("left", "right")]
    return float(start), float(loss(adapter)), float(max(errors))
