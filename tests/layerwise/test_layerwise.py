"""The one-pass engine equals the composed optax transformation, which equals the plain loop (test_train)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax import initial, layerwise, network, optim, problem, reduced, train
from dlnjax.layerwise import chunked, engine

# tall, wide and square last layers, padded and not, two layers and many, an odd and an even number between
CASES = [((8, 4, 8), 3), ((8, *[4] * 7, 8), 12), ((6, *[5] * 4, 3), 6), ((7, *[6] * 5), 5), ((7, 6, 6), 4)]
# the last layer of a step of its own, and of that of the middle layers
SCALES = [(1.0, 0.6, 0.9), (1.0, 0.6, 0.6)]


@pytest.fixture
def anew():
    """Nothing that is traced, before or in the test, decides for others how layers are moved."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.fixture
def way(request, monkeypatch):
    """How layers are moved: as on a CPU, and as on an accelerator, in chunks of three."""
    if request.param == "at once":
        request.getfixturevalue("anew")
        monkeypatch.setattr(chunked, "applies", lambda *_: True)
        monkeypatch.setattr(chunked, "CHUNK", 3)
    return request.param


def padded(params, stored):
    """``(W_1, run, W_N)`` with ``stored`` layers, those beyond the network's identities."""
    first, *between, last = network.unstack(params)
    identities = [jnp.eye(first.shape[0], dtype=first.dtype)] * (stored - 2 - len(between))
    return first, jnp.stack([*between, *identities]), last


@pytest.mark.parametrize(
    ("way", "widths", "stored"),
    [*(("one by one", *case) for case in CASES), *(("at once", *case) for case in CASES[1:3])],
    indirect=["way"],
)
@pytest.mark.parametrize(("coloured", "scales"), [(False, SCALES[0]), (True, SCALES[0]), (False, SCALES[1])])
def test_one_pass_equals_the_composed_transformation(way, widths, stored, coloured, scales):
    rng = np.random.default_rng(0)
    start = padded(initial.haar(jax.random.key(0), widths, 0.5), stored)
    target = jnp.asarray(rng.standard_normal((widths[-1], widths[0])) / 4)  # within the stability edge
    task = problem.whitened(target)
    if coloured:
        x = jnp.asarray(rng.standard_normal((widths[0], 30)) / 5)
        task = problem.regression(x, target @ x)
    depth = len(widths) - 1
    options = {"num_steps": 200, "record_every": 50}

    @jax.jit
    def both(start, depth, size):
        composed = train.train(start, task, optim.rgd(size, scales=scales), depth=depth, **options)
        return composed, layerwise.train(start, task, step_size=size, scales=scales, depth=depth, **options)

    (expected, slow), (found, fast) = both(start, depth, 0.05)
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)
    for name in ("step", "loss", "distance", "gradient_norm", "status"):
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), rtol=1e-10, atol=1e-12)
    assert float(fast.orthonormality_error[-1]) < 1e-13
    np.testing.assert_array_equal(found[1][depth - 2 :], start[1][depth - 2 :])


def test_a_batch_with_last_layers_of_either_kind_equals_each_cell_alone():
    """Whether the last layer is moved as the middle ones are is one decision for a batch; the cells see no trace."""
    start = padded(initial.haar(jax.random.key(0), (6,) * 5, 0.5), 4)
    task = problem.whitened(jnp.eye(6))

    def trained(last_scale, size):
        scales = (1.0, 0.5, last_scale)
        return layerwise.train(start, task, step_size=size, scales=scales, num_steps=40)[0]

    last_scales, sizes = jnp.array([0.5, 0.8, 0.5]), jnp.array([0.1, 0.1, 0.3])
    together = jax.vmap(trained)(last_scales, sizes)
    for i in range(3):
        alone = trained(last_scales[i], sizes[i])
        for got, want in zip(together, alone, strict=True):
            np.testing.assert_allclose(got[i], want, atol=1e-13)


@pytest.mark.parametrize(
    ("way", "outputs"), [("one by one", 4), ("one by one", 6), ("at once", 6)], indirect=["way"]
)
def test_vmap_over_depth_equals_each_depth_alone(way, outputs):
    depths, stored = [2, 3, 6, 5], 6
    starts = [
        padded(initial.haar(jax.random.key(n), (5, *[4] * (n - 1), outputs), 0.5), stored) for n in depths
    ]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    task = problem.whitened(jnp.eye(outputs, 5))

    def trained(start, depth, size):
        return layerwise.train(start, task, step_size=size, num_steps=40, record_every=20, depth=depth)

    sizes = jnp.array([0.05, 0.3])  # small steps, and such that every layer is projected
    over_sizes = jax.vmap(trained, (None, None, 0))
    together, trace = jax.vmap(over_sizes)(batch, jnp.array(depths), jnp.tile(sizes, (4, 1)))
    assert trace.loss.shape == (4, 2, 3)
    for i, depth in enumerate(depths):
        alone, expected = over_sizes(starts[i], depth, sizes)
        np.testing.assert_allclose(trace.loss[i], expected.loss, rtol=1e-11, atol=1e-14)
        for got, want in zip(together, alone, strict=True):
            np.testing.assert_allclose(got[i], want, atol=1e-12)
        assert np.array_equal(together[1][i, :, depth - 2 :], np.tile(np.eye(4), (2, stored - depth, 1, 1)))


