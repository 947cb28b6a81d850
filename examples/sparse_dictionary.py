"""Learn a dictionary with orthonormal atoms, its codes computed by a network; compare what it learns with the truth."""

import jax
import jax.numpy as jnp
import optax

from dlnjax import optim, sparse, stiefel


def main(steps: int = 200, threshold: float = 0.1) -> tuple[float, float, float]:
    """Returns the misfit before, the misfit after, and the orthonormality error."""
    true_key, signal_key, start_key = jax.random.split(jax.random.key(0), 3)
    true = sparse.random(true_key, 20, 16, "orthonormal")
    signals, _ = sparse.sample(signal_key, [sparse.dense(true)], sparsity=2, signals=1000)
    optimizer = optim.rgd(10.0, constrained=True)

    def misfit(atoms):
        dictionary = sparse.Dictionary(atoms)
        codes = sparse.encode(dictionary, signals, threshold, num_layers=1, step_size=1.0)  # orthonormal: one
        rest = signals - dictionary.synthesize(jax.lax.stop_gradient(codes))
        return 0.5 * jnp.mean(jnp.sum(rest**2, axis=-1))

    @jax.jit
    def step(atoms, state):
        updates, state = optimizer.update(jax.grad(misfit)(atoms), state, atoms)
        return optax.apply_updates(atoms, updates), state

    atoms = stiefel.random(start_key, true.shape)
    before, state = misfit(atoms), optimizer.init(atoms)
    for _ in range(steps):
        atoms, state = step(atoms, state)
    found = jnp.sum(jnp.max(jnp.abs(true.T @ atoms), axis=1) > 0.99)  # up to order and sign
    print(f"{found} of {true.shape[1]} atoms recovered")
    return float(before), float(misfit(atoms)), float(stiefel.orthonormality_error(atoms))


if __name__ == "__main__":
    main()
