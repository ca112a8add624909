"""The settings of an Azure sweep job, checked where Azure's own package does not.

A sweep is a plain dict, with the keys of the job's YAML. `azure-ai-ml` 1.35 checks offline that the keys are there
and have the right types. It lets pass what is refused here, and the service says no after the upload, or never.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from numbers import Integral
from typing import Any

from hpo_helpers.spaces import to_azure
from hpo_helpers.sweeps.expressions import SearchSpace, check_expression
from hpo_helpers.policies import BanditPolicy, MedianStoppingPolicy, TruncationSelectionPolicy

Policy = BanditPolicy | MedianStoppingPolicy | TruncationSelectionPolicy
Sweep = dict[str, Any]

POLICIES = {
    "bandit": BanditPolicy,
    "median_stopping": MedianStoppingPolicy,
    "truncation_selection": TruncationSelectionPolicy,
}

#: The expressions that each way of sampling takes; random sampling takes all.
ALLOWED = {"grid": {"choice"}, "bayesian": {"choice", "uniform", "quniform"}}

SHORTEST = 60  #: seconds; azure-ai-ml turns any shorter limit into this one, without a word


def build_sweep(
    space: Mapping[str, Any],
    command: str,
    *,
    code: str,
    environment: str | Mapping[str, Any],
    compute: str,
    sampling: str = "random",
    policy: Policy | None = None,
    metric: str = "valid_error",
    goal: str = "minimize",
    max_total_trials: int,
    max_concurrent_trials: int,
    timeout: int | None = None,
    trial_timeout: int | None = None,
    experiment_name: str = "hyperparameter-optimization",
) -> Sweep:
    """Return a sweep job, as the dict that its YAML holds.

    Parameters
    ----------
    space
        For each hyperparameter a distribution of Optuna's, or, for what only Azure has, an expression such as
        ``{"type": "normal", "mu": 0.5, "sigma": 0.1}``.
    command
        What a trial runs. ``--name value`` is put behind it for each hyperparameter.
    code
        The folder that travels with the job, from where the YAML will lie.
    environment
        The name of an environment, ``"azureml:name@latest"``, or what one is made from:
        ``{"image": …, "conda_file": …}``.
    compute
        The name of a cluster, ``"azureml:name"``.
    sampling
        ``"random"``, ``"grid"`` or ``"bayesian"``.
    policy
        Ends trials early; none if not given.
    metric, goal
        The metric by which trials are compared, and ``"minimize"`` or ``"maximize"``.
    max_total_trials, max_concurrent_trials
        How many trials run, and how many at a time.
    timeout, trial_timeout
        The longest that the sweep, or a trial, may last, in whole seconds; no limit of ours if not given.
    experiment_name
        Under which the workspace files the job.

    Raises
    ------
    ValueError
        As `check_sweep` does.
    """
    arguments = [f"--{name} ${{{{search_space.{name}}}}}" for name in space]
    limits = {"max_total_trials": max_total_trials, "max_concurrent_trials": max_concurrent_trials}
    limits |= {"timeout": timeout, "trial_timeout": trial_timeout}
    sweep = {
        "type": "sweep",
        "experiment_name": experiment_name,
        "compute": compute,
        "sampling_algorithm": sampling,
        "search_space": {name: _expression(name, wanted) for name, wanted in space.items()},
        "objective": {"goal": goal, "primary_metric": metric},
        "limits": {name: limit for name, limit in limits.items() if limit is not None},
        "trial": {"code": code, "environment": environment, "command": " ".join([command, *arguments])},
    }
    if policy is not None:
        sweep["early_termination"] = _policy_settings(policy)
    check_sweep(sweep)
    return sweep


def _expression(name: str, wanted: Any) -> Any:
    return dict(wanted) if isinstance(wanted, Mapping) else to_azure({name: wanted})[name]


def _policy_settings(policy: Policy) -> dict[str, Any]:
    for kind, policy_class in POLICIES.items():
        if type(policy) is policy_class:
            # A policy keeps each setting under its name. Among them is evaluation_interval, which azure-ai-ml
            # takes for 0 where it is left out, and the service's documentation for 1.
            settings = {name.removeprefix("_"): value for name, value in vars(policy).items()}
            return {"type": kind, **{name: value for name, value in settings.items() if value is not None}}
    raise ValueError(f"policy must be one of hpo_helpers.policies, got {policy!r}")


def check_sweep(sweep: Mapping[str, Any]) -> None:
    """Raise ValueError, with the value, for what cannot be a sweep job, or would not do what it says.

    Among it is what `azure-ai-ml` lets pass: a grid over a range; Bayesian sampling of a logarithmic or normal
    distribution, or with an early-termination policy; both slacks or neither; a percentage that is no whole number
    from 1 to 99; more trials at a time than in all; a limit below 60 s; bounds in the wrong order; and a
    hyperparameter that the command does not use.
    """
    if not isinstance(sweep, Mapping) or sweep.get("type") != "sweep":
        raise ValueError(f"a sweep job has type: sweep, got {sweep!r:.80}")
    for key in ("search_space", "objective", "limits", "sampling_algorithm", "trial"):
        if not sweep.get(key):
            raise ValueError(f"a sweep job needs {key!r}, got only {sorted(sweep)}")
    direction_of(sweep)
    check_limits(sweep["limits"])
    for name, expression in sweep["search_space"].items():
        check_expression(name, expression)
    check_sampling(sampling_of(sweep)["type"], sweep["search_space"], sweep.get("early_termination"))
    policy_of(sweep)
    check_command(sweep["trial"], sweep["search_space"])


def direction_of(sweep: Mapping[str, Any]) -> str:
    """Return ``"minimize"`` or ``"maximize"``."""
    goal = str(sweep["objective"].get("goal")).lower()
    if goal not in ("minimize", "maximize"):
        raise ValueError(f"goal must be 'minimize' or 'maximize', got {sweep['objective'].get('goal')!r}")
    if not sweep["objective"].get("primary_metric"):
        raise ValueError(f"the objective needs a primary_metric, got {dict(sweep['objective'])!r}")
    return goal


def check_limits(limits: Mapping[str, Any]) -> None:
    """Raise ValueError if a limit is out of range; without `max_concurrent_trials` all may run at a time."""
    total = limits.get("max_total_trials")
    for name, limit in (
        ("max_total_trials", total),
        ("max_concurrent_trials", limits.get("max_concurrent_trials", total)),
    ):
        if not isinstance(limit, Integral) or limit < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {limit!r}")
    if limits.get("max_concurrent_trials", total) > total:
        concurrent = limits["max_concurrent_trials"]
        raise ValueError(f"max_concurrent_trials must be at most max_total_trials={total}, got {concurrent!r}")
    for name in ("timeout", "trial_timeout"):
        limit = limits.get(name)
        # Of a float azure-ai-ml makes no limit at all.
        if limit is not None and (not isinstance(limit, Integral) or limit < SHORTEST):
            raise ValueError(f"{name} must be a whole number of seconds, at least {SHORTEST}, got {limit!r}")


def sampling_of(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling algorithm as a dict with its ``type`` in lower case."""
    sampling = sweep["sampling_algorithm"]
    settings = dict(sampling) if isinstance(sampling, Mapping) else {"type": sampling}
    return settings | {"type": str(settings.get("type")).lower()}


