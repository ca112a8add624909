"""The contract of a launcher: where a job runs, and what time is.

`tune` is written against this page alone, so the same loop tunes on this machine, on a cluster,
on a cloud, or over recorded learning curves in virtual time. A launcher is anything with the
public members of `Launcher`, and its jobs those of `Job`. What all launchers do alike stands here.
"""

from __future__ import annotations

import enum
import itertools
import math
import numbers
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class JobStatus(enum.Enum):
    """Where a job stands."""

    RUNNING = "running"
    COMPLETED = "completed"  # it trained to its end
    FAILED = "failed"  # `Job.error` says why
    STOPPED = "stopped"  # somebody called `Job.stop`


@dataclass(frozen=True)
class Report:
    """What a job says after one epoch.

    Parameters
    ----------
    epoch
        Number of epochs trained so far, from 1.
    value
        The metric that is tuned.
    time
        The launcher's clock, in seconds, when the report was made (not when it was read).
    metrics
        Everything that the training function yielded, the tuned metric included.
    """

    epoch: int
    value: float
    time: float
    metrics: dict[str, Any]


class Launcher:
    """Runs jobs, `n_workers` at a time. To be used in a ``with`` block, which closes it.

    Parameters
    ----------
    metric
        The name of the metric that is tuned.
    """

    n_workers: int  #: how many jobs may run now; read it before each `submit`, a cloud may lower it

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self._ids = itertools.count()
        self._running: dict[int, Job] = {}
        self._closed = False
        self._start = time.monotonic()

    def clock(self) -> float:
        """Return the seconds since this launcher was made, on its own clock."""
        return time.monotonic() - self._start

    def submit(self, params: Mapping[str, Any], epochs: int) -> Job:
        """Start a job of at most `epochs` epochs; RuntimeError if all `n_workers` are taken.

        Its length is the smaller of `epochs` and ``params["epochs"]``, where `params` has one.
        """
        raise NotImplementedError

    def wait(self, jobs: Sequence[Job], timeout: float | None = None) -> None:
        """Return at the first unread report or change of status, or after `timeout` seconds.

        Returns at once if a report is unread (a loop must read them, or it never rests) or a
        change of status was not yet waited for. ValueError if nothing could ever end the wait:
        `jobs` is empty, or each has finished, was waited for and read.
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
        """Stop what still runs and leave nothing behind. It may be called twice."""
        raise NotImplementedError

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _poll(self, timeout=0):
        """Take in what is new of the jobs, waiting for it for `timeout` seconds, or for ever."""
        raise NotImplementedError

    def _check_free(self):
        """Raise RuntimeError unless another job may be started."""
        self._poll()
        if self._closed:
            raise RuntimeError("this launcher is closed: make a new one")
        if len(self._running) >= self.n_workers:
            taken = f"all {self.n_workers} workers are taken"
            raise RuntimeError(f"{taken}: wait until a job has finished")


class Job:
    """One configuration in training, as far as its launcher knows."""

    id: int  #: counts up with each `Launcher.submit`; simultaneous events come in its order
    epochs: int  #: the epoch after which the job ends
    error: str | None  #: why it failed; None unless `status` is FAILED

    def __init__(self, launcher: Any, id: int, params: Mapping[str, Any], epochs: int) -> None:
        self.id = id
        self.params = dict(params)
        self.epochs = positive("epochs", min(epochs, int(params.get("epochs", epochs))))
        self.error = None
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
        """Whether the job has ended, in whatever way; its worker is free from then on."""
        self._launcher._poll()
        return self._is_gone()

    def new_reports(self) -> list[Report]:
        """Return the reports that were not returned before, oldest first."""
        self._launcher._poll()
        reports = self._unread()
        self._n_read = len(self._reports)
        return reports

    def stop(self) -> None:
        """End the job. It may be called twice, and nothing is delivered after it."""
        raise NotImplementedError

    def _unread(self):
        return [] if self._silent else self._reports[self._n_read :]

    def _is_gone(self):
        return self.id not in self._launcher._running

    def _has_news(self):
        return bool(self._unread()) or (self._is_gone() and not self._end_was_seen)


def positive(name: str, value: Any) -> int:
    """Return a positive whole number; ValueError if it is none."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    return int(value)


def check_fixed(fixed: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the hyperparameters of every job; ValueError if ``epochs`` is among them."""
    if "epochs" in (fixed or {}):
        raise ValueError(f"epochs is given to each job, not in fixed, got {dict(fixed)!r}")
    return dict(fixed or {})


def make_report(metrics: Any, metric: str, previous_epoch: int, time: float) -> Report:
    """Check what a training function yielded and make a report of it.

    Parameters
    ----------
    metrics
        What was yielded: a dict with at least `metric`. Without ``"epoch"``, they are counted.
    metric
        The name of the metric that is tuned.
    previous_epoch
        The epoch of the job's last report, 0 before the first.
    time
        The launcher's clock, in seconds.

    Raises
    ------
    ValueError
        If it is no dict, lacks `metric`, has no number or NaN there, or goes back in epochs.
    """
    if not isinstance(metrics, Mapping):
        raise ValueError(f"training must yield a dict of metrics once per epoch, got {_short(metrics)}")
    if metric not in metrics:
        raise ValueError(f"training must yield {metric!r}, got only {sorted(map(str, metrics))}")
    value = metrics[metric]
    # A NumPy scalar is a number here; a string or a truth value is none.
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ValueError(f"{metric!r} must be a number, got {_short(value)}")
    epoch = metrics.get("epoch", previous_epoch + 1)
    if not isinstance(epoch, numbers.Integral) or epoch <= previous_epoch:
        raise ValueError(f"'epoch' must be a whole number over {previous_epoch}, got {_short(epoch)}")
    if math.isnan(value):
        raise ValueError(f"{metric!r} was nan after epoch {epoch}")
    return Report(int(epoch), float(value), time, dict(metrics))


def _short(value):
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
