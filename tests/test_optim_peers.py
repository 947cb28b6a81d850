"""Agreement with geoopt and geojax where those are right; skipped only where a peer is absent."""

import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from dlnjax import optim, stiefel
from dlnjax.bench import peers

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
