"""SMAC3 on the MLP with 13 hyperparameters: real trainings, under the seeds and the budget of the series' own methods.

    make peers                                                # sets .venv/peers-smac up
    .venv/peers-smac/bin/pip install graphviz requests
    .venv/peers-smac/bin/pip install --no-deps mxnet
    export PYTHONHASHSEED=0 HPO_HELPERS_MNIST=/folder/of/the/four/files
    .venv/peers-smac/bin/python benchmarks/peers/record_mlp_13_smac.py

Its black-box facade, a random forest with log expected improvement, with its defaults: 12 Sobol points, then the model.
It knows that Adam has no momentum. Runs, refits and files are those of ``data/record_mlp_13.py``; ``--merge`` writes
what is whole into ``benchmarks/peers/mlp_13_smac.csv.gz``. What SMAC proposes depends on PYTHONHASHSEED too: under
another one an interrupted run does not go on, and says so. (Half of the runs were recorded before that was found.)
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parents[1]), str(HERE.parents[1] / "data")]

import optuna  # noqa: E402
import pandas as pd  # noqa: E402
import record_mlp_13 as course  # noqa: E402
from ConfigSpace import Categorical, ConfigurationSpace, EqualsCondition  # noqa: E402
from optuna.distributions import CategoricalDistribution  # noqa: E402
from optuna.trial import FixedTrial, TrialState  # noqa: E402
from smac import HyperparameterOptimizationFacade, Scenario  # noqa: E402
from smac.runhistory.dataclasses import TrialValue  # noqa: E402
from to_configspace import to_configspace  # noqa: E402

from hpo_helpers.spaces import MNIST_MLP_13  # noqa: E402

N_TRAININGS = 50
WHOLE = HERE / "mlp_13_smac.csv.gz"


def distributions() -> dict[str, optuna.distributions.BaseDistribution]:
    """Return those of all 13 hyperparameters."""
    trial = FixedTrial({**course.DEFAULT, "optimizer": "sgd", "momentum": 0.0})
    MNIST_MLP_13(trial)
    return trial.distributions


def configuration_space(seed: int) -> ConfigurationSpace:
    """Return the space in ConfigSpace's terms, the momentum under SGD alone."""
    choices = {name: each for name, each in distributions().items() if isinstance(each, CategoricalDistribution)}
    numbers = {name: each for name, each in distributions().items() if name not in choices}
    space = ConfigurationSpace(seed=seed)
    space.add(*to_configspace(numbers), *(Categorical(name, each.choices) for name, each in choices.items()))
    space.add(EqualsCondition(space["momentum"], space["optimizer"], "sgd"))
    return space


class SMACSampler(optuna.samplers.BaseSampler):
    """Lets SMAC propose whole configurations, and tells it how they ended."""

    def __init__(self, seed: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        scenario = Scenario(
            configuration_space(seed),
            output_directory=Path(self._folder.name),
            deterministic=True,
            n_trials=N_TRAININGS,
            seed=seed,
        )
        self._smac = HyperparameterOptimizationFacade(
            scenario, target_function=lambda config, seed: 0.0, logging_level=False, overwrite=True
        )
        self._asked: dict[int, Any] = {}

    def infer_relative_search_space(self, study, trial):
        return distributions()

    def sample_relative(self, study, trial, search_space):
        self._asked[trial.number] = asked = self._smac.ask()
        # Python's own types: what is written must be proposed again to the letter.
        return {name: getattr(value, "item", lambda value=value: value)() for name, value in dict(asked.config).items()}

    def sample_independent(self, study, trial, name, distribution):
        raise ValueError(f"SMAC has proposed no {name}")

    def after_trial(self, study, trial, state, values):
        if state == TrialState.COMPLETE:
            self._smac.tell(self._asked.pop(trial.number), TrialValue(cost=values[0]), save=False)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    course.METHODS["SMAC"] = course.Method(SMACSampler)
    course.WHOLE = WHOLE  # what is merged is not trained again
    jobs = [("SMAC", seed) for seed in course.GATE]
    if "--merge" in sys.argv:
        runs = course.whole_runs()
        course.write(pd.concat(runs[job] for job in jobs if job in runs), WHOLE)
    else:
        course.record(jobs[::-1] if "--backwards" in sys.argv else jobs)
