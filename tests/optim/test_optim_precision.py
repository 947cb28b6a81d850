"""Half precision: float32 inside, rounded once; a master copy where steps are too short for the params' digits."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import oracles
import pytest

from dlnjax import optim, stiefel

HALVES = [jnp.bfloat16, jnp.float16]
each_half = pytest.mark.parametrize("half", HALVES, ids=["bfloat16", "float16"])
LABELS = {"w": True, "b": False}


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def _as_users_have_it():
    """optax's own Adam, for the free leaves, promotes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def tree(dtype, seed=0):
    rng = np.random.default_rng(seed)
    w = oracles.polar_factor(rng.standard_normal((12, 6)))
    return {"w": jnp.asarray(w, jnp.float32).astype(dtype), "b": jnp.asarray(rng.standard_normal(4), dtype)}


STEPPED = {
    "rgd": lambda **k: optim.rgd(0.05, **k),
    "heavy_ball": lambda **k: optim.heavy_ball(0.05, **k),
    "adam": lambda **k: optim.adam(0.05, **k),
    "adam_elementwise": lambda **k: optim.adam(0.05, second="elementwise", **k),
    "adam_slow": lambda **k: optim.adam(0.05, b2=0.9999, **k),
    "landing": lambda **k: optim.landing(0.05, **k),
    "pogo": lambda **k: optim.pogo(0.05, **k),
    "muon": lambda **k: optim.muon(0.05, 0.9, **k),
}


@each_half
@pytest.mark.parametrize("make", STEPPED.values(), ids=STEPPED)
def test_a_step_is_the_float32_step_rounded_once(make, half):
    """The step in float32 from the same (rounded) numbers is the oracle; states are its states, bit by bit."""
    optimizer = make(constrained=LABELS)
    low, exact = tree(half), jax.tree.map(lambda x: x.astype(jnp.float32), tree(half))
    states = optimizer.init(low), optimizer.init(exact)
    update = jax.jit(optimizer.update)
    for k in range(3):
        grads = tree(half, k + 1)
        moved, below = update(grads, states[0], low)
        expected, above = update(jax.tree.map(lambda x: x.astype(jnp.float32), grads), states[1], exact)
        states = below, above
        jax.tree.map(np.testing.assert_array_equal, below, above)
        assert all(x.dtype == half for x in jax.tree.leaves(moved))
        assert not any(x.dtype in HALVES for x in jax.tree.leaves(below))
        low, target = optax.apply_updates(low, moved), optax.apply_updates(exact, expected)
        eps = float(jnp.finfo(half).eps)
        for name in LABELS:
            rounded = np.asarray(target[name]).astype(half)
            same = np.asarray(low[name]) == rounded
            assert (
                np.mean(same) > 0.8
            )  # the others: entries that change their size by more than two, see below
            gap = np.abs(np.float32(low[name]) - np.asarray(target[name]))
            assert np.max(gap) <= eps / 2 * max(1.0, np.max(np.abs(target[name])))
        exact = jax.tree.map(lambda x: x.astype(jnp.float32), low)


@each_half
def test_half_precision_trains_without_a_drift(half):
    optimizer, goal = optim.adam(0.02, constrained=LABELS), tree(jnp.float32, 9)

    def loss(p):
        return sum(jnp.sum((p[k].astype(jnp.float32) - goal[k]) ** 2) for k in p)

    @jax.jit
    def run(params):
        def step(_, carry):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, 300, step, (params, optimizer.init(params)))[0]

    start, end = tree(half), run(tree(half))
    assert loss(end) < 0.1 * loss(start)
    once_rounded = 2 * float(jnp.finfo(half).eps) * 6**0.5
    assert stiefel.orthonormality_error(end["w"].astype(jnp.float32)) < once_rounded


@each_half
def test_half_gradients_move_float32_params_as_their_widened_selves(half):
    params, grads = tree(jnp.float32), tree(half, 1)
    for make in STEPPED.values():
        optimizer = make(constrained=LABELS)
        got, _ = optimizer.update(grads, optimizer.init(params), params)
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), grads)
        expected, _ = optimizer.update(wide, optimizer.init(params), params)
        jax.tree.map(np.testing.assert_array_equal, got, expected)
        assert got["w"].dtype == got["b"].dtype == np.float32


