"""What the manifest says of the whole sweep once its cells have run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import standin

from dlnjax.sweep import store
from dlnjax.sweep.config import loading
from dlnjax.sweep.driver import metadata, run
from dlnjax.sweep.store import manifest


def test_manifest_states_scales_and_rank(tmp_path):
    sweep = loading.grid(
        study="facts", kind="teacher", input_dim=5, output_dim=5, singular_values=[2.0, 1.0], width=2,
        records=128, start="near", step_rule=["middle", "optimal"], step=0.2, engine="reduced", depth=[2, 4],
        seed=[0, 1],
    )  # fmt: skip
    run.run(sweep, tmp_path)
    told = manifest.load(tmp_path)
    assert told["rank"] == {"whitened": 2}
    assert len(told["scales"]) == 4
    middle = next(s for s in told["scales"] if s["step_rule"] == "middle" and s["depth"] == 4)
    assert middle["scale_last"] == pytest.approx(0.25, rel=1e-9)
    assert middle["scale_middle"] == pytest.approx(0.125, rel=1e-9)


def test_seeds_share_an_entry_and_missing_scales_are_left_out():
    row = {"step_rule": "fixed", "data": "raw", "width": 3, "depth": 2, "rank": 7}
    rows = [row | {"scale_middle": s, "scale_last": s} for s in (0.5, 0.5 * (1 + 1e-15), None)]
    assert [s["scale_last"] for s in metadata.scales(rows)] == [0.5]
    assert metadata.ranks(rows) == {"raw": 7}


def scaled(sweep, shard, checkpoint, following):
    """The stand-in's table, with scales and a rank that only the depth sets."""
    table = standin.work(sweep, shard, checkpoint)
    depths = table["depth"].to_pylist()
    for name, values in (
        ("scale_middle", [1 / depth for depth in depths]),
        ("scale_last", [2 / depth for depth in depths]),
        ("rank", depths),
    ):
        column = table.column_names.index(name)
        table = table.set_column(
            column, table.schema.field(name), pa.array(values, table.schema.field(name).type)
        )
    return table


def by_depth(out):
    return {entry["depth"]: entry["scale_last"] for entry in manifest.load(out)["scales"]}


def drive(sweep, out, work=scaled, **options):
    return run.run(sweep, out, planner=standin.planner, work=work, **options)


FIVE = standin.Sweep(depths=(2, 3, 4, 5, 8), seeds=2)
SCALES = {depth: float(f"{2 / depth:.10g}") for depth in FIVE.depths}


def test_workers_return_what_the_manifest_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(pq, "ParquetFile", lambda *_, **__: pytest.fail("a file was read again"))
    drive(FIVE, tmp_path)
    assert by_depth(tmp_path) == SCALES


def stopping(after, error):
    """Work that raises when so many shards are computed."""
    computed = []

    def work(sweep, shard, checkpoint, following):
        if len(computed) == after:
            raise error
        computed.append(shard.name)
        return scaled(sweep, shard, checkpoint, following)

    return work


@pytest.mark.parametrize("first", [1, 2, 3])
def test_interrupted_runs_leave_no_gap(tmp_path, first):
    """Ctrl-C, shards that fail, Ctrl-C again when the manifest has scales already: all are in at the end."""
    with pytest.raises(KeyboardInterrupt):
        drive(FIVE, tmp_path, stopping(first, KeyboardInterrupt()))
    assert len(drive(FIVE, tmp_path, stopping(0, RuntimeError("no"))).failed) == 5 - first
    assert by_depth(tmp_path).keys() == {shard.cells[0].depth for shard in finished(tmp_path)}
    with pytest.raises(KeyboardInterrupt):
        drive(FIVE, tmp_path, stopping(1, KeyboardInterrupt()))
    drive(FIVE, tmp_path)
    assert by_depth(tmp_path) == SCALES


def finished(out):
    return [s for s in standin.planner(FIVE, FIVE.cells()) if s.name in store.done(out)]


def test_a_folder_complete_but_for_its_metadata_gets_them(tmp_path):
    drive(FIVE, tmp_path)
    wanted = manifest.load(tmp_path)
    without = {name: value for name, value in wanted.items() if name not in ("scales", "rank")}
    (tmp_path / "manifest.json").write_text(manifest._dump(without))
    assert drive(FIVE, tmp_path).ran == 0
    found = manifest.load(tmp_path)
    assert (found["scales"], found["rank"]) == (wanted["scales"], wanted["rank"])


def test_what_a_killed_run_did_not_report_is_read_by_the_next(tmp_path):
    """The manifest has scales of the first run; the second is killed behind its shards."""
    drive(FIVE, tmp_path, stopping(2, RuntimeError("no")))
    assert len(by_depth(tmp_path)) == 2
    code = (
        "import sys, os, signal, test_metadata as here\n"
        "def listen(name, **values):\n"
        "    if name == 'shard' and values['done'] == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "here.drive(here.FIVE, sys.argv[1], listen=listen)"
    )
    folders = [Path(__file__).parent, Path(standin.__file__).parent, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert len(by_depth(tmp_path)) == 2
    drive(FIVE, tmp_path)
    assert by_depth(tmp_path) == SCALES
    assert not list((tmp_path / "claims").glob("*.beat"))
