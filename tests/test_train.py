"""Training against a plain numpy loop, and the status that every run ends with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from dlnjax import _monitor, initial, layerwise, network, optim, problem, reduced, scales, stiefel, train
from dlnjax._types import Status

SPECTRUM = [1.0, 0.8, 0.6, 0.4]


def reference(depth, seed=0, dtype=jnp.float64, stacked=True):
    """The reference case: target product, start, and the teacher's discrepant scales."""
    widths = (8, *[4] * (depth - 1), 8)
    keys = jax.random.split(jax.random.key(seed))
    teacher = initial.teacher(keys[0], widths, SPECTRUM, dtype)
    start = initial.haar(keys[1], widths, 0.5, dtype)
    group = network.stack if stacked else tuple
    return problem.whitened(network.end_to_end(teacher)), group(start), scales.discrepant(group(teacher))


@pytest.mark.parametrize("depth", [2, 5])
@pytest.mark.parametrize("stacked", [False, True])
def test_riemannian_descent_equals_the_plain_loop(depth, stacked):
    square, start, multipliers = reference(depth, stacked=stacked)
    optimizer = optim.rgd(0.1, scales=multipliers)
    ended, trace = jax.jit(lambda p: train.train(p, square, optimizer, num_steps=60, record_every=25))(start)
    layers = [np.asarray(w) for w in network.unstack(start)]
    target = np.asarray(square.target)
    for _ in range(60):
        layers = oracles.riemannian_step(layers, lambda w: w - target, [0.1] * depth)
    for got, want in zip(network.unstack(ended), layers, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-13)
    assert list(trace.step) == [0, 25, 50, 60]
    np.testing.assert_allclose(
        trace.distance[-1], np.linalg.norm(oracles.product(layers) - target), rtol=1e-12
    )
    np.testing.assert_allclose(
        trace.loss[-1], 0.5 * np.linalg.norm(oracles.product(layers) - target) ** 2, rtol=1e-11
    )
    gradients = [
        oracles.product(layers[i + 1 :] or [np.eye(layers[i].shape[0])]).T
        @ (oracles.product(layers) - target)
        @ oracles.product(layers[:i] or [np.eye(8)]).T
        for i in range(depth)
    ]
    tangents = [
        gradients[0],
        *(oracles.tangent(w, g) for w, g in zip(layers[1:], gradients[1:], strict=True)),
    ]
    np.testing.assert_allclose(
        trace.gradient_norm[-1], np.sqrt(sum(np.sum(g**2) for g in tangents)), rtol=1e-11
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-12), (jnp.float32, 2e-6)])
def test_reduction_and_layers_give_one_trace(dtype, tolerance):
    """Product, loss, gradient norm and status agree along a run, in both precisions."""
    square, start, _ = reference(6, dtype=dtype)
    steps = reduced.LayerScales(1.0, 0.7, 0.9)
    optimizer = optim.rgd(dtype(0.1), scales=(1.0, 0.7, 0.9))
    _, whole = train.train(start, square, optimizer, num_steps=300, record_every=50)
    _, short = reduced.train(
        reduced.reduce(start), square, step_size=dtype(0.1), scales=steps, num_steps=300, record_every=50
    )
    for name in ("loss", "distance", "gradient_norm"):
        assert getattr(whole, name).dtype == dtype
        np.testing.assert_allclose(getattr(whole, name), getattr(short, name), atol=tolerance)
    np.testing.assert_array_equal(whole.status, short.status)


