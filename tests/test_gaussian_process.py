"""The Gaussian process as a model, and as a sampler of Optuna."""

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from hpo_helpers.gaussian_process import GaussianProcess, GaussianProcessSampler
from hpo_helpers.spaces import MNIST_MLP_13

SQUARE = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}


def tuned(sampler, n_trials=30):
    """Tune a narrow valley; the second of three reports is all that every other trial makes."""
    study = optuna.create_study(sampler=sampler)
    for number in range(n_trials):
        trial = study.ask(SQUARE)
        x, y = trial.params["x"], trial.params["y"]
        error = 0.01 + (x - y) ** 2 + 0.1 * (x - 0.7) ** 2
        for epoch in (1, 3, 9)[: 2 + number % 2]:
            trial.report(error * (1 + 1 / epoch), epoch)
        study.tell(trial, *([error] if number % 2 else [None, optuna.trial.TrialState.PRUNED]))
    return study


def test_predictions_are_those_of_scikit_learn_for_the_same_kernel():
    random = np.random.default_rng(0)
    points, values = random.random((12, 3)), random.normal(size=12)
    points[:, -1] = 1.0  # all trained to the end: no difference in noise
    model = GaussianProcess(2, random).condition(points, values)
    lengths, height, noise = np.exp(model.settings[:2]), np.exp(model.settings[-2]), np.exp(model.settings[-1])
    kernel = ConstantKernel(height**2) * Matern(lengths, nu=2.5) + ConstantKernel(2.0)  # mean and trend
    reference = GaussianProcessRegressor(kernel, alpha=noise**2, optimizer=None)
    reference.fit(points[:, :2], values - np.median(values))
    new = np.column_stack([random.random((5, 2)), np.ones(5)])
    mean, deviation = reference.predict(new[:, :2], return_std=True)
    np.testing.assert_allclose(model.predict(new), [mean + np.median(values), deviation], rtol=1e-6)


def test_it_finds_a_narrow_valley_that_random_search_does_not():
    found = [tuned(GaussianProcessSampler(seed), 45).best_value for seed in range(3)]
    drawn = [tuned(RandomSampler(seed), 45).best_value for seed in range(3)]
    assert np.mean(found) - 0.01 < (np.mean(drawn) - 0.01) / 5


def test_a_seed_proposes_the_same_again_and_another_does_not():
    first, again, other = (tuned(GaussianProcessSampler(seed), 14).trials[-1].params for seed in (0, 0, 1))
    assert first == again != other


def test_workers_who_ask_at_once_are_not_sent_to_one_point():
    study = tuned(GaussianProcessSampler(0))
    asked = np.array([[*study.ask(SQUARE).params.values()] for _ in range(4)])
    distances = np.abs(asked[:, None] - asked).max(axis=-1)[np.triu_indices(4, 1)]
    assert distances.min() > 1e-3


def test_categories_whole_numbers_and_a_condition_are_modelled():
    study = optuna.create_study(sampler=GaussianProcessSampler(0))
    for _ in range(25):
        trial = study.ask()
        params = MNIST_MLP_13(trial)
        # Only told, as by a function that reports nothing.
        study.tell(trial, 0.02 * params["n_layers"] + (0.01 if params["optimizer"] == "sgd" else 0.2))
    late = [trial.params for trial in study.trials[15:]]
    assert sum(params["optimizer"] == "sgd" and params["n_layers"] <= 2 for params in late) >= 7


def test_a_category_that_some_trials_lack_is_no_error():
    def objective(trial):
        kind = trial.suggest_categorical("kind", ["plain", "with more"])
        return 0.1 if kind == "plain" else 0.01 + 0.02 * (trial.suggest_categorical("more", ["a", "b", "c"]) != "c")

    study = optuna.create_study(sampler=GaussianProcessSampler(0))
    study.optimize(objective, n_trials=25)
    assert sum(trial.value == 0.01 for trial in study.trials[15:]) >= 7


def test_what_is_no_error_is_refused():
    study = optuna.create_study(direction="maximize", sampler=GaussianProcessSampler(0))
    with pytest.raises(ValueError, match="minimi"):
        study.ask(SQUARE)
    study = optuna.create_study(sampler=GaussianProcessSampler(0))
    with pytest.raises(ValueError, match=r"0 or more; got -0\.[0-9]"):
        study.optimize(lambda trial: -trial.suggest_float("x", 0, 1), n_trials=11)
