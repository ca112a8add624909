"""The search spaces of the lessons: dicts of Optuna distributions; a function where one is conditional."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna.distributions import FloatDistribution, IntDistribution

if TYPE_CHECKING:
    import optuna

#: The convolutional network of `train_mnist`, trained with stochastic gradient descent.
MNIST_CNN = {
    "learning_rate": FloatDistribution(1e-3, 1.0, log=True),
    "momentum": FloatDistribution(0.0, 0.95),
    "batch_size": IntDistribution(16, 128, log=True),
    "n_channels": IntDistribution(4, 16, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
}


def MNIST_MLP_13(trial: optuna.Trial) -> dict[str, Any]:
    """Suggest the 13 hyperparameters of ``data/mnist_mlp_13.py``; Adam has no ``momentum``."""
    params = {
        "n_layers": trial.suggest_int("n_layers", 1, 4),
        "width": trial.suggest_int("width", 16, 256, log=True),
        "activation": trial.suggest_categorical("activation", ["relu", "tanh", "sigmoid"]),
        "optimizer": trial.suggest_categorical("optimizer", ["sgd", "adam"]),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1.0, log=True),
        "batch_size": trial.suggest_int("batch_size", 16, 256, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-7, 1e-2, log=True),
        "dropout_input": trial.suggest_float("dropout_input", 0.0, 0.5),
        "dropout_hidden": trial.suggest_float("dropout_hidden", 0.0, 0.5),
        "init_scale": trial.suggest_float("init_scale", 0.3, 3.0, log=True),
        "schedule": trial.suggest_categorical("schedule", ["constant", "cosine"]),
        "shift": trial.suggest_int("shift", 0, 3),
    }
    if params["optimizer"] == "sgd":
        params["momentum"] = trial.suggest_float("momentum", 0.0, 0.99)
    return params
