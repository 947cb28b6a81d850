"""Completion: what the command answers, and that a press of Tab in real shells puts it there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_cases import call

from dlnjax.cli import complete, parser
from dlnjax.sweep.config import options

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["re"], ["report", "reproduce"]),
        (["--v"], ["--version"]),
        (["run", "--dr"], ["--dry-run"]),
        (["report", "out", "--format", ""], ["html", "md"]),
        (["report", "--format=m"], ["--format=md"]),
        (["export", "--to", "net"], ["netcdf"]),
        (["new", "--kind", "d"], ["digits"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["run", "c.toml", "--set", "optim"], ["optimizer="]),
        (["run", "--set", "depth=[2]", "wid"], ["width="]),
        (
            ["run", "--set", "optimizer="],
            [f"optimizer={word}" for word in options.GRID["optimizer"].check.choices],
        ),
        (["run", "--set", "record.keep_params=t"], ["record.keep_params=true"]),
        (["run", "--set", "record.rec"], ["record.records="]),
        (["run", "--set", "grid.0.dep"], ["grid.0.depth="]),
        (["run", "--set", "depth="], []),
        (["run", "--set", "nonesuch="], []),
        (["run", "con"], []),
        (["run", "c.toml", "--out", ""], []),
        (["nonesuch", ""], []),
    ],
)
def test_answers(words, wanted):
    assert complete.answers(words) == wanted


def test_every_command_option_and_key_is_answered():
    assert complete.answers([""]) == list(parser.commands(parser.build()))
    assert complete.answers(["run", "--set", ""]) == [f"{key}=" for key in options.names()]
    assert "sweep" in complete.answers(["bench", ""])
    for name, command in parser.commands(parser.build()).items():
        if name != "bench":
            assert all(option in command.format_help() for option in complete.answers([name, "--"]))


def test_nothing_of_weight_is_imported():
    code = (
        "import sys; from dlnjax.cli import main; main(['__complete', 'run', '--set', 'wid']); "
        "print(sorted({'jax', 'numpy', 'pyarrow', 'matplotlib'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert found.stdout.splitlines() == ["width=", "[]"]


def test_an_unknown_shell_is_told():
    code, _, err = call("completion", "bsh")
    assert code == 2
    assert "did you mean bash?" in err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # pexpect forks only to become the shell at once
@pytest.mark.parametrize(
    ("shell", "arguments", "setup"),
    [
        ("bash", ["--norc", "--noprofile", "-i"], 'eval "$(dlnjax completion bash)"'),
        ("zsh", ["-f", "-i"], 'autoload -Uz compinit; compinit -u -D; eval "$(dlnjax completion zsh)"'),
        ("fish", ["--no-config", "-i"], "dlnjax completion fish | source"),
    ],
)
def test_tab_in_a_real_shell(shell, arguments, setup, tmp_path):
    """Parts of a line, Tab behind each; what the shell then runs has them whole."""
    pexpect = pytest.importorskip("pexpect")
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    tool = tmp_path / "dlnjax"
    tool.write_text(
        f'#!/bin/sh\ncase $1 in __complete|completion) exec "{sys.executable}" -m dlnjax "$@" ;; esac\necho "GOT: $*"\n'
    )
    tool.chmod(0o755)
    (tmp_path / "my_study.toml").write_text("")
    path = f"{tmp_path}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    child = pexpect.spawn(
        shell, arguments, env=env, cwd=tmp_path, timeout=30, dimensions=(24, 200), encoding="utf-8"
    )
    child.sendline(f"{setup}; echo REA''DY")
    child.expect("READY")
    child.sendline("dlnjax ru\tmy_st\t--dry\t--set optimi\tg\t")
    child.expect("GOT: run my_study.toml --dry-run --set optimizer=gd")
    child.close(force=True)
