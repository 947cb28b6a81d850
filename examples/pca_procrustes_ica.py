"""PCA, Procrustes and ICA as what they are: a loss of one orthonormal matrix, by the methods that choose their step."""

import jax
import jax.numpy as jnp
import optax

from dlnjax import optim, stiefel


def solve(loss, start, optimizer, steps):
    def step(carry, _):
        w, state = carry
        value, gradient = jax.value_and_grad(loss)(w)
        updates, state = optimizer.update(gradient, state, w, value=value, value_fn=loss)
        return (optax.apply_updates(w, updates), state), None

    return jax.jit(lambda w: jax.lax.scan(step, (w, optimizer.init(w)), length=steps)[0][0])(start)


def main(steps: int = 60) -> tuple[float, float, float]:
    """All three at once: the summed excess of the losses before and after, and the worst orthonormality error."""
    keys = jax.random.split(jax.random.key(0), 6)
    data = jax.random.normal(keys[0], (200, 6)) * jnp.array([3.0, 2.5, 2.0, 1.0, 0.5, 0.2])
    points, rotation = jax.random.normal(keys[1], (40, 4)), stiefel.random(keys[2], (4, 4))
    sources = jax.random.laplace(keys[3], (2000, 3)) @ stiefel.random(keys[4], (3, 3))

    def pca(w):
        return jnp.sum((data - data @ w @ w.T) ** 2) / len(data)

    def procrustes(w):
        return jnp.sum((points @ w - points @ rotation) ** 2) / len(points)

    def ica(w):  # negative kurtosis of unmixed signals, orthonormal after whitening
        white = sources / jnp.std(sources, 0)
        return -jnp.mean((white @ w) ** 4)

    near = stiefel.project(rotation + 0.5 * jax.random.normal(keys[5], (4, 4)))
    problems = {pca: (6, 2), procrustes: near, ica: (3, 3)}
    before = after = error = 0.0
    for loss, start in problems.items():
        w = stiefel.random(jax.random.key(7), start) if isinstance(start, tuple) else start
        end = solve(loss, w, optim.lbfgs(constrained=True), min(steps, 60))
        least = loss(solve(loss, end, optim.trust_region(constrained=True), 10))
        before, after = before + loss(w) - least, after + loss(end) - least
        error = max(error, float(stiefel.orthonormality_error(end)))
    return float(before), float(after), error
