"""The contract of a launcher: where a job runs, and what time is.

`tune` is written against this page alone, so the same loop tunes on this machine, on a cloud, or over
recorded learning curves in virtual time. A launcher is anything with the members of `Launcher`; its jobs
have those of `Job`.
"""

from __future__ import annotations

import enum
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


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


class Job(Protocol):
    """One configuration in training."""

    id: int  #: counts up with each `Launcher.submit`; simultaneous events are delivered in its order
    params: Mapping[str, Any]
    epochs: int  #: the epoch after which the job ends
    status: JobStatus
    error: str | None  #: why it failed; None unless `status` is FAILED

    @property
    def finished(self) -> bool:
        """Whether the job has ended, in whatever way; its worker is free from then on."""

    def new_reports(self) -> list[Report]:
        """Return the reports that were not returned before, oldest first."""

    def stop(self) -> None:
        """End the job. It may be called twice, and nothing is delivered after it."""


class Launcher(Protocol):
    """Runs jobs, `n_workers` at a time. To be used in a ``with`` block, which closes it."""

    n_workers: int  #: how many jobs may run now; read it anew before each `submit`, a cloud may lower it
    metric: str  #: the name of the metric that is tuned

    def clock(self) -> float:
        """Return the seconds since this launcher was made, on its own clock."""

    def submit(self, params: Mapping[str, Any], epochs: int) -> Job:
        """Start a job of at most `epochs` epochs; RuntimeError if all `n_workers` are taken.

        The job's length is the smaller of `epochs` and ``params["epochs"]``, where `params` has one.
        """

    def wait(self, jobs: Sequence[Job], timeout: float | None = None) -> None:
        """Return at the first unread report or change of status of `jobs`, or after `timeout` seconds.

        Returns at once if a report is unread or a change of status was not yet waited for. ValueError if
        `jobs` is empty, since nothing could ever end the wait.
        """

    def close(self) -> None:
        """Stop what still runs and leave nothing behind. It may be called twice."""

    def __enter__(self) -> Launcher: ...

    def __exit__(self, *exception: object) -> None: ...


def job_epochs(params: Mapping[str, Any], epochs: int) -> int:
    """Return the length of a job: `epochs`, or ``params["epochs"]`` where that is shorter."""
    return min(epochs, int(params.get("epochs", epochs)))


def make_report(metrics: Any, metric: str, previous_epoch: int, time: float) -> Report:
    """Check what a training function yielded and make a report of it.

    Parameters
    ----------
    metrics
        What was yielded: a dict with at least `metric`. Its ``"epoch"`` is the report's; without one, epochs
        are counted.
    metric
        The name of the metric that is tuned.
    previous_epoch
        The epoch of the job's last report, 0 before the first.
    time
        The launcher's clock, in seconds.

    Raises
    ------
    ValueError
        If `metrics` is no dict, lacks `metric`, holds no number there, holds NaN, or goes back in epochs.
    """
    if not isinstance(metrics, Mapping):
        raise ValueError(f"training must yield a dict of metrics once per epoch, got {_short(metrics)}")
    if metric not in metrics:
        raise ValueError(f"training must yield {metric!r}, got only {sorted(map(str, metrics))}")
    value = metrics[metric]
    # A NumPy scalar is a number here; a string that reads like one is not, and neither is a truth value.
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ValueError(f"{metric!r} must be a number, got {_short(value)}")
    epoch = metrics.get("epoch", previous_epoch + 1)
    if not isinstance(epoch, numbers.Integral) or epoch <= previous_epoch:
        raise ValueError(f"'epoch' must be a whole number over {previous_epoch}, got {_short(epoch)}")
    if math.isnan(value):
        raise ValueError(f"{metric!r} was nan after epoch {epoch}")
    return Report(int(epoch), float(value), time, dict(metrics))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
