"""Cross-validation of one configuration: its k folds as k jobs of any launcher.

A fold is a job whose training function takes ``fold``, from 0, beside the hyperparameters, and
yields one dict: the metric on the fold's validation examples.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from hpo_helpers.jobs import JobStatus, Launcher


class FoldError(RuntimeError):
    """A fold has no value; the message names its number and the reason."""


def evaluate_folds(
    launcher: Launcher, params: Mapping[str, Any], k: int, *, fold_timeout: float | None = None
) -> Iterator[float]:
    """Yield the metric on each fold's validation examples, in the order of the folds.

    To end early is to stop iterating: folds that still run are stopped then.

    Parameters
    ----------
    launcher
        Runs the folds. All its workers are taken; none may be busy.
    params
        The configuration.
    k
        The number of folds, 2 to 10.
    fold_timeout
        Seconds after which a fold has failed that has not ended; in a cloud, with the wait for
        a machine.

    Raises
    ------
    FoldError
        As soon as a fold fails, is stopped, exceeds its time, or ends without a report.
    """
    if k not in range(2, 11):
        raise ValueError(f"k must be a whole number from 2 to 10, got {k!r}")
    waiting, running, values = list(range(k)), [], {}
    try:
        for fold in range(k):
            while fold not in values:
                while waiting and len(running) < launcher.n_workers:
                    running.append(_Fold(waiting.pop(0), launcher, params, fold_timeout or math.inf))
                time_left = min(other.time_left() for other in running)
                jobs = [other.job for other in running]
                launcher.wait(jobs, time_left if time_left < math.inf else None)
                values |= {ended.number: ended.value for ended in running if ended.has_ended()}
                running = [other for other in running if other.number not in values]
            yield values[fold]
    finally:
        _stop(launcher, [other.job for other in running])


class _Fold:
    def __init__(self, number, launcher, params, timeout):
        self.number = number
        self.job = launcher.submit({**params, "fold": number}, epochs=1)
        self.value = math.nan
        self._clock, self._timeout = launcher.clock, timeout
        self._deadline = launcher.clock() + timeout

    def time_left(self):
        return max(0.0, self._deadline - self._clock())

    def has_ended(self):
        """Take in what the job says, and return whether it ended well."""
        ended = self.job.finished  # asked first: its last report is then among those
        for report in self.job.new_reports():
            self.value = report.value
        if not ended and self.time_left() > 0:
            return False
        if reason := self._find_fault(ended):
            raise FoldError(f"fold {self.number} {reason}")
        return True

    def _find_fault(self, ended):
        if not ended:
            return f"had not ended after {self._timeout:g} s (fold_timeout)"
        if self.job.status is JobStatus.FAILED:
            return f"failed: {self.job.error}"
        if self.job.status is JobStatus.STOPPED:
            return "was stopped from outside"
        return "ended without a report" if math.isnan(self.value) else None


def _stop(launcher, jobs):
    for job in jobs:
        job.stop()
    while stopping := [job for job in jobs if not job.finished]:
        launcher.wait(stopping)  # a cloud takes its time
