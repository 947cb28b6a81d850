"""The figures of campaigns: what was promised beside what many random instances did.

Rows are those of ``campaigns.claims.read``, one an instance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnjax.analysis import style
from dlnjax.analysis.figures._common import DASHES, GREY, INK
from dlnjax.analysis.tables import Row
from dlnjax.campaigns.sparse_figure import sparse_coding

BLUE, ORANGE, GREEN, PINK = (style.COLOURS[name] for name in ("blue", "orange", "green", "pink"))
_DOT: dict[str, Any] = {"linestyle": "none", "markersize": 2.6, "markeredgewidth": 0, "alpha": 0.75}


def write(folder: Path, campaign: str, rows: Sequence[Row]) -> list[Path]:
    """The figure of a campaign as PNG and SVG, under its name."""
    return style.save(CAMPAIGNS[campaign](rows), folder / campaign)


@style.styled
def guarantee(rows: Sequence[Row]) -> Figure:
    """Left: measured and predicted speed against the guaranteed one. Right: measured minus predicted."""
    figure, ((left, right),) = style.grid(1, 2, width=style.PAGE, height=2.8)
    held = _of(rows, "guarantee")
    x = [1 - row["guaranteed_factor"] for row in held]
    for name, label, colour, marker in (
        ("measured_factor", "measured, mean of the run", ORANGE, "s"),
        ("predicted_factor", "predicted, slowest mode", BLUE, "o"),
        ("worst_factor", "measured, slowest step", GREEN, "D"),
    ):
        left.plot(x, [1 - row[name] for row in held], marker, color=colour, label=label, **_DOT)
    ends = np.array([min(x), max(x)])
    left.plot(ends, ends, color=INK, linewidth=1.0, linestyle=DASHES)
    left.set(xscale="log", yscale="log", xlabel="1 − guaranteed factor", ylabel="1 − factor per step")
    middle = float(np.sqrt(ends[0] * ends[1]))
    left.annotate("guaranteed", (middle, middle), (8, -10), textcoords="offset points", color=INK)
    left.set_ylim(top=20 * left.get_ylim()[1])
    left.set_title("No step is slower than guaranteed")
    left.legend(loc="upper left", borderaxespad=0.2, handletextpad=0.1)
    _difference_panel(right, [r for r in rows if r["part"] in ("rates", "tanh")])
    return figure


def _difference_panel(axes: Axes, rows: Sequence[Row]) -> None:
    kinds = {(r["part"], str(r["dims"]), bool(r["residual"])): [] for r in rows}
    for row in rows:
        if row["difference"] is not None:
            found = kinds[(row["part"], str(row["dims"]), bool(row["residual"]))]
            found.append(max(row["difference"], 1e-14))
    kinds = {kind: found for kind, found in kinds.items() if found}
    for y, ((part, _, residual), found) in enumerate(kinds.items()):
        colour = GREEN if part == "tanh" else ORANGE if residual else BLUE
        axes.plot(found, _jitter(y, len(found)), "o", color=colour, **_DOT)
    names = [f"{d}{', tanh' if p == 'tanh' else ', residual' if r else ''}" for p, d, r in kinds]
    axes.set_yticks(range(len(names)), names)
    axes.axvline(1e-6, color=INK, linewidth=1.0, linestyle=DASHES)
    axes.set(xscale="log", xlabel="|measured − predicted| factor")
    axes.set_xlim(right=6e-6)
    axes.text(8e-7, len(names) - 0.4, "tolerance", ha="right", va="center", color=INK)
    axes.set_ylim(-0.6, len(names) - 0.1)
    axes.set_title("Measured is predicted")


@style.styled
def gd_convergence(rows: Sequence[Row]) -> Figure:
    """Left: the rules' steps beside the true edge. Right: the rank of the product that descent reached."""
    figure, ((left, right),) = style.grid(1, 2, width=style.PAGE, height=2.7)
    ruled = _of(rows, "rules")
    depths = sorted({row["depth"] for row in ruled})
    for shift, (name, label, colour, marker) in enumerate(
        (
            ("published_step", "published rule", ORANGE, "s"),
            ("derived_step", "derived rule", BLUE, "o"),
            ("curvature_edge", r"2 / $\lambda_{\max}$ at the start", GREY, "^"),
        )
    ):
        places, shares = [], []
        for x, depth in enumerate(depths):
            here = [row[name] / row["true_edge"] for row in ruled if row["depth"] == depth]
            places += list(_jitter(x + 0.26 * (shift - 1), len(here), 0.09))
            shares += here
        left.plot(places, shares, marker, color=colour, label=label, **_DOT)
    left.axhline(1, color=INK, linewidth=1.0, linestyle=DASHES)
    left.set(yscale="log", xlabel="depth $N$", ylabel="step / largest step with falling loss")
    left.set_xticks(range(len(depths)), [str(d) for d in depths])
    left.set_ylim(top=left.get_ylim()[1] * 3)
    left.set_title("The step rules are safe, and far from the edge")
    left.legend(loc="lower left", borderaxespad=0.2, handletextpad=0.1)
    _rank_panel(right, _of(rows, "ranks"))
    return figure


