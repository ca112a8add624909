"""Going on with a study that was cut off: what nobody trains any more, and what time it is."""

import datetime
import functools
import os
import socket
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import optuna
import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState

#: When this process got to work. (psutil knows when it started, but to a second only.)
BEGUN = time.time()

#: How often a process that tunes says that it lives, and how long it may be silent, in seconds.
BEAT_SECONDS, SILENCE_SECONDS = 10.0, 30.0

#: How often a configuration is tried again whose process died, before it fails.
MAX_RETRIES = 2

#: Samplers that have worked in this process: they go on with their random numbers.
_SAMPLERS = weakref.WeakSet()


@contextmanager
def taken_up(study: optuna.Study) -> Iterator[None]:
    """Close what others abandoned, draw nothing that was drawn, and say that one lives."""
    close_abandoned_trials(study)
    _say_that_we_live(study)
    _seed_anew_if_others_draw(study)
    ended = threading.Event()
    if not isinstance(study._storage, InMemoryStorage):  # which no other process sees
        threading.Thread(target=_beat, args=(study, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def sign(trial: Trial) -> None:
    """Write down that this process trains a trial."""
    trial.set_user_attr("owner", _this_process())


def trials_of_this_process(study: optuna.Study, since: datetime.datetime) -> list[FrozenTrial]:
    """Return what this process trains, and what was asked for `since` then and never signed."""
    owners = [(trial, trial.user_attrs.get("owner")) for trial in _running(study)]
    asked_for = [trial for trial, owner in owners if owner is None and trial.datetime_start >= since]
    return [trial for trial, owner in owners if owner == _this_process()] + asked_for


def requeue(study: optuna.Study, trial: Trial | FrozenTrial, reason: str, *, n_deaths: int = 0) -> None:
    """Close a trial that was cut off, and put its configuration back into the queue."""
    asked = study._storage.get_trial(trial._trial_id)
    params = {**asked.system_attrs.get("fixed_params", {}), **asked.params}
    study._storage.set_trial_user_attr(trial._trial_id, "requeued", True)
    _fail(study, trial, reason)
    if params:
        # Not study.enqueue_trial: a GridSampler needs to know the cell.
        system_attrs = {**asked.system_attrs, "fixed_params": params}
        user_attrs = {"retry_of": trial.number, "n_deaths": asked.user_attrs.get("n_deaths", 0) + n_deaths}
        waiting = {"state": TrialState.WAITING, "system_attrs": system_attrs, "user_attrs": user_attrs}
        study.add_trial(optuna.trial.create_trial(**waiting))


def reports_of(trial: FrozenTrial) -> list[dict[str, Any]]:
    """Return what `tune` noted of a trial's epochs, one dict each, oldest first."""
    # One attribute each: a list, as in older journals, would be written again after each epoch.
    noted = [value for name, value in trial.user_attrs.items() if name.startswith("report ")]
    return sorted(trial.user_attrs.get("reports", noted), key=lambda report: report["epoch"])


def last_time(study: optuna.Study) -> float:
    """Return where the study's clock stood at the last report or end of a trial."""
    times = [0.0]
    for trial in study.get_trials(deepcopy=False):
        times.append(trial.user_attrs.get("finished", 0.0))
        times.extend(report["time"] for report in reports_of(trial)[-1:])
    return max(times)


def close_abandoned_trials(study: optuna.Study) -> bool:
    """Close what a dead process left running, queue it again, and say whether there was any.

    A trial of a process that lives, or may live on another machine, is left alone.
    """
    return _close(study, [trial for trial in _running(study) if _is_abandoned(study, trial)])


def close_silent_trials(study: optuna.Study) -> bool:
    """Close the trials of silent processes on other machines; say whether there were any."""
    if close_abandoned_trials(study):
        return True
    elsewhere = [trial for trial in _running(study) if _host(trial) not in (None, socket.gethostname())]
    if not elsewhere:
        return False
    numbers = ", ".join(str(trial.number) for trial in elsewhere)
    hosts = sorted(set(map(_host, elsewhere)))
    warnings.warn(
        f"trials {numbers} are in training on {', '.join(map(repr, hosts))}, and count. Without a sign of "
        f"life within {SILENCE_SECONDS:g} s they are closed and trained here",
        stacklevel=5,
    )
    before, deadline = _signs_of_life(study), time.monotonic() + SILENCE_SECONDS
    while elsewhere and time.monotonic() < deadline:
        time.sleep(BEAT_SECONDS / 20)
        spoke = {name for name, sign in _signs_of_life(study).items() if sign != before.get(name)}
        elsewhere = [trial for trial in elsewhere if _name(trial.user_attrs["owner"]) not in spoke]
    return _close(study, elsewhere)


def _close(study, trials):
    for trial in trials:
        reason, n_deaths = "its process ended before the trial did", trial.user_attrs.get("n_deaths", 0)
        # Another process may close it at this moment; only one of the two succeeds.
        with suppress(ValueError, UpdateFinishedTrialError):
            if n_deaths < MAX_RETRIES:
                requeue(study, trial, reason, n_deaths=1)
            else:
                _fail(study, trial, f"{reason}, {n_deaths + 1} times")
    return bool(trials)


def _fail(study, trial, error):
    # A trial of another process has no public way to take an attribute; and study.tell would let
    # Optuna's own GridSampler end the study.
    study._storage.set_trial_user_attr(trial._trial_id, "error", error)
    study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def _is_abandoned(study, trial):
    owner = trial.user_attrs.get("owner")
    if owner is not None:
        return _is_dead(owner)
    # Either a process died between asking and signing, or somebody asks by hand, here perhaps.
    tuned_by = _signs_of_life(study).values()
    lives_here = [each["host"] == socket.gethostname() and not _is_dead(each) for each in tuned_by]
    if not tuned_by or any(lives_here):
        return False
    return trial.datetime_start.timestamp() < BEGUN


def _seed_anew_if_others_draw(study):
    # Each signs before it looks: of two that begin together, one sees the other at least.
    others = len(_signs_of_life(study)) > 1
    tuned_before = any("owner" in trial.user_attrs for trial in study.get_trials(deepcopy=False))
    if (tuned_before or others) and study.sampler not in _SAMPLERS:
        study.sampler.reseed_rng()
    _SAMPLERS.add(study.sampler)


def _beat(study, ended):
    with suppress(Exception):  # a full disk, a database that is gone: the trials will say so
        while not ended.wait(BEAT_SECONDS):
            _say_that_we_live(study)


def _say_that_we_live(study):
    process = _this_process()
    study.set_user_attr(_name(process), {**process, "at": time.time()})


def _name(process):
    return f"tuned by {process['host']} {process['pid']} {process['started']}"


def _signs_of_life(study):
    """Return what each process that has tuned the study last said, by name."""
    attributes = study.user_attrs.items()
    return {name: process for name, process in attributes if name.startswith("tuned by ")}


def _running(study):
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def _host(trial):
    return trial.user_attrs.get("owner", {}).get("host")


def _this_process():
    return dict(_process(os.getpid()))


@functools.lru_cache(maxsize=1)  # by pid, since a fork is another process
def _process(pid):
    # The start time tells this process from a later one that was given the same pid.
    return {"host": socket.gethostname(), "pid": pid, "started": psutil.Process(pid).create_time()}


def _is_dead(owner):
    if owner["host"] != socket.gethostname():
        return False
    try:
        process = psutil.Process(owner["pid"])
        # It is reckoned from the wall clock, which may have been set by a little since.
        is_another = abs(process.create_time() - owner["started"]) > 2
        return is_another or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
