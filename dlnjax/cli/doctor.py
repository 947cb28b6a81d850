"""``dlnjax doctor``: is this installation fit for a convergence study? One line a check, 1 if one fails."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from dlnjax.cli.extras import CORE, EXTRAS

if TYPE_CHECKING:
    import jax

#: Extras that a study may need.
_LISTED = ("study", "analysis", "flow", "data")
#: Largest error a sound double precision geometry makes on the matrices tried here.
_TOLERANCE = 1e-12


def run() -> int:
    """Print versions and devices, run every check; 0 if all pass."""
    print(f"dlnjax {_version('dlnjax')}, Python {platform.python_version()}, {platform.platform()}")
    packages = {"library": CORE} | {name: tuple(EXTRAS[name].values()) for name in _LISTED}
    for extra, names in packages.items():
        print(f"  {extra:<9} {', '.join(f'{name} {_version(name)}' for name in names)}")
    from dlnjax.sweep.compute import devices

    devices.prepare("float64")
    import jax

    print(f"  devices   {', '.join(map(str, jax.devices()))}; this process may use {devices.cores()} cores")
    print(f"  cache     {devices.cache_folder() or 'as JAX_COMPILATION_CACHE_DIR says, or none writable'}")
    failed = 0
    for name, check in (("double precision", _double), ("products in full precision", _products)):
        failed += _tell(name, check)
    for name, check in _geometry():
        failed += _tell(name, check)
    print("all checks passed" if not failed else f"{failed} checks failed")
    return int(failed > 0)


def _tell(name: str, check: Callable[[], tuple[float, float]]) -> int:
    """Run one check (error, largest allowed) and print its line; 1 if it failed."""
    begin = time.perf_counter()
    try:
        error, limit = check()
        verdict = "ok" if error <= limit else "FAILED"
        detail = f"error {error:.1e}, allowed {limit:.0e}"
    except Exception as failure:  # a broken installation raises anything; the other checks still matter
        verdict, detail = "FAILED", f"{type(failure).__name__}: {str(failure).splitlines()[:1]}"
    print(f"  {verdict:<7} {name}: {detail} ({time.perf_counter() - begin:.1f} s)")
    return int(verdict != "ok")


def _double() -> tuple[float, float]:
    """Is a float64 really one: ``(1 + 1e-15) - 1`` is lost in single precision."""
    import jax.numpy as jnp

    return abs(float(jnp.asarray(1.0) + 1e-15 - 1.0) - 1e-15), 2e-16


def _products() -> tuple[float, float]:
    """Do float32 products keep float32 accuracy (an accelerator's default may not), as the library asks?"""
    import jax.numpy as jnp
    import numpy as np

    from dlnjax._linalg import matmul

    a = np.random.default_rng(0).standard_normal((64, 64))
    exact = a.astype(np.float32).astype(np.float64) @ a.astype(np.float32).astype(np.float64)
    made = np.asarray(matmul(jnp.asarray(a, jnp.float32), jnp.asarray(a, jnp.float32)), np.float64)
    return float(np.abs(made - exact).max() / np.abs(exact).max()), 2e-6


def _geometry() -> Iterator[tuple[str, Callable[[], tuple[float, float]]]]:
    """Retractions and the projection on a tall, a wide and a square matrix."""
    for shape in ((6, 3), (3, 6), (4, 4)):
        for name in ("retract_polar", "retract_qr", "retract_cayley", "retract_cholesky_qr"):
            yield f"stiefel.{name} {shape[0]}x{shape[1]}", lambda n=name, s=shape: _retracted(n, s)
        yield f"stiefel.project_tangent {shape[0]}x{shape[1]}", lambda s=shape: _projected(s)


def _retracted(name: str, shape: tuple[int, int]) -> tuple[float, float]:
    """How far the retraction of a tangent step is from orthonormal."""
    import numpy as np

    from dlnjax import stiefel

    point, vector = _drawn(shape)
    moved = np.asarray(getattr(stiefel, name)(point, 0.1 * stiefel.project_tangent(point, vector)))
    tall = moved if shape[0] >= shape[1] else moved.T
    return float(np.abs(tall.T @ tall - np.eye(min(shape))).max()), _TOLERANCE


def _projected(shape: tuple[int, int]) -> tuple[float, float]:
    """How far the projection is from being one: ``P(P(v)) - P(v)``."""
    import numpy as np

    from dlnjax import stiefel

    point, vector = _drawn(shape)
    once = stiefel.project_tangent(point, vector)
    return float(np.abs(np.asarray(stiefel.project_tangent(point, once) - once)).max()), _TOLERANCE


def _drawn(shape: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    import jax
    import jax.numpy as jnp

    from dlnjax import stiefel

    keys = jax.random.split(jax.random.key(0))
    return stiefel.random(keys[0], shape, jnp.float64), jax.random.normal(keys[1], shape, jnp.float64)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"
