"""In other people's training code: any pytree, the wrappers of optax, Flax and Equinox, donation, numbers of numpy."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from dlnjax import initial, optim, scales, stiefel

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:flax")


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def _as_users_have_it():
    """optax's own Adam, wrappers and schedules promote dtypes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def point(shape=(6, 4), seed=0, dtype=np.float64):
    return jnp.asarray(oracles.polar_factor(np.random.default_rng(seed).standard_normal(shape)), dtype)


#: Beside two constrained leaves: a free one, an empty one, a place that is None.
PARAMS = {
    "w": point(),
    "b": jnp.ones(3),
    "none": None,
    "empty": jnp.zeros((0, 2)),
    "run": [point((2, 4, 4), 1)],
}
LABELS = {"w": True, "b": False, "none": None, "empty": False, "run": [True]}
RECIPES = {
    "rgd": lambda **k: optim.rgd(0.1, **k),
    "heavy_ball": lambda **k: optim.heavy_ball(0.1, **k),
    "adam": lambda **k: optim.adam(0.01, **k),
    "adam_elementwise": lambda **k: optim.adam(0.01, second="elementwise", **k),
    "landing": lambda **k: optim.landing(0.1, **k),
    "pogo": lambda **k: optim.pogo(0.1, **k),
    "muon": lambda **k: optim.muon(0.1, 0.5, **k),
    "polyak": lambda **k: optim.polyak(**k),
    "armijo": lambda **k: optim.armijo(**k),
    "conjugate_gradient": lambda **k: optim.conjugate_gradient(**k),
    "lbfgs": lambda **k: optim.lbfgs(**k),
    "trust_region": lambda **k: optim.trust_region(max_inner=4, **k),
}
HEAVY = {"conjugate_gradient", "lbfgs", "trust_region", "landing", "muon"}
each_recipe = pytest.mark.parametrize(
    "make",
    [pytest.param(v, id=k, marks=[pytest.mark.slow] if k in HEAVY else []) for k, v in RECIPES.items()],
)


def loss(params):
    return sum(jnp.sum(jnp.sin(x) ** 2) for x in jax.tree.leaves(params))


def stepper(optimizer):
    update = optax.with_extra_args_support(optimizer).update

    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = update(grads, state, params, value=value, value_fn=loss)
        return optax.apply_updates(params, updates), state

    return step


def after(optimizer, steps=2, params=PARAMS):
    carry, step = (params, optimizer.init(params)), jax.jit(stepper(optimizer))
    for _ in range(steps):
        carry = step(*carry)
    return carry


def error(params):
    return max(float(jnp.max(stiefel.orthonormality_error(x))) for x in (params["w"], params["run"][0]))


@each_recipe
def test_states_own_their_buffers_and_survive_a_copy(make):
    """Donated params and state: no buffer stands twice, and none is the caller's."""
    optimizer = make(constrained=LABELS)
    step = jax.jit(stepper(optimizer), donate_argnums=(0, 1))
    carry = jax.tree.map(jnp.array, PARAMS), optimizer.init(PARAMS)
    for _ in range(2):
        carry = step(*carry)
    assert not any(x.is_deleted() for x in jax.tree.leaves(PARAMS))
    plain = after(optimizer)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), carry[0], plain[0])
    for restored in (
        copy.deepcopy(plain[1]),
        jax.tree.map(jnp.asarray, pickle.loads(pickle.dumps(jax.device_get(plain[1])))),
    ):
        jax.tree.map(np.testing.assert_array_equal, restored, plain[1])
    assert copy.deepcopy(optimizer).init(PARAMS) is not None


def test_donation_spares_the_scales_and_the_step_of_the_caller():
    params = initial.haar(jax.random.key(0), (5, 3, 3, 5), first_scale=0.5)
    shared, mu = scales.discrepant(params), jnp.asarray(0.1)
    assert shared[1] is shared[2]  # one array in two leaves
    optimizer = optim.rgd(mu, scales=shared)
    state = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)(optimizer.init(params))
    assert not mu.is_deleted()
    assert not shared[1].is_deleted()
    updates, _ = optimizer.update(params, state, params)
    assert np.isfinite(updates[0]).all()