def _rank_panel(axes: Axes, rows: Sequence[Row]) -> None:
    """Two bars a depth and start: after the config's steps, and after ten times as many."""
    groups = sorted({(row["depth"], row["start_scale"]) for row in rows}, key=lambda g: (g[0], -g[1]))
    members = [[row for row in rows if (row["depth"], row["start_scale"]) == g] for g in groups]
    colours = {3: BLUE, 2: style.COLOURS["sky"], 1: ORANGE, 0: PINK, -1: INK}
    for shift, name in ((-0.2, "early_rank"), (0.2, "rank")):
        base = np.zeros(len(groups))
        for rank, colour in colours.items():
            share = np.array([100 * sum(row[name] == rank for row in m) / len(m) for m in members])
            axes.bar(np.arange(len(groups)) + shift, share, 0.36, base, color=colour)
            base = base + share
    for rank, colour in colours.items():
        if any(rank in (row["rank"], row["early_rank"]) for row in rows):
            label = {3: "global minimum", -1: "under way"}.get(rank, f"rank {rank}")
            axes.bar([0], [0], color=colour, label=label)
    names = [f"$N$ = {d}\nstart {s:.2g}\n{len(m)} runs" for (d, s), m in zip(groups, members, strict=True)]
    axes.set_xticks(range(len(groups)), names)
    axes.set_ylabel("runs, %  (left bar early, right late)")
    axes.set_ylim(0, 130)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.legend(loc="upper right", ncols=4, borderaxespad=0.1, handlelength=0.8, columnspacing=0.9)
    axes.grid(axis="x", visible=False)
    axes.set_title("Where descent stands")


@style.styled
def flow_limit(rows: Sequence[Row]) -> Figure:
    """Left: descent's gap to the flow against its step. Right: difference of the two integrations."""
    figure, ((left, right),) = style.grid(1, 2, width=style.PAGE, height=2.7, width_ratios=[1.3, 1])
    counts = sorted(int(name.split("_")[1]) for name in rows[0] if name.startswith("gap_"))
    steps = np.array([2.0 / n for n in counts])
    colours = style.depth_colours([row["depth"] for row in rows])
    for row in rows:
        gaps = [row[f"gap_{n}_steps"] for n in counts]
        left.plot(steps, gaps, color=colours[row["depth"]], linewidth=0.4, alpha=0.35)
    middle = np.median([[row[f"gap_{n}_steps"] for n in counts] for row in rows], axis=0)
    left.plot(
        steps,
        middle[-1] * steps / steps[-1] / 12,
        color=INK,
        linewidth=1.0,
        linestyle=DASHES,
        label="slope 1",
    )
    for depth, colour in colours.items():
        left.plot([], [], color=colour, label=f"$N$ = {depth}")
    left.set(
        xscale="log", yscale="log", xlabel=r"step $\eta$", ylabel=r"$\Vert W_{GD}-W_{flow}\Vert$ at time 2"
    )
    left.set_title("Descent tends to its flow")
    left.legend(loc="upper left", borderaxespad=0.2)
    for y, (depth, colour) in enumerate(colours.items()):
        found = [max(row["flows_differ"], 1e-14) for row in rows if row["depth"] == depth]
        right.plot(found, _jitter(y, len(found)), "o", color=colour, **_DOT)
    right.set_yticks(range(len(colours)), [f"$N$ = {d}" for d in colours])
    right.axvline(4e-8, color=INK, linewidth=1.0, linestyle=DASHES)
    right.set(xscale="log", xlabel="difference / target norm", ylim=(-0.6, len(colours) - 0.2))
    right.text(3e-8, len(colours) - 0.4, "tolerance", ha="right", va="center", color=INK)
    right.set_title("Layers and product flow alike")
    return figure


