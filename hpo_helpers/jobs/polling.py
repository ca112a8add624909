"""What launchers have in common that learn of their jobs by asking, again and again."""

from __future__ import annotations

import itertools
import numbers
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hpo_helpers.jobs import JobStatus, Report, job_epochs


class PollingLauncher:
    """A launcher that asks how its jobs stand; a subclass says how, in `_poll`.

    Parameters
    ----------
    metric
        The name of the metric that is tuned.
    """

    n_workers: int

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self._ids = itertools.count()
        self._running: dict[int, PolledJob] = {}
        self._closed = False
        self._start = time.monotonic()

    def clock(self) -> float:
        """Return the seconds since this launcher was made."""
        return time.monotonic() - self._start

    def wait(self, jobs: Sequence[PolledJob], timeout: float | None = None) -> None:
        """Return at the first unread report or change of status of `jobs`, or after `timeout` seconds.

        Returns at once if a report is unread (a loop must read them, or it never rests) or a change of status
        was not yet waited for. ValueError if nothing could ever end the wait: `jobs` is empty, or each has
        finished, was waited for and read.
        """
        deadline = None if timeout is None else self.clock() + timeout
        self._poll()
        while not any(job._has_news() for job in jobs):
            if all(job._is_gone() for job in jobs):
                raise ValueError(f"there is no running job to wait for, got {list(jobs)!r}")
            remaining = None if deadline is None else deadline - self.clock()
            if remaining is not None and remaining <= 0:
                return
            self._poll(remaining)
        for job in jobs:
            job._end_was_seen = job._is_gone()

    def close(self) -> None:
        """Stop what still runs. It may be called twice."""
        raise NotImplementedError

    def __enter__(self) -> PollingLauncher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _poll(self, timeout: float | None = 0) -> None:
        """Take in what is new of the jobs, waiting up to `timeout` seconds for something (None: for ever)."""
        raise NotImplementedError

    def _check_free(self) -> None:
        """Raise RuntimeError unless another job may be started."""
        self._poll()
        if self._closed:
            raise RuntimeError("this launcher is closed: make a new one")
        if len(self._running) >= self.n_workers:
            raise RuntimeError(f"all {self.n_workers} workers are taken: wait until a job has finished")


class PolledJob:
    """A configuration in training, as far as its launcher knows."""

    def __init__(self, launcher: Any, id: int, params: Mapping[str, Any], epochs: int) -> None:
        self.id = id
        self.params = dict(params)
        self.epochs = positive("epochs", job_epochs(params, epochs))
        self.error: str | None = None
        self._launcher = launcher
        self._status = JobStatus.RUNNING
        self._reports: list[Report] = []
        self._n_read = 0
        self._silent = False  # stopped: nothing is delivered any more
        self._end_was_seen = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}: {self._status.value}, {self.params}>"

    @property
    def status(self) -> JobStatus:
        """Where the job stands, as far as its launcher knows by now."""
        self._launcher._poll()
        return self._status

    @property
    def finished(self) -> bool:
        """Whether the job has ended, and nothing of it is left to come."""
        self._launcher._poll()
        return self._is_gone()

    def new_reports(self) -> list[Report]:
        """Return the reports that were not returned before, oldest first."""
        self._launcher._poll()
        reports = self._unread()
        self._n_read = len(self._reports)
        return reports

    def _unread(self) -> list[Report]:
        return [] if self._silent else self._reports[self._n_read :]

    def _is_gone(self) -> bool:
        return self.id not in self._launcher._running

    def _has_news(self) -> bool:
        return bool(self._unread()) or (self._is_gone() and not self._end_was_seen)


def positive(name: str, value: Any) -> int:
    """Return a positive whole number; ValueError if it is none."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    return int(value)


def check_fixed(fixed: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the hyperparameters that are the same for every job; ValueError if ``epochs`` is among them."""
    if "epochs" in (fixed or {}):
        raise ValueError(f"epochs is given to each job, not in fixed, got {dict(fixed)!r}")
    return dict(fixed or {})
