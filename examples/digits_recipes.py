"""An MLP on scikit-learn's 8 x 8 digits with an orthogonal hidden layer: the recipes side by side."""

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

from dlnjax import optim, stiefel

RECIPES = {
    "rgd": optim.rgd(0.3, constrained={"first": True, "hidden": True, "last": False}),
    "nesterov": optim.nesterov(0.03, constrained={"first": True, "hidden": True, "last": False}),
    "adam": optim.adam(0.01, constrained={"first": True, "hidden": True, "last": False}),
    "landing": optim.landing(0.3, constrained={"first": True, "hidden": True, "last": False}),
    "muon": optim.muon(
        0.03, 0.9, constrained={"first": True, "hidden": True, "last": False}, accuracy="fast"
    ),
}


def main(steps: int = 100, *, report: bool = False) -> tuple[float, float, float]:
    """Train each; returns the loss before, the largest loss after, and rgd's orthonormality error."""
    digits = load_digits()
    x, y = jnp.asarray(digits.data / 16.0), jnp.asarray(digits.target)
    shapes = {"first": (64, 32), "hidden": (32, 32)}
    start = {name: stiefel.random(jax.random.key(i), shape) for i, (name, shape) in enumerate(shapes.items())}
    start["last"] = 0.3 * jax.random.normal(jax.random.key(9), (32, 10))

    def loss(params, x=x, y=y):
        hidden = jax.nn.relu(jax.nn.relu(x @ params["first"]) @ params["hidden"])
        return optax.softmax_cross_entropy_with_integer_labels(hidden @ params["last"], y).mean()

    ends = {}
    for name, optimizer in RECIPES.items():

        def step(carry, _, optimizer=optimizer):
            updates, state = optimizer.update(jax.grad(loss)(carry[0]), carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        ends[name], _ = jax.jit(lambda c, f=step: jax.lax.scan(f, c, length=steps)[0])(
            (start, optimizer.init(start))
        )
        if report:
            print(f"{name:10}{loss(ends[name]):8.3f}")
    error = stiefel.orthonormality_error(ends["rgd"]["hidden"])
    return float(loss(start)), float(max(map(loss, ends.values()))), float(error)
