"""Compilation: counted, and the next program compiled while one runs."""

import threading

import jax
import numpy as np

from dlnjax.sweep import plan
from dlnjax.sweep.compute import compilation, execute, memory, programs, session, two_layer
from dlnjax.sweep.config import loading
from dlnjax.sweep.driver import run
from dlnjax.sweep.store import manifest

KEYS = {
    "study": "compiling", "kind": "teacher", "input_dim": 4, "output_dim": 4, "singular_values": [1.0],
    "width": [1, 3], "records": 128, "max_steps": 128, "start": "near", "step_rule": "fixed", "step": 0.3,
    "depth": [2, 3], "seed": [0, 1], "engine": "reduced",
}  # fmt: skip


def test_the_next_program_is_compiled_while_one_runs_and_all_are_counted(tmp_path, monkeypatch):
    sweep, threads, compile_now = loading.grid(**KEYS), [], programs.compile_training

    def watched(*arguments):
        threads.append(threading.current_thread().name)
        return compile_now(*arguments)

    monkeypatch.setattr(programs, "compile_training", watched)
    before = session.shared().compiler.spent()
    outcome = run.run(sweep, tmp_path)
    assert outcome.complete
    assert len(threads) == 2  # a program a width, for both depths
    assert all(name.startswith("dlnjax-compile") for name in threads)
    spent = session.shared().compiler.spent()
    assert outcome.compilations == spent.programs - before.programs >= 4  # what draws the cells, too
    assert 0 < outcome.compile_waited < outcome.work_seconds - outcome.device_seconds
    assert 0 < outcome.device_seconds < outcome.work_seconds < outcome.seconds
    told = manifest.load(tmp_path)["compilations"]
    assert [entry["programs"] for entry in told] == [outcome.compilations]
    assert run.run(sweep, tmp_path).compilations == 0  # nothing left to do, nothing said
    assert manifest.load(tmp_path)["compilations"] == told


def test_the_next_other_program_is_compiled_though_shards_of_this_one_come_first(monkeypatch):
    sweep, begun = loading.grid(**{**KEYS, "depth": [2, 3, 4]}), []
    shards = plan.shards(sweep)
    assert [s.program.width for s in shards] == [3, 3, 3, 1, 1, 1]
    kept = session.Session()
    monkeypatch.setattr(kept.compiler, "begin", lambda job: begun.append(job.name))
    execute.shard(sweep, shards[0], following=shards[1:], kept=kept)
    widths = [name[4].width for name in begun if name != "tables"]
    assert widths == [3, 1, 1]  # its own that trains, and both of the next


def test_what_is_compiled_between_two_sweeps_is_not_counted(tmp_path):
    run.run(loading.grid(**{**KEYS, "width": 1}), tmp_path / "first")
    for size in range(3, 8):
        jax.jit(lambda x: x + 1).lower(np.ones(size)).compile()
    before = session.shared().compiler.spent()
    second = run.run(loading.grid(**{**KEYS, "width": 1, "seed": [5, 6]}), tmp_path / "second")
    assert second.complete
    assert second.compilations == session.shared().compiler.spent().programs - before.programs


def test_a_program_that_is_too_large_is_compiled_once_and_then_a_smaller_one(tmp_path, monkeypatch):
    sweep, compiled = loading.grid(**{**KEYS, "width": 2, "seed": [0, 1, 2, 3], "depth": 2}), []
    check = memory.check_program

    def too_large(share, program, device):
        compiled.append(share.batch)
        if share.batch > 2:
            raise memory.TooLarge(2, 1, 2)
        check(share, program, device)

    monkeypatch.setattr(memory, "check_program", too_large)
    fresh = session.Session()
    monkeypatch.setattr(session, "shared", lambda: fresh)
    assert run.run(sweep, tmp_path).complete
    assert compiled == [4, 2]


def test_what_is_wanted_at_once_does_not_queue():
    compiler, gate, made = compilation.Compiler(), threading.Event(), []
    busy = compilation.Job("busy", gate.wait)
    compiler.begin(busy)
    late = compilation.Job("late", lambda: made.append("late"))
    compiler.begin_if_free(late)
    gate.set()
    assert compiler.settle(busy) is None
    assert compiler.settle(late) is None
    assert made == []
    compiler.begin_if_free(late)
    compiler.settle(late)
    assert made == ["late"]


def test_what_draws_the_cells_is_traced_once(tmp_path, monkeypatch):
    """Here and in the compiling thread, which needs the shapes of what is drawn."""
    draw, traced, fresh = two_layer._draw, [], session.Session()
    monkeypatch.setattr(two_layer, "_draw", lambda *parts: traced.append(parts) or draw(*parts))
    monkeypatch.setattr(session, "shared", lambda: fresh)
    assert run.run(loading.grid(**{**KEYS, "depth": [2, 3], "width": 3}), tmp_path).complete
    assert len(traced) == 1


def test_brief_programs_draw_the_same_to_rounding_and_a_chosen_level_stays(monkeypatch):
    sweep = loading.grid(**{**KEYS, "singular_values": [1.0, 0.6], "width": 3, "start": "haar"})
    lowered = two_layer._traced(session.Session(), sweep, sweep.cells()[0], 8).lower()
    monkeypatch.delenv("XLA_FLAGS")
    options = compilation.brief_options()
    assert options == {"xla_backend_optimization_level": 1}
    numbers = np.arange(8, dtype=np.uint32), np.full(8, 0.01)
    drawn = [lowered.compile(compiler_options=chosen)(*numbers, None) for chosen in (options, None)]
    for a, b in zip(*(jax.tree.leaves(each[:3]) for each in drawn), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-14)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=2")
    assert compilation.brief_options() is None
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compilation.brief_options() is None


def test_what_fails_in_the_thread_shows_where_it_is_made_in_earnest():
    def broken():
        raise ValueError("shown later")

    compiler, job = compilation.Compiler(), compilation.Job("broken", broken)
    compiler.begin(job)
    assert str(compiler.settle(job)) == "shown later"
    assert compiler.settle(compilation.Job("never begun")) is None


def test_a_session_that_is_gone_is_counted_no_more():
    first, second = compilation.Compiler(), compilation.Compiler()
    jax.jit(lambda x: x + 11).lower(np.ones(19)).compile()
    assert first.spent().programs == second.spent().programs >= 1
    del first
    jax.jit(lambda x: x + 12).lower(np.ones(19)).compile()
    assert second.spent().programs >= 2
