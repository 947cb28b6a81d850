"""A quantum circuit of unitary gates on neighbouring qubits, trained to a target state: complex leaves as they are."""

import jax
import jax.numpy as jnp
import optax

from dlnjax import optim, stiefel

QUBITS, LAYERS = 4, 3


def state(gates: jax.Array) -> jax.Array:
    """The state that ``(LAYERS, QUBITS - 1, 4, 4)`` unitary gates make of the first basis state."""
    psi = jnp.zeros((2,) * QUBITS, gates.dtype).at[(0,) * QUBITS].set(1)
    for layer in gates:
        for k, gate in enumerate(layer):
            pair = gate.reshape(2, 2, 2, 2)
            psi = jnp.moveaxis(jnp.tensordot(pair, psi, axes=((2, 3), (k, k + 1))), (0, 1), (k, k + 1))
    return psi


def main(steps: int = 200) -> tuple[float, float, float]:
    """Prepare a random state: the infidelity before, after, and the largest distance of a gate from unitary."""
    shape = (LAYERS, QUBITS - 1, 4, 4)
    goal = stiefel.random(jax.random.key(0), (2**QUBITS, 1), "complex64").reshape((2,) * QUBITS)
    gates = stiefel.random(jax.random.key(1), shape, "complex64")
    optimizer = optim.nesterov(0.05, constrained=True)

    def infidelity(gates):
        return 1 - jnp.abs(jnp.vdot(goal, state(gates))) ** 2

    @jax.jit
    def step(gates, momentum):
        updates, momentum = optimizer.update(jax.grad(infidelity)(gates), momentum, gates)
        return optax.apply_updates(gates, updates), momentum

    start, momentum = infidelity(gates), optimizer.init(gates)
    for _ in range(steps):
        gates, momentum = step(gates, momentum)
    error = jnp.max(stiefel.orthonormality_error(gates))
    return float(start), float(infidelity(gates)), float(error)
