"""Statements held against runs: many random instances, violations counted, the tightest ratio kept.

Every part draws instances from a seed, runs the library's own optimizers on them and returns a
:class:`Finding` with one row an instance; a campaign is the parts that answer one question. A ratio is what
was measured over what was promised, so a statement holds as long as the largest stays at or below 1.
``dlnjax run configs/guarantee.toml`` runs one from a config and keeps its rows;
``python -m dlnjax.campaigns.checks NAME ...`` only prints them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from dlnjax.campaigns.checks.accelerated import momentum_depth
from dlnjax.campaigns.checks.descending import descent_ranks, descent_rules, descent_stalls
from dlnjax.campaigns.checks.finding import Finding, history
from dlnjax.campaigns.checks.flowing import flow_limit, kernels, modes_hold
from dlnjax.campaigns.checks.guaranteed import guarantee_holds
from dlnjax.campaigns.checks.measured import rates_hold, tanh_rates_hold
from dlnjax.campaigns.checks.sparse_bounds import stability, uniqueness
from dlnjax.campaigns.checks.sparse_learning import features, recovery
from dlnjax.campaigns.checks.sparse_rates import depth, factors
from dlnjax.campaigns.checks.symmetry import gauge_commutes, gauge_search

__all__ = ["CAMPAIGNS", "PARTS", "Finding", "findings", "history", "main"]

PARTS: dict[str, Callable[..., Finding]] = {
    "guarantee": guarantee_holds,
    "rates": rates_hold,
    "tanh": tanh_rates_hold,
    "rules": descent_rules,
    "ranks": descent_ranks,
    "stall": descent_stalls,
    "flow": flow_limit,
    "modes": modes_hold,
    "kernel": kernels,
    "search": gauge_search,
    "commutes": gauge_commutes,
    "momentum": momentum_depth,
    "uniqueness": uniqueness,
    "stability": stability,
    "factors": factors,
    "depth": depth,
    "recovery": recovery,
    "features": features,
}
#: campaign -> its parts, and for each what its arguments are called in a config (``seed`` goes to every part).
CAMPAIGNS: dict[str, dict[str, dict[str, str]]] = {
    "guarantee": {
        "guarantee": {"instances": "instances", "num_steps": "steps"},
        "rates": {"instances": "rate_instances", "tolerance": "tolerance"},
        "tanh": {"instances": "tanh_instances", "tolerance": "tolerance"},
    },
    "gd_convergence": {
        "rules": {"instances": "instances", "num_steps": "steps"},
        "ranks": {"instances": "starts", "deep_instances": "deep_starts", "num_steps": "descent_steps"},
        "stall": {"num_steps": "descent_steps"},
    },
    "flow_limit": {"flow": {"instances": "instances", "tolerance": "tolerance"}},
    "modes": {
        "modes": {"instances": "instances", "step": "step", "tolerance": "tolerance"},
        "kernel": {"instances": "kernel_instances"},
    },
    "gauge": {
        "search": {"instances": "instances", "restarts": "restarts"},
        "commutes": {"instances": "step_instances", "num_steps": "steps"},
    },
    "momentum": {"momentum": {"instances": "instances", "tolerance": "tolerance"}},
    "sparse_coding": {
        "uniqueness": {"instances": "instances"},
        "stability": {"instances": "noisy_instances"},
        "factors": {"instances": "rate_instances", "tolerance": "tolerance"},
        "depth": {"instances": "chains", "tolerance": "tolerance"},
        "recovery": {"instances": "dictionaries"},
        "features": {},
    },
}


def findings(campaign: str, settings: Mapping[str, Any]) -> Iterator[Finding]:
    """The findings of a campaign's parts, each as soon as it is there. Runs in double precision.

    Args:
      campaign: a name in :data:`CAMPAIGNS`.
      settings: values by the names in :data:`CAMPAIGNS`, and ``seed``; what is missing keeps its default.
    """
    for part, names in CAMPAIGNS[campaign].items():
        given = {argument: settings[key] for argument, key in names.items() if key in settings}
        with jax.enable_x64(True):
            found = PARTS[part](seed=settings.get("seed", 0), **given)
        yield found


def main(argv: list[str] | None = None) -> int:
    """``python -m dlnjax.campaigns.checks NAME [NAME ...] [--seed S]``; 1 if any violation."""
    parser = argparse.ArgumentParser(prog="python -m dlnjax.campaigns.checks", description=__doc__)
    parser.add_argument("names", nargs="+", choices=[*CAMPAIGNS, "all"])
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(argv)
    failed = False
    for name in CAMPAIGNS if "all" in chosen.names else chosen.names:
        for found in findings(name, {"seed": chosen.seed}):
            failed |= found.violations > 0
            print(found, flush=True)
    return int(failed)
