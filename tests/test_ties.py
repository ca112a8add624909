"""TPE proposes the same, whatever order NumPy's sort leaves equal numbers in."""

import numpy as np
import optuna
import pytest

import hpo_helpers.spaces  # noqa: F401
from hpo_helpers.curves import NoisyCurves
from hpo_helpers.spaces import MNIST_CNN


def proposals(multivariate):
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, multivariate=multivariate))
    for _ in range(60):
        trial = study.ask(MNIST_CNN)
        study.tell(trial, NoisyCurves(0)(trial.params)[-1]["valid_error"])
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("multivariate", [True, False])
def test_the_order_of_equal_numbers_changes_no_proposal(monkeypatch, multivariate):
    sort, before = np.argsort, proposals(multivariate)

    def last_first(values, *args, kind=None, **settings):
        if kind:
            return sort(values, *args, kind=kind, **settings)
        return len(values) - 1 - sort(values[::-1], kind="stable")

    monkeypatch.setattr(np, "argsort", last_first)
    assert proposals(multivariate) == before
