"""A start off the manifold: refused, projected or taken, under jit too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from jax.experimental import checkify

from dlnjax import optim, stiefel

LABELS = {"w": True, "b": False}


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def tree(seed=0, factor=1.0):
    rng = np.random.default_rng(seed)
    w = oracles.polar_factor(rng.standard_normal((5, 3)))
    return {"w": jnp.asarray(factor * w), "b": jnp.asarray(rng.standard_normal(4))}


def test_a_traced_start_is_caught_by_checkify_and_passes_without():
    init = jax.jit(optim.rgd(0.1, constrained=LABELS).init)
    init(tree(factor=1.1))  # nothing can be seen
    caught, _ = checkify.checkify(init)(tree(factor=1.1))
    assert "leaf ['w'] of shape (5, 3) is off the manifold" in caught.get()
    assert checkify.checkify(init)(tree())[0].get() is None


STEPPED = {
    "rgd": lambda **k: optim.rgd(0.1, **k),
    "landing": lambda **k: optim.landing(0.1, **k),
    "pogo": lambda **k: optim.pogo(0.1, **k),
    "muon": lambda **k: optim.muon(0.1, **k),
}


@pytest.mark.parametrize("make", STEPPED.values(), ids=STEPPED)
def test_a_projected_start_makes_the_steps_of_the_projected_params(make):
    off, goal = tree(factor=1.3), tree(9)
    nearest = {"w": jnp.asarray(oracles.polar_factor(np.asarray(off["w"]))), "b": off["b"]}
    projected, plain = make(constrained=LABELS, on_start="project"), make(constrained=LABELS)

    @jax.jit
    def run(params, grads):
        state = projected.init(params)
        updates, state = projected.update(grads, state, params)
        first = optax.apply_updates(params, updates)
        updates, state = projected.update(jax.tree.map(jnp.cos, first), state, first)
        return first, optax.apply_updates(first, updates)

    first, second = run(off, goal)
    state = plain.init(nearest)
    updates, state = plain.update(goal, state, nearest)
    once = optax.apply_updates(nearest, updates)
    updates, _ = plain.update(jax.tree.map(jnp.cos, once), state, once)
    for got, expected in ((first, once), (second, optax.apply_updates(once, updates))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), got, expected)


@pytest.mark.parametrize(
    "make",
    [optim.armijo, pytest.param(optim.lbfgs, marks=pytest.mark.slow)],
    ids=["armijo", "lbfgs"],
)
def test_searches_begin_at_the_projected_start(make):
    off, goal = tree(factor=1.3), tree(9)

    def loss(p):
        return sum(jnp.sum((p[k] - goal[k]) ** 2) for k in p)

    optimizer = make(constrained=LABELS, on_start="project")
    value, grads = jax.value_and_grad(loss)(off)
    updates, _ = jax.jit(lambda s: optimizer.update(grads, s, off, value=value, value_fn=loss))(
        optimizer.init(off)
    )
    moved = optax.apply_updates(off, updates)
    assert stiefel.orthonormality_error(moved["w"]) < 1e-13
    assert loss(moved) < loss({"w": stiefel.project(off["w"]), "b": off["b"]})


@pytest.mark.mistakes
def test_an_ignored_start_and_other_words():
    off = tree(factor=1.3)
    for make in (*STEPPED.values(), lambda **k: optim.lbfgs(**k), lambda **k: optim.armijo(**k)):
        make(constrained=LABELS, on_start="ignore").init(off)
        with pytest.raises(ValueError, match=r"leaf \['w'\].*off the manifold.*on_start='project'"):
            make(constrained=LABELS).init(off)
        with pytest.raises(ValueError, match="on_start is 'fix'; choose one of raise, project, ignore"):
            make(constrained=LABELS, on_start="fix")
    with pytest.raises(ValueError, match="a link takes raise or ignore"):
        optim.retract(on_start="project")


@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_a_start_rounded_to_half_precision_is_on_the_manifold_and_a_wrong_one_is_not(half):
    rng = np.random.default_rng(0)
    for shape in ((5, 3), (64, 64), (40, 7)):
        w = jnp.asarray(oracles.polar_factor(rng.standard_normal(shape)), jnp.float32).astype(half)
        for start in (w, w.astype(jnp.float32)):  # as it is, and from a checkpoint of half precision
            optim.retract().init(start)
            with pytest.raises(ValueError, match="off the manifold"):
                optim.retract().init(start * jnp.asarray(1.25, start.dtype))
