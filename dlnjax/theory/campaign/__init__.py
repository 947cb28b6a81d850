"""Statements held against runs: many random instances, violations counted, the tightest ratio kept.

Every campaign draws instances from a seed, runs the library's own optimizers on them and returns a
:class:`Finding`; ``python -m dlnjax.theory.campaign NAME ...`` prints them. A ratio is what was measured
over what was promised, so a statement holds as long as the largest stays at or below 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import jax

from dlnjax.theory.campaign.euclidean import descent_ranks, descent_rules, flow_limit, modes_hold
from dlnjax.theory.campaign.finding import Finding, history
from dlnjax.theory.campaign.riemannian import gauge_search, guarantee_holds, rates_hold

__all__ = ["CAMPAIGNS", "Finding", "history", "main"]

CAMPAIGNS: dict[str, Callable[..., Finding]] = {
    "guarantee": guarantee_holds,
    "gd_rules": descent_rules,
    "gd_ranks": descent_ranks,
    "flow": flow_limit,
    "modes": modes_hold,
    "gauge": gauge_search,
    "rates": rates_hold,
}


def main(argv: list[str] | None = None) -> int:
    """``python -m dlnjax.theory.campaign NAME [NAME ...] [--instances K] [--seed S]``; 1 if any violation."""
    parser = argparse.ArgumentParser(prog="python -m dlnjax.theory.campaign", description=__doc__)
    parser.add_argument("names", nargs="+", choices=[*CAMPAIGNS, "all"])
    parser.add_argument("--instances", type=int, help="how many; each campaign has its own default")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(argv)
    options = {"seed": chosen.seed} | ({} if chosen.instances is None else {"instances": chosen.instances})
    names = list(CAMPAIGNS) if "all" in chosen.names else chosen.names
    failed = False
    with jax.enable_x64(True):
        for name in names:
            finding = CAMPAIGNS[name](**options)
            failed |= finding.violations > 0
            print(f"{name}: {finding}", flush=True)
    return int(failed)
