"""The settings of a sweep job, checked where Azure's own package does not.

`azure-ai-ml` 1.35 checks keys and types offline. What is refused here it lets pass, and
the service says no after the upload, or never.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import yaml
from optuna.pruners import BasePruner

from hpo_helpers.policies import BanditPolicy, MedianStoppingPolicy, TruncationSelectionPolicy
from hpo_helpers.sweeps.expressions import FIELDS, check_expression, require

Sweep = dict[str, Any]

POLICIES = {
    "bandit": BanditPolicy,
    "median_stopping": MedianStoppingPolicy,
    "truncation_selection": TruncationSelectionPolicy,
}

#: The expressions that a sampling takes; random sampling takes all.
ALLOWED = {"grid": {"choice"}, "bayesian": {"choice", "uniform", "quniform"}}


def read_sweep(path: Path | str) -> Sweep:
    """Read a sweep job's YAML; ValueError as `check_sweep` raises it."""
    sweep = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    check_sweep(sweep)
    return sweep


def write_sweep(sweep: Sweep, path: Path | str) -> None:
    """Write a sweep job's YAML; ValueError as `check_sweep` raises it."""
    check_sweep(sweep)
    text = yaml.safe_dump(dict(sweep), sort_keys=False, width=88)
    Path(path).write_text(text, encoding="utf-8")


def check_sweep(sweep: Mapping[str, Any]) -> None:
    """Raise ValueError for what cannot be a sweep, or would not do what it says."""
    is_sweep = isinstance(sweep, Mapping) and sweep.get("type") == "sweep"
    require(is_sweep, "a sweep job has type: sweep", sweep)
    for key in ("search_space", "objective", "limits", "sampling_algorithm", "trial"):
        require(bool(sweep.get(key)), f"a sweep job needs {key!r}", sorted(sweep))
    direction_of(sweep)
    metric = sweep["objective"].get("primary_metric")
    require(bool(metric), "the objective needs a primary_metric", metric)
    _check_limits(sweep["limits"])
    for name, expression in sweep["search_space"].items():
        check_expression(name, expression)
    _check_sampling(sweep)
    policy_of(sweep)
    _check_command(sweep["trial"], sweep["search_space"])


def direction_of(sweep: Mapping[str, Any]) -> str:
    """Return ``"minimize"`` or ``"maximize"``."""
    goal = sweep["objective"].get("goal")
    is_known = str(goal).lower() in ("minimize", "maximize")
    require(is_known, "goal must be 'minimize' or 'maximize'", goal)
    return goal.lower()


def sampling_of(sweep: Mapping[str, Any]) -> str:
    """Return ``"random"``, ``"grid"`` or ``"bayesian"``."""
    sampling = sweep["sampling_algorithm"]
    kind = sampling.get("type") if isinstance(sampling, Mapping) else sampling
    is_known = str(kind).lower() in ("random", "grid", "bayesian")
    require(is_known, "sampling must be 'random', 'grid' or 'bayesian'", kind)
    return kind.lower()


def policy_of(sweep: Mapping[str, Any]) -> BasePruner | None:
    """Return the early-termination policy as an Optuna pruner, or None."""
    if not sweep.get("early_termination"):
        return None
    settings = dict(sweep["early_termination"])
    kind = str(settings.pop("type", None)).lower()
    require(kind in POLICIES, f"a policy is one of {sorted(POLICIES)}", kind)
    written_out = "evaluation_interval" in settings
    require(written_out, "write evaluation_interval out, defaults differ", settings)
    for slack in ("slack_factor", "slack_amount"):
        if settings.get(slack) == 0:  # as azure-ai-ml writes for none
            del settings[slack]
    return POLICIES[kind](**settings)


def _check_limits(limits):
    for name in ("max_total_trials", *limits):
        # azure-ai-ml turns fewer seconds into 60, and a float into no limit at all.
        limit, smallest = limits.get(name), 60 if "timeout" in name else 1
        possible = isinstance(limit, Integral) and limit >= smallest
        require(possible, f"{name} must be a whole number from {smallest} on", limit)
    total, concurrent = limits["max_total_trials"], limits.get("max_concurrent_trials", 1)
    rule = f"max_concurrent_trials must be at most max_total_trials={total}"
    require(concurrent <= total, rule, concurrent)


def _check_sampling(sweep):
    kind, policy = sampling_of(sweep), sweep.get("early_termination")
    if kind == "bayesian":
        require(not policy, "Bayesian sampling takes no early-termination policy", policy)
    allowed = ALLOWED.get(kind, FIELDS)
    rule = f"{kind} sampling takes {', '.join(sorted(allowed))} alone"
    for name, expression in sweep["search_space"].items():
        if expression["type"] not in allowed:
            raise ValueError(f"{rule}, got {dict(expression)!r} for {name!r}")


def _check_command(trial, search_space):
    if not isinstance(trial, Mapping) or "command" not in trial:
        return  # a component in a file of its own
    used = re.findall(r"\$\{\{\s*search_space\.(\w+)\s*\}\}", trial["command"])
    rule = f"the command must use {sorted(search_space)} as ${{{{search_space.name}}}}"
    require(set(used) == set(search_space), rule, trial["command"])
