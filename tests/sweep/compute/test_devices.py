"""Several devices and one core give one result, and float32 is float32: in a process of four host devices."""

import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax import layerwise, problem, reduced

CODE = """
import json, sys
import jax
from jax.sharding import AxisType, Mesh
from dlnjax.sweep import plan
from dlnjax.sweep.compute import batching, devices, execute
from dlnjax.sweep.compute.session import Session
from dlnjax.sweep.config import loading
devices.prepare("float32" if sys.argv[2] == "float32" else "float64")
sweep = loading.grid(
    study="devices", kind="teacher", input_dim=6, output_dim=5, singular_values=[1.0, 0.7], width=3, depth=6,
    start="near", step_rule="middle", step=[0.05, 0.4], seed=list(range(4)), records=128, max_steps=1024,
    engine=sys.argv[1], precision=sys.argv[2], depth_of_fit=1e-10 if sys.argv[2] == "float64" else 1e-6,
    tolerance=1e-5,
)
(shard,) = plan.shards(sweep)
found = {}
for count in map(int, sys.argv[3:]):
    some = jax.local_devices()[:count]
    batching.mesh = lambda batch, some=some: Mesh(some, ("cells",), axis_types=(AxisType.Auto,))
    kept = Session()
    table = execute.shard(sweep, shard, kept=kept)
    (compiled,) = kept.training.values()
    rows = table.select(["status", "curve_distance", "final_distance"]).to_pydict()
    found[count] = rows | {"devices": len(compiled.sharding.device_set)}
print(json.dumps(found))
"""


def results(engine, precision, *counts):
    """What a sweep gives on so many of four host devices, started as the command starts them."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"}
    command = [sys.executable, "-c", CODE, engine, precision, *map(str, counts)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | flags, check=False)
    assert done.returncode == 0, done.stderr
    return {int(count): rows for count, rows in json.loads(done.stdout).items()}


@pytest.mark.parametrize("engine", ["reduced", pytest.param("layers", marks=pytest.mark.slow)])
def test_four_devices_and_one_core_give_the_same_results(engine):
    found = results(engine, "float64", 1, 4)
    assert [found[count]["devices"] for count in (1, 4)] == [1, 4]
    assert found[1]["status"] == found[4]["status"]
    np.testing.assert_allclose(
        found[1]["curve_distance"], found[4]["curve_distance"], rtol=1e-9, atol=1e-12 * 0.05
    )


@pytest.mark.parametrize("engine", ["reduced", "layers"])
def test_float32_is_float32_and_not_tf32(engine):
    """Every product asks for full precision, and the error read is that of 24 bits: TF32 has 11, bfloat16 8."""
    rng = np.random.default_rng(0)
    frame, right = (np.linalg.qr(rng.standard_normal((6, 3)))[0] for _ in range(2))
    first = 0.5 * right.T
    target = frame @ np.diag([1.0, 0.8, 0.6]) @ np.linalg.qr(rng.standard_normal((6, 3)))[0].T

    def train(first, frame, target):
        two, task = reduced.Reduced(first, frame, 3), problem.whitened(target)
        options = {"step_size": jnp.asarray(0.1, first.dtype), "num_steps": 120, "record_every": 8}
        if engine == "reduced":
            return reduced.train(two, task, **options)[1].distance
        params = (first, jnp.eye(3, dtype=first.dtype)[None], frame)
        return layerwise.train(params, task, **options)[1].distance

    single, double = (
        jax.jit(train).lower(*(jnp.asarray(a, dtype) for a in (first, frame, target)))
        for dtype in (jnp.float32, jnp.float64)
    )
    products = re.findall(r"dot_general.*", single.as_text())
    assert len(products) > 8
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)
    found, expected = (
        np.asarray(lowered.compile()(*(jnp.asarray(a, dtype) for a in (first, frame, target))), float)
        for lowered, dtype in ((single, jnp.float32), (double, jnp.float64))
    )
    apart = np.abs(found - expected).max() / expected[0]
    assert 1e-9 < apart < 5e-6
