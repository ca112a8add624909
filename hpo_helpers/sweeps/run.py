"""A sweep job on this machine, by Optuna over any launcher."""

import math
import os
import time

import optuna
import pandas as pd
from optuna.samplers import GridSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from hpo_helpers.jobs import Launcher
from hpo_helpers.sweeps.expressions import require, space_of
from hpo_helpers.sweeps.picture import show
from hpo_helpers.sweeps.settings import Sweep, check_sweep, direction_of, policy_of, sampling_of
from hpo_helpers.tuning import tune

#: Azure's words for how a trial ends.
STATUS = {TrialState.COMPLETE: "Completed", TrialState.PRUNED: "Canceled", TrialState.FAIL: "Failed"}


def run_sweep(
    sweep: Sweep,
    launcher: Launcher,
    *,
    epochs: int,
    seed: int = 0,
    live: bool = False,
) -> optuna.Study:
    """Run a sweep job on this machine, or wherever a launcher runs its jobs.

    What Azure keeps to itself is Optuna's here: Bayesian sampling is its TPE sampler, and
    a grid is gone through at random. The launcher trains in place of the command.

    Parameters
    ----------
    sweep
        A sweep job: a dict with the keys of its YAML.
    launcher
        Where the trials run, as many at a time as it and the sweep allow.
    epochs
        The longest training, in epochs. Each is one interval of the policy.
    seed
        Of the sampler; a seed, rule or base that the job names is Azure's alone.
    live
        Show the trials' metric curves as they come, in a notebook.

    Returns
    -------
    Study
        With all that `tune` notes, and for each trial what `space_of` does.

    Raises
    ------
    ValueError
        As `check_sweep` does; and if the launcher reads another metric than the sweep.
    """
    sweep = check_sweep(sweep)
    metric, limits = sweep["objective"]["primary_metric"], sweep["limits"]
    advice = f"the sweep compares {metric!r}: give the launcher that metric"
    require(launcher.metric == metric, advice, launcher.metric)
    study = optuna.create_study(
        direction=direction_of(sweep),
        sampler=_sampler_of(sweep, seed),
        pruner=policy_of(sweep) or optuna.pruners.NopPruner(),
    )
    study.set_user_attr("primary_metric", metric)
    limited = _SweepLauncher(launcher, limits, study if live else None)
    tune(
        study,
        space_of(sweep["search_space"]),
        limited,
        epochs=epochs,
        n_trials=limits["max_total_trials"],  # a grid ends before, when it is through
        timeout=limits.get("timeout"),
        trial_timeout=limits.get("trial_timeout"),
        progress=not live,
    )
    limited.draw()
    return study


def child_runs(study: optuna.Study) -> pd.DataFrame:
    """Return the ended trials of a sweep, the best first, without those queued again.

    Returns
    -------
    DataFrame
        ``child`` (the trial's number), ``status`` (Azure's word: a trial that a policy or the sweep's
        time limit ended is Canceled), the hyperparameters, the metric at its best, and ``intervals``:
        how often it was logged.
    """
    metric = study.user_attrs["primary_metric"]
    best = min if study.direction == StudyDirection.MINIMIZE else max
    rows = [
        {
            "child": trial.number,
            "status": STATUS[trial.state],
            **trial.user_attrs.get("parameters", {}),
            metric: best(trial.intermediate_values.values(), default=math.nan),
            "intervals": len(trial.intermediate_values),
        }
        for trial in study.get_trials(deepcopy=False, states=tuple(STATUS))
        if "requeued" not in trial.user_attrs
    ]
    return pd.DataFrame(rows).sort_values(metric, ascending=best is min, ignore_index=True)


def _sampler_of(sweep, seed):
    sampling = sampling_of(sweep)
    if sampling == "grid":
        space = {name: choice["values"] for name, choice in sweep["search_space"].items()}
        return GridSampler(space, seed=seed)
    return TPESampler(seed=seed) if sampling == "bayesian" else RandomSampler(seed)


class _SweepLauncher:
    """A launcher held to a sweep's number of trials at a time, which shows the study.

    It draws while it waits, but not where ``TQDM_DISABLE`` hides progress.
    """

    def __init__(self, launcher, limits, study):
        self._launcher = launcher
        self._limit = limits.get("max_concurrent_trials", math.inf)
        self._study, self._shown, self._due = study, None, 0.0

    def __getattr__(self, name):
        return getattr(self._launcher, name)

    @property
    def n_workers(self):
        return min(self._launcher.n_workers, self._limit)

    def wait(self, jobs, timeout=None):
        if time.monotonic() >= self._due and not os.environ.get("TQDM_DISABLE"):
            self.draw()
            self._due = time.monotonic() + 0.5  # a drawing takes 0.1 s
        self._launcher.wait(jobs, timeout)

    def draw(self):
        if self._study:
            self._shown = show(self._study, self._shown)