@style.styled
def modes(rows: Sequence[Row]) -> Figure:
    """Left: time to learn half a mode. Middle: the flow's error. Right: condition of the tangent kernel."""
    figure, (panels,) = style.grid(1, 3, width=style.PAGE, height=2.6)
    learned = _of(rows, "modes")
    colours = style.depth_colours([row["depth"] for row in learned])
    for depth, colour in colours.items():
        here = [row for row in learned if row["depth"] == depth]
        times = [(row["predicted_half_time"], row["half_time"]) for row in here]
        panels[0].plot(*zip(*times, strict=True), "o", color=colour, label=f"$N$ = {depth}", **_DOT)
        errors = [(row["start"] / row["singular_value"], max(row["flow_error"], 1e-13)) for row in here]
        panels[1].plot(*zip(*errors, strict=True), "o", color=colour, **_DOT)
    ends = np.array([f([row["predicted_half_time"] for row in learned]) for f in (min, max)])
    panels[0].plot(ends, ends, color=INK, linewidth=1.0, linestyle=DASHES)
    panels[0].set(xscale="log", yscale="log", xlabel="exact time to half", ylabel="time descent took")
    panels[0].set_title("Modes are learned on time")
    panels[0].legend(loc="upper left", borderaxespad=0.2, handletextpad=0.1)
    panels[1].axhline(1e-7, color=INK, linewidth=1.0, linestyle=DASHES)
    panels[1].text(
        0.03, 1.2e-7, "tolerance", transform=panels[1].get_yaxis_transform(), va="bottom", color=INK
    )
    panels[1].set(
        xscale="log",
        yscale="log",
        xlabel="start $a_0/s$",
        ylabel="flow's largest error / $s$",
        ylim=(None, 1e-6),
    )
    panels[1].set_title("The flow is exact")
    _kernel_panel(panels[2], _of(rows, "kernel"))
    return figure


def _kernel_panel(axes: Axes, rows: Sequence[Row]) -> None:
    depths = sorted({row["depth"] for row in rows})
    for kind, colour, marker in (("gaussian", ORANGE, "s"), ("orthogonal", BLUE, "o")):
        here = [row for row in rows if row["init"] == kind]
        axes.plot(
            [r["depth"] for r in here],
            [r["condition"] for r in here],
            marker,
            color=colour,
            label=kind,
            **_DOT,
        )
    axes.set_yscale("log")
    axes.set_ylabel("condition of the tangent kernel")
    style.depth_axis(axes, depths)
    axes.legend(loc="upper left", borderaxespad=0.2, handletextpad=0.1)
    axes.set_title("Kernel at the start")


