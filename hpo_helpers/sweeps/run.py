"""A sweep job on this machine: the same search space, policy, limits and metric, by Optuna over any launcher."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
import pandas as pd
from optuna.samplers import BaseSampler, GridSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from hpo_helpers.jobs import Job, Launcher
from hpo_helpers.sweeps.expressions import space_of
from hpo_helpers.sweeps.picture import LivePicture
from hpo_helpers.sweeps.settings import Sweep, check_sweep, direction_of, policy_of, sampling_of
from hpo_helpers.tuning import tune

#: What Azure calls the ways in which a trial ends.
STATUS = {TrialState.COMPLETE: "Completed", TrialState.PRUNED: "Canceled", TrialState.FAIL: "Failed"}


def run_sweep(
    sweep: Sweep,
    launcher: Launcher,
    *,
    epochs: int,
    seed: int = 0,
    live: bool = False,
    storage: str | optuna.storages.BaseStorage | None = None,
    max_failures: int = 5,
) -> optuna.Study:
    """Run a sweep job on this machine, or wherever a launcher runs its jobs.

    What Azure keeps to itself is Optuna's here: Bayesian sampling is its TPE sampler, and a grid is gone through
    in random order. The launcher trains in place of the job's command, environment and compute.

    Parameters
    ----------
    sweep
        A sweep job, from `build_sweep` or `read_sweep`.
    launcher
        Where the trials run: as many at a time as the sweep allows and the launcher has workers.
    epochs
        The longest training, in epochs. Each is one interval of the policy.
    seed
        Of the sampler; random sampling takes the job's own where that has one.
    live
        Show the trials' metric curves as they come, and leave the last picture in the notebook.
    storage
        Where Optuna keeps the study, ``"sqlite:///sweep.db"`` for instance; there an interrupted sweep goes on.
    max_failures
        So many failures in a row raise RuntimeError.

    Returns
    -------
    Study
        With everything that `tune` notes, and in each trial's user attribute ``parameters`` what it trained with.

    Raises
    ------
    ValueError
        As `check_sweep` does, or if the launcher reads another metric than the sweep compares.
    RuntimeError
        If `max_failures` trials in a row failed.
    """
    check_sweep(sweep)
    metric = sweep["objective"]["primary_metric"]
    if launcher.metric != metric:
        raise ValueError(f"the sweep compares {metric!r}: give it to the launcher, got metric={launcher.metric!r}")
    study = optuna.create_study(
        study_name=f"{sweep.get('experiment_name', 'sweep')}-{seed}",
        direction=direction_of(sweep),
        sampler=_sampler_of(sweep, seed),
        pruner=policy_of(sweep) or optuna.pruners.NopPruner(),
        storage=storage,
        load_if_exists=storage is not None,
    )
    study.set_user_attr("primary_metric", metric)
    limits = sweep["limits"]
    with LivePicture(study, shown=live) as picture:
        tune(
            study,
            space_of(sweep["search_space"]),
            _SweepLauncher(launcher, limits.get("max_concurrent_trials", math.inf), picture.refresh),
            epochs=epochs,
            n_trials=min(limits["max_total_trials"], _n_combinations(sweep)),
            timeout=limits.get("timeout"),
            trial_timeout=limits.get("trial_timeout"),
            max_failures=max_failures,
            progress=not live,
        )
    return study


def child_runs(study: optuna.Study) -> pd.DataFrame:
    """Return the trials of a sweep that have ended, the best first.

    Parameters
    ----------
    study
        As `run_sweep` returns it.

    Returns
    -------
    DataFrame
        ``child`` (the trial's number), ``status`` (Azure's word: a trial that a policy or a time limit ended is
        Canceled), the hyperparameters, the metric at its best, and ``intervals``: how often it was logged.
    """
    metric = study.user_attrs["primary_metric"]
    best = min if study.direction == optuna.study.StudyDirection.MINIMIZE else max
    trials = [trial for trial in study.get_trials(deepcopy=False) if _has_ended(trial)]
    table = pd.DataFrame([_child(trial, metric, best) for trial in trials])
    return table.sort_values(metric, ascending=best is min, ignore_index=True) if trials else table


def _child(trial: FrozenTrial, metric: str, best: Callable) -> dict[str, Any]:
    values = trial.intermediate_values.values()
    parameters = trial.user_attrs.get("parameters", {})
    ended = {metric: best(values, default=math.nan), "intervals": len(values)}
    return {"child": trial.number, "status": STATUS[trial.state], **parameters, **ended}


def _has_ended(trial: FrozenTrial) -> bool:
    return trial.state in STATUS and "requeued" not in trial.user_attrs


def _sampler_of(sweep: Sweep, seed: int) -> BaseSampler:
    sampling = sampling_of(sweep)
    if sampling["type"] == "grid":
        return GridSampler({name: choice["values"] for name, choice in sweep["search_space"].items()}, seed=seed)
    if sampling["type"] == "bayesian":
        return TPESampler(seed=seed)
    if sampling.get("logbase") is not None:
        raise ValueError(f"random sampling by a base of its own has no counterpart here, got {sampling!r}")
    if str(sampling.get("rule")).lower() == "sobol":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # it has been since 2022
            return QMCSampler(scramble=True, seed=sampling.get("seed", seed), warn_independent_sampling=False)
    return RandomSampler(sampling.get("seed", seed))


def _n_combinations(sweep: Sweep) -> float:
    """Return how many trials a grid has; any other sampling has no end."""
    if sampling_of(sweep)["type"] != "grid":
        return math.inf
    return math.prod(len(choice["values"]) for choice in sweep["search_space"].values())


class _SweepLauncher:
    """A launcher that runs no more trials at a time than a sweep allows, and says when something has happened."""

    def __init__(self, launcher: Launcher, max_concurrent_trials: float, on_news: Callable[[], None]) -> None:
        self._launcher = launcher
        self._max_concurrent_trials = max_concurrent_trials
        self._on_news = on_news
        self.metric = launcher.metric

    @property
    def n_workers(self) -> int:
        return min(self._launcher.n_workers, self._max_concurrent_trials)

    def clock(self) -> float:
        return self._launcher.clock()

    def submit(self, params: Mapping[str, Any], epochs: int) -> Job:
        return self._launcher.submit(params, epochs)

    def wait(self, jobs: Sequence[Job], timeout: float | None = None) -> None:
        self._on_news()  # of what was read since the last time
        self._launcher.wait(jobs, timeout)
