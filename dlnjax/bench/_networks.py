"""The same training step of a whole network in other packages: what ``dlnjax bench sweep`` is measured against.

Every contestant trains C networks of N layers of width d on ``1/2 ||W_N ... W_1 - T||_F^2`` in float32: ``W_1``
free, the others orthonormal, one step size. A factory takes the layers ``(N, C, d, d)``, the targets ``(C, d, d)``
and the step size as numpy arrays, and returns a function that advances some steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from dlnjax import layerwise, problem, reduced
from dlnjax._linalg import matmul, small_matmul
from dlnjax.sweep.compute import batching

#: Takes some steps from the start; returns where they lead, in the package's own form.
Advance = Callable[[int], object]


def over_devices(one: Callable, cells: int, width: int) -> Callable:
    """``one(layers, target, (steps, depth))`` over cells as a sweep runs it: in blocks, on devices that divide them."""
    split, whole = PartitionSpec("cells"), PartitionSpec()
    batched = batching.blocked(one, (0, 0, None), width)
    mapped = jax.shard_map(
        batched, mesh=batching.mesh(cells), in_specs=(split, split, whole), out_specs=split, check_vma=False
    )
    return jax.jit(mapped)


def _ours(layers: np.ndarray, target: np.ndarray, one: Callable) -> Advance:
    run = over_devices(one, target.shape[0], target.shape[1])
    start, goal = jnp.asarray(layers.swapaxes(0, 1)), jnp.asarray(target)
    depth = layers.shape[0]
    return lambda steps: jax.block_until_ready(run(start, goal, jnp.array([steps, depth], jnp.int32)))


def ours_layers(layers: np.ndarray, target: np.ndarray, step_size: float) -> Advance:
    """The layers engine, over all devices as a sweep runs it."""

    def one(layers, target, steps):
        params = (layers[0], layers[1:-1], layers[-1])
        size = jnp.float32(step_size)
        ended, _ = layerwise.train(
            params, problem.whitened(target), step_size=size, record_intervals=steps[:1], depth=steps[1]
        )
        return ended

    return _ours(layers, target, one)


def ours_reduced(layers: np.ndarray, target: np.ndarray, step_size: float) -> Advance:
    """The reduced engine; the layers are reduced to their frame beforehand."""
    frames = layers[1]
    for layer in layers[2:]:
        frames = layer @ frames
    count = len(layers)

    def one(pair, target, steps):
        start = reduced.Reduced(pair[0], pair[1], count)
        size = jnp.float32(step_size)
        ended, _ = reduced.train(start, problem.whitened(target), step_size=size, record_intervals=steps[:1])
        return ended.first

    return _ours(np.stack([layers[0], frames]), target, one)


def products_alone(layers: np.ndarray, target: np.ndarray, count: int) -> Advance:
    """``count`` products of the network's size a step in one chain of loops, and nothing else, over all devices."""
    factor = jnp.asarray(
        np.linalg.qr(np.random.default_rng(0).standard_normal(target.shape[1:]))[0], jnp.float32
    )

    def one(layers, target, steps):
        def product(_, w):
            return matmul(w, factor)

        return jax.lax.fori_loop(0, steps[0] * count, product, target)

    return _ours(layers[:2], target, one)


