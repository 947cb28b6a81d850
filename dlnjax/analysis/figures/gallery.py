"""Plots that this field reads, from arrays or rows: nothing here trains, and nothing needs JAX.

Each returns a matplotlib ``Figure`` in the look of the study's figures; ``save`` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from dlnjax.analysis import style
from dlnjax.analysis.figures._common import DASHES, INK, as_rows
from dlnjax.analysis.tables import Row, Table

#: Things without an order, in this order: a colour and a marker each.
_LOOKS = tuple(zip(("blue", "orange", "green", "pink", "sky", "amber"), "osD^vP", strict=True))
#: Below this nothing can be told from rounding, and a logarithmic axis has no zero.
_FLOOR = 1e-17
_SIZE = {"width": style.COLUMN * 1.3, "height": 2.6}


@style.styled
def phase_diagram(table: Table) -> Figure | None:
    """Step size against depth: iterations to the tolerance in colour, crosses where a run does not converge.

    Dashed: the predicted stability edge. The median over seeds; a mark is a cross if any seed fails. Middle scaling
    has an edge of its own and so a panel of its own.

    Args:
      table: rows of ``tables.measure`` or the table of ``sweep.read``; uses all cells with a step size.
    """
    rows = [r for r in as_rows(table) if r.get("step_size") is not None]
    if not rows:
        return None
    kinds = {
        "Which steps converge": [r for r in rows if r.get("step_rule") != "middle"],
        "The same with middle scaling": [r for r in rows if r.get("step_rule") == "middle"],
    }
    panels = {title: group for title, group in kinds.items() if group}
    size = _SIZE if len(panels) == 1 else {**_SIZE, "width": style.PAGE}
    figure, matrix = style.grid(1, len(panels), **size)
    iterations = [found for group in panels.values() for found in _iterations(group)[0].values()]
    norm = LogNorm(min(iterations), max(iterations)) if iterations else LogNorm()
    for axes, (title, group) in zip(matrix.flat, panels.items(), strict=True):
        _phase_panel(axes, group, norm)
        axes.set_title(title)
    if iterations:
        shown = ScalarMappable(norm, "viridis")
        figure.colorbar(shown, ax=list(matrix.flat), label="iterations to the tolerance")
    figure.legend(
        *matrix.flat[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, borderaxespad=0.2
    )
    return figure


def _iterations(rows: Sequence[Row]) -> tuple[dict[tuple[float, int], float], list[tuple[float, int]]]:
    """Median iterations at ``(step size, depth)``, and the places where a seed did not converge."""
    cells: dict[tuple[float, int], list[Row]] = {}
    for row in rows:
        cells.setdefault((float(f"{row['step_size']:.6g}"), row["depth"]), []).append(row)
    good = {at: g for at, g in cells.items() if all(r["status"] == "converged" for r in g)}
    marks = {at: float(np.median([r["iterations"] for r in g])) for at, g in good.items()}
    return marks, [at for at in cells if at not in good]


def _phase_panel(axes: Axes, rows: Sequence[Row], norm: LogNorm) -> None:
    marks, bad = _iterations(rows)
    if marks:
        x, y = zip(*marks, strict=True)
        axes.scatter(x, y, c=list(marks.values()), cmap="viridis", norm=norm, s=30, marker="s")
    axes.plot([x for x, _ in bad], [y for _, y in bad], "X", color=style.COLOURS["orange"], markersize=5,
              markeredgewidth=0, label="does not converge")  # fmt: skip
    _predicted_edge(axes, rows)
    axes.set_xscale("log")
    axes.set_yscale("log", base=2)
    depths = sorted({row["depth"] for row in rows})
    axes.set_yticks(depths, [str(depth) for depth in depths])
    axes.set_yticks([], minor=True)
    axes.set(xlabel=r"step size $\mu$", ylabel="depth $N$")


def _predicted_edge(axes: Axes, rows: Sequence[Row]) -> None:
    edges: dict[int, list[float]] = {}
    for row in rows:
        if row.get("step_max") is not None:
            edges.setdefault(row["depth"], []).append(row["step_max"])
    depths = sorted(edges)
    if depths:
        at = [float(np.median(edges[depth])) for depth in depths]
        axes.plot(at, depths, color=INK, linewidth=1, linestyle=DASHES, label="predicted edge")


@style.styled
def spectra(eigenvalues: Mapping[int, ArrayLike]) -> Figure:
    """Nonzero eigenvalues of the linearised step, the largest first, a line a depth.

    Args:
      eigenvalues: depth -> ``(k,)`` of ``K`` (``np.linalg.eigvalsh(theory.rates.operator(...))``); those up to
        1e-10 of the largest are left out, as in the prediction.
    """
    figure, matrix = style.grid(1, 1, **_SIZE)
    axes, ends = matrix[0, 0], []
    axes.set_yscale("log")
    for depth, colour in style.depth_colours(list(eigenvalues)).items():
        values = np.sort(np.asarray(eigenvalues[depth], float))[::-1]
        values = values[values > 1e-10 * values[0]]
        axes.plot(
            np.arange(1, values.size + 1), values, color=colour, marker="o", markersize=2.2, linewidth=0.8
        )
        ends.append((values[0], f"$N$ = {depth}", colour))
    for value, name, colour in ends:
        axes.annotate(
            name, (1, value), (3, 3), textcoords="offset points", color=colour, fontsize=7, va="bottom"
        )
    axes.margins(y=0.14)
    axes.set(xlabel="place, the largest first", ylabel=r"eigenvalue $\lambda$", title="Spectrum of the step")
    return figure


@style.styled
def singular_values(
    times: ArrayLike, values: ArrayLike, exact: ArrayLike | None = None, *, unit: str = "time $t$"
) -> Figure:
    """Singular values of the product over time, on the exact modes where they are known.

    Args:
      times: ``(T,)``.
      values: ``(T, k)`` measured, the largest first.
      exact: ``(T, k)``, for instance of ``theory.modes.trajectory``; None for none.
      unit: label of the time axis.

    Raises:
      ValueError: shapes that do not fit.
    """
    times, values = np.asarray(times, float), np.asarray(values, float)
    for name, given in (("values", values), ("exact", values if exact is None else np.asarray(exact, float))):
        if given.shape != (times.size, values.shape[-1]):
            raise ValueError(f"{name} has shape {given.shape}; give (times, modes) for {times.size} times")
    figure, matrix = style.grid(1, 1, **_SIZE)
    axes = matrix[0, 0]
    every = max(1, times.size // 16)
    for k in range(values.shape[1]):
        colour, marker = _look(k)
        if exact is None:
            axes.plot(times, values[:, k], color=colour)
        else:
            axes.plot(times, np.asarray(exact)[:, k], color=colour, linewidth=1)
            axes.plot(times[::every], values[::every, k], marker, color=colour, markersize=3)
    axes.set_ylim(0, None)
    style.label_ends(
        axes, [(values[-1, k], rf"$\sigma_{{{k + 1}}}$", _look(k)[0]) for k in range(values.shape[1])]
    )
    if exact is not None:
        axes.plot([], [], color=INK, linewidth=1, label="exact mode")
        axes.plot([], [], "o", color=INK, markersize=3, label="measured")
        axes.legend(loc="lower right")
    axes.set(xlabel=unit, ylabel="singular value of the product", title="Modes are learned one by one")
    return figure


@style.styled
def balancedness(steps: ArrayLike, norms: Mapping[str, ArrayLike], bound: float | None = None) -> Figure:
    r"""``||D_j||`` against steps, ``D_j = W_{j+1}^T W_{j+1} - W_j W_j^T``, a line an algorithm or layer.

    Args:
      steps: ``(T,)``.
      norms: name -> ``(T,)``.
      bound: a level that must not be passed (delta of a step rule), drawn dashed.
    """
    level = () if bound is None else (bound, bound * 4)
    figure, axes = _curves(steps, norms, r"$\max_j \Vert D_j\Vert$", "Balancedness", level)
    if bound is not None:
        axes.axhline(bound, color=INK, linewidth=1, linestyle=DASHES)
        axes.text(0.02, bound * 1.1, "bound", transform=axes.get_yaxis_transform(), va="bottom", color=INK)
    return figure


@style.styled
def orthonormality_drift(
    steps: ArrayLike, errors: Mapping[str, ArrayLike], *, precision: str = "float64"
) -> Figure:
    """``max ||W^T W - I||`` against steps, a line a retraction; dashed the precision's rounding unit.

    Args:
      steps: ``(T,)`` positive.
      errors: name -> ``(T,)``.
      precision: ``float32`` or ``float64``.
    """
    unit = float(np.finfo(precision).eps)
    label = r"$\max\Vert W^TW-I\Vert_F$"
    figure, axes = _curves(steps, errors, label, "Distance from the manifold", (unit / 4,))
    axes.axhline(unit, color=INK, linewidth=1, linestyle=DASHES)
    axes.text(0.02, unit / 1.15, f"rounding unit, {precision}", transform=axes.get_yaxis_transform(), va="top",
              color=INK)  # fmt: skip
    axes.set_xscale("log")
    return figure


@style.styled
def cost_against_depth(seconds: Mapping[str, Mapping[int, float]]) -> Figure:
    """Time of a step against depth on logarithmic axes, with the exponent of each line.

    Args:
      seconds: engine -> depth -> seconds a step, positive.
    """
    figure, matrix = style.grid(1, 1, **_SIZE)
    axes, ends = matrix[0, 0], []
    style.depth_axis(axes, [depth for line in seconds.values() for depth in line])
    axes.set_yscale("log")
    for place, (name, line) in enumerate(seconds.items()):
        colour, marker = _look(place)
        depths = sorted(line)
        values = [line[depth] for depth in depths]
        axes.plot(depths, values, color=colour, marker=marker, markersize=3.5)
        slope = np.polyfit(np.log(depths), np.log(values), 1)[0] if len(depths) > 1 else 0.0
        ends.append((values[-1], f"{name}\n$N^{{{slope:.2f}}}$", colour))
    axes.margins(y=0.1)
    axes.autoscale(axis="y")
    style.label_ends(axes, ends, gap=0.16)
    axes.set(ylabel="seconds a step", title="Cost against depth")
    return figure


def _curves(
    steps: ArrayLike, lines: Mapping[str, ArrayLike], label: str, title: str, levels: Sequence[float] = ()
) -> tuple[Figure, Axes]:
    """Positive lines on a logarithmic axis that shows ``levels`` too, named at their ends; zeros at the floor."""
    figure, matrix = style.grid(1, 1, **_SIZE)
    axes, ends = matrix[0, 0], []
    axes.set_yscale("log")
    for place, (name, values) in enumerate(lines.items()):
        values = np.maximum(np.asarray(values, float), _FLOOR)
        colour, marker = _look(place)
        axes.plot(
            steps, values, color=colour, marker=marker, markersize=3, markevery=max(1, values.size // 10)
        )
        ends.append((values[-1], name, colour))
    axes.plot([np.min(steps)] * len(levels), levels, alpha=0)
    axes.margins(x=0.01, y=0.12)
    axes.set(xlabel="step $t$", ylabel=label, title=title)
    axes.autoscale_view()
    style.label_ends(axes, ends)
    return figure, axes


def _look(place: int) -> tuple[str, str]:
    colour, marker = _LOOKS[place % len(_LOOKS)]
    return style.COLOURS[colour], marker