def test_plain_gradient_descent_equals_the_plain_loop():
    square, start, _ = reference(3, stacked=False)
    ended, _ = train.train(start, square, optim.gd(0.1), num_steps=30)
    layers = [np.asarray(w) for w in start]
    x, y = np.eye(8), np.asarray(square.target)
    for _ in range(30):
        gradients = oracles.complex_step_gradients(oracles.complex_square_loss(x, y), layers)
        layers = [w - 0.1 * g for w, g in zip(layers, gradients, strict=True)]
    for got, want in zip(ended, layers, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_one_program_serves_every_depth_and_leaves_padding_alone():
    square, _, _ = reference(2)

    @jax.jit
    def run(params, depth, step_size, every):
        optimizer = optim.rgd(step_size)
        intervals = jnp.full(4, every, jnp.int32)
        return train.train(params, square, optimizer, depth=depth, record_intervals=intervals)

    for depth in (3, 4, 6):
        _, start, _ = reference(depth, seed=depth)
        padded = network.pad(start, 8)
        ended, trace = run(padded, depth, 0.05, 10)
        direct, _ = train.train(start, square, optim.rgd(0.05), num_steps=40)
        np.testing.assert_allclose(network.end_to_end(ended), network.end_to_end(direct), atol=1e-13)
        np.testing.assert_array_equal(ended[1][depth - 2 :], padded[1][depth - 2 :])
        assert list(trace.step) == [0, 10, 20, 30, 40]
    assert run._cache_size() == 1


def test_vmap_over_seeds_and_step_sizes_equals_the_loop():
    starts = [reference(4, seed=s)[1] for s in range(3)]
    square = reference(4)[0]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    sizes = jnp.array([0.02, 0.05, 0.1])

    def run(params, size):
        return train.train(params, square, optim.rgd(size), num_steps=20, record_every=5)[1].distance

    together = jax.vmap(run)(batch, sizes)
    for i in range(3):
        np.testing.assert_allclose(together[i], run(starts[i], sizes[i]), rtol=1e-12)


def test_converged_needs_the_tolerance():
    square, start, multipliers = reference(2)
    optimizer = optim.rgd(0.4, scales=multipliers)
    _, trace = train.train(start, square, optimizer, num_steps=400, record_every=20, tolerance=1e-8)
    expected = np.where(
        np.asarray(trace.distance) <= 1e-8 * trace.distance[0], Status.CONVERGED, Status.RUNNING
    )
    np.testing.assert_array_equal(trace.status, expected)
    assert expected[0] == Status.RUNNING
    assert expected[-1] == Status.CONVERGED
    assert int(trace.first_bad_step) == -1


def test_divergence_is_found_at_its_first_bad_step():
    """Gradient descent that overflows: the step of the first number that is not finite, between records."""
    square, start, _ = reference(3, stacked=False)
    _, trace = train.train(start, square, optim.gd(5.0), num_steps=200, record_every=50)
    layers, bad = [np.asarray(w) for w in start], None
    target = np.asarray(square.target)
    with np.errstate(all="ignore"):
        for step in range(1, 200):
            g = oracles.product(layers) - target
            grads = [
                (layers[2] @ layers[1]).T @ g,
                layers[2].T @ g @ layers[0].T,
                g @ (layers[1] @ layers[0]).T,
            ]
            layers = [w - 5.0 * d for w, d in zip(layers, grads, strict=True)]
            if not np.isfinite(np.sum(layers[0])):
                bad = step
                break
    assert bad is not None
    assert abs(int(trace.first_bad_step) - bad) <= 1  # sums overflow in another order
    assert int(trace.status[-1]) == Status.DIVERGED
    np.testing.assert_array_equal(trace.status[1:], Status.DIVERGED)


@pytest.mark.parametrize("depth", [2, 8])
def test_bounded_oscillation_beyond_the_edge_is_divergence(depth):
    """Just beyond the edge 2 / (1 + (N-1)(1+q)/2) the error stays finite; within it the same run converges."""
    square, start, multipliers = reference(depth)
    edge = 2 / (1 + (depth - 1) * (1 + 0.64) / 2)
    for factor, status in ((0.9, Status.CONVERGED), (1.05, Status.DIVERGED)):
        optimizer = optim.rgd(factor * edge, scales=multipliers)
        run = jax.jit(lambda p, o=optimizer: train.train(p, square, o, num_steps=2000, record_every=4))
        _, trace = run(start)
        assert int(trace.status[-1]) == status
        assert np.isfinite(trace.distance[-1])


def test_slow_progress_is_not_divergence():
    square, start, _ = reference(3)
    _, trace = train.train(start, square, optim.rgd(1e-5), num_steps=3000, record_every=10)
    assert int(trace.status[-1]) == Status.RUNNING


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("engine", ["train", "reduced", "layerwise"])
def test_a_tiny_step_is_not_divergence(engine, dtype):
    """At a step of 1e-9 the error falls by less than a millionth in 150 records, with a large gradient all along."""
    square, start, _ = reference(3, dtype=dtype)
    step, records = dtype(1e-9), {"num_steps": 300, "record_every": 2}
    run = {
        "train": lambda p: train.train(p, square, optim.rgd(step), **records),
        "reduced": lambda p: reduced.train(reduced.reduce(p), square, step_size=step, **records),
        "layerwise": lambda p: layerwise.train(p, square, step_size=step, **records),
    }[engine]
    _, trace = jax.jit(run)(start)
    np.testing.assert_array_equal(trace.status, Status.RUNNING)
    assert trace.gradient_norm[-1] > 0.9 * trace.gradient_norm[0]
    assert trace.distance[-1] > (1 - 1e-6) * trace.distance[0]


def observed(losses, gradient=1.0):
    """The status after each of these losses, the gradient staying where it is."""

    def record(step, loss):
        return _monitor.Record(
            jnp.asarray(step, jnp.int32), loss, jnp.sqrt(2 * loss), jnp.asarray(gradient), jnp.zeros(())
        )

    def more(monitor, step_and_loss):
        monitor = _monitor.observe(monitor, record(*step_and_loss), jnp.asarray(-1, jnp.int32), 1e-8)
        return monitor, monitor.status

    losses = jnp.asarray(losses)
    steps = jnp.arange(1, len(losses), dtype=jnp.int32)
    begun = _monitor.begin(record(0, losses[0])._replace(gradient_norm=jnp.ones(())))
    return np.asarray(jax.lax.scan(more, begun, (steps, losses[1:]))[1])


def test_an_oscillation_is_one_once_it_has_lasted():
    """Bounded between 1 and 1.5 for 100 records: from then on diverged, and not before; with a small gradient never."""
    orbit = np.where(np.arange(150) % 2, 1.5, 1.0)
    expected = np.where(np.arange(1, 150) >= _monitor.PATIENCE, Status.DIVERGED, Status.RUNNING)
    np.testing.assert_array_equal(observed(orbit), expected)
    np.testing.assert_array_equal(observed(orbit, gradient=1e-3), Status.RUNNING)


def test_neither_a_slow_fall_nor_a_slow_rise_is_an_oscillation():
    step = 1e-9 * np.arange(400)
    np.testing.assert_array_equal(observed(1 - step), Status.RUNNING)
    np.testing.assert_array_equal(observed(1 + step), Status.RUNNING)
    np.testing.assert_array_equal(observed(np.ones(400)), Status.RUNNING)
    jitter = np.where(np.arange(400) % 100 == 7, 1e-8, 0.0)  # a rise in every hundred records
    np.testing.assert_array_equal(observed(1 - step + jitter), Status.RUNNING)


def test_far_above_the_start_for_long_is_divergence():
    high = np.concatenate([[1.0], np.full(150, 101.0)])  # of the loss: the error is ten times its start
    expected = np.where(np.arange(1, 151) >= _monitor.PATIENCE, Status.DIVERGED, Status.RUNNING)
    np.testing.assert_array_equal(observed(high), expected)
    np.testing.assert_array_equal(observed(np.concatenate([[1.0], np.full(150, 99.0)])), Status.RUNNING)


def test_a_saddle_is_not_divergence():
    """GD at the rank-one stall of diag(2, -1) with three layers: slow, gradient vanishing (source B's example)."""
    square = problem.whitened(jnp.diag(jnp.array([2.0, -1.0])))
    start = initial.identity((2, 2, 2, 2), 0.5)
    run = jax.jit(lambda p: train.train(p, square, optim.gd(0.02), num_steps=20000, record_every=40))
    ended, trace = run(start)
    assert int(trace.status[-1]) == Status.RUNNING
    np.testing.assert_allclose(network.end_to_end(ended), np.diag([2.0, 0.0]), atol=2e-2)
    np.testing.assert_allclose(trace.loss[-1], 0.5, atol=1e-3)


def test_any_problem_and_any_optax_transformation_will_do():
    """Nonlinear teacher-student with Adam on the free layer, orthonormality kept on the others."""
    rng = np.random.default_rng(0)
    teacher = initial.teacher(jax.random.key(1), (6, 4, 4, 6), [1.0, 0.8, 0.6, 0.5])
    x = jnp.asarray(rng.standard_normal((6, 100)))
    student = problem.nonlinear(x, network.forward(teacher, x, jnp.tanh), jnp.tanh)
    start = initial.perturb(jax.random.key(2), teacher, 0.05)
    optimizer = optax.partition(
        {"free": optax.sgd(1e-3), "held": optax.chain(optim.scale_by_step(1e-3), optim.project_to_tangent(),
                                                      optim.retract(stiefel.retract_polar))},
        ("free", "held", "held"),
    )  # fmt: skip
    ended, trace = jax.jit(lambda p: train.train(p, student, optimizer, num_steps=300, record_every=100))(
        start
    )
    assert float(trace.loss[-1]) < 0.1 * float(trace.loss[0])
    assert float(trace.orthonormality_error[-1]) < 1e-13
    assert network.dims(ended) == (6, 4, 4, 6)


@pytest.mark.mistakes
def test_mistakes_are_refused():
    square, start, _ = reference(2)
    with pytest.raises(ValueError, match="either num_steps"):
        train.train(start, square, optim.rgd(0.1))
    for num_steps in (0, -3, 2.5, True):
        with pytest.raises(ValueError, match=f"num_steps={num_steps}; give an integer of at least 1"):
            train.train(start, square, optim.rgd(0.1), num_steps=num_steps)
    for every in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"record_every={every}; give an integer of at least 1"):
            train.train(start, square, optim.rgd(0.1), num_steps=5, record_every=every)
    for intervals in ([], [3, 0], [3, -2], [1.5], 4):
        with pytest.raises(ValueError, match=r"record_intervals.*integers of at least 1"):
            train.train(start, square, optim.rgd(0.1), record_intervals=jnp.asarray(intervals))
    with pytest.raises(ValueError, match=r"tolerance=-1.0; give a number of at least 0"):
        train.train(start, square, optim.rgd(0.1), num_steps=5, tolerance=-1.0)


