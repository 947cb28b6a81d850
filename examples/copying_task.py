"""The copying task: an RNN with an orthogonal recurrent matrix repeats symbols after a silence."""

import jax
import jax.numpy as jnp
import optax

from dlnjax import optim, stiefel

WIDTH, SYMBOLS, LENGTH, SILENCE = 64, 4, 3, 20


def logits(params, sequence):
    def cell(hidden, symbol):
        hidden = params["recurrent"] @ hidden + params["input"][symbol]
        return hidden, params["output"] @ (jnp.abs(hidden) * jnp.sign(hidden + 0.01))

    return jax.lax.scan(cell, jnp.zeros(WIDTH), sequence)[1][-LENGTH:]


def main(steps: int = 300) -> tuple[float, float, float]:
    """Train on random sequences; returns the loss before, the loss after, and the orthonormality error."""
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = {"input": (SYMBOLS + 1, WIDTH), "output": (SYMBOLS, WIDTH)}
    params = {k: jax.random.normal(keys[i], s, float) / WIDTH**0.5 for i, (k, s) in enumerate(shapes.items())}
    params["recurrent"] = stiefel.random(keys[2], (WIDTH, WIDTH))
    optimizer = optim.adam(0.01, constrained={name: name == "recurrent" for name in params})

    def loss(params, symbols):
        blank = jnp.full((len(symbols), SILENCE + LENGTH), SYMBOLS)
        out = jax.vmap(logits, (None, 0))(params, jnp.concatenate([symbols, blank], axis=1))
        return optax.softmax_cross_entropy_with_integer_labels(out, symbols).mean()

    batches = jax.random.randint(keys[3], (steps, 64, LENGTH), 0, SYMBOLS)
    start, state = loss(params, batches[0]), optimizer.init(params)
    update = jax.jit(lambda p, s, batch: optimizer.update(jax.grad(loss)(p, batch), s, p))
    for batch in batches:
        updates, state = update(params, state, batch)
        params = optax.apply_updates(params, updates)
    return float(start), float(loss(params, batch)), float(stiefel.orthonormality_error(params["recurrent"]))
