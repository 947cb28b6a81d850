"""A folder is believed only as far as it agrees with its manifest, its names and its seals."""

import errno
import hashlib
import json
import os
import random
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import standin

from dlnjax.sweep import store
from dlnjax.sweep.driver import run as driver
from dlnjax.sweep.store import (
    atomic,
    checkpoints,
    failures,
    files,
    leases,
    manifest,
    manifest_fields,
    provenance,
    schema,
    seal,
    verify,
)

SWEEP = standin.Sweep()
ALL = [None, ["depth", "final_loss"]]


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "out"
    driver.run(SWEEP, out, planner=standin.planner, work=standin.work)
    return out


def files_of(out):
    return [store.path(out, name) for name in sorted(store.done(out))]


def copied(out):
    """A shard under a second name: its rows would come twice."""
    copy = store.path(out, "0123456789abcdef")
    shutil.copy(files_of(out)[0], copy)
    return copy


def over_another(out):
    """A shard in the place of another: cells would be missing, others come twice."""
    first, second, _ = files_of(out)
    shutil.copy(first, second)
    return second


def of_another_study(out):
    """A sound file under its right name, but of no shard of this manifest."""
    other = standin.more(SWEEP, step=0.2)
    shard = standin.planner(other, other.cells())[0]
    store.write(out, shard.name, standin.work(other, shard, None))
    return store.path(out, shard.name)


