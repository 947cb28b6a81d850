"""The table of wrappers in the documentation: which of optax's keep a recipe's point on the manifold, which do not."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from dlnjax import optim, stiefel

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "inside.md"
RNG = np.random.default_rng(0)
START, TARGET = oracles.polar_factor(RNG.standard_normal((6, 4))), RNG.standard_normal((6, 4))
ROUNDING = 1e-12


@pytest.fixture(autouse=True)
def _as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def recipe():
    return optim.rgd(0.1, constrained=True)


def end(optimizer, steps=5):
    def step(_, carry):
        w, state = carry
        updates, state = optimizer.update(w - TARGET, state, w)
        return optax.apply_updates(w, updates), state

    w = jnp.asarray(START)
    return jax.jit(lambda w: jax.lax.fori_loop(0, steps, step, (w, optimizer.init(w))))(w)[0]


def error(w):
    return float(stiefel.orthonormality_error(w))


LINKS = {
    "scale": optax.scale(0.5),
    "add_decayed_weights": optax.add_decayed_weights(-0.01),
    "clip": optax.clip(0.05),
    "clip_by_global_norm": optax.clip_by_global_norm(0.1),
    "add_noise": optax.add_noise(1e-3, 0.5, 0),
    "ema": optax.ema(0.9),
}
AROUND = {
    "schedule_free": (lambda: optax.contrib.schedule_free(recipe(), 0.1), 5),
    "mechanize": (lambda: optax.contrib.mechanize(recipe()), 100),
    "prodigy": (lambda: optax.chain(recipe(), optax.contrib.prodigy()), 20),
    "dowg": (lambda: optax.chain(recipe(), optax.contrib.dowg()), 5),
}
KEPT = {
    "masked": lambda: optax.masked(recipe(), True),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optim.rgd)(step_size=0.1, constrained=True),
    "MultiSteps": lambda: optax.MultiSteps(recipe(), 2).gradient_transformation(),
    "apply_if_finite": lambda: optax.apply_if_finite(recipe(), 2),
}


@pytest.mark.parametrize("name", LINKS)
def test_links_keep_it_in_front_and_leave_it_behind(name):
    assert error(end(optax.chain(LINKS[name], recipe()))) < ROUNDING
    behind = optax.chain(recipe(), LINKS[name])
    assert error(end(behind)) > 1e-2
    with pytest.raises(ValueError, match="is a retraction"):
        optim.chain(recipe(), LINKS[name])


@pytest.mark.parametrize("name", AROUND)
def test_wrappers_that_scale_the_displacement_leave_it_and_drift_control_brings_it_back(name):
    make, steps = AROUND[name]
    assert error(end(make(), steps)) > 1e-5
    remedied = optax.chain(make(), optim.control_drift(1))
    assert error(end(remedied, steps)) < ROUNDING


@pytest.mark.parametrize("name", KEPT)
def test_wrappers_that_keep_it(name):
    assert error(end(KEPT[name]())) < ROUNDING


def test_lookahead_and_averages_of_params_leave_it():
    optimizer = optax.lookahead(recipe(), 3, 0.5)
    params = optax.LookaheadParams.init_synced(jnp.asarray(START))
    state, worst, w, average = optimizer.init(params), 0.0, START, START
    for _ in range(3):
        updates, state = optimizer.update(params.fast - TARGET, state, params)
        params = optax.apply_updates(params, updates)
        worst = max(worst, error(params.fast))
        w = oracles.polar_factor(w - 0.1 * oracles.tangent(w, w - TARGET))
        average = 0.9 * average + 0.1 * w
    assert worst > 1e-2
    assert error(jnp.asarray(average)) > 1e-2


def test_every_wrapper_of_the_table_is_one_tested_here():
    table = PAGE.read_text().split("## Wrappers, one by one")[1]
    words = set(
        re.findall(r"`(?:optax\.)?(?:contrib\.)?(\w+)`", " ".join(re.findall(r"^\| ([^|]*) \|", table, re.M)))
    )
    elsewhere = {"partition", "multi_transform", "lookahead", "wrapper"}  # test_optim_fits, and above
    assert words - elsewhere <= set(LINKS) | set(AROUND) | set(KEPT)
    assert set(LINKS) | set(AROUND) | set(KEPT) <= words