def check_sampling(kind: str, search_space: SearchSpace, early_termination: Any) -> None:
    """Raise ValueError if Azure cannot sample a search space so."""
    if kind not in ("random", "grid", "bayesian"):
        raise ValueError(f"sampling must be 'random', 'grid' or 'bayesian', got {kind!r}")
    if kind == "bayesian" and early_termination:
        raise ValueError(f"Bayesian sampling takes no early-termination policy, got {early_termination!r}")
    for name, expression in search_space.items():
        allowed = ALLOWED.get(kind, {expression["type"]})
        if expression["type"] not in allowed:
            taken = ", ".join(sorted(allowed))
            raise ValueError(f"{kind} sampling takes {taken} alone, got {dict(expression)!r} for {name!r}")


def policy_of(sweep: Mapping[str, Any]) -> Policy | None:
    """Return the early-termination policy as an Optuna pruner, None if the sweep has none.

    `azure-ai-ml` writes 0 for the slack that was not given, so a slack of 0 counts as none.
    """
    if not sweep.get("early_termination"):
        return None
    settings = dict(sweep["early_termination"])
    kind = str(settings.pop("type", None)).lower()
    if kind not in POLICIES:
        raise ValueError(f"an early-termination policy is one of {sorted(POLICIES)}, got {kind!r}")
    if "evaluation_interval" not in settings:
        raise ValueError(f"write evaluation_interval out, defaults differ: got {dict(sweep['early_termination'])!r}")
    given = {name: value for name, value in settings.items() if value is not None}
    if kind == "bandit":
        given = {name: value for name, value in given.items() if not (name.startswith("slack_") and value == 0)}
    try:
        return POLICIES[kind](**given)
    except TypeError as error:  # a setting that this policy does not have, or one that is missing
        raise ValueError(f"the settings of {kind!r} do not fit ({error}), got {settings!r}") from error


def check_command(trial: Any, search_space: SearchSpace) -> None:
    """Raise ValueError if command and search space do not name the same hyperparameters."""
    if not isinstance(trial, Mapping) or "command" not in trial:
        return  # a component in a file of its own
    used = set(re.findall(r"\$\{\{\s*search_space\.(\w+)\s*\}\}", trial["command"]))
    if used != set(search_space):
        raise ValueError(
            f"the command must use each of {sorted(search_space)} as ${{{{search_space.name}}}} and no others, "
            f"got {trial['command']!r}"
        )