def flipped(out):
    """One bit in the middle of a file."""
    file = files_of(out)[1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    return file


def dangling(out):
    file = files_of(out)[0]
    file.unlink()
    file.symlink_to(out / "nowhere")
    return file


@pytest.mark.parametrize("columns", ALL)
@pytest.mark.parametrize("harm", [copied, over_another, of_another_study, flipped, dangling])
def test_no_row_is_read_that_the_manifest_does_not_promise(folder, harm, columns):
    file = harm(folder)
    with pytest.raises(ValueError, match=file.name):
        store.read(folder, columns)
    assert any(file.name in line for line in verify.verify(folder).damage)


def test_without_a_manifest_names_and_studies_are_compared(folder):
    (folder / "manifest.json").unlink()
    assert len(store.read(folder)) == 6
    assert any("manifest.json: missing" in line for line in verify.verify(folder).damage)
    assert "DAMAGED" in verify.status(folder).lines()[0]
    other = standin.more(SWEEP, size=3)  # the same cells in other shards
    shard = standin.planner(other, other.cells())[0]
    store.write(folder, shard.name, standin.work(other, shard, None))
    with pytest.raises(ValueError, match="some of them twice"):
        store.read(folder)


@pytest.mark.parametrize("columns", ALL)
def test_a_flipped_byte_is_named_wherever_it_is(folder, columns):
    file, dice = files_of(folder)[0], random.Random(3)
    whole = file.read_bytes()
    for place in [*dice.sample(range(len(whole)), 150), *range(len(whole) - 20, len(whole))]:
        file.write_bytes(changed(whole, place, dice))
        with pytest.raises(ValueError, match=file.name):
            store.read(folder, columns)


def changed(whole, place, dice):
    content = bytearray(whole)
    content[place] ^= dice.randrange(1, 256)
    return bytes(content)


def old_file(file, table):
    """As versions without seals wrote it."""
    said = {"schema_version": "2", "values_sha256": files._digest(table), "dlnjax_version": "1.0"}
    pq.write_table(table.replace_schema_metadata(said), file, compression="zstd", write_page_checksum=True)


def test_files_without_a_seal_stay_readable_and_are_checked_by_their_values(folder):
    file, right = files_of(folder)[0], store.read(folder, ALL[1])
    shard = standin.planner(SWEEP, SWEEP.cells())
    (own,) = [one for one in shard if one.name == file.stem]
    old_file(file, standin.work(SWEEP, own, None))
    with pytest.warns(UserWarning, match=file.name):
        assert store.read(folder, ALL[1]).equals(right)
    assert store.read_shard(folder, file.stem, ["depth"]).column_names == ["depth"]
    whole, dice, caught = file.read_bytes(), random.Random(5), 0
    for place in dice.sample(range(len(whole)), 60):
        file.write_bytes(changed(whole, place, dice))
        try:
            found = store.read_shard(folder, file.stem, ["final_loss"])
        except ValueError as error:
            caught += file.name in str(error)
        else:
            assert found.equals(schema.table([standin.row(c) for c in own.cells], 8).select(["final_loss"]))
    assert caught > 20


def test_shards_by_another_version_are_named(folder, monkeypatch):
    file = files_of(folder)[1]
    file.unlink()
    others = {**provenance.versions(), "dlnjax": "99.0"}
    monkeypatch.setattr(provenance, "versions", lambda: others)
    driver.run(SWEEP, folder, planner=standin.planner, work=standin.work)
    with pytest.warns(UserWarning, match=f"1 shards are by 99.0: {file.name}"):
        assert store.read(folder).equals(standin.reference(SWEEP))
    verdict = verify.verify(folder)
    assert verdict.sound
    assert file.name in verdict.notes[0]


def test_the_seal_is_the_hash_of_the_rest():
    text = f'{{"a": 1, "{seal.KEY}": "{seal.BLANK}"}}'
    found = seal.sealed(text.encode()).decode()
    assert json.loads(found)[seal.KEY] == "seal-sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert seal.is_right(found.encode())
    assert seal.is_right(b"of a version without seals") is None


# -- the small files ------------------------------------------------------------------------------------------------


@pytest.fixture
def busy(folder):
    """A folder with one shard to do, its checkpoint and note, a living runner with a lease, and a dead one."""
    name = files_of(folder)[0].stem
    files_of(folder)[0].unlink()
    checkpoints.Checkpoint(folder, name).save({"x": np.arange(7.0), "n": np.array(3)})
    failures.note(folder, name, "RuntimeError: it did not work")
    with leases.Runner(folder, beat=1000) as runner:
        assert runner.acquire(name)
        yield folder


def test_every_flipped_byte_of_every_kind_of_file_is_named_and_nothing_escapes(busy):
    dice = random.Random(1)
    assert verify.verify(busy).sound, verify.verify(busy).lines()
    files = [p for p in sorted(busy.rglob("*")) if p.is_file()]
    assert len(files) == 2 + 2 + 1 + 1 + 2  # manifest, config, shards, checkpoint, note, lease and heartbeat
    unnamed, escaped = [], []
    for file in files:
        whole = file.read_bytes()
        for place in sorted(dice.sample(range(len(whole)), min(40, len(whole)))):
            file.write_bytes(changed(whole, place, dice))
            try:
                if not any(file.name in line for line in verify.verify(busy).damage):
                    unnamed.append((file, place))
                verify.status(busy).lines()
            except Exception as error:  # what must not happen
                escaped.append((file, place, error))
        file.write_bytes(whole)
    assert (unnamed, escaped) == ([], [])
    assert verify.verify(busy).sound


@pytest.mark.parametrize("kind", ["empty", "cut", "zeros", "folder", "link"])
def test_every_other_damage_of_every_file_gets_a_verdict(busy, kind):
    for file in [p for p in sorted(busy.rglob("*")) if p.is_file()]:
        whole = file.read_bytes()
        file.unlink()
        if kind == "folder":
            file.mkdir()
        elif kind == "link":
            file.symlink_to(busy / "nowhere")
        else:
            file.write_bytes(
                {"empty": b"", "cut": whole[: len(whole) // 2], "zeros": bytes(len(whole))}[kind]
            )
        verdict = verify.verify(busy)
        verify.status(busy).lines()
        assert any(file.name in line for line in verdict.damage), (file, verdict.lines())
        file.rmdir() if kind == "folder" else file.unlink()
        file.write_bytes(whole)
    assert verify.verify(busy).sound


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("manifest_version", 0),
        ("manifest_version", True),
        ("study", 3),
        ("config_hash", "hash"),
        ("precision", "float16"),
        ("versions", {}),
        ("num_cells", 7),
        ("num_shards", -1),
        ("history", []),
        ("cells", "abc"),
        ("partition", {"0" * 16: [0, 1, 2, 3, 4, 5.0]}),
        ("partition", {"0" * 16: [0, 1, 2, 3, 4, 4]}),
        ("partition", {"0" * 16: [0, 1, 2, 3, 4, 6]}),
        ("partition", {"zero": [0, 1, 2, 3, 4, 5]}),
        ("devices", "cpu"),
    ],
)
def test_fields_of_a_manifest_without_a_seal_are_checked(folder, key, value):
    file = folder / "manifest.json"
    content = json.loads(file.read_text())
    del content[seal.KEY]
    file.write_text(json.dumps(content))
    assert verify.verify(folder).sound  # as versions without seals wrote it
    file.write_text(json.dumps({**content, key: value}))
    with pytest.raises(ValueError, match=rf"manifest\.json: not a manifest of dlnjax.*{key.split('_')[0]}"):
        store.read(folder)
    assert "manifest.json" in verify.verify(folder).damage[0]
    assert "manifest.json" in verify.status(folder).lines()[1]


def test_a_checkpoint_with_a_flipped_byte_counts_as_absent(tmp_path):
    dice, checkpoint = random.Random(2), checkpoints.Checkpoint(tmp_path, "0" * 16)
    checkpoint.save({"x": np.arange(5.0)})
    whole = checkpoint.file.read_bytes()
    for place in range(len(whole)):
        checkpoint.file.write_bytes(changed(whole, place, dice))
        assert checkpoint.load() is None, place
    checkpoint.file.write_bytes(whole)
    np.testing.assert_array_equal(checkpoint.load()["x"], np.arange(5.0))


def test_a_checkpoint_without_a_seal_is_readable(tmp_path):
    checkpoint = checkpoints.Checkpoint(tmp_path, "0" * 16)
    checkpoint.file.parent.mkdir()
    stamp = {checkpoints._STAMP: np.array(checkpoints._stamp())}
    np.savez(checkpoint.file, x=np.arange(3.0), **stamp)
    np.testing.assert_array_equal(checkpoint.load()["x"], np.arange(3.0))


def test_an_edited_config_is_named_and_mended(folder):
    file = folder / "config.toml"
    right = file.read_text()
    file.write_text(right.replace("step = 0.1", "step = 0.2"))
    content = manifest.load(folder)
    assert "not the config of" in manifest_fields.config_damage(file, content)
    assert any("config.toml: not the config" in line for line in verify.verify(folder).damage)
    file.write_bytes(right.replace("\n", "\r\n").encode())  # as some checkouts have it
    assert verify.verify(folder).sound
    file.write_text("")
    driver.run(SWEEP, folder, planner=standin.planner, work=standin.work)
    assert file.read_text() == right


class Slow(standin.Sweep):
    """Between its look at the manifest and its writing of the config, another runner extends the folder."""

    between = None

    def to_toml(self):
        if Slow.between:
            extend, Slow.between = Slow.between, None
            extend()
        return super().to_toml()


def test_a_slow_starter_leaves_the_config_of_an_extension(tmp_path):
    larger = standin.more(SWEEP, depths=(2, 4, 8))
    slow = Slow()
    slow.hash()
    manifest.settle(tmp_path, SWEEP, standin.planner)

    class Remembered(Slow):
        def hash(self):
            return SWEEP.hash()

    Slow.between = lambda: manifest.settle(tmp_path, larger, standin.planner, extend=True)
    manifest.settle(tmp_path, Remembered(), standin.planner)
    assert (tmp_path / "config.toml").read_text() == larger.to_toml()
    assert manifest.load(tmp_path)["config_hash"] == larger.hash()


def test_nothing_is_written_into_the_folder_of_another_config(folder):
    shutil.rmtree(folder / "claims")
    with pytest.raises(manifest.ConfigChanged, match="step"):
        driver.run(standin.more(SWEEP, step=0.3), folder, planner=standin.planner, work=standin.work)
    assert not (folder / "claims").exists()


@pytest.mark.parametrize("folder_too", [False, True])
def test_what_is_written_whole_or_not_at_all(tmp_path, folder_too):
    path = tmp_path / "export"

    def half():
        with atomic.whole(path) as temporary:
            file = temporary
            if folder_too:
                temporary.mkdir()
                file = temporary / "part"
            file.write_bytes(b"half")
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        half()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_second_writer_without_hard_links(tmp_path, monkeypatch, number):
    def link(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    assert atomic.create(tmp_path / "a", "first")
    assert not atomic.create(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first"
    assert atomic.leftovers(tmp_path) == []


def test_no_checkpoint_without_the_lease(tmp_path):
    name, state = "0" * 16, {"x": np.arange(3.0)}
    with leases.Runner(tmp_path) as first:
        assert first.acquire(name)
        checkpoint = checkpoints.Checkpoint(tmp_path, name, holder=first.name)
        checkpoint.save(state)
        assert checkpoint.load() is not None
        (tmp_path / leases.FOLDER / f"{name}.1").write_text(seal.line("f" * 12))  # another's turn
        checkpoint.save({"x": np.arange(9.0)})
        checkpoint.part(0, 2).save(state)
    np.testing.assert_array_equal(checkpoint.load()["x"], state["x"])
    assert len(list(checkpoint.file.parent.iterdir())) == 1
