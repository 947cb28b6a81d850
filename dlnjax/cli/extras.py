"""The extras of the package: which modules each brings, and the distributions they come with."""

from __future__ import annotations

from collections.abc import Mapping

#: The core's distributions.
CORE = ("jax", "jaxlib", "numpy", "optax", "jaxtyping")
#: Extra -> module -> distribution, as in ``pyproject.toml``.
EXTRAS: Mapping[str, Mapping[str, str]] = {
    "study": {"pyarrow": "pyarrow", "tqdm": "tqdm", "matplotlib": "matplotlib"},
    "analysis": {"pandas": "pandas", "xarray": "xarray", "duckdb": "duckdb"},
    "flow": {"diffrax": "diffrax"},
    "data": {"sklearn": "scikit-learn", "mlxtend": "mlxtend"},
    "dask": {"dask": "dask", "distributed": "distributed"},
    "slurm": {"submitit": "submitit"},
    "checkpoint": {"orbax": "orbax-checkpoint"},
    "export": {"xarray": "xarray", "zarr": "zarr"},
    "examples": {"flax": "flax", "equinox": "equinox"},
    "bench": {
        "torch": "torch", "geoopt": "geoopt", "geojax": "geojax", "pymanopt": "pymanopt", "autograd": "autograd",
    },
    "plotly": {"plotly": "plotly"},
}  # fmt: skip


def remedy(module: str) -> str:
    """What brings a module that is missing, as ``pip install`` takes it."""
    extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
    return f'"dlnjax[{extra}]"' if extra else module
