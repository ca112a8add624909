"""tune(): ask, launch, report, prune, tell, for any Optuna study over any launcher."""

import datetime
import json
import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import HyperbandPruner
from optuna.samplers import GridSampler
from optuna.trial import Trial, TrialState

from hpo_helpers import resuming, ties  # noqa: F401 (ties changes Optuna's TPE)
from hpo_helpers.jobs import Job, JobStatus, Launcher, positive
from hpo_helpers.progress import ProgressBar

Space = Mapping[str, BaseDistribution] | Callable[[Trial], Mapping[str, Any]]

#: So many configurations in a row that `space` prunes mean that it will never find another.
MAX_PRUNED_BY_SPACE = 1000

#: Clocks are sums of floats: a deadline closer than this, in seconds, has been reached.
CLOCK_TOLERANCE = 1e-6


def tune(
    study: optuna.Study,
    space: Space,
    launcher: Launcher,
    *,
    epochs: int,
    n_trials: int | None = None,
    timeout: float | None = None,
    trial_timeout: float | None = None,
    max_failures: int = 5,
    progress: bool = True,
) -> None:
    """Tune: keep every worker of `launcher` busy with trials of `study`, and prune as they report.

    Reports go to the study's pruner in the order in which they were made. A trial that
    trains to its end is told the value of its last epoch; a pruned one frees its worker at
    once. The same call after an interruption, in a new process too, goes on where the study
    stood, with a new sampler seeded anew. A configuration whose process died is tried again,
    twice at most.

    Parameters
    ----------
    study
        With one objective. Its sampler proposes configurations, its pruner ends trials early.
    space
        A dict of Optuna distributions, or a function of a trial that returns parameters. It may raise
        ``TrialPruned``, of a configuration that was trained before for example.
    launcher
        Where the jobs run. It is not closed.
    epochs
        The longest training, in epochs; shorter where the space searches ``"epochs"``.
    n_trials
        End when the study has so many finished trials, of earlier calls too; for a ``GridSampler``, as
        many as the grid has cells at most. Each further process on the study may add one.
    timeout
        End when the study's clock, the launcher's over all calls, reads so many seconds.
        Trials still running then are told PRUNED.
    trial_timeout
        Seconds after which a trial that has not ended is stopped and told FAIL.
    max_failures
        So many failures in a row raise RuntimeError: the training is likely to be wrong.
    progress
        Whether to show a bar with the incumbent's value.

    Raises
    ------
    ValueError
        If a setting is out of range.
    RuntimeError
        If `max_failures` trials in a row failed. The message carries the last error.

    Notes
    -----
    A trial's user attributes are ``started`` and ``finished`` (the study's clock, in
    seconds); ``report 1`` and so on (a dict for each epoch: ``epoch``, ``time``, and what
    training yielded); ``error`` if it failed; ``stop_reason`` if it was pruned; and ``owner``
    (host, pid and start of its process), by which those that a dead process left are queued
    again. ``requeued`` marks those, ``retry_of`` their next try. Those on other machines are
    left alone until nothing else is to be done; then they are taken over, unless their
    process gives a sign of life within half a minute.
    """
    _check(study, launcher, epochs, n_trials, timeout, trial_timeout, max_failures)
    if isinstance(study.sampler, GridSampler):
        n_trials = min(n_trials or math.inf, len(study.sampler._all_grids))
    with resuming.taken_up(study):
        session = _Session(study, space, launcher, epochs, n_trials, timeout, trial_timeout, max_failures)
        study.stop = session.stop_asking  # some samplers call it when they are through
        try:
            with ProgressBar(n_trials, timeout, enabled=progress) as bar:
                while session.step():
                    bar.show(session.n_finished, session.clock(), session.incumbent)
        except BaseException as error:
            session.abandon(error)
            raise
        finally:
            del study.stop


@dataclass
class _Run:
    trial: Trial
    job: Job
    started: float
    value: float | None = None


