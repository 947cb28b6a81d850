"""The command called in this process, and a configuration to break; shared by the tests of the command."""

import contextlib
import io
import os

from hypothesis import settings

from dlnjax import cli
from dlnjax.sweep.config import toml

RAW = {
    "study": "demo",
    "precision": "float64",
    "problem": {"kind": "teacher", "input_dim": 8, "output_dim": 8, "singular_values": [1.0, 0.5]},
    "start": {"distance": 0.05, "first_scale": 0.5},
    "record": {"records": 128, "tolerance": 1e-8, "depth_of_fit": 1e-13, "max_steps": 1000},
    "base": {"width": [4], "seed": [0], "start": "near", "retraction": "polar", "optimizer": "rgd"},
    "grid": [{"step_rule": "middle", "step": 0.4, "depth": [2, 4], "engine": "reduced", "data": "whitened"}],
}
#: Sections that hold keys, as paths into RAW.
PLACES = (("problem",), ("start",), ("record",), ("base",), ("grid", 0))


def calm(examples):
    """The same examples every time, whatever the machine's speed."""
    return settings(max_examples=examples, derandomize=True, database=None, deadline=None)


def call(*argv):
    """Run the command in this process: (exit code, standard output, standard error)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(word) for word in argv])
        except SystemExit as leave:
            code = leave.code
    return code, out.getvalue(), err.getvalue()


def written(raw):
    """A raw configuration as TOML text."""
    head = {name: value for name, value in raw.items() if not isinstance(value, dict) and name != "grid"}
    sections = {name: value for name, value in raw.items() if isinstance(value, dict)}
    return toml.document(head, sections, {"grid": raw["grid"]})


def at(raw, place):
    for step in place:
        raw = raw[step]
    return raw


def refused(folder, content, *more):
    """Run a wrong config: exit code 2, lines that begin with its name, nothing written; the lines."""
    path = folder / "wrong.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    before = sorted(os.walk(folder))
    code, out, err = call("run", path, "--out", folder / "out", *more)
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert sorted(os.walk(folder)) == before
    lines = err.splitlines()
    assert lines
    assert all(line.startswith(f"{path}") for line in lines)
    return lines
