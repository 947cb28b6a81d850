"""One table: every transformation inherits every property a user of optax may count on."""

import dataclasses
import functools
import pickle
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from dlnjax import optim, stiefel


@dataclasses.dataclass(frozen=True)
class Row:
    """A recipe, a step it is stable at, and what it can be asked."""

    make: Callable[..., optax.GradientTransformation]
    step: float = 0.1
    steps: int = 2000
    searches: bool = False  # chooses its own step from the loss
    floor: float = 0.0  # where a constant step stalls, relative to the start

    def build(self, step=None, **options):
        if self.searches:
            return self.make(**options)
        return self.make(self.step if step is None else step, **options)


def with_retraction(retraction):
    return functools.partial(optim.rgd, retraction=retraction)


TABLE = {
    "rgd": Row(optim.rgd),
    "rgd_qr": Row(with_retraction(stiefel.retract_qr)),
    "rgd_cholesky_qr": Row(with_retraction(stiefel.retract_cholesky_qr)),
    "rgd_cayley": Row(with_retraction(stiefel.retract_cayley)),
    "rgd_exponential": Row(with_retraction(stiefel.exponential)),
    "heavy_ball": Row(optim.heavy_ball, 0.03),
    "nesterov": Row(optim.nesterov, 0.03),
    "adam": Row(functools.partial(optim.adam, second="scalar"), 0.01, floor=1e-7),
    "adam_elementwise": Row(functools.partial(optim.adam, second="elementwise"), 0.01, floor=1e-7),
    "landing": Row(optim.landing),
    "landing_canonical": Row(functools.partial(optim.landing, metric="canonical")),
    "pogo": Row(optim.pogo),
    "muon": Row(functools.partial(optim.muon, length="dual"), 0.1, steps=250),
    "polyak": Row(optim.polyak, searches=True),
    "armijo": Row(optim.armijo, searches=True),
    "conjugate_gradient": Row(optim.conjugate_gradient, steps=60, searches=True),
    "lbfgs": Row(optim.lbfgs, steps=60, searches=True),
    "trust_region": Row(optim.trust_region, steps=12, searches=True),
}
STEPPED = {k: v for k, v in TABLE.items() if not v.searches}
DTYPES = {np.float32: 1e-6, np.float64: 1e-12}
#: Rows whose programs take seconds to compile; what they share with the others runs with the slow tests.
HEAVY = {"conjugate_gradient", "landing", "landing_canonical", "lbfgs", "muon", "trust_region"}


def _rows(table):
    marks = {name: [pytest.mark.slow] if name in HEAVY else [] for name in table}
    return pytest.mark.parametrize("row", [pytest.param(table[k], marks=marks[k], id=k) for k in table])


each_row, each_stepped = _rows(TABLE), _rows(STEPPED)
LABELS = {"free": False, "tall": True, "wide": True}


@pytest.fixture(autouse=True)
def _strict_but_for_optax(request):
    """optax's own Adam, schedules and MultiSteps promote dtypes."""
    promotes = any(word in request.node.name for word in ("adam", "schedules", "accumulation"))
    with jax.numpy_dtype_promotion("standard" if promotes else "strict"):
        yield


def problem(dtype=np.float64, seed=0):
    """Params (one leaf free), their optimum, and a loss that is zero there alone and has curvature everywhere."""
    rng = np.random.default_rng(seed)
    shapes = {"free": (3,), "tall": (2, 4, 2), "wide": (2, 3)}
    optimum = {k: rng.standard_normal(s) for k, s in shapes.items()}
    optimum = {k: oracles.polar_factor(v) if k != "free" else v for k, v in optimum.items()}
    start = {k: v + 0.2 * rng.standard_normal(v.shape) for k, v in optimum.items()}
    start = {k: oracles.polar_factor(v) if k != "free" else v for k, v in start.items()}
    weights = jnp.asarray([1.0, 2.0, 1.5], dtype)
    optimum, start = (jax.tree.map(lambda x: jnp.asarray(x, dtype), t) for t in (optimum, start))

    def loss(p):
        gap = jax.tree.map(jnp.subtract, p, optimum)
        free = jnp.sum(weights * gap["free"] ** 2)
        return (free + jnp.sum(gap["tall"] ** 2) + 2 * jnp.sum(gap["wide"] ** 2)) / 2

    return start, loss


