"""Run by test_optim_sharding in a process with four devices: compiled steps of sharded matrices, as JSON."""

import json
import os
import re

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dlnjax import initial, network, optim, problem, scales, stiefel, train

ROWS, COLUMNS, BATCH = ("d", None), (None, "d"), ("d", None, None)
TALL, STACK = (4096, 1024), (8, 64, 32)
MESH = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
RECIPES = {
    "rgd": optim.rgd(0.1, constrained=True),
    "rgd_cayley": optim.rgd(0.1, retraction="cayley", constrained=True),
    "heavy_ball": optim.heavy_ball(0.1, constrained=True),
    "adam": optim.adam(0.1, constrained=True),
    "adam_elementwise": optim.adam(0.1, second="elementwise", constrained=True),
    "landing": optim.landing(0.1, constrained=True),
    "pogo": optim.pogo(0.1, constrained=True),
    "muon": optim.muon(0.1, 0.9, constrained=True),
    "muon_fast": optim.muon(0.1, 0.9, accuracy="fast", constrained=True),
}
KINDS = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"


def sharding(axes):
    return NamedSharding(MESH, PartitionSpec(*axes))


def compiled(optimizer, shape, outside, inside):
    point = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding(outside))
    state = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(
            s.shape, s.dtype, sharding=sharding(inside if s.shape == shape else ())
        ),
        jax.eval_shape(optimizer.init, point),
    )

    def step(point, state, gradient):
        updates, state = optimizer.update(gradient, state, point)
        return optax.apply_updates(point, updates), state

    return jax.jit(step).lower(point, state, point).compile()


def exchanged(text):
    """``(kind, entries)`` of every collective in a compiled program."""
    out = []
    for result, kind in re.findall(rf"= (\(?[a-z0-9\[\],{{}} ]+\)?) ({KINDS})(?:-start)?\(", text):
        for shape in re.findall(r"[a-z0-9]+\[([0-9,]*)\]", result):
            out.append((kind, int(jnp.prod(jnp.array([int(n) for n in shape.split(",") if n])))))
    return out


def steps():
    for name, optimizer in RECIPES.items():
        laid = optim.lay_out(optimizer, sharding(ROWS), sharding(COLUMNS))
        for kind, args in {
            "rows": (optimizer, TALL, ROWS, ROWS),
            "stack": (optimizer, STACK, BATCH, BATCH),
            "columns": (laid, TALL, COLUMNS, ROWS),
        }.items():
            program = compiled(*args)
            kept = program.output_shardings[0].is_equivalent_to(sharding(args[2]), len(args[1]))
            yield f"{name} {kind}", {"kept": kept, "exchanged": exchanged(program.as_text())}


def trained():
    """The README's run, shard_mapped over starts by JAX's defaults, against vmap alone."""
    widths = (8, 4, 4, 4, 8)
    teacher = initial.teacher(jax.random.key(0), widths, [1.0, 0.8, 0.6, 0.4])
    task = problem.whitened(network.end_to_end(teacher))
    starts = jax.vmap(lambda k: initial.haar(k, widths, first_scale=0.5))(
        jax.random.split(jax.random.key(1), 4)
    )
    recipes = {
        "rgd": optim.rgd(0.2, scales=scales.discrepant(teacher)),
        "adam": optim.adam(0.01),
        "armijo": optim.armijo(),
        "trust_region": optim.trust_region(max_inner=3),
        "lbfgs": optim.lbfgs(3),
    }
    for name, optimizer in recipes.items():

        def run(start, optimizer=optimizer):
            return train.train(start, task, optimizer, num_steps=4, record_every=2)[1].distance

        spread = jax.jit(
            jax.shard_map(jax.vmap(run), mesh=MESH, in_specs=PartitionSpec("d"), out_specs=PartitionSpec("d"))
        )
        plain = jax.jit(jax.vmap(run))(starts)
        yield name, float(jnp.max(jnp.abs(spread(starts) / plain - 1)))


def explicit():
    """A step on a mesh with explicit axes against the same on one device; updates are divided as the params."""
    mesh = jax.make_mesh((4,), ("e",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        for name, shape, axes in (
            ("rows", (16, 4), ("e", None)),
            ("columns", (16, 4), (None, "e")),
            ("stack", (4, 6, 3), ("e", None, None)),
        ):
            for recipe in ("rgd", "adam", "landing"):
                point = stiefel.random(jax.random.key(0), shape, "float32")
                divided = jax.device_put(point, NamedSharding(mesh, PartitionSpec(*axes)))
                optimizer = RECIPES[recipe]

                def step(w, optimizer=optimizer):
                    return optimizer.update(jnp.cos(w), optimizer.init(w), w)[0]

                moved = jax.jit(step)(divided)
                kept = jax.typeof(moved).sharding.spec == PartitionSpec(*axes)
                gap = jnp.max(jnp.abs(jax.device_get(moved) - jax.device_get(step(jax.device_get(point)))))
                yield f"{recipe} {name}", {"kept": kept, "gap": float(gap)}


if __name__ == "__main__":
    print(json.dumps({"steps": dict(steps()), "trained": dict(trained()), "explicit": dict(explicit())}))