class _Session:
    def __init__(self, study, space, launcher, epochs, n_trials, timeout, trial_timeout, max_failures):
        self._study = study
        self._space = space
        self._launcher = launcher
        self._epochs = epochs
        limits = n_trials, timeout, trial_timeout
        limits = [math.inf if limit is None else limit for limit in limits]
        self._n_trials, self._timeout, self._trial_timeout = limits
        self._max_failures = max_failures
        self._running: dict[int, _Run] = {}  # by job id
        self._asked_at = datetime.datetime.max
        self._stopping: list[Job] = []  # told to stop, their workers not free yet
        self._failures = self._pruned_by_space = 0  # in a row
        self._asking = True
        self._sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
        self._offset = resuming.last_time(study) - launcher.clock()
        self.incumbent = _best_report(study, self._sign)
        self.n_finished = _n_finished(study.get_trials(deepcopy=False))

    def clock(self):
        """Return the launcher's clock, moved on by earlier calls."""
        return self._launcher.clock() + self._offset

    def stop_asking(self):
        self._asking = False

    def step(self):
        """Start what may start, deal with the next event; say whether there is more to do."""
        while self._may_start():
            self._start()
        jobs = [run.job for run in self._running.values()] + self._stopping
        if not jobs:
            return self._wants_more(_n_finished) and resuming.close_silent_trials(self._study)
        self._launcher.wait(jobs, self._until_deadline())
        self._collect()
        self._end_overdue()
        return True

    def abandon(self, error):
        """Stop everything and queue it again; the storage itself may be what is broken."""
        for run in self._running.values():
            with suppress(Exception):
                run.job.stop()
        with suppress(Exception):
            for trial in resuming.trials_of_this_process(self._study, self._asked_at):
                resuming.requeue(self._study, trial, f"interrupted by {type(error).__name__}")
        self._running.clear()

    def _may_start(self):
        if len(self._running) + len(self._stopping) >= self._launcher.n_workers:
            return False
        return self._wants_more(_n_begun)

    def _wants_more(self, count):
        """Return whether more trials are wanted than counted, and there is time."""
        if not self._asking or self._time_is_up():
            return False
        return count(self._study.get_trials(deepcopy=False)) < self._n_trials

    def _start(self):
        self._asked_at = datetime.datetime.now()
        trial = self._study.ask() if callable(self._space) else self._study.ask(dict(self._space))
        resuming.sign(trial)
        try:
            params = self._space(trial) if callable(self._space) else trial.params
            trial.set_user_attr("started", started := self.clock())
            job = self._launcher.submit(dict(params), self._epochs)
        except optuna.TrialPruned as reason:
            return self._pruned_by_the_space(trial, reason)
        except Exception as error:
            trial.set_user_attr("error", f"it could not be started: {error!r}")
            self._study.tell(trial, state=TrialState.FAIL)
            raise
        self._running[job.id] = _Run(trial, job, started)
        self._pruned_by_space = 0

    def _pruned_by_the_space(self, trial, reason):
        trial.set_user_attr("stop_reason", f"pruned by the space: {reason}")
        self._study.tell(trial, state=TrialState.PRUNED)
        self.n_finished += 1
        self._pruned_by_space += 1
        if self._pruned_by_space >= MAX_PRUNED_BY_SPACE:
            raise RuntimeError(
                f"the space pruned {MAX_PRUNED_BY_SPACE} configurations in a row, "
                f"the last one with: {str(reason) or 'no reason'}"
            )

    def _until_deadline(self):
        starts = [run.started for run in self._running.values()]
        deadline = min(self._timeout, min(starts, default=math.inf) + self._trial_timeout)
        return max(0.0, deadline - self.clock()) if starts and deadline < math.inf else None

    def _time_is_up(self):
        return self.clock() >= self._timeout - CLOCK_TOLERANCE

    def _collect(self):
        # Read first: the last reports of what has ended are then among those read next.
        ended = [run for run in self._running.values() if run.job.finished]
        arrived = [(report, run) for run in self._running.values() for report in run.job.new_reports()]
        for report, run in sorted(arrived, key=lambda pair: (pair[0].time, pair[1].job.id)):
            if run.job.id in self._running:
                self._report(run, report)
        for run in ended:
            if run.job.id in self._running:
                self._finish(run)
        self._stopping = [job for job in self._stopping if not job.finished]

    def _report(self, run, report):
        metrics = {**report.metrics, "epoch": report.epoch, "time": report.time + self._offset}
        run.value = report.value
        run.trial.set_user_attr(f"report {report.epoch}", json.loads(json.dumps(metrics, default=_plain)))
        run.trial.report(report.value, report.epoch)
        if self.incumbent is None or self._sign * report.value < self._sign * self.incumbent:
            self.incumbent = report.value
        # Not after the last epoch: nothing would be saved.
        if report.epoch < run.job.epochs and run.trial.should_prune():
            self._stop(run, TrialState.PRUNED, stop_reason=f"pruned after epoch {report.epoch}")

    def _finish(self, run):
        if run.job.status is JobStatus.FAILED:
            return self._tell(run, TrialState.FAIL, error=run.job.error)
        if run.job.status is JobStatus.STOPPED:
            return self._tell(run, TrialState.FAIL, error="the job was stopped from outside")
        if run.value is None:
            return self._tell(run, TrialState.FAIL, error="the job ended without a report")
        return self._tell(run, TrialState.COMPLETE)

    def _end_overdue(self):
        now = self.clock() + CLOCK_TOLERANCE
        for run in list(self._running.values()):
            if now >= self._timeout:
                reason = f"the study's {self._timeout:g} s were over"
                self._stop(run, TrialState.PRUNED, stop_reason=reason)
            elif now >= run.started + self._trial_timeout:
                error = f"no end after {self._trial_timeout:g} s (trial_timeout)"
                self._stop(run, TrialState.FAIL, error=error)

    def _stop(self, run, state, **attributes):
        run.job.stop()
        if not run.job.finished:
            self._stopping.append(run.job)
        self._tell(run, state, **attributes)

    def _tell(self, run, state, **attributes):
        """Tell the study how a trial ended; attributes first, since a finished trial takes no more."""
        for name, text in attributes.items():
            run.trial.set_user_attr(name, text)
        run.trial.set_user_attr("finished", self.clock())
        self._study.tell(run.trial, run.value if state == TrialState.COMPLETE else None, state)
        del self._running[run.job.id]
        self.n_finished += 1
        self._failures = self._failures + 1 if state == TrialState.FAIL else 0
        if self._failures >= self._max_failures:
            raise RuntimeError(
                f"{self._failures} trials in a row failed, the last one with: {attributes['error']}\n"
                f"(Where so many are to be expected, give more than max_failures={self._max_failures}.)"
            )