@each_half
@pytest.mark.parametrize("make", [optim.polyak, optim.armijo], ids=["polyak", "armijo"])
def test_searches_see_the_loss_at_params_of_the_given_dtype(make, half):
    goal, seen = tree(jnp.float32, 9), set()

    def loss(p):
        seen.update(x.dtype for x in jax.tree.leaves(p))
        return sum(jnp.sum((p[k].astype(jnp.float32) - goal[k]) ** 2) for k in p)

    optimizer, params = make(constrained=LABELS), tree(half)
    value, grads = jax.value_and_grad(loss)(params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params, value=value, value_fn=loss)
    assert loss(optax.apply_updates(params, updates)) < value
    assert seen == {jnp.dtype(half)}


def test_a_master_copy_takes_steps_that_the_params_cannot_hold():
    """Steps of 1e-5 beside entries of 0.3: half a unit in the last place of bfloat16 is 5e-4 there."""
    start, goal = tree(jnp.bfloat16), tree(jnp.float32, 9)
    grad = lambda p: jax.tree.map(lambda a, b: a.astype(jnp.float32) - b, p, goal)  # noqa: E731
    plain, exact = optim.rgd(1e-5, constrained=LABELS), jax.tree.map(lambda x: x.astype(jnp.float32), start)
    master = optim.master_copy(plain)

    def run(optimizer, params):
        def step(_, carry):
            params, state = carry
            updates, state = optimizer.update(grad(params), state, params)
            return optax.apply_updates(params, updates), state

        return jax.jit(lambda c: jax.lax.fori_loop(0, 2000, step, c))((params, optimizer.init(params)))

    moved, state = run(master, start)
    reference, _ = run(plain, exact)
    far = float(jnp.linalg.norm(reference["w"] - exact["w"]))
    assert far > 0.01
    stalled, _ = run(plain, start)
    assert float(jnp.linalg.norm(stalled["w"].astype(jnp.float32) - reference["w"])) > 0.8 * far
    assert float(jnp.linalg.norm(state.params["w"] - reference["w"])) < 0.02 * far
    np.testing.assert_array_equal(moved["w"], np.asarray(state.params["w"]).astype(ml_dtypes.bfloat16))


def test_a_master_copy_of_float32_params_changes_nothing():
    params, grads = tree(jnp.float32), tree(jnp.float32, 1)
    plain = optim.adam(0.1, constrained=LABELS)
    with_copy = optim.master_copy(plain)
    state = with_copy.init(params)
    assert jax.tree.leaves(state.params) == []
    jax.tree.map(
        np.testing.assert_array_equal,
        with_copy.update(grads, state, params)[0],
        plain.update(grads, plain.init(params), params)[0],
    )


def test_a_decay_that_rounds_to_one_is_refused():
    with pytest.raises(ValueError, match=r"b2 is 0\.999999999, which float32 rounds to 1"):
        optim.adam(0.1, b2=0.999999999, constrained=LABELS).init(tree(jnp.float32))
    optim.adam(0.1, b2=0.9999, constrained=LABELS).init(tree(jnp.float16))


@each_half
def test_links_alone_hand_on_float32_and_the_last_one_rounds(half):
    w, g = tree(half)["w"], tree(half, 1)["w"]
    links = optim.project_to_tangent(), optim.transport_momentum(0.999), optax.scale(-0.1), optim.retract()
    chained = optax.chain(*links)
    first, _ = optim.project_to_tangent().update(g, optax.EmptyState(), w)
    assert first.dtype == np.float32
    updates, state = chained.update(g, chained.init(w), w)
    assert updates.dtype == half
    assert state[1].momentum.dtype == np.float32
    whole = optim.rgd(0.1, constrained=True)
    np.testing.assert_array_equal(updates, whole.update(g, whole.init(w), w)[0])
