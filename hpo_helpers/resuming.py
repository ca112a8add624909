"""Going on with a study that was cut off: what nobody trains any more, and what time it is."""

from __future__ import annotations

import functools
import os
import socket
import time
import weakref
from contextlib import suppress

import optuna
import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

#: When this process got to work. (psutil knows when it started, but to a second only.)
BEGUN = time.time()

#: The samplers that have worked in this process: their random numbers are not used up twice.
_SAMPLERS = weakref.WeakSet()


def take_up(study: optuna.Study) -> None:
    """Make a study this process's to work on: close what others abandoned, draw nothing that was drawn."""
    close_abandoned_trials(study)
    process = _this_process()
    study.set_user_attr(f"tuned by {process['host']} {process['pid']} {process['started']}", process)
    _seed_anew_if_resumed(study)


def sign(trial: Trial) -> None:
    """Write down that this process trains a trial."""
    trial.set_user_attr("owner", _this_process())


def requeue(study: optuna.Study, trial: Trial | FrozenTrial, reason: str) -> None:
    """Close a trial that was cut off, and put its configuration back into the queue."""
    # A trial of another process has no public way to take an attribute.
    study._storage.set_trial_user_attr(trial._trial_id, "error", reason)
    study._storage.set_trial_user_attr(trial._trial_id, "requeued", True)
    asked = study._storage.get_trial(trial._trial_id)
    params = {**asked.system_attrs.get("fixed_params", {}), **asked.params}
    study.tell(trial.number, state=TrialState.FAIL)
    if params:
        study.enqueue_trial(params, user_attrs={"retry_of": trial.number, "owner": _this_process()})


def last_time(study: optuna.Study) -> float:
    """Return where the study's clock stood at the last report or end of a trial, 0 for a new study."""
    times = [0.0]
    for trial in study.get_trials(deepcopy=False):
        times.append(trial.user_attrs.get("finished", 0.0))
        times.extend(report["time"] for report in trial.user_attrs.get("reports", ())[-1:])
    return max(times)


def close_abandoned_trials(study: optuna.Study) -> None:
    """Close the trials that a dead process left running, and queue their configurations again.

    A trial of a process that lives, or may live on another machine, is left alone.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not _is_abandoned(study, trial):
            continue
        # Another process may close the same trial at this moment; only one of the two succeeds.
        with suppress(ValueError, UpdateFinishedTrialError):
            requeue(study, trial, "its process ended before the trial did")


def _is_abandoned(study, trial):
    owner = trial.user_attrs.get("owner")
    if owner is not None:
        return _is_dead(owner)
    # Either a process died between asking and signing (or its disk was full), or somebody asks by hand.
    attributes = study.user_attrs.items()
    tuned_by = [process for name, process in attributes if name.startswith("tuned by ")]
    if not tuned_by or not all(map(_is_dead, tuned_by)):
        return False
    return trial.datetime_start.timestamp() < BEGUN


def _seed_anew_if_resumed(study):
    tuned_before = any("owner" in trial.user_attrs for trial in study.get_trials(deepcopy=False))
    if tuned_before and study.sampler not in _SAMPLERS:
        study.sampler.reseed_rng()
    _SAMPLERS.add(study.sampler)


def _this_process():
    return dict(_process(os.getpid()))


@functools.lru_cache(maxsize=1)  # asked for each trial; by pid, since a fork is another process
def _process(pid):
    # The start time tells this process from a later one that was given the same pid.
    return {"host": socket.gethostname(), "pid": pid, "started": psutil.Process(pid).create_time()}


def _is_dead(owner):
    if owner["host"] != socket.gethostname():
        return False
    try:
        process = psutil.Process(owner["pid"])
        # The start time is reckoned from the wall clock, which may have been set by a little since.
        is_another = abs(process.create_time() - owner["started"]) > 2
        return is_another or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
