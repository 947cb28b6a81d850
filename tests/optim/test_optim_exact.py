"""Links to the last number: every formula, state and refusal that a slip of one line would change."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from dlnjax import optim, stiefel

RNG = np.random.default_rng(0)
W = jnp.asarray(oracles.polar_factor(RNG.standard_normal((5, 3))))
G = [jnp.asarray(RNG.standard_normal((5, 3))) for _ in range(4)]


def tangent(w, g):
    return g - w @ (w.T @ g + g.T @ w) / 2


LINKS = {
    "project_to_tangent": optim.project_to_tangent(),
    "retract": optim.retract(),
    "transport_momentum": optim.transport_momentum(0.5),
    "scale_by_tangent_adam": optim.scale_by_tangent_adam(),
    "control_drift": optim.control_drift(1),
    "armijo_search": optim.armijo_search(optim.retract()),
}


@pytest.mark.parametrize("name", LINKS)
def test_every_link_that_needs_the_point_says_so(name):
    link = LINKS[name]
    with pytest.raises(ValueError, match=f"{name} needs the current point"):
        link.update(G[0], link.init(W), None)


@pytest.mark.parametrize("name", sorted(set(LINKS) - {"armijo_search"}))
def test_every_link_names_the_leaf_whose_shapes_or_dtypes_differ(name):
    link, params = LINKS[name], {"a": W, "b": W}
    for wrong, error in ((G[0].T, ValueError), (G[0].astype(np.float32), TypeError)):
        with pytest.raises(error, match=rf"{name}: leaf \['b'\]"):
            link.update({"a": G[0], "b": wrong}, link.init(params), params)


def test_the_step_in_optax_sign_its_scales_and_its_state():
    plain = optim.scale_by_step(0.5)
    updates, state = plain.update(G[0], plain.init(W))
    np.testing.assert_array_equal(updates, -0.5 * G[0])
    assert (int(state.steps), float(state.step_size)) == (1, 0.5)
    run = jnp.stack(G[:2])
    scaled = optim.scale_by_step(0.5, scales={"run": np.array([2.0, 3.0]), "one": 4.0})
    params = {"run": run, "one": W}
    updates, _ = scaled.update({"run": run, "one": G[2]}, scaled.init(params))
    np.testing.assert_array_equal(updates["run"], jnp.stack([-G[0], -1.5 * G[1]]))
    np.testing.assert_array_equal(updates["one"], -2 * G[2])


def test_a_schedule_is_read_at_the_steps_taken():
    link = optim.scale_by_step(lambda count: (count + 1).astype(float))
    state = link.init(W)
    for taken in range(3):
        assert float(state.step_size) == taken + 1  # of the step to come
        updates, state = link.update(G[0], state)
        np.testing.assert_array_equal(updates, -(taken + 1) * G[0])


def test_an_array_wins_outside_of_jit_and_the_state_inside():
    link = optim.scale_by_step(jnp.asarray(0.5))
    state = link.init(W)._replace(step_size=jnp.asarray(2.0))
    np.testing.assert_array_equal(link.update(G[0], state)[0], -0.5 * G[0])
    np.testing.assert_array_equal(jax.jit(link.update)(G[0], state)[0], -2 * G[0])


@pytest.mark.parametrize("wrong", [True, jnp.nan, jnp.inf, -1e-9])
def test_what_is_no_step_size(wrong):
    with pytest.raises((TypeError, ValueError), match="step_size is"):
        optim.scale_by_step(wrong)


def test_nesterov_looks_ahead_and_keeps_the_momentum():
    link, m, w = optim.transport_momentum(0.7, nesterov=True), np.zeros((5, 3)), W
    state = link.init(w)
    for g in G:
        xi = tangent(w, g)
        updates, state = link.update(xi, state, w)
        m = 0.7 * tangent(w, m) + xi
        np.testing.assert_allclose(updates, xi + 0.7 * m, atol=1e-14)
        np.testing.assert_allclose(state.momentum, m, atol=1e-14)
        w = stiefel.retract_polar(w, -0.1 * updates)


def test_elementwise_adam_follows_the_formula():
    link, m, v, w = optim.scale_by_tangent_adam(0.7, 0.9, 1e-3, second="elementwise"), 0.0, 0.0, W
    state = link.init(w)
    for t, g in enumerate(G, 1):
        xi = tangent(w, g)
        updates, state = link.update(xi, state, w)
        m = 0.7 * tangent(w, m * np.ones((5, 3))) + 0.3 * xi
        v = 0.9 * v + 0.1 * xi**2
        raw = m / (1 - 0.7**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-3)
        np.testing.assert_allclose(updates, tangent(w, raw), atol=1e-13)
        w = stiefel.retract_polar(w, -0.05 * updates)


def test_scalar_adam_keeps_one_second_moment_a_matrix():
    heads, spec = jnp.stack([W, W[::-1]], axis=-1), optim.MatrixAxes(0, 1)
    g = jnp.stack(G[:2], axis=-1)
    link = optim.scale_by_tangent_adam(axes=spec)
    updates, state = link.update(g, link.init(heads), heads)
    np.testing.assert_allclose(state.second[:, 0, 0], 1e-3 * np.mean(g**2, axis=(0, 1)), rtol=1e-12)
    assert state.second.shape == (2, 1, 1)
    np.testing.assert_allclose(updates, g / np.sqrt(np.mean(g**2, axis=(0, 1), keepdims=True)), rtol=1e-6)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_decays_lie_below_one(decay):
    for make in (optim.transport_momentum, optim.scale_by_tangent_adam):
        with pytest.raises(ValueError, match=r"it must lie in \[0, 1\)"):
            make(decay)
    with pytest.raises(ValueError, match="b2 is"):
        optim.scale_by_tangent_adam(0.9, decay)


def test_drift_control_projects_along_the_given_axes():
    spec, u = optim.MatrixAxes(1, 0), 0.3 * G[0]
    link = optim.control_drift(2, axes=spec)
    wide, state = W.T, optim.control_drift(2).init(W)
    untouched, state = link.update(u.T, state, wide)
    np.testing.assert_array_equal(untouched, u.T)
    corrected, state = link.update(u.T, state, wide)
    np.testing.assert_allclose(wide + corrected, oracles.polar_factor(W + u).T, atol=1e-14)
    np.testing.assert_array_equal(link.update(u.T, state, wide)[0], u.T)
    heads = jnp.stack([W, W[::-1]], axis=1)
    link = optim.control_drift(1, axes=optim.MatrixAxes(0, 2))
    moved = heads + link.update(jnp.stack(G[:2], axis=1), link.init(heads), heads)[0]
    np.testing.assert_allclose(moved[:, 0], oracles.polar_factor(W + G[0]), atol=1e-13)


# --- steps from the loss


def value_fn(w):
    return jnp.sum((w - G[0]) ** 2) / 2


def searched(function=value_fn, state=None, **options):
    link = optim.armijo(constrained=True, **options)
    xi = jax.grad(value_fn)(W)
    state = link.init(W) if state is None else state
    updates, state = link.update(xi, state, W, value=value_fn(W), value_fn=function)
    return updates, state[-1]


def test_a_search_that_fails_stays_counts_its_trials_and_starts_lower():
    updates, state = searched(lambda w: value_fn(w) + 1e6, max_trials=3, step_size=0.8, grow=4.0, shrink=0.25)
    np.testing.assert_allclose(updates, 0 * W, atol=1e-15)
    assert int(state.trials) == 3
    assert float(state.step_size) == pytest.approx(0.2 * 0.25)


def test_a_trial_that_is_not_a_number_is_no_decrease():
    near = lambda w: jnp.where(jnp.sum((w - W) ** 2) < 0.01, value_fn(w), jnp.nan)  # noqa: E731
    updates, state = searched(near, step_size=10.0)
    assert 0 < np.sum(updates**2) < 0.01
    assert int(state.trials) > 1


def test_the_first_trial_may_be_taken_and_the_slope_counts():
    xi = tangent(W, jax.grad(value_fn)(W))
    _, state = searched(step_size=1e-3)
    assert (float(state.step_size), int(state.trials)) == (pytest.approx(1e-3), 1)
    ask = lambda t: searched(lambda _: value_fn(W) - t, step_size=0.5, decrease=0.2, max_trials=1)[1]  # noqa: E731
    enough = 0.2 * 0.5 * float(jnp.sum(xi**2))
    assert float(ask(1.01 * enough).step_size) == 0.5  # accepted
    assert float(ask(0.99 * enough).step_size) == 0.125  # refused: half of what the state began with


def test_extra_arguments_reach_the_loss_and_the_gradient_does_not():
    def shifted(w, shift):
        return value_fn(w - shift)

    link = optim.armijo(constrained=True)
    extra = {"value": shifted(W, 0.1), "value_fn": shifted, "shift": 0.1, "grad": G[0]}
    updates, _ = link.update(jax.grad(shifted)(W, 0.1), link.init(W), W, **extra)
    assert shifted(W + updates, 0.1) < shifted(W, 0.1)


@pytest.mark.parametrize("wrong", [{"step_size": 0.0}, {"grow": 0.5}, {"max_trials": 0}, {"decrease": 0.0}])
def test_constants_of_a_search_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        optim.armijo(**wrong)


def test_polyak_is_capped_and_stays_below_its_minimum():
    capped = optim.scale_by_polyak(max_step_size=0.25)
    updates, state = capped.update(G[0], capped.init(W), value=jnp.asarray(1e6))
    np.testing.assert_array_equal(updates, -0.25 * G[0])
    assert float(state.step_size) == 0.25
    below = optim.scale_by_polyak(2.0)
    np.testing.assert_array_equal(below.update(G[0], below.init(W), value=jnp.asarray(1.0))[0], 0 * W)
    flat = optim.scale_by_polyak()
    assert float(flat.update(0 * W, flat.init(W), value=jnp.asarray(1.0))[1].step_size) == 0


def test_polyak_takes_wrappers_and_their_extra_arguments():
    gradient, value = jax.grad(value_fn)(W), value_fn(W)
    plain = optim.polyak(constrained=True)
    expected, _ = plain.update(gradient, plain.init(W), W, value=value)
    everywhere = {"w": True}
    injected = optax.inject_hyperparams(
        lambda minimum: optim.polyak(minimum, constrained=everywhere)
    )  # a traced minimum
    for wrapped in (
        injected(minimum=0.0),
        optax.masked(optim.polyak(constrained=everywhere), everywhere),
        optax.partition({"held": optim.polyak(constrained=everywhere)}, {"w": "held"}),
        optax.apply_if_finite(optim.polyak(constrained=everywhere), 2),
    ):
        params = {"w": W}
        updates, _ = wrapped.update({"w": gradient}, wrapped.init(params), params, value=value)
        np.testing.assert_allclose(updates["w"], expected, atol=1e-14)


# --- which leaves, which axes


def test_labels_by_default_as_functions_and_as_callable_models():
    layers = (G[0], W, W)
    assert optim.labels(None, layers) == (False, True, True)
    assert optim.labels(lambda tree: jax.tree.map(lambda _: True, tree), layers) == (True, True, True)

    @jax.tree_util.register_pytree_node_class
    class Model:
        def __init__(self, weight):
            self.weight = weight

        def __call__(self, tree):
            raise AssertionError("a model of labels is no function of the params")

        def tree_flatten(self):
            return (self.weight,), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls(*children)

    assert optim.labels(Model(True), Model(W)).weight is True
    with pytest.raises(TypeError, match="params is a list, not a tuple of layers"):
        optim.labels(None, list(layers))


def test_links_off_the_constraint_see_the_free_leaves_alone():
    link = optim.off(None, optax.scale(3.0))
    params = (G[0], W)
    updates, _ = link.update((G[1], G[2]), link.init(params), params)
    np.testing.assert_array_equal(updates[0], 3 * G[1])
    np.testing.assert_array_equal(updates[1], G[2])


def test_a_chain_that_ends_on_the_manifold_is_last_itself():
    last = optim.chain(optim.project_to_tangent(), optim.retract())
    for ended in (last, optim.on(True, last), optim.rgd(0.1), optim.armijo()):
        with pytest.raises(ValueError, match="link 0 of 2 is a retraction"):
            optim.chain(ended, optax.scale(2.0))
    optim.chain(optim.rgd(0.1), optim.control_drift(10))  # the one link that may follow


def test_points_are_seen_through_their_axes_and_each_matrix_counts():
    good, bad = jnp.stack([W, W[::-1]]), jnp.stack([W, 1.1 * W])
    spec = optim.MatrixAxes(rows=2, columns=1)
    optim.retract(axes=spec).init(jnp.swapaxes(good, 1, 2))
    optim.retract().init(W.T)  # wide
    for wrong in (bad, bad[::-1], good.at[0, 0, 0].set(jnp.nan)):
        with pytest.raises(ValueError, match="off the manifold"):
            optim.retract().init(wrong)
    jax.jit(optim.retract().init)(bad)  # traced: cannot be seen
    with pytest.raises(ValueError, match="name axis 2 of an array of 2 axes"):
        optim.retract(axes=optim.MatrixAxes(2, 0)).init(W)
    with pytest.raises(TypeError, match=r"give an optim\.MatrixAxes"):
        optim.retract(axes=lambda _: (0, 1)).init(W)


@pytest.mark.parametrize(
    "link",
    [
        lambda axes: optim.transport_momentum(0.6, axes=axes),
        lambda axes: optim.scale_by_tangent_adam(axes=axes),
        lambda axes: optim.scale_by_tangent_adam(second="elementwise", axes=axes),
    ],
    ids=["momentum", "adam", "elementwise"],
)
def test_axes_hold_for_what_is_carried_from_step_to_step(link):
    plain, axed = link(None), link(optim.MatrixAxes(rows=0, columns=2))
    heads = jnp.stack([W, W[::-1]])
    state, other = plain.init(heads), axed.init(jnp.swapaxes(heads, 0, 1))
    for k in range(3):
        g = jnp.stack([G[k], G[k + 1]])
        updates, state = plain.update(g, state, heads)
        same, other = axed.update(jnp.swapaxes(g, 0, 1), other, jnp.swapaxes(heads, 0, 1))
        np.testing.assert_allclose(jnp.swapaxes(same, 0, 1), updates, atol=1e-14)
        heads = stiefel.retract_polar(heads, -0.1 * updates)


@pytest.mark.parametrize("name", ["transport_momentum", "scale_by_tangent_adam"])
def test_links_with_moments_look_at_the_leaves_first(name):
    with pytest.raises(TypeError, match=rf"{name}: leaf \['w'\] is int"):
        LINKS[name].init({"w": jnp.ones((3, 2), int)})
