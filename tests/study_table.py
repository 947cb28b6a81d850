"""Stored tables made up by formula, so that the analysis is tested without training anything.

Curves are sums of exact modes over a noise floor: the truth is known in closed form (reference case of
the studies: sigma = (1, .8, .6, .4), kappa^2 = 6.25, q = .64).
"""

import hashlib
import math
from types import SimpleNamespace

import numpy as np

from dlnjax.sweep import plan, store
from dlnjax.sweep.config import loading
from dlnjax.sweep.store import manifest, schema

RECORDS = 128
_LEAST, _Q = 0.16, 0.64


def modes_curve(factors, amplitudes, num_steps, *, floor=1e-15, seed=0, records=RECORDS):
    """``(steps, distance)``: norm of the modes ``a f^t``, each with noise of level ``floor``."""
    interval = max(1, math.ceil(num_steps / records))
    steps = interval * np.arange(records + 1)
    noise = np.random.default_rng(seed).standard_normal((len(factors), records + 1))
    modes = np.asarray(amplitudes)[:, None] * np.asarray(factors, float)[:, None] ** steps
    return steps.astype(float), np.linalg.norm(modes + floor * noise, axis=0)


def config(**keys):
    """A config of the reference case as TOML."""
    given = {
        "study": "synthetic", "kind": "teacher", "input_dim": 8, "output_dim": 8,
        "singular_values": [1.0, 0.8, 0.6, 0.4], "step_rule": "fixed", "step": 0.01, "engine": "layers",
        "start": "near", "depth": 2, "width": 4, "seed": 0,
    }  # fmt: skip
    return loading.grid(**{**given, **keys}).to_toml()


def reference(rule, amount, depth, seed=0, engine="layers", **changes):
    """One cell of the reference case as a mapping of the store's columns; ``changes`` override columns."""
    most = 1 + (depth - 1) * (1 + _Q) / 2
    if rule == "middle":
        most = 2 + _Q if depth > 2 else most
    mu = {"optimal": 2 / (_LEAST + most), "edge": 2 / most}.get(rule, 1.0) * amount
    factor = max(abs(1 - mu * _LEAST), abs(1 - mu * most))
    num_steps = 1500 if factor >= 1 else math.ceil(math.log(1e-13) / math.log(factor))
    start = 0.05 / depth
    if factor < 1:
        factors = [1 - mu * _LEAST, 1 - mu * 2.25 * _LEAST, 1 - mu * most]
        steps, distance = modes_curve(factors, [start, start, start / 3], num_steps, seed=seed + 10 * depth)
    else:
        steps, _ = modes_curve([0.5], [1], num_steps)
        distance = np.minimum(start * min(factor, 3.0) ** np.minimum(steps, 500), 0.2 + 0.01 * np.cos(steps))
    small = distance <= 1e-8 * distance[0]
    row = {
        "study": "synthetic", "data": "whitened", "depth": depth, "width": 4, "seed": seed,
        "step_rule": rule, "step": amount, "engine": engine, "start": "near", "retraction": "polar",
        "optimizer": "rgd", "precision": "float64", "status": "converged" if small.any() else "diverged",
        "step_size": mu, "num_steps": int(steps[-1]), "interval": int(steps[1]),
        "iterations": int(steps[np.argmax(small)]) if small.any() else None,
        "first_bad_step": None if small.any() else 600, "predicted_factor": factor,
        "guaranteed_factor": math.sqrt(1 - mu / 31.25) if rule == "fixed" and depth <= 37 else None,
        "eigenvalue_min": mu * _LEAST, "eigenvalue_max": mu * most, "step_max": 2 / most,
        "step_optimal": 2 / (_LEAST + most), "scale_last": 1.0, "scale_middle": 1.0, "rank": 4,
        "final_loss": distance[-1] ** 2 / 2, "final_distance": distance[-1], "orthonormality_error": 1e-15,
        "seconds": 0.1, "curve_step": steps, "curve_loss": distance**2 / 2, "curve_distance": distance,
        "curve_gradient_norm": distance, **changes,
    }  # fmt: skip
    name = repr([row[c] for c in ("study", "data", "depth", "width", "seed", "step_rule", "step", "engine")])
    return {"cell": hashlib.sha256(name.encode()).hexdigest(), **row}


