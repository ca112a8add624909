"""Jobs that replay recorded learning curves, in virtual time."""

import collections
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hpo_helpers.jobs import Job, JobStatus, Launcher, check_fixed, make_report, positive

Curves = Callable[[Mapping[str, Any]], Iterable[Mapping[str, Any]]]


class ReplayLauncher(Launcher):
    """Replay recorded trainings in virtual time: an hour of four workers takes a second.

    `tune` sees what it would see of real workers that take the recorded seconds. The same
    seeds give the same run.

    Parameters
    ----------
    n_workers
        How many jobs may run at a time.
    curves
        A function from a configuration to its learning curve: one dict of metrics an epoch, its
        ``"seconds"`` being what that took. By default, the recorded curves of the MNIST CNN.
    fixed
        Hyperparameters of every job; a job's own of the same name comes first.
    metric
        The name of the metric that is tuned.
    """

    def __init__(
        self,
        n_workers: int = 4,
        *,
        curves: Curves | None = None,
        fixed: Mapping[str, Any] | None = None,
        metric: str = "valid_error",
    ) -> None:
        super().__init__(metric)
        self.n_workers = positive("n_workers", n_workers)
        if curves is None:
            from hpo_helpers.curves import cnn_curves  # which reads the recording

            curves = cnn_curves()
        self._curves = curves
        self._fixed = check_fixed(fixed)
        self._now = 0.0
        self._seen: float | None = None  # the moment up to which all that happens has happened

    def clock(self) -> float:
        """Return the virtual seconds since this launcher was made."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass, as it does while a sampler computes."""
        self._now += seconds

    def submit(self, params: Mapping[str, Any], epochs: int) -> Job:
        """Start a job; ValueError if it has more epochs than its curve."""
        self._check_free()
        configuration = {**self._fixed, **params}
        configuration.pop("epochs", None)
        job = ReplayJob(self, next(self._ids), params, epochs)
        job._play(self._curves(configuration))
        self._running[job.id] = job
        self._seen = None  # it may fail at once
        return job

    def close(self) -> None:
        self._closed = True
        for job in list(self._running.values()):
            job.stop()

    def _poll(self, timeout=0):
        if timeout == 0 and self._now == self._seen:
            return
        jobs = list(self._running.values())
        if timeout != 0:
            times = [job._next_time() for job in jobs]
            until = min(times) if timeout is None else min(*times, self._now + timeout)
            self._now = max(self._now, until)
        for job in jobs:
            job._happen()
        self._seen = self._now


class ReplayJob(Job):
    """A replayed training; made by `ReplayLauncher.submit`."""

    def stop(self) -> None:
        self._silent = True
        if not self.finished:
            self._status = JobStatus.STOPPED
            del self._launcher._running[self.id]

    def _play(self, curve):
        """Put down all that will happen to this job, and when."""
        self._coming = collections.deque()  # oldest first
        self._end, self._ending = self._launcher.clock(), (JobStatus.COMPLETED, None)
        try:
            for metrics in itertools.islice(curve, self.epochs):
                self._end += metrics["seconds"]
                previous = self._coming[-1].epoch if self._coming else 0
                self._coming.append(make_report(metrics, self._launcher.metric, previous, self._end))
        except Exception as error:
            self._ending = JobStatus.FAILED, f"{type(error).__name__}: {error}"
            return
        if len(self._coming) < self.epochs:
            ends = f"the curve ends after {len(self._coming)} epochs"
            raise ValueError(f"{ends}, got epochs={self.epochs}")

    def _next_time(self):
        return self._coming[0].time if self._coming else self._end

    def _happen(self):
        now = self._launcher.clock()
        while self._coming and self._coming[0].time <= now:
            self._reports.append(self._coming.popleft())
        if self._end <= now:
            self._status, self.error = self._ending
            del self._launcher._running[self.id]