def own_products(layers: np.ndarray, target: np.ndarray, step_size: float) -> Advance:
    """The products of a step of the layers engine in their own forms and order, each of two matrices of a cell's own.

    What lies between them in a step (reading, adding and writing layers, the loss) is left out; orthonormal factors
    keep the numbers bounded.
    """

    def one(layers, target, steps):
        a, b = layers[1], layers[2]

        def turned(turn):  # W T, (W T) W^T
            return small_matmul(small_matmul(a, turn), a.T)

        def middle(carry):
            turn, prefix = carry
            return turned(turn), small_matmul(b, prefix)

        def step(_, carry):
            turn, prefix, last = carry
            frame = small_matmul(last, prefix)
            inward = small_matmul(b, small_matmul(frame, a))
            relative = small_matmul(inward, a.T)
            turn = small_matmul(small_matmul(relative, relative), turn)
            after_first, more = (turned(turn), prefix), steps[1] - 3
            pairs = jax.lax.fori_loop(0, more // 2, lambda _, c: middle(middle(c)), after_first)
            turn, prefix = jax.lax.fori_loop(0, more % 2, lambda _, c: middle(c), pairs)
            return turn, prefix, small_matmul(last, turn)

        return jax.lax.fori_loop(0, steps[0], step, (layers[-1], target, layers[0] * 2))

    return _ours(layers, target, one)


def naive_jax(layers: np.ndarray, target: np.ndarray, step_size: float) -> Advance:
    """What one writes in JAX without a package: vmap, grad, and the SVD as retraction."""

    def loss(layers, target):
        product = layers[0]
        for i in range(1, layers.shape[0]):
            product = layers[i] @ product
        return jnp.sum((product - target) ** 2) / 2

    def step(layers, target):
        gradients = jax.vmap(jax.grad(loss))(layers, target)
        held, g = layers[:, 1:], gradients[:, 1:]
        inner = jnp.swapaxes(held, -1, -2) @ g
        tangent = g - held @ (inner + jnp.swapaxes(inner, -1, -2)) / 2
        u, _, vt = jnp.linalg.svd(held - step_size * tangent, full_matrices=False)
        return jnp.concatenate([layers[:, :1] - step_size * gradients[:, :1], u @ vt], axis=1)

    run = jax.jit(lambda w, t, steps: jax.lax.fori_loop(0, steps, lambda _, c: step(c, t), w))
    start, goal = jnp.asarray(layers.swapaxes(0, 1)), jnp.asarray(target)
    return lambda steps: jax.block_until_ready(run(start, goal, steps))


def geoopt(layers: np.ndarray, target: np.ndarray, step_size: float) -> Advance:
    """geoopt: ``RiemannianSGD`` (QR) on one batched parameter a layer, gradients by torch."""
    import geoopt as package  # pyright: ignore[reportMissingImports]
    import torch  # pyright: ignore[reportMissingImports]

    goal = torch.from_numpy(target)

    def advance(steps: int) -> list:
        manifold = package.manifolds.EuclideanStiefel()
        first: Any = torch.nn.Parameter(torch.from_numpy(layers[0]).clone())
        held: Any = [
            package.ManifoldParameter(torch.from_numpy(layer).clone(), manifold=manifold)  # pyright: ignore
            for layer in layers[1:]
        ]
        optimizer = package.optim.RiemannianSGD([first, *held], lr=step_size)
        for _ in range(steps):
            optimizer.zero_grad()
            product = first
            for layer in held:
                product = layer @ product
            ((product - goal).square().sum() / 2).backward()
            optimizer.step()
        return [first, *held]

    return advance


def _in_pymanopt(layers: np.ndarray, target: np.ndarray) -> list[Any]:
    """The problem of each network as pymanopt's documentation has it: a Product manifold, the cost through autograd."""
    import autograd.numpy as anp  # pyright: ignore[reportMissingImports]
    import pymanopt as package  # pyright: ignore[reportMissingImports]
    import pymanopt.manifolds as manifolds  # pyright: ignore[reportMissingImports]

    count, _, d, _ = layers.shape
    manifold: Any = manifolds.Product([manifolds.Euclidean(d, d), *[manifolds.Stiefel(d, d)] * (count - 1)])

    def of(goal: np.ndarray) -> Any:
        @package.function.autograd(manifold)
        def cost(*ws):
            product = ws[0]
            for w in ws[1:]:
                product = w @ product
            return anp.sum((product - goal) ** 2) / 2  # pyright: ignore[reportAttributeAccessIssue]

        return package.Problem(manifold, cost)

    return [of(goal) for goal in target]


def pymanopt(layers: np.ndarray, target: np.ndarray, step_size: float) -> Advance:
    """pymanopt, one network at a time, with nothing around its gradient and retraction: as lean as it can be used."""
    problems = _in_pymanopt(layers, target)

    def run(cell: int, steps: int) -> list:
        task, point = problems[cell], list(layers[:, cell])
        for _ in range(steps):
            point = task.manifold.retraction(point, -step_size * task.riemannian_gradient(point))
        return point

    return lambda steps: [run(cell, steps) for cell in range(len(problems))]


def pymanopt_descent(layers: np.ndarray, target: np.ndarray, step_size: float) -> Advance:
    """pymanopt's own ``SteepestDescent``, one network at a time, its line search replaced by a fixed step."""
    from pymanopt.optimizers import SteepestDescent  # pyright: ignore[reportMissingImports]

    class Fixed:
        def search(self, objective, manifold, x, d, f0, df0):
            return step_size * manifold.norm(x, d), manifold.retraction(x, step_size * d)

    problems = _in_pymanopt(layers, target)

    def run(cell: int, steps: int) -> list:
        optimizer = SteepestDescent(
            line_searcher=Fixed(), max_iterations=steps, min_gradient_norm=0, min_step_size=0, verbosity=0
        )
        return optimizer.run(problems[cell], initial_point=list(layers[:, cell])).point

    return lambda steps: [run(cell, steps) for cell in range(len(problems))]


CONTESTANTS: dict[str, Callable[[np.ndarray, np.ndarray, float], Advance]] = {
    "layers": ours_layers,
    "reduced": ours_reduced,
    "own_products": own_products,
    "geoopt": geoopt,
    "naive_jax": naive_jax,
    "pymanopt": pymanopt,
    "pymanopt_descent": pymanopt_descent,
}
#: What has to be importable for a contestant.
NEEDS = {"geoopt": "geoopt", "pymanopt": "autograd", "pymanopt_descent": "autograd"}
#: Steps of a round at least, where a run's beginning and end cost as much as steps.
LEAST = {"pymanopt_descent": 20}


def products(count: int) -> Callable[[np.ndarray, np.ndarray, float], Advance]:
    """A contestant that does ``count`` products a step, and nothing else."""
    return lambda layers, target, _: products_alone(layers, target, count)