def stepper(optimizer, loss):
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        extra = {"value": value, "value_fn": loss}
        updates, state = optax.with_extra_args_support(optimizer).update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return step


class Program:
    """A row's step on one dtype, compiled once for the whole module; ``traces`` counts compilations."""

    def __init__(self, row, dtype):
        self.params, self.loss = problem(dtype)
        self.optimizer = row.build(constrained=LABELS)
        self.step = stepper(self.optimizer, self.loss)
        self.state = self.optimizer.init(self.params)
        self.traces = 0

        def body(_, carry):
            self.traces += 1
            return self.step(*carry)

        self.run = jax.jit(lambda carry, steps: jax.lax.fori_loop(0, steps, body, carry))


@functools.cache
def program(row, dtype=np.float64):
    return Program(row, dtype)


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    """These programs run for milliseconds and compile for seconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    program.cache_clear()


def off_manifold(params):
    return max(float(jnp.max(stiefel.orthonormality_error(params[k]))) for k in ("tall", "wide"))


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@each_row
@pytest.mark.parametrize(
    "dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)], ids=lambda d: d.__name__
)
def test_converges_on_the_manifold_in_its_dtype(row, dtype):
    it = program(row, dtype)
    end, state = it.run((it.params, it.state), row.steps)
    assert off_manifold(end) < DTYPES[dtype]
    assert it.loss(end) < ((1e-9 if dtype == np.float32 else 1e-14) + row.floor) * it.loss(it.params)
    assert all(x.dtype == dtype for x in jax.tree.leaves(end))
    before, after = (jax.tree.map(lambda x: (x.shape, x.dtype), s) for s in (it.state, state))
    assert before == after


@each_row
def test_jit_vmap_and_restored_states_agree_and_nothing_recompiles(row):
    it = program(row)
    other = problem(seed=1)[0]
    ends = [it.run((p, it.state), 1) for p in (it.params, other)]
    for params, end in zip((it.params, other), ends, strict=True):
        assert_close(end[0], it.step(params, it.state)[0], atol=1e-13)
    restored = jax.tree.map(jnp.asarray, pickle.loads(pickle.dumps(jax.device_get(ends[0][1]))))
    assert_close(it.run((ends[0][0], restored), 1)[0], it.run((it.params, it.state), 2)[0], rtol=0, atol=0)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), it.params, other)
    both = jax.vmap(lambda p: it.step(p, it.optimizer.init(p))[0])(stacked)
    for i, end in enumerate(ends):
        assert_close(jax.tree.map(lambda x, i=i: x[i], both), end[0], atol=1e-13)
    before = it.traces
    if not row.searches:  # another step size is another input, not another program
        longer = it.run((it.params, row.build(2 * row.step, constrained=LABELS).init(it.params)), 1)[0]
        moved = [end["free"] - it.params["free"] for end in (longer, ends[0][0])]
        np.testing.assert_allclose(moved[0], 2 * moved[1], atol=1e-14)
    assert it.traces == before


@pytest.fixture(scope="module")
def checkpointed(tmp_path_factory):
    """Every row after two steps, as it was and as orbax read it back into the shapes of a fresh start."""
    orbax = pytest.importorskip("orbax.checkpoint")
    midway, shapes = {}, {}
    for name, it in {name: program(row) for name, row in TABLE.items()}.items():
        with jax.numpy_dtype_promotion("standard" if "adam" in name else "strict"):
            midway[name] = it.run((it.params, it.state), 2)
            shapes[name] = it.params, it.optimizer.init(it.params)
    with orbax.StandardCheckpointer() as checkpointer:
        folder = tmp_path_factory.mktemp("orbax") / "state"
        checkpointer.save(folder, midway)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(folder, jax.eval_shape(lambda: shapes))
    return midway, jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), restored)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_a_run_restored_by_orbax_continues_bitwise(name, checkpointed):
    it, (midway, restored) = program(TABLE[name]), checkpointed
    jax.tree.map(np.testing.assert_array_equal, midway[name], restored[name])
    jax.tree.map(np.testing.assert_array_equal, it.run(midway[name], 2), it.run(restored[name], 2))
    assert jax.tree.structure(restored[name][1]) == jax.tree.structure(it.state)
    assert it.traces == 1


def test_a_traced_step_size_is_the_one_used():
    params, loss = problem()

    @jax.jit
    def once(mu):
        optimizer = optim.rgd(mu, constrained=LABELS)
        return stepper(optimizer, loss)(params, optimizer.init(params))[0]

    for mu in (0.1, 0.2):
        optimizer = optim.rgd(mu, constrained=LABELS)
        assert_close(once(mu), stepper(optimizer, loss)(params, optimizer.init(params))[0], atol=1e-14)


@each_stepped
def test_schedules_and_injected_hyperparameters(row):
    params, loss = problem()
    scheduled = row.build(optax.piecewise_constant_schedule(row.step, {1: 0.5}), constrained=LABELS)
    make = lambda step_size: row.build(step_size, constrained=LABELS)  # noqa: E731
    injected = optax.inject_hyperparams(make)(step_size=row.step)
    p, s = params, injected.init(params)
    q, r = params, scheduled.init(params)
    for mu in (row.step, row.step / 2):
        s.hyperparams["step_size"] = jnp.asarray(mu)
        p, s = stepper(injected, loss)(p, s)
        q, r = stepper(scheduled, loss)(q, r)
    assert_close(p, q, atol=1e-8)  # optax's schedule is float32


def test_injected_hyperparameters_are_read_inside_jit():
    params, loss = problem()
    injected = optax.inject_hyperparams(optim.rgd, static_args=("retraction",))(
        step_size=0.1, constrained=LABELS
    )
    step, state = jax.jit(stepper(injected, loss)), injected.init(params)
    state.hyperparams["step_size"] = jnp.asarray(0.2)
    plain = optim.rgd(0.2, constrained=LABELS)
    assert_close(step(params, state)[0], stepper(plain, loss)(params, plain.init(params))[0], atol=1e-14)


@pytest.mark.slow
@each_stepped
def test_accumulation_and_non_finite_gradients(row):
    it = program(row)
    once = it.run((it.params, it.state), 1)[0]
    guarded = optax.apply_if_finite(
        optax.MultiSteps(row.build(constrained=LABELS), 2).gradient_transformation(), 3
    )
    update = jax.jit(guarded.update)
    params, state, grads = it.params, guarded.init(it.params), jax.grad(it.loss)(it.params)
    for factor in (0.5, np.nan, 1.5):  # two halves of a batch whose mean is the gradient, and a spoilt one
        updates, state = update(jax.tree.map(lambda g, f=factor: f * g, grads), state, params)
        params = optax.apply_updates(params, updates)
    assert_close(params, once, atol=1e-13)


@each_stepped
def test_partition_and_masked_agree_with_labels_and_leave_the_rest_bitwise(row):
    params, loss = problem()
    grads = jax.grad(loss)(params)
    label = jax.tree.map(lambda c: "orthonormal" if c else "frozen", LABELS)
    everywhere = row.build(constrained=lambda tree: jax.tree.map(lambda _: True, tree))
    parted = optax.partition({"orthonormal": everywhere, "frozen": optax.set_to_zero()}, label)
    updates, _ = parted.update(grads, parted.init(params), params)
    labelled = row.build(constrained=LABELS)
    expected, _ = labelled.update(grads, labelled.init(params), params)
    for k in ("tall", "wide"):
        np.testing.assert_allclose(updates[k], expected[k], atol=1e-14)
    np.testing.assert_array_equal(optax.apply_updates(params, updates)["free"], params["free"])
    masked = optax.masked(everywhere, LABELS)
    updates, _ = masked.update(grads, masked.init(params), params)
    np.testing.assert_array_equal(updates["free"], grads["free"])
    np.testing.assert_allclose(updates["tall"], expected["tall"], atol=1e-14)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (optim.rgd(0.1, constrained=LABELS), optax.sgd(0.1)),
        (optim.heavy_ball(0.1, 0.8, constrained=LABELS), optax.sgd(0.1, 0.8)),
        (optim.nesterov(0.1, 0.8, constrained=LABELS), optax.sgd(0.1, 0.8, nesterov=True)),
        (optim.adam(0.1, constrained=LABELS), optax.adam(0.1)),
        (optim.gd(0.1), optax.sgd(0.1)),
    ],
    ids=["rgd", "heavy_ball", "nesterov", "adam", "gd"],
)
def test_free_leaves_get_exactly_the_unconstrained_method(ours, theirs):
    params, loss = problem()
    mine, other = ours.init(params), theirs.init(params)
    for k in range(3):
        grads = jax.tree.map(lambda x, k=k: x + k, jax.grad(loss)(params))
        a, mine = ours.update(grads, mine, params)
        b, other = theirs.update(grads, other, params)
        np.testing.assert_allclose(a["free"], b["free"], rtol=1e-15, atol=0)


@pytest.mark.parametrize("name", ["rgd", "heavy_ball", "nesterov", "adam", "rgd_cayley", "landing", "pogo"])
def test_recipes_commute_with_the_gauge(name):
    w = stiefel.random(jax.random.key(0), (5, 3))
    target = jax.random.normal(jax.random.key(1), (5, 3))
    right, left = stiefel.random(jax.random.key(2), (3, 3)), stiefel.random(jax.random.key(3), (5, 5))
    optimizer = TABLE[name].build(constrained=True)

    def end(w, target):
        step = stepper(optimizer, lambda w: jnp.sum((w - target) ** 2) / 2)
        carry = w, optimizer.init(w)
        for _ in range(20):
            carry = step(*carry)
        return carry[0]

    np.testing.assert_allclose(
        end(left @ w @ right, left @ target @ right), left @ end(w, target) @ right, atol=1e-12
    )


def test_rgd_steps_equal_the_svd_oracle_with_scales_and_runs():
    rng = np.random.default_rng(0)
    layers = [rng.standard_normal((3, 4)), *oracles.polar_factor(rng.standard_normal((2, 3, 3)))]
    layers.append(oracles.polar_factor(rng.standard_normal((5, 3))))
    target, mu = rng.standard_normal((5, 4)), 0.05
    params = (jnp.asarray(layers[0]), jnp.stack(layers[1:3]), jnp.asarray(layers[3]))
    scales = (1.0, np.array([0.5, 2.0]), 0.7)

    def loss(p):
        return jnp.sum((p[2] @ p[1][1] @ p[1][0] @ p[0] - target) ** 2) / 2

    optimizer = optim.rgd(mu, scales=scales)
    carry, step = (params, optimizer.init(params)), stepper(optimizer, loss)
    for _ in range(5):
        carry = step(*carry)
    steps = [mu, 0.5 * mu, 2 * mu, 0.7 * mu]
    for _ in range(5):
        layers = oracles.quadratic_rgd_step(layers, target, np.eye(4), steps, [True, False, False, False])
    assert_close(carry[0], (layers[0], np.stack(layers[1:3]), layers[3]), atol=1e-13)
