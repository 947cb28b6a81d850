"""A convolution kernel (height, width, in, out) whose filters stay orthonormal: say which axes form the matrix."""

import jax
import jax.numpy as jnp
import optax

from dlnjax import optim, stiefel

FILTERS = optim.MatrixAxes(rows=(0, 1, 2), columns=3)


def convolve(kernel: jax.Array, images: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def main(steps: int = 200) -> tuple[float, float, float]:
    """Recover a teacher's filters; returns the loss before, the loss after, and the orthonormality error."""
    draw = lambda key: stiefel.random(jax.random.key(key), (27, 8)).reshape(3, 3, 3, 8)  # noqa: E731
    images = jax.random.normal(jax.random.key(2), (4, 12, 12, 3), draw(0).dtype)
    goal = convolve(draw(0), images)
    optimizer = optim.rgd(0.1, constrained=True, axes=FILTERS)

    def loss(kernel):
        return jnp.mean((convolve(kernel, images) - goal) ** 2)

    @jax.jit
    def step(kernel, state):
        updates, state = optimizer.update(jax.grad(loss)(kernel), state, kernel)
        return optax.apply_updates(kernel, updates), state

    kernel = draw(1)
    start, state = loss(kernel), optimizer.init(kernel)
    for _ in range(steps):
        kernel, state = step(kernel, state)
    return float(start), float(loss(kernel)), float(stiefel.orthonormality_error(kernel.reshape(27, 8)))
