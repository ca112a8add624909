"""SMAC3: random forests and Hyperband, by the multi-fidelity facade's ask and tell.

Its documentation leaves to the objective function what a budget means. Here that one keeps checkpoints.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from ConfigSpace import Configuration, ConfigurationSpace
from driving import EPOCHS, GRACE_PERIOD, REDUCTION_FACTOR, Checkpoints, Report, Space, Training, main, within
from smac import MultiFidelityFacade, Scenario
from smac.runhistory.dataclasses import TrialValue
from to_configspace import to_configspace


class SMACPeer:
    """SMAC with Hyperband.

    Parameters
    ----------
    n_initial
        How many configurations are drawn at random before the model is asked; SMAC's own default, 10 for each
        hyperparameter, if None.
    """

    def __init__(self, space: Space, seed: int, first: list[dict], *, n_initial: int | None = None) -> None:
        self._space = space
        self._checkpoints = Checkpoints()
        self._folder = tempfile.TemporaryDirectory()
        configurations = ConfigurationSpace(space=to_configspace(space), seed=seed)
        scenario = Scenario(
            configurations,
            output_directory=Path(self._folder.name),
            deterministic=True,
            n_trials=100_000,  # the clock ends it
            min_budget=GRACE_PERIOD,
            max_budget=EPOCHS,
            seed=seed,
        )
        self._optimizer = MultiFidelityFacade(
            scenario,
            target_function=lambda config, seed, budget: 0.0,  # never called
            initial_design=MultiFidelityFacade.get_initial_design(
                scenario,
                n_configs=n_initial,
                additional_configs=[Configuration(configurations, values) for values in first],
            ),
            intensifier=MultiFidelityFacade.get_intensifier(scenario, eta=REDUCTION_FACTOR),
            logging_level=False,
            overwrite=True,
        )

    def ask(self) -> Training:
        trial = self._optimizer.ask()
        params = within(self._space, dict(trial.config))
        return self._checkpoints.training(params, round(trial.budget), trial)

    def report(self, training: Training, report: Report) -> bool:
        return True

    def complete(self, training: Training, report: Report) -> None:
        self._checkpoints.save(training)
        # Its run history need not be on disk.
        self._optimizer.tell(training.handle, TrialValue(cost=report.value), save=False)


def with_few_initial(space: Space, seed: int, first: list[dict]) -> SMACPeer:
    """As in SMAC's own multi-fidelity example: 5 configurations at random, then the model."""
    return SMACPeer(space, seed, first, n_initial=5)


if __name__ == "__main__":
    main({"SMAC": SMACPeer, "SMAC, 5 initial": with_few_initial})
