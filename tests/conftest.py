"""Strict JAX for every test: double precision, no silent rank promotion, warnings are errors.

Float32 has its own cases; they ask for it explicitly. Set before any test module creates an array.
"""

import os
import signal
from importlib.metadata import version
from pathlib import Path

# Compiled once and run on tiny matrices: less optimisation makes the suite a third shorter, the older code generator
# another third (XLA ends the process over a flag it does not know, so only where it was seen). Set before JAX starts.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else "",
    ]
).strip()

import jax
import jaxtyping
import programs
import pytest

#: Modules whose functions check the types and shapes of arguments and results while the tests run. Not ``theory``:
#: NumPy makes scalars of its arrays of no dimension, which its annotations do not tell apart. Nor ``problem`` and
#: ``losses``, whose dataclasses JAX also makes of what stands for arrays while it traces.
CHECKED = ("initial", "layerwise", "network", "optim", "reduced", "scales", "stiefel", "train")
jaxtyping.install_import_hook([f"dlnjax.{name}" for name in CHECKED], "typechecking.checked")

# Who starts the tests in the background has Ctrl-C ignored, which every command run here would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Most of the suite's time is compilation; modules share many programs, and a second run has them all.
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache" / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(autouse=True)
def _types(request):
    """Types are checked, except where a test hands over a wrong one to read what the function itself says."""
    jaxtyping.config.update("jaxtyping_disable", request.node.get_closest_marker("mistakes") is not None)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(autouse=True)
def _few_programs():
    yield
    programs.forget_if_many()


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory():
    """Programs compiled by one module are of no use to the next."""
    yield
    programs.forget()
