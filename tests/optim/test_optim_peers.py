"""Agreement with geoopt and geojax where those are right; skipped only where a peer is absent."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from dlnjax import optim, stiefel
from dlnjax.bench import _peers as peers

pytestmark = pytest.mark.filterwarnings("ignore")


def setup(shape=(3, 6, 4)):
    rng = np.random.default_rng(0)
    return (oracles.polar_factor(rng.standard_normal(shape)) for _ in range(2))


def test_five_steps_of_geoopt_sgd():
    pytest.importorskip("geoopt")
    start, target = setup()
    optimizer = optim.rgd(0.1, retraction=stiefel.retract_qr, constrained=True)
    w, state = jnp.asarray(start), None
    state = optimizer.init(w)
    for _ in range(5):
        updates, state = optimizer.update(w - target, state, w)
        w = optax.apply_updates(w, updates)
    np.testing.assert_allclose(w, peers.geoopt(start, target, 0.1)(5), atol=1e-12)


@pytest.mark.parametrize(("metric", "name"), [("canonical", "Stiefel"), ("embedded", "StiefelEuclidean")])
def test_exponentials_of_geojax(metric, name):
    manifolds = pytest.importorskip("geojax.geometry.stiefel")
    start, target = (a[0] for a in setup())
    w, xi = jnp.asarray(start), stiefel.project_tangent(jnp.asarray(start), jnp.asarray(target))
    expected = getattr(manifolds, name)((6, 4)).exp(w, xi)
    np.testing.assert_allclose(stiefel.exponential(w, xi, metric=metric), expected, atol=1e-12)


def follow(optimizer, start, gradients):
    w, state = jnp.asarray(start), optimizer.init(jnp.asarray(start))
    for gradient in gradients:
        updates, state = optimizer.update(jnp.asarray(gradient), state, w)
        w = optax.apply_updates(w, updates)
    return w


def follow_geoopt(make, start, gradients):
    geoopt, torch = pytest.importorskip("geoopt"), pytest.importorskip("torch")
    w = geoopt.ManifoldParameter(
        torch.from_numpy(start).clone(), manifold=geoopt.manifolds.EuclideanStiefel()
    )
    optimizer = make(geoopt.optim, [w])
    for gradient in gradients:
        w.grad = torch.from_numpy(gradient).clone()
        optimizer.step()
    return w.detach().numpy()


GRADIENTS = np.random.default_rng(3).standard_normal((5, 3, 6, 4))


def test_heavy_ball_of_geoopt():
    """Its buffer starts as the ambient gradient, which is no tangent vector: a zero gradient first avoids that."""
    start, gradients = next(iter(setup())), [0 * GRADIENTS[0], *GRADIENTS]
    ours = optim.heavy_ball(0.1, 0.7, retraction=stiefel.retract_qr, constrained=True)
    theirs = follow_geoopt(lambda o, w: o.RiemannianSGD(w, lr=0.1, momentum=0.7), start, gradients)
    np.testing.assert_allclose(follow(ours, start, gradients), theirs, atol=1e-12)


def test_adam_of_geoopt():
    """Its second moment sums the squares of a matrix where ours takes their mean: the step differs by that root."""
    start = next(iter(setup()))
    with jax.numpy_dtype_promotion("standard"):  # optax's own Adam, for the free leaves, promotes
        ours = optim.adam(
            0.1 / np.sqrt(24), 0.8, 0.95, 1e-12, retraction=stiefel.retract_qr, constrained=True
        )
        mine = follow(ours, start, GRADIENTS)
    theirs = follow_geoopt(
        lambda o, w: o.RiemannianAdam(w, lr=0.1, betas=(0.8, 0.95), eps=1e-12), start, GRADIENTS
    )
    np.testing.assert_allclose(mine, theirs, atol=1e-10)


def test_embedded_geometry_of_geojax():
    manifold = pytest.importorskip("geojax.geometry.stiefel").StiefelEuclidean((6, 4))
    (w, other), g = (jnp.asarray(a[0]) for a in setup()), jnp.asarray(GRADIENTS[0, 0])
    for ours, theirs in [
        (stiefel.project_tangent(w, g), manifold.egrad_to_rgrad(w, g)),
        (stiefel.transport(other, g), manifold.tangent_project(other, g)),
        (stiefel.project(g), manifold.project(g)),
    ]:
        np.testing.assert_allclose(ours, theirs, atol=1e-13)
