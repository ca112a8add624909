"""Syne Tune: its schedulers and searchers, called in the order in which its own `Tuner` calls them.

Version 0.16 has ASHA and BOHB. MOBSTER and the synchronous schedulers were last in 0.13.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime
from importlib.metadata import version
from typing import Any

from driving import (
    EPOCHS,
    GRACE_PERIOD,
    METRIC,
    REDUCTION_FACTOR,
    Method,
    Peer,
    Report,
    Space,
    Training,
    main,
    within,
)
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import Domain, lograndint, loguniform, randint, uniform
from syne_tune.optimizer import baselines
from syne_tune.optimizer.scheduler import SchedulerDecision

from hpo_helpers.spaces import to_unit_cube

IS_NEW = not version("syne-tune").startswith("0.13")


class SyneTunePeer:
    """A scheduler of Syne Tune.

    Trials that it pauses and resumes go on from their checkpoints, as its back ends let them.

    Parameters
    ----------
    scheduler
        As it is constructed from a space.
    """

    def __init__(self, space: Space, scheduler: Any) -> None:
        self._space = space
        self._scheduler = scheduler
        self._trials: dict[int, Trial] = {}
        self._trained: dict[int, int] = {}  # epochs, by trial

    def ask(self) -> Training | None:
        suggestion = self._scheduler.suggest(*([] if IS_NEW else [len(self._trials)]))
        if suggestion is None:
            return None
        if suggestion.spawn_new_trial_id:
            trial = Trial(len(self._trials), dict(suggestion.config), datetime.now())
            self._trials[trial.trial_id] = trial
            self._scheduler.on_trial_add(trial)
        else:
            trial = self._trials[suggestion.checkpoint_trial_id]
            trial.config = dict(suggestion.config or trial.config)
        until = trial.config.get("epochs", EPOCHS)
        return Training(self._params(trial), until, self._trained.get(trial.trial_id, 0), trial)

    def report(self, training: Training, report: Report) -> bool:
        trial = training.handle
        self._trained[trial.trial_id] = report.epoch
        decision = self._scheduler.on_trial_result(trial, self._result(report))
        if decision == SchedulerDecision.CONTINUE:
            return True
        self._scheduler.on_trial_remove(trial)
        return False

    def complete(self, training: Training, report: Report) -> None:
        self._scheduler.on_trial_complete(training.handle, self._result(report))

    def _params(self, trial: Trial) -> dict[str, Any]:
        return within(self._space, trial.config)

    @staticmethod
    def _result(report: Report) -> dict[str, Any]:
        return {METRIC: report.value, "epoch": report.epoch}


def to_syne_tune(space: Space) -> dict[str, Domain]:
    """Return the space in Syne Tune's terms, both ends of each range included."""
    return {name: to_domain(distribution) for name, distribution in space.items()}


def to_domain(distribution: BaseDistribution) -> Domain:
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntDistribution):
        return (lograndint if distribution.log else randint)(low, high)
    return (loguniform if distribution.log else uniform)(low, high)


RUNGS = {"grace_period": GRACE_PERIOD, "reduction_factor": REDUCTION_FACTOR}
FEWER_FITS = {"opt_skip_init_length": 30, "opt_skip_period": 10}


def new(baseline: str) -> Method:
    """Return a method from one of version 0.16's baselines."""

    def peer(space: Space, seed: int, first: list[dict]) -> SyneTunePeer:
        domains = to_syne_tune(space)
        settings = {"time_attr": "epoch", "max_t": EPOCHS, "random_seed": seed, "points_to_evaluate": first}
        return SyneTunePeer(space, getattr(baselines, baseline)(domains, METRIC, **settings, **RUNGS))

    return peer


def old(baseline: str, *, search_options: dict[str, Any] | None = None, **more: Any) -> Method:
    """Return a method from one of version 0.13's baselines.

    Where it is given no first configuration, it begins in the middle of the space, as it is documented to.
    """

    def peer(space: Space, seed: int, first: list[dict]) -> SyneTunePeer:
        domains = {**to_syne_tune(space), "epochs": EPOCHS}
        settings = {"resource_attr": "epoch", "max_resource_attr": "epochs", "random_seed": seed, **more}
        settings |= {"points_to_evaluate": first or None}
        settings |= {"search_options": {"debug_log": False, **(search_options or {})}}
        return SyneTunePeer(space, getattr(baselines, baseline)(domains, METRIC, **settings, **RUNGS))

    return peer


def bohb_on_searched_scale(space: Space, seed: int, first: list[dict]) -> Peer:
    """BOHB in the unit cube.

    Its kernel densities see a logarithmic range as it is, not its logarithm. Here they are given each
    hyperparameter on the scale that it is searched on.
    """
    unit = {name: FloatDistribution(0, 1) for name in space}
    return OnSearchedScale(new("BOHB")(unit, seed, [to_unit_cube(space, params) for params in first]), space)


class OnSearchedScale:
    """Translates what a peer proposes in the unit cube."""

    def __init__(self, peer: Peer, space: Space) -> None:
        self._peer = peer
        self._space = space
        self.report, self.complete = peer.report, peer.complete

    def ask(self) -> Training | None:
        training = self._peer.ask()
        if training is None:
            return None
        return dataclasses.replace(training, params=from_unit_cube(self._space, training.params))


def from_unit_cube(space: Space, unit: dict[str, float]) -> dict[str, Any]:
    """Return the configuration at a point of the unit cube."""
    return within(space, {name: from_unit(distribution, unit[name]) for name, distribution in space.items()})


def from_unit(distribution: BaseDistribution, share: float) -> float:
    low, high = distribution.low, distribution.high
    value = low * (high / low) ** share if distribution.log else low + (high - low) * share
    return round(value) if isinstance(distribution, IntDistribution) else value


if IS_NEW:
    METHODS = {
        "Syne Tune ASHA": new("ASHA"),
        "Syne Tune BOHB": new("BOHB"),
        "Syne Tune BOHB, unit cube": bohb_on_searched_scale,
    }
else:
    METHODS = {
        "Syne Tune MOBSTER": old("MOBSTER"),
        "Syne Tune MOBSTER, promotion": old("MOBSTER", type="promotion"),
        "Syne Tune MOBSTER, fewer fits": old("MOBSTER", search_options=FEWER_FITS),
        "Syne Tune synchronous Hyperband": old("SyncHyperband"),
    }

if __name__ == "__main__":
    main(METHODS)