def study(depths=(2, 8, 32, 64, 128), seeds=(0, 1)):
    """The reference study: fixed, optimal and middle with both engines, and the edge."""
    rows = [
        reference(rule, step, depth, seed, engine)
        for rule, step in (("fixed", 0.01), ("optimal", 0.95), ("middle", 0.4))
        for engine in ("layers", "reduced")
        for depth in depths
        for seed in seeds
    ]
    edge = [(step, depth) for step in (0.98, 0.995, 1.005, 1.02) for depth in depths[:3]]
    return rows + [reference("edge", step, depth, seed) for step, depth in edge for seed in seeds]


def data_study(depths=(2, 8, 64), widths=(5, 10, 32)):
    """A study on data: whitened cells converge, raw ones crawl through a wide spectrum and have no rate."""
    rows = []
    for width in widths:
        for depth in depths:
            for seed in (0, 1):
                place = {"width": width, "seed": seed, "study": "digits", "rank": min(width, 10)}
                least = 0.0475 if width < 10 else 1.0
                slow = {
                    "predicted_factor": 1 - 0.05 * least,
                    "eigenvalue_min": 0.05 * least,
                    "step_size": 0.05,
                }
                factors = [1 - 0.05 * least, 1 - 0.05 * (least + 0.2)]
                steps, distance = modes_curve(factors, [3.0, 2.0], 30 / (0.05 * least), seed=seed + depth)
                curves = _curves(steps, distance)
                rows.append(
                    reference("fixed", 0.05, depth, **place, **slow, **curves, guaranteed_factor=None)
                )
                rows.append(reference("fixed", 0.05, depth, **place, **_raw(seed)))
    return rows


def table(rows, records=RECORDS):
    """The rows as the store's table."""
    return schema.table(rows, records)


def write(out, rows, records=RECORDS):
    """The rows as a folder that ``analysis.write`` reads."""
    out.mkdir(parents=True, exist_ok=True)
    store.write(out, plan.shard_name([row["cell"] for row in rows]), table(rows, records))
    return out


def settle(out, rows, config, **metadata):
    """The manifest and the config of a folder of these rows."""
    name = plan.shard_name([row["cell"] for row in rows])
    sweep = SimpleNamespace(
        study=rows[0]["study"],
        precision=rows[0]["precision"],
        hash=lambda: hashlib.sha256(config.encode()).hexdigest(),
        to_toml=lambda: config,
        cells=lambda: rows,
        key=lambda row: row["cell"],
    )
    manifest.settle(out, sweep, lambda *_: [SimpleNamespace(name=name, cells=rows)], metadata=metadata)


def _curves(steps, distance):
    names = {"curve_step": steps, "curve_loss": distance**2 / 2, "curve_distance": distance}
    end = {"final_loss": distance[-1] ** 2 / 2, "final_distance": distance[-1]}
    return {
        **names,
        **end,
        "curve_gradient_norm": distance,
        "num_steps": int(steps[-1]),
        "interval": int(steps[1]),
    }


def _raw(seed):
    steps = 800.0 * np.arange(RECORDS + 1)
    rates = np.geomspace(1e-9, 1e-1, 40)
    distance = np.sqrt((np.exp(-2 * np.outer(steps, rates)) * 10.0).sum(axis=1)) * (1 + 0.1 * seed)
    known = {"data": "raw", "status": "out_of_steps", "iterations": None, "predicted_factor": 1 - 1e-9}
    spectrum = {"eigenvalue_min": 1e-9, "eigenvalue_max": 0.1, "guaranteed_factor": None}
    return {**known, **spectrum, **_curves(steps, distance)}