@style.styled
def gauge(rows: Sequence[Row]) -> Figure:
    """Left: share of misses by noise and start. Right: deviation of a step from the turned step."""
    figure, ((left, right),) = style.grid(1, 2, width=style.PAGE, height=2.5)
    searched = _of(rows, "search")
    noises = sorted({row["noise"] for row in searched})
    for kind, colour, marker in (("identity", ORANGE, "s"), ("chain", BLUE, "o")):
        shares = []
        for noise in noises:
            here = [row[f"{kind}_excess"] > 1e-6 for row in searched if row["noise"] == noise]
            shares.append(100 * sum(here) / len(here))
        left.plot(noises, shares, marker=marker, markersize=4, color=colour, label=f"from the {kind}")
    left.set(xscale="log", xlabel="noise per entry", ylabel="searches that miss the minimum, %")
    left.set_xticks(noises, [f"{n:g}" for n in noises])
    left.set_xticks([], minor=True)
    left.set_ylim(-3, 60)
    left.legend(loc="upper right", borderaxespad=0.2)
    left.set_title("Finding the gauge distance")
    kinds = ["polar", "cayley", "qr"]
    turned = _of(rows, "commutes")
    for x, (kind, colour) in enumerate(zip(kinds, (BLUE, GREEN, ORANGE), strict=True)):
        found = [max(row["deviation"], 1e-17) for row in turned if row["retraction"] == kind]
        right.plot(_jitter(x, len(found)), found, "o", color=colour, **_DOT)
    right.axhline(1e-13, color=INK, linewidth=1.0, linestyle=DASHES)
    right.set_xticks(range(3), ["polar", "Cayley", "QR"])
    right.set(yscale="log", ylabel="deviation after the run", xlim=(-0.6, 2.6))
    right.text(-0.55, 1.5e-13, "tolerance", va="bottom", color=INK)
    right.set_title("Do steps commute with the gauge?")
    return figure


@style.styled
def momentum(rows: Sequence[Row]) -> Figure:
    """Left: 1 - factor against depth, heavy ball on plain descent. Right: measured minus predicted."""
    figure, ((left, right),) = style.grid(1, 2, width=style.PAGE, height=2.7, width_ratios=[1.25, 1])
    first = {row["depth"]: row for row in reversed(rows)}
    depths = sorted(first)
    known = [row for row in rows if row["measured_factor"] is not None]
    ends = []
    for column, name, colour in (
        ("best_factor", "heavy ball,\nbest", GREY),
        ("predicted_factor", "heavy ball,\nhalf step", BLUE),
        ("best_plain_factor", "descent,\nbest", ORANGE),
    ):
        line = [1 - first[depth][column] for depth in depths]
        left.plot(depths, line, color=colour, linewidth=1)
        slope = np.polyfit(np.log(depths[-5:]), np.log(line[-5:]), 1)[0]
        ends.append((line[-1], f"{name}\n$N^{{{slope:.2f}}}$", colour))
    left.plot(
        [r["depth"] for r in known],
        [1 - r["measured_factor"] for r in known],
        "o",
        color=BLUE,
        label="measured",
        **_DOT,
    )
    left.plot([], [], color=GREY, linewidth=1, label="predicted")
    left.set(yscale="log", ylabel="1 − factor per step", title="Momentum halves the exponent of depth")
    style.depth_axis(left, depths)
    style.label_ends(left, ends, gap=0.2)
    left.legend(loc="lower left", borderaxespad=0.2)
    gaps = [max(row["difference"] / (1 - row["predicted_factor"]), 1e-12) for row in known]
    right.plot([row["depth"] for row in known], gaps, "o", color=BLUE, **_DOT)
    right.axhline(1e-4, color=INK, linewidth=1.0, linestyle=DASHES)
    right.set(yscale="log", ylabel="|measured − predicted| / (1 − predicted)", title="Measured is predicted")
    right.text(0.02, 1.2e-4, "tolerance", transform=right.get_yaxis_transform(), va="bottom", color=INK)
    right.set_ylim(top=5e-4)
    style.depth_axis(right, depths)
    return figure


def _of(rows: Sequence[Row], part: str) -> list[Row]:
    return [row for row in rows if row["part"] == part]


def _jitter(centre: float, count: int, width: float = 0.25) -> np.ndarray:
    """Places around a centre, the same every time, so that marks do not hide each other."""
    return centre + width * (2 * np.mod(np.arange(1, count + 1) * 0.6180339887498949, 1) - 1)


CAMPAIGNS: dict[str, Callable[[Sequence[Row]], Figure]] = {
    "guarantee": guarantee,
    "gd_convergence": gd_convergence,
    "flow_limit": flow_limit,
    "modes": modes,
    "gauge": gauge,
    "momentum": momentum,
    "sparse_coding": sparse_coding,
}
