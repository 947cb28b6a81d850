"""Trained weights in the store: with ``keep_params = true`` a shard's file holds them, one row a cell.

They stand in columns of their own, ``params_0``, ``params_1``, ..., each one leaf of the params, flat; the
shapes, common to a shard, are in the file's metadata. So they live under the same promises as the rest of the
file: written whole or not at all, never changed, covered by its hash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from dlnjax._types import Params
from dlnjax.sweep import store
from dlnjax.sweep.config.cell import Cell
from dlnjax.sweep.config.user_functions import PartError
from dlnjax.sweep.store import manifest, schema

# Key of the leaves' shapes in a file's metadata.
_SHAPES = "params_shapes"


def append_params(table: pa.Table, leaves: Sequence[np.ndarray]) -> pa.Table:
    """A shard's table with weights.

    Args:
      table: of B cells, from ``schema.table``.
      leaves: the params, ``W_1`` first, each with B cells (or more, which are left out) in front.
    """
    shapes = [list(leaf.shape[1:]) for leaf in leaves]
    for i, leaf in enumerate(leaves):
        flat = np.ascontiguousarray(leaf[: len(table)]).reshape(len(table), -1)
        column = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
        table = table.append_column(f"{schema.PARAMS}{i}", column)
    return table.replace_schema_metadata({**store.metadata_of(table), _SHAPES: json.dumps(shapes)})


def append_metrics(table: pa.Table, extra: Mapping[str, ArrayLike] | tuple[()]) -> pa.Table:
    """A shard's table with its further curves.

    Args:
      table: of B cells, from ``schema.table``.
      extra: name -> ``(B or more, records + 1)``; empty without metrics.

    Raises:
      PartError: a name that the store has a column of.
    """
    for name, curves in dict(extra).items():
        if {name, f"curve_{name}"} & set(table.column_names) or name.startswith(schema.PARAMS):
            raise PartError(
                f"metrics: the store has a column {name} of its own; give the number another name"
            )
        values = np.asarray(curves, np.float64)[: len(table)]
        table = table.append_column(name, pa.array(values[:, -1]))
        curve = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        table = table.append_column(f"curve_{name}", curve)
    return table


def params(out: Path | str, cell: Cell | Mapping[str, Any] | str) -> Params:
    """The trained weights of a cell, as the bits that training ended with.

    Args:
      out: a results folder of a config with ``keep_params = true``.
      cell: a cell, a row of ``sweep.read``, or the cell's key.

    Returns:
      JAX arrays of the precision trained in (also where x64 is off), ``W_1`` first. Of the engine ``layers``
      all of them: ``(W_1, run (N-2, r, r), W_N)``, or ``(W_1, W_2)``. Of ``reduced``, whose middle layers are
      never formed: ``(W_1, U)`` with the frame ``U = W_N ... W_2``. The product is the network's in every case
      (``network.end_to_end``).

    Raises:
      KeyError: no such cell in the folder. FileNotFoundError: its shard is not there yet.
      ValueError: the folder keeps no weights, or the file is damaged.
    """
    key = cell if isinstance(cell, str) else cell.key() if isinstance(cell, Cell) else cell["cell"]
    name = _shard(Path(out), key)
    if not store.is_done(out, name):
        raise FileNotFoundError(f"{out}: the cell's shard {name} is not computed yet; run the sweep again")
    text = store.metadata(out, name).get(_SHAPES)
    if text is None:
        raise ValueError(f"{out}: holds no weights; set record.keep_params = true before the first run")
    shapes = json.loads(text)
    columns = [f"{schema.PARAMS}{i}" for i in range(len(shapes))]
    table = store.read_shard(out, name, ["cell", *columns])
    row = table["cell"].to_pylist().index(key)
    flat = (table[column].combine_chunks()[row].values.to_numpy() for column in columns)
    with jax.enable_x64(True):
        return tuple(jnp.asarray(leaf.reshape(shape)) for leaf, shape in zip(flat, shapes, strict=True))


def _shard(out: Path, key: str) -> str:
    content = manifest.existing(out)
    digits = key[: manifest.DIGITS]
    for name, keys in manifest.partition(content).items():
        if digits in keys:
            return name
    raise KeyError(f"cell {key} is not one of the {len(content['cells'])} of {out}")
