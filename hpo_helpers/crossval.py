"""Cross-validation of one configuration: its k folds as k jobs of any launcher.

A fold is a job whose training function takes ``fold`` beside the hyperparameters, and yields one dict: the
metric on the fold's validation examples. So whatever runs jobs evaluates folds, in processes of this machine or
in a cloud, and what a launcher can do to a job (tell why it failed, stop it) can be done to a fold.
"""

from __future__ import annotations

import math
import numbers
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo_helpers.jobs import Job, JobStatus, Launcher

if TYPE_CHECKING:
    import numpy as np

FEWEST_FOLDS, MOST_FOLDS = 2, 10


class FoldError(RuntimeError):
    """A fold has no value; the message names the fold and the reason.

    Parameters
    ----------
    fold
        Its number, from 0.
    reason
        What became of it.
    """

    def __init__(self, fold: int, reason: str) -> None:
        super().__init__(fold, reason)
        self.fold = fold
        self.reason = reason

    def __str__(self) -> str:
        return f"fold {self.fold} {self.reason}"


@dataclass(frozen=True)
class FoldValues:
    """What the folds of one configuration gave.

    Parameters
    ----------
    values
        The metric on each fold's validation examples, in the order of the folds.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The cross-validated estimate."""
        return statistics.fmean(self.values)

    @property
    def standard_error(self) -> float:
        """The naive standard error of the mean, as if the folds were independent. It is too small.

        Any two training parts share examples, so that the folds' values vary together; and their common part
        does not show in the spread between them.
        """
        return statistics.stdev(self.values) / math.sqrt(len(self.values))

    @property
    def corrected_standard_error(self) -> float:
        """The standard error with the correction of Nadeau and Bengio.

        The naive variance ``s**2 / k`` becomes ``s**2 * (1 / k + n_valid / n_train)``, and in k folds of one
        size ``n_valid / n_train`` is ``1 / (k - 1)``. The correction was derived for random splits, and is a
        rule of thumb here: no unbiased estimate exists for k folds (Bengio and Grandvalet, 2004).

        Source: C. Nadeau, Y. Bengio, "Inference for the Generalization Error", Machine Learning 52, 2003.
        """
        k = len(self.values)
        return statistics.stdev(self.values) * math.sqrt(1 / k + 1 / (k - 1))


