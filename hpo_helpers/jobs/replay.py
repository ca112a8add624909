"""Jobs that replay recorded learning curves, in virtual time."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hpo_helpers.jobs import JobStatus, Report, job_epochs, make_report

Curves = Callable[[Mapping[str, Any]], Iterable[Mapping[str, Any]]]


class ReplayLauncher:
    """Replay trainings that were recorded, in virtual time: an hour of four workers takes a second.

    A job is over as soon as it is submitted, but the launcher's clock does not show it yet. `wait` moves the clock
    to the next report, and what `tune` sees is what it would see of real workers that take the recorded seconds.
    The same seeds give the same run, on every machine.

    Parameters
    ----------
    n_workers
        How many jobs may run at a time.
    curves
        A function from a configuration to its learning curve: one dict of metrics an epoch, its ``"seconds"`` being
        what that epoch took. The recorded curves of the MNIST CNN (`curves.RecordedCurves`) if not given.
    fixed
        Hyperparameters that are the same for every job; a job's own of the same name comes first.
    metric
        The name of the metric that is tuned.
    startup
        Seconds that pass before a job's first epoch begins.

    Raises
    ------
    ValueError
        If `n_workers` is no positive whole number, or `startup` is negative.

    Examples
    --------
    >>> with ReplayLauncher(curves=lambda params: [{"valid_error": 0.3, "seconds": 5.0}]) as launcher:
    ...     job = launcher.submit({"learning_rate": 0.1}, epochs=1)
    ...     launcher.wait([job])
    ...     launcher.clock(), job.new_reports()[0].value
    (5.0, 0.3)
    """

    def __init__(
        self,
        n_workers: int = 4,
        *,
        curves: Curves | None = None,
        fixed: Mapping[str, Any] | None = None,
        metric: str = "valid_error",
        startup: float = 0.0,
    ) -> None:
        if not isinstance(n_workers, numbers.Integral) or n_workers < 1:
            raise ValueError(f"n_workers must be a whole number of at least 1, got {n_workers!r}")
        if not startup >= 0:
            raise ValueError(f"startup must be 0 or more seconds, got {startup!r}")
        self.n_workers = int(n_workers)
        self.metric = metric
        self._curves = curves or _cnn_curves()
        self._fixed = dict(fixed or {})
        self._startup = startup
        self._now = 0.0
        self._ids = itertools.count()
        self._running: dict[int, ReplayJob] = {}
        self._closed = False

    def clock(self) -> float:
        """Return the virtual seconds since this launcher was made."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass while the jobs go on, as it does while a sampler computes.

        Raises
        ------
        ValueError
            If `seconds` is negative.
        """
        if not seconds >= 0:
            raise ValueError(f"the clock goes forward only, got {seconds!r} seconds")
        self._now += seconds

    def submit(self, params: Mapping[str, Any], epochs: int) -> ReplayJob:
        """Start a job.

        Raises
        ------
        RuntimeError
            If all workers are taken, or the launcher is closed.
        ValueError
            If the curve is shorter than `epochs`, or `curves` refuses the configuration.
        """
        if self._closed:
            raise RuntimeError("this launcher is closed: make a new one")
        self._running = {id: job for id, job in self._running.items() if not job.finished}
        if len(self._running) >= self.n_workers:
            raise RuntimeError(f"all {self.n_workers} workers are taken: wait until a job has finished")
        configuration = {**self._fixed, **params}
        configuration.pop("epochs", None)
        job = ReplayJob(self, next(self._ids), params, job_epochs(params, epochs))
        job._play(self._curves(configuration), self._now + self._startup)
        self._running[job.id] = job
        return job

    def wait(self, jobs: Sequence[ReplayJob], timeout: float | None = None) -> None:
        """Move the clock to the next report or end of `jobs`, at most by `timeout` seconds.

        It stays where it is if a report is unread or an end was not yet waited for. ValueError if nothing could
        ever end the wait: `jobs` is empty, or each has finished, was waited for and read.
        """
        times = [time for job in jobs for time in job._next_time()]
        if not times:
            raise ValueError(f"there is no running job to wait for, got {list(jobs)!r}")
        until = min(times) if timeout is None else min(*times, self._now + timeout)
        self._now = max(self._now, until)
        for job in jobs:
            job._end_was_seen = job.finished

    def close(self) -> None:
        """Stop what still runs. It may be called twice."""
        self._closed = True
        for job in self._running.values():
            job.stop()

    def __enter__(self) -> ReplayLauncher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class ReplayJob:
    """A configuration whose training is replayed; made by `ReplayLauncher.submit`."""

    def __init__(self, launcher: ReplayLauncher, id: int, params: Mapping[str, Any], epochs: int) -> None:
        self.id = id
        self.params = dict(params)
        self.epochs = epochs
        self._launcher = launcher
        self._reports: list[Report] = []  # to come or unread, oldest first
        self._end = 0.0
        self._ending = JobStatus.COMPLETED
        self._failure: str | None = None
        self._stopped = False
        self._end_was_seen = False

    def __repr__(self) -> str:
        return f"<ReplayJob {self.id}: {self.status.value}, {self.params}>"

    @property
    def status(self) -> JobStatus:
        """Where the job stands at this moment of virtual time."""
        if self._stopped:
            return JobStatus.STOPPED
        return self._ending if self._end <= self._launcher.clock() else JobStatus.RUNNING

    @property
    def finished(self) -> bool:
        """Whether the job has ended, in whatever way."""
        return self.status is not JobStatus.RUNNING

    @property
    def error(self) -> str | None:
        """Why the job failed; None unless it did."""
        return self._failure if self.status is JobStatus.FAILED else None

    def new_reports(self) -> list[Report]:
        """Return the reports that were made by now and not returned before, oldest first."""
        made = list(itertools.takewhile(lambda report: report.time <= self._launcher.clock(), self._reports))
        del self._reports[: len(made)]
        return made

    def stop(self) -> None:
        """End the job. It may be called twice, and nothing is delivered after it."""
        self._reports.clear()
        self._stopped = self._stopped or not self.finished

    def _play(self, curve: Iterable[Mapping[str, Any]], start: float) -> None:
        """Put down all that will happen to this job, and when."""
        self._end = start
        try:
            for metrics in itertools.islice(curve, self.epochs):
                self._end += metrics["seconds"]
                previous = self._reports[-1].epoch if self._reports else 0
                self._reports.append(make_report(metrics, self._launcher.metric, previous, self._end))
        except Exception as error:
            self._ending, self._failure = JobStatus.FAILED, f"{type(error).__name__}: {error}"
            return
        if len(self._reports) < self.epochs:
            raise ValueError(f"the curve ends after {len(self._reports)} epochs, got epochs={self.epochs}")

    def _next_time(self) -> Iterator[float]:
        """Yield the time of the next report, or of the end if that was not waited for."""
        if self._reports:
            yield self._reports[0].time
        elif not self._end_was_seen:
            yield self._launcher.clock() if self._stopped else self._end


def _cnn_curves() -> Curves:
    from hpo_helpers.curves import cnn_curves  # reads the recording, which other curves do not need

    return cnn_curves()
