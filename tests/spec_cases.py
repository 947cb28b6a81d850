"""A good configuration, as text and as keywords, and how refusals are looked at."""

import pytest

from dlnjax.sweep.config import loading

GOOD = """
study = "demo"
question = "why?"
[problem]
kind = "teacher"
input_dim = 8
output_dim = 6
singular_values = [2, 1.0, 0.5]
[record]
records = 128
[base]
width = [4]
seed = [0, 1, 2]
start = "near"
engine = "layers"
[[grid]]
step_rule = "fixed"
step = 0.1
depth = [2, 4]
[[grid]]
step_rule = "optimal"
step = [0.5, 0.9]
depth = 8
engine = ["auto"]
"""
FLAT = {
    "study": "demo",
    "kind": "teacher",
    "input_dim": 8,
    "output_dim": 6,
    "singular_values": [2.0, 1.0],
    "step_rule": "fixed",
    "step": 0.1,
    "engine": "layers",
    "start": "near",
    "width": 4,
    "depth": [2, 4],
    "seed": range(2),
}


def write(folder, text=GOOD, name="x.toml"):
    """Write a config; its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def lines(fn, *args, **kwargs):
    """The mistakes a call is refused for; each is one line."""
    with pytest.raises(loading.SpecError) as caught:
        fn(*args, **kwargs)
    assert all(line.splitlines() == [line] for line in caught.value.lines)
    assert str(caught.value) == "\n".join(caught.value.lines)
    return caught.value.lines
