"""Compilation: counted, and the next program compiled while one runs."""

import threading

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax.sweep import compiling, drive, execute, manifest, plan, spec

KEYS = {
    "study": "compiling", "kind": "teacher", "input_dim": 4, "output_dim": 4, "singular_values": [1.0],
    "width": [1, 3], "records": 128, "max_steps": 128, "start": "near", "step_rule": "fixed", "step": 0.3,
    "depth": [2, 3], "seed": [0, 1], "engine": "reduced",
}  # fmt: skip


def test_the_next_program_is_compiled_while_one_runs_and_all_are_counted(tmp_path, monkeypatch):
    sweep, threads, compile_now = spec.grid(**KEYS), [], execute._compile

    def watched(*arguments):
        threads.append(threading.current_thread().name)
        return compile_now(*arguments)

    monkeypatch.setattr(execute, "_compile", watched)
    before = compiling.spent()
    outcome = drive.run(sweep, tmp_path)
    assert outcome.complete
    assert len(threads) == 2  # a program a width, for both depths
    assert all(name.startswith("dlnjax-compile") for name in threads)
    spent = compiling.spent()
    assert outcome.compilations == spent.programs - before.programs >= 4  # what draws the cells, too
    assert 0 < outcome.compile_waited < outcome.work_seconds - outcome.device_seconds
    assert 0 < outcome.device_seconds < outcome.work_seconds < outcome.seconds
    told = manifest.load(tmp_path)["compilations"]
    assert [entry["programs"] for entry in told] == [outcome.compilations]
    assert drive.run(sweep, tmp_path).compilations == 0  # nothing left to do, nothing said
    assert manifest.load(tmp_path)["compilations"] == told


def test_the_next_other_program_is_compiled_though_shards_of_this_one_come_first(monkeypatch):
    sweep, begun = spec.grid(**{**KEYS, "depth": [2, 3, 4]}), []
    shards = plan.shards(sweep)
    assert [s.program.width for s in shards] == [1, 1, 1, 3, 3, 3]
    monkeypatch.setattr(compiling, "begin", lambda making: begun.append(making.name))
    execute.shard(sweep, shards[0], following=shards[1:])
    widths = [name[4].width for name in begun if name != "tables"]
    assert widths == [1, 3, 3]  # its own that trains, and both of the next


def test_brief_programs_take_less_optimisation_unless_the_user_chose_a_level(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")
    options = compiling.briefly()
    assert options == {"xla_backend_optimization_level": 1}
    lowered = jax.jit(lambda x: jnp.sin(x) @ x).lower(np.ones((3, 3)))
    sums = [lowered.compile(compiler_options=chosen)(np.ones((3, 3))) for chosen in (options, None)]
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-15)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=2")
    assert compiling.briefly() is None
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiling.briefly() is None


def test_what_fails_in_the_thread_shows_where_it_is_made_in_earnest():
    def broken():
        raise ValueError("shown later")

    making = compiling.Making("broken", broken)
    compiling.begin(making)
    compiling.settle(making)
    compiling.settle(compiling.Making("never begun"))