def test_true_is_for_all_leaves_of_any_tree_and_prefixes_speak_for_those_below():
    tree = {"a": point(), "c": (point((3, 5), 1), {"d": point((2, 4, 4), 2)})}
    assert optim.labels(True, tree) == {"a": True, "c": (True, {"d": True})}
    assert optim.labels({"a": False, "c": (np.True_, True)}, tree) == {"a": False, "c": (True, {"d": True})}
    assert optim.labels(lambda _: {"a": True, "c": False}, tree) == {"a": True, "c": (False, {"d": False})}
    grads = jax.tree.map(jnp.ones_like, tree)
    optimizer = optim.rgd(0.1, constrained=True)
    updates, _ = optimizer.update(grads, optimizer.init(tree), tree)
    for w, g, u in zip(*map(jax.tree.leaves, (tree, grads, updates)), strict=True):
        expected = oracles.polar_factor(np.asarray(w - 0.1 * stiefel.project_tangent(w, g)))
        np.testing.assert_allclose(w + u, expected, atol=1e-13)


def test_axes_are_optax_dimension_numbers_leaf_by_leaf():
    flat = point((12, 4))
    params = {"kernel": flat.reshape(2, 2, 3, 4), "bias": jnp.ones(2)}
    numbers = optax.contrib.MuonDimensionNumbers(reduction_axis=(3,), output_axis=(0, 1, 2))
    grads = {"kernel": jnp.cos(jnp.arange(48.0)).reshape(2, 2, 3, 4), "bias": jnp.ones(2)}
    labels = {"kernel": True, "bias": False}
    for axes in ({"kernel": numbers, "bias": None}, lambda _: {"kernel": numbers, "bias": None}, numbers):
        optimizer = optim.rgd(0.1, constrained=labels, axes=axes)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        plain = optim.rgd(0.1, constrained=True)
        expected, _ = plain.update(grads["kernel"].reshape(12, 4), plain.init(flat), flat)
        np.testing.assert_allclose(updates["kernel"].reshape(12, 4), expected, atol=1e-15)


NUMBERS = [
    np.float32(0.5),
    np.float64(0.5),
    np.array(0.5),
    jnp.array(0.5),
    np.int64(1),
    np.array(1),
    jnp.array(1),
    1,
]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda x: f"{type(x).__name__}-{getattr(x, 'dtype', '')}")
@pytest.mark.parametrize("x64", [True, False])
def test_a_step_size_is_any_number(number, x64):
    with jax.enable_x64(x64):
        w = point(dtype=np.float64 if x64 else np.float32)
        ends = []
        for mu in (number, float(number)):
            optimizer = optim.rgd(mu, constrained=True)
            ends.append(jax.jit(optimizer.update)(jnp.ones_like(w), optimizer.init(w), w)[0])
    np.testing.assert_array_equal(*ends)


@pytest.mark.mistakes
def test_other_constants_are_any_numbers_and_words_are_refused():
    w, g = point(), jnp.ones((6, 4))
    half = np.float32(0.5)
    for make in (
        lambda x: optim.heavy_ball(0.1, x, constrained=True),
        lambda x: optim.adam(0.1, x, x, constrained=True),
        lambda x: optim.landing(0.1, x, constrained=True),
    ):
        a, b = (make(x).update(g, make(x).init(w), w)[0] for x in (half, 0.5))
        np.testing.assert_array_equal(a, b)
    for make, text in [
        (lambda: optim.rgd(True), "step_size is True; give a number"),
        (lambda: optim.rgd(1j), "step_size is 1j"),
        (lambda: optim.adam(0.1, b2="big"), "b2 is 'big'"),
        (lambda: optim.rgd(0.1, retraction=3), "retraction is 3; give a function or one of polar"),
    ]:
        with pytest.raises(TypeError, match=text):
            make()
    with pytest.raises(ValueError, match=r"step_size has shape \(2,\); give one number"):
        optim.rgd(np.ones(2))
    with pytest.raises(ValueError, match="'qrr'; give a function or one of polar, qr"):
        optim.rgd(0.1, retraction="qrr")