def _check(study, launcher, epochs, n_trials, timeout, trial_timeout, max_failures):
    if n_trials is None and timeout is None and not isinstance(study.sampler, GridSampler):
        raise ValueError("give n_trials, timeout, or both: otherwise tuning would never end")
    positive("epochs", epochs)
    limits = {"n_trials": n_trials, "timeout": timeout, "trial_timeout": trial_timeout}
    for name, limit in (limits | {"max_failures": max_failures}).items():
        if limit is not None and not limit > 0:
            raise ValueError(f"{name} must be positive, got {limit!r}")
    if isinstance(study.pruner, HyperbandPruner) and study.study_name.startswith("no-name-"):
        warnings.warn(
            "HyperbandPruner chooses brackets by the study's name, which Optuna drew at random, "
            "and the run cannot be repeated: pass study_name=… to create_study",
            stacklevel=3,
        )


def _n_finished(trials):
    return sum(trial.state.is_finished() and "requeued" not in trial.user_attrs for trial in trials)


def _n_begun(trials):
    in_training = [trial.user_attrs for trial in trials if trial.state == TrialState.RUNNING]
    return _n_finished(trials) + sum("owner" in attributes for attributes in in_training)


def _best_report(study, sign):
    trials = study.get_trials(deepcopy=False)
    values = [value for trial in trials for value in trial.intermediate_values.values()]
    return min(values, key=lambda value: sign * value, default=None)


def _plain(value):
    """Turn NumPy's numbers into Python's, and the rest that JSON lacks into text."""
    return value.item() if hasattr(value, "item") else str(value)
