"""The same Riemannian gradient step in other packages: what ``dlnjax bench optim`` is measured against.

Every peer minimises ``1/2 ||W - T||^2`` over a batch of orthonormal matrices from the same start with the same step,
in the fastest way its documentation offers: a factory takes ``(start, target, step_size)``, numpy
arrays, and returns a function that advances ``steps`` steps and returns the matrices. The gradient costs one
subtraction, so what is timed is the optimizer.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
from collections.abc import Callable
from typing import Any

import numpy as np

Advance = Callable[[int], np.ndarray]
Factory = Callable[[np.ndarray, np.ndarray, float], Advance]


def _scanned(step: Callable[[Any], Any], start: Any) -> Advance:
    """Run ``step`` in one compiled loop whose number of turns is an argument."""
    import jax

    run = jax.jit(lambda carry, steps: jax.lax.fori_loop(0, steps, lambda _, c: step(c), carry))
    return lambda steps: jax.block_until_ready(run(start, steps))


def dlnjax(start: np.ndarray, target: np.ndarray, step_size: float) -> Advance:
    """Ours: the chain of links a user writes."""
    import jax.numpy as jnp
    import optax

    from dlnjax import optim

    optimizer = optim.rgd(step_size, constrained=True)
    goal = jnp.asarray(target)
    params = jnp.asarray(start)

    def step(carry: Any) -> Any:
        params, state = carry
        updates, state = optimizer.update(params - goal, state, params)
        return optax.apply_updates(params, updates), state

    advance = _scanned(step, (params, optimizer.init(params)))
    return lambda steps: advance(steps)[0]


def svd_in_jax(start: np.ndarray, target: np.ndarray, step_size: float) -> Advance:
    """What one writes in JAX without a package: projection, then ``u @ vt`` of the batched SVD."""
    import jax.numpy as jnp

    goal = jnp.asarray(target)

    def step(w: Any) -> Any:
        g = w - goal
        product = jnp.swapaxes(w, -1, -2) @ g
        moved = w - step_size * (g - w @ (product + jnp.swapaxes(product, -1, -2)) / 2)
        u, _, vt = jnp.linalg.svd(moved, full_matrices=False)
        return u @ vt

    return _scanned(step, jnp.asarray(start))


def geojax(start: np.ndarray, target: np.ndarray, step_size: float) -> Advance:
    """geojax: canonical Stiefel gradient and its retraction (the exponential), vmapped and compiled.

    Its embedded-metric manifold calls two independent batched exponentials, that is two batched LAPACK solves, in one
    program: on two threads that waits for ever.
    """
    import jax
    import jax.numpy as jnp
    from geojax.geometry.stiefel import Stiefel  # pyright: ignore[reportMissingImports]

    manifold: Any = Stiefel(tuple(start.shape[-2:]))
    goal = jnp.asarray(target)

    def one(w: Any, t: Any) -> Any:
        return manifold.retr(w, -step_size * manifold.egrad_to_rgrad(w, w - t))

    return _scanned(lambda w: jax.vmap(one)(w, goal), jnp.asarray(start))


def geoopt(start: np.ndarray, target: np.ndarray, step_size: float) -> Advance:
    """geoopt: ``RiemannianSGD`` on one batched parameter, Euclidean metric, QR."""
    import geoopt as package  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    goal = torch.from_numpy(target)

    def advance(steps: int) -> np.ndarray:
        manifold = package.manifolds.EuclideanStiefel()
        begin = torch.from_numpy(start).clone()
        w: Any = package.ManifoldParameter(begin, manifold=manifold)  # pyright: ignore[reportCallIssue]
        optimizer = package.optim.RiemannianSGD([w], lr=step_size)
        for _ in range(steps):
            w.grad = w.detach() - goal
            optimizer.step()
        return w.detach().numpy()

    return advance


def pymanopt(start: np.ndarray, target: np.ndarray, step_size: float) -> Advance:
    """pymanopt: the projection and the QR retraction of its batched Stiefel manifold, in numpy."""
    import pymanopt.manifolds as manifolds  # pyright: ignore[reportMissingImports]

    manifold: Any = manifolds.Stiefel(*start.shape[-2:], k=start.shape[0])

    def advance(steps: int) -> np.ndarray:
        w = start
        for _ in range(steps):
            w = manifold.retraction(w, -step_size * manifold.euclidean_to_riemannian_gradient(w, w - target))
        return w

    return advance


OURS = "dlnjax"
PEERS: dict[str, Factory] = {
    "geoopt": geoopt,
    "geojax": geojax,
    "pymanopt": pymanopt,
    "svd_in_jax": svd_in_jax,
}


NEEDS = {"geoopt": "geoopt", "geojax": "geojax", "pymanopt": "pymanopt", "svd_in_jax": "jax"}
#: Peers that call batched LAPACK from a JAX program, which on few cores may never return: tried aside first.
MAY_HANG = ("geojax", "svd_in_jax")


def _try(name: str, shape: tuple[int, ...]) -> None:
    start = np.broadcast_to(np.eye(*shape[-2:], dtype=np.float32), shape).copy()
    PEERS[name](start, start[..., ::-1].copy(), 0.01)(20)


def _returns(name: str, shape: tuple[int, ...], patience: float) -> bool:
    """Whether a peer comes back at all from a few steps of this shape, in a process that can be stopped."""
    child = multiprocessing.get_context("spawn").Process(target=_try, args=(name, shape))
    child.start()
    child.join(patience)
    hangs = child.is_alive()
    if hangs:
        child.kill()
        child.join()
    return not hangs and child.exitcode == 0


def available(shape: tuple[int, ...], patience: float = 90.0) -> tuple[dict[str, Factory], dict[str, str]]:
    """The peers that can run this shape, and why the others are left out."""
    found, left_out = {}, {}
    for name, make in PEERS.items():
        if importlib.util.find_spec(NEEDS[name]) is None:
            left_out[name] = "not installed; pip install 'dlnjax[bench]'"
        elif name in MAY_HANG and not _returns(name, shape, patience):
            left_out[name] = f"failed, or did not return within {patience:g} s"
        else:
            found[name] = make
    return found, left_out
