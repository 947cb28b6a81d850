"""What accuracies and a user's metrics recorded, in the store: a column with the last value, and a curve.

The columns stand in the shard's own file, under the names that the metrics gave: ``name`` and ``curve_name``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from dlnjax.sweep import store
from dlnjax.sweep.parts.own import PartError


def append(table: pa.Table, extra: Mapping[str, Any] | tuple[()]) -> pa.Table:
    """A shard's table with its further curves.

    Args:
      table: of B cells, from ``store.table``.
      extra: name -> ``(B or more, records + 1)``; empty without metrics.

    Raises:
      PartError: a name that the store has a column of.
    """
    for name, curves in dict(extra).items():
        if {name, f"curve_{name}"} & set(table.column_names) or name.startswith(store.PARAMS):
            raise PartError(
                f"metrics: the store has a column {name} of its own; give the number another name"
            )
        values = np.asarray(curves, np.float64)[: len(table)]
        table = table.append_column(name, pa.array(values[:, -1]))
        curve = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        table = table.append_column(f"curve_{name}", curve)
    return table