STEPPED = ["rgd", "heavy_ball", "nesterov", "adam", "landing", "pogo", "muon"]


@pytest.mark.parametrize("name", STEPPED)
def test_hyperparameters_are_injected_without_static_arguments(name):
    factory, constants = getattr(optim, name), {"landing": {"distance": 0.3}, "pogo": {"distance": 0.1}}
    given = {"constrained": LABELS, **constants.get(name, {})}
    injected = optax.inject_hyperparams(factory)(step_size=0.1, **given)
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    updates, state = jax.jit(injected.update)(grads, injected.init(PARAMS), PARAMS)
    plain = factory(0.1, **given)
    expected, _ = plain.update(grads, plain.init(PARAMS), PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), updates, expected)
    assert "retraction" not in state.hyperparams


@pytest.mark.parametrize("name", ["polar", "qr", "cholesky_qr", "cayley", "exponential"])
def test_retractions_by_name(name):
    w, g = point(), jnp.ones((6, 4))
    function = getattr(stiefel, name if name == "exponential" else f"retract_{name}")
    both = [optim.rgd(0.1, retraction=r, constrained=True) for r in (name, function)]
    np.testing.assert_array_equal(*(o.update(g, o.init(w), w)[0] for o in both))


def test_partition_by_labels_with_any_optimizer_on_the_rest():
    groups = {"w": "orthonormal", "b": "rest", "none": None, "empty": "rest", "run": ["orthonormal"]}
    parts = {"orthonormal": optim.adam(0.01, constrained=True), "rest": optax.adamw(1e-2)}
    for make in (optax.multi_transform, optax.partition):
        end, _ = after(make(parts, groups))
        assert error(end) < 1e-13
        assert np.all(end["b"] != PARAMS["b"])


def test_wrappers_in_front_and_around_keep_the_point():
    recipe = optim.rgd(0.1, constrained=LABELS)
    for wrapped in (
        optax.chain(optax.clip_by_global_norm(0.5), recipe),
        optax.MultiSteps(recipe, 2).gradient_transformation(),
        optax.apply_if_finite(recipe, 2),
        optim.chain(optim.off(LABELS, optax.add_decayed_weights(0.1)), recipe),
    ):
        assert error(after(wrapped, 4)[0]) < 1e-13


def test_a_training_is_differentiable_through_checkpointed_steps():
    def end(mu):
        optimizer = optim.adam(mu, constrained=LABELS)
        step = jax.checkpoint(stepper(optimizer))
        carry, _ = jax.lax.scan(
            lambda c, _: (step(*c), None), (PARAMS, optimizer.init(PARAMS)), None, length=3
        )
        return loss(carry[0])

    slope = (end(0.01 + 1e-5) - end(0.01 - 1e-5)) / 2e-5
    assert jax.jit(jax.grad(end))(0.01) == pytest.approx(float(slope), rel=1e-6)


def test_mixed_dtypes_in_searches_keep_each_leaf_its_own():
    params = {"w": point(dtype=np.float32), "b": jnp.ones(3)}
    target = {"w": point(seed=5, dtype=np.float32), "b": jnp.zeros(3)}

    def distance(p):
        return sum(jnp.sum((p[k] - target[k]) ** 2).astype(np.float64) for k in p)

    labels = {"w": True, "b": False}
    for make in (optim.lbfgs, optim.conjugate_gradient):
        optimizer, end = make(constrained=labels), params
        state = optimizer.init(params)
        for _ in range(3):
            value, grads = jax.value_and_grad(distance)(end)
            updates, state = optimizer.update(grads, state, end, value=value, value_fn=distance)
            end = optax.apply_updates(end, updates)
        assert (end["w"].dtype, end["b"].dtype) == (np.float32, np.float64)
        assert distance(end) < 0.7 * distance(params)


