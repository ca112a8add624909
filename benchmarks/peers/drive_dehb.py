"""DEHB: differential evolution and Hyperband, by its ask and tell.

Its maintainers' advice on checkpoints is that the objective function may keep them, so it does here.
"""

from __future__ import annotations

import tempfile

from ConfigSpace import ConfigurationSpace
from dehb import DEHB
from driving import EPOCHS, GRACE_PERIOD, REDUCTION_FACTOR, Checkpoints, Report, Space, Training, main, within
from to_configspace import to_configspace


class DEHBPeer:
    """DEHB with its default settings; it takes no first configurations."""

    def __init__(self, space: Space, seed: int, first: list[dict]) -> None:
        self._space = space
        self._checkpoints = Checkpoints()
        self._folder = tempfile.TemporaryDirectory()
        self._optimizer = DEHB(
            cs=ConfigurationSpace(space=to_configspace(space), seed=seed),
            min_fidelity=GRACE_PERIOD,
            max_fidelity=EPOCHS,
            eta=REDUCTION_FACTOR,
            n_workers=1,  # of its own; with ask and tell it starts none
            seed=seed,
            save_freq="end",
            output_path=self._folder.name,
            log_level="ERROR",
        )

    def ask(self) -> Training:
        job = self._optimizer.ask()
        params = within(self._space, dict(job["config"]))
        return self._checkpoints.training(params, round(job["fidelity"]), job)

    def report(self, training: Training, report: Report) -> bool:
        return True

    def complete(self, training: Training, report: Report) -> None:
        self._checkpoints.save(training)
        cost = training.until - training.since
        self._optimizer.tell(training.handle, {"fitness": report.value, "cost": cost})


if __name__ == "__main__":
    main({"DEHB": DEHBPeer})
