"""A normalising flow: orthogonal turns between stretches, so that the change of volume is a sum of logarithms."""

import jax
import jax.numpy as jnp
import optax

from dlnjax import optim, stiefel

WIDTH, LAYERS = 4, 3


def negative_log_likelihood(params, x):
    """Of ``x`` when its image ``z`` under the layers is standard normal."""
    volume = 0.0
    for turn, log_scale, shift in zip(params["turn"], params["log_scale"], params["shift"], strict=True):
        x = (x @ turn - shift) * jnp.exp(log_scale)
        bent = 0.5 * jnp.tanh(x)
        volume = volume + jnp.sum(log_scale) + jnp.sum(jnp.log1p(0.5 * (1 - jnp.tanh(x) ** 2)), -1)
        x = x + bent
    return jnp.mean(jnp.sum(x**2, -1) / 2 - volume) + WIDTH / 2 * jnp.log(2 * jnp.pi)


def main(steps: int = 200) -> tuple[float, float, float]:
    """Fit a correlated cloud: the excess over a Gaussian of its covariance before and after, orthonormality error."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (500, WIDTH)) @ jax.random.normal(keys[1], (WIDTH, WIDTH)) + 3.0
    params = {
        "turn": stiefel.random(keys[2], (LAYERS, WIDTH, WIDTH)),  # one orthogonal matrix a layer, stacked
        "log_scale": jnp.zeros((LAYERS, WIDTH)),
        "shift": jnp.zeros((LAYERS, WIDTH)),
    }
    optimizer = optim.adam(0.03, constrained={"turn": True, "log_scale": False, "shift": False})
    best = jnp.linalg.slogdet(jnp.cov(x.T))[1] / 2 + WIDTH / 2 * (1 + jnp.log(2 * jnp.pi))

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(negative_log_likelihood)(params, x), state, params)
        return optax.apply_updates(params, updates), state

    start, state = negative_log_likelihood(params, x), optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    error = jnp.max(stiefel.orthonormality_error(params["turn"]))
    return float(start - best), float(negative_log_likelihood(params, x) - best), float(error)
