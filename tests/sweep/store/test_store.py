"""The store: whole files or none, one row a cell, damage named; the manifest: adds, never rewrites."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import standin

from dlnjax.sweep import store
from dlnjax.sweep.store import atomic, checkpoints, extra_columns, manifest, provenance, schema, seal

#: Coordinates that the first version did not have.
LATER = ["momentum", "activation", "free", "loss", "profile", "batch_size", "label_noise"]


@pytest.fixture
def sweep():
    return standin.Sweep()


def _fill(out, sweep):
    shards = standin.planner(sweep, sweep.cells())
    for shard in shards:
        assert store.write(out, shard.name, standin.work(sweep, shard, None))
    return shards


def test_round_trip_keeps_values_order_and_units(tmp_path, sweep):
    manifest.settle(tmp_path, sweep, standin.planner)
    _fill(tmp_path, sweep)
    found = store.read(tmp_path)
    assert found.equals(standin.reference(sweep))
    raw = store.read_shard(tmp_path, sorted(store.done(tmp_path))[0])
    assert raw.schema.field("iterations").metadata == {b"unit": b"steps to the tolerance"}
    assert raw.schema.field("curve_loss").type == pa.list_(pa.float64(), standin.RECORDS + 1)


def test_a_shard_is_written_once(tmp_path, sweep):
    shard = _fill(tmp_path, sweep)[0]
    file = store.path(tmp_path, shard.name)
    before = file.read_bytes()
    assert not store.write(tmp_path, shard.name, standin.work(sweep, shard, None).slice(0, 1))
    assert file.read_bytes() == before
    assert atomic.leftovers(tmp_path) == []


def test_file_says_versions_and_device(tmp_path, sweep):
    shard = _fill(tmp_path, sweep)[0]
    facts = store.metadata(tmp_path, shard.name)
    assert facts["schema_version"] == str(schema.SCHEMA_VERSION)
    assert facts["device"] == "stand-in"
    assert {"jax_version", "python_version", "dlnjax_version"} <= facts.keys()


def test_files_are_small_where_numbers_are_distinct(tmp_path, sweep):
    shard = standin.planner(sweep, sweep.cells())[0]
    plain = standin.work(sweep, shard, None)
    values = np.random.default_rng(0).lognormal(size=(len(plain), 64 * 64)).astype(np.float32)
    whole = extra_columns.append_params(plain, [values])
    assert store.write(tmp_path, shard.name, whole)
    file = store.path(tmp_path, shard.name)
    pq.write_table(whole, tmp_path / "plain.parquet", compression="zstd")
    assert file.stat().st_size < 0.92 * (tmp_path / "plain.parquet").stat().st_size
    group = pq.ParquetFile(file).metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    split = {c.path_in_schema.split(".")[0] for c in columns if "BYTE_STREAM_SPLIT" in c.encodings}
    assert split == {"curve_loss", "curve_distance", "curve_gradient_norm", "params_0"}
    assert (
        store.read_shard(tmp_path, shard.name)["params_0"]
        .combine_chunks()
        .equals(whole["params_0"].combine_chunks())
    )


def test_columns_can_be_chosen(tmp_path, sweep):
    _fill(tmp_path, sweep)
    assert store.read(tmp_path, ["depth", "status"]).column_names == ["depth", "status"]


def test_table_refuses_unknown_missing_and_wrong(sweep):
    row = standin.row(sweep.cells()[0])
    with pytest.raises(ValueError, match=r"unknown: \['colour'\]"):
        schema.table([{**row, "colour": 1}], standin.RECORDS)
    with pytest.raises(ValueError, match=r"missing: \['status'\]"):
        schema.table([{k: v for k, v in row.items() if k != "status"}], standin.RECORDS)
    with pytest.raises(ValueError, match="column depth"):
        schema.table([{**row, "depth": "deep"}], standin.RECORDS)
    with pytest.raises(ValueError, match="column curve_loss"):
        schema.table([{**row, "curve_loss": [1.0]}], standin.RECORDS)
    with pytest.raises(ValueError, match="column seed"):
        schema.table([{**row, "seed": None}], standin.RECORDS)


def test_table_takes_numpy(sweep):
    row = standin.row(sweep.cells()[0])
    typed = {**row, "depth": np.int64(2), "curve_loss": np.asarray(row["curve_loss"])}
    assert schema.table([typed], standin.RECORDS).equals(schema.table([row], standin.RECORDS))


@pytest.mark.parametrize("name", ["../../etc/passwd", "0" * 15, "0" * 16 + "/x", "ABCDEF0123456789"])
def test_shard_names_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(ValueError, match="not a shard's name"):
        store.path(tmp_path, name)


@pytest.mark.parametrize("cut", [0, 5, 100, -1, -8])
def test_truncation_is_seen_at_a_glance_and_named_on_reading(tmp_path, sweep, cut):
    shard = _fill(tmp_path, sweep)[0]
    file = store.path(tmp_path, shard.name)
    file.write_bytes(file.read_bytes()[:cut])
    assert store.truncated(tmp_path, store.done(tmp_path)) == [shard.name]
    with pytest.raises(ValueError, match=f"{shard.name}.parquet: damaged"):
        store.read(tmp_path)


def test_a_flipped_bit_is_not_read_as_a_number(tmp_path, sweep):
    shard = _fill(tmp_path, sweep)[0]
    file = store.path(tmp_path, shard.name)
    whole, right = file.read_bytes(), store.read_shard(tmp_path, shard.name)
    caught = 0
    for place in range(4, len(whole), 97):
        content = bytearray(whole)
        content[place] ^= 16
        file.write_bytes(content)
        try:
            found = store.read_shard(tmp_path, shard.name)
        except ValueError:
            caught += 1
        else:
            assert found.equals(right)  # a byte nobody reads
    assert caught > 20


def test_newer_schema_is_refused_and_older_ones_are_upgraded(tmp_path, sweep, monkeypatch):
    shard = _fill(tmp_path, sweep)[0]
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 0)
    with pytest.raises(ValueError, match="schema version 2, this dlnjax reads up to 0"):
        store.read_shard(tmp_path, shard.name)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 3)
    monkeypatch.setitem(schema._COLUMNS, "new", (pa.int64(), "", True))
    monkeypatch.setitem(schema._ADDED, 2, ("new",))
    assert store.read_shard(tmp_path, shard.name)["new"].null_count == len(shard.cells)


def test_a_shard_from_before_there_were_parts_has_them_at_their_default(tmp_path, sweep, monkeypatch):
    name = _fill(tmp_path, sweep)[0].name
    new = store.read_shard(tmp_path, name)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 1)
    store.path(tmp_path, name).unlink()
    store.write(tmp_path, name, new.drop_columns([*LATER, "curvature_min", "curvature_max"]))
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)
    assert store.read_shard(tmp_path, name).select(new.column_names).equals(new)
    assert store.read_shard(tmp_path, name, ["cell", "free"])["free"].to_pylist() == ["first"] * len(new)


def test_a_shard_from_before_an_option_has_it_at_its_blank(tmp_path, sweep):
    """Whatever its version: a new option needs none. Columns that nobody asked for are not made up."""
    name = _fill(tmp_path, sweep)[0].name
    new = store.read_shard(tmp_path, name)
    store.path(tmp_path, name).unlink()
    store.write(tmp_path, name, new.drop_columns(["label_noise"]))
    assert store.read_shard(tmp_path, name).select(new.column_names).equals(new)
    part = store.read_shard(tmp_path, name, ["label_noise", "cell"])
    assert sorted(part.column_names) == ["cell", "label_noise"]
    assert part["label_noise"].to_pylist() == [0.0] * len(new)


def test_no_results_says_how_to_start(tmp_path):
    with pytest.raises(FileNotFoundError, match="dlnjax run CONFIG --out"):
        store.read(tmp_path)


def test_a_full_disk_leaves_nothing_behind(tmp_path, sweep):
    shard = standin.planner(sweep, sweep.cells())[0]
    code = (
        "import sys, resource, signal, standin; from dlnjax.sweep import store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "s = standin.Sweep(); shard = standin.planner(s, s.cells())[0]\n"
        "try: store.write(sys.argv[1], shard.name, standin.work(s, shard, None))\n"
        "except OSError: sys.exit(7)"
    )
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=here).returncode == 7
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 2000
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    assert store.write(tmp_path, shard.name, standin.work(sweep, shard, None))


def test_manifest_fixes_the_partition(tmp_path, sweep):
    found = manifest.settle(tmp_path, sweep, standin.planner, metadata={"scales": [1.0]}).manifest
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert {key: value for key, value in written.items() if key != seal.KEY} == found
    assert (tmp_path / "config.toml").read_text() == sweep.to_toml()
    assert found["num_cells"] == 6
    assert found["scales"] == [1.0]
    assert [len(places) for places in found["partition"].values()] == [2, 2, 2]
    other = standin.more(sweep, size=3)  # another planner's mood
    assert manifest.settle(tmp_path, sweep, lambda s, c: standin.planner(other, c)).manifest == found


def test_changed_config_is_refused_with_the_difference(tmp_path, sweep):
    manifest.settle(tmp_path, sweep, standin.planner)
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(manifest.ConfigChanged, match=r"step: 0\.1 -> 0\.2") as caught:
        manifest.settle(tmp_path, standin.more(sweep, step=0.2), standin.planner)
    assert caught.value.lines == ("  grid.0.step: 0.1 -> 0.2",)
    with pytest.raises(manifest.ConfigChanged, match="drops or changes 6 of the 6"):
        manifest.settle(tmp_path, standin.more(sweep, step=0.2), standin.planner, extend=True)
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_extend_adds_and_keeps_what_was(tmp_path, sweep):
    old = manifest.settle(tmp_path, sweep, standin.planner).manifest
    larger = standin.more(sweep, depths=(2, 3, 4), seeds=4)
    new = manifest.settle(tmp_path, larger, standin.planner, extend=True).manifest
    assert new["cells"][:6] == old["cells"]
    assert {name: new["partition"][name] for name in old["partition"]} == old["partition"]
    assert new["num_cells"] == 12
    assert sorted(place for places in new["partition"].values() for place in places) == list(range(12))
    assert manifest.generations(new) == [range(6), range(6, 12)]
    assert manifest.settle(tmp_path, larger, standin.planner) == (new, {})


def test_manifest_of_an_empty_folder_binds_nobody(tmp_path, sweep):
    manifest.settle(tmp_path, sweep, standin.planner)
    other = standin.more(sweep, step=0.2)
    settled = manifest.settle(tmp_path, other, standin.planner, vacant=True)
    assert settled.manifest["config_hash"] == other.hash()


def test_annotate_adds_and_never_changes(tmp_path, sweep):
    manifest.settle(tmp_path, sweep, standin.planner)
    manifest.annotate(tmp_path, {"devices": ["a"], "rank": 3})
    manifest.annotate(tmp_path, {"devices": ["b", "a"], "rank": 4})
    found = manifest.load(tmp_path)
    assert (found["devices"], found["rank"]) == (["a", "b"], 3)


def test_annotate_adds_to_tables_and_lists(tmp_path, sweep):
    manifest.settle(tmp_path, sweep, standin.planner)
    manifest.annotate(tmp_path, {"rank": {"raw": 3}})
    manifest.annotate(tmp_path, {"rank": {"raw": 4, "whitened": 2}})
    assert manifest.load(tmp_path)["rank"] == {"raw": 3, "whitened": 2}


def test_settle_returns_the_shards_it_planned(tmp_path, sweep):
    shards = {shard.name: shard for shard in standin.planner(sweep, sweep.cells())}
    assert manifest.settle(tmp_path, sweep, standin.planner).planned == shards
    assert manifest.settle(tmp_path, sweep, standin.planner).planned == {}
    larger = standin.more(sweep, depths=(2, 4, 8))
    settled = manifest.settle(tmp_path, larger, standin.planner, extend=True)
    assert {cell.depth for shard in settled.planned.values() for cell in shard.cells} == {8}
    assert manifest.unfinished(settled, larger, standin.planner, set()) == shards | settled.planned


def test_the_manifest_names_the_commit_of_the_checkout(tmp_path, sweep):
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=os.path.dirname(__file__), capture_output=True, text=True
    )
    if head.returncode:
        pytest.skip("not a checkout")
    assert (
        manifest.settle(tmp_path, sweep, standin.planner).manifest["git_commit"].rstrip("+")
        == head.stdout.strip()
    )


def test_a_foreign_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match=r"manifest\.json: not a manifest of dlnjax"):
        manifest.load(tmp_path)


def test_checkpoint_round_trip_and_damage(tmp_path):
    checkpoint = checkpoints.Checkpoint(tmp_path, "0" * 16)
    assert checkpoint.load() is None
    state = {"chunk": np.array(3), "params": np.linspace(0, 1, 7)}
    checkpoint.save(state)
    checkpoint.save({**state, "chunk": np.array(4)})
    found = checkpoint.load()
    assert found["chunk"] == 4
    np.testing.assert_array_equal(found["params"], state["params"])
    checkpoint.file.write_bytes(checkpoint.file.read_bytes()[:-30])
    assert checkpoint.load() is None
    checkpoint.clear()
    assert not checkpoint.file.exists()


def test_checkpoint_of_other_versions_counts_as_absent(tmp_path, monkeypatch):
    checkpoint = checkpoints.Checkpoint(tmp_path, "0" * 16)
    checkpoint.save({"a": np.zeros(2)})
    monkeypatch.setattr(provenance, "versions", lambda: {"jax": "99"})
    assert checkpoint.load() is None


def test_checkpoint_refuses_pickles(tmp_path):
    checkpoint = checkpoints.Checkpoint(tmp_path, "0" * 16)
    checkpoint.file.parent.mkdir()
    np.savez(checkpoint.file, a=np.array([{}], dtype=object))
    assert checkpoint.load() is None
