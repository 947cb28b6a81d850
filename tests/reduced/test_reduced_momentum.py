"""Heavy ball and Adam through the reduction, and source D's net, against numpy loops over all the layers."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dlnjax import network, optim, problem, reduced, stiefel, train
from dlnjax.theory import closed, momentum, orthogonal

MU, LAST = 0.05, 0.03
#: Last layers: tall and wide.
ENDS = {"tall": 5, "wide": 2}


def instance(depth, last, seed=0, coloured=True):
    """Layers, problem and gradient of the product, width 3."""
    rng = np.random.default_rng(seed)
    d0, r, dn = 6, 3, ENDS[last]
    layers = [0.4 * rng.standard_normal((r, d0))]
    layers += [oracles.random_orthonormal(rng, r, r) for _ in range(depth - 2)]
    layers += [oracles.random_orthonormal(rng, dn, r)]
    target = rng.standard_normal((dn, d0)) / 2
    if not coloured:
        return layers, problem.whitened(jnp.asarray(target)), lambda w: w - target
    x = rng.standard_normal((d0, 20)) / 4
    y = target @ x + 0.3 * rng.standard_normal((dn, 20))
    return layers, problem.regression(jnp.asarray(x), jnp.asarray(y)), lambda w: (w @ x - y) @ x.T


def middle_step(depth):
    """Small enough that the step is stable at every depth: beyond the edge rounding is amplified for ever."""
    return 0.05 / depth


def gradients_of(first, middle, last, slope):
    """Gradients of all layers from prefixes and suffixes, so that 400 layers cost 400 products."""
    before, after = [first], [last]
    for w in middle:
        before.append(w @ before[-1])
    for w in middle[::-1]:
        after.append(after[-1] @ w)
    whole = slope(last @ before[-1])
    behind, ahead = np.array(after[-2::-1]).reshape(-1, *last.shape), np.array(before[:-1])
    inner = behind.mT @ whole @ ahead.mT if len(middle) else np.zeros(middle.shape)
    return after[-1].T @ whole, inner, whole @ before[-1].T


def flat(points, vectors):
    """The tangent part at each of a batch of square orthogonal matrices."""
    return vectors - points @ (points.mT @ vectors + vectors.mT @ points) / 2


def heavy_ball(layers, slope, steps, beta, count):
    """``m <- beta P(m) + P(g)``, ``W <- Retr(W, -mu m)``, layer by layer; the square ones side by side."""
    first, middle, last = layers[0], np.array(layers[1:-1]).reshape(-1, 3, 3), layers[-1]
    moments = [np.zeros_like(w) for w in (first, middle, last)]
    for _ in range(count):
        a, b, c = gradients_of(first, middle, last, slope)
        moments[0] = beta * moments[0] + a
        moments[1] = flat(middle, beta * moments[1] + b)
        moments[2] = beta * oracles.tangent(last, moments[2]) + oracles.tangent(last, c)
        first = first - steps[0] * moments[0]
        middle = oracles.polar_factor(middle - steps[1] * moments[1])
        last = oracles.polar(last - steps[2] * moments[2])
    return [first, *middle, last]


@jax.jit
def reduced_run(first, frame, depth, square, middle, beta):
    """One program serves every depth and beta of a shape."""
    start = reduced.Reduced(first, frame, depth)
    scales = reduced.LayerScales(1.0, middle / MU, LAST / MU)
    ended, _ = reduced.train(
        start, square, step_size=MU, scales=scales, num_steps=300, record_every=100, momentum=beta
    )
    return reduced.end_to_end(ended)


@pytest.mark.parametrize("last", ENDS)
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("depth", range(2, 13))
def test_reduction_is_the_layers_with_momentum(depth, beta, last):
    layers, square, slope = instance(depth, last, seed=depth)
    first, frame = jnp.asarray(layers[0]), jnp.asarray(oracles.chain_product(layers[1:]))
    found = reduced_run(first, frame, depth, square, middle_step(depth), beta)
    ended = heavy_ball(layers, slope, [MU, middle_step(depth), LAST], beta, 300)
    np.testing.assert_allclose(found, oracles.chain_product(ended), rtol=0, atol=1e-12)


@pytest.mark.parametrize("last", ENDS)
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_reduction_is_the_layers_at_depth_400(beta, last):
    """Every step of 300 turns the frame by R^398."""
    depth = 400
    layers, square, slope = instance(depth, last, seed=1)
    start = reduced.Reduced(jnp.asarray(layers[0]), jnp.asarray(oracles.chain_product(layers[1:])), depth)
    found = reduced_run(start.first, start.frame, depth, square, middle_step(depth), beta)
    ended = heavy_ball(layers, slope, [MU, middle_step(depth), LAST], beta, 300)
    expected = oracles.chain_product(ended)
    assert np.linalg.norm(expected - oracles.chain_product(layers)) > 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def adam(layers, slope, steps, b1, b2, eps, count):
    """One second moment a constrained layer (its gradient's mean square), one an entry of W_1, in numpy."""
    first, middle, last = layers[0], np.array(layers[1:-1]).reshape(-1, 3, 3), layers[-1]
    m = [np.zeros_like(w) for w in (first, middle, last)]
    v = [np.zeros_like(first), np.zeros((len(middle), 1, 1)), 0.0]
    for t in range(1, count + 1):
        a, b, c = gradients_of(first, middle, last, slope)
        found = [a, flat(middle, b), oracles.tangent(last, c)]
        old = [m[0], flat(middle, m[1]), oracles.tangent(last, m[2])]
        m = [b1 * x + (1 - b1) * g for x, g in zip(old, found, strict=True)]
        means = [found[0] ** 2, np.mean(found[1] ** 2, axis=(-2, -1), keepdims=True), np.mean(found[2] ** 2)]
        v = [b2 * x + (1 - b2) * s for x, s in zip(v, means, strict=True)]
        a, b, c = (x / (1 - b1**t) / (np.sqrt(y / (1 - b2**t)) + eps) for x, y in zip(m, v, strict=True))
        first = first - steps[0] * a
        middle = oracles.polar_factor(middle - steps[1] * b)
        last = oracles.polar(last - steps[2] * c)
    return [first, *middle, last]


@jax.jit
def adam_run(first, frame, depth, square, b1):
    start = reduced.Reduced(first, frame, depth)
    scales = reduced.LayerScales(1.0, 0.5, 0.75)
    return reduced.end_to_end(
        reduced.train(
            start, square, step_size=0.01, scales=scales, num_steps=300, record_every=100,
            momentum=b1, second_moment=0.999, epsilon=1e-6,
        )[0]
    )  # fmt: skip


@pytest.mark.parametrize("last", ENDS)
@pytest.mark.parametrize("depth", [2, 3, 7, 12])
def test_reduction_is_the_layers_with_one_second_moment_a_layer(depth, last):
    layers, square, slope = instance(depth, last, seed=depth)
    first, frame = jnp.asarray(layers[0]), jnp.asarray(oracles.chain_product(layers[1:]))
    found = adam_run(first, frame, depth, square, 0.9)
    ended = adam(layers, slope, [0.01, 0.005, 0.0075], 0.9, 0.999, 1e-6, 300)
    np.testing.assert_allclose(found, oracles.chain_product(ended), rtol=0, atol=1e-12)


def test_second_moments_are_those_of_the_optimizer():
    """The reduction against ``optim.adam`` on the layers themselves."""
    layers, square, _ = instance(4, "tall", seed=5)
    params = tuple(map(jnp.asarray, layers))
    first, frame = params[0], jnp.asarray(oracles.chain_product(layers[1:]))
    rule = optim.adam(0.01, 0.9, 0.999, 1e-6, scales=(1.0, 0.5, 0.5, 0.75))
    with jax.numpy_dtype_promotion("standard"):  # optax's own Adam, on W_1, promotes
        ended, _ = jax.jit(lambda p: train.train(p, square, rule, num_steps=300, record_every=300))(params)
    found = adam_run(first, frame, 4, square, 0.9)
    np.testing.assert_allclose(found, network.end_to_end(ended), rtol=0, atol=1e-12)


def test_middle_layers_come_back_with_momentum():
    layers, square, slope = instance(5, "tall", seed=3)
    scales = reduced.LayerScales(1.0, middle_step(5) / MU, LAST / MU)
    ended, _ = jax.jit(
        lambda s: reduced.train(
            s, square, step_size=MU, scales=scales, num_steps=40, layers=True, momentum=0.9, record_every=40
        )
    )(reduced.reduce(tuple(map(jnp.asarray, layers))))
    expected = heavy_ball(layers, slope, [MU, middle_step(5), LAST], 0.9, 40)
    for got, want in zip(network.unstack(reduced.layers(ended)), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)


# --- the predicted factor of heavy ball ------------------------------------------------------------------

SIGMA = (1.0, 0.8, 0.6, 0.4)
LENGTH = 4000


@jax.jit
def errors(depth, mu, beta):
    """Distances of a reduced heavy-ball run from near the solution with the reference spectrum."""
    keys = jax.random.split(jax.random.key(0), 4)
    frame = stiefel.random(keys[0], (8, 4), jnp.float64)
    first = jnp.diag(jnp.asarray(SIGMA)) @ stiefel.random(keys[1], (4, 8), jnp.float64)
    square = problem.whitened(frame @ first)
    noisy = stiefel.project(frame + 1e-3 * jax.random.normal(keys[2], frame.shape))
    start = reduced.Reduced(first + 1e-3 * jax.random.normal(keys[3], first.shape), noisy, depth)
    return reduced.train(start, square, step_size=mu, num_steps=LENGTH, momentum=beta)[1].distance


def settled_factor(depth, mu, beta):
    """The factor over the second half of the part above rounding, from peaks: a complex pair beats."""
    error = np.asarray(errors(depth, mu, beta))
    last = int(np.flatnonzero(error > 1e-12 * error[0])[-1])
    window = max(40, last // 8)
    places = [end - window + int(np.argmax(error[end - window : end])) for end in (last // 2, last)]
    return (error[places[1]] / error[places[0]]) ** (1 / (places[1] - places[0]))


@pytest.mark.parametrize("depth", [2, 8, 64])
@pytest.mark.parametrize("beta", [0.3, 0.9])
def test_momentum_prediction_is_what_runs_do(depth, beta):
    rate = closed.closed_form(SIGMA, dims=(8, *[4] * (depth - 1), 8), step_size=1.0)
    mu = 0.5 * momentum.step_max(rate, 1.0, beta)
    at = closed.closed_form(SIGMA, dims=(8, *[4] * (depth - 1), 8), step_size=mu)
    predicted = momentum.predict(at, beta)
    measured = settled_factor(depth, mu, beta)
    assert measured == pytest.approx(predicted, abs=0.02 * (1 - predicted))


def test_the_best_momentum_is_as_fast_as_predicted_and_faster_than_none():
    rate = closed.closed_form(SIGMA, dims=(8, *[4] * 31, 8), step_size=1.0)
    best = momentum.best(rate, 1.0)
    measured = settled_factor(32, best.step_size, best.momentum)
    # at the double root the error carries a factor linear in the step: slightly slower while it lasts
    assert best.factor - 1e-3 < measured < best.factor + 0.2 * (1 - best.factor)
    plain = (rate.eigenvalue_max - rate.eigenvalue_min) / (rate.eigenvalue_max + rate.eigenvalue_min)
    assert 1 - measured > 3 * (1 - plain)


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_the_edge_with_momentum_is_sharp(beta):
    rate = closed.closed_form(SIGMA, dims=(8, *[4] * 7, 8), step_size=1.0)
    edge = momentum.step_max(rate, 1.0, beta)
    below, above = (np.asarray(errors(8, share * edge, beta)) for share in (0.98, 1.02))
    assert below[-1] < 1e-3 * below[0]
    assert above[-1] > 10 * above[0]


# --- source D: all layers square and orthogonal -----------------------------------------------------------


def all_orthogonal_step(layers, target, eta, map_):
    """Every layer by its own skew field: ``W_i <- phi(-eta skew(g_i W_i^T)) W_i``, in numpy."""
    whole = layers
    moved = []
    for i, w in enumerate(whole):
        behind = oracles.chain_product(whole[i + 1 :]) if i + 1 < len(whole) else np.eye(len(w))
        ahead = oracles.chain_product(whole[:i]) if i else np.eye(len(w))
        g = behind.T @ (oracles.chain_product(whole) - target) @ ahead.T
        field = g @ w.T
        moved.append(map_(-eta * (field - field.T) / 2) @ w)
    return moved


def cayley(a):
    return np.linalg.solve(np.eye(len(a)) - a / 2, np.eye(len(a)) + a / 2)


def exponential(a):
    """Of a skew matrix, through the eigenvectors of the Hermitian ``i a``."""
    values, vectors = np.linalg.eigh(1j * a)
    return ((vectors * np.exp(-1j * values)) @ vectors.conj().T).real


MAPS = {
    "exp": exponential,
    "cayley": cayley,
    "polar": lambda a: oracles.polar(np.eye(len(a)) + a),
    "qr": lambda a: oracles.qr_factor(np.eye(len(a)) + a),
}


def orthogonal_net(depth, seed=0, d=4):
    rng = np.random.default_rng(seed)
    layers = [oracles.random_orthonormal(rng, d, d) for _ in range(depth)]
    return layers, oracles.random_orthonormal(rng, d, d)


orthogonal_step = jax.jit(orthogonal.step, static_argnames="retraction")
single_layer_step = jax.jit(orthogonal.single_layer_step)


@pytest.mark.parametrize("depth", [1, 2, 5, 16])
@pytest.mark.parametrize("name", ["exp", "cayley", "polar"])
def test_orthogonal_layers_are_one_layer_with_a_power(depth, name):
    layers, target = orthogonal_net(depth)
    product = jnp.asarray(oracles.chain_product(layers))
    for _ in range(20):
        product = orthogonal_step(product, product - target, 0.05, depth, retraction=name)
        layers = all_orthogonal_step(layers, target, 0.05, MAPS[name])
    np.testing.assert_allclose(product, oracles.chain_product(layers), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "order"), [("exp", np.inf), ("cayley", 3), ("polar", 3), ("qr", 2)])
def test_one_layer_at_n_times_the_step(name, order):
    """exp: exactly one layer at step N eta; Cayley and polar differ from it at third order, QR at second."""
    layers, target = orthogonal_net(3)
    product = oracles.chain_product(layers)
    sizes = np.array([2e-2, 1e-2, 5e-3, 2.5e-3])
    gaps = []
    for eta in sizes:
        deep = oracles.chain_product(all_orthogonal_step(layers, target, eta, MAPS[name]))
        one = single_layer_step(jnp.asarray(product), jnp.asarray(product - target), eta, 3)
        gaps.append(np.linalg.norm(deep - one))
    if name == "exp":
        assert max(gaps) < 1e-14
    else:
        slope = np.polyfit(np.log(sizes), np.log(gaps), 1)[0]
        assert slope == pytest.approx(order, abs=0.05)


def test_orthogonal_mistakes_are_refused():
    square = jnp.eye(3)
    with pytest.raises(ValueError, match=r"qr.*commute"):
        orthogonal.step(square, square, 0.1, 2, "qr")
    with pytest.raises(ValueError, match="square"):
        orthogonal.step(jnp.ones((3, 2)), jnp.ones((3, 2)), 0.1, 2)
    with pytest.raises(ValueError, match="num_layers=0"):
        orthogonal.step(square, square, 0.1, 0)
    assert stiefel.orthonormality_error(orthogonal.step(square, square + 1, 0.1, 7)) < 1e-14
