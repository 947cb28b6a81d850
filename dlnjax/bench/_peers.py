"""The same Riemannian gradient step in other packages: what ``dlnjax bench optim`` is measured against.

Every peer minimises ``1/2 ||W - T||^2`` over a batch of orthonormal matrices from the same start with the same step,
in the fastest way its documentation offers: a factory takes ``(start, target, step_size)``, numpy
arrays, and returns a function that advances ``steps`` steps and returns the matrices. The gradient costs one
subtraction, so what is timed is the optimizer.

Every contestant may use every core: those in JAX, ours and the peers alike, hold one host device a core with the
batch spread over them (a device runs its products on one core); torch has its threads, and geoopt is also
timed with one thread, which is faster where the matrices are small or the machine is busy.
"""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dlnjax.sweep.compute.devices import cores, prepare

if TYPE_CHECKING:
    import jax
    import optax

    from dlnjax._types import PyTree

Advance = Callable[[int], np.ndarray]
Factory = Callable[..., Advance]
Step: TypeAlias = "Callable[[PyTree, jax.Array], PyTree]"


def spread(
    step: Step, begin: Callable[[jax.Array], PyTree] = lambda w: w, count: int | None = None
) -> Callable[[jax.Array, jax.Array, np.int32], jax.Array]:
    """``run(w, goal, steps)``: ``step(carry, goal)`` in one compiled loop, the batch divided among ``count`` devices.

    ``begin(w)`` is the first carry; what comes back is its first leaf. The number of turns is an argument.
    """
    import jax
    from jax.sharding import AxisType, Mesh, PartitionSpec

    def loop(w: jax.Array, goal: jax.Array, steps: jax.Array) -> jax.Array:
        return jax.tree.leaves(jax.lax.fori_loop(0, steps, lambda _, c: step(c, goal), begin(w)))[0]

    mesh = Mesh(np.array(jax.local_devices()[:count]), ("batch",), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec("batch"), PartitionSpec()
    mapped = jax.shard_map(loop, mesh=mesh, in_specs=(split, split, whole), out_specs=split, check_vma=False)
    return jax.jit(mapped)


def _scanned(step: Step, start: np.ndarray, goal: np.ndarray, **options: Any) -> Advance:
    import jax
    import jax.numpy as jnp

    run, w, t = spread(step, **options), jnp.asarray(start), jnp.asarray(goal)
    return lambda steps: jax.block_until_ready(run(w, t, np.int32(steps)))


def dlnjax(
    start: np.ndarray,
    target: np.ndarray,
    step_size: float,
    count: int | None = None,
    make: Callable[..., optax.GradientTransformation] | None = None,
) -> Advance:
    """Ours: the chain of links a user writes; ``make`` in place of ``optim.rgd``."""
    import optax

    from dlnjax import optim

    optimizer = (make or optim.rgd)(step_size, constrained=True)

    def step(carry: PyTree, goal: jax.Array) -> PyTree:
        params, state = carry
        updates, state = optimizer.update(params - goal, state, params)
        return optax.apply_updates(params, updates), state

    return _scanned(step, start, target, begin=lambda w: (w, optimizer.init(w)), count=count)


def dlnjax_1_device(start: np.ndarray, target: np.ndarray, step_size: float) -> Advance:
    """Ours with JAX's default settings: one device, whose products run on one core."""
    return dlnjax(start, target, step_size, count=1)


def svd_in_jax(start: np.ndarray, target: np.ndarray, step_size: float, count: int | None = None) -> Advance:
    """What one writes in JAX without a package: projection, then ``u @ vt`` of the batched SVD."""
    import jax.numpy as jnp

    def step(w: jax.Array, goal: jax.Array) -> jax.Array:
        g = w - goal
        product = jnp.swapaxes(w, -1, -2) @ g
        moved = w - step_size * (g - w @ (product + jnp.swapaxes(product, -1, -2)) / 2)
        u, _, vt = jnp.linalg.svd(moved, full_matrices=False)
        return u @ vt

    return _scanned(step, start, target, count=count)


def geojax(start: np.ndarray, target: np.ndarray, step_size: float, count: int | None = None) -> Advance:
    """geojax: canonical Stiefel gradient and its retraction (the exponential), vmapped and compiled.

    Its embedded-metric manifold calls two independent batched exponentials, that is two batched LAPACK solves, in one
    program: on two threads that waits for ever.
    """
    import jax
    from geojax.geometry.stiefel import Stiefel  # pyright: ignore[reportMissingImports]

    manifold: Any = Stiefel(tuple(start.shape[-2:]))

    def one(w: jax.Array, t: jax.Array) -> jax.Array:
        return manifold.retr(w, -step_size * manifold.egrad_to_rgrad(w, w - t))

    return _scanned(jax.vmap(one), start, target, count=count)


def optax_muon(step_size: float, constrained: bool) -> Any:
    """optax's Muon with its defaults on ``(batch, n, p)``, in the place of a recipe; nothing is constrained."""
    import optax

    del constrained
    axes = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    return optax.contrib.muon(step_size, muon_weight_dimension_numbers=axes)


def geoopt(
    start: np.ndarray,
    target: np.ndarray,
    step_size: float,
    threads: int | None = None,
    optimizer: str = "RiemannianSGD",
) -> Advance:
    """geoopt: its SGD or Adam on one batched parameter, Euclidean metric, QR; one thread a core by default."""
    name = optimizer
    import geoopt as package  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    goal = torch.from_numpy(target)

    def advance(steps: int) -> np.ndarray:
        torch.set_num_threads(cores() if threads is None else threads)
        manifold = package.manifolds.EuclideanStiefel()
        begin = torch.from_numpy(start).clone()
        w: Any = package.ManifoldParameter(begin, manifold=manifold)  # pyright: ignore[reportCallIssue]
        optimizer = getattr(package.optim, name)([w], lr=step_size)
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


OURS, ALONE = "dlnjax", "dlnjax_1_device"
PEERS: dict[str, Factory] = {
    "geoopt": geoopt,
    "geoopt_1_thread": functools.partial(geoopt, threads=1),
    "geojax": geojax,
    "pymanopt": pymanopt,
    "svd_in_jax": svd_in_jax,
}

#: What has to be importable for a peer, where it is not its own name.
NEEDS = {"geoopt_1_thread": "geoopt", "svd_in_jax": "jax"}
#: Peers that call batched LAPACK from a JAX program, which on few cores may never return: tried aside first, and on one
#: device only, since on several they may hang after many steps that went well. LAPACK shares the cores out itself.
MAY_HANG = ("geojax", "svd_in_jax")


def _try(name: str, shape: tuple[int, ...], count: int | None) -> None:
    prepare("float32")
    start = np.broadcast_to(np.eye(*shape[-2:], dtype=np.float32), shape).copy()
    PEERS[name](start, start[..., ::-1].copy(), 0.01, count)(20)


def _returns(name: str, shape: tuple[int, ...], count: int | None, patience: float) -> bool:
    """Whether a peer comes back at all from a few steps of this shape, in a process that can be stopped."""
    child = multiprocessing.get_context("spawn").Process(target=_try, args=(name, shape, count))
    child.start()
    child.join(patience)
    hangs = child.is_alive()
    if hangs:
        child.kill()
        child.join()
    return not hangs and child.exitcode == 0


def _usable(name: str, shape: tuple[int, ...], patience: float) -> Factory | None:
    if name not in MAY_HANG:
        return PEERS[name]
    return functools.partial(PEERS[name], count=1) if _returns(name, shape, 1, patience) else None


def available(shape: tuple[int, ...], patience: float = 60.0) -> tuple[dict[str, Factory], dict[str, str]]:
    """The peers that can run this shape, and why the others are left out."""
    found, left_out = {}, {}
    for name in PEERS:
        if importlib.util.find_spec(NEEDS.get(name, name)) is None:
            left_out[name] = 'not installed; pip install "dlnjax[bench]"'
        elif make := _usable(name, shape, patience):
            found[name] = make
        else:
            left_out[name] = f"failed, or did not return within {patience:g} s"
    return found, left_out