def make_folds(labels: Sequence[Any], k: int, seed: int) -> np.ndarray:
    """Cut examples into k folds at random, each class spread evenly over them.

    Make them once, and evaluate every configuration on the same ones: otherwise the luck of the cut is added to
    the difference between two configurations.

    Parameters
    ----------
    labels
        The class of each example, of shape (n,).
    k
        The number of folds, 2 to 10.
    seed
        Of the cut; the same labels, k and seed give the same folds.

    Returns
    -------
    ndarray
        Of shape (n,): for each example the number, from 0, of the one fold in which it validates. In all
        others it trains.

    Raises
    ------
    ValueError
        If `k` is out of range, or a class has fewer than `k` examples: a fold would lack it.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedKFold

    _check_k(k)
    for name, size in zip(*np.unique(labels, return_counts=True), strict=True):
        if size < k:
            raise ValueError(
                f"each class needs an example in each of the k={k} folds, got {size} of class {name}"
            )
    fold_of = np.empty(len(labels), dtype=np.int64)
    cut = StratifiedKFold(n_splits=int(k), shuffle=True, random_state=seed)
    for fold, (_, validating) in enumerate(cut.split(fold_of, labels)):
        fold_of[validating] = fold
    return fold_of


def cross_validate(
    launcher: Launcher, params: Mapping[str, Any], k: int, *, fold_timeout: float | None = None
) -> FoldValues:
    """Evaluate one configuration on all its folds, as many at a time as the launcher has workers.

    Parameters, and the errors raised, are those of `evaluate_folds`.

    Examples
    --------
    >>> from hpo_helpers.jobs.local import LocalLauncher
    >>> def train(fold, epochs, slope):
    ...     yield {"auc": 0.9 + slope * fold}
    >>> with LocalLauncher(train, n_workers=2, metric="auc") as launcher:
    ...     found = cross_validate(launcher, {"slope": 0.01}, k=3)
    >>> found.values
    (0.9, 0.91, 0.92)
    >>> f"{found.mean:.2f}, {found.standard_error:.4f}, {found.corrected_standard_error:.4f}"
    '0.91, 0.0058, 0.0091'
    """
    folds = evaluate_folds(launcher, params, k, fold_timeout=fold_timeout)
    return FoldValues(tuple(value for _, value in folds))


def evaluate_folds(
    launcher: Launcher, params: Mapping[str, Any], k: int, *, fold_timeout: float | None = None
) -> Iterator[tuple[int, float]]:
    """Yield each fold's number and value, in the order of the folds. To end early is to stop iterating.

    Folds that still run when the iteration ends, for whatever reason, are stopped; nothing is left of them.

    Parameters
    ----------
    launcher
        Runs a function that takes ``fold``, a number from 0, beside `params`, and reports its metric once.
        All its workers are taken; none may be busy.
    params
        The configuration.
    k
        The number of folds, 2 to 10.
    fold_timeout
        Seconds of the launcher's clock after which a fold that has not ended counts as failed. In a cloud
        they include the wait for a machine.

    Raises
    ------
    FoldError
        As soon as a fold fails, is stopped from outside, exceeds its time, or ends without a report.
    ValueError
        If `k` or `fold_timeout` is out of range, at the first iteration.
    """
    _check_k(k)
    if fold_timeout is not None and not fold_timeout > 0:
        raise ValueError(f"fold_timeout must be positive, got {fold_timeout!r}")
    waiting, running, values = list(range(k)), [], {}
    try:
        for fold in range(k):
            while fold not in values:
                while waiting and len(running) < launcher.n_workers:
                    running.append(_Fold(waiting.pop(0), launcher, params, fold_timeout))
                _wait(launcher, running)
                values |= {ended.number: ended.value for ended in running if ended.has_ended()}
                running = [other for other in running if other.number not in values]
            yield fold, values[fold]
    finally:
        _stop(launcher, [fold.job for fold in running])


class _Fold:
    """A fold that runs."""

    def __init__(
        self, number: int, launcher: Launcher, params: Mapping[str, Any], timeout: float | None
    ) -> None:
        self.number = number
        self.job = launcher.submit({**params, "fold": number}, epochs=1)
        self.value = math.nan
        self._launcher = launcher
        self._timeout = math.inf if timeout is None else timeout
        self._deadline = launcher.clock() + self._timeout

    def time_left(self) -> float:
        return max(0.0, self._deadline - self._launcher.clock())

    def has_ended(self) -> bool:
        """Take in what the job says, and return whether it ended well."""
        ended = self.job.finished  # asked first: its last report is then certainly among those read next
        for report in self.job.new_reports():
            self.value = report.value
        if not ended and self.time_left() > 0:
            return False
        reason = self._find_fault(ended)
        if reason:
            raise FoldError(self.number, reason)
        return True

    def _find_fault(self, ended: bool) -> str | None:
        if not ended:
            return f"had not ended after {self._timeout:g} s (fold_timeout)"
        if self.job.status is JobStatus.FAILED:
            return f"failed: {self.job.error}"
        if self.job.status is JobStatus.STOPPED:
            return "was stopped from outside"
        return "ended without a report" if math.isnan(self.value) else None


def _wait(launcher: Launcher, running: Sequence[_Fold]) -> None:
    time_left = min(fold.time_left() for fold in running)
    launcher.wait([fold.job for fold in running], None if time_left == math.inf else time_left)


def _stop(launcher: Launcher, jobs: Sequence[Job]) -> None:
    """Stop jobs and wait until their workers are free: a cloud takes its time."""
    for job in jobs:
        job.stop()
    while stopping := [job for job in jobs if not job.finished]:
        launcher.wait(stopping)


def _check_k(k: Any) -> None:
    is_whole = isinstance(k, numbers.Integral) and not isinstance(k, bool)
    if not is_whole or not FEWEST_FOLDS <= k <= MOST_FOLDS:
        raise ValueError(f"k must be a whole number from {FEWEST_FOLDS} to {MOST_FOLDS}, got {k!r}")
