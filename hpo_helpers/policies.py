"""HyperDrive's three early-termination policies, as Optuna pruners.

A run reports *interval* 3 with step 3. A policy looks at what all runs of the study had reported
by then. A run's value is its best so far; a run without numbers is ended. HyperDrive's documentation
has rules for maximising alone, which are mirrored for minimising.

Sources: the references of ``azureml.train.hyperdrive`` and of ``azure.ai.ml.sweep``. Median
stopping: D. Golovin et al., "Google Vizier", KDD 2017.
"""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from statistics import fmean, median

from optuna.pruners import BasePruner
from optuna.study import StudyDirection


@dataclass(kw_only=True, eq=False)
class _Policy(BasePruner):
    """When a policy is applied, and to which values."""

    evaluation_interval: int = 1
    delay_evaluation: int = 0

    def __post_init__(self):
        for name, lowest in (("evaluation_interval", 1), ("delay_evaluation", 0)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < lowest:
                raise ValueError(f"{name} must be a whole number of at least {lowest}, got {value!r}")

    def prune(self, study, trial):
        """Return whether the policy ends `trial` at the interval just reported."""
        interval = trial.last_step
        if interval is None or interval < max(1, self.delay_evaluation):
            return False
        if interval % self.evaluation_interval != 0:
            return False
        values = _reported(trial, interval)
        if not values:
            return True
        runs = [_reported(run, interval) for run in self._rivals(study, interval)]
        maximize = study.direction == StudyDirection.MAXIMIZE
        return self._ends(_best(values, maximize), [run for run in runs if run], maximize)

    def _rivals(self, study, interval):
        return study.get_trials(deepcopy=False)


@dataclass(kw_only=True, eq=False)
class BanditPolicy(_Policy):
    """Policy to end a run that falls behind the best one by more than a slack.

    When maximising, a run ends below ``best / (1 + slack_factor)``, or below
    ``best - slack_amount``; when minimising, above ``best * (1 + slack_factor)``, or above
    ``best + slack_amount``.

    Parameters
    ----------
    slack_factor
        The slack as a ratio, 0 or more: 0.2 allows 20 %. Give this or `slack_amount`.
    slack_amount
        The slack in the unit of the metric, 0 or more.
    evaluation_interval
        The policy is applied at the multiples of this number of intervals.
    delay_evaluation
        The first interval at which the policy may be applied.
    """

    slack_factor: float | None = None
    slack_amount: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        slacks = {"slack_factor": self.slack_factor, "slack_amount": self.slack_amount}
        given = {name: slack for name, slack in slacks.items() if slack is not None}
        if len(given) != 1:
            raise ValueError(f"give either slack_factor or slack_amount, got {slacks}")
        for name, slack in given.items():
            if not (isinstance(slack, Real) and 0 <= slack < math.inf):
                raise ValueError(f"{name} must be a finite number of at least 0, got {slack!r}")

    def _ends(self, value, runs, maximize):
        best = _best([_best(run, maximize) for run in runs], maximize)
        return _is_worse(value, self._limit(best, maximize), maximize)

    def _limit(self, best, maximize):
        if self.slack_amount is not None:
            return best - self.slack_amount if maximize else best + self.slack_amount
        if best < 0:
            raise ValueError(f"slack_factor needs a metric from 0 on, got {best!r}: use slack_amount")
        return best / (1 + self.slack_factor) if maximize else best * (1 + self.slack_factor)


class MedianStoppingPolicy(_Policy):
    """Policy to end a run whose best value is worse than the median of the runs' averages.

    A run's average is that of all it reported up to the interval. Its settings are those of
    `BanditPolicy` without a slack.
    """

    def _ends(self, value, runs, maximize):
        return _is_worse(value, median(_average(run) for run in runs), maximize)


@dataclass(kw_only=True, eq=False)
class TruncationSelectionPolicy(_Policy):
    """Policy to end a given percentage of the runs, the worst, at each interval.

    Of ``n`` runs that have reached the interval, those with the worst best values end:
    ``floor(n * truncation_percentage / 100)``, equal ones only if there is room for all.

    Parameters
    ----------
    truncation_percentage
        The percentage of runs to end, a whole number from 1 to 99.
    evaluation_interval, delay_evaluation
        As in `BanditPolicy`.
    """

    truncation_percentage: int

    def __post_init__(self) -> None:
        super().__post_init__()
        percentage = self.truncation_percentage
        if not isinstance(percentage, Integral) or not 1 <= percentage <= 99:
            wanted = "truncation_percentage must be a whole number from 1 to 99"
            raise ValueError(f"{wanted}, got {percentage!r}")

    def _rivals(self, study, interval):
        return [run for run in super()._rivals(study, interval) if interval in run.intermediate_values]

    def _ends(self, value, runs, maximize):
        n_not_better = sum(not _is_worse(value, _best(run, maximize), maximize) for run in runs)
        return n_not_better * 100 <= len(runs) * self.truncation_percentage


def _reported(trial, interval):
    """Return the numbers that a run reported up to an interval."""
    values = trial.intermediate_values.items()
    return [value for step, value in values if 1 <= step <= interval and not math.isnan(value)]


def _best(values, maximize):
    return max(values) if maximize else min(values)


def _is_worse(value, limit, maximize):
    return value < limit if maximize else value > limit


def _average(values):
    # By rounding, the mean of equal values may lie above all of them.
    return min(max(fmean(values), min(values)), max(values))