@pytest.mark.mistakes
@pytest.mark.parametrize("step", [-0.1, float("nan"), np.array(-0.1)])
def test_steps_that_ascend_are_refused(step):
    square, start, _ = reference(3)
    for run in (
        lambda: reduced.train(reduced.reduce(start), square, step_size=step, num_steps=3),
        lambda: layerwise.train(start, square, step_size=step, num_steps=3),
    ):
        with pytest.raises(ValueError, match=r"step_size=.*give a number of at least 0"):
            run()


def test_what_the_reduction_cannot_mean_is_refused():
    square, start, _ = reference(3)
    short = reduced.reduce(start)
    for name, value, words in (
        ("momentum", 1.0, "below 1"),
        ("momentum", -0.1, "at least 0"),
        ("second_moment", 1.5, "below 1"),
        ("epsilon", -1.0, "at least 0"),
        ("tolerance", -1.0, "at least 0"),
    ):
        with pytest.raises(ValueError, match=f"{name}={value}; give a number of .*{words}"):
            reduced.train(short, square, **{"step_size": 0.1, "num_steps": 3, name: value})
    with pytest.raises(ValueError, match="num_layers=1; give a number of at least 2"):
        reduced.train(short._replace(num_layers=1), square, step_size=0.1, num_steps=3)
    with pytest.raises(ValueError, match="max_layers=2 is below the 3 layers"):
        reduced.expand(jax.random.key(0), short, max_layers=2)
    with pytest.raises(ValueError, match="exponent=-1; give a number of at least 0"):
        reduced.power(jnp.eye(2), -1)
    with pytest.raises(ValueError, match="one multiplier per layer"):
        reduced.layer_scales((1.0,))
    with pytest.raises(ValueError, match="needs two layers or more"):
        reduced.reduce((jnp.eye(3),))
