"""Ray Tune: its ASHA scheduler and two searchers, called in the order in which its own controller calls them.

No Ray process is started.
"""

from __future__ import annotations

from driving import EPOCHS, GRACE_PERIOD, METRIC, REDUCTION_FACTOR, Report, Space, Training, main, within
from optuna.distributions import BaseDistribution, IntDistribution
from ray import tune
from ray.tune.experiment import Experiment
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import SearchAlgorithm, SearchGenerator
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch


class RayPeer:
    """Ray's ASHA over one of its search algorithms."""

    def __init__(self, space: Space, search: SearchAlgorithm) -> None:
        self._space = space
        self._search = search
        domains = to_ray(space)
        self._search.set_search_properties(METRIC, "min", domains)
        self._search.add_configurations(Experiment("replay", untrained, config=domains, num_samples=100_000))
        self._scheduler = ASHAScheduler(
            time_attr="training_iteration",
            metric=METRIC,
            mode="min",
            max_t=EPOCHS,
            grace_period=GRACE_PERIOD,
            reduction_factor=REDUCTION_FACTOR,
        )

    def ask(self) -> Training:
        trial = self._search.next_trial()
        self._scheduler.on_trial_add(None, trial)
        return Training(within(self._space, trial.config), handle=trial)

    def report(self, training: Training, report: Report) -> bool:
        trial, result = training.handle, self._result(report)
        if self._scheduler.on_trial_result(None, trial, result) != TrialScheduler.STOP:
            self._search.on_trial_result(trial.trial_id, result)
            return True
        self.complete(training, report)
        return False

    def complete(self, training: Training, report: Report) -> None:
        trial, result = training.handle, self._result(report)
        self._scheduler.on_trial_complete(None, trial, result)
        self._search.on_trial_complete(trial.trial_id, result=result)

    @staticmethod
    def _result(report: Report) -> dict:
        return {METRIC: report.value, "training_iteration": report.epoch}


def untrained(config: dict) -> None:
    """Stand for the training function, which Ray must be given; it is never called."""


def to_ray(space: Space) -> dict:
    """Return the space in Ray's terms, whose integers end before their upper bound."""
    return {name: to_domain(distribution) for name, distribution in space.items()}


def to_domain(distribution: BaseDistribution):
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntDistribution):
        return (tune.lograndint if distribution.log else tune.randint)(low, high + 1)
    return (tune.loguniform if distribution.log else tune.uniform)(low, high)


def random_search(space: Space, seed: int, first: list[dict]) -> RayPeer:
    """Ray's default."""
    return RayPeer(space, BasicVariantGenerator(points_to_evaluate=first, random_state=seed))


def optuna_search(space: Space, seed: int, first: list[dict]) -> RayPeer:
    """Optuna's TPE, as Ray calls it."""
    search = OptunaSearch(points_to_evaluate=first or None, seed=seed)
    return RayPeer(space, SearchGenerator(search))


if __name__ == "__main__":
    main({"Ray Tune ASHA": random_search, "Ray Tune ASHA + OptunaSearch": optuna_search})