def test_float32_stays_on_the_manifold():
    first, middle, last = initial.haar(jax.random.key(0), (16,) * 4, 0.5, jnp.float32)
    start = (first, middle[None], last)
    task = problem.whitened(jnp.eye(16, dtype=jnp.float32))
    _, trace = layerwise.train(start, task, step_size=jnp.float32(0.1), num_steps=1600, record_every=400)
    assert trace.distance.dtype == jnp.float32
    assert float(jnp.max(trace.orthonormality_error)) < 1e-6  # 4e-6 without the projections


@pytest.mark.parametrize("last", [1.0, 0.7])
@pytest.mark.parametrize(
    ("way", "num_layers"), [("one by one", 3), ("one by one", 16), ("at once", 16)], indirect=["way"]
)
def test_layers_stay_orthonormal_while_large_steps_keep_them_moving(way, num_layers, last):
    start = padded(initial.haar(jax.random.key(0), (8,) * (num_layers + 1), 0.5, jnp.float32), num_layers)
    options = {"step_size": 3.0 / num_layers, "scales": (1.0, 1.0, last), "num_steps": 320, "record_every": 1}
    _, trace = layerwise.train(start, problem.whitened(jnp.eye(8, dtype=jnp.float32)), **options)
    assert float(jnp.max(trace.orthonormality_error)) < 3e-6
    assert float(trace.gradient_norm[-1]) > 1e-3  # it still moves


def test_other_forms_of_params_are_refused():
    task = problem.whitened(jnp.eye(4))
    with pytest.raises(ValueError, match=r"see network\.pad"):
        layerwise.train((jnp.eye(4), jnp.eye(4)), task, step_size=0.1, num_steps=1)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 8])
def test_chunks_move_every_layer_once_whatever_their_number(count, monkeypatch):
    """Eight layers are stored; a last chunk that reaches back finds some of them moved already."""
    monkeypatch.setattr(chunked, "CHUNK", 3)
    run = jnp.stack(initial.haar(jax.random.key(0), (5,) * 9, 1.0))
    run = jnp.where(jnp.arange(8)[:, None, None] < count, run, jnp.eye(5))
    drawn = np.random.default_rng(0).standard_normal((5, 5)) / 20
    turn = engine.turn_of(jnp.asarray(drawn - drawn.T))
    rows = run.reshape(8, -1)
    moved, after, prefix = chunked.turned(rows, turn, jnp.int32(count))
    rotation, layers, product = np.eye(5) + np.asarray(turn), np.asarray(run), np.eye(5)
    for i in range(8):
        layer = layers[i]
        if i < count:
            layer, rotation = layer @ rotation, layer @ rotation @ layer.T
            product = layer @ product
        np.testing.assert_allclose(moved[i].reshape(5, 5), layer, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(moved[count:], rows[count:])
    np.testing.assert_allclose(np.asarray(after) + np.eye(5), rotation, rtol=0, atol=1e-14)
    np.testing.assert_allclose(prefix, product, rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_on_an_accelerator_a_deep_narrow_net_waits_for_few_products(backend, anew, monkeypatch):
    """256 middle layers of width 4: a step waits for three products a layer on a CPU, 768 in all."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    traced = jax.make_jaxpr(lambda *a: engine._turned(*a, jnp.int32(256)))(
        jnp.zeros((256, 16)), jnp.zeros((4, 4))
    )
    body = str(traced)
    at_once = f"{chunked.CHUNK},4,4" in body
    assert at_once == (backend == "gpu")
    if at_once:
        assert 256 // chunked.CHUNK * body.count("dot_general") <= 100


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 13])
def test_chains_are_the_products_one_after_the_other(count):
    layers = np.random.default_rng(0).standard_normal((2, count, 4, 4))
    expected = [layers[:, 0]]
    for i in range(1, count):
        expected.append(layers[:, i] @ expected[-1])
    np.testing.assert_allclose(chunked.prefixes(jnp.asarray(layers)), np.stack(expected, 1), rtol=1e-12)
    np.testing.assert_allclose(chunked.product(jnp.asarray(layers)), expected[-1], rtol=1e-12)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_programs_for_accelerators_hold_products_at_full_precision_and_no_other_library(
    platform, anew, monkeypatch
):
    """As they would be compiled there; what runs here is the same arithmetic (the tests above)."""
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    start = initial.haar(jax.random.key(0), (8, *[4] * 9, 6), 0.5, jnp.float32)
    params, task = padded(start, 12), problem.whitened(jnp.eye(6, 8, dtype=jnp.float32))
    two = reduced.reduce(start)

    def train(params, frame, size, depth):
        layers = layerwise.train(params, task, step_size=size, num_steps=8, depth=depth)
        two = reduced.Reduced(params[0], frame, depth)
        return layers, reduced.train(two, task, step_size=size, num_steps=8)[1]

    traced = jax.jit(train).trace(params, two.frame, jnp.float32(0.1), jnp.int32(10))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "custom_call" not in text
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) > 40
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)
    assert "10x4x4" in text  # the layers at once
