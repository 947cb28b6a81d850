"""The examples learn what they say, stay on the manifold, and stay short."""

import importlib.util
from pathlib import Path

import jax
import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
NEEDS = {
    "digits_recipes": "sklearn",
    "equinox_orthonormal_layer": "equinox",
    "flax_orthonormal_layer": "flax",
}


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_example(path):
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    assert len(path.read_text(encoding="utf-8").splitlines()) < 50
    spec = importlib.util.spec_from_file_location(path.stem, path)
    example = importlib.util.module_from_spec(spec)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        spec.loader.exec_module(example)
        before, after, error = example.main(steps=150)
    assert after < 0.5 * before
    assert error < 3e-6


def test_there_are_eight_or_more():
    assert len(EXAMPLES) >= 8
