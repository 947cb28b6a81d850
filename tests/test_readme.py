"""The README's Python runs as printed, and the files it names are there."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def test_the_first_example_converges(capsys):
    scope: dict = {}
    with jax.numpy_dtype_promotion("standard"):
        exec(compile(BLOCKS[0], "README.md", "exec"), scope)
    distance = np.asarray(scope["trace"].distance)
    assert distance[-1] < 1e-5 * distance[0]
    assert "[" in capsys.readouterr().out
    assert len(BLOCKS[0].strip().splitlines()) <= 12


def test_the_sweep_example_fills_its_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(compile(BLOCKS[1], "README.md", "exec"), scope)
    assert scope["table"].num_rows == 12
    assert set(scope["table"]["status"].to_pylist()) == {"converged"}


@pytest.mark.parametrize("name", re.findall(r"\]\(((?!https)[^)]+)\)", (ROOT / "README.md").read_text()))
def test_links_lead_somewhere(name):
    assert (ROOT / name).exists()