def test_nnx_optimizer_with_labels_from_the_state():
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Sequential(
        nnx.Linear(6, 4, kernel_init=stiefel.random, param_dtype=np.float64, rngs=nnx.Rngs(0)),
        nnx.Linear(4, 2, param_dtype=np.float64, rngs=nnx.Rngs(1)),
    )
    is_first = lambda path, x: "0" in jax.tree_util.keystr(path[:2]) and x.ndim == 2  # noqa: E731
    labels = jax.tree_util.tree_map_with_path(is_first, nnx.state(model, nnx.Param))
    assert sum(jax.tree.leaves(labels)) == 1
    optimizer = nnx.Optimizer(model, optim.adam(0.1, constrained=labels), wrt=nnx.Param)
    x = jnp.cos(jnp.arange(30.0)).reshape(5, 6)
    objective = lambda model: jnp.sum((model(x) - 1) ** 2)  # noqa: E731
    before = objective(model)
    for _ in range(3):
        optimizer.update(model, nnx.grad(objective)(model))
    kernel = model.layers[0].kernel[...]
    assert objective(model) < before
    assert stiefel.orthonormality_error(kernel) < 1e-13


def test_a_module_of_equinox_with_bools_in_its_own_structure():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(2, 2, 4, depth=2, key=jax.random.key(0), dtype=np.float64)
    where = lambda m: m.layers[1].weight  # noqa: E731
    model = eqx.tree_at(where, model, point((4, 4)))
    params, _ = eqx.partition(model, eqx.is_inexact_array)
    labels = eqx.tree_at(where, jax.tree.map(lambda _: False, params), True)
    optimizer = optim.heavy_ball(0.1, constrained=labels)
    grads = eqx.filter_grad(lambda m: jnp.sum(jax.vmap(m)(jnp.ones((3, 2))) ** 2))(model)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    moved = where(eqx.apply_updates(params, updates))
    assert stiefel.orthonormality_error(moved) < 1e-13
    assert np.any(moved != where(model))


def deep(n):
    return {f"block_{i}": {"weights": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}} for i in range(n)}


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: optim.labels({"block_0": True}, deep(40)),
            "constrained has no entry for the leaf ['block_1']",
        ),
        (
            lambda: optim.labels({**deep(40), "x": True}, deep(40)),
            "constrained has an entry ['x'], where the",
        ),
        (lambda: optim.labels({"a": "yes"}, {"a": 1.0}), "constrained is 'yes' at the leaf ['a']"),
        (
            lambda: optim.rgd(0.1, constrained=True).init(deep(40)),
            "leaf ['block_0']['weights']['bias'] has shape (2,)",
        ),
        (
            lambda: optim.retract(on_start="ignore").update(deep(1), optax.EmptyState(), deep(40)),
            "retract: the updates have no leaf ['block_1']['weights']['bias']",
        ),
        (
            lambda: optim.retract().update([point()], optax.EmptyState(), (point(),)),
            "the same leaves in different containers (list and tuple)",
        ),
    ],
)
def test_errors_are_one_short_line_with_the_leaf(call, text):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    said = str(caught.value)
    assert text in said
    assert len(said) < 200
    assert "PyTreeDef" not in said


def test_describe_sees_through_partition_accumulation_and_injection():
    inner = optax.inject_hyperparams(optim.rgd)(step_size=0.1, constrained=True, retraction="qr")
    groups = {"w": "o", "b": "f", "none": None, "empty": "f", "run": ["o"]}
    parted = optax.partition({"o": inner, "f": optax.adam(0.1)}, groups)
    wrapped = optax.MultiSteps(parted, 2).gradient_transformation()
    said = {leaf.name: leaf for leaf in optim.describe(wrapped, PARAMS)}
    assert set(said) == {"['w']", "['b']", "['empty']", "['run'][0]"}
    assert said["['b']"].matrix is said["['empty']"].matrix is None
    assert said["['run'][0]"].matrix == (2, 4, 4)
    assert said["['w']"].links == ("project_to_tangent", "retract (retract_qr)")
    assert said["['w']"].kept
    lacking = optim.describe(optax.chain(optim.project_to_tangent(), optax.scale(-0.1)), point((3, 5)))
    assert str(lacking) == (
        "(the only leaf) (3, 5) float64: orthonormal rows, 3 x 5; project_to_tangent; "
        "NO RETRACTION follows, the leaf leaves the manifold"
    )
